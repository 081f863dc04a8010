"""Explorers: one description, played with in three places.

An explorer is a pure function from a few controls to pictures. All it can show is swept ahead in Python and
packed as bytes, so that moving a slider asks no kernel:

    Explorer(
        "gebt",
        "When does a graph early-bird ticket emerge?",
        controls=[
            Slider("ratio", "pruning ratio", (0.2, 0.4, 0.6), value=0.4, format="{:.0%}"),
            Slider("eta", "threshold", (0.05, 0.1, 0.2), value=0.1),
            Choice("unit", "distance", ("relative", "in edges"), value="relative"),
        ],
        scalars={"fires": lambda ratio, eta: first_epoch_below(eta, relative[ratio])},  # NaN: it never does
        panels=[
            Heatmap(lambda ratio: pairwise[ratio], "Mask distance", "epoch", "epoch", "distance"),
            Lines(lambda ratio, unit: {"newest to older masks": distances(ratio, unit)}, "The detector",
                  "epoch", "distance ({unit})", range(100), vlines={"fires": "fires"}, hlines={"eta": "eta"}),
        ],
        describe="At {ratio} pruned the {unit} distance falls below {eta} {fires:at epoch {:.0f}|never}.",
    )

A function's argument names say which controls it depends on, and only those are swept. Labels of axes, of
markers and of counters, and `describe`, are templates in Python's format language over controls and scalars:
`{fires:.0f|never}`, or with text of their own as above; what stands behind `|` is said where a scalar is NaN.
`describe` is the text alternative and names every control. A slider never moves an axis; a choice may.

As the last expression of a cell an explorer shows itself live in JupyterLab, or as an offline page where
WORKBENCH_HOST=page. `explorer(ratio=0.2)` returns what is drawn. `page` writes a document of exported ones.
The kinds of panel: Heatmap, Lines, Bars, Shapes (areas, paths and points of a plane), Parallel (coordinates), Picture,
Counters. A new kind is a class with `title`, `functions` and `pack` here and an entry in KINDS in explorer.js.
"""

import base64
import html
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from inspect import Parameter, signature
from itertools import product
from numbers import Real
from pathlib import Path
from string import Formatter
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import traitlets
from tqdm.std import tqdm

from workbench import WorkbenchError
from workbench.progress import progress

MAX_BYTES = 8_000_000
"""The heaviest explorer that a page takes."""

_JS = Path(__file__).with_suffix(".js")


@dataclass(frozen=True)
class _Control:
    name: str
    label: str
    values: Sequence[Any]
    value: Any

    @property
    def keys(self) -> list[str]:
        """The values as addresses write them; values are compared by key, so 0.1 * 3 is 0.3."""
        return [_key(value) for value in self.values]

    def index(self, value: Any) -> int:
        """The place of a value; WorkbenchError names the valid ones."""
        if _key(value) not in self.keys:
            raise WorkbenchError(f"{self.name}={value} is not swept; valid values: {', '.join(self.keys)}")
        return self.keys.index(_key(value))


@dataclass(frozen=True)
class Slider(_Control):
    """A slider over discrete values, numbers or words; `format` writes the value beside it."""

    format: str = "{:g}"

    @property
    def texts(self) -> list[str]:
        """The values as the reader sees them."""
        return [self.format.format(value) for value in self.values]


@dataclass(frozen=True)
class Choice(_Control):
    """A choice among a few values of any kind, as buttons that bear `labels` or else the values."""

    labels: Sequence[str] = ()

    @property
    def texts(self) -> list[str]:
        """The values as the reader sees them."""
        return list(self.labels) or self.keys


@dataclass(frozen=True, kw_only=True)
class _Marked:
    vlines: Mapping[str, str] = field(default_factory=dict)
    hlines: Mapping[str, str] = field(default_factory=dict)

    @property
    def functions(self) -> list[Callable[..., Any]]:
        """What is swept for this panel."""
        return [self.function]


