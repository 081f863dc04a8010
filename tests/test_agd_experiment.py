"""AGD's experiment: arms at equal cost, proof that the truth stays out, claims against planted tables, figures."""

import math
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from common import in_this_process, saved

from workbench import WorkbenchError
from workbench.evidence import CONTRADICTED, NOT_SEEN, NOT_TESTABLE, PARTLY, REPRODUCED, published
from workbench.papers.agd import analytic, experiment, explorers, method, record, students, views
from workbench.papers.agd.experiment import BAND, Config, Lesson, budget, differences, rivals, run
from workbench.papers.agd.tasks import Task
from workbench.recorded import state_hash

TINY = {"seeds": 2, "more_seeds": 2, "images": 100, "updates": 4, "batch": 4, "pretrain": 1, "steps": 3}
TINY |= {"search_batch": 1, "control_seeds": 2, "cloud": 1}
CONFIG = Config.at("quick", **TINY)
TASKS = [Task.read(text) for text in CONFIG.tasks]


@cache
def tiny():
    """One small run in this process, which all tests here share."""
    return in_this_process(run, CONFIG)


@pytest.fixture(scope="module")
def result():
    return tiny()


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tasks": "digits 4"}, "there is no task 'digits 4'"),
        ({"tasks": ("digits paint", "digits paint")}, "tasks must name each once"),
        ({"more_seeds": 1}, "more_seeds must"),
        ({"control_seeds": 3}, "control_seeds must lie in 2..seeds"),
        ({"images": 10}, "images must"),
        ({"updates": 0}, "updates must"),
        ({"steps": 0}, "steps must"),
        ({"pretrain": -1}, "pretrain must"),
        ({"lr": 0.0}, "lr must"),
    ],
)
def test_bad_parameters_get_one_line(wrong, message):
    with pytest.raises(WorkbenchError, match=message) as error:
        Config.at("quick", **wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scale", ["quick", "full"])
def test_every_arm_keeps_the_band_and_random_search_gets_as_much_compute(scale):
    config = Config.at(scale)
    for task in map(Task.read, config.tasks):
        share = method.macs(task.skeleton, students.uniform(task)) / budget(task)
        assert BAND <= share <= 1
        one = budget(task) * config.updates * config.batch
        assert rivals(task, config) * one >= method.search_macs(task.skeleton, config.plan()) + one
        assert (rivals(task, config) - 1) * one < method.search_macs(task.skeleton, config.plan()) + one
    assert config.seed + config.seeds <= 900  # pilots' seeds begin there
    if scale == "full":
        assert min(config.seeds, config.more_seeds) >= 5
        assert config.seeds * rivals(Task.read(config.tasks[0]), config) >= 15


# --- the run ---------------------------------------------------------------------------------------------------------


def test_every_seed_has_every_arm_at_the_cost_of_the_band(result):
    arms = result.tables["arms"]
    for task in TASKS:
        k = rivals(task, CONFIG)
        names = {"searched", "uniform", "pruned", "teacher", "bicubic" if task.scale > 1 else "copy"}
        names |= {f"random {i + 1}" for i in range(k)}
        names |= {f"{a}, {b}" for a in ("searched", "uniform") for b in ("no teacher", "8 bits")}
        for seed in CONFIG.seed_list:
            rows = arms[(arms["task"] == task.id) & (arms["seed"] == seed)]
            assert sorted(rows["arm"]) == sorted(names)
            own = rows[~rows["arm"].isin(["teacher", "bicubic", "copy"])]
            assert own["macs"].between(BAND * budget(task), budget(task)).all()
            for row in own.itertuples():
                assert row.macs == method.macs(task.skeleton, views.read_design(row.design))
            drawn = rows[rows["arm"].str.startswith("random")]["design"]
            assert len(set(drawn)) == k
            assert rows[rows["arm"] == "teacher"]["macs"].item() > 5 * budget(task)


def test_scores_are_finite_and_the_teacher_is_the_recorded_one(result):
    arms = result.tables["arms"]
    assert np.isfinite(arms[["psnr", "ssim", "score"]]).all(axis=None)
    assert (arms[arms["task"].str.endswith("x4")]["score"] == arms[arms["task"].str.endswith("x4")]["psnr"]).all()
    for task in TASKS:
        assert state_hash(record.teacher(task).state_dict()) in result.data_hash


def test_the_same_seeds_give_the_same_tables(result):
    again = experiment.part(CONFIG.tasks[0], CONFIG.seed, CONFIG)
    own = result.tables["arms"]
    own = own[(own["task"] == TASKS[0].id) & (own["seed"] == CONFIG.seed)].reset_index(drop=True)
    same = ["arm", "design", "macs", "psnr", "ssim", "score", "validation", "shared"]
    pd.testing.assert_frame_equal(pd.DataFrame(again["arms"])[same], own[same])


@pytest.mark.parametrize("text", CONFIG.tasks)
def test_the_truth_never_reaches_a_distilled_student_a_search_or_the_pruned_teacher(text):
    task = Task.read(text)
    lesson = Lesson.prepare(task, 0, CONFIG)
    spoiled = experiment.images(task, CONFIG.images, 0, "images", task.id)
    spoiled = type(spoiled)(spoiled.inputs, torch.full_like(spoiled.truths, torch.nan), spoiled.validation,
                            spoiled.test, None, None)  # fmt: skip
    blind = Lesson(task, 0, spoiled, lesson.targets, lesson.distance, CONFIG)
    design = students.uniform(task)
    teacher = state_hash(record.teacher(task).state_dict())
    hashes = []
    for each in (lesson, blind):
        net, trace = each.search()
        pruned = each.fit(students.prune(record.teacher(task), task), each.targets)
        hashes.append([state_hash(n.state_dict()) for n in (net, each.distil(design), pruned)] + [trace.logits])
    assert hashes[0][:3] == hashes[1][:3]
    assert all(torch.equal(a, b) for a, b in zip(hashes[0][3], hashes[1][3], strict=True))
    assert state_hash(record.teacher(task).state_dict()) == teacher
    moved = Lesson(task, 0, lesson.images, lesson.targets + 0.01, lesson.distance, CONFIG)
    assert state_hash(moved.distil(design).state_dict()) != hashes[0][1]


def test_without_a_teacher_the_outputs_of_the_teacher_do_not_matter():
    for task in TASKS:
        lesson = Lesson.prepare(task, 0, CONFIG)
        blind = Lesson(task, 0, lesson.images, torch.full_like(lesson.targets, torch.nan), lesson.distance, CONFIG)
        design = students.uniform(task)
        first, again = (state_hash(each.alone(design).state_dict()) for each in (lesson, blind))
        assert first == again != state_hash(lesson.student(design).state_dict())


def test_arms_of_one_design_start_alike_and_see_the_same_batches():
    lesson = Lesson.prepare(TASKS[0], 0, CONFIG)
    design, seen = students.uniform(TASKS[0]), []

    def spy(made, target):
        seen.append(target[:, 0, 0, 0].tolist())
        return (made - target).abs().mean()

    for _ in range(2):
        lesson.fit(lesson.student(design), lesson.targets, spy)
    assert seen[: CONFIG.updates] == seen[CONFIG.updates :]
    assert state_hash(lesson.student(design).state_dict()) == state_hash(lesson.student(design).state_dict())


def test_controls_run_on_the_first_task_only(result):
    table = result.tables["search"]
    for task, rules in zip(TASKS, ({"log-ratio", "pressure", "fixed"}, {"log-ratio"}), strict=True):
        own = table[table["task"] == task.id]
        assert set(own["rule"]) == rules
        assert own.groupby("rule")["seed"].nunique().eq(2).all()
    assert (table["cheapest"] < 0.6).all()


# --- claims ----------------------------------------------------------------------------------------------------------


def planted(**moved):
    """A table of arms in which each arm's score is as told, with a little noise that pairs share."""
    rows, task = [], TASKS[0]
    base = {"searched": 30.0, "random 1": 29.0, "random 2": 29.5, "uniform": 29.8, "pruned": 30.4, "bicubic": 28.0,
            "searched, no teacher": 29.9, "uniform, no teacher": 29.8, "searched, 8 bits": 29.99,
            "uniform, 8 bits": 29.5, "teacher": 31.0} | moved  # fmt: skip
    for seed in range(4):
        for arm, score in base.items():
            wobble = 0.5 * seed + 0.01 * math.sin(7 * seed + len(arm))
            drawn = arm.startswith("random")
            known = drawn or arm in ("searched", "uniform")
            row = {"task": task.id, "seed": seed, "arm": arm, "score": score + wobble, "identities": -score}
            rows.append(row | {"validation": -score if drawn else math.nan, "shared": score if known else math.nan})
    return pd.DataFrame(rows)


def test_differences_are_paired_and_the_best_random_design_is_chosen_by_validation():
    found = differences(planted(), TASKS[0].id, CONFIG)
    wanted = {"vs_random": 0.75, "vs_best_random": 1.0, "vs_uniform": 0.2, "vs_pruned": -0.4, "vs_plain": 2.0,
              "distil.searched": 0.1, "distil.uniform": 0.0, "bits8.searched": -0.01, "bits8.uniform": -0.3,
              "teacher_vs_plain": 3.0, "ranking": 1.0, "identity": -1.0}  # fmt: skip
    assert {name: pytest.approx(each.mean, abs=0.03) for name, each in found.items()} == wanted
    assert found["vs_random"].half_width < 0.05  # the seeds' own level cancels


def test_verdicts_follow_their_rules_both_ways(result):
    tables = {"arms": planted(), "search": result.tables["search"]}
    config = Config.at("quick", **TINY, tasks=CONFIG.tasks[0])
    rows = {c.id: c.row(e, "quick") for c, e in experiment._contrasts(tables, config)}
    verdict = lambda key: rows[f"agd.photographs_x4.{key}"]["verdict"]  # noqa: E731
    assert verdict("vs_random") == REPRODUCED
    assert verdict("vs_pruned") == CONTRADICTED
    assert verdict("distil.uniform") == NOT_SEEN
    assert verdict("bits8.searched") == REPRODUCED
    assert verdict("bits8.uniform") == CONTRADICTED
    search = pd.DataFrame(
        [{"task": TASKS[0].id, "rule": rule, "seed": s, "expected": 1.05, "argmax": a, "cheapest": 0.4, "entropy": 1.0}
         for rule, ends in (("log-ratio", (0.97, 1.3)), ("pressure", (0.96, 0.99)), ("fixed", (0.4, 0.4)))
         for s, a in enumerate(ends)]
    )  # fmt: skip
    rows = {c.id: c.row(e, "quick") for c, e in experiment._contrasts(tables | {"search": search}, config)}
    assert verdict("search.argmax") == PARTLY
    assert verdict("search.expected") == verdict("search.entropy") == REPRODUCED
    assert verdict("control.fixed") == verdict("control.pressure") == REPRODUCED


def test_ledger_has_every_published_cell_and_tests_nothing_from_memory(result):
    rows = {row["id"]: row for row in result.rows}
    assert len(rows) == len(result.rows)
    cells = published("agd")
    assert set(cells.index) <= set(rows)
    for key, ours in analytic.recomputed().items():
        assert rows[key]["value"] == pytest.approx(ours)
    assert rows["agd.esrgan.cost"]["verdict"] == rows["agd.esrgan.size"]["verdict"] == REPRODUCED
    assert rows["agd.zebra2horse.cost"]["verdict"] == CONTRADICTED
    assert rows["agd.sr_student.cost"]["verdict"] == NOT_TESTABLE
    assert rows["agd.sr_student.not_searched"]["value"] == pytest.approx(84.5, abs=0.1)
    assert not cells["verified"].any()


# --- figures and explorers -------------------------------------------------------------------------------------------

FIGURES = ["quality", "contrasts", "search", "ends", "plane", "pictures", "conventions", "energy"]


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_saved_with_their_tables(name, result, tmp_path, monkeypatch):
    saved(getattr(views, name), result, tmp_path, monkeypatch)
    assert {f.suffix for f in (tmp_path / "agd").iterdir()} == {".csv", ".png", ".svg"}


def test_random_designs_enter_the_figures_as_mean_and_best(result):
    table, arms = views.by_arm(result), result.tables["arms"]
    own = arms[(arms["task"] == TASKS[0].id) & (arms["seed"] == 0) & arms["arm"].str.startswith("random")]
    shown = table[(table["task"] == TASKS[0].id) & (table["seed"] == 0)].set_index("arm")["score"]
    assert shown["random, mean"] == pytest.approx(own["score"].mean())
    assert shown["random, best"] == own.loc[own["validation"].idxmax(), "score"]


def test_search_explorer_shows_the_probabilities_of_the_trace(result):
    shown = explorers.explore_search(result)
    trace = result.extra["trace"][TASKS[1].id]
    last = shown(task=TASKS[1].id, step=len(trace.operators))
    layers = TASKS[1].skeleton.layers
    np.testing.assert_allclose(last["Operators"][:layers], trace.operators[-1].numpy(), rtol=1e-6)
    np.testing.assert_allclose(last["Widths"][:layers], trace.widths[-1].numpy(), rtol=1e-6)
    assert np.isnan(last["Operators"][layers:]).all()
    assert not np.array_equal(shown(step=1)["Operators"], shown(step=3)["Operators"])


def test_plane_explorer_names_the_best_design_within_the_budget(result):
    points = views.plane_points(result)
    own = points[(points["task"] == TASKS[0].id) & (points["arm"] != "teacher")]
    shown = explorers.explore_plane(result)
    for share in (0.8, 1.0, 1.6):
        allowed = own[own["macs"] <= share * budget(TASKS[0])]
        drawn = shown(task=TASKS[0].id, budget=share)
        best = allowed.loc[allowed["score"].idxmax()]
        assert drawn["Best within the budget"] == {"found by": best["arm"], "score": f"{best['score']:.2f}"}
        assert best["design"] in drawn["text"]


def test_pictures_explorer_shows_what_the_networks_made(result):
    shown = explorers.explore_pictures(result)
    kept = result.extra["pictures"][TASKS[0].id]
    drawn = shown(task=TASKS[0].id, picture=2, arm="uniform")
    np.testing.assert_allclose(drawn["Student"], kept["uniform"][1], rtol=1e-6)
    np.testing.assert_allclose(drawn["Teacher"], kept["teacher"][1], rtol=1e-6)
    error = 100 * np.abs(kept["uniform"][1] - kept["teacher"][1]).mean()
    assert drawn["Mean difference to the teacher"]["student"] == f"{error:.1f} %"


def test_budget_explorer_collapses_with_a_fixed_weight_only():
    shown = explorers.explore_budget()
    assert shown(rule="fixed", weight=3.2, budget=400)["In the end"]["most probable"] == "1x1"
    assert shown(rule="fixed", weight=0.0, budget=400)["In the end"]["most probable"] == "residual"
    held = shown(rule="log-ratio", weight=3.2, budget=400)["In the end"]["expected cost"]
    assert abs(float(held.removesuffix(" MACs")) - 400) < 40


def test_other_explorers_say_what_they_show(result):
    assert "1,175 to 2,350" in explorers.explore_conventions(result)()["text"].replace("1175", "1,175").replace(
        "2350", "2,350"
    )
    assert "µJ" in explorers.explore_energy(result)()["text"]
