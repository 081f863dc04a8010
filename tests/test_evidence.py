"""Intervals against scipy and by simulation, rules at their edges, the ledger as a file."""

import json
import math
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from workbench import ROOT, WorkbenchError, evidence
from workbench.evidence import (
    CONTRADICTED,
    KEYS,
    NOT_SEEN,
    NOT_TESTABLE,
    PARTLY,
    REPRODUCED,
    Claim,
    Interval,
    above,
    equals,
    inside,
    interval,
    means,
    not_worse,
)
from workbench.figures import compare

# --- intervals ---------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=24), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@settings(max_examples=40)
def test_the_interval_is_scipys(samples, confidence):
    if np.std(samples) < 1e-6:
        return
    found = interval(samples, confidence)
    expected = stats.ttest_1samp(samples, 0.0).confidence_interval(confidence)
    assert found.low == pytest.approx(expected.low, rel=1e-9, abs=1e-9)
    assert found.high == pytest.approx(expected.high, rel=1e-9, abs=1e-9)
    assert found.mean == pytest.approx(sum(samples) / len(samples), abs=1e-9)
    assert found.half_width == pytest.approx((expected.high - expected.low) / 2, rel=1e-9)


def test_the_interval_by_hand():
    found = interval([1.0, 2.0, 3.0])  # mean 2, sd 1, t(0.975, 2) = 4.30265
    assert (found.mean, found.samples) == (2.0, (1.0, 2.0, 3.0))
    assert found.high == pytest.approx(2 + 4.30265 / math.sqrt(3), abs=1e-4)


def test_five_seeds_cover_the_truth_as_often_as_promised():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (4000, 5))
    hits = [found.low <= 3.0 <= found.high for found in map(interval, draws)]
    assert 0.935 <= np.mean(hits) <= 0.965


def test_a_seed_without_a_value_leaves_the_mean_but_stays_among_the_samples():
    found, without = interval([4.0, math.nan, 6.0, 8.0]), interval([4.0, 6.0, 8.0])
    assert (found.mean, found.low, found.high) == (without.mean, without.low, without.high)
    assert len(found.samples) == 4
    assert math.isnan(found.samples[1])


@pytest.mark.parametrize("samples", [[], [1.0], [math.nan, 1.0, math.nan]])
def test_fewer_than_two_values_are_refused(samples):
    with pytest.raises(WorkbenchError, match="two seeds"):
        interval(samples)


# --- rules -------------------------------------------------------------------------------------------------------


def spans(low, high, samples=()):
    return Interval((low + high) / 2, low, high, tuple(samples))


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (200.0, REPRODUCED),
        (201.0, REPRODUCED),
        (199.0, REPRODUCED),
        (201.01, PARTLY),
        (198.99, PARTLY),
        (210.0, PARTLY),
        (190.0, PARTLY),
        (210.1, CONTRADICTED),
        (189.9, CONTRADICTED),
        (-200.0, CONTRADICTED),
    ],
)
def test_equals_at_its_edges(value, verdict):
    assert equals()(spans(value, value), 200.0) == verdict
    assert equals()(spans(-value, -value), -200.0) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 1.0, REPRODUCED),
        (0.0, 1.0, NOT_SEEN),
        (-1.0, 1.0, NOT_SEEN),
        (-1.0, 0.0, NOT_SEEN),
        (-1.0, -0.1, CONTRADICTED),
        (math.nan, math.nan, NOT_SEEN),
    ],
)
def test_above_at_its_edges(low, high, verdict):
    assert above()(spans(low, high), None) == verdict
    assert above(2.0)(spans(low + 2, high + 2), None) == verdict
    assert not_worse(3.0)(spans(low - 3, high - 3), None) == verdict


