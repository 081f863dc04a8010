"""Cyclic precision: the bit-width of weights and activations at every iteration.

Fu, Guo, Li, Yang, Ding, Chandra, Lin: "CPT: Efficient Deep Neural Network Training via Cyclic Precision", ICLR 2021.

A schedule is an int64 tensor ``[iterations]``. Errors keep a constant bit-width in the paper.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from workbench import WorkbenchError, check_number

CYCLES = 32
"""Cycles of the paper's trainings."""


def _period(iterations: int, low: int, high: int, cycles: int) -> int:
    """Iterations of a cycle. What is left over by the division begins one cycle more."""
    for what, value in {"iterations": iterations, "cycles": cycles, "low": low, "high": high}.items():
        check_number(what, value, 0, whole=True)
    if not 1 <= cycles <= iterations:
        raise WorkbenchError(f"{cycles} cycles do not fit {iterations} iterations: choose 1 to {iterations}")
    if not 1 <= low <= high:
        raise WorkbenchError(f"bits from {low} to {high}: the lower bound must lie between 1 and the upper one")
    return int(iterations // cycles)


def ramp(iterations: int, low: int, high: int, cycles: int = CYCLES) -> Tensor:
    """Half a cosine from ``low`` to ``high`` in every cycle, then a drop: real numbers, before rounding.

    ``low + (high - low) / 2 (1 - cos(pi phase))``; not a wave: it never comes down gradually.
    """
    period = _period(iterations, low, high, cycles)
    phase = (torch.arange(iterations) % period).double() / period
    return low + 0.5 * (high - low) * (1 + (math.pi * phase + math.pi).cos())


def cyclic(iterations: int, low: int, high: int, cycles: int = CYCLES) -> Tensor:
    """CPT's schedule (section 3.2): `ramp`, rounded to the nearest integer as in the code."""
    return ramp(iterations, low, high, cycles).round().long()


def triangle(iterations: int, low: int, high: int, cycles: int = CYCLES) -> Tensor:
    """Linearly up to ``high`` in the middle of a cycle and down again: ours, to compare shapes.

    Rounded to the nearest integer, halves to the even one: the same on the way up and down, for both are the one
    quotient of whole numbers.
    """
    period = _period(iterations, low, high, cycles)
    step = torch.arange(iterations) % period
    from_an_end = torch.minimum(step, period - step)
    return (low + 2 * (high - low) * from_an_end.double() / period).round().long()


def reversed_ramps(iterations: int, low: int, high: int, cycles: int = CYCLES) -> Tensor:
    """`cyclic` with every cycle run backwards, from ``high`` down to ``low``: the same bits, the same cost."""
    period = _period(iterations, low, high, cycles)
    return torch.cat([cycle.flip(0) for cycle in cyclic(iterations, low, high, cycles).split(period)])


def static(iterations: int, bits: int) -> Tensor:
    """The same bits throughout."""
    check_number("iterations", iterations, 1, whole=True)
    check_number("bits", bits, 1, whole=True)
    return torch.full((iterations,), int(bits))


def shuffled(bits: Tensor, generator: torch.Generator) -> Tensor:
    """The same bits in random order: the control at equal cost. What the cycle is worth must exceed this."""
    return bits[torch.randperm(len(bits), generator=generator)]
