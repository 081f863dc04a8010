"""GEBT measured: which tickets, drawn when, are worth what, beside every control that could explain them away.

Tables are tidy, one row a seed; accuracies in percent. All arms of a seed share initial weights and dropout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pandas as pd
import torch
from joblib import Parallel, delayed
from torch import Tensor

from workbench import data, early_bird, papers
from workbench.evidence import (
    Claim,
    Interval,
    Result,
    above,
    claims_from,
    contrast,
    equals,
    inside,
    interval_or_none,
    not_worse,
    published,
)
from workbench.nets import (
    GAT,
    GCN,
    GIN,
    SAGE,
    Features,
    GraphNet,
    Parameters,
    Pattern,
)
from workbench.papers import Among, Count, Factor, Range, Rate, Ratio, Several, Spread
from workbench.papers.gebt import cost, method
from workbench.papers.gebt.channels import channel_tickets
from workbench.papers.gebt.timing import Ticket, growth, wall_time
from workbench.training import generator

CONVS: dict[str, type[GraphNet]] = {"gcn": GCN, "gin": GIN, "sage": SAGE, "gat": GAT}
MARGIN = 1.0
"""Points of accuracy that "no loss" may cost; fixed before the runs."""
SIDE_BY_SIDE = 20
"""Models trained as one: more no longer fits the cache and is slower a model."""


@dataclass(frozen=True)
class Config(papers.Config):
    """Parameters of the GEBT experiment.

    ``epochs`` of every training and search; ``graph_lr`` and ``joint_lr`` of the edges; ``p_g`` edge ratios;
    ``draw_epochs`` at which tickets are drawn; ``conv_p_g`` the ratios retrained with every layer; ``pairs``
    (p_g, p_w) of joint tickets with all controls; ``grid_g`` x ``grid_w`` joint tickets without; ``eta``,
    ``joint_eta`` (raw fractions) and ``fifo`` of the detectors; ``rho`` of the ADMM regulariser; ``lr`` of networks;
    ``grid_seeds`` and ``conv_seeds`` of the seeds are used where all would take too long; ``channel_*`` the
    convolutional net; ``growth_edges`` sizes of the generated graphs.
    """

    datasets: tuple[Annotated[str, Among(("digits", "cora", "citeseer"))], ...] = ("digits",)
    epochs: Count = 30
    lr: Rate = 0.03
    graph_lr: Rate = 1e-2
    joint_lr: Rate = 1e-3
    p_g: tuple[Ratio, ...] = (0.2, 0.6)
    draw_epochs: tuple[Count, ...] = (1, 10, 30)
    pairs: tuple[tuple[Ratio, Ratio], ...] = ((0.2, 0.8),)
    grid_g: tuple[Ratio, ...] = (0.0, 0.4, 0.8)
    grid_w: tuple[Ratio, ...] = (0.0, 0.5, 0.9)
    grid_seeds: Spread = 3
    conv_seeds: Spread = 2
    conv_p_g: tuple[Ratio, ...] = (0.6,)
    eta: Annotated[float, Range(0, 1_000, open=True)] = 0.1
    joint_eta: Annotated[float, Range(0, 1_000, open=True)] = 0.02
    fifo: Count = 3
    rho: Factor = 1e-3
    channel_ratios: tuple[Ratio, ...] = (0.5,)
    channel_epochs: Count = 10
    channel_seeds: Spread = 2
    channel_widths: Annotated[tuple[Annotated[int, Range(1, 1_024)], ...], Several(1, 6, unique=False)] = (16, 16, 32)
    growth_edges: tuple[Annotated[int, Range(1_000, 10**8)], ...] = (10_000, 30_000, 100_000)

    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "full": {
            "datasets": ("cora", "citeseer"),
            "seeds": 20,
            "epochs": 100,
            "lr": 0.01,
            "graph_lr": 1e-3,
            "p_g": (0.1, 0.2, 0.4, 0.6),
            "draw_epochs": (1, 2, 5, 10, 20, 50, 100),
            "pairs": ((0.2, 0.8), (0.1, 0.9), (0.6, 0.7)),
            "grid_g": (0.0, 0.2, 0.4, 0.6, 0.8),
            "grid_w": (0.0, 0.5, 0.7, 0.8, 0.9),
            "grid_seeds": 10,
            "conv_seeds": 10,
            "conv_p_g": (0.2, 0.6),
            "channel_ratios": (0.3, 0.5, 0.7),
            "channel_epochs": 40,
            "channel_seeds": 5,
            "channel_widths": (32, 32, 64),
            "growth_edges": (10_000, 30_000, 100_000, 300_000, 1_000_000),
        },
    }
    SCALES["paper"] = SCALES["full"]  # the paper's own networks and graphs fit a laptop

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        self.require("epochs", self.epochs > self.fifo + 1, "exceed fifo + 1, or no detector can fire")
        epochs = all(e <= self.epochs for e in self.draw_epochs)
        self.require("draw_epochs", epochs, f"lie in 1..epochs ({self.epochs})")

    @property
    def retrained(self) -> tuple[float, ...]:
        """Those of ``conv_p_g`` that are among ``p_g``, else the largest of these."""
        return tuple(p for p in self.conv_p_g if p in self.p_g) or (max(self.p_g),)


@dataclass(frozen=True)
class Arm:
    """One way to train S networks, one a seed: start ``[S, ...]``, edge weights ``[S, E]``, weight masks."""

    start: Parameters
    weights: Tensor
    masks: Parameters | None = None


class Bench:
    """A graph with its paired seeds: builds tasks and trains arms side by side."""

    def __init__(self, name: str, config: Config) -> None:
        self.name, self.seeds, self.lr, self.epochs = name, config.seed_list, config.lr, config.epochs
        self.graph = _graph(name, self.seeds)
        self.features, self.pattern = Features(self.graph.x), Pattern(self.graph.edges, self.graph.num_nodes)
        self.net = self.network("gcn")
        self.ones = torch.ones(len(self.seeds), self.pattern.num_edges)

    def network(self, conv: str) -> GraphNet:
        """A network of that layer on this graph."""
        return CONVS[conv](self.features, self.pattern, self.graph.num_classes)

    def start(self, stream: str, conv: str = "gcn") -> Parameters:
        """Initial parameters of every seed from a named stream."""
        return self.network(conv).init([generator(seed, stream, conv) for seed in self.seeds])

    def task(self, copies: int = 1, count: int | None = None) -> method.Task:
        """The task of the first ``count`` seeds, repeated for ``copies`` arms."""
        g, count = self.graph, count or len(self.seeds)
        rows = [part.expand(len(self.seeds), -1)[:count].repeat(copies, 1) for part in (g.train, g.val, g.test)]
        labels = g.y.expand(copies * count, -1)
        return method.Task(labels, *rows, seeds=self.seeds[:count] * copies)

    def random_edges(self, p: float) -> Tensor:
        """A uniformly random edge mask of each seed."""
        noise = [torch.rand(self.pattern.num_edges, generator=generator(s, "random edges")) for s in self.seeds]
        return method.draw_edges(torch.stack(noise), p, self.seeds)

    def oracle_edges(self, p: float) -> Tensor:
        """Drop edges between classes first. It reads all labels: a ceiling, never a method."""
        i, j = self.graph.edges
        same = (self.graph.y[i] == self.graph.y[j]).float()
        return method.draw_edges(same.expand(len(self.seeds), -1), p, self.seeds)

    def train(self, arms: Mapping[Any, Arm], conv: str = "gcn") -> Iterator[tuple[Any, method.Training]]:
        """Train all arms, as many side by side as fit the cache; yields each arm's name and training."""
        net = self.network(conv)
        for masked in (False, True):
            names = [name for name, arm in arms.items() if (arm.masks is not None) == masked]
            size = max(1, SIDE_BY_SIDE // len(self.seeds))
            for first in range(0, len(names), size):
                block = names[first : first + size]
                count = len(arms[block[0]].weights)
                start, masks = ({} for _ in range(2))
                for name in arms[block[0]].start:
                    start[name] = torch.cat([arms[b].start[name] for b in block])
                if masked:
                    for name in arms[block[0]].masks:
                        masks[name] = torch.cat([arms[b].masks[name] for b in block])
                weights = torch.cat([arms[b].weights.float() for b in block])
                run = method.train_network(
                    net, start, weights, self.task(len(block), count), self.epochs, masks, self.lr
                )
                for position, name in enumerate(block):
                    yield name, run.part(slice(position * count, (position + 1) * count))


def _rows(bench: Bench, accuracy: Tensor, **labels: Any) -> list[dict[str, Any]]:
    """Tidy rows, one a seed, accuracy in percent."""
    seeds = bench.seeds[: len(accuracy)]
    return [
        {"dataset": bench.name, **labels, "seed": s, "accuracy": 100 * a}
        for s, a in zip(seeds, accuracy.tolist(), strict=True)
    ]


def _own_task(bench: Bench, parameters: Parameters) -> method.Task:
    """Our variant's task: all nodes count, labelled by the frozen network except where the label is known."""
    with torch.no_grad():
        graph = bench.net.graph(bench.ones)
        guess = bench.net.logits(parameters, graph, bench.net.hidden(parameters, graph)).argmax(-1)
    task = bench.task()
    labels = guess.scatter(1, task.train, task.labels.gather(1, task.train))
    nodes = torch.arange(bench.graph.num_nodes).expand(len(bench.seeds), -1)
    return method.Task(labels, nodes, task.val, task.test, task.seeds)


# --- the parts of the experiment -----------------------------------------------------------------------------

EMERGENCE_RATIOS = tuple(round(0.1 * step, 1) for step in range(1, 10))


def _ranks(trajectory: Tensor, seeds: Sequence[int]) -> Tensor:
    """Rank of every edge at every epoch of ``[T, S, E]``, as ``[S, T, E]``: sorted once, it serves every ratio."""
    return torch.stack([method.rank_edges(trajectory[:, k], [s] * len(trajectory)) for k, s in enumerate(seeds)])


def _distances(ranks: Tensor, p: float) -> Tensor:
    """Pairwise mask distances ``[S, T, T]`` when every epoch's graph is pruned at p."""
    return early_bird.pairwise_distance(ranks >= int(p * ranks.shape[-1]))


def _emergence_rows(
    bench: Bench, watched: Mapping[str, Tensor], eta: Mapping[str, float], after: int = 0, **labels: Any
) -> list[dict[str, Any]]:
    rows = []
    for rule, distance in watched.items():
        epochs = early_bird.emergence(distance, eta[rule], after).tolist()
        rows += [
            {"dataset": bench.name, **labels, "rule": rule, "seed": s, "epoch": e}
            for s, e in zip(bench.seeds, epochs, strict=True)
        ]
    return rows


def edge_tickets(bench: Bench, config: Config) -> dict[str, Any]:
    """GEB tickets: graph training under a frozen network, detectors, and retraining beside all controls."""
    fresh, pretrain = bench.start("fresh"), bench.start("pretrain")
    _, dense = next(bench.train({"dense": Arm(pretrain, bench.ones)}))
    learn = lambda admm=None, task=None, lr=config.graph_lr: method.train_graph(  # noqa: E731
        bench.net, dense.parameters, task or bench.task(), config.epochs, lr, admm
    )
    plain = learn()
    own = learn(task=_own_task(bench, dense.parameters), lr=1e-2)
    every = max(1, config.epochs // 4)  # the code runs 4 x 25 epochs
    pulled = {p: learn(method.Admm(p, config.rho, "sum", every)) for p in config.p_g}
    inert = learn(method.Admm(config.p_g[0], config.rho, "mean", every))

    admm = [
        {"dataset": bench.name, "search": "edges", "form": form, "p_g": p, "seed": s, "ratio": r}
        for form, p, run in [("mean", config.p_g[0], inert), *(("sum", p, run) for p, run in pulled.items())]
        for s, r in zip(bench.seeds, run.ratio.mean(0).tolist(), strict=True)
    ]
    emergence, pairwise, ranks = [], {}, _ranks(plain.trajectory, bench.seeds)
    for p in EMERGENCE_RATIOS:
        pairwise[p] = _distances(ranks, p)
        code = early_bird.detector_distance(pairwise[p], config.fifo)
        paper = early_bird.detector_distance(pairwise[p], config.fifo, "paper")
        first = early_bird.normalise_by_first
        watched = {"code": first(code, config.fifo), "paper": first(paper, config.fifo), "raw": code}
        emergence += _emergence_rows(bench, watched, dict.fromkeys(watched, config.eta), ticket="geb", p_g=p)
    for p, run in pulled.items():
        code = early_bird.detector_distance(_distances(_ranks(run.trajectory, bench.seeds), p), config.fifo)
        watched = {"code": early_bird.normalise_by_first(code, config.fifo)}
        emergence += _emergence_rows(bench, watched, {"code": config.eta}, ticket="geb + ADMM", p_g=p)

    last = plain.trajectory[-1]
    draw = lambda weights, p, **kwargs: method.draw_edges(weights, p, bench.seeds, **kwargs)  # noqa: E731
    arms: dict[Any, Arm] = {
        ("full", "fresh", 0.0): Arm(fresh, bench.ones),
        ("full", "inherited", 0.0): Arm(dense.parameters, bench.ones),
        ("no edges", "fresh", 1.0): Arm(fresh, 0 * bench.ones),
    }
    tickets = {}
    for p in config.p_g:
        masks = {
            "GEB": draw(last, p),
            "GEB + ADMM": draw(pulled[p].trajectory[-1], p),
            "ours": draw(own.trajectory[-1], p),
            "random": bench.random_edges(p),
            "reversed": draw(last, p, largest=True),
            "oracle": bench.oracle_edges(p),
        }
        tickets[p] = masks
        arms |= {(name, "fresh", p): Arm(fresh, mask) for name, mask in masks.items()}
        arms |= {(name, "inherited", p): Arm(dense.parameters, masks[name]) for name in ("GEB", "random")}
    accuracy = []
    for (arm, start, p), run in bench.train(arms):
        accuracy += _rows(bench, run.at_best_validation(), arm=arm, start=start, p_g=p)

    draws = []
    by_epoch = {(p, e): Arm(fresh, draw(plain.trajectory[e - 1], p)) for p in config.p_g for e in config.draw_epochs}
    for (p, e), run in bench.train(by_epoch):
        labels = {"ticket": "geb", "start": "fresh", "p_g": p, "p_w": 0.0, "epoch": e}
        draws += _rows(bench, run.at_best_validation(), **labels)

    convs = []
    for conv in CONVS:
        start = {name: value[: config.conv_seeds] for name, value in bench.start("fresh", conv).items()}
        arms = {("full", 0.0): Arm(start, bench.ones[: config.conv_seeds])}
        for p in config.retrained:
            arms |= {(arm, p): Arm(start, tickets[p][arm][: config.conv_seeds]) for arm in ("GEB", "random")}
        for (arm, p), run in bench.train(arms, conv):
            convs += _rows(bench, run.at_best_validation(), conv=conv, arm=arm, p_g=p)

    untouched = (~plain.touched).float().mean(1).tolist()
    return {
        "edges": accuracy,
        "draw": draws,
        "convs": convs,
        "emergence": emergence,
        "admm": admm,
        "untouched": [
            {"dataset": bench.name, "seed": s, "share": 100 * u} for s, u in zip(bench.seeds, untouched, strict=True)
        ],
        "pairwise": {p: d[0] for p, d in pairwise.items()},
        "tickets": _dense_and_geb(bench, tickets, fresh),
    }


def _dense_and_geb(bench: Bench, tickets: Mapping[float, Mapping[str, Tensor]], start: Parameters) -> list[Ticket]:
    """What is timed of the first seed: the dense network and its GEB tickets."""
    first = {name: value[:1] for name, value in start.items()}
    whole = {name: torch.ones_like(first[name], dtype=torch.bool) for name in ("1.weight", "2.weight")}
    dense = Ticket("dense", 0.0, 0.0, torch.ones(bench.pattern.num_edges, dtype=torch.bool), first, whole)
    return [dense, *(Ticket("GEB", p, 0.0, masks["GEB"][0], first, whole) for p, masks in tickets.items())]


def _joint_distance(weight_masks: Mapping[str, Tensor], fifo: int, rule: early_bird.Rule) -> tuple[Tensor, Tensor]:
    """Weight distance of a joint ticket, summed over layers: raw fraction of all weights, and normalised."""
    watched, sizes = [], []
    for masks in weight_masks.values():  # [T, K, n]
        pairs = early_bird.pairwise_distance(masks.transpose(0, 1))
        watched.append(early_bird.detector_distance(pairs, fifo, rule) * masks.shape[-1])
        sizes.append(masks.shape[-1])
    total = torch.stack(watched).sum(0)
    return total / sum(sizes), early_bird.normalise_by_first(total, fifo)


def joint_tickets(bench: Bench, config: Config) -> dict[str, Any]:
    """Joint tickets of graph and weights: all controls at ``pairs``, inherited accuracy over the grid."""
    first, fresh = bench.start("pretrain"), bench.start("fresh")
    seeds, S = bench.seeds, len(bench.seeds)
    joint, draws, emergence, lines, sparsity, admm, timed = ([] for _ in range(7))
    wanted = {*config.draw_epochs, config.epochs}
    references = {
        ("dense", "rewind"): Arm(first, bench.ones),
        ("dense", "fresh"): Arm(fresh, bench.ones),
    }
    dense_runs = dict(bench.train(references))
    references = {("dense", "inherited"): Arm(dense_runs["dense", "rewind"].parameters, bench.ones)}
    dense_runs |= dict(bench.train(references))
    for (arm, start), run in dense_runs.items():
        joint += _rows(bench, run.at_best_validation(), p_g=0.0, p_w=0.0, arm=arm, start=start)

    for p_g, p_w in config.pairs:
        search = _search(bench, first, bench.task(), [p_w] * S, config, wanted)
        sparsifier = method.Admm(p_g, config.rho, "sum", every=1)  # the code's joint loop updates every epoch
        pulled = _search(bench, first, bench.task(), [p_w] * S, config, wanted, sparsifier)
        admm += [
            {"dataset": bench.name, "search": "joint", "form": "sum", "p_g": p_g, "seed": s, "ratio": r}
            for s, r in zip(seeds, pulled.ratio.mean(0).tolist(), strict=True)
        ]
        for run, name in ((search, "joint"), (pulled, "joint + ADMM")):
            d_g, d_w, watched = _watched_by_joint_detector(run, p_g, config, seeds)
            eta = {"code": config.eta, "paper": config.eta, "raw": config.joint_eta}
            emergence += _emergence_rows(bench, watched, eta, after=5, ticket=name, p_g=p_g, p_w=p_w)
            if run is search:
                lines += [
                    {"dataset": bench.name, "p_g": p_g, "p_w": p_w, "epoch": t + 1, "edges": g, "weights": w}
                    for t, (g, w) in enumerate(zip(d_g[0].tolist(), d_w[0].tolist(), strict=True))
                ]

        def ticket(
            epoch: int, run: method.JointSearch = search, p_g: float = p_g
        ) -> tuple[Parameters, Tensor, Parameters]:
            parameters = run.snapshots[epoch]
            kept = {name: m[epoch - 1].view_as(parameters[name]) for name, m in run.weight_masks.items()}
            return parameters, method.draw_edges(run.edges[epoch - 1], p_g, seeds), kept

        inherited, edges, kept = ticket(config.epochs)
        random_edges, random_kept = bench.random_edges(p_g), _random_masks(kept, seeds)
        with_admm = ticket(config.epochs, pulled)
        one = [{name: value[:1] for name, value in part.items()} for part in (inherited, kept)]
        timed.append(Ticket("joint", p_g, p_w, edges[0], *one))
        arms = {
            ("ticket", "inherited"): Arm(inherited, edges, kept),
            ("ticket", "rewind"): Arm(first, edges, kept),
            ("ticket", "fresh"): Arm(fresh, edges, kept),
            ("ticket + ADMM", "inherited"): Arm(*with_admm),
            ("ticket + ADMM", "rewind"): Arm(first, *with_admm[1:]),
            ("random edges", "inherited"): Arm(inherited, random_edges, kept),
            ("random edges", "rewind"): Arm(first, random_edges, kept),
            ("random weights", "rewind"): Arm(first, edges, random_kept),
            ("both random", "rewind"): Arm(first, random_edges, random_kept),
            ("all edges", "rewind"): Arm(first, bench.ones, kept),
        }
        for (arm, start), run in bench.train(arms):
            joint += _rows(bench, run.at_best_validation(), p_g=p_g, p_w=p_w, arm=arm, start=start)
            before = sum(int(mask.sum()) for mask in arms[arm, start].masks.values()) / S
            after = sum(int((run.parameters[name] != 0).sum()) for name in kept) / S
            sparsity.append(
                {"dataset": bench.name, "p_g": p_g, "p_w": p_w, "arm": arm, "start": start}
                | {"mask_nonzeros": before, "nonzeros_after": after}
            )
        if (p_g, p_w) == config.pairs[0]:
            by_epoch = {}
            for e in config.draw_epochs:
                parameters, edges, kept = ticket(e)
                by_epoch["inherited", e] = Arm(parameters, edges, kept)
                by_epoch["rewind", e] = Arm(first, edges, kept)
            for (start, e), run in bench.train(by_epoch):
                labels = {"ticket": "joint", "start": start, "p_g": p_g, "p_w": p_w, "epoch": e}
                draws += _rows(bench, run.at_best_validation(), **labels)
    return {
        "joint": joint,
        "draw": draws,
        "emergence": emergence,
        "joint_distance": lines,
        "sparsity": sparsity,
        "admm": admm,
        "grid": _grid(bench, config, first),
        "tickets": timed,
    }


def _watched_by_joint_detector(
    run: method.JointSearch, p_g: float, config: Config, seeds: Sequence[int]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Raw edge and weight distances ``[S, T]`` under the code's rule, and what each rule compares with eta."""
    graph_distance, watched, raw = _distances(_ranks(run.edges, seeds), p_g), {}, ()
    for rule in ("paper", "code"):
        d_g = early_bird.detector_distance(graph_distance, config.fifo, rule)
        raw_w, d_w = _joint_distance(run.weight_masks, config.fifo, rule)
        total = early_bird.normalise_by_first(d_g, config.fifo) + d_w
        watched[rule] = total / 2 if rule == "code" else total  # the code takes the mean, the paper the sum
        raw = (d_g, raw_w)
    return *raw, watched | {"raw": torch.maximum(*raw)}


def _search(
    bench: Bench,
    start: Parameters,
    task: method.Task,
    p_w: Sequence[float],
    config: Config,
    wanted: set[int],
    admm: method.Admm | None = None,
) -> method.JointSearch:
    ratios = torch.tensor(p_w, dtype=torch.float64)
    return method.joint_search(
        bench.net, start, task, ratios, config.epochs, config.joint_lr, wanted.__contains__, config.lr, admm
    )


def _random_masks(kept: Parameters, seeds: Sequence[int]) -> Parameters:
    """Random weight masks with each layer's own count of survivors (the kinder control)."""
    out = {}
    for name, mask in kept.items():
        flat = mask.flatten(1)
        rows = [row[torch.randperm(len(row), generator=generator(s, name))] for s, row in zip(seeds, flat, strict=True)]
        out[name] = torch.stack(rows).view_as(mask)
    return out


def _grid(bench: Bench, config: Config, first: Parameters) -> list[dict[str, Any]]:
    """Inherited joint tickets over grid_g x grid_w; one search serves every p_g, since pruning edges is a read-out."""
    count, rows = min(config.grid_seeds, config.seeds), []
    start = {name: value[:count] for name, value in first.items()}
    for p_w in config.grid_w:
        search = _search(bench, start, bench.task(1, count), [p_w] * count, config, {config.epochs})
        parameters = search.snapshots[config.epochs]
        kept = {name: m[-1].view_as(parameters[name]) for name, m in search.weight_masks.items()}
        edges = {p: method.draw_edges(search.edges[-1], p, bench.seeds[:count]) for p in config.grid_g}
        arms = {p: Arm(parameters, mask, kept) for p, mask in edges.items()}
        for p_g, run in bench.train(arms):
            rows += _rows(bench, run.at_best_validation(), p_g=p_g, p_w=p_w)
    return rows


# --- the whole, its summary and its claims -------------------------------------------------------------------


def _contrasts(tables: Mapping[str, pd.DataFrame], config: Config) -> Iterator[tuple[Claim, Interval]]:
    """Every measured claim with the evidence for it. Rules are fixed here, before any run."""
    edges, joint, draw, convs = (tables[name] for name in ("edges", "joint", "draw", "convs"))
    cells = published("gebt")

    def claim(id: str, text: str, rule: Any, unit: str = "points", source: str = "GEBT section 4") -> Claim:
        return Claim(id, text, "measured", unit, rule, None, source, True)

    ours = "this workbench; not in the paper"
    sgcn = "this workbench; the regulariser is SGCN's, and GEBT does not say that it helps"
    for dataset in config.datasets:
        full = {"dataset": dataset, "arm": "full", "start": "fresh"}
        for p in config.p_g:
            at, percent = {"dataset": dataset, "p_g": p, "start": "fresh"}, f"{100 * p:.0f}"
            name = f"gebt.{dataset}.edges{percent}"
            geb, random = at | {"arm": "GEB"}, at | {"arm": "random"}
            text = f"GEB ticket at p_g = {percent} % on {dataset}"
            yield (
                claim(
                    f"{name}.keeps_accuracy",
                    f"{text} loses at most {MARGIN:g} point against the full graph",
                    not_worse(MARGIN),
                ),
                contrast(edges, geb, full),
            )
            yield (
                claim(f"{name}.beats_random", f"{text} beats a random mask of its size", above()),
                contrast(edges, geb, random),
            )
            yield (
                claim(f"{name}.beats_reversed", f"{text} beats its reverse (largest edges pruned)", above()),
                contrast(edges, geb, at | {"arm": "reversed"}),
            )
            yield (
                claim(
                    f"{name}.admm_helps",
                    f"{text} is better drawn with the ADMM regulariser",
                    above(),
                    source=sgcn,
                ),
                contrast(edges, at | {"arm": "GEB + ADMM"}, geb),
            )
            yield (
                claim(
                    f"{name}.ours_beats_random",
                    f"Our variant's mask at p_g = {percent} % on {dataset} beats a random one",
                    above(),
                    source=ours,
                ),
                contrast(edges, at | {"arm": "ours"}, random),
            )
            drawn = {"dataset": dataset, "ticket": "geb", "p_g": p}
            early = max(e for e in config.draw_epochs if e <= max(10, config.draw_epochs[0]))
            yield (
                claim(
                    f"{name}.early",
                    f"{text} drawn at epoch {early} is at most {MARGIN:g} point worse than the last one",
                    not_worse(MARGIN),
                ),
                contrast(draw, drawn | {"epoch": early}, drawn | {"epoch": config.draw_epochs[-1]}),
            )
            for conv in CONVS if p in config.retrained else ():
                rows = {"dataset": dataset, "conv": conv}
                yield (
                    claim(
                        f"{name}.{conv}.keeps_accuracy",
                        f"{conv.upper()} retrained on {text} loses at most {MARGIN:g} point",
                        not_worse(MARGIN),
                    ),
                    contrast(convs, rows | {"arm": "GEB", "p_g": p}, rows | {"arm": "full"}),
                )
        for p_g, p_w in config.pairs:
            at = {"dataset": dataset, "p_g": p_g, "p_w": p_w}
            name = f"gebt.{dataset}.joint{100 * p_g:.0f}x{100 * p_w:.0f}"
            text = f"joint ticket ({100 * p_g:.0f} %, {100 * p_w:.0f} %) on {dataset}"
            ticket = at | {"arm": "ticket", "start": "rewind"}
            yield (
                claim(
                    f"{name}.keeps_accuracy",
                    f"Inherited {text} loses at most {MARGIN:g} point against dense, trained as long",
                    not_worse(MARGIN),
                ),
                contrast(
                    joint,
                    at | {"arm": "ticket", "start": "inherited"},
                    {"dataset": dataset, "arm": "dense", "start": "inherited"},
                ),
            )
            yield (
                claim(
                    f"{name}.admm_helps",
                    f"Inherited {text} is better searched with the ADMM regulariser",
                    above(),
                    source=sgcn,
                ),
                contrast(joint, at | {"arm": "ticket + ADMM", "start": "inherited"}, ticket | {"start": "inherited"}),
            )
            for arm, what in (
                ("random weights", "its weight mask beats a random one on the same edges"),
                ("random edges", "its edge mask beats a random one under the same weights"),
                ("both random", "it beats a random pair of masks"),
            ):
                yield (
                    claim(f"{name}.beats_{arm.replace(' ', '_')}", f"Rewound {text}: {what}", above()),
                    contrast(joint, ticket, at | {"arm": arm, "start": "rewind"}),
                )
        emergence = tables["emergence"]
        emergence = emergence[emergence["dataset"] == dataset]
        for ticket in ("geb", "joint"):
            bounds = [f"gebt.emergence.{dataset}.{ticket}_{end}" for end in ("first", "last")]
            printed = bounds[0] in cells.index
            low, high = cells["value"][bounds].tolist() if printed else (1.0, config.epochs / 4)
            where = "inside the published range" if printed else "within the first quarter"
            rules = {"code": f"by the code's rule below {config.eta:g}"}
            if ticket == "joint":
                rules["raw"] = f"by both raw fractions below {config.joint_eta:g} (our reading)"
            rows = emergence[(emergence["ticket"] == ticket) & emergence["rule"].isin(list(rules))]
            for (p_g, p_w, rule), group in rows.groupby(["p_g", "p_w", "rule"], dropna=False):
                if ticket == "geb" and p_g not in config.p_g:
                    continue
                suffix = f"{ticket}{100 * p_g:.0f}" + (f"x{100 * p_w:.0f}" if ticket == "joint" else "")
                what = "GEB" if ticket == "geb" else "Joint"
                text = f"{what} ticket ({suffix.removeprefix(ticket)} %) of {dataset} emerges {where}"
                name = f"gebt.emergence.{dataset}.{suffix}" + (".raw" if rule == "raw" else "")
                yield (
                    claim(
                        name, f"{text} ({low:g}-{high:g}) {rules[rule]}", inside(low, high), "epoch",
                        "GEBT figures 2 and 4",
                    ),
                    interval_or_none(group.set_index("seed")["epoch"]),
                )  # fmt: skip
    channels = tables["channels"]
    source, ours = "You et al., Early-Bird tickets, ICLR 2020", "this workbench; not in the paper"
    for p in config.channel_ratios:
        arms = {arm: rows.set_index("seed") for arm, rows in channels[channels["p"] == p].groupby("arm")}
        for arm, label, where in (("early-bird", "", source), ("relative (ours)", ".ours", ours)):
            name, ticket = f"gebt.channels{100 * p:.0f}{label}", arms[arm]
            text = f"Channel ticket at {100 * p:.0f} % on digits ({arm})"
            loss = f"{text} loses at most {MARGIN:g} point against the dense net"
            yield (
                claim(f"{name}.keeps_accuracy", loss, not_worse(MARGIN), source=where),
                interval_or_none(ticket["accuracy"] - ticket["dense"]),
            )
            yield (
                claim(f"{name}.beats_random", f"{text} beats random channels", above(), source=where),
                interval_or_none(ticket["accuracy"] - arms["random"]["accuracy"]),
            )
            quarter = inside(1, config.channel_epochs / 4)
            yield (
                claim(
                    f"{name}.emergence", f"{text} emerges within the first quarter of training", quarter, "epoch", where
                ),
                interval_or_none(ticket["epoch"]),
            )


def _analytic_rows(scale: str) -> list[dict[str, Any]]:
    claims = claims_from(published("gebt"), "analytic", equals())
    rows = [claims[cell.id].row(cell.macs, scale) for cell in cost.table2().itertuples()]
    savings = cost.saving_against_sgcn()
    for key, claim in claims.items():
        if "saving" in key:
            kind, ticket = key.split(".")[1], key.split(".")[2].split("_")[0]
            reachable = savings.loc[savings["ticket"] == ticket, kind]
            nearest = reachable.iloc[(reachable - claim.published).abs().argmin()]
            rows.append(claim.row(float(nearest), scale))
    return rows


def run(config: Config) -> Result:
    """Run everything the notebook shows: its parts side by side in two processes, then what is timed."""
    jobs = [delayed(_part)(part, name, config) for part in (edge_tickets, joint_tickets) for name in config.datasets]
    *parts, channels = Parallel(n_jobs=2)([*jobs, delayed(_alone)(channel_tickets, config)])
    edges = parts[: len(config.datasets)]
    names = dict.fromkeys(name for part in parts for name in part if name not in ("pairwise", "tickets"))
    tables = {name: pd.DataFrame([row for part in parts for row in part.get(name, [])]) for name in names}
    tables["emergence"] = tables["emergence"].assign(p_w=lambda t: t["p_w"].fillna(0.0))
    tables["channels"] = pd.DataFrame(channels)
    timed = []  # with nothing beside it
    for name, *found in zip(config.datasets, edges, parts[len(edges) :], strict=True):
        tickets = [ticket for part in found for ticket in part["tickets"]]
        timed += _part(lambda bench, c, tickets=tickets: wall_time(bench, c, tickets), name, config)
    tables["timing"], tables["growth"] = pd.DataFrame(timed), pd.DataFrame(_alone(growth, config))
    tables["table2"], tables["savings"] = cost.table2(), cost.saving_against_sgcn()
    found = list(_contrasts(tables, config))
    rows = [claim.row(evidence, config.scale) for claim, evidence in found] + _analytic_rows(config.scale)
    tables["summary"] = pd.DataFrame(
        [
            {
                "quantity": c.id,
                "mean": e.mean,
                "low": e.low,
                "high": e.high,
                "n": len(e.samples),
                "unit": c.unit,
            }
            for c, e in found
        ]
    )
    graphs = [_graph(name, config.seed_list) for name in config.datasets]
    extra = {"pairwise": dict(zip(config.datasets, (part["pairwise"] for part in edges), strict=True))}
    return Result(
        tables,
        [row | {"command": config.command("gebt")} for row in rows],
        config.record("gebt"),
        "+".join(graph.hash for graph in graphs),
        extra,
    )


def _graph(name: str, seeds: Sequence[int]) -> data.Graph:
    return data.digits_graph(seeds) if name == "digits" else data.planetoid(name)


def _part(part: Any, name: str, config: Config) -> dict[str, Any]:
    """One part on one graph, in a process of its own."""
    return _alone(lambda c: part(Bench(name, c), c), config)


def _alone(part: Any, config: Config) -> Any:
    torch.set_num_threads(1)  # sums keep their order: the same figures on one core and on many
    return part(config)
