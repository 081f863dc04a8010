"""What the experiment measures of one table of accuracies: the searches, pairs that match, and the supernet.

A table is one training seed. Its validation accuracies drive every search; what a design is *worth* is read off the
test accuracies of the other seeds. Regret is what is missing to the enumerated optimum: ``regret`` on the table that
was searched, ``held_out`` on the one that scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from workbench.papers.dna.accelerators import TEMPLATES, Costs, Design, Template, costs
from workbench.papers.dna.baselines import METHODS, Oracle
from workbench.papers.dna.method import Objective, expected_objective, search
from workbench.papers.dna.nets import digits_split
from workbench.papers.dna.oneshot import Schedule, co_search, hardware_gain, macs_gain
from workbench.papers.dna.record import NAME, name, updates
from workbench.papers.dna.space import Networks, digits
from workbench.recorded import load_table
from workbench.training import generator

JOINT, OPTIMUM = "joint, true gradient", "enumerated optimum"
SEQUENTIAL = ("network first", "accelerator first", "alternating", "separate")

Best = dict[str, tuple[Tensor, Tensor, Tensor]]


def workload(width: int, size: int) -> Networks:
    """What the accelerators run: the same topologies with more channels, on larger colour images."""
    return digits().scaled(width, size, 3)


@dataclass(frozen=True)
class Accuracies:
    """The recorded accuracies, ``[seeds, networks]`` in percent, networks in the order of `Networks.designs`."""

    seeds: tuple[int, ...]
    val: Tensor
    test: Tensor

    @classmethod
    def recorded(cls) -> Accuracies:
        """From data/recorded/dna/."""
        table, space = load_table(NAME), digits()
        order = [name(space, design) for design in space.designs().tolist()]
        found = [
            torch.tensor(table.pivot(index="seed", columns="net", values=part)[order].to_numpy())
            for part in ("val", "test")
        ]
        return cls(tuple(sorted(table["seed"].unique().tolist())), *found)

    def of(self, seed: int) -> tuple[Tensor, Tensor]:
        """What a search reads, and what scores it: validation of that seed, mean test of the others."""
        row = self.seeds.index(seed)
        others = [i for i in range(len(self.seeds)) if i != row]
        return self.val[row], self.test[others].mean(0)


@dataclass(frozen=True)
class Setting:
    """A template under an objective, and a table of accuracies: all that is needed to search and to score."""

    template: Template
    costs: Costs
    best: Best
    space: Networks
    macs: Tensor
    objective: Objective
    read: Tensor
    score: Tensor

    def worth(self, accuracy: Tensor) -> Tensor:
        """Of each network on its best accelerator, ``[networks]``."""
        return accuracy - self.objective.weight * self.best[self.objective.cost][0].log10()

    @cached_property
    def designs(self) -> Tensor:
        """All networks."""
        return self.space.designs()

    def row(self, design: Design) -> dict[str, Any]:
        """Regrets of a design, and what it is."""
        place = self.oracle(0).place(torch.tensor([design.net]))
        ms, uj = self.costs.evaluate(torch.tensor([design.net]), torch.tensor([design.rule]), _chunks(design))
        regret, held_out = (
            float(self.worth(a).max() - self.objective.value(a[place], ms, uj)) for a in (self.read, self.score)
        )
        return {
            "regret": regret,
            "held_out": held_out,
            "accuracy": float(self.score[place]),
            "ms": float(ms),
            "uj": float(uj),
            "net": name(self.space, design.net),
        }

    def oracle(self, questions: int) -> Oracle:
        """Something to ask."""
        return Oracle(self.space, self.template, self.costs, self.read, self.macs, self.objective, questions)

    def on_best(self, network: int) -> Design:
        """A network, by its place, on its best accelerator."""
        _, rule, chunks = self.best[self.objective.cost]
        a, b = chunks[network].tolist()
        return Design(tuple(self.designs[network].tolist()), int(rule[network]), (a, b))

    def best_network_on(self, accelerator: Design) -> Design:
        """The best of all networks on an accelerator."""
        n = len(self.designs)
        rule, chunks = torch.full((n,), accelerator.rule), _chunks(accelerator).expand(n, -1)
        worth = self.objective.value(self.read, *self.costs.evaluate(self.designs, rule, chunks))
        return accelerator._replace(net=tuple(self.designs[worth.argmax()].tolist()))

    def by_macs(self) -> int:
        """The network that is best for who knows no hardware."""
        return int(self.objective.by_macs(self.read, self.macs).argmax())

    def unlimited(self) -> Iterator[tuple[str, Design]]:
        """The sequential searches with as many questions as they like; nothing here is sampled."""
        yield OPTIMUM, self.on_best(int(self.worth(self.read).argmax()))
        reference = self.on_best(0)  # plain convolutions
        yield "network first", self.on_best(self.by_macs())
        now = self.best_network_on(reference)
        yield "accelerator first", now
        while True:
            place = int((self.designs == torch.tensor(now.net)).all(1).nonzero())
            following = self.best_network_on(self.on_best(place))
            if following == now:
                break
            now = following
        yield "alternating", now
        yield "separate", reference._replace(net=tuple(self.designs[self.by_macs()].tolist()))

    def joint(self, seed: int, starts: int, steps: int, lr: float) -> tuple[Design, list[dict[str, float]]]:
        """The joint search by the true gradient: the best of some starts, each derived design asked once."""
        accuracy = self.read.view(*self.space.choices)
        found = []
        for start in range(starts):
            design, history = search(
                self.costs,
                self.template.factors,
                self.space.choices,
                lambda logits: expected_objective(self.costs, accuracy, self.objective, logits),
                generator(seed, "dna", "joint", start),
                steps,
                lr,
            )
            found.append((self.row(design)["regret"], start, design, history))
        _, _, design, history = min(found)
        return design, history


def _chunks(design: Design) -> Tensor:
    return torch.tensor([design.chunks])


def priced(template: str, width: int, size: int) -> tuple[Costs, Best]:
    """Costs of a template, and every network's best accelerators: all pairs are tried."""
    found = costs(workload(width, size), TEMPLATES[template])
    return found, found.best(digits().designs())


