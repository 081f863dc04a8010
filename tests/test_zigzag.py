"""Our accelerator model beside ZigZag's (Mei et al., IEEE TC 2021), an independent one, where it is installed.

Both get the same layer and the same spread over the array, and a buffer that holds everything. Then cycles and
utilisation follow from the spread alone, ragged edges included, and DRAM sees every operand once; ZigZag finds its loop
order by itself. Stalls, transfers inside the array and partial sums are counted by other conventions, not compared.
"""

import logging
import math

import pytest
import yaml

from workbench.accelerator import evaluate, generic
from workbench.dataflow import Layer, traffic
from workbench.hardware import mapping
from workbench.papers.dna.space import Slot

api = pytest.importorskip("zigzag.api", reason="ZigZag is not installed: the extra `zigzag` brings it")

ROWS, COLUMNS, BYTE = 8, 16, 8
NAMES = {"N": "B", "G": "G", "K": "K", "C": "C", "Y": "OY", "X": "OX", "R": "FY", "S": "FX"}
OPERANDS = {"I": "inputs", "W": "weights", "O": "outputs"}


def memory(size, energy, served, *operands):
    """A memory with one port that is no bottleneck; an access is a byte."""
    ways = [f"{o}, {way}" for o in operands for way in (("fh", "tl", "fl", "th") if o == "O" else ("fh", "tl"))]
    port = {"name": "rw_port_1", "type": "read_write", "bandwidth_min": BYTE, "bandwidth_max": 2**20}
    if energy:
        port["bandwidth_max"] = BYTE
    return {
        "size": size,
        "r_cost": energy,
        "w_cost": energy,
        "area": 0,
        "latency": 1,
        "operands": list(operands),
        "ports": [port | {"allocation": ways}],
        "served_dimensions": served,
    }


def zigzag(layer, nest, folder):
    """ZigZag's evaluation with the spread of ``nest``; its only energy is that of DRAM, 1 a byte."""
    machine = {
        "name": "array",
        "memories": {
            "register": memory(BYTE, 0, [], "I2"),
            "buffer": memory(2**30, 0, ["D1", "D2"], "I1", "I2", "O"),
            "DRAM": memory(2**40, 1, ["D1", "D2"], "I1", "I2", "O"),
        },
        "operational_array": {
            "input_precision": [8, 8],
            "unit_energy": 0,
            "unit_area": 1,
            "dimensions": ["D1", "D2"],
            "sizes": [ROWS, COLUMNS],
        },
    }
    spread = {
        axis: [f"{NAMES[d]}, {int(nest.spatial[d])}" for d in dims if nest.spatial[d] > 1] or [f"{NAMES[dims[0]]}, 1"]
        for axis, dims in (("D1", "CRS"), ("D2", "KG"))
    }
    links = {"O": "O", "W": "I2", "I": "I1"}
    for name, what in (("machine", machine), ("mapping", [{"name": "default", "spatial_mapping": spread,
                                                           "memory_operand_links": links}])):  # fmt: skip
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(what, sort_keys=False))
    workload = {
        "id": 0,
        "name": "layer",
        "operator_type": "Conv",
        "equation": "O[b][g][k][oy][ox]+=W[g][k][c][fy][fx]*I[b][g][c][iy][ix]",
        "dimension_relations": [f"i{a}={layer.stride}*o{a}+1*f{a}" for a in "xy"],
        "loop_dims": list(NAMES.values()),
        "loop_sizes": [getattr(layer, d) for d in NAMES],
        "operand_precision": {"W": 8, "I": 8, "O": 24, "O_final": 8},
        "operand_source": {"I": 0, "W": 0},
    }
    _, _, found = api.get_hardware_performance_zigzag(
        [workload], str(folder / "machine.yaml"), str(folder / "mapping.yaml"), opt="energy", lpf_limit=4,
        dump_folder=str(folder / "out"), pickle_filename=str(folder / "out.pickle"), loma_show_progress_bar=False,
    )  # fmt: skip
    return found[0][1][0][0]


LAYERS = {
    "3x3": Layer("", K=32, C=16, Y=8, X=8, R=3, S=3),
    "3x3, ragged": Layer("", K=20, C=12, Y=7, X=7, R=3, S=3),
    "1x1": Layer("", K=64, C=32, Y=8, X=8),
    "depthwise, ragged": Layer("", G=24, Y=8, X=8, R=3, S=3),
    **{f"ir5x3 of DNA's space, {n}": x for n, x in enumerate(Slot(24, 32, 8, ("ir5x3",), 2).layers("ir5x3"))},
}


@pytest.fixture(autouse=True)
def silent():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", LAYERS)
def test_cycles_utilisation_and_compulsory_traffic_are_zigzags(name, tmp_path):
    layer, machine = LAYERS[name], generic(ROWS, COLUMNS, 2**17)
    nest = mapping(layer, machine, "weight", "GNYKC", {d: float(getattr(layer, d)) for d in "NGKCY"})
    ours, cost, theirs = traffic(layer, nest), evaluate(layer, nest, machine), zigzag(layer, nest, tmp_path)
    assert ours.cycles == theirs.ideal_temporal_cycle
    pes = ROWS * COLUMNS
    assert math.ceil(layer.macs / pes) == theirs.ideal_cycle
    assert layer.macs / (pes * ours.cycles) == pytest.approx(theirs.mac_spatial_utilization, abs=1 / ours.cycles)
    for operand, energies in theirs.mem_energy_breakdown.items():
        assert energies[-1] == float(cost.accesses["DRAM", OPERANDS[str(operand)]]), operand
