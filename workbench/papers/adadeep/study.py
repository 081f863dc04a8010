"""The recorded designs under a demand: which is best, which would have been best with one technique, and does it last?

Designs are chosen by the mean validation accuracy of the *other* seeds, and reported by the test accuracy on the seed
that was left out: other images, another network. So no choice profits from the noise it was chosen by. Only a search
works on one seed's validation, as it would have to; it is judged by the best of that same table.
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
    "camera": Demand(5.0, latency=0.8, storage=1.0, energy=0.2, platform="tx2"),
    "sensor": Demand(6.0, latency=1.0, storage=0.1, energy=0.3, platform="stm32f7"),
    "wearable": Demand(6.0, latency=1.0, storage=1.0, energy=0.9, platform="eyeriss"),
    "clinic": Demand(1.0, latency=1.0, storage=1.0, energy=0.1, platform="nano"),
    "drone": Demand(5.0, latency=0.15, storage=0.5, energy=0.5, platform="sparse"),
}
"""Five users: hurried, cramped, thrifty, careful, and one with a bit of each. They were chosen on the pilot seed, so
that each can be served, and not by everything."""
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

    @cached_property
    def others(self) -> Tensor:
        """Mean validation accuracy of all seeds but one ``[S, D]``."""
        return (self.val.sum(0) - self.val) / (len(self.seeds) - 1)

    def terms(self, demand: Demand, part: str) -> Terms:
        """Of all designs by ``val``, ``others`` or ``test``, against the uncompressed network's ``[S, D]``."""
        accuracy, spread = getattr(self, part), self.costs(demand.platform)
        return method.terms(demand, accuracy, accuracy[:, [NONE]], spread, spread[NONE])

    def rewards(self, demand: Demand, part: str) -> Tensor:
        """What a search is given (``val``), what chooses (``others``), what is left of it (``test``): ``[S, D]``."""
        return method.reward(demand, self.terms(demand, part))

    def rescored(self, demand: Demand, chosen: Tensor) -> Tensor:
        """Utility by test accuracy ``[S]`` of designs ``[S]``, one a seed; beyond a budget, minus what is missing.

        Accuracy below the floor counts as it falls, without a jump: budgets are known beforehand, accuracy is not.
        """
        of = self.terms(demand, "test")
        over = of.latency_slack.clamp(-1, 0) + of.storage_slack.clamp(-1, 0)
        value = torch.where(over < 0, over, method.utility(demand, of))
        return value.gather(1, chosen[:, None])[:, 0]

    def gain(self, chosen: Tensor) -> Tensor:
        """Points of test accuracy above the uncompressed network ``[S]``, of designs ``[S]``, one a seed."""
        return (self.test - self.test[:, [NONE]]).gather(1, chosen[:, None])[:, 0]


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
    """Of a family's designs that lose at most ``loss`` points by the other seeds, the cheapest: numbers ``[S]``."""
    cost = study.costs(key)[family, resource].expand(len(study.seeds), -1)
    allowed = study.others[:, family] >= study.others[:, [NONE]] - loss
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