@pytest.mark.parametrize(
    ("samples", "verdict"),
    [
        ((10.0, 19.0, 12.0), REPRODUCED),
        ((10.0, 19.01), PARTLY),
        ((9.99, 12.0), PARTLY),
        ((math.nan, 12.0), PARTLY),
        ((9.0, 20.0), CONTRADICTED),
        ((math.nan, math.nan), CONTRADICTED),
    ],
)
def test_inside_at_its_edges(samples, verdict):
    assert inside(10, 19)(spans(0, 0, samples), None) == verdict


# --- rows --------------------------------------------------------------------------------------------------------


def claim(name="gebt.a", rule=None, **more):
    return Claim(name, "What it says", "measured", "points", rule or above(), **more)


def test_every_verdict_can_come_out_of_a_row():
    rows = [
        claim().row(interval([1.0, 1.1, 1.2]), "quick"),
        claim(rule=inside(0, 1)).row(interval([0.5, 2.0]), "quick"),
        claim().row(interval([-5.0, 6.0]), "quick"),
        claim().row(interval([-1.0, -1.1, -1.2]), "quick"),
        claim().row(None, "quick"),
    ]
    assert [row["verdict"] for row in rows] == list(evidence.VERDICTS)


def test_a_row_has_exactly_the_designs_keys_and_is_json():
    design = "id paper claim kind published value low high n unit verdict source verified scale command"
    design = design.split(" ")
    assert list(KEYS) == design
    row = claim(published=3.0, source="Table 1", verified=True).row(interval([1.0, 2.0, math.nan]), "full")
    assert list(row) == design
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert (row["paper"], row["scale"], row["published"]) == ("gebt", "full", 3.0)
    assert row["command"] == "workbench figures gebt --scale full"
    number = claim(rule=equals(), published=3.0).row(np.float64(3.001), "quick")
    assert (number["value"], number["low"], number["n"], number["verdict"]) == (3.001, None, None, REPRODUCED)
    nothing = claim().row(None, "quick")
    assert (nothing["value"], nothing["low"], nothing["verdict"]) == (None, None, NOT_TESTABLE)


# --- the ledger --------------------------------------------------------------------------------------------------


def row(name, value=1.0):
    return claim(name).row(value, "quick")


def test_merging_replaces_that_paper_alone_and_sorts(tmp_path):
    target = tmp_path / "figures" / "ledger.json"
    evidence.merge_ledger(target, [row("b.z"), row("b.a")], "b")
    evidence.merge_ledger(target, [row("c.x"), row("c.y")], "c")
    evidence.merge_ledger(target, [row("a.q")], "a")
    others = [r for r in evidence.read_rows(target) if r["paper"] != "c"]
    evidence.merge_ledger(target, [row("c.w", 7.0)], "c")
    rows = evidence.read_rows(target)
    assert [r["id"] for r in rows] == ["a.q", "b.a", "b.z", "c.w"]
    assert [r for r in rows if r["paper"] != "c"] == others
    assert rows[3]["value"] == 7.0
    once = target.read_bytes()
    evidence.merge_ledger(target, [row("c.w", 7.0)], "c")
    assert target.read_bytes() == once
    assert [f.name for f in target.parent.iterdir()] == ["ledger.json"], "no temporary file stays"


def test_a_merge_that_dies_leaves_the_old_ledger(tmp_path, monkeypatch):
    target = tmp_path / "ledger.json"
    evidence.merge_ledger(target, [row("a.x")], "a")
    before = target.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(WorkbenchError, match="No space left"):
        evidence.merge_ledger(target, [row("a.x", 2.0)], "a")
    assert target.read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["ledger.json"]


