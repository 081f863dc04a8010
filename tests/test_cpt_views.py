"""CPT's figures and explorers on a tiny run, against the schedules, the quantiser and the tables behind them."""

import numpy as np
import pytest
from common import saved
from test_cpt_experiment import TINY

from workbench.evidence import published
from workbench.explorer import MAX_BYTES
from workbench.papers.cpt import method, views
from workbench.papers.cpt.experiment import Config, run

FIGURES = ("schedules", "cells", "contrasts", "costs", "curves", "sharpness", "line", "plane", "range_accuracy")
FIGURES += ("variance", "reestimation", "energy")


@pytest.fixture(scope="module")
def result():
    return run(Config.at("quick", **(TINY | {"seeds": 3, "language_seeds": 3})))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_saved_with_its_table(name, result, tmp_path, monkeypatch):
    table, _ = saved(getattr(views, name), result, tmp_path, monkeypatch)
    if name == "contrasts":
        row = table[(table["setting"] == "licence") & (table["arm"] == "CPT")].iloc[0]
        ledger = {r["id"]: r for r in result.rows}["cpt.licence.loss_vs_static8"]
        assert row["difference"] == pytest.approx(-ledger["value"], rel=1e-5)


def test_all_figures_draw_an_arm_alike(result):
    styles = [tuple(style.values()) for style in views._style(result).values()]
    assert len(set(styles)) == len(styles)


def test_the_schedule_designer_reproduces_every_printed_saving():
    explorer, cells = views.explore_schedules(), published("cpt")
    printed = cells[cells.index.str.contains(r"\.saving_")]["value"]
    for low, high, g in ((3, 8, 8), (3, 6, 6), (4, 8, 8), (4, 6, 6), (5, 8, 8), (4, 6, 8), (5, 6, 8)):
        shown = explorer(low=low, high=high, error_bits=g)["This schedule"]
        assert shown["the paper prints"] != "not in its tables"
        saved = float(shown["saved against the static upper bound"].rstrip(" %"))
        bits = [round(low + 0.5 * (high - low) * (1 - np.cos(np.pi * i / 2000))) for i in range(2000)]
        exact = 100 * (1 - np.mean([b * b + 2 * b * g for b in bits]) / (high * high + 2 * high * g))
        assert saved == pytest.approx(exact, abs=0.006)
        for said in shown["the paper prints"].split("; "):
            assert float(said.split(" %")[0]) in printed.tolist()
    assert explorer()["This schedule"]["saved against the static upper bound"] == "36.67 %"
    assert "all six networks" in explorer()["This schedule"]["the paper prints"]
    for change in ({"shape": "triangle"}, {"cycles": 8}, {"low": 2}):
        assert explorer(**change)["This schedule"]["the paper prints"] == "not in its tables"


@pytest.mark.parametrize("shape", views.SHAPES)
def test_the_schedule_designer_draws_what_it_counts(shape):
    drawn = views.explore_schedules()(low=4, high=8, cycles=4, error_bits=6, shape=shape)
    bits = views.SHAPES[shape](512, 4, 8, 4)
    assert drawn["Bits of weights and inputs"]["bits"].tolist() == bits.tolist()
    used = drawn["BitOps used so far"]["this schedule"]
    exact = method.cyclic(64_000, 4, 8, 4) if shape == "shuffled" else views.SHAPES[shape](64_000, 4, 8, 4)
    exact = (exact * exact + 12 * exact).double().cumsum(0) / (64_000 * (64 + 96)) * 100
    assert used[-1] == pytest.approx(exact[-1].item(), rel=1e-6)
    assert used[0] == 0
    if shape != "shuffled":  # drawn there as the straight line that it is on average
        assert used[1:].tolist() == pytest.approx(exact[999::1000].tolist(), rel=1e-5)
    if shape == "static":
        assert drawn["This schedule"]["saved against the static upper bound"] == "0.00 %"


def test_a_lower_bound_above_the_upper_one_is_said():
    assert "6 bits (in effect 4) to 4 bits" in views.explore_schedules()(low=6, high=4)["text"]


def test_levels_zero_and_the_mean_of_many_roundings():
    explorer = views.explore_levels()
    for bits in (1, 3):
        drawn = explorer(bits=bits)
        assert drawn["In numbers"]["levels used"] == str(2**bits)
        assert np.count_nonzero(drawn["Histogram"]["after"]) == 2**bits
        assert drawn["Histogram"]["after"].sum() == pytest.approx(100, rel=1e-4)
    assert explorer(tensor="inputs after a ReLU", bits=2)["In numbers"]["zero becomes"] == "0.000"
    assert abs(float(explorer(tensor="weights, both signs", bits=2)["In numbers"]["zero becomes"])) > 0.01
    near, dice = (explorer(bits=2, rounding=r)["What a number becomes"] for r in ("nearest", "stochastic"))
    bias = lambda one: np.abs(one["mean of 200"] - one["unrounded"])  # noqa: E731
    step = np.ptp(near["unrounded"]) / 3
    assert bias(near).max() == pytest.approx(step / 2, rel=0.06)
    assert bias(dice).max() < 5 * step / 2 / 200**0.5
    assert not np.array_equal(dice["one rounding"], dice["mean of 200"])


def test_the_range_explorer_moves_its_bound_with_the_threshold(result):
    explorer, table = views.explore_range(result), result.tables["range"]
    mean = table[table["mode"] == "fresh"].groupby("bits")["accuracy"].mean()
    for threshold in (2, 10, 50):
        gains = mean.diff().dropna()
        large = gains.index[gains > threshold]
        said = explorer(mode="fresh", threshold=threshold)["text"]
        assert (f"lower bound is {large[0]} bits" if len(large) else "no gain is that large") in said


def test_the_landscape_explorer_cuts_where_it_says(result):
    explorer, table = views.explore_landscape(result), result.tables["plane"]
    drawn = explorer(arm="shuffled", y=1)
    row = table[(table["arm"] == "shuffled") & (table["y"] == 1)].sort_values("x")["loss"]
    assert drawn["Along the cut"]["chosen arm"].tolist() == pytest.approx(row.tolist(), rel=1e-6)
    assert drawn["Training loss around the weights"][-1].tolist() == pytest.approx(np.log10(row).tolist(), rel=1e-5)
    assert drawn["Along the cut"]["static 8"].tolist() != drawn["Along the cut"]["chosen arm"].tolist()


def test_explorers_are_light(result):
    for explorer in (
        views.explore_schedules(), views.explore_levels(), views.explore_range(result), views.explore_landscape(result)
    ):  # fmt: skip
        assert len(explorer.html()) < MAX_BYTES
