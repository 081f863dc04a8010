"""Figures: the same content is the same bytes, and verification sees what changed and nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from workbench import ROOT, WorkbenchError, __version__, evidence, figures
from workbench.evidence import Claim, Result, above, equals, interval

ENDINGS = ("svg", "png", "csv")


def result(**parameters):
    return Result({}, [], {"paper": "toy", "scale": "quick", "seed": 5, **parameters}, "cafe01")


def table(**columns):
    return pd.DataFrame(
        {
            "arm": ["a", "b", "None"],
            "accuracy": [80.0, 81.5, float("nan")],
            "slack": [0.5, 0.5, 0.5],
            "epochs": [1, 2, 3],
            "ms": [3.1, 2.2, 1.0],
            **columns,
        }
    )


TOLERANCE = {"accuracy": "slack", "ms": None, "slack": 0.2}


def draw():
    drawn, axes = figures.figure(ncols=2)
    axes[0].plot([1, 2, 3], [3, 1, 2], label="line")
    axes[0].legend()
    axes[1].imshow([[0.0, 1.0], [2.0, 3.0]])
    axes[1].set_title("Accuracy, %")
    return drawn


def save_all(root, content=None, name="curve", tolerance=TOLERANCE, drawn=None, **parameters):
    os.environ["WORKBENCH_OUT"] = str(root)  # restored by the fixture
    drawn = drawn or Figure((1, 1))  # tables are what is compared: an empty picture is soon saved
    figures.save(drawn, table() if content is None else content, name, result(**parameters), tolerance)
    rows = [
        Claim("toy.measured", "m", "measured", "points", above()).row(interval([1.0, 2.0, 3.0]), "quick"),
        Claim("toy.exact", "e", "analytic", "MACs", equals(), 10.0).row(10.0, "quick"),
    ]
    evidence.merge_ledger(root / "ledger.json", rows, "toy")


@pytest.fixture
def trees(tmp_path, monkeypatch):
    """A committed tree and a fresh copy of it."""
    monkeypatch.setenv("WORKBENCH_OUT", str(tmp_path))
    save_all(tmp_path / "committed")
    shutil.copytree(tmp_path / "committed", tmp_path / "fresh")
    return tmp_path / "committed", tmp_path / "fresh"


def resave(fresh, **columns):
    save_all(fresh, table(**columns))


def differences(trees):
    return [line for lines in figures.compare(*trees, ["toy"]).values() for line in lines]


# --- saving ------------------------------------------------------------------------------------------------------


def test_the_same_content_is_the_same_bytes_in_another_process_and_another_place(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUT", str(tmp_path))
    committed, again, elsewhere = (tmp_path / name for name in ("committed", "again", "elsewhere"))
    save_all(committed, drawn=draw())
    save_all(again, drawn=draw())
    code = (
        "from pathlib import Path; from test_figures import draw, save_all\n"
        f"save_all(Path({str(elsewhere)!r}), drawn=draw())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "PYTHONPATH": str(Path(__file__).parent)}
    environment["SOURCE_DATE_EPOCH"] = "1000000000"  # another day
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    for ending in ENDINGS:
        first = (committed / "toy" / f"curve.{ending}").read_bytes()
        assert first == (again / "toy" / f"curve.{ending}").read_bytes(), ending
        assert first == (elsewhere / "toy" / f"curve.{ending}").read_bytes(), ending


def test_saving_a_figure_a_second_time_gives_the_same_bytes(tmp_path, monkeypatch):
    drawn = draw()
    found = []
    for folder in ("one", "two"):
        monkeypatch.setenv("WORKBENCH_OUT", str(tmp_path / folder))
        figures.save(drawn, table(), "curve", result())
        found.append([(tmp_path / folder / "toy" / f"curve.{e}").read_bytes() for e in ENDINGS])
    assert found[0] == found[1]


def test_files_hold_no_date_and_no_path_of_this_machine(trees):
    import datetime

    today = datetime.date.today()
    for ending in ENDINGS:
        content = (trees[0] / "toy" / f"curve.{ending}").read_bytes()
        for secret in (str(trees[0].parent), str(Path.home()) + "/", str(Path(__file__).parent), today.isoformat()):
            assert secret.encode() not in content, (ending, secret)
        assert b"<dc:date>" not in content
        assert b"tIME" not in content


def test_every_file_carries_parameters_seed_data_and_version(trees):
    folder = trees[0] / "toy"
    expected = {
        "parameters": {"paper": "toy", "scale": "quick", "seed": 5},
        "data": "cafe01",
        "workbench": __version__,
        "tolerance": TOLERANCE,
    }
    loaded, meta = figures.load(folder / "curve.csv")
    assert meta == expected
    pd.testing.assert_frame_equal(loaded, table())
    assert json.loads(Image.open(folder / "curve.png").text["Description"]) == expected
    assert "cafe01" in (folder / "curve.svg").read_text()
    assert sorted(f.name for f in folder.iterdir()) == [f"curve.{e}" for e in sorted(ENDINGS)]


LINE = re.compile(r'<g id="line2d_\d+">\s*<path d="([^"]+)"')


def runs_back(svg):
    """The x of every line of a picture that goes both to the right and to the left."""
    for path in LINE.findall(svg):
        x = np.array(re.findall(r"[ML] (-?[\d.]+) ", path), float)
        if (np.diff(x) > 0).any() and (np.diff(x) < 0).any():
            yield x


@pytest.mark.parametrize(
    "folder",
    sorted({path.parent for path in (ROOT / "figures").glob("*/*/*.svg")}),
    ids=lambda path: "-".join(path.parts[-2:]),
)
def test_no_line_of_a_kept_picture_runs_back_in_x(folder):
    assert not [path.name for path in folder.glob("*.svg") for _ in runs_back(path.read_text("utf-8"))]


@pytest.mark.parametrize("x", [[1, 2, 3], [3, 2, 2], [1, 3, 2], [0.5, 60, 1.5]])
def test_a_line_that_runs_back_in_x_is_not_saved(x, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUT", str(tmp_path))
    drawn, ax = figures.figure()
    ax.plot(x, [1, 2, 3], label="loss")
    ax.plot([3, 1, 2], [1, 2, 3], "o")  # points are no function
    if sorted(x) in (x, x[::-1]):
        figures.save(drawn, table(), "curve", result())
        assert LINE.search((tmp_path / "toy/curve.svg").read_text())
    else:
        with pytest.raises(WorkbenchError, match=r"'loss' runs back in x"):
            figures.save(drawn, table(), "curve", result())


def test_a_failed_save_leaves_the_old_files(trees, monkeypatch):
    folder = trees[0] / "toy"
    before = {f.name: f.read_bytes() for f in folder.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(WorkbenchError, match="No space left"):
            resave(trees[0], epochs=[7, 8, 9])
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before


@pytest.mark.parametrize("tolerance", [{"acuracy": 1.0}, {"accuracy": "slak"}])
def test_a_tolerance_for_a_column_that_is_not_there_is_refused(trees, tolerance):
    with pytest.raises(WorkbenchError, match=r"acuracy|slak"):
        save_all(trees[1], tolerance=tolerance)


@pytest.mark.parametrize("content", ["", "no comment\n1,2\n", "# {\na\n1\n", "# {}\n", "# {}\na\n1,2\n3,4,5\n"])
def test_a_damaged_table_is_one_clear_line(tmp_path, content):
    path = tmp_path / "curve.csv"
    path.write_text(content)
    with pytest.raises(WorkbenchError, match=r"curve\.csv cannot be read") as error:
        figures.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tree", [0, 1], ids=["committed", "fresh"])
def test_a_damaged_table_is_a_difference(trees, tree):
    (trees[tree] / "toy" / "curve.csv").write_text("# {}\na\n1\n")
    (line,) = differences(trees)
    assert "curve.csv cannot be read" in line


# --- comparing ---------------------------------------------------------------------------------------------------


def test_a_copy_is_green(trees):
    assert differences(trees) == []


def test_a_copy_with_infinite_and_missing_values_is_green(trees):
    content = table(epochs=[float("inf"), float("nan"), -float("inf")])
    for tree in trees:
        save_all(tree, content)
    assert differences(trees) == []
    resave(trees[1], epochs=[-float("inf"), float("nan"), -float("inf")])
    assert len(differences(trees)) == 1


def test_an_empty_cell_among_words_equals_an_empty_cell_and_nothing_else(trees):
    for tree in trees:
        save_all(tree, table(arm=["a", None, "None"]))
    assert differences(trees) == []
    for arm in (["a", "nan", "None"], [None, None, "None"]):
        resave(trees[1], arm=arm)
        (line,) = differences(trees)
        assert "'arm' differs in 1 of 3 rows" in line


@pytest.mark.parametrize(
    "columns",
    [
        {"accuracy": [81.51, 81.5, float("nan")]},
        {"accuracy": [80.0, 79.99, float("nan")]},
        {"accuracy": [80.0, 81.5, 90.0]},
        {"accuracy": [80.0, float("nan"), float("nan")]},
        {"epochs": [1, 2, 4]},
        {"epochs": [1, 2, 3.001]},
        {"arm": ["a", "c", "None"]},
        {"arm": ["a", "b", "nan"]},
        {"slack": [0.5, 0.71, 0.5]},
    ],
)
def test_a_value_beyond_its_tolerance_is_named(trees, columns):
    resave(trees[1], **columns)
    (line,) = differences(trees)
    assert line.startswith("toy/curve.csv")
    assert repr(next(iter(columns))) in line


@pytest.mark.parametrize(
    "columns",
    [
        {"accuracy": [81.49, 80.01, float("nan")]},
        {"slack": [0.69, 0.31, 0.5]},
        {"ms": [100.0, float("nan"), -1.0]},
        {"ms": ["never", "compared", "at all"]},
    ],
)
def test_a_value_within_its_tolerance_passes(trees, columns):
    resave(trees[1], **columns)
    assert differences(trees) == []


def test_a_spread_that_is_small_by_chance_is_widened_to_the_median_of_its_measure(trees):
    """Of few seeds some agree by chance; a loss is not judged by the spread of accuracies."""
    measures = {"measure": ["loss", "accuracy", "accuracy"], "slack": [0.0, 0.1, 0.5]}
    for tree in trees:
        save_all(tree, table(accuracy=[1.0, 81.5, 82.0], **measures))
    resave(trees[1], accuracy=[1.0, 82.3, 82.0], **measures)  # the median of 0.1 and 0.5, three times
    assert differences(trees) == []
    for moved in ([1.0, 82.5, 82.0], [1.01, 81.5, 82.0]):
        resave(trees[1], accuracy=moved, **measures)
        assert len(differences(trees)) == 1


def test_the_committed_tolerance_counts_not_the_fresh_one(trees):
    """A run cannot forgive itself by a wider spread of its own."""
    resave(trees[1], accuracy=[85.0, 81.5, float("nan")], slack=[9.0, 0.5, 0.5])
    assert any("'accuracy'" in line for line in differences(trees))
    save_all(trees[1], tolerance={**TOLERANCE, "accuracy": 100.0})
    assert any("tolerance was" in line for line in differences(trees))


def test_a_digit_changed_in_the_committed_file_is_seen(trees):
    path = trees[0] / "toy" / "curve.csv"
    path.write_text(path.read_text().replace("b,81.5,", "b,87.5,"))
    (line,) = differences(trees)
    assert "row 2" in line
    assert "87.5" in line
    assert "81.5" in line


@pytest.mark.parametrize(
    "content",
    [table().iloc[:2], pd.concat([table(), table()]), table().drop(columns="epochs"), table(more=[1, 2, 3])],
    ids=["row missing", "rows more", "column missing", "column more"],
)
def test_another_shape_is_red(trees, content):
    save_all(trees[1], content)
    assert len(differences(trees)) == 1


def test_missing_and_extra_figures_are_red(trees):
    committed, fresh = trees
    save_all(fresh, name="extra")
    (line,) = differences(trees)
    assert "extra.csv: only in the fresh" in line
    (fresh / "toy" / "extra.csv").unlink()
    (fresh / "toy" / "curve.csv").unlink()
    (line,) = differences(trees)
    assert "curve.csv: only in the committed" in line
    assert figures.compare(committed, fresh, ["another paper"]) == {}


def test_other_parameters_and_other_data_are_red(trees):
    save_all(trees[1], seed=6)
    (line,) = differences(trees)
    assert "parameters was" in line
    os.environ["WORKBENCH_OUT"] = str(trees[1])
    other = Result({}, [], result().parameters, "beef02")
    figures.save(Figure((1, 1)), table(), "curve", other, TOLERANCE)
    (line,) = differences(trees)
    assert "data was cafe01, is beef02" in line


def test_another_version_alone_is_green(trees):
    path = trees[0] / "toy" / "curve.csv"
    path.write_text(path.read_text().replace(f'"workbench": "{__version__}"', '"workbench": "0.0.1"'))
    assert differences(trees) == []


def change(tree, id, **values):
    path = tree / "ledger.json"
    rows = json.loads(path.read_text())
    for row in rows:
        if row["id"] == id:
            row.update(values)
    path.write_text(json.dumps(rows))


@pytest.mark.parametrize(
    ("id", "values"),
    [
        ("toy.exact", {"value": 10.001}),
        ("toy.exact", {"verdict": "partly"}),
        ("toy.exact", {"published": 11.0}),
        ("toy.exact", {"value": None}),
        ("toy.measured", {"value": 9.6}),
        ("toy.measured", {"value": None}),
        ("toy.measured", {"n": 4}),
        ("toy.measured", {"claim": "something else"}),
        ("toy.measured", {"kind": "recorded"}),
        ("toy.measured", {"unit": "%"}),
        ("toy.measured", {"source": "Table 9"}),
        ("toy.measured", {"verified": True}),
    ],
)
def test_a_changed_ledger_row_is_red(trees, id, values):
    change(trees[1], id, **values)
    (line,) = differences(trees)
    assert line.startswith(f"ledger {id}: {next(iter(values))}")


def test_a_measured_value_may_move_by_three_committed_half_widths(trees):
    change(trees[1], "toy.measured", value=9.0, low=-9.0, high=19.0)  # 2.0 was 2.48 wide
    assert differences(trees) == []
    change(trees[1], "toy.measured", value=9.6)  # inside the fresh interval only
    assert len(differences(trees)) == 1


def test_a_mean_of_seeds_that_agree_may_move_by_a_tenth(trees):
    for tree in trees:
        change(tree, "toy.measured", value=7.0, low=7.0, high=7.0)
    change(trees[1], "toy.measured", value=7.0 + 1 / 3)
    assert differences(trees) == []
    change(trees[1], "toy.measured", value=7.8)
    assert len(differences(trees)) == 1


def test_rows_that_come_or_go_are_red(trees):
    rows = json.loads((trees[0] / "ledger.json").read_text())
    (trees[1] / "ledger.json").write_text(json.dumps(rows[:1]))
    (line,) = differences(trees)
    assert line == "ledger toy.measured: only in the committed ledger"
    (trees[1] / "ledger.json").unlink()
    assert len(differences(trees)) == 2


def test_a_cell_that_ends_in_save_shows_the_picture(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUT", str(tmp_path))
    drawn, _ = figures.figure()
    result = evidence.Result({}, [], {"paper": "gebt"}, "hash")
    shown, _ = figures.save(drawn, pd.DataFrame({"a": [1]}), "shown", result)._repr_mimebundle_()
    assert "image/png" in shown


def test_a_picture_says_in_words_what_its_panels_show():
    drawn = draw()
    drawn.axes[0].set(xlabel="epoch", ylabel="loss (nats)", title="Two\nlines")
    drawn.legend(["the cycle"])
    assert figures.alternative(drawn, "Loss of\n    both.\n\nMore of it.") == (
        "Loss of both. Two lines: x axis: epoch, y axis: loss (nats). Accuracy, %. Shown: line, the cycle."
    )


@pytest.mark.parametrize("name", ["curve", "two_words"])
def test_no_picture_is_called_by_its_file_name(tmp_path, monkeypatch, name):
    """Loss by epoch."""
    monkeypatch.setenv("WORKBENCH_OUT", str(tmp_path))
    bare, _ = figures.figure()
    assert name not in figures.save(bare, table(), name, result()).alt.replace(" ", "_")
    assert figures.save(bare, table(), name, result()).alt == "Loss by epoch."


def test_a_committed_table_states_the_same_tolerances_at_every_scale():
    folders = [ROOT / "figures" / scale for scale in ("quick", "full")]
    names = [{path.relative_to(folder) for path in folder.glob("*/*.csv")} for folder in folders]
    for name in names[0] & names[1]:
        quick, full = (figures.load(folder / name)[1]["tolerance"] for folder in folders)
        assert quick == full, name
