"""The original Early-Bird tickets: channels of a convolutional net, judged by their BatchNorm scale.

You et al.: "Drawing Early-Bird Tickets: Towards More Efficient Training of Deep Networks", ICLR 2020. One row a
seed and arm; accuracies in percent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from workbench import data, early_bird
from workbench.nets import ConvNet, conv_macs, mask_channels, remove_channels, train_conv
from workbench.papers.gebt.timing import median_ms
from workbench.training import generator

if TYPE_CHECKING:
    from workbench.papers.gebt.experiment import Config


def channel_tickets(config: Config) -> list[dict[str, Any]]:
    """Early-Bird tickets of the digits conv net, physically pruned and retrained, beside random channels."""
    images = data.digits()
    rows = []
    for seed in range(config.seed, config.seed + config.channel_seeds):
        order = torch.randperm(len(images.y), generator=generator(seed, "channel split"))
        train_set, test_set = order[:1400], order[1400:]
        rules = {"early-bird": False, "relative (ours)": True}
        detectors = {(rule, p): early_bird.EarlyBird() for rule in rules for p in config.channel_ratios}
        emerged: dict[tuple[str, float], tuple[int, ConvNet]] = {}

        def watch(epoch: int, net: ConvNet, detectors: dict = detectors, emerged: dict = emerged) -> None:
            for (rule, p), detector in detectors.items():
                keep = early_bird.channel_mask(net, p, rules[rule])  # noqa: B023 (called within this seed's turn)
                if detector.add(keep) and (rule, p) not in emerged:
                    emerged[rule, p] = (epoch, remove_channels(net, keep))

        torch.manual_seed(seed)
        net = _train_conv(
            ConvNet(config.channel_widths), images, train_set, config.channel_epochs, seed, slim=1e-4, watch=watch
        )
        dense, dense_ms = _test_conv(net, images, test_set)
        for p in config.channel_ratios:
            keep = early_bird.channel_mask(net, p)
            shuffled = keep[torch.randperm(len(keep), generator=generator(seed, "channels"))]
            arms = {rule: emerged.get((rule, p), (np.nan, None)) for rule in rules}
            arms["late ticket"] = (config.channel_epochs, remove_channels(net, keep))
            arms["random"] = (config.channel_epochs, remove_channels(net, shuffled))
            with torch.no_grad():
                pruned, masked = arms["late ticket"][1].eval(), mask_channels(net, keep).eval()
                gap = float((masked(images.x) - pruned(images.x)).abs().max())
            for arm, (epoch, small) in arms.items():
                row = {"p": p, "arm": arm, "seed": seed, "epoch": epoch, "dense": dense, "dense_macs": conv_macs(net)}
                if small is not None:
                    _train_conv(small, images, train_set, config.channel_epochs, seed)
                    row["accuracy"], row["ms"] = _test_conv(small, images, test_set)
                    row |= {"macs": conv_macs(small), "widths": "-".join(map(str, small.widths))}
                rows.append(row | {"gap": gap, "dense_ms": dense_ms})
    return rows


def _train_conv(
    net: ConvNet,
    images: data.Images,
    nodes: Tensor,
    epochs: int,
    seed: int,
    slim: float = 0.0,
    watch: Callable[[int, ConvNet], None] | None = None,
) -> ConvNet:
    per_epoch = len(nodes) // 100

    def after_step(done: int) -> None:
        if watch is not None and done % per_epoch == 0:
            watch(done // per_epoch, net)

    train_conv(net, images.x[nodes], images.y[nodes], epochs * per_epoch, seed, slim=slim, after_step=after_step)
    return net


def _test_conv(net: ConvNet, images: data.Images, nodes: Tensor) -> tuple[float, float]:
    """Test accuracy in percent and milliseconds for one pass over the test images."""
    net.eval()
    with torch.no_grad():
        accuracy = 100 * (net(images.x[nodes]).argmax(1) == images.y[nodes]).float().mean().item()
        return accuracy, median_ms({0: lambda: net(images.x[nodes])}, 7)[0]
