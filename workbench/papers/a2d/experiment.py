"""A2D measured, in Catch: is there a best size, does search fail without a teacher, and does a teacher repair it?

Four parts. (1) Hand-designed agents of several sizes, read at equal environment steps and at equal MACs. (2) Searches
in one supernet: on policy without and with a teacher, and on the teacher's own states; beside them, as a control, ONE
fixed path of the same supernet, drawn at random from the budget band, trained for the same steps: where it learns and
the search does not, the search is what fails. (3) The ground truth: every design of the budget band, trained apart, so
that what a search found can be ranked. (4) Students with and without a teacher: a hand-designed one, and what the
search with a teacher found. Returns are mean catches of 10, over fresh episodes, actions drawn from the policy.

How the settings were found, on pilot seeds 900 and 901, before any reported seed was run. Learning rates by doubling,
from 0.0005 to 0.064: for each size the best mean of both readings, for students in each arm likewise, for the supernet
(0.002 to 0.008) the best for the fixed path without a teacher. Readings lie where no size had saturated. In earlier
pilots with lower rates nothing was learned in 100,000 steps, fixed path or not, so that "the search fails" could not
be told from "too short".

The supernet has two cells where the paper has fourteen, so that its band can be trained as a whole. What ranks the
designs of the band is short offline distillation on the teacher's states: how fast they learn, not where they end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from torch import Tensor, nn
from tqdm.auto import tqdm

from workbench import WorkbenchError, papers, recorded
from workbench.evidence import Claim, Interval, Result, Rule, above, inside, interval_or_none, means, not_worse
from workbench.papers.a2d import atari, games
from workbench.papers.a2d.method import OPERATORS, Agent, Design, SuperAgent, distillation
from workbench.papers.a2d.play import (
    Alone,
    Curve,
    Player,
    Rules,
    board,
    evaluate,
    learn,
    new_agent,
    seeds,
    uniform,
    weights_from,
)
from workbench.papers.a2d.record import NAME, teacher
from workbench.papers.a2d.search import FixedPath, Plan, Search, distil, optimiser, teacher_states
from workbench.supernet import argmax_design, entropy, random_designs
from workbench.training import generator

GAME = "catch"
SNAPSHOTS = 40
VANILLA, DISTILLED, STATES = "without teacher", "with teacher", "teacher's states"
SEARCHES = (VANILLA, DISTILLED, STATES)
FIXED = {VANILLA: "fixed path, without teacher", DISTILLED: "fixed path, with teacher"}
MARGIN = 0.5
"""Catches of 10 that "as good as the teacher" may cost; fixed before the runs."""


class Size(NamedTuple):
    """A hand-designed agent without cells and its learning rate, read from "width units rate"."""

    design: Design
    lr: float

    @classmethod
    def read(cls, text: str) -> Size:
        """`WorkbenchError` for another form."""
        try:
            width, units, lr = text.split()
            found = cls(Design(int(width), (), int(units)), float(lr))
        except ValueError:
            raise WorkbenchError(
                f"an agent reads like '8 32 0.016', width, units, learning rate; got {text!r}"
            ) from None
        if min(found.design.width, found.design.units, found.lr) <= 0:
            raise WorkbenchError(f"width, units and learning rate must be positive; got {text!r}")
        return found

    @property
    def name(self) -> str:
        """As figures have it."""
        return f"{self.design.width} + {self.design.units}"


@dataclass(frozen=True)
class Config(papers.Config):
    """Parameters of the A2D experiment.

    ``sizes`` are hand-designed agents (see `Size`), smallest first, ``middle`` the place of the one that should be
    best; all learn for ``size_steps`` environment steps or until ``size_macs`` forward MACs, whichever is later, and
    are read at both. ``stems``, ``cells`` and ``units`` span the space of the search; ``budget`` is in MACs, and the
    band reaches down to ``band`` times it. Searches take ``search_steps`` on policy with learning rates ``search_lr``
    and ``logits_lr``; on the teacher's states as many updates of as many states. ``table_updates`` of ``table_batch``
    states at ``table_lr`` train each design of the band. ``student`` is the hand-designed one,
    and derived ones learn at ``derived_lr``; students learn for ``student_steps``, are read at ``student_reading`` too,
    and look for ``target``. ``episodes`` an evaluation.
    """

    seed: int = 100
    seeds: int = 3
    episodes: int = 100
    sizes: tuple[str, ...] = ("2 8 0.032", "8 32 0.016", "16 64 0.008")
    middle: int = 1
    size_steps: int = 16_000
    size_macs: float = 5e7
    stems: tuple[int, ...] = (4, 8, 16)
    cells: int = 2
    units: tuple[int, ...] = (16, 32, 64, 128)
    budget: int = 18_000
    band: float = 0.95
    search_steps: int = 6_400
    search_lr: float = 0.008
    logits_lr: float = 0.03
    table_updates: int = 40
    table_batch: int = 128
    table_lr: float = 0.016
    student: str = "8 32 0.016"
    student_steps: int = 10_000
    student_reading: int = 5_000
    derived_lr: float = 0.008
    target: float = 9.0

    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "full": {
            "seeds": 6,
            "episodes": 200,
            "sizes": ("2 8 0.032", "4 16 0.016", "8 32 0.016", "16 64 0.008", "32 128 0.004", "64 256 0.002"),
            "middle": 2,
            "size_steps": 40_000,
            "size_macs": 5.1e8,
            "band": 0.9,
            "search_steps": 80_000,
            "table_updates": 150,
            "table_lr": 0.004,
            "student_steps": 60_000,
            "student_reading": 20_000,
        },
    }

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        agents = [Size.read(text) for text in self.sizes]
        Size.read(self.student)
        self.require("sizes", len(agents) >= 3, "name at least three agents: a middle needs both sides")
        costs = [a.design.macs(WHERE) for a in agents]
        self.require("sizes", costs == sorted(set(costs)), "grow")
        self.require("middle", 0 < self.middle < len(agents) - 1, "lie between the ends of sizes")
        self.require("search_steps", self.search_steps >= 1600, "be at least 1600, so that every copy ends an episode")
        for name in ("episodes", "size_steps", "size_macs", "table_updates"):
            self.require(name, getattr(self, name) >= 1, "be at least 1")
        for name in ("search_lr", "logits_lr", "table_lr", "derived_lr", "table_batch", "cells"):
            self.require(name, getattr(self, name) > 0, "be positive")
        self.require("band", 0 < self.band < 1, "lie between 0 and 1")
        self.require("student_steps", self.student_steps >= 10, "be at least 10")
        self.require("student_reading", 0 < self.student_reading <= self.student_steps, "lie within student_steps")
        for name in ("stems", "units"):
            values = getattr(self, name)
            self.require(name, list(values) == sorted(set(values)) and min(values) > 0, "rise, from 1 at least")
        self.require("budget", len(self.designs()) >= 3, "be that of three designs or more")

    @property
    def bins(self) -> int:
        """Parts of a search over which the returns of its episodes are averaged: in each, every copy ends one."""
        return max(min(20, self.search_steps // 1600), 1)

    @property
    def tries(self) -> int:
        """So many designs can be trained for the table with the states of one search."""
        return max(self.search_steps // (self.table_updates * self.table_batch), 1)

    def supernet(self, *stream: object) -> SuperAgent:
        """A new supernet with the weights of a stream."""
        with weights_from(*stream):
            return SuperAgent(WHERE, self.stems, tuple(OPERATORS), self.cells, self.units)

    def designs(self) -> list[Design]:
        """The different agents of the budget band: designs that differ only in where a skip stands are one."""
        return list(_designs(self.stems, self.cells, self.units, self.band * self.budget, self.budget))


WHERE = board(games.make(GAME, 1))


@cache
def _designs(stems: tuple, cells: int, units: tuple, low: float, high: float) -> tuple[Design, ...]:
    with torch.device("meta"):
        net = SuperAgent(WHERE, stems, tuple(OPERATORS), cells, units)
    with torch.device("cpu"):
        space = net.space
    every = space.designs()
    costs = space.cost(every)
    found = map(net.design, every[(costs >= low) & (costs <= high)])
    return tuple(dict.fromkeys(design.shortest for design in found))


# --- (1) sizes ---------------------------------------------------------------------------------------------------


def size_part(text: str, seed: int, config: Config) -> dict[str, Any]:
    """One hand-designed agent of one seed: its curve, read at equal steps and at equal MACs."""
    size = Size.read(text)
    macs = size.design.macs(WHERE)
    readings = {"equal steps": config.size_steps, "equal MACs": math.ceil(config.size_macs / macs)}
    count = max(readings.values())
    marks = sorted({*readings.values(), *np.geomspace(count / 30, count, 8).astype(int).tolist()})
    agent = new_agent(size.design, WHERE, seed)
    curve = taught(agent, seed, count, size.lr, None, marks, config)
    where = {"seed": seed, "agent": size.name, "macs": macs}
    pairs = zip(curve.steps, curve.returns, strict=True)
    rows = [where | {"steps": done, "total_macs": done * macs, "return": value} for done, value in pairs]
    read = [where | {"reading": name, "steps": mark, "return": curve.at(mark)} for name, mark in readings.items()]
    return {"curves": rows, "sizes": read}


def taught(
    agent: Agent, seed: int, count: int, lr: float, teacher: nn.Module | None, marks: Sequence[int], config: Config
) -> Curve:
    """An agent that learns on policy, evaluated at ``marks``."""
    rules = Rules()
    return learn(
        Alone(agent),
        Player(games.make(GAME, rules.copies), seed),
        optimiser(agent, lr),
        count,
        rules,
        teacher,
        marks=marks,
        score=lambda done: evaluate(agent, GAME, config.episodes, seed, done),
        target=config.target,
        label=str(agent.design),
    )


# --- (2) searches ------------------------------------------------------------------------------------------------


def search_part(arm: str, seed: int, config: Config) -> dict[str, Any]:
    """One search of one seed: what it decided, and what its own episodes returned."""
    rules, (guide, _) = Rules(), teacher()
    net, plan = config.supernet(seed), Plan(config.search_steps, config.budget)
    search = Search(net, plan, seed)
    adam = optimiser(net, config.search_lr, search.logits, config.logits_lr)
    rows: list[dict[str, Any]] = []
    if arm == STATES:
        batch = rules.copies * rules.rollout
        states = teacher_states(guide, GAME, config.search_steps, rules, seed)
        distil(search, states, guide, adam, config.search_steps // batch, batch, rules, seed)
    else:
        player = Player(games.make(GAME, rules.copies), seed)
        learn(search, player, adam, config.search_steps, rules, guide if arm == DISTILLED else None, label=arm)
        rows = during(player, arm, seed, config)
    low = config.band * config.budget
    design, most = net.design(search.derive(low, config.budget)), argmax_design(search.logits)
    found = {
        "seed": seed,
        "arm": arm,
        "during": _end(rows),
        "agreement": search.agreement(),
        "entropy": entropy([logits.detach() for logits in search.logits]),
        "argmax_macs": float(net.space.cost(most)),
        "design": str(design.shortest),
        "macs": design.macs(WHERE),
    }
    history = _history(search, arm, config) if seed == config.seed else []
    return {"searches": [found], "during": rows, "probabilities": history}


def fixed_part(arm: str, seed: int, config: Config) -> dict[str, Any]:
    """The control: a path of the supernet, drawn at random from the band, that learns for as many steps."""
    rules, (guide, _) = Rules(), teacher()
    net = config.supernet(seed)
    (design,) = random_designs(net.space, config.band * config.budget, config.budget, 1, generator(seed, "fixed path"))
    player = Player(games.make(GAME, rules.copies), seed)
    with_teacher = guide if arm == DISTILLED else None
    learn(
        FixedPath(net, design),
        player,
        optimiser(net, config.search_lr),
        config.search_steps,
        rules,
        with_teacher,
        label=FIXED[arm],
    )
    rows = during(player, FIXED[arm], seed, config)
    found = {"seed": seed, "arm": FIXED[arm], "during": _end(rows), "design": str(net.design(design).shortest)}
    return {"searches": [found | {"macs": net.design(design).macs(WHERE)}], "during": rows}


def during(player: Player, arm: str, seed: int, config: Config) -> list[dict[str, Any]]:
    """Mean return of the episodes that ended in each of `Config.bins` parts of a search."""
    steps, values = np.array(player.finished).T
    ends = np.linspace(0, config.search_steps, config.bins + 1)[1:]
    place = np.searchsorted(ends[:-1], steps)
    found = pd.Series(values).groupby(place).mean().reindex(range(config.bins))
    where = {"seed": seed, "arm": arm}
    return [where | {"steps": round(end), "return": value} for end, value in zip(ends, found, strict=True)]


def _end(rows: Sequence[dict[str, Any]]) -> float:
    """Mean over the last fifth of a search; NaN where it played no episodes."""
    values = [row["return"] for row in rows[-max(len(rows) // 5, 1) :]]
    return float(np.mean(values)) if values else math.nan


def _history(search: Search, arm: str, config: Config) -> list[dict[str, Any]]:
    names = [("stem", w) for w in config.stems]
    names += [(f"cell {c + 1}", name) for c in range(config.cells) for name in OPERATORS]
    names += [("units", u) for u in config.units]
    picks = np.linspace(0, len(search.probabilities) - 1, SNAPSHOTS).round().astype(int)
    return [
        {
            "arm": arm,
            "share": place / (SNAPSHOTS - 1),
            "choice": choice,
            "candidate": str(candidate),
            "probability": float(value),
        }
        for place, at in enumerate(picks)
        for (choice, candidate), value in zip(names, search.probabilities[at], strict=True)
    ]


# --- (3) the ground truth ----------------------------------------------------------------------------------------


def offline(design: Design, states: Tensor, guide: nn.Module, seed: int, config: Config) -> float:
    """Return of an agent that has learned from a teacher's states alone."""
    rules, agent, order = Rules(), new_agent(design, WHERE, seed), generator(seed, "table")
    adam = optimiser(agent, config.table_lr)
    with torch.no_grad():
        logits, values = guide(states)
    for _ in range(config.table_updates):
        rows = torch.randint(len(states), (config.table_batch,), generator=order)
        actor, critic = distillation(*agent(states[rows]), (logits[rows], values[rows]))
        adam.zero_grad()
        (rules.actor * actor + rules.critic * critic).backward()
        adam.step()
    return evaluate(agent, GAME, config.episodes, seed, "table")


