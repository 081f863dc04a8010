"""All 256 networks of the small space, trained: the accuracy side of every search. `workbench record dna` repeats it,
and where there is a GPU also the runs of `cifar10`.

Six training seeds. A search reads the validation accuracies of one seed, and is scored by the test accuracies of the
others, on images that no search has seen: neither one lucky training nor one lucky image can be exploited.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from joblib import Parallel, delayed
from torch import Tensor

from workbench.papers.dna import cifar10
from workbench.papers.dna.nets import Split, Stacked, accuracies, digits_split, fit
from workbench.papers.dna.space import Networks, digits
from workbench.recorded import save_table

NAME = "dna/digits"
SEEDS = (0, 1, 2, 3, 4, 5)
TOGETHER = 32
"""Networks trained side by side."""
TRAINING: dict[str, Any] = {"epochs": 30, "batch": 50, "lr": 0.1}


def trained(designs: Tensor, seed: int, split: Split | None = None, space: Networks | None = None) -> pd.DataFrame:
    """Train networks ``[n, slots]`` side by side: columns net, seed, val, test (percent)."""
    space, split = space or digits(), split or digits_split()
    net = Stacked(space, designs, seed)
    fit(net, split.train, seed, **TRAINING)
    names = [name(space, design) for design in designs.tolist()]
    return pd.DataFrame(
        {
            "net": names,
            "seed": seed,
            "val": accuracies(net, split.val).numpy().round(3),
            "test": accuracies(net, split.test).numpy().round(3),
        }
    )


def name(space: Networks, design: Sequence[int]) -> str:
    """A design in words: the operators of its free slots."""
    chosen = space.operators(design)
    return " ".join(chosen[at] for at in space.free)


def updates(images: int) -> int:
    """Updates that train one network."""
    return TRAINING["epochs"] * (images // TRAINING["batch"])


def record() -> None:
    """Train them all and save the table; on a GPU, the FBNet-like space's runs, too."""
    parts = [(part, seed) for seed in SEEDS for part in digits().designs().split(TOGETHER)]
    tables = Parallel(n_jobs=2)(delayed(_alone)(*part) for part in parts)
    save_table(NAME, pd.concat(tables, ignore_index=True), "workbench record dna", SEEDS[0])
    if torch.cuda.is_available():
        cifar10.record()
    else:
        print("no GPU here: data/recorded/dna/cifar10.csv stays as it is")


def _alone(designs: Tensor, seed: int) -> pd.DataFrame:
    torch.set_num_threads(1)
    return trained(designs, seed)
