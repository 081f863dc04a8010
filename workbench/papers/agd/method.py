"""AutoGAN-Distiller (AGD): search a small generator inside a supernet, taught by a large one.

Both of the paper's tasks in one class of generators: a fixed *skeleton* (stem and tail) around a body of searched
layers, each with an operator and a width (arXiv 2006.08198, section 3.2). Everything that trains a student here takes
inputs and *targets*; AGD's targets are the teacher's outputs, and no discriminator takes part (section 3.3).

Left out of the paper's recipe: InstanceNorm (it makes a layer blind to the scale of what comes, and with it to the
scores that carry the gradient to the widths), and searched widths of stem and tail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.supernet import (
    Chosen,
    Mixed,
    Pressure,
    SlicedConv2d,
    Space,
    argmax_design,
    choose_hard,
    choose_soft,
    entropy,
    fixed,
)
from workbench.training import generator, steps, train

OPERATORS = ("1x1", "3x3", "depthwise", "residual")
WIDTHS = (4, 6, 8, 10, 12)
"""The paper's ratios, 4, 6, 8, 10 and 12 twelfths, of a full width of 12."""
EXPANSION = 2
"""Of the depthwise block; 4 in the paper, which at our few channels would cost more than a 3x3 convolution."""
SCALE = 0.2
"""Of what a cell adds to its input, as in ESRGAN."""
COST_SHARES = {"super resolution": (2 / 7, 5 / 7), "translation": (1 / 4, 3 / 4)}
"""How the paper weighs the gradients of the cost: of operators, of widths."""

Layer = tuple[str, int]
Design = tuple[Layer, ...]
"""Operator and width of every searched layer."""
Distance = Callable[[Tensor, Tensor], Tensor]


def activation(x: Tensor) -> Tensor:
    """Leaky ReLU, as in ESRGAN."""
    return F.leaky_relu(x, 0.2)


# --- generators ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Skeleton:
    """What is not searched, and how many layers are.

    ``down`` is the stride of the stem's second convolution (1: there is none), ``up`` the magnification of the tail:
    super resolution x4 has 1 and 4, translation 2 and 2. ``stem`` and ``tail`` are channels. An identity path leads
    around every ``cell`` layers (0: there is none).
    """

    layers: int
    down: int
    up: int
    cell: int = 0
    stem: int = 8
    tail: int = 6

    @property
    def widths(self) -> tuple[tuple[int, ...], ...]:
        """What each layer may choose; the last of a cell has the stem's width, so that its input can be added."""
        ends = [self.cell > 0 and layer % self.cell == 0 for layer in range(1, self.layers + 1)]
        return tuple((self.stem,) if end else WIDTHS for end in ends)

    @property
    def task(self) -> str:
        """The paper's task."""
        return "super resolution" if self.down == 1 else "translation"

    def macs(self, width: int) -> int:
        """MACs a pixel of the body, of stem and tail around a body whose last layer has that width."""
        stem = 27 * self.stem if self.down == 1 else (27 * self.tail) * self.down**2 + 9 * self.tail * self.stem
        return stem + 4 * 9 * width * self.tail + self.up**2 * 9 * self.tail * 3


def layer_macs(operator: str, inputs: int, width: int) -> int:
    """MACs a pixel of one searched layer."""
    inner, shortcut = EXPANSION * inputs, inputs * width * (inputs != width)
    return {
        "1x1": inputs * width,
        "3x3": 9 * inputs * width,
        "depthwise": inputs * inner + 9 * inner + inner * width + shortcut,
        "residual": 9 * inputs * width + 9 * width * width + shortcut,
    }[operator]


def macs(skeleton: Skeleton, design: Design) -> int:
    """MACs a pixel of the body, skeleton included."""
    inputs, total = skeleton.stem, skeleton.macs(design[-1][1])
    for operator, width in design:
        total += layer_macs(operator, inputs, width)
        inputs = width
    return total


