"""Compression techniques of AdaDeep: each turns a trained layer into another module that begins where the layer ended.

A layer's module is made of `Conv` and `Dense` parts; `parts` gives them in closed form, so that parameters, MACs and
bits of a design are known before anything is built. Names of the paper's families in brackets:

- ``svd`` (C1, W1): the best product of two thinner layers, by singular values;
- ``separable`` (C2): a depthwise and a 1x1 convolution; the best rank-1 fit of each input channel's filters;
- ``prune`` (C3, W3): the largest weights, a mask of one bit a weight says which;
- ``bits8``, ``bits4``: weights on a symmetric grid a filter, inputs in 8 bits, both integers in the forward pass;
- ``deep``: ``prune`` and ``bits4``, as in Deep Compression without its Huffman code;
- ``fire`` (L1): squeeze by a 1x1 convolution, expand by 1x1 and 3x3 ones side by side;
- ``mlpconv`` (L2): a thin 3x3 convolution followed by a small multi-layer perceptron at each position;
- ``gap`` (L3): the mean of each channel in place of the first fully connected layer.

``fire``, ``mlpconv`` and ``gap`` have a ReLU inside, so no algebra gives their weights: their last part is fitted by
least squares to what the trained layer answers to training images. Singular vectors have no sign of their own; ours is
the one that makes the largest entry positive, for before a ReLU it matters, and libraries differ in it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import WorkbenchError

CONV = ("none", "svd", "separable", "prune", "bits8", "bits4", "deep", "fire", "mlpconv")
"""What a convolution may become."""
FC = ("none", "svd", "prune", "bits8", "bits4", "deep", "gap")
"""What the fully connected layer may become."""
KEPT = {"conv": 0.2, "linear": 0.1}
"""Share of the weights that pruning keeps."""
RANK = {"conv": 6, "linear": 12}
"""Of ``svd``: a sixth of a convolution's filters, a twelfth of a linear layer's units."""
SQUEEZE, MICRO = 8, 4
"""A Fire module squeezes to an eighth of its outputs; an MLP convolution's inner layers have a quarter of them."""


# --- what a part costs -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One product of a module, with ``side x side`` positions; biases (batch normalisation folded in) have 32 bits."""

    inputs: int
    outputs: int
    kernel: int = 1
    groups: int = 1
    side: int = 1
    kept: float = 1.0
    bits: int = 32
    bias: bool = False

    @property
    def weights(self) -> int:
        """Parameters without the bias, zeros among them."""
        return self.kernel**2 * self.inputs // self.groups * self.outputs

    @property
    def nonzero(self) -> int:
        """Those that are kept."""
        return round(self.kept * self.weights)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of an image, those with a zero among them."""
        return self.weights * self.side**2

    @property
    def stored_bits(self) -> int:
        """Kept weights, a mask of one bit a weight where some are zero, a scale a filter where they are rounded."""
        mask = self.weights if self.nonzero < self.weights else 0
        scales = 32 * self.outputs if self.bits < 32 else 0
        return self.nonzero * self.bits + mask + scales + 32 * self.outputs * self.bias


@dataclass(frozen=True)
class Shape:
    """A layer as it was trained; ``kind`` conv (odd kernel, stride 1, "same" padding) or linear (kernel, side 1)."""

    kind: str
    inputs: int
    outputs: int
    kernel: int = 1
    side: int = 1


def parts(technique: str, shape: Shape) -> list[Part]:
    """The products of a layer's module, in the order in which it holds them; see the module's docstring.

    The last part carries the bias. ``gap`` leaves nothing of its layer: what it does to the next is in `design_parts`.

    Raises:
        WorkbenchError: the technique is not one for this kind of layer.
    """
    C, O, k, s = shape.inputs, shape.outputs, shape.kernel, shape.side  # noqa: E741
    if technique not in (CONV if shape.kind == "conv" else FC):
        raise WorkbenchError(f"{technique!r} is no technique for a {shape.kind} layer")
    kept = KEPT[shape.kind] if technique in ("prune", "deep") else 1.0
    bits = {"bits8": 8, "bits4": 4, "deep": 4}.get(technique, 32)
    match technique:
        case "svd":
            r = rank(shape)
            return [Part(C, r, k, side=s), Part(r, O, side=s, bias=True)]
        case "separable":
            return [Part(C, C, k, C, s), Part(C, O, side=s, bias=True)]
        case "fire":
            q, half = max(min(O // SQUEEZE, C), 1), O // 2
            return [Part(C, q, side=s), Part(q, half, side=s, bias=True), Part(q, O - half, k, side=s, bias=True)]
        case "mlpconv":
            m = max(min(O // MICRO, C * k**2), 1)
            return [Part(C, m, k, side=s), Part(m, m, side=s), Part(m, O, side=s, bias=True)]
        case "gap":
            return []
    return [Part(C, O, k, side=s, kept=kept, bits=bits, bias=True)]


def rank(shape: Shape) -> int:
    """Of ``svd``, and never more than a matrix of the layer's weights has."""
    wanted = shape.outputs // RANK["conv"] if shape.kind == "conv" else RANK["linear"]
    return max(min(wanted, shape.outputs, shape.inputs * shape.kernel**2), 1)


