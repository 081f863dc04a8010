"""How a result is drawn, saved and compared.

A figure is three files with one name: SVG and PNG to look at, CSV with the tidy table behind it. The CSV's
first line is a comment with the figure's parameters, seed, data hash, package version and the tolerance of
every column, in JSON; the pictures carry the same text. Nothing in them depends on the day or the machine, so
the same content gives the same bytes.
"""

from __future__ import annotations

import inspect
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from IPython.display import Image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from workbench import WorkbenchError, __version__, write_atomic
from workbench.evidence import KEYS, Result, output_folder, read_rows

# Okabe and Ito's palette: distinct for readers with any common colour blindness.
COLOURS = {
    "black": "#000000",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "purple": "#CC79A7",
    "yellow": "#F0E442",
}

STYLE = {
    "axes.grid": True,
    "axes.prop_cycle": mpl.cycler(color=[*list(COLOURS.values())[1:], "#000000"]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
    "font.size": 10,
    "grid.alpha": 0.3,
    "image.cmap": "viridis",
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "workbench",
}

Tolerance = float | str | None

REDRAWN = 3
"""On another processor sums round differently, and a training becomes another draw of the same seeds. The means of
two draws differ by more than 1.4 half widths once in 20 times; three is seldom exceeded in hundreds of cells."""
AGREED = 0.1
"""Where all seeds agree (on an epoch, a number of bits) their spread is hidden: the mean may move by this share."""


def figure(width: float = 7.0, height: float = 4.0, **subplots: Any) -> tuple[Figure, Any]:
    """A figure and its axes in the house style; sizes in inches, further arguments as ``Figure.subplots``."""
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(width, height))
        return drawn, drawn.subplots(**subplots)


def save(
    drawn: Figure,
    table: pd.DataFrame,
    name: str,
    result: Result,
    tolerance: Mapping[str, Tolerance] | None = None,
) -> Image:
    """Save a figure and its table under the output folder, as ``<paper>/<name>.{svg,png,csv}``.

    Args:
        drawn: the figure.
        table: the tidy table that it shows, index not stored.
        name: file name without ending.
        result: where the table comes from; its parameters go into the files' metadata.
        tolerance: how far a column may be from the committed one when figures are verified: a number; the
            name of a column of the committed table with the half width of each row's interval over seeds (see
            `redrawn`); or None for what is never compared (a wall time, a half width). Columns not named must be
            equal.

    Raises:
        WorkbenchError: where a line runs back in x (all of ours are functions of x), or a tolerance names no column.

    Returns:
        The saved picture, so that a cell ending in ``save(...)`` shows what was saved, drawn once.
    """
    tolerance = dict(tolerance or {})
    unknown = (set(tolerance) | {t for t in tolerance.values() if isinstance(t, str)}) - set(table.columns)
    if unknown:
        raise WorkbenchError(f"{name}: tolerance names column(s) {sorted(unknown)} that the table lacks")
    for line in (line for axes in drawn.axes for line in axes.lines if line.get_linestyle() != "None"):
        steps = np.diff(np.ma.masked_invalid(line.get_xdata(orig=False)).compressed())
        if (steps > 0).any() and (steps < 0).any():
            raise WorkbenchError(f"{name}: the line {line.get_label()!r} runs back in x: sort its rows")
    meta = {
        "parameters": dict(result.parameters),
        "data": result.data_hash,
        "workbench": __version__,
        "tolerance": tolerance,
    }
    text = json.dumps(meta, sort_keys=True, default=list)
    folder = output_folder() / result.parameters["paper"]
    body = table.to_csv(index=False, float_format="%.7g", lineterminator="\n")
    csv = f"# {text}\n{body}"
    with mpl.rc_context(STYLE):
        png, svg = io.BytesIO(), io.BytesIO()
        drawn.set_dpi(STYLE["figure.dpi"])  # the SVG canvas leaves its own behind
        # The canvases' own methods draw once, where savefig draws twice.
        FigureCanvasAgg(drawn).print_png(png, metadata={"Description": text, "Title": name, "Software": None})
        drawn.set_layout_engine("none")  # laid out once: every file, and a second save, gets the same layout
        FigureCanvasSVG(drawn).print_svg(
            svg, metadata={"Description": text, "Title": name, "Creator": None, "Date": None}
        )
    for ending, content in (("png", png.getvalue()), ("svg", svg.getvalue()), ("csv", csv.encode())):
        write_atomic(folder / f"{name}.{ending}", content)
    view = inspect.currentframe().f_back
    said = inspect.getdoc(view.f_globals.get(view.f_code.co_name)) or ""
    return Image(data=png.getvalue(), format="png", retina=True, alt=alternative(drawn, said))


