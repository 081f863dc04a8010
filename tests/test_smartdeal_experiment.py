"""SmartDeal: what is evaluated is what is stored, equal bits, planted claims, cells and energy recomputed."""

import copy
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from workbench import WorkbenchError, hardware
from workbench.evidence import CONTRADICTED, NOT_TESTABLE, REPRODUCED
from workbench.evidence import published as printed
from workbench.papers.smartdeal import adapt, experiment, published, retrain
from workbench.papers.smartdeal.bucket import basis, coefficients
from workbench.papers.smartdeal.controls import CONTROLS, Stored, smartdeal
from workbench.papers.smartdeal.decompose import applies, decompose, eight_bits, from_blocks
from workbench.papers.smartdeal.experiment import OURS, Config, run
from workbench.papers.smartdeal.nets import NETWORKS, weight_shape
from workbench.papers.smartdeal.retrain import Level, Setting, Split, accuracy, fit, hidden, retrained
from workbench.papers.smartdeal.storage import unpack
from workbench.training import generator

TINY = {"seeds": 2, "seed": 7, "settings": ("digits conv 4,8,8 128 2 2", "digits linear 16,24,16 128 2 1")}
TINY |= {"levels": ("0.5 rows", "0.5"), "other_levels": ("0.3",), "test": 200, "frontier": (0.1, 0.9)}
TINY |= {"adapt_setting": "digits conv 4,8,8 500 2 2", "adapt_images": 200, "adapt_test": 100, "adapt_batch": 20}
SETTING = Setting.read("digits conv 4,8,8 128 2 2")
SCHEDULE = {"batch": 32, "lr": 0.05, "decay": 1e-4}


@pytest.fixture(scope="module")
def trained():
    split, net = Split.draw(SETTING, 7, 200), SETTING.build(7)
    fit(net, split, 7, 6, batch=32, lr=0.1, decay=5e-4)
    return split, net


# --- networks and data -------------------------------------------------------------------------------------------


def test_settings_and_levels_are_read_and_refused_in_words():
    assert Setting.read("cifar10 conv 24,48 100 3 2").build(0)[0].in_channels == 3
    assert Level.read("0.5 rows") == Level(0.5, True)
    assert Level.read("0.5") == Level(0.5, False)
    for text in ("digits conv 16 100 3 2", "digits conv 8,8 100 3", "cora conv 8,8 100 3 2", "digits conv 8,8 0 3 2"):
        with pytest.raises(WorkbenchError):
            Setting.read(text)
    for text in ("rows", "0.5 row", "-1", "0.5 rows rows", ""):
        with pytest.raises(WorkbenchError, match="a level reads like"):
            Level.read(text)


@pytest.mark.parametrize("text", ["digits conv 4,8,8 128 2 2", "digits linear 16,24,16 128 2 1"])
def test_first_and_last_layer_are_left_alone(text):
    net = Setting.read(text).build(3)
    layers = [m for m in net if isinstance(m, nn.Conv2d | nn.Linear)]
    assert hidden(net) == layers[1:-1]
    assert len(hidden(net)) == 2
    assert net(torch.zeros(5, 1, 8, 8)).shape == (5, 10)
    again = Setting.read(text).build(3)
    assert torch.equal(hidden(net)[0].weight, hidden(again)[0].weight)
    deviation = float(hidden(net)[1].weight.detach().std())
    assert deviation == pytest.approx((2 / hidden(net)[1].weight[0].numel()) ** 0.5, rel=0.15)


def test_training_and_test_digits_are_apart():
    split = Split.draw(SETTING, 7, 200)
    assert len(split.x) == 128
    assert len(split.test_x) == 200
    train, test = ({tuple(x.flatten().tolist()) for x in part} for part in (split.x, split.test_x))
    assert len(train & test) <= 1, "two digits of the data set look the same"
    with pytest.raises(WorkbenchError, match=r"only 1797"):
        Split.draw(replace(SETTING, images=1700), 7, 200)


