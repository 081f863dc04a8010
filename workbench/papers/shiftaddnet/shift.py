"""Shift layers: convolutions whose weights are zero or a signed power of two, so that a product is a shift of bits.

ShiftAddNet section 3.1, after DeepShift (Elhoushi et al. 2019). Here the powers of two are float32 numbers, and torch
convolves them: exact, but no shift instruction runs. Inputs are fixed point, so that integers and ``>>`` would give the
same sums. Left out of the released code: 16-bit stochastic rounding of the errors of shift layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import check_choice, check_number
from workbench.cost import Operations


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def straight(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """``function(x)``, whose gradient reaches x as it is."""
    return _Straight.apply(x, function)


class _Signed(torch.autograd.Function):
    """Power times sign. The sign's gradient leaves out the power, so that it is no smaller where the weight is small
    (and reaches weights whose sign is 0): so in the released code."""

    @staticmethod
    def forward(ctx: Any, power: Tensor, sign: Tensor) -> Tensor:
        ctx.save_for_backward(sign)
        return power * sign

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (sign,) = ctx.saved_tensors
        return grad * sign, grad


def fixed_point(x: Tensor) -> Tensor:
    """Down to a multiple of 2^-16, clamped to 32 bits: what a shift register can hold. Straight-through gradient."""
    return straight(x, lambda x: (x * 2**16).floor_().mul_(2**-16).clamp_(-(2**15), 2**15 - 1))


def round_power(w: Tensor, low: int, domain: str = "log") -> Tensor:
    """The nearest of 0 and the signed powers of two from 2^low to 1; only 0 becomes 0.

    Args:
        w: any shape.
        low: least exponent.
        domain: where "nearest" is measured: on exponents ("log", boundary sqrt(2) 2^k, shift layers) or on the numbers
            themselves ("linear", boundary 1.5 2^k, SmartDeal).
    """
    check_choice("domain", domain, ("log", "linear"))
    check_number("low", low, -126, 0, whole=True)
    size = w.abs()
    exponent = size.log2().round() if domain == "log" else (size / 1.5).log2().floor() + 1
    return w.sign() * torch.exp2(exponent.clamp(low, 0))


class _Shift2d(nn.Conv2d):
    """What shift layers share; ``bits`` of a weight are a sign and the exponent. `weights` gives what they are."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, bits: int = 5
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, bias=False)
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs, h, w]`` to ``[n, outputs, h', w']``."""
        return F.conv2d(fixed_point(x), self.weights(), None, self.stride, self.padding)

    def training_operations(self, x: Tensor, out: Tensor) -> tuple[Operations, Operations, Operations]:
        """Of forward, dX and dW: a shift and an addition for a MAC, but dW = G X is a product of two activations."""
        macs = float(out.numel() * self.in_channels * self.kernel_size[0] * self.kernel_size[1])
        shifts = Operations(adds=macs, shifts=macs)
        return shifts, shifts, Operations(multiplies=macs, adds=macs)


class ShiftQ2d(_Shift2d):
    """DeepShift-Q: one float tensor, rounded to the nearest power of two in the log domain; straight-through."""

    @property
    def low(self) -> int:
        """The least exponent; the largest is 0."""
        return -(2 ** (self.bits - 1)) + 1

    def weights(self) -> Tensor:
        """``[outputs, inputs, k, k]``, zero or powers of two; moves the stored weights into their range, as the code
        does."""
        with torch.no_grad():
            self.weight.copy_(self.weight.sign() * self.weight.abs().clamp_(2.0**self.low, 1))
        return straight(self.weight, lambda w: round_power(w, self.low))


class ShiftPS2d(_Shift2d):
    """DeepShift-PS, which ShiftAddNet uses: exponent ``shift`` and ``sign`` are trained, two tensors a layer.

    At the start the exponents are uniform over their range, and half of the signs round to 0. The released code stores
    the rounded values after every epoch (`snap`), so that what did not cross a boundary within it is lost.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, bits: int = 5
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, bits)
        self.shift = nn.Parameter(torch.empty_like(self.weight).uniform_(self.low, 0))
        self.sign = nn.Parameter(torch.empty_like(self.weight).uniform_(-1, 1))
        del self.weight

    @property
    def low(self) -> int:
        """The least exponent; the largest is 0."""
        return -(2 ** (self.bits - 1)) + 2

    def weights(self) -> Tensor:
        """``[outputs, inputs, k, k]``, zero or powers of two; clamps the stored exponents, as the code does."""
        with torch.no_grad():
            self.shift.clamp_(self.low, 0)
        power = torch.exp2(straight(self.shift, torch.round))
        return _Signed.apply(power, straight(self.sign, lambda s: s.round().sign_()))

    @torch.no_grad()
    def snap(self) -> None:
        """Round what is stored."""
        self.shift.round_()
        self.sign.round_().sign_()


class FixedShift2d(ShiftQ2d):
    """The variant whose shifts are drawn once and never trained (section 4.3): exponents N(-3.5, 1), rounded, in -7..0,
    half of the weights 0."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, bits=4)
        exponent = torch.randn_like(self.weight).sub_(3.5).clamp_(self.low, 0).round_()
        sign = torch.empty_like(self.weight).uniform_(-1, 1).round_()
        self.weight = nn.Parameter(sign * torch.exp2(exponent), requires_grad=False)