def searched(setting: Setting, seed: int, config: Any, sampling: bool) -> list[dict[str, Any]]:
    """Rows of all searches on one table, or of all but the sampling ones: columns method, questions, search, and those
    of `Setting.row`.

    ``questions`` is 0 for those that read the table as a whole.
    """
    rows = [{"method": m, "questions": 0, "search": 0} | setting.row(d) for m, d in setting.unlimited()]
    design, _ = setting.joint(seed, config.starts, config.steps, config.lr)
    rows.append({"method": JOINT, "questions": 0, "search": 0} | setting.row(design))
    for method, run in METHODS.items() if sampling else ():
        for questions in config.questions:
            for number in range(config.searches):
                oracle = setting.oracle(questions)
                run(oracle, generator(seed, "dna", method, questions, number))
                rows.append({"method": method, "questions": questions, "search": number} | setting.row(oracle.best))
    return rows


def matched(setting: Setting) -> dict[str, float]:
    """A matched pair against the separately optimised one, at the same accuracy and at the same frames per second.

    Columns: ``separate_accuracy``, ``separate_fps``; ``fps``, the largest with at least its validation accuracy, and
    ``fps_accuracy`` there; ``accuracy``, of the most accurate that is at least as fast. Accuracies are held-out ones.
    """
    pairs = dict(setting.unlimited())
    separate = setting.row(pairs["separate"])
    own = int((setting.designs == torch.tensor(pairs["separate"].net)).all(1).nonzero())
    ms = setting.best["latency"][0]
    fast = int(ms.where(setting.read >= setting.read[own], torch.inf).argmin())
    accurate = int(setting.read.where(ms <= separate["ms"] * (1 + 1e-9), -torch.inf).argmax())
    return {
        "separate_accuracy": separate["accuracy"],
        "separate_fps": 1e3 / separate["ms"],
        "fps": 1e3 / float(ms[fast]),
        "fps_accuracy": float(setting.score[fast]),
        "accuracy": float(setting.score[accurate]),
        "accuracy_fps": 1e3 / float(ms[accurate]),
    }


def one_shot(setting: Setting, seed: int, config: Any) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """The supernet's searches on one seed, and random networks that cost as much training; history of the joint one.

    A network's best accelerator is free for those that do not choose one.
    """
    plan, split = Schedule(epochs=config.epochs, warm_up=config.epochs // 4), digits_split()
    rows, kept = [], []
    gains = {
        "supernet, joint": hardware_gain(setting.costs, setting.objective),
        "supernet, network first": macs_gain(workload(config.width, config.size), setting.objective),
    }
    for method, gain in gains.items():
        design, history = co_search(
            setting.space, setting.costs, setting.template.factors, gain, split.train, seed, plan
        )
        if method == "supernet, joint":
            kept = [row | {"seed": seed} for row in history]
        else:
            design = setting.on_best(int((setting.designs == torch.tensor(design.net)).all(1).nonzero()))
        rows.append({"method": method} | setting.row(design))
    count = max(1, round(plan.updates(len(split.train[1])) / updates(len(split.train[1]))))
    for number in range(config.searches):
        some = torch.randperm(len(setting.designs), generator=generator(seed, "dna", "few", number))[:count]
        chosen = int(some[setting.worth(setting.read)[some].argmax()])
        rows.append({"method": f"random, {count} trained"} | setting.row(setting.on_best(chosen)))
    return rows, kept


def mean_over_searches(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Searches of one table are averaged: the table is what counts as a sample."""
    return table.groupby(list(by), sort=False)[["regret", "held_out"]].mean().reset_index()
