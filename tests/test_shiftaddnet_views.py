"""ShiftAddNet's figures and explorers on a tiny run, against its tables, brute force and sums by hand."""

import math
import re
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from common import saved
from test_shiftaddnet_experiment import tiny

from workbench.explorer import MAX_BYTES
from workbench.hardware import unit_energy
from workbench.papers.shiftaddnet import energy, explorers, views
from workbench.papers.shiftaddnet.experiment import FULL, MODES
from workbench.papers.shiftaddnet.method import KINDS
from workbench.papers.shiftaddnet.shift import round_power


@pytest.fixture(scope="module")
def result():
    return tiny()


@pytest.fixture(scope="module")
def shown(result):
    """Every explorer by name."""
    found = (
        explorers.powers(), explorers.response(), explorers.operations(result), explorers.robustness(result),
        explorers.budget(result),
    )  # fmt: skip
    return {explorer.name.removeprefix("shiftaddnet-"): explorer for explorer in found}


# --- figures -------------------------------------------------------------------------------------------------------


def averaged(table, by, column="accuracy"):
    """Mean over seeds, half of the 95 % interval (12.71 is Student's t for two seeds), number of seeds."""
    rows = table.groupby(by, sort=False)[column]
    found = rows.agg(["mean", "sem", "size"]).reset_index()
    found["half"] = 12.7062 * found.pop("sem")
    return found.rename(columns={"mean": "accuracy", "size": "n"})


def over_energy(result):
    priced = result.tables["trained"].merge(result.tables["costs"], on=["setting", "arm"])
    parts = [
        averaged(priced, ["arm", format]).rename(columns={format: "nanojoules"}).assign(measure=format)
        for format in ("FIX32", "FIX8")
    ]
    return pd.concat(parts)


def of_statistics(result):
    whole = result.tables["trained"][result.tables["trained"]["arm"].isin(result.tables["costs"]["arm"])]
    parts = {"anew": "accuracy", "running": "accuracy_running"}
    return pd.concat([averaged(whole, ["arm"], column).assign(statistics=name) for name, column in parts.items()])


def of_contrasts(result):
    rows = [row for row in result.rows if row["id"].startswith("shiftaddnet.accuracy.")]
    table = pd.DataFrame(rows)
    return table.assign(half=table["high"] - table["value"])[["id", "value", "low", "high", "half", "n", "verdict"]]


EXPECTED = {
    "accuracies": lambda r: averaged(
        r.tables["trained"].merge(r.tables["costs"], on=["setting", "arm"]), ["setting", "arm", "net"]
    ),
    "accuracy_energy": over_energy,
    "contrasts": of_contrasts,
    "bits": lambda r: averaged(r.tables["bits"], ["arm", "mode", "bits"]),
    "sparsity": lambda r: averaged(r.tables["sparsity"], ["arm", "which", "share"]),
    "learning": lambda r: averaged(r.tables["trained"], ["arm"]),
    "statistics": of_statistics,
    "counts": lambda r: r.tables["counts"],
    "operations": lambda r: r.tables["operations"][r.tables["operations"]["network"] == "resnet20"],
    "energies": lambda r: r.tables["energies"][
        (r.tables["energies"]["network"] == "resnet20") & (r.tables["energies"]["kind"] != "mult")
    ],
    "moved": lambda r: r.tables["moved"],
}
"""By the figure's name: the table that it should be saved with."""
KEYS = ("id", "setting", "arm", "net", "measure", "mode", "bits", "which", "share", "statistics", "network", "kind")
KEYS += ("phase", "platform", "format", "level")


@pytest.mark.parametrize("name", EXPECTED)
def test_a_figure_is_saved_with_the_results_numbers(name, result, tmp_path, monkeypatch):
    table, tolerance = saved(getattr(views, name), result, tmp_path, monkeypatch)
    for ending in ("png", "svg"):
        assert (tmp_path / "shiftaddnet" / f"{name}.{ending}").stat().st_size > 1000
    expected = EXPECTED[name](result)
    keys = [key for key in KEYS if key in expected and key in table]
    both = table.merge(expected, on=keys, suffixes=("", " expected"), validate="1:1")
    assert len(both) == len(table)
    assert len(table) == (9 if name == "learning" else len(expected)), "ablations, and what they are ablations of"
    compared = [column for column in expected.columns if column not in keys]
    assert compared
    for column in compared:
        theirs = both[f"{column} expected"]
        if not pd.api.types.is_numeric_dtype(theirs):
            assert both[column].tolist() == theirs.tolist()
        else:
            np.testing.assert_allclose(both[column], theirs, rtol=1e-5, atol=1e-5)
    for column, allowed in tolerance.items():
        assert allowed is None or allowed == "half"
        assert column in table


def test_all_figures_draw_a_kind_alike():
    assert set(views.STYLES) == set(KINDS)
    assert len({style[:2] for style in views.STYLES.values()}) == len(views.STYLES)


# --- explorers -----------------------------------------------------------------------------------------------------


