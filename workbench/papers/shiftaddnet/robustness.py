"""A trained network in fewer bits, or with fewer weights: ShiftAddNet section 4.2's two tests of robustness.

Rounding is to 2^bits evenly spaced levels between the ends of the range, zero among them. An adder layer subtracts what
it sees, so that inputs and templates of a layer need one scale; a convolution may give each its own. Shift weights keep
a sign and an exponent of bits - 1; only their inputs are rounded evenly.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from workbench import WorkbenchError
from workbench.papers.shiftaddnet.adder import Adder2d
from workbench.papers.shiftaddnet.method import SmallNet
from workbench.papers.shiftaddnet.shift import ShiftPS2d, ShiftQ2d, straight

RANGE = 0.999
"""Share of a layer's inputs that lies in its range: the few beyond are clipped."""


def weight_layers(net: nn.Module) -> list[nn.Conv2d]:
    """Convolutions, shift and adder layers, from input to output."""
    return [module for module in net.modules() if isinstance(module, nn.Conv2d)]


@dataclass(frozen=True, eq=False)
class Grid:
    """2^bits levels, ``step`` apart, that reach from the multiple of it nearest to ``low``."""

    bits: int
    low: float
    high: float

    def __call__(self, x: Tensor) -> Tensor:
        """The nearest level; the gradient passes straight through."""
        step = (self.high - self.low) / (2**self.bits - 1) or 1.0  # all zeros are one level
        first = round(self.low / step)
        return straight(x, lambda x: (x / step).round_().clamp_(first, first + 2**self.bits - 1).mul_(step))


class _Rounded(nn.Module):
    """A `Grid` as torch's parametrisation of a weight."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, weight: Tensor) -> Tensor:
        return self.grid(weight)


@torch.no_grad()
def input_ranges(net: nn.Module, images: Tensor) -> list[tuple[float, float]]:
    """Of every weight layer, between which numbers `RANGE` of its inputs lie, 0 included."""
    ranges = []

    def note(_: nn.Module, args: tuple[Tensor]) -> None:
        values, tail = args[0].flatten(), (1 - RANGE) / 2
        ranges.append(
            tuple(float(values.quantile(q).clamp(*ends)) for q, ends in ((tail, (None, 0)), (1 - tail, (0, None))))
        )

    hooks = [layer.register_forward_pre_hook(note) for layer in weight_layers(net)]
    net(images)
    for hook in hooks:
        hook.remove()
    return ranges


def quantise(net: SmallNet, bits: int, images: Tensor) -> SmallNet:
    """A copy whose weight layers see inputs and weights of ``bits`` bits; it can be trained on (straight-through).

    Args:
        net: trained, in evaluation mode.
        bits: 2 or more.
        images: that set the inputs' ranges.

    Raises:
        WorkbenchError: for fewer bits.
    """
    if bits < 2:
        raise WorkbenchError(f"{bits} bits: a weight needs a sign and something beside it; give 2 or more")
    twin = copy.deepcopy(net)
    for layer, (low, high) in zip(weight_layers(twin), input_ranges(twin, images), strict=True):
        if isinstance(layer, ShiftQ2d | ShiftPS2d):
            layer.bits = min(bits, layer.bits)
        else:
            smallest, largest = layer.weight.detach().aminmax()
            ends = min(smallest.item(), 0.0), max(largest.item(), 0.0)
            if isinstance(layer, Adder2d):
                low, high = ends = min(low, ends[0]), max(high, ends[1])
            parametrize.register_parametrization(layer, "weight", _Rounded(Grid(bits, *ends)))
        grid = Grid(bits, low, high)
        layer.register_forward_pre_hook(lambda _, args, grid=grid: (grid(args[0]),))
    return twin


def weights_of(layer: nn.Conv2d) -> Tensor:
    """The weights that a layer computes with."""
    return (layer.weights() if isinstance(layer, ShiftQ2d | ShiftPS2d) else layer.weight).detach()


def zeros(net: SmallNet) -> float:
    """Share of the hidden weights that are 0."""
    weights = torch.cat([weights_of(layer).flatten() for layer in weight_layers(net.hidden)])
    return (weights == 0).double().mean().item()


@torch.no_grad()
def prune(net: SmallNet, share: float, which: str, generator: torch.Generator) -> SmallNet | None:
    """A copy in which the smallest weights of some hidden layers are 0, so that ``share`` of ALL hidden weights are.

    Every layer that is pruned loses the same fraction of its weights, those first that are 0 already. Powers of two
    tie: by their latent size where there is one, else by chance. A template weight of an adder layer that is 0 still
    costs the response the size of its input.

    Args:
        net: trained.
        share: of all hidden weights.
        which: ``all``, or only those of the ``shift`` or ``add`` layers.
        generator: breaks ties.

    Returns:
        None where these layers hold no such share of the weights.
    """
    twin = copy.deepcopy(net)
    layers = weight_layers(twin.hidden)
    total = sum(weights_of(layer).numel() for layer in layers)
    chosen = [layer for layer in layers if which == "all" or isinstance(layer, Adder2d) == (which == "add")]
    own = sum(weights_of(layer).numel() for layer in chosen)
    if share * total > own:
        return None
    for layer in chosen:
        used = weights_of(layer).flatten()
        latent = layer.shift.flatten() if isinstance(layer, ShiftPS2d) else layer.weight.flatten().abs()
        size = torch.where(used == 0, -torch.inf, latent)
        at = torch.randperm(len(size), generator=generator)
        smallest = at[size[at].argsort(stable=True)[: round(share * total / own * len(size))]]
        stored = layer.sign if isinstance(layer, ShiftPS2d) else layer.weight
        stored.view(-1)[smallest] = 0
    return twin


def kinds_of_layers(net: SmallNet) -> list[str]:
    """What `prune` can take apart: ``all``, and each sort where there are two."""
    sorts = {isinstance(layer, Adder2d) for layer in weight_layers(net.hidden)}
    return ["all", "shift", "add"] if len(sorts) == 2 else ["all"]
