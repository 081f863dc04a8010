"""Notebooks run headlessly: what a run leaves behind when all is well, when one fails, when it is stopped.

The command runs in a small checkout of its own: a copy of the package, tiny notebooks with papers' names,
and a stand-in for torch that spares each process two seconds of import.
"""

import base64
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from workbench import ROOT, WorkbenchError, evidence, runner

TOY = """
import json, os, pathlib

ROOT = pathlib.Path(__file__).parent

def log(line):
    with open(ROOT / "log.txt", "a") as file:
        file.write(f"{line}\\n")

def save(paper, value, rows_of=None):
    log(paper)
    out = pathlib.Path(os.environ["WORKBENCH_OUT"])
    (out / paper).mkdir(parents=True)
    head = {"parameters": {}, "data": "", "workbench": "", "tolerance": {}}
    (out / paper / "toy.csv").write_text(f"# {json.dumps(head)}\\nstep,value\\n1,{value}\\n")
    row = dict.fromkeys(KEYS) | {"id": f"{paper}.toy", "paper": rows_of or paper, "value": value}
    (out / "ledger.json").write_text(json.dumps([row]))
"""

EXPERIMENT = """
import os, signal, time, types
from dataclasses import asdict, dataclass, replace
from typing import ClassVar
import pandas as pd
import torch
from toy import ROOT, log
from workbench import WorkbenchError

@dataclass(frozen=True)
class Config:
    seed: int = 0
    bits: int = 8
    sleep: int = 0
    SCALES: ClassVar[dict] = {}

    @classmethod
    def at(cls, scale, **overrides):
        names = list(cls.__dataclass_fields__)
        for name, value in overrides.items():
            if name not in names:
                raise WorkbenchError(f"no parameter {name!r}; there are {', '.join(names)}")
            if not isinstance(value, int) or value < 0:
                raise WorkbenchError(f"{name} must be an integer >= 0, not {value!r}")
        return replace(cls.SCALES[scale], **overrides)

Config.SCALES = {"quick": Config(), "full": Config()}

def run(config):
    assert torch.threads == 1
    log(f"seed={config.seed} bits={config.bits}")
    if config.seed == 13:
        raise ValueError("thirteen")
    if config.seed == 66 and not (ROOT / "killed").exists():
        (ROOT / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(config.sleep)
    values = [1 / (config.seed + 3), 0.1 + config.bits]
    table = pd.DataFrame({"quantity": ["loss", "bits"], "value": values, "bits": 1})
    return types.SimpleNamespace(tables={"summary": table})
"""


def make_checkout(folder: Path) -> Path:
    """A checkout with the real package, no notebook, and a toy experiment for gebt."""
    package = folder / "workbench"
    (package / "papers" / "gebt").mkdir(parents=True)
    for path in [
        *ROOT.glob("workbench/*.py"),
        *ROOT.glob("workbench/*.js"),
        ROOT / "workbench/papers/__init__.py",
    ]:
        shutil.copy(path, folder / path.relative_to(ROOT))
    (package / "papers" / "gebt" / "__init__.py").touch()
    (package / "papers" / "gebt" / "experiment.py").write_text(EXPERIMENT)
    (folder / "toy.py").write_text(TOY + f"KEYS = {evidence.KEYS}\n")
    (folder / "torch.py").write_text("Tensor = object\ndef set_num_threads(n):\n    global threads\n    threads = n\n")
    (folder / "notebooks").mkdir()
    return folder


def notebook(checkout: Path, name: str, *cells: str, parameters: str = "scale = 'quick'\nseed: int = None") -> None:
    """Write a notebook whose second cell imports toy and whose further cells are `cells`."""
    head = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    rest = [nbformat.v4.new_code_cell(source) for source in ("import toy, os, time", *cells)]
    nbformat.write(nbformat.v4.new_notebook(cells=[head, *rest]), checkout / "notebooks" / f"{name}.ipynb")


def start(checkout: Path, *arguments: object, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "workbench.cli", *map(str, arguments)],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Under a script's background job SIGINT arrives ignored, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        start_new_session=True,
    )


def command(checkout: Path, *arguments: object, code: int = 0, **environment: str) -> str:
    """Run `workbench` there, demand its exit code, return what it printed."""
    process = start(checkout, *arguments, **environment)
    out, err = process.communicate(timeout=90)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return out + err


def runs(checkout: Path) -> list[str]:
    """What the notebooks logged, in order."""
    log = checkout / "log.txt"
    return log.read_text().split("\n")[:-1] if log.exists() else []


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Is there such a process? A zombie that nobody has waited for does not count."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def old_figures(folder: Path, key: str, value: str = "old") -> None:
    """What a paper's notebook saved earlier."""
    (folder / key).mkdir(parents=True)
    (folder / key / "toy.csv").write_text(value)
    row = dict.fromkeys(evidence.KEYS) | {"id": f"{key}.toy", "paper": key, "value": value}
    evidence.merge_ledger(folder / "ledger.json", [row], key)


