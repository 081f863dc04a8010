"""DNA's record, what is measured from it, and the ledger, on a tiny run."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from workbench import WorkbenchError
from workbench.evidence import KEYS, NOT_TESTABLE, REPRODUCED, Interval
from workbench.papers.dna import experiment, record, space, study
from workbench.papers.dna.experiment import Config, run
from workbench.papers.dna.method import Objective
from workbench.papers.dna.study import JOINT, OPTIMUM, SEQUENTIAL, Accuracies, Setting, priced
from workbench.recorded import load_table, provenance

TINY = {"seeds": 2, "searches": 1, "questions": (8, 16), "objectives": ("edp 3", "latency 6"), "starts": 1, "steps": 20}
TINY |= {"epochs": 4, "templates": ("asic", "systolic")}


@cache
def tiny():
    """One run for all tests."""
    return run(Config.at("quick", **TINY))


@pytest.fixture
def result():
    return tiny()


@pytest.fixture(scope="module")
def setting():
    big, small = study.workload(4, 4), space.digits()
    macs = torch.tensor([big.macs(d) for d in small.designs().tolist()])
    read, score = Accuracies.recorded().of(0)
    objective = Objective("latency", 6.0)
    return Setting(experiment.TEMPLATES["systolic"], *priced("systolic", 4, 4), small, macs, objective, read, score)


# --- the record --------------------------------------------------------------------------------------------------


def test_every_network_is_recorded_once_a_seed():
    table = load_table(record.NAME)
    assert len(table) == 256 * len(record.SEEDS)
    assert table.groupby("seed")["net"].nunique().eq(256).all()
    assert table[["val", "test"]].min().min() > 60
    assert table[["val", "test"]].max().max() < 100
    about = provenance(record.NAME)
    assert about["command"] == "workbench record dna"
    assert about["commit"]


def test_rows_are_measured_again():
    """Sums round differently on another processor and beside other nets, so a training is another draw: within 4
    points, where networks span 11, and within 1.5 on average."""
    designs = torch.tensor([(0, 3, 0, 3), (1, 1, 2, 1), (3, 3, 3, 3)])
    fresh = record.trained(designs, seed=2)
    table = load_table(record.NAME)
    old = table[table["seed"] == 2].set_index("net").loc[fresh["net"]]
    off = np.abs(fresh[["val", "test"]].to_numpy() - old[["val", "test"]].to_numpy())
    assert off.max() < 4
    assert off.mean() < 1.5


def test_a_search_never_reads_what_scores_it():
    table = Accuracies.recorded()
    read, score = table.of(1)
    assert torch.equal(read, table.val[1])
    others = [i for i in range(len(table.seeds)) if i != 1]
    torch.testing.assert_close(score, table.test[others].mean(0))
    changed = replace(table, test=table.test.clone())
    changed.test[1] += 5
    assert torch.equal(changed.of(1)[1], score)
    rows = load_table(record.NAME)
    net = record.name(space.digits(), space.digits().designs()[77].tolist())
    row = rows[(rows["seed"] == 3) & (rows["net"] == net)].iloc[0]
    assert (float(table.val[3, 77]), float(table.test[3, 77])) == (row["val"], row["test"])


# --- one setting -------------------------------------------------------------------------------------------------


def test_nothing_beats_the_enumerated_optimum(setting):
    pairs = dict(setting.unlimited())
    assert set(pairs) == {OPTIMUM, *SEQUENTIAL}
    rows = {name: setting.row(design) for name, design in pairs.items()}
    assert rows[OPTIMUM]["regret"] == pytest.approx(0, abs=1e-9)
    for name, row in rows.items():
        assert row["regret"] >= -1e-9, name
        assert row["held_out"] >= -1e-9, name
    assert rows["alternating"]["regret"] <= rows["accelerator first"]["regret"] + 1e-9
    assert rows["network first"]["regret"] <= rows["separate"]["regret"] + 1e-9
    design, history = setting.joint(0, starts=2, steps=60, lr=0.2)
    assert setting.row(design)["regret"] < 4
    assert history[-1]["gain"] > history[0]["gain"]


def test_matched_pairs_keep_what_they_promise(setting):
    found = study.matched(setting)
    assert found["fps"] >= found["separate_fps"] * (1 - 1e-9)
    assert found["accuracy_fps"] >= found["separate_fps"] * (1 - 1e-9)


# --- the whole ---------------------------------------------------------------------------------------------------


def test_tables_are_whole(result):
    searches = result.tables["searches"]
    assert set(searches["method"]) == {OPTIMUM, JOINT, *SEQUENTIAL, *study.METHODS}
    assert set(searches["questions"]) == {0, 8, 16}
    assert (searches["regret"] >= -1e-9).all()
    assert len(result.tables["supernet"]) == 2 * 3
    assert set(result.tables["supernet"]["template"]) == {"asic"}
    assert len(result.tables["hardware"]) == 2 * 256
    assert len(result.tables["matched"]) == 2 * 2
    assert len(result.tables["cifar10"]) == 3 * 6


def test_the_ledger_has_every_kind_of_row(result):
    rows = {row["id"]: row for row in result.rows}
    assert len(rows) == len(result.rows)
    assert all(set(row) == set(KEYS) and row["paper"] == "dna" for row in result.rows)
    assert rows["dna.gradient"]["verdict"] == rows["dna.disguised.slopes"]["verdict"] == REPRODUCED
    assert rows["dna.abstract.fps"]["published"] == 3.04
    assert rows["dna.autonba.fps"]["verdict"] == NOT_TESTABLE
    worth = experiment.cifar10.compared(result.tables["cifar10"])
    row = rows["dna.cifar10.vs_best_random"]
    assert row["value"] == pytest.approx((worth["joint"] - worth["random, best of 4"]).mean())
    arms = result.tables["cifar10"].pivot(index="seed", columns="arm", values="ms")
    assert rows["dna.cifar10.fps"]["value"] == pytest.approx((arms["network first"] / arms["joint"]).mean())
    updates = 256 * 30 * 8 / (4 * (2 * 4 - 1))
    assert rows["dna.abstract.search_time"]["value"] == pytest.approx(updates)
    own = result.tables["searches"].query("template == 'systolic' and objective == 'edp 3' and questions == 16")
    wide = own.pivot(index="seed", columns="method", values="held_out")
    row = rows["dna.systolic.edp_3.sampled_vs_network_first"]
    assert row["value"] == pytest.approx((wide["network first"] - wide["score function"]).mean())
    found = result.tables["matched"].query("template == 'asic'")
    assert rows["dna.asic.matched.fps"]["value"] == pytest.approx((found["fps"] / found["separate_fps"]).mean())


def test_a_published_improvement_is_judged_by_what_is_reached():
    judge = experiment.reaches()
    cases = {(3.5, 3.1, 3.9): "reproduced", (2.0, 1.2, 2.8): "partly", (1.1, 0.9, 1.3): "not seen at this scale"}
    cases |= {(0.8, 0.7, 0.9): "contradicted"}
    for (mean, low, high), verdict in cases.items():
        assert judge(Interval(mean, low, high, (mean,)), 3.04) == verdict
    assert judge(Interval(1.0, 0.5, 1.5, (1.0,)), 5.46) == "partly"
    assert judge(Interval(0.1, -0.5, 0.7, (0.1,)), 5.46) == "not seen at this scale"
    assert judge(Interval(146.0, float("nan"), float("nan"), ()), 1234.3) == "partly"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("templates", ("asic", "gpu"), "asic, systolic, fpga"),
        ("templates", ("asic",), "at least 2"),
        ("objectives", ("energy 3", "latency 6"), "be like"),
        ("objectives", ("edp 3",), "latency"),
        ("seeds", 7, "recorded"),
        ("questions", (4,), "at least 8"),
        ("starts", 0, "at least 1"),
        ("lr", 0.0, "above 0"),
        ("epochs", 3, "at least 4"),
    ],
)
def test_bad_parameters_are_refused_in_one_line(name, value, says):
    with pytest.raises(WorkbenchError, match=says):
        Config.at("quick", **{name: value})
