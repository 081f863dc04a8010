"""What a design costs on a platform: storage, latency by a roofline, energy by three coefficients.

Weights come from DRAM once an inference, activations stay on the chip where a part's inputs and outputs fit, so

- latency, summed over parts: ``max(MACs / rate, DRAM bytes / bandwidth)`` and a fixed time to start a part;
- energy, summed over parts: ``e1 MACs + e2 bytes on the chip + e3 bytes of DRAM``, the paper's three terms.

Platforms stand in data/published/adadeep_platforms.csv with the source of their numbers; those that are ours are called
synthetic there. ``verified``: peak and bandwidth were read in the source. e1 is the power over the peak rate where no
energy is known. Memories have one law for all platforms: Horowitz's DRAM, and an SRAM of the platform's capacity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench import ROOT, WorkbenchError
from workbench.accelerator import sram_energy, unit_energy
from workbench.papers.adadeep.techniques import Design, Part, Shape, design_parts

RESOURCES = ("latency", "energy", "storage")
"""In microseconds, microjoules, kilobytes (1000 bytes)."""
DRAM_PJ = 8 * unit_energy("dram", "low")
"""pJ a byte."""


@dataclass(frozen=True)
class Platform:
    """A device.

    ``rate`` in MACs a second and ``pj`` a MAC, by the bits of the weights (32, 8, 4); ``bandwidth`` of DRAM in bytes a
    second; ``cache`` in bytes; ``overhead`` in microseconds to start a part; ``zeros_energy``, ``zeros_time``: products
    with a weight of zero are skipped and save energy, or time.
    """

    key: str
    name: str
    rate: dict[int, float]
    pj: dict[int, float]
    bandwidth: float
    cache: float
    zeros_energy: bool
    zeros_time: bool
    overhead: float

    @property
    def cache_pj(self) -> float:
        """pJ a byte of the memory on the chip."""
        return 8 * sram_energy(self.cache / 1024)


def table() -> pd.DataFrame:
    """Platforms with sources, as committed."""
    return pd.read_csv(ROOT / "data" / "published" / "adadeep_platforms.csv", index_col="key")


@cache
def platforms() -> dict[str, Platform]:
    """All platforms by key."""
    found = {}
    for row in table().reset_index().to_dict("records"):
        rate = {bits: 1e9 * row[f"gmacs{bits}"] for bits in (32, 8, 4)}
        known = {bits: row[f"pj{bits}"] for bits in rate}
        pj = {b: 1e12 * row["watts"] / rate[b] if np.isnan(known[b]) else known[b] for b in rate}
        found[row["key"]] = Platform(
            row["key"], row["name"], rate, pj, 1e9 * row["gb_s"], 1024 * row["cache_kb"],
            row["zeros_energy"], row["zeros_time"], row["overhead_us"],
        )  # fmt: skip
    return found


def platform(key: str) -> Platform:
    """By key. `WorkbenchError` names those that there are."""
    if key not in platforms():
        raise WorkbenchError(f"no platform {key!r}: choose from {', '.join(platforms())}")
    return platforms()[key]


def part_cost(part: Part, on: Platform) -> tuple[float, float, float]:
    """Latency (us), energy (uJ), storage (kB) of one part on a platform, for one image.

    Inputs of a part with rounded weights have 8 bits, as in its forward pass; outputs and all else 32.
    """
    weights = part.stored_bits / 8
    pixels = part.side**2
    moved = pixels * (part.inputs * (1 if part.bits < 32 else 4) + 4 * part.outputs)
    dram = weights if moved <= on.cache else weights + moved
    work = part.macs * part.nonzero / part.weights
    timed, spent = (work if on.zeros_time else part.macs), (work if on.zeros_energy else part.macs)
    seconds = max(timed / on.rate[part.bits], dram / on.bandwidth)
    pj = on.pj[part.bits] * spent + on.cache_pj * moved + DRAM_PJ * dram
    return 1e6 * seconds + on.overhead, pj / 1e6, weights / 1e3


def layer_costs(layers: Sequence[Shape], spaces: Sequence[Sequence[str]], on: Platform) -> list[NDArray]:
    """Costs of each choice: one array ``[techniques, 3]`` for each layer that may be compressed, and what is fixed
    ``[1, 3]`` at the end. What ``gap`` does to the last layer is charged to it.
    """

    def total(design: Design) -> NDArray:
        return np.array([part_cost(p, on) for layer in design_parts(layers, design) for p in layer]).sum(0)

    plain = total(("none",) * len(spaces))
    found = []
    for at, techniques in enumerate(spaces):
        rows = []
        for technique in techniques:
            design = ["none"] * len(spaces)
            design[at] = technique
            rows.append(total(tuple(design)) - plain)
        found.append(np.array(rows))
    return [*found, plain[None]]


def costs(layers: Sequence[Shape], designs: Sequence[Design], spaces: Sequence[Sequence[str]], on: Platform) -> NDArray:
    """Latency, energy and storage of designs ``[n, 3]``: all three are sums over layers."""
    *choices, plain = layer_costs(layers, spaces, on)
    chosen = [
        rows[[techniques.index(design[at]) for design in designs]]
        for at, (rows, techniques) in enumerate(zip(choices, spaces, strict=True))
    ]
    return plain + sum(chosen)