@pytest.fixture
def checkout(tmp_path):
    return make_checkout(tmp_path)


def test_figures_and_ledger_come_from_the_notebooks(checkout):
    notebook(checkout, "01_gebt", "toy.save('gebt', 1)", "toy.log(os.environ['OMP_NUM_THREADS'])")
    notebook(checkout, "03_cpt", "toy.save('cpt', 2)", "import sys; toy.log(sys.executable)")
    ledger = "(toy.ROOT / 'figures/quick/ledger.json').read_text()"
    notebook(checkout, "00_start_here", f"toy.log({ledger}.count('.toy'))")
    # A kernel installed under the name python3 may belong to another Python: it must not be asked.
    rogue = checkout / "jupyter" / "kernels" / "python3"
    rogue.mkdir(parents=True)
    (rogue / "kernel.json").write_text(
        json.dumps({"argv": ["/nowhere/python"], "display_name": "x", "language": "python"})
    )
    (checkout / "figures/quick/gebt").mkdir(parents=True)
    (checkout / "figures/quick/gebt/stale.csv").write_text("of a figure that no longer exists")

    out = command(checkout, "figures", "--jobs", 3, JUPYTER_PATH=str(checkout / "jupyter"))

    assert sorted(tree(checkout / "figures/quick")) == ["cpt/toy.csv", "gebt/toy.csv", "ledger.json"]
    rows = json.loads((checkout / "figures/quick/ledger.json").read_text())
    assert [(row["id"], row["value"]) for row in rows] == [("cpt.toy", 2), ("gebt.toy", 1)]
    assert sorted(runs(checkout)[:-1]) == sorted(["gebt", "cpt", "1", sys.executable])
    assert runs(checkout)[-1] == "2"  # start_here ran last and saw both rows
    assert len(re.findall(r"^(gebt|cpt|start_here): \d+\.\d s$", out, re.MULTILINE)) == 3
    assert list(tree(checkout / ".workbench")) == ["figures.lock"]


def test_a_failure_leaves_the_old_figures_and_the_other_notebooks(checkout):
    for key in ("gebt", "cpt"):
        old_figures(checkout / "figures/quick", key)
    old = tree(checkout / "figures")
    notebook(checkout, "01_gebt", "toy.save('gebt', 5)")
    notebook(checkout, "03_cpt", "toy.save('cpt', 5)", "x = 1\nif not (toy.ROOT / 'mended').exists():\n    x / 0\n")

    out = command(checkout, "figures", code=1)

    new = tree(checkout / "figures")
    assert new["quick/cpt/toy.csv"] == old["quick/cpt/toy.csv"]
    assert b"1,5" in new["quick/gebt/toy.csv"]
    assert [row["value"] for row in json.loads(new["quick/ledger.json"])] == ["old", 5]
    assert "03_cpt.ipynb, cell 4:" in out  # as the reader counts, without papermill's own cell
    assert "----> 3     x / 0" in out
    assert "ZeroDivisionError: division by zero" in out
    assert out.strip().endswith("1 of 2 notebooks failed: cpt")
    assert "\x1b" not in out

    (checkout / "mended").touch()
    assert "gebt: finished before" in command(checkout, "figures")
    assert runs(checkout).count("gebt") == 1  # not run again, its sources being the same
    assert b"1,5" in tree(checkout / "figures")["quick/cpt/toy.csv"]

    command(checkout, "figures")
    assert runs(checkout).count("gebt") == 2  # after a command that got through, all are remade