def test_an_epoch_shows_every_image_once():
    rows = list(retrain.shuffled(20, 6, 2, 0, "x"))
    assert [len(r) for r in rows] == [6] * 6
    assert len(set(torch.cat(rows[:3]).tolist())) == 18
    assert not torch.equal(rows[0], rows[3])


def test_digits_turn_about_their_centre():
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 0, 3:5] = 1
    torch.testing.assert_close(adapt.turned(x, 0), x)
    quarter = adapt.turned(x, 90)[0, 0]
    assert any(torch.allclose(quarter, x[0, 0].rot90(k), atol=1e-5) for k in (1, -1))
    torch.testing.assert_close(adapt.turned(adapt.turned(x, 90), 270), x, atol=1e-4, rtol=0)
    assert float(quarter.sum()) == pytest.approx(2, abs=1e-4)
    upright, rotated = adapt.splits(3, 50, 40, 60.0)
    assert torch.equal(upright.test_y, rotated.test_y)
    assert not torch.equal(upright.y, rotated.y)


# --- retraining --------------------------------------------------------------------------------------------------


def test_what_is_evaluated_is_what_is_stored_bit_for_bit(trained):
    split, net = trained
    level = Level(0.5, rows=True)
    thresholds = level.thresholds(hidden(net))
    found = retrained(net, split, 7, 2, lambda ws: smartdeal(level.decompose(ws, thresholds)), **SCHEDULE)
    read = unpack(found.stored.packed, [layer.weight.shape for layer in hidden(found.net)])
    for layer, part in zip(hidden(found.net), read, strict=True):
        assert torch.equal(layer.weight, from_blocks(part.coefficients @ part.basis, part.shape))
        assert (torch.frexp(part.coefficients[part.coefficients != 0]).mantissa.abs() == 0.5).all()
        assert (part.coefficients == 0).all(-1).any(), "rows are gone"
    assert len(found.stored.packed) == math.ceil(found.stored.bits / 8)
    assert not torch.equal(hidden(found.net)[0].weight, hidden(net)[0].weight)


def test_weights_are_replaced_after_every_epoch_and_go_on_from_there(trained):
    split, net = trained
    seen = []

    def store(weights):
        seen.append([w.clone() for w in weights])
        return Stored([torch.zeros_like(w) for w in weights], b"", 0, 1.0)

    found = retrained(net, split, 7, 3, store, **SCHEDULE)
    assert len(seen) == 4  # at once, and after three epochs
    assert all(torch.equal(a, layer.weight) for a, layer in zip(seen[0], hidden(net), strict=True))
    assert found.first_error == pytest.approx(1)
    for weights, before in zip(seen[2], seen[1], strict=True):
        assert weights.norm() < 0.7 * before.norm(), "an epoch from zeros on, not from the dense weights"
    assert not any(layer.weight.any() for layer in hidden(found.net))


def test_without_replacement_it_is_plain_training(trained):
    split, net = trained
    found = retrained(net, split, 7, 2, lambda ws: Stored([w.clone() for w in ws], b"", 0, 0.0), **SCHEDULE)
    twin = copy.deepcopy(net)
    fit(twin, split, 7, 2, stream="retrain", **SCHEDULE)
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(hidden(found.net), hidden(twin), strict=True))
    assert found.first_error == 0


def test_statistics_anew_are_those_of_the_training_images(trained):
    split, net = trained
    spoilt = copy.deepcopy(net)
    for layer in spoilt:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean += 3
    assert accuracy(spoilt, split, anew=True) == pytest.approx(accuracy(net, split, anew=True), abs=0.51)
    assert accuracy(spoilt, split, anew=False) < accuracy(net, split, anew=False) - 5
    assert spoilt.training == net.training


# --- SD-training -------------------------------------------------------------------------------------------------


