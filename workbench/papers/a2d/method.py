"""A2D, the method: agents made of nine operators, a supernet of all of them, A2C's losses and the teacher's.

Fu, Yu, Zhang, Lin: Auto-Agent-Distiller, arXiv 2012.13091. The paper's code is not public and its tables could not be
read again: operators, losses and the single level are as we know them, the weights of the losses are in `play.Rules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench import WorkbenchError
from workbench.supernet import Chosen, Mixed, SlicedConv2d, SlicedLinear, Space

# --- operators -----------------------------------------------------------------------------------------------


class Convolution(nn.Module):
    """A convolution of ``channels`` to as many, and ReLU."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = SlicedConv2d(channels, channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """``x`` [N, C or fewer, H, W]; ``gate`` [of x's channels] holds the channels that are there, see `widths`."""
        return gated(self.conv(x, x.shape[1]).relu(), gate)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel for itself, project by 1x1, and add the input (MobileNetV2)."""

    def __init__(self, channels: int, kernel: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * channels
        self.expansion = expansion
        self.expand = SlicedConv2d(channels, hidden, 1)
        self.depthwise = SlicedConv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden)
        self.project = SlicedConv2d(hidden, channels, 1)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """As of `Convolution`; a channel that is not there takes its hidden channels with it."""
        wide = None if gate is None else gate.repeat_interleave(self.expansion)
        x = x.contiguous(memory_format=torch.channels_last)  # torch's depthwise kernels are three times faster so
        hidden = self.expand(x, self.expansion * x.shape[1]).relu()
        hidden = gated(self.depthwise(hidden).relu(), wide)
        return x + gated(self.project(hidden, x.shape[1]), gate)


class Skip(nn.Module):
    """Nothing."""

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """The input."""
        return x


OPERATORS = {
    "skip": None,
    "conv 3": (3,),
    "conv 5": (5,),
    **{f"ir {k} e{e}": (k, e) for k in (3, 5) for e in (1, 3, 5)},
}
"""The paper's nine candidates of a cell: kernel, and expansion of inverted residuals."""


def operator(name: str, channels: int) -> nn.Module:
    """One of `OPERATORS`."""
    arguments = OPERATORS[name]
    if arguments is None:
        return Skip()
    return (InvertedResidual if len(arguments) == 2 else Convolution)(channels, *arguments)


def operator_macs(name: str, channels: int, positions: int) -> int:
    """MACs: ``k^2 C^2 HW`` of a convolution, ``(2 e C^2 + k^2 e C) HW`` of an inverted residual, 0 of a skip."""
    arguments = OPERATORS[name]
    if arguments is None:
        return 0
    kernel, *expansion = arguments
    if not expansion:
        return kernel**2 * channels**2 * positions
    return (2 * expansion[0] * channels**2 + kernel**2 * expansion[0] * channels) * positions


def gated(x: Tensor, gate: Tensor | None) -> Tensor:
    """Channels [N, C, ...] times their gate [C], where there is one."""
    return x if gate is None else x * gate.view(-1, *[1] * (x.dim() - 2))


# --- agents --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Board:
    """What an agent sees and does: ``planes`` of ``rows`` by ``columns``, and a number of ``actions``."""

    planes: int
    rows: int
    columns: int
    actions: int

    @property
    def positions(self) -> int:
        """After the stem, a 3x3 convolution without padding."""
        return (self.rows - 2) * (self.columns - 2)


class Design(NamedTuple):
    """An agent's architecture: channels, an operator a cell, units of the linear layer."""

    width: int
    cells: tuple[str, ...]
    units: int

    def __str__(self) -> str:
        """Width, cells and units, as tables have it."""
        return " | ".join([str(self.width), *self.cells, str(self.units)])

    @property
    def shortest(self) -> Design:
        """The design without its skips: the same function, so two designs of one `shortest` are one agent."""
        return self._replace(cells=tuple(c for c in self.cells if c != "skip"))

    def macs(self, board: Board) -> int:
        """MACs of one observation."""
        stem = 9 * board.planes * self.width * board.positions
        body = sum(operator_macs(name, self.width, board.positions) for name in self.cells)
        return stem + body + self.width * board.positions * self.units + self.units * (board.actions + 1)


class Agent(nn.Module):
    """Stem, cells, a linear layer, and two heads: logits of the policy, and the value."""

    def __init__(self, design: Design, board: Board) -> None:
        super().__init__()
        self.design = design
        self.stem = nn.Conv2d(board.planes, design.width, 3)
        self.cells = nn.Sequential(*(operator(name, design.width) for name in design.cells))
        self.linear = nn.Linear(design.width * board.positions, design.units)
        self.heads = nn.Linear(design.units, board.actions + 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` [N, planes, rows, columns] to logits [N, actions] and values [N]."""
        hidden = self.cells(self.stem(x).relu())
        out = self.heads(self.linear(hidden.flatten(1)).relu())
        return out[:, :-1], out[:, -1]


def widths(chosen: Chosen, of: Sequence[int]) -> Tensor:
    """A choice of widths as a gate: channel c is there where the chosen width is above c, [widest that is computed].

    Going forward it is ones, then zeros: what a slice of the leading channels would be. Backward the widths that are
    computed besides get their gradient, as operators do.
    """
    ladder = torch.arange(max(of[i] for i in chosen.paths))
    return sum(chosen.weights[i] * (ladder < of[i]) for i in chosen.paths)


class SuperAgent(nn.Module):
    """All agents of a space in one: the widest of each layer, of which a narrower agent takes the leading channels.

    Args:
        board: what it sees.
        stems: widths of the stem and cells, from the smallest.
        operators: candidates of a cell.
        cells: how many cells.
        units: widths of the linear layer, from the smallest.
    """

    def __init__(
        self, board: Board, stems: Sequence[int], operators: Sequence[str], cells: int, units: Sequence[int]
    ) -> None:
        super().__init__()
        self.board, self.stems, self.operators, self.units = board, tuple(stems), tuple(operators), tuple(units)
        self.stem = SlicedConv2d(board.planes, max(stems), 3)
        self.cells = nn.ModuleList(Mixed(operator(name, max(stems)) for name in operators) for _ in range(cells))
        # Flattened channel by channel, a narrower stem gives the leading features.
        self.linear = SlicedLinear(max(stems) * board.positions, max(units))
        self.heads = SlicedLinear(max(units), board.actions + 1)

    def forward(self, x: Tensor, chosen: Sequence[Chosen]) -> tuple[Tensor, Tensor]:
        """As of `Agent`, through the paths that are chosen: of the stem, of each cell, of the linear layer."""
        stem, *cells, units = chosen
        gate = widths(stem, self.stems)
        hidden = gated(self.stem(x, len(gate)).relu(), gate)
        for mixed, choice in zip(self.cells, cells, strict=True):
            hidden = mixed(hidden, choice, gate)
        gate = widths(units, self.units)
        out = self.heads(gated(self.linear(hidden.flatten(1), len(gate)).relu(), gate))
        return out[:, :-1], out[:, -1]

    @property
    def space(self) -> Space:
        """The choices (stem, cells, linear layer), and the MACs of every design."""
        where, count = self.board.positions, len(self.cells)
        heads = torch.tensor([float(u * (self.board.actions + 1)) for u in self.units])
        stem = torch.tensor([float(9 * self.board.planes * w * where) for w in self.stems])
        body = torch.tensor([[float(operator_macs(o, w, where)) for o in self.operators] for w in self.stems])
        linear = torch.tensor([[float(w * where * u) for u in self.units] for w in self.stems])
        terms = [((0,), stem), *(((0, 1 + c), body) for c in range(count)), ((0, 1 + count), linear)]
        sizes = len(self.stems), *[len(self.operators)] * count, len(self.units)
        return Space(sizes, (*terms, ((1 + count,), heads)))

    def design(self, indices: Tensor) -> Design:
        """The architecture that a row of indices stands for."""
        stem, *cells, units = indices.tolist()
        return Design(self.stems[stem], tuple(self.operators[c] for c in cells), self.units[units])


# --- A2C -----------------------------------------------------------------------------------------------------


def returns(
    rewards: Tensor, terminated: Tensor, truncated: Tensor, final: Tensor, last: Tensor, gamma: float
) -> Tensor:
    """n-step returns of a rollout: rewards until its end, or an episode's, and then the value of what follows.

    A terminated episode is followed by nothing. A truncated one, cut by a time limit, would have gone on: its return is
    completed by the value of its final observation, which is none of the rollout.

    Args:
        rewards: [T, N].
        terminated, truncated: bool [T, N], of the same steps.
        final: values [T, N] of final observations, read where truncated.
        last: values [N] of the observations after the rollout.
        gamma: discount.

    Returns:
        [T, N].
    """
    found, following = torch.empty_like(rewards), last
    for t in reversed(range(len(rewards))):
        following = torch.where(truncated[t], final[t], following).masked_fill(terminated[t], 0.0)
        following = found[t] = rewards[t] + gamma * following
    return found


class Losses(NamedTuple):
    """The five terms of L_task."""

    policy: Tensor
    value: Tensor
    entropy: Tensor
    actor: Tensor
    critic: Tensor


def a2c(logits: Tensor, values: Tensor, actions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A2C's terms: ``-E[log pi(a|s) A]``, ``E[A^2] / 2`` and minus the entropy, with ``A = targets - values``.

    The advantage is a constant in the first. ``logits`` [B, actions], the others [B]. An action whose logit is minus
    infinity is never taken and adds nothing to the entropy.
    """
    if logits.ndim != 2 or {values.shape, actions.shape, targets.shape} != {logits.shape[:1]}:
        shapes = ", ".join(str(list(each.shape)) for each in (logits, values, actions, targets))
        raise WorkbenchError(
            f"logits, values, actions and targets of shapes {shapes}: give [B, actions], [B], [B], [B]"
        )
    log_policy, advantage = logits.log_softmax(-1), targets - values
    taken = log_policy.gather(1, actions[:, None])[:, 0]
    least = torch.finfo(log_policy.dtype).min  # 0 log 0 is 0
    entropy = -(log_policy.exp() * log_policy.clamp(min=least)).sum(1).mean()
    return -(taken * advantage.detach()).mean(), advantage.square().mean() / 2, -entropy


def distillation(logits: Tensor, values: Tensor, teacher: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """``E[KL(pi_teacher || pi_student)]``, the teacher first, and ``E[(V_teacher - V_student)^2] / 2``."""
    theirs = teacher[0].log_softmax(-1)
    actor = (theirs.exp() * (theirs - logits.log_softmax(-1))).sum(1).mean()
    return actor, F.mse_loss(values, teacher[1]) / 2