def test_each_way_to_fail_is_told_in_readable_words(checkout):
    notebook(checkout, "01_gebt", "toy.save('gebt', 1)", "raise SystemExit(0)", "after = 1")
    notebook(checkout, "02_spline", "toy.save('spline', 1)", "x = = 1")
    notebook(checkout, "03_cpt", "os.kill(os.getpid(), 9)")
    notebook(checkout, "04_fractrain", "print('nothing saved')")
    notebook(checkout, "05_smartdeal", "toy.save('smartdeal', 1, rows_of='cpt')")
    notebook(checkout, "06_shiftaddnet", "toy.save('shiftaddnet', 1)", "skipped = 1")
    path = checkout / "notebooks/06_shiftaddnet.ipynb"
    source = nbformat.read(path, as_version=4)
    source.cells[-1].metadata["tags"] = ["skip-execution"]
    nbformat.write(source, path)

    out = command(checkout, "figures", "--jobs", 2, code=1)

    assert "01_gebt.ipynb: a cell did not run to its end: 'raise SystemExit(0)'" in out
    assert re.search(r"02_spline.ipynb, cell 4:\n.*\n?.*x = = 1\n[ ^]+\n +SyntaxError: invalid syntax", out)
    assert "06_shiftaddnet.ipynb: a cell did not run to its end: 'skipped = 1'" in out
    assert "DeadKernelError: Kernel died" in out
    assert "fractrain: the notebook saved no figures" in out
    assert "rows of smartdeal" in out
    assert not tree(checkout / "figures")
    assert "6 of 6 notebooks failed" in out


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_kernel_and_can_go_on(checkout, stop):
    if stop == signal.SIGINT:
        notebook(checkout, "01_gebt", "toy.save('gebt', 1)")
    sleep = "    (toy.ROOT / 'pid').write_text(f'{os.getpid()} {os.getppid()}')\n    time.sleep(60)"
    notebook(checkout, "03_cpt", "toy.save('cpt', 1)", f"if not (toy.ROOT / 'pid').exists():\n{sleep}")
    (checkout / "figures/quick/cpt").mkdir(parents=True)
    (checkout / "figures/quick/cpt/toy.csv").write_text("old")
    process = start(checkout, "figures", "--jobs", 1)
    wait_for(lambda: (checkout / "pid").exists() and (checkout / "pid").read_text())
    kernel, worker = map(int, (checkout / "pid").read_text().split())
    assert "another `workbench figures` is at work" in command(checkout, "figures", code=1)

    process.send_signal(stop)
    _, err = process.communicate(timeout=9)  # a worker that does not end by itself is killed after 10 s

    wait_for(lambda: not alive(kernel) and not alive(worker), seconds=10)
    assert (checkout / "figures/quick/cpt/toy.csv").read_text() == "old"
    if stop != signal.SIGKILL:
        assert process.returncode == 130
        assert err.strip() == "interrupted; run the same command again to go on"
        assert not list((checkout / ".workbench").glob("staging-*"))
    if stop == signal.SIGINT:
        command(checkout, "figures")
        assert runs(checkout) == ["gebt", "cpt", "cpt"]
        assert "old" not in (checkout / "figures/quick/cpt/toy.csv").read_text()
        assert list(tree(checkout / ".workbench")) == ["figures.lock"]


def test_verify_goes_red_on_one_changed_digit_and_touches_nothing(checkout):
    notebook(checkout, "01_gebt", "toy.save('gebt', 0.125)")
    notebook(checkout, "03_cpt", "toy.save('cpt', 2)")
    command(checkout, "figures")
    assert "2 tables agree with the committed ones" in command(checkout, "figures", "--verify")
    table = checkout / "figures/quick/gebt/toy.csv"
    table.write_text(table.read_text().replace("0.125", "0.126"))
    before = tree(checkout / "figures")

    out = command(checkout, "figures", "--verify", code=1)

    assert "gebt/toy.csv: column 'value' differs" in out
    assert tree(checkout / "figures") == before
    assert runs(checkout).count("gebt") == 3  # the second --verify ran it anew


@pytest.fixture
def replaced(tmp_path):
    """A finished run in tmp_path/out, an older one in tmp_path/figures, and that folder's content."""
    old_figures(tmp_path / "figures", "gebt")
    old_figures(tmp_path / "out", "gebt", "new")
    return tmp_path / "out", tmp_path / "figures", tree(tmp_path / "figures")


@pytest.mark.parametrize("where", ["shutil.copytree", "workbench.evidence.merge_ledger", "pathlib.Path.rename"])
def test_a_full_disk_leaves_the_old_figures(replaced, monkeypatch, where):
    out, figures, before = replaced

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with pytest.raises(OSError, match="No space left"):
            runner._replace(out, figures, "gebt")
    assert tree(figures) == before

    runner._replace(out, figures, "gebt")
    assert (figures / "gebt/toy.csv").read_text() == "new"
    assert json.loads((figures / "ledger.json").read_text())[0]["value"] == "new"


def test_figures_survive_a_power_cut_between_the_two_renames(replaced):
    out, figures, before = replaced
    (figures / "gebt").rename(figures / ".gebt.old")
    shutil.rmtree(out / "gebt")
    with pytest.raises(WorkbenchError, match="saved no figures"):
        runner._replace(out, figures, "gebt")
    assert tree(figures) == before


