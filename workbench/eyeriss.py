"""The hardware model on a chip that was measured: Eyeriss (Chen et al., JSSC 2017), AlexNet's convolutions, batch 4.

The paper prints how each layer was cut (Table III: m filters, n images and e output rows a tile of the buffer; q of
r q channels and p of t p filters in a PE) and what the chip did (Table V). From the cut alone the loop nest derives
active PEs, buffer and DRAM traffic and time.

The two tables disagree on CONV3: the cut that Table III prints gives 69.2 MB of buffer traffic, Table V prints 50.2.
With the cut of CONV4 the model gives 50.178. Which of the two is right cannot be said from here.

What the published buffer figures count is not said. Counted here: inputs as the array reads them; partial sums written
and read at each visit, the last read on their way to DRAM; not inputs on their way in. Weights pass the buffer by.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from workbench import check_number
from workbench.accelerator import evaluate, eyeriss
from workbench.dataflow import Layer, Mapping, traffic
from workbench.evidence import CONTRADICTED, NOT_TESTABLE, REPRODUCED, Rule, claims_from, equals, published

ALEXNET = {
    "conv1": Layer("conv1", N=4, K=96, C=3, Y=55, X=55, R=11, S=11, stride=4),
    "conv2": Layer("conv2", N=4, G=2, K=128, C=48, Y=27, X=27, R=5, S=5),
    "conv3": Layer("conv3", N=4, K=384, C=256, Y=13, X=13, R=3, S=3),
    "conv4": Layer("conv4", N=4, G=2, K=192, C=192, Y=13, X=13, R=3, S=3),
    "conv5": Layer("conv5", N=4, G=2, K=128, C=192, Y=13, X=13, R=3, S=3),
}
RULES: dict[str, Rule] = {
    "gmac": equals(0.005),
    "active_pes": equals(0, 0.05),
    "glb_mb": equals(0.01, 0.1),
    "dram_mb": equals(0.15, 0.3),
    "processing_ms": equals(0.2, 0.4),
    "dram_per_mac": equals(0.15, 0.3),
}
"""How far the model may be off. DRAM depends on run-length coding of outputs whose zeros are not printed; of the time,
loading and control are not modelled."""


def row_stationary(layer: Layer, m: float, n: float, e: float, p: float, q: float, r: float, t: float) -> Mapping:
    """The loop nest of Table III's parameters: kernel rows, e output rows, r channels and t filters side by side."""
    for size, value in zip("mneprqt", (m, n, e, p, r, q, t), strict=True):
        check_number(size, value, 1, whole=True)
    tile = {"G": 1, "K": m, "N": n, "Y": e, "C": q * r}
    spatial = {"R": layer.R, "Y": e, "C": r, "K": t}
    return Mapping("GKNYC", "KN", tile, spatial, {"K": p}, streamed=("inputs",), bypass=("weights",))


def table() -> pd.DataFrame:
    """Model beside paper: columns id, layer, measure, published, model, error (relative).

    CONV3 stands there twice: with q, r, t = 4, 1, 4, as Table III prints, and as ``conv3 (q3 r2 t2)`` with the cut of
    its neighbours.
    """
    cells, rows = published("eyeriss")["value"], []
    names, dram_words, macs = list(ALEXNET), 0.0, 0.0
    for place, (name, layer) in enumerate(ALEXNET.items()):
        key = f"hardware.eyeriss.{name}"
        zeros = [cells[f"hardware.eyeriss.{names[at]}.input_zeros"] / 100 for at in (place, min(place + 1, 4))]
        layer = replace(
            layer, weight_bits=16, input_bits=16, output_bits=16, input_zeros=zeros[0], output_zeros=zeros[1]
        )
        cuts = {name: {k: cells[f"{key}.{k}"] for k in "mnepqrt"}}
        if name == "conv3":
            cuts["conv3 (q3 r2 t2)"] = cuts[name] | {"q": 3, "r": 2, "t": 2}
        for cut, sizes in cuts.items():
            nest, chip = row_stationary(layer, **sizes), eyeriss()
            moved, cost = traffic(layer, nest), evaluate(layer, nest, chip)
            dram = sum(float(pj) for (level, _), pj in cost.pj.items() if level == "DRAM") / chip.dram / 8
            found = {
                "gmac": layer.macs / layer.N / 1e9,
                "active_pes": moved.active,
                "glb_mb": 2 * (moved.buffer["inputs"] + 2 * moved.buffer["outputs"]) / 1e6,
                "dram_mb": dram / 1e6,
                "processing_ms": cost.cycles / chip.megahertz / 1e3,
            }
            rows += [(f"{key}.{k}", cut, k, cells[f"{key}.{k}"], float(v)) for k, v in found.items()]
            if cut == name:
                dram_words, macs = dram_words + dram / 2, macs + layer.macs
    key = "hardware.eyeriss.alexnet.dram_per_mac"
    rows.append((key, "all", "dram_per_mac", cells[key], dram_words / macs))
    found = pd.DataFrame(rows, columns=["id", "layer", "measure", "published", "model"])
    return found.assign(error=found["model"] / found["published"] - 1)


def ledger_rows(scale: str) -> list[dict[str, Any]]:
    """One analytic row a printed figure, made by SmartDeal's notebook; CONV3's with the cut of Table III.

    A figure that the layer's own cut misses and its neighbour's meets says that two printed tables disagree, and
    nothing of the model: it is not testable here.
    """
    claims = claims_from(published("eyeriss"), "analytic", equals())
    rows: dict[str, dict[str, Any]] = {}
    for cell in table().itertuples():
        claim = replace(claims[cell.id], rule=RULES[cell.measure], paper="smartdeal")
        row = rows.setdefault(cell.id, claim.row(cell.model, scale))
        if row["verdict"] == CONTRADICTED and claim.row(cell.model, scale)["verdict"] == REPRODUCED:
            text = f"{row['claim']}: Tables III and V disagree, the cut of CONV4 gives {cell.model:.3f}"
            row |= {"claim": text, "verdict": NOT_TESTABLE}
    return list(rows.values())
