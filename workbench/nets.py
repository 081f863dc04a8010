"""Networks that several papers share. Here: graph networks with a leading axis.

A leading axis K runs through everything: K models (arms x seeds) on one graph are trained as one, so
weights are ``[K, in, out]`` and node features ``[K, N, width]``. Every operation treats the K slices
independently: training them side by side gives each the result it would have alone.

A two-layer graph network is a `GraphNet`: ``hidden`` and ``logits`` are its layers, with dropout between
them left to the caller, so that evaluation and training share the first layer.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import WorkbenchError, check_number, early_bird
from workbench.data import check_edges
from workbench.training import generator, train

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")

Parameters = dict[str, Tensor]


class Pattern:
    """Where the entries of a symmetric adjacency with self-loops lie, in row order (CSR).

    Args:
        edges: int64 ``[2, E]``, undirected, each pair once, no self-loop.
        num_nodes: N.

    Raises:
        WorkbenchError: for edges that are not so; `workbench.data.undirected` makes them so.

    Attributes: ``rows``, ``cols`` int64 ``[M]`` with M = 2E + N; ``source`` ``[M]`` tells where an entry's
    value stands in ``[edge weights (E), self-loops (N)]``; ``reverse`` ``[M]`` is the mirrored entry.
    """

    def __init__(self, edges: Tensor, num_nodes: int) -> None:
        check_edges(edges, num_nodes)
        (i, j), N, E = edges, num_nodes, edges.shape[1]
        nodes, ids = torch.arange(N), torch.arange(E)
        rows, cols = torch.cat([i, j, nodes]), torch.cat([j, i, nodes])
        order = torch.argsort(rows * N + cols)
        self.edges, self.num_nodes, self.num_edges = edges, N, E
        self.rows, self.cols = rows[order], cols[order]
        self.source = torch.cat([ids, ids, E + nodes])[order]
        self.reverse = torch.argsort(self.cols * N + self.rows)
        self.blocks = lru_cache(maxsize=8)(self._blocks)

    def entries(self, weights: Tensor, loops: Tensor) -> Tensor:
        """Edge weights ``[K, E]`` and self-loops ``[K, N]`` as matrix entries ``[K, M]``."""
        return torch.cat([weights, loops], 1).index_select(1, self.source)

    def sum_at_ends(self, values: Tensor) -> Tensor:
        """Sum edge values ``[K, E]`` at both end points: ``[K, N]``."""
        zeros = values.new_zeros(len(values), self.num_nodes)
        return zeros.index_add(1, self.edges[0], values).index_add(1, self.edges[1], values)

    def _blocks(self, K: int) -> tuple[Tensor, Tensor]:
        """CSR row pointers and columns of K copies of the pattern along one diagonal."""
        counts = torch.bincount(self.rows, minlength=self.num_nodes).repeat(K)
        columns = self.cols + self.num_nodes * torch.arange(K)[:, None]
        return F.pad(counts.cumsum(0), (1, 0)).int(), columns.flatten().int()

    def _matrix(self, entries: Tensor) -> Tensor:
        """Entries ``[K, M]`` as one block-diagonal CSR matrix."""
        size = (len(entries) * self.num_nodes,) * 2
        return torch.sparse_csr_tensor(*self.blocks(len(entries)), entries.flatten(), size, check_invariants=False)

    def multiply(self, entries: Tensor, h: Tensor) -> Tensor:
        """``out[k, i] = sum_j entries[k, ij] h[k, j]`` as one block-diagonal sparse product."""
        return (self._matrix(entries) @ h.flatten(0, 1)).view(h.shape)

    def products(self, a: Tensor, b: Tensor) -> Tensor:
        """``a[k, i] . b[k, j]`` at the pattern's entries ij only: features ``[K, N, C]`` to ``[K, M]``."""
        zeros = self._matrix(a.new_zeros(len(a), len(self.rows)))
        return torch.sparse.sampled_addmm(zeros, a.flatten(0, 1), b.flatten(0, 1).t()).values().view(len(a), -1)


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, entries: Tensor, h: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(entries, h)
        ctx.pattern = pattern
        return pattern.multiply(entries, h)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        entries, h = ctx.saved_tensors
        pattern, to_entries, to_h = ctx.pattern, None, None
        if ctx.needs_input_grad[0]:  # only entries of the pattern can move: no N x N gradient
            to_entries = pattern.products(grad, h)
        if ctx.needs_input_grad[1]:  # the transpose has the same pattern with mirrored entries
            to_h = pattern.multiply(entries.index_select(1, pattern.reverse), grad)
        return to_entries, to_h, None


