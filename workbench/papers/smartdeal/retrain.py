"""Small networks whose hidden layers are compressed: trained, then retrained in alternation with the compression.

After every epoch the hidden weights are replaced by what the format makes of them, and SGD goes on from there. What is
evaluated is always a network that has just been replaced: never a dense one.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import WorkbenchError, data
from workbench.papers.smartdeal.controls import Stored
from workbench.papers.smartdeal.decompose import Decomposition, decompose
from workbench.quantize import reestimate
from workbench.training import generator, train

MOMENTUM = 0.9
AT_ONCE = 1000
"""Images of an evaluation batch."""
ITERATIONS = 12
"""Alternations of a decomposition between epochs; the pilots' number."""


@dataclass(frozen=True)
class Setting:
    """A network and its data, written "data kind widths images epochs retraining": "digits conv 16,32,32 1400 25 10".

    ``data`` is digits or cifar10 (averaged to 16x16); ``kind`` conv (3x3, batch normalisation, ReLU; every layer after
    the first that widens halves the resolution) or linear. The first and last layers are not compressed, nor counted.
    """

    dataset: str
    kind: str
    widths: tuple[int, ...]
    images: int
    epochs: int
    retraining: int

    @classmethod
    def read(cls, text: str) -> Self:
        """From its text. `WorkbenchError` where that is none."""
        try:
            dataset, kind, widths, *numbers = text.split()
            images, epochs, retraining = (int(number) for number in numbers)
            found = cls(dataset, kind, tuple(int(w) for w in widths.split(",")), images, epochs, retraining)
        except ValueError:
            raise WorkbenchError(f"a setting reads like 'digits conv 16,32,32 1400 25 10', not {text!r}") from None
        if dataset not in ("digits", "cifar10") or kind not in ("conv", "linear"):
            raise WorkbenchError(f"{text!r}: the data are digits or cifar10, the layers conv or linear")
        if len(found.widths) < 2 or min(*found.widths, images, epochs, retraining) < 1:
            raise WorkbenchError(f"{text!r}: give two widths or more, and counts of at least 1")
        return found

    @property
    def id(self) -> str:
        """For the ledger."""
        return f"{self.dataset}.{self.kind}{'_'.join(map(str, self.widths))}"

    @property
    def title(self) -> str:
        """For figures."""
        name = {"digits": "digits", "cifar10": "CIFAR-10"}[self.dataset]
        return f"{name}, {self.kind} {'-'.join(map(str, self.widths))}"

    def build(self, seed: int) -> nn.Sequential:
        """The network with weights of He et al. (2015), drawn for this seed."""
        layers: list[nn.Module] = [] if self.kind == "conv" else [nn.Flatten()]
        before = {"digits": 1, "cifar10": 3}[self.dataset]
        if self.kind == "linear":
            before *= {"digits": 64, "cifar10": 256}[self.dataset]
        for at, width in enumerate(self.widths):
            if self.kind == "conv":
                stride = 2 if at and width > before else 1
                layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)]
            else:
                layers += [nn.Linear(before, width, bias=False), nn.BatchNorm1d(width)]
            layers.append(nn.ReLU())
            before = width
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if self.kind == "conv" else []
        net = nn.Sequential(*layers, *pool, nn.Linear(before, 10))
        for at, layer in enumerate(m for m in net if isinstance(m, nn.Conv2d | nn.Linear)):
            fan = layer.weight[0].numel()
            noise = torch.randn(layer.weight.shape, generator=generator(seed, "start", at))
            layer.weight.data = noise * (2 / fan) ** 0.5
            if layer.bias is not None:
                layer.bias.data.zero_()
        return net


def hidden(net: nn.Module) -> list[nn.Module]:
    """The layers that are compressed: all with weights but the first and the last."""
    return [m for m in net if isinstance(m, nn.Conv2d | nn.Linear)][1:-1]


