"""Runs notebooks with no screen: one at will, all for their figures, or as offline pages.

A notebook is run by a process of its own (`python -m workbench.runner`). What it saves goes to a staging
folder, and only a notebook that ran to its end replaces what an earlier one had saved.
"""

import ast
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from workbench import ROOT, SCRATCH, WRITABLE, WorkbenchError, check_output, papers, write_output

SCALES = ("quick", "full", "paper")
START = "start_here"
"""The key of notebooks/00_start_here.ipynb, which shows the ledger of all the papers and saves no figure."""

CODE_STYLES = ("default", "monokai")
"""Pygments' styles of a page's code in the light and in the dark: in both all words have a contrast of 4.5."""

KEPT = ROOT / "figures"
"""Figures and ledger by scale, as they are committed: only `workbench figures --accept` writes them."""
MADE = KEPT / "made" if WRITABLE else SCRATCH / "made"
"""Figures and ledger by scale, as `workbench figures` makes them here; git ignores them."""

# A pipe or a CI log has no width to ask for, and rich's 80 columns would cut the tables.
console = Console(width=None if sys.stdout and sys.stdout.isatty() else 160, markup=False, highlight=False)
say = partial(console.print, soft_wrap=True)


@dataclass(frozen=True)
class Job:
    """One notebook to run: `parameters` go into its `parameters` cell, all that it saves into `out`."""

    key: str
    notebook: Path
    out: Path
    parameters: dict[str, Any]
    host: str = ""

    @property
    def executed(self) -> Path:
        """The notebook with its outputs."""
        return self.out / self.notebook.name


def _notebook(key: str) -> Path:
    if key == START:
        return ROOT / "notebooks" / "00_start_here.ipynb"
    try:
        return papers.paper(key).notebook
    except WorkbenchError as error:
        raise WorkbenchError(f"{error}, {START}") from None


def _job(key: str, scale: str, out: Path, parameters: dict[str, Any] | None = None, host: str = "") -> Job:
    notebook, parameters = _notebook(key), parameters or {}
    if scale not in SCALES:
        raise WorkbenchError(f"unknown scale {scale!r}: choose one of {', '.join(SCALES)}")
    if not notebook.exists():
        raise WorkbenchError(f"{key} is not built yet: there is no notebooks/{notebook.name}")
    names = parameter_names(notebook)
    if unknown := [name for name in parameters if name not in names]:
        raise WorkbenchError(f"{notebook.name} has no parameter {unknown[0]!r}: choose among {', '.join(names)}")
    if key != START and scale == "paper" and scale not in (scales := papers.experiment(key).Config.SCALES):
        raise WorkbenchError(f"{key} has no scale {scale!r}: choose one of {', '.join(scales)}")
    if "scale" in names:  # start_here need not have it
        parameters = {"scale": scale, **parameters}
    return Job(key, notebook, out, parameters, host)