def propagate(entries: Tensor, h: Tensor, pattern: Pattern) -> Tensor:
    """Message passing: entries ``[K, M]`` times features ``[K, N, C]``, differentiable in both."""
    return _Propagate.apply(entries, h, pattern)


class Features:
    """Node features ``[N, F]`` shared by all models, stored sparse (CSR) where a third or less is non-zero."""

    def __init__(self, x: Tensor) -> None:
        self.shape, self.nonzeros = tuple(x.shape), int((x != 0).sum())
        sparse = self.nonzeros <= x.numel() / 3
        self.x = x.to_sparse_csr() if sparse else x
        self.transposed = x.t().contiguous().to_sparse_csr() if sparse else x.t()

    def project(self, weights: Tensor) -> Tensor:
        """``x @ weights[k]`` for every k, ``[K, F, H]`` to ``[K, N, H]``, as one product."""
        return _Project.apply(weights, self)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, features: Features) -> Tensor:
        ctx.features, (K, inputs, width) = features, weights.shape
        flat = weights.transpose(0, 1).reshape(inputs, K * width)
        return (features.x @ flat).view(-1, K, width).transpose(0, 1).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        K, nodes, width = grad.shape
        flat = grad.transpose(0, 1).reshape(nodes, K * width)
        return (ctx.features.transposed @ flat).view(-1, K, width).transpose(0, 1).contiguous(), None


def glorot(generators: list[torch.Generator], *shape: int) -> Tensor:
    """Glorot-uniform weights ``[K, *shape]``; slice k comes from generator k, fans are the last two axes."""
    bound = math.sqrt(6 / (shape[-2] + shape[-1]))
    return torch.stack([torch.rand(shape, generator=g) for g in generators]).mul_(2 * bound).sub_(bound)


class GraphNet:
    """Two graph layers: subclasses say what a layer is.

    Args:
        features: node features, N x F.
        pattern: the graph's edges.
        classes: number of outputs C.

    ``graph(weights)`` prepares edge weights ``[K, E]`` (0 = no edge) once a step; ``hidden(p, graph)`` is
    ``[K, N, width]`` and ``logits(p, graph, hidden)`` is ``[K, N, C]``. Parameters are named ``"1.*"`` and
    ``"2.*"`` by layer; ``init`` draws them, one slice a generator.
    """

    width: ClassVar[int] = 16

    def __init__(self, features: Features, pattern: Pattern, classes: int) -> None:
        self.features, self.pattern, self.classes = features, pattern, classes

    def _linear(self, generators: list, name: str, inputs: int, outputs: int) -> Parameters:
        bias = torch.zeros(len(generators), 1, outputs)
        return {f"{name}weight": glorot(generators, inputs, outputs), f"{name}bias": bias}


