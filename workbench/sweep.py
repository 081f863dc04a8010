"""Sweeps: one experiment at every point of a grid, on local processes or a dask cluster, collected in one table."""

from __future__ import annotations

import asyncio
import csv
import io
import itertools
import logging
import os
from pathlib import Path
from typing import Any

from rich.progress import Progress
from rich.table import Table

from workbench import WorkbenchError, check_output, papers, write_atomic, write_output
from workbench.runner import SCRATCH, console, digest, say, source_hash


def sweep_job(key: str, scale: str, parameters: dict[str, Any], source: str) -> str:
    """Run an experiment on a dask worker and return its summary as CSV, the parameters in leading columns.

    Raises WorkbenchError where the worker's checkout is not the sender's, of which `source` is the hash.
    """
    os.environ["TQDM_DISABLE"] = "1"  # before anything imports tqdm: many jobs' bars would tangle
    import torch
    from joblib import parallel_config

    if source_hash(key) != source:
        raise WorkbenchError("this worker's checkout is not the same as the sender's")
    torch.set_num_threads(1)
    experiment = papers.experiment(key)
    with parallel_config("sequential"):  # a worker of dask has no processes of its own, and says so job by job
        result = experiment.run(experiment.Config.at(scale, **parameters))
    table = result.tables["summary"].rename(columns={name: f"{name}_result" for name in parameters})
    for position, (name, value) in enumerate(parameters.items()):
        table.insert(position, name, [value] * len(table))
    return table.to_csv(index=False, lineterminator="\n")


def sweep(
    key: str,
    scale: str,
    grid: dict[str, list[Any]],
    parallel: int,
    cluster: str | None = None,
    out: Path | None = None,
) -> None:
    """Run an experiment at each point of `grid` (name -> values) and write one table, in the grid's order.

    The jobs run in `parallel` processes here or on the dask cluster at `cluster`. Each table is kept as soon
    as it is there: the same sweep again runs what is missing. Raises WorkbenchError where jobs failed; the
    table then has the others.
    """

    if out is not None and (not out.name or out.is_dir()):
        raise WorkbenchError(f"--out must be a file's name, not the folder {out}")
    config, source = papers.experiment(key).Config, source_hash(key)
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    for point in points:
        config.at(scale, **point)
    folder = SCRATCH / "sweeps"
    out = check_output(out or folder / f"{key}-{digest(scale, grid, source)}.csv")
    files = [folder / "jobs" / f"{digest(key, scale, point, source)}.csv" for point in points]
    missing = [(point, file) for point, file in zip(points, files, strict=True) if not file.exists()]
    if len(missing) < len(points):
        say(f"{len(points) - len(missing)} of {len(points)} jobs were finished before")
    failed = _run_jobs(key, scale, missing, source, parallel, cluster) if missing else 0
    # Text in, text out: a number keeps its digits, whether its job ran now or before.
    texts = [file.read_text("utf-8") for file in files if file.exists()]
    rows = [row for text in texts for row in csv.DictReader(io.StringIO(text))]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*dict.fromkeys(itertools.chain(*rows))], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_output(out, text.getvalue().encode())
    table = Table(*writer.fieldnames, title=f"{min(len(rows), 20)} of {len(rows)} rows")
    for row in rows[:20]:
        table.add_row(*(row.get(name, "") for name in writer.fieldnames))
    console.print(table)
    say(out)
    if failed:
        raise WorkbenchError(f"{failed} of {len(points)} jobs failed; the table has the others")


def _run_jobs(
    key: str, scale: str, jobs: list[tuple[dict, Path]], source: str, parallel: int, cluster: str | None
) -> int:
    """Run the jobs on dask, write each one's table to its path when it is there, return how many failed."""
    from distributed import Client, TimeoutError, wait

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # a worker that dies is dask's to replace
    local = {"n_workers": min(parallel, len(jobs)), "threads_per_worker": 1, "processes": True}
    local |= {"dashboard_address": None, "silence_logs": logging.CRITICAL}
    # A terminal sends Ctrl-C to the workers too: it is for this process to end them.
    local["preload"] = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    client = Client(**local) if cluster is None else _connected(cluster)
    failed = 0
    with client, Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task(f"{len(jobs)} jobs", total=len(jobs))
        futures = {client.submit(sweep_job, key, scale, job[0], source, pure=False): job for job in jobs}
        waiting, deserted = set(futures), 0
        while waiting:
            try:
                done = wait(waiting, timeout=2, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                deserted = 0 if client.ncores() else deserted + 1
                if deserted == 3:
                    raise WorkbenchError(f"no worker is left at {cluster}: start one, and run this again") from None
                continue
            for future in done:
                waiting.remove(future)
                point, path = futures[future]
                words = " ".join(f"{name}={value}" for name, value in point.items())
                label = f"{len(jobs) - len(waiting)}/{len(jobs)} {words}"
                if future.status == "finished":
                    write_atomic(path, future.result().encode())
                    say(label)
                else:
                    failed += 1
                    error = future.exception() if future.status == "error" else "the cluster was lost"
                    say(f"{label} FAILED: {error!r}".splitlines()[0])
                progress.advance(bar)
    return failed


async def _greet(address: str) -> None:
    from distributed.comm import connect

    comm = await connect(address, timeout=5)
    comm.abort()


def _connected(address: str) -> Any:
    """A client of the dask scheduler at ``address`` with a worker that can run the jobs, or one line within 10 s."""
    from distributed import Client

    try:
        if "://" in address:  # what listens but never answers would hold a Client for minutes
            asyncio.run(asyncio.wait_for(_greet(address), timeout=6))
        client = Client(address, timeout=5)
    except Exception as error:  # OSError, ValueError, TypeError, RuntimeError: as the address is wrong
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise WorkbenchError(f"no dask scheduler answers at {address!r}: {reason}") from None
    try:
        try:
            client.wait_for_workers(1, timeout=3)
        except Exception:
            raise WorkbenchError(f"{address} has no worker: start one with `dask worker {address}`") from None
        found = client.get_versions()
        own = {"python": found["client"]["host"]["python"]} | found["client"]["packages"]
        for worker in found["workers"].values():
            other = {"python": worker["host"]["python"]} | worker["packages"]
            for name in ("python", "dask", "distributed", "cloudpickle", "numpy", "pandas"):
                if other.get(name) != own.get(name):
                    versions = f"{other.get(name)} there, {own.get(name)} here"
                    raise WorkbenchError(f"a worker at {address} has another {name}: {versions}")
    except BaseException:
        client.close(timeout=1)
        raise
    return client