def states(explorer):
    for values in product(*(control.values for control in explorer.controls)):
        yield dict(zip([control.name for control in explorer.controls], values, strict=True))


@pytest.mark.parametrize("name", ["powers", "response", "energy", "robustness", "budget"])
def test_every_state_is_told_in_words_without_nan(name, shown):
    explorer, texts, several = shown[name], set(), 0
    assert len(explorer.html()) < MAX_BYTES
    for chosen in states(explorer):
        drawn = explorer(**chosen)
        words = [drawn["text"]]
        for title, content in drawn.items():
            if title != "text" and isinstance(content, dict):
                words += [value for value in content.values() if isinstance(value, str)]
        assert not re.search(r"\b(nan|inf|None)\b", " ".join(words)), chosen
        texts.add(drawn["text"])
        several += 1
    assert len(texts) == several, "every state has words of its own"


def test_a_weight_becomes_the_nearest_of_all_powers(shown):
    line = np.linspace(-1, 1, 401)
    for bits, domain, dead in product((3, 4, 5), ("log", "linear"), (0.0, 0.05, 0.2)):
        drawn = shown["powers"](bits=bits, domain=domain, dead=dead)
        found = drawn["What a weight becomes"]["shift weight"].astype(float)
        levels = 2.0 ** np.arange(-(2 ** (bits - 1)) + 1, 1)
        zero = (np.abs(line) < dead) | (line == 0)
        assert (found[zero] == 0).all()
        size, measure = np.abs(line[~zero]), np.log2 if domain == "log" else np.asarray
        assert np.isin(np.abs(found[~zero]), levels).all()
        assert (np.sign(found[~zero]) == np.sign(line[~zero])).all()
        off = np.abs(measure(np.abs(found[~zero])) - measure(size))
        best = np.abs(measure(levels)[:, None] - measure(size)).min(axis=0)
        np.testing.assert_allclose(off, best, atol=1e-6)
        expected = round_power(torch.from_numpy(line), -(2 ** (bits - 1)) + 1, domain).numpy()
        assert found.tolist() == np.where(zero, 0, expected).tolist()
        error = 100 * math.sqrt(((found - line) ** 2).sum() / (line**2).sum())
        assert drawn["This weight"]["root mean square error of all"] == f"{error:.1f} %"
        assert f"there are {len(set(found))} levels, the smallest {levels[0]:g} in size" in drawn["text"]


@pytest.mark.parametrize("domain", ["log", "linear"])
def test_the_product_is_the_shift_by_that_power(domain, shown):
    explorer = shown["powers"]
    for w in explorer.controls[0].values:
        said = explorer(w=w, bits=5, domain=domain, dead=0.1)["This weight"]
        value = float(said["becomes"])
        if value == 0:
            assert said["its product with x"] == "nothing: the weight is 0"
            assert abs(w) < 0.1
        else:
            shift = int(re.search(r"x >> (\d+)", said["its product with x"])[1])
            assert value == (-1 if said["its product with x"].startswith("-(") else 1) * 2.0**-shift
            assert value * w > 0
    near = {name: explorer(w=0.36, domain=name)["This weight"]["becomes"] for name in ("log", "linear")}
    assert near == {"log": "0.5", "linear": "0.25"}, "between sqrt(2) / 4 and 1.5 / 4"


def test_an_adder_answers_with_minus_the_distance(shown):
    explorer, at, other = shown["response"], np.linspace(-3, 3, 49), (-1.25, -0.75)
    for a, b in ((1.0, 0.5), (-2.0, 1.5), (0.0, 0.0)):
        drawn = explorer(a=a, b=b)
        for row, column in ((0, 0), (5, 40), (24, 24), (48, 3)):
            x, y = at[column], at[row]
            heat = drawn["Adder: minus the distance to A"][row, column]
            assert heat == pytest.approx(-(abs(x - a) + abs(y - b)), abs=1e-5)
            heat = drawn["Multiplications: dot product with A"][row, column]
            assert heat == pytest.approx(a * x + b * y, abs=1e-5)
        assert drawn["Adder: minus the distance to A"].max() <= 0
        best = np.unravel_index(drawn["Adder: minus the distance to A"].argmax(), (49, 49))
        assert (at[best[1]], at[best[0]]) == pytest.approx((a, b))
        plane = drawn["Template A against B = (-1.25, -0.75): the larger answer wins"]
        right = {"adders": 0, "dot products": 0}
        for name, sign in (("class A", 1), ("class B", -1)):
            assert plane[name].shape == (60, 2)
            for x, y in plane[name].astype(float):
                gap = abs(x - other[0]) + abs(y - other[1]) - abs(x - a) - abs(y - b)
                right["adders"] += sign * gap > 0
                right["dot products"] += sign * ((a - other[0]) * x + (b - other[1]) * y) > 0
        assert drawn["Points on the right side"] == {name: f"{n / 1.2:.0f} %" for name, n in right.items()}
        for x, y in plane["border of the dot products"]:
            assert np.isnan(x) or (a - other[0]) * x + (b - other[1]) * y == pytest.approx(0, abs=1e-4)
        for x, y in plane["border of the adders"]:  # straight between the grid's points, so nearly
            gap = abs(x - a) + abs(y - b) - abs(x - other[0]) - abs(y - other[1])
            assert np.isnan(x) or gap == pytest.approx(0, abs=0.25)