class GCN(GraphNet):
    """Kipf and Welling (2017): D^-1/2 (A + I) D^-1/2 X W, with D recomputed from the edge weights."""

    def init(self, generators: list[torch.Generator]) -> Parameters:
        """Parameters of one model a generator."""
        inputs = self.features.shape[1]
        return self._linear(generators, "1.", inputs, self.width) | self._linear(
            generators, "2.", self.width, self.classes
        )

    def graph(self, weights: Tensor) -> Tensor:
        """Normalised entries ``[K, M]``; the gradient flows through the degrees too."""
        scale = (1 + self.pattern.sum_at_ends(weights)).rsqrt()
        i, j = self.pattern.edges
        normalised = weights * scale.index_select(1, i) * scale.index_select(1, j)
        return self.pattern.entries(normalised, scale * scale)

    def hidden(self, p: Parameters, graph: Tensor) -> Tensor:
        """First layer with ReLU; transforms before it aggregates."""
        return self.aggregate(p, graph, self.features.project(p["1.weight"]))

    def aggregate(self, p: Parameters, graph: Tensor, projected: Tensor) -> Tensor:
        """The first layer behind its product with the weights, which a frozen network needs only once."""
        return F.relu(propagate(graph, projected, self.pattern) + p["1.bias"])

    def logits(self, p: Parameters, graph: Tensor, hidden: Tensor) -> Tensor:
        """Second layer."""
        return propagate(graph, hidden @ p["2.weight"], self.pattern) + p["2.bias"]


class GIN(GraphNet):
    """Xu et al. (2019), eps = 0: MLP(x_i + sum of neighbours), each MLP linear-ReLU-linear of hidden 16."""

    def init(self, generators: list[torch.Generator]) -> Parameters:
        """Parameters of one model a generator."""
        sizes = {"1.a.": self.features.shape[1], "1.b.": self.width, "2.a.": self.width, "2.b.": self.width}
        layers = [
            self._linear(generators, name, inputs, self.classes if name == "2.b." else self.width)
            for name, inputs in sizes.items()
        ]
        return {key: value for layer in layers for key, value in layer.items()}

    def graph(self, weights: Tensor) -> Tensor:
        """Entries ``[K, M]`` of A + I."""
        return self.pattern.entries(weights, weights.new_ones(len(weights), self.pattern.num_nodes))

    def _mlp(self, p: Parameters, layer: str, graph: Tensor, projected: Tensor) -> Tensor:
        inner = F.relu(propagate(graph, projected, self.pattern) + p[f"{layer}.a.bias"])
        return inner @ p[f"{layer}.b.weight"] + p[f"{layer}.b.bias"]

    def hidden(self, p: Parameters, graph: Tensor) -> Tensor:
        """First layer with ReLU; the MLP's first product comes before the sum (they commute)."""
        return F.relu(self._mlp(p, "1", graph, self.features.project(p["1.a.weight"])))

    def logits(self, p: Parameters, graph: Tensor, hidden: Tensor) -> Tensor:
        """Second layer."""
        return self._mlp(p, "2", graph, hidden @ p["2.a.weight"])


class SAGE(GraphNet):
    """Hamilton et al. (2017), mean aggregator: W_self x_i + W_neigh mean of neighbours."""

    def init(self, generators: list[torch.Generator]) -> Parameters:
        """Parameters of one model a generator."""
        inputs, width = self.features.shape[1], self.width
        return {
            **self._linear(generators, "1.", inputs, width),
            "1.self": glorot(generators, inputs, width),
            **self._linear(generators, "2.", width, self.classes),
            "2.self": glorot(generators, width, self.classes),
        }

    def graph(self, weights: Tensor) -> Tensor:
        """Entries ``[K, M]`` of D^-1 A: rows sum to one, or to zero for a node without edges."""
        entries = self.pattern.entries(weights, weights.new_zeros(len(weights), self.pattern.num_nodes))
        degree = self.pattern.sum_at_ends(weights).clamp(min=1e-12)
        return entries / degree.index_select(1, self.pattern.rows)

    def hidden(self, p: Parameters, graph: Tensor) -> Tensor:
        """First layer with ReLU."""
        neighbours = propagate(graph, self.features.project(p["1.weight"]), self.pattern)
        return F.relu(neighbours + self.features.project(p["1.self"]) + p["1.bias"])

    def logits(self, p: Parameters, graph: Tensor, hidden: Tensor) -> Tensor:
        """Second layer."""
        neighbours = propagate(graph, hidden @ p["2.weight"], self.pattern)
        return neighbours + hidden @ p["2.self"] + p["2.bias"]


