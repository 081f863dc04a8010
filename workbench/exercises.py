"""Exercises that check themselves: `check("gebt.mask_distance", my_function)` in a notebook.

An exercise is data: a right answer, and wrong answers that readers really give, each with the hint that names
the mistake. A reader's answer that gives what a known wrong one gives gets its hint. An answer is a number
(predict) or a function (implement); what a function returns is compared on the exercise's inputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from workbench import papers

RTOL = 0.005
"""How far an answer may be off, relatively: numbers are meant to three digits."""

Answer = float | Callable[..., Any]


@dataclass(frozen=True)
class Exercise:
    """What is asked, the right answer, what is said then, and the known mistakes as (wrong answer, hint).

    ``inputs`` are a function's arguments, one tuple a call. ``view(output, *arguments)`` is what is compared:
    it hides what the question leaves open.
    """

    question: str
    right: Answer
    praise: str
    mistakes: Sequence[tuple[Answer, str]]
    inputs: Sequence[tuple] = ()
    view: Callable[..., Tensor] = lambda output, *_: output

    def outputs(self, answer: Answer) -> list[Tensor]:
        """What an answer gives, for comparison; ValueError for a wrong type or shape, in words for readers."""
        if not callable(self.right):
            return [_tensor(answer).double()]
        if not callable(answer):
            raise ValueError("this one wants a function, given without calling it")
        results = []
        for arguments in self.inputs:
            wanted, given = (_tensor(f(*_copies(arguments))) for f in (self.right, answer))
            if given.shape != wanted.shape:
                raise ValueError(f"the shape is {list(given.shape)}, and should be {list(wanted.shape)}")
            if wanted.dtype == torch.bool != given.dtype:
                raise ValueError(f"the result should be bool, and is {given.dtype}")
            results.append(self.view(given, *arguments).double())
        return results


def exercises() -> dict[str, Exercise]:
    """All exercises by name: those of no one paper, and each built paper's own, ``papers/<paper>/exercises.py``."""
    found = dict(OWN)
    for paper in papers.PAPERS:
        if paper.built:
            found |= import_module(f"workbench.papers.{paper.key}.exercises").EXERCISES
    return found


def check(name: str, answer: Answer | None = None) -> None:
    """Print whether the answer is right, or a hint; without an answer, print the question."""
    if name not in (known := exercises()):
        print(f"there is no exercise {name!r}; there are: {', '.join(known)}")
        return
    exercise = known[name]
    if answer is None or answer is ...:
        print(f"no answer yet: {exercise.question}")
        return
    try:
        given = exercise.outputs(answer)
    except ValueError as error:
        print(f"not yet: {error}")
    except Exception as error:  # whatever a reader's function raises, a hint is kinder than our traceback
        print(f"not yet: your function stops with {type(error).__name__}: {error}")
    else:
        print(_judge(exercise, given))


def _judge(exercise: Exercise, given: list[Tensor]) -> str:
    if _same(given, exercise.outputs(exercise.right)):
        return f"right: {exercise.praise}"
    for wrong, hint in exercise.mistakes:
        if _same(given, exercise.outputs(wrong)):
            return f"not yet: {hint}"
    return f"not yet, and none of the usual mistakes. Read again: {exercise.question}"


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    pairs = zip(a, b, strict=True)
    return all(x.shape == y.shape and torch.allclose(x, y, rtol=RTOL, atol=1e-6) for x, y in pairs)


def _tensor(answer: Any) -> Tensor:
    if answer is None:
        raise ValueError("your function returns None: does it end in `return ...`?")
    if callable(answer):
        raise ValueError("this one wants a number, not a function")
    try:
        tensor = torch.as_tensor(answer).detach()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"expected numbers, got {type(answer).__name__} {str(answer)[:40]!r}") from None
    if tensor.is_complex():
        raise ValueError("expected real numbers")
    return tensor


def _copies(arguments: tuple) -> list:
    # So that a function that works in place does not spoil the next comparison.
    return [each.clone() if isinstance(each, Tensor) else each for each in arguments]


# --- of no one paper --------------------------------------------------------------------------------------------------

WITH, WITHOUT = (80.1, 77.4, 83.0, 79.3, 81.2), (79.5, 77.6, 81.9, 78.4, 81.1)

OWN = {
    "start.paired": Exercise(
        f"two arms, five seeds: with the trick {WITH}, without it {WITHOUT} percent. Mean paired difference?",
        0.5,
        "the seed's own luck cancels in each pair, so five differences say more than two means.",
        [
            (-0.5, "the sign: with minus without, so that a gain is positive."),
            (2.5, "that is the sum of the differences; divide by the number of seeds."),
            (0.58, "those are absolute differences: the second seed lost, and must count as a loss."),
            (0.6, "that is the median of the differences."),
        ],
    ),
    "early_bird.detector": Exercise(
        "a mask has 16 entries. From epoch 2 to 8 on, 6, 1, 1, 1, 0, 1, 0 entries change, never the same one twice. "
        "The detector compares the newest mask with each of the last 3 before it and fires where all these distances "
        "are below 0.125. At which epoch (the first is 1)?",
        8,
        "within its last 3 steps only one entry has moved, 1/16 of the mask, and that for the first time.",
        [
            (3, "you compared with the last mask alone; there must be 3 older ones, and all must be near."),
            (5, "you compared neighbours. Steps of 1/16 add up: the newest is 3 entries from the oldest held."),
            (6, "there the distance is 2 / 16 = 0.125, which is not below 0.125."),
            (7, "off by one: the first epoch is 1, and a change from epoch 2 is seen in the mask of epoch 2."),
        ],
    ),
}
