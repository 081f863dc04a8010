"""Pruning of networks that see images: filters as units, both early-bird detectors on one training, a digits MLP.

A filter with its BatchNorm in evaluation is a unit like any other: ``w' = gamma w / s`` and
``b' = beta - gamma mean / s`` with ``s = sqrt(var + eps)`` are the line it draws in the space of patches.

Every seed draws its own training and test images. No image is for validation, since accuracy chooses nothing: the
detectors look at training images, the test images are measured and nothing else. All arms of a comparison lose
the same number of channels in every layer. Tables are tidy, one row a seed; accuracies in percent.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import WorkbenchError, data, early_bird
from workbench.data import Images
from workbench.nets import ConvNet, conv_macs, remove_channels, train_conv
from workbench.papers.spline import method
from workbench.papers.spline.detectors import partition_distance
from workbench.papers.spline.method import MLP, Criterion, Task, Units
from workbench.training import generator

if TYPE_CHECKING:
    from workbench.papers.spline.experiment import Config

SLIM = 1e-4
"""Strength of network slimming in dense training, as in Early-Bird tickets; without it no mask has a reason to form."""
MLP_WIDTHS, MLP_RATIOS, MLP_BATCH = (64, 64, 64, 10), (0.5, 0.8), 128
MLP_LR, MLP_RETRAIN_LR = 0.005, 0.003
TICKET = 0.5
"""Share of the channels that the masks, and so every ticket, leave out."""


@dataclass(frozen=True)
class Setup:
    """A data set of images, the widths of its dense conv net, and epochs of dense training."""

    dataset: str
    widths: tuple[int, ...]
    epochs: int

    @classmethod
    def read(cls, text: str) -> Setup:
        """For example ``"digits 16-16-32 10"``; `WorkbenchError` for anything else."""
        try:
            dataset, widths, epochs = text.split()
            setup = cls(dataset, tuple(map(int, widths.split("-"))), int(epochs))
        except ValueError:
            raise WorkbenchError(
                f"images read like 'digits 16-16-32 10' (data, widths, epochs); got {text!r}"
            ) from None
        if dataset not in ("digits", "cifar10") or min(setup.widths) < 2 or setup.epochs < 1:
            raise WorkbenchError(f"images {text!r}: data are digits or cifar10, widths at least 2, epochs at least 1")
        return setup

    @property
    def labels(self) -> dict[str, str]:
        """The columns that name it."""
        return {"dataset": self.dataset, "net": "-".join(map(str, self.widths))}


# --- images ------------------------------------------------------------------------------------------------------


def pools(dataset: str) -> tuple[Images, Images]:
    """Where training and test images are drawn from: one pool for digits, CIFAR-10's own two parts."""
    if dataset == "digits":
        return (data.digits(),) * 2
    return data.cifar10(train=True), data.cifar10(train=False)


def split(pools: tuple[Images, Images], seed: int, config: Config) -> tuple[Images, Images]:
    """A seed's training and test images, at most ``image_train`` and ``image_test``, never the same one in both."""
    train, test = pools
    if train is test:
        order = torch.randperm(len(train.y), generator=generator(seed, "images"))
        chosen, held_out = order[:1400][: config.image_train], order[1400:]
    else:
        chosen, held_out = (torch.randperm(len(p.y), generator=generator(seed, "images", p.name)) for p in pools)
    parts = (train, chosen[: config.image_train]), (test, held_out[: config.image_test])
    take = lambda x: x.contiguous(memory_format=torch.channels_last)  # noqa: E731  (twice as fast here)
    return tuple(Images(pool.name, take(pool.x[rows]), pool.y[rows]) for pool, rows in parts)


@torch.no_grad()
def accuracy(net: ConvNet, images: Images) -> float:
    """Percent of the images that are right, in evaluation; the net's mode stays."""
    training = net.training
    net.eval()
    found = torch.cat([net(x).argmax(1) for x in images.x.split(500)])
    net.train(training)
    return 100 * (found == images.y).double().mean().item()