class GAT(GraphNet):
    """Velickovic et al. (2018): 8 heads of 8 with ELU, then one head; attention over kept edges and self."""

    heads: ClassVar[int] = 8
    width: ClassVar[int] = 64

    def init(self, generators: list[torch.Generator]) -> Parameters:
        """Parameters of one model a generator; ``to`` and ``from`` are the halves of the attention vector."""
        sizes = {"1": (self.features.shape[1], self.heads, 8), "2": (self.width, 1, self.classes)}
        parameters = {}
        for layer, (inputs, heads, outputs) in sizes.items():
            parameters |= self._linear(generators, f"{layer}.", inputs, heads * outputs)
            parameters |= {f"{layer}.{end}": glorot(generators, heads, outputs) for end in ("to", "from")}
        return parameters

    def graph(self, weights: Tensor) -> Tensor:
        """bool ``[K, M]``: is the entry there? Attention looks only along kept edges and at the node itself."""
        return self.pattern.entries(weights, weights.new_ones(len(weights), self.pattern.num_nodes)) > 0

    def _attend(self, p: Parameters, layer: str, kept: Tensor, z: Tensor) -> Tensor:
        pattern, (K, N, _) = self.pattern, z.shape
        heads, outputs = p[f"{layer}.to"].shape[1:]
        z = z.view(K, N, heads, outputs).transpose(1, 2).reshape(K * heads, N, outputs)
        ends = [p[f"{layer}.{end}"].reshape(K * heads, outputs, 1) for end in ("to", "from")]
        to, source = ((z @ end).squeeze(-1) for end in ends)
        score = to.index_select(1, pattern.rows) + source.index_select(1, pattern.cols)
        score = F.leaky_relu(score, 0.2).masked_fill(~kept.repeat_interleave(heads, 0), -torch.inf)
        # Softmax does not see a shift of a row; by its largest score, exp can neither overflow nor vanish.
        rows = pattern.rows.expand_as(score)
        peak = torch.full_like(to, -torch.inf).scatter_reduce(1, rows, score.detach(), "amax")
        weight = (score - peak.detach().index_select(1, pattern.rows)).exp()
        # A column of ones sums each row's weights in the same product: numerator and denominator together.
        sums = propagate(weight, F.pad(z, (0, 1), value=1.0), pattern)
        out = (sums[..., :-1] / sums[..., -1:]).view(K, heads, N, outputs)
        return out.transpose(1, 2).reshape(K, N, heads * outputs) + p[f"{layer}.bias"]

    def hidden(self, p: Parameters, graph: Tensor) -> Tensor:
        """First layer with ELU."""
        return F.elu(self._attend(p, "1", graph, self.features.project(p["1.weight"])))

    def logits(self, p: Parameters, graph: Tensor, hidden: Tensor) -> Tensor:
        """Second layer."""
        return self._attend(p, "2", graph, hidden @ p["2.weight"])


# --- a small convolutional net whose channels can be removed -------------------------------------------------


