"""Our accelerator model beside ZigZag's (Mei et al., IEEE TC 2021), loop nest by loop nest, where it is installed.

`test_zigzag` lets ZigZag find its loops, with nothing to wait for and a buffer that holds everything. Here both get the
same machine, layer and loop nest, and are compared memory by memory, operand by operand: arrays and buffers of DNA's
templates, layers of its spaces, the tiles that its compiler likes best among those that ZigZag can write down (it cuts
every dimension into equal parts). Only ZigZag's cost model is asked, not its searches. What both define alike
must be equal. Where their conventions differ, the difference is worked out from the convention and must be met:

- **streams**: what streams is loaded here at every step of the array; ZigZag keeps it as long as the next step needs
  the same.
- **windows**: in ZigZag's energy (not in its counts of elements) PEs share an input only if they need it in the same
  cycle; here, and in its counts, what a step of the array needs is read once and handed round.
- **partial sums**: ZigZag reads back a zero before the first visit and writes the last at the accumulator's width; here
  the first visit reads nothing and the last leaves at the width of outputs. It charges the registers for what leaves
  and returns, here the network pays; it has no energy of a network.
- **waiting**: ZigZag's ports move whole words for one operand at a time, and the first load and the last store overlap
  with nothing; here bits flow at the full bandwidth and everything overlaps. The rule is the same: as long as the array
  or the busiest memory, whichever is longer. Our arrays fill and drain for every tile, its arrays drain once at most:
  that part is left out of the comparison.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
import yaml

from workbench.accelerator import Accelerator, Cost, evaluate, generic
from workbench.dataflow import DIMS, RELEVANT, Layer, Mapping
from workbench.papers.dna.accelerators import TEMPLATES, Template, _nest, _tiles
from workbench.papers.dna.space import digits, fbnet

WHY = "ZigZag is not installed: the extra `zigzag` brings it"
pytest.importorskip("zigzag.parser.upgraded_validator", reason=WHY)  # the module that needs six

from zigzag.cost_model.cost_model import CostModelEvaluation  # noqa: E402
from zigzag.datatypes import LayerDim, LayerOperand  # noqa: E402
from zigzag.mapping.data_movement import DataDirection, DataMoveAttr  # noqa: E402
from zigzag.mapping.temporal_mapping import TemporalMapping, TemporalMappingType  # noqa: E402
from zigzag.stages.evaluation.cost_model_evaluation import CostModelStage  # noqa: E402
from zigzag.stages.mapping.spatial_mapping_conversion import SpatialMappingConversionStage  # noqa: E402
from zigzag.stages.parser.accelerator_parser import AcceleratorParserStage  # noqa: E402
from zigzag.stages.parser.workload_parser import WorkloadParserStage  # noqa: E402

LEVELS = ("register file", "buffer", "DRAM")
LETTER = {"weights": "W", "inputs": "I", "outputs": "O"}
MEMORY = {"weights": "I2", "inputs": "I1", "outputs": "O"}
SIDES = {"row": ("RYKCNG", ""), "weight": ("CRS", "KG"), "output": ("XYN", "KG"), "input": ("CRSG", "XYN")}
"""Which dimensions a dataflow spreads down the array and across; rows have all of it as one."""

SPACE, WIDE = digits().scaled(4, 4, 3), next(slot for slot in fbnet().slots if slot.inputs == slot.outputs == 24)
LAYERS = {
    "3x3": SPACE.slots[1].layers("conv3")[0],
    "3x3 stride 2": SPACE.slots[3].layers("conv3")[0],
    "1x1": SPACE.slots[4].layers("conv1")[0],
    "depthwise": SPACE.slots[4].layers("sep3")[0],
    "first, 3 channels": SPACE.slots[0].layers("conv3")[0],
    "1x1, 24 channels": WIDE.layers("ir3x1")[0],  # 24 on sides of 16: two turns of 12
    "depthwise, 24 channels": WIDE.layers("ir3x1")[1],
}
CASES = [("asic", (16, 16), 64, "GKCNY", layer, dataflow) for layer in LAYERS for dataflow in SIDES]
FEW = "3x3", "3x3 stride 2", "1x1", "1x1, 24 channels"  # a 3x3 window does not fit 8 PEs without a rest
CASES += [("fpga", (8, 16), 16, "GNYKC", layer, dataflow) for layer in FEW for dataflow in SIDES]


class Cut(NamedTuple):
    """One dimension: tiles in DRAM, in the buffer, steps of a PE, PEs side by side."""

    dram: int
    buffer: int
    inner: int
    spatial: int


def cuts(layer: Layer, nest: Mapping) -> dict[str, Cut]:
    found = {}
    for d in DIMS:
        whole, spread = int(getattr(layer, d)), int(nest.spatial.get(d, 1))
        tile = min(int(nest.tile.get(d, 1)), whole) if d in nest.dram else whole
        inner = min(int(nest.register.get(d, 1)), tile) if d in nest.buffer else -(-tile // spread)
        array = min(spread * inner, tile) if d in nest.buffer else tile
        found[d] = Cut(-(-whole // tile), -(-tile // array), inner, -(-array // inner))
    return found


def even(layer: Layer, nest: Mapping) -> bool:
    """Are all tiles of a dimension the same size, but for PEs that idle in all of them?"""
    for d, cut in cuts(layer, nest).items():
        whole, steps = int(getattr(layer, d)), cut.dram * cut.buffer * cut.inner
        if whole % steps or steps != -(-whole // cut.spatial):
            return False
    return True


def compiled(layer: Layer, machine: Accelerator, template: Template, dataflow: str, order: str) -> Mapping:
    """Of DNA's grid of tiles that of the least energy times cycles that fits and is even."""
    grid = _tiles(layer)
    cost = evaluate(layer, _nest(layer, machine, template, dataflow, order, grid), machine)
    product, fits = torch.as_tensor(cost.cycles * cost.total), torch.as_tensor(cost.fits)
    for place in product.where(fits, torch.inf).argsort().tolist():
        tile = {d: float(sizes[place]) if isinstance(sizes, torch.Tensor) else sizes for d, sizes in grid.items()}
        nest = _nest(layer, machine, template, dataflow, order, tile)
        if even(layer, nest) and bool(evaluate(layer, nest, machine).fits):
            return nest
    raise AssertionError("no even tiling fits")