def table_part(seed: int, part: int, parts: int, config: Config) -> dict[str, Any]:
    """Every ``parts``-th design of the band, trained with one seed."""
    guide, _ = teacher()
    states = teacher_states(guide, GAME, 10_000, Rules(), seed)
    rows = [
        {
            "design": str(design),
            "seed": seed,
            "macs": design.macs(WHERE),
            "return": offline(design, states, guide, seed, config),
        }
        for design in config.designs()[part::parts]
    ]
    return {"table": rows}


# --- (4) students ------------------------------------------------------------------------------------------------


def student_part(name: str, design: Design, lr: float, seed: int, config: Config) -> dict[str, Any]:
    """A student of one seed, with and without the teacher, and an episode of the first hand-designed ones."""
    guide, _ = teacher()
    every = config.student_steps // 10
    marks = sorted({*range(every, config.student_steps + 1, every), config.student_reading, config.student_steps})
    rows, curves, frames = [], [], []
    for arm, with_teacher in ((VANILLA, None), (DISTILLED, guide)):
        agent = new_agent(design, WHERE, seed)
        curve = taught(agent, seed, config.student_steps, lr, with_teacher, marks, config)
        where = {"seed": seed, "agent": name, "arm": arm, "design": str(design), "macs": design.macs(WHERE)}
        short, long = curve.at(config.student_reading), curve.at(config.student_steps)
        rows.append(where | {"short": short, "long": long, "reached": curve.reached})
        pairs = zip(curve.steps, curve.returns, strict=True)
        curves += [{k: where[k] for k in ("seed", "agent", "arm")} | {"steps": s, "return": r} for s, r in pairs]
        if seed == config.seed and name == "by hand":
            frames += episode(agent, guide, arm, seed)
    return {"students": rows, "student_curves": curves, "frames": frames}