class ConvNet(nn.Sequential):
    """Conv-BatchNorm-ReLU blocks, average pooling, one linear layer; images ``[n, inputs, h, w]``.

    Args:
        widths: channels of each block; blocks after the first halve the resolution.
        classes: number of outputs.
        inputs: channels of an image.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 32, 64), classes: int = 10, inputs: int = 1) -> None:
        for what, value in [*(("width", width) for width in widths), ("classes", classes), ("inputs", inputs)]:
            check_number(what, value, 1, whole=True)
        layers: list[nn.Module] = []
        for block, (before, width) in enumerate(zip((inputs, *widths), widths, strict=False)):
            stride = 1 if block == 0 else 2
            layers += [nn.Conv2d(before, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width)]
            nn.init.constant_(layers[-1].weight, 0.5)  # as in network slimming's and Early-Bird's code
            layers.append(nn.ReLU())
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
        self.widths, self.classes, self.inputs = tuple(widths), classes, inputs


def _parts(net: ConvNet, keep: Tensor) -> tuple[Tensor, ...]:
    """A mask over all channels, by layer."""
    if keep.dtype != torch.bool or keep.shape != (sum(net.widths),):
        raise WorkbenchError(f"a mask of {keep.dtype} {list(keep.shape)}: give bool, one a channel: {sum(net.widths)}")
    return keep.split(list(net.widths))


def mask_channels(net: ConvNet, keep: Tensor) -> ConvNet:
    """A copy with the scale AND shift of dropped channels at zero; ``keep`` is bool over all channels.

    A zero scale with a shift left in place would still send a constant through the ReLU.
    """
    masked = copy.deepcopy(net)
    norms = [m for m in masked if isinstance(m, nn.BatchNorm2d)]
    for norm, part in zip(norms, _parts(net, keep), strict=True):
        norm.weight.data.mul_(part)
        norm.bias.data.mul_(part)
    return masked


def remove_channels(net: ConvNet, keep: Tensor) -> ConvNet:
    """A smaller net without the dropped channels: same outputs as `mask_channels`, fewer multiplications.

    Raises:
        WorkbenchError: when a layer would lose all its channels, or for a mask of another size or kind.
    """
    parts = _parts(net, keep)
    if not all(part.any() for part in parts):
        empty = [i + 1 for i, part in enumerate(parts) if not part.any()]
        raise WorkbenchError(f"the mask empties convolution(s) {empty}: prune less")
    small = ConvNet(tuple(int(part.sum()) for part in parts), net.classes, net.inputs)
    inputs, blocks = torch.ones(net.inputs, dtype=torch.bool), iter(parts)
    for old, new in zip(net, small, strict=True):
        if isinstance(old, nn.Conv2d):
            outputs = next(blocks)
            new.weight.data = old.weight.data[outputs][:, inputs].clone()
            inputs = outputs
        elif isinstance(old, nn.BatchNorm2d):
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(new, name).data = getattr(old, name).data[inputs].clone()
        elif isinstance(old, nn.Linear):
            new.weight.data, new.bias.data = old.weight.data[:, inputs].clone(), old.bias.data.clone()
    return small.train(net.training)


def conv_macs(net: ConvNet, size: int = 8) -> int:
    """Multiply-accumulates of one ``size x size`` image through convolutions and the linear layer."""
    macs, inputs = 0, net.inputs
    for block, width in enumerate(net.widths):
        size = size if block == 0 else (size + 1) // 2
        macs += 9 * inputs * width * size**2
        inputs = width
    return macs + inputs * net.classes


def train_conv(
    net: ConvNet,
    x: Tensor,
    y: Tensor,
    steps: int,
    seed: int,
    lr: float = 0.1,
    slim: float = 0.0,
    after_step: Callable[[int], None] | None = None,
) -> None:
    """SGD as in Early-Bird tickets (momentum 0.9, weight decay 1e-4) on batches of 100 images, in place.

    Args:
        net: to train; left in training mode.
        x: training images, in random order anew every epoch.
        y: their labels.
        steps: a remainder of fewer than 100 images sits an epoch out.
        seed: of the order: nets of one seed see the same batches.
        lr: step size.
        slim: strength of network slimming.
        after_step: called with the number of steps done.
    """
    if len(x) != len(y) or len(y) < 100:
        raise WorkbenchError(f"{len(x)} images and {len(y)} labels: give one label an image, and 100 images or more")
    per_epoch, order = len(y) // 100, torch.empty(0)

    def loss(step: int) -> Tensor:
        nonlocal order
        epoch, position = divmod(step, per_epoch)
        if position == 0:
            order = torch.randperm(len(y), generator=generator(seed, "order", epoch))
        chosen = order[position * 100 : (position + 1) * 100]
        return F.cross_entropy(net(x[chosen]), y[chosen])

    net.train()
    train(
        loss,
        torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4),
        steps,
        before_step=(lambda _: early_bird.slim(net, slim)) if slim else None,
        after_step=after_step and (lambda step: after_step(step + 1)),
        label="conv net",
    )
