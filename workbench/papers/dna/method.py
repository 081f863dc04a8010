"""The joint search: a network and its accelerator, by the true gradient of what they are expected to cost.

Every choice (the operator of a slot, the rule that allots layers to chunks, array, dataflow, buffer and order of tiles
of each chunk) has logits, a design's probability is the product of its choices'. In these probabilities the expected
cycles of a chunk are exactly multilinear, because cycles add up over layers: no sampling, no gradient estimator, and
finite differences confirm every derivative. Designs over the limits are taken out of the distribution, exactly: it is
conditioned on pairs of configurations that fit.

Only the maximum over chunks is softened: ``log L = log(sum_k T_k^s) / s``, a smooth maximum of the chunks' expected
times that is at most ``2^(1/s)`` too large with two chunks (`SHARPNESS` 16: 4.4 %).

Beside it stand what can be said with as many questions as a sampling search has: the score function (REINFORCE), and
the estimator of the paper's released successor, whose gradient is a random search's (`disguised`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from workbench.hardware import expected as expected_entry
from workbench.hardware import soft_maximum
from workbench.papers.dna.accelerators import Costs, Design
from workbench.supernet import argmax_design

SHARPNESS = 16.0


@dataclass(frozen=True)
class Objective:
    """What a design is worth: accuracy in points minus ``weight`` for each factor of ten of its cost.

    ``cost`` is ``latency`` (ms between two images) or ``edp`` (ms times µJ).
    """

    cost: str
    weight: float

    @property
    def id(self) -> str:
        """For tables."""
        return f"{self.cost} {self.weight:g}"

    def value(self, accuracy: Tensor, ms: Tensor, uj: Tensor) -> Tensor:
        """Points."""
        return accuracy - self.weight * (ms if self.cost == "latency" else ms * uj).log10()

    def by_macs(self, accuracy: Tensor, macs: Tensor) -> Tensor:
        """The same for who knows no hardware: latency grows with the MACs, and so does energy."""
        return accuracy - self.weight * (1 if self.cost == "latency" else 2) * macs.log10()


@dataclass
class Logits:
    """All choices: of the free slots, the rule, and of each chunk its factors."""

    operators: list[Tensor]
    rule: Tensor
    chunks: list[list[Tensor]]

    @classmethod
    def start(
        cls, slots: Sequence[int], rules: int, factors: Sequence[int], stream: torch.Generator, spread: float = 1.0
    ) -> Logits:
        """Normal with that ``spread``: some way from even odds, so that several starts end in several places."""

        def draw(n: int) -> Tensor:
            return (spread * torch.randn(n, generator=stream, dtype=torch.float64)).requires_grad_()

        return cls([draw(n) for n in slots], draw(rules), [[draw(n) for n in factors] for _ in range(2)])

    @property
    def all(self) -> list[Tensor]:
        """Every tensor of them."""
        return [*self.operators, self.rule, *(factor for chunk in self.chunks for factor in chunk)]

    def configurations(self, chunk: int) -> Tensor:
        """Probability of each configuration of a chunk: the product of its factors', the last one fastest."""
        found = torch.ones(1, dtype=torch.float64)
        for factor in self.chunks[chunk]:
            found = (found[:, None] * factor.softmax(-1)).flatten()
        return found

    def probabilities(self) -> Tensor:
        """Of operators, ``[slots, operators]``; where a slot has fewer, 0."""
        most = max(map(len, self.operators))
        return torch.stack([torch.nn.functional.pad(x.softmax(-1), (0, most - len(x))) for x in self.operators])


def expected_costs(costs: Costs, logits: Logits, sharpness: float = SHARPNESS) -> tuple[Tensor, Tensor]:
    """Expected ms between two images, with the smooth maximum over chunks, and expected µJ an image: exact otherwise.

    Both are conditioned on the limits: only configurations that fit (together, where there are two chunks) count.
    """
    first, second = logits.configurations(0), logits.configurations(1)
    fit = costs.pairs.double()
    alone, two = first * costs.alone, torch.stack([first * (fit @ second), second * (first @ fit)])
    one = torch.stack([alone / alone.sum(), torch.zeros_like(alone)])  # rule 0 has no second chunk
    two = two / two[0].sum()  # what is left of each configuration's probability, among pairs that fit
    used = torch.stack([one] + [two] * (len(costs.cycles) - 1))  # [rules, 2, configurations]

    def expectation(table: Tensor, fixed: Tensor) -> Tensor:  # [rules, 2]
        by_operator = (table @ used[:, :, None, :, None])[..., 0]
        return (logits.probabilities() * by_operator).sum((-2, -1)) + (fixed * used).sum(-1)

    cycles, rules = expectation(costs.cycles, costs.fixed_cycles), logits.rule.softmax(-1)
    slowest = soft_maximum(cycles.clamp(min=1e-9).log(), sharpness).exp()
    energy = expectation(costs.energy, costs.fixed_energy).sum(-1)
    return rules @ slowest / costs.megahertz / 1e3, rules @ energy


def expected_objective(
    costs: Costs, accuracy: Tensor, objective: Objective, logits: Logits, sharpness: float = SHARPNESS
) -> Tensor:
    """What is maximised: expected accuracy, exact, against the logarithm of the expected cost.

    ``accuracy``: of every network, ``[operators of slot 1, of slot 2, ...]``.
    """
    ms, uj = expected_costs(costs, logits, sharpness)
    return objective.value(expected_entry(accuracy, *logits.operators), ms, uj)


