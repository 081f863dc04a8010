"""Two checks of gradients that the notebook shows: ours against finite differences, the released successor's sign."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from workbench.papers.dna.accelerators import Template, costs
from workbench.papers.dna.method import Logits, Objective, disguised_loss, draw, expected_objective
from workbench.papers.dna.space import Networks
from workbench.training import generator


def finite_differences(function: Callable[[], Tensor], at: list[Tensor], step: float = 1e-5) -> list[Tensor]:
    """Central differences of ``function()`` in every entry of the tensors ``at``, which are moved in place and back."""
    found = []
    with torch.no_grad():
        for x in at:
            slope = torch.zeros_like(x)
            for i in range(x.numel()):
                old = float(x.view(-1)[i])
                ends = []
                for sign in (1, -1):
                    x.view(-1)[i] = old + sign * step
                    ends.append(float(function()))
                x.view(-1)[i] = old
                slope.view(-1)[i] = (ends[0] - ends[1]) / (2 * step)
            found.append(slope)
    return found


def compared(space: Networks, template: Template, seed: int = 0) -> pd.DataFrame:
    """Each derivative of the joint objective beside its finite difference: columns kind, derivative, difference, error.

    Errors are relative to the largest derivative of the same choice (or to a millionth of a point). Accuracies and
    logits are drawn at random here.
    """
    stream = generator(seed, "dna", "check")
    found, objective = costs(space, template), Objective("edp", 3.0)
    accuracy = 100 * torch.rand(space.choices, generator=stream, dtype=torch.float64)
    logits = Logits.start(space.choices, len(found.cycles), template.factors, stream, spread=1.0)

    def value() -> Tensor:
        return expected_objective(found, accuracy, objective, logits)

    value().backward()
    rows = []
    for i, (x, slope) in enumerate(zip(logits.all, finite_differences(value, logits.all), strict=True)):
        kind = "network" if i < len(logits.operators) else "accelerator"
        rows += [
            {
                "kind": kind,
                "derivative": float(d),
                "difference": float(s),
                "error": float((d - s).abs() / slope.abs().max().clamp(min=1e-6)),
            }
            for d, s in zip(x.grad, slope, strict=True)
        ]
    return pd.DataFrame(rows)


def slopes(seed: int, count: int = 40) -> list[dict[str, float]]:
    """Of random samples the released loss' derivative in each sampled probability: columns sample, choice, cost, slope.

    Three choices of three, with random costs and logits.
    """
    stream, rows = generator(seed, "dna", "slopes"), []
    for sample in range(count):
        logits = [torch.randn(3, generator=stream, dtype=torch.float64) for _ in range(3)]
        cost = 10 * torch.rand(1, generator=stream, dtype=torch.float64)[0]
        chosen = draw(logits, 1, stream)[0]
        p = [x.softmax(-1)[i].requires_grad_() for x, i in zip(logits, chosen, strict=True)]
        found = torch.autograd.grad(disguised_loss(cost, p), p)
        rows += [{"sample": sample, "choice": i, "cost": float(cost), "slope": float(s)} for i, s in enumerate(found)]
    return rows
