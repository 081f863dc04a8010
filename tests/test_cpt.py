"""CPT's schedules against their formula in plain Python, and every printed cost against its recomputation."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from workbench import WorkbenchError
from workbench.evidence import CONTRADICTED, published
from workbench.papers.cpt import published as cells
from workbench.papers.cpt.method import cyclic, ramp, reversed_ramps, shuffled, static, triangle
from workbench.training import generator

BOUNDS = st.tuples(st.integers(1, 16), st.integers(0, 16)).map(lambda b: (b[0], b[0] + b[1]))


def rint(value):
    return round(value)  # Python rounds halves to even, as numpy.rint does


@given(st.integers(1, 300), BOUNDS, st.integers(1, 40))
@settings(max_examples=100)
def test_the_schedule_is_the_papers_formula(iterations, bounds, cycles):
    assume(cycles <= iterations)
    (low, high), period = bounds, int(iterations / cycles)
    found = cyclic(iterations, low, high, cycles)
    assert found.dtype == torch.int64
    for i, bits in enumerate(found.tolist()):
        assert bits == rint(low + 0.5 * (high - low) * (1 + math.cos(math.pi * ((i % period) / period) + math.pi)))


def test_a_cycle_is_a_ramp_and_then_a_drop():
    bits = cyclic(64_000, 3, 8)
    assert (bits[0], bits[1999], bits[2000], bits[-1]) == (3, 8, 3, 8)
    cycle = bits[:2000]
    assert (cycle.diff() >= 0).all()
    assert set(cycle.tolist()) == {3, 4, 5, 6, 7, 8}
    assert torch.equal(bits, cycle.repeat(32))
    # the ramp crosses b + 1/2 where cos(pi phase) = 1 - 2 (b + 1/2 - low) / (high - low)
    crossings = [2000 / math.pi * math.acos(1 - 2 * (b + 0.5 - 3) / 5) for b in range(3, 8)]
    assert [int((cycle <= b).sum()) for b in range(3, 8)] == pytest.approx(crossings, abs=1)


@given(st.integers(1, 300), BOUNDS, st.integers(1, 40))
@settings(max_examples=60)
def test_controls_have_the_same_bits(iterations, bounds, cycles):
    assume(cycles <= iterations)
    bits, back = (schedule(iterations, *bounds, cycles) for schedule in (cyclic, reversed_ramps))
    period = iterations // cycles
    for start in range(0, iterations, period):
        assert back[start : start + period].tolist() == bits[start : start + period].tolist()[::-1]
    mixed = shuffled(bits, generator(0, "bits"))
    assert mixed.sort().values.equal(bits.sort().values)
    assert mixed.equal(shuffled(bits, generator(0, "bits")))


def test_shuffled_bits_lose_their_order():
    bits = cyclic(2000, 3, 8, 4)
    mixed = [shuffled(bits, generator(seed, "bits")) for seed in range(2)]
    assert not mixed[0].equal(mixed[1])
    # position inside a cycle explains nothing: correlation of 2000 pairs is 0 within 5 standard errors of 1 / sqrt(n)
    correlation = torch.corrcoef(torch.stack([bits, mixed[0]]).double())[0, 1]
    assert abs(correlation) < 5 / 2000**0.5


@given(BOUNDS, st.integers(1, 40), st.integers(1, 8))
@settings(max_examples=60)
@example(bounds=(1, 12), half=22, cycles=1)  # an exact half, which floats missed by a digit on one of its sides
def test_the_triangle_comes_down_as_it_went_up(bounds, half, cycles):
    (low, high), period = bounds, 2 * half
    bits = triangle(period * cycles, low, high, cycles)
    assert (bits[0], bits[half]) == (low, high)
    assert torch.equal(bits, bits[:period].repeat(cycles))
    assert (bits[: half + 1].diff() >= 0).all()
    assert torch.equal(bits[1:half], bits[half + 1 : period].flip(0))
    exact = [low + (high - low) * Fraction(min(i, period - i), half) for i in range(period)]
    assert bits[:period].tolist() == [round(value) for value in exact]  # halves to the even number


def test_static_and_equal_bounds_are_the_same():
    assert static(7, 5).tolist() == [5] * 7
    assert cyclic(7, 5, 5, 2).equal(static(7, 5))


@pytest.mark.parametrize("schedule", [ramp, cyclic, triangle, reversed_ramps])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 3, 8, 11), "11 cycles do not fit 10 iterations"),
        ((10, 3, 8, 0), "choose 1 to 10"),
        ((10, 8, 3, 2), "bits from 8 to 3"),
        ((10, 0, 3, 2), "bits from 0 to 3"),
        ((10, 3, 8, 2.5), "cycles must be a whole number"),
        ((10, 3, math.inf, 2), "high must be a whole number"),
        ((math.nan, 3, 8, 2), "iterations must be a whole number"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(schedule, arguments, message):
    with pytest.raises(WorkbenchError, match=message):
        schedule(*arguments)


@pytest.mark.parametrize("bits", [0, -8, 2.5, math.nan])
def test_constant_bits_are_whole_and_positive(bits):
    with pytest.raises(WorkbenchError, match="bits must be a whole number"):
        static(3, bits)


# --- printed costs -----------------------------------------------------------------------------------------------

TABLE = cells.table().set_index("id")


def test_every_printed_cost_has_its_recomputation():
    numbers = published("cpt")
    costs = numbers.index[numbers["unit"].eq("GBitOps") | numbers.index.str.contains(r"\.saving_")]
    scaled_by = {"cpt.wikitext103.transformer.static_8_8", "cpt.ptb.lstm.static_8_8"}
    assert set(TABLE.index) == set(costs) - scaled_by
    assert TABLE["analytic"].gt(0).all()
    assert (TABLE["published"] == numbers.loc[TABLE.index, "value"]).all()


@pytest.mark.parametrize("cell", [i for i in TABLE.index if i.startswith("cpt.imagenet") and "saving" not in i])
def test_imagenet_cells_to_six_permille(cell):
    assert TABLE.loc[cell, "analytic"] == pytest.approx(TABLE.loc[cell, "published"], rel=0.006)


@pytest.mark.parametrize("cell", [i for i in TABLE.index if i.startswith("cpt.c100") and "saving" not in i])
def test_cifar_figure_to_seven_permille(cell):
    assert TABLE.loc[cell, "analytic"] == pytest.approx(TABLE.loc[cell, "published"], rel=0.007)


@pytest.mark.parametrize("cell", [i for i in TABLE.index if i.startswith("cpt.c100") and "saving" in i])
def test_cifar_savings_to_the_printed_digit(cell):
    assert TABLE.loc[cell, "analytic"] == pytest.approx(TABLE.loc[cell, "published"], abs=0.01)


@pytest.mark.parametrize("cell", [i for i in TABLE.index if i.startswith("cpt.ptb")])
def test_lstm_cells(cell):
    if "saving" in cell:  # printed as quotients of cells of three digits
        assert TABLE.loc[cell, "analytic"] == pytest.approx(TABLE.loc[cell, "published"], abs=0.3)
    else:
        assert TABLE.loc[cell, "analytic"] == pytest.approx(TABLE.loc[cell, "published"], rel=0.005)


def test_the_formula_behind_the_table_in_plain_python():
    """Mean of b b + 2 b g over one cycle, times MACs and images, with nothing of the package."""

    def mean_cost(low, high, g):
        bits = [rint(low + 0.5 * (high - low) * (1 - math.cos(math.pi * i / 2000))) for i in range(2000)]
        return sum(b * b + 2 * b * g for b in bits) / 2000

    for low, high, cell in ((3, 8, "saving_3_8"), (3, 6, "saving_3_6")):
        expected = 100 * (1 - mean_cost(low, high, high) / (3 * high * high))
        assert TABLE.loc[f"cpt.c100.resnet74.{cell}", "analytic"] == pytest.approx(expected, rel=1e-12)
    for depth, n in ((38, 6), (74, 12)):
        weights = 9 * 3 * 16 * 1024  # a stage: its first convolution, the others, and a 1x1 shortcut
        weights += 2 * n * 9 * 16 * 16 * 1024
        weights += (9 * 16 * 32 + (2 * n - 1) * 9 * 32 * 32 + 16 * 32) * 256
        weights += (9 * 32 * 64 + (2 * n - 1) * 9 * 64 * 64 + 32 * 64) * 64
        M = weights + 64 * 100 + 2 * 28672 * (2 * n + 1)
        expected = M * 64_000 * 128 * 192 / 1e9
        assert TABLE.loc[f"cpt.c100.resnet{depth}.static_8_8", "analytic"] == pytest.approx(expected, rel=1e-12)
        assert cells.macs(f"c100.resnet{depth}").forward == M


def test_only_the_rounded_ramp_gives_the_printed_savings():
    def saved(bits):
        return 100 * (1 - float((bits * bits + 16 * bits).double().mean()) / 192)

    assert saved(cyclic(64_000, 3, 8)) == pytest.approx(36.67, abs=0.005)
    assert saved(ramp(64_000, 3, 8)) == pytest.approx(36.80, abs=0.005)
    forward_only = 100 * (1 - float((cyclic(64_000, 3, 8) ** 2).double().mean()) / 64)
    assert forward_only > 45


def test_ninety_epochs_would_cost_fourteen_times_as_much():
    imagenet = TABLE[TABLE["ninety_epochs"].notna()]
    assert len(imagenet) == 8
    assert (imagenet["ninety_epochs"] / imagenet["analytic"]).tolist() == pytest.approx([14.075] * 8, rel=1e-3)
    assert imagenet["remark"].eq(cells.NINETY_EPOCHS).all()


def test_ledger_rows_say_what_does_not_come_out():
    rows = {row["id"]: row for row in cells.rows("quick")}
    assert set(rows) == set(TABLE.index)
    assert rows["cpt.imagenet.resnet18.static_8_8"]["value"] == pytest.approx(2.861e9, rel=1e-3)
    assert rows["cpt.imagenet.resnet18.static_8_8"]["claim"].endswith("64,000 iterations of 128 images")
    contradicted = {key for key, row in rows.items() if row["verdict"] == CONTRADICTED}
    assert contradicted == {"cpt.wikitext103.transformer.saving_4_6"}
    assert {row["kind"] for row in rows.values()} == {"analytic"}


def test_costs_of_every_network_in_the_figure():
    costs = cells.cifar_costs().pivot(index="network", columns="schedule", values="gbitops")
    assert costs.shape == (6, 4)
    assert (costs["CPT 3-8/8"] / costs["static 8/8"]).tolist() == pytest.approx([1 - 0.36673] * 6, rel=1e-4)
    depths = [costs.loc[f"resnet{depth}", "static 8/8"] for depth in (38, 74, 110, 152, 164)]
    assert depths == sorted(depths)
    # Positions of ResNet-164's markers in the code repository's image exp_cifar100.
    assert costs.loc["resnet164", "static 8/8"] == pytest.approx(6.04e8, rel=2e-3)
    assert costs.loc["resnet164", "CPT 3-8/8"] == pytest.approx(3.823e8, rel=2e-3)
