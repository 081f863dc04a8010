"""The partition engine beside plain loops, beside what no engine can avoid, and beside a grid of pixels.

Times are printed and stored with the benchmark, never asserted: they differ from machine to machine.
"""

import itertools
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from timing import seconds
from torch import nn

from workbench.papers.spline.partition import partition


def mlp(*widths):
    torch.manual_seed(0)
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]).double()


def box(radius):
    return radius * np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])


def missed_by_pixels(net, found, radius, n=400):
    """How many regions a grid of n x n pixels does not see: patterns at pixel centres against the exact number."""
    axis = radius * (np.arange(n) + 0.5) / n * 2 - radius
    x, signs = torch.tensor(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)), []
    with torch.no_grad():
        for module in net:
            if isinstance(module, nn.ReLU):
                signs.append(np.packbits((x > 0).numpy(), axis=1))
            x = module(x)
    return len(found.maps) - len(np.unique(np.hstack(signs), axis=0))


def unavoidable(net, found):
    """Seconds to copy the result once, and to send each layer's regions, three rows each, through its weights."""
    copying = seconds(lambda: [array.copy() for array in (found.vertices, found.starts, found.maps, *found.patterns)])
    regions, rows = 1, []
    for depth, module in enumerate(m for m in net if isinstance(m, nn.Linear)):
        rows.append((module, torch.randn(3 * regions, module.in_features).double()))
        if depth < len(found.patterns):
            regions = len(np.unique(np.packbits(np.hstack(found.patterns[: depth + 1]) > 0, axis=1), axis=0))
    with torch.no_grad():
        products = seconds(lambda: [module(x) for module, x in rows])
    return copying, products


@pytest.mark.parametrize(("widths", "radius"), [((2, 32, 32, 2), 1.4), ((2, 64, 64, 64, 2), 1.4)])
def test_the_engine_beside_loops(benchmark, monkeypatch, widths, radius):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # run alone, pytest puts only this folder there
    from oracles.loop_partition import area, loop_partition

    net = mlp(*widths)
    begin = time.perf_counter()
    loops = loop_partition(net, box(radius))
    theirs = time.perf_counter() - begin
    found = benchmark.pedantic(partition, (net, box(radius)), rounds=7, warmup_rounds=1)
    ours = benchmark.stats.stats.min if benchmark.stats else seconds(lambda: partition(net, box(radius)))

    # The same work was timed.
    assert len(found.maps) == len(loops)
    np.testing.assert_allclose(np.sort(found.areas), np.sort([area(p) for p in loops]), rtol=1e-6, atol=1e-12)
    copying, products = unavoidable(net, found)
    missed = missed_by_pixels(net, found, radius)
    report = {
        "regions": len(loops),
        "regions_per_s": len(loops) / ours,
        "loops_s": theirs,
        "ratio": theirs / ours,
        "copying_s": copying,
        "products_s": products,
        "missed_by_400x400_pixels": missed,
    }
    benchmark.extra_info.update(report)
    print(f"\n{widths}: {ours:.4f} s; " + ", ".join(f"{name} {value:.4g}" for name, value in report.items()))


@pytest.mark.parametrize("radius", [0.1, 0.4, 1.0, 4.0])
def test_throughput_of_one_network_from_a_thousand_to_a_hundred_thousand_regions(benchmark, radius):
    net = mlp(2, 160, 160, 160, 2)
    found = benchmark.pedantic(partition, (net, box(radius)), rounds=5, warmup_rounds=1)
    ours = benchmark.stats.stats.min if benchmark.stats else seconds(lambda: partition(net, box(radius)))
    copying, products = unavoidable(net, found)
    report = {"regions": len(found.maps), "regions_per_s": len(found.maps) / ours}
    benchmark.extra_info.update(report, copying_s=copying, products_s=products)
    print(f"\nbox {radius}: {report}, copying {copying:.4f} s, products {products:.4f} s of {ours:.4f} s")
