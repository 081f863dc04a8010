"""What A2D's experiment is made of: one agent, one search, one table or one student of one seed.

Each part returns rows of the tables in `experiment.ORDER`; ``config`` is `experiment.Config`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from workbench import WorkbenchError
from workbench.papers.a2d import games
from workbench.papers.a2d.method import OPERATORS, Agent, Design, distillation
from workbench.papers.a2d.play import Alone, Curve, Player, Rules, board, evaluate, learn, new_agent, seeds, uniform
from workbench.papers.a2d.record import teacher
from workbench.papers.a2d.search import FixedPath, Plan, Search, distil, optimiser, teacher_states
from workbench.supernet import argmax_design, entropy, random_designs
from workbench.training import generator

GAME = "catch"
SNAPSHOTS = 40
VANILLA, DISTILLED, STATES = "without teacher", "with teacher", "teacher's states"
SEARCHES = (VANILLA, DISTILLED, STATES)
FIXED = {VANILLA: "fixed path, without teacher", DISTILLED: "fixed path, with teacher"}
MOVES = ("left", "stay", "right")

WHERE = board(games.make(GAME, 1))
"""What an agent sees and does."""


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
        if not (1 <= found.design.width <= 4096 and 1 <= found.design.units <= 4096 and 0 < found.lr < 10):
            raise WorkbenchError(
                f"width and units must lie in 1..4096, the learning rate above 0 and below 10; got {text!r}"
            )
        return found

    @property
    def name(self) -> str:
        """As figures have it."""
        return f"{self.design.width} + {self.design.units}"


# --- (1) sizes ---------------------------------------------------------------------------------------------------


def size_part(text: str, seed: int, config: Any) -> dict[str, Any]:
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
    agent: Agent, seed: int, count: int, lr: float, teacher: nn.Module | None, marks: Sequence[int], config: Any
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


def search_part(arm: str, seed: int, config: Any) -> dict[str, Any]:
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


def fixed_part(arm: str, seed: int, config: Any) -> dict[str, Any]:
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


def during(player: Player, arm: str, seed: int, config: Any) -> list[dict[str, Any]]:
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


def _history(search: Search, arm: str, config: Any) -> list[dict[str, Any]]:
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


def offline(design: Design, states: Tensor, guide: nn.Module, seed: int, config: Any) -> float:
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


def table_part(seed: int, part: int, parts: int, config: Any) -> dict[str, Any]:
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


def student_part(name: str, design: Design, lr: float, seed: int, config: Any) -> dict[str, Any]:
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


def baseline_part(seed: int, config: Any) -> dict[str, Any]:
    """The random policy and the teacher in fresh episodes."""
    guide, _ = teacher()
    policies = {"random": uniform(WHERE.actions), "teacher": guide}
    return {
        "baselines": [
            {"seed": seed, "policy": name, "return": evaluate(policy, GAME, config.episodes, seed, name)}
            for name, policy in policies.items()
        ]
    }
