"""One graph-training step on real Cora: one weight an edge beside the released code's dense form.

Times are printed and stored with the benchmark, never asserted: they differ from machine to machine.
"""

import os
import statistics
import time
from pathlib import Path

import pytest
import torch

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


def test_a_graph_step_beside_the_dense_form(benchmark, cora, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # run alone, pytest puts only this folder there
    from oracles.dense_gebt import DenseGraphTraining

    net = GCN(Features(cora.x), Pattern(cora.edges, cora.num_nodes), cora.num_classes)
    parameters = net.init([generator(0, "init")])
    task = method.Task(cora.y[None], cora.train[:1], cora.val[:1], cora.test[:1], seeds=[0])
    layers = [(parameters[f"{n}.weight"][0], parameters[f"{n}.bias"][0]) for n in (1, 2)]
    dense = DenseGraphTraining(cora.edges, cora.x, cora.y, cora.train[0], layers, 1e-3)
    dropout = dropout_masks([0], 0, (cora.num_nodes, net.width), method.DROPOUT)[0]

    first, times = dense.gradient(dropout), []
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

    # The same work was timed: on the untouched graph both have one gradient, up to the factor of four.
    assert run.trajectory.shape == (steps, 1, cora.num_edges)
    weights = torch.ones(1, cora.num_edges, requires_grad=True)
    graph = net.graph(weights)
    logits = net.logits(parameters, graph, task.dropout(0, net.hidden(parameters, graph)))
    task.loss(logits).sum().backward()
    ours, theirs = weights.grad[0] / 4, first[cora.edges[0], cora.edges[1]]
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