# --- the same in ZigZag's words ----------------------------------------------------------------------------------


def hardware(machine: Accelerator, sides: tuple[int, int]) -> dict[str, Any]:
    """Three register files a PE, a port for every direction; one buffer and DRAM, one port for everything.

    An access is as wide as the memory's bandwidth (registers: as the register), but less costs less: ``bandwidth_min``.
    """
    memories = {}

    def add(name: str, size: float, pj: float, width: float, operands: list[str], shared: bool) -> None:
        ways = [
            f"{MEMORY[o]}, {way}" for o in operands for way in ("fh", "tl", "fl", "th")[: 4 if o == "outputs" else 2]
        ]
        kinds = ["rw"] if shared else ["w" if ", f" in way else "r" for way in ways]
        ports = [
            {
                "name": f"{kind}_port_{number}",
                "type": {"r": "read", "w": "write", "rw": "read_write"}[kind],
                "bandwidth_min": 1,
                "bandwidth_max": int(width),
                "allocation": ways if shared else [ways[number]],
            }
            for number, kind in enumerate(kinds)
        ]
        costs = {"size": int(size), "r_cost": float(pj * width), "w_cost": float(pj * width), "area": 0.0, "latency": 1}
        served = ["D1", "D2"] if shared else []
        memories[name] = costs | {
            "operands": [MEMORY[o] for o in operands],
            "ports": ports,
            "served_dimensions": served,
        }

    for operand, bits, pj in zip(RELEVANT, machine.register_bits, machine.register, strict=True):
        add(f"{operand} register", bits, pj, bits, [operand], shared=False)
    add("buffer", machine.buffer_bits, machine.buffer, machine.buffer_bandwidth, [*RELEVANT], shared=True)
    add("DRAM", 1e12, machine.dram, machine.dram_bandwidth, [*RELEVANT], shared=True)
    mac = machine.multiply + machine.add * machine.accumulator_bits / 8
    array = {"unit_energy": float(mac), "unit_area": 0.0, "dimensions": ["D1", "D2"], "sizes": [*sides]}
    return {"name": machine.name, "memories": memories, "operational_array": array}


