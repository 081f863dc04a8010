import base64
import json
import math
import re
from itertools import product

import ipywidgets
import numpy as np
import pytest

from workbench import WorkbenchError
from workbench.explorer import Bars, Choice, Counters, Explorer, Heatmap, Lines, Parallel, Picture, Shapes, Slider, page

RATIOS, ETAS, UNITS = (0.1, 0.2, 0.3), (0.05, 0.5), ("relative", "edges")
EPOCHS = np.arange(12)


def pairwise(ratio):
    return np.abs(EPOCHS[:, None] ** (1 + ratio) - EPOCHS[None, :9])  # not square: rows must not be columns


def distance(ratio, unit):
    y = np.exp(-EPOCHS / (10 * ratio)) * (1 if unit == "relative" else 5000)
    return np.where(EPOCHS == 0, np.nan, y)  # no distance before the second mask


def fires(ratio, eta):
    below = np.flatnonzero(distance(ratio, "relative") < eta)
    return float(below[0]) if len(below) and ratio < 0.3 else math.nan


def threshold(eta, unit):
    return eta * (1 if unit == "relative" else 5000)


def detector(ratio, unit):
    y = distance(ratio, unit)
    return {"newest to older": y, "of 5 seeds": (y * 0.9, y * 0.8, y)}


def macs(ratio):
    return {"aggregation": [16.0, 16 * (1 - ratio)], "combination": [62.0, 31.0]}


GAP = (math.nan, math.nan)
POINTS = {"points, class 1": [(1.5, 0.5), (1.5, -0.5)], "points, class 0": [(-1.5, 0.5), (-1.5, -0.75)]}


def wall(ratio):
    """Where the sample's plane is parted: at -1, 0 and 1."""
    return 10 * (ratio - 0.2)


def area(ratio):
    """The plane right of the wall, as two rings one above the other."""
    x = wall(ratio)
    return [(x, 0), (2, 0), (2, 1), (x, 1), GAP, (x, -1), (2, -1), (2, 0), (x, 0)]


def regions(ratio):
    """The wall, and left of it one horizontal edge, two or three."""
    x, heights = wall(ratio), np.linspace(-0.5, 0.5, round(10 * ratio))
    return [(x, -1), (x, 1), *(row for y in heights for row in (GAP, (-2, y), (x, y)))]


def pair(eta):
    """The cells of the heat-map that are outlined."""
    return [(2, 5)] if eta == 0.5 else [(3, 8), (10, 0)]


def sample(name="gebt"):
    """Every kind of panel, control and marker; small enough to look at every state."""
    return Explorer(
        name,
        "When does a ticket emerge <when>?",
        controls=[
            Slider("ratio", "pruning ratio", RATIOS, 0.2, "{:.0%}"),
            Slider("eta", "threshold", ETAS, 0.5),
            Choice("unit", "distance", UNITS, "relative", labels=("relative to the first", "in edges")),
        ],
        scalars={"fires": fires, "threshold": threshold, "percent": lambda ratio: 100 * ratio},
        panels=[
            Heatmap(pairwise, "Pairs", "older epoch", "newer epoch", "distance", cells=pair, vlines={"": "fires"}),
            Lines(
                detector,
                "Detector",
                "epoch",
                "distance ({unit})",
                x=EPOCHS,
                hlines={"eta = {eta}": "threshold"},
                vlines={"fires at {fires:.0f|never}": "fires"},
            ),
            Bars(macs, "Cost", "million MACs", ("dense", "ticket")),
            Counters("Numbers", {"pruned": "{percent:.1f} % & more", "fires </script> at": "{fires:.0f|none}"}),
            Shapes(
                {
                    "class 1": ("fill", area),
                    "regions": ("edges", regions),
                    "boundary": ("line", lambda ratio: [(wall(ratio), -1), (wall(ratio), 1)]),
                    **{name: ("points", lambda name=name: POINTS[name]) for name in POINTS},
                },
                "Plane",
                "first input",
                "second input",
                limits=((-2, 2), (-1, 1)),
            ),
        ],
        describe="At {ratio} pruned, {unit}, eta {eta}, it {fires:fires at epoch {:.0f}|never fires}.",
    )


