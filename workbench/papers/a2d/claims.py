"""What A2D claims, as rules over the tables of the experiment; they were fixed before the runs.

``config`` is `experiment.Config`; every function gives claims with the evidence for them, paired by seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from workbench.evidence import Claim, Interval, Rule, above, inside, interval_or_none, not_worse
from workbench.papers.a2d.trials import DISTILLED, FIXED, SEARCHES, VANILLA, Size
from workbench.training import generator

MARGIN = 0.5
"""Catches of 10 that "as good as the teacher" may cost; fixed before the runs."""
PAPER, OURS = "arXiv 2012.13091, abstract", "this workbench; not in the paper"
CATCHES = "catches of 10"


def _per_seed(table: pd.DataFrame, value: str, **where: Any) -> pd.Series:
    rows = table
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    return rows.set_index("seed")[value].sort_index()


def _claim(id: str, text: str, rule: Rule, unit: str = CATCHES, source: str = PAPER) -> Claim:
    return Claim(f"a2d.{id}", text, "measured", unit, rule, None, source, True)


def _size_claims(sizes: pd.DataFrame, config: Any) -> Iterator[tuple[Claim, Interval]]:
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


def _search_claims(tables: Mapping[str, pd.DataFrame], config: Any) -> Iterator[tuple[Claim, Interval]]:
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
    own = searches[searches["arm"].isin(SEARCHES)]
    kept = 100.0 * own["argmax_macs"].between(config.band * config.budget, config.budget).groupby(own["seed"]).mean()
    yield (
        _claim("derived.argmax_in_band", "Plain argmax keeps the budget band, in all searches of a seed",
               inside(100, 100), "% of searches", OURS),
        interval_or_none(kept),
    )  # fmt: skip
    yield (
        _claim("derived.distilled_vs_vanilla", "A teacher improves what the search finds", above()),
        interval_or_none(ranked[DISTILLED] - ranked[VANILLA]),
    )


def best_of_random(band: pd.DataFrame, config: Any) -> pd.Series:
    """Return, by seed, of the best of `Config.tries` designs drawn from the band: chosen by another seed's training."""
    wide = band.pivot(index="seed", columns="design", values="return")
    found = {}
    for seed, other in zip(wide.index, np.roll(wide.index, 1), strict=True):
        drawn = torch.randperm(wide.shape[1], generator=generator(seed, "random designs"))[: config.tries].tolist()
        found[seed] = wide.loc[seed, wide.loc[other].iloc[drawn].idxmax()]
    return pd.Series(found)


def _student_claims(tables: Mapping[str, pd.DataFrame], config: Any) -> Iterator[tuple[Claim, Interval]]:
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


def _teacher_claim(tables: Mapping[str, pd.DataFrame]) -> tuple[Claim, Interval]:
    text = "The recorded teacher plays nearly without a miss"
    claim = Claim("a2d.teacher.return", text, "recorded", CATCHES, inside(9.5, 10), None, OURS, True)
    return claim, interval_or_none(_per_seed(tables["baselines"], "return", policy="teacher"))


def of_tables(tables: Mapping[str, pd.DataFrame], config: Any) -> list[tuple[Claim, Interval]]:
    """All measured and recorded claims."""
    return [
        *_size_claims(tables["sizes"], config),
        *_search_claims(tables, config),
        *_student_claims(tables, config),
        _teacher_claim(tables),
    ]