def test_arms_move_what_they_say():
    config = Config.at("quick", **TINY)
    _, rotated = adapt.splits(7, 200, 100, 60.0)
    start = SETTING.build(7)
    for arm in adapt.arms(("0.5",)):
        row, trace = adapt.adapt(start, rotated, 7, arm, 2, config)
        assert (trace is not None) == ("C" in arm.moves)
        assert (row["switched"] > 0) == ("C" in arm.moves), "NaN is not above 0"
        assert row["bits"] < 32 * 864 or not arm.level
    layers = hidden(copy.deepcopy(start))
    switch = adapt.Arm("bucket switching", "CB", "0.5").prepare(layers, config)
    assert switch.smallest == [2.0 ** math.ceil(math.log2(0.5 * float(x.weight.detach().std()))) for x in hidden(start)]
    fixed = adapt.Arm("C frozen", "B", "0.5").prepare(layers_two := hidden(copy.deepcopy(start)), config)
    assert fixed is None
    assert not coefficients(layers_two[0]).requires_grad
    assert basis(layers_two[0]).requires_grad


def test_sgd_leaves_coefficients_to_the_buckets_and_c_stays_a_power_of_two(monkeypatch):
    config = Config.at("quick", **(TINY | {"bar": 2, "ignore": 0.0}))
    _, rotated = adapt.splits(7, 200, 100, 60.0)
    seen = []
    monkeypatch.setattr(adapt.Trace, "note", lambda self: seen.append(self.switch.parameters[0].detach().clone()))
    adapt.adapt(SETTING.build(7), rotated, 7, adapt.Arm("bucket switching", "CB", "0.5"), 3, config)
    assert len(seen) == 30
    for before, after in pairwise(seen):
        moved = before != after
        ratio = (after / before)[moved & (before != 0)]
        assert ((ratio == 2) | (ratio == 0.5) | (ratio == 0)).all()
    assert (seen[0] != seen[-1]).any()
    assert (torch.frexp(seen[-1][seen[-1] != 0]).mantissa.abs() == 0.5).all()


def test_bases_are_evaluated_as_they_are_stored(monkeypatch):
    config, seen = Config.at("quick", **TINY), []
    monkeypatch.setattr(
        adapt, "accuracy", lambda net, *_, **__: seen.append([basis(x).detach() for x in hidden(net)]) or 0
    )
    _, rotated = adapt.splits(7, 200, 100, 60.0)
    adapt.adapt(SETTING.build(7), rotated, 7, adapt.Arm("C frozen", "B", "0.5"), 1, config)
    assert all(torch.equal(eight_bits(b), b) for b in seen[0])


# --- claims ------------------------------------------------------------------------------------------------------


def planted(better, config):
    """Tables in which SmartDeal, and bucket switching, are better (or worse) than everything else by far."""
    rng, sign, rows, errors, adapted = np.random.default_rng(1), 1 if better else -1, [], [], []
    for setting in map(Setting.read, config.settings):
        for seed in config.seed_list:
            for level in ("", *config.levels_of(setting)):
                for arm in ("dense+",) if not level else (OURS, *CONTROLS):
                    top = 70 + 10 * sign * (arm == OURS) - 5 * sign * ("rows" in level) + 0.1 * rng.normal()
                    row = {"setting": setting.id, "seed": seed, "level": level, "arm": arm, "accuracy": top}
                    rows.append(row | {"one_shot": top - 20 * sign, "one_shot_running": top - 40 * sign})
            for threshold in config.frontier:
                for arm in (OURS, *CONTROLS):
                    error = 0.5 - 0.2 * sign * (arm == OURS) + 0.01 * rng.normal()
                    errors.append(
                        {"setting": setting.id, "seed": seed, "threshold": threshold, "arm": arm, "error": error}
                    )
    order = ["C and B frozen", "C frozen", "dense, convolutions frozen", "dense", "bucket switching"][::sign]
    for seed in config.seed_list:
        for place, arm in enumerate(order):
            level = "" if arm.startswith("dense") else config.adapt_levels[0]
            adapted.append({"seed": seed, "level": level, "arm": arm, "accuracy": 50 + 8 * place + 0.1 * rng.normal()})
    return pd.DataFrame(rows), pd.DataFrame(errors), pd.DataFrame(adapted)


