"""CPT's trainings against torch's own modules, its measures against formulas, its claims against planted data."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import stdtr, stdtrit
from torch import nn
from torch.nn import functional as F

from workbench import WorkbenchError
from workbench.evidence import CONTRADICTED, NOT_SEEN, NOT_TESTABLE, REPRODUCED
from workbench.papers.cpt import experiment, landscape, language, nets, range_test, vision
from workbench.papers.cpt.experiment import Config, cost, evaluations, log_variance_ratio, run, schedules
from workbench.papers.cpt.language import ALPHABET, CharLSTM
from workbench.papers.cpt.nets import Precision, ResNet8
from workbench.papers.cpt.vision import Setting, Split
from workbench.quantize import quantize, quantize_error, set_bits
from workbench.resnets import cifar_resnet
from workbench.training import generator

SEEDS = [3, 8]
TINY = {"seeds": 2, "seed": 7, "settings": ("digits 20 2 2",), "train": 64, "test": 100, "language_seeds": 2}
TINY |= {"language_steps": 8, "language_cycles": 2, "range_seeds": 2, "range_steps": 2, "line_seeds": 1}
TINY |= {"line_points": 3, "plane_points": 3, "sharpness_directions": 1}


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def draws(*stream):
    return generator("cpt test", *stream)


# --- the networks are torch's, slice by slice --------------------------------------------------------------------


def twin(net, parameters, k, bits, error_bits):
    """Slice k as the package's quantised module, which knows nothing of a leading axis."""
    model = cifar_resnet(8, net.classes, net.width, net.channels)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for name, conv, norm in zip(net.convolutions, convs, norms, strict=True):
        conv.weight.data = parameters[f"{name}.weight"][k].detach().view_as(conv.weight).clone()
        norm.weight.data, norm.bias.data = (parameters[f"{name}.{p}"][k].detach().clone() for p in ("scale", "shift"))
    head = model.head[-1]
    head.weight.data, head.bias.data = (parameters[f"head.{p}"][k].detach().clone() for p in ("weight", "bias"))
    return quantize(model, bits=bits, error_bits=error_bits, generator=draws("rounding", k)), convs


def batch(net, side, n=6):
    x = torch.rand(2, net.channels, side, side, n, generator=draws("x")) - 0.3
    return x, torch.randint(net.classes, (2, n), generator=draws("y"))