def expected_text(ratio, eta, unit):
    says = {(0.1, 0.05): 3, (0.1, 0.5): 1, (0.2, 0.05): 6, (0.2, 0.5): 2}.get((ratio, eta))
    label = {"relative": "relative to the first", "edges": "in edges"}[unit]
    end = "never fires" if says is None else f"fires at epoch {says}"
    return f"At {round(100 * ratio)}% pruned, {label}, eta {eta}, it {end}."


def states():
    return [dict(zip(("ratio", "eta", "unit"), state, strict=True)) for state in product(RATIOS, ETAS, UNITS)]


def one_panel(panel, describe="{a}", values=(1, 2, 3), **more):
    return Explorer("one", "One", [Slider("a", "a", values, values[0])], [panel], describe, **more)


ROWS = np.array([[0, 1.0, 10], [1, 2, 100], [0, 4, 1000]])


def parallel(**more):
    """Three rows on three axes; control a, 1 to 3, is how many of them are within, and the last of these is best."""
    parts = {
        "rows": lambda: ROWS,
        "within": lambda a: [(-np.inf, np.inf), (0, ROWS[a - 1, 1]), (-np.inf, np.inf)],
        "best": lambda a: [a - 1, a - 2 if a > 1 else np.nan],
    }
    axes = {"kind": ("cat", "dog"), "size": (0, 5), "cost": (1, 10000)}
    return Parallel(
        **(parts | more), title="P", x_label="", names=("out", "in", "next", "best"), axes=axes, log=("cost",)
    )


@pytest.mark.parametrize("state", states())
def test_payload_holds_what_the_functions_return_in_every_state(state):
    ratio, unit = state["ratio"], state["unit"]
    shown, detected = sample()(**state), detector(ratio, unit)
    np.testing.assert_array_equal(shown["Pairs"], pairwise(ratio).astype(np.float32))
    assert list(shown["Detector"]) == list(detected)
    for name, y in detected.items():
        np.testing.assert_array_equal(shown["Detector"][name], np.array(y, np.float32))
    for part, lengths in macs(ratio).items():
        np.testing.assert_array_equal(shown["Cost"][part], np.array(lengths, np.float32))
    np.testing.assert_array_equal(shown["Pairs: cells"], pair(state["eta"]))
    plane = {"class 1": area(ratio), "regions": regions(ratio)}
    plane |= {"boundary": [(wall(ratio), -1), (wall(ratio), 1)], **POINTS}
    assert list(shown["Plane"]) == list(plane)
    for name, rows in plane.items():
        np.testing.assert_array_equal(shown["Plane"][name], np.array(rows, np.float32))
    assert shown["Numbers"]["pruned"] == f"{100 * ratio:.1f} % & more"
    assert shown["text"] == expected_text(**state)


def test_controls_left_out_stay_where_they_start():
    assert sample()()["text"] == expected_text(0.2, 0.5, "relative")
    assert sample()(unit="edges")["text"] == expected_text(0.2, 0.5, "edges")


def test_a_value_is_found_however_it_was_computed():
    assert sample()(ratio=0.1 * 3)["text"] == sample()(ratio=0.3)["text"]
    assert sample()(ratio=np.float32(0.1))["text"] == sample()(ratio=0.1)["text"]


def test_only_the_controls_that_a_function_names_are_swept_and_each_state_once():
    calls = []

    def of_eta(eta, table=(1, 2)):  # an argument that is no control and has a default is the function's own
        calls.append(eta)
        return [[eta, *table]]

    controls = [Slider("ratio", "ratio", RATIOS, 0.1), Slider("eta", "eta", ETAS, 0.5)]
    explorer = Explorer("x", "X", controls, [Heatmap(of_eta, "P", "", "", "")], "{ratio} {eta}")
    explorer.html(), explorer(), explorer(eta=0.05)
    assert calls == list(ETAS)


