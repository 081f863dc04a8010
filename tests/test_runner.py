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


def old_figures(folder: Path, key: str, value: float = 7) -> None:
    """What a paper's notebook saved earlier."""
    (folder / key).mkdir(parents=True)
    (folder / key / "toy.csv").write_text(str(value))
    row = dict.fromkeys(evidence.KEYS) | {"id": f"{key}.toy", "paper": key, "value": value}
    evidence.merge_ledger(folder / "ledger.json", [row], key)


@pytest.fixture
def checkout(tmp_path):
    return make_checkout(tmp_path)


def test_figures_and_ledger_come_from_the_notebooks(checkout):
    notebook(checkout, "01_gebt", "toy.save('gebt', 1)", "toy.log(os.environ['OMP_NUM_THREADS'])")
    notebook(checkout, "03_cpt", "toy.save('cpt', 2)", "import sys; toy.log(sys.executable)")
    notebook(checkout, "00_start_here", "toy.log('start')")
    # A kernel installed under the name python3 may belong to another Python: it must not be asked.
    rogue = checkout / "jupyter" / "kernels" / "python3"
    rogue.mkdir(parents=True)
    (rogue / "kernel.json").write_text(
        json.dumps({"argv": ["/nowhere/python"], "display_name": "x", "language": "python"})
    )
    made = checkout / "figures/made/quick"
    (made / "gebt").mkdir(parents=True)
    (made / "gebt/stale.csv").write_text("of a figure that no longer exists")
    (made / "ledger.json").write_text("damaged")
    old_figures(checkout / "figures/quick", "gebt")
    kept = tree(checkout / "figures/quick")

    out = command(checkout, "figures", "--jobs", 3, JUPYTER_PATH=str(checkout / "jupyter"))

    assert tree(checkout / "figures/quick") == kept
    assert sorted(tree(made)) == ["cpt/toy.csv", "gebt/toy.csv", "ledger.json"]
    rows = json.loads((made / "ledger.json").read_text())
    assert [(row["id"], row["value"]) for row in rows] == [("cpt.toy", 2), ("gebt.toy", 1)]
    assert sorted(runs(checkout)) == sorted(["gebt", "cpt", "1", "start", sys.executable])
    assert len(re.findall(r"^(gebt|cpt|start_here): \d+\.\d s$", out, re.MULTILINE)) == 3
    assert len(re.findall(r"^\S*gebt/toy.csv cannot be read|^ledger gebt.toy: value was 7, is 1", out, re.M)) == 2
    assert len(re.findall(r"^(?:cpt/toy.csv|ledger cpt.toy): only in the fresh", out, re.M)) == 2
    assert "4 tables differ from the committed ones: --verify says how, --accept keeps the new ones" in out
    assert out.endswith(f"figures: {made}/<paper>/*.png\nledger: {made / 'ledger.json'}\n")
    assert not list((checkout / ".workbench").glob("staging-*"))


def test_what_was_made_becomes_what_is_kept_when_it_is_accepted_and_only_then(checkout):
    notebook(checkout, "01_gebt", "toy.save('gebt', 1)")
    notebook(checkout, "03_cpt", "toy.save('cpt', 2)")
    kept = checkout / "figures/quick"
    for key in ("gebt", "cpt"):
        old_figures(kept, key)
    old = tree(kept)
    command(checkout, "figures")
    command(checkout, "figures", "--verify", code=1)
    command(checkout, "figures", "--verify", "--accept", code=1)
    assert tree(kept) == old

    assert "replaced in" in command(checkout, "figures", "gebt", "--accept")
    made = tree(checkout / "figures/made/quick")
    assert tree(kept)["gebt/toy.csv"] == made["gebt/toy.csv"]
    assert tree(kept)["cpt/toy.csv"] == old["cpt/toy.csv"]
    assert [row["value"] for row in json.loads(tree(kept)["ledger.json"])] == [7, 1]
    command(checkout, "figures", "--accept")
    assert tree(kept) == made
    assert "2 tables agree" in command(checkout, "figures", "--verify")
    assert sorted(runs(checkout)) == ["cpt", "gebt"]  # in six commands


