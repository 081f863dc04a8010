"""Explorers as a reader meets them: in a page from a file with no network, and in a real JupyterLab."""

import io
import re
import sys
from itertools import product
from pathlib import Path

import matplotlib
import matplotlib.image
import nbformat
import numpy as np
import pytest
from conftest import ask, jupyterlab
from test_explorer import (
    ETAS,
    POINTS,
    RATIOS,
    UNITS,
    distance,
    one_panel,
    pair,
    pairwise,
    parallel,
    regions,
    sample,
    wall,
)

from workbench import runner
from workbench.explorer import Bars, Choice, Explorer, Picture, Slider, page

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    file = tmp_path_factory.mktemp("export") / "page.html"
    file.write_text(page("Two explorers", "<h1>Tickets</h1>", sample(), sample("other")), encoding="utf-8")
    return file.as_uri()


@pytest.fixture
def tab(browser, exported):
    """A page of a browser that is offline; any console error or request beside the file fails the test."""
    context = browser.new_context(viewport={"width": 1000, "height": 1200}, device_scale_factor=2)
    context.set_offline(True)
    wrong = []
    context.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    context.on("request", lambda request: wrong.append(request.url) if "page.html" not in request.url else None)
    yield context.new_page()
    context.close()
    assert wrong == []


def first(tab, selector):
    return tab.locator("[data-explorer=gebt]").locator(selector).first


def text(tab):
    return first(tab, ".explorer-text")


def picture(tab, panel=0):
    return tab.evaluate("i => document.querySelectorAll('.explorer-plot > canvas')[i].toDataURL()", panel)


def test_every_state_in_the_browser_reads_exactly_as_it_does_headlessly(tab, exported):
    tab.goto(exported)
    explorer = sample()
    for ratio, eta, unit in product(RATIOS, ETAS, UNITS):
        tab.evaluate("hash => { location.hash = hash }", f"gebt.ratio={ratio}&gebt.eta={eta}&gebt.unit={unit}")
        shown = explorer(ratio=ratio, eta=eta, unit=unit)
        expect(text(tab)).to_have_text(shown["text"])
        counters = tab.locator("[data-explorer=gebt] .explorer-counters output")
        assert counters.all_inner_texts() == list(shown["Numbers"].values())


def test_heat_map_paints_each_cell_in_its_own_colour(tab, exported):
    tab.goto(exported)
    cells = tab.evaluate(
        """([rows, columns]) => {
            const plot = document.querySelector(".explorer-plot"), canvas = plot.querySelector("canvas");
            const box = plot.querySelector("rect"), at = (name) => Number(box.getAttribute(name));
            const ratio = canvas.width / plot.clientWidth, ctx = canvas.getContext("2d");
            return Array.from({ length: rows }, (_, r) => Array.from({ length: columns }, (_, c) => [
              ...ctx.getImageData((at("x") + (c + 0.5) / columns * at("width")) * ratio,
                (at("y") + (rows - 0.5 - r) / rows * at("height")) * ratio, 1, 1).data]));
        }""",
        pairwise(0.2).shape,
    )
    every = np.concatenate([pairwise(ratio).ravel() for ratio in RATIOS])  # one scale for all sliders
    level = (pairwise(0.2) - every.min()) / (every.max() - every.min())
    viridis = 255 * matplotlib.colormaps["viridis"](level)
    np.testing.assert_allclose(np.array(cells), viridis, atol=4)


@pytest.mark.parametrize("channels", [1, 3])
def test_picture_paints_each_pixel_upright_and_cuts_off_what_is_too_bright(browser, tmp_path, channels):
    image = np.linspace(-0.2, 1.2, 6 * channels).reshape(2, 3, channels)
    shown = one_panel(Picture(lambda a: image[..., 0] if channels == 1 else image, "P"))
    file = tmp_path / "picture.html"
    file.write_text(page("A picture", "", shown), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 600, "height": 700}, device_scale_factor=2)
    tab.goto(file.as_uri())
    ends = [(-0.5, 2.5), (-0.5, 1.5)]  # `seen` counts rows from below
    places = [(x, 1 - y) for y in range(2) for x in range(3)]
    wanted = 255 * np.broadcast_to(image, (2, 3, 3)).clip(0, 1).reshape(6, 3)
    np.testing.assert_allclose(seen(tab, 0, ends, places), wanted, atol=2)
    tab.locator(".explorer-plot > canvas").hover(position={"x": 300, "y": 20})
    expect(tab.locator(".explorer-plot output")).to_have_text(re.compile(r"^\(\d, 0\): "))
    tab.close()


