"""AdaDeep's printed counts, recomputed without training: AlexNet and LeNet, and what techniques save of a layer."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pandas as pd

from workbench.evidence import claims_from, equals, published
from workbench.papers.adadeep.techniques import CONV, Part, Shape, parts


def _dense(*widths: int) -> list[Part]:
    return [Part(a, b, bias=True) for a, b in pairwise(widths)]


ALEXNET = [
    Part(3, 96, 11, side=55, bias=True),
    Part(96, 256, 5, groups=2, side=27, bias=True),
    Part(256, 384, 3, side=13, bias=True),
    Part(384, 384, 3, groups=2, side=13, bias=True),
    Part(384, 256, 3, groups=2, side=13, bias=True),
    *_dense(9216, 4096, 4096, 1000),
]
"""Krizhevsky et al. (2012), with the two groups of its two GPUs."""
LENET = [Part(1, 6, 5, side=28, bias=True), Part(6, 16, 5, side=10, bias=True), *_dense(400, 120, 84, 10)]
"""LeNet-5 (LeCun et al. 1998), its second convolution dense."""
LENET_SPARSE = [LENET[0], replace(LENET[1], kept=60 / 96), *LENET[2:]]
"""As LeCun's table has it: that convolution's 16 filters see 60 of the 96 pairs of channels."""

NETWORKS = {"alexnet": {"": ALEXNET}, "lenet": {".dense": LENET, ".sparse": LENET_SPARSE}}


def counts(network: list[Part]) -> dict[str, int]:
    """Weights that are there, and MACs of them; biases left out, as in the paper's numbers."""
    return {"weights": sum(p.nonzero for p in network), "macs": sum(p.nonzero * p.side**2 for p in network)}


def table() -> pd.DataFrame:
    """Printed counts beside ours: columns id, published, analytic, error (relative), verified."""
    cells, rows = published("adadeep"), []
    for name, ways in NETWORKS.items():
        for ending, network in ways.items():
            for what, value in counts(network).items():
                printed = cells.loc[f"adadeep.{name}.{what}"]
                rows.append(
                    {
                        "id": f"adadeep.{name}.{what}{ending}",
                        "published": printed["value"],
                        "analytic": value,
                        "error": value / printed["value"] - 1,
                        "verified": bool(printed["verified"]),
                    }
                )
    return pd.DataFrame(rows)


def formulas(shape: Shape) -> pd.DataFrame:
    """What each technique leaves of a convolution: columns technique, weights, macs, kilobytes, saved (times fewer
    weights).
    """
    whole = parts("none", shape)[0].weights
    return pd.DataFrame(
        {
            "technique": technique,
            "weights": sum(p.nonzero for p in found),
            "macs": sum(p.nonzero * p.side**2 for p in found),
            "kilobytes": sum(p.stored_bits for p in found) / 8e3,
            "saved": whole / sum(p.nonzero for p in found),
        }
        for technique in CONV
        for found in [parts(technique, shape)]
    )


def rows(scale: str) -> list[dict[str, Any]]:
    """The ledger's analytic rows."""
    claims = claims_from(published("adadeep"), "analytic", equals())
    ways = {
        "": "",
        ".dense": ", second convolution dense",
        ".sparse": ", second convolution sparse as in LeCun's table",
    }
    found = []
    for cell in table().itertuples():
        ending = f".{cell.id.split('.')[3]}" if cell.id.count(".") == 3 else ""
        claim = claims[cell.id.removesuffix(ending)]
        found.append(replace(claim, id=cell.id, claim=claim.claim + ways[ending]).row(cell.analytic, scale))
    return found
