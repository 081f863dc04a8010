"""Spline pruning measured: does dropping redundant lines beat dropping small weights, or chance?

Tables are tidy, one row a seed; accuracies in percent. All arms of a seed share points and dense network.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from torch import Tensor

from workbench import WorkbenchError, early_bird, papers
from workbench.evidence import Result
from workbench.papers import Count, Factor, Range, Rate, Reads, Several, Share, Spread
from workbench.papers.spline import claims, images, method, overlay
from workbench.papers.spline.claims import LATE, SCRATCH, STEPS, TICKETS
from workbench.papers.spline.method import MLP, Criterion, Task
from workbench.papers.spline.partition import partition

SQUARE = ((-1, -1), (1, -1), (1, 1), (-1, 1))
"""Where regions are counted: about where the data lie."""


@dataclass(frozen=True)
class Cell:
    """One comparison: a data set, the widths of its dense network, and how much is pruned."""

    dataset: str
    widths: tuple[int, ...]
    ratio: float

    @classmethod
    def read(cls, text: str) -> Cell:
        """For example ``"X 2-20-20-2 80"``, in percent; `WorkbenchError` for anything else."""
        try:
            dataset, net, percent = text.split()
            cell = cls(dataset, tuple(map(int, net.split("-"))), float(percent) / 100)
        except ValueError:
            raise WorkbenchError(f"a cell reads like 'X 2-20-20-2 80' (data, widths, percent); got {text!r}") from None
        w = cell.widths
        if dataset not in method.DATASETS or len(w) < 3 or w[0] != 2 or w[-1] != 2 or min(w) < 2:
            names = ", ".join(method.DATASETS)
            raise WorkbenchError(f"cell {text!r}: data are {names}; widths start and end with 2 around hidden layers")
        if not 0 < cell.ratio < 1 or any(round(cell.ratio * n) >= n for n in w[1:-1]):
            raise WorkbenchError(f"cell {text!r}: the percentage must leave units in every layer")
        return cell

    @property
    def net(self) -> str:
        """The widths as text."""
        return "-".join(map(str, self.widths))

    @property
    def labels(self) -> dict[str, Any]:
        """The columns that name it."""
        return {"dataset": self.dataset, "net": self.net, "ratio": self.ratio}

    @property
    def id(self) -> str:
        """Its part of a claim's id."""
        return f"{self.dataset}.{self.net}.{100 * self.ratio:.0f}"

    @property
    def pruned(self) -> tuple[int, ...]:
        """Widths after pruning every hidden layer."""
        return (2, *(n - round(self.ratio * n) for n in self.widths[1:-1]), 2)


