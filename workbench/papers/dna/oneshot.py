"""The joint search as the paper has it: weights and choices together, in one supernet that holds every network.

No table of accuracies is read. Steps alternate (bilevel, first order): weights learn on one half of the training
images, logits on the other. A hard Gumbel choice takes one path through the network; the gradient of the expected cost
is the true one of `method`. What a percentage point is worth is the same as in the table-based search, because the
accuracy is replaced by what it is the expectation of: the probability given to the right class, in percent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.papers.dna.accelerators import Costs, Design
from workbench.papers.dna.method import Logits, Objective, derive, expected_costs, undecided
from workbench.papers.dna.nets import Augment, Operator, batches, half_precision, place, unchanged
from workbench.papers.dna.space import Networks
from workbench.supernet import Chosen, Mixed, Space, choose_hard, temperature
from workbench.training import generator, steps


class Supernet(nn.Module):
    """All networks of a space in one: every operator of every slot, with weights that all of them share."""

    def __init__(self, space: Networks, seed: int) -> None:
        super().__init__()
        self.slots = nn.ModuleList(
            Mixed(Operator(name, slot.inputs, slot.outputs, slot.stride) for name in slot.operators)
            for slot in space.slots
        )
        self.free = set(space.free)
        self.head = nn.Linear(space.slots[-1].outputs, space.classes, bias=False)
        stream = generator(seed, "dna", "supernet")
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    bound = (6 / module.weight[0].numel()) ** 0.5  # He et al., uniform
                    module.weight.copy_(bound * (2 * torch.rand(module.weight.shape, generator=stream) - 1))

    def forward(self, x: Tensor, chosen: Sequence[Chosen]) -> Tensor:
        """Images to logits along what is chosen in the free slots."""
        left = iter(chosen)
        for at, slot in enumerate(self.slots):
            x = slot(x, next(left)) if at in self.free else slot[0](x)
        return self.head(x.mean((-2, -1)))


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: ``epochs`` over a half of the images, ``warm_up`` of them for the weights alone;
    Gumbel's temperature begins at ``tau`` and falls by ``cool`` an epoch; ``lr`` of weights, ``logit_lr`` of logits.
    Weights learn along one path; the gradient of the logits sees the ``paths`` most probable operators (None: all).
    """

    epochs: int = 60
    warm_up: int = 15
    batch: int = 50
    lr: float = 0.1
    logit_lr: float = 0.05
    tau: float = 5.0
    cool: float = 0.95
    paths: int | None = None

    def updates(self, images: int) -> int:
        """Network updates of a search, on the weights and on the logits together."""
        each = images // 2 // self.batch
        return each * (2 * self.epochs - self.warm_up)


def hardware_gain(costs: Costs, objective: Objective) -> Callable[[Logits], Tensor]:
    """Points that the expected cost takes away: the joint search's view of the accelerator."""
    return lambda logits: objective.value(torch.zeros(()), *expected_costs(costs, logits))


def macs_gain(space: Networks, objective: Objective) -> Callable[[Logits], Tensor]:
    """The same by expected MACs, of who searches the network first."""
    rows = [
        torch.tensor([sum(x.macs for x in space.slots[at].layers(o)) for o in space.slots[at].operators]).double()
        for at in space.free
    ]
    rest = space.macs([0] * len(space.free)) - sum(float(row[0]) for row in rows)
    table = Space(tuple(map(len, rows)), tuple(((i,), row) for i, row in enumerate(rows)))

    def gain(logits: Logits) -> Tensor:
        macs = table.expected([x.softmax(-1) for x in logits.operators]) + rest
        return objective.by_macs(torch.zeros(()), macs)

    return gain


def co_search(
    space: Networks,
    costs: Costs,
    factors: Sequence[int],
    gain: Callable[[Logits], Tensor],
    images: tuple[Tensor, Tensor],
    seed: int,
    schedule: Schedule | None = None,
    augment: Augment = unchanged,
) -> tuple[Design, list[dict[str, float]]]:
    """Train a supernet and choose from it at once; the derived design and what happened by epoch.

    ``gain`` says in points what the accelerator (or MACs) takes away; ``images`` are halved for weights and logits.
    """
    plan = schedule or Schedule()
    order = torch.randperm(len(images[1]), generator=generator(seed, "dna", "halves"))
    half = len(order) // 2
    parts = [(images[0][rows], images[1][rows]) for rows in (order[:half], order[half : 2 * half])]
    net = Supernet(space, seed)
    place(net, images[0])
    logits = Logits.start(space.choices, len(costs.cycles), factors, generator(seed, "dna", "logits"), 1e-3)
    each = half // plan.batch
    weights = torch.optim.SGD(net.parameters(), plan.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(weights, plan.epochs * each)
    choices = torch.optim.Adam(logits.all, lr=plan.logit_lr)
    rows, chance, history = batches(half, plan.batch, seed), generator(seed, "dna", "gumbel"), []
    for step in steps(plan.epochs * each, "supernet"):
        tau = temperature(step, plan.tau, plan.cool, each)

        def forward(
            part: tuple[Tensor, Tensor], choices: list[Tensor], paths: int | None, step: int = step, tau: float = tau
        ) -> tuple[Tensor, Tensor]:
            chosen = [choose_hard(x.float(), tau, chance, paths) for x in choices]
            at = rows(step)
            with half_precision(part[0]):
                return net(augment(part[0][at], step), chosen), part[1][at]

        weights.zero_grad()
        F.cross_entropy(*forward(parts[0], [x.detach() for x in logits.operators], 1)).backward()
        weights.step()
        falling.step()
        if step >= plan.warm_up * each:
            choices.zero_grad()
            scores, y = forward(parts[1], logits.operators, plan.paths)
            right = 100 * scores.softmax(-1).gather(1, y[:, None]).mean()
            (-(right.cpu().double() + gain(logits))).backward()
            choices.step()
        if step % each == each - 1:
            history.append({"epoch": step // each, "entropy": undecided(logits), "tau": tau})
    return derive(costs, logits), history
