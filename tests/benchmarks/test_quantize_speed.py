"""One training step of ResNet-8 (width 16, batch 64, 32x32 inputs): float32, quantised 8/8, and written plainly.

They take turns in one process, so that a slow minute of the machine falls on all of them; seconds are the processor's
on this process (run with OMP_NUM_THREADS=1). Times are printed and stored with the benchmark, never asserted: they
differ from machine to machine.
"""

import copy
import statistics
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from workbench.quantize import quantize
from workbench.resnets import cifar_resnet


def step_of(model):
    x, labels = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step():
        optimiser.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimiser.step()

    return step


@pytest.fixture
def models(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # run alone, pytest puts only this folder there
    from oracles.plain_quantizer import PlainConv2d

    torch.manual_seed(0)
    model = cifar_resnet(8)
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = PlainConv2d
    return {"fp32": model, "ours_8_8": quantize(model), "forward_only": quantize(model, error_bits=32), "plain": plain}


def test_a_quantised_step_beside_a_float32_step(benchmark, models):
    steps = {name: step_of(model) for name, model in models.items()}
    times = {name: [] for name in steps}

    def one_round():
        for name, step in steps.items():
            begin = time.process_time()
            step()
            times[name].append(time.process_time() - begin)

    benchmark.pedantic(one_round, rounds=25, warmup_rounds=3)
    if not benchmark.stats:  # run as a test, without timing
        return
    times = {name: kept[3:] for name, kept in times.items()}
    report = {"fp32_step_s": statistics.median(times["fp32"])}
    for name in list(times)[1:]:
        ratios = [ours / fp32 for ours, fp32 in zip(times[name], times["fp32"], strict=True)]
        report[f"{name}_ratio"] = statistics.median(ratios)
        report[f"{name}_ratio_of_minima"] = min(times[name]) / min(times["fp32"])
    benchmark.extra_info.update(report)
    print("\nResNet-8 step: " + ", ".join(f"{name} {value:.3g}" for name, value in report.items()))