def test_curve_lies_where_the_ticks_say(tab, exported):
    tab.goto(exported)
    # Every grid line is followed by its tick's text; upright ones are the x axis'.
    lines = tab.evaluate(
        """() => [...document.querySelectorAll(".explorer-plot")[1].querySelectorAll(".grid")].map(line =>
          ["x1", "x2", "y1"].map(name => Number(line.getAttribute(name)))
            .concat(Number(line.nextSibling.textContent)))"""
    )
    to_x = np.polyfit(*zip(*[(value, x1) for x1, x2, _, value in lines if x1 == x2], strict=True), 1)
    to_y = np.polyfit(*zip(*[(value, y1) for x1, x2, y1, value in lines if x1 != x2], strict=True), 1)
    for epoch in (1, 2, 3):
        colour = tab.evaluate(
            """([x, y]) => [...document.querySelectorAll(".explorer-plot > canvas")[1].getContext("2d")
              .getImageData(Math.round(2 * x), Math.round(2 * y), 1, 1).data]""",
            [np.polyval(to_x, epoch), np.polyval(to_y, distance(0.2, "relative")[epoch])],
        )
        np.testing.assert_allclose(colour, [0x00, 0x72, 0xB2, 255], atol=8)  # the first series' blue


def seen(tab, panel, ends, places):
    """The colours [n, 3], 0 to 255, that the reader sees at places (x, y) of a picture with ends (x, y) of axes."""
    plot = tab.locator(".explorer-plot").nth(panel)
    box = plot.locator("rect.edge").evaluate(
        "e => (({ x, y, width, height }) => ({ x, y, width, height }))(e.getBBox())"
    )
    shot = matplotlib.image.imread(io.BytesIO(plot.screenshot()))
    at = (np.array(places) - np.min(ends, axis=1)) / np.ptp(ends, axis=1)
    x, y = box["x"] + at[:, 0] * box["width"], box["y"] + (1 - at[:, 1]) * box["height"]
    return 255 * shot[(2 * y).astype(int), (2 * x).astype(int), :3]


PLANE = ((-2, 2), (-1, 1))
BLUE, VERMILION = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


def go_to(tab, **state):
    tab.evaluate("hash => { location.hash = hash }", "&".join(f"gebt.{name}={v}" for name, v in state.items()))
    expect(text(tab)).to_have_text(sample()(**state)["text"])


@pytest.mark.parametrize("ratio", RATIOS)
def test_areas_edges_boundary_and_points_lie_where_the_functions_put_them(tab, exported, ratio):
    tab.goto(exported)
    go_to(tab, ratio=ratio)
    x = wall(ratio)
    paper, above, below, seam, boundary = seen(
        tab, 3, PLANE, [(x - 0.3, 0.25), (x + 0.3, 0.25), (x + 0.3, -0.25), (1.8, 0), (x, 0.25)]
    )
    np.testing.assert_allclose(paper, 255)
    np.testing.assert_allclose(boundary, 0)
    np.testing.assert_allclose(above, 0.75 * 255 + 0.25 * np.array(BLUE), atol=2)
    np.testing.assert_allclose([below, seam], [above, above], atol=2)
    for points, colour in zip(POINTS.values(), (BLUE, VERMILION), strict=True):
        np.testing.assert_allclose(seen(tab, 3, PLANE, points), [colour, colour], atol=2)
    heights = np.linspace(-0.9, 0.9, 361)  # finer than an edge is thin
    column = seen(tab, 3, PLANE, [(x / 2 - 1.1, y) for y in heights]).mean(axis=1)
    edges = np.array(regions(ratio))[3::3, 1]
    near = np.abs(heights[:, None] - edges) < 0.03
    assert (np.where(near, column[:, None], 255).min(axis=0) < 200).all(), "every edge is there"
    assert (column[~near.any(axis=1)] > 250).all(), "an edge is thin, and nothing else is: no grid, no joined paths"


