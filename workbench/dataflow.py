"""How often a loop nest moves each number: a layer, the tiles it is cut into, and the traffic that follows.

A layer is eight loops (batch N, groups G, filters K, channels C of a group, output rows Y and columns X, kernel rows R
and columns S) around one multiply-accumulate. Three operands are indexed by some of them; a loop that an operand is not
indexed by leaves it where it is, and that is all there is to a dataflow:

    for ... in dram order:          # tiles that the buffer holds
        for ... in buffer order:    # tiles that the array of processing elements (PEs) holds
            PEs side by side, each:
                for ... : multiply-accumulate

An operand is loaded anew when one of its own loops moves on. So an irrelevant loop repeats the loads of an operand if,
and only if, a loop of that operand runs more than once inside. Edges count at their true size, inputs overlap by their
halos, and tests walk random nests step by step to the same integers.

Sizes may be tensors that broadcast: a tensor of tile sizes is that many design points in one call.
"""

from __future__ import annotations

from collections.abc import Mapping as Dict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workbench import WorkbenchError
from workbench.cost import Operations

DIMS = "NGKCYXRS"
RELEVANT = {"weights": "GKCRS", "inputs": "NGCYXRS", "outputs": "NGKYX"}
WRITTEN = {"forward": "outputs", "dx": "inputs", "dw": "weights"}
"""The operand that a product of training sums into; the other two are read. All three are the same nest."""

Number = float | Tensor


