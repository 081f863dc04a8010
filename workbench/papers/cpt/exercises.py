"""Exercises on cyclic precision."""

from collections.abc import Callable

import torch
from torch import Tensor

from workbench.exercises import Exercise
from workbench.papers.cpt import method as cpt

SIGNED = torch.tensor([-1.0, -0.62, -0.1, 0.0, 0.33, 0.8, 1.4])
POSITIVE = torch.tensor([0.0, 0.05, 0.4, 0.77, 1.3])


def _rounded(x: Tensor, low: Tensor, step: Tensor, to: Callable = torch.round) -> Tensor:
    return to((x - low) / step) * step + low


def _levels(x: Tensor, bits: int, count: int = -1, to: Callable = torch.round) -> Tensor:
    return _rounded(x, x.min(), (x.max() - x.min()) / (2**bits + count), to)


def _symmetric(x: Tensor, bits: int) -> Tensor:
    largest = x.abs().max()
    return _rounded(x, -largest, 2 * largest / (2**bits - 1))


def _ramps(steps: int, low: int, high: int, cycles: int, turns: float = 1.0, linear: bool = False) -> Tensor:
    share = torch.arange(steps, dtype=torch.float64) % (steps // cycles) / (steps // cycles)
    rise = share if linear else (1 - torch.cos(turns * torch.pi * share)) / 2
    return low + (high - low) * rise


EXERCISES = {
    "cpt.saving": Exercise(
        "a training step has one product of b x b bits and two of b x 8. How many per cent do constant 6 bits save "
        "against constant 8?",
        31.25,
        "132 of 192 bit products are left; the two backward ones keep their 8-bit side.",
        [
            (43.75, "that is the forward product alone; two of the three have errors of 8 bits on one side."),
            (25.0, "a product's cost goes with the bits of both its sides: 6 x 6 and 2 x 6 x 8."),
            (68.75, "that is what is left, not what is saved."),
            (0.3125, "in per cent, please."),
        ],
    ),
    "cpt.quantise": Exercise(
        "write f(x, bits): each entry goes to the nearest of 2^bits evenly spaced levels, the least at x.min(), the "
        "largest at x.max().",
        _levels,
        "zero is a level only by luck, or where x.min() is zero.",
        [
            (lambda x, bits: _levels(x, bits, 0), "that makes one level too many: 2^bits levels have 2^bits - 1 gaps."),
            (lambda x, bits: _levels(x, bits, to=torch.floor), "you rounded down: to the nearest."),
            (_symmetric, "your range is symmetric; here it goes from x.min() to x.max()."),
            (lambda x, bits: ((x - x.min()) / (x.max() - x.min()) * (2**bits - 1)).round(), "scale back to x's range."),
        ],
        [(SIGNED, 2), (SIGNED, 3), (POSITIVE, 2)],
    ),
    "cpt.schedule": Exercise(
        "write f(steps, low, high, cycles): bits [steps]. Each cycle of steps // cycles rises from low to high by half "
        "a cosine, low + (high - low)(1 - cos(pi t / cycle)) / 2, rounded, and drops.",
        cpt.cyclic,
        "half of the steps of 3 to 8 run at 5 bits or fewer.",
        [
            (lambda *of: _ramps(*of), "bits are whole numbers: round."),
            (lambda *of: _ramps(*of, turns=2.0).round(), "a whole cosine comes down again; the code drops at once."),
            (lambda *of: _ramps(*of, linear=True).round(), "that rises in a straight line."),
            (lambda *of: cpt.reversed_ramps(*of), "it falls where it should rise."),
            (lambda steps, low, high, cycles: cpt.cyclic(steps, low, high, 1), "that is a single cycle."),
        ],
        [(40, 3, 8, 4), (32, 4, 8, 2)],
    ),
}
