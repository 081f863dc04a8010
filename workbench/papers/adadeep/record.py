"""The long run: every design of the space, fine-tuned and measured, for each of `SEEDS` (`workbench record adadeep`).

It takes some 7 CPU-minutes a seed. It writes ``adadeep/designs``, a row a seed and design, and ``adadeep/nets``, the
trained networks by ``<seed>.<name>``, from which any row can be measured again in a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from joblib import Parallel, delayed
from torch import Tensor

from workbench.papers.adadeep.measure import DESIGNS, SPACES, Split, measure, trained
from workbench.papers.adadeep.techniques import Net
from workbench.progress import progress
from workbench.recorded import load_table, load_tensors, provenance, save_table, save_tensors

SEEDS = range(5)
COMMAND = "workbench record adadeep"


def _train(seed: int) -> dict[str, Tensor]:
    torch.set_num_threads(1)
    return trained(seed, Split.draw(seed)).state_dict()


def _measure(seed: int, technique: str, state: dict[str, Tensor]) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    net, split = Net().double(), Split.draw(seed)
    net.load_state_dict(state)
    return [measure(net, split, seed, design) for design in DESIGNS if design[0] == technique]


def run(seeds: Sequence[int]) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """All designs of these seeds, and the networks that they were made from."""
    states = Parallel(n_jobs=2)(delayed(_train)(seed) for seed in seeds)
    jobs = [(seed, first, state) for seed, state in zip(seeds, states, strict=True) for first in SPACES[0]]
    parts = Parallel(n_jobs=2, return_as="generator")(delayed(_measure)(*job) for job in jobs)
    rows = [row for part in progress(parts, "designs", len(jobs)) for row in part]
    nets = {f"{seed}.{name}": t for seed, state in zip(seeds, states, strict=True) for name, t in state.items()}
    return pd.DataFrame(rows), nets


def record() -> None:
    """Repeat the run and write its results."""
    table, nets = run(SEEDS)
    save_table("adadeep/designs", table, COMMAND, SEEDS[0])
    save_tensors("adadeep/nets", nets, COMMAND, SEEDS[0])


def designs() -> pd.DataFrame:
    """The recorded table: seed, conv2, conv3, fc, before, val, test (accuracies in per cent), hash."""
    return load_table("adadeep/designs")


def network(seed: int) -> Net:
    """The recorded network of a seed, uncompressed."""
    state, net = load_tensors("adadeep/nets"), Net().double()
    net.load_state_dict({name.split(".", 1)[1]: t for name, t in state.items() if name.split(".", 1)[0] == str(seed)})
    return net


def digest() -> str:
    """First 16 hex digits of the recorded table's sha256."""
    return provenance("adadeep/designs")["sha256"][:16]
