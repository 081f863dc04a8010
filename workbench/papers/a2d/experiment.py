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

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar

import pandas as pd
import torch
from joblib import Parallel, delayed

from workbench import papers, recorded
from workbench.evidence import Result, means
from workbench.papers import Count, Range, Rate, Reads, Seed, Several, Share, Spread
from workbench.papers.a2d import atari, claims
from workbench.papers.a2d.method import OPERATORS, Design, SuperAgent
from workbench.papers.a2d.play import weights_from
from workbench.papers.a2d.record import NAME, teacher
from workbench.papers.a2d.trials import (
    DISTILLED,
    FIXED,
    STATES,
    VANILLA,
    WHERE,
    Size,
    baseline_part,
    fixed_part,
    search_part,
    size_part,
    student_part,
    table_part,
)
from workbench.progress import progress


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

    seed: Seed = 100
    seeds: Spread = 3
    episodes: Count = 100
    sizes: Annotated[tuple[Annotated[str, Reads(Size.read)], ...], Several(3)] = (
        "2 8 0.032",
        "8 32 0.016",
        "16 64 0.008",
    )
    middle: Annotated[int, Range(1, 1_000)] = 1
    size_steps: Count = 10_000
    size_macs: Annotated[float, Range(1, 1e12)] = 3e7
    stems: Annotated[tuple[Annotated[int, Range(1, 4096)], ...], Several(rising=True)] = (4, 8, 16)
    cells: Annotated[int, Range(1, 6)] = 2
    units: Annotated[tuple[Annotated[int, Range(1, 4096)], ...], Several(rising=True)] = (16, 32, 64, 128)
    budget: Annotated[int, Range(1, 10**9)] = 18_000
    band: Share = 0.95
    search_steps: Annotated[int, Range(1600, 10**8)] = 4_800
    search_lr: Rate = 0.008
    logits_lr: Rate = 0.03
    table_updates: Count = 25
    table_batch: Count = 128
    table_lr: Rate = 0.016
    student: Annotated[str, Reads(Size.read)] = "8 32 0.016"
    student_steps: Annotated[int, Range(10, 10**8)] = 8_000
    student_reading: Count = 4_000
    derived_lr: Rate = 0.008
    target: Annotated[float, Range(-1_000, 1_000)] = 9.0

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
        costs = [a.design.macs(WHERE) for a in agents]
        self.require("sizes", costs == sorted(set(costs)), "grow")
        self.require("middle", 0 < self.middle < len(agents) - 1, "lie between the ends of sizes")
        self.require(
            "student_steps",
            self.student_reading <= self.student_steps,
            f"reach student_reading ({self.student_reading})",
        )
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
    evidence = claims.of_tables(tables, config)
    rows = [claim.row(what, config.scale) for claim, what in evidence] + atari.rows(config.scale)
    tables["summary"] = pd.DataFrame(
        [
            {"quantity": c.id, "mean": e.mean, "low": e.low, "high": e.high, "n": len(e.samples), "unit": c.unit}
            for c, e in evidence
        ]
    )
    return Result(
        tables,
        [row | {"command": config.command("a2d")} for row in rows],
        config.record("a2d"),
        recorded.provenance(NAME)["sha256"],
    )


def _all(parts: Sequence[tuple], config: Config) -> list[dict[str, Any]]:
    """What the parts found; they run on two processes, and a progress bar counts them."""
    done = Parallel(n_jobs=2, return_as="generator")(delayed(_alone)(*part, config) for part in parts)
    return list(progress(done, "a2d", len(parts)))


def _alone(part: Any, *arguments: Any) -> Any:
    torch.set_num_threads(1)  # sums keep their order: the same figures on one core and on many
    return part(*arguments)