def test_a_unit_is_as_long_across_as_up_and_the_pointer_reads_it(tab, exported):
    tab.goto(exported)
    plot = tab.locator(".explorer-plot").nth(3)
    box = plot.locator("rect.edge").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(2, abs=0.02)
    plot.scroll_into_view_if_needed()
    box = plot.locator("rect.edge").bounding_box()
    tab.mouse.move(box["x"] + box["width"] * 2.5 / 4, box["y"] + box["height"] * 1.25 / 2)
    read = plot.locator("output").inner_text().replace("\u2212", "-").strip("()").split(", ")
    np.testing.assert_allclose([float(number) for number in read], [0.5, -0.25], atol=0.03)


def test_the_boundary_and_its_legend_follow_the_page_into_the_dark(tab, exported):
    tab.goto(exported)
    legend = tab.locator("figure", has=tab.get_by_role("img", name="Plane")).first.locator("li")
    assert legend.all_inner_texts() == list(sample()()["Plane"])
    for scheme, ink in (("light", 0), ("dark", 255)):
        tab.emulate_media(color_scheme=scheme)
        paper, area, boundary = seen(tab, 3, PLANE, [(-0.3, 0.25), (0.3, 0.25), (0, 0.25)])
        np.testing.assert_allclose(boundary, ink)
        assert np.abs(paper - ink).min() > 200
        assert np.ptp(area - paper) > 20, "an area has a colour"
        assert (
            legend.nth(2).locator("svg .bold").evaluate("e => getComputedStyle(e).stroke")
            == f"rgb({ink}, {ink}, {ink})"
        )


@pytest.mark.parametrize("eta", ETAS)
def test_outlined_cells_are_seen_and_no_others(tab, exported, eta):
    tab.goto(exported)
    go_to(tab, eta=eta)
    rows, columns = pairwise(0.2).shape
    cells = list(product(range(rows), range(columns)))
    ends = ((-0.5, columns - 0.5), (-0.5, rows - 0.5))
    beside = seen(tab, 0, ends, [(column - 0.53, row) for row, column in cells])
    assert [cell for cell, colour in zip(cells, beside, strict=True) if colour.max() < 10] == pair(eta)
    assert seen(tab, 0, ends, [(column, row) for row, column in pair(eta)]).max(axis=1).min() > 50, "not filled"


def test_parallel_coordinates_tell_what_is_within_and_what_is_best(browser, tmp_path):
    file = tmp_path / "parallel.html"
    file.write_text(page("Parallel", "", one_panel(parallel())), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 900, "height": 700}, device_scale_factor=2)
    heights = np.linspace(0.05, 0.95, 901)
    for a, kinds in ((1, ("best", "out", "out")), (2, ("next", "best", "out")), (3, ("in", "next", "best"))):
        tab.goto(f"{file.as_uri()}#one.a={a}")
        tab.reload()
        between = seen(tab, 0, ((-0.25, 2.5), (0, 1)), [(1.5, y) for y in heights])
        left = np.full(len(heights), True)
        # Size of 5 and the logarithm of cost of 10,000: rows in the middle between these two axes.
        for kind, y in zip(kinds, ((0.2 + 0.25) / 2, (0.4 + 0.5) / 2, (0.8 + 0.75) / 2), strict=True):
            near = np.abs(heights - y) < 0.02
            left &= ~near
            red, green, blue = line = between[near][between[near].sum(1).argmin()]
            if kind == "out":
                assert 180 < line.mean() < 250
                assert np.ptp(line) < 12
            elif kind == "best":
                assert line.max() < 40
            else:
                assert (red > blue + 80) if kind == "next" else (blue > red + 80), (a, line)
                assert green < 235
        assert (between[left] > 250).all(), "three lines and nothing else"
        names = tab.locator("figure li").all_inner_texts()
        assert names == ["out", "in", "next", "best"]
    labels = tab.locator(".explorer-plot svg text").all_text_contents()
    assert {"kind", "size", "cost", "cat", "dog"} <= set(labels)
    tab.locator(".explorer-plot > canvas").hover(position={"x": 60, "y": 280})
    expect(tab.locator(".explorer-plot output")).to_have_text("kind: cat")
    tab.close()


