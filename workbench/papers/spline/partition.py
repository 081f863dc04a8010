"""Exact partition of a plane in input space into the polygons on which a network is affine.

Balestriero and Baraniuk, "A Spline Theory of Deep Networks", ICML 2018: layer by layer, each region of the
layers before is cut along the lines where a unit of this layer changes sign, and on every region the network is
one affine map of the plane coordinates (s, t), kept as three rows that multiply s, t and 1.

All regions of a block are handled at once. A layer works in rounds: in each, every region that some unit still
cuts is split by one unit of its own, and the halves inherit the rest. Blocks are followed depth first, so that
their maps stay in the cache.

A vertex is the crossing of two lines, and how exactly these two fix it goes with it: tolerances are local, as
small as rounding allows where regions are small.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import WorkbenchError

BLOCK = 2**22  # bytes of the maps of one block of regions at the widest layer
ULPS = 64 * np.finfo(np.float64).eps  # a unit is zero where rounding could have moved it there
INEXACT = 1e-10  # of the polygon's area: where regions together miss as much, they are refused
RANGE = 1e4  # times the size of most units of a layer: what a larger one hides of the others cannot be told
NEVER = -1e300  # the value of max-pool padding; infinity would make NaN
MANY = 127  # entries of a pooling window that int8 can number

AFFINE = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten)
NOTHING = (nn.Identity, nn.Dropout)  # in evaluation


class Absolute(nn.Module):
    """|x|, entry by entry."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x.abs()


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that the body keeps."""
        return x + self.body(x)


@dataclass(frozen=True, eq=False)
class Plane:
    """The points origin + s u + t v; all three have the shape of one network input."""

    origin: Tensor
    u: Tensor
    v: Tensor

    @classmethod
    def through(cls, first: Tensor, second: Tensor, third: Tensor) -> Plane:
        """The plane with these inputs at (s, t) = (0, 0), (1, 0) and (0, 1)."""
        return cls(first.double(), second.double() - first.double(), third.double() - first.double())

    def points(self, st: ArrayLike) -> Tensor:
        """Network inputs ``[n, *input]``, float64, at plane coordinates ``[n, 2]``."""
        rows = torch.stack([self.u, self.v, self.origin]).double()
        st = torch.as_tensor(np.asarray(st, np.float64))
        return torch.tensordot(F.pad(st, (0, 1), value=1.0), rows, 1)


@dataclass(frozen=True, eq=False)
class Boundary:
    """Where the winning class changes: ``segments`` ``[S, 2, 2]`` between the classes ``[S, 2]``, lower first."""

    segments: NDArray
    classes: NDArray


@dataclass(frozen=True, eq=False)
class Partition:
    """R convex polygons, counter-clockwise in plane coordinates, on each of which the network is affine.

    Attributes:
        vertices: ``[V, 2]``; polygon r has ``vertices[starts[r] : starts[r + 1]]``.
        starts: int64 ``[R + 1]``.
        patterns: int8 ``[R, units]``, one a nonlinear layer: the sign of each unit (0 where it is zero all over
            the region), or the winner's place in each max-pool window.
        maps: ``[R, C, 3]``: the logits are ``maps[..., :2] @ (s, t) + maps[..., 2]``.
        largest: ``[R, 3]``, how large the terms were that entered the last affine layers.
        sizes: ``[2, C]``, what these make of them, see `read`.
    """

    vertices: NDArray
    starts: NDArray
    patterns: list[NDArray]
    maps: NDArray
    largest: NDArray
    sizes: NDArray

    def polygons(self) -> Iterator[NDArray]:
        """Each region's vertices ``[n, 2]``."""
        return (self.vertices[a:b] for a, b in zip(self.starts, self.starts[1:], strict=False))

    @property
    def areas(self) -> NDArray:
        """``[R]``, in plane coordinates."""
        return moments(self.vertices.T, np.diff(self.starts))[0]

    @property
    def centroids(self) -> NDArray:
        """``[R, 2]``: always inside."""
        area, moment = moments(self.vertices.T, np.diff(self.starts))
        return self.vertices[self.starts[:-1]] + (moment / (3 * area)).T

    def won_by(self, label: int) -> Iterator[NDArray]:
        """Convex polygons ``[n, 2]`` that together are where argmax over the logits says ``label``."""
        edges, counts, _, winner = self._cells
        edges, counts = take(edges, counts, np.flatnonzero(winner == label))
        return (edges[:2, a : a + n].T for a, n in zip(offsets(counts), counts, strict=True))

    def boundary(self) -> Boundary:
        """The exact decision boundary of argmax over the logits; on a tie the lowest class wins.

        An edge along which the winner of a cell ties may be a boundary; it is one if the cell on its other side,
        which has the same edge reversed, has another winner.
        """
        edges, counts, parent, winner = self._cells
        winner = np.repeat(winner, counts).astype(np.int64)
        sizes = bounds(np.repeat(self.sizes[:, None], len(parent), 1), self.largest[parent])
        values, tolerance = evaluate(self.maps[parent].transpose(1, 2, 0), sizes, edges, counts)
        highest = np.take_along_axis(tolerance, values.argmax(0)[None], 0)
        near, ahead = values.max(0) - values <= 2 * (tolerance + highest), following(counts)
        tied = np.flatnonzero((near & near[:, ahead]).sum(0) > 1)
        a, b, winner = edges[:2, tied].T, edges[:2, ahead[tied]].T, winner[tied]
        if not len(tied):
            return Boundary(np.empty((0, 2, 2)), np.empty((0, 2), np.int64))
        reach = 1e-9 * np.abs(self.vertices).max()
        distance, other = cKDTree(np.hstack([a, b])).query(np.hstack([b, a]), distance_upper_bound=reach)
        lower = np.flatnonzero(np.isfinite(distance))
        lower = lower[winner[lower] < winner[other[lower]]]
        return Boundary(np.stack([a, b], 1)[lower], np.stack([winner[lower], winner[other[lower]]], 1))

    @cached_property
    def _cells(self) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """Every region cut into the cells of its winners: polygons, their sizes, regions and winners."""
        windows = self.maps.transpose(0, 2, 1)[:, :, None]
        counts = np.diff(self.starts)
        layer = Windows("boundary", (1,), self.sizes[:, None], windows.shape[-1])
        edges = geometry(self.vertices.T, counts)
        edges, counts, parent, winner = subdivide(layer, windows, self.largest, edges, counts, np.inf)
        check_areas(moments(edges[:2], counts)[0], self.areas.sum())
        return edges, counts, parent, winner[:, 0]


