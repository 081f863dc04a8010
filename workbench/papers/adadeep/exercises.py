"""Exercises on layer-wise compression."""

import torch
from torch import Tensor

from workbench.exercises import Exercise
from workbench.papers.adadeep.techniques import Conv, transform
from workbench.training import generator

FILTERS = torch.randn(6, 4, 3, 3, generator=generator("exercises"))
ACCURACY = torch.tensor([0.9, 0.4, -0.2, 0.7, 0.0, 1.0])
ENERGY = torch.tensor([0.1, 0.6, 0.9, 0.5, 0.8, 0.0])
LATENCY = torch.tensor([0.2, 0.1, 0.3, -0.1, 0.0, -0.4])
STORAGE = torch.tensor([0.3, 0.2, 0.1, 0.2, 0.5, -0.3])


def _separable(w: Tensor) -> Tensor:
    """The weights that a separable module stands for."""
    conv = Conv(w.shape[1], w.shape[0], w.shape[2])
    conv.weight.data = w.clone()
    depth, point = transform(conv, "separable", torch.zeros(1, w.shape[1], 3, 3))
    return (point.weight[:, :, 0, 0, None, None] * depth.weight[None, :, 0]).detach()


def _mean_filter(w: Tensor) -> Tensor:
    """A tempting one: the mean filter of each input channel, times each filter's best factor."""
    mean = w.mean(0)
    scale = (w * mean).sum((2, 3)) / mean.square().sum((1, 2))
    return scale[..., None, None] * mean


def _one_for_all(w: Tensor) -> Tensor:
    u, s, v = torch.linalg.svd(w.flatten(0, 1).flatten(1), full_matrices=False)
    return (s[0] * torch.outer(u[:, 0], v[0])).view_as(w)


def _by_filter(w: Tensor) -> Tensor:
    u, s, v = torch.linalg.svd(w.flatten(2), full_matrices=False)
    return (s[:, :1, None] * u[:, :, :1] * v[:, :1]).view_as(w)


def _reward(accuracy: Tensor, energy: Tensor, latency: Tensor, storage: Tensor, weight: float) -> Tensor:
    feasible = (accuracy >= 0) & (latency >= 0) & (storage >= 0)
    missing = accuracy.clamp(max=0) + latency.clamp(max=0) + storage.clamp(max=0)
    return torch.where(feasible, (1 - weight) * accuracy + weight * energy, missing)


EXERCISES = {
    "adadeep.separable": Exercise(
        "a 3x3 convolution from 64 to 128 channels on a map of 16 x 16 becomes a depthwise and a 1x1 convolution. How "
        "many times fewer MACs?",
        9 * 64 * 128 / (9 * 64 + 64 * 128),
        "9 Co / (9 + Co): nearly 9, and the map's size does not matter.",
        [
            (9 * 64 * 128 / (64 * 128), "the depthwise part is missing: 9 weights for each of the 64 channels."),
            (9 * 64 * 128 / (9 * 64), "the 1x1 convolution is missing: it mixes the channels."),
            (64 / 9, "the two parts do not divide each other: divide the whole convolution by their sum."),
            (9 * 64 * 128 / (9 * 128 + 64 * 128), "the depthwise part comes first: it has the 64 inputs' channels."),
        ],
    ),
    "adadeep.rank_one": Exercise(
        "write f(w): weights [O, C, k, k] as nearly as a depthwise convolution followed by a 1x1 one can give them, in "
        "the sense of least squares; the result is again [O, C, k, k].",
        _separable,
        "for every input channel the matrix of its filters [O, k k] becomes its best rank-1 fit.",
        [
            (_mean_filter, "the mean filter is not the best one: filters of opposite sign cancel in it."),
            (_one_for_all, "that is one spatial filter for all channels: each input channel may have its own."),
            (_by_filter, "that is one spatial filter for each output; a depthwise convolution has one for each input."),
            (lambda w: w, "no 1x1 convolution gives that back: rank one for each input channel."),
        ],
        [(FILTERS,)],
    ),
    "adadeep.reward": Exercise(
        "write f(accuracy, energy, latency, storage, weight): the reward of designs [D]. Where accuracy (above the "
        "floor) and both slacks are at least 0 it is (1 - weight) accuracy + weight energy, else the sum of the "
        "negative ones among accuracy, latency and storage.",
        _reward,
        "what is feasible always beats what is not, and no multiplier has to be tuned.",
        [
            (
                lambda a, e, t, s, w: (1 - w) * a + w * e + t + s,
                "that rewards slack within the budgets too, as the paper's reward does.",
            ),
            (
                lambda a, e, t, s, w: (1 - w) * a + w * e + a.clamp(max=0) + t.clamp(max=0) + s.clamp(max=0),
                "an infeasible design keeps nothing of the objective: else energy can pay for a broken budget.",
            ),
            (
                lambda a, e, t, s, w: torch.where((a < 0) | (t < 0) | (s < 0), -torch.ones(()), (1 - w) * a + w * e),
                "all infeasible designs alike: then nothing says which way leads out.",
            ),
            (
                lambda a, e, t, s, w: _reward(a, e, t, s, 1 - w),
                "the weight is energy's; accuracy has the rest.",
            ),
        ],
        [(ACCURACY, ENERGY, LATENCY, STORAGE, 0.3)],
    ),
}
