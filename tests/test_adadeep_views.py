"""AdaDeep's figures are saved with their tables, and its explorers show what the table and the formulas say."""

from itertools import product

import numpy as np
import pytest
import torch
from test_adadeep_experiment import TINY, tiny_run

from workbench import figures, hardware
from workbench.papers.adadeep import explorers, record, views
from workbench.papers.adadeep.measure import DESIGNS, SPACES, Split
from workbench.papers.adadeep.platforms import part_cost, platform
from workbench.papers.adadeep.study import NONE, PERSONAS
from workbench.papers.adadeep.techniques import Shape, parts

DRAWN = ("combinations", "designs", "reductions", "by_demand", "searches", "learning", "reward_forms", "again")
DRAWN += ("counts", "energy")


@pytest.fixture(scope="module")
def result():
    return tiny_run()


@pytest.fixture(scope="module")
def demand(result):
    return explorers.explore_demand(result)


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_saved_with_its_table(result, name, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUT", str(tmp_path))
    getattr(views, name)(result)
    table, meta = figures.load(tmp_path / "adadeep" / f"{name}.csv")
    assert len(table)
    assert meta["parameters"]["evaluations"] == TINY["evaluations"]
    assert len(meta["data"]) == 33, "the digits' hash, and the recorded table's"
    for ending in ("png", "svg"):
        assert (tmp_path / "adadeep" / f"{name}.{ending}").stat().st_size > 4000


@pytest.mark.parametrize(
    "state",
    [
        {"loss": 4.0, "latency": 1.0, "storage": 0.2, "energy": 0.5, "platform": "stm32f7"},
        {"loss": 2.0, "latency": 0.5, "storage": 1.0, "energy": 1.0, "platform": "eyeriss"},
        {"loss": 8.0, "latency": 0.2, "storage": 0.2, "energy": 0.0, "platform": "sparse"},
    ],
)
def test_the_demand_explorer_ranks_as_brute_force_does(result, demand, state):
    study = result.extra["study"]
    lost = (study.val - study.val[:, [NONE]]).mean(0).round(decimals=4)
    spread = study.costs(state["platform"])
    share = spread / spread[NONE]
    allowed = (lost >= -state["loss"]) & (share[:, 0] <= state["latency"]) & (share[:, 2] <= state["storage"])
    drawn = demand(**state)
    assert allowed.any()
    gained = ((lost + state["loss"]) / state["loss"]).clamp(max=1)
    saved = (spread[NONE, 1] - spread[:, 1]) / (spread[NONE, 1] - spread[:, 1].min())
    value = (1 - state["energy"]) * gained + state["energy"] * saved
    best = max(torch.where(allowed)[0].tolist(), key=lambda at: float(value[at]))
    counters = drawn["The best design"]
    assert counters["convolution 2, 3, linear"] == ", ".join(DESIGNS[best])
    assert counters["feasible"] == f"{int(allowed.sum())} of {len(DESIGNS)}"
    lines = drawn["All measured designs, a line each"]
    assert lines["rows"].shape == (len(DESIGNS), 7)
    assert lines["best"][0] == best
    np.testing.assert_allclose(lines["rows"][best, 3:], [float(lost[best]), *(100 * share[best])], rtol=1e-4, atol=1e-4)
    for at, (space, technique) in enumerate(zip(SPACES, DESIGNS[best], strict=True)):
        assert lines["rows"][best, at] == len(space) - 1 - space.index(technique)
    order = [at for at in lines["best"].tolist() if at == at]
    assert [float(value[int(at)]) for at in order] == sorted((float(value[int(at)]) for at in order), reverse=True)
    assert allowed[np.array(order, int)].all()
    image = drawn["Technique by layer"]
    rows = views.TECHNIQUES[::-1]
    for layer, technique in enumerate(DESIGNS[best]):
        assert image[rows.index(technique), layer] == 1
        assert np.nansum(image[:, layer]) == 1
        assert int(np.isfinite(image[:, layer]).sum()) == len(SPACES[layer])


def test_where_nothing_is_feasible_it_says_so(demand):
    drawn = demand(loss=1.0, latency=0.1, storage=0.1, energy=0.5, platform="tx2")
    assert "none is feasible" in drawn["text"]
    assert drawn["The best design"]["accuracy"] == "-"
    assert np.isnan(drawn["All measured designs, a line each"]["best"]).all()


def test_what_the_page_colours_is_what_is_feasible(demand):
    """The page compares in float32, line by line; the count comes from Python."""
    budgets = [explorers.BUDGETS] * 2
    for loss, latency, storage, on in product(explorers.LOSSES, *budgets, explorers.PLATFORMS):
        drawn = demand(loss=loss, latency=latency, storage=storage, platform=on)
        lines = drawn["All measured designs, a line each"]
        low, high = lines["within"].T
        coloured = ((lines["rows"] >= low) & (lines["rows"] <= high)).all(1)
        assert int(coloured.sum()) == int(drawn["The best design"]["feasible"].split()[0])


def test_each_slider_ranks_anew(demand):
    start = {"loss": 4.0, "latency": 0.5, "storage": 0.5, "energy": 0.75, "platform": "stm32f7"}
    assert demand()["text"] == demand(**start)["text"], "it starts where every control matters"
    budgets = dict.fromkeys(("latency", "storage"), explorers.BUDGETS)
    swept = {"loss": explorers.LOSSES, "energy": explorers.WEIGHTS, "platform": explorers.PLATFORMS, **budgets}
    for name, values in swept.items():
        seen = {demand(**{**start, name: value})["The best design"]["convolution 2, 3, linear"] for value in values}
        assert len(seen) >= 2, name
    counts = [int(demand(**{**start, "latency": b})["The best design"]["feasible"].split()[0]) for b in (0.2, 0.5, 1.0)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_the_technique_explorer_counts_as_the_formulas_do():
    explorer = explorers.explore_technique()
    drawn = explorer(inputs=64, outputs=128, side=16, kind="conv", platform="tx2")
    shape, on = Shape("conv", 64, 128, 3, 16), platform("tx2")
    shown = [t for t in views.TECHNIQUES if t != "gap"]
    whole = part_cost(parts("none", shape)[0], on)
    for technique in ("svd", "separable", "deep", "fire"):
        found = parts(technique, shape)
        weights = 100 * sum(p.nonzero for p in found) / 73_728
        at = shown.index(technique)
        assert drawn["Weights that are not zero"]["weights"][at] == pytest.approx(weights, rel=1e-5)
        latency = sum(part_cost(p, on)[0] - on.overhead for p in found)
        wanted = 100 * latency / (whole[0] - on.overhead)
        assert drawn["Cost on this platform"]["latency"][at] == pytest.approx(wanted, rel=1e-5)
    linear = explorer(kind="linear", inputs=64, outputs=128, side=16, platform="tx2")
    assert np.isnan(linear["Weights that are not zero"]["weights"][shown.index("fire")])


def test_the_agents_explorer_outlines_the_largest_values(result):
    explorer = explorers.explore_agents(result)
    drawn = explorer(user="drone", walk=1)
    image, cells = (drawn[key] for key in ("Q-values along the greedy walk", "Q-values along the greedy walk: cells"))
    for row, layer in cells.astype(int):
        assert image[row, layer] == np.nanmax(image[:, layer])
    choice = tuple(views.TECHNIQUES[::-1][row] for row in cells[:, 0].astype(int))
    rewards = result.extra["study"].rewards(PERSONAS["drone"], "val")[0]
    assert drawn["The agents' own choice"]["design"] == ", ".join(choice)
    assert drawn["The agents' own choice"]["best there is"] == f"{float(rewards.max()):.2f}"
    assert float(rewards[DESIGNS.index(choice)]) == pytest.approx(
        float(drawn["What they expect of their choice, and get"]["true"][0]), abs=1e-5
    )


def test_explorers_are_light(result, demand):
    sizes = [len(e.html()) for e in (demand, explorers.explore_technique(), explorers.explore_agents(result))]
    assert sum(sizes) < 3_000_000


def test_layers_for_the_hardware_model_have_their_own_bits_and_zeros():
    net, x = record.network(0), Split.draw(0).x
    found = {layer.name: layer for layer in views.layers(net, ("deep", "bits4", "svd"), x)}
    assert [layer.weight_bits for layer in found.values()] == [8, 4, 4, 8, 8, 8]
    deep = next(layer for layer in found.values() if layer.weight_bits == 4)
    assert deep.weight_zeros == pytest.approx(0.8, abs=0.001)
    assert deep.weight_store == pytest.approx(0.2 * 4 + 1, abs=0.01)
    plain = hardware.breakdown(views.layers(net, ("none",) * 3, x))["pj"].sum()
    assert hardware.breakdown(list(found.values()))["pj"].sum() < plain