def _cells(nets: tuple[str, ...], ratios: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{dataset} {net} {ratio}" for dataset in method.DATASETS for net in nets for ratio in ratios)


@dataclass(frozen=True)
class Config(papers.Config):
    """Parameters of the spline experiment.

    ``cells`` to prune; ``rhos`` of the plain rule (the first is judged); ``scaled_rho`` of the scaled rules;
    ``dense_steps`` and ``dense_lr`` of dense training, ``lr`` of retraining; ``init_width`` and ``init_steps`` of the
    comparison of starts, which takes the data sets of ``cells``; ``region_seeds`` of the seeds have regions counted.
    ``watched`` cells have their dense training looked at every ``look_every`` steps by the detectors, at
    ``watched_seeds`` of the seeds; ``partition_eta`` and ``mask_eta`` are their thresholds, ``partition_fifo`` how many
    earlier looks the one compares with, ``mask_fifo`` how many masks the other holds, the newest included (both as in
    the released codes). ``images`` name data, widths and epochs of conv nets; the fields behind it are theirs, and
    ``mlp_*`` the digits MLP's: see `images`. ``boxes`` are half sides of squares whose regions are timed.
    """

    seeds: Spread = 24
    cells: tuple[Annotated[str, Reads(Cell.read)], ...] = ("circles 2-20-2 50", "X 2-20-20-2 80", "spiral 2-20-2 50")
    rhos: tuple[Factor, ...] = (0.0, 0.05)
    scaled_rho: Factor = 0.05
    dense_steps: Count = 500
    dense_lr: Rate = 0.02
    lr: Rate = 0.01
    init_width: Count = 6
    init_steps: Count = 300
    region_seeds: Spread = 8
    watched: tuple[Annotated[str, Reads(Cell.read)], ...] = ("circles 2-20-2 50",)
    watched_seeds: Spread = 8
    look_every: Count = 20
    partition_eta: Share = 0.16
    partition_fifo: Count = 3
    mask_eta: Share = 0.1
    mask_fifo: Annotated[int, Range(2, 10_000)] = 5
    images: tuple[Annotated[str, Reads(images.Setup.read)], ...] = ("digits 16-16-32 8",)
    image_seeds: Spread = 3
    image_ratios: tuple[Share, ...] = (0.5,)
    image_train: Annotated[int, Range(100, 10**6)] = 1_000
    image_test: Annotated[int, Range(100, 10**6)] = 2_000
    image_steps: Annotated[tuple[Annotated[int, Range(0, 10**6)], ...], Several(rising=True)] = (0, 10, 30)
    image_lr: Rate = 0.1
    image_retrain_lr: Rate = 0.01
    canvas: Spread = 10
    mlp_seeds: Spread = 8
    mlp_steps: Count = 150
    boxes: tuple[Annotated[float, Range(0, 1_000, open=True)], ...] = (0.1, 0.4, 1.0)

    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "full": {
            "cells": _cells(("2-20-2", "2-20-20-2"), (50, 70, 80, 90)),
            "rhos": (0.0, 0.05, 0.25, 1.0, 5.0),
            "region_seeds": 24,
            "watched": ("circles 2-20-2 50", "X 2-20-20-2 80", "spiral 2-20-2 50"),
            "watched_seeds": 24,
            "look_every": 10,
            "images": ("digits 16-16-32 20", "cifar10 8-32-64 15"),
            "image_seeds": 5,
            "image_ratios": (0.5, 0.75),
            "image_train": 5_000,
            "image_steps": (0, 10, 30, 100),
            "canvas": 24,
            "mlp_seeds": 24,
            "mlp_steps": 400,
            "boxes": (0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 4.0),
        },
    }

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        looks = self.dense_steps // self.look_every > max(self.partition_fifo, self.mask_fifo)
        self.require("look_every", looks, "leave more looks in dense_steps than a detector compares")

    @property
    def detectors(self) -> dict[str, tuple[int, float]]:
        """How many earlier looks each detector compares with, and its threshold."""
        return {
            "partition": (self.partition_fifo, self.partition_eta),
            "mask": (self.mask_fifo - 1, self.mask_eta),
        }

    @property
    def criteria(self) -> dict[str, Criterion]:
        """The arms that prune every layer alike, by name: all leave the same number of parameters."""
        first, *others = self.rhos
        return {
            "redundancy": Criterion("redundancy", first),
            **{f"redundancy, rho {rho:g}": Criterion("redundancy", rho) for rho in others},
            "scaled (ours)": Criterion("scaled", self.scaled_rho),
            "scaled + merge (ours)": Criterion("merge", self.scaled_rho),
            **{rule: Criterion(rule) for rule in ("in-norm", "in*out norm", "SNIP", "random", "reversed norm")},
            "reversed redundancy": Criterion("isolated", first),
        }


# --- the parts of the experiment ---------------------------------------------------------------------------------


def _rows(seeds: list[int], accuracy: Tensor, **labels: Any) -> list[dict[str, Any]]:
    """Tidy rows, one a seed and retraining step, of accuracies ``[K, steps]``."""
    return [
        {**labels, "seed": seed, "step": step, "accuracy": 100 * value}
        for seed, line in zip(seeds, accuracy.tolist(), strict=True)
        for step, value in zip(STEPS, line, strict=True)
    ]


def _regions(models: MLP, config: Config, **labels: Any) -> list[dict[str, Any]]:
    """Exact numbers of regions in the square, and parameters, of the first seeds."""
    rows = []
    for k, seed in enumerate(config.seed_list[: config.region_seeds]):
        alone = models.sequential(k)
        regions, parameters = len(partition(alone, SQUARE).maps), sum(p.numel() for p in alone.parameters())
        rows.append({**labels, "seed": seed, "regions": regions, "parameters": parameters})
    return rows


def prune_cells(cells: list[Cell], config: Config) -> dict[str, Any]:
    """Everything about the cells of one dense network: curves, counts of regions, and networks to draw."""
    seeds, (first, *_) = config.seed_list, cells
    task = Task.of(first.dataset, seeds)
    dense, _ = method.fit(MLP.init(first.widths, seeds), task, config.dense_steps, config.dense_lr)
    longer, accuracy = method.fit(dense, task, LATE, config.lr, STEPS)
    own = first.labels | {"ratio": 0.0, "arm": "dense", "scope": "layer"}
    curves, regions, networks = _rows(seeds, accuracy, **own), [], {}
    regions += _regions(dense, config, **own, step=0) + _regions(longer, config, **own, step=LATE)
    networks[first.dataset, first.net, 0.0, "dense", "layer"] = (dense.sequential(0), longer.sequential(0))
    for cell in cells:
        scopes = {"layer": config.criteria}
        if len(cell.widths) > 3:  # units of several layers compete: as many units, but other numbers of parameters
            names = ("redundancy", "scaled + merge (ours)", "in-norm", "random")
            scopes["global"] = {n: Criterion(c.rule, c.rho, "global") for n, c in config.criteria.items() if n in names}
        for scope, criteria in scopes.items():
            arms = {name: method.prune(dense, cell.ratio, criterion, task) for name, criterion in criteria.items()}
            if scope == "layer":
                arms[SCRATCH] = MLP.init(cell.pruned, seeds, SCRATCH)
            trained, accuracy = method.fit(MLP.cat([*arms.values()]), task.repeat(len(arms)), LATE, config.lr, STEPS)
            for at, (arm, start) in enumerate(arms.items()):
                labels, part = cell.labels | {"arm": arm, "scope": scope}, slice(at * len(seeds), (at + 1) * len(seeds))
                end = trained.map(lambda p, part=part: p[part])
                curves += _rows(seeds, accuracy[part], **labels)
                regions += _regions(start, config, **labels, step=0) + _regions(end, config, **labels, step=LATE)
                networks[cell.dataset, cell.net, cell.ratio, arm, scope] = (start.sequential(0), end.sequential(0))
    return {"curves": curves, "regions": regions, "networks": networks}


