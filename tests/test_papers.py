"""The registry of papers, and how a configuration refuses what cannot run."""

import shlex
from importlib import import_module
from typing import Annotated, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from workbench import WorkbenchError, cli, papers, runner
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
        ({"eta": -0.1}, "eta must be above 0"),
        ({"eta": "high"}, "eta must be a number"),
        ({"p_g": 1.0}, "p_g must be at least 0 and at most"),
        ({"seeds": 1}, "seeds must be at least 2"),
        ({"seeds": 5.5}, "seeds must be a whole number"),
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


# --- every parameter of every paper ------------------------------------------------------------------------------

CONFIGS = {paper.key: import_module(f"workbench.papers.{paper.key}.experiment").Config for paper in papers.PAPERS}
NAMES = [(key, name) for key, config in CONFIGS.items() for name in papers.descriptions(config)]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.floats(), st.integers(-3, 40), st.sampled_from((10**30, -(10**30), 2**31, 2**53)),
    st.text(max_size=12), st.sampled_from(("inf", "digits", "digits 240 8", "0.5 rows", "edp inf", "2 8 nan")),
    st.complex_numbers(), st.binary(max_size=3),
)  # fmt: skip
ODD = st.recursive(
    SCALARS, lambda s: st.lists(s, max_size=4) | st.tuples(s, s) | st.dictionaries(st.text(), s), max_leaves=5
)


def numbers(value):
    if isinstance(value, tuple):
        return [number for item in value for number in numbers(item)]
    return [value]


@given(st.sampled_from(NAMES), ODD)
def test_a_value_of_any_kind_is_refused_in_one_line_or_is_what_the_parameter_takes(where, value):
    name, config = where[1], CONFIGS[where[0]]
    try:
        found, line = getattr(config.at("quick", **{name: value}), name), None
    except WorkbenchError as error:
        line = str(error)
    if line is not None:
        assert "\n" not in line
        assert name in line, "the line must name what was given"
        return
    # An oracle of its own: the kind of the field's default, finite, and lists neither empty nor with doubles.
    default = next(field.default for field in papers.fields(config) if field.name == name)
    assert {type(item) for item in numbers(found)} == {type(item) for item in numbers(default)}
    assert all(abs(item) < 2**53 for item in numbers(found) if not isinstance(item, str))
    if isinstance(default, tuple):
        assert found
        assert name == "channel_widths" or len(set(found)) == len(found)


@pytest.mark.parametrize(("key", "name"), NAMES)
def test_bounds_are_where_the_description_says(key, name):
    config, hint = CONFIGS[key], papers.descriptions(CONFIGS[key])[name]
    while get_origin(hint) is tuple or (get_origin(hint) is Annotated and get_origin(get_args(hint)[0]) is tuple):
        hint = get_args(hint)[0]
    for bound in [c for c in getattr(hint, "__metadata__", ()) if isinstance(c, papers.Range)]:
        for outside in (bound.low - 1, bound.high + 1):
            with pytest.raises(WorkbenchError, match=name):
                config.at("quick", **{name: outside})


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("shiftaddnet", {"bits": []}), ("shiftaddnet", {"bits": [8, 8]}), ("shiftaddnet", {"sparsities": []}),
        ("gebt", {"p_g": []}), ("gebt", {"p_g": (0.3, 0.3)}), ("gebt", {"seed": -1}), ("gebt", {"growth_edges": (-5,)}),
        ("gebt", {"channel_widths": (0,)}), ("gebt", {"datasets": ()}), ("gebt", {"pairs": ((0.2, 0.8, 0.1),)}),
        ("fractrain", {"targets": []}), ("spline", {"lr": float("inf")}), ("dna", {"seeds": 10**30}),
        ("a2d", {"budget": 10**30}), ("smartdeal", {"levels": "inf"}), ("a2d", {"student": "8 32 nan"}),
        ("dna", {"objectives": ("edp ²", "latency 6")}), ("dna", {"objectives": ("edp " + "9" * 400, "latency 6")}),
        ("adadeep", {"margin": float("nan")}),
    ],
)  # fmt: skip
def test_what_used_to_fail_after_minutes_is_refused_at_once(key, wrong):
    with pytest.raises(WorkbenchError, match=next(iter(wrong))):
        CONFIGS[key].at("quick", **wrong)


def test_right_values_pass():
    assert CONFIGS["gebt"].at("quick", p_g=[0.3, 0.5], pairs=[[0.2, 0.8], [0, 0.5]]).pairs == ((0.2, 0.8), (0.0, 0.5))
    assert CONFIGS["gebt"].at("quick", pairs=(0.2, 0.8)).pairs == ((0.2, 0.8),)
    assert CONFIGS["smartdeal"].at("quick", levels=["0.3", "0.5 rows"]).levels == ("0.3", "0.5 rows")
    assert CONFIGS["shiftaddnet"].at("quick", lr=1).lr == 1.0
    assert CONFIGS["a2d"].at("quick", student_steps=4000).student_steps == 4000


def test_a_message_names_what_was_given_and_shows_how_a_shell_passes_text():
    with pytest.raises(WorkbenchError, match=r"^seed must be below 5, the last one recorded; got 5$"):
        CONFIGS["dna"].at("quick", seed=5)
    with pytest.raises(WorkbenchError, match=r"^student_steps must reach student_reading"):
        CONFIGS["a2d"].at("quick", student_steps=1000)
    with pytest.raises(WorkbenchError, match="""-p 'levels="2"'"""):
        CONFIGS["smartdeal"].at("quick", levels=2)
    with pytest.raises(WorkbenchError, match=r"\(with fifo=50\)|fifo"):
        CONFIGS["gebt"].at("quick", fifo=50)


# --- the command of a row ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "scale", "own"),
    [
        ("adadeep", "quick", {"margin": 3.0}),
        ("adadeep", "full", {"seed": 1, "seeds": 3}),
        ("gebt", "paper", {"p_g": (0.3, 0.5), "eta": 1e-05}),
        ("smartdeal", "quick", {"levels": ("0.3", "0.5 rows"), "bar": 3}),
        ("dna", "quick", {"objectives": ("edp 3", "latency 6", "edp 5"), "templates": ("asic", "systolic")}),
        ("cpt", "quick", {}),
    ],
)
def test_the_command_of_a_row_pasted_gives_the_same_configuration(key, scale, own, monkeypatch):
    config, seen = CONFIGS[key].at(scale, **own), []
    monkeypatch.setattr(runner, "run", lambda paper, at, given, _: seen.append((paper, CONFIGS[paper].at(at, **given))))
    monkeypatch.setattr(runner, "figures", lambda keys, at, *_: seen.append((keys[0], CONFIGS[keys[0]].at(at))))
    program, *arguments = shlex.split(config.command(key))
    result = CliRunner().invoke(cli.app, arguments)
    assert (program, result.exit_code, seen) == ("workbench", 0, [(key, config)])
    assert (arguments[0] == "run") == bool(own)