def test_an_array_that_the_function_writes_again_is_not_mixed_up():
    reused = np.zeros((1, 2))

    def same_array(a):
        reused[:] = a
        return reused

    explorer = one_panel(Heatmap(same_array, "P", "", "", ""))
    assert [explorer(a=a)["P"][0, 0] for a in (1, 2, 3)] == [1, 2, 3]


def plane(function, style="edges"):
    return Shapes({"s": (style, function)}, "P", "", "", ((0, 1), (0, 1)))


def test_paths_may_differ_in_length_and_be_absent_and_only_the_end_of_each_state_is_padding():
    paths = {1: [], 2: [GAP, (0, 1), GAP, GAP, (2, 3)], 3: [(4, 5), GAP]}
    explorer = one_panel(plane(lambda a: paths[a]))
    assert explorer(a=1)["P"]["s"].shape == (0, 2)
    np.testing.assert_array_equal(explorer(a=2)["P"]["s"], paths[2])
    np.testing.assert_array_equal(explorer(a=3)["P"]["s"], [(4, 5)])
    assert one_panel(plane(lambda: []))()["P"]["s"].shape == (0, 2)


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 3)])
def test_a_picture_is_packed_as_it_is_in_grey_and_in_colour(shape):
    values = np.arange(math.prod(shape)).reshape(shape) / 25
    explorer = one_panel(Picture(lambda a: a * values, "P"))
    np.testing.assert_array_equal(explorer(a=2)["P"], (2 * values).astype(np.float32))
    spec, _ = spec_and_payload(explorer.html())
    assert spec["panels"][0]["kind"] == "picture"
    assert tuple(spec["panels"][0]["values"]["shape"]) == shape


def test_parallel_coordinates_are_packed_as_they_are():
    shown = one_panel(parallel())(a=2)["P"]
    np.testing.assert_array_equal(shown["rows"], ROWS)
    np.testing.assert_array_equal(shown["within"], [(-np.inf, np.inf), (0, 2), (-np.inf, np.inf)])
    np.testing.assert_array_equal(shown["best"], [1, 0])


def test_a_series_that_no_control_changes_is_packed_once():
    calls = []

    def still():
        calls.append(0)
        return np.zeros((1000, 2))

    series = {"still": ("points", still), "moving": ("line", lambda a: [(a, a)])}
    spec, payload = spec_and_payload(one_panel(Shapes(series, "P", "", "", ((0, 1), (0, 1)))).html())
    assert calls == [0]
    assert [block["size"] for *_, block in spec["panels"][0]["series"]] == [2000, 2]
    assert len(base64.b64decode(payload)) < 4 * 2000 + 100


