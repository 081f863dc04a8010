"""Notebooks have one shape, say more than they compute, and still print what they promise."""

import ast
import os
import re
import subprocess
import sys
from dataclasses import fields
from statistics import median

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from workbench import ROOT, papers

START = ROOT / "notebooks" / "00_start_here.ipynb"
FOUND = sorted((ROOT / "notebooks").glob("*.ipynb"))
WRITTEN = [path for path in FOUND if path.stat().st_size]  # an empty file is a placeholder
CHECKED = "nbval-check-output"
SECTIONS = [  # what the headings begin with, in this order
    "You will be able to", "(parameters)", "(set-up)", "The claim", "The idea", "Explore", "The real run",
    "Verdict", "Exercises", "Energy|What it costs", "Summary",
]  # fmt: skip
IMAGE = re.compile(r"!\[[^\]]{10,}\]\([^)]+\)|<img\b[^>]*\balt=[\"'][^\"']{10,}")


def tags(cell):
    return cell.metadata.get("tags", [])


def of_type(notebook, kind):
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def faults(notebook):
    """What is wrong with the shape of any notebook."""
    code = of_type(notebook, "code")
    lines = [len(cell.source.splitlines()) for cell in code]
    said, done = (sum(len(c.source.split()) for c in of_type(notebook, k)) for k in ("markdown", "code"))
    ids = [cell.get("id") for cell in notebook.cells]
    if not notebook.cells[0].source.startswith("# "):
        yield "the first cell is no title"
    if max(lines) > 25:
        yield f"a cell of {max(lines)} lines"
    if median(lines) > 6:
        yield f"a median of {median(lines)} lines"
    if said < done:
        yield f"{said} words of prose, {done} of code"
    if None in ids or len(set(ids)) < len(ids):
        yield "a cell's id is missing or not its own"
    parameters = sum("parameters" in tags(cell) for cell in code)
    if parameters != 1:
        yield f"{parameters} cells of parameters"
    if "widgets" in notebook.metadata:
        yield "widgets' state is stored"
    for cell in code:
        if CHECKED not in tags(cell) and (cell.outputs or cell.execution_count is not None):
            yield f"{cell.id} stores an output"
        if CHECKED in tags(cell) and not (cell.outputs and cell.execution_count):
            yield f"{cell.id} is to be checked, and lacks an output or its count: nbval would check nothing"


