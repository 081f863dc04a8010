"""Pruning by redundant lines: units of a layer whose lines nearly coincide cut the input space twice.

You, Balestriero, Lu, Kou, Shi, Zhang, Wu, Lin, Baraniuk: "Max-Affine Spline Insights into Deep Network Pruning",
TMLR 2022. A ReLU unit is zero along a line; where two lines of a layer coincide, one of them is redundant.

The published code has no criterion, so distance and rules here are our reading; the paper's exact form may differ.
Removal is physical: rows, biases and outgoing columns go.

Leading axis K everywhere: weights ``[K, out, in]``, biases ``[K, out]``, labels ``[K, N]``,
and a point is a column, ``[K, 2, N]``: sums over units then run along whole rows of points, which is 3 times faster.
Float64 throughout: in float32 the order of sums alone moves the mean of 24 pruned X networks by a point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import WorkbenchError
from workbench.training import generator, train

TRAIN, TEST = 300, 1000  # points of each seed

Rule = Literal[
    "redundancy", "scaled", "merge", "isolated", "in-norm", "in*out norm", "SNIP", "random", "reversed norm"
]  # fmt: skip
RULES: tuple[Rule, ...] = Rule.__args__


# --- data in the plane: every seed draws points of its own, inputs in about [-1, 1] -------------------------------


def cross(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """The X: a square in which ``|y| > |x|`` is one class."""
    x = 2 * torch.rand(n, 2, generator=g) - 1
    return x, (x[:, 1].abs() > x[:, 0].abs()).long()


def circles(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two rings of radii 0.4 and 0.8."""
    y = torch.arange(n) % 2
    angle, radius = 2 * math.pi * torch.rand(n, generator=g), 0.4 + 0.4 * y
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(n, 2, generator=g), y


