"""What hardware makes of a network: energy by level of the memory, cycles, utilisation.

Unit energies stand in data/published/unit_energies.csv, each with where it was read and whether it was read there at
all. Memory energies are per bit there, because tables mix words of 32 and of 64 bits.
"""

from __future__ import annotations

from functools import cache

import pandas as pd

from workbench import ROOT, WorkbenchError


@cache
def unit_energies() -> pd.DataFrame:
    """The table of unit energies: pJ an operation, and for ``sram`` and ``dram`` pJ a bit.

    Columns: platform, op and format (the index), pj, node_nm, access_bits, capacity_kb, source, verified, note.
    """
    table = pd.read_csv(ROOT / "data" / "published" / "unit_energies.csv", index_col=["platform", "op", "format"])
    return table.astype({"verified": bool}).sort_index()


def unit_energy(op: str, format: str, platform: str = "asic45") -> float:
    """Energy of one operation in pJ (of one bit moved, for ``sram`` and ``dram``).

    Args:
        op: ``multiply``, ``add``, ``shift``; ``sram``, ``dram``.
        format: ``FP32``, ``FIX32``, ``FIX16``, ``FIX8``; of a memory, which one.
        platform: ``asic45`` (45 nm), ``fpga_zc706``, ``smartexchange28``.

    Raises:
        WorkbenchError: no such entry; it names those that there are.
    """
    table = unit_energies()
    if (platform, op, format) not in table.index:
        known = ", ".join(" ".join(key) for key in table.index)
        raise WorkbenchError(f"no energy of {platform} {op} {format}: choose from {known}")
    return float(table.loc[(platform, op, format), "pj"])
