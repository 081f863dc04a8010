"""DNA's figures and explorers on a tiny run, against the tables behind them."""

import numpy as np
import pytest
import torch
from common import saved
from test_dna_experiment import tiny

from workbench.explorer import MAX_BYTES
from workbench.papers.dna import explorers, views
from workbench.papers.dna.accelerators import RULES, TEMPLATES, costs
from workbench.papers.dna.study import workload

FIGURES = ("pairs", "regret", "unlimited", "macs", "gradients", "supernet", "fbnet", "energy")


@pytest.fixture
def result():
    return tiny()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_saved_with_its_table(name, result, tmp_path, monkeypatch):
    table, _ = saved(getattr(views, name), result, tmp_path, monkeypatch)
    if name == "regret":
        row = table.query("template == 'asic' and objective == 'edp 3' and method == 'random' and questions == 16")
        own = result.tables["searches"]
        own = own.query("template == 'asic' and objective == 'edp 3' and method == 'random' and questions == 16")
        assert float(row["held_out"].iloc[0]) == pytest.approx(own["held_out"].mean(), rel=1e-5)


def test_all_figures_draw_a_search_alike():
    assert len({style[:2] for style in views.STYLES.values()}) == len(views.STYLES)


def test_no_layer_is_above_its_roof_and_more_bandwidth_is_never_slower(result):
    explorer = explorers.explore_roofline(result)
    for dataflow in ("row", "weight", "output"):
        before = None
        for bandwidth in explorers.BANDWIDTHS:
            drawn = explorer(array=16, bandwidth=bandwidth, dataflow=dataflow)
            dots = np.concatenate([drawn["Roofline"][kind] for kind in explorers.KINDS])
            roof = np.minimum(np.log10(256), dots[:, 0] + np.log10(bandwidth / 8))
            assert (dots[:, 1] <= roof + 1e-4).all()
            assert before is None or (dots[:, 1] >= before - 1e-4).all()
            before = dots[:, 1]
    assert "of 9 layers" in drawn["The network conv3 sep3 conv1 sep3"]["under the slope"]


def test_the_pipeline_explorer_shows_the_slowest_chunk(result):
    explorer, found = explorers.explore_pipeline(result), costs(workload(4, 4), TEMPLATES["asic"])
    net = torch.tensor([views.SHOWN["sep3 everywhere"]])
    for rule in RULES:
        drawn = explorer(net="sep3 everywhere", rule=rule, template="asic")
        bars = drawn["Work and waiting"]
        assert sum(part[0] for part in bars.values()) == pytest.approx(sum(part[1] for part in bars.values()), rel=1e-5)
        assert min(bars["waits"]) == pytest.approx(0, abs=1e-6)
        ms = float(found.best(net, [RULES.index(rule)])["latency"][0])
        assert drawn["The fastest accelerator under this rule"]["frames a second"] == f"{1e3 / ms:,.0f}"
        slow = "chunk 1" if bars["waits"][0] < 1e-6 else "chunk 2"
        assert f"{slow} is the bottleneck" in drawn["text"]


def test_the_regret_explorer_reads_the_table(result):
    explorer, table = explorers.explore_regret(result), result.tables["searches"]
    drawn = explorer(asked=8, template="systolic", objective="latency 6", scored="as searched")
    own = table.query("template == 'systolic' and objective == 'latency 6' and questions == 8")
    means = own.groupby("method")["regret"].mean()
    assert drawn["Here"]["regret"].tolist() == pytest.approx([means[m] for m in explorers.ASKING], rel=1e-4)
    assert drawn["Lowest regret here"]["search"] == means[list(explorers.ASKING)].idxmin()


def test_explorers_are_light(result):
    for name in ("explore_roofline", "explore_pipeline", "explore_regret"):
        assert len(getattr(explorers, name)(result).html()) < min(MAX_BYTES, 300_000)