def starts(dataset: str, config: Config) -> dict[str, Any]:
    """Small networks from torch's start and from lines through training points, with equal weights."""
    seeds, width = config.seed_list, config.init_width
    task, default = Task.of(dataset, seeds), MLP.init((2, width, 2), seeds)
    nets, arms = [default, method.through_points(default, task)], ("default", "through data")
    trained, _ = method.fit(MLP.cat(nets), task.repeat(2), config.init_steps, config.dense_lr)
    accuracy = (100 * trained.accuracy(task.repeat(2))).view(2, -1).tolist()
    rows = [
        {"dataset": dataset, "width": width, "start": arm, "seed": seed, "accuracy": value}
        for arm, values in zip(arms, accuracy, strict=True)
        for seed, value in zip(seeds, values, strict=True)
    ]
    return {"starts": rows}


# --- early-bird tickets in the partition -------------------------------------------------------------------------


def unit_masks(nets: Sequence[MLP], ratio: float) -> Tensor:
    """Units whose incoming norm is among the largest of their layer: bool ``[K, T, units]`` of networks over time."""
    layers = []
    for at in range(len(nets[0].weights) - 1):
        norm = torch.stack([net.weights[at].norm(dim=2) for net in nets], 1)
        dropped = norm.argsort(dim=-1, stable=True)[..., : round(ratio * norm.shape[2])]
        layers.append(torch.ones_like(norm, dtype=torch.bool).scatter(-1, dropped, False))
    return torch.cat(layers, 2)


def partition_change(nets: Sequence[MLP], k: int, lookback: int) -> Tensor:
    """Exact change of model k's partition between looks at most ``lookback`` apart: ``[T, T]``, NaN elsewhere."""
    alone = [net.sequential(k) for net in nets]
    pairwise = torch.full((len(nets), len(nets)), torch.nan, dtype=torch.float64)
    for t in range(1, len(nets)):
        window = slice(max(0, t - lookback), t + 1)
        pairwise[t, window] = torch.from_numpy(overlay.region_change(alone[window], SQUARE)[-1])
    return pairwise


def watch(cell: Cell, config: Config) -> dict[str, Any]:
    """Both detectors on the same dense training, and what tickets drawn where they fire are worth."""
    seeds = config.seed_list[: config.watched_seeds]
    task, net = Task.of(cell.dataset, seeds), MLP.init(cell.widths, seeds)
    looks = [*range(config.look_every, config.dense_steps + 1, config.look_every)]
    nets = method.follow(net, task, looks, config.dense_lr)
    lookback = config.partition_fifo
    pairwise = {
        "partition": torch.stack([partition_change(nets, k, lookback) for k in range(len(seeds))]),
        "mask": early_bird.pairwise_distance(unit_masks(nets, cell.ratio)),
    }
    labels, distances, fired = cell.labels, [], []
    last = [method.prune(nets[-1], cell.ratio, Criterion(rule), task) for rule in TICKETS]
    arms = {("end", rule): pruned for rule, pruned in zip(TICKETS, last, strict=True)}
    for detector, (back, eta) in config.detectors.items():
        watched = early_bird.detector_distance(pairwise[detector], back)
        at = early_bird.emergence(watched, eta)  # the number of a look, from 1
        drawn = at.nan_to_num(len(looks)).long() - 1
        early = MLP.gather(nets, drawn)
        arms |= {(detector, rule): method.prune(early, cell.ratio, Criterion(rule), task) for rule in TICKETS}
        for k, seed in enumerate(seeds):
            fired.append({**labels, "detector": detector, "seed": seed, "step": config.look_every * float(at[k])})
            distances += [
                {**labels, "detector": detector, "seed": seed, "step": step, "distance": d}
                for step, d in zip(looks, watched[k].tolist(), strict=True)
            ]
    trained, _ = method.fit(MLP.cat([*arms.values()]), task.repeat(len(arms)), LATE, config.lr)
    accuracy = (100 * trained.accuracy(task.repeat(len(arms)))).view(len(arms), -1).tolist()
    tickets = [
        {**labels, "drawn": drawn, "arm": rule, "seed": seed, "accuracy": value}
        for (drawn, rule), values in zip(arms, accuracy, strict=True)
        for seed, value in zip(seeds, values, strict=True)
    ]
    untrained = [net.sequential(k) for k in range(len(seeds))]
    strangers = []
    for k, seed in enumerate(seeds):  # as if each look met a network of its own
        window = [untrained[(k + shift) % len(seeds)] for shift in range(lookback + 1)]
        change = overlay.region_change(window, SQUARE)[0, 1:].max()
        strangers.append({**labels, "seed": seed, "change": change})
    return {
        "distances": distances,
        "fired": fired,
        "tickets": tickets,
        "strangers": strangers,
        "looks": {(cell.dataset, cell.net): (looks, [one.sequential(0) for one in nets])},
    }


