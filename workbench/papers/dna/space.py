"""The networks that may be chosen: slots in a row, each with a few operators to choose from.

One description serves training and hardware: an operator is a list of convolutions (`Conv`), from which `nets` builds
modules and `layers` makes the loop nests of `workbench.dataflow`. Operators are written as in the paper's FBNet-like
space: ``ir3x6`` is an inverted residual with a 3x3 depthwise convolution and expansion 6, ``ir3x1g2`` one whose 1x1
convolutions have two groups (without FBNet's shuffle); besides ``conv3``, ``conv1``, ``sep3`` (depthwise and 1x1) and
``skip``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from workbench import WorkbenchError
from workbench.dataflow import Layer


class Conv(NamedTuple):
    """A convolution with batch normalisation, and with ReLU where ``active``."""

    kernel: int
    inputs: int
    outputs: int
    stride: int = 1
    groups: int = 1
    active: bool = True

    @property
    def depthwise(self) -> bool:
        """One channel a group?"""
        return self.groups == self.inputs > 1


def convolutions(operator: str, inputs: int, outputs: int, stride: int = 1) -> list[Conv]:
    """What an operator computes; `WorkbenchError` for a name that is none, or a skip that would change the shape."""
    if operator == "skip":
        if (inputs, stride) != (outputs, 1):
            raise WorkbenchError("a skip changes no shape: leave it out of this slot's operators")
        return []
    if found := re.fullmatch(r"conv(\d)", operator):
        return [Conv(int(found[1]), inputs, outputs, stride)]
    if found := re.fullmatch(r"sep(\d)", operator):
        return [Conv(int(found[1]), inputs, inputs, stride, inputs), Conv(1, inputs, outputs)]
    if found := re.fullmatch(r"ir(\d)x(\d)(?:g(\d))?", operator):
        kernel, wide, groups = int(found[1]), int(found[2]) * inputs, int(found[3] or 1)
        return [
            Conv(1, inputs, wide, groups=groups),
            Conv(kernel, wide, wide, stride, wide),
            Conv(1, wide, outputs, groups=groups, active=False),
        ]
    raise WorkbenchError(f"no operator {operator!r}: write conv3, conv1, sep3, ir3x6, ir3x1g2 or skip")


@dataclass(frozen=True)
class Slot:
    """A place in the network: channels in and out, stride, rows (and columns) of its output, operators to choose."""

    inputs: int
    outputs: int
    size: int
    operators: tuple[str, ...]
    stride: int = 1

    def layers(self, operator: str) -> list[Layer]:
        """The operator's loop nests here; an input is read at the size that the stride asks for."""
        found = []
        for conv in convolutions(operator, self.inputs, self.outputs, self.stride):
            before_stride = conv.stride == 1 and self.stride > 1 and not found
            rows = self.size * self.stride if before_stride else self.size
            found.append(
                Layer(
                    operator,
                    G=conv.groups,
                    K=conv.outputs // conv.groups,
                    C=conv.inputs // conv.groups,
                    Y=rows,
                    X=rows,
                    R=conv.kernel,
                    S=conv.kernel,
                    stride=conv.stride,
                )
            )
        return found


@dataclass(frozen=True)
class Networks:
    """A space of networks: slots, then average pooling and a linear layer. A design is an index a *free* slot."""

    slots: tuple[Slot, ...]
    classes: int = 10

    @cached_property
    def free(self) -> list[int]:
        """Slots where there is something to choose."""
        return [at for at, slot in enumerate(self.slots) if len(slot.operators) > 1]

    @property
    def choices(self) -> list[int]:
        """Operators of each free slot."""
        return [len(self.slots[at].operators) for at in self.free]

    @property
    def count(self) -> int:
        """How many networks there are."""
        return math.prod(self.choices)

    def operators(self, design: Sequence[int]) -> list[str]:
        """The operator of every slot."""
        if len(design) != len(self.free):
            raise WorkbenchError(f"a design has {len(self.free)} choices, one a free slot; got {len(design)}")
        chosen = [slot.operators[0] for slot in self.slots]
        for at, choice in zip(self.free, design, strict=True):
            chosen[at] = self.slots[at].operators[choice]
        return chosen

    def head(self) -> Layer:
        """The linear layer."""
        return Layer("head", K=self.classes, C=self.slots[-1].outputs)

    def layers(self, design: Sequence[int]) -> list[Layer]:
        """All loop nests of one image."""
        chosen = zip(self.slots, self.operators(design), strict=True)
        return [layer for slot, operator in chosen for layer in slot.layers(operator)] + [self.head()]

    def macs(self, design: Sequence[int]) -> float:
        """MACs of an image."""
        return sum(layer.macs for layer in self.layers(design))

    def designs(self) -> Tensor:
        """All of them, ``[count, free slots]``, the last slot fastest."""
        return torch.cartesian_prod(*(torch.arange(n) for n in self.choices))

    def scaled(self, width: int, size: int, image: int) -> Networks:
        """The same topology with more channels, on larger images of ``image`` channels."""
        slots = [
            replace(slot, inputs=slot.inputs * width, outputs=slot.outputs * width, size=slot.size * size)
            for slot in self.slots
        ]
        slots[0] = replace(slots[0], inputs=image)
        return Networks(tuple(slots), self.classes)


SMALL = ("conv3", "sep3", "conv1", "skip")


def digits(narrow: int = 8) -> Networks:
    """256 networks for 8x8 digits: four slots of four operators, half of them after a stride."""
    wide = 2 * narrow
    return Networks(
        (
            Slot(1, narrow, 8, ("conv3",)),
            Slot(narrow, narrow, 8, SMALL),
            Slot(narrow, narrow, 8, SMALL),
            Slot(narrow, wide, 4, ("conv3",), 2),
            Slot(wide, wide, 4, SMALL),
            Slot(wide, wide, 4, SMALL),
        )
    )


FBNET = ("ir3x1", "ir3x1g2", "ir3x3", "ir3x6", "ir5x1", "ir5x1g2", "ir5x3", "ir5x6", "skip")


def fbnet(
    depths: Sequence[int] = (1, 4, 4, 4, 4, 4, 1),
    widths: Sequence[int] = (16, 24, 32, 64, 112, 184, 352),
    strides: Sequence[int] = (1, 1, 2, 2, 1, 2, 1),
    image: int = 32,
    stem: int = 16,
    operators: Sequence[str] = FBNET,
) -> Networks:
    """The FBNet-like space of the released code on CIFAR: 22 slots, 9 operators (no skip where the shape changes)."""
    slots, inputs, size = [Slot(3, stem, image, ("conv3",))], stem, image
    for depth, width, stride in zip(depths, widths, strides, strict=True):
        for place in range(depth):
            step = stride if place == 0 else 1
            size //= step
            keeps = step == 1 and inputs == width
            slots.append(Slot(inputs, width, size, tuple(o for o in operators if keeps or o != "skip"), step))
            inputs = width
    return Networks(tuple(slots))
