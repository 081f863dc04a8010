"""What a decomposed network weighs, in bits that are really written: codes, mask and bases packed to bytes and back.

The papers' formula: ``w nnz(Ce) + 1 numel(Ce) + 8 numel(B)`` bits, with w = 1 (sign) + the bits that tell the
exponents of the whole network apart. A file needs a head besides: which exponents there are, and the step of each
layer's bases.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, log2

import numpy as np
import torch
from torch import Tensor

from workbench import WorkbenchError
from workbench.papers.smartdeal.decompose import BASIS, Decomposition, basis_step, block_shape

OFFSET = 128
"""Exponents are stored as bytes, this much larger."""


class BitWriter:
    """Unsigned integers of any width, one after the other."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []

    def write(self, values: Tensor | Iterable[int], width: int) -> None:
        """Append each of ``values`` in ``width`` bits, the highest first."""
        values = values.numpy() if isinstance(values, Tensor) else np.fromiter(values, np.int64)
        self.parts.append((values.reshape(-1, 1) >> np.arange(width - 1, -1, -1) & 1).astype(np.uint8).ravel())

    @property
    def bits(self) -> int:
        """Written so far."""
        return sum(len(part) for part in self.parts)

    def bytes(self) -> bytes:
        """All of it, the last byte filled with zeros."""
        return np.packbits(np.concatenate([*self.parts, np.zeros(0, np.uint8)])).tobytes()


class BitReader:
    """Reads what a `BitWriter` wrote."""

    def __init__(self, packed: bytes) -> None:
        self.bits, self.at = np.unpackbits(np.frombuffer(packed, np.uint8)), 0

    def read(self, count: int, width: int) -> Tensor:
        """The next ``count`` integers of ``width`` bits; `WorkbenchError` where they are not there."""
        end = self.at + count * width
        if end > len(self.bits):
            raise WorkbenchError(f"the packed weights end after {len(self.bits) // 8} bytes: the file is cut off")
        part = self.bits[self.at : end].astype(np.int64).reshape(count, width)
        self.at = end
        return torch.from_numpy(part @ (1 << np.arange(width - 1, -1, -1)))


def exponents(layers: Sequence[Decomposition]) -> list[int]:
    """The k of all coefficients ``+-2^k`` of a network, ascending."""
    found = torch.cat([layer.coefficients[layer.coefficients != 0] for layer in layers])
    return (torch.frexp(found).exponent - 1).unique().tolist()


def code_width(distinct: int) -> int:
    """Bits of a nonzero coefficient: its sign, and which of so many exponents."""
    return 1 + ceil(log2(max(distinct, 1)))


def formula(nonzero: int, coefficients: int, basis: int, width: int, basis_bits: int = 8) -> int:
    """The papers' bits: codes of the nonzero coefficients, one mask bit a coefficient, the bases."""
    return width * nonzero + coefficients + basis_bits * basis


def stored_bits(layers: Sequence[Decomposition]) -> int:
    """Bits of `pack`, before the last byte is filled: the formula and the head."""
    distinct = len(exponents(layers))
    counts = (
        sum(int(layer.coefficients.count_nonzero()) for layer in layers),
        sum(layer.coefficients.numel() for layer in layers),
        sum(layer.basis.numel() for layer in layers),
    )
    return formula(*counts, code_width(distinct)) + 8 * (1 + distinct + len(layers))


def pack(layers: Sequence[Decomposition]) -> bytes:
    """A network's decompositions as bytes.

    Raises:
        WorkbenchError: a coefficient is no power of two, or a basis has no 8-bit entries (see `eight_bits`).
    """
    known, out = exponents(layers), BitWriter()
    width = code_width(len(known)) - 1
    out.write([len(known)], 8)
    out.write([k + OFFSET for k in known], 8)
    for layer in layers:
        present = layer.coefficients != 0
        mantissa, exponent = torch.frexp(layer.coefficients[present])
        step = basis_step(layer.basis)
        integers = layer.basis / 2.0**step
        if not (mantissa.abs() == 0.5).all() or not torch.equal(integers, integers.round()):
            raise WorkbenchError("only powers of two times an 8-bit basis are packed: decompose the layer first")
        out.write([step + OFFSET], 8)
        out.write(present.long(), 1)
        out.write((mantissa < 0).long(), 1)
        out.write(torch.searchsorted(torch.tensor(known), exponent.long() - 1), width)
        out.write(integers.long() + 127, 8)
    return out.bytes()


def unpack(packed: bytes, shapes: Sequence[tuple[int, ...]]) -> list[Decomposition]:
    """The decompositions of layers of these shapes, bit for bit, in float32."""
    reader = BitReader(packed)
    known = reader.read(int(reader.read(1, 8)), 8) - OFFSET
    width, layers = code_width(len(known)) - 1, []
    for shape in shapes:
        blocks, height, _ = block_shape(shape)
        M = shape[0] * blocks
        step = int(reader.read(1, 8)) - OFFSET
        present = reader.read(M * height * BASIS, 1).bool().view(M, height, BASIS)
        count = int(present.sum())
        negative = reader.read(count, 1).bool()
        size = 2.0 ** known[reader.read(count, width)].float() if count else torch.zeros(0)
        coefficients = torch.zeros(present.shape)
        coefficients[present] = torch.where(negative, -size, size)
        basis = (reader.read(M * BASIS**2, 8) - 127).float().view(M, BASIS, BASIS) * 2.0**step
        layers.append(Decomposition(coefficients, basis, tuple(shape)))
    return layers
