"""The paper's own networks, counted at its own scale: ESRGAN, what its search can reach, CycleGAN, and a student.

One network, several "FLOPs": plain MACs; MACs with biases and activations (what ESRGAN's printed cost turns out to
be); and transposed convolutions as if every output pixel saw the whole kernel, four times their useful products. And
two "G": 1e9 for ESRGAN, 2^30 for CycleGAN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from workbench.evidence import CONTRADICTED, REPRODUCED, Claim, Interval, claims_from, equals, published


@dataclass(frozen=True)
class Conv:
    """A convolution with bias to ``pixels`` output pixels; ``acts``: an activation follows; ``up``: it is transposed
    with stride 2, so only a quarter of kernel and pixel pairs meet an input.
    """

    inputs: int
    outputs: int
    kernel: int
    pixels: int
    acts: bool = False
    up: bool = False
    groups: int = 1

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.inputs // self.groups * self.outputs * self.kernel**2 + self.outputs

    @property
    def window_macs(self) -> int:
        """Multiplications, were the whole kernel used for every output pixel."""
        return self.inputs // self.groups * self.outputs * self.kernel**2 * self.pixels

    @property
    def macs(self) -> float:
        """Useful multiplications."""
        return self.window_macs / (4 if self.up else 1)


def esrgan(side: int) -> Iterator[Conv]:
    """ESRGAN's generator x4 for an input of side x side: 23 blocks of three dense blocks of five convolutions."""
    small = side * side
    yield Conv(3, 64, 3, small)
    for _ in range(23 * 3):
        for k in range(4):
            yield Conv(64 + 32 * k, 32, 3, small, acts=True)
        yield Conv(64 + 32 * 4, 64, 3, small)
    yield from list(sr_skeleton(small))[1:]


def sr_skeleton(small: int) -> Iterator[Conv]:
    """What AGD does not search in super resolution: first, trunk, two enlargements, two more at full size."""
    yield Conv(3, 64, 3, small)
    yield Conv(64, 64, 3, small)
    for pixels in (4 * small, 16 * small, 16 * small):
        yield Conv(64, 64, 3, pixels, acts=True)
    yield Conv(64, 3, 3, 16 * small)