@torch.no_grad()
def episode(agent: Agent, guide: nn.Module, arm: str, seed: int) -> list[dict[str, Any]]:
    """One episode that the student plays, and what its teacher would have done: a row a step."""
    env = games.Catch()
    observation, _ = env.reset(seed=seeds(1, seed, "episode")[0])
    random, rows, over = generator(seed, "episode"), [], False
    while not over:
        x = torch.from_numpy(observation)[None]
        own, theirs = (net(x)[0].softmax(-1)[0] for net in (agent, guide))
        kl = float((theirs * (theirs / own).log()).sum())
        action = int(torch.multinomial(own, 1, generator=random))
        places = {
            f"{what}_{axis}": int(place)
            for what, plane in zip(("paddle", "ball", "before"), observation, strict=True)
            for axis, place in zip(("row", "column"), np.argwhere(plane)[0], strict=True)
        }
        observation, reward, over, _, _ = env.step(action)
        moves = {f"{who}_{move}": float(p) for who, of in (("student", own), ("teacher", theirs)) for move, p in
                 zip(MOVES, of, strict=True)}  # fmt: skip
        rows.append({"arm": arm, "step": len(rows), **places, **moves, "kl": kl, "caught": reward})
    return rows


MOVES = ("left", "stay", "right")


def baseline_part(seed: int, config: Config) -> dict[str, Any]:
    """The random policy and the teacher in fresh episodes."""
    guide, _ = teacher()
    policies = {"random": uniform(WHERE.actions), "teacher": guide}
    return {
        "baselines": [
            {"seed": seed, "policy": name, "return": evaluate(policy, GAME, config.episodes, seed, name)}
            for name, policy in policies.items()
        ]
    }


