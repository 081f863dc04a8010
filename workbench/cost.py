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
- interpolation: a weighted mean of 2, 4, 8 or 16 neighbours an output; a norm: one multiplication, one addition an
  element;
- a change of sign, rounding, selection, copies and views: nothing. Integers are bookkeeping, and nothing either.

A complex number is two real ones: its product is four multiplications and two additions, and a MAC of two complex
numbers four MACs.
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from workbench import WorkbenchError, check_number

PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "vdot": 0, "_int_mm": 0}
PRODUCTS |= {"addmm": 1, "baddbmm": 1, "addbmm": 1, "addmv": 1, "_sparse_addmm": 1, "_addmm_activation": 1}
"""Matrix products of the dispatcher, and where their first factor stands; linear layers, LSTMs, attention and einsum
arrive as these."""
MESSAGES = {"scatter_add", "scatter_reduce", "index_add", "index_reduce"}
"""Message passing: rows that were gathered are summed (or compared) where an index says."""
NORMS = {"native_batch_norm", "native_layer_norm", "native_group_norm"}
ADDITIONS = {"add", "sub", "rsub", "cumsum"}
COMPARISONS = {"relu", "threshold", "hardtanh", "clamp", "clamp_min", "clamp_max", "maximum", "minimum"}
COMPARISONS |= {"eq", "ne", "gt", "ge", "lt", "le", "amax", "amin", "max", "min", "argmax", "argmin", "aminmax"}
SOFTMAXES = {"_softmax", "_log_softmax", "_safe_softmax"}
MULTIPLICATIONS = {"_prelu_kernel", "native_dropout", "hardswish", "glu", "log_sigmoid_forward", "rrelu_with_noise"}
MULTIPLICATIONS |= {"polar", "complex"}  # those that torch does not tag as pointwise
LOSSES = {"mse_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss", "binary_cross_entropy"}
NEIGHBOURS = {"linear1d": 2, "bilinear2d": 4, "trilinear3d": 8, "bicubic2d": 16}
"""How many inputs an interpolated output is the weighted mean of."""
NOTHING = {
    "abs", "neg", "sign", "sgn", "positive", "round", "floor", "ceil", "trunc", "where", "masked_fill", "isnan",
    "isinf", "any", "all", "logical_not", "logical_and", "logical_or", "bitwise_not", "bitwise_and", "bitwise_or",
    "copy", "clone", "cat", "stack", "repeat", "flip", "roll", "resize", "_unsafe_view", "_to_copy", "lift_fresh",
    "_local_scalar_dense", "index", "index_select", "index_put", "gather", "scatter", "embedding", "nonzero",
    "tril", "triu", "im2col", "constant_pad_nd", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "fill", "zero",
    "normal", "uniform", "bernoulli", "exponential", "random", "multinomial", "poisson", "_to_dense", "_to_sparse",
    "_to_sparse_csr", "unsafe_split", "unsafe_split_with_sizes", "split_with_sizes_copy", "split_copy", "unbind_copy",
    "index_copy", "index_fill", "masked_select", "masked_scatter", "take", "put", "slice_scatter", "select_scatter",
    "diagonal_scatter", "diag_embed", "repeat_interleave", "rot90", "bucketize", "searchsorted", "equal", "isfinite",
    "is_same_size", "_resize_output", "_reshape_copy", "lift", "lift_fresh_copy", "_pack_padded_sequence",
    "_conj_physical", "conj_physical", "_efficientzerotensor", "resize_as", "set", "_has_same_storage_numel",
    "_unsafe_masked_index", "_assert_tensor_metadata", "_assert_async", "_linalg_check_errors", "max_unpool2d",
    "max_unpool3d", "real", "imag", "sparse_coo_tensor", "_coalesce", "values_copy", "copy_sparse_to_sparse",
    "sparse_compressed_tensor", "_sparse_compressed_tensor_unsafe", "_sparse_coo_tensor_unsafe",
    "_sparse_coo_tensor_with_dims_and_tensors",
    *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)),
}  # fmt: skip