# --- the engine --------------------------------------------------------------------------------------------------


def throughput(config: Config) -> list[dict[str, Any]]:
    """Seconds for the partition of one network, 2-160-160-160-2, in larger and larger squares: the best of three."""
    net, rows = MLP.init((2, 160, 160, 160, 2), [config.seed]).sequential(0), []
    for half in config.boxes:
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            found = partition(net, half * np.array(SQUARE))
            times.append(time.perf_counter() - begin)
        rows.append({"half_side": half, "regions": len(found.maps), "seconds": min(times)})
    return rows


def pixels(nets: Mapping[Any, Any]) -> list[dict[str, Any]]:
    """Regions of the first seed's dense networks that grids of pixels see, beside the exact number."""
    rows = []
    for (dataset, net, ratio, *_), (dense, _) in nets.items():
        if not ratio:
            exact = len(partition(dense, SQUARE).maps)
            rows += [
                {"dataset": dataset, "net": net, "pixels": n, "seen": overlay.regions_on_grid(dense, SQUARE, n)}
                | {"regions": exact}
                for n in (50, 100, 200, 400)
            ]
    return rows


# --- the whole, its summary and its claims -----------------------------------------------------------------------


def run(config: Config) -> Result:
    """Run everything the notebook shows: its parts side by side in two processes, then what is timed."""
    cells = sorted(map(Cell.read, config.cells), key=lambda cell: (cell.dataset, cell.widths))
    watched = [Cell.read(text) for text in config.watched]
    groups = [[*group] for _, group in groupby(cells, lambda cell: (cell.dataset, cell.widths))]
    setups = [images.Setup.read(text) for text in config.images]
    jobs = [delayed(_alone)(images.conv_net, setup, config) for setup in reversed(setups)]  # the longest first
    jobs += [delayed(_alone)(images.digits_mlp, config)]
    jobs += [delayed(_alone)(prune_cells, group, config) for group in groups]
    jobs += [delayed(_alone)(watch, cell, config) for cell in watched]
    jobs += [delayed(_alone)(starts, dataset, config) for dataset in dict.fromkeys(cell.dataset for cell in cells)]
    parts = Parallel(n_jobs=2)(jobs)
    extra: dict[str, dict] = {"networks": {}, "looks": {}, "pairwise": {}}
    for part in parts:
        for name, found in extra.items():
            found |= part.pop(name, {})
    names = dict.fromkeys(name for part in parts for name in part)
    tables = {name: pd.DataFrame([row for part in parts for row in part.get(name, [])]) for name in names}
    tables["throughput"] = pd.DataFrame(throughput(config))
    tables["pixels"] = pd.DataFrame(pixels(extra["networks"]))
    found = [*claims.measured(tables, cells, watched, config)]
    tables["summary"] = pd.DataFrame(
        [
            {"quantity": c.id, "mean": e.mean, "low": e.low, "high": e.high, "n": len(e.samples), "unit": c.unit}
            for c, e in found
        ]
    )
    rows = [claim.row(evidence, config.scale) for claim, evidence in found] + claims.analytic_rows(config.scale)
    pools = dict.fromkeys(["digits", *(setup.dataset for setup in setups)])
    data_hash = "+".join(images.pools(name)[0].hash for name in pools)
    return Result(
        tables, [row | {"command": config.command("spline")} for row in rows], config.record("spline"), data_hash, extra
    )


def _alone(part: Any, *arguments: Any) -> dict[str, Any]:
    torch.set_num_threads(1)  # sums keep their order: the same figures on one core and on many
    return part(*arguments)