# --- claims ------------------------------------------------------------------------------------------------------

PAPER, OURS = "arXiv 2012.13091, abstract", "this workbench; not in the paper"
CATCHES = "catches of 10"


def _per_seed(table: pd.DataFrame, value: str, **where: Any) -> pd.Series:
    rows = table
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    return rows.set_index("seed")[value].sort_index()


def _claim(id: str, text: str, rule: Rule, unit: str = CATCHES, source: str = PAPER) -> Claim:
    return Claim(f"a2d.{id}", text, "measured", unit, rule, None, source, True)


def _size_claims(sizes: pd.DataFrame, config: Config) -> Iterator[tuple[Claim, Interval]]:
    agents = [Size.read(text).name for text in config.sizes]
    small, middle, large = agents[0], agents[config.middle], agents[-1]
    for reading in ("equal steps", "equal MACs"):
        at = reading.replace(" ", "_").lower()
        own = {agent: _per_seed(sizes, "return", agent=agent, reading=reading) for agent in agents}
        yield (
            _claim(
                f"size.{at}.too_small",
                f"At {reading} the middle agent ({middle}) beats the smallest ({small})",
                above(),
            ),
            interval_or_none(own[middle] - own[small]),
        )
        yield (
            _claim(
                f"size.{at}.too_large", f"At {reading} the middle agent ({middle}) beats the largest ({large})", above()
            ),
            interval_or_none(own[middle] - own[large]),
        )


