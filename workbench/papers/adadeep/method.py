"""AdaDeep: a user's demand as a reward, and agents that walk through the layers and choose a technique for each.

The problem (paper's section on the formulation; we know its form from memory): maximise accuracy above a floor and
energy saved, within budgets of latency and storage,

    max  mu1 N(A - A_min) + mu2 N(E_max - E)   subject to   T <= T_budget, S <= S_budget,

where N scales to [0, 1]; the paper's reward adds the budgets' slack, weighted as in a Lagrangian. One agent decides for
convolutions, one for fully connected layers; an episode is a walk from the first layer to the last.

Many problems (demands, seeds of the trained network, repetitions) are solved side by side: a leading axis K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.training import generator

# --- the demand --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Demand:
    """What a user wants.

    Args:
        loss: points of accuracy below the uncompressed network that are still accepted; the floor is ``A_min``.
        latency: budget, as a share of the uncompressed network's on that platform.
        storage: likewise.
        energy: mu2, the weight of energy saved; mu1 is the rest.
        platform: its key.
    """

    loss: float
    latency: float
    storage: float
    energy: float
    platform: str


class Terms(NamedTuple):
    """The parts of a reward, each a number a design ``[D]`` and scaled by the range that it can have.

    ``accuracy`` is 0 at the floor and 1 at the uncompressed network's, which is the most it can be; ``energy`` is 0
    for the uncompressed network and 1 for the design of the space that needs least; the slacks are positive within a
    budget, in units of the span between the uncompressed network and the smallest cost.
    """

    accuracy: Tensor
    energy: Tensor
    latency_slack: Tensor
    storage_slack: Tensor

    @property
    def feasible(self) -> Tensor:
        """bool ``[D]``: floor and budgets hold."""
        return (self.accuracy >= 0) & (self.latency_slack >= 0) & (self.storage_slack >= 0)


def terms(demand: Demand, accuracy: Tensor, dense: Tensor | float, costs: Tensor, plain: Tensor) -> Terms:
    """How designs look to a demand.

    Args:
        demand: with a positive ``loss``.
        accuracy: of the designs, in per cent ``[..., D]``.
        dense: of the uncompressed network, of a shape that broadcasts.
        costs: latency, energy and storage of the designs ``[D, 3]``.
        plain: of the uncompressed network ``[3]``.
    """
    latency, energy, storage = ((plain[i] - costs[:, i]) / (plain[i] - costs[:, i].min()) for i in range(3))
    budget = [
        (share - 1) * plain[i] / (plain[i] - costs[:, i].min())
        for i, share in ((0, demand.latency), (2, demand.storage))
    ]
    above = (accuracy - dense + demand.loss) / demand.loss
    return Terms(above.clamp(-1, 1), energy, latency + budget[0], storage + budget[1])


def utility(demand: Demand, of: Terms) -> Tensor:
    """The objective ``[D]``, whatever the budgets say."""
    return (1 - demand.energy) * of.accuracy + demand.energy * of.energy


def lagrangian(demand: Demand, of: Terms, multiplier: float) -> Tensor:
    """The reward as we know it from the paper ``[D]``: objective plus ``multiplier`` times the budgets' slack.

    Slack counts on both sides, so to be far below a budget is worth something, which nobody asked for; the floor has no
    term of its own, for accuracy is in the objective.
    """
    return utility(demand, of) + multiplier * (of.latency_slack + of.storage_slack)


def reward(demand: Demand, of: Terms) -> Tensor:
    """The objective where floor and budgets hold, else minus what is missing of them ``[D]``.

    So the best design is that of the constrained problem, for there is no multiplier to tune, and a design that misses
    little is better than one that misses much. Every search is given this one, and judged by it.
    """
    missing = sum(part.clamp(-1, 0) for part in (of.accuracy, of.latency_slack, of.storage_slack))
    return torch.where(of.feasible, utility(demand, of), missing)


# --- the agents --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Walk:
    """K problems over the same L layers: what an agent sees and what it gets.

    Args:
        kinds: of each layer, the name of its agent ("conv", "linear").
        choices: number of techniques a layer.
        features: of each layer, ``[L, F]``.
        used: what a technique of a layer adds to latency, energy and storage (mostly negative), as a share of the
            uncompressed network's; a tensor ``[K, techniques, 3]`` a layer.
        left: shares of the budgets that would be left without any technique ``[K, 3]``, part of the first state.
        rewards: of every design ``[K, D]``, designs in the order of `itertools.product`.
    """

    kinds: Sequence[str]
    choices: Sequence[int]
    features: Tensor
    used: Sequence[Tensor]
    left: Tensor
    rewards: Tensor

    def design(self, actions: Tensor) -> Tensor:
        """Numbers of designs ``[...]``, from the techniques chosen ``[..., L]``."""
        at = torch.zeros_like(actions[..., 0])
        for layer, count in enumerate(self.choices):
            at = at * count + actions[..., layer]
        return at


@dataclass(frozen=True)
class Settings:
    """Of the deep Q-learning; the best of twelve that we tried on a pilot.

    Args:
        hidden: width of a Q-network.
        lr: Adam's step size.
        batch: past episodes a gradient step.
        updates: gradient steps an episode.
        explore: share of the episodes in which epsilon falls from 1 to its end.
        epsilon: that end.
        sync: episodes between two copies to the target network.
    """

    hidden: int = 32
    lr: float = 0.02
    batch: int = 16
    updates: int = 8
    explore: float = 0.3
    epsilon: float = 0.05
    sync: int = 2


class QNet:
    """K networks of one hidden layer, side by side: states ``[K, ..., F]`` to values ``[K, ..., actions]``."""

    def __init__(self, features: int, hidden: int, actions: int, streams: Sequence[torch.Generator]) -> None:
        def draw(a: int, b: int) -> Tensor:
            drawn = [torch.randn(a, b, generator=stream) * (2 / a) ** 0.5 for stream in streams]
            return torch.stack(drawn).requires_grad_()

        self.first, self.second = draw(features, hidden), draw(hidden, actions)
        self.biases = [torch.zeros(len(streams), 1, n, requires_grad=True) for n in (hidden, actions)]

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained."""
        return [self.first, self.second, *self.biases]

    def __call__(self, x: Tensor, frozen: Sequence[Tensor] | None = None) -> Tensor:
        """Values for states ``[K, n, F]``; with ``frozen``, by an earlier copy of the parameters."""
        first, second, b1, b2 = frozen or self.parameters
        return torch.baddbmm(b2, torch.baddbmm(b1, x, first).relu(), second)


