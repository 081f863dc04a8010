"""What a GCN pass costs: the count behind GEBT's Table 2, recovered from its printed cells, and honest ones.

A multiply-accumulate is called a MAC here; the paper prints the same number as FLOPs.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pandas as pd

from workbench.dataflow import Layer
from workbench.evidence import published

HIDDEN = 16
GRID = tuple(round(0.1 * step, 1) for step in range(10))
"""Pruning ratios that the paper draws tickets at; it does not print which pair belongs to a row of Table 2."""


@dataclass(frozen=True)
class Shape:
    """N nodes, E undirected edges, F features, C classes of a citation graph, as GEBT's Table 1 prints them."""

    N: int
    E: int
    F: int
    C: int


SHAPES = {
    "cora": Shape(2708, 5429, 1433, 7),
    "citeseer": Shape(3312, 4732, 3703, 6),
    "pubmed": Shape(19717, 44338, 500, 3),
}

NONZEROS = {"cora": 49_216, "citeseer": 105_165}
"""Non-zero features of all nodes together, counted in the publishers' files."""


def inference_macs(shape: Shape, p_g: float = 0.0, p_w: float = 0.0, network: str = "gcn") -> float:
    """MACs of one pass as Table 2 counts them.

    GCN and GIN: ``(1 - p_g) 2EF + (1 - p_w) (NFH + NHC)`` with H = 16. The first layer aggregates dense raw
    features; the second layer's aggregation and the self-loops are not counted. GAT is 8 times that (its
    heads). GraphSAGE is 100 times the transforms alone, without any aggregation.
    """
    aggregate = (1 - p_g) * 2 * shape.E * shape.F
    transform = (1 - p_w) * shape.N * HIDDEN * (shape.F + shape.C)
    return {
        "gcn": aggregate + transform,
        "gin": aggregate + transform,
        "gat": 8 * (aggregate + transform),
        "sage": 100 * transform,
    }[network]


COUNTERS = ("as Table 2 counts", "aggregate first", "transform first", "transform first, sparse features")


def gcn_macs(dataset: str, counter: str, p_g: float, p_w: float) -> dict[str, float]:
    """MACs of one GCN pass split into ``{"aggregate": ..., "transform": ...}``, for one of `COUNTERS`.

    The three honest counters include every term (both aggregations, self-loops; the second layer transforms
    first) and differ in how the first layer is computed: (A X) W, A (X W), or A (X W) with sparse X.
    """
    shape = SHAPES[dataset]
    if counter == COUNTERS[0]:
        return {
            "aggregate": (1 - p_g) * 2 * shape.E * shape.F,
            "transform": (1 - p_w) * shape.N * HIDDEN * (shape.F + shape.C),
        }
    entries = (1 - p_g) * 2 * shape.E + shape.N
    width = shape.F if counter == "aggregate first" else HIDDEN
    inputs = NONZEROS[dataset] if counter.endswith("sparse features") else shape.N * shape.F
    return {
        "aggregate": entries * (width + shape.C),
        "transform": (1 - p_w) * (inputs * HIDDEN + shape.N * HIDDEN * shape.C),
    }


def layers(dataset: str, p_g: float, p_w: float, bits: int = 8) -> list[Layer]:
    """The four products of a GCN pass that transforms first, for `hardware.breakdown`.

    A matrix of the graph is stored as its entries, each with its column; pruned weights as those that are left and a
    mask of one bit a weight. Zeros among the features and the weights are not multiplied, but are moved.
    """
    shape = SHAPES[dataset]
    entries, store = (1 - p_g) * 2 * shape.E + shape.N, min(bits, (1 - p_w) * bits + 1)
    zeros = 1 - NONZEROS[dataset] / (shape.N * shape.F)
    width = {"weight_bits": bits, "input_bits": bits, "output_bits": bits}
    pruned = width | {"weight_zeros": p_w, "weight_store": store}
    graph = width | {"density": entries / shape.N**2, "weight_store": bits + math.ceil(math.log2(shape.N))}
    return [
        Layer("transform 1", N=shape.N, C=shape.F, K=HIDDEN, input_zeros=zeros, **pruned),
        Layer("aggregate 1", N=HIDDEN, C=shape.N, K=shape.N, **graph),
        Layer("transform 2", N=shape.N, C=HIDDEN, K=shape.C, **pruned),
        Layer("aggregate 2", N=shape.C, C=shape.N, K=shape.N, **graph),
    ]


def table2() -> pd.DataFrame:
    """Every cost cell of Table 2 beside the formula; one row a cell, in MMACs.

    A ticket's row takes the pair (p_g, p_w) of the paper's grid that comes nearest, and ``pairs`` says how many
    pairs come within 0.5 %: with several, the pair is not identified.
    """
    cells = published("gebt")
    rows = []
    for key in cells.index[cells.index.str.startswith("gebt.table2.")]:
        _, _, dataset, name = key.split(".")
        network, ticket = name.removeprefix("gebt_"), name.startswith("gebt_")
        printed = cells.loc[key, "value"]
        # GraphSAGE's count has no edges in it, so p_g cannot show there.
        pairs = itertools.product(GRID if network != "sage" else (0.0,), GRID) if ticket else [(0.0, 0.0)]
        found = [(inference_macs(SHAPES[dataset], *pair, network) / 1e6, *pair) for pair in pairs]
        macs, p_g, p_w = min(found, key=lambda f: abs(f[0] - printed))
        close = sum(abs(f[0] / printed - 1) <= 0.005 for f in found)
        rows.append((key, dataset, name, printed, macs, p_g, p_w, close))
    return pd.DataFrame(rows, columns=["id", "dataset", "row", "published", "macs", "p_g", "p_w", "pairs"])


def saving_against_sgcn() -> pd.DataFrame:
    """Savings of tickets against SGCN (three stages of 100 epochs, the last on the pruned graph), in percent.

    One row for each ticket, graph, p_g of 10 to 80 % and published first and last emergence epoch e. A GEB
    ticket pays 100 epochs of pretraining, e of graph training and 100 pruned ones; a joint ticket at
    p_w = 90 % pays e dense epochs and 100 pruned ones. A training epoch costs the same multiple of a pass
    everywhere, so it cancels. The paper prints ranges without saying which p_g they span.
    """
    cells, rows = published("gebt")["value"], []
    for dataset, ticket, p_g, end in itertools.product(
        ("cora", "citeseer"), ("geb", "joint"), GRID[1:9], ("first", "last")
    ):
        shape, epoch = SHAPES[dataset], cells[f"gebt.emergence.{dataset}.{ticket}_{end}"]
        dense, sgcn = inference_macs(shape), inference_macs(shape, p_g)
        drawn = inference_macs(shape, p_g, 0.9 if ticket == "joint" else 0.0)
        search = epoch * dense + (100 * dense if ticket == "geb" else 0)
        train = 1 - (search + 100 * drawn) / (200 * dense + 100 * sgcn)
        rows.append((dataset, ticket, p_g, epoch, 100 * train, 100 * (1 - drawn / sgcn)))
    return pd.DataFrame(rows, columns=["dataset", "ticket", "p_g", "epoch", "training", "inference"])
