"""Differentiable architecture search: operators and widths under a budget, shared by AGD, A2D and DNA.

A design takes one candidate of every *choice* (an operator, a width). A search gives each choice logits, and a design's
probability is the product of its candidates'. Here are the ways to pass a choice through a network (`choose_soft`,
`choose_hard`), what it passes through (`Mixed`, `SlicedConv2d`, `SlicedLinear`), what a design is expected to cost
(`Space`), the terms that hold that at a budget, and how one design is taken in the end.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench import WorkbenchError, check_number

# --- a choice, differentiable --------------------------------------------------------------------------------


class Chosen(NamedTuple):
    """A choice as a network sees it: ``weights`` [candidates], and the candidates that must be computed."""

    weights: Tensor
    paths: tuple[int, ...]

    @property
    def index(self) -> int:
        """The candidate of the largest weight: the only one, where the choice is hard."""
        return int(self.weights.argmax())

    @property
    def score(self) -> Tensor:
        """That candidate's weight: 1 where the choice is hard. Multiply an output by it to carry the gradient.

        A width that is cut out by a slice has no other way to its logits (AGD, section 3.3).
        """
        return self.weights[self.index]


def choose_soft(logits: Tensor, tau: float = 1.0) -> Chosen:
    """All candidates at once, by their softmax at temperature ``tau`` (DARTS; AGD's operators)."""
    check_number("tau", tau, 0, above=True)
    return Chosen((logits / tau).softmax(-1), tuple(range(len(logits))))


def choose_hard(logits: Tensor, tau: float, generator: torch.Generator, active: int | None = None) -> Chosen:
    """One candidate drawn with its softmax probability; backwards as if by Gumbel-softmax (straight-through).

    The draw takes the largest of logits plus Gumbel noise, so it does not depend on ``tau``; the gradient does.

    Args:
        logits: [candidates].
        tau: temperature of the softmax whose gradient is used: the lower, the nearer to the draw and the noisier.
        generator: its random stream.
        active: so many of the largest noisy logits are computed, and only their outputs reach the gradient
            (multi-path backward: A2D); None for all.
    """
    check_number("tau", tau, 0, above=True)
    if active is not None:
        check_number("active", active, 1, len(logits), whole=True)
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64).clamp(min=1e-300)
    noisy = logits - (-uniform.log()).log().to(logits)
    paths = noisy.detach().topk(active or len(logits)).indices
    soft = (noisy / tau).softmax(-1)
    forward, reached = torch.zeros_like(soft), torch.zeros_like(soft)
    forward[paths[0]], reached[paths] = 1.0, 1.0
    return Chosen(forward + (soft - soft.detach()) * reached, tuple(sorted(paths.tolist())))


def fixed(index: int, candidates: int) -> Chosen:
    """One candidate for good: a derived design, the widest or narrowest of a sandwich, a control."""
    check_number("index", index, 0, candidates - 1, whole=True)
    return Chosen(F.one_hot(torch.tensor(index), candidates).float(), (index,))