@dataclass(frozen=True)
class Layer:
    """A convolution, or with Y = X = R = S = 1 a matrix product ``[N, C] x [C, K]``; numbers or tensors that broadcast.

    Padding counts as part of the input, and a dilated kernel as a dense one.

    Args:
        name: of the layer in its model.
        N: batch.
        G: groups; K and C are filters and channels of one group.
        K: filters.
        C: channels.
        Y: output rows.
        X: output columns.
        R: kernel rows.
        S: kernel columns.
        stride: of both directions.
        product: ``forward`` (Y = W X), ``dx`` (W G) or ``dw`` (G X), which sum into outputs, inputs, weights.
        arithmetic: operations at each of the nest's points: a MAC, an adder's 2 additions, a shift and an addition.
        density: share of the weights that are there at all, as in a sparse matrix: the rest costs nothing.
        weight_zeros: share of the weights that are zero, whose work a machine may gate.
        input_zeros: the same of the inputs.
        output_zeros: the same of the outputs once their activation has been applied.
        weight_bits: of a weight.
        input_bits: of an input.
        output_bits: of an output, or in training of its error.
        weight_store: bits that a weight takes outside the array, if not ``weight_bits`` (compressed weights).
        rebuild: shift-and-add pairs that rebuild a weight before it enters the array (SmartDeal).
    """

    name: str = ""
    N: Number = 1
    G: Number = 1
    K: Number = 1
    C: Number = 1
    Y: Number = 1
    X: Number = 1
    R: Number = 1
    S: Number = 1
    stride: Number = 1
    product: str = "forward"
    arithmetic: Operations = Operations(1, 1)  # noqa: RUF009
    density: Number = 1.0
    weight_zeros: Number = 0.0
    input_zeros: Number = 0.0
    output_zeros: Number = 0.0
    weight_bits: Number = 8
    input_bits: Number = 8
    output_bits: Number = 8
    weight_store: Number | None = None
    rebuild: Number = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no layer."""
        if self.product not in WRITTEN:
            raise WorkbenchError(f"product must be one of {', '.join(WRITTEN)}; got {self.product!r}")
        for name in (*DIMS, "stride", "weight_bits", "input_bits", "output_bits"):
            if bool(torch.as_tensor(getattr(self, name) < 1).any()):
                raise WorkbenchError(f"{name} of layer {self.name!r} must be at least 1; got {getattr(self, name)}")

    @property
    def macs(self) -> Number:
        """Points of the nest, those of absent weights among them."""
        return self.N * self.G * self.K * self.C * self.Y * self.X * self.R * self.S

    @property
    def volumes(self) -> dict[str, Number]:
        """Elements of each operand."""
        rows, columns = (
            (out - 1) * _least(self.stride, kernel) + kernel for out, kernel in ((self.Y, self.R), (self.X, self.S))
        )
        return {
            "weights": self.G * self.K * self.C * self.R * self.S,
            "inputs": self.N * self.G * self.C * rows * columns,
            "outputs": self.N * self.G * self.K * self.Y * self.X,
        }


@dataclass(frozen=True)
class Mapping:
    """How the nest is cut: orders of loops, outermost first, and sizes of tiles by dimension, 1 or more.

    Args:
        dram: loops over tiles of the buffer; a dimension without one is held whole.
        buffer: loops over tiles of the array; a dimension without one is held as the buffer has it.
        tile: sizes in the buffer, of the loops in ``dram``.
        spatial: over how many PEs a dimension is spread.
        register: how much of it each PE takes, of the loops in ``buffer`` (elsewhere its share of the tile).
        streamed: operands that the array cannot hold: they are loaded at every step, whichever loop moves on.
        bypass: operands that go from DRAM to the array and back past the buffer.
        fill: cycles to fill and drain the array, a tile of the array (systolic arrays).
    """

    dram: str = ""
    buffer: str = ""
    tile: Dict[str, Number] = field(default_factory=dict)
    spatial: Dict[str, Number] = field(default_factory=dict)
    register: Dict[str, Number] = field(default_factory=dict)
    streamed: tuple[str, ...] = ()
    bypass: tuple[str, ...] = ()
    fill: Number = 0

    def __post_init__(self) -> None:
        """Refuse what is no loop nest."""
        for loops in (self.dram, self.buffer):
            if len(set(loops)) < len(loops) or set(loops) - set(DIMS):
                raise WorkbenchError(f"loops must be some of {DIMS}, each once; got {loops!r}")
        for operand in (*self.streamed, *self.bypass):
            if operand not in RELEVANT:
                raise WorkbenchError(f"no operand {operand!r}: choose from {', '.join(RELEVANT)}")


@dataclass(frozen=True)
class Traffic:
    """Elements moved, by operand: loads of a tile, or of the operand that is summed the visits of its partial sums.

    ``dram``: between DRAM and buffer (or, past it, the array); ``buffer``: between buffer and array, each element once
    however many PEs take it; ``network``: what arrives at the PEs, or leaves them. A summed operand is written so
    often, and read back so often but once an element.

    ``cycles`` of the PEs, one operation each a cycle; ``iterations``: tiles of the array; ``active``: PEs at work in a
    full tile; ``held``, ``private``: elements in the buffer at a time, and in the registers of a PE.
    """

    dram: dict[str, Tensor]
    buffer: dict[str, Tensor]
    network: dict[str, Tensor]
    cycles: Tensor
    iterations: Tensor
    active: Tensor
    held: dict[str, Tensor]
    private: dict[str, Tensor]


def _least(a: Number, b: Number) -> Tensor:
    return torch.minimum(_number(a), _number(b))


def _number(x: Number) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


def _parts(x: Tensor, size: Tensor) -> Tensor:
    return torch.ceil(x / size)


@dataclass(frozen=True)
class _Sum:
    """Of a dimension's tiles: how many, their sizes, their ``min(stride, size)``; of the PEs' parts of them likewise."""

    tiles: Number = 0.0
    sizes: Number = 0.0
    steps: Number = 0.0
    parts: Number = 0.0
    part_steps: Number = 0.0


class _Dim:
    """One dimension, cut three times: tiles of the buffer, of the array, of a PE."""

    def __init__(self, d: str, layer: Layer, mapping: Mapping) -> None:
        one = _number(1)
        self.whole, self.stride, self.kernel = _number(getattr(layer, d)), _number(layer.stride), d in "RS"
        spatial = _number(mapping.spatial.get(d, 1))
        self.outer, self.inner = d in mapping.dram, d in mapping.buffer
        self.tile = torch.minimum(_number(mapping.tile.get(d, 1)), self.whole) if self.outer else self.whole
        if self.inner:
            self.part = torch.minimum(_number(mapping.register.get(d, 1)), self.tile)
            self.array = torch.minimum(spatial * self.part, self.tile)
        else:
            self.part, self.array = _parts(self.tile, spatial), self.tile
        self.tiles = _parts(self.whole, self.tile) if self.outer else one
        self.rest = self.whole - (self.tiles - 1) * self.tile if self.outer else self.whole  # the last tile
        self.groups: list[
            tuple[Number, Tensor, Any]
        ] = []  # how many tiles of the array, of which size, one of several?
        for many, size in ((self.tiles - 1, self.tile), (one, self.rest)) if self.outer else ((one, self.whole),):
            if self.inner:
                steps = _parts(size, self.array)
                several = steps > 1
                self.groups += [(many * (steps - 1), self.array, several)]
                self.groups += [(many, size - (steps - 1) * self.array, several)]
            else:
                self.groups += [(many, size, None)]
        self.known: dict[str, _Sum] = {}

    def sum(self, which: str = "all") -> _Sum:
        """Over the tiles of the array: all, or those whose buffer tile has ``several`` of them, or just ``one``."""
        if which not in self.known:
            total = _Sum()
            for many, size, several in self.groups:
                if which != "all":
                    many = many * (several if which == "several" else ~several)
                parts = _parts(size, self.part)
                last = size - (parts - 1) * self.part
                steps, part_steps = 0.0, 0.0
                if self.kernel:
                    steps = many * torch.minimum(self.stride, size)
                    part_steps = (parts - 1) * torch.minimum(self.stride, self.part) + torch.minimum(self.stride, last)
                    part_steps = many * part_steps
                total = _Sum(
                    total.tiles + many,
                    total.sizes + many * size,
                    total.steps + steps,
                    total.parts + many * parts,
                    total.part_steps + part_steps,
                )
            self.known[which] = total
        return self.known[which]

    def outer_sum(self) -> _Sum:
        """Over the tiles of the buffer."""
        least = torch.minimum(self.stride, self.tile), torch.minimum(self.stride, self.rest)
        return _Sum(self.tiles, self.whole, (self.tiles - 1) * least[0] + least[1])

    def repeats(self, how: str) -> tuple[Number, Number]:
        """Loads of an operand without this dimension, and copies of it in PEs, when ``both``, ``outer`` or no loops
        repeat it."""
        if how == "both":
            total = self.sum()
            return total.tiles, total.parts
        full = _parts(self.array, self.part)
        if how == "none":
            return 1.0, full
        return self.tiles, (self.tiles - 1) * full + _parts(torch.minimum(self.array, self.rest), self.part)

    @property
    def cycles(self) -> Tensor:
        """Steps of the busiest PE."""
        return sum(many * torch.minimum(self.part, size) for many, size, _ in self.groups)


def _extent(out: _Sum, kernel: _Sum, parts: bool = False) -> Number:
    """Input rows under tiles of output rows and kernel rows: (y - 1) min(stride, r) + r, summed over all pairs."""
    tiles, steps = (out.parts, kernel.part_steps) if parts else (out.tiles, kernel.steps)
    return (out.sizes - tiles) * steps + tiles * kernel.sizes


def _elements(operand: str, sums: dict[str, _Sum]) -> tuple[Number, Number]:
    """Elements of an operand over all tiles, each once, and once for each PE that holds it."""
    unique = 1.0
    for d in RELEVANT[operand]:
        if operand != "inputs" or d in "NGC":
            unique = unique * sums[d].sizes
    if operand != "inputs":
        return unique, unique
    pairs = (sums["Y"], sums["R"]), (sums["X"], sums["S"])
    once, each = unique, unique
    for out, kernel in pairs:
        once, each = once * _extent(out, kernel), each * _extent(out, kernel, parts=True)
    return once, each


def _into_buffer(operand: str, dims: dict[str, _Dim], mapping: Mapping) -> Tensor:
    elements, _ = _elements(operand, {d: dims[d].outer_sum() for d in RELEVANT[operand]})
    moved = torch.tensor(False)
    for d in reversed(mapping.dram):
        if d in RELEVANT[operand]:
            moved = moved | (dims[d].tiles > 1)
        else:
            elements = elements * torch.where(moved, dims[d].tiles, 1.0)
    return elements


def _into_array(operand: str, dims: dict[str, _Dim], mapping: Mapping) -> tuple[Tensor, Tensor]:
    """Loads of the array and arrivals at PEs.

    Whether a loop inside runs more than once depends on which tile of the buffer this is: the last one of a dimension
    may be a single tile of the array where the others are several. So the tiles are summed in classes: by the innermost
    loop of the operand that does run more than once.
    """
    mine = RELEVANT[operand]
    others = [d for d in DIMS if d not in mine]

    def term(classes: dict[str, str], repeating: dict[str, str]) -> tuple[Number, Number]:
        once, each = _elements(operand, {d: dims[d].sum(classes.get(d, "all")) for d in mine})
        for d in others:
            loads, copies = dims[d].repeats(repeating[d])
            once, each = once * loads, each * copies
        return once, each

    if operand in mapping.streamed:
        return term({}, dict.fromkeys(others, "both"))
    total, arrivals, classes = 0.0, 0.0, {}
    for place in reversed(range(len(mapping.buffer))):
        d = mapping.buffer[place]
        if d in mine:
            outside = mapping.buffer[:place]
            repeating = {other: "both" if other in outside else "outer" for other in others}
            once, each = term({**classes, d: "several"}, repeating)
            total, arrivals, classes = total + once, arrivals + each, {**classes, d: "one"}
    once, each = _elements(operand, {d: dims[d].sum(classes.get(d, "all")) for d in mine})
    moved = torch.tensor(False)
    for d in reversed(mapping.dram):
        if d in mine:
            moved = moved | (dims[d].tiles > 1)
        else:
            (loads, copies), (_, still) = dims[d].repeats("outer"), dims[d].repeats("none")
            once, each = once * torch.where(moved, loads, 1.0), each * torch.where(moved, copies, still)
    for d in others:
        if d not in mapping.dram:
            each = each * dims[d].repeats("none")[1]
    return total + once, arrivals + each


def traffic(layer: Layer, mapping: Mapping) -> Traffic:
    """Elements that each level moves, cycles, and what must fit; all float64 tensors of exact integers (to 2^53)."""
    dims = {d: _Dim(d, layer, mapping) for d in DIMS}
    into_buffer, into_array, arrivals = {}, {}, {}
    for operand in RELEVANT:
        into_array[operand], arrivals[operand] = _into_array(operand, dims, mapping)
        into_buffer[operand] = (
            into_array[operand] if operand in mapping.bypass else _into_buffer(operand, dims, mapping)
        )
        if operand in mapping.bypass:
            into_array[operand] = torch.zeros_like(into_array[operand])
    cycles, iterations, active = _number(1), _number(1), _number(1)
    for dim in dims.values():
        cycles, iterations = cycles * dim.cycles, iterations * dim.sum().tiles
        active = active * _parts(dim.array, dim.part)
    held, private = {}, {}
    for operand in RELEVANT:
        one = {d: _Sum(1.0, dims[d].tile, torch.minimum(dims[d].stride, dims[d].tile)) for d in DIMS}
        held[operand] = _elements(operand, one)[0] * (operand not in mapping.bypass)
        # Positions (N, Y, X) pass through a PE one after the other: it holds one window, one partial sum a filter.
        private[operand] = _number(1)
        for d in RELEVANT[operand]:
            if d in "GKCRS":
                private[operand] = private[operand] * dims[d].part
    cycles = cycles + mapping.fill * iterations
    return Traffic(into_buffer, into_array, arrivals, cycles, iterations, active, held, private)