def identities(skeleton: Skeleton, design: Design) -> int:
    """Layers whose input is added as it is: shortcuts that no 1x1 convolution interrupts, for the widths are equal.

    The paths around cells are not counted: every design has them.
    """
    came = (skeleton.stem, *(width for _, width in design))
    return sum(name in ("residual", "depthwise") and i == w for (name, w), i in zip(design, came, strict=False))


def convolution(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, sliced: bool = False
) -> nn.Conv2d:
    """Zero-padded to keep the size (but for the stride); ``sliced``: it serves fewer channels than its own, too."""
    kind = SlicedConv2d if sliced else nn.Conv2d
    return kind(inputs, outputs, kernel, stride, kernel // 2, groups=groups)


class Plain(nn.Module):
    """A 1x1 or 3x3 convolution and the activation."""

    def __init__(self, kernel: int, inputs: int, outputs: int, sliced: bool = False) -> None:
        super().__init__()
        self.conv = convolution(inputs, outputs, kernel, sliced=sliced)

    def forward(self, x: Tensor, *width: int) -> Tensor:
        """[N, inputs, H, W] to all outputs; sliced: of inputs or fewer to ``width`` outputs."""
        return activation(self.conv(x, *width))


class Residual(nn.Module):
    """3x3, activation, 3x3, and the input added; through a 1x1 convolution where the widths differ."""

    def __init__(self, inputs: int, outputs: int, sliced: bool = False) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, sliced=sliced)
        self.second = convolution(outputs, outputs, sliced=sliced)
        self.shortcut = convolution(inputs, outputs, 1, sliced=sliced) if sliced or inputs != outputs else None

    def forward(self, x: Tensor, *width: int) -> Tensor:
        """As of `Plain`."""
        y = self.second(activation(self.first(x, *width)), *width)
        return y + (x if y.shape == x.shape else self.shortcut(x, *width))


class Depthwise(nn.Module):
    """1x1 to ``EXPANSION`` times the channels, depthwise 3x3, 1x1, and the input added as in `Residual`."""

    def __init__(self, inputs: int, outputs: int, sliced: bool = False) -> None:
        super().__init__()
        inner = EXPANSION * inputs
        self.expand = convolution(inputs, inner, 1, sliced=sliced)
        self.depth = convolution(inner, inner, groups=inner, sliced=sliced)
        self.project = convolution(inner, outputs, 1, sliced=sliced)
        self.shortcut = convolution(inputs, outputs, 1, sliced=sliced) if sliced or inputs != outputs else None

    def forward(self, x: Tensor, *width: int) -> Tensor:
        """As of `Plain`."""
        inner = [EXPANSION * x.shape[1]] if width else []
        y = self.project(activation(self.depth(activation(self.expand(x, *inner)))), *width)
        return y + (x if y.shape == x.shape else self.shortcut(x, *width))


def operator(name: str, inputs: int, outputs: int, sliced: bool = False) -> nn.Module:
    """One of `OPERATORS`, plain torch layers, or ``sliced`` ones of the supernet."""
    if name in ("1x1", "3x3"):
        return Plain(int(name[0]), inputs, outputs, sliced)
    return (Residual if name == "residual" else Depthwise)(inputs, outputs, sliced)


def in_cells(x: Tensor, layers: Iterable[Callable[[Tensor], Tensor]], cell: int) -> Tensor:
    """Layers in a row, [N, C, H, W] to the like; after every ``cell`` of them x + `SCALE` f(x) (0: never)."""
    came = x
    for number, layer in enumerate(layers, 1):
        x = layer(x)
        if cell and number % cell == 0:
            x = came = came + SCALE * x
    return x


class Body(nn.ModuleList):
    """The layers of a design."""

    def __init__(self, skeleton: Skeleton, layers: Iterable[nn.Module]) -> None:
        super().__init__(layers)
        self.cell = skeleton.cell

    def forward(self, x: Tensor) -> Tensor:
        """`in_cells`."""
        return in_cells(x, self, self.cell)


