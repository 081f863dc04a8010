"""What a network costs: multiply-accumulates of a training step, and BitOps of a whole training.

A MAC is called a MAC: one multiplication with its addition (two FLOPs). Elementwise work (activations, LSTM gates,
additions of a shortcut) is not counted; elements that a normalisation touches stand in a column of their own.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from workbench import WorkbenchError

PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "addmm": 1, "baddbmm": 1, "addbmm": 1, "addmv": 1}
"""Matrix products of the dispatcher, and where their first factor stands; linear layers, LSTMs, attention and einsum
arrive as these."""
NORMS = {"native_batch_norm", "native_layer_norm", "native_group_norm"}
FREE = (nn.Embedding, nn.EmbeddingBag, nn.PReLU, nn.RMSNorm)
"""Layers whose parameters enter no product: a look-up, or one scale an element."""


class Operations(NamedTuple):
    """Scalar operations, of whatever bits.

    A layer that the dispatcher cannot see rightly (an adder, a shift) has a method
    ``operations(x, out) -> (forward, dX, dW)``, three of these for its input ``x`` and its output ``out`` of the whole
    batch: the recorder takes them and counts nothing inside.
    """

    multiplies: float = 0.0
    adds: float = 0.0
    shifts: float = 0.0
    comparisons: float = 0.0


class _Recorder(TorchDispatchMode):
    """Sums products by (innermost module, operation) while a model runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {module: name for name, module in model.named_modules()}
        self.counts: dict[tuple[str, str], Counter] = {}
        self.running: list[tuple[nn.Module, bool]] = []  # with: does an input of it need a gradient?
        self.ran: set[nn.Module] = set()
        for module in self.names:
            module.register_forward_pre_hook(self._enter, with_kwargs=True)
            module.register_forward_hook(self._leave)

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        self.running.append((module, any(t.requires_grad for t in tensors)))

    def _leave(self, module: nn.Module, *_: Any) -> None:
        self.running.pop()
        self.ran.add(module)

    def warn(self) -> None:
        """Of every layer that ran and has parameters, but no product."""
        counted = {layer for layer, _ in self.counts}
        for module, name in self.names.items():
            lists = [m for m in module.children() if isinstance(m, nn.ParameterList | nn.ParameterDict)]
            owns = any(True for m in (module, *lists) for _ in m.parameters(recurse=False))
            if owns and module in self.ran and name not in counted and not isinstance(module, FREE):
                warnings.warn(
                    f"{name or 'the network itself'} ({type(module).__name__}) has parameters but no product known "
                    "here: it counts as 0 MACs. Add its operation to workbench.cost if it multiplies",
                    stacklevel=3,
                )

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "convolution":  # x, weight [out, in / groups, ...], or [in, out / groups, ...] if transposed
            x, weight, transposed = args[0], args[1], args[6]
            self._add(name, (x if transposed else out).numel() * weight.shape[1:].numel(), x, weight)
        elif name in PRODUCTS:  # [..., n, k] times [..., k, m], or times a vector [k]
            a, b = args[PRODUCTS[name] :][:2]
            self._add(name, a.numel() * (b.shape[-1] if b.dim() > 1 else 1), a, b)
        elif name in NORMS:
            self._count(name)["normalised"] += args[0].numel()
        return out

    def _count(self, op: str) -> Counter:
        module = self.running[-1][0]
        return self.counts.setdefault((self.names[module], op), Counter())

    def _add(self, op: str, macs: int, a: Tensor, b: Tensor) -> None:
        needs = a.requires_grad, b.requires_grad
        if not torch.is_grad_enabled():  # inside an autograd.Function the operands do not know: its module does
            module, input_needs = self.running[-1]
            needs = input_needs, any(p.requires_grad for p in module.parameters())
        count = self._count(op)
        count["forward"] += macs
        count["dx"] += macs * needs[0]
        count["dw"] += macs * needs[1]


def count(model: nn.Module, *inputs: Tensor) -> pd.DataFrame:
    """MACs of one training step, by layer: forward ``Y = W X`` and backward ``dX = W G`` and ``dW = G X``.

    Nothing is computed: a copy of the model runs on the meta device, in the mode (training, evaluation) it is in.
    A gradient that nobody asks for costs nothing, so the first layer has no dX and a frozen one no dW. In a product of
    two activations (attention), dX and dW are the gradients of its first and its second factor.

    Returns:
        One row a layer and operation: ``layer`` (its name in the model), ``op``, ``forward``, ``dx``, ``dw`` in MACs
        of the whole batch, and ``normalised`` elements.

    Warns:
        UserWarning: a layer has parameters but no product known here.

    Raises:
        WorkbenchError: when the model cannot run on these inputs without data.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad():
            twin, inputs = copy.deepcopy(model).to("meta"), [x.to("meta") for x in inputs]
            with _Recorder(twin) as recorder:
                twin(*inputs)
    except (NotImplementedError, RuntimeError, ValueError, TypeError) as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        reason = str(error).splitlines()[0]
        raise WorkbenchError(f"{type(model).__name__} cannot be counted on inputs {shapes}: {reason}") from error
    recorder.warn()
    columns = ["forward", "dx", "dw", "normalised"]
    rows = [(*key, *(counted[c] for c in columns)) for key, counted in recorder.counts.items()]
    return pd.DataFrame(rows, columns=["layer", "op", *columns])


@dataclass(frozen=True)
class Macs:
    """MACs of the three products of a training step: ``Y = W X``, ``dX = W G``, ``dW = G X``."""

    forward: float
    dx: float
    dw: float

    def bitops(self, weight_bits: Any, input_bits: Any, error_bits: Any) -> Any:
        """MACs times the bits of both factors; bits may be numbers or arrays."""
        weights_inputs, weights_errors = weight_bits * input_bits, weight_bits * error_bits
        return self.forward * weights_inputs + self.dx * weights_errors + self.dw * (input_bits * error_bits)


def total(table: pd.DataFrame) -> Macs:
    """What a step needs: the sum of `count` over layers."""
    return Macs(*(float(table[column].sum()) for column in ("forward", "dx", "dw")))


def as_published(table: pd.DataFrame) -> Macs:
    """The same as CPT and FracTrain count it: three times ``M``, with M = forward + 2 normalised.

    Their counter adds two operations an element of batch normalisation (some 1 %), takes the same bits in every layer,
    and charges the first layer a dX that nobody computes. We infer that from their printed cells.
    """
    M = float(table["forward"].sum() + 2 * table["normalised"].sum())
    return Macs(M, M, M)


def training_bitops(macs: Macs, bits: npt.ArrayLike, error_bits: npt.ArrayLike, batch: int) -> float:
    """BitOps of a whole training.

    Args:
        macs: of one image.
        bits: of weights and activations, one number an iteration ``[iterations]``.
        error_bits: of the errors, likewise or one number for all.
        batch: images an iteration.
    """
    b, g = np.asarray(bits, float), np.asarray(error_bits, float)
    return float(batch * np.sum(macs.bitops(b, b, g)))
