"""What a network costs: operations of a training step layer by layer, and BitOps of a whole training.

A MAC is called a MAC: one multiplication with its addition (two FLOPs). Products (convolutions, matrix products, sparse
or not, message passing) are MACs of the columns ``forward``, ``dx`` and ``dw``; the scalar operations of everything,
products and elementwise work alike, stand in columns of their own:

- additions and subtractions, and the terms of a sum, a mean or an average pooling but the first: one addition each;
- ReLU, clamp, maximum and max pooling: one comparison for each element that is compared;
- other functions of an element: one multiplication. For a division that is about right; for exp, tanh and their like it
  is the least that an evaluation by table and interpolation takes;
- softmax: 2 multiplications, 2 additions, 1 comparison an element;
- normalisation: 1 multiplication, 1 addition an element, and for the statistics of the batch 1 and 2 more;
- a change of sign, rounding, selection, copies and views: nothing. Integers are bookkeeping, and nothing either.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from workbench import WorkbenchError, check_number

PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "addmm": 1, "baddbmm": 1, "addbmm": 1, "addmv": 1, "_sparse_addmm": 1}
"""Matrix products of the dispatcher, and where their first factor stands; linear layers, LSTMs, attention and einsum
arrive as these."""
MESSAGES = {"scatter_add", "scatter_reduce", "index_add", "index_reduce"}
"""Message passing: rows that were gathered are summed (or compared) where an index says."""
NORMS = {"native_batch_norm", "native_layer_norm", "native_group_norm"}
FREE = (nn.Embedding, nn.EmbeddingBag, nn.PReLU, nn.RMSNorm)
"""Layers whose parameters enter no product: a look-up, or one scale an element."""

ADDITIONS = {"add", "sub", "rsub", "cumsum"}
COMPARISONS = {"relu", "threshold", "hardtanh", "clamp", "clamp_min", "clamp_max", "maximum", "minimum"}
COMPARISONS |= {"eq", "ne", "gt", "ge", "lt", "le", "amax", "amin", "max", "min", "argmax", "argmin"}
SOFTMAXES = {"_softmax", "_log_softmax", "_safe_softmax"}
MULTIPLICATIONS = {"_prelu_kernel", "native_dropout"}  # those that torch does not tag as pointwise
NOTHING = {
    "abs", "neg", "sign", "sgn", "positive", "round", "floor", "ceil", "trunc", "where", "masked_fill", "isnan",
    "isinf", "any", "all", "logical_not", "logical_and", "logical_or", "bitwise_not", "bitwise_and", "bitwise_or",
    "copy", "clone", "cat", "stack", "repeat", "flip", "roll", "resize", "_unsafe_view", "_to_copy",
    "_local_scalar_dense", "index", "index_select", "index_put", "gather", "scatter", "embedding", "nonzero",
    "tril", "triu", "im2col", "constant_pad_nd", "reflection_pad2d", "replication_pad2d", "upsample_nearest2d",
    "pixel_shuffle", "fill", "zero", "normal", "uniform", "bernoulli", "_to_dense", "_to_sparse", "_to_sparse_csr",
}  # fmt: skip
LOUD = 1000
"""Elements from which on an operation that is not known here is a warning."""


class Operations(NamedTuple):
    """Scalar operations, of whatever bits.

    A layer that the dispatcher cannot see rightly (an adder, a shift) has a method
    ``operations(x, out) -> (forward, dX, dW)``, three of these for its input ``x`` and its output ``out`` of the whole
    batch: the recorder takes them and counts nothing inside. `hardware` takes the shape of its kernel from its first
    parameter, ``[out, in / groups, rows, columns]`` or ``[out, in]``, and its stride from ``stride``.
    """

    multiplies: float = 0.0
    adds: float = 0.0
    shifts: float = 0.0
    comparisons: float = 0.0

    def times(self, factor: float) -> Self:
        """Each of them so many times."""
        return type(self)(*(factor * n for n in self))

    @property
    def macs(self) -> float:
        """Multiplications that have an addition."""
        return min(self.multiplies, self.adds)


class Event(NamedTuple):
    """What one call of an operation, or of a layer that counts itself, does."""

    layer: str
    op: str
    work: tuple[Operations, Operations, Operations]  # forward, dX, dW
    elements: tuple[int, int, int]  # of weights, inputs and outputs; of a sparse factor its non-zeros
    shapes: tuple[tuple[int, ...], ...] = ()  # of a product's input, weight and output
    options: tuple[Any, ...] = ()  # of a convolution: stride, transposed; of a sparse product: its order, non-zeros
    normalised: int = 0

    @property
    def product(self) -> bool:
        """Does it combine two factors, as a network's layers do, or is it elementwise?"""
        return bool(self.shapes)


