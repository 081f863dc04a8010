"""Networks as the papers train them: CIFAR ResNets, ImageNet ResNets, MobileNetV2 for CIFAR, and a VGG.

Residual ones are a `ResNet`: ``stem``, ``blocks`` and ``head`` one after the other. Convolutions have no bias; every
one is followed by a batch normalisation. Build under ``torch.device("meta")`` to count without memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F

from workbench import WorkbenchError, check_number


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return [conv, nn.BatchNorm2d(outputs)]


class BasicBlock(nn.Module):
    """He et al. (2016): two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.body = nn.Sequential(*self.layers(inputs, width, stride))
        self.shortcut = nn.Sequential(*(_conv(inputs, outputs, 1, stride) if (inputs, 1) != (outputs, stride) else ()))

    @staticmethod
    def layers(inputs: int, width: int, stride: int) -> list[nn.Module]:
        """Of the residual branch."""
        return [*_conv(inputs, width, 3, stride), nn.ReLU(inplace=True), *_conv(width, width, 3)]

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs, h, w]`` to ``[n, expansion width, h / stride, w / stride]``."""
        return F.relu(self.body(x) + self.shortcut(x), inplace=True)


class Bottleneck(BasicBlock):
    """He et al. (2016): 1x1 to ``width``, 3x3, 1x1 to four times that."""

    expansion = 4

    @staticmethod
    def layers(inputs: int, width: int, stride: int) -> list[nn.Module]:
        """Of the residual branch."""
        narrow = [*_conv(inputs, width, 1), nn.ReLU(inplace=True), *_conv(width, width, 3, stride)]
        return [*narrow, nn.ReLU(inplace=True), *_conv(width, 4 * width, 1)]


class FirstBottleneck(Bottleneck):
    """The bottleneck as He et al. (2016) printed it: the first 1x1 has the stride. Most codes moved it to the 3x3."""

    @staticmethod
    def layers(inputs: int, width: int, stride: int) -> list[nn.Module]:
        """Of the residual branch."""
        narrow = [*_conv(inputs, width, 1, stride), nn.ReLU(inplace=True), *_conv(width, width, 3)]
        return [*narrow, nn.ReLU(inplace=True), *_conv(width, 4 * width, 1)]


class InvertedResidual(nn.Module):
    """Sandler et al. (2018): 1x1 to ``expand`` times the channels, depthwise 3x3, 1x1 without a ReLU behind it.

    There is no shortcut where the resolution changes, and a 1x1 convolution as a shortcut where only the width does:
    so in the papers' code.
    """

    def __init__(self, inputs: int, outputs: int, expand: int, stride: int) -> None:
        super().__init__()
        width = expand * inputs
        wide = [*_conv(inputs, width, 1), nn.ReLU(inplace=True), *_conv(width, width, 3, stride, groups=width)]
        self.body = nn.Sequential(*wide, nn.ReLU(inplace=True), *_conv(width, outputs, 1))
        self.residual = stride == 1
        self.shortcut = nn.Sequential(*(_conv(inputs, outputs, 1) if self.residual and inputs != outputs else ()))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs, h, w]`` to ``[n, outputs, h / stride, w / stride]``."""
        return self.body(x) + self.shortcut(x) if self.residual else self.body(x)


class ResNet(nn.Sequential):
    """``stem``, ``blocks`` (each a module of its own) and ``head``: average pooling and a linear layer."""

    stem: nn.Sequential
    blocks: nn.Sequential
    head: nn.Sequential

    def __init__(
        self,
        stem: Iterable[nn.Module],
        blocks: Iterable[nn.Module],
        last: Iterable[nn.Module],
        width: int,
        classes: int,
    ) -> None:
        check_number("classes", classes, 1, whole=True)
        head = [*last, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]
        parts = {"stem": stem, "blocks": blocks, "head": head}
        super().__init__(OrderedDict((name, nn.Sequential(*layers)) for name, layers in parts.items()))


