"""The teachers: for super resolution a wide generator that learns the truth, for translation half of a CycleGAN.

The translation teacher is adversarially trained and never sees a pair (protocol of Zhu et al. 2017: two generators, two
discriminators, least squares, cycles, identity), on small pictures. Also the small classifier whose features judge.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import data
from workbench.papers.agd.method import Design, Generator, Skeleton, build, fit, seeded
from workbench.papers.agd.tasks import Features, Images, Task
from workbench.training import generator, steps, train

WIDTH, TAIL = 24, 16
CYCLE, IDENTITY = 10.0, 5.0
"""Weights beside the adversarial loss, as in CycleGAN."""


def skeleton(task: Task) -> Skeleton:
    """The students' skeleton with more channels."""
    return replace(task.skeleton, stem=WIDTH, tail=TAIL)


def design(task: Task) -> Design:
    """Residual blocks throughout: the students' space holds the same at a third of the width."""
    return (("residual", WIDTH),) * task.skeleton.layers


def untrained(task: Task) -> Generator:
    """The teacher's network at its start."""
    return build(skeleton(task), design(task), "teacher", task.id)


def absolute(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (a - b).abs().mean()


def regression(task: Task, images: Images, updates: int, batch: int = 32, lr: float = 4e-3) -> Generator:
    """A teacher of super resolution: mean absolute difference to the truth, as ESRGAN's first stage."""
    net = untrained(task)
    fit(net, images.inputs, images.truths, absolute, updates, batch, lr, "teacher", task.id)
    return freeze(net)


class Discriminator(nn.Sequential):
    """Patches: [N, 3, H, W] to scores [N, 1, H / 4, W / 4]."""

    def __init__(self, width: int = 16) -> None:
        act = nn.LeakyReLU(0.2)
        first, second = nn.Conv2d(3, width, 4, 2, 1), nn.Conv2d(width, 2 * width, 4, 2, 1)
        super().__init__(first, act, second, act, nn.Conv2d(2 * width, 1, 3, 1, 1))


def adversarial(task: Task, images: Images, updates: int) -> Generator:
    """A teacher of translation."""
    back = build(skeleton(task), design(task), "back", task.id)
    return freeze(cyclegan(untrained(task), back, images, updates, "teacher", task.id))


def cyclegan(
    there: Generator, back: Generator, images: Images, updates: int, *stream: object, batch: int = 8, lr: float = 1e-3
) -> Generator:
    """Train both ways against two discriminators, in place, and give the way there.

    ``images.inputs`` and ``images.style`` are not paired. The rate falls to 0 over the second half.
    """
    with seeded(*stream, "discriminators"):
        real_a, real_b = Discriminator(), Discriminator()
    makers = torch.optim.Adam(chain(there.parameters(), back.parameters()), lr, (0.5, 0.999))
    judges = torch.optim.Adam(chain(real_a.parameters(), real_b.parameters()), lr, (0.5, 0.999))
    draw = generator(*stream, "batches")
    for step in steps(updates, "CycleGAN"):
        for optimiser in (makers, judges):
            optimiser.param_groups[0]["lr"] = lr * min(1.0, 2 * (1 - step / updates))
        a, b = (x[torch.randint(len(x), (batch,), generator=draw)] for x in (images.inputs, images.style))
        fake_b, fake_a = there(a), back(b)
        loss = (real_b(fake_b) - 1).square().mean() + (real_a(fake_a) - 1).square().mean()
        loss = loss + CYCLE * (absolute(back(fake_b), a) + absolute(there(fake_a), b))
        loss = loss + IDENTITY * (absolute(there(b), b) + absolute(back(a), a))
        makers.zero_grad()
        loss.backward()
        makers.step()
        judged = torch.zeros(())
        for judge, real, fake in ((real_a, a, fake_a), (real_b, b, fake_b)):
            judged = judged + (judge(real) - 1).square().mean() + judge(fake.detach()).square().mean()
        judges.zero_grad()
        (judged / 2).backward()
        judges.step()
    return there


def classifier(updates: int, batch: int = 64, lr: float = 4e-3) -> Features:
    """`Features`, trained on CIFAR-10's 50,000 images."""
    pool = data.cifar10(True)
    with seeded("features"):
        net = Features()
    optimiser = torch.optim.Adam(net.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, updates)
    draw = generator("features", "batches")

    def loss(_: int) -> Tensor:
        at = torch.randint(len(pool.y), (batch,), generator=draw)
        return F.cross_entropy(net.logits(pool.x[at]), pool.y[at])

    train(loss, optimiser, updates, after_step=lambda _: schedule.step(), label="classifier")
    return freeze(net)


def freeze(net: nn.Module) -> nn.Module:
    """No gradient to its parameters from now on."""
    return net.eval().requires_grad_(False)