@dataclass
class Trace:
    """What the agents did: designs ``[K, episodes]`` and their rewards; the mean squared error of Q ``[episodes]``;
    Q-values along the greedy walk, ``[K, episodes, actions]`` a layer.
    """

    designs: Tensor
    rewards: Tensor
    losses: Tensor
    values: list[Tensor] = field(default_factory=list)


def q_learning(walk: Walk, names: Sequence[object], episodes: int, settings: Settings | None = None) -> Trace:
    """Deep Q-learning with replay and target networks, K problems side by side (Mnih et al. 2015).

    An episode chooses a technique layer by layer, epsilon-greedily; its design's reward comes at the end, and nothing
    is discounted. A state is the layer's features and what would be left of the budgets if no technique followed.
    After an episode, both agents learn from past episodes drawn at random.

    Args:
        walk: the problems.
        names: of each problem's own random stream (so that its numbers do not depend on who runs beside it).
        episodes: walks; a design may be proposed again.
        settings: see `Settings`.
    """
    s = settings or Settings()
    K, L, width = len(names), len(walk.choices), walk.features.shape[1] + walk.left.shape[1]
    streams = [generator("q-learning", name) for name in names]
    agents = {
        kind: QNet(width, s.hidden, count, streams)
        for kind, count in dict(zip(walk.kinds, walk.choices, strict=True)).items()
    }
    optimiser = torch.optim.Adam([p for agent in agents.values() for p in agent.parameters], lr=s.lr)
    chance = torch.stack([torch.rand(episodes, L, 2, generator=stream) for stream in streams])
    replayed = torch.stack([torch.rand(episodes, s.updates, s.batch, generator=stream) for stream in streams])
    states, actions = torch.zeros(K, episodes, L, width), torch.zeros(K, episodes, L, dtype=torch.long)
    rewards, losses, rows = torch.zeros(K, episodes), torch.zeros(episodes), torch.arange(K)
    values = [torch.zeros(K, episodes, count) for count in walk.choices]

    def observe(layer: int, left: Tensor) -> Tensor:
        return torch.cat([walk.features[layer].expand(K, -1), left], 1)

    def step(layer: int, left: Tensor, action: Tensor) -> Tensor:
        return left - walk.used[layer][rows, action]

    for episode in range(episodes):
        epsilon = max(s.epsilon, 1 - (1 - s.epsilon) * episode / max(s.explore * episodes, 1))
        left, greedy_left = walk.left, walk.left
        for layer, (kind, count) in enumerate(zip(walk.kinds, walk.choices, strict=True)):
            states[:, episode, layer] = observe(layer, left)
            with torch.no_grad():
                seen = torch.stack([observe(layer, left), observe(layer, greedy_left)], 1)
                q, along = agents[kind](seen).unbind(1)
            at_random = (chance[:, episode, layer, 1] * count).long()
            action = torch.where(chance[:, episode, layer, 0] < epsilon, at_random, q.argmax(1))
            values[layer][:, episode] = along
            actions[:, episode, layer] = action
            left, greedy_left = step(layer, left, action), step(layer, greedy_left, along.argmax(1))
        rewards[:, episode] = walk.rewards[rows, walk.design(actions[:, episode])]
        if episode % s.sync == 0:
            frozen = {kind: [p.detach().clone() for p in agent.parameters] for kind, agent in agents.items()}
        for update in range(s.updates):
            past = (replayed[:, episode, update] * (episode + 1)).long()  # [K, batch]
            error = torch.zeros(())
            for layer, kind in enumerate(walk.kinds):
                taken = actions[rows[:, None], past, layer]
                q = agents[kind](states[rows[:, None], past, layer]).gather(2, taken[..., None])[..., 0]
                if layer + 1 < L:
                    following = walk.kinds[layer + 1]
                    with torch.no_grad():
                        later = agents[following](states[rows[:, None], past, layer + 1], frozen[following])
                    target = later.amax(2)
                else:
                    target = rewards[rows[:, None], past]
                error = error + (q - target).square().mean(1).sum()  # summed over problems: none sees another
            optimiser.zero_grad()
            error.backward()
            optimiser.step()
        losses[episode] = float(error.detach()) / (K * L)
    return Trace(walk.design(actions), rewards, losses, values)


def best_so_far(proposed: Tensor, rewards: Tensor, count: int) -> Tensor:
    """Best reward after 1, 2, ... ``count`` evaluations ``[count]``; a design that was measured before costs none.

    Args:
        proposed: numbers of designs, in the order of a search.
        rewards: of all designs ``[D]``.
        count: evaluations; where the proposals are fewer different ones, the last best stays.
    """
    new = torch.tensor(list(dict.fromkeys(proposed.tolist()))[:count])
    best = rewards[new].cummax(0).values
    return torch.cat([best, best[-1:].expand(count - len(best))])
