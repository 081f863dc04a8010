"""FracTrain: fewer bits early in training (PFQ), and fewer where an input needs none (DFQ).

Fu, You, Zhao, Wang, Li, Gopalakrishnan, Wang, Lin: "FracTrain: Fractionally Squeezing Bit Savings Both Temporally and
Spatially for Efficient DNN Training", NeurIPS 2020; details as in the released code.

PFQ raises the bits whenever the training loss stands still (`Indicator`). DFQ asks a small recurrent gate, before each
residual block and for each sample, how many bits the block's inputs and errors shall have (`Gates`). FracTrain is DFQ
whose target cost PFQ's indicator raises. K models are trained side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench import WorkbenchError
from workbench.papers.fractrain import cost
from workbench.papers.fractrain.nets import Parameters, ResNet8, Uniform
from workbench.quantize import nearest, quantize_error, quantize_weight
from workbench.training import generator, train

WINDOW = 5
"""Losses that the indicator compares, the newest included."""
SCALED_BY = 10
"""First losses whose mean is the indicator's scale."""
STAGES = ((3, 6), (4, 6), (6, 8), (8, 8))
"""PFQ's bits of (weights and inputs, errors), stage by stage, as in the code's README."""
DEPLOYED = 8
"""Bits at which every schedule's model is evaluated."""
POOLED, EMBEDDED, HIDDEN = 16, 10, 10
"""Sizes of our gate; the paper's are 32, 16 and 16."""

# --- progressive: the indicator --------------------------------------------------------------------------------------


@dataclass
class Indicator:
    """PFQ's turning points (section 3.1, algorithm 1): when has the loss stopped falling?

    Shown a mean training loss a period, it raises the stage when the last WINDOW losses differ from the newest by at
    most ``epsilon`` of the mean of the first SCALED_BY losses; then it forgets them. ``epsilon`` shrinks by ``alpha``
    after the first and the second turning point. No loss can turn it before a stage is WINDOW periods old.
    """

    epsilon: float
    alpha: float
    last: int = len(STAGES) - 1
    stage: int = 0
    scale: float = 0.0
    seen: int = 0
    window: list[float] = field(default_factory=list)

    def see(self, loss: float) -> None:
        """Take a period's mean loss; ``stage`` is then the one for the next period."""
        self.seen += 1
        if self.seen <= SCALED_BY:
            self.scale += (loss - self.scale) / self.seen
        if self.stage == self.last:
            return
        self.window = [*self.window, loss][-WINDOW:]
        if len(self.window) == WINDOW and self.largest_difference <= self.epsilon:
            self.stage += 1
            self.epsilon *= self.alpha if self.stage <= 2 else 1
            self.window = []

    @property
    def largest_difference(self) -> float:
        """Between an older loss of the window and the newest, over the scale."""
        return max(abs(loss - self.window[-1]) for loss in self.window[:-1]) / self.scale


def staircase(losses: Sequence[float], epsilon: float, alpha: float) -> Tensor:
    """The stage of every period of a recorded loss curve ``[periods]``: what the indicator would have set."""
    indicator, stages = Indicator(epsilon, alpha), []
    for loss in losses:
        stages.append(indicator.stage)
        indicator.see(loss)
    return torch.tensor(stages)