def workload(layer: Layer, machine: Accelerator) -> list[dict[str, Any]]:
    stride = int(layer.stride)
    widths = {"W": int(layer.weight_bits), "I": int(layer.input_bits), "O": int(machine.accumulator_bits)}
    return [
        {
            "id": 0,
            "name": "default",
            "operator_type": "Conv",
            "equation": "O[n][g][k][y][x]+=W[g][k][c][r][s]*I[n][g][c][iy][ix]",
            "dimension_relations": [f"iy={stride}*y+1*r", f"ix={stride}*x+1*s"],
            "loop_dims": [*DIMS],
            "loop_sizes": [int(getattr(layer, d)) for d in DIMS],
            "operand_precision": widths | {"O_final": int(layer.output_bits)},
            "operand_source": {"I": 0, "W": 0},
        }
    ]


def loops(layer: Layer, nest: Mapping) -> dict[str, list[list[tuple[str, int]]]]:
    """Temporal loops by operand, of registers, buffer and DRAM, each from the innermost out.

    Registers hold what the array goes through at a step. Weights and outputs that stream come straight from the
    buffer; the inputs' overlap is kept.
    """
    cut = cuts(layer, nest)

    def counted(kind: str, dims: str) -> list[tuple[str, int]]:
        return [(d, getattr(cut[d], kind)) for d in dims if getattr(cut[d], kind) > 1]

    inner = counted("inner", "SRCKGXYN")
    buffer, dram = counted("buffer", nest.buffer[::-1]), counted("dram", nest.dram[::-1])
    through = [[], inner + buffer, dram]
    return {o: through if o in nest.streamed and o != "inputs" else [inner, buffer, dram] for o in RELEVANT}


def zigzag(layer: Layer, nest: Mapping, machine: Accelerator, dataflow: str, folder: Any) -> CostModelEvaluation:
    sides = SIDES[dataflow]
    sizes = (int(machine.rows), int(machine.columns)) if sides[1] else (int(machine.rows * machine.columns), 1)
    (folder / "hardware.yaml").write_text(yaml.safe_dump(hardware(machine, sizes), sort_keys=False))  # inside out
    cut = cuts(layer, nest)
    spread = {
        f"D{n}": [f"{d}, {cut[d].spatial}" for d in side if cut[d].spatial > 1] for n, side in enumerate(sides, 1)
    }
    (folder / "mapping.yaml").write_text(yaml.safe_dump([{"name": "default", "spatial_mapping": spread}]))

    chip = AcceleratorParserStage.parse_accelerator(str(folder / "hardware.yaml"))
    parser = WorkloadParserStage(
        [CostModelStage], workload=workload(layer, machine), mapping=str(folder / "mapping.yaml")
    )
    (node,) = parser.parse_workload().topological_sort()
    node.spatial_mapping.initialize_oa_dims(chip.operational_array.dimension_sizes)
    converter = SpatialMappingConversionStage([CostModelStage], accelerator=chip, layer=node)
    spatial, whole = converter.convert_user_spatial_mapping(node.spatial_mapping)
    temporal = {
        LayerOperand(LETTER[o]): [[(LayerDim(d), n) for d, n in level] for level in levels]
        for o, levels in loops(layer, nest).items()
    }
    return CostModelEvaluation(
        accelerator=chip,
        layer=node,
        spatial_mapping=spatial,
        spatial_mapping_int=whole,
        temporal_mapping=TemporalMapping(temporal, node, TemporalMappingType.UNEVEN),
        access_same_data_considered_as_no_access=False,  # every MAC reads its registers, as here
    )