def paper_faults(notebook, config):
    """What is wrong with the shape of a paper's notebook; `config` names the parameters there may be."""
    title = notebook.cells[0].source
    if not re.search(r"arxiv", title, re.IGNORECASE):
        yield "the title does not say where the paper is"
    if not IMAGE.search(title):
        yield "the title has no image with an alternative text"
    parameters = [cell.source for cell in of_type(notebook, "code") if "parameters" in tags(cell)]
    for statement in ast.parse("\n".join(parameters)).body:
        try:
            ast.literal_eval(statement.value)
            (name,) = (target.id for target in statement.targets)
        except (AttributeError, ValueError):
            yield f"no plain literal: {ast.unparse(statement)}"
            continue
        if name not in {"scale", *(field.name for field in fields(config))}:
            yield f"the experiment has no parameter {name}"
    headings = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            headings += re.findall(r"^#{2,4} (?:\d+\W+)?(.+)", cell.source, re.MULTILINE)
        elif "parameters" in tags(cell):
            headings.append("(parameters)")
        elif "(parameters)" in headings and re.match(r"(from|import) ", cell.source):
            headings.append("(set-up)")
    rest = iter(headings)
    for section in SECTIONS:
        wanted = section.replace("(", r"\(").replace(")", r"\)")
        if not any(re.match(wanted, heading, re.IGNORECASE) for heading in rest):
            yield f"{section!r} is missing or out of order"
            return


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_a_notebook_has_the_house_shape(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    found = list(faults(notebook))
    if path != START:
        key = path.stem.split("_", 1)[1]
        found += paper_faults(notebook, papers.experiment(key).Config)
    assert not found


def test_every_notebook_is_a_papers_or_the_start():
    assert START in FOUND
    assert {*FOUND} <= {START, *(paper.notebook for paper in papers.PAPERS)}


# --- the tests of the shape can fail -----------------------------------------------------------------------


@pytest.fixture
def good():
    def markdown(*headings):
        return [new_markdown_cell(f"## {heading}\n\nSome words on it.") for heading in headings]

    title = "# A paper\n\narXiv:2103.00794\n\n![Accuracy against edges removed](../figures/x.png)"
    prose = [new_markdown_cell(title), *markdown("You will be able to")]
    parameters = new_code_cell('scale = "quick"\nseeds = None', metadata={"tags": ["parameters"]})
    setup = new_code_cell("import workbench")
    names = ["The claim", "The idea in a toy", "Explore it", "The real run", "Verdict", "Exercises"]
    shown = new_output("stream", text="1\n")
    checked = new_code_cell("1", metadata={"tags": [CHECKED]}, outputs=[shown], execution_count=3)
    rest = [*markdown(*names), checked, *markdown("What it costs in energy", "Summary")]
    return new_notebook(cells=[*prose, parameters, setup, *rest])


def test_a_good_notebook_has_no_fault(good):
    assert not [*faults(good), *paper_faults(good, papers.Config)]


SPOILED = {  # cell 2 is the parameters, 3 the set-up, 10 the one whose output is checked
    "first cell is no title": lambda n: n.cells.insert(0, new_code_cell("1")),
    "a cell of 26 lines": lambda n: n.cells.append(new_code_cell("1\n" * 26)),
    "a median of 8": lambda n: [n.cells.append(new_code_cell("1\n" * 8)) for _ in range(4)],
    "words of prose": lambda n: n.cells.append(new_code_cell("1 + " * 99 + "1")),
    "not its own": lambda n: n.cells[3].update(id=n.cells[4].id),
    "widgets' state": lambda n: n.metadata.update(widgets={}),
    "stores an output": lambda n: n.cells[3].update(execution_count=1),
    "would check nothing": lambda n: n.cells[10].update(execution_count=None),
    "lacks an output": lambda n: n.cells[10].update(outputs=[]),
    "where the paper is": lambda n: n.cells[0].update(source="# A paper"),
    "alternative text": lambda n: n.cells[0].update(source="# A paper\n\narXiv ![](x.png)"),
    "0 cells of parameters": lambda n: n.cells.pop(2),
    "no plain literal: seeds = 2 * 3": lambda n: n.cells[2].update(source="seeds = 2 * 3"),
    "no plain literal: import os": lambda n: n.cells[2].update(source="import os"),
    "no parameter speed": lambda n: n.cells[2].update(source="speed = 1"),
    "(set-up)": lambda n: n.cells.pop(3),
    "'The idea' is missing": lambda n: n.cells.pop(5),
    "'Exercises' is missing or out of order": lambda n: n.cells.insert(12, n.cells.pop(8)),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_a_spoiled_notebook_is_noticed(good, fault):
    SPOILED[fault](good)
    assert any(fault in each for each in [*faults(good), *paper_faults(good, papers.Config)])


# --- nbval: they run, and print what is stored -------------------------------------------------------------


def nbval(path, out):
    """Run pytest with nbval on a notebook in a process of its own; what it saves goes to `out`."""
    quiet = {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=900", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(path)],
        cwd=ROOT,
        env=env | quiet | {"WORKBENCH_OUT": str(out)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_what_it_stores(path, tmp_path):
    run = nbval(path, tmp_path)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


@pytest.mark.parametrize("spoil", [False, True], ids=["as stored", "corrupted"])
def test_nbval_goes_red_where_a_stored_output_is_corrupted(spoil, tmp_path):
    notebook = nbformat.read(START, as_version=4)
    code = of_type(notebook, "code")
    last = next(i for i, cell in enumerate(code) if CHECKED in tags(cell))
    notebook.cells = code[: last + 1]
    (output,) = code[last].outputs
    assert "2103.00794" in output.text
    if spoil:
        output.text = output.text.replace("2103.00794", "2103.00795")
    copy = tmp_path / "copy.ipynb"
    nbformat.write(notebook, copy)
    run = nbval(copy, tmp_path)
    assert run.returncode == int(spoil), run.stdout + run.stderr
    assert ("mismatch 'stdout'" in run.stdout) == spoil