# --- ragged polygons: [7, V] = x, y, their uncertainty in units of rounding, and the line of the edge to the next ---


def offsets(counts: NDArray) -> NDArray:
    """Where each of the ragged rows begins."""
    return counts.cumsum() - counts


def ranges(starts: NDArray, counts: NDArray) -> NDArray:
    """The indices start, start + 1, ... of each row, one row after the other."""
    return np.arange(counts.sum()) + np.repeat(starts - offsets(counts), counts)


def following(counts: NDArray) -> NDArray:
    """The next vertex of the same polygon, of every vertex."""
    ahead = np.arange(1, counts.sum() + 1)
    ahead[counts.cumsum() - 1] = offsets(counts)
    return ahead


def moments(xy: NDArray, counts: NDArray) -> tuple[NDArray, NDArray]:
    """Area ``[R]`` and first moments ``[2, R]`` (times 3) of polygons ``[2, V]`` about each one's first vertex."""
    starts = offsets(counts)
    here = xy - np.repeat(xy[:, starts], counts, 1)
    there = here[:, following(counts)]
    cross = (here[0] * there[1] - here[1] * there[0]) / 2
    return np.add.reduceat(cross, starts), np.add.reduceat(cross * (here + there), starts, axis=1)


def check_areas(areas: NDArray, whole: float) -> None:
    """Refuse polygons that overlap or leave something out."""
    if max(abs(areas.sum() - whole), -areas.min()) > INEXACT * whole:
        raise WorkbenchError(
            "units of one layer, or classes, are so many times larger than others that float64 cannot tell where their "
            "lines cross: scale the largest weights down, or take a smaller polygon"
        )


