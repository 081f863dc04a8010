"""What hardware makes of a network: energy by level of the memory and by operand, cycles, utilisation.

`breakdown` is the one call: it takes any torch model and says where its energy goes. Behind it stand layers (read off
the model by `cost.record`), an `Accelerator`, and a dataflow, whose tiles are chosen by trying all of a grid at once.

Left out: normalisation, activations and pooling, control, clock, leakage, and idle PEs. Zero padding is moved like any
input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from functools import lru_cache, reduce
from inspect import signature
from itertools import count as counted
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from workbench import WorkbenchError, check_number
from workbench.accelerator import Accelerator, Cost, check_machine, evaluate, generic
from workbench.accelerator import unit_energy as unit_energy
from workbench.cost import Event, record
from workbench.dataflow import Layer, Mapping, Number, largest, least, pieces

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from workbench.explorer import Explorer

LEVELS = ("compute", "register file", "network", "buffer", "DRAM")
OPERANDS = ("weights", "inputs", "outputs", "arithmetic")
DATAFLOWS = ("row", "weight", "output", "input")
"""What stays in place while the rest moves past it: rows (Eyeriss), weights, outputs, inputs."""
PRODUCTS = ("forward", "dx", "dw")
OPTIONS = {"weight_bits", "input_bits", "error_bits", "training"}

# --- dataflows ---------------------------------------------------------------------------------------------------

ORDERS = ("GKCNY", "GNYCK", "GNYKC")
"""Loops over DRAM's tiles, outermost first: each weight, each input, each output is moved once."""


def mapping(layer: Layer, accelerator: Accelerator, dataflow: str, order: str, tile: dict[str, Number]) -> Mapping:
    """The loop nest of a dataflow; for ``order`` see `ORDERS`, ``tile`` gives sizes of its dimensions in the buffer.

    ``weight``: channels (and kernel) down the array, filters across; positions stream past. ``output``: positions down,
    filters across; weights and inputs stream. ``input``: channels down, positions across; weights and outputs stream.
    ``row`` (Eyeriss): a PE holds a kernel row of some channels and filters, PEs stand for kernel rows and output rows,
    then for filters and channels; inputs stream.
    """
    check_machine(layer, accelerator)
    h, w, sizes = accelerator.rows, accelerator.columns, {**{d: getattr(layer, d) for d in "XRS"}, **tile}

    def spread(dims: str, pes: Number) -> dict[str, Number]:
        found = {}
        for d in dims:
            found[d] = least(sizes[d], pes)
            pes = -pieces(-pes, found[d])  # rounded down
        return found

    if dataflow == "weight":
        spatial, streamed = spread("CRS", h) | spread("KG", w), ("inputs", "outputs")
        return Mapping(order, "GKCRS", tile, spatial, streamed=streamed, fill=2 * h + w - 2)
    if dataflow == "output":
        spatial, streamed = spread("XYN", h) | spread("KG", w), ("weights", "inputs")
        return Mapping(order, "GNYXK", tile, spatial, streamed=streamed, fill=h + w - 2)
    if dataflow == "input":
        spatial, streamed = spread("CRSG", h) | spread("XYN", w), ("weights", "outputs")
        return Mapping(order, "GNYXCRS", tile, spatial, streamed=streamed, fill=2 * h + w - 2)
    if dataflow != "row":
        raise WorkbenchError(f"no dataflow {dataflow!r}: choose from {', '.join(DATAFLOWS)}")
    spatial = spread("RYKCNG", h * w)
    row = layer.S * pieces(layer.R, spatial["R"])  # of one channel, in one PE
    bits = layer.weight_bits, layer.input_bits, accelerator.accumulator_bits
    room = [-pieces(-size, width) for size, width in zip(accelerator.register_bits, bits, strict=True)]
    channels = largest(reduce(least, (sizes["C"], -pieces(-room[0], row), -pieces(-room[1], row))), 1)
    filters = (-pieces(-sizes["K"], spatial["K"]), -pieces(-room[0], row * channels), room[2])
    filters = largest(reduce(least, filters), 1)
    return Mapping(order, "GYCKN", tile, spatial, {"C": channels, "K": filters}, streamed=("inputs",))