def test_the_energy_explorer_adds_what_each_operation_costs(shown, result):
    explorer = shown["energy"]
    table = result.tables["energies"].set_index(["network", "phase", "platform", "format", "kind"]).sort_index()
    work = result.tables["operations"].set_index(["network", "phase", "kind"])
    for chosen in states(explorer):
        place = chosen["network"], chosen["phase"], chosen["platform"], chosen["format"]
        drawn = explorer(**chosen)
        bars = drawn["Energy of arithmetic"]
        total = sum(bars.values())
        np.testing.assert_allclose(
            total, [table.loc[(*place, kind), "microjoules"] for kind in energy.KINDS], rtol=1e-5
        )
        for at, kind in enumerate(energy.KINDS):
            done = work.loc[(chosen["network"], chosen["phase"], kind)]
            price = lambda op, chosen=chosen: unit_energy(op, chosen["format"], chosen["platform"])  # noqa: E731
            assert bars["multiply"][at] == pytest.approx(done["multiplies"] * price("multiply"), rel=1e-5)
            assert bars["add"][at] == pytest.approx(done["adds"] * price("add"), rel=1e-5)
            assert bars["compare"][at] == pytest.approx(done["comparisons"] * price("add"), rel=1e-5)
            if chosen["format"] != "FP32":
                assert bars["shift"][at] == pytest.approx(done["shifts"] * price("shift"), rel=1e-5)
        saved = table.loc[(*place, "shift+add"), "saved"]
        assert drawn["shift+add against multiplications"]["saved"] == f"{saved:.1f} %"
        assert ("shift+add saves" if saved > 0 else "shift+add costs more by") in drawn["text"]
        assert f"{abs(saved):.1f} % against" in drawn["text"]


def test_the_sign_turns_on_the_fpga_in_eight_bits(shown):
    said = {
        platform: shown["energy"](format="FIX8", platform=platform)["text"] for platform in ("asic45", "fpga_zc706")
    }
    assert "saves 49.0 %" in said["asic45"]
    assert "costs more by 11.9 %" in said["fpga_zc706"]


def test_the_robustness_explorer_reads_the_tables(shown, result):
    explorer, few, pruned = shown["robustness"], result.tables["bits"], result.tables["sparsity"]
    for mode in MODES:
        drawn = explorer(mode=mode, bits=4)
        for arm in ("mult", "add", "shift-Q+add"):
            rows = few[(few["arm"] == arm) & (few["mode"] == mode)].groupby("bits")["accuracy"].mean()
            assert drawn["In few bits"][arm][0].tolist() == pytest.approx([rows[FULL], rows[4]], rel=1e-5)
            low, high = drawn["In few bits"][arm][1:]
            assert (low <= drawn["In few bits"][arm][0]).all()
            assert (high >= drawn["In few bits"][arm][0]).all()
    mean = pruned.groupby(["which", "arm", "share"])["accuracy"].mean()
    for which, share in product(("all", "shift", "add"), (0.3, 0.7)):
        drawn = explorer(which=which, share=share)
        curves = drawn["With few weights"]
        assert curves["mult"][0].tolist() == pytest.approx([mean["all", "mult", s] for s in (0, 0.3, 0.7)], rel=1e-5)
        known = (which, "shift-Q+add", share) in mean.index
        own = mean[which, "shift-Q+add", share] if known else math.nan
        assert curves["shift-Q+add"][0][1 + (share == 0.7)] == pytest.approx(own, rel=1e-5, nan_ok=True)
        said = drawn["Accuracy of ShiftAddNet (Q) and multiplications"]["with few weights"]
        assert said == (f"{own:.1f}" if known else "impossible") + f" and {mean['all', 'mult', share]:.1f} %"
        assert ("ShiftAddNet has not so many there" in drawn["text"]) == (not known)
        if which != "all":
            assert np.isnan(curves["add"][0]).all(), "a network of adders alone has no sorts to choose from"


def test_the_budget_buys_what_it_covers(shown, result):
    explorer, prices = shown["budget"], result.tables["costs"].set_index("arm")
    mean = result.tables["trained"].groupby("arm")["accuracy"].mean()
    counts = []
    for chosen in states(explorer):
        drawn = explorer(**chosen)
        lengths = drawn["Networks within the budget"]["test accuracy"][0]
        can = prices[chosen["format"]] <= chosen["nanojoules"]
        expected = mean[prices.index].where(can)
        np.testing.assert_allclose(lengths, expected, rtol=1e-5)
        said = drawn["Within the budget"]
        assert int(said["networks"]) == can.sum()
        assert said["highest mean"] == (expected.idxmax() if can.any() else "none")
        counts.append(int(can.sum()))
    assert min(counts) < max(counts) == len(prices)