def test_a_failure_leaves_the_old_figures_and_the_other_notebooks(checkout):
    for key in ("gebt", "cpt"):
        old_figures(checkout / "figures/made/quick", key)
    old = tree(checkout / "figures")
    notebook(checkout, "01_gebt", "toy.save('gebt', 5)")
    notebook(checkout, "03_cpt", "toy.save('cpt', 5)", "x = 1\nif not (toy.ROOT / 'mended').exists():\n    x / 0\n")

    out = command(checkout, "figures", code=1)

    new = tree(checkout / "figures")
    assert new["made/quick/cpt/toy.csv"] == old["made/quick/cpt/toy.csv"]
    assert b"1,5" in new["made/quick/gebt/toy.csv"]
    assert [row["value"] for row in json.loads(new["made/quick/ledger.json"])] == [7, 5]
    assert "03_cpt.ipynb, cell 4:" in out  # as the reader counts, without papermill's own cell
    assert "----> 3     x / 0" in out
    assert "ZeroDivisionError: division by zero" in out
    assert out.strip().endswith("1 of 2 notebooks failed: cpt")
    assert "\x1b" not in out

    (checkout / "mended").touch()
    assert "gebt: made before, from the same sources" in command(checkout, "figures")
    assert runs(checkout).count("gebt") == 1
    assert b"1,5" in tree(checkout / "figures")["made/quick/cpt/toy.csv"]


def spoilt_table(checkout):
    (checkout / "figures/made/quick/gebt/toy.csv").write_text("spoilt")


def spoilt_row(checkout):
    ledger = checkout / "figures/made/quick/ledger.json"
    ledger.write_text(ledger.read_text().replace('"value": 5', '"value": 6'))


def other_package(checkout):
    folder = checkout / "toy-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")