def _search_claims(tables: dict[str, pd.DataFrame], config: Config) -> Iterator[tuple[Claim, Interval]]:
    searches, band = tables["searches"], tables["table"]
    end = {arm: _per_seed(searches, "during", arm=arm) for arm in (*SEARCHES[:2], *FIXED.values())}
    random = _per_seed(tables["baselines"], "return", policy="random")
    yield (
        _claim("search.vanilla.learns", "Search without a teacher gets above the random policy", above(), source=OURS),
        interval_or_none(end[VANILLA] - random),
    )
    yield (
        _claim("search.vanilla.vs_fixed_path", "Search without a teacher fails: a fixed path of the same supernet "
               "returns more after the same steps", above()),
        interval_or_none(end[FIXED[VANILLA]] - end[VANILLA]),
    )  # fmt: skip
    yield (
        _claim("search.distilled.vs_fixed_path", "With a teacher the search still returns less than a fixed path",
               above(), source=OURS),
        interval_or_none(end[FIXED[DISTILLED]] - end[DISTILLED]),
    )  # fmt: skip
    yield (
        _claim("search.distilled.stabilises", "A teacher stabilises the search: its episodes return more", above()),
        interval_or_none(end[DISTILLED] - end[VANILLA]),
    )
    agreement = {arm: _per_seed(searches, "agreement", arm=arm) for arm in SEARCHES}
    yield (
        _claim("search.vanilla.signal", "Without a teacher, gradients of the architecture agree between even and odd "
               "updates", above(), "cosine", OURS),
        interval_or_none(agreement[VANILLA]),
    )  # fmt: skip
    yield (
        _claim("search.distilled.signal", "A teacher lowers the variance: gradients of the architecture agree more",
               above(), "cosine"),
        interval_or_none(agreement[DISTILLED] - agreement[VANILLA]),
    )  # fmt: skip
    known = band.set_index(["seed", "design"])["return"]
    average, rival = band.groupby("seed")["return"].mean(), best_of_random(band, config)
    ranked = {}  # what each seed's search found, as the table has it for the same seed
    for arm in SEARCHES:
        at = arm.replace("'", "").replace(" ", "_")
        found = _per_seed(searches, "design", arm=arm)
        ranked[arm] = pd.Series({seed: known[seed, design] for seed, design in found.items()})
        yield (
            _claim(f"derived.{at}.vs_random", f"Search ({arm}) finds a better design than a random one of the band",
                   above()),
            interval_or_none(ranked[arm] - average),
        )  # fmt: skip
        yield (
            _claim(f"derived.{at}.vs_best_of_{config.tries}", f"Search ({arm}) finds a better design than the best of "
                   f"{config.tries} random ones, trained on as many states", above(), source=OURS),
            interval_or_none(ranked[arm] - rival),
        )  # fmt: skip
        yield (
            _claim(f"derived.{at}.argmax_in_band", f"Search ({arm}): the plain argmax keeps the budget band",
                   inside(config.band * config.budget, config.budget), "MACs", OURS),
            interval_or_none(_per_seed(searches, "argmax_macs", arm=arm)),
        )  # fmt: skip
    yield (
        _claim("derived.distilled_vs_vanilla", "A teacher improves what the search finds", above()),
        interval_or_none(ranked[DISTILLED] - ranked[VANILLA]),
    )