@dataclass(frozen=True)
class Heatmap(_Marked):
    """A picture of a matrix: `function` returns [rows, columns], row 0 at the bottom.

    x, y: the columns' and the rows' evenly spaced values, or names (default 0, 1, ...); limits: ends of the
    colours; cells: a function to the [row, column] of each cell to outline, as many as it likes in each state;
    vlines, hlines: {a marker's label: the scalar or control that places it}.
    """

    function: Callable[..., Any]
    title: str
    x_label: str
    y_label: str
    value_label: str
    x: Sequence[Any] | None = None
    y: Sequence[Any] | None = None
    limits: tuple[float, float] | None = None
    cells: Callable[..., Any] | None = None

    @property
    def functions(self) -> list[Callable[..., Any]]:
        """What is swept for this panel."""
        return [self.function, self.cells] if self.cells else [self.function]

    def pack(self, sweep: "_Sweep") -> dict:
        """The panel as explorer.js reads it."""
        depends, images = sweep.run(self.title, self.function, lambda image: np.array(image, np.float32))
        images = np.stack(images)
        if images.ndim != 3:
            raise WorkbenchError(f"{self.title}: a heat-map needs [rows, columns], not {images.shape[1:]}")
        rows, columns = images.shape[1:]
        cells = {"cells": sweep.paths(f"{self.title}: cells", self.cells)} if self.cells else {}
        return {
            "kind": "heatmap",
            "x": sweep.cells(self.x_label, range(columns) if self.x is None else self.x),
            "y": sweep.cells(self.y_label, range(rows) if self.y is None else self.y),
            "z": sweep.axis(self.value_label, self.limits or sweep.limits((depends, images), pad=0)),
            "values": sweep.block(depends, images),
            **cells,
            **sweep.markers(self),
        }


@dataclass(frozen=True)
class Lines(_Marked):
    """Curves over one shared x: `function` returns {name: y} or {name: (y, low, high)}, each of x's length.

    x: numbers or names; log: the logarithmic axes, "x", "y" or "xy"; limits: ends of the y axis; vlines,
    hlines: {a marker's label: the scalar or control that places it}.
    """

    function: Callable[..., Mapping[str, Any]]
    title: str
    x_label: str
    y_label: str
    x: Sequence[Any]
    log: str = ""
    limits: tuple[float, float] | None = None

    def pack(self, sweep: "_Sweep") -> dict:
        """The panel as explorer.js reads it."""
        names, at = _positions(self.x)
        series, depends, values = sweep.series(self, len(at))
        marked = [sweep.numbers(name) for name in self.hlines.values()]
        limits = self.limits or sweep.limits((depends, values), *marked, log="y" in self.log)
        margin = 0.5 if names else 0
        return {
            "kind": "lines",
            "x": sweep.axis(self.x_label, (at.min() - margin, at.max() + margin), names, "x" in self.log),
            "y": sweep.axis(self.y_label, limits, log="y" in self.log),
            "at": sweep.block([], at[None]),
            "series": series,
            "values": sweep.block(depends, values),
            **sweep.markers(self),
        }


@dataclass(frozen=True)
class Bars(_Marked):
    """Horizontal bars: `function` returns {part: lengths} or {part: (lengths, low, high)}, a length a bar.

    bars: their names, first on top; stacked: a bar's parts end to end with their sum behind, else side by
    side with each number behind; vlines: {a marker's label: the scalar or control that places it}.
    """

    function: Callable[..., Mapping[str, Any]]
    title: str
    x_label: str
    bars: Sequence[str]
    stacked: bool = True

    def pack(self, sweep: "_Sweep") -> dict:
        """The panel as explorer.js reads it."""
        series, depends, values = sweep.series(self, len(self.bars))
        if self.stacked and any(rows > 1 for _, rows in series):
            raise WorkbenchError(f"{self.title}: stacked bars have no intervals; set stacked=False")
        ends = np.nansum(values, axis=1) if self.stacked else values
        marked = [sweep.numbers(name) for name in self.vlines.values()]
        limits = sweep.limits((depends, ends), *marked, ([], np.zeros(1)), pad=0.14)  # room for the numbers
        return {
            "kind": "bars",
            "x": sweep.axis(self.x_label, limits),
            "y": sweep.axis("", (-0.5, len(self.bars) - 0.5), list(self.bars)),
            "stacked": self.stacked,
            "series": series,
            "values": sweep.block(depends, values),
            **sweep.markers(self),
        }