CHANGES = {
    "all deleted": lambda checkout: shutil.rmtree(checkout / "figures/made"),
    "a table edited": spoilt_table,
    "a row edited": spoilt_row,
    "the ledger damaged": lambda checkout: (checkout / "figures/made/quick/ledger.json").write_text("["),
    "a file more": lambda checkout: (checkout / "figures/made/quick/gebt/more.csv").touch(),
    "a package more": other_package,
    "the code changed": lambda checkout: (checkout / "workbench/papers/gebt/method.py").write_text("better = 1"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_made_before_is_made_again_where_anything_changed(checkout, change):
    notebook(checkout, "01_gebt", "toy.save('gebt', 5)")
    command(checkout, "figures")
    made = tree(checkout / "figures/made")
    assert "made before" in command(checkout, "figures")
    CHANGES[change](checkout)
    assert "made before" not in command(checkout, "figures")
    assert tree(checkout / "figures/made") == made
    assert runs(checkout) == ["gebt", "gebt"]


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
    (checkout / "figures/made/quick/cpt").mkdir(parents=True)
    (checkout / "figures/made/quick/cpt/toy.csv").write_text("old")
    process = start(checkout, "figures", "--jobs", 1)
    wait_for(lambda: (checkout / "pid").exists() and (checkout / "pid").read_text())
    kernel, worker = map(int, (checkout / "pid").read_text().split())

    process.send_signal(stop)
    _, err = process.communicate(timeout=9)  # a worker that does not end by itself is killed after 10 s

    wait_for(lambda: not alive(kernel) and not alive(worker), seconds=10)
    assert (checkout / "figures/made/quick/cpt/toy.csv").read_text() == "old"
    if stop != signal.SIGKILL:
        assert process.returncode == 130
        assert err.strip() == "interrupted; run the same command again to go on"
        assert not list((checkout / ".workbench").glob("staging-*"))
    if stop == signal.SIGINT:
        command(checkout, "figures")
        assert runs(checkout) == ["gebt", "cpt", "cpt"]
        assert "old" not in (checkout / "figures/made/quick/cpt/toy.csv").read_text()
    command(checkout, "figures")
    assert not list((checkout / ".workbench").glob("staging-*"))  # not even after SIGKILL


def test_verify_goes_red_on_one_changed_digit_and_touches_nothing(checkout):
    notebook(checkout, "01_gebt", "toy.save('gebt', 0.125)")
    notebook(checkout, "03_cpt", "toy.save('cpt', 2)")
    command(checkout, "figures", "--accept")
    assert "2 tables agree with the committed ones" in command(checkout, "figures", "--verify")
    table = checkout / "figures/quick/gebt/toy.csv"
    table.write_text(table.read_text().replace("0.125", "0.126"))
    before = tree(checkout / "figures")

    out = command(checkout, "figures", "--verify", code=1)

    assert "gebt/toy.csv: column 'value' differs" in out
    assert tree(checkout / "figures") == before


def test_a_damaged_committed_ledger_is_told_before_anything_runs(checkout):
    notebook(checkout, "01_gebt", "toy.save('gebt', 1)")
    ledger = checkout / "figures/quick/ledger.json"
    ledger.mkdir(parents=True)
    for _ in range(2):
        for option in ([], ["--verify"], ["--accept"]):
            out = command(checkout, "figures", *option, code=1)
            assert "figures/quick/ledger.json cannot be read" in out
            assert out.count("\n") == 1
        if ledger.is_dir():
            ledger.rmdir()
            ledger.write_text("[{")
    assert not runs(checkout)


def test_a_second_command_waits_for_the_first_and_takes_what_that_made(checkout):
    wait = "while not (toy.ROOT / 'go').exists():\n    time.sleep(0.05)"
    notebook(checkout, "01_gebt", "toy.save('gebt', 1)", wait)
    first = start(checkout, "figures")
    wait_for(lambda: runs(checkout))
    second = start(checkout, "figures")
    assert "at work in this checkout: waiting for its end" in second.stdout.readline()
    (checkout / "go").touch()
    assert first.wait(60) == 0
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert "gebt: made before" in out
    assert runs(checkout) == ["gebt"]


def test_what_killed_processes_left_is_removed_and_what_living_ones_use_is_not(checkout):
    wait = "while not (toy.ROOT / 'go').exists():\n    time.sleep(0.05)"
    notebook(checkout, "01_gebt", "toy.save('gebt', 1)", wait)
    notebook(checkout, "03_cpt", "toy.save('cpt', 1)")
    (checkout / ".workbench/staging-dead").mkdir(parents=True)
    (checkout / ".workbench/staging-dead/lock").touch()
    (checkout / ".workbench/staging-older").mkdir()
    (checkout / "figures/quick").mkdir(parents=True)
    strays = [checkout / "figures" / scale / f".ledger.json.{'0a' * 16}" for scale in ("quick", "made/quick")]
    for stray in strays:
        stray.parent.mkdir(parents=True, exist_ok=True)
        stray.touch()
    living = start(checkout, "run", "gebt")
    wait_for(lambda: runs(checkout))
    command(checkout, "figures", "cpt")
    assert len(list((checkout / ".workbench").glob("staging-*"))) == 1
    assert not any(stray.exists() for stray in strays)
    (checkout / "go").touch()
    assert living.wait(60) == 0
    assert not list((checkout / ".workbench").glob("staging-*"))


@pytest.fixture
def replaced(tmp_path):
    """A finished run in tmp_path/out, an older one in tmp_path/figures, and that folder's content."""
    old_figures(tmp_path / "figures", "gebt")
    old_figures(tmp_path / "out", "gebt", 8)
    return tmp_path / "out", tmp_path / "figures", tree(tmp_path / "figures")


def replace(out, figures):
    runner._replace(out / "gebt", evidence.read_rows(out / "ledger.json"), figures, "gebt")


@pytest.mark.parametrize("where", ["shutil.copytree", "workbench.evidence.merge_ledger", "pathlib.Path.rename"])
def test_a_full_disk_leaves_the_old_figures(replaced, monkeypatch, where):
    out, figures, before = replaced

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with pytest.raises(OSError, match="No space left"):
            replace(out, figures)
    assert tree(figures) == before

    replace(out, figures)
    assert (figures / "gebt/toy.csv").read_text() == "8"
    assert json.loads((figures / "ledger.json").read_text())[0]["value"] == 8


def test_figures_survive_a_power_cut_between_the_two_renames(replaced):
    out, figures, before = replaced
    (figures / "gebt").rename(figures / ".gebt.old")
    shutil.rmtree(out / "gebt")
    with pytest.raises(WorkbenchError, match="saved no figures"):
        replace(out, figures)
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
        (["run", "gebt", "--out", "figures/x"], "lies in figures/, among the checkout's own files"),
        (["run", "cpt"], "cpt is not built yet"),
        (["figures", "gebt", "cpt"], "cpt is not built yet"),
        (["figures", "gebt", "nope"], "unknown paper 'nope'"),
        (["figures", "--scale", "huge"], "unknown scale 'huge'"),
        (["export", "start"], "shiftaddnet, agd, a2d, dna, adadeep, start_here"),
    ]:
        assert reason in command(checkout, *arguments, code=1)
    assert len(runs(checkout)) == 2  # nothing was started


def test_only_what_we_wrote_and_nobody_changed_is_replaced(checkout):
    notebook(checkout, "01_gebt", "toy.save('gebt', 1)")
    commands = {
        "out/01_gebt.ipynb": ["run", "gebt", "--out", "out"],
        "out/ledger.json": ["run", "gebt", "--out", "out"],
        "out/gebt/toy.csv": ["run", "gebt", "--out", "out"],
        "pages/01_gebt.html": ["export", "gebt", "--out", "pages"],
        "table.csv": ["sweep", "gebt", "-p", "bits=2", "--out", "table.csv"],
    }
    for arguments in commands.values():
        command(checkout, *arguments)
    for name, arguments in commands.items():
        path = checkout / name
        command(checkout, *arguments)
        ours = path.read_bytes()
        path.write_bytes(ours + b" ")
        done = len(runs(checkout))
        out = command(checkout, *arguments, code=1)
        assert f"{path} was not written by this command, or was changed since" in out
        assert out.count("\n") == 1
        assert path.read_bytes() == ours + b" "
        assert len(runs(checkout)) == done  # refused before any work
        path.unlink()
        command(checkout, *arguments)
        assert path.exists()


@pytest.mark.parametrize(
    "name", ["notebooks", "data", "figures", "workbench/papers", "tests", ".git", "file", "file/x"]
)
@pytest.mark.parametrize("arguments", [["run"], ["export"], ["sweep", "-p", "bits=2"]], ids=lambda each: each[0])
def test_no_output_goes_among_the_checkouts_own_files_or_in_place_of_one(checkout, arguments, name):
    notebook(checkout, "01_gebt", "toy.save('gebt', 1)")
    (checkout / "file").write_text("mine")
    (checkout / "link").symlink_to(checkout / name)
    before = tree(checkout)
    verb, *options = arguments
    for out in (name, f"{name}/new", "link"):
        said = command(checkout, verb, "gebt", *options, "--out", out, code=1)
        assert said.count("\n") == 1, said
    after = tree(checkout)
    assert {path: after[path] for path in before} == before
    assert {path for path in after.keys() - before.keys() if "__pycache__" not in path} <= {".workbench/staging.lock"}


DAMAGED = {
    "empty": b"",
    "no JSON": b"{",
    "no cells": b"{}",
    "a list": b"[]",
    "no notebook": b'{"cells": [1]}',
    "no text": b"\xff\xfe",
    "a syntax error": b'{"cells": [{"metadata": {"tags": ["parameters"]}, "source": "x = ("}]}',
}


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_notebook_is_one_line(checkout, content):
    (checkout / "notebooks/01_gebt.ipynb").write_bytes(DAMAGED[content])
    for verb in ("run", "export", "figures"):
        out = command(checkout, verb, "gebt", code=1)
        assert "01_gebt.ipynb cannot be read" in out
        assert out.count("\n") == 1


@pytest.mark.parametrize("scratch", ["a file", "a dangling link"])
def test_where_there_is_no_place_for_scratch_is_one_line(checkout, scratch):
    notebook(checkout, "01_gebt", "toy.save('gebt', 1)")
    path = checkout / ".workbench"
    path.touch() if scratch == "a file" else path.symlink_to(checkout / "nowhere")
    for arguments in (["run", "gebt"], ["export", "gebt"], ["figures"]):
        out = command(checkout, *arguments, code=1)
        assert out == f"{path}: File exists: check its permissions and the room on its disk\n"


@pytest.fixture
def as_a_student(monkeypatch, tmp_path):
    """A checkout whose owner alone may write it, with the commands run by somebody else."""
    if os.geteuid() == 0:  # the superuser without the right to pass over permissions
        without = ["setpriv", "--bounding-set=-dac_override"]
        if not shutil.which("setpriv") or subprocess.run([*without, "true"]).returncode:
            pytest.skip("the superuser may write everywhere, and there is no setpriv to forbid it")
        popen = subprocess.Popen
        monkeypatch.setattr(subprocess, "Popen", lambda command, **rest: popen([*without, *command], **rest))
    folder = make_checkout(tmp_path / "checkout")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    save = "import pandas as pd\nfrom workbench import evidence, figures\nfrom matplotlib.figure import Figure"
    result = "evidence.Result({}, [], {'paper': 'gebt'}, '')"
    save += f"\nfigures.save(Figure((1, 1)), pd.DataFrame({{'a': [1]}}), 'x', {result})"
    notebook(folder, "01_gebt", save, "evidence.save_rows([])")
    (folder / "log.txt").touch()  # the experiment's, and the only thing that may change
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    yield folder
    for path in folders:
        path.chmod(0o755)


def test_a_checkout_that_cannot_be_written_serves_all_the_same(as_a_student, tmp_path):
    checkout = as_a_student
    before = tree(checkout)
    out = command(checkout, "run", "gebt")
    (made,) = (tmp_path / "cache").rglob("runs/*/gebt/x.csv")
    assert str(made.parent) in out
    command(checkout, "run", "gebt", "--out", tmp_path / "mine")
    assert (tmp_path / "mine/gebt/x.png").exists()
    command(checkout, "export", "gebt", "--out", tmp_path / "pages")
    assert (tmp_path / "pages/01_gebt.html").exists()
    out = command(checkout, "figures")
    (ledger,) = (tmp_path / "cache").rglob("made/quick/gebt/x.csv")
    assert str(ledger.parents[1]) in out
    assert "made before" in command(checkout, "figures")
    assert "cannot be written by you" in command(checkout, "figures", "--accept", code=1)
    command(checkout, "sweep", "gebt", "-p", "bits=2", "--out", tmp_path / "table.csv")
    assert (tmp_path / "table.csv").exists()
    refused = command(checkout, "export", "gebt", code=1)
    assert "cannot write" in refused
    assert refused.count("\n") == 1
    assert tree(checkout) | {"log.txt": b""} == before


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
