"""JupyterLab as the README opens it: the first notebook first, and every picture there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import jupyterlab

from workbench import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def in_makefile():
    """The command behind `make lab`, with this interpreter's folder of commands."""
    here = Path(sys.executable).parent
    made = subprocess.run(["make", "-n", "lab", f"BIN={here}"], cwd=ROOT, capture_output=True, text=True)
    return next(line for line in made.stdout.splitlines() if re.match(rf"{here}/jupyter[ -]lab\b", line))


def in_readme():
    """The command for those without make."""
    readme = (ROOT / "README.md").read_text("utf-8")
    return re.search(r"^jupyter lab\b.*$", readme, re.MULTILINE)[0]


def test_the_two_ways_into_lab_are_one_command():
    assert in_makefile().endswith(in_readme())


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    command = shlex.split(in_makefile())
    with jupyterlab(command, ROOT, tmp_path_factory.mktemp("lab")) as url:
        yield url


def test_lab_opens_the_first_notebook(browser, lab):
    tab = browser.new_page()
    tab.goto(lab, wait_until="domcontentloaded")
    tab.locator(".jp-Notebook h1").first.wait_for(timeout=120_000)
    assert "notebooks/00_start_here.ipynb" in tab.url
    tab.close()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_picture_of_a_notebook_is_there(path, browser, lab):
    cells = nbformat.read(path, as_version=4).cells
    asked = sum(len(re.findall(r"!\[|<img\b", cell.source)) for cell in cells if cell.cell_type == "markdown")
    tab = browser.new_page(viewport={"width": 1280, "height": 720})
    failed = []
    tab.on("response", lambda answer: failed.append(answer.url) if answer.status == 404 else None)
    tab.goto(f"{lab}/lab/tree/notebooks/{path.name}?reset", wait_until="domcontentloaded")
    tab.locator(".jp-Notebook h1").first.wait_for(timeout=120_000)
    pictures = tab.locator(".jp-RenderedMarkdown img")
    for i in range(asked):
        pictures.nth(i).wait_for(timeout=60_000)
        assert pictures.nth(i).evaluate("async e => { await e.decode(); return e.naturalWidth }") > 0
    assert not [url for url in failed if re.search(r"\.(png|svg|jpe?g)\b", url)]
    tab.close()