_STYLES = ("fill", "edges", "line", "points")


@dataclass(frozen=True)
class Shapes:
    """Geometry in a plane, a unit as long across as up: `series` is {name: (style, function)}, the lowest first.

    A function returns [n, 2], one (x, y) a row and a row of NaN between two paths, as many rows as it likes in
    each state; each series is swept over its own controls, so what stands still is packed once. Styles: "fill"
    (rings, lightly filled), "edges" (thin and grey), "line" (thick, above all else) and "points". The first
    fill and the first points share a colour, and so on; paths are closed only where their first row comes again.

    limits: ((left, right), (bottom, top)); what lies outside is not drawn.
    """

    series: Mapping[str, tuple[str, Callable[..., Any]]]
    title: str
    x_label: str
    y_label: str
    limits: tuple[tuple[float, float], tuple[float, float]]

    @property
    def functions(self) -> list[Callable[..., Any]]:
        """What is swept for this panel."""
        return [function for _, function in self.series.values()]

    def pack(self, sweep: "_Sweep") -> dict:
        """The panel as explorer.js reads it: a series is [name, style, number among those of its style, rows]."""
        series: list[list] = []
        for name, (style, function) in self.series.items():
            if style not in _STYLES:
                raise WorkbenchError(f"{self.title}: {name} has no style {style!r}; valid: {', '.join(_STYLES)}")
            number = [other for _, other, *_ in series].count(style)
            series.append([name, style, number, sweep.paths(f"{self.title}: {name}", function)])
        return {
            "kind": "shapes",
            "x": sweep.axis(self.x_label, self.limits[0]),
            "y": sweep.axis(self.y_label, self.limits[1]),
            "series": series,
            "vlines": [],
            "hlines": [],
        }


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates over the whole width: `rows` returns [n, axes], and each row is a line from axis to axis.

    within: a function to [axes, 2], the low and the high end that a row must keep to on each axis (-inf and inf where
    there is none): rows that do are coloured, the others grey. best: a function to numbers of rows, the best first and
    NaN where there are fewer; the first stands out most. names: what the legend calls grey rows, coloured ones, the
    next best and the best.

    axes: {label: (low, high) of a scale, or names of the values 0, 1, ...}; log: labels of the logarithmic ones.
    """

    rows: Callable[..., Any]
    within: Callable[..., Any]
    best: Callable[..., Any]
    title: str
    x_label: str
    names: tuple[str, str, str, str]
    axes: Mapping[str, Sequence[Any]]
    log: Sequence[str] = ()

    @property
    def functions(self) -> list[Callable[..., Any]]:
        """What is swept for this panel."""
        return [self.rows, self.within, self.best]

    def pack(self, sweep: "_Sweep") -> dict:
        """The panel as explorer.js reads it."""
        count = len(self.axes)

        def swept(function: Callable[..., Any], wanted: str, *shape: int) -> dict:  # 0: any length
            depends, found = sweep.run(self.title, function, lambda rows: np.array(rows, np.float32))
            array = np.stack(found)
            seen = array.shape[1:]
            if len(seen) != len(shape) or any(n not in (0, m) for n, m in zip(shape, seen, strict=True)):
                raise WorkbenchError(f"{self.title}: {wanted} for {count} axes, not {list(seen)}")
            return sweep.block(depends, array)

        def axis(label: str, ends: Sequence[Any]) -> dict:
            names = list(ends) if isinstance(ends[0], str) else None
            return sweep.axis(label, (-0.5, len(names) - 0.5) if names else ends, names, label in self.log)

        return {
            "kind": "parallel",
            "x": sweep.axis(self.x_label, (-0.25, count - 0.5), list(self.axes)),
            "y": sweep.axis("", (0, 1), [""]),
            "axes": [axis(label, ends) for label, ends in self.axes.items()],
            "series": [[name] for name in self.names],
            "rows": swept(self.rows, "rows must be [n, axes]", 0, count),
            "within": swept(self.within, "within must be [axes, 2]", count, 2),
            "best": swept(self.best, "best must be [k]", 0),
            "vlines": [],
            "hlines": [],
        }


@dataclass(frozen=True)
class Picture:
    """A photograph, one square a pixel: `function` returns [rows, columns, 3] (red, green, blue) or [rows, columns]
    (grey), the first row on top, from 0 to 1; what lies beyond is cut off there.
    """

    function: Callable[..., Any]
    title: str

    @property
    def functions(self) -> list[Callable[..., Any]]:
        """What is swept for this panel."""
        return [self.function]

    def pack(self, sweep: "_Sweep") -> dict:
        """The panel as explorer.js reads it."""
        depends, images = sweep.run(self.title, self.function, lambda image: np.array(image, np.float32))
        images = np.stack(images)
        if not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)):
            raise WorkbenchError(f"{self.title}: a picture needs [rows, columns] or [rows, columns, 3]")
        rows, columns = images.shape[1:3]
        return {
            "kind": "picture",
            "x": sweep.cells("", range(columns)),
            "y": sweep.cells("", range(rows)),
            "values": sweep.block(depends, images),
            "vlines": [],
            "hlines": [],
        }


@dataclass(frozen=True)
class Counters:
    """A few numbers in large print: {label: template}, as in {"training": "{energy:.1f} J"}."""

    title: str
    counters: Mapping[str, str]
    functions = ()

    def pack(self, sweep: "_Sweep") -> dict:
        """The panel as explorer.js reads it."""
        return {"kind": "counters", "counters": [[k, sweep.words(t)] for k, t in self.counters.items()]}


@dataclass(frozen=True, eq=False)
class Explorer:
    """Controls, panels and a text alternative, as the module's docstring describes them.

    name: short, unique on a page (addresses begin with it); scalars: {name: function to a number or a text}.
    WorkbenchError: the description is at odds with itself, or the sweep outweighs MAX_BYTES.
    """

    name: str
    title: str
    controls: Sequence[Slider | Choice]
    panels: Sequence[Heatmap | Lines | Bars | Shapes | Parallel | Picture | Counters]
    describe: str
    scalars: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a description that could not be shown truthfully."""
        said = {name for _, name, _, _ in Formatter().parse(self.describe)}
        _unique(self.name, [*(control.name for control in self.controls), *self.scalars])
        _unique(self.name, [panel.title for panel in self.panels])
        for control in self.controls:
            control.index(control.value)
            _unique(control.name, control.keys)
            _unique(control.name, control.texts)
            if len(control.texts) != len(control.values):
                raise WorkbenchError(f"{control.name} needs one label for each of its values")
            if control.name not in said:
                raise WorkbenchError(f"describe must tell the {control.name}: write {{{control.name}}} in it")

    def __call__(self, **chosen: Any) -> dict[str, Any]:
        """What is drawn where the controls are as chosen; the others stay where they start.

        Returns {panel's title: heat-map [rows, columns] or picture [rows, columns, 3], {series: y, [y, low, high] or,
        of shapes, [n, 2]}, {"rows", "within", "best"} of parallel coordinates or {counter: text}}, float32 arrays read
        from the payload that the pages draw, the outlined cells [n, 2] of a heat-map under "title: cells", and "text",
        the text alternative.
        """
        known = {control.name: control for control in self.controls}
        for name in chosen:
            if name not in known:
                raise WorkbenchError(f"{self.name} has no control {name}; valid names: {', '.join(known)}")
        state = [control.index(chosen.get(name, control.value)) for name, control in known.items()]
        spec, payload = self._swept
        values = np.frombuffer(payload, "<f4")

        def read(block: dict) -> np.ndarray:
            at = 0
            for control in block["depends"]:
                at = at * len(self.controls[control].values) + state[control]
            return values[block["start"] + at * block["size"] :][: block["size"]].reshape(block["shape"])

        def path(block: dict) -> np.ndarray:  # without the rows of NaN that make the states equally long
            rows = read(block)
            return rows[: np.flatnonzero(~np.isnan(rows).any(axis=1)).max(initial=-1) + 1]

        def say(template: list) -> str:
            return "".join(p if isinstance(p, str) else p["words"][int(read(p)[0])] for p in template)

        drawn: dict[str, Any] = {"text": say(spec["describe"])}
        for panel in spec["panels"]:
            if "counters" in panel:
                drawn[panel["title"]] = {label: say(template) for label, template in panel["counters"]}
            elif panel["kind"] == "shapes":
                drawn[panel["title"]] = {name: path(block) for name, _, _, block in panel["series"]}
            elif panel["kind"] == "parallel":
                drawn[panel["title"]] = {part: read(panel[part]) for part in ("rows", "within", "best")}
            elif "series" in panel:
                names, rows = zip(*panel["series"], strict=True)
                parts = np.split(read(panel["values"]), np.cumsum(rows)[:-1])
                parts = [part[0] if len(part) == 1 else part for part in parts]
                drawn[panel["title"]] = dict(zip(names, parts, strict=True))
            else:
                drawn[panel["title"]] = read(panel["values"])
                if "cells" in panel:
                    drawn[f"{panel['title']}: cells"] = path(panel["cells"])
        return drawn

    def widget(self) -> ipywidgets.VBox:
        """The live explorer: its controls drive the picture in the browser, never through the kernel."""
        spec, payload = self._swept
        traits = {f"at_{c.name}": traitlets.Int(c.index(c.value)).tag(sync=True) for c in self.controls}
        view = type("ExplorerView", (_View,), traits)(spec=spec, payload=payload)
        width = f"{max(len(control.label) for control in self.controls) + 1}ch"
        rows = []
        for control in self.controls:
            kind = ipywidgets.SelectionSlider if isinstance(control, Slider) else ipywidgets.ToggleButtons
            style = {"description_width": width, "button_width": "auto"}
            row = kind(options=control.texts, description=control.label, style=style)
            row.index, row.layout.width = control.index(control.value), "auto"
            ipywidgets.jslink((row, "index"), (view, f"at_{control.name}"))
            rows.append(row)
        columns = "repeat(auto-fit, minmax(min(100%, 380px), 1fr))"
        controls = ipywidgets.GridBox(rows, layout={"grid_template_columns": columns, "grid_gap": "0 20px"})
        title = ipywidgets.HTML(f"<b>{html.escape(self.title)}</b>")
        return ipywidgets.VBox([title, controls, view]).add_class("explorer-live")

    def html(self) -> str:
        """A fragment of a page that works offline with no kernel; `page` makes a document of fragments."""
        spec, payload = self._swept
        return (
            f'<section data-explorer="{html.escape(self.name)}"><h3>{html.escape(self.title)}</h3>'
            f'<p class="explorer-still">{html.escape(self()["text"])}</p>'
            f'<script type="application/json" data-part="spec">{_json(spec)}</script>'
            f'<script type="text/plain" data-part="payload">{base64.b64encode(payload).decode()}</script>'
            f"</section>\n{_script()}"
        )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        exported = os.environ.get("WORKBENCH_HOST") == "page"
        shown = {"text/html": self.html()} if exported else self.widget()._repr_mimebundle_()
        return shown | {"text/plain": self()["text"]}

    @cached_property
    def _swept(self) -> tuple[dict, bytes]:
        functions = [(panel.title, f) for panel in self.panels for f in panel.functions] + [*self.scalars.items()]
        calls = sum(math.prod(_counts(self.controls, _depends(self.controls, *f))) for f in functions)
        with progress(None, f"sweeping {self.name}", calls) as bar:
            sweep = _Sweep(self, bar)
            panels = [{"title": panel.title, **panel.pack(sweep)} for panel in self.panels]
        controls = [
            {
                "name": control.name,
                "label": control.label,
                "kind": type(control).__name__.lower(),
                "texts": control.texts,
                "keys": control.keys,
                "index": control.index(control.value),
            }
            for control in self.controls
        ]
        describe = sweep.words(self.describe)
        spec = {"name": self.name, "controls": controls, "panels": panels, "describe": describe}
        _weigh(self.name, 4 * sweep.size + len(_json(spec)))
        return spec, b"".join(sweep.parts)


