"""Sweeps: the same table however many workers there are, whatever was there before, whichever worker dies."""

import csv
import os
import signal
import subprocess
import sys

import pytest
from test_runner import alive, command, make_checkout, notebook, runs, start, wait_for


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose toy experiment raises at seed 13 and kills its first worker at seed 66."""
    folder = make_checkout(tmp_path)
    notebook(folder, "01_gebt")
    return folder


def test_the_table_is_the_same_bytes_from_one_worker_and_two_and_after_a_resume(checkout):
    sweep = ["sweep", "gebt", "-p", "bits=8,2,4", "-p", "seed=1..2"]
    out = command(checkout, *sweep, "--jobs", 2, "--out", "new/two.csv")
    assert str(checkout / "new/two.csv").endswith(out.split()[-1])
    two = (checkout / "new/two.csv").read_bytes()
    rows = list(csv.reader(two.decode().splitlines()))
    assert rows[0] == ["bits", "seed", "quantity", "value", "bits_result"]
    points = [(bits, seed) for bits in "824" for seed in "12"]
    assert [(row[0], row[1], row[2], row[4]) for row in rows[1:]] == [
        (bits, seed, quantity, "1") for bits, seed in points for quantity in ("loss", "bits")
    ]
    assert [float(row[3]) for row in rows[1::2]] == [1 / 4, 1 / 5] * 3  # to the last digit
    assert len(runs(checkout)) == 6

    # One job's table lost: that job runs again, and no other.
    lost = next((checkout / ".workbench/sweeps/jobs").iterdir())
    lost.unlink()
    out = command(checkout, *sweep, "--jobs", 1)
    assert "5 of 6 jobs were finished before" in out
    assert len(runs(checkout)) == 7
    table = next((checkout / ".workbench/sweeps").glob("gebt-*.csv"))
    assert table.read_bytes() == two

    # Other sources: nothing of the old tables counts.
    (checkout / "workbench/papers/gebt/method.py").write_text("better = True\n")
    command(checkout, *sweep, "--jobs", 1)
    assert len(runs(checkout)) == 13


def test_a_failing_job_and_a_dying_worker_cost_no_other_job(checkout):
    out = command(checkout, "sweep", "gebt", "-p", "seed=12..14,66", "--out", "t.csv", code=1)
    assert "seed=13 FAILED: ValueError('thirteen')" in out
    assert out.strip().endswith("1 of 4 jobs failed; the table has the others")
    assert "distributed" not in out
    seeds = [row["seed"] for row in csv.DictReader((checkout / "t.csv").open())]
    assert seeds == ["12", "12", "14", "14", "66", "66"]
    assert runs(checkout).count("seed=66 bits=8") == 2


def test_what_is_no_sweep_is_refused_before_it_starts(checkout):
    for arguments, reason in [
        (["gebt", "-p", "nope=1"], "no parameter 'nope'; there are seed, bits, sleep"),
        (["gebt", "-p", "seed=0..2,x"], "seed must be an integer >= 0, not 'x'"),
        (["gebt", "-p", "seed=3..1"], "the range 3..1 is empty"),
        (["gebt"], "nothing to sweep"),
        (["cpt", "-p", "seed=1"], "cpt is not built yet"),
        (["nope", "-p", "seed=1"], "unknown paper 'nope'"),
    ]:
        assert reason in command(checkout, "sweep", *arguments, code=1)
    out = command(checkout, "sweep", "gebt", "-p", "seed=1", "--cluster", "tcp://127.0.0.1:9", code=1)
    assert out.startswith("no dask scheduler answers at 'tcp://127.0.0.1:9'")
    assert out.count("\n") == 1
    assert not runs(checkout)


def test_a_cluster_runs_the_jobs_and_refuses_those_of_another_checkout(checkout, tmp_path_factory):
    other = make_checkout(tmp_path_factory.mktemp("other"))
    notebook(other, "01_gebt")
    script = (
        "from distributed import LocalCluster\nif __name__ == '__main__':\n"
        "    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:\n"
        "        print(cluster.scheduler_address, flush=True)\n        input()\n"
    )
    (other / "cluster.py").write_text(script)
    cluster = subprocess.Popen(
        [sys.executable, "cluster.py"],
        cwd=other,
        env=os.environ | {"PYTHONPATH": str(other)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = cluster.stdout.readline().strip()
        command(checkout, "sweep", "gebt", "-p", "seed=1", "--cluster", address)
        (checkout / "workbench/papers/gebt/method.py").write_text("better = True\n")
        out = command(checkout, "sweep", "gebt", "-p", "seed=1", "--cluster", address, code=1)
        assert "this worker's checkout is not the same as the sender's" in out
    finally:
        cluster.communicate("\n", timeout=30)
    assert runs(other) == ["seed=1 bits=8"]


def test_ctrl_c_keeps_the_finished_jobs(checkout):
    process = start(checkout, "sweep", "gebt", "-p", "sleep=0,60", "--jobs", 2, "--out", "t.csv")
    jobs = checkout / ".workbench/sweeps/jobs"
    wait_for(lambda: jobs.exists() and list(jobs.glob("[!.]*")) and len(runs(checkout)) == 2)
    workers = [int(p) for p in subprocess.check_output(["ps", "-o", "pid=", "-g", str(process.pid)], text=True).split()]

    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers as well
    _, err = process.communicate(timeout=20)

    assert process.returncode == 130
    assert err.strip() == "interrupted; run the same command again to go on"
    wait_for(lambda: not any(map(alive, workers)))
    assert len(list(jobs.glob("[!.]*"))) == 1
    assert not (checkout / "t.csv").exists()