# --- parts as modules --------------------------------------------------------------------------------------------


class _Round(torch.autograd.Function):
    """The nearest integer; the gradient passes straight through."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


class _Compressed:
    """A layer whose weights may be masked and rounded; plain until `prune` or `bits` are set.

    A rounded layer multiplies integers and scales the sums, as hardware does. Such sums are exact: where two are equal,
    they are so on every processor, and max pooling chooses alike.
    """

    mask: Tensor | None
    bits: int

    def start(self, bits: int = 32, kept: float = 1.0) -> None:
        """Round to ``bits``, keep the share ``kept`` of the weights, the largest ones."""
        self.bits = bits
        count = round(kept * self.weight.numel())
        mask = torch.zeros(self.weight.numel(), dtype=torch.bool)
        mask[self.weight.detach().abs().flatten().topk(count).indices] = True
        self.register_buffer("mask", mask.view_as(self.weight) if kept < 1 else None)

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input and weight as the layer multiplies them, and what to scale its sums by.

        Rounded weights have a step for each filter, up to its largest weight. Rounded inputs have one for the batch,
        255 up to the largest; none is negative after a ReLU.
        """
        weight = self.weight if self.mask is None else self.weight * self.mask
        if self.bits == 32:
            return x, weight, None
        step = weight.detach().flatten(1).abs().amax(1).view(-1, *[1] * (weight.ndim - 1)) / (2 ** (self.bits - 1) - 1)
        unit = x.detach().amax() / 255
        step, unit = step.clamp(min=1e-12), unit.clamp(min=1e-12)
        return _Round.apply(x / unit), _Round.apply(weight / step), unit * step[..., 0]


class Conv(_Compressed, nn.Conv2d):
    """A convolution with stride 1 and "same" padding; input ``[n, C, H, W]``."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.start()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        x, weight, scale = self.operands(x)
        y = self._conv_forward(x, weight, None)
        return y if scale is None else y * scale


class Dense(_Compressed, nn.Linear):
    """A fully connected layer; input ``[n, inputs]``."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias)
        self.start()

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        x, weight, scale = self.operands(x)
        if scale is None:
            return F.linear(x, weight, self.bias)
        y = F.linear(x, weight) * scale
        return y if self.bias is None else y + self.bias


class Fire(nn.Module):
    """SqueezeNet's module (Iandola et al. 2016)."""

    def __init__(self, squeeze: Conv, point: Conv, wide: Conv) -> None:
        super().__init__()
        self.squeeze, self.point, self.wide = squeeze, point, wide

    def forward(self, x: Tensor) -> Tensor:
        """Squeeze, then both expansions side by side."""
        h = F.relu(self.squeeze(x))
        return torch.cat([self.point(h), self.wide(h)], 1)


def _convs(found: Sequence[Part], like: Tensor) -> list[Conv]:
    return [Conv(part.inputs, part.outputs, part.kernel, part.groups).to(like) for part in found]


def _signed(rows: Tensor) -> Tensor:
    """Each row times 1 or -1, so that its largest entry is positive."""
    return rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()