def test_ragged_paths_are_weighed_by_their_longest_state_before_the_long_wait():
    calls = []

    def growing(a):
        calls.append(a)
        return np.zeros((1 if a == 1 else 500_000, 2))

    with pytest.raises(WorkbenchError, match=r"would weigh 12\.0 MB, and a page takes 8"):
        one_panel(plane(growing)).html()
    assert calls == [1, 2]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"rato": 0.1}, "gebt has no control rato; valid names: ratio, eta, unit"),
        ({"ratio": 0.15}, "ratio=0.15 is not swept; valid values: 0.1, 0.2, 0.3"),
        ({"unit": "miles"}, "unit=miles is not swept; valid values: relative, edges"),
    ],
)
def test_what_was_not_swept_is_refused_by_naming_what_was(asked, message):
    with pytest.raises(WorkbenchError, match=re.escape(message)):
        sample()(**asked)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: one_panel(Heatmap(lambda b: [[b]], "P", "", "", "")), "P asks for b"),
        (lambda: one_panel(Heatmap(lambda a: [a], "P", "", "", "")), "needs [rows, columns]"),
        (lambda: one_panel(Heatmap(lambda a: np.ones((a, 2)), "P", "", "", "")), "one shape"),
        (lambda: one_panel(Picture(lambda a: [a], "P")), "P: a picture needs [rows, columns]"),
        (lambda: one_panel(Picture(lambda a: np.ones((2, 2, 4)), "P")), "P: a picture needs [rows, columns]"),
        (lambda: one_panel(Picture(lambda b: [[b]], "P")), "P asks for b"),
        (lambda: one_panel(Lines(lambda a: {f"s{a}": [0, 1]}, "P", "", "", (0, 1))), "same names"),
        (lambda: one_panel(Lines(lambda a: {"s": [0, 1, 2]}, "P", "", "", (0, 1))), "2 values or three rows"),
        (lambda: one_panel(Bars(lambda a: {"s": ([1], [0], [2])}, "P", "", ("b",))), "stacked=False"),
        (lambda: one_panel(plane(lambda a: [a, a])), "P: s: every state must return [n, 2], a row of NaN"),
        (lambda: one_panel(plane(lambda a: [(0, 0, 0)])), "P: s: every state must return [n, 2]"),
        (lambda: one_panel(plane(lambda a: [[(0, 0)], [(0, 0), (1, 1)]])), "P: s: every state must return [n, 2]"),
        (
            lambda: one_panel(plane(lambda a: [(0, 0)], "dots")),
            "P: s has no style 'dots'; valid: fill, edges, line, points",
        ),
        (lambda: one_panel(plane(lambda b: [(0, b)])), "P asks for b"),
        (lambda: one_panel(Heatmap(lambda a: [[a]], "P", "", "", "", cells=lambda b: [])), "P asks for b"),
        (
            lambda: one_panel(Heatmap(lambda a: [[a]], "P", "", "", "", cells=lambda a: [0, 0])),
            "P: cells: every state must return [n, 2]",
        ),
        (lambda: one_panel(parallel(rows=lambda: [[0, 1]])), "P: rows must be [n, axes] for 3 axes, not [1, 2]"),
        (lambda: one_panel(parallel(best=lambda: 0)), "P: best must be [k] for 3 axes, not []"),
        (lambda: one_panel(Counters("P", {"c": "{b}"})), "valid: a"),
        (
            lambda: one_panel(Counters("P", {"c": "{s:.1f}"}), scalars={"s": lambda a: math.nan}),
            "s can be NaN",
        ),
        (lambda: one_panel(Lines(lambda a: {"s": [a]}, "P", "", "", [0], hlines={"": "b"})), "valid: a"),
    ],
)
def test_a_description_that_cannot_be_drawn_says_why(build, message):
    with pytest.raises(WorkbenchError, match=re.escape(message)):
        build()()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"describe": "says nothing"}, "write {a} in it"),
        ({"controls": [Slider("a", "a", (1, 2), 3)]}, "a=3 is not swept"),
        ({"controls": [Slider("a", "a", (0.11, 0.12), 0.11, "{:.1f}")]}, "stands twice among 0.1, 0.1"),
        ({"controls": [Choice("a", "a", (1, 2), 1, labels=("x", "y", "z"))]}, "one label for each"),
        ({"scalars": {"a": lambda: 1}}, "stands twice among a, a"),
        ({"panels": [Counters("P", {}), Counters("P", {})]}, "stands twice among P, P"),
    ],
)
def test_a_description_at_odds_with_itself_is_refused_at_once(change, message):
    good = {"controls": [Slider("a", "a", (1, 2), 1)], "panels": [], "describe": "{a}"}
    with pytest.raises(WorkbenchError, match=re.escape(message)):
        Explorer("one", "One", **(good | change))


def test_too_heavy_a_sweep_is_refused_after_its_first_state():
    calls = []

    def heavy(a):
        calls.append(a)
        return np.zeros((1000, 1000))

    with pytest.raises(WorkbenchError, match=r"would weigh 12\.0 MB, and a page takes 8"):
        one_panel(Heatmap(heavy, "P", "", "", "")).html()
    assert calls == [1]