class Operations(NamedTuple):
    """Scalar operations, of whatever bits.

    A layer that the dispatcher cannot see rightly (an adder, a shift) has a method
    ``training_operations(x, out) -> (forward, dX, dW)``, three of these for its first input ``x`` and its output
    ``out`` of the whole batch: the recorder takes them and counts nothing inside. `hardware` takes the shape of its
    kernel from its first parameter, ``[out, in / groups, rows, columns]`` or ``[out, in]``, and its stride from
    ``stride``.
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
    options: tuple[Any, ...] = ()  # of a convolution: stride, transposed, dilation; of a sparse product: non-zeros
    normalised: int = 0
    reals: int = 1  # real products in one: four if both factors are complex

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
        weights = [t for t in (*model.parameters(), *model.buffers()) if not _sparse(t)]
        self.made_of: dict[StorageWeakRef, str] = {_storage(t): "weights" for t in weights}  # else of inputs, constants
        self.consumed: set[StorageWeakRef] = set()
        enter = {"prepend": True, "with_kwargs": True}  # before a module's own hooks, which may compute its weights
        self.hooks = [m.register_forward_pre_hook(self._enter, **enter) for m in self.names]
        self.hooks += [m.register_forward_hook(self._leave, with_kwargs=True) for m in self.names]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self.hooks:
            hook.remove()

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.running.append((module, any(t.requires_grad for t in _tensors(args, kwargs))))
        self.inside += _counts_itself(module)

    def _leave(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        self.ran.add(module)
        _, input_needs = self.running.pop()
        if _counts_itself(module):
            self.inside -= 1
            if not self.inside:
                x = _tensors(args, kwargs)[0]
                forward, dx, dw = module.training_operations(x, out)
                parameters = list(module.parameters())
                sizes = parameters[0].numel() if parameters else 0, x.numel(), out.numel()
                shapes = tuple(x.shape), tuple(parameters[0].shape) if parameters else (), tuple(out.shape)
                needs = input_needs, any(p.requires_grad for p in parameters)
                work = forward, dx.times(needs[0]), dw.times(needs[1])
                options = _stride(getattr(module, "stride", 1)), False, 1
                self.events.append(Event(self.names[module], type(module).__name__, work, sizes, shapes, options))

    def warn(self) -> None:
        """Of every parameter that no operation took though its layer ran; of every operation not known here."""
        for module, name in self.names.items():
            lists = [m for m in module.children() if isinstance(m, nn.ParameterList | nn.ParameterDict)]
            own = {n: p for m in (module, *lists) for n, p in m.named_parameters(recurse=False)}
            unused = [n for n, p in own.items() if not _sparse(p) and p.numel() and _storage(p) not in self.consumed]
            if unused and module in self.ran:
                warnings.warn(
                    f"{name or 'the network itself'} ({type(module).__name__}): no operation seen here takes its "
                    f"{', '.join(unused)}, so whatever is done with it counts as 0",
                    stacklevel=4,
                )
        for message in self.unknown:
            warnings.warn(message, stacklevel=4)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.removesuffix("_")
        self._trace(name, func, _tensors(args, kwargs), _tensors(out))
        if not self.inside:
            self._note(name, func, args, out)
        return out

    def _trace(self, name: str, func: Any, operands: list[Tensor], results: list[Tensor]) -> None:
        """What is made of weights alone; which parameters are used. Views share their storage."""
        operands = [t for t in operands if not _sparse(t)]
        if not _view(func):
            self.consumed.update(map(_storage, operands))
        origins = {self.made_of.get(_storage(t), "inputs") for t in operands}
        if not origins or name.startswith("new_") or name.endswith("_like"):
            origins = {"constants"}
        origin = next(o for o in ("inputs", "weights", "constants") if o in origins)
        self.made_of.update({_storage(t): origin for t in results if not _sparse(t)})

    def _note(self, name: str, func: Any, args: tuple, out: Any) -> None:
        tensors = _tensors(args)
        if name == "convolution":  # x, weight [out, in / groups, ...], or [in, out / groups, ...] if transposed
            x, weight, stride, dilation, transposed = args[0], args[1], args[3], args[5], args[6]
            macs = (x if transposed else out).numel() * weight.shape[1:].numel()
            self._product(name, macs, x, weight, out, (_stride(stride), transposed, _stride(dilation)))
        elif name in PRODUCTS:  # [..., n, k] times [..., k, m], or times a vector [k]
            a, b = args[PRODUCTS[name] :][:2]
            if _sparse(a):  # whose entries are the weights
                self._product(name, a._nnz() * (b.shape[-1] if b.dim() > 1 else 1), b, a, out, ("S X", a._nnz()))
            elif _sparse(b):
                self._product(name, b._nnz() * (a.shape[0] if a.dim() > 1 else 1), a, b, out, ("X S", b._nnz()))
            else:
                macs = a.numel() * (b.shape[-1] if b.dim() > 1 else 1)
                x, weight, needs = a, b, (a.requires_grad, b.requires_grad)  # of which views made here know nothing
                if self._weights(a) and not self._weights(b):  # W x is (x' W')'
                    x, weight, out = (t.mT if t.dim() > 1 else t for t in (b, a, out))
                    needs = needs[::-1]
                self._product(name, macs, *_shared(x, weight, out), needs=needs)
        elif name == "_trilinear":  # a bilinear layer: the products of both inputs, then a linear layer
            x, weight, z = args[0], args[1], args[2]
            pairs, needs = (x.unsqueeze(-1) * z.unsqueeze(-2)).flatten(-2), x.requires_grad or z.requires_grad
            work, sizes = Operations(pairs.numel()), (0, x.numel() + z.numel(), pairs.numel())
            self.events.append(Event(self._layer(), "mul", (work, work.times(needs), Operations()), sizes))
            macs, needs = pairs.numel() * weight.shape[0], (needs, weight.requires_grad)
            self._product(name, macs, pairs, weight.flatten(1).mT, out, needs=needs)
        elif func.namespace == "quantized" and name.startswith("linear") and isinstance(args[1], torch.ScriptObject):
            x, macs = args[0], args[0].numel() * out.shape[-1]  # whose packed weights are nobody's parameters
            shapes = tuple(x.shape), (x.shape[-1], out.shape[-1]), tuple(out.shape)
            work = Operations(macs, macs), Operations(), Operations()
            self.events.append(Event(self._layer(), name, work, (math.prod(shapes[1]), x.numel(), out.numel()), shapes))
        elif name in MESSAGES:
            self._messages(name, args, out)
        elif func.namespace == "quantized" or any(t.is_floating_point() or t.is_complex() for t in tensors):
            result = out[0] if isinstance(out, tuple | list) else out
            work = _elementwise(name, func, args, result) if isinstance(result, Tensor) else Operations()
            if work is None:
                layer, elements = self._layer() or "the network itself", max(map(_size, tensors), default=0)
                self.unknown[
                    f"{layer}: the operation {name} on {elements:,} elements is not known here and counts as 0. Add it "
                    "to workbench.cost, or give the layer a method training_operations()"
                ] = None
            elif any(work):
                norm = tensors[0].numel() if name in NORMS else 0
                elements = 0, sum(_size(t) * _reals(t) for t in tensors), result.numel() * _reals(result)
                dx = work.times(torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
                self.events.append(Event(self._layer(), name, (work, dx, Operations()), elements, normalised=norm))
                if name == "mul":
                    factors = sorted(tensors, key=_size)  # one number an edge, and a row of features an edge
                    self.message = result, tuple(t.requires_grad for t in factors), len(self.events) - 1

    def _weights(self, x: Tensor) -> bool:
        return self.made_of.get(_storage(x)) == "weights"

    def _layer(self) -> str:
        return self.names[self.running[-1][0]] if self.running else ""

    def _product(
        self,
        op: str,
        macs: int,
        x: Tensor,
        weight: Tensor,
        out: Tensor,
        options: tuple = (),
        needs: tuple[bool, bool] | None = None,
    ) -> None:
        needs = needs or (x.requires_grad, weight.requires_grad)
        if not torch.is_grad_enabled():  # inside an autograd.Function the operands do not know: its module does
            module, input_needs = self.running[-1]
            needs = input_needs, any(p.requires_grad for p in module.parameters())
        reals = _reals(x) * _reals(weight)
        work = Operations(reals * macs, reals * macs)
        works = work, work.times(needs[0]), work.times(needs[1])
        elements = _size(weight) * _reals(weight), _size(x) * _reals(x), out.numel() * _reals(out)
        shapes = tuple(x.shape), tuple(weight.shape), tuple(out.shape)
        self.events.append(Event(self._layer(), op, works, elements, shapes, options, reals=reals))

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


def _tensors(*nested: Any) -> list[Tensor]:
    return [x for x in tree_leaves(nested) if isinstance(x, Tensor)]


def _storage(x: Tensor) -> StorageWeakRef:
    """One and the same for all views; a weak reference, so that no other storage takes its place."""
    return StorageWeakRef(x.untyped_storage())


def _view(func: Any) -> bool:
    return func.is_view or torch.Tag.inplace_view in func.tags


def _reals(x: Tensor) -> int:
    return 1 + x.is_complex()


def _counts_itself(module: nn.Module) -> bool:
    return callable(getattr(type(module), "training_operations", None))


def _shared(x: Tensor, weight: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A factor expanded over the batch is one matrix, and the batch are rows (or columns) of the product."""
    if x.dim() == 3 and x.shape[0] > 1:
        if weight.stride(0) == 0:
            return x.flatten(0, 1), weight[0], out.flatten(0, 1)
        if x.stride(0) == 0:
            return x[0], weight.movedim(0, 1).flatten(1), out.movedim(0, 1).flatten(1)
    return x, weight, out