@torch.no_grad()
def transform(layer: Conv | Dense, technique: str, x: Tensor) -> nn.Module:
    """The layer's module under a technique, from its weights.

    Args:
        layer: as trained, uncompressed.
        technique: one of `CONV` or `FC`, without ``gap``.
        x: what arrives at the layer for some training images, for the techniques that are fitted.

    Raises:
        WorkbenchError: the technique is not one for this layer, or the layer is no `Conv` or `Dense` of this module
            as it was built, with one group and an odd, square kernel: stride, dilation and a bias of torch's own would
            be lost.
    """
    if not isinstance(layer, Conv | Dense):
        raise WorkbenchError(
            f"cannot transform a {type(layer).__name__}: a layer must be this module's Conv (stride 1, same padding, "
            "no bias) or Dense"
        )
    if isinstance(layer, Conv) and (layer.groups != 1 or layer.kernel_size[0] % 2 == 0):
        raise WorkbenchError("cannot transform a convolution with groups or an even kernel: take one group and 1, 3, 5")
    if isinstance(layer, Conv):
        k = layer.kernel_size[0]
        built = ((1, 1), (k // 2, k // 2), (1, 1), "zeros")
        if (layer.stride, layer.padding, layer.dilation, layer.padding_mode) != built:
            raise WorkbenchError(
                "cannot transform a convolution whose stride, padding, dilation or padding mode was changed after it "
                "was built: a technique's own layers would lose it"
            )
    shape = shape_of(layer, x)
    found, w = parts(technique, shape), layer.weight.detach()
    if technique in ("none", "prune", "bits8", "bits4", "deep"):
        twin = copy.deepcopy(layer)
        twin.start(found[0].bits, found[0].kept)
        return twin
    if technique == "svd":
        u, s, v = torch.linalg.svd(w.flatten(1), full_matrices=False)
        r = found[0].outputs
        root = s[:r].sqrt()
        if isinstance(layer, Dense):
            first, second = Dense(shape.inputs, r, bias=False).to(w), Dense(r, shape.outputs).to(w)
            second.bias.copy_(layer.bias)
        else:
            first, second = _convs(found, w)
        first.weight.copy_((root[:, None] * v[:r]).view_as(first.weight))
        second.weight.copy_((u[:, :r] * root).view_as(second.weight))
        return nn.Sequential(first, second)
    modules = _convs(found, w)
    if technique == "separable":  # for every input channel a matrix [outputs, k * k], and its best rank-1 fit
        u, s, v = torch.linalg.svd(w.flatten(2).transpose(0, 1), full_matrices=False)
        root = s[:, :1].sqrt()
        modules[0].weight.copy_((root * v[:, 0]).view_as(modules[0].weight))
        modules[1].weight.copy_((root * u[:, :, 0]).T.reshape(modules[1].weight.shape))
        return nn.Sequential(*modules)
    answer = layer(x)
    if technique == "fire":
        squeeze, point, wide = modules
        # The input channels' principal directions, as this layer weighs them.
        u = torch.linalg.svd(w.transpose(0, 1).flatten(1), full_matrices=False).U
        squeeze.weight.copy_(_signed(u[:, : found[0].outputs].T).view_as(squeeze.weight))
        h = F.relu(squeeze(x))
        half = point.out_channels
        _fit(point, h, answer[:, :half])
        _fit(wide, h, answer[:, half:])
        return Fire(*modules)
    thin, inner, last = modules  # mlpconv
    v = torch.linalg.svd(w.flatten(1), full_matrices=False).Vh
    thin.weight.copy_(_signed(v[: found[0].outputs]).view_as(thin.weight))
    inner.weight.copy_(torch.eye(inner.in_channels)[:, :, None, None])
    module = nn.Sequential(thin, nn.ReLU(), inner, nn.ReLU(), last)
    _fit(last, module[:-1](x), answer)
    return module


def _fit(layer: Conv, x: Tensor, y: Tensor) -> None:
    """Least squares: the layer's weights such that it answers ``x`` with ``y``, as nearly as it can."""
    columns = F.unfold(x, layer.kernel_size, padding=layer.padding).transpose(1, 2).flatten(0, 1)
    layer.weight.copy_(_solve(columns, y.flatten(2).transpose(1, 2).flatten(0, 1)).T.reshape(layer.weight.shape))


def _solve(features: Tensor, targets: Tensor) -> Tensor:
    """Least squares with a ridge of a thousandth of the mean square, for features that never fire; in float64."""
    a, b = features.double(), targets.double()
    gram = a.T @ a
    ridge = 1e-3 * gram.diagonal().mean() or 1.0  # where none fires the weights are 0
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram)), a.T @ b).to(features)