# --- both answers ------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    layer: Layer
    nest: Mapping
    machine: Accelerator
    ours: Cost
    theirs: CostModelEvaluation

    def moved(self, level: str, operand: str) -> tuple[int, int, int, int]:
        """Elements, ZigZag: into this memory from above, out of it to below, in from below, out to above."""
        movement = self.theirs.mapping.unit_mem_data_movement[LayerOperand(LETTER[operand])][LEVELS.index(level)]
        counts = movement.get_attribute(DataMoveAttr.DATA_ELEM_MOVE_COUNT)
        ways = ("WR_IN_BY_HIGH", "RD_OUT_TO_LOW", "WR_IN_BY_LOW", "RD_OUT_TO_HIGH")
        return tuple(counts.get(DataDirection[way]) for way in ways)

    def bits(self, level: str, operand: str) -> tuple[float, float, float]:
        """Bits moved: ours, theirs, and what theirs may lose by rounding: an access in each direction."""
        machine = self.machine
        place = list(RELEVANT).index(operand)
        pj = {"register file": machine.register[place], "buffer": machine.buffer, "DRAM": machine.dram}[level]
        widths = machine.register_bits[place], machine.buffer_bandwidth, machine.dram_bandwidth
        pj_theirs = self.theirs.mem_energy_breakdown[LayerOperand(LETTER[operand])][LEVELS.index(level)]
        return float(self.ours.pj[level, operand]) / pj, pj_theirs / pj, 4 * widths[LEVELS.index(level)]

    @property
    def compute(self) -> int:
        """Cycles of the array alone, here: steps of the nest."""
        return math.prod(cut.dram * cut.buffer * cut.inner for cut in cuts(self.layer, self.nest).values())

    def again(self, operand: str) -> int:
        """How often we load what streams while ZigZag keeps it: irrelevant loops around the array's step, up to the
        first that moves on."""
        if operand not in self.nest.streamed:
            return 1
        found = 1
        _, buffer, dram = loops(self.layer, self.nest)[operand]
        for d, count in buffer + dram:
            if d in RELEVANT[operand]:
                break
            found *= count
        return found

    @property
    def sharing(self) -> float:
        """PEs that take the same input at the same time, in ZigZag's energy: all along dimensions that inputs lack, and
        of output and kernel rows (columns) side by side those on a diagonal."""
        sides = {d: getattr(self.layer, d) / math.prod(cut[:3]) for d, cut in cuts(self.layer, self.nest).items()}
        found = math.prod(sides[d] for d in DIMS if d not in RELEVANT["inputs"])
        for out, kernel in ((sides["Y"], sides["R"]), (sides["X"], sides["S"])):
            found *= out * kernel / ((out - 1) * min(self.layer.stride, kernel) + kernel)
        return found

    @property
    def waits(self) -> float:
        """Our cycles without fill: those of the array, the buffer or DRAM."""
        moved = {level: sum(self.bits(level, o)[0] for o in RELEVANT) for level in LEVELS[1:]}
        return max(
            self.compute, moved["buffer"] / self.machine.buffer_bandwidth, moved["DRAM"] / self.machine.dram_bandwidth
        )


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """By case: a fixture of the module, because parsing is most of the time."""
    found = {}
    for case in CASES:
        name, array, kilobytes, order, layer, dataflow = case
        template = TEMPLATES[name]
        machine = generic(*array, kilobytes, **template.machine)
        nest = compiled(LAYERS[layer], machine, template, dataflow, order)
        theirs = zigzag(LAYERS[layer], nest, machine, dataflow, tmp_path_factory.mktemp("zigzag"))
        found[case] = Pair(LAYERS[layer], nest, machine, evaluate(LAYERS[layer], nest, machine), theirs)
    return found


@pytest.fixture(params=CASES, ids=lambda case: " ".join(map(str, case)))
def pair(request, pairs):
    return pairs[request.param]


def test_the_array_does_the_same_work_in_the_same_cycles(pair):
    ours, theirs, pes = pair.ours, pair.theirs, pair.machine.rows * pair.machine.columns
    assert theirs.layer.total_mac_count == pair.layer.macs
    assert theirs.mac_energy == pytest.approx(float(ours.pj["compute", "arithmetic"]), rel=1e-9)
    free = replace(pair.machine, buffer_bandwidth=math.inf, dram_bandwidth=math.inf)
    alone = evaluate(pair.layer, replace(pair.nest, fill=0), free)
    assert float(alone.cycles) == pair.compute == theirs.ideal_temporal_cycle
    assert theirs.mac_spatial_utilization == math.ceil(pair.layer.macs / pes) / pair.compute
    assert float(alone.utilisation) == pytest.approx(theirs.mac_spatial_utilization, abs=1 / pair.compute)


