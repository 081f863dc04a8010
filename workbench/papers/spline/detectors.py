"""Two early-bird detectors on one training: has the partition stopped moving, and has the pruning mask?

The partition is known by signs: on which side of its line (of its zero set, in a deeper layer) each unit has each
point. Where no sign flips from epoch to epoch, the partition stands still, as far as those points can tell.

Sources: You et al., "Max-Affine Spline Insights into Deep Network Pruning" (TMLR 2022) and its released code, for
the partition; You et al., "Drawing Early-Bird Tickets" (ICLR 2020), for the mask. Both compare the newest epoch
with each of a few before it, take the largest distance, and fire when that falls below a threshold: these steps are
`workbench.early_bird.detector_distance` and `workbench.early_bird.emergence`, for either distance.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from workbench import early_bird

CHUNK = 2**18
"""Signs compared at once: as float32, their sums are exact and stay in the cache."""


def flipped(signs: Tensor) -> Tensor:
    """Fraction of signs that differ, for every pair of epochs: bool ``[..., T, n]`` to ``[..., T, T]``."""
    parts = signs.split(CHUNK, -1)
    return sum(early_bird.pairwise_distance(part) * part.shape[-1] for part in parts) / signs.shape[-1]


def partition_distance(layers: Sequence[Tensor]) -> Tensor:
    """Distance of every pair of epochs' partitions: the fraction of flipped signs, averaged over layers.

    Args:
        layers: for every layer bool ``[..., T, n]``: is the unit positive? n counts units times points, for a
            convolution also times places; row t is after epoch t + 1.

    Returns:
        ``[..., T, T]``.
    """
    return sum(flipped(layer) for layer in layers) / len(layers)