def cyclegan(side: int = 256, widths: tuple[int, ...] = (64, 128, 256, 128, 64)) -> Iterator[Conv]:
    """CycleGAN's generator: three stems, nine residual blocks at a quarter of the side, two up, a header."""
    full, half, quarter = (side**2 // 4**k for k in range(3))
    yield Conv(3, widths[0], 7, full, acts=True)
    yield Conv(widths[0], widths[1], 3, half, acts=True)
    yield Conv(widths[1], widths[2], 3, quarter, acts=True)
    for _ in range(9):
        yield Conv(widths[2], widths[2], 3, quarter, acts=True)
        yield Conv(widths[2], widths[2], 3, quarter)
    yield Conv(widths[2], widths[3], 3, half, acts=True, up=True)
    yield Conv(widths[3], widths[4], 3, full, acts=True, up=True)
    yield Conv(widths[4], 3, 7, full)


STUDENT = (("1x1", 128), ("1x1", 88), *(("depthwise", 88),) * 5, *(("residual", 88),) * 2)
"""The body of the zebra-to-horse student in the supplement."""


def student(stems: tuple[int, int, int], header: tuple[int, int], side: int = 256) -> Iterator[Conv]:
    """That student with given widths of stems and header.

    The supplement prints 88, 88, 88 and 256, 88. In the released code these are ratios times 256, cut off at 64, 128
    and 128 channels: so 24, 40, 88 and 128, 24. The widths taken literally cannot be built there.
    """
    full, half, quarter = (side**2 // 4**k for k in range(3))
    yield Conv(3, stems[0], 7, full)
    yield Conv(stems[0], stems[1], 3, half)
    yield Conv(stems[1], stems[2], 3, quarter)
    inputs = stems[2]
    for operator, width in STUDENT:
        if operator == "1x1":
            yield Conv(inputs, width, 1, quarter)
        elif operator == "residual":
            yield Conv(inputs, width, 3, quarter)
            yield Conv(width, width, 3, quarter)
        else:
            yield Conv(inputs, 4 * inputs, 1, quarter)
            yield Conv(4 * inputs, 4 * inputs, 3, quarter, groups=4 * inputs)
            yield Conv(4 * inputs, width, 1, quarter)
        inputs = width
    yield Conv(inputs, header[0], 3, half, up=True)
    yield Conv(header[0], header[1], 3, full, up=True)
    yield Conv(header[1], 3, 7, full)


def totals(convs: Iterator[Conv]) -> dict[str, float]:
    """Parameters, and operations in 1e9 by convention: useful MACs, those of whole windows, biases, activations."""
    layers = list(convs)
    outputs = [layer.outputs * layer.pixels for layer in layers]
    return {
        "parameters": sum(layer.parameters for layer in layers),
        "macs": sum(layer.macs for layer in layers) / 1e9,
        "window_macs": sum(layer.window_macs for layer in layers) / 1e9,
        "biases": sum(outputs) / 1e9,
        "activations": sum(n for n, layer in zip(outputs, layers, strict=True) if layer.acts) / 1e9,
    }


def conventions() -> pd.DataFrame:
    """One row a network, one column a way to count."""
    networks = {
        "ESRGAN": esrgan(256),
        "skeleton of AGD's super resolution": sr_skeleton(256**2),
        "CycleGAN": cyclegan(),
        "student, widths as printed": student((88, 88, 88), (256, 88)),
        "student, widths read as ratios of 256": student((24, 40, 88), (128, 24)),
    }
    table = pd.DataFrame([{"network": name, **totals(convs)} for name, convs in networks.items()])
    table["mac_bias_act"] = table["window_macs"] + table["biases"] + table["activations"]
    table["flops"] = 2 * table["macs"]
    return table.assign(megabytes=table["parameters"] * 4 / 1e6, mebibytes=table["parameters"] * 4 / 2**20)


PRINTED_STUDENT = 108.06
"""G, AGD's super-resolution student at 256x256 (table of super resolution; from memory)."""


def recomputed() -> Mapping[str, float]:
    """Our value of every published cell that can be recomputed, by its id in data/published/agd.csv."""
    cells = conventions().set_index("network")
    return {
        "agd.esrgan.cost": cells.loc["ESRGAN", "mac_bias_act"],
        "agd.esrgan.size": cells.loc["ESRGAN", "megabytes"],
        "agd.cyclegan.cost": cells.loc["CycleGAN", "window_macs"] * 1e9 / 2**30,
        "agd.cyclegan.size": cells.loc["CycleGAN", "mebibytes"],
        "agd.zebra2horse.cost": cells.loc["student, widths read as ratios of 256", "window_macs"],
    }


def mostly(found: Interval, _: float | None) -> str:
    """A share in per cent, by which side of a half it lies on."""
    return REPRODUCED if found.mean > 50 else CONTRADICTED


def rows(scale: str) -> list[dict[str, Any]]:
    """Ledger rows of the published cells; what needs the paper's data, or a design that is not printed, cannot be
    tested here.
    """
    table, ours = published("agd"), recomputed()
    claims = claims_from(table, "analytic", equals())
    skeleton = conventions().set_index("network").loc["skeleton of AGD's super resolution", "macs"]
    share = Claim(
        "agd.sr_student.not_searched", "Most of the printed super-resolution student's cost is skeleton, which the "
        "search cannot reach", "analytic", "%", mostly, None, "this workbench; the student's cost from memory", False,
    )  # fmt: skip
    found = [claim.row(float(ours[key]) if key in ours else None, scale) for key, claim in claims.items()]
    return [*found, share.row(100 * skeleton / PRINTED_STUDENT, scale)]
