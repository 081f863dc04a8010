"""One graph-training step on real Cora: one weight an edge beside the released code's dense form.

Times are printed and stored with the benchmark, never asserted: they differ from machine to machine.
"""

import os
import statistics
import time

import pytest
import torch
from oracles.dense_gebt import DenseGraphTraining

from workbench import data
from workbench.nets import GCN, Features, Pattern
from workbench.papers.gebt import method
from workbench.training import dropout_masks, generator


@pytest.fixture(scope="module")
def cora():
    if not os.environ.get("WORKBENCH_DATA"):
        pytest.skip("WORKBENCH_DATA does not name a folder with the real files")
    try:
        return data.planetoid("cora")
    except Exception as error:
        pytest.skip(f"no Cora: {error}")


def test_a_graph_step_beside_the_dense_form(benchmark, cora):
    net = GCN(Features(cora.x), Pattern(cora.edges, cora.num_nodes), cora.num_classes)
    parameters = net.init([generator(0, "init")])
    task = method.Task(cora.y[None], cora.train[:1], cora.val[:1], cora.test[:1], seeds=[0])
    layers = [(parameters[f"{n}.weight"][0], parameters[f"{n}.bias"][0]) for n in (1, 2)]
    dense = DenseGraphTraining(cora.edges, cora.x, cora.y, cora.train[0], layers, 1e-3)
    dropout = dropout_masks([0], 0, (cora.num_nodes, net.width), method.DROPOUT)[0]

    times = []
    for _ in range(2):
        begin = time.perf_counter()
        dense.step(dropout)
        times.append(time.perf_counter() - begin)
    steps = 10
    begin = time.perf_counter()
    run = benchmark(method.train_graph, net, parameters, task, steps, 1e-3)
    elapsed = time.perf_counter() - begin
    ours = (benchmark.stats.stats.median if benchmark.stats else elapsed) / steps
    ratio = statistics.median(times) / ours
    benchmark.extra_info.update(dense_step_s=statistics.median(times), edge_step_s=ours, ratio=ratio)
    print(f"\nCora graph step: dense {statistics.median(times):.3f} s, edges {ours:.4f} s, {ratio:.0f} times")

    # Same work: the first step of both goes the same way (Adam's first step is the gradient's sign).
    first = run.trajectory[0, 0]
    assert first.shape == (cora.num_edges,)
    i, j = cora.edges
    check = DenseGraphTraining(cora.edges, cora.x, cora.y, cora.train[0], layers, 1e-3)
    check.step(dropout)
    torch.testing.assert_close(first, check.copies[0].detach()[i, j], atol=2e-4, rtol=0)
