"""Published numbers, claims, intervals and the ledger.

Every claim of a paper is a `Claim`: what it says, which kind of evidence answers it, and the rule that turns
the evidence into a verdict. The rule is written before the run; no verdict is ever set by hand.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from workbench import ROOT, SCRATCH, WorkbenchError, check_choice, check_number, write_atomic

KEYS = (
    "id", "paper", "claim", "kind", "published", "value", "low", "high", "n", "unit",
    "verdict", "source", "verified", "scale", "command",
)  # fmt: skip
NUMBERS = ("published", "value", "low", "high", "n")

Kind = Literal["analytic", "measured", "recorded"]
REPRODUCED, PARTLY, NOT_SEEN = "reproduced", "partly", "not seen at this scale"
CONTRADICTED, NOT_TESTABLE = "contradicted", "not testable here"
VERDICTS = (REPRODUCED, PARTLY, NOT_SEEN, CONTRADICTED, NOT_TESTABLE)


@dataclass(frozen=True)
class Interval:
    """A mean with its interval; ``samples`` are the per-seed values behind it (NaN: the event never came)."""

    mean: float
    low: float
    high: float
    samples: tuple[float, ...]

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def interval(samples: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student-t interval of the mean of per-seed values; pass differences for a paired contrast.

    Student's t, because with 5 to 24 seeds the spread itself is uncertain: a normal interval or a percentile
    bootstrap is too narrow there (at n = 5 a nominal 95 % bootstrap covers some 83 %). Pairing (same seed in
    both arms) removes what the arms share, which is most of the spread. NaN samples are left out of the mean.

    Raises:
        WorkbenchError: with fewer than two finite samples there is no spread to speak of; an infinite sample, a seed
            that diverged, is no value and must not be left out either, or only what survived is averaged.
    """
    check_number("confidence", confidence, 0, 1, above=True)
    values = np.asarray(samples, float)
    if np.isinf(values).any():
        raise WorkbenchError(f"{np.isinf(values).sum()} of {len(values)} seeds gave infinity: a mean would hide them")
    finite = values[np.isfinite(values)]
    if len(finite) < 2:
        raise WorkbenchError(f"an interval needs at least two seeds that gave a value, got {len(finite)}")
    mean, error = float(finite.mean()), float(finite.std(ddof=1)) / len(finite) ** 0.5
    half = float(stdtrit(len(finite) - 1, (1 + confidence) / 2)) * error  # scipy.stats itself takes a second to import
    return Interval(mean, mean - half, mean + half, tuple(values.tolist()))


def contrast(table: pd.DataFrame, a: Mapping[str, Any], b: Mapping[str, Any], value: str = "accuracy") -> Interval:
    """Paired difference of the column ``value``, rows like ``a`` minus rows like ``b``: matched by seed.

    Raises:
        WorkbenchError: another column, a seed twice in one of the arms, or fewer than two pairs.
    """
    for column in (value, "seed", *a, *b):
        check_choice("column", column, table.columns)

    def pick(labels: Mapping[str, Any]) -> pd.Series:
        rows = table[np.logical_and.reduce([table[name] == label for name, label in labels.items()])]
        if rows["seed"].duplicated().any():
            raise WorkbenchError(f"rows like {dict(labels)} hold a seed twice: name what else tells them apart")
        return rows.set_index("seed")[value]

    return interval((pick(a) - pick(b)).dropna().sort_index().tolist())


def interval_or_none(samples: pd.Series) -> Interval:
    """The interval, or NaN where fewer than two seeds gave a value; the rule still sees every seed.

    ``samples`` is indexed by seed; NaN where the event never came.
    """
    values = tuple(samples.sort_index().tolist())
    return interval(values) if np.isfinite(values).sum() >= 2 else Interval(math.nan, math.nan, math.nan, values)


def means(table: pd.DataFrame, by: list[str], column: str = "accuracy") -> pd.DataFrame:
    """Mean of ``column`` with 95 % half width over seeds, by groups; n counts the seeds that gave a value."""

    for name in (column, *by):
        check_choice("column", name, table.columns)

    def summarise(values: pd.Series) -> pd.Series:
        known = interval_or_none(values)
        return pd.Series({column: known.mean, "half": known.half_width, "n": float(np.isfinite(known.samples).sum())})

    return table.groupby(by, sort=False)[column].apply(summarise).unstack().reset_index()


# --- rules: evidence to verdict ------------------------------------------------------------------------------

Rule = Callable[[Interval, float | None], str]


def equals(relative: float = 0.005, partly: float = 0.05) -> Rule:
    """An exact recomputation: reproduced within ``relative`` of the published number, partly within ``partly``.

    The rule refuses what is no number: that contradicts nothing.
    """
    check_number("relative", relative, 0)
    check_number("partly", partly, 0)

    def rule(found: Interval, published: float | None) -> str:
        if published is None or not (math.isfinite(found.mean) and math.isfinite(published)):
            raise WorkbenchError(f"{found.mean} and {published} (published) cannot be compared: both must be numbers")
        gap = abs(found.mean - published)
        error = gap / abs(published) if published else math.inf if gap else 0.0
        return REPRODUCED if error <= relative else PARTLY if error <= partly else CONTRADICTED

    return rule


