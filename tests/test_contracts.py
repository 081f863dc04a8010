"""Public functions refuse, in one line, misspelt options and numbers that cannot be meant; none answers silently."""

import inspect
import math

import pandas as pd
import pytest
import torch
from torch import nn

from workbench import WorkbenchError, early_bird, evidence, nets, quantize, resnets, training
from workbench.papers.a2d.method import a2c
from workbench.papers.agd import tasks
from workbench.papers.cpt import method as cpt
from workbench.papers.gebt import method as gebt
from workbench.papers.shiftaddnet import shift
from workbench.papers.smartdeal import decompose
from workbench.training import generator

WHOLE = [math.nan, math.inf, -math.inf, -1, 1.5]
SHARE = [math.nan, math.inf, -math.inf, -0.1, 1.5]
POSITIVE = [math.nan, -math.inf, -1]
REAL = [math.nan]
NAME = ["", "cod", "codes", "Code", None]

X = torch.linspace(-1, 1, 24).view(2, 3, 4)
PAIRS = torch.zeros(4, 4)
TABLE = pd.DataFrame({"arm": list("aabb"), "seed": [1, 2, 1, 2], "accuracy": [1.0, 2.0, 3.0, 4.0]})
ARMS = {"a": {"arm": "a"}, "b": {"arm": "b"}}
BOUNDS = {"iterations": 10, "low": 3, "high": 8, "cycles": 2}
ALL_WHOLE = dict.fromkeys(BOUNDS, WHOLE)
IMAGES = torch.linspace(0, 1, 3 * 16 * 16).view(1, 3, 16, 16)
NET = nets.ConvNet((4, 4))
ADMM = {"ratio": 0.5, "rho": 1.0, "form": "sum", "every": 2}