def best(layer: Layer, accelerator: Accelerator, dataflow: str = "row", step: int = 4) -> Cost:
    """The cheapest tiling of a grid (sizes 1, ``step``, ``step``^2, ... and all; three orders), by energy.

    It is the best of its grid only: with ``step`` 2 the layers of VGG16 take up to 14 % less energy, and with tiles of
    any size a layer has been seen to take 22 % less (4,006 for 5,160 uJ). Nor is it a model of what a chip did that
    chose its tilings otherwise: on `eyeriss()` it moves 448 MB of DRAM for VGG16 in 1,736 ms, where the chip moved
    321 MB in 3,755 ms; `workbench.eyeriss` takes the chip's own tilings.

    The layer's and the accelerator's tensors, if any, end in a dimension of size 1, for the tilings.

    Raises:
        WorkbenchError: no tiling fits, or the dataflow is not known.
    """
    check_machine(layer, accelerator)
    check_number("step", step, 2, whole=True)
    sizes = []
    for d in "NGKCY":
        if torch.as_tensor(getattr(layer, d)).numel() != 1:
            raise WorkbenchError(f"{d} of layer {layer.label} must be one number: tilings of several are not one grid")
        whole = int(getattr(layer, d))
        powers = takewhile(whole.__gt__, (step**i for i in counted()))
        sizes.append(torch.tensor([*powers, whole], dtype=torch.float64))
    grid = torch.cartesian_prod(*sizes).T
    tile = dict(zip("NGKCY", grid, strict=True))
    costs = [evaluate(layer, mapping(layer, accelerator, dataflow, order, tile), accelerator) for order in ORDERS]

    def flat(values: Sequence[Number]) -> Tensor:
        wide = [torch.as_tensor(value, dtype=torch.float64) + torch.zeros_like(grid[0]) for value in values]
        return torch.cat(torch.broadcast_tensors(*wide), -1)

    energy = flat([c.total for c in costs])
    energy = energy.where(flat([torch.as_tensor(c.fits).double() for c in costs]) > 0, torch.inf)
    found = energy.argmin(-1, keepdim=True)
    if bool(torch.isinf(energy.gather(-1, found)).any()):
        raise WorkbenchError(f"no tiling of layer {layer.label} fits {accelerator.name}: it needs a larger buffer")

    def chosen(values: Sequence[Number]) -> Tensor:
        return flat(values).expand(energy.shape).gather(-1, found)[..., 0]

    return Cost(
        {key: chosen([c.accesses[key] for c in costs]) for key in costs[0].accesses},
        {key: chosen([c.pj[key] for c in costs]) for key in costs[0].pj},
        chosen([c.cycles for c in costs]),
        chosen([c.utilisation for c in costs]),
        True,
    )


# --- layers of a model -------------------------------------------------------------------------------------------


def layers(
    model: nn.Module,
    *inputs: Any,
    weight_bits: Number = 8,
    input_bits: Number = 8,
    error_bits: Number = 8,
    training: bool = False,
    **keywords: Any,
) -> list[Layer]:
    """The products of any torch model as layers: convolutions, matrix products (sparse ones too), message passing, and
    layers that count themselves; with ``training`` also the backward products that somebody asks for.

    Outputs leave at the next layer's input bits, errors at ``error_bits``. Weights that are zero are counted where a
    module has them as ``weight``; where a mask of one bit a weight is shorter, only the others are stored. The entry of
    a sparse matrix is stored with its column. A transposed convolution is the dX of a convolution, and its operands are
    named as in that one. A dilated convolution is dense ones of every d-th row and column, one layer for each size. A
    product of complex numbers is four of real ones. ``keywords`` are inputs by name.

    Raises:
        WorkbenchError: the model cannot be counted, or a three-dimensional convolution.
    """
    for name, bits in (("weight_bits", weight_bits), ("input_bits", input_bits), ("error_bits", error_bits)):
        check_number(name, bits, 1)
    found = []
    for event in record(model, *inputs, **keywords):
        if not event.product or not any(event.work[0]):
            continue
        shapes, transposed = _shapes(event), "convolution" in event.op and event.options[1]
        points = sum(math.prod(float(shape[d]) for d in "NGKCYXRS") * shape["density"] for shape in shapes)
        zeros = _zeros(model, event)
        store = weight_bits
        if shapes[0]["density"] < 1:  # an entry of all ones needs no value
            column = math.ceil(math.log2(max(shapes[0]["C"], 2)))
            store = weight_bits * (event.work[0].multiplies > 0) + column
        elif zeros:
            store = least(weight_bits, (1 - zeros) * weight_bits + 1)
        order = ("dx", "forward", "dw") if transposed else PRODUCTS
        for product, work in list(zip(order, event.work, strict=True))[: 3 if training else 1]:
            if any(work):
                bits = error_bits if work is not event.work[0] else input_bits
                found += [
                    Layer(
                        event.layer or event.op,
                        product=product,
                        arithmetic=work.times(1 / points),
                        weight_bits=weight_bits,
                        input_bits=input_bits,
                        output_bits=bits,
                        weight_zeros=zeros,
                        weight_store=store,
                        **shape,
                    )
                    for shape in shapes
                ]
    return found