class _Recorder(TorchDispatchMode):
    """Notes every operation, and the innermost module that runs it, while a model runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {module: name for name, module in model.named_modules()}
        self.events: list[Event] = []
        self.unknown: dict[str, None] = {}
        self.message: tuple[Tensor | None, tuple, int] = (None, (), 0)  # see _messages
        self.running: list[tuple[nn.Module, bool]] = []  # with: does an input of it need a gradient?
        self.inside = 0  # how many layers deep that count themselves
        self.ran: set[nn.Module] = set()
        self.hooks = [m.register_forward_pre_hook(self._enter, with_kwargs=True) for m in self.names]
        self.hooks += [m.register_forward_hook(self._leave) for m in self.names]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self.hooks:
            hook.remove()

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        self.running.append((module, any(t.requires_grad for t in tensors)))
        self.inside += hasattr(module, "operations")

    def _leave(self, module: nn.Module, args: tuple, out: Any) -> None:
        self.ran.add(module)
        if hasattr(module, "operations"):
            self.inside -= 1
            if not self.inside:
                forward, dx, dw = module.operations(args[0], out)
                parameters = list(module.parameters())
                sizes = parameters[0].numel() if parameters else 0, args[0].numel(), out.numel()
                shapes = tuple(args[0].shape), tuple(parameters[0].shape) if parameters else (), tuple(out.shape)
                needs = self.running[-1][1], any(p.requires_grad for p in parameters)
                work = forward, dx.times(needs[0]), dw.times(needs[1])
                options = (_stride(getattr(module, "stride", 1)), False)
                self.events.append(Event(self.names[module], type(module).__name__, work, sizes, shapes, options))
        self.running.pop()

    def warn(self) -> None:
        """Of every layer that ran and has parameters, but no product; of every large operation not known here."""
        counted = {event.layer for event in self.events if event.product or event.normalised}
        for module, name in self.names.items():
            lists = [m for m in module.children() if isinstance(m, nn.ParameterList | nn.ParameterDict)]
            owned = [name for m in (module, *lists) for name, _ in m.named_parameters(recurse=False)]
            owns = any(name != "bias" for name in owned)  # a bias alone is an addition, and counted
            if owns and module in self.ran and name not in counted and not isinstance(module, FREE):
                warnings.warn(
                    f"{name or 'the network itself'} ({type(module).__name__}) has parameters but no product known "
                    "here: it counts as 0 MACs. Add its operation to workbench.cost if it multiplies",
                    stacklevel=4,
                )
        for message in self.unknown:
            warnings.warn(message, stacklevel=4)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self.inside:
            self._note(func, args, out)
        return out

    def _note(self, func: Any, args: tuple, out: Any) -> None:
        name = func.overloadpacket.__name__.removesuffix("_")
        tensors = [a for a in args if isinstance(a, Tensor)]
        if name == "convolution":  # x, weight [out, in / groups, ...], or [in, out / groups, ...] if transposed
            x, weight, stride, transposed = args[0], args[1], args[3], args[6]
            macs = (x if transposed else out).numel() * weight.shape[1:].numel()
            self._product(name, macs, x, weight, out, (_stride(stride), transposed))
        elif name in PRODUCTS:  # [..., n, k] times [..., k, m], or times a vector [k]
            a, b = args[PRODUCTS[name] :][:2]
            if _sparse(a):  # whose entries are the weights
                self._product(name, a._nnz() * (b.shape[-1] if b.dim() > 1 else 1), b, a, out, ("S X", a._nnz()))
            elif _sparse(b):
                self._product(name, b._nnz() * (a.shape[0] if a.dim() > 1 else 1), a, b, out, ("X S", b._nnz()))
            else:
                self._product(name, a.numel() * (b.shape[-1] if b.dim() > 1 else 1), a, b, out)
        elif name in MESSAGES:
            self._messages(name, args, out)
        elif any(t.is_floating_point() for t in tensors):
            result = out[0] if isinstance(out, tuple | list) else out
            work = _elementwise(name, func, args, result) if isinstance(result, Tensor) else Operations()
            largest = max(tensors, key=_size)
            if work is None:
                if _size(largest) > LOUD:
                    layer = self._layer() or "the network itself"
                    self.unknown[
                        f"{layer}: the operation {name} on {_size(largest):,} elements is not known here and counts as "
                        "0. Add it to workbench.cost, or give the layer a method operations()"
                    ] = None
            elif any(work):
                norm = tensors[0].numel() if name in NORMS else 0
                elements = 0, sum(map(_size, tensors)), result.numel()
                dx = work.times(torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
                self.events.append(Event(self._layer(), name, (work, dx, Operations()), elements, normalised=norm))
                if name == "mul":
                    factors = sorted(tensors, key=_size)  # one number an edge, and a row of features an edge
                    self.message = result, tuple(t.requires_grad for t in factors), len(self.events) - 1

    def _layer(self) -> str:
        return self.names[self.running[-1][0]] if self.running else ""

    def _product(self, op: str, macs: int, x: Tensor, weight: Tensor, out: Tensor, options: tuple = ()) -> None:
        needs = x.requires_grad, weight.requires_grad
        if not torch.is_grad_enabled():  # inside an autograd.Function the operands do not know: its module does
            module, input_needs = self.running[-1]
            needs = input_needs, any(p.requires_grad for p in module.parameters())
        work = Operations(macs, macs)
        works = work, work.times(needs[0]), work.times(needs[1])
        elements = _size(weight), _size(x), out.numel()
        shapes = tuple(x.shape), tuple(weight.shape), tuple(out.shape)
        self.events.append(Event(self._layer(), op, works, elements, shapes, options))

    def _messages(self, op: str, args: tuple, out: Tensor) -> None:
        """E rows of a table are summed into N: a product with a sparse matrix of E entries, weighted or all ones."""
        dim, source = args[1], args[3]
        if not source.is_floating_point():
            return
        weighted, largest = source is self.message[0], "amax" in args or "amin" in args
        entries, nodes = source.shape[dim] if source.dim() else 1, out.shape[dim] if out.dim() else 1
        n = source.numel()
        work = Operations(n * weighted, n * (not largest), 0, n * largest)
        entry_grad, feature_grad = False, source.requires_grad
        if weighted:  # the multiplication noted before is the first half of these MACs
            _, needs, place = self.message
            entry_grad, feature_grad = needs[0], needs[-1]
            self.events.pop(place)
            self.message = None, (), 0
        works = work, work.times(feature_grad), work.times(entry_grad)
        shapes = (nodes, n // max(entries, 1)), (nodes, nodes), tuple(out.shape)
        self.events.append(
            Event(self._layer(), op, works, (entries * weighted, n, out.numel()), shapes, ("S X", entries))
        )


def _stride(stride: int | Sequence[int]) -> int | tuple[int, ...]:
    """One number, where it is the same in all directions."""
    each = tuple(stride) if isinstance(stride, tuple | list) else (stride,)
    return each[0] if len(set(each)) == 1 else each


def _sparse(x: Tensor) -> bool:
    return x.layout != torch.strided


def _size(x: Tensor) -> int:
    return x._nnz() if _sparse(x) else x.numel()


def _elementwise(name: str, func: Any, args: tuple, out: Tensor) -> Operations | None:
    """Scalar operations of what is no product; None: not known."""
    x, n = next(a for a in args if isinstance(a, Tensor)), _size(out)
    if name in NORMS:
        statistics = not (name == "native_batch_norm" and args[5] is False)
        return Operations(1 + statistics, 1 + 2 * statistics).times(x.numel())
    if name in SOFTMAXES:
        return Operations(2 * n, 2 * n, 0, n)
    if name in ("max_pool2d_with_indices", "avg_pool2d"):
        rest = n * (math.prod(args[1]) - 1)
        return Operations(comparisons=rest) if name.startswith("max") else Operations(n, rest)
    if name in ("sum", "mean", "_adaptive_avg_pool2d"):
        return Operations(n * (name != "sum"), x.numel() - n)
    if name in ("var", "std", "var_mean", "std_mean"):
        return Operations(x.numel(), 2 * x.numel())
    if name in ("sort", "topk"):
        return Operations(comparisons=x.numel() * math.ceil(math.log2(max(x.shape[-1], 2))) if x.dim() else 0)
    if name in ADDITIONS:
        return Operations(adds=n)
    if name in COMPARISONS:
        return Operations(comparisons=max(n, x.numel()))
    if name in NOTHING or func.is_view or name.startswith("new_") or name.endswith("_like"):
        return Operations()
    if torch.Tag.pointwise in func.tags or name in MULTIPLICATIONS:
        return Operations(n)
    return None


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[nn.Module]:
    """The model itself, whose buffers are put back: not every model with sparse matrices can be copied."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield model
    finally:
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), before, strict=True):
                buffer.copy_(value)