@pytest.mark.parametrize("better", [True, False])
def test_claims_follow_what_was_planted(better):
    config = Config.at("quick", **(TINY | {"seeds": 6}))
    compressed, errors, adapted = planted(better, config)
    found = [
        *experiment._compressed_claims(compressed, config),
        *experiment._frontier_claims(errors, config),
        *experiment._adapt_claims(adapted, config),
    ]
    rows = [claim.row(evidence, "quick") for claim, evidence in found]
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["verdict"] == (REPRODUCED if better else CONTRADICTED), row["id"]
        assert row["n"] == 6
    ids = " ".join(row["id"] for row in rows)
    for part in (
        "0.5_rows.vs_power_of_two_rows",
        "0.3.vs_dense",
        "0.5.rows",
        "error_0.9.vs_uniform_3_bit",
        "vs_c_frozen",
    ):
        assert part in ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": "digits conv 8 100 3 2"}, "two widths"),
        ({"settings": ("digits conv 8,8 100 3 2", "digits conv 8,8 100 4 2")}, "once"),
        ({"levels": "0"}, "a level reads like"),
        ({"test": 1700}, "test must"),
        ({"batch": 500}, "batch must"),
        ({"adapt_images": 800}, "adapt_images must"),
        ({"adapt_setting": "cifar10 conv 8,8 100 3 2"}, "adapt_setting must"),
        ({"frontier": 0.1}, "frontier must"),
        ({"bar": 0}, "bar must"),
        ({"ignore": -1.0}, "ignore must"),
        ({"lr": 0.0}, "lr must"),
        ({"cifar_seeds": 1}, "cifar_seeds must"),
    ],
)
def test_what_cannot_run_is_refused(change, message):
    with pytest.raises(WorkbenchError, match=message):
        Config.at("quick", **change)


def test_every_scale_is_a_configuration():
    quick, full = (Config.at(scale) for scale in Config.SCALES)
    assert quick.seed == full.seed == 100
    assert full.seeds >= 5
    assert full.cifar_seeds >= 5
    assert {Setting.read(text).dataset for text in full.settings} == {"digits", "cifar10"}
    assert {Setting.read(text).dataset for text in quick.settings} == {"digits"}
    for config in (quick, full):
        assert config.bar < config.adapt_images // config.adapt_batch, "buckets can fill within an epoch"
        assert {"0.5", "0.5 rows"} <= set(config.levels), "row removal switched off"


# --- the whole ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result():
    return run(Config.at("quick", **TINY))


def test_a_run_is_the_same_twice(result):
    again = run(Config.at("quick", **TINY))
    assert again.data_hash == result.data_hash
    for name, table in result.tables.items():
        pd.testing.assert_frame_equal(table, again.tables[name])
    assert again.rows == result.rows


def test_all_formats_of_a_level_store_as_many_bits(result):
    table = result.tables["compressed"]
    for _, rows in table[table["level"] != ""].groupby(["setting", "seed", "level"]):
        bits = rows.set_index("arm")["bits"]
        assert set(bits.index) == {OURS, *CONTROLS}
        assert (bits <= bits[OURS]).all()
        assert bits[OURS] - bits["power of two"] < 4 or rows.set_index("arm")["zeros"]["power of two"] < 10
    assert (table[table["arm"] == "dense+"]["ratio"] == 1).all()