def take(edges: NDArray, counts: NDArray, which: NDArray) -> tuple[NDArray, NDArray]:
    """Some of the polygons."""
    return edges.take(ranges(offsets(counts)[which], counts[which]), axis=1), counts[which]


def geometry(xy: NDArray, counts: NDArray) -> NDArray:
    """Polygons ``[7, V]`` of vertices ``[2, V]``."""
    (x, y), (u, v) = xy, xy[:, following(counts)]
    return np.stack([x, y, abs(x), abs(y), y - v, u - x, x * v - u * y])


def crossing(first: NDArray, second: NDArray) -> NDArray:
    """Where lines a x + b y + c = 0, ``[3, n]``, meet: x, y and the uncertainty of both, ``[4, n]``.

    Symmetric: a pair of lines gives the same bits in either order, so neighbours share their vertices.
    """
    (a, b, c), (d, e, f) = first, second
    ae, bd, bf, ce, cd, af = a * e, b * d, b * f, c * e, c * d, a * f
    det = ae - bd
    x, y = (bf - ce) / det, (cd - af) / det
    slack, det = abs(ae) + abs(bd), abs(det)
    return np.stack([x, y, (abs(bf) + abs(ce) + abs(x) * slack) / det, (abs(cd) + abs(af) + abs(y) * slack) / det])


def bounds(sizes: NDArray, largest: NDArray) -> NDArray:
    """The terms of units with ``sizes`` ``[2, P, ...]`` (see `read`) where ``largest`` ``[P, 3]`` came in.

    Returns ``[..., 3, P]``.
    """
    factor, offset = np.moveaxis(sizes, 1, -1)
    found = factor[..., None, :] * largest.T
    found[..., 2, :] += offset
    return found


def evaluate(lines: NDArray, sizes: NDArray, edges: NDArray, counts: NDArray) -> tuple[NDArray, NDArray]:
    """One unit a polygon, ``[..., 3, P]``, at its vertices: values ``[..., V]``, and a bound on rounding of each.

    ``sizes``, of the same shape or ``[3, P]``, bounds the terms that were summed up to the units' coefficients.
    """
    a, b, c = np.moveaxis(np.repeat(lines, counts, axis=-1), -2, 0)
    da, db, dc = np.moveaxis(np.repeat(ULPS * sizes, counts, axis=-1), -2, 0)
    x, y, dx, dy = edges[:4]
    return a * x + b * y + c, da * dx + db * dy + dc


def sides(values: NDArray, tolerance: NDArray) -> NDArray:
    """1 where positive, 2 where negative, 0 on the line: two bits, so that "or" tells where a polygon lies."""
    return (values > tolerance).view(np.uint8) | ((values < -tolerance).view(np.uint8) << 1)


