"""The paper's own scale, with no training: MACs of Atari agents and of the nine candidates.

The agents are those that the paper compares with: the CNN of Mnih et al. (2015), and ResNets of He et al. (2016) with
the three stages of CIFAR networks, here on frames of 84x84x4 with a linear layer of 256 behind the pooling. How the
paper fitted its ResNets to such frames (a stride in the stem, say) could not be read again, so ratios to the CNN are
ours; those between ResNets hardly depend on it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from workbench import cost
from workbench.evidence import CONTRADICTED, REPRODUCED, Claim, Interval, claims_from, equals, published
from workbench.papers.a2d.method import OPERATORS, operator_macs
from workbench.resnets import cifar_resnet

FRAME, STACKED, ACTIONS, UNITS = 84, 4, 6, 256
DEPTHS = (14, 20, 38, 74)


def nature_cnn(actions: int = ACTIONS) -> nn.Sequential:
    """Mnih et al. (2015): ``[n, 4, 84, 84]`` to logits of the actions and the value, ``[n, actions + 1]``."""
    convolutions = [nn.Conv2d(STACKED, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3)]
    body = [layer for conv in convolutions for layer in (conv, nn.ReLU())]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(64 * 7 * 7, 512), nn.ReLU(), nn.Linear(512, actions + 1))


def resnet_agent(depth: int, actions: int = ACTIONS) -> nn.Sequential:
    """A ResNet of 14, 20, 38 or 74 layers, a linear layer and both heads; shapes as of `nature_cnn`."""
    return nn.Sequential(cifar_resnet(depth, UNITS, channels=STACKED), nn.ReLU(), nn.Linear(UNITS, actions + 1))


SCORES = Claim(
    "a2d.abstract.scores", "Searched agents beat hand-designed ones in score and in efficiency", "measured",
    "score", equals(), None, "arXiv 2012.13091, abstract", True,
)  # fmt: skip


def exceeds_one(found: Interval, _: float | None) -> str:
    """The rule of a ratio that should be above 1."""
    return REPRODUCED if found.mean > 1 else CONTRADICTED


AGENTS = {"Nature-CNN": nature_cnn, **{f"ResNet-{d}": lambda d=d: resnet_agent(d) for d in DEPTHS}}


def frame() -> Tensor:
    """One stack of frames, without values."""
    return torch.empty(1, STACKED, FRAME, FRAME, device="meta")


@cache
def macs(agent: str) -> float:
    """MACs of one observation, of one of `AGENTS`."""
    with torch.device("meta"):
        return cost.total(cost.count(AGENTS[agent](), frame())).forward


def table() -> pd.DataFrame:
    """MACs (millions) and parameters (thousands) of the agents on Atari frames: columns agent, mmacs, kparameters."""
    with torch.device("meta"):
        sizes = {name: sum(p.numel() for p in build().parameters()) for name, build in AGENTS.items()}
    return pd.DataFrame([(name, macs(name) / 1e6, size / 1e3) for name, size in sizes.items()],
                        columns=["agent", "mmacs", "kparameters"])  # fmt: skip


def candidates(channels: int, positions: int) -> pd.DataFrame:
    """MACs of the nine candidates of a cell: columns operator, macs."""
    return pd.DataFrame([(name, operator_macs(name, channels, positions)) for name in OPERATORS],
                        columns=["operator", "macs"])  # fmt: skip


def rows(scale: str) -> list[dict[str, Any]]:
    """The ledger's analytic rows, and what cannot be tested here."""
    printed = published("a2d")
    own = "this workbench; not in the paper"
    claims = claims_from(printed, "analytic", equals(0))
    rows = [claims["a2d.space.operators"].row(len(OPERATORS), scale), SCORES.row(None, scale)]
    for depth in DEPTHS:
        text = f"A ResNet-{depth} agent costs more than the Nature-CNN on a frame of 84x84x4"
        claim = Claim(f"a2d.atari.resnet{depth}_over_nature", text, "analytic", "times", exceeds_one, None, own, True)
        rows.append(claim.row(macs(f"ResNet-{depth}") / macs("Nature-CNN"), scale))
    return rows
