"""An accelerator: what an operation and a bit moved cost, and what a layer then costs on it.

Unit energies stand in data/published/unit_energies.csv, each with where it was read and whether it was read there at
all. Memory energies are per bit there, because tables mix words of 32 and of 64 bits. From two points of each we take
scaling laws: a multiplier grows with both of its widths, an adder and a shifter with theirs, an SRAM with the square
root of its capacity. They miss the 32-bit entries by 3, 20 and 26 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cache, reduce
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from workbench import ROOT, WorkbenchError, check_number
from workbench.cost import Operations
from workbench.dataflow import RELEVANT, WRITTEN, Layer, Mapping, Number, largest, least, pieces, times, traffic

# --- unit energies -----------------------------------------------------------------------------------------------


@cache
def unit_energies() -> pd.DataFrame:
    """The table of unit energies: pJ an operation, and for ``sram`` and ``dram`` pJ a bit.

    Columns: platform, op and format (the index), pj, node_nm, access_bits, capacity_kb, source, verified, note.
    """
    table = pd.read_csv(ROOT / "data" / "published" / "unit_energies.csv", index_col=["platform", "op", "format"])
    return table.astype({"verified": bool}).sort_index()


@cache
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
    check_number("an SRAM's capacity in KB", kilobytes, 0, above=True)
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
        register: pJ a bit, of weights, inputs and partial sums.
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
    register: tuple[Number, Number, Number]
    network: Number
    buffer: Number
    dram: Number
    scalable: bool = True
    gating: bool = True
    run_length: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no accelerator."""
        of = f"of the accelerator {self.name!r}"
        for size in ("rows", "columns"):
            check_number(f"{size} {of}", getattr(self, size), 1, whole=True)
        for bits in ("accumulator_bits", "native_bits"):
            check_number(f"{bits} {of}", getattr(self, bits), 1)
        for some in ("buffer_bits", "buffer_bandwidth", "dram_bandwidth", "megahertz"):
            check_number(f"{some} {of}", getattr(self, some), 0, above=True)
        for pj in ("multiply", "add", "shift", "network", "buffer", "dram"):
            check_number(f"{pj} {of}", getattr(self, pj), 0)
        for each in ("register_bits", "register"):
            if not isinstance(values := getattr(self, each), tuple) or len(values) != 3:
                raise WorkbenchError(f"{each} {of} must be three: of weights, inputs, partial sums; got {values!r}")
            for value in values:
                check_number(f"{each} {of}", value, 0)


def generic(rows: Number = 16, columns: Number = 16, buffer_kb: Number = 128, **changes: Any) -> Accelerator:
    """A 45 nm accelerator of our own making, out of Horowitz's energies and the laws of this module.

    Registers of 384, 64 and 64 bytes a PE follow the SRAM law, a delivery costs two accesses of 512 bytes (ratio and
    size are Eyeriss'), DRAM is the cheaper of Horowitz's two. Bandwidths and frequency are our choice. ``changes``
    replace fields of the result.
    """
    check_number("buffer_kb", buffer_kb, 0, above=True)
    if unknown := set(changes) - (known := {field.name for field in fields(Accelerator)}):
        names = ", ".join(sorted(unknown))
        raise WorkbenchError(f"an accelerator has no {names}: choose from {', '.join(sorted(known))}")
    registers = 384, 64, 64
    plain = Accelerator(
        name="generic 45 nm",
        rows=rows,
        columns=columns,
        register_bits=tuple(8 * size for size in registers),
        buffer_bits=8 * 1024 * buffer_kb,
        accumulator_bits=24,
        native_bits=8,
        buffer_bandwidth=512,
        dram_bandwidth=64,
        megahertz=200,
        multiply=unit_energy("multiply", "FIX8"),
        add=unit_energy("add", "FIX8"),
        shift=unit_energy("shift", "FIX8"),
        register=tuple(sram_energy(size / 1024) for size in registers),
        network=2 * sram_energy(0.5),
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
        register=(mac / word,) * 3,
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
    ``utilisation``: the share of the PEs' cycles that do work; ``fits``: into the buffer, the registers, the array.
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


def check_machine(layer: Any, accelerator: Any) -> None:
    """Refuse a layer and an accelerator that are none (a name, say)."""
    if not isinstance(layer, Layer):
        raise WorkbenchError(
            f"a layer must be a `Layer`, as `hardware.layers` finds them, not a {type(layer).__name__}"
        )
    if not isinstance(accelerator, Accelerator):
        kind = type(accelerator).__name__
        raise WorkbenchError(f"accelerator must be an `Accelerator` such as generic() or eyeriss(), not a {kind}")


def evaluate(layer: Layer, mapping: Mapping, accelerator: Accelerator) -> Cost:
    """Energy and cycles of a layer whose loop nest is cut as ``mapping`` says.

    Partial sums move at the accumulator's width, results at ``output_bits`` (the gradient of weights at the
    accumulator's). Every point of the nest reads both factors and reads and writes a partial sum in the registers.
    Smooth in bits, zeros and energies, so tensors of these may carry gradients.
    """
    check_machine(layer, accelerator)
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
    for operand, register in zip(RELEVANT, a.register, strict=True):
        share, past = layer.density if operand == "weights" else 1.0, operand in mapping.bypass
        dram, buffer, network, volume = (
            times(share, kind[operand]) for kind in (moved.dram, moved.buffer, moved.network, volumes)
        )
        if layer.density != 1:  # no entry fetches an operand twice
            dram, buffer, network = (least(kind, largest(points, volume)) for kind in (dram, buffer, network))
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
        unit = {"register file": register, "network": a.network, "buffer": a.buffer, "DRAM": a.dram}
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
    cycles = reduce(largest, waits, compute)
    width = stored | {written: a.accumulator_bits}
    held = sum((layer.density if o == "weights" else 1.0) * moved.held[o] * width[o] for o in RELEVANT)
    width = bits | {written: a.accumulator_bits}
    fits = (held <= a.buffer_bits) & (moved.active <= pes)
    for operand, room in zip(RELEVANT, a.register_bits, strict=True):
        fits = fits & (moved.private[operand] * width[operand] <= room)
    return Cost(accesses, pj, cycles, points * slower / (pes * cycles), fits)


def _arithmetic(work: Operations, first: Number, second: Number, a: Accelerator) -> tuple[Number, Number]:
    """pJ of one point of the nest, and its cycles.

    One addition goes to the accumulator, any other is as wide as the wider factor. Of 2-bit bricks (Bit Fusion), a
    product takes as many as both widths need together; a fixed multiplier takes several turns for wider factors.
    """
    unit = 2 if a.scalable else a.native_bits
    if not a.scalable:
        first, second = largest(first, a.native_bits), largest(second, a.native_bits)
    wider = largest(first, second)
    pj = work.multiplies * a.multiply * first * second / 64 + min(work.adds, 1) * a.add * a.accumulator_bits / 8
    pj = pj + (max(work.adds - 1, 0) * a.add + work.shifts * a.shift + work.comparisons * a.add) * wider / 8
    if work.multiplies:
        return pj, pieces(first, unit) * pieces(second, unit) / (a.native_bits / unit) ** 2
    return pj, pieces(wider, unit) / (a.native_bits / unit)


def _run_length(bits: Number, zeros: Number) -> Number:
    """Share of the bits left by run-length coding: three pairs of a run (5 bits) and a value in 3 (bits + 5) + 1."""
    return 1 - torch.relu(torch.as_tensor(1 - (1 - zeros) * (bits + 5 + 1 / 3) / bits, dtype=torch.float64))