def best_of_random(band: pd.DataFrame, config: Config) -> pd.Series:
    """Return, by seed, of the best of `Config.tries` designs drawn from the band: chosen by another seed's training."""
    wide = band.pivot(index="seed", columns="design", values="return")
    found = {}
    for seed, other in zip(wide.index, np.roll(wide.index, 1), strict=True):
        drawn = torch.randperm(wide.shape[1], generator=generator(seed, "random designs"))[: config.tries].tolist()
        found[seed] = wide.loc[seed, wide.loc[other].iloc[drawn].idxmax()]
    return pd.Series(found)


def _student_claims(tables: dict[str, pd.DataFrame], config: Config) -> Iterator[tuple[Claim, Interval]]:
    students = tables["students"]
    guide = _per_seed(tables["baselines"], "return", policy="teacher")
    for agent in ("by hand", "derived"):
        at = agent.replace(" ", "_")
        own = {arm: students[(students["agent"] == agent) & (students["arm"] == arm)] for arm in (VANILLA, DISTILLED)}
        for reading, steps in (("short", config.student_reading), ("long", config.student_steps)):
            gain = _per_seed(own[DISTILLED], reading) - _per_seed(own[VANILLA], reading)
            yield (
                _claim(
                    f"student.{at}.gain_{reading}",
                    f"A teacher improves the student {agent}, after {steps:,} steps",
                    above(),
                ),
                interval_or_none(gain),
            )
        saved = _per_seed(own[VANILLA], "reached") - _per_seed(own[DISTILLED], "reached")
        yield (
            _claim(f"student.{at}.steps_saved", f"A teacher lets the student {agent} reach {config.target:g} sooner",
                   above(), "steps", OURS),
            interval_or_none(saved),
        )  # fmt: skip
        yield (
            _claim(f"student.{at}.vs_teacher", f"The student {agent}, taught, is within {MARGIN:g} of its teacher",
                   not_worse(MARGIN)),
            interval_or_none(_per_seed(own[DISTILLED], "long") - guide),
        )  # fmt: skip


