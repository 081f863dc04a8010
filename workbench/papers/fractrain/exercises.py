"""Exercises on fractional bits."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from workbench.exercises import Exercise
from workbench.papers.fractrain import cost as fractrain_cost
from workbench.papers.fractrain import method as fractrain

PLATEAUS = [
    2.0,
    1.6,
    1.3,
    1.1,
    1.0,
    0.97,
    0.95,
    0.94,
    0.93,
    0.93,
    0.8,
    0.7,
    0.66,
    0.65,
    0.64,
    0.64,
    0.64,
    0.6,
    0.5,
    0.4,
    0.4,
]
CRAWL = [1.0 - 0.005 * t for t in range(24)]
CHANCES = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]])
UPSTREAM = torch.tensor([[1.0, -0.5, 2.0], [0.3, 0.0, -1.0]])


def _stages(
    losses: Sequence[float],
    epsilon: float,
    alpha: float,
    forget: bool = True,
    shrinks: int = 2,
    neighbours: bool = False,
) -> Tensor:
    stage, window, stages = 0, [], []
    for at, loss in enumerate(losses):
        stages.append(stage)
        scale = sum(losses[: min(at + 1, 10)]) / min(at + 1, 10)
        window = [*window, loss][-5:]
        pairs = pairwise(window) if neighbours else ((old, loss) for old in window)
        if stage < 3 and len(window) == 5 and max(abs(a - b) for a, b in pairs) / scale <= epsilon:
            stage += 1
            epsilon *= alpha if stage <= shrinks else 1
            window = [] if forget else window
    return torch.tensor(stages)


EXERCISES = {
    "fractrain.cp": Exercise(
        "weights of 6 bits, inputs of 4, errors of 8: cp, the three products' bits in per cent of those of 32 bits?",
        fractrain_cost.cp(6, 4, 8),
        "(24 + 48 + 32) / 3072; which of the three has which bits makes no difference.",
        [
            (100 * 24 / 1024, "that is the forward product alone."),
            (fractrain_cost.cp(6, 4, 8) / 100, "in per cent, please."),
            (100 * 104 / 1024, "three products of 32 bits are 3072."),
            (100 * 6 * 4 * 8 / 32**3, "each of the three products has two sides: 6 x 4, 6 x 8, 4 x 8."),
        ],
    ),
    "fractrain.stages": Exercise(
        "write f(losses, epsilon, alpha): the stage (0 to 3) in which each period is trained. After a period its loss "
        "joins a window of at most 5; when 5 are there and the older 4 all lie within epsilon x scale of the newest, "
        "the next stage begins and the window is emptied. scale: the mean of the first 10 losses, or of those so far. "
        "epsilon is multiplied by alpha after switches 1 and 2.",
        lambda losses, epsilon, alpha: fractrain.staircase(losses, epsilon, alpha),
        "a stage lasts five periods at least, and a steady crawl may look like a standstill.",
        [
            (
                lambda *of: _stages(*of, forget=False),
                "empty the window at a switch: each stage needs five losses of its own.",
            ),
            (lambda *of: _stages(*of, shrinks=0), "epsilon must shrink by alpha after the first two switches."),
            (lambda *of: _stages(*of, neighbours=True), "compare each with the newest, not with its neighbour."),
            (
                lambda *of: torch.cat([fractrain.staircase(*of)[1:], fractrain.staircase(*of)[-1:]]),
                "off by one: a period's own loss decides about the next one.",
            ),
        ],
        [(PLATEAUS, 0.2, 0.4), (CRAWL, 0.05, 0.9)],
    ),
    "fractrain.straight_through": Exercise(
        "the gate passes on a one-hot choice, and its gradient is taken as if it had passed on the softmax p [n, c]. "
        "Write f(p, g): the gradient of the logits, where g [n, c] arrives at the choice.",
        lambda p, g: p * (g - (p * g).sum(-1, keepdim=True)),
        "a choice that would have helped more than the mean gets a larger logit, although it was not taken.",
        [
            (lambda p, g: g, "that treats the choice as the logits themselves; go through the softmax."),
            (lambda p, g: torch.zeros_like(p), "the choice itself has no gradient: that is why the softmax's is used."),
            (lambda p, g: p * g, "the softmax's rows sum to one: the mean of g under p must be taken off."),
            (lambda p, g: p * (1 - p) * g, "that is the diagonal alone: raising one logit lowers the others."),
        ],
        [(CHANCES, UPSTREAM)],
    ),
}