def test_tables_are_whole(result):
    assert set(result.tables["adapted"]["arm"]) == {"not adapted", *(arm.name for arm in adapt.arms(("0.5",)))}
    assert result.tables["adapted"].groupby(["arm", "level"])["seed"].nunique().eq(2).all()
    assert len(result.tables["filters"]) == 24 * 3
    assert result.tables["buckets"]["entry"].nunique() == adapt.SHOWN
    assert set(result.tables["frontier"]["threshold"]) == {0.1, 0.9}


def test_the_ledger_holds_measured_analytic_and_the_chips_rows(result):
    rows = {row["id"]: row for row in result.rows}
    assert len(rows) == len(result.rows)
    assert {row["paper"] for row in result.rows} == {"smartdeal"}
    assert rows["hardware.eyeriss.conv1.glb_mb"]["verdict"] == REPRODUCED
    assert rows["smartdeal.resnet50.stored_mb"]["verified"] is False
    assert rows["smartdeal.training_energy.dense8"]["verified"] is True
    assert rows["smartdeal.mlp2.ratio"]["verdict"] == NOT_TESTABLE
    table = result.tables["compressed"]
    own = table[(table["setting"] == SETTING.id) & (table["level"] == "0.5")]
    wide = own.pivot(index="seed", columns="arm", values="accuracy")
    row = rows[f"smartdeal.{SETTING.id}.0.5.vs_uniform_3_bit"]
    assert row["value"] == pytest.approx((wide[OURS] - wide["uniform 3 bit"]).mean())


# --- printed cells -----------------------------------------------------------------------------------------------

MILLIONS = {"resnet50": 25.50, "mobilenet_v2": 3.47, "efficientnet_b0": 5.24, "vgg11": 132.85, "mlp2": 0.2662}
MACS = {"resnet50": 3.858e9, "mobilenet_v2": 300.8e6, "efficientnet_b0": 385.8e6, "vgg11": 7.609e9, "mlp2": 266200}
"""Weights, and MACs of an image, as they are known of these networks (ResNet-50 with its first stride in 1x1)."""


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_have_the_known_weights_and_macs(network):
    layers = NETWORKS[network]()
    assert published.sizes(network).weights / 1e6 == pytest.approx(MILLIONS[network], rel=0.003)
    assert sum(layer.macs for layer in layers) == pytest.approx(MACS[network], rel=0.001)


def test_sizes_are_those_of_real_decompositions():
    """Counted from shapes, against tensors that were decomposed."""
    layers = NETWORKS["mobilenet_v2"]()[:8]
    size = published.Sizes.of(layers)
    shapes = [weight_shape(layer) for layer in layers]
    parts = [decompose(torch.randn(s, generator=generator(s)), 0.0, iterations=1) for s in shapes if applies(s)]
    assert size.coefficients == sum(part.coefficients.numel() for part in parts)
    assert size.basis == sum(part.basis.numel() for part in parts)
    assert size.untouched == sum(math.prod(s) for s in shapes if not applies(s)) == 0
    assert published.sizes("resnet50").untouched == 64 * 3 * 49


def test_cells_are_recomputed_and_say_where_they_do_not_come_out():
    table = published.table().set_index("id")
    cells = printed("smartdeal")
    assert set(table.index) == {i for i in cells.index if i.count(".") == 2 and not i.endswith("sparsity")}
    assert table.loc["smartdeal.resnet50.ce_mb", "analytic"] == pytest.approx(0.414 * 25_535_136 * 4 / 8e6)
    assert table.loc["smartdeal.mobilenet_v2.stored_mb", "basis16"] == pytest.approx(2.116, abs=5e-4)
    assert table.loc["smartdeal.mobilenet_v2.stored_mb", "analytic"] == pytest.approx(1.930, abs=5e-4)
    for cell in table.itertuples():
        assert cell.remark or abs(cell.error) < 0.02, f"{cell.Index} needs a remark"
    assert not cells[cells["source"].str.contains("ISCA")]["verified"].any()