def page(title: str, body: str, *explorers: Explorer) -> str:
    """One offline HTML document: `body`, in which exported explorers may stand already, then `explorers`."""
    content = "\n".join([body, *(explorer.html() for explorer in explorers)]).replace(_script(), "")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_PAGE_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{content}\n</main>\n{_script()}\n</body>\n</html>\n"
    )


_PAGE_STYLE = """
:root { color-scheme: light dark; font: 16px/1.55 system-ui, sans-serif; --faint: color-mix(in srgb, currentColor 25%, transparent) }
body { margin: 0; background: Canvas; color: CanvasText }
main { max-width: 68rem; margin: 0 auto; padding: 1rem 1.25rem 3rem }
h1, h2, h3 { line-height: 1.25; margin: 1.4em 0 .4em }
[data-explorer] { border: 1px solid var(--faint); border-radius: 6px; padding: .5rem 1rem .25rem; margin: 1.5rem 0 }
[data-explorer] > h3 { margin-top: .4em }
[data-explorer].explorer { box-sizing: border-box }
img { max-width: 100%; height: auto }
.scroll { overflow-x: auto }
code, pre { font: .9em/1.45 ui-monospace, monospace }
pre { padding: .6rem .8rem; border-left: 3px solid var(--faint) }
table { border: 0; border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; border: 0; border-bottom: 1px solid var(--faint) }
.dataframe { font-size: .85rem }
.dataframe td { padding: .2rem .4rem }
.dataframe td:first-of-type { overflow-wrap: anywhere; min-width: 14ch }
@media print {
  :root { color-scheme: light }
  main { max-width: none; padding: 0 }
  pre { white-space: pre-wrap }
  .dataframe { font-size: .6rem; overflow-wrap: anywhere }
}
"""  # noqa: E501


