"""Design points a second of the hardware model: as one tensor, one by one in plain Python, and what a pass must cost.

Times are printed and stored with the benchmark, never asserted: they differ from machine to machine.
"""

import random

import pytest
import torch
from timing import seconds

from workbench.accelerator import evaluate, generic
from workbench.dataflow import Layer
from workbench.hardware import DATAFLOWS, mapping

LAYER = Layer("conv3", N=4, K=384, C=256, Y=13, X=13, R=3, S=3)
POINTS = 1 << 14  # a block that stays in the cache; more points are more blocks


def design_points(n):
    """Random tilings and machines: sizes of tiles, rows, columns and capacity."""
    chance = random.Random(0)
    sizes = {"N": 4, "G": 1, "K": 384, "C": 256, "Y": 13}
    tiles = [{d: float(chance.randint(1, size)) for d, size in sizes.items()} for _ in range(n)]
    machines = [tuple(float(chance.choice(c)) for c in ((8, 16, 32), (8, 16, 32), (32, 128, 512))) for _ in range(n)]
    return tiles, machines


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_design_points_a_second(benchmark, dataflow):
    torch.set_num_threads(1)
    tiles, machines = design_points(POINTS)
    tile = {d: torch.tensor([t[d] for t in tiles], dtype=torch.float64) for d in tiles[0]} | {"G": 1.0}
    rows, columns, capacity = torch.tensor(machines, dtype=torch.float64).T.contiguous()

    def together():
        chip = generic(rows, columns, capacity)
        return evaluate(LAYER, mapping(LAYER, chip, dataflow, "KNYC", tile), chip).total

    few = 500

    def one_by_one():
        found = []
        for sizes, machine in zip(tiles[:few], machines, strict=False):
            chip = generic(*machine)
            found.append(evaluate(LAYER, mapping(LAYER, chip, dataflow, "KNYC", sizes), chip).total)
        return found

    # The same work was timed.
    torch.testing.assert_close(together()[:few], torch.tensor(list(map(float, one_by_one()))).double())
    benchmark.pedantic(together, rounds=20, warmup_rounds=3)
    ours = benchmark.stats.stats.min if benchmark.stats else seconds(together)
    loop, one_pass = seconds(one_by_one) / few, seconds(lambda: rows * columns)
    report = {
        "points_per_s": POINTS / ours,
        "loop_points_per_s": 1 / loop,
        "ratio": loop * POINTS / ours,
        "passes": ours / one_pass,  # multiplications of two tensors of this length that take as long
    }
    benchmark.extra_info.update(report)
    print(f"\n{dataflow}: " + ", ".join(f"{name} {value:.4g}" for name, value in report.items()))
