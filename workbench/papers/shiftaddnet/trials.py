"""One small network trained on digits or CIFAR-10: its images, its name, its training, its accuracy.

Arms of a seed share images and the order of batches; of final weights, never the best ones, the accuracy is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import WorkbenchError, data
from workbench.cost import count
from workbench.papers.shiftaddnet import energy
from workbench.papers.shiftaddnet.adder import Adder2d
from workbench.papers.shiftaddnet.method import SmallNet
from workbench.papers.shiftaddnet.shift import ShiftPS2d, ShiftQ2d
from workbench.training import generator, train

if TYPE_CHECKING:
    from workbench.papers.shiftaddnet.experiment import Config

MOMENTUM, DECAY = 0.9, 1e-4


@dataclass(frozen=True)
class Setting:
    """Data set, number of training images, epochs."""

    dataset: str
    train: int
    epochs: int

    @classmethod
    def read(cls, text: str) -> Setting:
        """For example ``"digits 400 40"``; `WorkbenchError` for anything else."""
        try:
            dataset, *numbers = text.split()
            images, epochs = map(int, numbers)
        except ValueError:
            raise WorkbenchError(
                f"a setting reads like 'digits 400 40' (data, training images, epochs); got {text!r}"
            ) from None
        if (
            dataset not in ("digits", "cifar10")
            or not 100 <= images <= {"digits": 1600, "cifar10": 50_000}[dataset]
            or epochs < 1
        ):
            raise WorkbenchError(
                f"setting {text!r}: data are digits (100 to 1600 training images) or cifar10 (100 to 50000), "
                "for at least one epoch"
            )
        return cls(dataset, images, epochs)

    @property
    def id(self) -> str:
        """Its part of a claim's id, and its name in tables."""
        return f"{self.dataset}_{self.train}"

    @property
    def title(self) -> str:
        """For readers."""
        return f"{self.dataset}, {self.train:,} images, {self.epochs} epochs"

    @property
    def image(self) -> tuple[int, int]:
        """Channels and side."""
        return (1, 8) if self.dataset == "digits" else (3, 16)


@dataclass(frozen=True)
class Split:
    """A seed's images: x ``[n, channels, h, w]``, y ``[n]``; training and test are disjoint."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    @classmethod
    def draw(cls, setting: Setting, seed: int, test: int) -> Split:
        """CIFAR-10 at 16x16, means of four pixels; at most ``test`` images to test on, all that are left otherwise."""
        if setting.dataset == "digits":
            pool = data.digits()
            order = torch.randperm(len(pool.y), generator=generator(seed, "images"))
            x, at = (pool.x - 0.3) / 0.37, order.split([setting.train, len(order) - setting.train])
            tested = at[1][:test]
            return cls(x[at[0]], pool.y[at[0]], x[tested], pool.y[tested])
        parts = []
        for training, size in ((True, setting.train), (False, test)):
            pool = data.cifar10(training)
            chosen = torch.randperm(len(pool.y), generator=generator(seed, "images", training))[:size]
            parts += [(F.avg_pool2d(pool.x[chosen], 2) - 0.5) / 0.25, pool.y[chosen]]
        return cls(*parts)


@dataclass(frozen=True)
class Arm:
    """A network: kind of layer, width, and of an ablation what is left out in its hidden units.

    ``variant``: "no BatchNorm", "no local rate", "adders frozen", "shifts frozen" at their random start; or "snapped":
    PS layers round what they store after every epoch.
    """

    kind: str
    width: int
    variant: str = ""

    def __str__(self) -> str:
        """For readers."""
        return f"{self.kind} {self.width}" + (f", {self.variant}" if self.variant else "")

    def build(self, channels: int, seed: int) -> SmallNet:
        """The network at its start, which depends on the seed and on the name."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(seed, "start", self.kind, self.width).initial_seed())
            net = SmallNet(self.kind, self.width, channels, batch_norm=self.variant != "no BatchNorm")
        for layer in net.hidden.modules():
            if isinstance(layer, Adder2d) and self.variant == "no local rate":
                layer.rate = None
            frozen = {"adders frozen": Adder2d, "shifts frozen": ShiftQ2d | ShiftPS2d}.get(self.variant)
            if frozen and isinstance(layer, frozen):
                layer.requires_grad_(False)
        return net


@cache
def costs(kind: str, width: int, image: tuple[int, int]) -> dict[str, float]:
    """Weights, and nanojoules of arithmetic an image on the 45 nm ASIC, of a network at inference."""
    channels, side = image
    with torch.device("meta"):
        table = count(SmallNet(kind, width, channels).eval(), torch.empty(1, channels, side, side))
    done = energy.work(table, "inference")
    spent = {f: energy.picojoules(done, f, "asic45") / 1e3 for f in ("FIX32", "FIX8")}
    return {"weights": float(table["weights"].sum()), **spent}


def matched(kind: str, like: tuple[str, int], what: str, image: tuple[int, int]) -> int:
    """The width at which a kind comes nearest (in ratio) to another network's weights or energy.

    Args:
        kind: of the network sought.
        like: kind and width of the other.
        what: ``weights``, ``FIX32`` or ``FIX8``.
        image: channels and side.
    """
    target, own = costs(*like, image)[what], costs(kind, like[1], image)[what]
    guess = round(like[1] * math.sqrt(target / own))  # both grow as the square of the width, nearly
    near = range(max(1, guess - 1), guess + 2)
    return min(near, key=lambda width: abs(math.log(costs(kind, width, image)[what] / target)))


def fit(
    net: nn.Module, x: Tensor, y: Tensor, epochs: int, lr: float, batch: int, seed: int, snap: bool = False
) -> None:
    """SGD with momentum, the rate falling to 0 by a cosine, in place; the network is left in evaluation mode.

    The exponents and signs of PS layers have no weight decay, as in the code. ``snap`` rounds them after every epoch.
    """
    powers = {id(p) for m in net.modules() if isinstance(m, ShiftPS2d) for p in m.parameters()}
    trained = [p for p in net.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in powers], "weight_decay": 0.0},
        {"params": [p for p in trained if id(p) not in powers], "weight_decay": DECAY},
    ]
    optimiser = torch.optim.SGD([g for g in groups if g["params"]], lr, MOMENTUM)
    per_epoch, order = len(y) // batch, torch.empty(0)
    steps = epochs * per_epoch

    def loss(step: int) -> Tensor:
        nonlocal order
        epoch, at = divmod(step, per_epoch)
        if at == 0:
            order = torch.randperm(len(y), generator=generator(seed, "batches", epoch))
        for group in optimiser.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        chosen = order[at * batch : (at + 1) * batch]
        return F.cross_entropy(net(x[chosen]), y[chosen])

    def after(step: int) -> None:
        if snap and (step + 1) % per_epoch == 0:
            for layer in net.modules():
                if isinstance(layer, ShiftPS2d):
                    layer.snap()

    net.train()
    train(loss, optimiser, steps, after_step=after, label="training")
    net.eval()


def train_arm(arm: Arm, setting: Setting, split: Split, seed: int, config: Config) -> SmallNet:
    """A network of that name, trained."""
    net = arm.build(setting.image[0], seed)
    fit(net, split.train_x, split.train_y, setting.epochs, config.lr, config.batch, seed, arm.variant == "snapped")
    return net


@torch.no_grad()
def accuracy(net: nn.Module, split: Split) -> float:
    """Test accuracy in per cent; the network must be in evaluation mode."""
    right = [net(x).argmax(1) == y for x, y in zip(split.test_x.split(500), split.test_y.split(500), strict=True)]
    return 100 * torch.cat(right).double().mean().item()