@pytest.mark.parametrize("rows", [[row("a.x"), row("a.x")], [row("b.x")]], ids=["an id twice", "another paper"])
def test_rows_that_do_not_belong_are_refused_and_nothing_is_written(tmp_path, rows):
    target = tmp_path / "ledger.json"
    with pytest.raises(WorkbenchError):
        evidence.merge_ledger(target, rows, "a")
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"[{", b"3", b"null", b"[1]", b'["a"]', b'{"a": 1}', b'[{"id": "a.x"}]', b"\xff\xfe"],
)
def test_a_damaged_ledger_is_one_clear_line_and_is_not_overwritten(tmp_path, content):
    target = tmp_path / "ledger.json"
    target.write_bytes(content)
    for use in (evidence.read_rows, lambda path: evidence.merge_ledger(path, [row("a.x")], "a")):
        with pytest.raises(WorkbenchError, match=r"ledger\.json cannot be read") as error:
            use(target)
        assert "\n" not in str(error.value)
    assert target.read_bytes() == content


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.none())


@given(key=st.sampled_from(KEYS), value=anything)
def test_a_row_of_any_content_is_compared_or_refused(tmp_path_factory, key, value):
    odd, sound = (tmp_path_factory.mktemp(name) for name in ("odd", "sound"))
    (odd / "ledger.json").write_text(json.dumps([row("a.x") | {key: value}]))
    evidence.merge_ledger(sound / "ledger.json", [row("a.x")], "a")
    for trees in ((odd, sound), (sound, odd)):
        with suppress(WorkbenchError):
            compare(*trees, ["a"])


def test_no_ledger_is_an_empty_one_and_rows_go_to_the_output_folder(tmp_path, monkeypatch):
    assert evidence.read_rows(tmp_path / "none.json") == []
    monkeypatch.setenv("WORKBENCH_OUT", str(tmp_path))
    evidence.save_rows([row("b.x"), row("a.x")])
    assert [r["id"] for r in evidence.read_rows(tmp_path / "ledger.json")] == ["a.x", "b.x"]


# --- published numbers -------------------------------------------------------------------------------------------


CLAIMED = [
    p
    for p in sorted((ROOT / "data" / "published").glob("*.csv"))
    if p.stem not in ("unit_energies", "adadeep_platforms")
]


@pytest.mark.parametrize("path", CLAIMED, ids=lambda p: p.stem)
def test_published_numbers_have_a_source_and_an_id_of_their_own(path):
    table = evidence.published(path.stem)
    assert len(table) > 0
    assert table.index.is_unique
    assert table.index.str.startswith((f"{path.stem}.", f"hardware.{path.stem}.")).all()
    for column in ("source", "claim", "unit"):
        assert table[column].str.strip().str.len().gt(0).all(), column
    assert table["value"].notna().all()
    assert table["verified"].dtype == bool
    raw = path.read_text().splitlines()[1:]
    assert table["verified"].sum() == sum(",true," in line for line in raw)


def test_a_claim_may_belong_to_another_papers_notebook():
    one = claim(rule=equals(), published=3.0)
    assert one.row(3.0, "quick")["paper"] == "gebt"
    row = replace(one, paper="smartdeal").row(3.0, "quick")
    assert (row["paper"], row["id"], row["command"]) == (
        "smartdeal",
        one.id,
        "workbench figures smartdeal --scale quick",
    )


def test_claims_from_the_table_carry_its_numbers():
    table = evidence.published("gebt")
    claims = evidence.claims_from(table, "analytic", equals())
    assert set(claims) == set(table.index)
    one = claims["gebt.table2.cora.gcn"]
    assert (one.published, one.unit, one.source, one.verified) == (77.95, "MFLOPs", "GEBT Table 2", True)
    assert json.loads(json.dumps(one.row(77.95, "quick")))["verdict"] == REPRODUCED


def test_means_by_group_leave_out_what_gave_no_value():
    table = pd.DataFrame({"arm": list("aaabbb"), "seed": [0, 1, 2] * 2, "x": [1.0, 2.0, 3.0, 5.0, np.nan, np.nan]})
    found = means(table, ["arm"], "x").set_index("arm")
    expected = interval([1.0, 2.0, 3.0])
    assert found.loc["a"].tolist() == [expected.mean, expected.half_width, 3]
    assert found.loc["b"].isna().tolist() == [True, True, False], "one value has no spread"
    assert found.loc["b", "n"] == 1
