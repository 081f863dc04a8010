"""What hardware makes of a network: energy by level of the memory and by operand, cycles, utilisation.

`breakdown` is the one call: it takes any torch model and returns where its energy goes. Behind it stand layers (read off
the model by `cost.record`), an `Accelerator`, and a dataflow, whose tiles are chosen by trying all of a grid at once.

Left out: normalisation, activations and pooling, control, clock, leakage, and idle PEs. Zero padding is moved like any
input.

Unit energies stand in data/published/unit_energies.csv, each with where it was read and whether it was read there at
all. Memory energies are per bit there, because tables mix words of 32 and of 64 bits. From two points of each we take
scaling laws: a multiplier grows with both of its widths, an adder and a shifter with theirs, an SRAM with the square
root of its capacity. They miss the 32-bit entries by 3, 20 and 26 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn

from workbench import ROOT, WorkbenchError
from workbench.cost import Event, Operations, record
from workbench.dataflow import RELEVANT, WRITTEN, Layer, Mapping, Number, traffic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from workbench.explorer import Explorer

LEVELS = ("compute", "register file", "network", "buffer", "DRAM")
OPERANDS = ("weights", "inputs", "outputs", "arithmetic")
DATAFLOWS = ("row", "weight", "output", "input")
"""What stays in place while the rest moves past it: rows (Eyeriss), weights, outputs, inputs."""


# --- unit energies -----------------------------------------------------------------------------------------------


@cache
def unit_energies() -> pd.DataFrame:
    """The table of unit energies: pJ an operation, and for ``sram`` and ``dram`` pJ a bit.

    Columns: platform, op and format (the index), pj, node_nm, access_bits, capacity_kb, source, verified, note.
    """
    table = pd.read_csv(ROOT / "data" / "published" / "unit_energies.csv", index_col=["platform", "op", "format"])
    return table.astype({"verified": bool}).sort_index()


def unit_energy(op: str, format: str, platform: str = "asic45") -> float:
    """Energy of one operation in pJ (of one bit moved, for ``sram`` and ``dram``).

    Args:
        op: ``multiply``, ``add``, ``shift``; ``sram``, ``dram``.
        format: ``FP32``, ``FIX32``, ``FIX16``, ``FIX8``; of a memory, which one.
        platform: ``asic45`` (45 nm), ``fpga_zc706``, ``smartexchange28``.

    Raises:
        WorkbenchError: no such entry; it names those that there are.
    """
    table = unit_energies()
    if (platform, op, format) not in table.index:
        known = ", ".join(" ".join(key) for key in table.index)
        raise WorkbenchError(f"no energy of {platform} {op} {format}: choose from {known}")
    return float(table.loc[(platform, op, format), "pj"])


def sram_energy(kilobytes: Number) -> Number:
    """pJ a bit of a 45 nm SRAM: the 8 KB one of Horowitz, growing with the square root of the capacity."""
    return unit_energy("sram", "8 KB") * (kilobytes / 8) ** 0.5


# --- accelerators ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accelerator:
    """An array of processing elements (PEs) with registers, a buffer and DRAM; numbers or tensors that broadcast.

    Args:
        name: for titles.
        rows: of the array.
        columns: of the array.
        register_bits: of a PE, for weights, inputs and partial sums.
        buffer_bits: capacity of the buffer.
        accumulator_bits: width of partial sums.
        native_bits: width of the multipliers.
        buffer_bandwidth: bits a cycle.
        dram_bandwidth: bits a cycle.
        megahertz: of the array.
        multiply: pJ of an 8 x 8-bit multiplication.
        add: pJ of an 8-bit addition.
        shift: pJ of an 8-bit shift.
        register: pJ a bit.
        network: pJ a bit delivered to a PE.
        buffer: pJ a bit.
        dram: pJ a bit.
        scalable: multipliers are made of 2-bit bricks, so that fewer bits are faster and cheaper (Bit Fusion); without,
            less than ``native_bits`` saves traffic only.
        gating: a MAC with a zero operand costs nothing, but its cycle.
        run_length: activations are run-length coded in DRAM (Eyeriss: 5 bits a run).
        source: where the numbers are from.
    """

    name: str
    rows: Number
    columns: Number
    register_bits: tuple[Number, Number, Number]
    buffer_bits: Number
    accumulator_bits: Number
    native_bits: Number
    buffer_bandwidth: Number
    dram_bandwidth: Number
    megahertz: float
    multiply: Number
    add: Number
    shift: Number
    register: Number
    network: Number
    buffer: Number
    dram: Number
    scalable: bool = True
    gating: bool = True
    run_length: bool = False
    source: str = ""


def generic(rows: Number = 16, columns: Number = 16, buffer_kb: Number = 128, **changes: Any) -> Accelerator:
    """A 45 nm accelerator of our own making, out of Horowitz's energies and the laws of this module.

    Its registers (512 bytes a PE) follow the SRAM law, a delivery costs two register accesses (Eyeriss' ratio), DRAM is
    the cheaper of Horowitz's two. Bandwidths and frequency are our choice. ``changes`` replace fields of the result.
    """
    register = sram_energy(0.5)
    plain = Accelerator(
        name="generic 45 nm",
        rows=rows,
        columns=columns,
        register_bits=(8 * 384, 8 * 64, 8 * 64),
        buffer_bits=8 * 1024 * buffer_kb,
        accumulator_bits=24,
        native_bits=8,
        buffer_bandwidth=512,
        dram_bandwidth=64,
        megahertz=200,
        multiply=unit_energy("multiply", "FIX8"),
        add=unit_energy("add", "FIX8"),
        shift=unit_energy("shift", "FIX8"),
        register=register,
        network=2 * register,
        buffer=sram_energy(buffer_kb),
        dram=unit_energy("dram", "low"),
        source="Horowitz (ISSCC 2014), scaled; see data/published/unit_energies.csv",
    )
    return replace(plain, **changes)


def eyeriss() -> Accelerator:
    """Eyeriss (Chen et al., JSSC 2017): 168 PEs, 108 KB, 16 bits, 200 MHz, the energy ratios 1 : 1 : 2 : 6 : 200.

    The paper gives energies relative to a MAC; for pJ we take a 16-bit MAC of `generic`, so only ratios mean something.
    The buffer's 8 words a cycle were fitted to its processing times on VGG16.
    """
    mac = 4 * unit_energy("multiply", "FIX8") + 2 * unit_energy("add", "FIX8")
    word = 16
    return Accelerator(
        name="Eyeriss",
        rows=12,
        columns=14,
        register_bits=(8 * 448, 8 * 24, 8 * 48),
        buffer_bits=8 * 1024 * 108,
        accumulator_bits=word,
        native_bits=word,
        buffer_bandwidth=8 * word,
        dram_bandwidth=math.inf,
        megahertz=200,
        multiply=unit_energy("multiply", "FIX8"),
        add=unit_energy("add", "FIX8"),
        shift=unit_energy("shift", "FIX8"),
        register=mac / word,
        network=2 * mac / word,
        buffer=6 * mac / word,
        dram=200 * mac / word,
        scalable=False,
        run_length=True,
        source="Chen et al. (ISCA 2016, JSSC 2017); see data/published/eyeriss.csv",
    )


# --- one layer on one accelerator --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What a layer costs, by (level, operand): numbers or tensors of design points.

    ``accesses`` in elements (operations, at the level ``compute``), ``pj``; ``cycles`` with the memories' bandwidth;
    ``utilisation``: the share of the PEs' cycles that do work; ``fits``: does it fit the buffer, the registers, the array?
    """

    accesses: dict[tuple[str, str], Number]
    pj: dict[tuple[str, str], Number]
    cycles: Number
    utilisation: Number
    fits: Tensor | bool

    @property
    def total(self) -> Number:
        """All energy, pJ."""
        return sum(self.pj.values())


def evaluate(layer: Layer, mapping: Mapping, accelerator: Accelerator) -> Cost:
    """Energy and cycles of a layer whose loop nest is cut as ``mapping`` says.

    Partial sums move at the accumulator's width, results at ``output_bits`` (the gradient of weights at the
    accumulator's). Every point of the nest reads both factors and reads and writes a partial sum in the registers.
    Smooth in bits, zeros and energies, so tensors of these may carry gradients.
    """
    moved, written, a = traffic(layer, mapping), WRITTEN[layer.product], accelerator
    volumes = layer.volumes
    bits = {"weights": layer.weight_bits, "inputs": layer.input_bits, "outputs": layer.output_bits}
    zeros = {"weights": layer.weight_zeros, "inputs": layer.input_zeros, "outputs": layer.output_zeros}
    first, second = (bits[o] for o in RELEVANT if o != written)
    stored = bits | {"weights": layer.weight_bits if layer.weight_store is None else layer.weight_store}
    result = a.accumulator_bits if written == "weights" else layer.output_bits
    points = layer.macs * layer.density
    if a.gating:
        factors = [o for o in ("weights", "inputs") if o != written]
        work = points * math.prod(1 - zeros[o] for o in factors)
    else:
        work = points

    accesses, pj = {}, {}
    arithmetic, slower = _arithmetic(layer.arithmetic, first, second, a)
    accesses["compute", "arithmetic"] = work * sum(layer.arithmetic)
    pj["compute", "arithmetic"] = work * arithmetic
    traffic_bits = {"buffer": 0.0, "DRAM": 0.0}
    for operand in RELEVANT:
        share = layer.density if operand == "weights" else 1.0
        dram, buffer, network = (share * kind[operand] for kind in (moved.dram, moved.buffer, moved.network))
        volume, past = share * volumes[operand], operand in mapping.bypass
        squeezed = _run_length(bits[operand], zeros[operand]) if a.run_length and operand != "weights" else 1.0
        if operand == written:
            partial, last = 2 * (dram - volume) * a.accumulator_bits, volume * result * squeezed
            counts = {"DRAM": (2 * dram - volume, partial + last)}
            if not past:  # the array's side and DRAM's side of the buffer
                both = 2 * buffer + 2 * dram - 2 * volume
                counts["buffer"] = both, (both - 2 * volume) * a.accumulator_bits + 2 * volume * result
            counts["network"] = network, network * a.accumulator_bits
            counts["register file"] = 2 * work, 2 * work * a.accumulator_bits
        else:
            counts = {"DRAM": (dram, dram * stored[operand] * squeezed)}
            if not past:
                counts["buffer"] = buffer + dram, (buffer + dram) * stored[operand]
            counts["network"] = network, network * bits[operand]
            counts["register file"] = work + network, (work + network) * bits[operand]
        unit = {"register file": a.register, "network": a.network, "buffer": a.buffer, "DRAM": a.dram}
        for level, (count, moved_bits) in counts.items():
            accesses[level, operand], pj[level, operand] = count, moved_bits * unit[level]
            if level in traffic_bits:
                traffic_bits[level] = traffic_bits[level] + moved_bits
    if not (isinstance(layer.rebuild, int | float) and layer.rebuild == 0):
        loads = layer.density * (moved.dram if "weights" in mapping.bypass else moved.buffer)["weights"]
        pair = (a.shift + a.add) * layer.weight_bits / 8
        accesses["compute", "weights"] = loads * layer.rebuild * 2
        pj["compute", "weights"] = loads * layer.rebuild * pair

    pes, fill = a.rows * a.columns, mapping.fill * moved.iterations
    compute = moved.cycles * layer.density * slower + fill
    waits = [traffic_bits["buffer"] / a.buffer_bandwidth, traffic_bits["DRAM"] / a.dram_bandwidth]
    cycles = reduce(_largest, waits, compute)
    width = stored | {written: a.accumulator_bits}
    held = sum((layer.density if o == "weights" else 1.0) * moved.held[o] * width[o] for o in RELEVANT)
    width = bits | {written: a.accumulator_bits}
    fits = (held <= a.buffer_bits) & (moved.active <= pes)
    for operand, room in zip(("weights", "inputs", "outputs"), a.register_bits, strict=True):
        fits = fits & (moved.private[operand] * width[operand] <= room)
    return Cost(accesses, pj, cycles, points * slower / (pes * cycles), fits)


def _largest(a: Number, b: Number) -> Number:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.maximum(torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64))
    return max(a, b)


