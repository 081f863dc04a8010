"""AdaDeep: platforms by hand, demands by brute force, agents that learn, searches that count, a table that repeats."""

import copy
from functools import cache
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import parallel_config
from typer.testing import CliRunner

from workbench import WorkbenchError, cli, data, recorded
from workbench.evidence import CONTRADICTED, NOT_SEEN, PARTLY, REPRODUCED, Interval
from workbench.evidence import published as printed
from workbench.papers.adadeep import experiment, measure, method, published, record, search, study
from workbench.papers.adadeep.experiment import Config
from workbench.papers.adadeep.measure import DESIGNS, SPACES, Split
from workbench.papers.adadeep.method import Demand, Walk
from workbench.papers.adadeep.platforms import DRAM_PJ, Platform, costs, part_cost, platform, platforms, table
from workbench.papers.adadeep.study import LAYERS, NONE, PERSONAS, Study
from workbench.papers.adadeep.techniques import Part, design_parts
from workbench.training import generator

CHOICES = [len(space) for space in SPACES]
DEMANDS = st.builds(
    Demand,
    loss=st.floats(0.5, 10),
    latency=st.floats(0.05, 1.2),
    storage=st.floats(0.02, 1.2),
    energy=st.floats(0, 1),
    platform=st.sampled_from(sorted(platforms())),
)


@pytest.fixture(scope="module")
def recorded_study():
    return Study.of(record.designs(), list(record.SEEDS))


# --- platforms -------------------------------------------------------------------------------------------------


def test_there_are_a_dozen_platforms_each_with_a_source_or_called_synthetic():
    found = table()
    assert len(found) >= 12
    assert found["source"].str.len().gt(8).all()
    assert (found["source"].str.startswith("synthetic") == found["synthetic"]).all()
    assert not (found["synthetic"] & found["verified"]).any()
    assert (~found["synthetic"]).sum() >= 8
    assert set(found["zeros_time"]) == set(found["zeros_energy"]) == {True, False}
    for on in platforms().values():
        assert on.rate[32] <= on.rate[8] <= on.rate[4]
        assert on.pj[32] >= on.pj[8] >= on.pj[4] > 0
        assert on.bandwidth > 0 < on.cache
        assert on.zeros_energy or not on.zeros_time
    with pytest.raises(WorkbenchError, match="no platform 'pi9': choose from stm32f7"):
        platform("pi9")


ON = Platform("x", "x", {32: 1e9, 8: 4e9, 4: 8e9}, {32: 5.0, 8: 1.0, 4: 0.5}, 1e9, 1000.0, True, True, 2.0)


def test_latency_and_energy_of_a_part_by_hand():
    part = Part(10, 20, side=4)  # 200 weights, 3200 MACs, inputs and outputs of 4 * 16 * 30 = 1920 bytes: off the chip
    time, energy, kilobytes = part_cost(part, ON)
    assert kilobytes == 0.8
    assert time == pytest.approx(max(3.2, (800 + 1920) / 1e3) + 2)
    assert energy == pytest.approx((5 * 3200 + ON.cache_pj * 1920 + DRAM_PJ * 2720) / 1e6)
    small = Part(10, 20, bits=4)  # one position: 10 bytes in, 80 out stay on the chip; fetching 180 bytes takes longest
    time, energy, kilobytes = part_cost(small, ON)
    assert kilobytes == pytest.approx((200 * 4 + 20 * 32) / 8e3)
    assert time == pytest.approx(max(200 / 8e3, 0.18) + 2)
    assert energy == pytest.approx((0.5 * 200 + ON.cache_pj * 90 + DRAM_PJ * 180) / 1e6)
    sparse = Part(10, 20, side=4, kept=0.1)
    assert part_cost(sparse, ON)[0] == pytest.approx(max(0.32, (20 * 4 + 25 + 1920) / 1e3) + 2)
    dense = Platform(**{**ON.__dict__, "zeros_time": False, "zeros_energy": False})
    assert part_cost(sparse, dense)[0] == pytest.approx(3.2 + 2)
    assert pytest.approx(162.5) == DRAM_PJ, "Horowitz: 1.3 nJ for 64 bits"


@given(design=st.tuples(*map(st.sampled_from, SPACES)), key=st.sampled_from(sorted(platforms())))
@settings(max_examples=60)
def test_costs_of_a_design_are_sums_over_its_parts(design, key):
    on = platform(key)
    whole = np.array([part_cost(p, on) for layer in design_parts(LAYERS, design) for p in layer]).sum(0)
    np.testing.assert_allclose(costs(LAYERS, [design], SPACES, on)[0], whole, rtol=1e-9)


# --- demands ---------------------------------------------------------------------------------------------------


def test_terms_of_a_demand_by_hand():
    accuracy = torch.tensor([90.0, 87.0, 90.0, 84.0])
    spread = torch.tensor([[100.0, 100, 100], [40, 40, 40], [100, 60, 15], [30, 20, 8]])
    demand = Demand(5.0, 0.5, 0.5, 0.5, "any")
    of = method.terms(demand, accuracy, 90.0, spread, spread[0])
    torch.testing.assert_close(of.accuracy, torch.tensor([1.0, 0.4, 1.0, -0.2]))
    torch.testing.assert_close(of.energy, torch.tensor([0, 0.75, 0.5, 1.0]))
    torch.testing.assert_close(of.latency_slack, torch.tensor([-50.0, 10, -50, 20]) / 70)
    torch.testing.assert_close(of.storage_slack, torch.tensor([-50.0, 10, 35, 42]) / 92)
    assert of.feasible.tolist() == [False, True, False, False]
    torch.testing.assert_close(method.utility(demand, of), torch.tensor([0.5, 0.575, 0.75, 0.4]))
    reward = method.reward(demand, of)
    torch.testing.assert_close(reward[1:], torch.tensor([0.575, -50 / 70, -0.2]))
    torch.testing.assert_close(reward[0], torch.tensor(-50 / 70 - 50 / 92))
    paper = method.lagrangian(demand, of, 2.0)
    torch.testing.assert_close(paper[1], torch.tensor(0.575 + 2 * (10 / 70 + 10 / 92)))


@given(demand=DEMANDS, factor=st.floats(1, 3), which=st.sampled_from(["loss", "latency", "storage"]))
@settings(max_examples=60)
def test_wider_budgets_never_make_a_design_infeasible(recorded_study, demand, factor, which):
    wider = Demand(**{**demand.__dict__, which: getattr(demand, which) * factor})
    before, after = (recorded_study.terms(d, "val").feasible for d in (demand, wider))
    assert (after >= before).all()
    assert after.sum() >= before.sum()


@given(demand=DEMANDS)
@settings(max_examples=40)
def test_the_best_reward_is_the_best_of_the_constrained_problem(recorded_study, demand):
    spread = recorded_study.costs(demand.platform)
    plain = spread[NONE]
    rewards = recorded_study.rewards(demand, "val")
    for s in range(2):
        floor = recorded_study.val[s, NONE] - demand.loss
        allowed = [
            i
            for i in range(len(DESIGNS))
            if recorded_study.val[s, i] >= floor
            and spread[i, 0] <= demand.latency * plain[0]
            and spread[i, 2] <= demand.storage * plain[2]
        ]
        if not allowed:
            assert rewards[s].max() < 0
            continue
        assert rewards[s].min() < 0 <= rewards[s].max() or len(allowed) == len(DESIGNS)
        gained = [min(float(recorded_study.val[s, i] - floor) / demand.loss, 1) for i in allowed]
        saved = [float((plain[1] - spread[i, 1]) / (plain[1] - spread[:, 1].min())) for i in allowed]
        value = [(1 - demand.energy) * a + demand.energy * e for a, e in zip(gained, saved, strict=True)]
        assert float(rewards[s].max()) == pytest.approx(max(value), abs=1e-6)


def test_a_large_multiplier_buys_slack_that_nobody_asked_for(recorded_study):
    forms = experiment.reward_forms(recorded_study)
    by = forms.groupby("multiplier")["lost"].mean()
    assert (forms["lost"] >= 0).all()
    assert by[10.0] > 0.1
    assert forms[forms["multiplier"] == 0]["feasible"].mean() < 1, "without slack the budgets are broken"


# --- choices ---------------------------------------------------------------------------------------------------


def test_a_choice_never_sees_the_seed_it_is_reported_on(recorded_study):
    spoilt = copy.deepcopy(recorded_study.val)
    spoilt[2, 17] = 100.0  # lucky on seed 2 alone
    spoilt[2, :17] = 0.0
    other = Study(recorded_study.seeds, spoilt, recorded_study.test)
    for demand in PERSONAS.values():
        a, b = (study.best(s.rewards(demand, "others"), study.ALL)[2] for s in (recorded_study, other))
        assert a == b
    for at in range(3):
        pair = (study.smallest(s, at, "generic45", study.ALL, 1.0)[2] for s in (recorded_study, other))
        assert len({int(choice) for choice in pair}) == 1
    assert not torch.equal(other.others[0], recorded_study.others[0])


def test_what_is_reported_is_the_test_of_that_seed(recorded_study):
    chosen = torch.tensor([3, 140, 566, 70, 410][: len(record.SEEDS)])
    gain = recorded_study.gain(chosen)
    demand = PERSONAS["clinic"]
    value = recorded_study.rescored(demand, chosen)
    for s, d in enumerate(chosen.tolist()):
        lost = float(recorded_study.test[s, d] - recorded_study.test[s, NONE])
        assert float(gain[s]) == pytest.approx(lost)
        spread = recorded_study.costs(demand.platform)
        energy = float((spread[NONE, 1] - spread[d, 1]) / (spread[NONE, 1] - spread[:, 1].min()))
        above = max(min((lost + demand.loss) / demand.loss, 1), -1)
        expected = (1 - demand.energy) * above + demand.energy * energy
        if spread[d, 0] <= spread[NONE, 0]:
            assert float(value[s]) == pytest.approx(expected, abs=1e-6)
        else:
            assert float(value[s]) < 0, "beyond a budget nothing is earned"


def test_families_hold_what_they_say():
    assert len(DESIGNS) == len(set(DESIGNS)) == np.prod(CHOICES) == 567
    single = [DESIGNS[i] for i in study.SINGLE]
    assert ("bits4",) * 3 in single
    assert ("deep",) * 3 in single
    assert ("none", "none", "gap") in single
    assert ("prune",) * 3 in single
    assert ("bits8",) * 3 in single
    assert ("fire", "fire", "none") in single
    assert len(single) == len(set(single)) == 10
    subset = {DESIGNS[i] for i in study.SUBSET}
    assert set(single) <= subset
    assert ("none", "bits4", "none") in subset
    assert all(len(set(design) - {"none"}) <= 1 for design in subset)
    # None; svd, prune, bits8, bits4, deep in three places; separable, fire, mlpconv in two; gap in one.
    assert len(subset) == 1 + 5 * 7 + 3 * 3 + 1


# --- agents ----------------------------------------------------------------------------------------------------


def walk_of(rewards, used=None):
    K = len(rewards)
    features = torch.eye(3)
    used = used or [torch.zeros(K, n, 3) for n in CHOICES]
    return Walk(["conv", "conv", "linear"], CHOICES, features, used, torch.zeros(K, 3), rewards)


def test_designs_are_numbered_as_the_table_is():
    walk = walk_of(torch.zeros(1, len(DESIGNS)))
    for at in (0, 1, 6, 7, 150, 566):
        actions = [space.index(technique) for space, technique in zip(SPACES, DESIGNS[at], strict=True)]
        assert int(walk.design(torch.tensor(actions))) == at


def additive(seed):
    """Rewards [D] that are sums over layers, and what each technique adds, which the state then shows."""
    rng = np.random.default_rng(seed)
    added = [rng.normal(size=n) for n in CHOICES]
    rewards = [sum(added[k][a] for k, a in enumerate(d)) for d in product(*map(range, CHOICES))]
    return torch.tensor(rewards).float(), [torch.tensor(a).float()[:, None].expand(-1, 3) / 4 for a in added]


def additive_walk(seeds):
    rewards, added = zip(*map(additive, seeds), strict=True)
    return walk_of(torch.stack(rewards), [torch.stack(layer) for layer in zip(*added, strict=True)])


def test_agents_find_the_best_design_where_layers_add_up():
    walk = additive_walk(range(4))
    trace = method.q_learning(walk, [("toy", k) for k in range(4)], 200)
    rank = torch.tensor([(walk.rewards[k] > trace.rewards[k].max()).sum() for k in range(4)])
    assert (rank <= 5).all(), f"better ones: {rank.tolist()}"
    assert trace.rewards[:, -40:].mean() > trace.rewards[:, :40].mean() + 1.2
    assert trace.losses[-20:].mean() < trace.losses[:5].mean() / 3


def test_q_values_become_the_rewards_of_the_walk_they_lie_on():
    walk = additive_walk([9])
    trace = method.q_learning(walk, ["values"], 250)
    actions = torch.tensor([int(values[0, -1].argmax()) for values in trace.values])
    earned = float(walk.rewards[0, walk.design(actions)])
    for values in trace.values:
        assert float(values[0, -1].max()) == pytest.approx(earned, abs=0.5)


def test_problems_side_by_side_do_not_see_each_other():
    together = method.q_learning(additive_walk([0, 1, 2]), ["a", "b", "c"], 20)
    alone = method.q_learning(additive_walk([1]), ["b"], 20)
    assert (together.designs[1] == alone.designs[0]).float().mean() > 0.9  # sums round differently in a batch
    torch.testing.assert_close(together.values[0][1, :3], alone.values[0][0, :3], atol=1e-3, rtol=1e-3)


def test_the_state_tells_what_is_left_of_the_budgets():
    """Two problems that differ in nothing but the budget: only a state that shows it can tell them apart."""
    streams = [generator("q-learning", "same"), generator("q-learning", "same")]
    net = method.QNet(6, 8, 4, streams)
    x = torch.zeros(2, 1, 6)
    assert torch.equal(net(x)[0], net(x)[1])
    x[1, 0, 3] = -0.9
    assert not torch.equal(net(x)[0], net(x)[1])
    walk = study.walk(torch.zeros(2, len(DESIGNS)), [PERSONAS["camera"], PERSONAS["drone"]])
    assert not torch.equal(walk.left[0], walk.left[1])
    spread = torch.tensor(costs(LAYERS, DESIGNS, SPACES, platform("sparse")))
    for design in ((0, 0, 0), (4, 2, 5), (8, 5, 6)):
        left = walk.left[1] - sum(walk.used[layer][1, action] for layer, action in enumerate(design))
        at = int(walk.design(torch.tensor(design)))
        share = spread[at] / spread[NONE]
        wanted = torch.tensor([PERSONAS["drone"].latency, 1.0, PERSONAS["drone"].storage]) - share
        torch.testing.assert_close(left.double(), wanted.double(), atol=1e-5, rtol=1e-5)


# --- searches --------------------------------------------------------------------------------------------------


def test_searches_count_what_they_measure():
    rewards = additive(3)[0]
    for name, method_of in search.BASELINES.items():
        order = method_of(rewards, CHOICES, 50, generator(name, 1))
        if name != "TPE":
            assert len(set(order.tolist())) == len(order) == 50, name
        assert len(set(order.tolist())) <= 50
        assert order.min() >= 0
        assert order.max() < len(DESIGNS)
        again = method_of(rewards, CHOICES, 50, generator(name, 1))
        assert torch.equal(order, again), name


def test_greedy_solves_what_adds_up_in_one_round_and_is_caught_by_what_does_not():
    rewards = additive(4)[0]
    order = search.greedy(rewards, CHOICES, 60, generator("greedy"))
    assert int(rewards.argmax()) in order[: sum(CHOICES)].tolist()
    assert int(order[0]) == NONE
    trap = torch.zeros(len(DESIGNS))
    trap[-1] = 1.0  # all three layers must change at once
    assert int(trap.argmax()) not in search.greedy(trap, CHOICES, 20, generator("greedy")).tolist()


def test_best_so_far_gives_repeated_designs_for_free():
    rewards = torch.tensor([0.1, 0.5, 0.3, 0.9])
    found = method.best_so_far(torch.tensor([0, 0, 2, 0, 1, 1, 3]), rewards, 4)
    torch.testing.assert_close(found, torch.tensor([0.1, 0.3, 0.5, 0.9]))
    found = method.best_so_far(torch.tensor([2, 2, 0]), rewards, 4)
    torch.testing.assert_close(found, torch.tensor([0.3, 0.3, 0.3, 0.3]))


# --- the recorded table ----------------------------------------------------------------------------------------


def test_the_record_is_whole_and_says_how_to_repeat_it():
    found = record.designs()
    assert len(found) == len(record.SEEDS) * len(DESIGNS)
    assert not found.duplicated(["seed", "conv2", "conv3", "fc"]).any()
    assert len(record.SEEDS) >= 3
    assert recorded.provenance("adadeep/designs")["command"] == record.COMMAND == "workbench record adadeep"
    assert found["hash"].is_unique, "every row is a network of its own"
    assert found[["before", "val", "test"]].apply(lambda column: column.between(0, 100).all()).all()
    dense = found[(found["conv2"] == "none") & (found["conv3"] == "none") & (found["fc"] == "none")]
    assert dense["test"].between(75, 95).all()
    assert found["test"].max() - found["test"].min() > 15, "techniques cost accuracy, or there is nothing to choose"


def test_validation_and_test_share_no_digit_with_training():
    split = Split.draw(3)
    assert len(split.x) == measure.TRAIN
    assert len(split.val_x) == measure.VAL
    assert len(split.test_x) == 1797 - measure.TRAIN - measure.VAL
    whole = sum(np.bincount(y, minlength=10) for y in (split.y, split.val_y, split.test_y))
    assert (whole == np.bincount(data.digits().y, minlength=10)).all(), "each digit in one part"


@pytest.mark.parametrize("number", range(3))
def test_a_random_row_is_measured_again_within_half_a_point(number):
    """As it is, and from weights changed in the fourteenth digit, as sums on another processor would change them."""
    found = record.designs()
    row = found.iloc[int(torch.randint(len(found), (), generator=generator("three rows", number)))]
    seed = int(row.seed)  # a stream is named as its parts are written, and numpy's integers are written otherwise
    split, net = Split.draw(seed), record.network(seed)
    for change in (0.0, 1e-14):
        for weight in net.parameters():
            noise = torch.randn(weight.shape, dtype=torch.float64, generator=generator("rounding"))
            weight.data *= 1 + change * noise
        again = measure.measure(net, split, seed, (row.conv2, row.conv3, row.fc))
        assert abs(again["val"] - row.val) <= 0.5
        assert abs(again["test"] - row.test) <= 0.5


def test_the_recorded_network_is_what_training_gives():
    net, known = measure.trained(1, Split.draw(1)), record.network(1)
    for a, b in zip(net.parameters(), known.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_the_command_records_what_can_be_measured_again(tmp_path, monkeypatch):
    """A long run made short: one seed, two designs, little training; threads, for they see what is changed here."""
    few = [("none", "none", "none"), ("none", "fire", "bits4")]
    for module, changes in (
        (recorded, {"FOLDER": tmp_path}),
        (record, {"SEEDS": range(1), "SPACES": (("none",),), "DESIGNS": few}),
        (measure, {"EPOCHS": 2, "TUNING": 1}),
    ):
        for name, value in changes.items():
            monkeypatch.setattr(module, name, value)
    with parallel_config(backend="threading"):
        ended = CliRunner().invoke(cli.app, ["record", "adadeep"])
    assert ended.exit_code == 0, ended.output
    found = record.designs()
    assert list(zip(found.conv2, found.conv3, found.fc, strict=True)) == few
    again = measure.measure(record.network(0), Split.draw(0), 0, few[1])
    assert again == found.iloc[1].to_dict()
    assert recorded.provenance("adadeep/nets")["command"] == record.COMMAND


def test_a_damaged_record_is_refused(monkeypatch):
    found = record.designs()
    with pytest.raises(WorkbenchError, match="not all recorded"):
        Study.of(found, [0, 7])
    with pytest.raises(WorkbenchError, match="not all recorded"):
        Study.of(found.iloc[1:], [0, 1])


# --- printed counts --------------------------------------------------------------------------------------------


def test_counts_of_alexnet_and_lenet():
    alexnet = published.counts(published.ALEXNET)
    assert alexnet == {"weights": 60_954_656, "macs": 724_406_816}
    assert alexnet["weights"] + sum(p.outputs for p in published.ALEXNET) == 60_965_224
    assert published.counts(published.LENET) == {"weights": 61_470, "macs": 416_520}
    assert published.counts(published.LENET_SPARSE) == {"weights": 60_570, "macs": 326_520}
    rows = {row["id"]: row for row in published.rows("quick")}
    assert rows["adadeep.alexnet.macs"]["verdict"] == REPRODUCED
    assert rows["adadeep.lenet.macs.dense"]["verdict"] == CONTRADICTED
    assert all(row["verified"] is False for row in rows.values())


def test_the_two_factors_of_9_8_are_told_apart():
    cells = printed("adadeep")
    same = cells[cells["value"] == 9.8]
    assert set(same.index) == {"adadeep.mobisys.latency", "adadeep.tmc.energy"}
    assert same["source"].nunique() == 2
    assert same["note"].str.contains("not the 9.8 of").all()


# --- claims ----------------------------------------------------------------------------------------------------

TINY = {"seeds": 3, "evaluations": 12, "repetitions": 1, "again": 1}


@cache
def tiny_run():
    return experiment.run(Config.at("quick", **TINY))


@pytest.fixture(scope="module")
def result():
    return tiny_run()


def planted(tables, better):
    """The same tables with values that make every claim true, or false, by far."""
    found, sign = {name: t.copy() for name, t in tables.items()}, 1 if better else -1
    rng = np.random.default_rng(0)

    def noise(n):
        return 0.01 * rng.normal(size=n)

    chosen = found["chosen"]
    chosen["rescored"] = 0.5 + 0.3 * sign * (chosen["family"] == "mix") + noise(len(chosen))
    chosen["techniques"] = 2 if better else 1
    if not better:
        chosen[["conv2", "conv3", "fc"]] = "none"
    else:
        chosen["conv2"] = chosen["user"]
    found["shared"]["own"] = found["shared"]["shared"] + 0.4 * sign + noise(len(found["shared"]))
    cut = found["reductions"]
    cut["gain"] = (0.0 if better else -9.0) + noise(len(cut))
    cut["kept"] = np.where(cut["family"] == "mix", 6.0 if better else 1.5, 3.0) * (1 + noise(len(cut)))
    regret = found["searches"]
    regret["regret"] = 0.5 - 0.3 * sign * (regret["method"] == experiment.OURS) + noise(len(regret))
    found["learning"]["reward"] = 0.1 * sign * found["learning"]["tenth"] + noise(len(found["learning"]))
    found["forms"]["lost"] = 0.4 * sign + noise(len(found["forms"]))
    return found


@pytest.mark.parametrize("better", [True, False])
def test_claims_follow_what_was_planted(result, better):
    config = Config.at("quick", **TINY)
    rows = {
        claim.id: claim.row(evidence, "quick") | {"rule": claim.rule}
        for claim, evidence in experiment.claims(planted(result.tables, better), config)
    }
    for id, row in rows.items():
        if id.startswith(("adadeep.mobisys", "adadeep.tmc")):
            continue
        assert row["verdict"] == (REPRODUCED if better else CONTRADICTED), id
        assert row["n"] == 3
    parts = ("combine.sensor.vs_subset", "combine.all.vs_single", "novel", "demand.own", "reduce.energy.vs_single")
    parts += ("reduce.storage.holds", "search.vs_random", "search.vs_tpe", "search.vs_greedy", "mobisys.latency")
    assert all(f"adadeep.{part}" in rows for part in parts)


def test_a_factor_up_to_is_reached_by_the_interval_by_the_mean_or_not():
    for low, mean, verdict in ((9.9, 12.0, REPRODUCED), (6.0, 12.0, PARTLY), (4.0, 9.0, NOT_SEEN)):
        assert experiment.reaches(Interval(mean, low, 2 * mean - low, (mean,)), 9.8) == verdict


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 99}, "seed must be one that is recorded, 0 to"),
        ({"seed": 1, "seeds": 99}, "seeds must end at seed"),
        ({"evaluations": 1}, "evaluations must be at least 2 and at most 567"),
        ({"evaluations": 568}, "evaluations must"),
        ({"repetitions": 0}, "repetitions must"),
        ({"again": 0}, "again must"),
        ({"margin": 0.0}, "margin must be above 0"),
        ({"multiplier": -1.0}, "multiplier must"),
    ],
)
def test_what_cannot_run_is_refused(change, message):
    with pytest.raises(WorkbenchError, match=message):
        Config.at("quick", **change)


