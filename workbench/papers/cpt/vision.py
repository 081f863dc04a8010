"""ResNet-8 trained on digits or CIFAR-10 under many precision schedules at once, and measured after training.

All arms of a seed share images, wrong labels, initial weights, order of batches and the stream of rounding noise.
Measured are final weights, never the best ones. Before that, BatchNorm statistics and input ranges are taken anew on
the training images at the precision of evaluation, for every arm: running ones mix the precisions of a schedule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench import WorkbenchError, data
from workbench.papers.cpt import landscape
from workbench.papers.cpt.nets import Parameters, Precision, ResNet8
from workbench.training import generator, train

if TYPE_CHECKING:
    from workbench.papers.cpt.experiment import Config

MOMENTUM, TORCH_MOMENTUM = 0.9, 0.1
"""Of the gradient, and of a batch in running statistics."""
DECAY = 1e-4
AT_ONCE = 100
"""Images evaluated at once."""


@dataclass(frozen=True)
class Setting:
    """A training: data set, share of wrong training labels, epochs, cycles of the schedules."""

    dataset: str
    wrong: float
    epochs: int
    cycles: int

    @classmethod
    def read(cls, text: str) -> Setting:
        """For example ``"digits 20 30 8"``, 20 in percent; `WorkbenchError` for anything else."""
        try:
            dataset, *numbers = text.split()
            wrong, epochs, cycles = map(int, numbers)
        except ValueError:
            raise WorkbenchError(
                f"a setting reads like 'digits 20 30 8' (data, wrong labels in percent, epochs, cycles); got {text!r}"
            ) from None
        if dataset not in ("digits", "cifar10") or not 0 <= wrong < 100 or min(epochs, cycles) < 1:
            raise WorkbenchError(
                f"setting {text!r}: data are digits or cifar10, wrong labels 0 to 99 %, epochs and cycles at least 1"
            )
        return cls(dataset, wrong / 100, epochs, cycles)

    @property
    def id(self) -> str:
        """Its part of a claim's id, and its name in tables."""
        return f"{self.dataset}.wrong{100 * self.wrong:.0f}.epochs{self.epochs}"

    @property
    def title(self) -> str:
        """For readers."""
        labels = f"{100 * self.wrong:.0f} % wrong labels" if self.wrong else "clean labels"
        return f"{self.dataset}, {labels}, {self.epochs} epochs"

    @property
    def net(self) -> ResNet8:
        """Of the size that its images need."""
        return ResNet8(1, 4) if self.dataset == "digits" else ResNet8(3, 8)