@dataclass(frozen=True)
class Split:
    """Training images and labels, and those of the test: ``[n, channels, h, w]``, ``[n]``."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    @classmethod
    def draw(cls, setting: Setting, seed: int, test: int) -> Self:
        """Drawn anew for every seed; digits share one pool, CIFAR-10 has its own test images."""
        if setting.dataset == "digits":
            pools = data.digits(), data.digits()
        else:
            pools = data.cifar10(True), data.cifar10(False)
        orders = [torch.randperm(len(pool.y), generator=generator(seed, "images", pool.name)) for pool in pools]
        rows, held_out = orders[0][: setting.images], orders[1][-test:]
        if setting.dataset == "digits" and setting.images + test > len(pools[0].y):
            raise WorkbenchError(f"{setting.images} training and {test} test digits: there are only {len(pools[0].y)}")
        parts = [pools[0].x[rows], pools[1].x[held_out]]
        if setting.dataset == "cifar10":
            parts = [F.avg_pool2d(x, 2) for x in parts]
        mean, deviation = (0.3, 0.37) if setting.dataset == "digits" else (0.47, 0.25)
        train_x, test_x = ((x - mean) / deviation for x in parts)
        return cls(train_x, pools[0].y[rows], test_x, pools[1].y[held_out])


def fit(
    net: nn.Module,
    split: Split,
    seed: int,
    epochs: int,
    *,
    batch: int,
    lr: float,
    decay: float,
    apart: Sequence[nn.Parameter] = (),
    after_step: Callable[[float], None] | None = None,
    after_epoch: Callable[[], None] | None = None,
    stream: str = "train",
) -> None:
    """SGD with momentum and a cosine to zero, in place; every epoch in a new order, what is left over dropped.

    ``apart`` are parameters that SGD leaves alone; ``after_step`` is called with the step size, to move them.
    """
    count = len(split.y) // batch
    if not count:
        raise WorkbenchError(f"{len(split.y)} images make no batch of {batch}: lower batch")
    moved = [p for p in net.parameters() if p.requires_grad and all(p is not other for other in apart)]
    optimiser = torch.optim.SGD(moved, lr, MOMENTUM, weight_decay=decay)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * count)
    batches = shuffled(len(split.y), batch, epochs, seed, stream)

    def loss(step: int) -> Tensor:
        at = next(batches)
        return F.cross_entropy(net(split.x[at]), split.y[at])

    def finish(step: int) -> None:
        if after_step:
            after_step(cosine.get_last_lr()[0])
        cosine.step()
        if after_epoch and (step + 1) % count == 0:
            after_epoch()

    net.train()
    train(loss, optimiser, epochs * count, after_step=finish, label="training")


def shuffled(n: int, batch: int, epochs: int, seed: int, stream: str) -> itertools.chain[Tensor]:
    """Indices of every batch."""
    orders = (torch.randperm(n, generator=generator(seed, stream, epoch)) for epoch in range(epochs))
    return itertools.chain.from_iterable(order[: n // batch * batch].split(batch) for order in orders)


@torch.no_grad()
def accuracy(net: nn.Module, split: Split, anew: bool) -> float:
    """Test accuracy in percent; with ``anew``, statistics of batch normalisation are taken over the training images.

    Replacing weights changes what the layers behind them see, and running statistics still mean the weights before.
    """
    net = copy.deepcopy(net)
    if anew:
        reestimate(net, split.x.split(AT_ONCE))
    net.eval()
    found = torch.cat([net(x).argmax(1) for x in split.test_x.split(AT_ONCE)])
    return 100 * float((found == split.test_y).double().mean())


# --- formats -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """How much SmartDeal drops, written "0.5 rows" or "0.5": the threshold in deviations of the layer's weights."""

    threshold: float
    rows: bool

    @classmethod
    def read(cls, text: str) -> Self:
        """From its text. `WorkbenchError` where that is none."""
        number = text.removesuffix(" rows")
        try:
            found = cls(float(number), rows=number != text)
        except ValueError:
            found = cls(0.0, rows=False)
        if not 0 < found.threshold <= 1_000:
            raise WorkbenchError(f"a level reads like '0.5' or '0.5 rows', above 0 and at most 1000, not {text!r}")
        return found

    def thresholds(self, layers: Sequence[nn.Module]) -> list[float]:
        """One a layer, set by its weights of now; they stay as they are from then on, as the code's constants do."""
        return [self.threshold * float(layer.weight.detach().std()) for layer in layers]

    def decompose(self, weights: Sequence[Tensor], thresholds: Sequence[float]) -> list[Decomposition]:
        """Each layer, in a few alternations."""
        pairs = zip(weights, thresholds, strict=True)
        return [decompose(weight, threshold, self.rows, ITERATIONS) for weight, threshold in pairs]


@dataclass(frozen=True)
class Outcome:
    """A compressed network, what is stored of its hidden layers, and what the first replacement did.

    ``first_error`` is relative; ``one_shot`` the accuracy before any retraining, with statistics anew and, as
    ``one_shot_running``, with those of the dense network.
    """

    net: nn.Module
    stored: Stored
    first_error: float
    one_shot: float
    one_shot_running: float


def relative_error(weights: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """``|W - found| / |W|`` over all layers together."""
    off = sum(float((a - b).square().sum()) for a, b in zip(weights, found, strict=True))
    return (off / sum(float(a.square().sum()) for a in weights)) ** 0.5


@torch.no_grad()
def replace(net: nn.Module, weights: Sequence[Tensor]) -> None:
    """Give the hidden layers these weights."""
    for layer, weight in zip(hidden(net), weights, strict=True):
        layer.weight.copy_(weight)


def retrained(
    net: nn.Module,
    split: Split,
    seed: int,
    epochs: int,
    store: Callable[[Sequence[Tensor]], Stored],
    **schedule: float,
) -> Outcome:
    """A copy retrained in alternation with ``store``; also how near, and how accurate, it is without retraining."""
    net, weights = copy.deepcopy(net), [layer.weight.detach().clone() for layer in hidden(net)]
    stored = store(weights)
    replace(net, stored.weights)
    error, at_once = relative_error(weights, stored.weights), [accuracy(net, split, anew) for anew in (True, False)]
    replace(net, weights)

    def after_epoch() -> None:
        nonlocal stored
        stored = store([layer.weight.detach() for layer in hidden(net)])
        replace(net, stored.weights)

    fit(net, split, seed, epochs, after_epoch=after_epoch, stream="retrain", **schedule)
    return Outcome(net, stored, error, *at_once)