@pytest.mark.parametrize("operand", ["weights", "inputs"])
def test_what_is_read_moves_as_often(pair, operand):
    count, again = pair.ours.accesses, pair.again(operand)
    _, out, *_ = pair.moved("DRAM", operand)
    assert count["DRAM", operand] == out
    filled, out, *_ = pair.moved("buffer", operand)
    assert count["buffer", operand] == again * out + filled
    filled, out, *_ = pair.moved("register file", operand)
    assert count["network", operand] == again * filled
    assert count["register file", operand] == out + again * filled


def test_partial_sums_move_as_often(pair):
    count, volume = pair.ours.accesses, pair.layer.volumes["outputs"]
    assert pair.again("outputs") == 1  # they move on at every step, in all of these nests
    _, returned, left, _ = pair.moved("DRAM", "outputs")
    assert count["DRAM", "outputs"] == returned + left
    assert returned == left - volume
    assert count["buffer", "outputs"] == sum(pair.moved("buffer", "outputs"))
    _, read, written, left = pair.moved("register file", "outputs")
    assert count["network", "outputs"] == left
    # We read a register at every MAC, the first one of an output too.
    assert (written, read) == (pair.layer.macs, pair.layer.macs - volume)
    assert count["register file", "outputs"] == written + read + volume


def test_energy_differs_by_the_conventions_and_by_nothing_else(pair):
    layer, count = pair.layer, pair.ours.accesses
    wide, narrow, volume = pair.machine.accumulator_bits, layer.output_bits, layer.volumes["outputs"]
    apart = dict.fromkeys(((level, operand) for level in LEVELS for operand in RELEVANT), 0.0)

    for operand, bits in (("weights", layer.weight_bits), ("inputs", layer.input_bits)):
        again, arrivals = pair.again(operand), count["network", operand]
        apart["register file", operand] = -(arrivals - arrivals / again) * bits
        loads = count["buffer", operand] - count["DRAM", operand]
        theirs = loads / again
        if operand == "inputs":
            theirs = arrivals / pair.sharing / again
            assert theirs * again >= loads
        apart["buffer", operand] = (theirs - loads) * bits

    outside = pair.moved("DRAM", "outputs")[1] > 0
    inside = pair.moved("buffer", "outputs")[1] > 0
    sums = (2 * wide - narrow) * volume  # a zero read and a wide last write, and what is wide here too
    apart["DRAM", "outputs"] = sums * outside
    apart["buffer", "outputs"] = sums * (inside + outside)
    apart["register file", "outputs"] = count["network", "outputs"] * (2 * wide if inside else narrow)

    for (level, operand), difference in apart.items():
        ours, theirs, rounding = pair.bits(level, operand)
        assert theirs == pytest.approx(ours + difference, abs=rounding, rel=1e-9), (level, operand)


def test_waiting_follows_the_same_rule_with_whole_words(pair):
    theirs, busy = pair.theirs, {}
    width = {"buffer": pair.machine.buffer_bandwidth, "DRAM": pair.machine.dram_bandwidth}
    for memory, ports in zip(theirs.mem_level_list, theirs.port_activity_collect, strict=True):
        if memory.name in width:
            links = [link for port in ports.values() for link in port]
            busy[memory.name] = sum(link.real_cycle * (link.period_count - 1) for link in links)
            words = sum(link.real_cycle * link.period_count for link in links)
            moved = sum(pair.bits(memory.name, o)[1] for o in RELEVANT) / width[memory.name]
            rounding = 4 * len(RELEVANT)
            assert moved - rounding <= words <= moved + rounding + sum(link.period_count for link in links)
    assert busy.keys() == width.keys()
    assert theirs.latency_total0 == max(pair.compute, *busy.values())
    assert theirs.latency_total2 == theirs.latency_total0 + theirs.data_onloading_cycle + theirs.data_offloading_cycle
    assert theirs.latency_total2 >= pair.waits


def test_the_figures_that_the_readme_and_notebook_9_quote(pairs):
    energy, cycles = [], []
    for pair in pairs.values():
        network = sum(float(pair.ours.pj["network", o]) for o in RELEVANT)
        energy.append(pair.theirs.energy_total / (float(pair.ours.total) - network))
        cycles.append(pair.theirs.latency_total2 / pair.waits)
    assert len(pairs) == 44
    quoted = [f"{value:.2f}" for ratios in (energy, cycles) for value in (min(ratios), max(ratios))]
    assert quoted == ["0.97", "1.37", "1.00", "2.53"]