def _up(x: Number) -> Number:
    return torch.ceil(x) if isinstance(x, Tensor) else math.ceil(x)


def _arithmetic(work: Operations, first: Number, second: Number, a: Accelerator) -> tuple[Number, Number]:
    """pJ of one point of the nest, and its cycles.

    One addition goes to the accumulator, any other is as wide as the wider factor. Of 2-bit bricks (Bit Fusion), a
    product takes as many as both widths need together; a fixed multiplier takes several turns for wider factors.
    """
    unit = 2 if a.scalable else a.native_bits
    if not a.scalable:
        first, second = _largest(first, a.native_bits), _largest(second, a.native_bits)
    wider = _largest(first, second)
    pj = work.multiplies * a.multiply * first * second / 64 + min(work.adds, 1) * a.add * a.accumulator_bits / 8
    pj = pj + (max(work.adds - 1, 0) * a.add + work.shifts * a.shift + work.comparisons * a.add) * wider / 8
    if work.multiplies:
        return pj, _up(first / unit) * _up(second / unit) / (a.native_bits / unit) ** 2
    return pj, _up(wider / unit) / (a.native_bits / unit)


def _run_length(bits: Number, zeros: Number) -> Number:
    """Share of the bits left by run-length coding: three pairs of a run (5 bits) and a value in 3 (bits + 5) + 1."""
    return 1 - torch.relu(torch.as_tensor(1 - (1 - zeros) * (bits + 5 + 1 / 3) / bits, dtype=torch.float64))


