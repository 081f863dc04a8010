"""The accelerators that may be chosen: one or two chunks, each with an array, a dataflow, a buffer and a tile order.

A chunk is a sub-accelerator. Layers are allotted to chunks by a rule, images pass through the chunks as through a
pipeline, so a machine is as fast as its slowest chunk: latency is the *maximum over chunks of the sum over their
layers*, energy sums over everything. Two chunks share the bandwidth of DRAM in halves.

Every layer is priced by `workbench.accelerator.evaluate` with ragged tiles rounded up; sizes of its tiles are the
compiler's: of a grid, those of the least energy times cycles that fit. What a search chooses of tiling is the order of
tiles, which says whose tile stays in the buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from workbench import WorkbenchError
from workbench.accelerator import Accelerator, evaluate, generic, unit_energy
from workbench.dataflow import Layer, Mapping
from workbench.hardware import DATAFLOWS, ORDERS, mapping
from workbench.papers.dna.space import Networks

RULES = ("one chunk", "depthwise apart", "1x1 apart", "late apart")
"""Which layers the second chunk takes: none; depthwise convolutions; 1x1 convolutions; all on small feature maps."""

ARRAYS = tuple(product((4, 8, 16), repeat=2))
BUFFERS = (16, 64, 256)
PE_UM2, BIT_UM2 = 282 + 3 * 36, 0.75
"""45 nm, square micrometres: an 8-bit multiplier and a 24-bit adder; a bit of SRAM with what surrounds it (ours)."""
BRAM_BITS = 36 * 1024


class Design(NamedTuple):
    """A network and its accelerator, as indices: operators of the free slots, a rule, a configuration a chunk."""

    net: tuple[int, ...]
    rule: int
    chunks: tuple[int, int]


@dataclass(frozen=True)
class Template:
    """A space of accelerators under limits.

    Args:
        name: a key.
        title: for figures.
        kind: ``asic`` (area in mm2) or ``fpga`` (DSP slices, one a PE, and block RAMs of 36 kbit, two buffers each).
        limits: of each resource, all chunks together.
        arrays: rows and columns of PEs.
        dataflows: what stays in place.
        buffers: KB.
        orders: of DRAM's tiles, see `workbench.hardware.ORDERS`.
        machine: fields of `workbench.accelerator.generic` that differ.
        side_by_side: may groups of channels stand side by side in the array? In a systolic one they cannot: all its
            columns are fed from the same inputs, so that a depthwise convolution goes channel by channel.
    """

    name: str
    title: str
    kind: str
    limits: dict[str, float]
    arrays: tuple[tuple[int, int], ...] = ARRAYS
    dataflows: tuple[str, ...] = DATAFLOWS
    buffers: tuple[int, ...] = BUFFERS
    orders: tuple[str, ...] = ORDERS
    machine: dict[str, Any] = field(default_factory=dict)
    side_by_side: bool = True

    @property
    def factors(self) -> tuple[int, int, int, int]:
        """How many arrays, dataflows, buffers and orders: the choices of one chunk."""
        return len(self.arrays), len(self.dataflows), len(self.buffers), len(self.orders)

    @cached_property
    def configurations(self) -> list[tuple[tuple[int, int], str, int, str]]:
        """Array, dataflow, buffer and order of each configuration of a chunk, the last fastest."""
        return list(product(self.arrays, self.dataflows, self.buffers, self.orders))

    @property
    def count(self) -> int:
        """Accelerators, those over the limits among them."""
        return len(self.configurations) * (1 + (len(RULES) - 1) * len(self.configurations))

    def resources(self) -> Tensor:
        """Of each configuration, what share of each limit it takes, ``[configurations, resources]``."""
        found = [self._uses(array[0] * array[1], kb) for array, _, kb, _ in self.configurations]
        return torch.tensor([[uses[r] / limit for r, limit in self.limits.items()] for uses in found]).double()

    def _uses(self, pes: int, kb: int) -> dict[str, float]:
        bits = 8 * 1024 * kb
        if self.kind == "asic":
            registers = sum(generic().register_bits)
            return {"mm2": (pes * (PE_UM2 + BIT_UM2 * registers) + BIT_UM2 * bits) / 1e6}
        return {"DSP": pes, "BRAM": 2 * -(-bits // BRAM_BITS)}


ASIC = Template("asic", "ASIC-like", "asic", {"mm2": 2.5})
SYSTOLIC = replace(
    ASIC, name="systolic", title="ASIC-like, systolic", dataflows=("weight", "output"), side_by_side=False
)
FPGA = Template(
    "fpga",
    "FPGA-like",
    "fpga",
    {"DSP": 220, "BRAM": 140},
    machine={f: unit_energy(f, "FIX8", "fpga_zc706") for f in ("multiply", "add", "shift")} | {"dram_bandwidth": 32},
)
"""DSP slices and block RAMs of a Zynq-7020 (the released code has 900 and 700); energies of operations of a ZC706."""
TEMPLATES = {t.name: t for t in (ASIC, SYSTOLIC, FPGA)}


def chunk_of(rule: str, layer: Layer, largest: float) -> int:
    """Which chunk computes a layer; ``largest`` are the rows of the network's largest feature map."""
    if rule not in RULES:
        raise WorkbenchError(f"no rule {rule!r}: choose from {', '.join(RULES)}")
    depthwise = layer.G > 1 and layer.C == 1
    second = {
        "one chunk": False,
        "depthwise apart": depthwise,
        "1x1 apart": layer.R == 1 and not depthwise,
        "late apart": largest / 2 >= layer.Y,
    }
    return int(second[rule])