# --- filters as units --------------------------------------------------------------------------------------------


def fold(net: ConvNet) -> list[tuple[Tensor, Tensor]]:
    """Weight ``[out, in, ...]`` and bias ``[out]`` of every layer, BatchNorm in evaluation folded in, in float64."""
    layers: list[tuple[Tensor, Tensor]] = []
    for module in net:
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().double()
        elif isinstance(module, nn.BatchNorm2d):
            scale = module.weight.detach().double() / (module.running_var.double() + module.eps).sqrt()
            bias = module.bias.detach().double() - module.running_mean.double() * scale
            layers.append((weight * scale[:, None, None, None], bias))
        elif isinstance(module, nn.Linear):
            layers.append((module.weight.detach().double(), module.bias.detach().double()))
    return layers


def snip(net: ConvNet, images: Images) -> list[Tensor]:
    """``|gradient times weight|`` of the loss at the first 1,000 images, in evaluation, summed over each filter."""
    net = copy.deepcopy(net).eval()
    F.cross_entropy(net(images.x[:1000]), images.y[:1000]).backward()
    weights = [module.weight for module in net if isinstance(module, nn.Conv2d)]
    return [(w.grad * w.detach()).abs().sum((1, 2, 3)).double() for w in weights]


def scores(net: ConvNet, images: Images, seed: int, rule: str) -> list[Tensor] | None:
    """Scores ``[n]`` of each layer's filters for rules that look at each alone; None for the others.

    Norms are those of folded filters: BatchNorm makes a filter's own scale meaningless.
    """
    layers = fold(net)
    into = [w.flatten(1).norm(dim=1) for w, _ in layers[:-1]]
    if rule == "SNIP":
        return snip(net, images)
    if rule == "random":
        return [torch.rand(len(n), generator=generator(seed, "prune", at)).double() for at, n in enumerate(into)]
    if rule == "BatchNorm scale":
        return [m.weight.detach().abs().double() for m in net if isinstance(m, nn.BatchNorm2d)]
    if rule == "in*out norm":
        out = [w.transpose(0, 1).flatten(1).norm(dim=1) for w, _ in layers[1:]]
        return [a * b for a, b in zip(into, out, strict=True)]
    return {"in-norm": into, "reversed norm": [-n for n in into]}.get(rule)


def criteria(config: Config) -> dict[str, tuple[str, float]]:
    """The arms: rule and rho by name. All leave the same number of parameters."""
    return {
        "redundancy": ("redundancy", config.rhos[0]),
        "scaled + merge (ours)": ("merge", config.scaled_rho),
        **{
            rule: (rule, 0.0)
            for rule in ("in-norm", "in*out norm", "BatchNorm scale", "SNIP", "random", "reversed norm")
        },
    }


def prune(net: ConvNet, ratio: float, rule: str, rho: float, images: Images, seed: int) -> ConvNet:
    """A smaller net: the share ``ratio`` of every layer's channels is gone, all judged on the net as it is.

    Args:
        net: trained.
        ratio: of the channels, rounded in every layer.
        rule: as in `method.Criterion`, or the scale of the BatchNorm.
        rho: of the distance.
        images: the training images, for SNIP.
        seed: of the random rule.

    Raises:
        WorkbenchError: when a layer would lose all its channels.
    """
    layers, own, keep = fold(net), scores(net, images, seed, rule), []
    merged = copy.deepcopy(net)
    heads = [m for m in merged if isinstance(m, nn.Conv2d | nn.Linear)][1:]
    for at, (weight, bias) in enumerate(layers[:-1]):
        count, out = round(ratio * len(bias)), layers[at + 1][0].transpose(0, 1).flatten(1)
        if count >= len(bias):
            raise WorkbenchError(f"ratio {ratio:g} would take all {len(bias)} channels of convolution {at + 1}")
        kept = torch.ones(len(bias), dtype=torch.bool)
        if count:
            gram = (out @ out.mT)[None]
            units = Units.of([weight.flatten(1)[None]], [bias[None]], [gram], rho, own and [own[at][None]])
            order, holds = units.remove(count, rule)
            kept[order[0]] = False
            if rule == "merge":
                head, mixture = heads[at].weight, holds[0].to(heads[at].weight.dtype)
                head.data = torch.tensordot(mixture, head.data, ([1], [1])).transpose(0, 1)
        keep.append(kept)
    return remove_channels(merged, torch.cat(keep))