class Schedule:
    """Bits of K models over time: fixed ones, or PFQ's where a model has an indicator.

    Attributes:
        bits: ``[K, steps, 2]``, of weights and inputs, and of errors; an indicator's are filled in as it goes.
    """

    def __init__(
        self,
        bits: Tensor,
        indicators: Sequence[Indicator | None],
        generators: Sequence[torch.Generator],
        stages: Sequence[tuple[int, int]] = STAGES,
    ) -> None:
        self.bits, self.indicators, self.generators = bits, indicators, generators
        self.stages = torch.tensor(stages)

    def at(self, step: int, n: int) -> Uniform:
        """The precision of a training step with batches of n."""
        for k, indicator in enumerate(self.indicators):
            if indicator is not None:
                self.bits[k, step] = self.stages[indicator.stage]
        return Uniform(self.bits[:, step, 0], self.bits[:, step, 1], self.generators)

    def evaluated(self, n: int) -> Uniform:
        """The precision of evaluation: DEPLOYED bits, whatever a model was trained with."""
        bits = torch.full((len(self.bits),), DEPLOYED)
        return Uniform(bits, bits, self.generators)

    def cost(self, precision: Uniform) -> Tensor:
        """cp ``[K]`` of a step, in percent."""
        return cost.cp(precision.bits, precision.bits, precision.error_bits)

    def penalty(self, cp: Tensor) -> Tensor | float:
        """Nothing: the bits do not depend on the parameters."""
        return 0.0

    def see(self, losses: Tensor) -> None:
        """Take the mean losses ``[K]`` of a period."""
        _see(self.indicators, losses)


def _see(indicators: Sequence[Indicator | None], losses: Tensor) -> None:
    for indicator, loss in zip(indicators, losses.tolist(), strict=True):
        if indicator is not None:
            indicator.see(loss)


# --- dynamic: the gates ----------------------------------------------------------------------------------------------


class _Select(torch.autograd.Function):
    """Inputs ``[K, n, ...]`` rounded with each sample's own bits, on the model's range.

    The released code runs the block once for every choice and adds the results, weighted by one-hot masks. Where only
    the rounding of the input differs, the same value comes from rounding once, and the masks' gradient from the
    choices' roundings alone: ``<gradient, input rounded with choice c>``, needed of the first ``own`` models only.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, masks: Tensor, low: Tensor, high: Tensor, bits: Tensor, own: int) -> Tensor:
        ctx.save_for_backward(x[:own], low[:own], high[:own], bits)
        return nearest(x, low, high, (masks @ bits).view(*masks.shape[:2], 1, 1, 1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        x, low, high, bits = ctx.saved_tensors
        products = [(grad[: len(x)] * nearest(x, low, high, b)).flatten(2).sum(-1) for b in bits]
        others = grad.new_zeros(len(grad) - len(x), grad.shape[1], len(bits))
        return grad, torch.cat([torch.stack(products, -1), others]), None, None, None, None


def init_gates(net: ResNet8, choices: int, generators: Sequence[torch.Generator]) -> Parameters:
    """Parameters of the gates, one generator a model: a small network a block, and one LSTM that all blocks share."""

    def linear(name: str, inputs: int, outputs: int) -> Parameters:
        bound = inputs**-0.5
        parts = [(2 * torch.rand(outputs, inputs + 1, generator=g) - 1) * bound for g in generators]
        weight, bias = torch.stack(parts).split([inputs, 1], -1)
        return {f"{name}.weight": weight.contiguous(), f"{name}.bias": bias.mT.contiguous()}

    parameters = {}
    for block, channels in enumerate((net.width, net.width, 2 * net.width)):
        parameters |= linear(f"gate.{block}.pool", channels, POOLED)
        parameters |= linear(f"gate.{block}.embed", POOLED, EMBEDDED)
    parameters |= linear("gate.lstm", EMBEDDED + HIDDEN, 4 * HIDDEN)
    return parameters | linear("gate.choice", HIDDEN, choices)


@dataclass
class Decision:
    """The gates at work during one pass over the blocks (section 3.2).

    The first G models have gates. The next are dealt the choices of their twins among these, permuted over the samples
    of the batch: the same cost, but no regard to the input. The last have fixed choices.

    Attributes:
        masks: ``[K, n, choices]`` for each block passed, one-hot.
    """

    gates: Gates
    permutation: Tensor
    masks: list[Tensor] = field(default_factory=list)
    state: tuple[Tensor, Tensor] | None = None

    def choose(self, block: int, x: Tensor) -> None:
        """Choose from the block's input: average pooling, two linear layers, LSTM, softmax, the largest."""
        own, n = self.gates.own, x.shape[1]
        masks = []
        if own:
            linear = lambda name, v: torch.baddbmm(  # noqa: E731
                self.gates.parameters[f"gate.{name}.bias"], v, self.gates.parameters[f"gate.{name}.weight"].mT
            )
            pooled = x[:own].mean((-2, -1))
            embedded = linear(f"{block}.embed", linear(f"{block}.pool", pooled).relu())
            h, c = self.state or (embedded.new_zeros(own, n, HIDDEN),) * 2
            i, f, g, o = linear("lstm", torch.cat([embedded, h], -1)).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            self.state = o.sigmoid() * c.tanh(), c
            soft = linear("choice", self.state[0]).softmax(-1)
            hard = F.one_hot(soft.argmax(-1), soft.shape[-1])
            masks.append(hard + (soft - soft.detach()))  # forward exactly one-hot, backward the softmax
        if len(self.gates.twins):
            dealt = masks[0].detach()[self.gates.twins]
            masks.append(dealt.gather(1, self.permutation[..., None].expand_as(dealt)))
        if len(self.gates.fixed):
            masks.append(F.one_hot(self.gates.fixed, len(self.gates.choices)).float()[:, None].expand(-1, n, -1))
        self.masks.append(torch.cat(masks))

    def weight(self, w: Tensor, gated: bool) -> Tensor:
        """Weights of blocks have the same bits always; the first layer and shortcuts stay float32."""
        return quantize_weight(w, w.new_full(w.shape[:1], self.gates.weight_bits)) if gated else w

    def input(self, x: Tensor, low: Tensor, high: Tensor, gated: bool) -> Tensor:
        """Inputs of blocks have the bits chosen."""
        return _Select.apply(x, self.masks[-1], low, high, self.gates.input_bits, self.gates.own) if gated else x

    def error(self, y: Tensor, gated: bool) -> Tensor:
        """Errors of blocks have the bits chosen."""
        if not gated:
            return y
        return quantize_error(y, self.masks[-1].detach() @ self.gates.error_bits, self.gates.generators)


