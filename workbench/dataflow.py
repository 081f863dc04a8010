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

import math
from collections.abc import Mapping as Dict
from dataclasses import dataclass, field
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from workbench import WorkbenchError, check_number
from workbench.cost import Operations

DIMS = "NGKCYXRS"
RELEVANT = {"weights": "GKCRS", "inputs": "NGCYXRS", "outputs": "NGKYX"}
WRITTEN = {"forward": "outputs", "dx": "inputs", "dw": "weights"}
"""The operand that a product of training sums into; the other two are read. All three are the same nest."""

Number = float | Tensor
LARGEST = 2.0**53
"""Counts are float64, which holds every whole number up to here."""


@dataclass(frozen=True)
class Layer:
    """A convolution, or with Y = X = R = S = 1 a matrix product ``[N, C] x [C, K]``; numbers or tensors that broadcast.

    Padding counts as part of the input; `hardware.layers` cuts a dilated convolution into dense ones.

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
        stride: of both directions, or a pair: of rows and of columns.
        product: ``forward`` (Y = W X), ``dx`` (W G) or ``dw`` (G X), which sum into outputs, inputs, weights.
        arithmetic: operations at each of the nest's points: a MAC, an adder's 2 additions, a shift and an addition.
        density: share of the weights that are there at all, a number, as in a sparse matrix. The rest costs nothing;
            the others move as the dense nest says, but no operand more often than once an entry.
        weight_zeros: share of the weights that are zero, whose work a machine may gate.
        input_zeros: the same of the inputs.
        output_zeros: the same of the outputs once their activation has been applied.
        weight_bits: of a weight.
        input_bits: of an input.
        output_bits: of an output, or in training of its error.
        weight_store: bits that a weight takes outside the array, if not ``weight_bits`` (compressed weights).
        rebuild: shift-and-add pairs that rebuild a weight before it enters the array (SmartDeal).
    """

    name: str = field(default="", compare=False)  # layers of one shape cost the same
    N: Number = 1
    G: Number = 1
    K: Number = 1
    C: Number = 1
    Y: Number = 1
    X: Number = 1
    R: Number = 1
    S: Number = 1
    stride: Number | tuple[Number, Number] = 1
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
        """Refuse what is no layer, and more points than float64 can count."""
        if self.product not in WRITTEN:
            raise WorkbenchError(f"product must be one of {', '.join(WRITTEN)}; got {self.product!r}")
        of = f"of layer {self.name!r}"
        for d in DIMS:
            check_number(f"{d} {of}", getattr(self, d), 1, whole=True)
        if isinstance(self.stride, tuple) and len(self.stride) != 2:
            raise WorkbenchError(f"stride {of} must be a number, or two: of rows and of columns; got {self.stride}")
        for stride in self.strides.values():
            check_number(f"stride {of}", stride, 1, whole=True)
        for bits in ("weight_bits", "input_bits", "output_bits"):
            check_number(f"{bits} {of}", getattr(self, bits), 1)
        for share in ("density", "weight_zeros", "input_zeros", "output_zeros"):
            check_number(f"{share} {of}", getattr(self, share), 0, 1)
        check_number(f"rebuild {of}", self.rebuild, 0)
        if self.weight_store is not None:
            check_number(f"weight_store {of}", self.weight_store, 0)
        check_number(f"the number of MACs {of}", self.macs, 1, LARGEST)

    @property
    def strides(self) -> dict[str, Number]:
        """Of kernel rows and of kernel columns."""
        down, across = self.stride if isinstance(self.stride, tuple) else (self.stride, self.stride)
        return {"R": down, "S": across}

    @property
    def label(self) -> str:
        """The name, or the sizes of a layer that has none."""
        sizes = " ".join(f"{d}={getattr(self, d)}" for d in DIMS)
        return repr(self.name) if self.name else " ".join(sizes.split())  # in one line, tensors too

    @property
    def macs(self) -> Number:
        """Points of the nest, those of absent weights among them."""
        return math.prod(number(getattr(self, d)) for d in DIMS)

    @property
    def volumes(self) -> dict[str, Number]:
        """Elements of each operand; of the inputs those that a kernel reaches, which strides may pass by."""
        size = {d: number(getattr(self, d)) for d in DIMS}
        rows, columns = (
            _extent(_Sum(1.0, size[out]), _Sum(1.0, size[kernel], least(number(stride), size[kernel])))
            for (kernel, stride), out in zip(self.strides.items(), "YX", strict=True)
        )
        return {
            "weights": math.prod(size[d] for d in RELEVANT["weights"]),
            "inputs": size["N"] * size["G"] * size["C"] * rows * columns,
            "outputs": math.prod(size[d] for d in RELEVANT["outputs"]),
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
        for part in ("tile", "spatial", "register"):
            for d, size in getattr(self, part).items():
                if d not in DIMS:
                    raise WorkbenchError(f"{part} must give sizes of some of {DIMS}; got {d!r}")
                check_number(f"{part} of {d}", size, 1, whole=True)
        check_number("fill", self.fill, 0)


@dataclass(frozen=True)
class Traffic:
    """Elements moved, by operand: loads of a tile, or of the operand that is summed the visits of its partial sums.

    ``dram``: between DRAM and buffer (or, past it, the array); ``buffer``: between buffer and array, each element once
    however many PEs take it; ``network``: what arrives at the PEs, or leaves them. A summed operand is written so
    often, and read back so often but once an element.

    ``cycles`` of the PEs, one point of the nest each a cycle, without fill; ``iterations``: tiles of the array;
    ``active``: PEs at work in a full tile; ``held``, ``private``: elements in the buffer, and in a PE's registers.
    """

    dram: dict[str, Number]
    buffer: dict[str, Number]
    network: dict[str, Number]
    cycles: Number
    iterations: Number
    active: Number
    held: dict[str, Number]
    private: dict[str, Number]


def number(x: Number) -> Number:
    """A float, or a float64 tensor: numbers that are the same in all design points cost no tensor operation."""
    return x.double() if isinstance(x, Tensor) else float(x)


def least(a: Number, b: Number) -> Number:
    """The smaller one, of numbers and tensors."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.minimum(a, b)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a.clamp(max=b) if isinstance(a, Tensor) else b.clamp(max=a)
    return min(a, b)


def largest(a: Number, b: Number) -> Number:
    """The larger one."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.maximum(a, b)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a.clamp(min=b) if isinstance(a, Tensor) else b.clamp(min=a)
    return max(a, b)


def pieces(x: Number, size: Number) -> Number:
    """How many pieces of a size it takes: x / size rounded up, exactly."""
    if not isinstance(x, Tensor) and not isinstance(size, Tensor):
        return float(math.ceil(x / size))
    if not isinstance(x, Tensor):  # float / tensor would multiply by the reciprocal: 273 * (1 / 91) is above 3
        x = torch.tensor(x, dtype=torch.float64)
    return x if isinstance(size, float) and size == 1 else torch.ceil(x / size)


def times(a: Number, b: Number) -> Number:
    """Their product; a whole tensor operation is saved where one is 0 or 1 for all design points."""
    for x, other in ((a, b), (b, a)):
        if not isinstance(x, Tensor) and x in (0, 1):
            return other if x else 0.0
    return a * b


def _plus(a: Number, b: Number) -> Number:
    for x, other in ((a, b), (b, a)):
        if not isinstance(x, Tensor) and x == 0:
            return other
    return a + b


def _chosen(condition: Tensor | bool, yes: Number, no: Number) -> Number:
    return torch.where(condition, yes, no) if isinstance(condition, Tensor) else yes if condition else no


class _Sum(NamedTuple):
    """Over tiles: how many, their sizes, their ``min(stride, size)``; and of the PEs' parts of them, all but sizes."""

    tiles: Number
    sizes: Number
    steps: Number = 0.0
    parts: Number = 0.0
    part_steps: Number = 0.0

    def times(self, many: Number) -> _Sum:
        return _Sum(*(times(many, x) for x in self))

    def plus(self, other: _Sum) -> _Sum:
        return _Sum(*(_plus(a, b) for a, b in zip(self, other, strict=True)))

    def minus(self, other: _Sum) -> _Sum:
        return _Sum(*(a if isinstance(b, float) and b == 0 else a - b for a, b in zip(self, other, strict=True)))


class _Dim:
    """One dimension, cut three times: tiles of the buffer, of the array, of a PE.

    The buffer's tiles are of two kinds, full ones and the last; each is cut into the array's tiles, again all full but
    the last. ``all``: sums over the array's tiles; ``several``: over those of buffer tiles that have more than one;
    ``one``: over the others.
    """

    def __init__(self, d: str, layer: Layer, mapping: Mapping) -> None:
        whole, stride = number(getattr(layer, d)), number(layer.strides.get(d, 1))
        spatial = number(mapping.spatial.get(d, 1))
        self.outer, self.inner = d in mapping.dram, d in mapping.buffer
        self.tile = least(number(mapping.tile.get(d, 1)), whole) if self.outer else whole
        if self.inner:
            self.part = least(number(mapping.register.get(d, 1)), self.tile)
            self.array = least(spatial * self.part, self.tile)
        else:
            self.part, self.array = pieces(self.tile, spatial), self.tile
        self.tiles = pieces(whole, self.tile) if self.outer else 1.0
        self.full = pieces(self.array, self.part)  # PEs of a full tile
        last = whole - (self.tiles - 1) * self.tile
        kinds = [(self.tiles - 1, self.tile), (1.0, last)] if self.outer else [(1.0, whole)]
        self.of_buffer = _Sum(self.tiles, whole)
        self.copies = (self.tiles - 1) * self.full + pieces(least(self.array, last), self.part)
        if d in "RS":
            steps = (self.tiles - 1) * least(stride, self.tile) + least(stride, last)
            self.of_buffer = _Sum(self.tiles, whole, steps)

        self.all, self.several, self.cycles = _Sum(0.0, 0.0), _Sum(0.0, 0.0), 0.0
        for many, size in kinds:
            count = pieces(size, self.array) if self.inner else 1.0
            end = size - (count - 1) * self.array if self.inner else size
            end_parts = pieces(end, self.part)
            found = _Sum(count, size, parts=_plus(times(count - 1, self.full), end_parts))
            if d in "RS":

                def steps(size: Number, parts: Number) -> Number:
                    return (parts - 1) * least(stride, self.part) + least(stride, size - (parts - 1) * self.part)

                found = found._replace(
                    steps=_plus(times(count - 1, least(stride, self.array)), least(stride, end)),
                    part_steps=_plus(times(count - 1, steps(self.array, self.full)), steps(end, end_parts)),
                )
            found = found.times(many)
            self.all = self.all.plus(found)
            busy = _plus(times(count - 1, self.part), least(self.part, end))
            self.cycles = _plus(self.cycles, times(many, busy))
            if self.inner:
                self.several = self.several.plus(found.times(_chosen(count > 1, 1.0, 0.0)))
        self.all = self.all._replace(sizes=whole)
        self.one = self.all.minus(self.several) if self.inner else self.all

    def repeats(self, how: str) -> tuple[Number, Number]:
        """Loads of an operand that lacks this dimension, and its copies in PEs, if both loops over it repeat them, only
        the ``outer``, or ``none``."""
        if how == "both":
            return self.all.tiles, self.all.parts
        return (self.tiles, self.copies) if how == "outer" else (1.0, self.full)


def _extent(out: _Sum, kernel: _Sum, parts: bool = False) -> Number:
    """Input rows under tiles of output rows and kernel rows: (y - 1) min(stride, r) + r, summed over all pairs."""
    tiles, steps = (out.parts, kernel.part_steps) if parts else (out.tiles, kernel.steps)
    return _plus(times(out.sizes - tiles, steps), times(tiles, kernel.sizes))


def _elements(operand: str, sums: dict[str, _Sum]) -> tuple[Number, Number]:
    """Elements of an operand over all tiles, each once, and once for each PE that holds it."""
    unique = 1.0
    for d in RELEVANT[operand]:
        if operand != "inputs" or d in "NGC":
            unique = times(unique, sums[d].sizes)
    if operand != "inputs":
        return unique, unique
    pairs = (sums["Y"], sums["R"]), (sums["X"], sums["S"])
    once, each = unique, unique
    for out, kernel in pairs:
        once, each = times(once, _extent(out, kernel)), times(each, _extent(out, kernel, parts=True))
    return once, each


def _into_buffer(operand: str, dims: dict[str, _Dim], mapping: Mapping) -> Number:
    elements, _ = _elements(operand, {d: dims[d].of_buffer for d in RELEVANT[operand]})
    moved: Tensor | bool = False
    for d in reversed(mapping.dram):
        if d in RELEVANT[operand]:
            moved = moved | (dims[d].tiles > 1)
        else:
            elements = times(elements, _chosen(moved, dims[d].tiles, 1.0))
    return elements


def _into_array(operand: str, dims: dict[str, _Dim], mapping: Mapping) -> tuple[Number, Number]:
    """Loads of the array and arrivals at PEs.

    Whether a loop inside runs more than once depends on which tile of the buffer this is: the last one of a dimension
    may be a single tile of the array where the others are several. So the tiles are summed in classes: by the innermost
    loop of the operand that does run more than once.
    """
    mine = {d: dims[d].all for d in RELEVANT[operand]}
    others = [d for d in DIMS if d not in mine]

    def term(sums: dict[str, _Sum], repeating: dict[str, str]) -> tuple[Number, Number]:
        once, each = _elements(operand, sums)
        for d in others:
            loads, copies = dims[d].repeats(repeating[d])
            once, each = times(once, loads), times(each, copies)
        return once, each

    if operand in mapping.streamed:
        return term(mine, dict.fromkeys(others, "both"))
    total, arrivals = 0.0, 0.0
    for place in reversed(range(len(mapping.buffer))):
        d = mapping.buffer[place]
        if d in mine:
            outside = mapping.buffer[:place]
            repeating = {other: "both" if other in outside else "outer" for other in others}
            once, each = term({**mine, d: dims[d].several}, repeating)
            total, arrivals = _plus(total, once), _plus(arrivals, each)
            mine[d] = dims[d].one
    once, each = _elements(operand, mine)  # nothing in the buffer moves this operand
    moved: Tensor | bool = False
    for d in reversed(mapping.dram):
        if d in mine:
            moved = moved | (dims[d].tiles > 1)
        else:
            once = times(once, _chosen(moved, dims[d].tiles, 1.0))
            each = times(each, _chosen(moved, dims[d].copies, dims[d].full))
    for d in others:
        if d not in mapping.dram:
            each = times(each, dims[d].full)
    return _plus(total, once), _plus(arrivals, each)


def traffic(layer: Layer, mapping: Mapping) -> Traffic:
    """Elements that each level moves, cycles, and what must fit: exact, as no count exceeds the layer's points."""
    dims = {d: _Dim(d, layer, mapping) for d in DIMS}
    dram, buffer, network, held, private = {}, {}, {}, {}, {}
    for operand, mine in RELEVANT.items():
        buffer[operand], network[operand] = _into_array(operand, dims, mapping)
        strides = {d: number(stride) for d, stride in layer.strides.items()}
        tile = {d: _Sum(1.0, dims[d].tile, least(strides.get(d, 1.0), dims[d].tile)) for d in mine}
        dram[operand], held[operand] = _into_buffer(operand, dims, mapping), _elements(operand, tile)[0]
        if operand in mapping.bypass:
            dram[operand], buffer[operand], held[operand] = buffer[operand], 0.0, 0.0
        # Positions (N, Y, X) pass through a PE one after the other, and so does what is streamed.
        kept = "" if operand in mapping.streamed else "GKCRS"
        private[operand] = reduce(times, [dims[d].part for d in mine if d in kept], 1.0)
    totals = zip(*((dim.cycles, dim.all.tiles, dim.full) for dim in dims.values()), strict=True)
    cycles, iterations, active = (reduce(times, numbers) for numbers in totals)
    return Traffic(dram, buffer, network, cycles, iterations, active, held, private)