def _teacher_claim(tables: dict[str, pd.DataFrame]) -> tuple[Claim, Interval]:
    text = "The recorded teacher plays nearly without a miss"
    claim = Claim("a2d.teacher.return", text, "recorded", CATCHES, inside(9.5, 10), None, OURS, True)
    return claim, interval_or_none(_per_seed(tables["baselines"], "return", policy="teacher"))


# --- the whole ---------------------------------------------------------------------------------------------------

ORDER = {
    "curves": ["agent", "seed", "steps"],
    "sizes": ["reading", "agent", "seed"],
    "searches": ["arm", "seed"],
    "during": ["arm", "seed", "steps"],
    "probabilities": [],
    "table": ["design", "seed"],
    "students": ["agent", "arm", "seed"],
    "student_curves": ["agent", "arm", "seed", "steps"],
    "frames": [],
    "baselines": ["policy", "seed"],
}
"""Tables, and what their rows are ordered by."""


def run(config: Config) -> Result:
    """All parts on two processes; tables as in `ORDER`, and ``band`` (a row a design), ``atari`` and ``summary``."""
    teacher()  # a missing or damaged record is said before the long part
    own, hand = config.seed_list, Size.read(config.student)
    parts: list[tuple] = [(search_part, arm, seed) for seed in own for arm in (DISTILLED, VANILLA, STATES)]
    parts += [(fixed_part, arm, seed) for seed in own for arm in FIXED]
    parts += [(size_part, text, seed) for seed in own for text in reversed(config.sizes)]
    parts += [(table_part, seed, part, 4) for seed in own for part in range(4)]
    parts += [(student_part, "by hand", hand.design, hand.lr, seed) for seed in own]
    parts += [(baseline_part, seed) for seed in own]
    found = _all(parts, config)
    designs = {str(design): design for design in config.designs()}
    derived = [row for part in found for row in part.get("searches", []) if row["arm"] == DISTILLED]
    found += _all(
        [(student_part, "derived", designs[row["design"]], config.derived_lr, row["seed"]) for row in derived], config
    )
    tables = {}
    for name, by in ORDER.items():
        table = pd.DataFrame([row for part in found for row in part.get(name, [])])
        tables[name] = table.sort_values(by, kind="stable", ignore_index=True) if by else table
    costs = tables["table"].groupby("design")["macs"].first()
    band = means(tables["table"], ["design"], "return")
    tables["band"] = band.assign(macs=band["design"].map(costs))
    tables["atari"] = atari.table()
    evidence = [
        *_size_claims(tables["sizes"], config),
        *_search_claims(tables, config),
        *_student_claims(tables, config),
        _teacher_claim(tables),
    ]
    rows = [claim.row(what, config.scale) for claim, what in evidence] + atari.rows(config.scale)
    tables["summary"] = pd.DataFrame(
        [
            {"quantity": c.id, "mean": e.mean, "low": e.low, "high": e.high, "n": len(e.samples), "unit": c.unit}
            for c, e in evidence
        ]
    )
    return Result(tables, rows, config.record("a2d"), recorded.provenance(NAME)["sha256"])


def _all(parts: Sequence[tuple], config: Config) -> list[dict[str, Any]]:
    """What the parts found; they run on two processes, and a progress bar counts them."""
    done = Parallel(n_jobs=2, return_as="generator")(delayed(_alone)(*part, config) for part in parts)
    return list(tqdm(done, "a2d", len(parts), delay=2, leave=False))


def _alone(part: Any, *arguments: Any) -> Any:
    torch.set_num_threads(1)  # sums keep their order: the same figures on one core and on many
    return part(*arguments)