class Generator(nn.Module):
    """Skeleton and body; images [N, 3, H, W] to [N, 3, H up / down, W up / down], around 0 to 1.

    No shortcut leads from the input image to the output: what the body does not carry is lost.
    """

    def __init__(self, skeleton: Skeleton, body: nn.Module, width: int, sliced: bool = False) -> None:
        super().__init__()
        self.skeleton, self.body = skeleton, body
        first = skeleton.stem if skeleton.down == 1 else skeleton.tail
        self.stem = nn.ModuleList([convolution(3, first)])
        if skeleton.down > 1:
            self.stem.append(convolution(first, skeleton.stem, stride=skeleton.down))
        self.grow = convolution(width, skeleton.tail, sliced=sliced)
        self.last = convolution(skeleton.tail, 3)

    def forward(self, x: Tensor, *choices: Sequence[Chosen]) -> Tensor:
        """``choices`` (operators and widths by layer) go to a body that has a choice."""
        y = (x - 0.5).contiguous(memory_format=torch.channels_last)
        for conv in self.stem:
            y = activation(conv(y))
        y = self.body(y, *choices)
        y = activation(self.grow(F.interpolate(y, scale_factor=2)))
        if self.skeleton.up > 2:
            y = F.interpolate(y, scale_factor=self.skeleton.up // 2)
        return self.last(y) + 0.5


def build(skeleton: Skeleton, design: Design, *stream: object) -> Generator:
    """The network of a design, as its start; random numbers from the stream of that name."""
    with seeded(*stream):
        inputs = (skeleton.stem, *(width for _, width in design[:-1]))
        layers = [operator(name, i, width) for i, (name, width) in zip(inputs, design, strict=True)]
        net = Generator(skeleton, Body(skeleton, layers), design[-1][1])
    return net.to(memory_format=torch.channels_last)  # a third faster with so few channels


@contextmanager
def seeded(*stream: object) -> Iterator[None]:
    """A block in which torch's own random numbers (of initial weights) are those of the stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(*stream).initial_seed())
        yield


# --- the supernet --------------------------------------------------------------------------------------------


class Searched(nn.ModuleList):
    """The body of the supernet: all operators in every layer, each as wide as the widest and sliced (section 3.2)."""

    def __init__(self, skeleton: Skeleton) -> None:
        widest = [of[-1] for of in skeleton.widths]
        places = zip((skeleton.stem, *widest), widest, strict=False)
        super().__init__(Mixed([operator(name, i, o, sliced=True) for name in OPERATORS]) for i, o in places)
        self.skeleton = skeleton

    def forward(self, x: Tensor, operators: Sequence[Chosen], widths: Sequence[Chosen]) -> Tensor:
        """Operators summed by weight; a layer's output is multiplied by the scores of its input and output widths."""

        def layer(n: int) -> Callable[[Tensor], Tensor]:
            score = widths[n].score * (widths[n - 1].score if n else 1.0)
            return lambda x: self[n](x, operators[n], self.skeleton.widths[n][widths[n].index]) * score

        return in_cells(x, map(layer, range(len(self))), self.skeleton.cell)


def supernet(skeleton: Skeleton, *stream: object) -> Generator:
    """The supernet at its start."""
    with seeded(*stream):
        net = Generator(skeleton, Searched(skeleton), skeleton.widths[-1][-1], sliced=True)
    return net.to(memory_format=torch.channels_last)


def fixed_path(net: Generator, design: Design) -> Callable[[Tensor], Tensor]:
    """One design as a path through a supernet, with the supernet's weights."""
    operators = [fixed(OPERATORS.index(name), len(OPERATORS)) for name, _ in design]
    widths = [fixed(of.index(width), len(of)) for of, (_, width) in zip(net.skeleton.widths, design, strict=True)]
    return lambda x: net(x, operators, widths)


def space(skeleton: Skeleton) -> Space:
    """MACs a pixel of the body of all designs; choices are the operators of all layers, then the widths of all."""
    n, widths, terms = skeleton.layers, skeleton.widths, []
    for layer in range(n):
        came = (skeleton.stem,) if layer == 0 else widths[layer - 1]
        table = torch.tensor([[[layer_macs(o, i, w) for w in widths[layer]] for o in OPERATORS] for i in came]).double()
        terms.append(((layer, n), table[0]) if layer == 0 else ((n + layer - 1, layer, n + layer), table))
    last = torch.tensor([skeleton.macs(w) for w in widths[-1]]).double()
    return Space((len(OPERATORS),) * n + tuple(map(len, widths)), (*terms, ((2 * n - 1,), last)))


def design_of(skeleton: Skeleton, choices: Tensor) -> Design:
    """A row of choices [2 layers] as a design."""
    names, widths = choices.view(2, -1).tolist()
    return tuple((OPERATORS[o], of[w]) for o, of, w in zip(names, skeleton.widths, widths, strict=True))


# --- search --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How to search: updates of the weights alone, then of both; images an update; Adam's learning rates.

    ``rule`` says how the cost is held: "log-ratio" pulls by the logarithm of expected cost over budget, from both
    sides; "pressure" is the paper's weight, doubled or halved every ``every`` steps by what the argmax would cost
    (section 3.3); "fixed" is one ``weight`` for good, the control.
    """

    pretrain: int
    steps: int
    batch: int
    lr: float
    lr_choices: float
    rule: str = "log-ratio"
    weight: float = 1.0
    every: int = 10


@dataclass(frozen=True)
class Trace:
    """A search step by step: probabilities [steps, layers, candidates], expected and argmax' cost, mean entropy.

    Candidates are all `OPERATORS` and all `WIDTHS`; a layer without a choice has its width for certain.
    """

    operators: Tensor
    widths: Tensor
    expected: Tensor
    argmax: Tensor
    entropy: Tensor
    logits: tuple[Tensor, ...]


def halves(images: int, *stream: object) -> tuple[Tensor, Tensor]:
    """Indices for weights and for choices: disjoint, half of the training set each (section 3.3)."""
    order = torch.randperm(images, generator=generator(*stream))
    return order[: images // 2], order[images // 2 :]


def decoupled_cost(logits: Sequence[Tensor], costs: Space) -> tuple[Tensor, Tensor]:
    """Expected cost of the operators at the largest widths, and of the widths at uniform operators (section 3.3)."""
    n = len(logits) // 2
    soft = [each.softmax(-1) for each in logits]
    widest = [F.one_hot(torch.tensor(len(each) - 1), len(each)).to(each) for each in soft[n:]]
    uniform = [torch.full_like(soft[0], 1 / len(OPERATORS))] * n
    return costs.expected([*soft[:n], *widest]), costs.expected([*uniform, *soft[n:]])


def search(
    net: Generator,
    inputs: Tensor,
    targets: Tensor,
    split: tuple[Tensor, Tensor],
    distance: Distance,
    budget: float,
    plan: Plan,
    *stream: object,
) -> Trace:
    """Train a supernet's weights and choices in turns, to first order; the network is changed in place.

    Args:
        net: of `supernet`.
        inputs, targets: images [N, 3, h, w] and what the teacher makes of them.
        split: `halves`, of weights and of choices.
        distance: between outputs and targets.
        budget: MACs a pixel of the body.
        plan: how long, and how the cost is held.
        stream: name of the random numbers.

    Weights see the widest, the narrowest and one drawn network in every update (two while they train alone), choices
    one drawn network. The paper also shows the widest and narrowest to the choices: of widths these say nothing.
    """
    n, costs = net.skeleton.layers, space(net.skeleton)
    logits = [(1e-3 * torch.ones(size)).requires_grad_() for size in costs.sizes]
    weights = torch.optim.Adam(net.parameters(), plan.lr)
    choices = torch.optim.Adam(logits, plan.lr_choices, betas=(0.5, 0.999))
    pressure = Pressure(plan.weight, 0.95 * budget, budget)
    draws, order = generator(*stream, "widths"), generator(*stream, "batches")
    shares = COST_SHARES[net.skeleton.task]
    sizes = costs.sizes[n:]
    ends = [[fixed(size - 1, size) for size in sizes], [fixed(0, size) for size in sizes]]
    places = [torch.tensor([[float(a == b) for b in of] for a in WIDTHS]) for of in net.skeleton.widths]
    found: list[tuple[Any, ...]] = []

    def drawn() -> list[Chosen]:
        return [choose_hard(each, 1.0, draws) for each in logits[n:]]

    def loss(half: Tensor, sandwich: list[list[Chosen]]) -> Tensor:
        at = half[torch.randint(len(half), (plan.batch,), generator=order)]
        soft = [choose_soft(each) for each in logits[:n]]
        wanted = targets[at].contiguous(memory_format=torch.channels_last)
        return sum(distance(net(inputs[at], soft, widths), wanted) for widths in sandwich)

    def pull(expected: float) -> float:
        return {
            "log-ratio": 2 * math.log(expected / budget),
            "pressure": pressure.weight,
            "fixed": plan.weight,
        }[plan.rule]

    for step in steps(plan.pretrain + plan.steps, "searching"):
        if step >= plan.pretrain:
            choices.zero_grad()
            probabilities = [each.softmax(-1) for each in logits]
            expected = float(costs.expected(probabilities).detach())
            cost = sum(share * each.log() for share, each in zip(shares, decoupled_cost(logits, costs), strict=True))
            (loss(split[1], [drawn()]) + pull(expected) * cost).backward()
            choices.step()
            best = float(costs.cost(argmax_design(logits)))
            if (step - plan.pretrain) % plan.every == plan.every - 1:
                pressure.update(best)
            wide = [place @ each for place, each in zip(places, probabilities[n:], strict=True)]
            seen = [torch.stack([each.detach() for each in part]) for part in (probabilities[:n], wide)]
            found.append((*seen, expected, best, entropy([each.detach() for each in logits[:n]])))
        weights.zero_grad()
        loss(split[0], [*ends, *(drawn() for _ in range(2 if step < plan.pretrain else 1))]).backward()
        weights.step()
    columns = [torch.stack(c) if isinstance(c[0], Tensor) else torch.tensor(c) for c in zip(*found, strict=True)]
    return Trace(*columns, tuple(each.detach() for each in logits))


def search_macs(skeleton: Skeleton, plan: Plan) -> float:
    """MACs a pixel of the body of all forward passes of a search, at uniform widths: to compare with students'.

    All operators of a layer are computed.
    """
    costs, n = space(skeleton), skeleton.layers
    every = [torch.ones(len(OPERATORS))] * n  # a sum over operators, where a probability would give a mean
    ways = (lambda one: one[-1], lambda one: one[0], lambda one: one.mean(0))
    wide, narrow, drawn = (
        float(costs.expected([*every, *[way(torch.eye(size)) for size in costs.sizes[n:]]])) for way in ways
    )
    return plan.batch * (plan.pretrain + plan.steps) * (wide + narrow + 2 * drawn)


# --- students ------------------------------------------------------------------------------------------------


def fit(
    net: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    distance: Distance,
    updates: int,
    batch: int,
    lr: float,
    *stream: object,
) -> nn.Module:
    """Adam with one cycle of the learning rate, in place. Targets: the teacher's outputs, or the truth (no teacher)."""
    optimiser = torch.optim.Adam(net.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, updates)
    order = generator(*stream, "batches")

    def loss(_: int) -> Tensor:
        at = torch.randint(len(inputs), (batch,), generator=order)
        return distance(net(inputs[at]), targets[at].contiguous(memory_format=torch.channels_last))

    train(loss, optimiser, updates, after_step=lambda _: schedule.step(), label="training")
    return net


@torch.no_grad()
def outputs(net: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """What a network makes of images, as numbers: no gradient leads back."""
    return torch.cat([net(part) for part in inputs.split(500)])
