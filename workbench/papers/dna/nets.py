"""Networks of the space, trained for real: many of them side by side.

Nets of one space share the shapes of their slots, so N of them are one network whose channels are N times as many and
whose convolutions have N times the groups: no net sees another, batch normalisation works channel by channel anyway,
and all take the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import data
from workbench.papers.dna.space import Conv, Networks, convolutions
from workbench.training import generator, train


def block(conv: Conv, nets: int = 1) -> nn.Sequential:
    """A convolution, batch normalisation, and ReLU where it is active; of ``nets`` nets side by side."""
    parts = [
        nn.Conv2d(
            nets * conv.inputs,
            nets * conv.outputs,
            conv.kernel,
            conv.stride,
            conv.kernel // 2,
            groups=nets * conv.groups,
            bias=False,
        ),
        nn.BatchNorm2d(nets * conv.outputs),
    ]
    return nn.Sequential(*parts, *([nn.ReLU()] if conv.active else []))


class Operator(nn.Module):
    """An operator of a slot; one that changes no shape adds its input, as FBNet's do."""

    def __init__(self, name: str, inputs: int, outputs: int, stride: int = 1, nets: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(*(block(c, nets) for c in convolutions(name, inputs, outputs, stride)))
        self.residual = name != "skip" and (inputs, stride) == (outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, nets * inputs, H, W]`` to ``[B, nets * outputs, H / stride, W / stride]``."""
        return self.body(x) + x if self.residual else self.body(x)


class Stacked(nn.Module):
    """N networks side by side.

    Args:
        space: where they are from.
        designs: ``[N, free slots]``.
        seed: initial weights depend on it, the design and the place of the tensor, not on who stands beside.
    """

    def __init__(self, space: Networks, designs: Tensor, seed: int) -> None:
        super().__init__()
        self.count, self.classes = len(designs), space.classes
        chosen = [space.operators(design) for design in designs.tolist()]
        self.members: list[dict[str, Tensor]] = []  # of each slot: operator -> the nets that have it
        self.slots = nn.ModuleList()
        for at, slot in enumerate(space.slots):
            names = [operators[at] for operators in chosen]
            where = {
                name: torch.tensor([n for n, own in enumerate(names) if own == name]) for name in dict.fromkeys(names)
            }
            self.members.append(where)
            self.slots.append(
                nn.ModuleDict(
                    {
                        name: Operator(name, slot.inputs, slot.outputs, slot.stride, len(rows))
                        for name, rows in where.items()
                    }
                )
            )
        outputs = space.slots[-1].outputs
        self.head = nn.Parameter(torch.empty(self.count, outputs, space.classes))
        self._initialise(designs.tolist(), seed)

    @torch.no_grad()
    def _initialise(self, designs: Sequence[Sequence[int]], seed: int) -> None:
        for at, (slot, where) in enumerate(zip(self.slots, self.members, strict=True)):
            for name, rows in where.items():
                convs = [m for m in slot[name].modules() if isinstance(m, nn.Conv2d)]
                for place, conv in enumerate(convs):
                    own = conv.weight.view(len(rows), -1, *conv.weight.shape[1:])
                    bound = math.sqrt(6 / own[0, 0].numel())  # He et al., uniform
                    for weight, n in zip(own, rows.tolist(), strict=True):
                        stream = generator(seed, "dna", tuple(designs[n]), at, place)
                        weight.copy_(bound * (2 * torch.rand(weight.shape, generator=stream) - 1))
        for weight, design in zip(self.head, designs, strict=True):
            stream = generator(seed, "dna", tuple(design), "head")
            weight.copy_(torch.randn(weight.shape, generator=stream) / math.sqrt(len(weight)))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, c, H, W]`` to logits ``[N, B, classes]``."""
        images = len(x)
        x = x[:, None].expand(-1, self.count, *x.shape[1:])
        for slot, where in zip(self.slots, self.members, strict=True):
            if len(where) == 1:
                (operator,) = slot.values()
                x = operator(x.flatten(1, 2))
                x = x.view(images, self.count, -1, *x.shape[2:])
                continue
            parts = []
            for name, rows in where.items():
                out = slot[name](x[:, rows].flatten(1, 2))
                parts.append(out.view(images, len(rows), -1, *out.shape[2:]))
            order = torch.cat(list(where.values())).argsort()
            x = torch.cat(parts, 1)[:, order]
        return torch.bmm(x.mean((-2, -1)).transpose(0, 1), self.head)


@dataclass(frozen=True)
class Split:
    """Images for training, validation (which drives every search) and test (which only scores)."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def digits_split(images: int = 400) -> Split:
    """The same parts for all seeds: ``images`` for training; of the others every second one is for validation."""
    pool = data.digits()
    order = torch.randperm(len(pool.y), generator=generator("dna", "split"))
    x, y = (pool.x[order] - 0.3) / 0.37, pool.y[order]
    rest = torch.arange(images, len(y))
    return Split((x[:images], y[:images]), (x[rest[::2]], y[rest[::2]]), (x[rest[1::2]], y[rest[1::2]]))


def place(net: nn.Module, x: Tensor) -> None:
    """Move a network to where ``x`` is; on a GPU with channels last, where its convolutions are three times faster."""
    if x.is_cuda:
        net.to(x.device, memory_format=torch.channels_last)


def half_precision(x: Tensor) -> torch.autocast:
    """bfloat16 where ``x`` is on a GPU; on a processor nothing changes."""
    return torch.autocast("cuda", torch.bfloat16, enabled=x.is_cuda)


def accuracies(net: nn.Module, part: tuple[Tensor, Tensor]) -> Tensor:
    """Percent right of each net, ``[N]``."""
    net.eval()
    with torch.no_grad(), half_precision(part[0]):
        right = [(net(x).argmax(-1) == y).double() for x, y in zip(part[0].split(256), part[1].split(256), strict=True)]
    return 100 * torch.cat(right, -1).mean(-1)


def batches(images: int, size: int, seed: int) -> Callable[[int], Tensor]:
    """The rows of each step's batch: every epoch in an order of its own."""
    each = images // size

    def rows(step: int) -> Tensor:
        order = torch.randperm(images, generator=generator(seed, "dna", "batches", step // each))
        return order[(step % each) * size :][:size]

    return rows


Augment = Callable[[Tensor, int], Tensor]
"""Images ``[B, c, H, W]`` and the step, to images."""


def unchanged(x: Tensor, step: int) -> Tensor:
    """No augmentation."""
    return x


def fit(
    net: nn.Module,
    part: tuple[Tensor, Tensor],
    seed: int,
    epochs: int,
    batch: int,
    lr: float,
    decay: float = 5e-4,
    augment: Augment = unchanged,
) -> None:
    """SGD with momentum, the learning rate falling along a cosine, in place."""
    x, y = part
    count = epochs * (len(y) // batch)
    optimiser = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, count)
    rows = batches(len(y), batch, seed)
    net.train()

    def loss(step: int) -> Tensor:
        at = rows(step)
        with half_precision(x):
            logits = net(augment(x[at], step))
        every = F.cross_entropy(logits.flatten(0, 1), y[at].repeat(len(logits)), reduction="none")
        return every.view(len(logits), -1).mean(1)

    train(loss, optimiser, count, after_step=lambda _: schedule.step(), label="networks")