def _stages(block: type[BasicBlock], counts: Iterable[int], inputs: int, width: int) -> tuple[list[nn.Module], int]:
    """Blocks, and how many channels come out; each stage after the first doubles the width and halves the image."""
    blocks: list[nn.Module] = []
    for stage, count in enumerate(counts):
        for i in range(count):
            blocks.append(block(inputs, width * 2**stage, stride=2 if stage and i == 0 else 1))
            inputs = width * 2**stage * block.expansion
    return blocks, inputs


def cifar_resnet(
    depth: int, classes: int = 10, width: int = 16, channels: int = 3, block: type[BasicBlock] = BasicBlock
) -> ResNet:
    """ResNet of He et al. (2016) for small images, ``[n, channels, 32, 32]`` (or 8x8 digits) to ``[n, classes]``.

    Args:
        depth: 6 n + 2 with basic blocks (8, 20, 38, 74, 110, 152), 9 n + 2 with bottlenecks (164): n a stage.
        classes: number of outputs.
        width: channels of the first of three stages.
        channels: of the images.
        block: `BasicBlock` or `Bottleneck`.

    Raises:
        WorkbenchError: for a depth that no n gives, or sizes that are no whole numbers of 1 or more.
    """
    for what, value in {"depth": depth, "width": width, "channels": channels}.items():
        check_number(what, value, 1, whole=True)
    period = 9 if block is Bottleneck else 6
    n, rest = divmod(depth - 2, period)
    if rest or n < 1:
        raise WorkbenchError(f"no ResNet of {depth} layers has this block: choose {period} n + 2, as {period + 2}")
    blocks, outputs = _stages(block, [n] * 3, width, width)
    return ResNet([*_conv(channels, width, 3), nn.ReLU(inplace=True)], blocks, [], outputs, classes)


def imagenet_resnet(depth: int, classes: int = 1000, block: type[BasicBlock] | None = None) -> ResNet:
    """ResNet-18, -34 or -50 of He et al. (2016), ``[n, 3, 224, 224]`` to ``[n, classes]``.

    Args:
        depth: 18, 34 or 50.
        classes: number of outputs.
        block: None is `BasicBlock`, for depth 50 `Bottleneck`.

    Raises:
        WorkbenchError: for another depth.
    """
    counts = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
    if depth not in counts:
        raise WorkbenchError(f"no ImageNet ResNet-{depth} here: choose 18, 34 or 50")
    blocks, outputs = _stages(block or (Bottleneck if depth == 50 else BasicBlock), counts[depth], 64, 64)
    stem = [*_conv(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)]
    return ResNet(stem, blocks, [], outputs, classes)


def vgg_small(classes: int = 10) -> nn.Sequential:
    """VGG-small of the literature on binary networks, ``[n, 3, 32, 32]`` to ``[n, classes]``.

    Six 3x3 convolutions of 128, 128, 256, 256, 512 and 512 channels, a 2x2 max-pooling behind every second, and one
    linear layer.
    """
    check_number("classes", classes, 1, whole=True)
    layers: list[nn.Module] = []
    inputs = 3
    for at, width in enumerate((128, 128, 256, 256, 512, 512)):
        layers += [*_conv(inputs, width, 3), nn.ReLU(inplace=True), *([nn.MaxPool2d(2)] if at % 2 else [])]
        inputs = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512 * 4 * 4, classes))


def mobilenet_v2(classes: int = 10) -> ResNet:
    """MobileNetV2 (Sandler et al. 2018) for CIFAR, ``[n, 3, 32, 32]`` to ``[n, classes]``.

    The first convolution and the second stage have stride 1, not 2: three halvings to 4x4, as the papers' code has it.
    """
    stages = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    blocks, inputs = [], 32
    for expand, outputs, count, stride in stages:
        for i in range(count):
            blocks.append(InvertedResidual(inputs, outputs, expand, 1 if i else stride))
            inputs = outputs
    last = [*_conv(320, 1280, 1), nn.ReLU(inplace=True)]
    return ResNet([*_conv(3, 32, 3), nn.ReLU(inplace=True)], blocks, last, 1280, classes)
