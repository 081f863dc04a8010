"""The two tasks: images and their disjoint parts, and the measures PSNR, SSIM (on Y) and Frechet distance.

**Super resolution**: a low resolution is made by antialiased bicubic reduction; the truth is the photograph.

**Translation**: images of one set to the style of another, *unpaired*. Our style is drawn (`painted`): a duotone with
bright outlines, so that a good answer exists and its quality can be told exactly. Whoever trains a teacher sees painted
pictures of *other* images only. It stands in for horse-to-zebra, which needs 256x256 photographs and a GPU for days.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import WorkbenchError, check_number, data
from workbench.papers.agd.method import Skeleton
from workbench.training import generator

Rectangle = tuple[int, int]
RECTANGLES: dict[str, dict[str, tuple[Rectangle, ...]]] = {
    "china": {"train": ((0, 336),), "validation": ((344, 432),), "test": ((448, 640),)},
    "flower": {"train": ((0, 208), (408, 640)), "validation": ((320, 400),), "test": ((224, 304),)},
}
"""Columns of the two photographs, over their full height. The flower's right side is a blur, so it may train only."""
SIDE, HELD = 8, 500
"""Side of an input in training (of CIFAR-10 at x4 the whole image); CIFAR-10's training images held for validation."""


def assert_disjoint(gap: int = 8) -> None:
    """`WorkbenchError` where two rectangles of a photograph are nearer than ``gap`` pixels."""
    for name, parts in RECTANGLES.items():
        spans = [span for part in parts.values() for span in part]
        if any(a[0] < b[1] + gap and b[0] < a[1] + gap for a, b in combinations(spans, 2)):
            raise WorkbenchError(f"{name}: training, validation and test rectangles are not apart")


TASKS = ("photographs 4", "photographs 2", "digits paint", "cifar10 4", "cifar10 2", "cifar10 paint")
"""Those that have a recorded teacher."""


@dataclass(frozen=True)
class Task:
    """A data set and what to do with it: "cifar10 2" (magnification), "digits paint"."""

    dataset: str
    scale: int  # 1: translation

    @classmethod
    def read(cls, text: str) -> Task:
        """From a word for the data and one for the work; `WorkbenchError` for anything else."""
        if text not in TASKS:
            raise WorkbenchError(f"there is no task {text!r}: choose from {', '.join(TASKS)}")
        dataset, work = text.split()
        return cls(dataset, 1 if work == "paint" else int(work))

    @property
    def id(self) -> str:
        """Its part of a claim's id, and its name in tables."""
        return f"{self.dataset}_x{self.scale}" if self.scale > 1 else f"{self.dataset}_paint"

    @property
    def title(self) -> str:
        """For readers."""
        return f"{self.dataset}, x{self.scale}" if self.scale > 1 else f"{self.dataset}, painted"

    @property
    def skeleton(self) -> Skeleton:
        """Of its generators."""
        return Skeleton(6, 1, self.scale, cell=3) if self.scale > 1 else Skeleton(5, 2, 2)

    @property
    def crop(self) -> int:
        """Pixels of the border that PSNR and SSIM leave out."""
        return 4 if self.dataset == "photographs" else 2


@dataclass(frozen=True)
class Pairs:
    """Inputs [n, 3, h, w] and truths, in one batch an image size."""

    inputs: tuple[Tensor, ...]
    truths: tuple[Tensor, ...]


@dataclass(frozen=True)
class Images:
    """A task's images: training inputs and truths [N, 3, h, w], validation and test pairs.

    In translation, truths of training are known to the arm without a teacher alone, and to no teacher; ``style`` and
    ``reference`` are painted pictures [M, 3, h, w] of images that are in no other part: the first are what the
    teacher's discriminator calls real, to the second outputs are compared.
    """

    inputs: Tensor
    truths: Tensor
    validation: Pairs
    test: Pairs
    style: Tensor | None = None
    reference: Tensor | None = None


def reduce(x: Tensor, scale: int) -> Tensor:
    """Antialiased bicubic reduction of [N, 3, H, W], clamped to [0, 1]."""
    return F.interpolate(x, scale_factor=1 / scale, mode="bicubic", antialias=True).clamp(0, 1)


def enlarge(x: Tensor, scale: int) -> Tensor:
    """Bicubic enlargement, clamped to [0, 1]: the baseline without a network."""
    return F.interpolate(x, scale_factor=scale, mode="bicubic").clamp(0, 1)


