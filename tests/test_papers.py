"""The registry of papers, and how a configuration refuses what cannot run."""

import pytest

from workbench import WorkbenchError, papers
from workbench.papers.gebt import cost, views
from workbench.papers.gebt.experiment import Config


def test_ten_papers_have_distinct_keys_and_numbers():
    assert [paper.number for paper in papers.PAPERS] == list(range(1, 11))
    assert len({paper.key for paper in papers.PAPERS}) == len({paper.arxiv for paper in papers.PAPERS}) == 10


def test_an_unknown_paper_is_refused_by_naming_the_known_ones():
    with pytest.raises(WorkbenchError, match=r"gebt.*adadeep"):
        papers.paper("nope")


def test_a_paper_without_a_notebook_says_that_it_is_not_built(monkeypatch, tmp_path):
    monkeypatch.setattr(papers, "ROOT", tmp_path)
    with pytest.raises(WorkbenchError, match="not built yet"):
        papers.experiment("gebt")


@pytest.mark.parametrize("scale", list(Config.SCALES))
def test_every_scale_is_valid_and_leaves_no_value_out(scale):
    config = Config.at(scale)
    assert config.scale == scale
    assert config.record("gebt")["paper"] == "gebt"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"eta_": 1}, "unknown parameter eta_: choose from"),
        ({"eta": -0.1}, "eta must be positive"),
        ({"eta": "high"}, "eta must be a float"),
        ({"p_g": 1.0}, r"p_g must lie in \[0, 1\)"),
        ({"seeds": 1}, "seeds must be at least 2"),
        ({"seeds": 5.5}, "seeds must be a int"),
        ({"draw_epochs": 31}, r"draw_epochs must lie in 1..epochs \(30\)"),
        ({"datasets": "reddit"}, "datasets must be among"),
    ],
)
def test_a_bad_parameter_is_refused_in_one_line(overrides, message):
    with pytest.raises(WorkbenchError, match=message) as error:
        Config.at("quick", **overrides)
    assert "\n" not in str(error.value)


def test_an_unknown_scale_is_refused_by_naming_the_known_ones():
    with pytest.raises(WorkbenchError, match="quick, full, paper"):
        Config.at("huge")


def test_none_leaves_the_scales_own_value_and_a_scalar_stands_for_a_tuple():
    assert Config.at("full", eta=None).eta == Config.at("full").eta
    assert Config.at("quick", p_g=0.3).p_g == (0.3,)
    assert Config.at("quick", p_g=0.3).retrained == (0.3,)


def test_the_cost_explorer_says_the_published_cells():
    explorer = views.explore_costs()
    assert "24.93 million MACs" in explorer(dataset="cora", p_g=0.2, p_w=0.8)["text"]
    assert "51.20 million MACs" in explorer(dataset="citeseer", p_g=0.1, p_w=0.9)["text"]
    sparse = explorer(counter=cost.COUNTERS[-1], p_g=0.0, p_w=0.0)["This ticket"]["million MACs"]
    assert float(sparse) < 2  # the dense network beats every ticket, once zeros are skipped
