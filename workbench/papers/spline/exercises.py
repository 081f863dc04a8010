"""Exercises on pruning as removing lines."""

from collections.abc import Callable

import torch
from torch import Tensor

from workbench.exercises import Exercise
from workbench.papers.spline import method as spline

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


EXERCISES = {
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
