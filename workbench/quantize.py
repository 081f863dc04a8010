"""Fake quantisation: numbers stay float32, but lie on a grid of at most 2^bits levels.

What CPT and FracTrain share, as in their released codes (the quantiser of Banner et al., "Scalable methods for
8-bit training of neural networks", NeurIPS 2018). In a quantised layer

* weights go to the nearest level, the range is min to max of an output channel;
* inputs go to the nearest level, the range is min to max of the batch in training, a running range in evaluation;
* errors (gradients of the layer's output) are rounded stochastically, the range is min to max of the batch.

So all three products, Y = W X, dX = W' G and dW = G X', see quantised operands; dX, dW, the master weights and the
optimiser stay float32. The grid starts at the range's low end ("float zero point"), so zero itself lies on it only
where the low end is zero, as after a ReLU. Gradients pass the rounding straight through.

Bits are an int for one model. With a leading axis K (arms x seeds side by side) they are a tensor ``[K]``, one number
a model; ``[K, n]`` gives every sample of every model its own, still on its model's range (dynamic precision).
32 bits or more as an int are the identity; as entries of a tensor, the identity up to float rounding.
NaN and infinity are not hidden: all of the tensor becomes NaN, and the loss with it. Half precision is computed in
float32 and rounded back. On a CPU a range beyond the largest number of its type is halved first.

Three things differ from the released codes: a step may be smaller than 1e-8 (late errors are), running ranges begin
as a plain mean and not at zero, and the grid of stochastic rounding is wider by a factor of 1 + 2^-18.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import WorkbenchError, check_number
from workbench.training import generator as stream

Bits = int | Tensor
Generators = torch.Generator | Sequence[torch.Generator] | None

POOL = 2**20  # distinct random numbers for stochastic rounding on a CPU
BLOCK = 2**18  # so many of them in a row
WIDER = 1 + 2**-18  # stochastic rounding's grid: the largest entry plus noise stays below the next level, unclamped
MOST_BITS = 64  # of an entry of a tensor of bits: 2^bits steps of any range are float32 numbers
TINY = torch.finfo(torch.float32).tiny  # keeps the step of a constant tensor from being zero


def span(x: Tensor, axes: int = 0) -> tuple[Tensor | float, Tensor | float]:
    """Least and largest entry for every index of the first axes, in a shape that broadcasts against x.

    Raises:
        WorkbenchError: x is empty, holds no real numbers, or has no axes beside the first ones.
    """
    if x.numel() == 0 or not x.is_floating_point() or (axes and x.ndim <= axes):
        kind = f"{x.dtype} of shape {list(x.shape)}"
        raise WorkbenchError(f"{kind} cannot be quantised: give real numbers, at least one, in {axes + 1} axes or more")
    x = x.detach()
    if axes == 0:
        low, high = x.aminmax()
        return _number(low), _number(high)
    rest = tuple(range(axes, x.ndim))
    return x.amin(rest, keepdim=True), x.amax(rest, keepdim=True)


def _number(scalar: Tensor) -> Tensor | float:
    """A float on a CPU, where it makes the arithmetic quicker; as it is on a GPU, which would have to wait for it."""
    return scalar.item() if scalar.device.type == "cpu" else scalar


def _columns(numbers: Tensor, x: Tensor) -> Tensor:
    return numbers.reshape(*numbers.shape, *[1] * (x.ndim - numbers.ndim))


@lru_cache
def _pool() -> Tensor:
    """The numbers (i + 1/2) / POOL in random order, the first BLOCK of them once more at the end.

    From a uniformly random place on, every entry of a block is uniform to 1 / (2 POOL): exactly so, not on
    average. Drawing one place a block costs a twentieth of drawing every number.
    """
    # glibc hands memory back to the system beyond twice the largest block freed so far, and getting it again costs
    # a page fault every 4 kB: measured, a tenth of a training step. Freeing a block of just under 32 MB ends that.
    torch.empty(2**23 - 2**12)
    shuffled = torch.randperm(POOL, generator=stream("stochastic rounding")).add(0.5).div(POOL)
    return torch.cat([shuffled, shuffled[:BLOCK]])


def _add_noise(level: Tensor, generators: Generators) -> None:
    """Add uniform numbers of [0, 1) in place; with K generators, each to its slice of the leading axis K."""
    if level.device.type != "cpu":
        level.add_(torch.rand_like(level))
        return
    pool = _pool()
    rows, owners = (level, generators) if isinstance(generators, Sequence) else ([level], [generators])
    for row, owner in zip(rows, owners, strict=True):
        parts = row.view(-1).split(BLOCK)
        for part, start in zip(parts, torch.randint(POOL, (len(parts),), generator=owner).tolist(), strict=True):
            part.add_(pool[start : start + len(part)])


def _levels(x: Tensor, low: Tensor | float, step: Tensor | float) -> Tensor:
    """(x - low) / step; a pass over memory less where low is the 0 of a ReLU."""
    return x.mul(step**-1) if isinstance(low, float) and low == 0 else x.sub(low).mul_(step**-1)


def _values(level: Tensor, low: Tensor | float, step: Tensor | float) -> Tensor:
    """low + step * level, in place; in one pass over memory where both are numbers."""
    if isinstance(low, float):
        return torch.add(level.new_tensor(low), level, alpha=step, out=level)
    return level.mul_(step).add_(low)


def _fits(x: Tensor, low: Tensor | float, high: Tensor | float) -> bool:
    """Is the range a number of x's type? Only a CPU is asked; a GPU would have to be waited for."""
    width = high - low
    if not isinstance(width, Tensor):
        return width <= torch.finfo(x.dtype).max
    return width.device.type != "cpu" or bool(width.isfinite().all())