class Gates:
    """DFQ's choices, K models side by side: G with gates, their dealt twins, and fixed choices.

    Args:
        parameters: of `init_gates`, ``[G, ...]``.
        twins: for each dealt model its place among the G.
        fixed: a choice for each fixed model.
        targets: of each gate, the cp aimed at, stage by stage ``[G, stages]``; where its indicator is None, the last.
        indicators: of each gate.
        streams: a name for each model: equal names, equal noise.
        weight_bits, choices: bits of the weights, and of (inputs, errors).
        strength: weight of the cost in the loss. The code's 1e-3 a sample and block is 2.3 in our units.

    Raises:
        WorkbenchError: a target below the cheapest choice's cp.
    """

    def __init__(
        self,
        parameters: Parameters,
        twins: Tensor,
        fixed: Tensor,
        targets: Tensor,
        indicators: Sequence[Indicator | None],
        streams: Sequence[object],
        weight_bits: int,
        choices: Sequence[tuple[int, int]],
        strength: float = 3.0,
    ) -> None:
        for target in targets.flatten().tolist():
            check_target(target, weight_bits, choices)
        self.parameters, self.own = parameters, len(targets)
        self.twins, self.fixed, self.targets, self.indicators = twins, fixed, targets, indicators
        self.weight_bits, self.choices, self.strength, self.streams = weight_bits, choices, strength, streams
        self.input_bits, self.error_bits = torch.tensor(choices, dtype=torch.float32).T
        self.costs = torch.tensor([cost.cp(weight_bits, *choice) for choice in choices])
        self.generators = [generator(stream, "rounding") for stream in streams]

    def at(self, step: object, n: int) -> Decision:
        """The gates for a training step with batches of n, dealt anew."""
        dealt = self.streams[self.own : self.own + len(self.twins)]
        orders = [torch.randperm(n, generator=generator(stream, "deal", step)) for stream in dealt]
        return Decision(self, torch.stack(orders) if orders else torch.empty(0, n, dtype=torch.long))

    def evaluated(self, n: int) -> Decision:
        """The gates for n images in evaluation."""
        return self.at("evaluation", n)

    def cost(self, decision: Decision) -> Tensor:
        """cp ``[K]``, in percent: the mean over samples and blocks, all blocks counted alike as in the code."""
        return (torch.stack(decision.masks) @ self.costs).mean((0, 2))

    def penalty(self, cp: Tensor) -> Tensor:
        """The cost's part of the losses ``[K]``: down where cp is at the target or above, up where it is below."""
        stages = [-1 if indicator is None else indicator.stage for indicator in self.indicators]
        target = self.targets[torch.arange(self.own), stages]
        sign = torch.where(cp[: self.own] < target, -1.0, 1.0)
        return F.pad(self.strength * sign * 3 * cp[: self.own] / 100, (0, len(cp) - self.own))

    def see(self, losses: Tensor) -> None:
        """Take the mean losses ``[K]`` of a period."""
        _see(self.indicators, losses[: self.own])