def shape_of(layer: Conv | Dense, x: Tensor) -> Shape:
    """The layer's shape where ``x`` arrives at it."""
    if isinstance(layer, Dense):
        return Shape("linear", layer.in_features, layer.out_features)
    return Shape("conv", layer.in_channels, layer.out_channels, layer.kernel_size[0], x.shape[-1])


# --- a network and its designs -----------------------------------------------------------------------------------

Design = tuple[str, ...]
"""A technique for each layer that may be compressed: the convolutions after the first, then the linear layer."""


class Net(nn.Module):
    """Three 3x3 convolutions with batch normalisation and ReLU, pooled after the second and the third, two linear
    layers; images ``[n, inputs, side, side]`` to logits ``[n, 10]``.

    The first and the last layer are never compressed; ``gap`` replaces the last one's input.
    """

    def __init__(self, inputs: int = 1, side: int = 8, widths: Sequence[int] = (16, 32, 48), hidden: int = 96) -> None:
        super().__init__()
        self.side = side
        self.convs = nn.ModuleList(Conv(a, b, 3) for a, b in zip((inputs, *widths), widths, strict=False))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        flat = widths[-1] * (side // 4) ** 2
        self.head = nn.Sequential(nn.Flatten(), Dense(flat, hidden), nn.ReLU(), Dense(hidden, 10))

    def inner(self, x: Tensor) -> list[Tensor]:
        """What arrives at each convolution, and then at the head."""
        found = [x]
        for at, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            h = F.relu(norm(conv(found[-1])))
            found.append(F.max_pool2d(h, 2) if at else h)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.inner(x)[-1])


def _check_net(net: nn.Module) -> None:
    if not isinstance(net, Net):
        raise WorkbenchError(f"cannot compress a {type(net).__name__}: designs are for adadeep.techniques.Net only")


def shapes(net: Net) -> list[Shape]:
    """The layers of an uncompressed net, first to last. `WorkbenchError` for any network but a `Net`."""
    _check_net(net)
    sides = [net.side, net.side, net.side // 2]
    found = [
        Shape("conv", conv.in_channels, conv.out_channels, conv.kernel_size[0], side)
        for conv, side in zip(net.convs, sides, strict=True)
    ]
    return found + [Shape("linear", layer.in_features, layer.out_features) for layer in (net.head[1], net.head[3])]


def design_parts(layers: Sequence[Shape], design: Design) -> list[list[Part]]:
    """The parts of a whole design, layer by layer; ``layers`` as `shapes` gives them."""
    stem, *middle, fc, last = layers
    found = [parts("none", stem)]
    found += [parts(technique, shape) for technique, shape in zip(design, (*middle, fc), strict=True)]
    if design[-1] == "gap":  # the last layer now reads the channels' means
        last = Shape("linear", middle[-1].outputs, last.outputs)
    return [*found, parts("none", last)]


@torch.no_grad()
def compress(net: Net, design: Design, x: Tensor) -> Net:
    """A copy of the net under a design, not yet fine-tuned; ``x``: some training images ``[n, inputs, side, side]``.

    `WorkbenchError` for any network but a `Net`.
    """
    _check_net(net)
    twin = copy.deepcopy(net).eval()
    seen = twin.inner(x)
    for at, technique in enumerate(design[:-1], start=1):
        twin.convs[at] = transform(net.convs[at], technique, seen[at])
    if design[-1] == "gap":
        means, logits = seen[-1].mean((2, 3)), net.head(seen[-1])
        last = Dense(means.shape[1], logits.shape[1]).to(means)
        fitted = _solve(F.pad(means, (0, 1), value=1.0), logits)
        last.weight.copy_(fitted[:-1].T)
        last.bias.copy_(fitted[-1])
        twin.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    else:
        twin.head[1] = transform(net.head[1], design[-1], seen[-1].flatten(1))
    return twin