def _round(
    x: Tensor, low: Tensor | float, high: Tensor | float, bits: Bits, to_whole: Callable[[Tensor], Tensor], wider: float
) -> Tensor:
    """x on the grid; ``to_whole`` rounds levels in place, ``wider`` stretches the grid."""
    if x.dtype in (torch.float16, torch.bfloat16):
        low, high = (end.float() if isinstance(end, Tensor) else end for end in (low, high))
        return _round(x.float(), low, high, bits, to_whole, wider).to(x.dtype)
    half = 1.0 if _fits(x, low, high) else 0.5
    if half != 1:
        x, bottom, top = x * half, low * half, high * half
    else:
        bottom, top = low, high
    step = wider * ((top - bottom) / (2.0**bits - 1) + TINY)
    values = _values(to_whole(_levels(x, bottom, step)), bottom, step)
    return values if half == 1 else values.div_(half).clamp_(low, high)


class _Nearest(torch.autograd.Function):
    """Nearest level forward, straight through backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor | float, high: Tensor | float, bits: Bits) -> Tensor:
        return _round(x, low, high, bits, Tensor.round_, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad, None, None, None


class _Error(torch.autograd.Function):
    """Identity forward, stochastic rounding of the gradient backward."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, bits: Bits, generators: Generators) -> Tensor:
        ctx.bits, ctx.generators = bits, generators
        return y.detach()  # no view: an in-place ReLU may follow

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return stochastic(grad, ctx.bits, ctx.generators), None, None


def _is_float(bits: Bits, x: Tensor | None = None) -> bool:
    """Do so many bits leave x as it is? Refuses what makes no grid, or a tensor of bits that is not one a model."""
    if not isinstance(bits, Tensor):
        check_number("bits", bits, 1, whole=True)
        return bits >= 32
    if x is not None and (bits.ndim > 2 or bits.shape != x.shape[: bits.ndim] or bits.numel() == 0):
        raise WorkbenchError(f"bits of shape {list(bits.shape)} do not go with {list(x.shape)}: give [K] or [K, n]")
    fewest, most = bits.aminmax()
    if not (fewest >= 1 and most <= MOST_BITS):
        raise WorkbenchError(f"bits from {fewest:g} to {most:g} make no grid: give 1 to {MOST_BITS}")
    return False


def nearest(x: Tensor, low: Tensor | float, high: Tensor | float, bits: Bits) -> Tensor:
    """Round x to the nearest of 2^bits levels from low to high; the gradient passes straight through.

    Args:
        x: entries between low and high.
        low, high, bits: numbers, or tensors that broadcast against x.
    """
    _is_float(bits)  # refuses what makes no grid
    return _Nearest.apply(x, low, high, bits)