# --- dataflows ---------------------------------------------------------------------------------------------------

ORDERS = ("GKCNY", "GNYCK", "GNYKC")
"""Loops over DRAM's tiles, outermost first: each weight, each input, each output is moved once."""


def mapping(layer: Layer, accelerator: Accelerator, dataflow: str, order: str, tile: dict[str, Number]) -> Mapping:
    """The loop nest of a dataflow; for ``order`` see `ORDERS`, ``tile`` gives sizes of its dimensions in the buffer.

    ``weight``: channels (and kernel) down the array, filters across; positions stream past. ``output``: positions down,
    filters across; weights and inputs stream. ``input``: channels down, positions across; weights and outputs stream.
    ``row`` (Eyeriss): a PE holds a kernel row of some channels and filters, PEs stand for kernel rows and output rows,
    then for filters and channels; inputs stream.
    """
    h, w, sizes = accelerator.rows, accelerator.columns, {**{d: getattr(layer, d) for d in "XRS"}, **tile}

    def spread(dims: str, pes: Number) -> dict[str, Number]:
        found = {}
        for d in dims:
            found[d] = _smallest(sizes[d], pes)
            pes = _down(pes / found[d])
        return found

    if dataflow == "weight":
        spatial, streamed = spread("CRS", h) | spread("KG", w), ("inputs", "outputs")
        return Mapping(order, "GKCRS", tile, spatial, streamed=streamed, fill=2 * h + w - 2)
    if dataflow == "output":
        spatial, streamed = spread("XYN", h) | spread("KG", w), ("weights", "inputs")
        return Mapping(order, "GNYXK", tile, spatial, streamed=streamed, fill=h + w - 2)
    if dataflow == "input":
        spatial, streamed = spread("CRSG", h) | spread("XYN", w), ("weights", "outputs")
        return Mapping(order, "GNYXCRS", tile, spatial, streamed=streamed, fill=2 * h + w - 2)
    if dataflow != "row":
        raise WorkbenchError(f"no dataflow {dataflow!r}: choose from {', '.join(DATAFLOWS)}")
    spatial = spread("RYKCNG", h * w)
    weights, inputs, sums = accelerator.register_bits
    row = layer.S * _up(layer.R / spatial["R"])  # of one channel, in one PE
    channels = _least_of(sizes["C"], weights / (layer.weight_bits * row), inputs / (layer.input_bits * row))
    filters = _least_of(
        sizes["K"] / spatial["K"],
        weights / (layer.weight_bits * row * channels),
        sums / accelerator.accumulator_bits,
    )
    return Mapping(order, "GYCKN", tile, spatial, {"C": channels, "K": filters}, streamed=("inputs",))


