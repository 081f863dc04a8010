"""A reader's graph: given as pairs one way or both, as a sparse matrix or by PyG, it is one graph, or one line."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data

from workbench import WorkbenchError
from workbench.data import Graph, undirected
from workbench.nets import GCN, Features, Pattern

# Four nodes: a triangle 0-1-2 and a tail 2-3, by hand.
FOUR = torch.tensor([[0, 0, 1, 2], [1, 2, 2, 3]])
ADJACENCY = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 1], [0, 0, 1, 0]])


def both_ways(pairs):
    return torch.cat([pairs, pairs.flip(0)], 1)


@pytest.mark.parametrize(
    "given_as",
    [
        FOUR,
        FOUR.flip(0),
        both_ways(FOUR),
        both_ways(FOUR)[:, torch.tensor([5, 0, 3, 7, 2, 1, 4, 6])],
        torch.cat([both_ways(FOUR), torch.tensor([[1, 3], [1, 3]])], 1),
        FOUR.int(),
        FOUR.numpy(),
        FOUR.tolist(),
        ADJACENCY.to_sparse(),
        ADJACENCY.float().to_sparse_csr(),
        Data(edge_index=both_ways(FOUR), num_nodes=4),
    ],
    ids=[
        "once",
        "other way",
        "both ways",
        "in any order",
        "with loops",
        "int32",
        "numpy",
        "lists",
        "COO",
        "CSR",
        "PyG",
    ],
)
def test_four_nodes_are_four_edges_whatever_they_are_given_as(given_as):
    assert torch.equal(undirected(given_as), FOUR)


@given(st.data())
@settings(max_examples=60)
def test_doubling_turning_and_loops_change_neither_graph_nor_what_it_costs(data):
    nodes = data.draw(st.integers(2, 12))
    ends = st.integers(0, nodes - 1)
    pairs = torch.tensor(data.draw(st.lists(st.tuples(ends, ends), min_size=1, max_size=30))).T
    assume((pairs[0] != pairs[1]).any())
    edges = undirected(pairs, nodes)
    told = {tuple(sorted(pair)) for pair in pairs.T.tolist() if pair[0] != pair[1]}
    assert sorted(told) == edges.T.tolist() or sorted(map(list, told)) == edges.T.tolist()
    loops = torch.arange(nodes).expand(2, -1)
    order = torch.tensor(data.draw(st.permutations(range(2 * pairs.shape[1] + nodes))))
    again = undirected(torch.cat([both_ways(pairs), loops], 1)[:, order], nodes)
    assert torch.equal(again, edges)
    first, second = Pattern(edges, nodes), Pattern(again, nodes)
    assert first.num_edges == second.num_edges == len(told)  # of a mask, and of the messages that are counted
    assert len(first.rows) == 2 * len(told) + nodes


REFUSED = {
    "of float32": (FOUR.float(), None, "nodes are whole numbers from 0, not torch.float32"),
    "turned": (FOUR.T, None, r"the shape \[2, M\], not \[4, 2\]"),
    "negative": (FOUR - 1, None, "node -1"),
    "beyond": (FOUR, 3, "node 3, and there are 3 nodes"),
    "only loops": (torch.tensor([[1, 2], [1, 2]]), None, "no edge between two nodes"),
    "empty": (torch.empty(2, 0, dtype=torch.long), None, "no edge between two nodes"),
    "weighted matrix": ((2 * ADJACENCY).to_sparse(), None, "a square matrix of ones"),
    "oblong matrix": (ADJACENCY[:3].to_sparse(), None, "a square matrix of ones"),
    "weights": (Data(edge_index=FOUR, edge_weight=torch.ones(4), num_nodes=4), None, "edge_weight would be lost"),
    "attributes": (Data(edge_index=FOUR, edge_attr=torch.ones(4, 2), num_nodes=4), None, "edge_attr would be lost"),
    "beyond in PyG": (Data(edge_index=FOUR, num_nodes=3), None, "node 3, and there are 3 nodes"),
    "a word": ("cora", None, "cannot read a graph from str"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_graph_is_refused_in_one_line(name):
    graph, nodes, line = REFUSED[name]
    with pytest.raises(WorkbenchError, match=line) as refused:
        undirected(graph, nodes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("edges", [both_ways(FOUR), torch.cat([FOUR, FOUR], 1), FOUR.flip(0)])
def test_edges_that_would_count_twice_are_refused_by_a_graph_and_by_a_pattern(edges):
    x, ids = torch.zeros(4, 3), torch.arange(4)[None]
    for make in (lambda: Pattern(edges, 4), lambda: Graph("mine", x, torch.zeros(4).long(), edges, ids, ids, ids)):
        with pytest.raises(WorkbenchError, match=r"workbench\.data\.undirected\(edges\)"):
            make()


def test_a_node_beyond_the_last_ends_in_a_line_and_not_the_process():
    code = (
        "import torch; from workbench.nets import GCN, Features, Pattern\n"
        "net = GCN(Features(torch.ones(4, 3)), Pattern(torch.tensor([[0, 1], [1, 10**9]]), 4), 2)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert "WorkbenchError: edges lead to node 1000000000, and there are 4 nodes" in run.stderr


def test_a_gcn_on_four_nodes_counts_each_edge_once_each_way():
    net = GCN(Features(torch.eye(4)), Pattern(undirected(both_ways(FOUR)), 4), 2)
    degrees = ADJACENCY.sum(0) + 1
    assert np.array_equal(torch.bincount(net.pattern.rows).numpy(), degrees.numpy())
