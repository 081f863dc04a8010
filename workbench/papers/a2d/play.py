"""Playing and learning: rollouts of many copies side by side, A2C with or without a teacher, evaluation.

Agents here are so small that batches of one agent keep the processor as busy as eight agents stacked in one call do
(tests/benchmarks/test_a2d_speed.py). So they train one after another, and pair by their seeds: same first boards, same
initial weights, same random numbers for actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

from workbench.papers.a2d import games
from workbench.papers.a2d.method import Agent, Board, Design, Losses, a2c, distillation, returns
from workbench.training import generator, steps, whole_steps

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Observations [N, ...] to logits [N, actions] and values [N]."""


def board(env: VectorEnv) -> Board:
    """What an agent of this game sees and does."""
    return Board(*env.single_observation_space.shape, int(env.single_action_space.n))


def seeds(count: int, *stream: object) -> list[int]:
    """Seeds for copies of a game."""
    return torch.randint(2**31, (count,), generator=generator(*stream)).tolist()


@contextmanager
def weights_from(*stream: object) -> Iterator[None]:
    """Networks made inside get the initial weights of this random stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(*seeds(1, "weights", *stream))
        yield


def new_agent(design: Design, board: Board, *stream: object) -> Agent:
    """An agent with the initial weights of a stream: agents of one design and stream start alike."""
    with weights_from(*stream):
        return Agent(design, board)


class Rollout(NamedTuple):
    """T steps of N copies: [T, N], observations [T, N, ...]; ``final`` and ``last`` as of `method.returns`."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    final: Tensor
    last: Tensor


class Player:
    """Copies of a game that are played on and on, a rollout at a time.

    ``finished`` collects episodes: the steps of all copies together when each ended, and its return.
    """

    def __init__(self, env: VectorEnv, *stream: object) -> None:
        self.env, self.random = env, generator("actions", *stream)
        self.observation, _ = env.reset(seed=seeds(env.num_envs, "boards", *stream))
        self.running, self.done = np.zeros(env.num_envs), 0
        self.finished: list[tuple[int, float]] = []

    @torch.no_grad()
    def rollout(self, forward: Forward, count: int) -> Rollout:
        """``count`` steps by actions drawn from the policy; a value is asked for where a copy was cut by time."""
        rows = []
        for _ in range(count):
            x = torch.from_numpy(self.observation)
            logits, _ = forward(x)
            actions = torch.multinomial(logits.softmax(-1), 1, generator=self.random)[:, 0]
            self.observation, rewards, terminated, truncated, infos = self.env.step(actions.numpy())
            final = torch.zeros(len(x))
            if truncated.any():
                unfinished = np.stack([infos["final_obs"][i] for i in np.flatnonzero(truncated)])
                final[torch.from_numpy(truncated)] = forward(torch.from_numpy(unfinished))[1]
            self.running += rewards
            over = terminated | truncated
            self.done += len(x)
            self.finished += [(self.done, total) for total in self.running[over]]
            self.running[over] = 0
            rows.append(
                (x, actions, *map(torch.from_numpy, (rewards.astype(np.float32), terminated, truncated)), final)
            )
        last = forward(torch.from_numpy(self.observation))[1]
        return Rollout(*map(torch.stack, zip(*rows, strict=True)), last)


@torch.no_grad()
def evaluate(forward: Forward, game: str, episodes: int, *stream: object) -> float:
    """Mean return of fresh episodes, actions drawn from the policy; each copy plays one, from a seed of its own."""
    env = games.make(game, episodes)
    observation, _ = env.reset(seed=seeds(episodes, "evaluate", *stream))
    random, total, playing = generator("evaluate", "actions", *stream), np.zeros(episodes), np.ones(episodes, bool)
    while playing.any():
        logits, _ = forward(torch.from_numpy(observation))
        actions = torch.multinomial(logits.softmax(-1), 1, generator=random)[:, 0]
        observation, rewards, terminated, truncated, _ = env.step(actions.numpy())
        total += rewards * playing
        playing &= ~(terminated | truncated)
    return float(total.mean())


def uniform(actions: int) -> Forward:
    """The random policy."""
    return lambda x: (torch.zeros(len(x), actions), torch.zeros(len(x)))