def parameter_names(notebook: Path) -> list[str]:
    """Return the names that the notebook's cell tagged `parameters` assigns; WorkbenchError where it is damaged."""
    try:
        cells = json.loads(notebook.read_text("utf-8"))["cells"]  # nbformat would take a second to import
        source = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
        nodes = ast.walk(ast.parse("\n".join(source)))
    except (ValueError, TypeError, LookupError, AttributeError, SyntaxError) as error:
        raise WorkbenchError(f"{notebook} cannot be read ({error}): mend it, or restore it with git") from None
    return [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def execute(jobs: Sequence[Job], parallel: int, finished: Callable[[Job], None]) -> None:
    """Run notebooks, `parallel` at a time, and call `finished(job)` for each that ran to its end.

    One that fails, or whose `finished` does, stops no other; at the end WorkbenchError names them.
    """
    waiting, running, failed = list(jobs), {}, []
    try:
        with console.status("") as status:
            while waiting or running:
                while waiting and len(running) < parallel:
                    job = waiting.pop(0)
                    running[job.key] = job, _start(job), time.perf_counter()
                status.update(f"running {', '.join(running)}; {len(waiting)} waiting")
                time.sleep(0.05)
                for job, process, began in list(running.values()):
                    if process.poll() is None:
                        continue
                    seconds = time.perf_counter() - began
                    del running[job.key]
                    try:
                        if process.returncode:
                            raise WorkbenchError(_last_words(job, process.returncode))
                        finished(job)
                        say(f"{job.key}: {seconds:.1f} s")
                    except (OSError, WorkbenchError) as error:
                        failed.append(job.key)
                        say(f"{job.key}: FAILED after {seconds:.1f} s\n{textwrap.indent(str(error), '    ')}")
    finally:
        for _, process, _ in running.values():
            process.stdin.close()  # at which the worker ends its kernel and itself
        for _, process, _ in running.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()  # a kernel ends within a second of its parent
    if failed:
        raise WorkbenchError(f"{len(failed)} of {len(jobs)} notebooks failed: {', '.join(failed)}")


def _start(job: Job) -> subprocess.Popen:
    job.out.mkdir(parents=True, exist_ok=True)
    own = {"WORKBENCH_OUT": str(job.out), "WORKBENCH_HOST": job.host, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    own["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # else every kernel logs a warning of its debugger
    with open(job.out / "log.txt", "wb") as log:
        return subprocess.Popen(
            # JSON makes lists of tuples, which papermill would hand to the notebook as text.
            [sys.executable, "-m", "workbench.runner", job.notebook, job.executed, json.dumps(job.parameters)],
            cwd=job.notebook.parent,
            env=os.environ | own,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process alone, which then ends its workers
        )


def _last_words(job: Job, code: int) -> str:
    """Why the job failed; its notebook, with the outputs so far, outlives the staging folder."""
    lines = (job.out / "log.txt").read_text("utf-8", errors="replace").strip().splitlines()[-12:]
    if job.executed.exists():
        (SCRATCH / "failed").mkdir(parents=True, exist_ok=True)
        lines.append(f"see {shutil.copy(job.executed, SCRATCH / 'failed')}")
    return "\n".join(lines) or f"the process ended with code {code}"


# --- the worker: one notebook, in a process of its own -----------------------------------------------------


def _worker(notebook: str, executed: str, parameters: str) -> None:
    """Run a notebook; when it fails print an excerpt and exit 1."""
    # SystemExit unwinds through papermill, which ends the kernel on its way.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.modules["rfc3987_syntax"] = None  # optional to jsonschema, and a second to import
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        _run_notebook(Path(notebook), executed, json.loads(parameters))
    except Exception as error:  # whatever a notebook may raise
        sys.exit(_excerpt(error, Path(notebook)))


def _end_with_parent() -> None:
    os.read(0, 1)  # blocks until the parent closes the pipe, or is no more
    os.kill(os.getpid(), signal.SIGTERM)


def _run_notebook(notebook: Path, executed: str, parameters: dict[str, Any]) -> None:
    import nbformat
    import papermill
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager

    class ThisPython(AsyncKernelManager):
        """Starts this interpreter's kernel, whatever else is installed under the name python3."""

        def _kernel_spec_manager_default(self) -> KernelSpecManager:
            return KernelSpecManager(kernel_dirs=[])

    done = papermill.execute_notebook(
        notebook,
        executed,
        parameters,
        kernel_name="python3",
        language="python",
        progress_bar=False,
        kernel_manager_class=ThisPython,
        shutdown_kernel="immediate",
        extra_arguments=["--log-level=ERROR"],
    )
    done.metadata.pop("widgets", None)  # GitHub shows no notebook that has them
    nbformat.write(done, executed)
    for cell in done.cells:
        errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
        if cell.cell_type == "code" and cell.source.strip() and (cell.execution_count is None or errors):
            raise WorkbenchError(f"{notebook.name}: a cell did not run to its end: {cell.source[:200]!r}")


def _excerpt(error: Exception, notebook: Path) -> str:
    """Where and why a notebook failed: the cell, the lines that raised in it and at the bottom, the error."""
    from papermill.exceptions import PapermillExecutionError

    if not isinstance(error, PapermillExecutionError):
        return str(error) if isinstance(error, WorkbenchError) else f"{type(error).__name__}: {error}"
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    tagged = ["parameters" in cell["metadata"].get("tags", []) for cell in cells]
    # After the tagged cell comes papermill's own, which is not in the reader's notebook.
    number = error.cell_index + 1 - any(tagged[: error.cell_index])
    trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)).splitlines()
    arrows = [line for line in trace if re.match(r"-+> ?\d", line)]
    lines = dict.fromkeys([arrows[0], arrows[-1]]) if arrows else trace[-4:-1]  # a SyntaxError has no arrow
    message = f"{error.ename}: {error.evalue}".splitlines()[:5]
    return "\n".join([f"{notebook.name}, cell {number}:", *lines, *message])


# --- run, figures, export ----------------------------------------------------------------------------------


def run(key: str, scale: str, parameters: dict[str, Any], out: Path | None = None) -> None:
    """Run one paper's notebook with `parameters`; what it saves goes to `out`, figures/ is never touched."""
    name = "-".join([key, scale, *(f"{name}={value}" for name, value in parameters.items())])
    out = (out or SCRATCH / "runs" / re.sub(r"[^\w.=+-]", "_", name)[:120]).resolve()
    job = _job(key, scale, Path(), parameters)
    if parameters:
        config = papers.Simulation if key == START else papers.experiment(key).Config
        config.at("quick" if key == START else scale, **parameters)
    earlier = [path for path in (out / key).rglob("*") if path.is_file()]
    for path in [out / job.notebook.name, out / "ledger.json", *earlier]:
        check_output(path)

    def finished(job: Job) -> None:
        (job.out / "log.txt").unlink()
        for path in sorted(job.out.rglob("*")):
            if path.is_file():
                write_output(out / path.relative_to(job.out), path.read_bytes())

    with _staging() as staging:
        execute([replace(job, out=staging / key)], 1, finished)
    say(f"executed notebook: {out / job.notebook.name}\nfigures: {out / key}")


def _chosen(keys: Sequence[str]) -> list[str]:
    """The keys in the papers' order, start_here last; all that are built if none is named."""
    for key in keys:
        _notebook(key)  # refuses an unknown one
    known = [*(paper.key for paper in papers.PAPERS), START]
    chosen = [key for key in known if key in keys or (not keys and _notebook(key).exists())]
    if not chosen:
        raise WorkbenchError("no notebook is built yet")
    return chosen


@contextmanager
def _staging() -> Iterator[Path]:
    """A scratch folder of this process; it removes those that processes left which were killed."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with FileLock(SCRATCH / "staging.lock"):
        for left in SCRATCH.glob("staging-*"):
            with suppress(Timeout):  # its process lives: a lock goes with its process
                FileLock(left / "lock", timeout=0).acquire().lock.release()
                shutil.rmtree(left, ignore_errors=True)
        folder = TemporaryDirectory(prefix="staging-", dir=SCRATCH, ignore_cleanup_errors=True)
        held = FileLock(Path(folder.name, "lock")).acquire()
    with folder, held:
        yield Path(folder.name)


@contextmanager
def _alone() -> Iterator[None]:
    """Two `figures` at once would overwrite each other's ledger, so the second one waits."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    lock = FileLock(SCRATCH / "figures.lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        say("another `workbench figures` is at work in this checkout: waiting for its end")
        held = lock.acquire()
    with held:
        yield


def source_hash(key: str) -> str:
    """Hash of what a notebook's result depends on here: its code, the code all share, data/; start_here's: ledgers."""
    package = ROOT / "workbench"
    files = [*package.glob("*.py"), *package.glob("*.js"), package / "papers" / "__init__.py"]
    files += [*(package / "papers" / key).rglob("*.py"), *(ROOT / "data").rglob("*")]
    files += KEPT.glob("*/ledger.json") if key == START else []
    return digest([(p.relative_to(ROOT).as_posix(), p.read_bytes()) for p in sorted(files) if p.is_file()])


def digest(*parts: Any) -> str:
    """Short hash of any values with a faithful repr."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def figures(keys: Sequence[str], scale: str, parallel: int, verify: bool = False, accept: bool = False) -> None:
    """Run notebooks, put what they save into figures/made/<scale>, and compare with what figures/<scale> keeps.

    No `keys` means every built notebook. Tables that differ are named; with `verify` every difference is, and
    WorkbenchError is raised; with `accept` what was made replaces what was kept. A notebook leaves a note when
    it is finished: while its sources, the installed packages and what it saved stay the same, it does not run
    again. Raises WorkbenchError where a notebook fails.
    """
    from workbench.evidence import read_rows
    from workbench.figures import compare

    jobs = [_job(key, scale, Path(key)) for key in _chosen(keys)]
    saving = [job.key for job in jobs if job.key != START]
    kept, made, notes = KEPT / scale, MADE / scale, SCRATCH / "finished" / scale
    installed = sorted(f"{package.name} {package.version}" for package in distributions())
    sources = {job.key: digest(source_hash(job.key), job.notebook.read_bytes(), sys.version, installed) for job in jobs}
    if accept and not os.access(KEPT if KEPT.exists() else ROOT, os.W_OK):
        raise WorkbenchError(f"{KEPT} cannot be written by you, so --accept cannot replace anything there")

    def finished(job: Job) -> None:
        (notes / job.key).unlink(missing_ok=True)
        if job.key in saving:
            _replace(job.out / job.key, read_rows(job.out / "ledger.json"), made, job.key)
        notes.mkdir(parents=True, exist_ok=True)
        (notes / job.key).write_text(_vouch(sources[job.key], made, job.key))

    with _alone(), _staging() as staging:
        for folder in (kept, made):
            for stray in folder.glob(".*." + "[0-9a-f]" * 32):  # of a `write_atomic` that was killed
                stray.unlink()
        read_rows(kept / "ledger.json")  # damaged: better said now than after the work
        try:
            read_rows(made / "ledger.json")
        except WorkbenchError:
            (made / "ledger.json").unlink()  # made again by what follows, as no note vouches for it
        waiting = []
        for job in jobs:
            note = notes / job.key
            if note.exists() and note.read_text() == _vouch(sources[job.key], made, job.key):
                say(f"{job.key}: made before, from the same sources")
            else:
                waiting.append(replace(job, out=staging / job.key))
        execute(waiting, parallel, finished)
        differences = compare(kept, made, saving)
        for lines in differences.values():
            more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
            say("\n".join(lines) if verify else lines[0] + more)
        if accept:
            rows = read_rows(made / "ledger.json")
            for key in saving:
                _replace(made / key, [row for row in rows if row["paper"] == key], kept, key)
    if accept:
        say(f"replaced in {kept}: {', '.join(saving)}")
    elif differences and verify:
        raise WorkbenchError(f"{len(differences)} tables differ from the committed ones; the fresh ones are in {made}")
    elif differences:
        say(f"{len(differences)} tables differ from the committed ones: --verify says how, --accept keeps the new ones")
    else:
        tables = sum(len([*(made / key).glob("*.csv")]) for key in saving)
        say(f"{tables} tables agree with the committed ones")
    say(f"figures: {made}/<paper>/*.png\nledger: {made / 'ledger.json'}")


def _vouch(source: str, made: Path, key: str) -> str:
    """Hash of what a notebook was made from and of what it saved, its rows of the ledger included."""
    from workbench.evidence import read_rows

    files = [(path.name, path.read_bytes()) for path in sorted((made / key).rglob("*")) if path.is_file()]
    return digest(source, files, [row for row in read_rows(made / "ledger.json") if row["paper"] == key])


def _replace(fresh: Path, rows: list[dict[str, Any]], target: Path, key: str) -> None:
    """Put the figures in `fresh` and the rows in the place of the paper's old ones; whatever fails, those stay."""
    from workbench.evidence import merge_ledger

    place, new, old = target / key, target / f".{key}.new", target / f".{key}.old"
    if old.exists() and not place.exists():  # the power went between the two renames
        old.rename(place)
    if not fresh.is_dir():
        raise WorkbenchError(f"{key}: the notebook saved no figures")
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    replaces = place.exists()
    try:
        shutil.copytree(fresh, new)  # a copy, as the scratch folder may be on another disk
        if replaces:
            place.rename(old)
        new.rename(place)
        merge_ledger(target / "ledger.json", rows, key)
    except BaseException:
        if old.exists() or not replaces:
            shutil.rmtree(place, ignore_errors=True)
        if old.exists():
            old.rename(place)
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def export(keys: Sequence[str], out: Path) -> None:
    """Run notebooks at quick scale; write each as <out>/<notebook>.html, which needs no kernel and no net."""

    def finished(job: Job) -> None:
        path = out / f"{job.notebook.stem}.html"
        write_output(path, _page(job).encode())
        say(path)

    chosen = _chosen(keys)
    for key in chosen:
        check_output(out / f"{_notebook(key).stem}.html")
    with _staging() as staging:
        execute([_job(key, "quick", staging / key, host="page") for key in chosen], 2, finished)


def _page(job: Job) -> str:
    import nbformat
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    from workbench import explorer

    notebook = nbformat.read(job.executed, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            # nbconvert embeds only what lies below its path: the checkout's, so let the links start there.
            cell.source = re.sub(r"""(\]\(|src=["'])\.\./""", r"\1", cell.source)
            cell.source = re.sub(r"\]\((\d\d_\w+)\.ipynb", r"](\1.html", cell.source)
        else:  # warnings and progress are for those who run it
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    exporter = HTMLExporter(
        template_name="basic",
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"path": str(ROOT)}})
    body = re.sub(r"<table\b.*?</table>", r'<div class="scroll">\g<0></div>', body, flags=re.DOTALL)
    body = body.replace("<pre>", '<pre class="scroll">')
    heading = re.search(r"^# (.+)$", notebook.cells[0].source, re.MULTILINE)
    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in CODE_STYLES)
    style = f"<style>@media not screen, (prefers-color-scheme: light) {{\n{light}\n}}\n"
    style += f"@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}</style>\n"
    page = explorer.page(heading[1] if heading else job.notebook.stem, style + body)
    remote = r"""<(?:script|link|iframe)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*"""
    if found := re.search(remote, page, re.IGNORECASE):
        raise WorkbenchError(f"its page would need the net: {found[0][:150]}")
    return page


if __name__ == "__main__":
    _worker(*sys.argv[1:])