def spiral(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two arms of 1.25 turns."""
    y, radius = torch.arange(n) % 2, torch.rand(n, generator=g).sqrt()
    angle = 2.5 * math.pi * radius + math.pi * y
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1) + 0.02 * torch.randn(n, 2, generator=g), y


def moons(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two half circles that interlock."""
    y, angle = torch.arange(n) % 2, math.pi * torch.rand(n, generator=g)
    sign = 1 - 2 * y
    x = torch.stack([y + sign * angle.cos(), y / 2 + sign * angle.sin()], 1) + 0.2 * torch.randn(n, 2, generator=g)
    return (x - torch.tensor([0.5, 0.25])) / 1.5, y


DATASETS: dict[str, Callable[[int, torch.Generator], tuple[Tensor, Tensor]]] = {
    "X": cross,
    "circles": circles,
    "spiral": spiral,
    "moons": moons,
}


@dataclass
class Task:
    """What K models learn from, ``x`` and ``y``, and what measures them, ``test_x`` and ``test_y``.

    ``seeds`` name the models' streams: equal seeds have equal points.
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    seeds: Sequence[int]

    @classmethod
    def of(cls, dataset: str, seeds: Sequence[int]) -> Task:
        """A fresh sample for every seed; `WorkbenchError` for an unknown data set."""
        if dataset not in DATASETS:
            raise WorkbenchError(f"unknown data set {dataset!r}: choose one of {', '.join(DATASETS)}")
        draw, parts = DATASETS[dataset], []
        for part, n in (("train", TRAIN), ("test", TEST)):
            drawn = [draw(n, generator(seed, dataset, part)) for seed in seeds]
            parts += [torch.stack([x.mT.contiguous() for x, _ in drawn]).double(), torch.stack([y for _, y in drawn])]
        return cls(*parts, list(seeds))

    def repeat(self, copies: int) -> Task:
        """The same for ``copies`` arms, one after the other."""
        x, test_x = (points.repeat(copies, 1, 1) for points in (self.x, self.test_x))
        return Task(x, self.y.repeat(copies, 1), test_x, self.test_y.repeat(copies, 1), [*self.seeds] * copies)

    def split(self, batch: int) -> list[Task]:
        """Its training points in parts of ``batch`` (the last may be smaller)."""
        parts = zip(self.x.split(batch, 2), self.y.split(batch, 1), strict=True)
        return [Task(x.contiguous(), y, self.test_x, self.test_y, self.seeds) for x, y in parts]


# --- networks ----------------------------------------------------------------------------------------------------


@dataclass
class MLP:
    """K ReLU networks: ``weights[l]`` ``[K, out, in]`` and ``biases[l]`` ``[K, out]``.

    Networks of different width share a batch by units of zeros: these stay zero, since no gradient reaches them.
    """

    weights: list[Tensor]
    biases: list[Tensor]

    @classmethod
    def init(cls, widths: Sequence[int], seeds: Sequence[int], stream: str = "init") -> MLP:
        """Uniform within 1/sqrt(inputs), as torch starts linear layers; ``widths`` from inputs to classes."""
        generators = [generator(seed, stream, *widths) for seed in seeds]
        draw = lambda n, *shape: torch.stack(  # noqa: E731
            [(2 * torch.rand(shape, generator=g, dtype=torch.float64) - 1) / n**0.5 for g in generators]
        )
        layers = [(draw(n, out, n), draw(n, out)) for n, out in pairwise(widths)]
        return cls([w for w, _ in layers], [b for _, b in layers])

    @classmethod
    def cat(cls, nets: Sequence[MLP]) -> MLP:
        """The models of several batches side by side; narrower ones are padded with zeros."""
        sizes = [[len(b[0]) for b in net.biases] for net in nets]
        widest = [max(layer) for layer in zip(*sizes, strict=True)]
        weights, biases = [], []
        for at, width in enumerate(widest):
            before = widest[at - 1] if at else nets[0].weights[0].shape[2]
            pad = lambda w, width=width, before=before: F.pad(w, (0, before - w.shape[2], 0, width - w.shape[1]))  # noqa: E731
            weights.append(torch.cat([pad(net.weights[at]) for net in nets]))
            biases.append(torch.cat([F.pad(net.biases[at], (0, width - net.biases[at].shape[1])) for net in nets]))
        return cls(weights, biases)

    @classmethod
    def gather(cls, nets: Sequence[MLP], chosen: Tensor) -> MLP:
        """Model k of the batch ``nets[chosen[k]]``, for every k."""
        pick = lambda parts: torch.stack(parts)[chosen, torch.arange(len(chosen))]  # noqa: E731
        weights, biases = zip(*((net.weights, net.biases) for net in nets), strict=True)
        return cls([*map(pick, zip(*weights, strict=True))], [*map(pick, zip(*biases, strict=True))])

    @property
    def parameters(self) -> list[Tensor]:
        """All tensors."""
        return [*self.weights, *self.biases]

    def map(self, function: Callable[[Tensor], Tensor]) -> MLP:
        """The networks with ``function`` of every tensor."""
        return MLP([function(w) for w in self.weights], [function(b) for b in self.biases])

    def hidden(self, x: Tensor, layers: int) -> Tensor:
        """``[K, n, N]`` behind the first ``layers`` layers, each with its ReLU."""
        for w, b in zip(self.weights[:layers], self.biases[:layers], strict=True):
            x = torch.baddbmm(b[..., None], w, x).relu_()
        return x

    def __call__(self, x: Tensor) -> Tensor:
        """Logits ``[K, C, N]``."""
        return torch.baddbmm(self.biases[-1][..., None], self.weights[-1], self.hidden(x, len(self.weights) - 1))

    def loss(self, task: Task) -> Tensor:
        """Mean cross entropy over the training points, ``[K]``."""
        return -self(task.x).log_softmax(1).gather(1, task.y[:, None]).mean((1, 2))

    @torch.no_grad()
    def accuracy(self, task: Task) -> Tensor:
        """Share of the test points that are right, ``[K]``."""
        return (self(task.test_x).argmax(1) == task.test_y).double().mean(1)

    def sequential(self, k: int) -> nn.Sequential:
        """Model k alone, for torch and the partition, without units of zeros."""
        alive = [torch.cat([w[k], b[k, :, None]], 1).any(1) for w, b in zip(self.weights, self.biases, strict=True)]
        alive[-1][:] = True
        layers, before = [], torch.ones(self.weights[0].shape[2], dtype=torch.bool)
        for w, b, keep in zip(self.weights, self.biases, alive, strict=True):
            layer = nn.Linear(int(before.sum()), int(keep.sum()), dtype=torch.float64)
            layer.weight.data, layer.bias.data = w[k][keep][:, before], b[k][keep]
            layers, before = [*layers, layer, nn.ReLU()], keep
        return nn.Sequential(*layers[:-1])


def follow(net: MLP, task: Task, at: Sequence[int], lr: float, batch: int | None = None) -> list[MLP]:
    """Train K networks by Adam, and keep them as they are after the steps ``at``.

    Args:
        net: where they start (copied).
        task: with K rows.
        at: ascending numbers of steps; 0 is before the first, the last is where training ends.
        lr: Adam's step.
        batch: training points a step, in turn; all of them by default.
    """
    net = net.map(lambda p: p.clone().requires_grad_())
    turns = task.split(batch) if batch else [task]
    copy = lambda: net.map(lambda p: p.detach().clone())  # noqa: E731
    kept = [copy()] if at[0] == 0 else []

    def after_step(step: int) -> None:
        if step + 1 in at:
            kept.append(copy())

    optimiser = torch.optim.Adam(net.parameters, lr=lr)
    loss = lambda step: net.loss(turns[step % len(turns)])  # noqa: E731
    train(loss, optimiser, at[-1], after_step=after_step, label="training")
    return kept


def fit(
    net: MLP, task: Task, steps: int, lr: float, at: Sequence[int] = (), batch: int | None = None
) -> tuple[MLP, Tensor]:
    """Train K networks, as `follow` does.

    Returns:
        The trained networks, and test accuracies ``[K, len(at)]`` after the steps ``at``.
    """
    wanted = sorted({*at, steps})
    nets = dict(zip(wanted, follow(net, task, wanted, lr, batch), strict=True))
    accuracy = [nets[step].accuracy(task) for step in at]
    return nets[steps], torch.stack(accuracy, 1) if at else torch.empty(len(task.seeds), 0)


def through_points(net: MLP, task: Task) -> MLP:
    """Data-aware start: the zero line of every hidden unit passes through a random training point of its seed."""
    net = MLP(net.weights, list(net.biases))
    for layer, (w, b) in enumerate(zip(net.weights[:-1], net.biases[:-1], strict=True)):
        streams = [generator(seed, "through", layer) for seed in task.seeds]
        drawn = torch.stack([torch.randint(task.x.shape[2], b.shape[1:], generator=g) for g in streams])
        points = net.hidden(task.x, layer)
        chosen = points.gather(2, drawn[:, None].expand(-1, points.shape[1], -1))
        net.biases[layer] = -(w.mT * chosen).sum(1)
    return net


# --- which units are redundant -----------------------------------------------------------------------------------


def cosine(weight: Tensor) -> Tensor:
    """Cosines between the units' weight vectors, ``[K, n, in]`` to ``[K, n, n]``; 0 where a unit has none."""
    unit = F.normalize(weight, dim=-1, eps=torch.finfo(weight.dtype).tiny)
    return unit @ unit.mT


def distance(weight: Tensor, bias: Tensor, rho: float) -> Tensor:
    """How far apart the lines of units are: ``(1 - |cos|) + rho |c - s c'|``, ``c = b / ||w||``, ``s = sign(cos)``.

    Zero for equal lines: a positive factor or a sign of (w, b) changes nothing. At right angles both signs are as
    good and the smaller distance holds. A unit without weights has no line: it is infinitely far from every other.

    Args:
        weight: ``[K, n, in]``.
        bias: ``[K, n]``.
        rho: how much the offset counts beside the angle.

    Returns:
        ``[K, n, n]``.
    """
    norm, cos = weight.norm(dim=-1), cosine(weight)
    c = bias / norm.where(norm > 0, 1)
    apart, opposite = (c[:, :, None] - c[:, None]).abs(), (c[:, :, None] + c[:, None]).abs()
    offset = torch.where(cos > 0, apart, opposite)
    offset = torch.where(cos.abs() < 1e-9, torch.minimum(apart, opposite), offset)
    lines = (norm > 0)[:, :, None] & (norm > 0)[:, None]
    return ((1 - cos.abs()).clamp(min=0) + rho * offset).where(lines, torch.inf)


@dataclass(frozen=True)
class Criterion:
    """Which units go first.

    ``redundancy``: of the closest pair, the one of smaller ``||w_in|| ||w_out||``. ``scaled`` (ours): the smallest
    ``||w_in|| ||w_out||`` times the distance to the nearest survivor; ``merge`` (ours) also hands its outgoing
    weights, times ``||w|| / ||w_nearest||``, to that survivor when their cosine is positive. ``isolated`` is
    redundancy reversed. ``SNIP`` sums ``|gradient times weight|`` over a unit's incoming weights.

    ``rho`` belongs to the distance. ``scope``: every hidden layer loses the same share, or all compete (``global``).
    """

    rule: Rule
    rho: float = 0.0
    scope: Literal["layer", "global"] = "layer"

    def __post_init__(self) -> None:
        """Refuse an unknown rule."""
        if self.rule not in RULES:
            raise WorkbenchError(f"unknown rule {self.rule!r}: choose one of {', '.join(RULES)}")


@dataclass
class Units:
    """Hidden units that compete, n of K networks, of one layer or of several.

    ``layer`` int64 ``[n]``; ``distance`` ``[K, n, n]``, infinite to itself and across layers; ``cos`` ``[K, n, n]``;
    ``norm`` ``[K, n]`` of incoming weights; ``gram`` ``[K, n, n]`` of outgoing weights; ``score`` ``[K, n]`` of the
    rules that do not change while units go.
    """

    layer: Tensor
    distance: Tensor
    cos: Tensor
    norm: Tensor
    gram: Tensor
    score: Tensor | None

    @classmethod
    def of(
        cls,
        into: Sequence[Tensor],
        biases: Sequence[Tensor],
        grams: Sequence[Tensor],
        rho: float,
        scores: Sequence[Tensor] | None = None,
    ) -> Units:
        """The units of layers whose incoming weights are ``[K, n, in]``, biases and scores ``[K, n]``."""
        layer = torch.repeat_interleave(torch.tensor([w.shape[1] for w in into]))
        apart = _blocks([distance(w, b, rho) for w, b in zip(into, biases, strict=True)], torch.inf)
        return cls(
            layer,
            apart.masked_fill(torch.eye(len(layer), dtype=torch.bool), torch.inf),
            _blocks([cosine(w) for w in into], 0),
            torch.cat([w.norm(dim=2) for w in into], 1),
            _blocks(grams, 0),
            scores and torch.cat(list(scores), 1),
        )

    def remove(self, count: int, rule: Rule) -> tuple[Tensor, Tensor]:
        """Remove ``count`` units one by one; each layer keeps its last.

        Returns:
            The units in the order in which they went, int64 ``[K, count]``, and ``[K, n, n]``, what each (row) holds
            of the outgoing weights of each (column) in the end: the identity unless merged.
        """
        K, n = self.norm.shape
        k, eye = torch.arange(K), torch.eye(n, dtype=torch.float64)
        gone, order, holds = torch.zeros(K, n, dtype=torch.bool), [], eye.repeat(K, 1, 1)
        siblings = (self.layer[:, None] == self.layer).double()
        for _ in range(count):
            importance = self.norm * ((holds @ self.gram) * holds).sum(-1).clamp(min=0).sqrt()
            near, nearest = self.distance.masked_fill(gone[:, None], torch.inf).min(-1)
            near = near.where(self.norm > 0, 0)  # a unit without a line cuts nothing
            cost = {
                "redundancy": near,
                "isolated": -near,
                "scaled": near * importance,
                "merge": near * importance,
            }.get(rule, self.score)
            last = (~gone).double() @ siblings == 1
            drop = cost.masked_fill(gone | last, torch.inf).argmin(-1)
            twin = nearest[k, drop]
            if rule == "redundancy":
                drop = torch.where(importance[k, twin] < importance[k, drop], twin, drop)
            if rule == "merge":
                factor = (self.norm[k, drop] / self.norm[k, twin]).where(self.cos[k, drop, twin] > 0, 0)
                holds[k, twin] += factor[:, None] * holds[k, drop]
            gone[k, drop] = True
            order.append(drop)
        return torch.stack(order, 1), holds


def snip(net: MLP, task: Task) -> list[Tensor]:
    """``|gradient times weight|`` of the training loss, summed over each hidden unit's incoming weights: ``[K, n]``."""
    net = net.map(lambda p: p.clone().requires_grad_())
    net.loss(task).sum().backward()
    return [(w.grad * w.detach()).abs().sum(-1) for w in net.weights[:-1]]


def static_scores(net: MLP, task: Task, rule: Rule) -> list[Tensor] | None:
    """Scores ``[K, n]`` of each hidden layer for rules that look at each unit alone; None for the others."""
    into, out = [w.norm(dim=2) for w in net.weights[:-1]], [w.norm(dim=1) for w in net.weights[1:]]
    noise = lambda at, n: torch.stack(  # noqa: E731
        [torch.rand(n, generator=generator(s, "prune", at), dtype=torch.float64) for s in task.seeds]
    )
    if rule == "SNIP":
        return snip(net, task)
    if rule == "random":
        return [noise(at, w.shape[1]) for at, w in enumerate(net.weights[:-1])]
    if rule == "in*out norm":
        return [a * b for a, b in zip(into, out, strict=True)]
    return {"in-norm": into, "reversed norm": [-a for a in into]}.get(rule)


def remove(net: MLP, keep: Sequence[Tensor]) -> MLP:
    """Take rows, biases and outgoing columns out of the networks.

    ``keep`` bool ``[K, n]`` of every hidden layer. Where counts differ, units of zeros fill up.
    """
    net = MLP(list(net.weights), list(net.biases))
    for at, kept in enumerate(keep):
        width = int(kept.sum(1).max())
        order = kept.long().argsort(dim=1, descending=True, stable=True)[:, :width]
        here = kept.gather(1, order)
        w, b, out = net.weights[at], net.biases[at], net.weights[at + 1]
        net.weights[at] = w.gather(1, order[..., None].expand(-1, -1, w.shape[2])) * here[..., None]
        net.biases[at] = b.gather(1, order) * here
        net.weights[at + 1] = out.gather(2, order[:, None].expand(-1, out.shape[1], -1)) * here[:, None]
    return net


def prune(net: MLP, ratio: float, criterion: Criterion, task: Task) -> MLP:
    """Remove the share ``ratio`` of the hidden units, all scored on the networks as they are.

    Args:
        net: trained networks.
        ratio: of units; rounded, in every hidden layer or in all together.
        criterion: which units go.
        task: its training points serve SNIP, its seeds the random rule; its test points serve nothing.

    Raises:
        WorkbenchError: when a layer would lose all its units.
    """
    into, out, scores = net.weights[:-1], net.weights[1:], static_scores(net, task, criterion.rule)
    sizes = [w.shape[1] for w in into]
    groups = [range(len(sizes))] if criterion.scope == "global" else [[at] for at in range(len(sizes))]
    keep, weights = [torch.ones(len(into[0]), n, dtype=torch.bool) for n in sizes], list(net.weights)
    for group in groups:
        widths = [sizes[at] for at in group]
        count = round(ratio * sum(widths))
        if not 0 <= count <= sum(widths) - len(widths):
            raise WorkbenchError(f"ratio {ratio:g} would take {count} of {sum(widths)} units: each layer keeps one")
        if not count:
            continue
        units = Units.of(
            [into[at] for at in group],
            [net.biases[at] for at in group],
            [out[at].mT @ out[at] for at in group],
            criterion.rho,
            scores and [scores[at] for at in group],
        )
        order, holds = units.remove(count, criterion.rule)
        gone = torch.zeros(len(order), sum(widths), dtype=torch.bool).scatter_(1, order, True).split(widths, 1)
        for position, at in enumerate(group):
            keep[at] = ~gone[position]
            if criterion.rule == "merge":
                own = holds[:, units.layer == position][:, :, units.layer == position]
                weights[at + 1] = out[at] @ own.mT
    return remove(MLP(weights, net.biases), keep)


def _blocks(parts: Sequence[Tensor], fill: float) -> Tensor:
    """Matrices ``[K, n, n]`` along the diagonal, ``fill`` elsewhere."""
    n = sum(part.shape[1] for part in parts)
    out, first = parts[0].new_full((len(parts[0]), n, n), fill), 0
    for part in parts:
        end = first + part.shape[1]
        out[:, first:end, first:end] = part
        first = end
    return out
