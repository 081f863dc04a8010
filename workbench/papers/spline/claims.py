"""The claims of spline pruning and their rules, fixed before any run, beside the evidence in the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workbench.evidence import (
    Claim,
    Interval,
    above,
    claims_from,
    contrast,
    equals,
    inside,
    interval,
    interval_or_none,
    not_worse,
    published,
)
from workbench.papers.spline import images
from workbench.papers.spline.truths import closed_forms

if TYPE_CHECKING:
    from workbench.papers.spline.experiment import Cell, Config

STEPS = (0, 10, 30, 100, 300)
"""Retraining steps after which accuracy is taken."""
EARLY, LATE = 30, STEPS[-1]
"""Steps at which claims are judged; fixed before the runs."""
MARGIN = 1.0
"""Points of accuracy that "no loss" may cost; fixed before the runs."""
SCRATCH = "from scratch"
TICKETS = ("redundancy", "in-norm")
"""Rules by which tickets are drawn where a detector fires."""


PAPER, OURS = "Max-affine spline pruning; the limits are ours", "this workbench; not in the paper"
READING = "our reading of the paper; its released code has no criterion"
Found = Iterator[tuple[Claim, Interval]]


def _claim(id: str, text: str, rule: Any, source: str = READING, unit: str = "points") -> Claim:
    return Claim(f"spline.{id}", text, "measured", unit, rule, None, source, None)


def _pruning_claims(tables: Mapping[str, pd.DataFrame], cell: Cell) -> Found:
    """What the criterion is worth in one cell, against the other criteria and against not pruning at all."""
    text = f"{cell.net} on {cell.dataset}, {100 * cell.ratio:.0f} % of the units pruned"

    def against(a: str, b: str, step: int, scope: str = "layer", **others: Any) -> Interval:
        at = cell.labels | {"scope": scope, "step": step}
        return contrast(tables["curves"], at | {"arm": a}, at | {"arm": b} | others)

    for short, arm, source in (("redundancy", "redundancy", READING), ("merge", "scaled + merge (ours)", OURS)):
        for other in ("in-norm", "random"):
            for step in (EARLY, LATE):
                name, said = f"{cell.id}.{short}_beats_{other}.{step}", f"{arm} beats {other} after {step} steps"
                yield _claim(name, f"{text}: {said} of retraining", above(), source), against(arm, other, step)
        yield (
            _claim(
                f"{cell.id}.{short}_keeps_accuracy",
                f"{text}: {arm} loses at most {MARGIN:g} point against the dense net, trained as long",
                not_worse(MARGIN),
                source,
            ),
            against(arm, "dense", LATE, ratio=0.0),
        )
    name, said = f"{cell.id}.redundancy_beats_snip.{LATE}", f"redundancy beats SNIP after {LATE} steps of retraining"
    yield _claim(name, f"{text}: {said}", above()), against("redundancy", "SNIP", LATE)
    name = f"{cell.id}.pruned_beats_scratch"
    yield (
        _claim(name, f"{text}: redundancy beats a net of that size trained from scratch for {LATE} steps", above()),
        against("redundancy", SCRATCH, LATE),
    )
    if len(cell.widths) > 3:
        name, said = f"{cell.id}.global_redundancy", "across all layers at once redundancy beats in-norm"
        yield (
            _claim(name, f"{text}: {said} after {LATE} steps", above()),
            against("redundancy", "in-norm", LATE, "global"),
        )
    at = cell.labels | {"scope": "layer", "step": 0}
    yield (
        _claim(
            f"{cell.id}.more_regions",
            f"{text}: redundancy leaves more regions than in-norm, before retraining",
            above(),
            OURS,
            "regions",
        ),
        contrast(tables["regions"], at | {"arm": "redundancy"}, at | {"arm": "in-norm"}, "regions"),
    )


def _detector_claims(tables: Mapping[str, pd.DataFrame], cell: Cell, config: Config) -> Found:
    """When the detectors fire in one cell, and what a ticket drawn there is worth."""
    text, quarter = f"{cell.net} on {cell.dataset}", config.dense_steps // 4

    def pick(table: str, **labels: Any) -> pd.DataFrame:
        rows = tables[table]
        return rows[np.logical_and.reduce([rows[name] == value for name, value in (cell.labels | labels).items()])]

    for detector in ("partition", "mask"):
        name = f"{cell.id}.{detector}"
        yield (
            _claim(
                f"{name}_fires_early",
                f"{text}: the {detector} detector fires within the first quarter of training",
                inside(0, quarter),
                PAPER,
                "steps",
            ),
            interval_or_none(pick("fired", detector=detector).set_index("seed")["step"]),
        )
        for rule in TICKETS:
            share = f"{100 * cell.ratio:.0f} %"
            yield (
                _claim(
                    f"{name}_ticket.{rule}",
                    f"{text}: a ticket ({rule}, {share} pruned) drawn where the {detector} detector fires is at most "
                    f"{MARGIN:g} point worse than one drawn at the end",
                    not_worse(MARGIN),
                    PAPER,
                ),
                contrast(pick("tickets", arm=rule), {"drawn": detector}, {"drawn": "end"}),
            )
    yield (
        _claim(
            f"{cell.id}.strangers",
            f"{text}: the partition detector stays silent where every look meets another untrained network",
            above(config.partition_eta),
            OURS,
            "fraction",
        ),
        interval(pick("strangers")["change"].tolist()),
    )


def _image_claims(tables: Mapping[str, pd.DataFrame], config: Config) -> Found:
    """The criteria, the detectors and their tickets on networks that see images."""
    curves, last = tables["image_curves"], config.image_steps[-1]
    for (dataset, net, ratio), rows in curves[curves["ratio"] > 0].groupby(["dataset", "net", "ratio"], sort=False):
        text, name = (
            f"{net} on {dataset}, {100 * ratio:.0f} % of the units pruned",
            f"{dataset}.{net}.{100 * ratio:.0f}",
        )
        here = curves[(curves["dataset"] == dataset) & (curves["net"] == net) & (curves["step"] == last)]
        for short, arm, source in (("redundancy", "redundancy", READING), ("merge", "scaled + merge (ours)", OURS)):
            for other in ("in-norm", "BatchNorm scale", "SNIP", "random"):
                if other in set(rows["arm"]):
                    said = f"{text}: {arm} beats {other} after {last} retraining steps"
                    found = contrast(here[here["ratio"] == ratio], {"arm": arm}, {"arm": other})
                    yield _claim(f"{name}.{short}_beats_{other.replace(' ', '_')}.{last}", said, above(), source), found
            said = f"{text}: {arm} loses at most {MARGIN:g} point against the dense net, trained as long"
            found = contrast(here, {"arm": arm, "ratio": ratio}, {"arm": "dense"})
            yield _claim(f"{name}.{short}_keeps_accuracy", said, not_worse(MARGIN), source), found
    for setup in map(images.Setup.read, config.images):
        yield from _ticket_claims(tables, setup)


def _ticket_claims(tables: Mapping[str, pd.DataFrame], setup: images.Setup) -> Found:
    """When the detectors of one conv net fire, what the tickets are worth, and what training then costs."""
    dataset, net = setup.labels.values()
    of = lambda table: table[(table["dataset"] == dataset) & (table["net"] == net)]  # noqa: E731
    fired, drawn, costs = of(tables["image_fired"]), of(tables["image_tickets"]), of(tables["image_costs"])
    dense = costs[costs["arm"] == "dense"].set_index("seed")["macs"]
    for detector in ("partition", "mask"):
        name, text = f"{dataset}.{net}.{detector}", f"{net} on {dataset}: the {detector} detector"
        epochs = fired[(fired["detector"] == detector) & (fired["training"] == "trained")].set_index("seed")["epoch"]
        said = f"{text} fires within the first quarter of training"
        yield (
            _claim(f"{name}_fires_early", said, inside(1, setup.epochs / 4), PAPER, "epochs"),
            interval_or_none(epochs),
        )
        ticket = drawn[drawn["drawn"] == detector].set_index("seed")
        late = drawn[drawn["drawn"] == "last epoch"].set_index("seed")["accuracy"]
        said = f"{text}'s ticket is at most {MARGIN:g} point worse than the one drawn at the end"
        yield _claim(f"{name}_ticket", said, not_worse(MARGIN), PAPER), interval_or_none(ticket["accuracy"] - late)
        first = drawn[drawn["drawn"] == "first epoch"].set_index("seed")["accuracy"]
        said = f"{text}'s ticket beats the one drawn after the first epoch: waiting for it was worth it"
        yield _claim(f"{name}_ticket_beats_first", said, above(), OURS), interval_or_none(ticket["accuracy"] - first)
        spent = ticket["epoch"] * dense + (setup.epochs - ticket["epoch"]) * ticket["macs"]
        said = f"{text}'s ticket saves MACs of training, as a factor (TMLR's abstract: up to 3.5, on other networks)"
        saved = interval_or_none(setup.epochs * dense / spent)
        yield _claim(f"{name}.training_macs", said, above(1.0), PAPER, "times"), saved


def _start_claims(table: pd.DataFrame) -> Found:
    for (dataset, width), rows in table.groupby(["dataset", "width"], sort=False):
        text = f"2-{width}-2 on {dataset}: lines through data points are a better start than torch's"
        found = contrast(rows, {"start": "through data"}, {"start": "default"})
        yield _claim(f"start.{dataset}", text, above(), OURS), found


def measured(
    tables: Mapping[str, pd.DataFrame], cells: Sequence[Cell], watched: Sequence[Cell], config: Config
) -> Found:
    """Every measured claim with the evidence for it."""
    for cell in cells:
        yield from _pruning_claims(tables, cell)
    for cell in watched:
        yield from _detector_claims(tables, cell, config)
    yield from _start_claims(tables["starts"])
    yield from _image_claims(tables, config)


def analytic_rows(scale: str) -> list[dict[str, Any]]:
    """Closed forms beside the engine's counts, and what the abstract prints."""
    rows = [claim.row(counted, scale) for claim, counted in closed_forms()]
    return rows + [claim.row(None, scale) for claim in claims_from(published("spline"), "analytic", equals()).values()]
