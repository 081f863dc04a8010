"""ShiftAddNet: a convolution becomes a shift layer and then an adder layer.

You, Chen, Zhang, Li, Li, Liu, Wang, Lin: "ShiftAddNet: A Hardware-Inspired Deep Network", NeurIPS 2020.

The unit is shift, adder, BatchNorm, ReLU, with nothing between shift and adder. The shift layer has the convolution's
stride and changes the width; the adder layer behind it goes from that width to itself. So a ShiftAddNet has about twice
the weights and operations of the network that it replaces. BatchNorm still multiplies, once an activation, and cannot
be folded into an adder layer, whose response is not linear in its weights.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from workbench import WorkbenchError
from workbench.papers.shiftaddnet.adder import Adder2d
from workbench.papers.shiftaddnet.shift import FixedShift2d, ShiftPS2d, ShiftQ2d


class Convolution(nn.Conv2d):
    """The layer with multiplications, without a bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, bias=False)


LAYERS = {"mult": Convolution, "shift-Q": ShiftQ2d, "shift-PS": ShiftPS2d, "fixed": FixedShift2d, "add": Adder2d}
KINDS = (*(kind for kind in LAYERS if kind != "fixed"), "shift-Q+add", "shift-PS+add", "fixed+add")
"""What may stand in place of a convolution."""


def layers(kind: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """The one or two weight layers in place of a padded convolution.

    Raises:
        WorkbenchError: for another kind than `KINDS`.
    """
    if kind not in KINDS:
        raise WorkbenchError(f"there is no layer {kind!r}: choose one of {', '.join(KINDS)}")
    first, *adder = kind.split("+")
    found = [LAYERS[first](inputs, outputs, kernel, stride, kernel // 2)]
    return found + [Adder2d(outputs, outputs, kernel, 1, kernel // 2) for _ in adder]


def edge(kind: str) -> str:
    """What stem and classifier are made of: AdderNet and the fixed variant keep multiplications there, and where
    shifts are trained they are shifts alone."""
    first = kind.split("+")[0]
    return "mult" if first in ("add", "fixed") else first


def convert(model: nn.Module, kind: str) -> nn.Module:
    """Replace every convolution of a network, in place; the first is its stem. Linear layers stay, as in the code."""
    convolutions = [name for name, module in model.named_modules() if type(module) is nn.Conv2d]
    for at, name in enumerate(convolutions):
        conv = model.get_submodule(name)
        size = conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0]
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, nn.Sequential(*layers(kind if at else edge(kind), *size)))
    return model


def unit(kind: str, inputs: int, outputs: int, stride: int = 1, batch_norm: bool = True) -> nn.Sequential:
    """3x3 weight layers, BatchNorm, ReLU: ``[n, inputs, h, w]`` to ``[n, outputs, h / stride, w / stride]``."""
    norm = [nn.BatchNorm2d(outputs)] if batch_norm else []
    return nn.Sequential(*layers(kind, inputs, outputs, 3, stride), *norm, nn.ReLU())


class SmallNet(nn.Sequential):
    """Stem, two units of the kind in question, average pooling, 1x1 classifier, BatchNorm over the classes.

    Args:
        kind: one of `KINDS`.
        width: channels of stem and first unit; the second has twice as many, at half the resolution.
        channels: of the images.
        classes: number of outputs.
        batch_norm: False leaves it out of the units: an ablation.
    """

    def __init__(self, kind: str, width: int, channels: int = 1, classes: int = 10, batch_norm: bool = True) -> None:
        units = [unit(kind, width, width, 1, batch_norm), unit(kind, width, 2 * width, 2, batch_norm)]
        classifier = layers(edge(kind), 2 * width, classes, 1)
        head = [nn.AdaptiveAvgPool2d(1), *classifier, nn.BatchNorm2d(classes), nn.Flatten()]
        parts = {
            "stem": unit(edge(kind), channels, width),
            "hidden": nn.Sequential(*units),
            "head": nn.Sequential(*head),
        }
        super().__init__(OrderedDict(parts))
        self.kind = kind
