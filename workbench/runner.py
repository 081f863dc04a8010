"""Runs notebooks with no screen: one at will, all for figures/, or as offline pages.

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
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from workbench import ROOT, WorkbenchError, papers, write_atomic

SCALES = ("quick", "full", "paper")
START = "start_here"
"""The key of notebooks/00_start_here.ipynb, which shows the ledger of all the papers and saves no figure."""

CODE_STYLES = ("default", "monokai")
"""Pygments' styles of a page's code in the light and in the dark: in both all words have a contrast of 4.5."""

SCRATCH = ROOT / ".workbench"
"""Runs, sweeps and notes of what is finished; nothing in it is committed."""

# A pipe or a CI log has no width to ask for, and rich's 80 columns would cut the tables.
console = Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False)
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
    """Return the names that the notebook's cell tagged `parameters` assigns."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]  # nbformat would take a second to import
    source = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    nodes = ast.walk(ast.parse("\n".join(source)))
    return [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def execute(jobs: Sequence[Job], parallel: int, finished: Callable[[Job], None]) -> None:
    """Run notebooks, `parallel` at a time, and call `finished(job)` for each that ran to its end.

    One that fails, or whose `finished` does, stops no other; at the end WorkbenchError names them.
    """
    waiting, running, failed = list(jobs), {}, []
    try:
        with console.status("") as status:
            while waiting or running:
                # start_here shows what all the others found, so it waits for them.
                while waiting and len(running) < parallel and not (running and waiting[0].key == START):
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
    if out.is_relative_to(ROOT / "figures"):
        raise WorkbenchError("--out must not lie in figures/: only `workbench figures` writes there")
    job = _job(key, scale, out, parameters)
    if parameters:
        config = papers.Simulation if key == START else papers.experiment(key).Config
        config.at("quick" if key == START else scale, **parameters)
    execute([job], 1, lambda _: None)
    say(f"executed notebook: {job.executed}\nfigures: {out / key}")


def _chosen(keys: Sequence[str]) -> list[str]:
    """The keys in the papers' order, start_here last; all that are built if none is named."""
    for key in keys:
        _notebook(key)  # refuses an unknown one
    known = [*(paper.key for paper in papers.PAPERS), START]
    chosen = [key for key in known if key in keys or (not keys and _notebook(key).exists())]
    if not chosen:
        raise WorkbenchError("no notebook is built yet")
    return chosen


def _staging() -> TemporaryDirectory:
    SCRATCH.mkdir(exist_ok=True)
    return TemporaryDirectory(prefix="staging-", dir=SCRATCH, ignore_cleanup_errors=True)


@contextmanager
def _alone() -> Iterator[None]:
    """Two `figures` at once would overwrite each other's ledger; the lock goes with its process."""
    SCRATCH.mkdir(exist_ok=True)
    lock = FileLock(SCRATCH / "figures.lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout:
        raise WorkbenchError("another `workbench figures` is at work in this checkout: wait for its end") from None


def source_hash(key: str) -> str:
    """Hash of what a paper's result depends on in this checkout: its code, the code all share, and data/."""
    package = ROOT / "workbench"
    files = [*package.glob("*.py"), *package.glob("*.js"), package / "papers" / "__init__.py"]
    files += [*(package / "papers" / key).rglob("*.py"), *(ROOT / "data").rglob("*")]
    return digest([(p.relative_to(ROOT).as_posix(), p.read_bytes()) for p in sorted(files) if p.is_file()])


def digest(*parts: Any) -> str:
    """Short hash of any values with a faithful repr."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def figures(keys: Sequence[str], scale: str, parallel: int, verify: bool = False) -> None:
    """Run notebooks and put what they save into figures/<scale>; with `verify` only compare the two.

    No `keys` means every built notebook. A command that fails or is interrupted leaves a note for each
    notebook it finished: while their sources stay the same, the next one does not run those again. A command
    that gets through removes the notes. Raises WorkbenchError where a notebook fails or a table differs.
    """
    committed = ROOT / "figures" / scale
    target = SCRATCH / "verify" / scale if verify else committed
    notes = SCRATCH / "finished" / target.relative_to(ROOT)
    sources = {}

    def finished(job: Job) -> None:
        if job.key != START:  # that one saves nothing, and is to see the ledger as it is
            (notes / job.key).unlink(missing_ok=True)
            _replace(job.out, target, job.key)
            notes.mkdir(parents=True, exist_ok=True)
            (notes / job.key).write_text(sources[job.key])

    with _alone(), _staging() as staging:
        waiting = []
        for job in [_job(key, scale, Path(staging, key)) for key in _chosen(keys)]:
            sources[job.key] = digest(source_hash(job.key), job.notebook.read_bytes())
            if (notes / job.key).exists() and (notes / job.key).read_text() == sources[job.key]:
                say(f"{job.key}: finished before, with the same sources")
            else:
                waiting.append(job)
        execute(waiting, parallel, finished)
    for key in sources:
        (notes / key).unlink(missing_ok=True)
    if verify:
        _compare(committed, target, [key for key in sources if key != START])
    else:
        say(f"figures/{scale} is up to date: {', '.join(sources)}")


def _replace(out: Path, target: Path, key: str) -> None:
    """Put the figures and rows in `out` in the place of the paper's old ones; whatever fails, those stay."""
    from workbench.evidence import merge_ledger, read_rows

    place, new, old = target / key, target / f".{key}.new", target / f".{key}.old"
    if old.exists() and not place.exists():  # the power went between the two renames
        old.rename(place)
    if not (out / key).is_dir():
        raise WorkbenchError(f"{key}: the notebook saved no figures")
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    replaces = place.exists()
    try:
        shutil.copytree(out / key, new)  # a copy, as the scratch folder may be on another disk
        if replaces:
            place.rename(old)
        new.rename(place)
        merge_ledger(target / "ledger.json", read_rows(out / "ledger.json"), key)
    except BaseException:
        if old.exists() or not replaces:
            shutil.rmtree(place, ignore_errors=True)
        if old.exists():
            old.rename(place)
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _compare(committed: Path, fresh: Path, keys: list[str]) -> None:
    from workbench.figures import compare

    differences = compare(committed, fresh, keys)
    for difference in differences:
        say(difference)
    if differences:
        raise WorkbenchError(f"{len(differences)} differences; the fresh tables are in {fresh}")
    say(f"{sum(len([*(fresh / key).glob('*.csv')]) for key in keys)} tables agree with the committed ones")


def export(keys: Sequence[str], out: Path) -> None:
    """Run notebooks at quick scale; write each as <out>/<notebook>.html, which needs no kernel and no net."""

    def finished(job: Job) -> None:
        path = out / f"{job.notebook.stem}.html"
        write_atomic(path, _page(job).encode())
        say(path)

    with _staging() as staging:
        execute([_job(key, "quick", Path(staging, key), host="page") for key in _chosen(keys)], 2, finished)


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
