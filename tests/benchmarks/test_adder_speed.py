"""An adder layer, forward and backward, beside AdderNet's broadcast formulation and beside torch's convolution.

The three take turns in one process, so that a slow minute of the machine falls on all of them; seconds are the
processor's on this process, one thread. The convolution of the same shape is the limit: what the hardware does when
one instruction multiplies and adds. Memory is what a forward and backward pass adds to the process at its peak, each
in a process of its own, above that of the convolution. Numbers are printed and stored with the benchmark, never
asserted: they differ from machine to machine.
"""

import multiprocessing
import statistics
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from workbench.papers.shiftaddnet.adder import Adder2d

TESTS = Path(__file__).parents[1]  # run alone, pytest puts only this folder on the path
SHAPES = {"16->16 @16x16": (16, 16), "64->64 @8x8": (64, 8)}
BATCH = 32


def steps_of(channels, side):
    """A forward and backward pass of each, on the same numbers."""
    from oracles import broadcast_adder

    torch.manual_seed(0)
    layer, conv = Adder2d(channels, channels, 3, 1, 1), nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
    x, g = torch.randn(BATCH, channels, side, side, requires_grad=True), torch.randn(BATCH, channels, side, side)
    w = layer.weight.detach().clone().requires_grad_()

    def step(forward):
        def run():
            x.grad = w.grad = layer.weight.grad = conv.weight.grad = None
            begin = time.process_time()
            out = forward()
            middle = time.process_time()
            out.backward(g)
            return middle - begin, time.process_time() - middle, x.grad

        return run

    forms = {
        "broadcast": lambda: broadcast_adder.adder2d(x, w, 1, 1),
        "adder": lambda: layer(x),
        "conv": lambda: conv(x),
    }
    return {name: step(forward) for name, forward in forms.items()}


def _high_water():
    """Largest resident set so far, in KiB (ru_maxrss would begin with the parent's); 0 where there is no /proc."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def _peak(name, shape, pipe):
    sys.path.insert(0, str(TESTS))
    torch.set_num_threads(1)
    step = steps_of(*shape)[name]
    before = _high_water()
    step()
    pipe.send((_high_water() - before) / 1024)


def peak_mib(name, shape):
    """Growth of the largest resident set in a fresh process, in MiB."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_peak, args=(name, shape, there))
    process.start()
    process.join()
    return here.recv()


@pytest.mark.parametrize("shape", SHAPES)
def test_an_adder_layer_beside_broadcast_and_convolution(benchmark, shape, monkeypatch):
    monkeypatch.syspath_prepend(TESTS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps = steps_of(*SHAPES[shape])
    times = {name: [] for name in steps}

    def one_round():
        found = {name: step() for name, step in steps.items()}
        for name, (forward, backward, _) in found.items():
            times[name].append((forward, backward))
        return found

    found = benchmark.pedantic(one_round, rounds=7, warmup_rounds=1)
    torch.set_num_threads(threads)
    scale = found["broadcast"][2].abs().max()
    assert (found["adder"][2] - found["broadcast"][2]).abs().max() < 1e-5 * scale  # the same work was timed
    if not benchmark.stats:  # run as a test, without timing
        return
    total = {name: statistics.median(sum(pair) for pair in kept[1:]) for name, kept in times.items()}
    memory = {name: peak_mib(name, SHAPES[shape]) for name in steps}
    report = {
        "broadcast_over_adder": total["broadcast"] / total["adder"],
        "adder_over_conv": total["adder"] / total["conv"],
    }
    for name, kept in times.items():
        forward, backward = (statistics.median(part) * 1e3 for part in zip(*kept[1:], strict=True))
        report |= {f"{name}_forward_ms": forward, f"{name}_backward_ms": backward, f"{name}_peak_mib": memory[name]}
    report["scratch_ratio"] = (memory["broadcast"] - memory["conv"]) / max(memory["adder"] - memory["conv"], 0.1)
    benchmark.extra_info.update(report)
    print(f"\nadder layer {shape}: " + ", ".join(f"{name} {value:.3g}" for name, value in report.items()))
