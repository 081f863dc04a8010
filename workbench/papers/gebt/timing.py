"""Wall time of tickets before and after, and how time and memory of graph training grow with the graph.

Run alone, one process, one thread: the variants of a comparison take turns, so that a busy moment hits them all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from workbench.nets import GCN, Features, Parameters, Pattern
from workbench.papers.gebt import method
from workbench.training import generator

if TYPE_CHECKING:
    from workbench.papers.gebt.experiment import Bench, Config


def median_ms(calls: Mapping[Any, Callable[[], Any]], repeats: int = 15) -> dict[Any, float]:
    """Median wall time in ms of each call, the calls taking turns after one turn that is not counted."""
    times: dict[Any, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: float(np.median(taken[1:])) for name, taken in times.items()}


@dataclass(frozen=True, eq=False)  # a key by identity: tensors do not compare
class Ticket:
    """One model's ticket: bool ``[E]`` edges that stay, the weights it starts from, and their masks."""

    name: str
    p_g: float
    p_w: float
    edges: Tensor
    start: Parameters
    masks: Parameters


def shrink(bench: Bench, ticket: Ticket) -> tuple[GCN, Parameters, Parameters]:
    """The ticket's network without its removed edges, and without features and hidden units that pass nothing on.

    Single zeros inside what is left are still multiplied: a dense kernel gains nothing from them.
    """
    first, second = (ticket.masks[name][0] for name in ("1.weight", "2.weight"))
    fed = first.any(0) | (ticket.start["1.bias"][0, 0] > 0)  # a bias alone still passes the ReLU
    features, units = first.any(1), fed & second.any(1)
    if not units.any():  # nothing passes: keep one unit, of zeros, as something to multiply
        features[0] = units[0] = True
    graph = bench.graph
    net = GCN(Features(graph.x[:, features]), Pattern(graph.edges[:, ticket.edges], graph.num_nodes), graph.num_classes)
    cut = lambda p: {  # noqa: E731
        "1.weight": p["1.weight"][:, features][..., units],
        "2.weight": p["2.weight"][:, units],
    }
    start = {name: p * ticket.masks[name] if name in ticket.masks else p for name, p in ticket.start.items()}
    start |= cut(start) | {"1.bias": start["1.bias"][..., units]}
    return net, start, cut(ticket.masks)


def wall_time(bench: Bench, config: Config, tickets: Sequence[Ticket]) -> list[dict[str, Any]]:
    """Wall time of each ticket: an epoch of search and of (re)training, and one inference; the first is dense."""
    task, rows = bench.task(1, 1), []
    search, training, inference = ({} for _ in range(3))
    for ticket in tickets:
        net, start, masks = shrink(bench, ticket)
        ones = torch.ones(1, net.pattern.num_edges)
        graph = net.graph(ones)
        infer = lambda n=net, s=start, g=graph: n.logits(s, g, n.hidden(s, g))  # noqa: E731
        full, zeros = ticket.start, torch.tensor([ticket.p_w], dtype=torch.float64)
        if ticket.name == "GEB":
            search[ticket] = lambda f=full: method.train_graph(bench.net, f, task, 5, config.graph_lr)
        elif ticket.name == "joint":
            search[ticket] = lambda f=full, p=zeros: method.joint_search(
                bench.net, f, task, p, 5, config.joint_lr, lambda _: False
            )
        kept = masks if ticket.p_w else None
        training[ticket] = lambda n=net, s=start, w=ones, m=kept: method.train_network(n, s, w, task, 5, m)
        inference[ticket] = torch.no_grad()(infer)
        dead = [bench.graph.x.shape[1] - net.features.shape[1], net.width - start["2.weight"].shape[1]]
        labels = {"dataset": bench.name, "ticket": ticket.name, "p_g": ticket.p_g, "p_w": ticket.p_w}
        rows.append(labels | {"features_removed": dead[0], "units_removed": dead[1]})
    taken = [median_ms(search, 5), median_ms(training, 7), median_ms(inference)]
    for row, ticket in zip(rows, tickets, strict=True):
        row["search_epoch_ms"] = taken[0].get(ticket, np.nan) / 5
        row["train_epoch_ms"], row["inference_ms"] = taken[1][ticket] / 5, taken[2][ticket]
    return rows


def growth(config: Config) -> list[dict[str, Any]]:
    """Time and peak memory of one epoch of graph training on generated graphs; a dense form's memory beside it."""
    rows = []
    for edges in config.growth_edges:
        nodes, g = edges // 5, generator(config.seed, "growth", edges)
        pairs = torch.randint(nodes, (2, int(1.02 * edges) + 100), generator=g).sort(0).values
        pairs = torch.unique(pairs[:, pairs[0] < pairs[1]], dim=1)
        pairs = pairs[:, torch.randperm(pairs.shape[1], generator=g)[:edges].sort().values]
        net = GCN(Features(torch.randn(nodes, 16, generator=g)), Pattern(pairs, nodes), 4)
        y, ids = torch.randint(4, (1, nodes), generator=g), torch.arange(nodes)[None]
        task = method.Task(y, ids, ids, ids, [config.seed])
        start = net.init([g])
        epoch = lambda n=net, s=start, t=task: method.train_graph(n, s, t, 1, 1e-3)  # noqa: E731
        ms, peak = median_ms({0: epoch}, 3)[0], _peak_bytes(epoch)
        rows.append(
            {"edges": pairs.shape[1], "nodes": nodes, "epoch_ms": ms, "peak_mb": peak / 1e6}
            | {"dense_mb": 2 * 4 * nodes**2 / 1e6}  # two float32 copies and nothing else
        )
    return rows


def _peak_bytes(call: Any) -> int:
    """Largest sum of tensor bytes alive during the call, beyond those alive before it."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler writes two lines to stderr
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    alive, peak = 0, 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak
