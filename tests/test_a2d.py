"""A2D: the game by its rules, returns by walking, losses by hand, the supernet by its parts, the recorded teacher."""

from itertools import pairwise

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from workbench import WorkbenchError, recorded
from workbench.papers.a2d import games, method, record
from workbench.papers.a2d.atari import AGENTS, frame, macs
from workbench.papers.a2d.games import BALLS, COLUMNS, ROWS, Catch, CatchVector
from workbench.papers.a2d.method import OPERATORS, Agent, Board, Design, SuperAgent
from workbench.papers.a2d.play import (
    Alone,
    Player,
    Rules,
    board,
    evaluate,
    learn,
    losses,
    new_agent,
    seeds,
    uniform,
    weights_from,
)
from workbench.papers.a2d.search import FixedPath, Plan, Search, distil, optimiser, teacher_states
from workbench.supernet import choose_hard, fixed
from workbench.training import generator

WHERE = Board(3, ROWS, COLUMNS, 3)
STEMS, UNITS = (2, 4), (4, 8)


def supernet(seed=0, operators=tuple(OPERATORS)):
    with weights_from(seed):
        return SuperAgent(WHERE, STEMS, operators, 2, UNITS)


# --- Catch -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*alternative render modes.*")
def test_catch_is_an_environment():
    check_env(Catch())


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_an_episode_of_catch_follows_its_rules(seed):
    env, random = Catch(), np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    caught, over, steps = 0.0, False, 0
    while not over:
        (paddle,), (ball,) = (np.argwhere(plane) for plane in observation[:2])
        action = int(random.integers(3))
        after, reward, over, truncated, _ = env.step(action)
        assert after.sum() == 3
        assert not truncated
        (moved,), (fallen,), (before,) = (np.argwhere(plane) for plane in after)
        assert moved[1] == np.clip(paddle[1] + action - 1, 0, COLUMNS - 1)
        if steps % (ROWS - 1) == ROWS - 2:  # it has landed: a new one is at the top, but for the last
            assert fallen[0] == (ROWS - 1 if over else 0)
            landing = {ball[1] - 1, ball[1], ball[1] + 1}
            assert reward == 0 or moved[1] in landing
        else:
            assert reward == 0
            assert (before == ball).all()
            assert fallen[0] == ball[0] + 1
            assert abs(fallen[1] - ball[1]) <= 1
        caught, observation, steps = caught + reward, after, steps + 1
    assert steps == BALLS * (ROWS - 1) == 90
    assert 0 <= caught <= BALLS


def test_every_ball_can_be_caught():
    def play(policy):
        env, total = Catch(), 0.0
        env.reset(seed=3)
        over = False
        while not over:
            column, drift, row = env.ball[1], env.drift, env.ball[0]
            for _ in range(ROWS - 1 - row):  # where will it land?
                drift = drift if 0 <= column + drift < COLUMNS else -drift
                column += drift
            _, reward, over, _, _ = env.step(policy(np.sign(column - env.paddle)))
            total += reward
        return total

    assert play(lambda towards: int(towards) + 1) == BALLS
    assert play(lambda towards: 1 - int(towards)) < BALLS / 2


@pytest.mark.parametrize("limit", [None, 25])
def test_copies_play_as_single_boards_do(limit):
    """Gymnasium's own vector environment of single boards, with its time limit, is the oracle."""
    ours = CatchVector(5, limit)
    single = (lambda: TimeLimit(Catch(), limit)) if limit else Catch
    theirs = SyncVectorEnv([single] * 5, autoreset_mode=AutoresetMode.SAME_STEP)
    given_seeds = [7, 1, 99, 12, 5]
    np.testing.assert_array_equal(ours.reset(seed=given_seeds)[0], theirs.reset(seed=given_seeds)[0])
    random, cuts, ends = np.random.default_rng(0), 0, 0
    for _ in range(300):
        actions = random.integers(0, 3, 5)
        a, b = ours.step(actions), theirs.step(actions)
        for mine, other in zip(a[:4], b[:4], strict=True):
            np.testing.assert_array_equal(mine, other)
        over = a[2] | a[3]
        cuts, ends = cuts + a[3].sum(), ends + a[2].sum()
        assert ("final_obs" in a[4]) == over.any() == ("final_obs" in b[4])
        if over.any():
            np.testing.assert_array_equal(a[4]["_final_obs"], b[4]["_final_obs"])
            for i in np.flatnonzero(over):
                np.testing.assert_array_equal(a[4]["final_obs"][i], b[4]["final_obs"][i])
    assert (cuts > 0) == bool(limit)
    assert (ends > 0) == (not limit)
    assert ours.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert ours.observation_space.contains(a[0])


def test_a_random_paddle_catches_one_in_five():
    env = CatchVector(500)
    env.reset(seed=0)
    random = np.random.default_rng(1)
    total = sum(env.step(random.integers(0, 3, 500))[1].sum() for _ in range(90))
    assert total / 500 == pytest.approx(2.0, abs=0.2)


def test_minatar_is_played_where_it_is_installed_and_refused_in_words():
    try:
        import minatar  # noqa: F401
    except ImportError:
        with pytest.raises(WorkbenchError, match="GPL"):
            games.make("breakout", 2)
        pytest.skip("MinAtar is not installed (GPL: an optional extra)")
    env = games.make("breakout", 3)
    first, _ = env.reset(seed=[1, 2, 3])
    assert first.shape == (3, 4, 10, 10)
    assert first.dtype == np.float32
    agent = new_agent(Design(4, (), 8), board(env), 0)
    player = Player(env, 0)
    rollout = player.rollout(agent, 200)
    assert rollout.terminated.any()
    with pytest.raises(WorkbenchError, match="no game 'chess'"):
        games.make("chess", 2)


# --- rollouts and returns ----------------------------------------------------------------------------------------


def walked(rewards, terminated, truncated, final, last, gamma):
    """Every return by walking from its step: the definition, with no recursion."""
    T, N = rewards.shape
    out = torch.zeros(T, N)
    for t in range(T):
        for n in range(N):
            total, factor = 0.0, 1.0
            for k in range(t, T):
                total += factor * float(rewards[k, n])
                factor *= gamma
                if terminated[k, n]:
                    factor = 0.0
                if terminated[k, n] or truncated[k, n]:
                    total += factor * float(final[k, n])
                    break
            else:
                total += factor * float(last[n])
            out[t, n] = total
    return out


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 3), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_returns_are_those_of_a_walk(seed, T, N, gamma):
    g = generator(seed)
    rewards, final = torch.randn(T, N, generator=g), torch.randn(T, N, generator=g)
    ends = torch.rand(T, N, generator=g)
    terminated, truncated = ends < 0.25, ends > 0.75
    last = torch.randn(N, generator=g)
    given_ = rewards, terminated, truncated, final, last, gamma
    torch.testing.assert_close(method.returns(*given_), walked(*given_), atol=1e-5, rtol=1e-5)


class Clock(gymnasium.vector.VectorEnv):
    """Two copies that show how long their episode is: observations [steps, episode] need no guess about resets."""

    def __init__(self, lengths, cut):
        self.num_envs, self.lengths, self.cut = 2, lengths, cut

    def reset(self, *, seed=None, options=None):
        self.t, self.episode = np.zeros(2, int), np.zeros(2, int)
        return self._observe(), {}

    def _observe(self):
        return np.stack([self.t, self.episode], 1).astype(np.float32)

    def step(self, actions):
        self.t += 1
        over = self.t == self.lengths
        rewards, infos = self.t * 1.0, {}
        if over.any():
            infos = {"final_obs": self._observe(), "_final_obs": over}
            self.t[over], self.episode[over] = 0, self.episode[over] + 1
        ended = over & ~self.cut, over & self.cut
        return self._observe(), rewards, *ended, infos


def test_no_transition_crosses_a_reset_and_only_truncation_bootstraps():
    env = Clock(np.array([3, 4]), np.array([False, True]))
    player = Player(env, 0)
    told = []

    def forward(x):  # the value of an observation is told by what it shows
        told.append(x.clone())
        return torch.zeros(len(x), 2), 100 * x[:, 1] + 10 * x[:, 0]

    rollout = player.rollout(forward, 10)
    x = rollout.observations
    # Each observation belongs to the action that was taken on it: step k of an episode pays k.
    torch.testing.assert_close(rollout.rewards, x[..., 0] + 1)
    assert (x[:, 0, 0] == torch.arange(10) % 3).all()
    assert rollout.terminated[:, 0].nonzero().flatten().tolist() == [2, 5, 8]
    assert rollout.truncated[:, 1].nonzero().flatten().tolist() == [3, 7]
    # The value after a cut is that of the final observation (step 4 of that episode), not of the next one's first.
    assert rollout.final[:, 1].nonzero().flatten().tolist() == [3, 7]
    assert rollout.final[3, 1] == 10 * 4
    assert rollout.final[7, 1] == 100 + 10 * 4
    assert (rollout.final[:, 0] == 0).all()
    targets = method.returns(rollout.rewards, rollout.terminated, rollout.truncated, rollout.final, rollout.last, 0.5)
    assert targets[2, 0] == 3.0  # terminated: the reward and no more
    assert targets[3, 1] == 4.0 + 0.5 * 40  # truncated: completed by its own value
    assert targets[9, 0] == 1.0 + 0.5 * (100 * 3 + 10)  # the rollout ended first
    assert [total for _, total in player.finished] == [6, 10, 6, 10, 6]
    assert [done for done, _ in player.finished] == [6, 8, 12, 16, 18]


def test_a_player_goes_on_where_it_stopped():
    agent = new_agent(Design(2, (), 4), WHERE, 0)
    once, twice = (Player(CatchVector(3), 4) for _ in range(2))
    whole = once.rollout(agent, 100)
    halves = [twice.rollout(agent, 50) for _ in range(2)]
    for name in ("observations", "actions", "rewards", "terminated"):
        joined = torch.cat([getattr(half, name) for half in halves])
        assert torch.equal(getattr(whole, name), joined), name
    assert once.finished == twice.finished


def test_evaluation_is_of_fresh_whole_episodes():
    with_seeds = [evaluate(uniform(3), "catch", 300, seed) for seed in (0, 1, 0)]
    assert with_seeds[0] == with_seeds[2] != with_seeds[1]
    assert np.mean(with_seeds) == pytest.approx(2, abs=0.25)
    assert not set(seeds(100, "evaluate", 0)) & set(seeds(100, "boards", 0))


# --- losses ------------------------------------------------------------------------------------------------------


def test_losses_by_hand():
    logits = torch.tensor([[0.0, np.log(3.0)], [0.0, 0.0]], dtype=torch.float32, requires_grad=True)  # 1/4, 3/4; half
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    actions, targets = torch.tensor([1, 0]), torch.tensor([2.0, 0.0])
    policy, value, entropy = method.a2c(logits, values, actions, targets)
    assert float(policy.detach()) == pytest.approx(-(np.log(0.75) * 1 + np.log(0.5) * -2) / 2)
    assert float(value.detach()) == pytest.approx((1 + 4) / 2 / 2)
    expected = (0.25 * np.log(0.25) + 0.75 * np.log(0.75) + np.log(0.5)) / 2
    assert float(entropy.detach()) == pytest.approx(expected)
    (by_value,) = torch.autograd.grad(policy, values, allow_unused=True)
    assert by_value is None, "the advantage is a constant for the policy"
    (critic,) = torch.autograd.grad(value, values)
    torch.testing.assert_close(critic, torch.tensor([-0.5, 1.0]))


def test_distillation_is_kl_with_the_teacher_first_and_half_a_squared_error():
    student = torch.tensor([[0.0, 0.0]], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    guide = torch.tensor([[np.log(4.0), 0.0]], dtype=torch.float32), torch.tensor([4.0])  # 0.8, 0.2
    actor, critic = method.distillation(*student, guide)
    assert float(actor.detach()) == pytest.approx(0.8 * np.log(1.6) + 0.2 * np.log(0.4), rel=1e-5)
    reverse = 0.5 * np.log(0.5 / 0.8) + 0.5 * np.log(0.5 / 0.2)
    assert float(actor.detach()) != pytest.approx(reverse, rel=0.05)
    assert float(critic.detach()) == 4.5
    (gradient,) = torch.autograd.grad(actor, student[0])
    torch.testing.assert_close(gradient, torch.tensor([[0.5 - 0.8, 0.5 - 0.2]]))  # of softmax: pi_S - pi_T
    x = torch.randn(7, 3, generator=generator(0))
    own = torch.randn(7, 3, generator=generator(1))
    same = F.kl_div(own.log_softmax(-1), x.log_softmax(-1), reduction="batchmean", log_target=True)
    other = method.distillation(own, torch.zeros(7), (x, torch.zeros(7)))[0]
    torch.testing.assert_close(same, other)
    assert float(method.distillation(x, torch.ones(7), (x, torch.ones(7)))[0]) == pytest.approx(0, abs=1e-6)


def test_the_teacher_is_used_and_stays_as_it_is():
    guide, _ = record.teacher()
    before = recorded.state_hash(guide.state_dict())
    agent, rules = new_agent(Design(4, (), 8), WHERE, 0), Rules()
    player = Player(CatchVector(4), 0)
    rollout = player.rollout(agent, 10)
    with_teacher = losses(agent, rollout, rules, guide)
    assert float(with_teacher.actor.detach()) > 0.01
    assert float(with_teacher.critic.detach()) > 0.01
    rules.total(with_teacher).backward()
    assert all(p.grad is None and not p.requires_grad for p in guide.parameters())
    own = torch.cat([p.grad.flatten() for p in agent.parameters()])
    agent.zero_grad()
    rules.total(losses(agent, rollout, rules, None)).backward()
    assert not torch.allclose(own, torch.cat([p.grad.flatten() for p in agent.parameters()]))
    learn(Alone(agent), player, optimiser(agent, 1e-3), 200, rules, guide)
    assert recorded.state_hash(guide.state_dict()) == before

    def other(x):  # a teacher whose outputs are a little off teaches something else
        logits, values = guide(x)
        return logits + 0.1 * torch.arange(3), values

    agent.zero_grad()
    losses(agent, rollout, rules, other).actor.backward()
    first = torch.cat([p.grad.flatten() for p in agent.parameters() if p.grad is not None])
    agent.zero_grad()
    losses(agent, rollout, rules, guide).actor.backward()
    second = torch.cat([p.grad.flatten() for p in agent.parameters() if p.grad is not None])
    assert (first - second).norm() > 1e-4


def test_l_task_is_the_weighted_sum():
    terms = method.Losses(*map(torch.tensor, (1.0, 10.0, 100.0, 1000.0, 10_000.0)))
    assert float(Rules(value=2.0, entropy=3.0, actor=4.0, critic=5.0).total(terms)) == 1 + 20 + 300 + 4000 + 50_000


# --- agents and operators ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS)
def test_macs_of_an_operator_are_its_formula(name):
    op = method.operator(name, 6)
    with FlopCounterMode(display=False) as counter:
        out = op(torch.zeros(1, 6, 8, 3))
    assert out.shape == (1, 6, 8, 3)
    assert counter.get_total_flops() == 2 * method.operator_macs(name, 6, 24)


@pytest.mark.parametrize(
    "design", [Design(8, (), 32), Design(16, (), 64), Design(4, ("conv 5", "skip", "ir 3 e5"), 16)], ids=str
)
def test_macs_of_an_agent_are_counted_right(design):
    with FlopCounterMode(display=False) as counter:
        logits, values = Agent(design, WHERE)(torch.zeros(1, 3, 10, 5))
    assert counter.get_total_flops() == 2 * design.macs(WHERE)
    assert logits.shape == (1, 3)
    assert values.shape == (1,)


def test_known_macs():
    assert Design(8, (), 32).macs(WHERE) == 11_456
    assert Design(16, (), 64).macs(WHERE) == 35_200
    assert [method.operator_macs(n, 8, 24) for n in ("skip", "conv 3", "conv 5", "ir 3 e1", "ir 5 e3")] == [
        0, 13_824, 38_400, 4_800, 23_616,
    ]  # fmt: skip


@pytest.mark.parametrize("name", AGENTS)
def test_macs_of_atari_agents_are_those_of_torchs_counter(name):
    with torch.device("meta"):
        net = AGENTS[name]()
    with FlopCounterMode(display=False) as counter:
        out = net(frame())
    assert out.shape == (1, 7)
    assert counter.get_total_flops() == 2 * macs(name)


def test_natures_cnn_by_hand():
    by_hand = 20**2 * 32 * 4 * 64 + 9**2 * 64 * 32 * 16 + 7**2 * 64 * 64 * 9 + 3136 * 512 + 512 * 7
    assert macs("Nature-CNN") == by_hand
    n = 3  # ResNet-20: n blocks a stage, at 84, 42 and 21 pixels
    stages = sum(2 * n * 9 * c * c * s * s for c, s in ((16, 84), (32, 42), (64, 21)))
    halves = sum(9 * c * c // 2 * s * s for c, s in ((32, 42), (64, 21)))  # the first of a stage sees half the channels
    shortcuts = sum(c * c // 2 * s * s for c, s in ((32, 42), (64, 21)))
    ends = 84**2 * 9 * 4 * 16 + 64 * 256 + 256 * 7
    assert macs("ResNet-20") == stages - halves + shortcuts + ends


def test_designs_that_differ_in_skips_alone_are_one_agent():
    a, b = Design(4, ("skip", "conv 3"), 8), Design(4, ("conv 3", "skip"), 8)
    assert a.shortest == b.shortest != Design(4, ("conv 5", "skip"), 8).shortest
    nets = [new_agent(d, WHERE, 0) for d in (a, b, a.shortest)]
    x = torch.rand(2, 3, 10, 5, generator=generator(0))
    for net in nets[1:]:
        assert torch.equal(net(x)[0], nets[0](x)[0])


# --- the supernet ------------------------------------------------------------------------------------------------


def path(net, design):
    return [fixed(int(i), n) for i, n in zip(design, net.space.sizes, strict=True)]


def cut_out(net, indices):
    """The agent of a design with the supernet's leading weights: an independent way to the same numbers."""
    design = net.design(torch.tensor(indices))
    agent, where = Agent(design, net.board), net.board.positions
    state = {"stem.weight": net.stem.weight[: design.width], "stem.bias": net.stem.bias[: design.width]}
    for c, name in enumerate(design.cells):
        for key, value in net.cells[c][indices[1 + c]].state_dict().items():
            shape = agent.cells[c].state_dict()[key].shape
            state[f"cells.{c}.{key}"] = value[tuple(slice(0, n) for n in shape)]
        assert name == net.operators[indices[1 + c]]
    state |= {"linear.weight": net.linear.weight[: design.units, : design.width * where]}
    state |= {"linear.bias": net.linear.bias[: design.units], "heads.bias": net.heads.bias}
    state["heads.weight"] = net.heads.weight[:, : design.units]
    agent.load_state_dict(state)
    return agent


@pytest.mark.parametrize("indices", [[0, 1, 0, 0], [1, 2, 4, 1], [0, 8, 5, 1], [0, 0, 0, 0], [1, 3, 6, 0]])
def test_a_path_of_the_supernet_is_the_agent_of_its_design(indices):
    net, x = supernet(), torch.rand(5, 3, 10, 5, generator=generator(1))
    ours, theirs = net(x, path(net, indices)), cut_out(net, indices)(x)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_active_paths_do_not_change_what_comes_out():
    """Multi-path backward: forward there is one path, even where wider layers and other operators are computed too."""
    net, x = supernet(), torch.rand(5, 3, 10, 5, generator=generator(1))
    for draw in range(20):
        logits = [torch.zeros(n, requires_grad=True) for n in net.space.sizes]
        chosen = [choose_hard(each, 1.0, generator(draw, i), 2) for i, each in enumerate(logits)]
        out = net(x, chosen)
        alone = cut_out(net, [c.index for c in chosen])(x)
        for a, b in zip(out, alone, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        (out[0].square().sum() + out[1].square().sum()).backward()
        for logit, choice in zip(logits, chosen, strict=True):
            assert logit.grad.abs().sum() > 0, "a choice that learns nothing"
            assert len(choice.paths) == 2


def test_the_gate_of_a_width_is_its_leading_channels():
    chosen = fixed(1, 3)
    assert method.widths(chosen, (2, 4, 6)).tolist() == [1, 1, 1, 1]
    soft = choose_hard(torch.zeros(3), 1.0, generator(0), 3)
    expected = [1.0] * (2, 4, 6)[soft.index] + [0.0] * 4
    assert method.widths(soft, (2, 4, 6)).round(decimals=5).tolist() == expected[:6]


def test_expected_macs_are_those_of_all_designs():
    net = supernet()
    space, g = net.space, generator(5)
    logits = [torch.randn(n, generator=g, dtype=torch.float64) for n in space.sizes]
    probabilities = [each.softmax(-1) for each in logits]
    designs = space.designs()
    weights = torch.stack([p[designs[:, c]] for c, p in enumerate(probabilities)]).prod(0)
    costs = torch.tensor([float(net.design(d).macs(WHERE)) for d in designs], dtype=torch.float64)
    torch.testing.assert_close(space.cost(designs), costs)
    torch.testing.assert_close(space.expected(probabilities), (weights * costs).sum())


# --- the search --------------------------------------------------------------------------------------------------


def searched(teacher, count=640, **plan):
    net = supernet(3)
    search = Search(net, Plan(count, 3000.0, **plan), 3)
    player = Player(CatchVector(4), 3)
    learn(search, player, optimiser(net, 0.01, search.logits, 0.1), count, Rules(copies=4), teacher)
    return net, search


def test_a_search_moves_its_architecture_after_the_warm_up_and_repeats():
    guide, _ = record.teacher()
    net, search = searched(guide)
    history = torch.stack(search.probabilities)
    updates, warm = len(history), round(0.3 * 16)
    assert updates == 16
    assert (history[: warm + 1] == history[0]).all(), "nothing moves in the warm-up"
    moved = history[warm + 1 :].diff(dim=0).abs().sum(1)
    assert (moved > 0).all()
    assert len(search.gradients) == updates - warm - 1  # the last update's is never looked at
    again = searched(guide)[1]
    assert torch.equal(torch.stack(again.probabilities), history)
    other = searched(None)[1]
    assert not torch.equal(torch.stack(other.probabilities), history)
    assert -1 <= search.agreement() <= 1
    design = search.derive(2000, 4000)
    assert 2000 <= net.design(design).macs(WHERE) <= 4000


def test_the_cost_term_pulls_the_expected_macs_to_the_budget():
    """With no other reason to move, the expectation ends at the budget and not at the cheapest design."""
    net = supernet()
    cheapest = float(net.space.cost(net.space.designs()).min())
    for budget in (4000.0, 12_000.0):
        search = Search(net, Plan(100, budget, pressure=1.0), 0)
        adam = torch.optim.Adam(search.logits, 0.05)
        search.warming = False
        for _ in range(300):
            adam.zero_grad()
            search.penalty().backward()
            adam.step()
        found = float(net.space.expected([each.detach().softmax(-1) for each in search.logits]))
        assert found == pytest.approx(budget, rel=0.02)
        assert found > 1.5 * cheapest


def test_gradients_that_are_kept_are_those_of_the_task_alone():
    net = supernet(3)
    search = Search(net, Plan(100, 3000.0, warm_up=0.0, pressure=5.0), 3)
    x = torch.rand(6, 3, 10, 5, generator=generator(2))
    _, learning = search.begin(0)
    logits, values = learning(x)
    task = logits.square().mean() + values.square().mean()
    alone = torch.cat(torch.autograd.grad(task, search.logits, retain_graph=True))
    (task + search.penalty()).backward()
    search.begin(1)
    assert not torch.allclose(torch.cat([each.grad for each in search.logits]), alone)
    torch.testing.assert_close(search.gradients[0], alone, atol=1e-6, rtol=1e-4)


def test_agreement_tells_signal_from_noise():
    search = Search(supernet(), Plan(100, 3000.0), 0)
    noise = [torch.randn(26, generator=generator(i)) for i in range(400)]
    search.gradients = noise
    assert abs(search.agreement()) < 0.6
    search.gradients = [each + 2 for each in noise]
    assert search.agreement() > 0.95
    search.gradients = [(-1) ** i * torch.ones(26) for i in range(400)]
    assert search.agreement() == pytest.approx(-1)


def test_the_temperature_falls_from_start_to_end():
    plan = Plan(1000, 1.0, tau=5.0, tau_end=0.5)
    found = [plan.temperature(done) for done in range(0, 1001, 10)]
    assert found[0] == 5.0
    assert found[-1] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(found))


def test_the_fixed_path_trains_nothing_else():
    net = supernet(1)
    design = torch.tensor([0, 1, 0, 0])
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    control = FixedPath(net, design)
    learn(control, Player(CatchVector(4), 1), optimiser(net, 0.01), 200, Rules(copies=4))
    changed = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"stem.weight", "stem.bias", "cells.0.1.conv.weight", "cells.0.1.conv.bias",
                       "linear.weight", "linear.bias", "heads.weight", "heads.bias"}  # fmt: skip
    assert torch.equal(net.stem.weight[2:], before["stem.weight"][2:]), "the channels that the path lacks"
    assert torch.equal(net.linear.weight[4:], before["linear.weight"][4:])


def test_the_search_on_the_teachers_states_lowers_the_distillation_loss():
    guide, _ = record.teacher()
    states = teacher_states(guide, "catch", 600, Rules(), 0)
    assert 600 <= len(states) < 700
    assert (states.sum((1, 2, 3)) == 3).all()
    net = supernet(3)
    search = Search(net, Plan(60 * 64, 3000.0), 3)
    with torch.no_grad():
        first = method.distillation(*search.begin(0)[0](states), guide(states))[0]
    distil(search, states, guide, optimiser(net, 0.01, search.logits, 0.05), 60, 64, Rules(), 0)
    with torch.no_grad():
        last = method.distillation(*search.begin(60 * 64)[0](states), guide(states))[0]
    assert last < first
    assert (torch.stack(search.probabilities)[-1] != torch.stack(search.probabilities)[0]).any()


# --- learning ----------------------------------------------------------------------------------------------------


def test_the_recorded_teacher_plays_as_recorded():
    guide, said = record.teacher()
    found = np.mean([evaluate(guide, "catch", 200, "again", i) for i in range(2)])
    random = evaluate(uniform(3), "catch", 400, "again")
    assert found == pytest.approx(said, abs=0.2)
    # 5 times random would be 10 of 10: so near to it as a policy that still draws its moves can come.
    assert found / random > 4.5
    assert found > 9.5
    about = recorded.provenance(record.NAME)
    assert about["command"] == "workbench record a2d"
    assert (recorded.FOLDER / "a2d" / "teacher.npz").stat().st_size < 120_000


def test_an_agent_learns_catch_and_learns_faster_with_a_teacher():
    guide, _ = record.teacher()
    rules, found = Rules(), []
    for with_teacher in (None, guide):
        agent = new_agent(Design(8, (), 32), WHERE, 5)
        learn(Alone(agent), Player(CatchVector(rules.copies), 5), optimiser(agent, 0.016), 10_000, rules, with_teacher)
        found.append(evaluate(agent, "catch", 100, 5))
    assert found[1] > found[0] + 2


def test_it_stops_where_the_target_is_reached():
    agent, rules = new_agent(Design(2, (), 4), WHERE, 0), Rules(copies=2, rollout=5)
    scores = iter([1.0, 5.0, 7.0, 9.0])
    options = {"marks": (10, 20, 35, 60), "score": lambda done: next(scores), "target": 5.0}
    curve = learn(Alone(agent), Player(CatchVector(2), 0), optimiser(agent, 1e-3), 100, rules, stop=True, **options)
    assert curve.steps == [10, 20]
    assert curve.reached == 20
    scores = iter([1.0, 5.0, 7.0, 9.0])
    curve = learn(Alone(agent), Player(CatchVector(2), 0), optimiser(agent, 1e-3), 100, rules, **options)
    assert curve.steps == [10, 20, 40, 60]
    assert curve.reached == 20
    assert curve.at(30) == 7.0
    never = learn(Alone(agent), Player(CatchVector(2), 0), optimiser(agent, 1e-3), 20, rules)
    assert np.isnan(never.reached)


def test_learning_rates_fall_to_their_part():
    agent, rules = new_agent(Design(2, (), 4), WHERE, 0), Rules(copies=2, rollout=5)
    adam, seen = optimiser(agent, 1.0), []

    class Spy(Alone):
        def begin(self, done):
            seen.append(adam.param_groups[0]["lr"])
            return super().begin(done)

    with torch.no_grad():
        for p in agent.parameters():
            p.zero_()
    learn(Spy(agent), Player(CatchVector(2), 0), adam, 40, rules, decay=0.2)
    assert seen == pytest.approx([1.0, 0.8, 0.6, 0.4])


def test_a_loss_that_is_not_finite_stops_it():
    agent = new_agent(Design(2, (), 4), WHERE, 0)
    with torch.no_grad():
        agent.heads.bias[-1] = torch.inf
    with pytest.raises(FloatingPointError, match="not finite"):
        learn(Alone(agent), Player(CatchVector(2), 0), optimiser(agent, 1e-3), 40, Rules(copies=2))


def test_agents_of_one_stream_start_alike():
    a, b, c = (new_agent(Design(2, (), 4), WHERE, s) for s in (0, 0, 1))
    assert recorded.state_hash(a.state_dict()) == recorded.state_hash(b.state_dict())
    assert recorded.state_hash(a.state_dict()) != recorded.state_hash(c.state_dict())
    before = torch.random.get_rng_state()
    new_agent(Design(2, (), 4), WHERE, 0)
    assert torch.equal(before, torch.random.get_rng_state())
    assert isinstance(a.stem, nn.Conv2d)
