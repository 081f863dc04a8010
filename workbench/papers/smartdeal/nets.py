"""The papers' networks as lists of layers, to count their storage and energy: nothing of them is ever run.

Without batch normalisation and biases, which SmartDeal leaves alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from workbench.dataflow import Layer


def _conv(channels: int, filters: int, size: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> Layer:
    """A convolution with outputs of ``size x size``; channels and filters are those of all groups."""
    return Layer(
        f"{kernel}x{kernel} {channels}-{filters}",
        G=groups,
        K=filters // groups,
        C=channels // groups,
        Y=size,
        X=size,
        R=kernel,
        S=kernel,
        stride=stride,
    )


def _linear(*widths: int) -> list[Layer]:
    return [Layer(f"linear {a}-{b}", C=a, K=b) for a, b in pairwise(widths)]


def resnet50() -> list[Layer]:
    """He et al. (2016) for ImageNet, the stride in the first 1x1 convolution as printed."""
    found, inputs, size = [_conv(3, 64, 112, 7, 2)], 64, 56
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            size //= stride
            found += [
                _conv(inputs, width, size, 1, stride),
                _conv(width, width, size),
                _conv(width, 4 * width, size, 1),
            ]
            if not block:
                found.append(_conv(inputs, 4 * width, size, 1, stride))
            inputs = 4 * width
    return found + _linear(inputs, 1000)


def vgg11() -> list[Layer]:
    """Simonyan and Zisserman (2015), configuration A for ImageNet."""
    found, inputs = [], 3
    for width, size in ((64, 224), (128, 112), (256, 56), (256, 56), (512, 28), (512, 28), (512, 14), (512, 14)):
        found.append(_conv(inputs, width, size))
        inputs = width
    return found + _linear(512 * 7 * 7, 4096, 4096, 1000)


def _bottleneck(inputs: int, outputs: int, expand: int, kernel: int, stride: int, size: int, squeeze: int = 0) -> list:
    """MobileNetV2's block; ``squeeze``: channels of EfficientNet's squeeze-and-excitation. ``size`` is the output's."""
    width = expand * inputs
    found = [_conv(inputs, width, size * stride, 1)] if expand > 1 else []
    found.append(_conv(width, width, size, kernel, stride, groups=width))
    if squeeze:
        found += [_conv(width, squeeze, 1, 1), _conv(squeeze, width, 1, 1)]
    return [*found, _conv(width, outputs, size, 1)]


def _mobile(stages: Sequence[tuple[int, int, int, int, int]], squeeze: bool) -> list[Layer]:
    """Stages of (expansion, outputs, blocks, kernel, stride) between a stem of 32 channels and a head of 1280."""
    found, inputs, size = [_conv(3, 32, 112, 3, 2)], 32, 112
    for expand, outputs, blocks, kernel, stride in stages:
        for block in range(blocks):
            step = 1 if block else stride
            size //= step
            found += _bottleneck(inputs, outputs, expand, kernel, step, size, inputs // 4 if squeeze else 0)
            inputs = outputs
    return [*found, _conv(inputs, 1280, size, 1), *_linear(1280, 1000)]


def mobilenet_v2() -> list[Layer]:
    """Sandler et al. (2018) for ImageNet."""
    shape = (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    return _mobile([(expand, outputs, blocks, 3, stride) for expand, outputs, blocks, stride in shape], squeeze=False)


def efficientnet_b0() -> list[Layer]:
    """Tan and Le (2019) for ImageNet."""
    shape = [(1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2)]
    return _mobile([*shape, (6, 112, 3, 5, 1), (6, 192, 4, 5, 2), (6, 320, 1, 3, 1)], squeeze=True)


def mlp2() -> list[Layer]:
    """LeNet-300-100 for MNIST."""
    return _linear(784, 300, 100, 10)


NETWORKS: dict[str, Callable[[], list[Layer]]] = {
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "efficientnet_b0": efficientnet_b0,
    "vgg11": vgg11,
    "mlp2": mlp2,
}


def weight_shape(layer: Layer) -> tuple[int, ...]:
    """Of the layer's weight, as torch has it: ``[out, in]`` of a linear layer, else ``[out, in / groups, R, S]``."""
    outputs, size = layer.G * layer.K, (layer.R, layer.S)
    linear = layer.name.startswith("linear")
    return (outputs, layer.C) if linear else (outputs, layer.C, *size)