@dataclass(frozen=True)
class Split:
    """Training and test images of S seeds: x ``[S, n, channels, H, W]``, y ``[S, n]``."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    @classmethod
    def draw(cls, setting: Setting, seeds: Sequence[int], config: Config) -> Split:
        """Images of each seed, training and test disjoint; CIFAR-10 at 16x16, means of four pixels."""
        if setting.dataset == "digits":
            pools, sizes = (data.digits(),), (config.train, config.test)
        else:
            pools, sizes = (data.cifar10(True), data.cifar10(False)), (config.cifar_train, config.cifar_test)
        parts = []
        for seed in seeds:
            orders = [torch.randperm(len(pool.y), generator=generator(seed, "images", pool.name)) for pool in pools]
            chosen = (pools[0], orders[0][: sizes[0]]), (pools[-1], orders[-1][-sizes[1] :])
            parts.append([tensor for pool, rows in chosen for tensor in (pool.x[rows], pool.y[rows])])
        train_x, train_y, test_x, test_y = (torch.stack(part) for part in zip(*parts, strict=True))
        if setting.dataset == "cifar10":
            train_x, test_x = (F.avg_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2]) for x in (train_x, test_x))
        centre = 0.3 if setting.dataset == "digits" else 0.5
        return cls(train_x - centre, _mislabel(train_y, setting.wrong, seeds), test_x - centre, test_y)

    def batches(self, batch: int, epochs: int, seeds: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches: ``[S, channels, H, W, batch]`` and labels; every epoch in a new order, ends dropped."""
        rows, n = torch.arange(len(seeds))[:, None], self.train_y.shape[1]
        for epoch in range(epochs):
            order = torch.stack([torch.randperm(n, generator=generator(s, "batches", epoch)) for s in seeds])
            for at in order.split(batch, 1)[: n // batch]:
                yield self.train_x[rows, at].permute(0, 2, 3, 4, 1).contiguous(), self.train_y[rows, at]

    def chunks(self, part: str, models: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """All images of ``part``, in a few batches; model k sees those of seed ``models[k]``."""
        x, y = (self.train_x, self.train_y) if part == "train" else (self.test_x, self.test_y)
        for images, labels in zip(x.split(AT_ONCE, 1), y.split(AT_ONCE, 1), strict=True):
            yield images.permute(0, 2, 3, 4, 1)[models], labels[models]


def _mislabel(y: Tensor, wrong: float, seeds: Sequence[int]) -> Tensor:
    """Each label becomes another class with probability ``wrong``."""
    out = y.clone()
    for row, seed in zip(out, seeds, strict=True):
        g = generator(seed, "wrong labels")
        hit, shift = torch.rand(len(row), generator=g) < wrong, torch.randint(1, 10, row.shape, generator=g)
        row[hit] = (row + shift)[hit] % 10
    return out


@dataclass(frozen=True)
class Trained:
    """K networks after training, model k on the data of seed number ``models[k]``."""

    net: ResNet8
    split: Split
    seeds: Sequence[int]
    models: Tensor
    parameters: Parameters
    state: Parameters
    losses: Tensor

    def pick(self, which: Sequence[int]) -> Trained:
        """Some of the networks, in that order, perhaps one twice."""
        take = lambda part: {name: value[list(which)] for name, value in part.items()}  # noqa: E731
        return Trained(
            self.net, self.split, self.seeds, self.models[list(which)], take(self.parameters), take(self.state),
            self.losses[:, list(which)],
        )  # fmt: skip

    @torch.no_grad()
    def reestimate(self, bits: Tensor) -> Trained:
        """The same weights with statistics and ranges anew, plain means over the training images at ``bits [K]``."""
        fresh = self.net.state(len(self.models))
        for count, (x, _) in enumerate(self.split.chunks("train", self.models), 1):
            self.net.logits(self.parameters, fresh, x, self._precision(bits), 1 / count)
        return Trained(self.net, self.split, self.seeds, self.models, self.parameters, fresh, self.losses)

    @torch.no_grad()
    def evaluate(self, part: str, bits: Tensor, parameters: Parameters | None = None) -> tuple[Tensor, Tensor]:
        """Loss and accuracy, each ``[K]``, on the "train" or the "test" images; of other ``parameters`` if given."""
        loss, right, count = 0, 0, 0
        for x, y in self.split.chunks(part, self.models):
            logits = self.net.logits(parameters or self.parameters, self.state, x, self._precision(bits))
            loss = loss + F.cross_entropy(logits, y, reduction="none").sum(1)
            right, count = right + (logits.argmax(1) == y).sum(1), count + y.shape[1]
        return loss / count, right / count

    def _precision(self, bits: Tensor) -> Precision:
        return Precision(bits, bits, [])  # without gradients there are no errors to round


def train_schedules(setting: Setting, seeds: Sequence[int], schedules: Mapping[str, Tensor], config: Config) -> Trained:
    """Train every arm on every seed; models are ordered by arm, then seed.

    Args:
        setting: data and epochs.
        seeds: S of them.
        schedules: bits ``[S, steps]`` by arm.
        config: learning rate and sizes.
    """
    arms, K = len(schedules), len(schedules) * len(seeds)
    net, split = setting.net, Split.draw(setting, seeds, config)
    own = net.init([generator(seed, "start") for seed in seeds])
    parameters = {name: value.repeat(arms, *[1] * (value.ndim - 1)) for name, value in own.items()}
    for value in parameters.values():
        value.requires_grad_()
    state, bits = net.state(K), torch.cat([*schedules.values()])
    precision = {"error_bits": torch.full((K,), config.error_bits)}
    precision["generators"] = [generator(seed, "rounding") for _ in schedules for seed in seeds]
    optimiser = torch.optim.SGD(parameters.values(), config.lr, MOMENTUM, weight_decay=DECAY)
    batches, count, losses = split.batches(config.batch, setting.epochs, seeds), bits.shape[1], []

    def loss(step: int) -> Tensor:
        optimiser.param_groups[0]["lr"] = (
            config.lr * (0.1 if step >= count / 2 else 1) * (0.1 if step >= 3 * count / 4 else 1)
        )
        x, y = next(batches)
        now = Precision(bits[:, step], **precision)
        momentum = max(TORCH_MOMENTUM, 1 / (step + 1))
        logits = net.logits(parameters, state, x.repeat(arms, 1, 1, 1, 1), now, momentum)
        found = F.cross_entropy(logits, y.repeat(arms, 1), reduction="none").mean(1)
        losses.append(found.detach())
        return found

    train(loss, optimiser, count, label=setting.id)
    models = torch.arange(len(seeds)).repeat(arms)
    parameters = {name: value.detach() for name, value in parameters.items()}
    return Trained(net, split, seeds, models, parameters, state, torch.stack(losses))


def steps(setting: Setting, config: Config) -> int:
    """Iterations of a training."""
    return setting.epochs * ((config.train if setting.dataset == "digits" else config.cifar_train) // config.batch)


def measure(run: Trained, bits: Tensor, config: Config) -> dict[str, list[float]]:
    """Columns ``[K]`` of what is measured when the networks work at ``bits [K]``; accuracies in percent."""
    _, mixed = run.evaluate("test", bits)
    run = run.reestimate(bits)
    test_loss, accuracy = run.evaluate("test", bits)
    train_loss, _ = run.evaluate("train", bits)
    seeds = [run.seeds[model] for model in run.models]
    loss = lambda parameters: run.evaluate("train", bits, parameters)[0]  # noqa: E731
    sharp = landscape.sharpness(loss, run.parameters, seeds, config.sharpness_size, config.sharpness_directions)
    columns = {"accuracy": 100 * accuracy, "accuracy_running": 100 * mixed}
    columns |= {"test_loss": test_loss, "train_loss": train_loss, "sharpness": sharp}
    return {name: value.tolist() for name, value in columns.items()}


def surface(run: Trained, bits: Tensor, config: Config, plane: bool) -> Any:
    """Training loss around the weights along one or two filter-normalised directions, as in `landscape`."""
    run = run.reestimate(bits)
    loss = lambda parameters: run.evaluate("train", bits, parameters)[0]  # noqa: E731
    seeds = [run.seeds[model] for model in run.models]
    at = landscape.grid(config.plane_points if plane else config.line_points)
    axes = [landscape.direction(run.parameters, seeds, number) for number in range(2 if plane else 1)]
    return (landscape.plane if plane else landscape.line)(loss, run.parameters, *axes, at)