def alternative(drawn: Figure, said: str = "") -> str:
    """What a figure shows, in words: the first paragraph of `said`, then each panel's title, axes and series."""
    first = " ".join(said.split("\n\n")[0].split())
    parts = [first, *(text.get_text() for text in [drawn._suptitle] if text)]
    series: dict[str, None] = {}
    for ax in drawn.axes:
        axes = {"x": ax.get_xlabel(), "y": ax.get_ylabel()}
        axes = ", ".join(f"{axis} axis: {label}" for axis, label in axes.items() if label)
        parts.append(": ".join(filter(None, [ax.get_title(), axes])))
        series |= dict.fromkeys(ax.get_legend_handles_labels()[1])
    for legend in drawn.legends:
        series |= dict.fromkeys(text.get_text() for text in legend.get_texts())
    parts = dict.fromkeys(" ".join(part.split()).rstrip(".") for part in parts)
    parts = [part for part in parts if part] + ([f"Shown: {', '.join(series)}"] if series else [])
    return " ".join(f"{part}." for part in parts) or "A picture without words."


def load(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A saved table and its metadata. `WorkbenchError` when the file is not one of ours or damaged."""
    try:
        head, body = path.read_text(encoding="utf-8").split("\n", 1)
        meta = json.loads(head.removeprefix("# "))
        if not {"parameters", "data", "tolerance"} <= set(meta):
            raise ValueError("its first line lacks the figure's metadata")
        return pd.read_csv(io.StringIO(body), keep_default_na=False, na_values=[""]), meta
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise WorkbenchError(f"{path} cannot be read ({reason}): restore it with git, or remake it") from None


def redrawn(half: pd.Series, measure: pd.Series) -> pd.Series:
    """How far measured means may move in another draw of the same seeds, from the half widths of their intervals.

    Not under the median of those with the same measure: a spread over few seeds is often small by chance.
    """
    return REDRAWN * np.fmax(half, half.groupby(measure.to_numpy()).transform("median")).fillna(0)


def _compare_columns(name: str, committed: pd.DataFrame, fresh: pd.DataFrame, meta: dict) -> list[str]:
    if list(committed.columns) != list(fresh.columns) or len(committed) != len(fresh):
        return [
            f"{name}: committed {len(committed)} rows of {list(committed.columns)}, "
            f"fresh {len(fresh)} of {list(fresh.columns)}"
        ]
    differences = []
    for column in committed.columns:
        allowed = meta["tolerance"].get(column, 0)
        if allowed is None:
            continue
        old, new = committed[column], fresh[column]
        if not (pd.api.types.is_numeric_dtype(old) and pd.api.types.is_numeric_dtype(new)):
            # A text column keeps an empty cell as NaN, which differs from itself.
            apart = ((old.astype(str) != new.astype(str)) & ~(old.isna() & new.isna())).to_numpy(bool)
        else:
            a, b = old.to_numpy(float), new.to_numpy(float)
            slack = np.full(len(a), 0 if isinstance(allowed, str) else allowed)
            if isinstance(allowed, str):
                measure = committed.get("measure", default=pd.Series("", index=committed.index))
                slack = redrawn(committed[allowed], measure).to_numpy()
            # Seven digits are stored.
            slack = slack + 1e-6 * np.abs(np.nan_to_num(a, posinf=0, neginf=0))
            with np.errstate(invalid="ignore"):  # inf - inf, where both are equal
                near = np.abs(a - b) <= slack
            apart = ~((a == b) | near | (np.isnan(a) & np.isnan(b)))
        if apart.any():
            row = int(np.argmax(apart))
            differences.append(
                f"{name}: column {column!r} differs in {apart.sum()} of {len(old)} rows, first in row {row + 1}: "
                f"committed {old.iloc[row]!r}, fresh {new.iloc[row]!r}, tolerance {allowed!r}"
            )
    return differences


def _compare_rows(old: dict[str, Any], new: dict[str, Any], slack: float) -> list[str]:
    """A ledger row: what is fixed must be equal, a measured value may move by ``slack``."""
    fixed = ["claim", "kind", "published", "unit", "source", "verified", "n"]
    exact = old["low"] is None
    fixed += ["verdict"] * exact
    differences = [
        f"ledger {old['id']}: {key} was {old[key]!r}, is {new[key]!r}" for key in fixed if old[key] != new[key]
    ]
    a, b = old["value"], new["value"]
    if (a is None) != (b is None):
        differences.append(f"ledger {old['id']}: value was {a!r}, is {b!r}")
    elif a is not None:
        slack += 1e-6 * abs(a)
        if abs(a - b) > slack:
            differences.append(f"ledger {old['id']}: value was {a:.6g}, is {b:.6g}, tolerance {slack:.2g}")
    return differences


def compare(committed: Path, fresh: Path, papers: list[str]) -> dict[str, list[str]]:
    """Differences between two output trees beyond the committed tables' stated tolerances.

    Returns:
        For each table that differs (`<paper>/<name>.csv`, or `ledger of <paper>`) the lines that say where.
    """
    differences: dict[str, list[str]] = {}
    for paper in papers:
        names = {f.name for root in (committed, fresh) for f in (root / paper).glob("*.csv")}
        for name in (f"{paper}/{name}" for name in sorted(names)):
            old, new = committed / name, fresh / name
            if not (old.exists() and new.exists()):
                differences[name] = [f"{name}: only in the {'committed' if old.exists() else 'fresh'} figures"]
                continue
            try:
                (before, meta), (after, fresh_meta) = load(old), load(new)
            except WorkbenchError as error:
                differences[name] = [str(error)]
                continue
            differences[name] = [
                f"{name}: {key} was {meta[key]}, is {fresh_meta[key]}"
                for key in ("parameters", "data", "tolerance")
                if meta[key] != fresh_meta[key]
            ]
            differences[name] += _compare_columns(name, before, after, meta)
        differences[f"ledger of {paper}"] = _compare_ledgers(
            *(
                {row["id"]: row for row in read_rows(root / "ledger.json") if row["paper"] == paper}
                for root in (committed, fresh)
            )
        )
    return {name: lines for name, lines in differences.items() if lines}


def _compare_ledgers(old_rows: dict[str, dict], new_rows: dict[str, dict]) -> list[str]:
    differences = []
    ledger = pd.DataFrame(old_rows.values(), columns=KEYS).set_index("id")
    half = (ledger["high"] - ledger["low"]).astype(float) / 2
    slack = redrawn(half, ledger["unit"])
    slack = slack.where(half != 0, np.fmax(slack, AGREED * ledger["value"].astype(float).abs()))
    for key in sorted(old_rows.keys() | new_rows.keys()):
        if key in old_rows and key in new_rows:
            differences += _compare_rows(old_rows[key], new_rows[key], slack[key])
        else:
            differences.append(f"ledger {key}: only in the {'committed' if key in old_rows else 'fresh'} ledger")
    return differences
