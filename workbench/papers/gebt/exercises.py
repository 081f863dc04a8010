"""Exercises on early-bird tickets of graph networks."""

import torch
from torch import Tensor

from workbench.exercises import Exercise
from workbench.papers.gebt import cost

RING = torch.tensor([[0, 1, 0, 1.0], [1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]])
STAR = torch.tensor([[0, 0.5, 1.0], [0.5, 0, 0], [1.0, 0, 0]])
KEPT = torch.tensor([1, 1, 1, 0, 0, 1, 1, 1]).bool()
LATER = torch.tensor([1, 0, 0, 1, 0, 1, 1, 1]).bool()
TIED = torch.tensor([1.0, 0.5, 1.0, 1.0, 1.0, 1.2, 0.7, 1.0, 1.0, 2.0])
CITESEER = cost.SHAPES["citeseer"]


def _normalised(a: Tensor, loops: float, degree_loops: float) -> Tensor:
    scale = (a.sum(1) + degree_loops).rsqrt()
    return scale[:, None] * (a + loops * torch.eye(len(a))) * scale


def _draw(weights: Tensor, p: float, largest: bool = False) -> Tensor:
    dropped = weights.argsort(descending=largest, stable=True)[: int(p * len(weights))]
    return torch.ones(len(weights), dtype=torch.bool).index_fill(0, dropped, False)


EXERCISES = {
    "gebt.normalise": Exercise(
        "write f(A) for a symmetric A [N, N] without loops: D^-1/2 (A + I) D^-1/2, D the row sums of A + I.",
        lambda a: _normalised(a, 1, 1),
        "this is the matrix that a GCN multiplies by, and what an edge's weight enters twice: A and D.",
        [
            (lambda a: _normalised(a, 0, 0), "the identity is missing: a node must hear itself."),
            (lambda a: _normalised(a, 0, 1), "the loops are in D and not in the matrix: use A + I in both."),
            (lambda a: _normalised(a, 1, 0), "the degrees are taken before the loops were added."),
            (lambda a: a / a.sum(1, keepdim=True), "that is D^-1 A: rows alone, and no loops."),
            (lambda a: (a + torch.eye(len(a))) / (a.sum(1)[:, None] + 1), "that is D^-1 (A + I): rows alone."),
        ],
        [(RING,), (STAR,)],
    ),
    "gebt.mask_distance": Exercise(
        "write f(mask_a, mask_b) for bool masks [E]: the fraction of entries that differ.",
        lambda a, b: (a != b).float().mean(),
        "a Hamming distance: 0 for equal masks, and what the early-bird detector watches.",
        [
            (lambda a, b: (a != b).float().sum(), "that is a count; divide by the number of entries."),
            (lambda a, b: (a == b).float().mean(), "that is the overlap, 1 - distance."),
            (lambda a, b: (a & ~b).float().mean(), "entries that were dropped and came back count too."),
            (lambda a, b: (a & b).sum() / a.sum(), "that is the share of kept entries that stay."),
        ],
        [(KEPT, LATER), (LATER, KEPT), (KEPT, KEPT)],
    ),
    "gebt.draw": Exercise(
        "write f(weights, p) for weights [E]: a bool mask that drops exactly int(p E) of the smallest.",
        _draw,
        "exactly int(p E) are gone, ties or not; which of the tied ones go is a choice, so make it by a seed.",
        [
            (
                lambda w, p: w > w.sort().values[int(p * len(w)) - 1],
                "a threshold drops all edges that tie with it, and untrained edges tie at 1: sort, then count.",
            ),
            (
                lambda w, p: w >= w.sort().values[int(p * len(w))],
                "a threshold keeps all edges that tie with it: too few go. Sort, then count.",
            ),
            (lambda w, p: _draw(w, p, largest=True), "you dropped the largest."),
            (lambda w, p: ~_draw(w, p), "the mask is inverted: True means kept."),
        ],
        [(TIED, 0.4), (TIED, 0.25)],
        lambda mask, weights, p: (weights * mask).sort().values,  # any of the tied ones may go
    ),
    "gebt.macs": Exercise(
        "how many million MACs has one pass of the CiteSeer ticket with p_g = 0.1, p_w = 0.9, as Table 2 counts?",
        cost.inference_macs(CITESEER, 0.1, 0.9) / 1e6,
        "most of the saving comes from p_w: the transform is the larger term of the dense network.",
        [
            (cost.inference_macs(CITESEER) / 1e6, "that is the dense network, nothing pruned."),
            (cost.inference_macs(CITESEER, 0.9, 0.1) / 1e6, "p_g and p_w are swapped: p_g prunes edges."),
            (2 * cost.inference_macs(CITESEER, 0.1, 0.9) / 1e6, "a multiply and its add are one MAC here."),
            (cost.inference_macs(CITESEER, 0.1, 0.9), "in millions, please."),
        ],
    ),
}