def test_numbers_in_remarks_are_our_counts():
    eff, mlp, vgg = (published.sizes(n) for n in ("efficientnet_b0", "mlp2", "vgg11"))
    assert eff.bits(0.0, untouched_bits=8) / 8e6 == pytest.approx(2.97, abs=5e-3)
    assert 32 * eff.weights / eff.bits(0.0, untouched_bits=8) == pytest.approx(7.06, abs=5e-3)
    assert round(845.75e6 / 4 / 8e6) == 26  # MB of one bit for each of the cell's own weights
    assert vgg.bits(0.86, mask=False) / 8e6 == pytest.approx(11.5, abs=0.05)
    assert mlp.coefficients / 8e6 == pytest.approx(0.033, abs=5e-4)
    zeros = 1 - (0.024 * 8e6 - 8 * mlp.basis) / (4 * mlp.coefficients)
    assert zeros == pytest.approx(0.868, abs=5e-4)


def test_what_training_keeps_is_what_the_update_says():
    table = published.training_storage("mlp2", 0.5).set_index(["arm", "part"])["bits"]
    size = published.sizes("mlp2")
    assert table["dense", "momentum"] == table["dense", "weights"] == 32 * 266200
    assert table["SmartDeal", "codes"] + table["SmartDeal", "mask"] + table["SmartDeal", "bases"] == size.bits(0.5)
    assert table["SmartDeal", "buckets"] == 4 * round(0.5 * size.coefficients)
    assert published.storage_factor("resnet50", True) > published.storage_factor("resnet50", False) > 1


# --- energy ------------------------------------------------------------------------------------------------------


def test_all_states_at_once_cost_what_breakdown_says_of_each():
    table = published.energies("mlp2", (0.6,))
    layers = NETWORKS["mlp2"]()
    for accelerator, machine in published.ACCELERATORS.items():
        for arm, bits in published.ARMS.items():
            alone = [replace(layer, weight_bits=bits, input_bits=bits, output_bits=bits) for layer in layers]
            if arm == OURS:
                pairs = [published.rebuilt(layer, 0.6) for layer in layers]
                alone = [replace(x, weight_store=s, rebuild=r) for x, (s, r) in zip(alone, pairs, strict=True)]
            own = table[(table["accelerator"] == accelerator) & (table["arm"] == arm)]
            expected = hardware.breakdown(alone, accelerator=machine)["pj"].sum()
            assert own["pj"].sum() == pytest.approx(expected, rel=1e-6)


def test_a_rebuilt_weight_travels_with_its_formulas_bits():
    layer = NETWORKS["vgg11"]()[3]  # 256 channels to 256 filters: four blocks of 192 rows a filter
    store, pairs = published.rebuilt(layer, 0.5)
    assert store == pytest.approx(4 * 0.5 + 1 + 72 / (192 * 3))
    assert pairs == 1.5
    stem = NETWORKS["resnet50"]()[0]
    assert published.rebuilt(stem, 0.5) == (8.0, 0.0)


def test_zeros_save_energy_and_training_shares_what_it_fetches():
    table = published.energies("mlp2", (0.0, 0.9))
    ours = table[table["arm"] == OURS].groupby(["accelerator", "sparsity"])["pj"].sum()
    assert (ours.xs(0.9, level=1) < ours.xs(0.0, level=1)).all()
    many = published.energies("mlp2", (0.9,), 32, hardware.PRODUCTS)

    def gain(t):
        ours = t[(t["arm"] == OURS) & (t["sparsity"] == 0.9)]
        return t[t["arm"] == "dense 8 bit"]["pj"].sum() / ours["pj"].sum()

    assert gain(table) > gain(many) > 1


def test_factors_up_to_are_judged_by_what_they_reach():
    judge = lambda value: published.reaches(experiment.Interval(value, math.nan, math.nan, ()), 3.0)  # noqa: E731
    assert [judge(v) for v in (3.0, 2.0, 1.9)] == [REPRODUCED, "partly", "not seen at this scale"]