def _tiles(layer: Layer) -> dict[str, Any]:
    """The compiler's grid: sizes 1, 4, 16, ... and all, of groups, filters, channels and rows."""
    sizes = []
    for d in "GKCY":
        whole = int(getattr(layer, d))
        sizes.append(torch.tensor([*(4**i for i in range(12) if 4**i < whole), whole], dtype=torch.float64))
    return dict(zip("GKCY", torch.cartesian_prod(*sizes).T, strict=True)) | {"N": 1.0}


def _nest(
    layer: Layer, machine: Accelerator, template: Template, dataflow: str, order: str, tile: dict[str, Any]
) -> Mapping:
    nest = mapping(layer, machine, dataflow, order, tile)
    return nest if template.side_by_side else replace(nest, spatial={**nest.spatial, "G": 1})


def itemised(space: Networks, template: Template, design: Design) -> pd.DataFrame:
    """What a design spends, one layer at a time: columns layer, slot, chunk, cycles, utilisation, level, operand, pj.

    Its sums are what `Costs.evaluate` says.
    """
    chosen = enumerate(zip(space.slots, space.operators(design.net), strict=True))
    names = [(place, o) for place, (slot, o) in chosen for _ in slot.layers(o)] + [(len(space.slots), "head")]
    largest, rows = max(slot.size for slot in space.slots), []
    for number, (layer, (place, operator)) in enumerate(zip(space.layers(design.net), names, strict=True)):
        chunk = chunk_of(RULES[design.rule], layer, largest)
        array, dataflow, kb, order = template.configurations[design.chunks[chunk]]
        machine = generic(*array, kb, **template.machine)
        machine = replace(machine, dram_bandwidth=machine.dram_bandwidth / (1 if design.rule == 0 else 2))
        tile = _tiles(layer)
        cost = evaluate(layer, _nest(layer, machine, template, dataflow, order, tile), machine)
        cycles = torch.as_tensor(cost.cycles, dtype=torch.float64)
        product = (cycles * cost.total).where(torch.as_tensor(cost.fits), torch.inf)
        at = int(product.argmin())

        def one(x: Any, at: int = at, shape: torch.Size = product.shape) -> float:
            return float(torch.as_tensor(x, dtype=torch.float64).expand(shape)[at])

        for (level, operand), pj in cost.pj.items():
            found = {"cycles": one(cycles), "utilisation": one(cost.utilisation)}
            rows.append(
                {"layer": f"{number} {operator}", "slot": place, "chunk": chunk, **found}
                | {"level": level, "operand": operand, "pj": one(pj)}
            )
    return pd.DataFrame(rows)