def _smallest(a: Number, b: Number) -> Number:
    return -_largest(-a, -b)


def _down(x: Number) -> Number:
    return torch.floor(x) if isinstance(x, Tensor) else math.floor(x)


def _least_of(*bounds: Number) -> Number:
    return _largest(_down(reduce(_smallest, bounds)), 1)


def best(layer: Layer, accelerator: Accelerator, dataflow: str = "row") -> Cost:
    """The cheapest tiling of a grid (sizes 1, 4, 16, ... and all; three orders), by energy.

    The layer's and the accelerator's tensors, if any, end in a dimension of size 1, for the tilings.

    Raises:
        WorkbenchError: no tiling fits, or the dataflow is not known.
    """
    sizes = []
    for d in "NGKCY":
        whole = int(getattr(layer, d))
        sizes.append(torch.tensor([*(4**i for i in range(12) if 4**i < whole), whole], dtype=torch.float64))
    grid = torch.cartesian_prod(*sizes).T
    tile = dict(zip("NGKCY", grid, strict=True))
    costs = [evaluate(layer, mapping(layer, accelerator, dataflow, order, tile), accelerator) for order in ORDERS]

    def flat(values: Sequence[Number]) -> Tensor:
        return torch.cat(
            torch.broadcast_tensors(*(torch.as_tensor(v, dtype=torch.float64) + grid[0] * 0 for v in values)), -1
        )

    energy = flat([c.total for c in costs])
    energy = energy.where(flat([torch.as_tensor(c.fits).double() for c in costs]) > 0, torch.inf)
    found = energy.argmin(-1, keepdim=True)
    if bool(torch.isinf(energy.gather(-1, found)).any()):
        raise WorkbenchError(
            f"layer {layer.name!r} does not fit {accelerator.name} in any tiling: a larger buffer is needed"
        )

    def chosen(values: Sequence[Number]) -> Tensor:
        return flat(values).expand(energy.shape).gather(-1, found)[..., 0]

    return Cost(
        {key: chosen([c.accesses[key] for c in costs]) for key in costs[0].accesses},
        {key: chosen([c.pj[key] for c in costs]) for key in costs[0].pj},
        chosen([c.cycles for c in costs]),
        chosen([c.utilisation for c in costs]),
        True,
    )
