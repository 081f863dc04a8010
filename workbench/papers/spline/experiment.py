"""Spline pruning measured: does dropping redundant lines beat dropping small weights, or chance?

Tables are tidy, one row a seed; accuracies in percent. All arms of a seed share points and dense network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from torch import Tensor

from workbench import WorkbenchError, papers
from workbench.evidence import Claim, Interval, Result, above, interval, not_worse
from workbench.papers.spline import method
from workbench.papers.spline.method import MLP, Criterion, Task
from workbench.papers.spline.partition import partition

STEPS = (0, 10, 30, 100, 300)
"""Retraining steps after which accuracy is taken."""
EARLY, LATE = 30, STEPS[-1]
"""Steps at which claims are judged; fixed before the runs."""
MARGIN = 1.0
"""Points of accuracy that "no loss" may cost; fixed before the runs."""
SQUARE = ((-1, -1), (1, -1), (1, 1), (-1, 1))
"""Where regions are counted: about where the data lie."""
SCRATCH = "from scratch"


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
    """

    seeds: int = 24
    cells: tuple[str, ...] = ("circles 2-20-2 50", "X 2-20-20-2 80", "spiral 2-20-2 50")
    rhos: tuple[float, ...] = (0.0, 0.05)
    scaled_rho: float = 0.05
    dense_steps: int = 500
    dense_lr: float = 0.02
    lr: float = 0.01
    init_width: int = 6
    init_steps: int = 300
    region_seeds: int = 8

    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "full": {
            "cells": _cells(("2-20-2", "2-20-20-2"), (50, 70, 80, 90)),
            "rhos": (0.0, 0.05, 0.25, 1.0, 5.0),
            "region_seeds": 24,
        },
    }

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        for text in self.cells:
            Cell.read(text)
        self.require("cells", len(set(self.cells)) == len(self.cells), "name each cell once")
        self.require("rhos", self.rhos and min(self.rhos) >= 0, "not be negative")
        self.require("scaled_rho", self.scaled_rho >= 0, "not be negative")
        for name in ("dense_lr", "lr"):
            self.require(name, getattr(self, name) > 0, "be positive")
        for name in ("dense_steps", "init_steps", "init_width"):
            self.require(name, getattr(self, name) >= 1, "be at least 1")
        self.require("region_seeds", self.region_seeds >= 2, "be at least 2")

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


def starts(dataset: str, config: Config) -> list[dict[str, Any]]:
    """Small networks from torch's start and from lines through training points, with equal weights."""
    seeds, width = config.seed_list, config.init_width
    task, default = Task.of(dataset, seeds), MLP.init((2, width, 2), seeds)
    nets, arms = [default, method.through_points(default, task)], ("default", "through data")
    trained, _ = method.fit(MLP.cat(nets), task.repeat(2), config.init_steps, config.dense_lr)
    accuracy = (100 * trained.accuracy(task.repeat(2))).view(2, -1).tolist()
    return [
        {"dataset": dataset, "width": width, "start": arm, "seed": seed, "accuracy": value}
        for arm, values in zip(arms, accuracy, strict=True)
        for seed, value in zip(seeds, values, strict=True)
    ]


# --- the whole, its summary and its claims -----------------------------------------------------------------------


def contrast(table: pd.DataFrame, a: Mapping[str, Any], b: Mapping[str, Any], value: str = "accuracy") -> Interval:
    """Paired difference, rows like ``a`` minus rows like ``b``: matched by seed."""

    def pick(labels: Mapping[str, Any]) -> pd.Series:
        rows = table[np.logical_and.reduce([table[name] == label for name, label in labels.items()])]
        return rows.set_index("seed")[value]

    return interval((pick(a) - pick(b)).sort_index().tolist())


def _contrasts(tables: Mapping[str, pd.DataFrame], cells: list[Cell]) -> Iterator[tuple[Claim, Interval]]:
    """Every claim with the evidence for it. Rules are fixed here, before any run."""
    paper, ours = "Max-affine spline pruning (the criterion is our reading)", "this workbench; not in the paper"

    def claim(id: str, text: str, rule: Any, source: str = paper, unit: str = "points") -> Claim:
        return Claim(f"spline.{id}", text, "measured", unit, rule, None, source, None)

    for cell in cells:
        at = cell.labels | {"scope": "layer"}
        text = f"{cell.net} on {cell.dataset}, {100 * cell.ratio:.0f} % of the units pruned"
        for short, arm, where in (("redundancy", "redundancy", paper), ("merge", "scaled + merge (ours)", ours)):
            for against in ("in-norm", "random"):
                for step in (EARLY, LATE):
                    yield (
                        claim(
                            f"{cell.id}.{short}_beats_{against}.{step}",
                            f"{text}: {arm} beats {against} after {step} retraining steps",
                            above(),
                            where,
                        ),
                        contrast(
                            tables["curves"], at | {"arm": arm, "step": step}, at | {"arm": against, "step": step}
                        ),
                    )
            yield (
                claim(
                    f"{cell.id}.{short}_keeps_accuracy",
                    f"{text}: {arm} loses at most {MARGIN:g} point against the dense net, trained as long",
                    not_worse(MARGIN),
                    where,
                ),
                contrast(
                    tables["curves"], at | {"arm": arm, "step": LATE}, at | {"ratio": 0.0, "arm": "dense", "step": LATE}
                ),
            )
        yield (
            claim(
                f"{cell.id}.more_regions",
                f"{text}: redundancy leaves more regions than in-norm, before retraining",
                above(),
                unit="regions",
            ),
            contrast(
                tables["regions"], at | {"arm": "redundancy", "step": 0}, at | {"arm": "in-norm", "step": 0}, "regions"
            ),
        )
    for (dataset, width), rows in tables["starts"].groupby(["dataset", "width"], sort=False):
        yield (
            claim(
                f"start.{dataset}",
                f"2-{width}-2 on {dataset}: lines through data points are a better start than torch's",
                above(),
                ours,
            ),
            contrast(rows, {"start": "through data"}, {"start": "default"}),
        )


def run(config: Config) -> Result:
    """Run everything the notebook shows."""
    cells = sorted((Cell.read(text) for text in config.cells), key=lambda cell: (cell.dataset, cell.widths))
    parts = [prune_cells([*group], config) for _, group in groupby(cells, lambda cell: (cell.dataset, cell.widths))]
    tables = {name: pd.DataFrame([row for part in parts for row in part[name]]) for name in ("curves", "regions")}
    datasets = dict.fromkeys(cell.dataset for cell in cells)
    tables["starts"] = pd.DataFrame([row for dataset in datasets for row in starts(dataset, config)])
    found = list(_contrasts(tables, cells))
    tables["summary"] = pd.DataFrame(
        [
            {"quantity": c.id, "mean": e.mean, "low": e.low, "high": e.high, "n": len(e.samples), "unit": c.unit}
            for c, e in found
        ]
    )
    networks = {key: nets for part in parts for key, nets in part["networks"].items()}
    rows = [claim.row(evidence, config.scale) for claim, evidence in found]
    return Result(tables, rows, config.record("spline"), "generated from the seeds", {"networks": networks})
