"""The recorded designs under a demand: which is best, which would have been best with one technique, and does it last?

Designs are chosen by the validation accuracy of one seed. What is reported of a choice is the test accuracy of the same
design on the *next* seed: other images, another network. So no choice profits from the noise it was chosen by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch
from torch import Tensor

from workbench import WorkbenchError
from workbench.papers.adadeep import method, techniques
from workbench.papers.adadeep.measure import DESIGNS, SPACES
from workbench.papers.adadeep.method import Demand, Terms
from workbench.papers.adadeep.platforms import costs, layer_costs, platform
from workbench.papers.adadeep.techniques import Design, Net

PERSONAS = {
    "camera": Demand(2.0, latency=0.4, storage=1.0, energy=0.2, platform="pi3"),
    "sensor": Demand(4.0, latency=1.0, storage=0.1, energy=0.3, platform="stm32f7"),
    "wearable": Demand(2.0, latency=1.0, storage=0.5, energy=0.9, platform="generic45"),
    "clinic": Demand(0.5, latency=1.0, storage=1.0, energy=0.1, platform="tx2"),
    "robot": Demand(1.0, latency=0.6, storage=0.3, energy=0.5, platform="phone_cpu"),
}
"""Five users, fixed before any reported design was measured: hurried, cramped, thrifty, careful, and a bit of each."""
LAYERS = techniques.shapes(Net())
NONE = DESIGNS.index(("none",) * len(SPACES))


@dataclass(frozen=True)
class Study:
    """Accuracies of all designs, ``[S, D]`` in the order of ``seeds`` and `DESIGNS`."""

    seeds: Sequence[int]
    val: Tensor
    test: Tensor

    @classmethod
    def of(cls, table: pd.DataFrame, seeds: Sequence[int]) -> Study:
        """Of the recorded table. `WorkbenchError` where it lacks a seed or a design."""
        order = pd.MultiIndex.from_product([seeds, *SPACES], names=["seed", "conv2", "conv3", "fc"])
        indexed = table.set_index(order.names)
        if not order.isin(indexed.index).all():
            known = sorted(table["seed"].unique())
            raise WorkbenchError(f"seeds {list(seeds)} are not all recorded: there are {known}")
        found = indexed.loc[order]
        return cls(list(seeds), *(torch.tensor(found[c].to_numpy()).view(len(seeds), -1) for c in ("val", "test")))

    @cached_property
    def spreads(self) -> dict[str, Tensor]:
        """Latency, energy, storage of all designs by platform, ``[D, 3]``; filled as they are asked for."""
        return {}

    def costs(self, key: str) -> Tensor:
        """Of a platform."""
        if key not in self.spreads:
            self.spreads[key] = torch.tensor(costs(LAYERS, DESIGNS, SPACES, platform(key)))
        return self.spreads[key]

    def terms(self, demand: Demand, part: str = "val") -> Terms:
        """Of all designs, each seed's accuracies against its own uncompressed network ``[S, D]``."""
        accuracy, spread = getattr(self, part), self.costs(demand.platform)
        return method.terms(demand, accuracy, accuracy[:, [NONE]], spread, spread[NONE])

    def rewards(self, demand: Demand) -> Tensor:
        """What a search is given: by validation ``[S, D]``."""
        return method.reward(demand, self.terms(demand))

    def rescored(self, demand: Demand, chosen: Tensor) -> Tensor:
        """Utility of designs ``[S]``, each chosen on a seed, by the test accuracy on the next seed ``[S]``."""
        value = method.utility(demand, self.terms(demand, "test")).roll(-1, 0)
        return value.gather(1, chosen[:, None])[:, 0]

    def lasting(self, chosen: Tensor) -> Tensor:
        """Points of test accuracy above the uncompressed network on the next seed ``[S]``, of designs ``[S]``."""
        gain = (self.test - self.test[:, [NONE]]).roll(-1, 0)
        return gain.gather(1, chosen[:, None])[:, 0]


# --- families of designs -----------------------------------------------------------------------------------------


def used(design: Design) -> set[str]:
    """Its techniques."""
    return set(design) - {"none"}


def everywhere(technique: str) -> Design:
    """One technique in every layer that can have it, none elsewhere."""
    return tuple(technique if technique in space else "none" for space in SPACES)


SINGLE = torch.tensor([DESIGNS.index(everywhere(t)) for t in dict.fromkeys(t for space in SPACES for t in space)])
"""Designs with one technique everywhere (and the one with none)."""
SUBSET = torch.tensor([at for at, design in enumerate(DESIGNS) if len(used(design)) <= 1])
"""Designs with one technique, in whichever layers."""
ALL = torch.arange(len(DESIGNS))
FAMILIES = {"mix": ALL, "one, chosen layers": SUBSET, "one, everywhere": SINGLE}


def best(values: Tensor, family: Tensor) -> Tensor:
    """The best design of a family, by values ``[S, D]``: numbers ``[S]``."""
    return family[values[:, family].argmax(1)]


def smallest(study: Study, resource: int, key: str, family: Tensor, loss: float) -> Tensor:
    """Of a family's designs that lose at most ``loss`` points in validation, the cheapest: numbers ``[S]``."""
    cost = study.costs(key)[family, resource].expand(len(study.seeds), -1)
    allowed = study.val[:, family] >= study.val[:, [NONE]] - loss
    return family[cost.where(allowed, torch.inf).argmin(1)]


# --- what the agents walk through --------------------------------------------------------------------------------


def walk(rewards: Tensor, demands: Sequence[Demand]) -> method.Walk:
    """K problems for `method.q_learning`: rewards ``[K, D]``, each with its demand."""
    middle = [*LAYERS[1 : len(SPACES)], LAYERS[-2]]
    whole = sum(s.kernel**2 * s.inputs * s.outputs for s in LAYERS)
    features = torch.tensor(
        [
            [at / len(SPACES), s.kernel / 3, s.inputs / 256, s.outputs / 128, s.side / 8,
             s.kernel**2 * s.inputs * s.outputs / whole]
            for at, s in enumerate(middle)
        ]
    )  # fmt: skip
    shares: list[list[Tensor]] = [[] for _ in SPACES]
    left = []
    for demand in demands:
        *choices, plain = layer_costs(LAYERS, SPACES, platform(demand.platform))
        for at, delta in enumerate(choices):
            shares[at].append(torch.tensor(delta / plain, dtype=torch.float32))
        left.append(torch.tensor([demand.latency - 1, 0.0, demand.storage - 1]))
    return method.Walk(
        [s.kind for s in middle], [len(space) for space in SPACES], features, [torch.stack(s) for s in shares],
        torch.stack(left), rewards.float(),
    )  # fmt: skip
