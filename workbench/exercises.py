"""Exercises that check themselves: `check("gebt.mask_distance", my_function)` in a notebook.

An exercise is data: a right answer, and wrong answers that readers really give, each with the hint that names
the mistake. A reader's answer that gives what a known wrong one gives gets its hint. An answer is a number
(predict) or a function (implement); what a function returns is compared on the exercise's inputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.papers.gebt import cost
from workbench.papers.spline import method as spline

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


def check(name: str, answer: Answer | None = None) -> None:
    """Print whether the answer is right, or a hint; without an answer, print the question."""
    if name not in EXERCISES:
        print(f"there is no exercise {name!r}; there are: {', '.join(EXERCISES)}")
        return
    exercise = EXERCISES[name]
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


# --- start here --------------------------------------------------------------------------------------------

WITH, WITHOUT = (80.1, 77.4, 83.0, 79.3, 81.2), (79.5, 77.6, 81.9, 78.4, 81.1)

EXERCISES = {
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
}

# --- early-bird tickets ------------------------------------------------------------------------------------

EXERCISES["early_bird.detector"] = Exercise(
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
)

# --- GEBT --------------------------------------------------------------------------------------------------

RING = torch.tensor([[0, 1, 0, 1.0], [1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]])
STAR = torch.tensor([[0, 0.5, 1.0], [0.5, 0, 0], [1.0, 0, 0]])
KEPT = torch.tensor([1, 1, 1, 0, 0, 1, 1, 1]).bool()
LATER = torch.tensor([1, 0, 0, 1, 0, 1, 1, 1]).bool()
TIED = torch.tensor([1.0, 0.5, 1.0, 1.0, 1.0, 1.2, 0.7, 1.0, 1.0, 2.0])
CITESEER = cost.SHAPES["citeseer"]


def _normalised(a: Tensor, loops: float, degree_loops: float) -> Tensor:
    scale = (a.sum(1) + degree_loops).rsqrt()
    return scale[:, None] * (a + loops * torch.eye(len(a))) * scale


def _draw(weights: Tensor, p: float, largest: bool = False) -> Tensor:
    dropped = weights.argsort(descending=largest, stable=True)[: int(p * len(weights))]
    return torch.ones(len(weights), dtype=torch.bool).index_fill(0, dropped, False)


EXERCISES |= {
    "gebt.normalise": Exercise(
        "write f(A) for a symmetric A [N, N] without loops: D^-1/2 (A + I) D^-1/2, D the row sums of A + I.",
        lambda a: _normalised(a, 1, 1),
        "this is the matrix that a GCN multiplies by, and what an edge's weight enters twice: A and D.",
        [
            (lambda a: _normalised(a, 0, 0), "the identity is missing: a node must hear itself."),
            (lambda a: _normalised(a, 0, 1), "the loops are in D and not in the matrix: use A + I in both."),
            (lambda a: _normalised(a, 1, 0), "the degrees are taken before the loops were added."),
            (lambda a: a / a.sum(1, keepdim=True), "that is D^-1 A: rows alone, and no loops."),
            (lambda a: (a + torch.eye(len(a))) / (a.sum(1)[:, None] + 1), "that is D^-1 (A + I): rows alone."),
        ],
        [(RING,), (STAR,)],
    ),
    "gebt.mask_distance": Exercise(
        "write f(mask_a, mask_b) for bool masks [E]: the fraction of entries that differ.",
        lambda a, b: (a != b).float().mean(),
        "a Hamming distance: 0 for equal masks, and what the early-bird detector watches.",
        [
            (lambda a, b: (a != b).float().sum(), "that is a count; divide by the number of entries."),
            (lambda a, b: (a == b).float().mean(), "that is the overlap, 1 - distance."),
            (lambda a, b: (a & ~b).float().mean(), "entries that were dropped and came back count too."),
            (lambda a, b: (a & b).sum() / a.sum(), "that is the share of kept entries that stay."),
        ],
        [(KEPT, LATER), (LATER, KEPT), (KEPT, KEPT)],
    ),
    "gebt.draw": Exercise(
        "write f(weights, p) for weights [E]: a bool mask that drops exactly int(p E) of the smallest.",
        _draw,
        "exactly int(p E) are gone, ties or not; which of the tied ones go is a choice, so make it by a seed.",
        [
            (
                lambda w, p: w > w.sort().values[int(p * len(w)) - 1],
                "a threshold drops all edges that tie with it, and untrained edges tie at 1: sort, then count.",
            ),
            (
                lambda w, p: w >= w.sort().values[int(p * len(w))],
                "a threshold keeps all edges that tie with it: too few go. Sort, then count.",
            ),
            (lambda w, p: _draw(w, p, largest=True), "you dropped the largest."),
            (lambda w, p: ~_draw(w, p), "the mask is inverted: True means kept."),
        ],
        [(TIED, 0.4), (TIED, 0.25)],
        lambda mask, weights, p: (weights * mask).sort().values,  # any of the tied ones may go
    ),
    "gebt.macs": Exercise(
        "how many million MACs has one pass of the CiteSeer ticket with p_g = 0.1, p_w = 0.9, as Table 2 counts?",
        cost.inference_macs(CITESEER, 0.1, 0.9) / 1e6,
        "most of the saving comes from p_w: the transform is the larger term of the dense network.",
        [
            (cost.inference_macs(CITESEER) / 1e6, "that is the dense network, nothing pruned."),
            (cost.inference_macs(CITESEER, 0.9, 0.1) / 1e6, "p_g and p_w are swapped: p_g prunes edges."),
            (2 * cost.inference_macs(CITESEER, 0.1, 0.9) / 1e6, "a multiply and its add are one MAC here."),
            (cost.inference_macs(CITESEER, 0.1, 0.9), "in millions, please."),
        ],
    ),
}

# --- spline pruning ----------------------------------------------------------------------------------------

WEIGHT = torch.tensor([[1.0, 0], [3, 0], [0.3, 2], [-2, 0.1], [1, 1]], dtype=torch.float64)
BIAS = torch.tensor([0.5, 1.5, -1, 1, 0.2], dtype=torch.float64)
OUT = torch.tensor([[1.0, -2, 0.5], [0, 1, 4]], dtype=torch.float64)
NORMS = torch.tensor([2.0, 1, 3], dtype=torch.float64)


def _line_distance(
    weight: Tensor, bias: Tensor, rho: float, angle: Callable, scale: bool = True, sign: bool = True
) -> Tensor:
    norm = weight.norm(dim=1)
    cos, c = spline.cosine(weight[None])[0], bias / norm if scale else bias
    flip = torch.where(cos < 0, -1.0, 1.0) if sign else torch.ones_like(cos)
    return (1 - angle(cos)).clamp(min=0) + rho * (c[:, None] - flip * c[None]).abs()


def _merged(out: Tensor, norms: Tensor, drop: int, keep: int, factor: Callable) -> Tensor:
    out = out.clone()
    out[:, keep] += factor(norms[drop], norms[keep]) * out[:, drop]
    return out[:, [unit for unit in range(out.shape[1]) if unit != drop]]


EXERCISES |= {
    "spline.regions": Exercise(
        "one hidden layer of 7 ReLU units on the plane, lines in general position: how many regions?",
        29,
        "1 + n + n(n-1)/2: every new line adds one region for each line that it crosses, and one more.",
        [
            (28, "the plane itself is one region before the first line cuts it."),
            (14, "that is 2n: all lines through one point. In general position they meet two by two."),
            (21, "those are the crossings; each adds a region, but so does each line."),
            (128, "2^n sign patterns could be written down, but in the plane most of them are empty."),
            (8, "that is n + 1: parallel lines, or a single input."),
        ],
    ),
    "spline.distance": Exercise(
        "write f(weight [n, 2], bias [n], rho): the distances [n, n] (1 - |cos|) + rho |c_i - s c_j| of the units' "
        "lines, c = b / ||w||, s = the sign of the cosine.",
        lambda w, b, rho: _line_distance(w, b, rho, torch.abs),
        "a unit times any number, or negative in (w, b), has the same line, and distance 0 to itself.",
        [
            (lambda w, b, rho: _line_distance(w, b, rho, lambda cos: cos), "a line has no direction: take |cos|."),
            (
                lambda w, b, rho: _line_distance(w, b, rho, torch.abs, scale=False),
                "c must be b / ||w||: units 1 and 2 have the same line, and yours are apart.",
            ),
            (
                lambda w, b, rho: _line_distance(w, b, rho, torch.abs, sign=False),
                "where the weights point in opposite ways, the offset's sign turns too: compare c_i with s c_j.",
            ),
            (
                lambda w, b, rho: _line_distance(w, b, 0.0, torch.abs),
                "the offset is missing: parallel lines are not one.",
            ),
            (lambda w, b, rho: 1 - _line_distance(w, b, 0.0, torch.abs), "that is |cos|, a likeness: 1 - |cos|."),
        ],
        [(WEIGHT, BIAS, 0.05), (WEIGHT, BIAS, 1.0)],
    ),
    "spline.merge": Exercise(
        "units drop and keep have one line and the same side of it; norms [n] are those of the incoming weights. Write "
        "f(out [C, n], norms, drop, keep): outgoing weights [C, n - 1] without drop that leave the function as it was.",
        lambda *arguments: _merged(*arguments, lambda drop, keep: drop / keep),
        "ReLU of a positive multiple is that multiple of the ReLU, so nothing is lost.",
        [
            (lambda *arguments: _merged(*arguments, lambda drop, keep: 0.0), "you threw the dropped unit's part away."),
            (
                lambda *arguments: _merged(*arguments, lambda drop, keep: 1.0),
                "the two differ in size: scale by their norms.",
            ),
            (lambda *arguments: _merged(*arguments, lambda drop, keep: keep / drop), "the ratio is upside down."),
        ],
        [(OUT, NORMS, 0, 1), (OUT, NORMS, 2, 0)],
    ),
}
