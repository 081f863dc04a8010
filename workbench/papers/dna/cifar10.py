"""The FBNet-like space on CIFAR-10: one supernet searched as in the paper, and what it derives trained from scratch.

12 free slots of up to 9 operators (the paper has 22), 1e11 networks: no table can hold their accuracies, so the joint
search of `oneshot` is all there is. `workbench record dna` makes it where there is a GPU. Arms, of each seed:

- ``joint``: weights, network and accelerator in one search; the accelerator is the search's own.
- ``network first``: the same updates with MACs for the cost, then the best accelerator of all for what was found.
- ``random 1`` to ``random 4``: networks drawn evenly, each on its best accelerator. A search and the training after it
  cost as many passes as training three to four networks: four are more than the compute of ``joint``.

All are trained alike, on images that are not those of validation (the last 5,000 of the training part) and test.
Nothing was tuned: template and objective are the small space's, rates are customary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from torch import Tensor
from torch.nn import functional as F

from workbench import data
from workbench.papers.dna.accelerators import TEMPLATES, Costs, Design, costs
from workbench.papers.dna.method import Objective
from workbench.papers.dna.nets import Split, Stacked, accuracies, fit, place
from workbench.papers.dna.oneshot import Schedule, co_search, hardware_gain, macs_gain
from workbench.papers.dna.space import Networks, fbnet
from workbench.recorded import load_table, save_table
from workbench.training import generator

NAME = "dna/cifar10"
SEEDS = (0, 1, 2)
TEMPLATE, OBJECTIVE = TEMPLATES["fpga"], Objective("latency", 6.0)
RANDOM = 4
TRAINING: dict[str, Any] = {"epochs": 16, "batch": 512, "lr": 0.2}
SEARCH = Schedule(epochs=30, warm_up=8, batch=512, lr=0.2, logit_lr=0.01, paths=2)
VALIDATION = 5000
MEAN, SPREAD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
"""Of CIFAR-10's channels, as customary."""


def space() -> Networks:
    """Two blocks a stage instead of the paper's four."""
    return fbnet(depths=(1, 2, 2, 2, 2, 2, 1))


def split(device: str) -> Split:
    """CIFAR-10 in three parts, its channels normalised."""
    mean, spread = (torch.tensor(x, device=device).view(3, 1, 1) for x in (MEAN, SPREAD))
    pools = [data.cifar10(train) for train in (True, False)]
    (x, y), test = [((pool.x.to(device) - mean) / spread, pool.y.to(device)) for pool in pools]
    return Split((x[:-VALIDATION], y[:-VALIDATION]), (x[-VALIDATION:], y[-VALIDATION:]), test)


def shifted(x: Tensor, step: int, most: int = 4) -> Tensor:
    """Every image moved by up to ``most`` pixels, zeros coming in, and half of them mirrored."""
    draw, size = generator("dna", "shift", step), x.shape[-1]
    corner = torch.randint(2 * most + 1, (2, len(x), 1), generator=draw)
    rows, columns = corner + torch.arange(size)
    columns = torch.where(torch.rand(len(x), 1, generator=draw) < 0.5, columns.flip(1), columns)
    image, rows, columns = (t.to(x.device) for t in (torch.arange(len(x)), rows, columns))
    padded = F.pad(x, (most,) * 4).permute(0, 2, 3, 1)
    return padded[image[:, None, None], rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def searched(
    nets: Networks, table: Costs, method: str, images: tuple[Tensor, Tensor], seed: int
) -> tuple[Design, list[dict[str, float]]]:
    """What ``joint`` or ``network first`` derives, and entropies by epoch."""
    gain = hardware_gain(table, OBJECTIVE) if method == "joint" else macs_gain(nets, OBJECTIVE)
    design, history = co_search(nets, table, TEMPLATE.factors, gain, images, seed, SEARCH, shifted)
    if method == "network first":
        (design,) = table.best_designs(torch.tensor([design.net]), OBJECTIVE.cost)
    return design, history


def drawn(nets: Networks, table: Costs, seed: int, number: int) -> Design:
    """A network drawn evenly, on its best accelerator."""
    stream = generator(seed, "dna", "cifar10", number)
    net = torch.stack([torch.randint(n, (1,), generator=stream) for n in nets.choices], 1)
    return table.best_designs(net, OBJECTIVE.cost)[0]


def row(nets: Networks, table: Costs, design: Design, parts: Split, seed: int) -> dict[str, Any]:
    """A design trained: val, test (percent), seconds; ms, and on the network's best accelerator; uj; what it is."""
    net = Stacked(nets, torch.tensor([design.net]), seed)
    place(net, parts.train[0])
    began = time.perf_counter()
    fit(net, parts.train, seed, **TRAINING, augment=shifted)
    found = {part: round(float(accuracies(net, getattr(parts, part))), 3) for part in ("val", "test")}
    one = torch.tensor([design.net])
    ms, uj = table.evaluate(one, torch.tensor([design.rule]), torch.tensor([design.chunks]))
    return found | {
        "seconds": round(time.perf_counter() - began, 1),
        "ms": float(ms),
        "best_ms": float(table.best(one)["latency"][0]),
        "uj": float(uj),
        "mmacs": nets.macs(design.net) / 1e6,
        "rule": design.rule,
        "first": design.chunks[0],
        "second": design.chunks[1],
        "net": " ".join(nets.operators(design.net)[1:]),
    }


def arm(name: str, seed: int, device: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An arm of a seed: its row, and the course of its search."""
    torch.set_num_threads(2)
    nets, parts = space(), split(device)
    table, began = costs(nets, TEMPLATE), time.perf_counter()
    own, history = {"seed": seed, "arm": name}, []
    if name in ("joint", "network first"):
        design, history = searched(nets, table, name, parts.train, seed)
    else:
        design = drawn(nets, table, seed, int(name.split()[1]))
    search = round(time.perf_counter() - began, 1)
    return own | {"search_seconds": search} | row(nets, table, design, parts, seed), [own | h for h in history]


def record(seeds: Sequence[int] = SEEDS, jobs: int = 8) -> None:
    """Make the table on a GPU, some ten minutes; the arms run beside one another."""
    names = ["joint", "network first", *(f"random {i + 1}" for i in range(RANDOM))]
    work = [(name, seed, "cuda") for name in names for seed in seeds]
    rows, courses = zip(*Parallel(n_jobs=jobs)(delayed(arm)(*each) for each in work), strict=True)
    table, where = pd.DataFrame(rows), f"workbench record dna, on one {torch.cuda.get_device_name()}"
    save_table(NAME, table, where, seeds[0])
    save_table(f"{NAME}_course", pd.DataFrame([h for course in courses for h in course]), where, seeds[0])


def recorded() -> pd.DataFrame:
    """The recorded arms, and what they are worth by validation and by test, in points: ``val_worth``, ``worth``."""
    table = load_table(NAME)
    for column, part in (("val_worth", "val"), ("worth", "test")):
        table[column] = table[part] - OBJECTIVE.weight * np.log10(table["ms"])
    return table


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """By seed, ``worth`` of joint, network first, the random networks' mean, and the best of them on validation."""
    rivals = table[table["arm"].str.startswith("random")]
    best = rivals.loc[rivals.groupby("seed")["val_worth"].idxmax()]
    wide = table.pivot(index="seed", columns="arm", values="worth")[["joint", "network first"]]
    wide["random, mean"] = rivals.groupby("seed")["worth"].mean()
    wide["random, best of 4"] = best.set_index("seed")["worth"]
    return wide
