"""SD-training: a network that is trained in its decomposed form, its coefficients moved by bucket switching.

The parameters of a layer are C and B; its weight is ``C B`` at every step, so there is no dense weight that could be
evaluated by mistake. B follows ordinary SGD. C holds powers of two, which no small step can change: so the steps that
SGD would take are counted in buckets, and a coefficient is doubled or halved when its bucket is full.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from workbench import WorkbenchError
from workbench.papers.smartdeal.decompose import (
    LARGEST,
    Decomposition,
    eight_bits,
    from_blocks,
)


class Product(nn.Module):
    """A weight as C times B: a parametrisation, so that the layer computes with nothing else."""

    def __init__(self, start: Decomposition) -> None:
        super().__init__()
        self.start, self.shape = start, start.shape

    def right_inverse(self, _: Tensor) -> tuple[Tensor, Tensor]:
        """C and B to begin with."""
        return self.start.coefficients.clone(), self.start.basis.clone()

    def forward(self, coefficients: Tensor, basis: Tensor) -> Tensor:
        """The weight."""
        return from_blocks(coefficients @ basis, self.shape)


def deal(layer: nn.Module, start: Decomposition) -> None:
    """Give a layer the parameters C and B of ``start`` instead of its weight, in place.

    Raises:
        WorkbenchError: when they are of another shape than the weight.
    """
    if tuple(layer.weight.shape) != start.shape:
        raise WorkbenchError(f"a decomposition of {start.shape} is not one of a weight {tuple(layer.weight.shape)}")
    parametrize.register_parametrization(layer, "weight", Product(start))


def is_dealt(layer: nn.Module) -> bool:
    """Has the layer been given C and B?"""
    return parametrize.is_parametrized(layer, "weight")


def coefficients(layer: nn.Module) -> nn.Parameter:
    """C ``[M, R, 3]`` of a layer."""
    return layer.parametrizations.weight.original0


def basis(layer: nn.Module) -> nn.Parameter:
    """B ``[M, 3, 3]`` of a layer."""
    return layer.parametrizations.weight.original1


def dealt(layer: nn.Module) -> Decomposition:
    """What the layer holds now, its bases rounded to 8 bits as they are stored."""
    return Decomposition(coefficients(layer).detach().clone(), eight_bits(basis(layer).detach()), layer.weight.shape)


class BucketSwitch:
    """The update of coefficients: the code's bucket switching.

    Let ``dC = -lr v`` be the step of SGD with momentum. Steps of at most ``ignore`` are dropped; of the others the
    signs are added up, entry by entry. Where the sum reaches ``+-bar``, C is multiplied by ``2^(sign dC sign C)``: it
    doubles or halves. A halved coefficient below the smallest one becomes 0, a zero inside the mask returns as
    ``+-smallest``: the sign changes only by way of zero. The counter begins anew after each switch and each epoch.

    Args:
        parameters: coefficients ``[M, R, 3]``, zero or powers of two; what is zero now is masked out for good.
        smallest: magnitude of the smallest coefficient, a power of two; one for all, or one a parameter.
        bar: steps in one direction, net, until a switch.
        ignore: largest step that does not count.
        momentum: of v.

    Raises:
        WorkbenchError: a coefficient is no power of two, a setting makes no sense.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        smallest: Iterable[float] | float,
        bar: int = 7,
        ignore: float = 2e-4,
        momentum: float = 0.9,
    ) -> None:
        self.parameters = list(parameters)
        self.smallest = [smallest] * len(self.parameters) if isinstance(smallest, float | int) else list(smallest)
        if bar < 1 or ignore < 0 or len(self.smallest) != len(self.parameters):
            raise WorkbenchError(f"bar {bar} must be at least 1, ignore {ignore} at least 0, a smallest one a layer")
        for c in [*self.parameters, torch.tensor(self.smallest)]:
            mantissa = torch.frexp(c.detach()).mantissa.abs()
            if not ((mantissa == 0.5) | (mantissa == 0)).all():
                raise WorkbenchError("bucket switching moves powers of two only: decompose the weights first")
        self.bar, self.ignore, self.momentum = bar, ignore, momentum
        self.masks = [c.detach() != 0 for c in self.parameters]
        self.velocity = [torch.zeros_like(c) for c in self.parameters]
        self.counters = [torch.zeros_like(c) for c in self.parameters]

    def new_epoch(self) -> None:
        """Empty the buckets."""
        for counter in self.counters:
            counter.zero_()

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move the coefficients by the gradients they have, and drop these."""
        state = zip(self.parameters, self.smallest, self.masks, self.velocity, self.counters, strict=True)
        for c, smallest, mask, velocity, counter in state:
            velocity.mul_(self.momentum).add_(c.grad)
            change = -lr * velocity
            direction = change.sign() * (change.abs() > self.ignore) * mask
            counter += direction
            full = counter.abs() >= self.bar
            c.copy_(torch.where(full, switched(c, counter.sign(), smallest), c))
            counter.masked_fill_(full, 0)
            c.grad = None

    def state_bits(self) -> Mapping[str, int]:
        """What training keeps beside the weights, by name: a 32-bit velocity and a counter a masked entry."""
        entries = sum(int(mask.sum()) for mask in self.masks)
        return {"velocity": 32 * entries, "counters": (1 + self.bar.bit_length()) * entries}


def switched(c: Tensor, direction: Tensor, smallest: float) -> Tensor:
    """Each coefficient one step in its direction (+1 or -1): doubled, halved, to zero, or from zero."""
    moved = c * 2.0 ** (direction * c.sign())
    moved = torch.where(moved.abs() < smallest, 0.0, moved.clamp(-LARGEST, LARGEST))
    return torch.where(c == 0, direction * smallest, moved)


def smallest_coefficient(threshold: float) -> float:
    """The smallest power of two that is not below the threshold: where a coefficient ends and returns."""
    return 2.0 ** int(torch.tensor(threshold).log2().ceil())