def test_a_run_with_parameters_keeps_its_results_apart(checkout):
    cells = ["toy.save('gebt', seed)", "toy.log(repr(pair))", "import ipywidgets", "ipywidgets.IntSlider()"]
    notebook(checkout, "01_gebt", *cells, parameters="scale = 'quick'\nseed: int = None\nbits = 8\npair = (1, 2)")
    out = command(checkout, "run", "gebt", "-p", "seed=3")

    folder = checkout / ".workbench/runs/gebt-quick-seed=3"
    assert f"executed notebook: {folder / '01_gebt.ipynb'}" in out
    assert b"1,3" in tree(folder)["gebt/toy.csv"]
    executed = nbformat.read(folder / "01_gebt.ipynb", as_version=4)
    assert "widgets" not in executed.metadata
    assert runs(checkout) == ["gebt", "(1, 2)"]
    assert not (checkout / "figures").exists()

    for arguments, reason in [
        (["run", "gebt", "-p", "nope=1"], "has no parameter 'nope': choose among scale, seed, bits, pair"),
        (["run", "gebt", "-p", "pair=1"], "no parameter 'pair'; there are seed, bits, sleep"),
        (["run", "gebt", "-p", "seed=x"], "seed must be an integer >= 0, not 'x'"),
        (["run", "gebt", "-p", "seed=-1"], "seed must be an integer >= 0, not -1"),
        (["run", "gebt", "--scale", "huge"], "unknown scale 'huge': choose one of quick, full, paper"),
        (["run", "gebt", "--out", "figures/x"], "--out must not lie in figures/"),
        (["run", "cpt"], "cpt is not built yet"),
        (["figures", "gebt", "cpt"], "cpt is not built yet"),
        (["figures", "gebt", "nope"], "unknown paper 'nope'"),
        (["figures", "--scale", "huge"], "unknown scale 'huge'"),
        (["export", "start"], "shiftaddnet, agd, a2d, dna, adadeep, start_here"),
    ]:
        assert reason in command(checkout, *arguments, code=1)
    assert len(runs(checkout)) == 2  # nothing was started


def test_an_exported_page_needs_neither_net_nor_files(checkout):
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    (checkout / "figures/full/gebt").mkdir(parents=True)
    (checkout / "figures/full/gebt/key.svg").write_bytes(svg)
    show = "from IPython.display import HTML, display\ndisplay(HTML('host=' + os.environ['WORKBENCH_HOST']))"
    notebook(checkout, "01_gebt", show)
    notebook(checkout, "02_spline", show + "\ndisplay(HTML('<script src=\"https://x.org/x.js\"></script>'))")
    path = checkout / "notebooks/01_gebt.ipynb"
    source = nbformat.read(path, as_version=4)
    text = """# Early birds
![key](../figures/full/gebt/key.svg) <img alt="again" src="../figures/full/gebt/key.svg">
[next](02_spline.ipynb) and [the paper](https://arxiv.org/abs/2103.00794)"""
    source.cells.insert(0, nbformat.v4.new_markdown_cell(text))
    nbformat.write(source, path)

    out = command(checkout, "export", "--out", "pages", code=1)

    assert sorted(path.name for path in (checkout / "pages").iterdir()) == ["01_gebt.html"]
    assert "its page would need the net: <script src=" in out
    page = (checkout / "pages/01_gebt.html").read_text()
    assert "<title>Early birds</title>" in page
    assert "host=page" in page
    assert page.count(f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}") == 2
    assert 'href="02_spline.html"' in page
    assert set(re.findall(r"""(?:src|href)=["'](?!data:|#)([^"']*)""", page)) == {
        "02_spline.html",
        "https://arxiv.org/abs/2103.00794",
    }
    assert not list((checkout / ".workbench").glob("staging-*"))


def test_a_tuple_reaches_the_notebook_as_a_list_and_a_text_as_text(tmp_path):
    check = "assert p_g == [0.3, 0.5], p_g\nassert levels == ['0.3', '0.5 rows'], levels\nassert name == '(1, 2)', name"
    parameters = new_code_cell("p_g = levels = name = None", metadata={"tags": ["parameters"]})
    path = tmp_path / "given.ipynb"
    nbformat.write(new_notebook(cells=[parameters, new_code_cell(check)]), path)
    given = {"p_g": (0.3, 0.5), "levels": ("0.3", "0.5 rows"), "name": "(1, 2)"}
    finished = []
    runner.execute([runner.Job("given", path, tmp_path / "out", given)], 1, finished.append)
    assert [job.key for job in finished] == ["given"]


def test_the_first_notebook_takes_its_parameters(tmp_path, capsys):
    runner.run(runner.START, "quick", {"seed": 3, "kind": "analytic"}, tmp_path)
    executed = nbformat.read(tmp_path / "00_start_here.ipynb", as_version=4)
    given = next(cell.source for cell in executed.cells if "injected-parameters" in cell.metadata.get("tags", []))
    assert "seed = 3" in given
    with pytest.raises(WorkbenchError, match="kind must be among analytic, measured, recorded; got 'guessed'"):
        runner.run(runner.START, "quick", {"kind": "guessed"}, tmp_path)