def drawn(net):
    parameters = net.init([draws("init", k) for k in range(2)])
    for name, value in parameters.items():
        if name.endswith(("scale", "shift")):
            value += 0.2 * torch.randn(value.shape, generator=draws(name))
        value.requires_grad_()
    return parameters


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 7)])
def test_every_slice_trains_and_evaluates_as_the_quantised_module(channels, side, float64):
    net, bits, error_bits = ResNet8(channels, 3), (4, 8), 30  # errors as good as exact: noise differs
    parameters, state, (x, y) = drawn(net), net.state(2), batch(net, side)
    precision = Precision(torch.tensor(bits), torch.full((2,), error_bits), [draws("rounding", k) for k in range(2)])
    for step in range(2):  # running statistics: mean of two batches, then evaluation
        logits = net.logits(parameters, state, x * (1 + step), precision, 1 / (step + 1))
    F.cross_entropy(logits, y, reduction="none").mean(1).sum().backward()
    evaluated = net.logits(parameters, state, 1.5 * x, precision)
    for k in range(2):
        model, _ = twin(net, parameters, k, bits[k], error_bits)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        images = x[k].permute(3, 0, 1, 2)
        for step in range(2):
            found = model(images * (1 + step))
        torch.testing.assert_close(found.T, logits[k])
        F.cross_entropy(found, y[k]).backward()
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        for name, layer in zip(net.convolutions, layers, strict=True):
            ours = parameters[f"{name}.weight"].grad[k].view_as(layer.weight)
            torch.testing.assert_close(ours, layer.weight.grad, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(parameters["head.weight"].grad[k], model.head[-1].weight.grad)
        torch.testing.assert_close(model.eval()(1.5 * images).T, evaluated[k])


def test_errors_of_every_layer_and_slice_lie_on_their_grid(monkeypatch):
    net, seen = ResNet8(1, 3), []
    parameters, (x, y) = drawn(net), batch(net, 8)

    def watched(out, bits, generators):
        out.register_hook(lambda grad: seen.append(grad))
        return quantize_error(out, bits, generators)

    monkeypatch.setattr(nets, "quantize_error", watched)
    precision = Precision(torch.tensor([8, 8]), torch.tensor([2, 4]), [draws("r", k) for k in range(2)])
    logits = net.logits(parameters, net.state(2), x, precision, 1.0)
    F.cross_entropy(logits, y, reduction="none").mean(1).sum().backward()
    assert len(seen) == len(net.convolutions)
    for grad in seen:
        assert [len(row.unique()) for row in grad.flatten(1)] == [pytest.approx(3, abs=1), pytest.approx(12, abs=4)]


def test_slices_do_not_see_each_other():
    net = ResNet8(1, 2)
    parameters, (x, y) = drawn(net), batch(net, 8)
    precision = lambda which: Precision(  # noqa: E731
        torch.tensor([3, 8])[which], torch.tensor([8, 8])[which], [draws("r", k) for k in which]
    )
    both = net.logits(parameters, net.state(2), x, precision([0, 1]), 1.0)
    F.cross_entropy(both, y, reduction="none").mean(1).sum().backward()
    alone = {name: value.detach()[1:].requires_grad_() for name, value in parameters.items()}
    own = net.logits(alone, net.state(1), x[1:], precision([1]), 1.0)
    F.cross_entropy(own, y[1:], reduction="none").mean(1).sum().backward()
    torch.testing.assert_close(own, both[1:])
    for name in parameters:
        torch.testing.assert_close(alone[name].grad, parameters[name].grad[1:], rtol=1e-3, atol=1e-5)


def test_the_lstm_is_torchs_where_nothing_is_rounded(float64):
    net, tokens = CharLSTM(5, 7), torch.randint(len(ALPHABET), (2, 6, 3), generator=draws("tokens"))
    parameters = net.init([draws("init", k) for k in range(2)])
    fine = torch.full((2,), 40)
    scores = net.scores(parameters, tokens, Precision(fine, fine, [draws(k) for k in range(2)]))
    for k in range(2):
        lstm = nn.LSTM(5, 7)
        p = {name: value[k] for name, value in parameters.items()}
        lstm.weight_ih_l0.data, lstm.weight_hh_l0.data = p["input"], p["hidden"]
        lstm.bias_ih_l0.data, lstm.bias_hh_l0.data = p["bias"], torch.zeros(28)
        hidden, _ = lstm(p["embedding"][tokens[k]])
        torch.testing.assert_close(hidden @ p["output"].T + p["output.bias"], scores[k], rtol=1e-7, atol=1e-7)


def test_the_lstm_rounds_each_time_step_over_its_own_range():
    net, tokens = CharLSTM(5, 7), torch.randint(len(ALPHABET), (1, 4, 3), generator=draws("tokens"))
    parameters, seen = net.init([draws("init")]), []
    original = language.quantize_activation
    language.quantize_activation = lambda x, bits: seen.append((x, original(x, bits))) or seen[-1][1]
    try:
        net.scores(parameters, tokens, Precision(torch.tensor([2]), torch.tensor([8]), [draws("r")]))
    finally:
        language.quantize_activation = original
    assert [len(out) for _, out in seen] == [4, 1, 1, 1, 1]  # inputs of four steps at once, then the hidden states
    for before, after in seen:
        for x, rounded in zip(before, after, strict=True):
            assert len(rounded.unique()) <= 4
            torch.testing.assert_close(rounded.min(), x.min())
            torch.testing.assert_close(rounded.max(), x.max())


def test_loss_of_a_uniform_guess_is_the_alphabets_bits():
    net, windows = CharLSTM(), torch.randint(len(ALPHABET), (2, 21, 4), generator=draws("w"))
    parameters = {name: 0 * value for name, value in net.init([draws(0), draws(1)]).items()}
    eight = torch.full((2,), 8)
    found = net.loss(parameters, windows, Precision(eight, eight, []))
    assert found.tolist() == pytest.approx([math.log2(len(ALPHABET))] * 2, rel=1e-6)


# --- data --------------------------------------------------------------------------------------------------------


def test_wrong_labels_are_wrong_as_often_as_said_and_only_in_training():
    config = Config.at("quick", train=700)
    clean, noisy = (Split.draw(Setting("digits", p, 1, 1), [1, 2, 3], config) for p in (0.0, 0.2))
    assert torch.equal(clean.train_x, noisy.train_x)
    assert torch.equal(clean.test_y, noisy.test_y)
    share = (clean.train_y != noisy.train_y).double().mean()
    assert abs(share - 0.2) < 5 * (0.2 * 0.8 / 2100) ** 0.5
    moved = (noisy.train_y - clean.train_y)[clean.train_y != noisy.train_y] % 10
    assert set(moved.tolist()) == set(range(1, 10))


def test_training_and_test_images_are_apart_and_seeds_differ():
    split = Split.draw(Setting("digits", 0.0, 1, 1), SEEDS, Config.at("full", train=700))
    for k in range(2):
        train, test = ({tuple(x.flatten().tolist()) for x in part[k]} for part in (split.train_x, split.test_x))
        assert len(train & test) <= 1, "two digits of the data set look the same"
    assert not torch.equal(split.train_x[0], split.train_x[1])


def test_an_epoch_shows_every_image_once():
    split = Split.draw(Setting("digits", 0.0, 1, 1), SEEDS, Config.at("quick", train=64))
    batches = list(split.batches(16, 2, SEEDS))
    assert len(batches) == 8
    for k in range(2):
        shown = torch.cat([x[k].permute(3, 0, 1, 2) for x, _ in batches[:4]]).flatten(1)
        expected = split.train_x[k].flatten(1)
        assert sorted(shown.tolist()) == sorted(expected.tolist())
    assert not torch.equal(batches[0][0], batches[4][0])


def test_the_text_is_read_from_this_python():
    text = language.licence()
    assert len(text) == language.LENGTH
    read = "".join(ALPHABET[c] for c in text.tolist())
    assert "python software foundation" in read
    assert not set("0123456789") & set(read)
    windows = language._windows(text[language.TRAIN])
    assert torch.equal(windows[0, 1:], windows[-1, :-1])


def test_missing_licence_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(language.sysconfig, "get_path", lambda _: str(tmp_path / "lib"))
    with pytest.raises(WorkbenchError, match="no licence text"):
        language.licence()


# --- arms --------------------------------------------------------------------------------------------------------


def test_controls_cost_what_the_cycle_costs():
    config = Config.at("full")
    arms = schedules(config, 360, 8, SEEDS, config.lows)
    price = {arm: [cost(bits, 8) for bits in lines] for arm, lines in arms.items()}
    for control in ("shuffled", "reversed"):
        assert price[control] == pytest.approx(price["CPT"])
    assert price["static 8"] == [6.25, 6.25]
    assert price["static 3"] == pytest.approx([100 * (9 + 48) / 3072] * 2)
    assert not torch.equal(*arms["shuffled"])
    assert arms["CPT"][0, -1] == 8
    rows = evaluations(config, [*arms])
    assert rows["static 3 @8"] == ("static 3", 8)
    assert rows["static 3"] == ("static 3", 3)
    assert {bits for arm, (_, bits) in rows.items() if not arm.startswith("static")} == {8}


def test_an_arm_does_not_depend_on_who_runs_beside_it():
    config, setting = Config.at("quick", **TINY), Setting.read("digits 20 2 2")
    arms = schedules(config, vision.steps(setting, config), 2, SEEDS, ())
    wide = vision.train_schedules(setting, SEEDS, arms, config)
    narrow = vision.train_schedules(setting, SEEDS[1:], {"CPT": arms["CPT"][1:]}, config)
    at = 2 * [*arms].index("CPT") + 1
    torch.testing.assert_close(wide.losses[:, at], narrow.losses[:, 0], rtol=1e-3, atol=1e-4)


def test_reestimation_forgets_what_training_left_and_keeps_the_weights():
    config, setting = Config.at("quick", **TINY), Setting.read("digits 0 2 2")
    trained = vision.train_schedules(setting, SEEDS, {"CPT": torch.tensor([[3, 8, 3, 8]] * 2)}, config)
    bits = torch.full((2,), 8)
    fresh = trained.reestimate(bits)
    assert all(torch.equal(fresh.parameters[n], trained.parameters[n]) for n in fresh.parameters)
    spoilt = {name: value + 100 for name, value in trained.state.items()}
    again = vision.Trained(*(getattr(trained, n) for n in ("net", "split", "seeds", "models", "parameters")), spoilt,
                           trained.losses).reestimate(bits)  # fmt: skip
    assert all(torch.equal(fresh.state[n], again.state[n]) for n in fresh.state)
    stem = trained.split.train_x.flatten(1)
    torch.testing.assert_close(fresh.state["stem.low"].flatten(), stem.amin(1))
    torch.testing.assert_close(fresh.state["stem.high"].flatten(), stem.amax(1))
    set_to = twin(trained.net, trained.parameters, 0, 8, 8)[0]
    set_bits(set_to, 8, 8)
    for module in set_to.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    set_to(trained.split.train_x[0])  # one pass of all images
    right = (set_to.eval()(trained.split.test_x[0]).argmax(1) == trained.split.test_y[0]).float().mean()
    assert fresh.evaluate("test", bits)[1][0] == pytest.approx(right.item(), abs=0.011)


# --- landscape ---------------------------------------------------------------------------------------------------


def test_directions_have_the_length_of_each_filter_and_spare_the_rest():
    parameters = ResNet8(1, 4).init([draws(k) for k in range(3)])
    found = landscape.direction(parameters, [5, 6, 5], 0)
    assert set(found) == {name for name in parameters if name.endswith(".weight")}
    for name, part in found.items():
        torch.testing.assert_close(part.norm(dim=2), parameters[name].norm(dim=2))
    towards = F.normalize(found["stem.weight"], dim=2)
    torch.testing.assert_close(towards[0], towards[2])  # the same seed, the same draw
    assert not torch.allclose(towards[0], towards[1])
    assert not torch.allclose(towards[0], F.normalize(landscape.direction(parameters, [5], 1)["stem.weight"], dim=2)[0])


def test_sharpness_of_a_bowl_is_known():
    """Of c |w|^2 / 2 it is c |w|^2 size^2 / 2 on average: the cross term vanishes over directions."""
    w = {"w": torch.randn(2, 50, 40, generator=draws("w"))}
    curvature = torch.tensor([1.0, 4.0])
    loss = lambda p: curvature * p["w"].square().sum((1, 2)) / 2  # noqa: E731
    found = landscape.sharpness(loss, w, [1, 2], 0.25, 64)
    torch.testing.assert_close(found, loss(w) * 0.25**2, rtol=0.05, atol=0)
    at = landscape.grid(5)
    along, up = (landscape.direction(w, [1, 2], n) for n in range(2))
    plane = landscape.plane(loss, w, along, up, at)
    torch.testing.assert_close(plane[2], landscape.line(loss, w, along, at))
    torch.testing.assert_close(plane[:, 2], landscape.line(loss, w, up, at))
    torch.testing.assert_close(plane[2, 2], loss(w))


# --- range test --------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=7, max_size=7), st.floats(0.01, 0.9))
@settings(max_examples=60)
def test_the_bound_is_the_first_large_gain(accuracy, threshold):
    found = range_test.lower_bound(accuracy, threshold)
    gains = {b: after - before for b, before, after in zip(range(3, 9), accuracy, accuracy[1:], strict=False)}
    large = [b for b, gain in gains.items() if gain > threshold]
    assert (math.isnan(found) and not large) or found == large[0]


def test_fresh_networks_forget_and_the_continuing_one_does_not():
    config, setting = Config.at("quick", **(TINY | {"range_steps": 12})), Setting.read("digits 0 1 1")
    fresh, going = (range_test.watch(setting, SEEDS, mode, config) for mode in (True, False))
    assert fresh.shape == going.shape == (2, 7)
    torch.testing.assert_close(fresh[:, 0], going[:, 0])  # at 2 bits they are the same training
    assert (going[:, -1] > fresh[:, -1] + 0.1).all(), "seven times the steps"


# --- variance ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.integers(4, 20), st.floats(-0.9, 0.9))
@settings(max_examples=40)
def test_the_variance_interval_inverts_the_pitman_morgan_test(seed, n, rho):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    b = 2 * (rho * a + (1 - rho**2) ** 0.5 * rng.normal(size=n))
    found = log_variance_ratio(pd.Series(a), pd.Series(b))
    assert found.mean == pytest.approx(math.log(a.var(ddof=1) / b.var(ddof=1)))
    for end in (found.low, found.high):  # scaled by that ratio, sum and difference correlate exactly at the limit
        scaled = b * math.exp(end / 2)
        r = np.corrcoef(a + scaled, a - scaled)[0, 1]
        t = abs(r) * ((n - 2) / (1 - r**2)) ** 0.5
        assert 2 * stdtr(n - 2, -t) == pytest.approx(0.05, rel=1e-3)
    mirrored = log_variance_ratio(pd.Series(b), pd.Series(a))
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


def test_the_variance_interval_covers_as_often_as_it_says():
    rng, hits = np.random.default_rng(4), 0
    for _ in range(1000):
        shared = rng.normal(size=8)
        a, b = shared + rng.normal(size=8), shared + rng.normal(size=8)
        found = log_variance_ratio(pd.Series(a), pd.Series(b))
        hits += found.low <= 0 <= found.high
    assert abs(hits - 950) < 5 * (1000 * 0.95 * 0.05) ** 0.5


# --- claims ------------------------------------------------------------------------------------------------------


def planted(better, config):
    """Tables in which CPT is better (or worse) than every other arm, in every measure, by far more than the noise."""
    sign, rng, rows = (1 if better else -1), np.random.default_rng(1), []
    arms = evaluations(config, [*schedules(config, 16, 2, [0], config.lows)])
    for setting in (Setting.read(config.settings[0]).id, experiment.TEXT):
        for arm in arms:
            for seed in config.seed_list:
                noise, own = rng.normal(), arm == "CPT"
                wide = 0.05 if own == better else 5
                row = {"setting": setting, "arm": arm, "seed": seed, "cost": 1.0}
                row |= {"accuracy": 80 + 30 * sign * own + wide * noise, "accuracy_running": 80 - 10 * sign}
                row |= {"sharpness": 1 - 0.5 * sign * own + 0.01 * noise, "train_loss": 1.0}
                rows.append(row | {"test_loss": 50 - 40 * sign * own + wide * noise})
    bounds = [{"mode": m, "seed": s, "bits": 3.0 if better else 5.0} for m in ("continuing", "fresh") for s in (1, 2)]
    return {"trained": pd.DataFrame(rows), "bounds": pd.DataFrame(bounds)}


@pytest.mark.parametrize("better", [True, False])
def test_claims_follow_what_was_planted(better):
    config = Config.at("quick", seeds=12)
    config = Config.at("quick", seeds=12, settings=config.settings[:1])
    rows = [claim.row(found, "quick") for claim, found in experiment._contrasts(planted(better, config), config)]
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        if row["id"].endswith(".dose"):  # neither arm is CPT
            assert row["verdict"] == NOT_SEEN
        else:
            assert row["verdict"] == (REPRODUCED if better else CONTRADICTED), row["id"]
    for part in ("loss_vs_static8", "loss_vs_shuffled", "loss_vs_low_at_8", "flatter_vs_shuffled"):
        assert sum(row["id"].endswith(part) for row in rows) == 2, "images and language"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": "digits 20"}, "a setting reads like"),
        ({"settings": "cora 20 3 2"}, "digits or cifar10"),
        ({"settings": ("digits 0 3 2", "digits 0 3 3")}, "once"),
        ({"settings": "digits 0 1 99"}, "no more cycles than steps"),
        ({"low": 8}, "low must"),
        ({"high": 20}, "high must"),
        ({"statics": 3}, "statics must"),
        ({"lows": 3}, "lows must"),
        ({"shapes": "square"}, "reversed, triangle"),
        ({"train": 10}, "train must"),
        ({"train": 800}, "train must"),
        ({"language_cycles": 1000}, "language_steps"),
        ({"range_threshold": 0.0}, "range_threshold must"),
        ({"line_seeds": 0}, "line_seeds must"),
        ({"lr": -1.0}, "lr must"),
    ],
)
def test_what_cannot_run_is_refused(change, message):
    with pytest.raises(WorkbenchError, match=message):
        Config.at("quick", **change)


