"""The search: one supernet whose weights and architecture learn from the same rollouts (one level).

AGD and most differentiable searches keep a half of the data for the architecture. Reinforcement learning has no such
half: the data come from the policy, and every step of either changes the policy. So A2D updates both at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench import supernet
from workbench.papers.a2d import games
from workbench.papers.a2d.method import SuperAgent, distillation
from workbench.papers.a2d.play import Forward, Player, Rules
from workbench.supernet import Chosen, budget_term, choose_hard, fixed
from workbench.training import generator, steps, whole_steps


@dataclass(frozen=True)
class Plan:
    """How a search goes: a share of ``warm_up`` with uniform draws, then temperatures from ``tau`` to ``tau_end``.

    ``active`` paths are computed backward; ``pressure`` weighs the cost term ``log(E[MACs] / budget)^2``.
    """

    count: int
    budget: float
    warm_up: float = 0.3
    tau: float = 5.0
    tau_end: float = 0.5
    active: int = 2
    pressure: float = 0.1

    def temperature(self, done: int) -> float:
        """Falls by a constant factor a hundredth of the search, as the paper's does every 100,000 steps."""
        factor = (self.tau_end / self.tau) ** 0.01
        return supernet.temperature(done, self.tau, factor, max(self.count // 100, 1))


class Search:
    """A learner (see `play.Learner`) that draws a path of the supernet for each rollout.

    Attributes:
        logits: of the choices: stem, cells, linear layer.
        probabilities: after each update, of all candidates end to end.
        gradients: of L_task by the logits, end to end, an update; none during the warm-up.
    """

    def __init__(self, net: SuperAgent, plan: Plan, *stream: object) -> None:
        self.net, self.plan, self.space, self.random = net, plan, net.space, generator("paths", *stream)
        self.logits = [nn.Parameter(torch.zeros(size)) for size in self.space.sizes]
        self.probabilities: list[Tensor] = []
        self.gradients: list[Tensor] = []
        self.pull = torch.zeros(sum(self.space.sizes))

    def begin(self, done: int) -> tuple[Forward, Forward]:
        """The drawn path acts; to learn, the other active ones are computed too."""
        self._note()
        warming = done < self.plan.warm_up * self.plan.count
        tau, active = self.plan.temperature(done), self.plan.active
        chosen = [
            choose_hard(logits.detach() if warming else logits, tau, self.random, active) for logits in self.logits
        ]
        drawn = [fixed(choice.index, len(choice.weights)) for choice in chosen]
        self.warming = warming
        return _through(self.net, drawn), _through(self.net, chosen)

    def penalty(self) -> Tensor | float:
        """The cost term; nothing during the warm-up."""
        if self.warming:
            return 0.0
        expected = self.space.expected([logits.softmax(-1) for logits in self.logits])
        cost = self.plan.pressure * budget_term(expected, self.plan.budget)
        self.pull = torch.cat(torch.autograd.grad(cost, self.logits, retain_graph=True))
        return cost

    def _note(self) -> None:
        """Keep what the last update did."""
        self.probabilities.append(torch.cat([logits.detach().softmax(-1) for logits in self.logits]))
        if self.logits[0].grad is not None:
            self.gradients.append(torch.cat([logits.grad for logits in self.logits]) - self.pull)

    def agreement(self) -> float:
        """Cosine between the mean gradients of even and of odd updates: 1 is all signal, 0 all noise.

        Over the second half of the search proper.
        """
        rows = torch.stack(self.gradients)[len(self.gradients) // 2 :]
        return float(torch.cosine_similarity(rows[::2].mean(0), rows[1::2].mean(0), dim=0))

    def derive(self, low: float, high: float) -> Tensor:
        """Indices of the most probable design whose MACs lie between ``low`` and ``high``."""
        return supernet.most_probable(self.logits, self.space, low, high)


@dataclass
class FixedPath:
    """The control: one path of the same supernet, for good."""

    net: SuperAgent
    design: Tensor

    def begin(self, done: int) -> tuple[Forward, Forward]:
        """Always the same."""
        path = [fixed(int(i), n) for i, n in zip(self.design, self.net.space.sizes, strict=True)]
        return (_through(self.net, path),) * 2

    def penalty(self) -> float:
        """Nothing."""
        return 0.0


def _through(net: SuperAgent, chosen: Sequence[Chosen]) -> Forward:
    return lambda x: net(x, chosen)


def optimiser(net: nn.Module, lr: float, logits: Sequence[Tensor] = (), logits_lr: float = 0.0) -> torch.optim.Adam:
    """Adam for weights and, with a rate of their own, for the logits of an architecture."""
    groups = [{"params": list(net.parameters()), "lr": lr}]
    if logits:
        groups.append({"params": list(logits), "lr": logits_lr})
    return torch.optim.Adam(groups, fused=True)


def teacher_states(teacher: nn.Module, game: str, count: int, rules: Rules, *stream: object) -> Tensor:
    """Observations of a teacher at play [about count, planes, rows, columns]."""
    player = Player(games.make(game, rules.copies), "teacher", *stream)
    return player.rollout(teacher, -(-count // rules.copies)).observations.flatten(0, 1)


def distil(
    learner: Search,
    states: Tensor,
    teacher: nn.Module,
    optimiser: torch.optim.Optimizer,
    updates: int,
    batch: int,
    rules: Rules,
    *stream: object,
) -> None:
    """The search on states of a teacher, with nothing but the teacher's two terms; ``plan.count`` counts states."""
    order = generator("batches", *stream)
    for update in steps(updates, "searching on the teacher's states"):
        with whole_steps():
            x = states[torch.randint(len(states), (batch,), generator=order)]
            _, learning = learner.begin(update * batch)
            with torch.no_grad():
                theirs = teacher(x)
            actor, critic = distillation(*learning(x), theirs)
            optimiser.zero_grad()
            (rules.actor * actor + rules.critic * critic + learner.penalty()).backward()
            optimiser.step()