def test_scales_keep_to_the_regime():
    full = Config.at("full")
    assert full.seeds == len(record.SEEDS) >= 3
    assert full.repetitions >= 20
    assert Config.at("quick").margin == full.margin


# --- the whole -------------------------------------------------------------------------------------------------


def test_a_run_is_the_same_twice(result):
    again = experiment.run(Config.at("quick", **TINY))
    for name, frame in result.tables.items():
        pd.testing.assert_frame_equal(frame, again.tables[name])
    assert again.rows == result.rows
    assert again.data_hash == result.data_hash


def test_tables_are_whole(result):
    assert len(result.tables["searches"]) == 5 * len(PERSONAS) * 3 * 12
    assert set(result.tables["searches"]["method"]) == {*search.BASELINES, experiment.OURS, experiment.PAPERS_REWARD}
    assert (result.tables["searches"]["regret"] >= -1e-6).all()
    falling = result.tables["searches"].sort_values("evaluations").groupby(["method", "user", "seed"])["regret"]
    assert falling.apply(lambda values: values.is_monotonic_decreasing).all()
    assert set(result.tables["reductions"]["platform"]) == set(platforms())
    assert (result.tables["reductions"]["factor"] >= 1).all()
    for column in ("conv2", "conv3", "fc"):
        assert result.tables["q"]["technique"].isin({t for s in SPACES for t in s}).all()
        assert column in result.tables["chosen"]
    ids = [row["id"] for row in result.rows]
    assert len(ids) == len(set(ids))
    assert {row["paper"] for row in result.rows} == {"adadeep"}


def test_mixes_are_never_worse_where_they_were_chosen(result):
    wide = result.tables["chosen"].pivot(index=["user", "seed"], columns="family", values="reward")
    assert (wide["mix"] >= wide["one, chosen layers"] - 1e-9).all()
    assert (wide["one, chosen layers"] >= wide["one, everywhere"] - 1e-9).all()


def test_the_demand_changes_the_top_design():
    """Five users, on the mean of all seeds: at least three different best designs."""
    found = Study.of(record.designs(), list(record.SEEDS))
    mean = Study([0], found.val.mean(0, keepdim=True), found.test.mean(0, keepdim=True))
    tops = {DESIGNS[int(mean.rewards(demand, "val").argmax())] for demand in PERSONAS.values()}
    assert len(tops) >= 3