def temperature(step: int, start: float, factor: float, every: int) -> float:
    """``start`` times ``factor`` for every ``every`` steps done (A2D: 5, 0.98, 100,000 environment steps)."""
    check_number("start", start, 0, above=True)
    check_number("factor", factor, 0, above=True)
    check_number("every", every, 1, whole=True)
    return start * factor ** (step // every)


def entropy(logits: Sequence[Tensor]) -> float:
    """Mean entropy of the choices in nats: log(candidates) where nothing is decided, 0 where all is."""
    found = [torch.distributions.Categorical(logits=each.detach()).entropy() for each in logits]
    return float(torch.stack(found).mean())


# --- what a choice passes through ----------------------------------------------------------------------------


class Mixed(nn.ModuleList):
    """Candidates for one place of the network; gives their sum by the choice's weights."""

    def forward(self, x: Tensor, chosen: Chosen, *arguments: int) -> Tensor:
        """Compute ``chosen.paths`` only; ``arguments`` (a width, say) go to each candidate."""
        return sum(chosen.weights[i] * self[i](x, *arguments) for i in chosen.paths)


class SlicedConv2d(nn.Conv2d):
    """A convolution of every width up to its own: the leading filters, over the channels that come (slimmable).

    With ``groups`` equal to its channels it is depthwise, and as wide as what comes. Zero padding only.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.groups not in (1, self.in_channels) or self.padding_mode != "zeros":
            raise WorkbenchError("a sliced convolution has one group, or one a channel, and pads with zeros")

    def forward(self, x: Tensor, outputs: int | None = None) -> Tensor:
        """``x`` [N, inputs or fewer, H, W] to ``outputs`` channels (None: all, or as many as come if depthwise)."""
        inputs, groups = x.shape[1], 1 if self.groups == 1 else x.shape[1]
        check_number("channels that come", inputs, 1, self.in_channels)
        outputs = (self.out_channels if groups == 1 else inputs) if outputs is None else outputs
        check_number("outputs", outputs, 1, self.out_channels if groups == 1 else inputs, whole=True)
        bias = None if self.bias is None else self.bias[:outputs]
        weight = self.weight[:outputs, : inputs // groups]
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, groups)


class SlicedLinear(nn.Linear):
    """A linear layer of every width up to its own: the leading rows, over the features that come."""

    def forward(self, x: Tensor, outputs: int | None = None) -> Tensor:
        """``x`` [N, inputs or fewer] to ``outputs`` features (None: all)."""
        check_number("features that come", x.shape[1], 1, self.in_features)
        outputs = self.out_features if outputs is None else outputs
        check_number("outputs", outputs, 1, self.out_features, whole=True)
        bias = None if self.bias is None else self.bias[:outputs]
        return F.linear(x, self.weight[:outputs, : x.shape[1]], bias)


# --- designs and what they cost ------------------------------------------------------------------------------

ENUMERABLE = 1 << 22
"""So many designs are listed at most: 4 million."""
TRIES = 2_000_000
"""Designs that a search inside a band looks at before it gives up."""


@dataclass(frozen=True)
class Space:
    """All designs: ``sizes`` candidates by choice, and a cost that is a sum of tables over a few choices each.

    A term ``((0, 1, 3), table)`` adds ``table[i0, i1, i3]``: say, the MACs of a layer by the width that comes, its
    operator, and its own width. So the expected cost is exact but for rounding, with no sampling.
    """

    sizes: tuple[int, ...]
    terms: tuple[tuple[tuple[int, ...], Tensor], ...]

    def __post_init__(self) -> None:
        """Refuse terms that are none: the expectation would be wrong, or not finite."""
        for size in self.sizes:
            check_number("a choice's number of candidates", size, 1, whole=True)
        for choices, table in self.terms:
            if len(set(choices)) < len(choices) or not set(choices) <= set(range(len(self.sizes))):
                raise WorkbenchError(f"a term is of different choices from 0 to {len(self.sizes) - 1}; got {choices}")
            if tuple(table.shape) != tuple(self.sizes[c] for c in choices):
                raise WorkbenchError(f"a table of shape {list(table.shape)} for choices {choices} of {self.sizes}")
            if not table.float().isfinite().all():  # probabilities are float32
                raise WorkbenchError(f"the table of choices {choices} has costs that float32 cannot hold: scale them")

    def expected(self, probabilities: Sequence[Tensor]) -> Tensor:
        """Expected cost of a design drawn choice by choice from ``probabilities``; differentiable in them."""
        if [len(each) for each in probabilities] != list(self.sizes):
            raise WorkbenchError(f"probabilities must be of {self.sizes}; got {[len(p) for p in probabilities]}")
        total = probabilities[0].new_zeros(())
        for choices, table in self.terms:
            term = table.to(total)
            for choice in reversed(choices):  # the last axis first
                term = term @ probabilities[choice]
            total = total + term
        return total

    def cost(self, designs: Tensor) -> Tensor:
        """Cost of designs [..., choices], as float64 [...]."""
        parts = [table.double()[tuple(designs[..., c] for c in choices)] for choices, table in self.terms]
        return torch.stack(torch.broadcast_tensors(*parts)).sum(0)

    def designs(self) -> Tensor:
        """Every design, as int64 [count, choices]; `WorkbenchError` where there are too many to list."""
        if (count := math.prod(self.sizes)) > ENUMERABLE:
            raise WorkbenchError(f"{count:,} designs are too many to list: the limit is {ENUMERABLE:,}")
        return torch.cartesian_prod(*(torch.arange(size) for size in self.sizes)).view(count, len(self.sizes))


def log_probability(logits: Sequence[Tensor], designs: Tensor) -> Tensor:
    """Logarithm of the probability of designs [..., choices]."""
    return sum(each.log_softmax(-1)[designs[..., c]] for c, each in enumerate(logits))


# --- the budget ----------------------------------------------------------------------------------------------


def budget_term(expected: Tensor, budget: float) -> Tensor:
    """``log(expected / budget)^2``: pulls from both sides, so that it cannot collapse to the cheapest design."""
    check_number("budget", budget, 0, above=True)
    return (expected / budget).log().square()


@dataclass
class Pressure:
    """AGD's weight of the cost term: doubled while the derived design is too dear, halved while it is too cheap."""

    weight: float
    low: float
    high: float

    def __post_init__(self) -> None:
        """Refuse what would never change, or never rest."""
        check_number("weight", self.weight, 0, above=True)
        check_number("high", self.high, self.low)

    def update(self, cost: float) -> None:
        """Look at the cost of the design that would be derived now."""
        self.weight *= 2.0 if cost > self.high else 0.5 if cost < self.low else 1.0


# --- one design in the end -----------------------------------------------------------------------------------


def argmax_design(logits: Sequence[Tensor]) -> Tensor:
    """The most probable design of all, [choices], as the papers derive it; it may miss the budget."""
    return torch.stack([each.argmax() for each in logits])


def most_probable(logits: Sequence[Tensor], space: Space, low: float, high: float) -> Tensor:
    """The most probable design that costs between ``low`` and ``high``, [choices].

    Designs come off a heap in order of falling probability until one lies in the band. Every design has one parent
    (its last changed choice one rank higher), which is at least as probable: so none comes twice, and none too late.

    Raises:
        WorkbenchError: where there is no such design, or none among the `TRIES` most probable.
    """
    check_number("high", high, low)
    if [len(each) for each in logits] != list(space.sizes):
        raise WorkbenchError(f"logits must be of {space.sizes}; got {[len(each) for each in logits]}")
    ranked = [each.detach().double().log_softmax(-1).sort(descending=True, stable=True) for each in logits]
    losses = [(r.values[0] - r.values).tolist() for r in ranked]
    candidates = [r.indices.tolist() for r in ranked]
    tables = [(choices, table.tolist()) for choices, table in space.terms]

    def cost(ranks: tuple[int, ...]) -> float:
        total = 0.0
        for choices, entry in tables:
            for c in choices:
                entry = entry[candidates[c][ranks[c]]]
            total += entry
        return total

    heap = [(0.0, (0,) * len(candidates), 0)]
    for _ in range(TRIES):
        if not heap:
            raise WorkbenchError(f"no design costs between {low:g} and {high:g}: widen the band")
        loss, ranks, last = heapq.heappop(heap)
        if low <= cost(ranks) <= high:
            return torch.tensor([of[rank] for of, rank in zip(candidates, ranks, strict=True)])
        for c in range(last, len(ranks)):
            if (rank := ranks[c] + 1) < len(losses[c]):
                following = (*ranks[:c], rank, *ranks[c + 1 :])
                heapq.heappush(heap, (loss - losses[c][rank - 1] + losses[c][rank], following, c))
    raise WorkbenchError(f"none of the {TRIES:,} most probable designs costs between {low:g} and {high:g}")


def random_designs(space: Space, low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    """``count`` different designs, each equally likely among those that cost between ``low`` and ``high``.

    Returns:
        [count, choices], in the order in which they were drawn.

    Raises:
        WorkbenchError: where the band holds too few.
    """
    check_number("count", count, 1, whole=True)
    check_number("high", high, low)
    found: dict[tuple[int, ...], None] = {}
    for _ in range(TRIES // 10_000):
        drawn = [torch.randint(size, (10_000,), generator=generator) for size in space.sizes]
        designs = torch.stack(drawn, dim=1)
        costs = space.cost(designs)
        found |= dict.fromkeys(map(tuple, designs[(costs >= low) & (costs <= high)].tolist()))
        if len(found) >= count:
            return torch.tensor(list(found)[:count])
    raise WorkbenchError(f"only {len(found)} designs found between {low:g} and {high:g}: {count} were asked for")