def priced(layer: Layer, template: Template) -> tuple[Tensor, Tensor, Tensor]:
    """A layer on every configuration of a chunk, in its best tiles: cycles ``[2, configurations]`` with all of DRAM's
    bandwidth and with half of it, pJ the same, utilisation the same.

    Raises:
        WorkbenchError: a configuration that no tiling fits.
    """
    tile = _tiles(layer)
    rows, columns = torch.tensor(template.arrays, dtype=torch.float64).T[:, None, :, None, None]
    capacity = torch.tensor(template.buffers, dtype=torch.float64)[:, None]
    share = torch.tensor([1.0, 0.5], dtype=torch.float64)[:, None, None, None]
    machine = generic(rows, columns, capacity, **template.machine)
    machine = replace(machine, dram_bandwidth=machine.dram_bandwidth * share)
    shape = (2, len(template.arrays), len(template.buffers), len(tile["K"]))
    parts: list[list[Tensor]] = [[], [], []]
    for dataflow, order in product(template.dataflows, template.orders):
        cost = evaluate(layer, _nest(layer, machine, template, dataflow, order, tile), machine)
        fits = torch.as_tensor(cost.fits).expand(shape)
        cycles, energy, used = (
            torch.as_tensor(x, dtype=torch.float64).expand(shape) for x in (cost.cycles, cost.total, cost.utilisation)
        )
        chosen = (cycles * energy).where(fits, torch.inf).min(-1, keepdim=True)
        if bool(chosen.values.isinf().any()):
            raise WorkbenchError(f"no tiling of {layer.name!r} fits {dataflow} {order}: it needs a larger buffer")
        for part, values in zip(parts, (cycles, energy, used), strict=True):
            part.append(values.gather(-1, chosen.indices)[..., 0])
    # [dataflow x order, 2, array, buffer] to [2, array, dataflow, buffer, order]
    grid = len(template.dataflows), len(template.orders)
    cycles, energy, used = (
        torch.stack(part).view(*grid, *shape[:-1]).permute(2, 3, 0, 4, 1).reshape(2, -1) for part in parts
    )
    return cycles, energy, used