def luma(x: Tensor) -> Tensor:
    """BT.601 luminance of [N, 3, H, W] in [0, 1], full range: [N, 1, H, W]."""
    return (x * x.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)


def painted(x: Tensor) -> Tensor:
    """The style: luminance from navy to orange, softened, and white where it changes within 3x3 pixels."""
    y = luma(x)
    edge = F.max_pool2d(y, 3, 1, 1) + F.max_pool2d(-y, 3, 1, 1)
    soft = F.avg_pool2d(F.pad(y, (1, 1, 1, 1), mode="replicate"), 3, 1)
    dark, light = (x.new_tensor(c).view(3, 1, 1) for c in ((0.05, 0.05, 0.35), (1.0, 0.6, 0.1)))
    colour = dark + (light - dark) * soft
    return colour + (1 - colour) * (2 * edge - 0.4).clamp(0, 1)


def _columns(photograph: Tensor, part: tuple[Rectangle, ...], scale: int) -> Iterator[Tensor]:
    """Rectangles of a photograph [3, H, W] as [1, 3, H, width], cut to multiples of the magnification."""
    for left, right in part:
        rows = photograph.shape[1] // scale * scale
        yield photograph[None, :, :rows, left : left + (right - left) // scale * scale]


def _photographs(scale: int, count: int, *stream: object) -> Images:
    assert_disjoint()
    draw, shots, parts = generator(*stream), data.photographs(), {}
    for part in ("train", "validation", "test"):
        truths = [c for name, shot in shots.items() for c in _columns(shot, RECTANGLES[name][part], scale)]
        parts[part] = Pairs(tuple(reduce(t, scale) for t in truths), tuple(truths))
    crops = []
    areas = torch.tensor([float(i.shape[-1]) for i in parts["train"].inputs])
    for which in torch.multinomial(areas, count, replacement=True, generator=draw).tolist():
        small, large = parts["train"].inputs[which][0], parts["train"].truths[which][0]
        top, left = (int(torch.randint(size - SIDE + 1, (1,), generator=draw)) for size in small.shape[1:])
        at = slice(scale * top, scale * (top + SIDE)), slice(scale * left, scale * (left + SIDE))
        turn, flip = int(torch.randint(4, (), generator=draw)), bool(torch.randint(2, (), generator=draw))
        pair = small[:, top : top + SIDE, left : left + SIDE], large[:, *at]
        crops.append([_turned(x, turn, flip) for x in pair])
    inputs, truths = (torch.stack(column) for column in zip(*crops, strict=True))
    return Images(inputs, truths, parts["validation"], parts["test"])


def _turned(x: Tensor, quarters: int, flip: bool) -> Tensor:
    """A square [3, side, side], turned by so many quarters and then mirrored or not: one of eight ways to see it."""
    x = x.rot90(quarters, (1, 2))
    return x.flip(2) if flip else x


def _cropped(x: Tensor, side: int, corners: Tensor) -> Tensor:
    """A square of each image [N, 3, H, W], at its corner (row, column) [N, 2]: [N, 3, side, side]."""
    places = zip(x, corners.tolist(), strict=True)
    return torch.stack([image[:, top : top + side, left : left + side] for image, (top, left) in places])


def _cifar10(scale: int, count: int, *stream: object) -> Images:
    """At x4 whole images, at x2 one crop an image, so that a step of training costs the same."""
    pool, test = data.cifar10(True).x, data.cifar10(False).x[:1000]
    pairs = [Pairs((reduce(x, scale),), (x,)) for x in (pool[:HELD], test)]
    truths = pool[HELD : HELD + count]
    inputs = reduce(truths, scale)
    corners = torch.randint(inputs.shape[-1] - SIDE + 1, (len(inputs), 2), generator=generator(*stream))
    return Images(_cropped(inputs, SIDE, corners), _cropped(truths, scale * SIDE, scale * corners), *pairs)


def _translated(dataset: str, count: int, *stream: object) -> Images:
    """Test, reference, validation, training inputs, style: disjoint parts of the images, in their published order.

    Of a CIFAR-10 image, training sees one crop of 16x16; tests are whole.
    """
    if dataset == "digits":
        x = F.interpolate(data.digits().x, scale_factor=2, mode="bilinear").expand(-1, 3, -1, -1)
        test, reference, validation, rest = x.split([300, 300, 200, len(x) - 800])
    else:
        held, pool = data.cifar10(False).x[:1000], data.cifar10(True).x
        test, reference = held.chunk(2)
        validation, rest = pool[:HELD], pool[HELD:]
    count = min(count, len(rest) // 2)
    draw = generator(*stream)
    side = 2 * SIDE
    corners = torch.randint(rest.shape[-1] - side + 1, (2 * count, 2), generator=draw)
    inputs, others = _cropped(rest[: 2 * count], side, corners).split(count)
    pairs = [Pairs((part,), (painted(part),)) for part in (validation, test)]
    return Images(inputs, painted(inputs), *pairs, painted(others), painted(reference))


def images(task: Task, count: int, *stream: object) -> Images:
    """Images of a task, at most ``count`` to train on; crops are drawn from the stream of that name."""
    if task.scale == 1:
        return _translated(task.dataset, count, *stream)
    return (_cifar10 if task.dataset == "cifar10" else _photographs)(task.scale, count, *stream)


# --- measures ------------------------------------------------------------------------------------------------


def y_channel(x: Tensor, crop: int) -> Tensor:
    """[N, 3, H, W] in [0, 1], rounded to 8 bits, as BT.601 studio luminance [N, H, W] (16 to 235) less its border."""
    check_number("crop", crop, 0, whole=True)
    if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) <= 2 * crop or not x.isfinite().all():
        raise WorkbenchError(f"images {list(x.shape)}, crop {crop}: give finite [N, 3, H, W], larger than its borders")
    h, w = x.shape[2:]
    x = x.clamp(0, 1).mul(255).round().double()
    y = 16 + (x * x.new_tensor([65.481, 128.553, 24.966]).view(3, 1, 1)).sum(1) / 255
    return y[:, crop : h - crop, crop : w - crop]


def _two(a: Tensor, b: Tensor, crop: int) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise WorkbenchError(f"images {list(a.shape)} and {list(b.shape)} cannot be compared: give equal shapes")
    return y_channel(a, crop), y_channel(b, crop)


def psnr(a: Tensor, b: Tensor, crop: int) -> Tensor:
    """Peak signal-to-noise ratio in dB on Y, an image [N]; 100 for equal ones."""
    x, y = _two(a, b, crop)
    error = (x - y).square().mean((1, 2))
    return (10 * (255**2 / error.clamp(min=255**2 * 1e-10)).log10()).float()


def ssim(a: Tensor, b: Tensor, crop: int) -> Tensor:
    """Structural similarity on Y, an image [N]: Gaussian window of 11x11, sigma 1.5, K = 0.01 and 0.03 (Wang 2004)."""
    at = torch.arange(11, dtype=torch.float64) - 5
    line = (-(at**2) / (2 * 1.5**2)).exp()
    window = (line / line.sum())[:, None] * (line / line.sum())[None]
    x, y = (each[:, None] for each in _two(a, b, crop))
    if min(x.shape[2:]) < 11:
        raise WorkbenchError(f"images of {list(x.shape[2:])} without their borders: the window needs 11 x 11")
    moments = torch.cat([x, y, x * x, y * y, x * y])
    mx, my, xx, yy, xy = F.conv2d(moments, window[None, None]).chunk(5)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    return (similar / ((mx**2 + my**2 + c1) * (xx - mx**2 + yy - my**2 + c2))).mean((1, 2, 3)).float()


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance of two samples [n, d], each taken as a Gaussian: of means and of covariances (Heusel 2017)."""
    a, b = a.double(), b.double()
    gap = (a.mean(0) - b.mean(0)).square().sum()
    first, second = (torch.cov(x.T) for x in (a, b))
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return float(gap + first.trace() + second.trace() - 2 * mixed)


class Features(nn.Module):
    """A small classifier of CIFAR-10 that we train ourselves: its layers are the perceptual features.

    No weights of VGG can be had offline, and none are needed to see the principle.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = (3, 8, 16, 32)
        self.convs = nn.ModuleList([nn.Conv2d(i, o, 3, 2, 1) for i, o in pairwise(channels)])
        self.classes = nn.Linear(channels[-1], 10)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] to the features of three layers, each at half the resolution of the one before."""
        found = [x - 0.5]
        for conv in self.convs:
            found.append(F.relu(conv(found[-1])))
        return found[1:]

    def pooled(self, x: Tensor) -> Tensor:
        """Means of all layers' features over the image: [N, 56]."""
        return torch.cat([each.mean((2, 3)) for each in self(x)], dim=1)

    def logits(self, x: Tensor) -> Tensor:
        """Scores of the ten classes [N, 10]."""
        return self.classes(self(x)[-1].mean((2, 3)))