class _View(anywidget.AnyWidget):
    _esm = _JS
    spec = traitlets.Dict().tag(sync=True)
    payload = traitlets.Bytes().tag(sync=True)


class _Sweep:
    """Runs functions on every state of the controls their arguments name, and packs what they return.

    A block is float32 [states, ...], the states in the order of `product` over the controls it depends on.
    """

    def __init__(self, explorer: Explorer, bar: tqdm) -> None:
        self.owner, self.controls, self.bar = explorer.name, explorer.controls, bar
        self.parts: list[bytes] = []
        self.size = 0  # float32 values packed so far
        self.named = {c.name: ([i], list(c.values), c.texts) for i, c in enumerate(self.controls)}
        self.named |= {name: (*self.run(name, function), None) for name, function in explorer.scalars.items()}

    def run(
        self,
        owner: str,
        function: Callable[..., Any],
        convert: Callable[[Any], Any] = lambda result: result,
        ragged: bool = False,
    ) -> tuple[list[int], list]:
        depends, largest = _depends(self.controls, owner, function), 0
        used, results = [self.controls[i] for i in depends], []
        for values in product(*(control.values for control in used)):
            results.append(convert(function(**{c.name: v for c, v in zip(used, values, strict=True)})))
            if not ragged and np.shape(results[-1]) != np.shape(results[0]):
                raise WorkbenchError(f"{owner}: every state must return arrays of one shape")
            states = math.prod(_counts(self.controls, depends))  # too heavy is said before the long wait
            largest = max(largest, np.size(results[-1]))
            _weigh(self.owner, 4 * (self.size + states * largest))
            self.bar.update()
        return depends, results

    def series(self, panel: Lines | Bars, length: int) -> tuple[list, list[int], np.ndarray]:
        """[name, rows] of each series, 1 row or 3 (value, low, high), and all of them [states, rows, n]."""
        series: list[tuple[str, int]] = []

        def rows(result: Mapping[str, Any]) -> np.ndarray:
            arrays = [np.atleast_2d(np.asarray(y, float)) for y in result.values()]
            found = [(name, len(y)) for name, y in zip(result, arrays, strict=True)]
            series[:] = series or found
            if found != series or any(y.shape not in ((1, length), (3, length)) for y in arrays):
                raise WorkbenchError(
                    f"{panel.title}: every state must return the same names in the same order, each with "
                    f"{length} values or three rows of them (value, low, high)"
                )
            return np.concatenate(arrays)

        depends, values = self.run(panel.title, panel.function, rows)
        return series, depends, np.stack(values)

    def paths(self, owner: str, function: Callable[..., Any]) -> dict:
        """A block of rows [n, 2], n the most that a state has; a state with fewer ends in rows of NaN."""

        def rows(result: Any) -> np.ndarray:
            try:
                array = np.array(result, np.float32)
            except ValueError:  # a list of paths of different lengths
                array = None
            if array is None or (array.size and (array.ndim != 2 or array.shape[1] != 2)):
                raise WorkbenchError(f"{owner}: every state must return [n, 2], a row of NaN between two paths")
            return array.reshape(-1, 2)

        depends, arrays = self.run(owner, function, rows, ragged=True)
        padded = np.full((len(arrays), max(map(len, arrays)), 2), np.nan)
        for state, array in zip(padded, arrays, strict=True):
            state[: len(array)] = array
        return self.block(depends, padded)

    def block(self, depends: list[int], array: np.ndarray) -> dict:
        shape, start = array.shape[1:], self.size
        self.parts.append(array.astype("<f4").tobytes())
        self.size += array.size
        return {"depends": depends, "start": start, "size": math.prod(shape), "shape": shape}

    def find(self, name: str) -> tuple[list[int], list, list[str] | None]:
        if name not in self.named:
            raise WorkbenchError(f"{self.owner} has no {name!r} to show; valid: {', '.join(self.named)}")
        return self.named[name]

    def numbers(self, name: str) -> tuple[list[int], np.ndarray]:
        depends, values, _ = self.find(name)
        return depends, np.array(values, float)[:, None]

    def words(self, template: str) -> list[str | dict]:
        """A template's pieces: plain text, or a block of places in the list of words that may stand there."""
        pieces: list[str | dict] = []
        for text, name, form, _ in Formatter().parse(template):
            pieces += [text] * bool(text)
            if name is not None:
                depends, values, texts = self.find(name)
                said = texts if texts and not form else [_word(name, value, form) for value in values]
                places = {word: i for i, word in enumerate(dict.fromkeys(said))}
                block = self.block(depends, np.array([[places[word]] for word in said]))
                pieces.append({**block, "words": list(places)})
        return pieces

    def markers(self, panel: _Marked) -> dict:
        def place(lines: Mapping[str, str]) -> list:
            return [[self.words(label), self.block(*self.numbers(name))] for label, name in lines.items()]

        return {"vlines": place(panel.vlines), "hlines": place(panel.hlines)}

    def axis(self, label: str, limits: Any, names: list[str] | None = None, log: bool = False) -> dict:
        if not isinstance(limits, dict):
            limits = self.block([], np.array([limits], float))
        return {"label": self.words(label), "limits": limits, "names": names, "log": log}

    def cells(self, label: str, along: Sequence[Any]) -> dict:
        names, at = _positions(along)
        half = (at[-1] - at[0]) / max(len(at) - 1, 1) / 2 or 0.5
        return self.axis(label, (at[0] - half, at[-1] + half), names)

    def limits(self, *swept: tuple[list[int], np.ndarray], pad: float = 0.04, log: bool = False) -> dict:
        """A block of an axis' two ends: over all values of the sliders, for each choice apart."""
        choices = sorted({i for d, _ in swept for i in d if isinstance(self.controls[i], Choice)})
        low, high = np.inf, -np.inf
        for depends, values in swept:
            values = values.reshape(*_counts(self.controls, depends), -1)
            together = tuple(k for k, i in enumerate([*depends, None]) if i not in choices)
            apart = [len(self.controls[i].values) if i in depends else 1 for i in choices]
            usable = np.isfinite(values) & (values > (0 if log else -np.inf))
            low = np.minimum(low, values.min(together, where=usable, initial=np.inf).reshape(apart))
            high = np.maximum(high, values.max(together, where=usable, initial=-np.inf).reshape(apart))
        low, high = np.where(low > high, 1.0, low), np.where(low > high, 2.0, high)  # nothing to show
        if log:
            low, high = np.log10(low), np.log10(high)
        room = pad * (high - low) + 0.5 * (high == low)
        from_zero = (low >= 0) & (low < room) & (not log)
        ends = np.stack([np.where(from_zero, 0, low - room), high + room], axis=-1)
        return self.block(choices, (10**ends if log else ends).reshape(-1, 2))