# A function, arguments that it takes, and what it must not take instead.
CASES = [
    (early_bird.detector_distance, {"pairwise": PAIRS, "fifo": 2, "rule": "code"}, {"fifo": WHOLE, "rule": NAME}),
    (early_bird.normalise_by_first, {"watched": PAIRS[0], "fifo": 2}, {"fifo": [*WHOLE, 4]}),
    (early_bird.emergence, {"watched": PAIRS[0], "eta": 0.1, "after": 0}, {"eta": POSITIVE, "after": WHOLE}),
    (early_bird.slim, {"network": NET, "strength": 0.0}, {"strength": POSITIVE}),
    (early_bird.channel_mask, {"network": NET, "ratio": 0.5}, {"ratio": SHARE}),
    (early_bird.EarlyBird, {"fifo": 5, "epsilon": 0.1}, {"fifo": [*WHOLE, 0, 1], "epsilon": SHARE}),
    (cpt.ramp, BOUNDS, ALL_WHOLE),
    (cpt.cyclic, BOUNDS, ALL_WHOLE),
    (cpt.triangle, BOUNDS, ALL_WHOLE),
    (cpt.reversed_ramps, BOUNDS, ALL_WHOLE),
    (cpt.static, {"iterations": 3, "bits": 8}, {"iterations": WHOLE, "bits": [*WHOLE, 0]}),
    (quantize.nearest, {"x": X, "low": -1.0, "high": 1.0, "bits": 3}, {"bits": [*WHOLE, 0]}),
    (quantize.stochastic, {"x": X, "bits": 3}, {"bits": [*WHOLE, 0]}),
    (quantize.quantize_weight, {"w": X, "bits": 3}, {"bits": [*WHOLE, 0]}),
    (quantize.quantize_activation, {"x": X, "bits": 3}, {"bits": [*WHOLE, 0]}),
    (quantize.quantize_error, {"y": X, "bits": 3}, {"bits": [*WHOLE, 0]}),
    (
        quantize.quantize,
        {"model": NET, "bits": 8, "error_bits": 8, "momentum": 0.1},
        {"bits": [*WHOLE, 0], "error_bits": [*WHOLE, 0], "momentum": SHARE},
    ),
    (
        quantize.set_bits,
        {"model": quantize.quantize(NET), "forward": 8, "backward": 8},
        {"forward": [*WHOLE, 0], "backward": [*WHOLE, 0]},
    ),
    (evidence.interval, {"samples": [1.0, 2.0], "confidence": 0.95}, {"confidence": [*SHARE, 0]}),
    (evidence.contrast, {"table": TABLE, **ARMS, "value": "accuracy"}, {"value": NAME}),
    (evidence.means, {"table": TABLE, "by": ["arm"], "column": "accuracy"}, {"column": NAME, "by": [["rm"]]}),
    (evidence.equals, {"relative": 0.005, "partly": 0.05}, {"relative": POSITIVE, "partly": POSITIVE}),
    (evidence.above, {"margin": 0.0}, {"margin": REAL}),
    (evidence.not_worse, {"margin": 0.0}, {"margin": REAL}),
    (evidence.inside, {"low": 0.0, "high": 1.0}, {"low": [*REAL, 2.0], "high": [*REAL, -1.0]}),
    (training.dropout_masks, {"seeds": [0], "epoch": 0, "shape": (2,), "rate": 0.5}, {"rate": [*SHARE, 1]}),
    (training.steps, {"count": 2, "label": "steps"}, {"count": WHOLE}),
    (nets.ConvNet, {"widths": (4, 4), "classes": 2, "inputs": 1}, {"classes": [*WHOLE, 0], "inputs": [*WHOLE, 0]}),
    (
        resnets.cifar_resnet,
        {"depth": 8, "classes": 2, "width": 4, "channels": 3},
        {"depth": WHOLE, "classes": [*WHOLE, 0], "width": [*WHOLE, 0], "channels": [*WHOLE, 0]},
    ),
    (resnets.vgg_small, {"classes": 10}, {"classes": [*WHOLE, 0]}),
    (resnets.mobilenet_v2, {"classes": 10}, {"classes": [*WHOLE, 0]}),
    (resnets.imagenet_resnet, {"depth": 18, "classes": 10}, {"depth": WHOLE, "classes": [*WHOLE, 0]}),
    (gebt.draw_edges, {"weights": torch.rand(2, 5), "ratio": 0.5, "ties": [0, 1]}, {"ratio": SHARE}),
    (gebt.Admm, ADMM, {"ratio": SHARE, "rho": POSITIVE, "form": [*NAME, "frob"], "every": [*WHOLE, 0]}),
    (shift.round_power, {"w": X, "low": -7, "domain": "log"}, {"low": [*REAL, 1, -0.5], "domain": [*NAME, "exp"]}),
    (decompose.decompose, {"weight": X[0], "threshold": 0.1}, {"threshold": POSITIVE, "iterations": WHOLE}),
    (tasks.psnr, {"a": IMAGES, "b": IMAGES, "crop": 2}, {"crop": [*WHOLE, 8], "a": [IMAGES[:, :1]]}),
    (tasks.ssim, {"a": IMAGES, "b": IMAGES, "crop": 2}, {"crop": [*WHOLE, 3], "a": [IMAGES[:, :1]]}),
]


@pytest.fixture(autouse=True)
def gradients():
    for parameter in NET.parameters():
        parameter.grad = torch.zeros_like(parameter)


@pytest.mark.parametrize(("function", "arguments", "bad"), CASES, ids=[case[0].__name__ for case in CASES])
def test_arguments_that_cannot_be_meant_are_refused_in_one_line(function, arguments, bad):
    function(**arguments)
    for name, values in bad.items():
        for value in values:
            with pytest.raises(WorkbenchError) as refused:
                function(**arguments | {name: value})
            assert "\n" not in str(refused.value)