def _sparse(x: Tensor) -> bool:
    return x.layout != torch.strided


def _size(x: Tensor) -> int:
    return x._nnz() if _sparse(x) else x.numel()


def _elementwise(name: str, func: Any, args: tuple, out: Tensor) -> Operations | None:
    """Scalar operations of what is no product; None: not known."""
    work = _real_work(name, func, args, out)
    if work is None or not out.is_complex():
        return work
    real_factor = name in ("mul", "div", "mean") and sum(isinstance(a, complex) or _complex(a) for a in args[:2]) < 2
    return Operations(
        (2 if real_factor else 4) * work.multiplies, 2 * work.adds + (not real_factor) * 2 * work.multiplies
    )


def _complex(a: Any) -> bool:
    return isinstance(a, Tensor) and a.is_complex()


def _real_work(name: str, func: Any, args: tuple, out: Tensor) -> Operations | None:
    """The same, of complex numbers in complex operations."""
    tensors = _tensors(args)
    x, n = tensors[0] if tensors else out, _size(out)
    size = _size(x)
    rest = max(size - n, 0)
    if name in NORMS:
        statistics = not (name == "native_batch_norm" and args[5] is False)
        return Operations(1 + statistics, 1 + 2 * statistics).times(size)
    if name in SOFTMAXES:
        return Operations(2 * n, 2 * n, 0, n)
    if re.fullmatch(r"(max|avg)_pool[23]d(_with_indices)?|fractional_max_pool[23]d", name):
        rank = int(name.split("pool")[1][0])
        rest = n * (math.prod(args[1]) ** (rank // len(args[1])) - 1)
        return Operations(n, rest) if name.startswith("avg") else Operations(comparisons=rest)
    if "adaptive" in name:
        seen = _windows(x.shape[-len(args[1]) :], args[1]) * x.shape[: -len(args[1])].numel()
        return Operations(comparisons=seen - n) if "max" in name else Operations(n, seen - n)
    if name in ("sum", "mean", "nansum", "trace"):
        return Operations(n * (name == "mean"), rest)
    if name in ("var", "std", "var_mean", "std_mean"):
        return Operations(size, 2 * size)
    if name in ("linalg_vector_norm", "norm"):
        return Operations(size * _reals(x) + n, size * _reals(x) - n)
    if name == "_weight_norm_interface":  # v g / |v|
        return Operations(2 * size, size)
    if name == "logsumexp":
        return Operations(size + n, size + rest, 0, rest)
    if name in LOSSES:
        return Operations(size, size + rest)
    if name.startswith("nll_loss"):
        return Operations(adds=args[1].numel())
    if name in ("prod", "cumprod"):
        return Operations(rest if name == "prod" else size)
    if name == "addr":  # an outer product, added
        return Operations(n, n)
    if name == "col2im":
        return Operations(adds=size)
    if "upsample" in name or name.startswith("grid_sampler"):
        if name.startswith("grid_sampler"):
            near = (2 ** (x.dim() - 2), 1, 16)[args[2]]
        else:
            near = next((many for kind, many in NEIGHBOURS.items() if kind in name), 1)
        if not name.endswith("_aa"):  # whose windows grow with the scale
            return Operations(near * n, (near - 1) * n).times(near > 1)
    if name == "_embedding_bag":
        return Operations(adds=max(args[1].numel() * x.shape[-1] - n, 0))
    if name in ("sort", "topk", "kthvalue", "median"):
        return Operations(comparisons=size * math.ceil(math.log2(max(x.shape[-1], 2))) if x.dim() else 0)
    if name in ADDITIONS:
        return Operations(adds=n)
    if name in COMPARISONS:
        return Operations(comparisons=max(n, size))
    if name == "abs" and x.is_complex():
        return Operations(3 * n, n)
    if name in NOTHING or _view(func) or name.startswith(("new_", "empty")) or name.endswith("_like"):
        return Operations()
    if torch.Tag.pointwise in func.tags or name in MULTIPLICATIONS:
        return Operations(n)
    return None


def _windows(sizes: Sequence[int], outs: Sequence[int]) -> int:
    """Elements under all windows of an adaptive pooling, those that overlap more than once."""
    return math.prod(
        sum(-(-(i + 1) * size // out) - i * size // out for i in range(out))
        for size, out in zip(sizes, outs, strict=True)
    )


@contextmanager
def _twin(model: nn.Module, device: str, copied: bool) -> Iterator[nn.Module]:
    """A copy on the meta device, or a copy or the model itself to run for real, whose buffers are put back: not every
    model with sparse matrices can be copied."""
    if device == "meta" or copied:
        lazy = [buffer for buffer in model.buffers() if is_lazy(buffer)]  # which torch copies only as parameters
        empty = {id(b): nn.UninitializedBuffer(device=b.device, dtype=b.dtype) for b in lazy}
        twin = copy.deepcopy(model, empty)
        yield twin.to("meta") if device == "meta" else twin
        return
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield model
    finally:
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), before, strict=True):
                buffer.copy_(value)


def record(model: nn.Module, *inputs: Any, **keywords: Any) -> list[Event]:
    """Every operation of a forward pass, in order. For arguments, warnings and errors see `count`."""
    if not isinstance(model, nn.Module):
        raise WorkbenchError(f"only a torch.nn.Module can be counted; got {type(model).__name__}")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise WorkbenchError(
                f"{name or 'the network itself'} is compiled by torch.jit, which hides its layers: count the module "
                "that it was made of"
            )
    parts = [*model.parameters(), *model.buffers()]
    lazy, given = any(map(is_lazy, parts)), (inputs, keywords)
    failures: list[Exception] = []
    for device in ["cpu"] if not lazy and any(map(_sparse, (*_tensors(given), *parts))) else ["meta", "cpu"]:
        try:
            # Fused attention and oneDNN's LSTM would hide their products; what runs for real may draw random numbers.
            with (
                torch.inference_mode(False),
                torch.enable_grad(),
                torch.random.fork_rng(devices=[]),
                sdpa_kernel(SDPBackend.MATH),
                torch.backends.mkldnn.flags(enabled=False, allow_tf32=None),
                _twin(model, device, copied=lazy) as twin,
            ):
                args, kwargs = tree_map_only(Tensor, lambda x: x.to("meta"), given) if device == "meta" else given
                if lazy:  # its first run makes its parameters
                    twin(*args, **kwargs)
                with _Recorder(twin) as recorder:
                    twin(*args, **kwargs)
        except Exception as error:  # of whatever a reader's model does
            failures.append(error)
        else:
            recorder.warn()
            return recorder.events
    shapes = ", ".join(str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in tree_leaves(given))
    reason = (str(failures[-1]).splitlines() or [type(failures[-1]).__name__])[0]
    raise WorkbenchError(f"{type(model).__name__} cannot be counted on inputs {shapes}: {reason}") from failures[-1]


def count(model: nn.Module, *inputs: Any, **keywords: Any) -> pd.DataFrame:
    """Operations of one training step, by layer: forward ``Y = W X`` and backward ``dX = W G`` and ``dW = G X``.

    A copy of the model runs on the meta device, in the mode (training, evaluation) it is in, so nothing is computed.
    Only a model that asks for values (graph networks: where is an edge?) or has sparse matrices runs for real, where it
    is; its buffers and the random numbers are put back. ``keywords`` are inputs by name.

    In a matrix product the weights are the factor that is made of parameters and buffers alone (transposed, quantised,
    expanded over a batch), on whichever side it stands. A bilinear layer is a linear one on the products of its inputs.

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
        UserWarning: no operation takes a parameter of a layer that ran, or an operation is not known here.

    Raises:
        WorkbenchError: when the model cannot run on these inputs, or is compiled by torch.jit.
    """
    fields = Operations._fields
    names = ["forward", "dx", "dw", "normalised", *fields, *(f"dx_{f}" for f in fields), *(f"dw_{f}" for f in fields)]
    names += ["weights", "inputs", "outputs"]
    rows: dict[tuple[str, str], list[float]] = {}
    for event in record(model, *inputs, **keywords):
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