def retrain(
    net: ConvNet, parts: tuple[Images, Images], steps: tuple[int, ...], seed: int, lr: float
) -> tuple[ConvNet, list[float]]:
    """The net (copied) trained to the last of ``steps``, and its test accuracy after each of them."""
    train, test = parts
    net = copy.deepcopy(net).to(memory_format=torch.channels_last)
    found = [accuracy(net, test)] if 0 in steps else []

    def after_step(done: int) -> None:
        if done in steps:
            found.append(accuracy(net, test))

    train_conv(net, train.x, train.y, max(steps), seed, lr, after_step=after_step)
    return net, found


def size(net: ConvNet, images: Images) -> dict[str, int]:
    """Parameters, and multiply-accumulates of one image."""
    return {"parameters": sum(p.numel() for p in net.parameters()), "macs": conv_macs(net, images.x.shape[-1])}


# --- both detectors on one training ------------------------------------------------------------------------------


def follow(net: ConvNet, images: Images, epochs: int, seed: int, lr: float) -> list[ConvNet]:
    """Train with network slimming, in place; the net as it was after every epoch."""
    per_epoch, kept = len(images.y) // 100, []

    def after_step(done: int) -> None:
        if done % per_epoch == 0:
            kept.append(copy.deepcopy(net))

    train_conv(net, images.x, images.y, epochs * per_epoch, seed, lr, SLIM, after_step)
    return kept


def canvas(images: Images, side: int) -> Tensor:
    """``alpha image + beta other`` for alpha and beta on a grid in [0, 1]: ``[side^2, c, h, w]``.

    The image is the first of the (training) images, the other the first of another class. The official code takes
    two test images and 100 x 100 points.
    """
    other = int((images.y != images.y[0]).nonzero()[0])
    grid = torch.linspace(0, 1, side)
    alpha, beta = torch.cartesian_prod(grid, grid).T[..., None, None, None]
    return (alpha * images.x[0] + beta * images.x[other]).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def signs(net: ConvNet, points: Tensor) -> list[Tensor]:
    """Is the output of each BatchNorm, in evaluation, positive? bool ``[points x channels x places]`` a layer."""
    h, found = points, []
    for module in copy.deepcopy(net).eval():
        h = module(h)
        if isinstance(module, nn.BatchNorm2d):
            found.append((h > 0).flatten())
    return found


def layer_mask(net: ConvNet) -> Tensor:
    """Keep the channels of largest scale of every layer: bool ``[channels]``, equally many of a layer at any time."""
    masks = []
    for scale in (m.weight.detach().abs() for m in net if isinstance(m, nn.BatchNorm2d)):
        dropped = scale.argsort(stable=True)[: round(TICKET * len(scale))]
        masks.append(torch.ones(len(scale), dtype=torch.bool).index_fill(0, dropped, False))
    return torch.cat(masks)


def distances(nets: list[ConvNet], points: Tensor) -> dict[str, Tensor]:
    """Distances ``[T, T]`` of every pair of epochs: of partitions, and of masks over all layers and in each (ours)."""
    layers = zip(*(signs(net, points) for net in nets), strict=True)
    masks = (torch.stack([draw(net) for net in nets]) for draw in (_global_mask, layer_mask))
    overall, by_layer = map(early_bird.pairwise_distance, masks)
    return {
        "partition": partition_distance([torch.stack(layer) for layer in layers]),
        "mask": overall,
        "mask by layer (ours)": by_layer,
    }