def _depends(controls: Sequence[Slider | Choice], owner: str, function: Callable[..., Any]) -> list[int]:
    names, asked = [control.name for control in controls], signature(function).parameters
    for name, parameter in asked.items():
        if name not in names and parameter.default is Parameter.empty:
            raise WorkbenchError(f"{owner} asks for {name}, no control; valid names: {', '.join(names)}")
    return [i for i, name in enumerate(names) if name in asked]


def _counts(controls: Sequence[Slider | Choice], depends: list[int]) -> list[int]:
    return [len(controls[i].values) for i in depends]


def _weigh(owner: str, weight: int) -> None:
    if weight > MAX_BYTES:
        raise WorkbenchError(
            f"the explorer {owner} would weigh {weight / 1e6:.1f} MB, and a page takes {MAX_BYTES / 1e6:g}: "
            "sweep fewer values, or let its largest panel depend on fewer controls"
        )


def _positions(along: Sequence[Any]) -> tuple[list[str] | None, np.ndarray]:
    if isinstance(along[0], str):
        return list(along), np.arange(len(along), dtype=float)
    return None, np.asarray(along, float)


def _key(value: Any) -> str:
    return f"{value:g}" if isinstance(value, Real) and not isinstance(value, bool) else str(value)


def _word(name: str, value: Any, form: str) -> str:
    form, _, absent = form.partition("|")
    if value != value:  # NaN
        if not absent:
            raise WorkbenchError(f"{name} can be NaN: say so in its template, as in {{{name}:{form}|never}}")
        return absent
    return form.format(value) if "{" in form else format(value, form)


def _unique(owner: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise WorkbenchError(f"{owner}: a name or label stands twice among {', '.join(names)}")


def _json(spec: dict) -> str:
    return json.dumps(spec, ensure_ascii=False, allow_nan=False).replace("</", "<\\/")


@cache
def _script() -> str:
    return f'<script type="module">\n{_JS.read_text(encoding="utf-8")}</script>'