def test_every_scale_is_a_configuration():
    quick, full = (Config.at(scale) for scale in Config.SCALES)
    assert quick.seed == full.seed == 100
    assert full.seeds >= 16
    assert full.cifar_seeds >= 5
    assert {Setting.read(text).dataset for text in full.settings} == {"digits", "cifar10"}
    for config in (quick, full):  # whole cycles, so that trainings end at full bits
        for setting in map(Setting.read, config.settings):
            assert vision.steps(setting, config) % setting.cycles == 0
        assert config.language_steps % config.language_cycles == 0


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


def test_tables_are_whole(result):
    trained = result.tables["trained"]
    assert trained.groupby(["setting", "arm"])["seed"].nunique().eq(2).all()
    assert set(trained["setting"]) == {"digits.wrong20.epochs2", "licence"}
    assert trained[["test_loss", "train_loss", "sharpness", "cost"]].notna().all().all()
    assert len(result.tables["plane"]) == 4 * 9
    assert len(result.tables["range"]) == 2 * 2 * 7
    same = trained[trained["arm"].isin(["static 3", "static 3 @8"])].pivot(
        index=["setting", "seed"], columns="arm", values=["cost", "test_loss"]
    )
    assert (same["cost"]["static 3"] == same["cost"]["static 3 @8"]).all()
    assert (same["test_loss"]["static 3"] != same["test_loss"]["static 3 @8"]).all()


def test_the_ledger_holds_measured_and_printed_claims(result):
    rows = {row["id"]: row for row in result.rows}
    assert len(rows) == len(result.rows)
    assert rows["cpt.c100.resnet74.saving_3_8"]["kind"] == "analytic"
    assert rows["cpt.c100.resnet74.gain_3_8"]["verdict"] == NOT_TESTABLE
    for part in ("loss_vs_static8", "loss_vs_shuffled", "flatter_vs_static8", "variance_vs_static8", "reestimation"):
        assert rows[f"cpt.digits.wrong20.epochs2.{part}"]["n"] == 2
    assert rows["cpt.licence.loss_vs_low_at_8"]["unit"] == "bits/character"
    assert rows["cpt.range_test.fresh"]["published"] is None
    trained = result.tables["trained"]
    wide = trained[trained["setting"] == "licence"].pivot(index="seed", columns="arm", values="test_loss")
    difference = wide["shuffled"] - wide["CPT"]
    row = rows["cpt.licence.loss_vs_shuffled"]
    assert row["value"] == pytest.approx(difference.mean())
    half = stdtrit(1, 0.975) * difference.std(ddof=1) / 2**0.5
    assert row["high"] - row["value"] == pytest.approx(half)