def test_arrow_keys_move_picture_and_text(tab, exported):
    tab.goto(exported)
    explorer, slider = sample(), first(tab, "input[type=range]")
    expect(text(tab)).to_have_text(explorer()["text"])
    before = [picture(tab, panel) for panel in range(3)]
    slider.press("ArrowRight")
    expect(text(tab)).to_have_text(explorer(ratio=0.3)["text"])
    assert all(picture(tab, panel) != before[panel] for panel in range(3))
    slider.press("ArrowLeft")
    expect(text(tab)).to_have_text(explorer()["text"])
    assert [picture(tab, panel) for panel in range(3)] == before


def test_everything_is_reached_and_worked_by_keyboard_alone(tab, exported):
    tab.goto(exported)
    explorer = sample()
    keys = ["Tab", "ArrowLeft", "Tab", "ArrowLeft", "Tab", "ArrowRight"]
    for key in keys:
        tab.keyboard.press(key)
    expect(text(tab)).to_have_text(explorer(ratio=0.1, eta=0.05, unit="edges")["text"])
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Reset"
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "focus must be seen"
    tab.keyboard.press("Enter")
    expect(text(tab)).to_have_text(explorer()["text"])
    expect(first(tab, "input[type=range]")).to_have_value("1")
    expect(first(tab, "input[type=radio]")).to_be_checked()


def test_the_address_carries_the_state_and_explorers_do_not_mix(tab, exported):
    tab.goto(exported + "#summary")
    explorer, others = sample(), tab.locator("[data-explorer=other] .explorer-text")
    first(tab, "input[type=range]").press("ArrowRight")
    tab.wait_for_url("**gebt.ratio=0.3*")
    tab.locator("[data-explorer=other] input[type=radio]").nth(1).check()
    tab.wait_for_url("**other.unit=edges*")
    tab.reload()
    expect(text(tab)).to_have_text(explorer(ratio=0.3)["text"])
    expect(others).to_have_text(explorer(unit="edges")["text"])


def test_what_an_address_asks_in_vain_is_refused_in_words(tab, exported):
    tab.goto(exported + "#gebt.ratio=0.25&gebt.eta=0.05&gebt.rato=1")
    refused = first(tab, ".explorer-refused")
    expect(refused).to_be_visible()
    expect(refused).to_contain_text("gebt.ratio=0.25 is not to be had; valid values: 0.1, 0.2, 0.3.")
    expect(refused).to_contain_text("gebt.rato is no control here; valid names: gebt.ratio, gebt.eta, gebt.unit.")
    expect(text(tab)).to_have_text(sample()(eta=0.05)["text"])
    first(tab, "input[type=range]").press("ArrowRight")
    expect(refused).to_be_hidden()


def test_the_pointer_reads_values_off_the_picture(tab, exported):
    tab.goto(exported)
    plot = first(tab, ".explorer-plot")
    box = plot.locator("rect").bounding_box()
    rows, columns = pairwise(0.2).shape
    x, y = box["x"] + box["width"] * 4.5 / columns, box["y"] + box["height"] * (rows - 7.5) / rows
    tab.mouse.move(x, y)
    expect(plot.locator("output")).to_have_text(f"(4, 7): {pairwise(0.2)[7, 4]:.4g}")
    tab.mouse.move(0, 0)
    expect(plot.locator("output")).to_be_hidden()


def test_a_resized_window_is_drawn_at_its_own_sharpness(tab, exported):
    tab.goto(exported)
    for width in (1000, 500):
        tab.set_viewport_size({"width": width, "height": 900})
        tab.wait_for_function(
            "() => [...document.querySelectorAll('.explorer-plot')].every(plot => "
            "plot.querySelector('canvas').width === Math.round(2 * plot.getBoundingClientRect().width))"
        )
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, "nothing may stick out"


