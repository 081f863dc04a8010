"""Exercises on search under a budget and on distillation."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.exercises import Exercise
from workbench.papers.agd.method import layer_macs

LOGITS = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.0]])
COSTS = torch.tensor([[64.0, 576.0, 1152.0], [16.0, 144.0, 288.0]])


def expected(logits: Tensor, costs: Tensor) -> Tensor:
    """Sum over layers of the mean cost."""
    return (logits.softmax(1) * costs).sum()


def budget_term(expected: Tensor, budget: float) -> Tensor:
    """The logarithm of the ratio, squared."""
    return (expected / budget).log() ** 2


RESIDUAL = layer_macs("residual", 8, 12)

EXERCISES = {
    "agd.residual": Exercise(
        "a residual block takes 8 channels and gives 12: 3x3 to 12, 3x3 from 12 to 12, and the input through a 1x1 "
        "because the widths differ. How many MACs a pixel?",
        RESIDUAL,
        "864 + 1296 + 96: widening a residual block also pays for its shortcut.",
        [
            (9 * 8 * 12 + 9 * 12 * 12, "the shortcut is missing: widths differ, so it is a 1x1 of 8 x 12 MACs."),
            (2 * 9 * 8 * 12 + 96, "the second 3x3 takes 12 channels, not 8."),
            (9 * 12 * 12 * 2, "the first 3x3 takes 8 channels, and there is a shortcut."),
            (2 * RESIDUAL, "that counts two FLOPs a MAC."),
            (RESIDUAL + 12 + 12 + 12, "biases are additions, no MACs."),
        ],
    ),
    "agd.expected": Exercise(
        "write f(logits [layers, operators], costs [layers, operators]): the expected cost of a design that is drawn "
        "layer by layer with softmax probabilities.",
        expected,
        "it is exact, no sampling, and its gradient reaches every logit.",
        [
            (lambda a, c: c.gather(1, a.argmax(1, keepdim=True)).sum(), "that is the cost of the argmax: where it "
             "stands still, the gradient is zero."),
            (lambda a, c: (a.softmax(0) * c).sum(), "the softmax must run over the operators of a layer."),
            (lambda a, c: (a.softmax(1) * c).mean(1).sum(), "the probabilities make a mean already: sum operators."),
            (lambda a, c: (a.softmax(1) * c).sum(1).mean(), "a network pays for all its layers: sum them."),
            (lambda a, c: (a * c).sum(), "logits are no probabilities: softmax first."),
        ],
        inputs=[(LOGITS, COSTS), (3 * LOGITS.flip(1), COSTS)],
    ),
    "agd.budget": Exercise(
        "write f(expected, budget): a cost term that is 0 at the budget, symmetric in the ratio (half and double "
        "count alike), and quadratic in the logarithm.",
        budget_term,
        "below the budget it pushes the cost up, so it cannot end at the cheapest design.",
        [
            (lambda e, b: (e / b).log(), "unsquared it goes on below the budget: it ends at the cheapest design."),
            (lambda e, b: (e / b - 1) ** 2, "here half the budget costs less than double: take the logarithm."),
            (lambda e, b: ((e - b) ** 2), "that depends on the unit: take the ratio."),
            (lambda e, b: (e / b).log().clamp(min=0) ** 2, "that lets the cost fall freely below the budget."),
            (lambda e, b: (e / b).log().abs(), "absolute, not squared: its pull does not fade near the budget."),
        ],
        inputs=[(torch.tensor(3.0), 2.0), (torch.tensor(100.0), 400.0)],
    ),
}  # fmt: skip