def record(model: nn.Module, *inputs: Any) -> list[Event]:
    """Every operation of a forward pass, in order. For arguments, warnings and errors see `count`."""
    parts = [x for x in (*inputs, *model.parameters(), *model.buffers()) if isinstance(x, Tensor)]
    failures: list[Exception] = []
    for device in ["cpu"] if any(map(_sparse, parts)) else ["meta", "cpu"]:
        try:
            # A fused attention would hide its products; a model that runs for real may draw random numbers.
            with (
                torch.inference_mode(False),
                torch.enable_grad(),
                torch.random.fork_rng(devices=[]),
                sdpa_kernel(SDPBackend.MATH),
                _unchanged(model) if device == "cpu" else nullcontext(copy.deepcopy(model).to("meta")) as twin,
            ):
                given = [x.to("meta") if device == "meta" and isinstance(x, Tensor) else x for x in inputs]
                with _Recorder(twin) as recorder:
                    twin(*given)
            recorder.warn()
            return recorder.events
        except (NotImplementedError, RuntimeError, ValueError, TypeError) as error:
            failures.append(error)
    shapes = ", ".join(str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in inputs)
    reason = str(failures[-1]).splitlines()[0]
    raise WorkbenchError(f"{type(model).__name__} cannot be counted on inputs {shapes}: {reason}") from failures[-1]


