"""A2D's figures and explorers on a tiny run, against the tables behind them."""

import numpy as np
import pytest
from common import saved
from test_a2d_experiment import tiny

from workbench.explorer import MAX_BYTES
from workbench.figures import load
from workbench.papers.a2d import explorers, views
from workbench.papers.a2d.method import OPERATORS
from workbench.papers.a2d.trials import DISTILLED, SEARCHES, STATES, VANILLA

FIGURES = ("searches", "sizes", "curves", "band", "probabilities", "students", "costs", "energy")


@pytest.fixture
def result():
    return tiny()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_saved_with_its_table(name, result, tmp_path, monkeypatch):
    table, _ = saved(getattr(views, name), result, tmp_path, monkeypatch)
    if name == "sizes":
        own = result.tables["sizes"].query("agent == '4 + 8' and reading == 'equal steps'")["return"].mean()
        drawn = table.query("agent == '4 + 8' and reading == 'equal steps'")["return"].iloc[0]
        assert drawn == pytest.approx(own, rel=1e-5)


def test_what_a_last_bit_may_flip_is_not_compared(result, tmp_path, monkeypatch):
    """Which design one seed found, and one seed's probabilities, are another draw on another processor."""
    monkeypatch.setenv("WORKBENCH_OUT", str(tmp_path))
    views.probabilities(result)
    views.band(result)
    _, meta = load(tmp_path / "a2d" / "probabilities.csv")
    assert meta["tolerance"] == {"probability": None}
    table, meta = load(tmp_path / "a2d" / "band.csv")
    assert meta["tolerance"] == {"return": "half", "half": None}
    assert table["design"].tolist() == [str(d) for d in sorted(table["design"])]


def test_the_search_explorer_reads_the_history(result):
    explorer, table = explorers.explore_search(result), result.tables["probabilities"]
    for arm in SEARCHES:
        drawn = explorer(arm=arm, percent=100.0)
        last = table[(table["arm"] == arm) & (table["share"] == 1)]
        expected = last[last["choice"] == "cell 1"]["probability"].to_numpy()
        np.testing.assert_allclose(drawn["Operators"][0], expected, rtol=1e-6)
        stems = last[last["choice"] == "stem"]["probability"]
        np.testing.assert_allclose(drawn["Channels of stem and cells"]["probability"], stems, rtol=1e-6)
        likeliest = list(OPERATORS)[int(expected.argmax())]
        assert likeliest in drawn["Now"]["likeliest design"]
        first = explorer(arm=arm, percent=0.0)
        np.testing.assert_allclose(first["Operators"], 1 / 9, rtol=1e-6)
        assert first["Now"]["undecided"] == "100 %"
        assert drawn["Undecided"]["entropy"][-1] < 100
    own = result.tables["during"].query("arm == @a", local_dict={"a": VANILLA})["return"].mean()
    drawn = explorer(arm=VANILLA)["Return of the search's own episodes"]["search"]
    assert drawn[0].mean() == pytest.approx(own, rel=1e-5)
    assert np.isnan(explorer(arm=STATES)["Return of the search's own episodes"]["search"]).all()


def test_the_episode_explorer_shows_the_board_and_both_policies(result):
    explorer, frames = explorers.explore_episode(result), result.tables["frames"]
    rows = frames[frames["arm"] == DISTILLED].reset_index(drop=True)
    for step in (0, 5, 50, 89):
        drawn, row = explorer(step=step, arm=DISTILLED), rows.loc[step]
        board = drawn["The board"]
        assert board.shape == (10, 5)
        assert board[9 - row["ball_row"], row["ball_column"]] == pytest.approx(
            0.65 if (row["ball_row"], row["ball_column"]) == (9, row["paddle_column"]) else 1.0
        )
        assert board[0, row["paddle_column"]] == pytest.approx(0.65)
        bars = drawn["Next move"]
        assert bars["student"].sum() == pytest.approx(1, rel=1e-5)
        assert bars["teacher"][0] == pytest.approx(row["teacher_left"], rel=1e-5)
        p, q = bars["teacher"].astype(float), bars["student"].astype(float)
        assert float((p * np.log(p / q)).sum()) == pytest.approx(row["kl"], abs=1e-4)
        assert drawn["So far"]["caught"] == str(int(rows["caught"][:step].sum()))
    assert len(explorer()["KL(teacher || student)"]["KL"]) == 90


def test_the_size_explorer_reads_the_curves(result):
    explorer = explorers.explore_sizes(result)
    drawn = explorer(percent=100, budget="environment steps")["Return by size"]["return"]
    read = result.tables["sizes"].query("reading == 'equal steps'").groupby("agent", sort=False)["return"].mean()
    np.testing.assert_allclose(drawn, [read[f"{w} + {u}"] for w, u in ((2, 4), (4, 8), (8, 8))], rtol=1e-5)
    random = explorers.BY_CHANCE
    few = explorer(percent=5, budget="MACs")["Return by size"]["return"]
    full = explorer(percent=100, budget="MACs")["Return by size"]["return"]
    assert np.abs(few - random).max() <= max(np.abs(full - random).max(), 1.0) + 1e-5
    best = explorer(percent=100, budget="environment steps")["At this budget"]["best agent"]
    assert best == ["2 + 4", "4 + 8", "8 + 8"][int(drawn.argmax())]


def test_explorers_are_light(result):
    for explore in (explorers.explore_search, explorers.explore_episode, explorers.explore_sizes):
        assert len(explore(result).html()) < MAX_BYTES / 20


@pytest.mark.parametrize("explore", [explorers.explore_search, explorers.explore_sizes])
def test_the_committed_full_run_is_explored_without_a_run(explore):
    if not explorers.FULL.exists():
        pytest.skip("no full run is committed")
    explorer = explore()
    assert explorer.name.endswith("-full")
    said = explorer()["text"]
    assert "nan" not in said
    table, _ = load(explorers.FULL / "sizes.csv")
    if explore is explorers.explore_sizes:
        read = table[table["reading"] == "equal steps"].set_index("agent")["return"]
        drawn = explorer(percent=100, budget="environment steps")["Return by size"]["return"]
        assert drawn.max() == pytest.approx(read.max(), rel=1e-5)