def check_target(target: float, weight_bits: int, choices: Sequence[tuple[int, int]]) -> None:
    """Refuse a target cp that no gate can reach; `WorkbenchError` names the floor."""
    floor = cost.floor(weight_bits, choices)
    if target < floor:
        raise WorkbenchError(
            f"a target cp of {target:g} % is out of reach: the cheapest choice everywhere costs {floor:.3f} % "
            f"with {weight_bits}-bit weights; choose at least that"
        )


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Task:
    """What K models learn: indices into shared images, and labels of their own.

    Attributes:
        images: ``[N, channels, H, W]``.
        seeds: of each model; models of one seed see the same batches.
        train, y: ``[K, n]``, indices and the labels to learn (some may be wrong on purpose).
        val, val_y: ``[K, m]``, to look at during training.
        test, test_y: ``[K, t]``, looked at once, at the end.
        batch: images a step.
    """

    images: Tensor
    seeds: Sequence[int]
    train: Tensor
    y: Tensor
    val: Tensor
    val_y: Tensor
    test: Tensor
    test_y: Tensor
    batch: int

    def take(self, models: Sequence[int]) -> Task:
        """The task of some of the models, in that order; a model may come several times."""
        at = torch.tensor(models)
        parts = (self.train, self.y, self.val, self.val_y, self.test, self.test_y)
        return Task(self.images, [self.seeds[k] for k in models], *(part[at] for part in parts), self.batch)

    def pictures(self, indices: Tensor) -> Tensor:
        """Images ``[n, K, channels, H, W]`` of indices ``[K, n]``."""
        return self.images[indices.T]

    @property
    def steps_an_epoch(self) -> int:
        """Whole batches in the training set."""
        return self.train.shape[1] // self.batch

    def training_batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images ``[n, K, ...]`` and labels ``[K, n]``: every epoch in a new order, the same for equal seeds."""
        epoch, at = divmod(step, self.steps_an_epoch)
        orders = {s: torch.randperm(self.train.shape[1], generator=generator(s, "order", epoch)) for s in {*self.seeds}}
        chosen = torch.stack([orders[s][at * self.batch : (at + 1) * self.batch] for s in self.seeds])
        return self.pictures(self.train.gather(1, chosen)), self.y.gather(1, chosen)


@dataclass(frozen=True)
class Run:
    """What K models did.

    Attributes:
        parameters: after training.
        cp: of every training step, percent ``[K, steps]``.
        loss: mean cross-entropy of every training period ``[K, periods]``.
        looks, validation: steps, and accuracy ``[K, looks]`` after them on the validation images.
        choices: what gates chose for the validation images ``[looks, blocks, K, m]``; of schedules, no blocks.
        test_losses, hits: on the test images after training ``[K, t]``.
        tested: what gates chose for them ``[blocks, K, t]``.
    """

    parameters: Parameters
    cp: Tensor
    loss: Tensor
    looks: Sequence[int]
    validation: Tensor
    choices: Tensor
    test_losses: Tensor
    hits: Tensor
    tested: Tensor


CHUNK = 500
"""Images evaluated together; as many training images, at most, give batch statistics and ranges before."""


def _choices(precision: Any, like: Tensor) -> Tensor:
    masks = getattr(precision, "masks", [])
    return torch.stack(masks).argmax(-1) if masks else torch.empty(0, *like.shape[:2], dtype=torch.long)


@torch.no_grad()
def evaluate(
    net: ResNet8, parameters: Parameters, task: Task, policy: Any, indices: Tensor, labels: Tensor, measured: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses and hits ``[K, m]``, and the gates' choices ``[blocks, K, m]``.

    Batch statistics and ranges are taken anew from the first ``measured`` training images, at evaluation's precision.
    """
    kept: dict = {}
    sample = task.train[:, :measured]
    net.logits(parameters, task.pictures(sample), policy.evaluated(sample.shape[1]), kept)
    found = []
    for chunk, y in zip(indices.split(CHUNK, 1), labels.split(CHUNK, 1), strict=True):
        precision = policy.evaluated(chunk.shape[1])
        logits = net.logits(parameters, task.pictures(chunk), precision, kept)
        losses = F.cross_entropy(logits.mT, y, reduction="none")
        found.append((losses, logits.argmax(-1) == y, _choices(precision, logits)))
    return tuple(torch.cat(parts, -1) for parts in zip(*found, strict=True))