def _global_mask(net: ConvNet) -> Tensor:
    return early_bird.channel_mask(net, TICKET)


def detect(pairwise: dict[str, Tensor], config: Config) -> dict[str, tuple[Tensor, float]]:
    """What each detector watches, ``[T]``, and the epoch at which it fires, from 1 (NaN: never)."""
    found = {}
    for name, distance in pairwise.items():
        back, eta = config.detectors["partition" if name == "partition" else "mask"]
        watched = early_bird.detector_distance(distance, back)
        found[name] = (watched, float(early_bird.emergence(watched, eta)))
    return found


def tickets(
    nets: list[ConvNet], fired: dict[str, float], parts: tuple[Images, Images], seed: int, config: Config
) -> list[dict[str, Any]]:
    """Half of each layer's channels, by BatchNorm scale, drawn when a detector fires, at the two ends, and by chance.

    All tickets are equally large: a mask over all layers empties the first ones of so small a net. A ticket inherits
    its weights and goes on with what is left of the epochs, so that all have as many; then all are retrained alike.
    """
    per_epoch, known, rows = len(parts[0].y) // 100, {}, []
    draws = {name: (epoch, "BatchNorm scale") for name, epoch in fired.items()}
    draws["first epoch"], draws["last epoch"] = (1.0, "BatchNorm scale"), (float(len(nets)), "BatchNorm scale")
    draws["random, with partition"] = (fired["partition"], "random")
    for name, (epoch, rule) in draws.items():
        if epoch == epoch and (epoch, rule) not in known:  # NaN: no ticket. Drawn alike, they are one ticket
            small = prune(nets[int(epoch) - 1], TICKET, rule, 0.0, parts[0], seed)
            small, _ = retrain(small, parts, ((len(nets) - int(epoch)) * per_epoch,), seed, config.image_lr)
            _, found = retrain(small, parts, config.image_steps[-1:], seed, config.image_retrain_lr)
            known[epoch, rule] = {"accuracy": found[0], **size(small, parts[0])}
        rows.append({"drawn": name, "seed": seed, "epoch": epoch} | known.get((epoch, rule), {}))
    return rows


# --- the parts of the experiment ---------------------------------------------------------------------------------


def _curve(accuracies: list[float], steps: tuple[int, ...], **labels: Any) -> list[dict[str, Any]]:
    return [{**labels, "step": step, "accuracy": a} for step, a in zip(steps, accuracies, strict=True)]


def conv_seed(setup: Setup, parts: tuple[Images, Images], seed: int, config: Config) -> dict[str, Any]:
    """One seed: dense training watched by both detectors, tickets, and every criterion at every ratio."""
    train, _ = parts
    points, steps = canvas(train, config.canvas), config.image_steps

    def fresh() -> ConvNet:
        torch.manual_seed(seed)
        net = ConvNet(setup.widths, inputs=train.x.shape[1])
        return net.to(memory_format=torch.channels_last)

    nets = follow(fresh(), train, setup.epochs, seed, config.image_lr)
    dense, pairwise = nets[-1], distances(nets, points)
    found = {"trained": detect(pairwise, config)}
    if seed == config.seed:  # the control: weights that never move
        enough = 2 + max(back for back, _ in config.detectors.values())
        still = follow(fresh(), train, enough, seed, 0.0)
        found["untrained"] = detect(distances(still, points), config)
    labels = setup.labels | {"seed": seed}
    fired = [
        {**labels, "training": training, "detector": name, "epoch": epoch}
        for training, detectors in found.items()
        for name, (_, epoch) in detectors.items()
    ]
    watched = [
        {**labels, "training": training, "detector": name, "epoch": at, "distance": d}
        for training, detectors in found.items()
        for name, (curve, _) in detectors.items()
        for at, d in enumerate(curve.tolist(), 1)
    ]
    drawn = {name: epoch for name, (_, epoch) in found["trained"].items()}
    kept = [setup.labels | row for row in tickets(nets, drawn, parts, seed, config)]
    _, accuracies = retrain(dense, parts, steps, seed, config.image_retrain_lr)
    own = labels | {"ratio": 0.0, "arm": "dense"}
    curves, costs = _curve(accuracies, steps, **own), [own | size(dense, train)]
    for ratio in config.image_ratios:
        for arm, (rule, rho) in criteria(config).items():
            small = prune(dense, ratio, rule, rho, train, seed)
            _, accuracies = retrain(small, parts, steps, seed, config.image_retrain_lr)
            own = labels | {"ratio": ratio, "arm": arm}
            curves += _curve(accuracies, steps, **own)
            costs.append(own | size(small, train))
    return {
        "image_curves": curves,
        "image_costs": costs,
        "image_fired": fired,
        "image_distances": watched,
        "image_tickets": kept,
        "pairwise": pairwise,
    }


