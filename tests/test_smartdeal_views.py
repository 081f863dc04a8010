"""SmartDeal's figures and explorers on a tiny run, against the method and the tables behind them."""

import numpy as np
import pytest
import torch
from common import saved
from test_smartdeal_experiment import TINY

from workbench.explorer import MAX_BYTES
from workbench.papers.smartdeal import explorers, published, views
from workbench.papers.smartdeal.decompose import alternate
from workbench.papers.smartdeal.experiment import OURS, Config, run
from workbench.papers.smartdeal.storage import code_width

FIGURES = ("formats", "contrasts", "frontier", "statistics", "adaptation", "buckets", "cells", "training_storage")
FIGURES += ("energy", "chip")


@pytest.fixture(scope="module")
def result():
    return run(Config.at("quick", **TINY))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_saved_with_its_table(name, result, tmp_path, monkeypatch):
    table, _ = saved(getattr(views, name), result, tmp_path, monkeypatch)
    if name == "contrasts":
        row = table[(table["level"] == "0.5") & (table["against"] == "uniform 3 bit")].iloc[0]
        ledger = {r["id"]: r for r in result.rows}[f"smartdeal.{row['setting']}.0.5.vs_uniform_3_bit"]
        assert row["difference"] == pytest.approx(ledger["value"], rel=1e-5, abs=1e-5)


def test_all_figures_draw_a_format_alike():
    assert len({style[:2] for style in views.STYLES.values()}) == len(views.STYLES)


def test_the_filter_explorer_shows_the_alternation(result):
    explorer = explorers.explore_decomposition(result)
    wide = result.tables["filters"].pivot(index="row", columns="column", values="weight")
    w = torch.tensor(wide.to_numpy(), dtype=torch.float64)
    *_, (c, b) = alternate(w[None], 0.7 * float(w.std()), True, explorers.ITERATIONS)
    drawn = explorer(threshold=0.7, rows="on")
    np.testing.assert_allclose(drawn["W as trained"], w.T, rtol=1e-6)
    np.testing.assert_allclose(drawn["B"], b[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(drawn["Ce B"], (c @ b)[0].T, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(np.sign(drawn["Ce"]), np.sign(c[0].T))
    shifts = drawn["Ce"][drawn["Ce"] != 0]
    assert np.abs(shifts).min() >= 1
    distinct = len(np.unique(np.abs(shifts)))
    bits = int(drawn["This filter"]["bits"])
    assert bits == code_width(distinct) * len(shifts) + w.numel() + 72
    error = float((c[0] @ b[0] - w).norm() / w.norm())
    assert drawn["By iteration"]["relative error"][-1] == pytest.approx(100 * error, rel=1e-4)
    assert drawn["By iteration"]["zeros in Ce"][0] < drawn["By iteration"]["zeros in Ce"][-1]
    few = explorer(exponents=2)
    assert len(np.unique(np.abs(few["Ce"][few["Ce"] != 0]))) <= 2


def test_the_formats_explorer_reads_the_frontier(result):
    explorer, table = explorers.explore_formats(result), result.tables["frontier"]
    for setting in table["setting"].unique():
        own = table[(table["setting"] == setting) & (table["threshold"] == 0.9)].groupby("arm")["error"].mean()
        drawn = explorer(setting=setting, threshold=0.9)
        assert drawn["At this threshold"]["nearest to the weights"] == own.idxmin()
        assert drawn["By threshold"][OURS][-1] == pytest.approx(own[OURS], rel=1e-5)
        assert drawn["Here"]["relative error"].tolist() == pytest.approx([own[arm] for arm in views.STYLES], rel=1e-5)


def test_the_bucket_explorer_jumps_when_the_bucket_is_full():
    explorer = explorers.explore_bucket()
    for bar in (1, 7):
        drawn = explorer(bar=bar, push="down", ignore=0.0)
        values, counters = drawn["The coefficient"]["C"], drawn["The bucket"]["bucket"]
        jumps = np.diff(values, prepend=4) != 0  # 0.25 is three doublings above the smallest
        assert int(drawn["In 84 steps"]["jumps"]) == jumps.sum() > 0
        assert np.abs(counters).max() < bar
        assert (counters[jumps] == 0).all()
        assert values[-1] < 4
        assert np.abs(np.diff(values)).max() == 1
    assert explorer(bar=15, push="down")["In 84 steps"]["jumps"] == "0"


def test_the_hardware_explorer_counts_bits_and_energy():
    explorer = explorers.explore_hardware()
    drawn = explorer(sparsity=0.6, network="vgg11")
    size = published.sizes("vgg11")
    assert sum(v[0] for v in drawn["Stored weights"].values()) == pytest.approx(size.bits(0.6) / 8e6, rel=1e-6)
    table = published.energies("vgg11", (0.6,))
    own = table[(table["accelerator"] == "45 nm") & (table["arm"] == OURS)]["pj"].sum() / 1e9
    total = sum(values.sum() for values in drawn["Energy by level"].values())
    assert total == pytest.approx(own, rel=1e-5)
    free, dense = (explorer(sparsity=0.6, network="vgg11", engine=e) for e in ("free rebuild", "dense 8 bit"))
    assert free["Energy by level"]["weights"][0] == 0 < drawn["Energy by level"]["weights"][0]
    assert dense["One image"]["dense 8 bit over this"] == "1.00 x"


def test_explorers_are_light(result):
    for explorer in (
        explorers.explore_decomposition(result), explorers.explore_formats(result), explorers.explore_bucket(),
        explorers.explore_hardware(),
    ):  # fmt: skip
        assert len(explorer.html()) < MAX_BYTES