def clip(
    edges: NDArray, counts: NDArray, lines: NDArray, side: NDArray, kept: tuple[int, ...]
) -> tuple[NDArray, NDArray]:
    """Cut each polygon at its line ``[3, P]``; ``side`` ``[V]`` says where its vertices lie.

    The sides ``kept``, 1 or 2 or both, follow each other; a polygon with nothing there is left without vertices.
    """
    V, first, ahead = len(side), offsets(counts), side[following(counts)]
    crossed = side * ahead == 2
    where, lines = np.flatnonzero(crossed), np.repeat(lines, counts, axis=1)
    both = edges[4:, where]
    pool = np.hstack([edges, np.concatenate([crossing(both, lines[:, where]), both])])
    # Two slots a vertex: itself, and the crossing on the edge behind it. Where the polygon leaves, the line is next.
    slot = np.stack([np.arange(V), V - 1 + crossed.cumsum()], 1).ravel()
    parts, numbers = [], []
    for this in kept:
        own, gone = side != 3 - this, ahead == 3 - this
        keep = np.flatnonzero(np.stack([own, crossed], 1))
        leave = np.flatnonzero(np.stack([gone & (side == 0), gone & crossed], 1).ravel()[keep])
        parts.append(pool.take(slot[keep], axis=1))
        parts[-1][4:, leave] = lines[:, keep[leave] // 2]
        numbers.append(np.add.reduceat(own.view(np.int8) + crossed, first))
    return np.hstack(parts), np.hstack(numbers)


# --- nonlinear layers: which units cut a region, and into what --------------------------------------------------


Children = tuple[NDArray, NDArray, NDArray, NDArray]  # edges [7, V], counts, parents and labels


@dataclass
class Hinges:
    """ReLU (slope 0), leaky ReLU, absolute value (slope -1): units are affine functions ``[R, 3, n]``.

    ``sizes`` ``[2, n]`` are those of `read`, ``shape`` is the output's.
    """

    name: str
    shape: tuple[int, ...]
    sizes: NDArray
    slope: float

    def units(self, maps: Tensor) -> NDArray:
        """Maps ``[R, 3, *shape]`` as units."""
        return maps.flatten(2).numpy()

    def settle(self, units: NDArray, centre: NDArray, half: NDArray, slack: NDArray) -> tuple[NDArray, NDArray]:
        """Signs ``[R, n]`` at the centres ``[2, R]`` of boxes, and whether they may change, or vanish, within ``half``.

        ``slack`` ``[R]`` is the rounding of the largest coefficients.
        """
        (x, y), (dx, dy) = centre[..., None], half[..., None]
        a, b = units[:, 0], units[:, 1]
        z = a * x + b * y + units[:, 2]
        reach = abs(a) * dx + abs(b) * dy + slack[:, None] * self.sizes[0] + ULPS * self.sizes[1]
        return np.sign(z).astype(np.int8), abs(z) < reach

    def decide(self, lines: NDArray, sizes: NDArray, edges: NDArray, counts: NDArray) -> tuple[NDArray, NDArray]:
        """Sign of one unit ``[3, P]`` a polygon, and whether it really cuts."""
        found = np.bitwise_or.reduceat(sides(*evaluate(lines, sizes, edges, counts)), offsets(counts))
        return np.array([0, 1, -1, 0], np.int8)[found], found == 3

    def split(self, lines: NDArray, sizes: NDArray, edges: NDArray, counts: NDArray) -> Children:
        """Both halves of every polygon: edges, counts, source polygon and sign."""
        halves = clip(edges, counts, lines, sides(*evaluate(lines, sizes, edges, counts)), (1, 2))
        sign = np.repeat(np.array([1, -1], np.int8), len(counts))
        return *halves, np.tile(np.arange(len(counts)), 2), sign

    def apply(self, units: NDArray, parent: NDArray, sign: NDArray) -> Tensor:
        """Maps behind the layer, of children with these parents and signs ``[R, n]``."""
        maps = units[parent]
        maps *= np.array([0.0, 1.0, self.slope])[sign][:, None]
        return torch.from_numpy(maps).unflatten(2, self.shape)

    def largest(self, units: NDArray, parent: NDArray, sign: NDArray, behind: Tensor) -> NDArray:
        """How large the terms were that made up the living units of each child, ``[R, 3]``.

        Units that cancelled tell less than their neighbours, and dead ones say nothing of how large their own terms
        were: so the largest unit of all counts, at the scale of the weights of those that live.
        """
        scale, offset = self.sizes
        terms = abs(units)
        terms[:, 2] = np.maximum(terms[:, 2] - offset, 0)
        terms *= np.divide(1, scale, where=scale > 0, out=np.zeros_like(scale))
        slope = abs(np.array([0.0, 1.0, self.slope]))[sign]
        found = terms.max(2)[parent] * (slope * scale).max(1)[:, None]
        found[:, 2] += (slope * offset).max(1)
        return np.maximum(found, coefficients(behind))


@dataclass
class Windows:
    """Max pooling: units are W windows of m affine functions, ``[R, 3, W, m]``; the lowest place wins a tie.

    ``sizes`` ``[2, W, m]`` are those of `read`.
    """

    name: str
    shape: tuple[int, ...]
    sizes: NDArray
    entries: int
    pool: nn.MaxPool2d | None = None

    def units(self, maps: Tensor) -> NDArray:
        """Maps ``[R, 3, c, h, w]`` as windows; padding never wins."""
        pool, (down, across) = self.pool, pair(self.pool.padding)
        padded = F.pad(maps, (across, across, down, down))
        padded[:, 2] = F.pad(maps[:, 2], (across, across, down, down), value=NEVER)
        columns = F.unfold(padded.flatten(0, 1), pool.kernel_size, pool.dilation, 0, pool.stride)
        return columns.unflatten(1, (-1, self.entries)).unflatten(0, (-1, 3)).transpose(3, 4).flatten(2, 3).numpy()

    def settle(self, units: NDArray, centre: NDArray, half: NDArray, slack: NDArray) -> tuple[NDArray, NDArray]:
        """As for hinges: the winners ``[R, W]``; an exact tie, as behind ReLU, is settled and ``slack`` not used."""
        (x, y), (dx, dy) = centre[..., None, None], half[..., None, None]
        z = units[:, 0] * x + units[:, 1] * y + units[:, 2]
        winner = z.argmax(-1)
        best = np.take_along_axis(units, winner[:, None, :, None], -1)
        a, b = (abs(best[:, i] - units[:, i]) for i in (0, 1))
        lead = z.max(-1, keepdims=True) - z
        return winner.astype(np.int8), (lead < a * dx + b * dy).any(-1)

    def decide(self, lines: NDArray, sizes: NDArray, edges: NDArray, counts: NDArray) -> tuple[NDArray, NDArray]:
        """Winner of one window ``[m, 3, P]`` a polygon, and whether another entry wins somewhere.

        Who wins at all vertices wins everywhere, and has the largest sum over them.
        """
        values, tolerance = evaluate(lines, sizes, edges, counts)
        winner = np.add.reduceat(values, offsets(counts), axis=1).argmax(0)
        best, vertex = np.repeat(winner, counts), np.arange(values.shape[1])
        beaten = (values - values[best, vertex] > tolerance + tolerance[best, vertex]).any(0)
        return winner.astype(np.int8), np.logical_or.reduceat(beaten, offsets(counts))

    def split(self, lines: NDArray, sizes: NDArray, edges: NDArray, counts: NDArray) -> Children:
        """The cell of every entry, clipped against each other one in turn; empty cells are dropped."""
        m, P = self.entries, len(counts)
        source, winner = np.repeat(np.arange(P), m), np.tile(np.arange(m, dtype=np.int8), P)
        edges, counts = take(edges, counts, source)
        for other in range(m):
            mine, others = lines[winner, :, source].T, lines[other][:, source]
            terms = np.stack([sizes[winner, :, source].T, sizes[other][:, source]])
            value, tolerance = evaluate(np.stack([mine, others]), terms, edges, counts)
            side = sides(value[0] - value[1], tolerance.sum(0))
            found = np.bitwise_or.reduceat(side, offsets(counts))
            side[np.repeat((found == 0) & (winner > other), counts)] = 2  # equal everywhere: the lower place wins
            side[np.repeat(found == 2, counts)] = 2  # it only touches
            edges, counts = clip(edges, counts, mine - others, side, (1,))
            left = counts > 0
            source, winner, counts = source[left], winner[left], counts[left]
        return edges, counts, source, winner

    def apply(self, units: NDArray, parent: NDArray, winner: NDArray) -> Tensor:
        """As for hinges."""
        maps = np.take_along_axis(units[parent], winner[:, None, :, None].astype(np.int64), -1)
        return torch.from_numpy(maps[..., 0]).unflatten(2, self.shape)

    def largest(self, units: NDArray, parent: NDArray, winner: NDArray, behind: Tensor) -> NDArray:
        """As for hinges; padding has no size."""
        sizes = abs(units)
        sizes[sizes == -NEVER] = 0
        return sizes.max((2, 3))[parent]


def subdivide(
    layer: Hinges | Windows, units: NDArray, largest: NDArray, edges: NDArray, counts: NDArray, limit: float
) -> Children:
    """Cut polygons until no unit changes inside one.

    Args:
        layer: what a unit is, and when it cuts.
        units: affine functions of every polygon, ``[R, 3, units, ...]``.
        largest: coefficients that entered the affine layers before, ``[R, 3]``.
        edges: polygons ``[7, V]``, with ``counts`` ``[R]`` vertices each.
        counts: see there.
        limit: how many polygons there may be.

    Returns:
        Edges and counts of the children, their parents, and the labels (signs, winners) ``[children, units]``.
    """
    low, high = (extreme.reduceat(edges[:2], offsets(counts), axis=1) for extreme in (np.minimum, np.maximum))
    slack = ULPS * ((largest[:, :2].T * np.maximum(-low, high)).sum(0) + largest[:, 2])
    labels, unsettled = layer.settle(units, (low + high) / 2, (high - low) / 2, slack)
    # A candidate is a unit that may cut a region; candidates of a region stand side by side.
    region, unit = np.nonzero(unsettled)
    lines, candidate, parent, done = units[region, :, unit].T, np.arange(len(unit)), np.arange(len(counts)), []
    sizes = bounds(layer.sizes[:, unit], largest[region])
    while True:
        if len(region):
            label, cut = layer.decide(lines[..., candidate], sizes[..., candidate], *take(edges[:4], counts, region))
            labels[region[~cut], unit[candidate[~cut]]] = label[~cut]
            region, candidate = region[cut], candidate[cut]
        number = np.bincount(region, minlength=len(counts))
        whole, active = np.flatnonzero(number == 0), np.flatnonzero(number)
        done.append((*take(edges, counts, whole), parent[whole], labels[whole]))
        if not len(active):
            edges, counts, parent, labels = zip(*done, strict=True)
            return np.hstack(edges), np.hstack(counts), np.hstack(parent), np.concatenate(labels)
        number = number[active]
        # The middle one: sorted parallel lines, the worst case, then take log n rounds.
        middle = offsets(number) + number // 2
        chosen, candidate = candidate[middle], np.delete(candidate, middle)
        polygons = take(edges, counts, active)
        edges, counts, source, label = layer.split(lines[..., chosen], sizes[..., chosen], *polygons)
        parent, labels, number = parent[active][source], labels[active[source]], number - 1
        labels[np.arange(len(source)), unit[chosen][source]] = label
        candidate = candidate[ranges(offsets(number)[source], number[source])]
        region = np.repeat(np.arange(len(source)), number[source])
        if sum(len(part[1]) for part in done) + len(counts) > limit:
            raise WorkbenchError(f"{layer.name}: too many regions: take a smaller polygon, or raise the limit")


# --- the network as a list of steps -----------------------------------------------------------------------------


@dataclass
class Affine:
    """Any module that is affine in evaluation: its linear part, without hooks, and its value at zero."""

    linear: nn.Module
    offset: Tensor

    def __call__(self, maps: Tensor) -> Tensor:
        """Maps ``[R, 3, *shape]`` to the next shape; the offset belongs to the constant row."""
        maps = self.linear.forward(maps.flatten(0, 1)).unflatten(0, (-1, 3))
        maps[:, 2] += self.offset
        return maps


SAVE, ADD = "save", "add"  # around the body of a residual connection
Step = Affine | Hinges | Windows | str
State = tuple[Tensor, NDArray]  # maps [R, 3, *shape], and the largest terms [R, 3] of the last nonlinear layer


def read(module: nn.Module, name: str, sizes: Tensor, steps: list[Step]) -> Tensor:
    """Append the steps of ``module`` to ``steps``.

    Args:
        module: the network, or a part of it.
        name: of the part, for errors.
        sizes: how large the terms that make up each entry can be, ``[2, *shape]``: a factor of the largest
            coefficient behind the last nonlinear layer, and what the offsets add.
        steps: the list so far.

    Returns:
        The sizes behind the module.
    """
    here, kind, shape = f"layer {name or 'at the top'} ({type(module).__name__})", type(module), tuple(sizes.shape[1:])
    if isinstance(module, nn.Sequential) and kind.forward is nn.Sequential.forward:
        for child, part in enumerate(module):  # named_children would skip a module that stands here twice
            sizes = read(part, f"{name}.{child}".lstrip("."), sizes, steps)
        return sizes
    for value in [*module.parameters(), *module.buffers()]:
        if not value.isfinite().all():
            raise WorkbenchError(f"{here}: weights hold NaN or infinity: train it again")
    if kind is Residual:
        steps.append(SAVE)
        body = read(module.body, f"{name}.body".lstrip("."), sizes, steps)
        steps.append(ADD)
        if body.shape != sizes.shape:
            raise WorkbenchError(f"{here}: the body turns {shape} into {tuple(body.shape[1:])}: it must keep the shape")
        return sizes + body
    if kind in NOTHING:
        return sizes
    slope = {nn.ReLU: 0.0, Absolute: -1.0, nn.LeakyReLU: getattr(module, "negative_slope", None)}.get(kind)
    if slope is not None:
        if kind is nn.LeakyReLU and not 0 <= slope < 1:
            raise WorkbenchError(f"{here}: its slope is {slope}: take one from 0 up to, not including, 1")
        reach = sizes.flatten(1).sum(0)
        if reach.any() and reach.max() > RANGE * reach[reach > 0].median():
            raise WorkbenchError(f"{here}: one unit's weights are {RANGE:g} times most others': scale them down")
        steps.append(Hinges(here, shape, sizes.flatten(1).numpy(), slope))
        return fresh(shape)
    pools = kind is nn.MaxPool2d and not module.ceil_mode and not module.return_indices
    if not (pools or (kind in AFFINE and getattr(module, "running_mean", 0) is not None)):
        names = ", ".join(k.__name__ for k in (nn.Sequential, Residual, nn.ReLU, nn.LeakyReLU, Absolute, *AFFINE))
        raise WorkbenchError(
            f"{here}: not supported: use {names}, MaxPool2d (no ceil_mode, no indices), Identity or Dropout; "
            "batch norm needs running statistics"
        )
    linear = copy.deepcopy(module).double().eval()
    try:
        offset = linear.forward(torch.zeros_like(sizes[:1]))[0]
    except (RuntimeError, ValueError) as error:
        raise WorkbenchError(f"{here}: does not take an input of shape {shape}: correct the plane") from error
    if pools:
        m = math.prod(pair(module.kernel_size))
        if m > MANY:
            raise WorkbenchError(f"{here}: windows of {m} entries: at most {MANY} are supported")
        worst = linear.forward(sizes).flatten(1)[..., None].expand(-1, -1, m).numpy()  # of each window
        steps.append(Windows(here, tuple(offset.shape), worst, m, linear))
        return fresh(offset.shape)
    for part in ("bias", "running_mean"):
        if isinstance(getattr(linear, part, None), Tensor):
            getattr(linear, part).zero_()
    steps.append(Affine(linear, offset))
    absolute = copy.deepcopy(linear)
    for weight in absolute.parameters():
        weight.abs_()
    sizes = absolute.forward(sizes)
    sizes[1] += offset.abs()
    return sizes


def fresh(shape: tuple[int, ...]) -> Tensor:
    """Sizes where the largest coefficient is taken anew."""
    return torch.stack([torch.ones(shape), torch.zeros(shape)]).double()


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """PyTorch's size arguments: one number stands for both directions."""
    return value if isinstance(value, tuple) else (value, value)


def convex(polygon: ArrayLike) -> NDArray:
    """The polygon as float64 ``[n, 2]``, counter-clockwise; a clockwise one is turned round.

    Raises WorkbenchError unless it is a convex polygon with an area.
    """
    xy = np.asarray(polygon, np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2 or len(xy) < 3:
        raise WorkbenchError(f"a polygon is three or more vertices [n, 2], not an array of shape {xy.shape}")
    if not np.isfinite(xy).all():
        raise WorkbenchError("the polygon has vertices at NaN or infinity")
    x, y = (xy - xy[:1]).T
    area = (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    if area < 0:
        xy = xy[::-1]
    edge = np.roll(xy, -1, 0) - xy
    ahead = np.roll(edge, -1, 0)
    if not edge.any(1).all():
        raise WorkbenchError("the polygon has the same vertex twice in a row")
    turn = np.arctan2(edge[:, 0] * ahead[:, 1] - edge[:, 1] * ahead[:, 0], (edge * ahead).sum(1))
    if turn.min() < -1e-12 or turn.sum() > 7:  # once round is 2 pi
        raise WorkbenchError("the polygon is not convex: give its vertices in order, all turning the same way")
    if abs(area) < 1e-12 * np.ptp(xy) ** 2:
        raise WorkbenchError("the polygon has no area")
    return xy


def coefficients(maps: Tensor) -> NDArray:
    """The largest of each row of maps, ``[R, 3]``; no nonlinear layer makes them larger."""
    low, high = maps.flatten(2).aminmax(dim=2)
    return torch.maximum(-low, high).numpy()


@torch.no_grad()
def partition(net: nn.Module, polygon: ArrayLike, plane: Plane | None = None, limit: int = 2_000_000) -> Partition:
    """Cut a convex polygon into the regions on which ``net`` (in evaluation mode, in float64) is affine.

    Args:
        net: of nn.Sequential and the modules that `read` knows; the last one gives the logits ``[C]``.
        polygon: convex, ``[n, 2]``, in plane coordinates.
        plane: where the polygon lies in input space; a net of two inputs needs none.
        limit: more regions than this are an error.

    Raises:
        WorkbenchError: for a module that is not piecewise affine or not known, weights that are not finite, an
            input of the wrong shape, a polygon that is not convex, too many regions, or a unit with weights `RANGE`
            times those of most others of its layer: within that range areas are exact to `INEXACT` of the whole.
    """
    xy = convex(polygon)
    plane = plane or Plane(torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    start, steps = torch.stack([plane.u, plane.v, plane.origin]).double()[None], []
    if not start.isfinite().all():
        raise WorkbenchError("the plane's inputs hold NaN or infinity")
    sizes = read(net, "", fresh(plane.origin.shape), steps)
    if sizes.ndim != 2:
        raise WorkbenchError(f"the net's output has shape {tuple(sizes.shape[1:])}, not [classes]: end it with Flatten")
    widest = max([start[0, 0].numel(), *(step.offset.numel() for step in steps if isinstance(step, Affine))])
    block, found, pending = max(1, BLOCK // (24 * widest)), [], 1

    def descend(at: int, edges: NDArray, counts: NDArray, state: State, saved: list[State], patterns: list) -> None:
        nonlocal pending
        maps, largest = state
        for i, step in enumerate(steps[at:], at + 1):
            if isinstance(step, Affine):
                maps = step(maps)
            elif step == SAVE:
                saved = [*saved, (maps, largest)]
            elif step == ADD:
                *saved, (before, large) = saved
                maps, largest = maps + before, np.maximum(largest, large)
            else:
                units, pending = step.units(maps), pending - len(counts)
                edges, counts, parent, labels = subdivide(step, units, largest, edges, counts, limit - pending)
                pending += len(counts)
                for part in np.array_split(np.arange(len(counts)), -(-len(counts) // block)):
                    before, label = parent[part], labels[part]
                    behind = step.apply(units, before, label)
                    stack = [(maps[before], large[before]) for maps, large in saved]
                    passed = [*(pattern[before] for pattern in patterns), label]
                    size = step.largest(units, before, label, behind)
                    descend(i, *take(edges, counts, part), (behind, size), stack, passed)
                return
        if not maps.isfinite().all():
            raise WorkbenchError("the network's values overflow on this polygon: scale its weights down")
        found.append((edges[:2].T, counts, maps.transpose(1, 2).numpy(), largest, patterns))

    counts = np.array([len(xy)])
    descend(0, geometry(xy.T, counts), counts, (start, coefficients(start)), [], [])
    vertices, counts, maps, largest, patterns = zip(*found, strict=True)
    vertices, counts, maps, largest = (np.concatenate(each) for each in (vertices, counts, maps, largest))
    patterns = [np.concatenate(layer) for layer in zip(*patterns, strict=True)]
    check_areas(moments(vertices.T, counts)[0], moments(xy.T, np.array([len(xy)]))[0].item())
    return Partition(vertices, np.append(0, counts.cumsum()), patterns, maps, largest, sizes.numpy())
