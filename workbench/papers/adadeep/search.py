"""Searches for a design, all given the same rewards and the same number of evaluations.

A baseline gets the rewards of all designs ``[D]`` and looks at ``count`` of them: it returns their numbers in the order
in which it asked. An evaluation is a fine-tuning: a design that was measured before is free, so `REPEATS` allows TPE
and Q-learning, which may ask twice, some more (random and greedy search never do).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def random_search(rewards: Tensor, choices: Sequence[int], count: int, stream: torch.Generator) -> Tensor:
    """Designs in random order."""
    return torch.randperm(len(rewards), generator=stream)[:count]


def greedy(rewards: Tensor, choices: Sequence[int], count: int, stream: torch.Generator) -> Tensor:
    """Layer by layer: from no technique at all, try every technique of the first layer and keep the best, then the
    second layer's, and so on, around until nothing changes; then again from a random design.
    """
    asked: dict[int, None] = {}
    design = [0] * len(choices)

    def number(of: Sequence[int]) -> int:
        at = 0
        for action, size in zip(of, choices, strict=True):
            at = at * size + action
        return at

    while len(asked) < count:
        before = list(design)
        for layer, size in enumerate(choices):
            tried = [[*design[:layer], action, *design[layer + 1 :]] for action in range(size)]
            asked |= dict.fromkeys(map(number, tried))
            design = max(tried, key=lambda d: float(rewards[number(d)]))
        if design == before:
            design = [int(torch.randint(size, (1,), generator=stream)) for size in choices]
    return torch.tensor(list(asked)[:count])


def tpe(rewards: Tensor, choices: Sequence[int], count: int, stream: torch.Generator) -> Tensor:
    """Optuna's tree-structured Parzen estimator, with its own defaults; techniques are categories."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = int(torch.randint(2**31, (1,), generator=stream))
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    asked = []
    for _ in range(REPEATS * count):
        if len(set(asked)) == count:
            break
        trial = study.ask()
        at = 0
        for layer, size in enumerate(choices):
            at = at * size + trial.suggest_categorical(f"layer{layer}", range(size))
        asked.append(at)
        study.tell(trial, float(rewards[at]))
    return torch.tensor(asked)


REPEATS = 2
"""Proposals for each evaluation that TPE and Q-learning may make."""
BASELINES = {"random": random_search, "TPE": tpe, "greedy": greedy}