def test_what_is_shown_is_told_to_those_who_cannot_see_it(tab, exported):
    tab.goto(exported)
    pictures = tab.locator("[data-explorer=gebt] .explorer-plot").get_by_role("img")
    assert pictures.evaluate_all("all => all.map(e => e.ariaLabel)") == ["Pairs", "Detector", "Cost", "Plane"]
    expect(text(tab)).to_have_attribute("aria-live", "polite")
    slider = tab.get_by_role("slider", name="pruning ratio").first
    expect(slider).to_have_attribute("aria-valuetext", "20%")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on a free loopback port, serving one notebook: an explorer, and a cell that waits."""
    home, here = tmp_path_factory.mktemp("lab"), Path(__file__).parent
    cells = [
        f"import sys\nsys.path.insert(0, {str(here)!r})\nfrom test_explorer import sample\nsample()",
        "import pathlib, time\nfrom workbench.progress import progress\n"
        "for _ in progress(iter(pathlib.Path('go-on').exists, True), 'waiting'):\n    time.sleep(0.05)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (home / "root").mkdir()
    nbformat.write(notebook, home / "root" / "one.ipynb")
    with jupyterlab([sys.executable, "-m", "jupyterlab"], home / "root", home) as url:
        yield url, home / "root"


def test_in_jupyterlab_the_kernel_is_not_asked(browser, lab):
    url, root = lab
    explorer = sample()
    tab = browser.new_page(viewport={"width": 1400, "height": 1200})
    tab.set_default_timeout(120_000)
    errors = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if "widget" in message.text.lower() else None)
    tab.goto(f"{url}/lab/tree/one.ipynb?reset", wait_until="domcontentloaded")
    prompts = tab.locator(".jp-CodeCell .jp-InputPrompt")
    for _ in range(30):  # Lab drops a Run All that comes before the notebook's session is ready
        tab.locator(".jp-CodeCell .jp-InputArea-editor").first.click()
        tab.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
        tab.click("li.lm-Menu-item[data-command='runmenu:run-all']")
        try:
            expect(prompts.first).not_to_have_text("[ ]:", timeout=3000)
            break
        except AssertionError:
            continue

    expect(tab.locator(".explorer-text")).to_have_text(explorer()["text"], timeout=120_000)
    assert tab.locator(".jp-OutputArea [data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert tab.locator(".explorer-plot").get_by_role("img").count() == 4
    # The second cell keeps the kernel busy until the file go-on exists.
    kernel = f"{url}/api/kernels/{ask(f'{url}/api/kernels')[0]['id']}"
    expect(prompts.nth(1)).to_have_text("[*]:")
    before = picture(tab)
    tab.locator(".noUi-handle").first.press("ArrowRight")
    expect(tab.locator(".explorer-text")).to_have_text(explorer(ratio=0.3)["text"])
    assert picture(tab) != before
    tab.locator(".widget-toggle-button").nth(1).press("Enter")
    expect(tab.locator(".explorer-text")).to_have_text(explorer(ratio=0.3, unit="edges")["text"])
    tab.get_by_role("button", name="Reset").press("Enter")
    expect(tab.locator(".explorer-text")).to_have_text(explorer()["text"])
    expect(tab.locator(".widget-readout").first).to_have_text("20%")
    assert picture(tab) == before
    expect(prompts.nth(1)).to_have_text("[*]:")  # it was busy all along
    bar = tab.locator(".jp-OutputArea-output", has_text="waiting: ")
    expect(bar).to_be_visible()
    # Nor does it need to be alive.
    (root / "go-on").touch()
    expect(prompts.nth(1)).to_have_text("[2]:")
    expect(bar).to_have_count(0)
    left = tab.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea-output")
    assert all(box.bounding_box()["height"] == 0 for box in left.all()), "a bar that is done leaves nothing to see"
    assert tab.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    ask(kernel, "DELETE")
    tab.locator(".noUi-handle").first.press("ArrowLeft")
    expect(tab.locator(".explorer-text")).to_have_text(explorer(ratio=0.1)["text"])
    assert errors == []
    tab.close()


CODE = '''# %% words of every kind
import os
@property
def area(self, of: int = 0x1F, *rest) -> float:
    """What it says."""
    if of is None or not rest:  # why
        raise ValueError(f"{of!r}: {1.5e3:.2f} \\\\n") from None
    return [x ** 2 for x in range(len(rest)) if x in {True, ...}] and os.path and self.__doc__
class A(Exception): b = lambda: (yield r"\\d+", b"b")
%time 1 + 1
!ls
$ ?'''
ROW = f"<tr>{'<td>a word and another</td>' * 12}</tr>"


@pytest.fixture(scope="module")
def notebook_page(tmp_path_factory):
    """A page made of an executed notebook, with all that one may hold."""
    out = tmp_path_factory.mktemp("notebook")
    new = nbformat.v4
    outputs = [
        new.new_output("stream", name="stderr", text="  0%|    | 1/42 [00:55<37:50]"),
        new.new_output("stream", name="stdout", text="a long line " * 30),
        new.new_output("display_data", {"text/html": f"<table class='dataframe'>{ROW}</table>"}),
        new.new_output("display_data", {"text/html": "<table><tr><td>short</td></tr></table>"}),
    ]
    cells = [
        new.new_markdown_cell(
            f"# A page\n\n## A part\n\n`code`\n\n| {'a | ' * 40}\n| {'- | ' * 40}\n| {'word | ' * 40}"
        ),
        new.new_code_cell("scale = 'quick'", metadata={"tags": ["parameters"]}),
        new.new_code_cell("injected = 1", metadata={"tags": ["injected-parameters"]}),
        new.new_code_cell(CODE, execution_count=2, outputs=outputs),
    ]
    job = runner.Job("gebt", Path("notebook.ipynb"), out, {})
    nbformat.write(new.new_notebook(cells=cells), job.executed)
    file = out / "page.html"
    file.write_text(runner._page(job), encoding="utf-8")
    return file.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_of_code_stands_out_from_its_ground(tab, notebook_page, scheme):
    tab.emulate_media(color_scheme=scheme)
    tab.goto(notebook_page)
    pairs = tab.evaluate(
        """() => [...document.querySelectorAll("main *")].filter(e => e.checkVisibility() &&
            [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => {
          const ctx = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
          const paint = (colour) => { ctx.fillStyle = colour; ctx.fillRect(0, 0, 1, 1); }, read = () =>
            [...ctx.getImageData(0, 0, 1, 1).data];
          const above = []; for (let at = e; at; at = at.parentElement) above.unshift(at);
          for (const at of above) paint(getComputedStyle(at).backgroundColor);
          const ground = read(); paint(getComputedStyle(e).color);
          return [e.textContent, read().slice(0, 3), ground.slice(0, 3)];
        })"""
    )
    assert len(pairs) > 50

    def light(colour):
        c = np.array(colour) / 255
        return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)

    for text, ink, ground in pairs:
        low, high = sorted((light(ink), light(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ink, ground)


def test_a_page_leaves_out_what_is_for_those_who_run_it(tab, notebook_page):
    tab.goto(notebook_page)
    read = tab.locator("main").inner_text()
    assert "a long line" in read
    assert "scale = 'quick'" in read
    for word in ("37:50", "injected", "In [", "[2]:", "\u00b6"):
        assert word not in read, word


def test_what_is_wider_than_a_phone_scrolls_in_a_box_that_the_keyboard_reaches(tab, notebook_page):
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.goto(notebook_page)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.wait_for_function("[...document.querySelectorAll('.scroll')].every(e => e.hasAttribute('tabindex'))")
    boxes = tab.evaluate(
        "[...document.querySelectorAll('.scroll')].map(e => [e.scrollWidth > e.clientWidth, e.tabIndex === 0])"
    )
    assert [wide for wide, _ in boxes].count(True) >= 3
    assert [wide for wide, _ in boxes].count(False) >= 1
    assert all(wide == stop for wide, stop in boxes)
    assert tab.locator("table").count() == tab.locator(".scroll > table").count() == 3


@pytest.mark.parametrize("width", [320, 360, 390, 480, 481, 600, 1280])
def test_a_slider_keeps_its_track_and_its_words_on_any_screen(tab, tmp_path, width):
    explorers = [
        Explorer(
            f"e{length}",
            "One",
            [
                Slider("a", ("a word " * 20)[:length], (1, 2), 1, "{:g} images a second"),
                Choice("b", ("another " * 20)[:length], ("x", "y", "z"), "x", labels=[f"{c} word" * 6 for c in "abc"]),
            ],
            [Bars(lambda a: {"s": [1, a]}, "P", "x", bars=["a long name of a bar that takes much room", "b"])],
            "{a} {b}",
        )
        for length in (1, 20, 60)
    ]
    file = tmp_path / "page.html"
    file.write_text(page("Phone", "", *explorers), encoding="utf-8")
    tab.set_viewport_size({"width": width, "height": 800})
    tab.goto(file.as_uri())
    tracks = tab.locator("input[type=range]").evaluate_all("all => all.map(e => e.getBoundingClientRect().width)")
    assert len(tracks) == 3
    assert min(tracks) >= 120
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    ends = tab.evaluate(
        """[...document.querySelectorAll(".explorer-controls :is(span, label, output, input)")].map(e =>
          e.closest("section").getBoundingClientRect().right - e.getBoundingClientRect().right)"""
    )
    assert min(ends) >= 0, "nothing is cut off at the right"
    rows = tab.locator("[role=radiogroup]").all()
    stacked = [row.locator("> span").nth(1).bounding_box()["x"] == row.bounding_box()["x"] for row in rows]
    assert stacked == [width <= 480] * 3, "on a phone the choices stand below their label"


def test_a_picture_is_as_true_on_paper_as_on_the_screen(browser, exported):
    """On paper a frame has another width and nothing is drawn again: here, where no change of a size is told."""
    tab = browser.new_page(viewport={"width": 1000, "height": 1200}, device_scale_factor=2)
    tab.add_init_script(
        """window.ResizeObserver = class {
          constructor(then) { this.then = then; }
          observe(target) {
            const once = () => this.then([{ target, contentRect: target.getBoundingClientRect() }]);
            requestAnimationFrame(once);
          }
        }"""
    )
    tab.goto(exported)
    tab.wait_for_function("[...document.querySelectorAll('.explorer-plot svg[viewBox]')].length >= 8")
    for width in (1000, 800, 450):
        tab.emulate_media(media="print")
        tab.set_viewport_size({"width": width, "height": 1200})
        plot = tab.locator(".explorer-plot").nth(3)
        box, frame = plot.locator("rect.edge").bounding_box(), plot.bounding_box()
        assert box["width"] / box["height"] == pytest.approx(2, abs=0.02)
        shot = 255 * matplotlib.image.imread(io.BytesIO(plot.screenshot()))
        for points, colour in zip(POINTS.values(), (BLUE, VERMILION), strict=True):
            for x, y in points:
                column = box["x"] - frame["x"] + (x + 2) / 4 * box["width"]
                row = box["y"] - frame["y"] + (1 - y) / 2 * box["height"]
                np.testing.assert_allclose(shot[int(2 * row), int(2 * column), :3], colour, atol=8)
    tab.close()


def test_a_frame_narrower_than_its_labels_is_no_error(tab, exported):
    tab.goto(exported)
    for width in (1, 20, 60, 90, 130):
        tab.add_style_tag(content=f".explorer-plot {{ width: {width}px }}")
        tab.wait_for_function(
            "w => [...document.querySelectorAll('.explorer-plot > canvas')].every(c => c.width === 2 * w)", arg=width
        )
    widths = tab.locator(".explorer-plot rect").evaluate_all("all => all.map(e => Number(e.getAttribute('width')))")
    assert min(widths) > 0