@dataclass(frozen=True)
class Rules:
    """How agents learn: the weights of `method.Losses` and the numbers of A2C, the same for all arms.

    ``value``, ``entropy``, ``actor`` and ``critic`` are b1 to b4 of L_task; the last two need a teacher.
    """

    copies: int = 16
    rollout: int = 10
    gamma: float = 0.9
    value: float = 1.0
    entropy: float = 0.02
    actor: float = 1.0
    critic: float = 0.1

    def total(self, losses: Losses) -> Tensor:
        """L_task."""
        weights = (1.0, self.value, self.entropy, self.actor, self.critic)
        return sum(weight * loss for weight, loss in zip(weights, losses, strict=True))


def losses(forward: Forward, rollout: Rollout, rules: Rules, teacher: nn.Module | None) -> Losses:
    """The five terms on a rollout, of which the student's own states are also the teacher's."""
    targets = returns(
        rollout.rewards, rollout.terminated, rollout.truncated, rollout.final, rollout.last, rules.gamma
    ).flatten()
    x = rollout.observations.flatten(0, 1)
    logits, values = forward(x)
    terms = a2c(logits, values, rollout.actions.flatten(), targets)
    if teacher is None:
        return Losses(*terms, torch.zeros(()), torch.zeros(()))
    with torch.no_grad():
        theirs = teacher(x)
    return Losses(*terms, *distillation(logits, values, theirs))


class Learner(Protocol):
    """Who learns from rollouts: an agent, or a search."""

    def begin(self, done: int) -> tuple[Forward, Forward]:
        """Who acts in the next rollout and who learns from it, after ``done`` environment steps."""

    def penalty(self) -> Tensor | float:
        """What is added to L_task."""


@dataclass
class Alone:
    """An agent that learns."""

    agent: nn.Module

    def begin(self, done: int) -> tuple[Forward, Forward]:
        """The agent itself."""
        return self.agent, self.agent

    def penalty(self) -> float:
        """Nothing."""
        return 0.0


@dataclass
class Curve:
    """Evaluation returns over environment steps; ``reached`` is the first step at which the target was (NaN: never)."""

    steps: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    reached: float = float("nan")

    def at(self, mark: int) -> float:
        """The return at the first evaluation from ``mark`` steps on."""
        return next(r for done, r in zip(self.steps, self.returns, strict=True) if done >= mark)


def learn(
    learner: Learner,
    player: Player,
    optimiser: torch.optim.Optimizer,
    count: int,
    rules: Rules,
    teacher: nn.Module | None = None,
    *,
    decay: float = 1.0,
    marks: Iterable[int] = (),
    score: Callable[[int], float] = lambda done: float("nan"),
    target: float = float("inf"),
    stop: bool = False,
    label: str = "learning",
) -> Curve:
    """A2C for ``count`` environment steps (the last rollout whole), in place.

    Args:
        learner: who acts and learns.
        player: copies of the game.
        optimiser: of everything that learns.
        count: environment steps.
        rules: weights and numbers.
        teacher: of whom the student also learns, on the student's own states; its parameters get no gradient.
        decay: the learning rates fall linearly to this part.
        marks: steps, rising, from which ``score`` is asked once each; it is told how many were done.
        score: a mean return of fresh episodes.
        target: return that is looked for.
        stop: whether to end where it is reached.
        label: of the progress bar.

    Raises:
        FloatingPointError: when the loss is not finite.
    """
    per_update, curve, ahead = rules.rollout * player.env.num_envs, Curve(), list(marks)
    updates = -(-count // per_update)
    first = [group["lr"] for group in optimiser.param_groups]
    for update in steps(updates, label):
        for group, lr in zip(optimiser.param_groups, first, strict=True):
            group["lr"] = lr * (1 - (1 - decay) * update / updates)
        with whole_steps():
            acting, learning = learner.begin(update * per_update)
            rollout = player.rollout(acting, rules.rollout)
            optimiser.zero_grad()
            loss = rules.total(losses(learning, rollout, rules, teacher)) + learner.penalty()
            if not loss.isfinite():
                raise FloatingPointError(f"{label}: the loss is not finite at update {update}")
            loss.backward()
            optimiser.step()
        done = (update + 1) * per_update
        if ahead and done >= ahead[0]:
            ahead = [mark for mark in ahead if mark > done]
            curve.steps.append(done)
            curve.returns.append(score(done))
            if curve.returns[-1] >= target and not curve.reached <= done:
                curve.reached = float(done)
                if stop:
                    break
    return curve