def digits_task(seeds: list[int]) -> Task:
    """The digits as points: 1,000 for training and 797 for testing, drawn anew by every seed."""
    images = data.digits()
    x = images.x.flatten(1).double()
    orders = [torch.randperm(len(x), generator=generator(seed, "digits")) for seed in seeds]
    train, test = (torch.stack(part) for part in zip(*((o[:1000], o[1000:]) for o in orders), strict=True))
    columns = lambda rows: x[rows].mT.contiguous()  # noqa: E731
    return Task(columns(train), images.y[train], columns(test), images.y[test], seeds)


def digits_mlp(config: Config) -> dict[str, Any]:
    """An MLP on digits, all seeds side by side: where redundancy loses."""
    seeds, steps = list(range(config.seed, config.seed + config.mlp_seeds)), config.image_steps
    task, start = digits_task(seeds), MLP.init(MLP_WIDTHS, seeds)
    dense, _ = method.fit(start, task, config.mlp_steps, MLP_LR, batch=MLP_BATCH)
    nets = {(0.0, "dense"): dense}
    for ratio in MLP_RATIOS:
        for arm, criterion in {
            "redundancy": Criterion("redundancy", config.rhos[0]),
            "scaled + merge (ours)": Criterion("merge", config.scaled_rho),
            "in-norm": Criterion("in-norm"),
            "random": Criterion("random"),
        }.items():
            nets[ratio, arm] = method.prune(dense, ratio, criterion, task)
    labels, curves, costs = {"dataset": "digits", "net": "-".join(map(str, MLP_WIDTHS))}, [], []
    for (ratio, arm), net in nets.items():
        _, found = method.fit(net, task, steps[-1], MLP_RETRAIN_LR, steps, MLP_BATCH)
        macs = sum(w[0].numel() for w in net.weights)
        for seed, line in zip(seeds, (100 * found).tolist(), strict=True):
            own = labels | {"seed": seed, "ratio": ratio, "arm": arm}
            curves += _curve(line, steps, **own)
            costs.append(own | {"parameters": macs + sum(b.shape[1] for b in net.biases), "macs": macs})
    return {"image_curves": curves, "image_costs": costs}


def run(config: Config) -> dict[str, Any]:
    """Rows by table, and ``pairwise``: by data set and net, the first seed's distances ``[T, T]`` by detector."""
    parts, pairwise = [digits_mlp(config)], {}
    for text in config.images:
        setup = Setup.read(text)
        pool = pools(setup.dataset)
        seeds = range(config.seed, config.seed + config.image_seeds)
        found = [conv_seed(setup, split(pool, seed, config), seed, config) for seed in seeds]
        pairwise[tuple(setup.labels.values())] = found[0]["pairwise"]
        parts += found
    names = ("image_curves", "image_costs", "image_fired", "image_distances", "image_tickets")
    return {name: [row for part in parts for row in part.get(name, [])] for name in names} | {"pairwise": pairwise}