def stochastic(x: Tensor, bits: Bits, generators: Generators = None) -> Tensor:
    """Round x up or down to one of 2^bits levels over its range, so that the mean over many draws is x.

    Args:
        x: any shape; with a leading axis K where bits is a tensor. Not differentiable.
        bits: an int, or ``[K]``, or ``[K, n]``.
        generators: one, or one a model: models with equal generators get equal noise, whoever runs beside them.
            None is torch's default generator, and so is any on a GPU.
    """
    if _is_float(bits, x):
        return x
    if isinstance(generators, Sequence) and len(generators) != len(x):
        raise WorkbenchError(f"{len(generators)} generators for {len(x)} models: give one a model")

    def up_or_down(level: Tensor) -> Tensor:
        _add_noise(level, generators)
        return level.floor_()

    return _round(x.contiguous(), *_range_and_bits(x, bits), up_or_down, WIDER)


def _range_and_bits(x: Tensor, bits: Bits) -> tuple[Tensor | float, Tensor | float, Bits]:
    """Range of x and its bits as numbers, or, where bits is a tensor, range of every model and bits as columns."""
    if isinstance(bits, Tensor):
        return *span(x, 1), _columns(bits, x)
    return *span(x), bits


def quantize_weight(w: Tensor, bits: Bits) -> Tensor:
    """Nearest level over the range of each output channel: ``[out, ...]``, or ``[K, out, ...]`` with bits ``[K]``."""
    if _is_float(bits, w):
        return w
    if isinstance(bits, Tensor):
        return nearest(w, *span(w, 2), _columns(bits, w))
    return nearest(w, *span(w, 1), bits)


def quantize_activation(x: Tensor, bits: Bits) -> Tensor:
    """Nearest level over the range of the batch; ``[K, n, ...]`` with bits ``[K]`` or ``[K, n]``."""
    return x if _is_float(bits, x) else nearest(x, *_range_and_bits(x, bits))


def quantize_error(y: Tensor, bits: Bits, generators: Generators = None) -> Tensor:
    """y itself; its gradient, on the way back, is rounded by `stochastic` over the batch's range."""
    return y if _is_float(bits, y) else _Error.apply(y, bits, generators)


# --- layers and whole models ---------------------------------------------------------------------------------