def above(margin: float = 0.0) -> Rule:
    """The contrast exceeds ``margin``: the whole interval above it; contradicted when the whole lies below."""
    check_number("margin", margin, -math.inf)

    def rule(found: Interval, _: float | None) -> str:
        return REPRODUCED if found.low > margin else CONTRADICTED if found.high < margin else NOT_SEEN

    return rule


def not_worse(margin: float) -> Rule:
    """Non-inferiority: the contrast is not below ``-margin``; contradicted when the whole interval is."""
    return above(-margin)


def inside(low: float, high: float) -> Rule:
    """Each seed's value lies in ``[low, high]``: reproduced when all do, partly when some do."""
    check_number("low", low, -math.inf)
    check_number("high", high, low)

    def rule(found: Interval, _: float | None) -> str:
        share = np.mean([low <= value <= high for value in found.samples])  # NaN is outside
        return REPRODUCED if share == 1 else PARTLY if share > 0 else CONTRADICTED

    return rule


# --- published numbers, claims, rows -------------------------------------------------------------------------


def published(paper: str) -> pd.DataFrame:
    """The paper's numbers: columns id (index), claim, value, unit, source, verified, note."""
    table = pd.read_csv(ROOT / "data" / "published" / f"{paper}.csv", index_col="id")
    return table.astype({"verified": bool})


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, the kind of evidence that answers it, and its rule.

    ``paper`` is whose notebook makes the row, where that is not the first part of the id.
    """

    id: str
    claim: str
    kind: Kind
    unit: str
    rule: Rule
    published: float | None = None
    source: str | None = None
    verified: bool | None = None
    paper: str | None = None

    def row(self, found: Interval | float | None, scale: str) -> dict[str, Any]:
        """The ledger's row; ``found`` is a number for analytic claims, None for what cannot be tested here."""
        paper = self.paper or self.id.split(".")[0]
        if isinstance(found, int | float):
            found = Interval(float(found), math.nan, math.nan, ())
        row = {
            "id": self.id,
            "paper": paper,
            "claim": self.claim,
            "kind": self.kind,
            "published": self.published,
            "value": None if found is None else found.mean,
            "low": None if found is None else found.low,
            "high": None if found is None else found.high,
            "n": len(found.samples) if found is not None and found.samples else None,
            "unit": self.unit,
            "verdict": NOT_TESTABLE if found is None else self.rule(found, self.published),
            "source": self.source,
            "verified": self.verified,
            "scale": scale,
            "command": f"workbench figures {paper} --scale {scale}",
        }
        return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}


def claims_from(table: pd.DataFrame, kind: Kind, rule: Rule) -> dict[str, Claim]:
    """Claims for rows of `published`, keyed by id, all of one kind and rule."""
    return {
        str(key): Claim(
            str(key),
            row["claim"],
            kind,
            row["unit"],
            rule,
            row["value"],
            row["source"],
            bool(row["verified"]),
        )
        for key, row in table.iterrows()
    }


@dataclass(frozen=True)
class Result:
    """What an experiment found: tidy tables by name, and the ledger's rows.

    ``tables["summary"]`` has one row a measured quantity; `workbench sweep` collects it.
    """

    tables: Mapping[str, pd.DataFrame]
    rows: Sequence[dict[str, Any]]
    parameters: Mapping[str, Any]
    data_hash: str
    extra: Mapping[str, Any] = field(default_factory=dict)


# --- the ledger ----------------------------------------------------------------------------------------------


def output_folder() -> Path:
    """Where figures and rows of this process go: the runner's staging folder, or a private one in Lab."""
    return Path(os.environ.get("WORKBENCH_OUT", SCRATCH / "lab"))


def _dump(rows: Sequence[Mapping[str, Any]]) -> bytes:
    ordered = [{key: row[key] for key in KEYS} for row in sorted(rows, key=lambda row: row["id"])]
    return (json.dumps(ordered, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of one ledger file; none where there is no file. `WorkbenchError` when it is damaged."""
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        if any(set(row) != set(KEYS) for row in rows):
            raise ValueError("a row has other keys than the ledger's")
        for key, value in (item for row in rows for item in row.items()):
            types = dict.fromkeys(("id", "paper"), str) | dict.fromkeys(NUMBERS, int | float | None)
            if not isinstance(value, types.get(key, str | bool | None)):
                raise ValueError(f"{key} is {value!r}")
    except (OSError, ValueError, TypeError) as error:
        raise WorkbenchError(f"{path} cannot be read ({error}): restore it with git, or remove it") from None
    return rows


def merge_ledger(target: Path, rows: Sequence[Mapping[str, Any]], paper: str) -> None:
    """Replace that paper's rows of the ledger ``target``, atomically; other papers' rows stay."""
    others = [row for row in read_rows(target) if row["paper"] != paper]
    ids = [row["id"] for row in rows]
    if len(set(ids)) != len(ids) or any(row["paper"] != paper for row in rows):
        raise WorkbenchError(f"rows of {paper}: an id twice, or another paper's row")
    write_atomic(target, _dump([*others, *rows]))


def save_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Hand the rows of a notebook's run to the runner (or to the private folder, in Lab)."""
    for paper in sorted({row["paper"] for row in rows}):
        merge_ledger(output_folder() / "ledger.json", [r for r in rows if r["paper"] == paper], paper)


def read_ledger(scale: str) -> list[dict[str, Any]]:
    """All rows of the committed ledger, figures/<scale>/ledger.json."""
    return read_rows(ROOT / "figures" / scale / "ledger.json")