@dataclass(frozen=True)
class Costs:
    """What every layer of a space of networks costs on every configuration of a chunk, by rule and chunk.

    ``cycles`` and ``energy`` (µJ): ``[rules, 2, free slots, operators, configurations]``, 0 where an operator is
    missing; ``fixed_cycles`` and ``fixed_energy``: ``[rules, 2, configurations]`` of the layers that are in every
    network; ``resources``: ``[configurations, resources]``, shares of the limits.
    """

    cycles: Tensor
    energy: Tensor
    fixed_cycles: Tensor
    fixed_energy: Tensor
    resources: Tensor
    megahertz: float

    @cached_property
    def pairs(self) -> Tensor:
        """Do both configurations fit the limits together? bool ``[configurations, configurations]``."""
        return (self.resources[:, None] + self.resources[None] <= 1 + 1e-9).all(-1)

    @cached_property
    def alone(self) -> Tensor:
        """Does a configuration fit on its own? bool ``[configurations]``."""
        return (self.resources <= 1 + 1e-9).all(-1)

    def allowed(self, rule: Tensor, chunks: Tensor) -> Tensor:
        """Do accelerators keep to the limits? ``rule [n]``, ``chunks [n, 2]``; the second does not exist in rule 0."""
        return torch.where(rule == 0, self.alone[chunks[:, 0]], self.pairs[chunks[:, 0], chunks[:, 1]])

    def by_chunk(self, nets: Tensor, rule: int) -> tuple[Tensor, Tensor]:
        """Cycles and energy of networks ``[n, slots]`` on every configuration, each ``[2, n, configurations]``."""
        slots = torch.arange(nets.shape[1])
        cycles = self.fixed_cycles[rule][:, None] + self.cycles[rule][:, slots, nets].sum(2)
        return cycles, self.fixed_energy[rule][:, None] + self.energy[rule][:, slots, nets].sum(2)

    def evaluate(self, nets: Tensor, rule: Tensor, chunks: Tensor) -> tuple[Tensor, Tensor]:
        """Milliseconds between two images and µJ an image, of designs: ``[n, slots]``, ``[n]``, ``[n, 2]``."""
        slots, two = torch.arange(nets.shape[1]), torch.arange(2)[:, None]

        def sums(table: Tensor, fixed: Tensor) -> Tensor:  # [2, n]
            own = table[rule[None, :, None], two[..., None], slots, nets, chunks.T[..., None]].sum(-1)
            return own + fixed[rule[None], two, chunks.T]

        cycles = sums(self.cycles, self.fixed_cycles).amax(0)
        return cycles / self.megahertz / 1e3, sums(self.energy, self.fixed_energy).sum(0)

    def best(self, nets: Tensor, rules: Sequence[int] = range(len(RULES))) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Of each network the best accelerator of all: ``latency`` (ms) and ``edp`` (µJ ms) -> cost, rule, chunks.

        Every allowed pair of configurations is tried under every rule (of ``rules``).
        """
        found: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {"latency": [], "edp": []}
        first, second = self.pairs.nonzero(as_tuple=True)
        alone = self.alone.nonzero()[:, 0]
        for rule in rules:
            cycles, energy = self.by_chunk(nets, rule)
            a, b = (alone, alone) if rule == 0 else (first, second)
            for n in range(len(nets)):
                ms, uj = cycles[0, n, a] / self.megahertz / 1e3, energy[0, n, a]
                if rule:
                    ms = torch.maximum(ms, cycles[1, n, b] / self.megahertz / 1e3)
                    uj = uj + energy[1, n, b]
                for name, cost in (("latency", ms), ("edp", ms * uj)):
                    at = cost.argmin()
                    found[name].append((cost[at], torch.tensor(rule), torch.stack([a[at], b[at]])))
        best = {}
        for name, rows in found.items():
            cost, rule, chunks = (torch.stack(x).unflatten(0, (-1, len(nets))) for x in zip(*rows, strict=True))
            at = cost.argmin(0)
            every = torch.arange(len(nets))
            best[name] = cost[at, every], rule[at, every], chunks[at, every]
        return best

    def best_designs(self, nets: Tensor, cost: str, rules: Sequence[int] = range(len(RULES))) -> list[Design]:
        """The same as designs, one a network."""
        _, rule, chunks = self.best(nets, rules)[cost]
        return [
            Design(tuple(net), r, (a, b))
            for net, r, (a, b) in zip(nets.tolist(), rule.tolist(), chunks.tolist(), strict=True)
        ]


def costs(space: Networks, template: Template) -> Costs:
    """Price a whole space of networks on a template; each different layer once."""
    size, most = len(template.configurations), max(space.choices)
    shape = (len(RULES), 2, len(space.free), most, size)
    cycles, energy = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    fixed_cycles, fixed_energy = torch.zeros(2, len(RULES), 2, size, dtype=torch.float64)
    largest = max(slot.size for slot in space.slots)
    known: dict[Layer, tuple[Tensor, Tensor, Tensor]] = {}

    def add(layer: Layer, to_cycles: Tensor, to_energy: Tensor) -> None:
        plain = replace(layer, name="")
        if plain not in known:
            known[plain] = priced(plain, template)
        for at, rule in enumerate(RULES):
            chunk = chunk_of(rule, layer, largest)
            bandwidth = 0 if rule == RULES[0] else 1
            to_cycles[at, chunk] += known[plain][0][bandwidth]
            to_energy[at, chunk] += known[plain][1][bandwidth] / 1e6

    add(space.head(), fixed_cycles, fixed_energy)
    for place, slot in enumerate(space.slots):
        for choice, operator in enumerate(slot.operators):
            for layer in slot.layers(operator):
                if place in space.free:
                    at = space.free.index(place)
                    add(layer, cycles[:, :, at, choice], energy[:, :, at, choice])
                else:
                    add(layer, fixed_cycles, fixed_energy)
    return Costs(cycles, energy, fixed_cycles, fixed_energy, template.resources(), generic().megahertz)