def derive(costs: Costs, logits: Logits) -> Design:
    """The most probable operators and rule, and of the configurations that fit the most probable ones."""
    net, rule = argmax_design(logits.operators), int(logits.rule.argmax())
    with torch.no_grad():
        first, second = logits.configurations(0), logits.configurations(1)
        joint = (first * costs.alone)[:, None] if rule == 0 else first[:, None] * second * costs.pairs
        best = int(joint.argmax())
    a, b = divmod(best, joint.shape[1])
    return Design(tuple(net.tolist()), rule, (a, a if rule == 0 else b))


def search(
    costs: Costs,
    factors: Sequence[int],
    slots: Sequence[int],
    gain: Callable[[Logits], Tensor],
    stream: torch.Generator,
    steps: int = 200,
    lr: float = 0.1,
) -> tuple[Design, list[dict[str, float]]]:
    """Climb ``gain`` (differentiable) by Adam on all logits at once; the derived design, and what happened by step.

    The history has ``gain``, and ``entropy`` of all choices (1: nothing decided).
    """
    logits = Logits.start(slots, len(costs.cycles), factors, stream)
    optimiser = torch.optim.Adam(logits.all, lr=lr)
    history = []
    for step in range(steps):
        optimiser.zero_grad()
        value = gain(logits)
        (-value).backward()
        history.append({"step": step, "gain": value.item(), "entropy": undecided(logits)})
        optimiser.step()
    return derive(costs, logits), history


def undecided(logits: Logits) -> float:
    """Mean entropy of the choices, as a share of that of even odds."""
    with torch.no_grad():
        shares = [-(x.softmax(-1) * x.log_softmax(-1)).sum() / math.log(len(x)) for x in logits.all]
    return float(torch.stack(shares).mean())


# --- searches that ask one design at a time ----------------------------------------------------------------------


class Asks(Protocol):
    """Something that answers what designs are worth, and counts (`baselines.Oracle`)."""

    sizes: list[int]

    def ask(self, choices: Tensor) -> Tensor:
        """``[n, choices]`` to ``[n]``; -inf, uncounted, where a design is over the limits."""

    @property
    def left(self) -> int:
        """Questions that may still be asked."""


def draw(logits: Sequence[Tensor], count: int, stream: torch.Generator) -> Tensor:
    """Designs drawn choice by choice, ``[count, choices]``."""
    return torch.stack([torch.multinomial(x.detach().softmax(-1), count, True, generator=stream) for x in logits], 1)


def fresh(oracle: Asks, logits: Sequence[Tensor], count: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw until ``count`` designs were within the limits; these, and what they are worth."""
    kept, worth, count = [], [], min(count, oracle.left)
    while sum(map(len, kept)) < count:
        designs = draw(logits, count - sum(map(len, kept)), stream)
        values = oracle.ask(designs)
        fine = values.isfinite()
        kept.append(designs[fine])
        worth.append(values[fine])
    return torch.cat(kept), torch.cat(worth)


def _log_probabilities(logits: Sequence[Tensor], designs: Tensor) -> Tensor:
    return torch.stack([x.log_softmax(-1)[designs[:, i]] for i, x in enumerate(logits)]).sum(0)


def score_function(oracle: Asks, stream: torch.Generator, lr: float = 0.1, batch: int = 8) -> None:
    """REINFORCE: ``(U - baseline) grad log p``, unbiased where the design is only sampled and its worth is a number.

    The baseline is the mean of a batch's others; worths are divided by their running spread.
    """
    logits = [torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in oracle.sizes]
    optimiser, seen = torch.optim.Adam(logits, lr=lr), []
    while oracle.left:
        designs, worth = fresh(oracle, logits, batch, stream)
        seen += worth.tolist()
        if len(worth) < 2:
            break
        others = (worth.sum() - worth) / (len(worth) - 1)
        advantage = (worth - others) / max(float(torch.tensor(seen).std()), 1e-9)
        optimiser.zero_grad()
        (-(advantage * _log_probabilities(logits, designs)).mean()).backward()
        optimiser.step()


def disguised_loss(cost: Tensor, probabilities: Sequence[Tensor]) -> Tensor:
    """The released successor's loss: a number, the cost of the sampled design, times a factor that is always one.

    ``prod_i ((1 - p_i) + p_i)`` with the first term detached, ``p_i`` the probability of what was sampled: its
    derivative in every ``p_i`` is ``+cost``. The cost model itself is never differentiated.
    """
    factor = torch.ones((), dtype=torch.float64)
    for p in probabilities:
        factor = factor * ((1 - p).detach() + p)
    return cost * factor


def disguised(oracle: Asks, stream: torch.Generator, worst: float, lr: float = 1e-7) -> None:
    """Search by `disguised_loss`, one sample a step, and keep the best design ever seen, as released (lr 1e-7).

    The cost is ``worst - U``, positive as theirs.
    """
    flat = torch.zeros(sum(oracle.sizes), dtype=torch.float64, requires_grad=True)  # one tensor: Adam is faster
    optimiser = torch.optim.Adam([flat], lr=lr)
    while oracle.left:
        logits = flat.split(oracle.sizes)
        designs, worth = fresh(oracle, logits, 1, stream)
        optimiser.zero_grad()
        disguised_loss(worst - worth[0], [x.softmax(-1)[i] for x, i in zip(logits, designs[0], strict=True)]).backward()
        optimiser.step()