def spec_and_payload(fragment):
    """What an exported fragment carries, read with no help from the package."""
    spec = re.search(r'data-part="spec">(.*?)</script>', fragment, re.S).group(1)
    return json.loads(spec), re.search(r'data-part="payload">([A-Za-z0-9+/=]*)<', fragment).group(1)


def ends_of_axis(explorer, axis, choice):
    spec, payload = spec_and_payload(explorer.html())
    start = spec["panels"][0][axis]["limits"]["start"] + 2 * choice
    return np.frombuffer(base64.b64decode(payload), "<f4")[start : start + 2]


@pytest.mark.parametrize("choice", [0, 1])
def test_a_slider_never_moves_an_axis_and_a_choice_rescales_it(choice):
    controls = [Slider("a", "a", (1, 2, 3), 1), Choice("unit", "unit", (1, 1000), 1)]
    lines = Lines(lambda a, unit: {"s": np.array([0.4, a]) * unit}, "P", "", "", (0, 1), hlines={"t": "twice"})
    explorer = Explorer("x", "X", controls, [lines], "{a} {unit}", scalars={"twice": lambda unit: 5 * unit})
    low, high = ends_of_axis(explorer, "y", choice)
    unit = (1, 1000)[choice]
    assert 0 <= low < 0.4 * unit
    assert 5 * unit <= high < 6 * unit, "the axis must show the marker too"


def test_a_logarithmic_axis_leaves_out_what_it_cannot_show():
    lines = Lines(lambda a: {"s": [0, a, 100]}, "P", "", "", (1, 10, 100), log="xy")
    low, high = ends_of_axis(one_panel(lines), "y", 0)
    assert 0.5 < low <= 1
    assert 100 <= high < 200


def test_the_same_description_gives_the_same_bytes():
    assert sample().html() == sample().html()


def test_host_page_displays_the_exported_fragment(monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOST", "page")
    shown = sample()._repr_mimebundle_()
    assert shown == {"text/html": sample().html(), "text/plain": expected_text(0.2, 0.5, "relative")}


def test_host_lab_displays_a_widget_whose_controls_are_linked_in_the_browser(monkeypatch):
    monkeypatch.delenv("WORKBENCH_HOST", raising=False)
    links = []
    monkeypatch.setattr(ipywidgets, "jslink", lambda source, target: links.append((source, target)))
    shown = sample()._repr_mimebundle_()
    assert shown["text/plain"] == expected_text(0.2, 0.5, "relative")
    assert "application/vnd.jupyter.widget-view+json" in shown
    links.clear()
    title, controls, view = sample().widget().children
    assert title.value == "<b>When does a ticket emerge &lt;when&gt;?</b>"
    assert [type(row).__name__ for row in controls.children] == ["SelectionSlider"] * 2 + ["ToggleButtons"]
    assert [row.index for row in controls.children] == [view.at_ratio, view.at_eta, view.at_unit] == [1, 1, 0]
    names = ("at_ratio", "at_eta", "at_unit")
    assert links == [((row, "index"), (view, n)) for row, n in zip(controls.children, names, strict=True)]


def test_a_page_is_one_offline_document_with_one_script():
    fragment = sample("in_the_body").html()
    document = page("A & B", f"<h1>Body</h1>{fragment}", sample(), sample("other"))
    assert document.count('<script type="module">') == 1
    assert document.count("<section data-explorer=") == 3
    assert not re.search(r"https?://(?!www\.w3\.org/)", document)
    assert not re.search(r"\b(src|href)=|@import|url\(|import\s*\(|fetch\(", document)
    assert '<html lang="en">' in document
    assert 'name="viewport"' in document
    assert "<title>A &amp; B</title>" in document


def test_a_label_that_ends_a_script_does_not_end_it():
    fragment = sample().html()
    assert fragment.count("</script>") == 3  # description, payload, explorer.js
    assert spec_and_payload(fragment)[0]["panels"][3]["counters"][1][0] == "fires </script> at"
