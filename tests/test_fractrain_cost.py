"""FracTrain's printed costs: quotients by hand, the cp formula by hand, and how many iterations a cell pays for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.evidence import published
from workbench.papers.fractrain import cost

SAVINGS, BUDGETS = (table().set_index("id") for table in (cost.savings, cost.budgets))


@pytest.mark.parametrize(
    ("bits", "percent"),
    [
        ((3, 3, 6), 1.465),
        ((4, 4, 6), 2.083),
        ((6, 6, 6), 3.516),
        ((6, 6, 8), 4.297),
        ((8, 8, 8), 6.25),
        ((8, 8, 12), 8.333),
        ((8, 8, 16), 10.417),
        ((32, 32, 32), 100.0),
    ],
)
def test_cp_by_hand(bits, percent):
    assert cost.cp(*bits) == pytest.approx(percent, abs=5e-4)


@given(st.integers(1, 32), st.integers(1, 32), st.integers(1, 32))
def test_cp_is_the_mean_of_three_products(w, b, g):
    assert cost.cp(w, b, g) == pytest.approx(100 * (w * b / 1024 + w * g / 1024 + b * g / 1024) / 3)


@pytest.mark.parametrize(("weight_bits", "percent"), [(4, 1.758), (6, 2.344), (8, 2.930)])
def test_the_floor_lies_above_the_readmes_first_target(weight_bits, percent):
    assert cost.floor(weight_bits) == pytest.approx(percent, abs=5e-4)
    assert cost.floor(weight_bits) > 1.5
    assert cost.floor(weight_bits) == min(cost.cp(weight_bits, *choice) for choice in cost.CHOICES)


@pytest.mark.parametrize("cell", SAVINGS.index)
def test_printed_savings_are_quotients_of_printed_counts(cell):
    assert SAVINGS.loc[cell, "analytic"] == pytest.approx(SAVINGS.loc[cell, "published"], abs=0.2)


def test_savings_by_hand():
    assert SAVINGS.loc["fractrain.c10.resnet38.saving_min", "analytic"] == pytest.approx(100 * (1 - 3.97 / 11.1))
    assert SAVINGS.loc["fractrain.c100.resnet74.saving_max", "analytic"] == pytest.approx(100 * (1 - 5.46 / 17.9))
    assert SAVINGS.loc["fractrain.imagenet.resnet34.saving", "analytic"] == pytest.approx(100 * (1 - 3.45 / 7.18))
    assert SAVINGS.loc["fractrain.c10.resnet74.saving_latency", "analytic"] == pytest.approx(
        100 * (1 - 321.98 / 692.29)
    )
    assert len(SAVINGS) == 11


def test_the_full_budget_by_hand_and_its_one_cell():
    convolutions = 168_214_528  # of ResNet-74, counted layer by layer in test_cost
    M = convolutions + 640 + 2 * 28672 * 25
    cell = BUDGETS.loc["fractrain.c10.resnet74.macs_sbm"]
    assert cell["analytic"] == pytest.approx(M * 64_000 * 128 * 192 / 1024)
    assert cell["analytic"] == pytest.approx(cell["published"], rel=0.006)
    assert cell["remark"] == "the full budget"
    assert BUDGETS["remark"].eq("the full budget").sum() == 1


def test_cells_that_differ_say_how_many_iterations_they_pay_for():
    for key, cell in BUDGETS.iterrows():
        assert cell["iterations"] == pytest.approx(64_000 * cell["published"] / cell["analytic"]), key
    assert BUDGETS.loc["fractrain.c100.resnet38.macs_sbm", "iterations"] == pytest.approx(34_100, rel=0.005)
    assert BUDGETS.loc["fractrain.c100.resnet74.macs_wageubn", "iterations"] == pytest.approx(32_900, rel=0.005)
    cifar = BUDGETS[BUDGETS["ninety_epochs"].isna() & (BUDGETS["remark"] != "the full budget")]
    assert cifar["iterations"].lt(64_000).all()
    assert cifar["remark"].str.contains("we infer").all()
    imagenet = BUDGETS.loc["fractrain.imagenet.resnet18.macs_sbm"]
    assert imagenet["ninety_epochs"] == pytest.approx(6.55e16, rel=0.002)
    assert "no cause" in imagenet["remark"]


def test_bits_times_time_is_what_was_printed():
    split = cost.bits_and_time().set_index("network")
    assert (split["bits"] * split["time"]).tolist() == pytest.approx(split["ratio"].tolist())
    assert split["bits"].tolist() == pytest.approx([0.48] * 4)
    assert split.loc["c10.resnet74", "ratio"] == pytest.approx(7.33 / 26.2)
    assert split.loc["c100.resnet74", "time"] == pytest.approx(1.0)


def test_ledger_rows_say_that_they_assume_all_iterations():
    rows = {row["id"]: row for row in cost.rows("full")}
    assert set(rows) == set(SAVINGS.index) | set(BUDGETS.index)
    assert all("if all 64,000 iterations of 128 images are counted" in rows[key]["claim"] for key in BUDGETS.index)
    numbers = published("fractrain")
    assert all(row["published"] == numbers.loc[key, "value"] and row["verified"] for key, row in rows.items())