def fit(net: ResNet8, start: Parameters, task: Task, policy: Any, steps: int, lr: float, period: int, look: int) -> Run:
    """Train K models: SGD with momentum, learning rate times 0.1 after half and three quarters of the steps.

    Args:
        net: their architecture.
        start: parameters ``[K, ...]``; not changed.
        task: what they learn.
        policy: `Schedule` or `Gates`; the latter's parameters are trained along, in place.
        steps, lr: of SGD.
        period: steps between two looks of the indicator, an epoch as a rule.
        look: periods between two looks at the validation images.
    """
    parameters = {name: p.clone().requires_grad_() for name, p in start.items()}
    trained = [*parameters.values()]
    if isinstance(policy, Gates):
        for p in policy.parameters.values():
            trained.append(p.requires_grad_())
    optimiser = torch.optim.SGD(trained, lr, momentum=0.9, weight_decay=1e-4)
    cps, losses, periods, looks, validation, choices = ([] for _ in range(6))

    def loss(step: int) -> Tensor:
        optimiser.param_groups[0]["lr"] = lr * 0.1 ** ((step >= steps // 2) + (step >= 3 * steps // 4))
        x, y = task.training_batch(step)
        precision = policy.at(step, y.shape[1])
        logits = net.logits(parameters, x, precision)
        cp = policy.cost(precision)
        cps.append(cp.detach())
        entropy = F.cross_entropy(logits.mT, y, reduction="none").mean(1)
        whole = entropy + policy.penalty(cp)
        losses.append(torch.stack([entropy, whole]).detach())
        return whole

    def after(step: int) -> None:
        if (step + 1) % period:
            return
        entropy, whole = torch.stack(losses[-period:]).mean(0)
        periods.append(entropy)
        policy.see(whole)  # with the cost's part, as in the code
        if len(periods) % look == 0 or step + 1 == steps:
            looks.append(step + 1)
            _, hits, chosen = evaluate(net, parameters, task, policy, task.val, task.val_y, 4 * task.batch)
            validation.append(hits.float().mean(1))
            choices.append(chosen)

    train(loss, optimiser, steps, after_step=after, label="FracTrain")
    tested = evaluate(net, parameters, task, policy, task.test, task.test_y, CHUNK)
    parameters = {name: p.detach() for name, p in parameters.items()}
    cp, by_period, accuracy = (torch.stack(part, 1) for part in (cps, periods, validation))
    return Run(parameters, cp, by_period, looks, accuracy, torch.stack(choices), *tested)
