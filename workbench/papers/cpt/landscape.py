"""How the training loss rises around a minimum: sharpness, and slices of the loss landscape.

Directions are Gaussian and filter-normalised (Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS
2018): each filter's part has the norm of that filter; biases and BatchNorm stay. Arms of a seed share the draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workbench.papers.cpt.nets import Parameters
from workbench.training import generator

Loss = Callable[[Parameters], Tensor]
"""Parameters of K models to their losses ``[K]``."""


def direction(parameters: Parameters, seeds: Sequence[int], number: int) -> Parameters:
    """A random direction for each model: weights ``[K, filters, n]`` only, each filter as long as the model's own."""
    found = {}
    for name, weight in parameters.items():
        if weight.ndim == 3 and name != "embedding":
            drawn = {s: torch.randn(weight.shape[1:], generator=generator(s, "direction", number, name)) for s in seeds}
            noise = torch.stack([drawn[s] for s in seeds])
            found[name] = noise * (weight.norm(dim=2, keepdim=True) / noise.norm(dim=2, keepdim=True))
    return found


def move(parameters: Parameters, *steps: tuple[float, Parameters]) -> Parameters:
    """Parameters plus each number times its direction."""
    moved = dict(parameters)
    for size, along in steps:
        moved |= {name: moved[name] + size * part for name, part in along.items()}
    return moved


def sharpness(loss: Loss, parameters: Parameters, seeds: Sequence[int], size: float, directions: int) -> Tensor:
    """Mean rise ``[K]`` of the loss when the weights move by ``size`` of their own length, over some directions."""
    moved = [loss(move(parameters, (size, direction(parameters, seeds, n)))) for n in range(directions)]
    return torch.stack(moved).mean(0) - loss(parameters)


def grid(points: int) -> Tensor:
    """Where a slice is evaluated: evenly from -1 to 1, 0 among them for an odd number of points."""
    return torch.linspace(-1, 1, points)


def line(loss: Loss, parameters: Parameters, along: Parameters, at: Tensor) -> Tensor:
    """Losses ``[points, K]`` on a line through the weights."""
    return torch.stack([loss(move(parameters, (a, along))) for a in at.tolist()])


def plane(loss: Loss, parameters: Parameters, along: Parameters, up: Parameters, at: Tensor) -> Tensor:
    """Losses ``[points, points, K]`` on a plane through the weights, rows along the second direction."""
    rows = [[loss(move(parameters, (a, along), (b, up))) for a in at.tolist()] for b in at.tolist()]
    return torch.stack([torch.stack(row) for row in rows])