def _shapes(event: Event) -> list[dict[str, Any]]:
    """Sizes of the nest, or nests of a dilated convolution; of a sparse product, the share of its entries."""
    x, weight, out = event.shapes
    sizes: dict[str, Any] = dict.fromkeys("NGKCYXRS", 1) | {"density": 1.0}
    if event.options and event.options[0] in ("S X", "X S"):
        first = event.options[0] == "S X"  # [K, C] entries times [C, N] features, or [N, C] times [C, K]
        k, c = weight if first else weight[::-1]
        n = math.prod(x[1:]) if first else x[0]
        return [sizes | {"G": event.reals, "N": n, "C": c, "K": k, "density": event.options[1] / (k * c)}]
    if len(weight) > 4 or not weight:
        raise WorkbenchError(
            f"{event.layer or 'the network itself'} ({event.op}) has weights of shape {weight}: the hardware model "
            "knows rows and columns only, no third dimension. Count it with `cost.count`, or leave it out"
        )
    if len(weight) > 2 and event.options:
        stride, transposed, dilation = event.options
        source, target = (out, x) if transposed else (x, out)
        groups = source[1] // weight[1]
        sizes |= {"N": x[0], "G": event.reals * groups, "K": weight[0] // groups, "C": weight[1], "stride": stride}
        sizes |= dict(zip("RS"[4 - len(weight) :], weight[2:], strict=True))
        sizes |= dict(zip("YX"[4 - len(target) :], target[2:], strict=True))
        found, steps = [sizes], dilation if isinstance(dilation, tuple) else (dilation,) * 2
        for d, kernel, step in zip("YX", "RS", steps, strict=True):
            found = [cut for whole in found for cut in _undilated(whole, d, 1 if whole[kernel] == 1 else step)]
        return found
    if event.options:  # a layer that counts itself: [out, in]
        return [sizes | {"N": math.prod(x[:-1]), "C": weight[1], "K": weight[0]}]
    batches = x[0] if len(weight) == 3 else 1  # each with weights of its own
    columns = weight[-1] if len(weight) > 1 else 1
    return [sizes | {"N": math.prod(x[-2:-1]), "G": event.reals * batches, "C": x[-1], "K": columns}]


def _undilated(sizes: dict[str, Any], d: str, step: int) -> list[dict[str, Any]]:
    """Outputs ``step`` apart share inputs, those between do not: dense convolutions side by side, as in a batch."""
    size, longer = divmod(sizes[d], step)
    cuts = (longer, size + 1), (step - longer, size)
    return [sizes | {"N": many * sizes["N"], d: long} for many, long in cuts if many and long]


def _zeros(model: nn.Module, event: Event) -> float:
    weight = getattr(model.get_submodule(event.layer), "weight", None)
    if (
        not isinstance(weight, Tensor)
        or is_lazy(weight)
        or weight.is_meta
        or sorted(weight.shape) != sorted(event.shapes[1])
    ):
        return 0.0
    return float((weight == 0).double().mean())


# --- a whole model -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _cached(layer: Layer, accelerator: Accelerator, dataflow: str) -> Cost:
    return best(layer, accelerator, dataflow)


def costs(
    model: nn.Module | Sequence[Layer],
    *inputs: Any,
    accelerator: Accelerator | None = None,
    dataflow: str = "row",
    **options: Any,
) -> list[tuple[Layer, Cost]]:
    """Each layer of a model with what it costs in its best tiling; arguments as of `breakdown`."""
    accelerator = generic() if accelerator is None else accelerator
    named = set(signature(model.forward).parameters) if isinstance(model, nn.Module) else set()
    if unknown := set(options) - OPTIONS - named:
        raise WorkbenchError(f"no option {', '.join(sorted(unknown))}: choose from {', '.join(sorted(OPTIONS))}")
    if isinstance(model, nn.Module):
        found = layers(model, *inputs, **options)
    elif inputs or options:
        raise WorkbenchError("layers that were found already have their own sizes and bits: give inputs to `layers`")
    else:
        found = list(model)
    for layer in found:
        check_machine(layer, accelerator)
    return [(layer, _cached(layer, accelerator, dataflow)) for layer in found]


def _single(number: Number) -> float:
    if torch.as_tensor(number).numel() != 1:
        raise WorkbenchError("a table shows one design: give single numbers here, or tensors to `costs`")
    return float(number)


def breakdown(
    model: nn.Module | Sequence[Layer],
    *inputs: Any,
    accelerator: Accelerator | None = None,
    dataflow: str = "row",
    **options: Any,
) -> pd.DataFrame:
    """Where the energy of one pass goes, of the whole batch.

    Args:
        model: any torch model, or layers that `layers` found, perhaps changed.
        inputs: of the model.
        accelerator: `generic()`, unless another is given.
        dataflow: one of `DATAFLOWS`.
        options: of `layers`: ``weight_bits``, ``input_bits``, ``error_bits``, ``training``; and inputs by name.

    Returns:
        One row a layer, ``product`` (forward, dx, dw), ``level`` (compute, register file, network, buffer, DRAM) and
        ``operand`` (weights, inputs, outputs; arithmetic): ``accesses`` in elements or operations, ``pj``.

    Raises:
        WorkbenchError: a layer that fits no tiling, an unknown dataflow, a model that cannot be counted.
    """
    rows = [
        (layer.name, layer.product, level, operand, _single(cost.accesses[level, operand]), _single(pj))
        for layer, cost in costs(model, *inputs, accelerator=accelerator, dataflow=dataflow, **options)
        for (level, operand), pj in cost.pj.items()
    ]
    keys = ["layer", "product", "level", "operand"]
    table = pd.DataFrame(rows, columns=[*keys, "accesses", "pj"])
    return table.groupby(keys, sort=False, as_index=False).sum()


def latency(
    model: nn.Module | Sequence[Layer],
    *inputs: Any,
    accelerator: Accelerator | None = None,
    dataflow: str = "row",
    **options: Any,
) -> pd.DataFrame:
    """Time of one pass, layer after layer: columns layer, product, cycles, milliseconds, utilisation (of the PEs)."""
    accelerator = generic() if accelerator is None else accelerator
    rows = [
        (
            layer.name,
            layer.product,
            _single(c.cycles),
            _single(c.cycles / accelerator.megahertz) / 1e3,
            _single(c.utilisation),
        )
        for layer, c in costs(model, *inputs, accelerator=accelerator, dataflow=dataflow, **options)
    ]
    return pd.DataFrame(rows, columns=["layer", "product", "cycles", "milliseconds", "utilisation"])


# --- soft choices ------------------------------------------------------------------------------------------------


def expected(cost: Tensor, *logits: Tensor) -> Tensor:
    """Exact expectation of a cost under independent softmax choices, differentiable in the logits.

    Args:
        cost: ``[..., n1, n2, ...]``, of every combination of the last dimensions (dataflows, tilings, bits).
        logits: one ``[ni]`` for each of these.
    """
    if cost.shape[cost.dim() - len(logits) :] != tuple(len(choice) for choice in logits):
        sizes = [len(choice) for choice in logits]
        raise WorkbenchError(f"the cost's last dimensions must be the logits' {sizes}; got {list(cost.shape)}")
    for choice in reversed(logits):
        cost = (cost * choice.softmax(-1)).sum(-1)
    return cost


def soft_maximum(values: Tensor, sharpness: float = 1.0) -> Tensor:
    """A smooth largest of latencies, over the last dimension: logsumexp, too large by at most ln(n) / sharpness."""
    check_number("sharpness", sharpness, 0, above=True)
    return torch.logsumexp(sharpness * values, -1) / sharpness


# --- pictures ----------------------------------------------------------------------------------------------------


def side_by_side(arms: Dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Breakdowns by arm as one table: columns arm, level, operand, pj; levels and operands in order."""
    if not arms:
        raise WorkbenchError("no breakdown to show: give at least one arm")
    table = (
        pd.concat(arms, names=["arm"]).reset_index("arm").groupby(["arm", "level", "operand"], sort=False)["pj"].sum()
    )
    places = [(arm, level, operand) for arm in arms for level in LEVELS for operand in OPERANDS]
    return table.reindex([place for place in places if place in table.index]).reset_index()


def draw_breakdown(ax: Axes, table: pd.DataFrame, by: str = "level") -> None:
    """Bars of a table of `side_by_side`, one an arm, stacked by ``level`` or ``operand``; in µJ, or mJ for much."""
    from workbench.figures import COLOURS

    if by not in ("level", "operand"):
        raise WorkbenchError(f"bars are stacked by level or operand; got {by!r}")
    wide = table.pivot_table(index="arm", columns=by, values="pj", aggfunc="sum", sort=False).fillna(0)
    much = wide.sum(axis=1).max() > 1e10
    wide = wide / (1e9 if much else 1e6)
    left = wide.sum(axis=1) * 0
    for name, colour in zip(wide, list(COLOURS.values())[1:], strict=False):
        bars = ax.barh(wide.index, wide[name], left=left, label=name, color=colour)
        left = left + wide[name]
    ax.bar_label(bars, [f"{total:,.3g}" for total in left], fontsize=8, padding=3)
    ax.invert_yaxis()
    ax.margins(x=0.1)
    ax.set_xlabel(f"energy in {'mJ' if much else 'µJ'}")


BITS, ARRAYS, BUFFERS = (2, 4, 8, 16), (8, 16, 32), (32, 128, 512)


def explorer(model: nn.Module, *inputs: Any, name: str = "energy", training: bool = False, **keywords: Any) -> Explorer:
    """Where a model's energy goes on `generic`: by level, operand and layer, with sliders for bits, array and buffer
    and a choice of the dataflow. Everything is swept ahead, so that a slider answers at once. ``keywords`` are inputs
    by name.

    Raises:
        WorkbenchError: the model cannot be counted, or has nothing that the hardware model knows.
    """
    from workbench.explorer import Bars, Choice, Counters, Explorer, Slider

    grid = torch.cartesian_prod(*(torch.tensor(v, dtype=torch.float64) for v in (BITS, ARRAYS, BUFFERS)))
    bits, array, buffer = (column[:, None] for column in grid.T)  # one row a state, columns are for tilings
    machine = generic(array, array, buffer)
    options = {"weight_bits": bits, "input_bits": bits, "error_bits": bits, "training": training}
    found = layers(model, *inputs, **options, **keywords)
    if not found:
        raise WorkbenchError(f"{type(model).__name__} has no product, so there is no energy of layers to show")
    energy: dict[str, dict[tuple[str, str, str], Tensor]] = {dataflow: {} for dataflow in DATAFLOWS}
    cycles = dict.fromkeys(DATAFLOWS, torch.zeros(len(grid), dtype=torch.float64))
    for dataflow in DATAFLOWS:
        swept: dict[tuple, Cost] = {}  # layers of one shape cost the same
        for layer in found:
            same = (layer.product, layer.arithmetic, layer.density, layer.weight_zeros, layer.stride)
            same += tuple(getattr(layer, d) for d in "NGKCYXRS")
            if same not in swept:
                swept[same] = best(layer, machine, dataflow)
            cycles[dataflow] = cycles[dataflow] + swept[same].cycles
            for (level, operand), pj in swept[same].pj.items():
                place = layer.name, level, operand
                energy[dataflow][place] = energy[dataflow].get(place, 0.0) + pj / 1e6
    names = list(dict.fromkeys(layer.name for layer in found))

    def at(bits: int, array: int, buffer: int) -> int:
        return (BITS.index(bits) * len(ARRAYS) + ARRAYS.index(array)) * len(BUFFERS) + BUFFERS.index(buffer)

    def sums(state: int, dataflow: str, series: int, bars: int, kinds: Sequence[str], rows: Sequence[str]) -> dict:
        table = {kind: [0.0] * len(rows) for kind in kinds}
        for place, values in energy[dataflow].items():
            table[place[series]][rows.index(place[bars])] += float(values[state])
        return table

    return Explorer(
        name,
        "Where does the energy go?",
        controls=[
            Slider("bits", "bits of weights and inputs", BITS, value=8),
            Slider("array", "rows and columns of PEs", ARRAYS, value=16),
            Slider("buffer", "buffer in KB", BUFFERS, value=128),
            Choice("dataflow", "what stays in place", DATAFLOWS, value="row"),
        ],
        scalars={
            "total": lambda bits, array, buffer, dataflow: sum(
                float(v[at(bits, array, buffer)]) for v in energy[dataflow].values()
            ),
            "time": lambda bits, array, buffer, dataflow: float(cycles[dataflow][at(bits, array, buffer)]) / 2e5,
        },
        panels=[
            Counters("One pass", {"energy": "{total:.3g} µJ", "time at 200 MHz": "{time:.3g} ms"}),
            Bars(
                lambda bits, array, buffer, dataflow: sums(at(bits, array, buffer), dataflow, 2, 1, OPERANDS, LEVELS),
                "By level of the memory",
                "µJ",
                LEVELS,
            ),
            Bars(
                lambda bits, array, buffer, dataflow: sums(at(bits, array, buffer), dataflow, 1, 0, LEVELS, names),
                "By layer",
                "µJ",
                names,
            ),
        ],
        describe="At {bits} bits, on {array} by {array} PEs with a buffer of {buffer} KB, {dataflow} in place, a pass "
        "takes {total:.3g} µJ and {time:.3g} ms.",
    )
