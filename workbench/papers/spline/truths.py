"""Numbers of regions that closed forms give, beside what the engine counts."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from workbench.evidence import Claim, equals
from workbench.papers.spline.partition import Absolute, partition

EXACT = equals(0.0, 0.0)


def _layer(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], len(weight), dtype=torch.float64)
    layer.weight.data, layer.bias.data = weight.double(), bias.double()
    return layer


def lines(n: int, distance: float) -> nn.Sequential:
    """n ReLU units whose lines all touch the circle of radius ``distance``: in general position for odd n, or, for a
    distance of zero, all through one point."""
    angle = math.pi * (2 if distance else 1) * torch.arange(n, dtype=torch.float64) / n
    normals = torch.stack([angle.cos(), angle.sin()], 1)
    return nn.Sequential(
        _layer(normals, torch.full((n,), -distance)), nn.ReLU(), _layer(torch.ones(2, n), torch.zeros(2))
    )


def tent(depth: int) -> nn.Sequential:
    """x to 1 - |2x - 1|, folded ``depth`` times, on the first coordinate."""
    first = _layer(torch.tensor([[2.0, 0.0]]), torch.tensor([-1.0]))
    fold, back = (
        _layer(torch.tensor([[2.0]]), torch.tensor([-1.0])),
        _layer(torch.tensor([[-1.0]]), torch.tensor([1.0])),
    )
    folds = [part for at in range(depth) for part in (first if at == 0 else fold, Absolute(), back)]
    return nn.Sequential(*folds, _layer(torch.tensor([[1.0], [0.0]]), torch.zeros(2)))


def closed_forms() -> Iterator[tuple[Claim, int]]:
    """Claims with a closed form as the published number, and the engine's count."""

    def truth(id: str, text: str, formula: int, source: str, net: nn.Sequential, half: float) -> tuple[Claim, int]:
        square = [(-half, -half), (half, -half), (half, half), (-half, half)]
        claim = Claim(
            f"spline.regions.{id}", text, "analytic", "regions", EXACT, formula, f"closed form, {source}", None
        )
        return claim, len(partition(net, square).maps)

    for n in (11, 51, 101):  # lines in general position meet within n of the circle's centre
        text = f"{n} lines in general position cut the plane into 1 + n + n(n-1)/2 regions"
        yield truth(f"general.{n}", text, 1 + n + math.comb(n, 2), "Zaslavsky 1975", lines(n, 1.0), 2.0 * n)
    text = "64 lines through one point cut the plane into 2n regions"
    yield truth("concurrent.64", text, 128, "Zaslavsky 1975", lines(64, 0.0), 1.0)
    for depth in (5, 10):
        text = f"the tent map folded {depth} times has 2^{depth} pieces on [0, 1]"
        net = tent(depth)
        claim = Claim(
            f"spline.regions.tent.{depth}",
            text,
            "analytic",
            "regions",
            EXACT,
            2**depth,
            "closed form, Telgarsky 2015",
            None,
        )
        yield claim, len(partition(net, [(0, 0), (1, 0), (1, 1), (0, 1)]).maps)