class _Quantized:
    """What a layer needs beside its weights; a model's layers get it from `quantize`."""

    bits: int
    error_bits: int
    momentum: float
    generator: torch.Generator | None

    def start(self, bits: int, error_bits: int, momentum: float, generator: torch.Generator | None) -> None:
        """Set the precision, and forget the running range."""
        self.bits, self.error_bits, self.momentum, self.generator = bits, error_bits, momentum, generator
        for name in ("low", "high", "batches"):
            self.register_buffer(name, self.weight.new_zeros(()))

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Quantised input and weight. Training stores the range of x, evaluation uses what was stored."""
        if _is_float(self.bits):
            return x, self.weight
        if x.numel() == 0:
            raise WorkbenchError(f"an input of shape {list(x.shape)} is empty: a quantised layer needs its range")
        if self.training:
            low, high = x.detach().aminmax()
            newest = self.batches.add_(1).reciprocal().clamp_(min=self.momentum)  # to begin with, a plain mean
            self.low.lerp_(low, newest)
            self.high.lerp_(high, newest)
        elif self.batches:
            low, high = self.low, self.high
            x = x.clamp(low, high)
        else:
            raise WorkbenchError("a quantised layer has seen no input: train, or call reestimate before evaluating")
        return nearest(x, _number(low), _number(high), self.bits), quantize_weight(self.weight, self.bits)


class QuantConv2d(_Quantized, nn.Conv2d):
    """`nn.Conv2d` with quantised weights, inputs and errors; input ``[n, C, H, W]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve quantised operands."""
        y = self._conv_forward(*self.operands(x), self.bias)
        return quantize_error(y, self.error_bits, self.generator)


class QuantLinear(_Quantized, nn.Linear):
    """`nn.Linear` with quantised weights, inputs and errors; input ``[..., in]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply quantised operands."""
        return quantize_error(F.linear(*self.operands(x), self.bias), self.error_bits, self.generator)


TWINS: dict[type, type] = {nn.Conv2d: QuantConv2d, nn.Linear: QuantLinear}


def quantize(
    model: nn.Module,
    kinds: Sequence[type] = (nn.Conv2d,),
    *,
    bits: int = 8,
    error_bits: int = 8,
    momentum: float = 0.1,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A copy whose layers of the given kinds are quantised.

    Args:
        model: any torch model. Its parameters, their sharing, hooks and mode are copied.
        kinds: `nn.Conv2d` (as in both papers: BatchNorm and the last linear layer stay float32), `nn.Linear`.
        bits: of weights and inputs.
        error_bits: of the errors.
        momentum: weight of the newest batch in the running input range (CPT's code 0.1, FracTrain's 0.9).
        generator: of the stochastic rounding; None is torch's default generator.

    Raises:
        WorkbenchError: another kind, no layer of that kind, a momentum outside 0 to 1, or a torch layer that passes
            its linear layers by.
    """
    check_number("momentum", momentum, 0, 1)
    if unknown := [kind.__name__ for kind in kinds if kind not in TWINS]:
        raise WorkbenchError(f"cannot quantise {', '.join(unknown)}: choose from Conv2d, Linear")
    twin = copy.deepcopy(model)
    layers = [module for module in twin.modules() if type(module) in kinds]
    if not layers:
        raise WorkbenchError(f"the model has no {' or '.join(kind.__name__ for kind in kinds)} to quantise")
    for module in twin.modules():
        if nn.Linear in kinds and isinstance(module, nn.RNNBase | nn.MultiheadAttention):
            raise WorkbenchError(f"{type(module).__name__} hides its matrix products: write it with nn.Linear")
    for layer in layers:  # a new class for the same object keeps shared layers, tied weights and hooks
        layer.__class__ = TWINS[type(layer)]
        layer.start(bits, error_bits, momentum, generator)
    set_bits(twin, bits, error_bits)
    return twin


def _layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, _Quantized)]


def dequantize(twin: nn.Module) -> nn.Module:
    """A plain torch copy of a quantised model, with its float32 master weights."""
    model = copy.deepcopy(twin)
    for layer in _layers(model):
        layer.__class__ = next(plain for plain, quantized in TWINS.items() if type(layer) is quantized)
        for name in ("low", "high", "batches", "bits", "error_bits", "momentum", "generator"):
            delattr(layer, name)
    return model


def set_bits(model: nn.Module, forward: int, backward: int) -> None:
    """Precision from the next step on: of weights and inputs, and of errors, in all quantised layers of the model.

    Raises:
        WorkbenchError: fewer than 1 bit, or a model without quantised layers.
    """
    layers = _layers(model)
    if not layers:
        raise WorkbenchError("the model has no quantised layer: convert it with quantize() first")
    for bits in (forward, backward):
        _is_float(bits)  # refuses less than 1
    for layer in layers:
        layer.bits, layer.error_bits = forward, backward


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """BatchNorm statistics and input ranges anew, as plain means over the batches, at the precision now set.

    Running statistics mix the precisions of a schedule; measured at 3-8 bits that costs points of accuracy. Call
    it before every evaluation, for every arm.

    Raises:
        WorkbenchError: no batch.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise WorkbenchError("reestimate got no batch: give it an iterable that is not used up")
    modes = {module: module.training for module in model.modules()}
    norms = [module for module in modes if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    layers = _layers(model)
    momenta = {module: module.momentum for module in (*norms, *layers)}
    model.eval()  # dropout stays off
    for module in momenta:
        module.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's sign for a plain mean
    for layer in layers:
        layer.batches.zero_()
        layer.momentum = 0.0
    try:
        for batch in itertools.chain([first], batches):
            model(batch)
    finally:
        for module, training in modes.items():
            module.training = training
        for module, momentum in momenta.items():
            module.momentum = momentum