def count(model: nn.Module, *inputs: Any) -> pd.DataFrame:
    """Operations of one training step, by layer: forward ``Y = W X`` and backward ``dX = W G`` and ``dW = G X``.

    A copy of the model runs on the meta device, in the mode (training, evaluation) it is in, so nothing is computed.
    Only a model that asks for values (graph networks: where is an edge?) or has sparse matrices runs for real, where it
    is; its buffers and the random numbers are put back.

    A gradient that nobody asks for costs nothing, so the first layer has no dX and a frozen one no dW. In a product of
    two activations (attention), dX and dW are the gradients of its first and its second factor; in a sparse product and
    in message passing, of the features and of the entries. Elementwise work is assumed to cost again, backwards, what
    it costs forwards, all of it in dX.

    Returns:
        One row a layer and operation: ``layer`` (its name in the model), ``op``, ``forward``, ``dx``, ``dw`` in MACs
        of the whole batch, ``normalised`` elements; ``multiplies``, ``adds``, ``shifts``, ``comparisons`` forward, and
        the same with ``dx_`` and ``dw_`` in front; ``weights``, ``inputs``, ``outputs``: how many elements the forward
        pass reads and writes, of sparse factors the non-zeros. Times the bits of each that is what it touches.

    Warns:
        UserWarning: a layer has parameters but no product known here, or a large operation is not known here.

    Raises:
        WorkbenchError: when the model cannot run on these inputs.
    """
    fields = Operations._fields
    names = ["forward", "dx", "dw", "normalised", *fields, *(f"dx_{f}" for f in fields), *(f"dw_{f}" for f in fields)]
    names += ["weights", "inputs", "outputs"]
    rows: dict[tuple[str, str], list[float]] = {}
    for event in record(model, *inputs):
        macs = [work.macs if event.product else 0 for work in event.work]
        values = [*macs, event.normalised, *event.work[0], *event.work[1], *event.work[2], *event.elements]
        row = rows.setdefault((event.layer, event.op), [0] * len(values))
        row[:] = [a + b for a, b in zip(row, values, strict=True)]
    return pd.DataFrame([(*key, *row) for key, row in rows.items()], columns=["layer", "op", *names])


@dataclass(frozen=True)
class Macs:
    """MACs of the three products of a training step: ``Y = W X``, ``dX = W G``, ``dW = G X``."""

    forward: float
    dx: float
    dw: float

    def bitops(self, weight_bits: Any, input_bits: Any, error_bits: Any) -> Any:
        """MACs times the bits of both factors; bits may be numbers or arrays."""
        for name, bits in (("weight_bits", weight_bits), ("input_bits", input_bits), ("error_bits", error_bits)):
            check_number(name, bits, 0)
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
