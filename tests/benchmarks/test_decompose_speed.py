"""The decomposition of a layer, all blocks at once, beside a loop over filters with numpy's least squares.

The peer is the code's formulation: one filter after the other, vectorised within the filter, float64 as here. Times
are printed and stored with the benchmark, never asserted: they differ from machine to machine. Run it with
OMP_NUM_THREADS=1. The physical limit is the floating-point work of the products that no order of work avoids.
"""

import time
from collections import deque

import numpy as np
import pytest
import torch
from timing import seconds

from workbench.papers.smartdeal.decompose import alternate, to_blocks

THRESHOLD, ITERATIONS = 0.02, 30


def nearest_power(c):
    """Vectorised: 2^k with the boundary at 1.5 x 2^k, ties down."""
    size = np.abs(c)
    exponent = np.floor(np.log2(np.where(size > 0, size, 1.0)))
    low = 2.0**exponent
    return np.where(size > 0, np.sign(c) * np.minimum(np.where(size > 1.5 * low, 2 * low, low), 32.0), 0.0)


def loop(blocks):
    """Coefficients of every filter, each on its own."""
    found = []
    for w in blocks:
        real, before = w.copy(), None
        for _ in range(ITERATIONS):
            c = nearest_power(real)
            if before is not None and np.linalg.norm(c - before) <= 1e-10:
                break
            before = c
            basis = np.linalg.lstsq(c, w, rcond=1e-9)[0]
            real = np.linalg.lstsq(basis.T, w.T, rcond=1e-9)[0].T
            real[np.abs(real).sum(1) < 5 * THRESHOLD] = 0
            real[np.abs(real) < THRESHOLD] = 0
        found.append(nearest_power(real))
    return np.stack(found)


def at_once(blocks):
    ((coefficients, _),) = deque(alternate(blocks, THRESHOLD, True, ITERATIONS), maxlen=1)
    return coefficients


def products(blocks):
    """The four matrix products of an iteration, in the layout that suits them, and nothing else."""
    columns = blocks.mT.contiguous()
    square = torch.eye(3, dtype=blocks.dtype).expand(len(blocks), 3, 3).contiguous()
    for _ in range(ITERATIONS):
        _ = columns @ columns.mT, columns @ columns.mT, square @ square, square @ columns


@pytest.mark.parametrize(("filters", "channels"), [(64, 64), (256, 64)])
def test_all_blocks_at_once_beside_a_loop(benchmark, filters, channels):
    weight = 0.05 * torch.randn(
        filters, channels, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    blocks = to_blocks(weight)
    found = benchmark.pedantic(at_once, (blocks,), rounds=7, warmup_rounds=1)
    np.testing.assert_array_equal(found.numpy(), loop(blocks.numpy()))  # the same work was timed
    if not benchmark.stats:  # run as a test, without timing
        return
    ours, theirs, limit = (
        seconds(lambda: at_once(blocks), 3, time.process_time),
        seconds(lambda: loop(blocks.numpy()), 3, time.process_time),
        seconds(lambda: products(blocks), 3, time.process_time),
    )
    report = {"loop_s": theirs, "ours_s": ours, "ratio": theirs / ours, "products_s": limit, "of_limit": ours / limit}
    benchmark.extra_info.update(report)
    print(f"\n{filters}x{channels}x3x3: " + ", ".join(f"{name} {value:.4g}" for name, value in report.items()))