@pytest.mark.parametrize("room", [early_bird, quantize, cpt], ids=lambda room: room.__name__)
def test_every_number_and_option_of_a_room_is_in_the_table(room):
    tried = {(function, name) for function, _, bad in CASES for name in bad}
    for function in vars(room).values():
        of_room = getattr(function, "__module__", None) == room.__name__ and not function.__name__.startswith("_")
        if of_room and (inspect.isfunction(function) or function is early_bird.EarlyBird):
            for parameter in inspect.signature(function).parameters.values():
                if parameter.annotation in ("int", "float", "Rule", "Bits") and function is not quantize.span:
                    assert (function, parameter.name) in tried


# --- answers that were silently wrong ----------------------------------------------------------------------------


def test_a_seed_that_diverged_is_not_left_out_and_no_seed_counts_twice():
    with pytest.raises(WorkbenchError, match="1 of 3 seeds gave infinity"):
        evidence.interval([math.inf, 1.0, 2.0])
    twice = TABLE.assign(seed=[1, 1, 1, 2])
    with pytest.raises(WorkbenchError, match="hold a seed twice"):
        evidence.contrast(twice, **ARMS)


def test_what_is_no_number_contradicts_nothing():
    nowhere = evidence.Interval(math.nan, math.nan, math.nan, ())
    for found, printed in ((nowhere, 1.0), (evidence.Interval(1.0, 1.0, 1.0, ()), None)):
        with pytest.raises(WorkbenchError, match="cannot be compared"):
            evidence.equals()(found, printed)
    zero = evidence.Interval(0.0, 0.0, 0.0, ())
    assert evidence.equals()(zero, 0.0) == evidence.REPRODUCED


def test_every_model_has_its_ties():
    with pytest.raises(WorkbenchError, match="1 ties"):
        gebt.rank_edges(torch.rand(2, 5), [0])
    with pytest.raises(WorkbenchError, match="finite"):
        gebt.rank_edges(torch.tensor([[math.nan, 1.0]]), [0])
    with pytest.raises(WorkbenchError, match="one a model"):
        gebt.prune_weights({"1.weight": torch.rand(2, 3, 4), "2.weight": torch.rand(2, 4, 2)}, torch.tensor([0.5]))


def test_psnr_without_a_border_is_that_of_the_whole_image():
    other = (IMAGES + 0.1).clamp(max=1)
    whole = (tasks.y_channel(IMAGES, 0) - tasks.y_channel(other, 0)).square().mean()
    assert tasks.psnr(IMAGES, other, 0).item() == pytest.approx(float(10 * (255**2 / whole).log10()), rel=1e-6)
    with pytest.raises(WorkbenchError, match="equal shapes"):
        tasks.psnr(IMAGES, other[..., 1:], 0)


def test_a_masked_action_adds_no_entropy_and_values_must_not_broadcast():
    draws = generator("a2c")
    logits, values, targets = torch.randn(4, 3, generator=draws), torch.randn(4, generator=draws), torch.zeros(4)
    actions = torch.tensor([0, 1, 1, 0])
    masked = torch.cat([logits, torch.full((4, 1), -math.inf)], 1).requires_grad_()
    found, plain = a2c(masked, values, actions, targets), a2c(logits, values, actions, targets)
    assert torch.equal(torch.stack(found), torch.stack(plain))
    sum(found).backward()
    assert masked.grad.isfinite().all()
    with pytest.raises(WorkbenchError, match=r"shapes \[4, 3\], \[4, 1\]"):
        a2c(logits, values[:, None], actions, targets)


def test_a_mask_of_channels_has_one_entry_a_channel():
    for keep in (torch.ones(7, dtype=torch.bool), torch.ones(8), torch.ones(8, 1, dtype=torch.bool)):
        for function in (nets.mask_channels, nets.remove_channels):
            with pytest.raises(WorkbenchError, match="one a channel"):
                function(NET, keep)
    with pytest.raises(WorkbenchError, match="100 images or more"):
        nets.train_conv(nn.Sequential(), torch.rand(50, 1), torch.zeros(50), 1, 0)
