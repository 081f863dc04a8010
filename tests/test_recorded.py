"""Recorded results: read back as written, refused when changed, and every committed one is what its provenance says."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from workbench import WorkbenchError, cli, recorded

COMMITTED = sorted(path for path in recorded.FOLDER.rglob("*") if path.suffix in (".csv", ".npz"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def table(folder):
    table = pd.DataFrame({"design": ["a", "b"], "accuracy": [91.25, 1 / 3]})
    recorded.save_table("paper/designs", table, "workbench record paper", 7)
    return table


def test_a_table_is_read_back_as_it_was_written(table):
    pd.testing.assert_frame_equal(recorded.load_table("paper/designs"), table)


def test_provenance_says_how_to_repeat_it(folder, table):
    about = recorded.provenance("paper/designs")
    assert about["command"] == "workbench record paper"
    assert about["seed"] == 7
    assert about["sha256"] == hashlib.sha256((folder / "paper" / "designs.csv").read_bytes()).hexdigest()
    assert set(about["versions"]) == {"python", "torch", "numpy", "workbench"}
    assert about["date"] >= "2026"
    assert len(about["commit"] or "") in (0, 40)


def test_tensors_are_read_back_bit_for_bit(folder):
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    recorded.save_tensors("paper/net", net.state_dict(), "workbench record paper", 0)
    again = recorded.load_tensors("paper/net")
    assert again.keys() == net.state_dict().keys()
    assert all(torch.equal(again[key], value) for key, value in net.state_dict().items())
    assert recorded.state_hash(again) == recorded.state_hash(net.state_dict())


def test_the_hash_of_a_state_sees_value_name_and_shape():
    state = {"w": torch.arange(6.0)}
    others = [{"w": torch.arange(6.0) + 1e-6}, {"v": torch.arange(6.0)}, {"w": torch.arange(6.0).view(2, 3)}]
    assert len({recorded.state_hash(each) for each in [state, *others]}) == 4


@pytest.mark.parametrize("spoil", ["changed", "gone"])
def test_a_file_that_is_not_what_was_recorded_is_refused_with_what_to_do(folder, table, spoil):
    path = folder / "paper" / "designs.csv"
    path.write_bytes(path.read_bytes().replace(b"91", b"92")) if spoil == "changed" else path.unlink()
    with pytest.raises(WorkbenchError, match=r"paper/designs\.csv is not what was recorded.*workbench record paper"):
        recorded.load_table("paper/designs")


def test_a_missing_or_damaged_provenance_is_refused_in_one_line(folder, table):
    with pytest.raises(WorkbenchError, match=r"no record paper/other.*workbench record paper"):
        recorded.load_table("paper/other")
    (folder / "paper" / "designs.json").write_text("{")
    with pytest.raises(WorkbenchError, match="damaged"):
        recorded.load_table("paper/designs")


def test_pickled_objects_are_never_loaded(folder):
    recorded.save_tensors("paper/net", {"w": torch.zeros(2)}, "workbench record paper", 0)
    path = folder / "paper" / "net.npz"
    np.savez(path, w=np.array([print], dtype=object))
    about = json.loads(path.with_suffix(".json").read_text())
    about["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()  # even where the hash agrees
    path.with_suffix(".json").write_text(json.dumps(about))
    with pytest.raises(WorkbenchError, match="no plain arrays"):
        recorded.load_tensors("paper/net")


def test_a_paper_without_records_says_so():
    result = CliRunner().invoke(cli.app, ["record", "gebt"])
    assert result.exit_code == 1
    assert "gebt records nothing" in result.output
    assert CliRunner().invoke(cli.app, ["record", "nope"]).exit_code == 1


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_every_committed_record_is_what_its_provenance_says(path):
    name = path.relative_to(recorded.FOLDER).with_suffix("").as_posix()
    about = recorded.provenance(name)
    assert about["file"] == path.name
    assert about["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert about["command"].startswith("workbench record ")
