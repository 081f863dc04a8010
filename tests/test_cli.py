"""The command: what it reads from its arguments, what it prints, with which code it ends."""

import errno
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from workbench import WorkbenchError, cli, evidence, papers, runner

WORDS = st.text("abcxyz", min_size=1)


def invoke(*arguments: str):
    return CliRunner().invoke(cli.app, arguments)


@given(st.lists(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), WORDS), min_size=1))
def test_a_list_of_values_reads_as_it_was_written(values):
    text = ",".join(map(str, values))
    if len(set(text.split(","))) < len(values):
        with pytest.raises(WorkbenchError, match="twice"):
            cli.parse_values(text)
    else:
        assert cli.parse_values(text) == values


@given(st.integers(-50, 50), st.integers(-50, 50))
def test_a_range_has_both_its_ends_or_is_refused(low, high):
    if high < low:
        with pytest.raises(WorkbenchError, match="empty"):
            cli.parse_values(f"{low}..{high}")
    else:
        values = cli.parse_values(f"{low}..{high}")
        assert (values[0], values[-1], len(values)) == (low, high, high - low + 1)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0..2,7", [0, 1, 2, 7]),
        ("(1,2),(3,4)", [(1, 2), (3, 4)]),
        ("(1,2)", [(1, 2)]),
        ("None, true,True", [None, "true", True]),
        ("1,1.0", [1, 1.0]),
        ("'a,b',c", ["'a", "b'", "c"]),  # quotes do not protect a comma outside a literal
    ],
)
def test_values_of_every_kind(text, values):
    assert list(map(repr, cli.parse_values(text))) == list(map(repr, values))


@pytest.mark.parametrize("text", ["1,,2", ",", "1..2,2", "a,a", "0..1,"])
def test_values_that_make_no_list_are_refused(text):
    with pytest.raises(WorkbenchError):
        cli.parse_values(text)


def test_parameters_are_names_with_values_each_given_once():
    assert cli.parse_params(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    for params in (["a"], ["a="], ["=1"], ["2a=1"], ["a=1", "a=2"], ["scale=full"]):
        with pytest.raises(WorkbenchError):
            cli.parse_params(params)


def test_list_shows_all_papers_and_the_command_starts_without_torch():
    result = invoke("list")
    assert result.exit_code == 0
    assert all(paper.key in result.stdout and paper.notebook.name in result.stdout for paper in papers.PAPERS)
    heavy = ["torch", "numpy", "pandas", "matplotlib", "papermill", "nbformat", "distributed"]
    code = f"import sys, workbench.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.fixture
def ledgers(monkeypatch):
    """A claim at both scales, one at quick scale only."""
    row = dict.fromkeys(evidence.KEYS) | {"paper": "cpt", "kind": "measured", "published": 38.5}
    both = row | {"id": "a", "claim": "a [bold] claim", "value": 0.5, "verified": False, "verdict": "partly"}
    rows = {
        "quick": [both | {"scale": "quick"}, row | {"id": "b", "claim": "another", "scale": "quick"}],
        "full": [both | {"scale": "full", "value": 38.25, "low": 38.0, "high": 38.5, "n": 8}],
    }
    monkeypatch.setattr(evidence, "read_ledger", lambda scale: rows.get(scale, []))
    return rows


def test_claims_shows_the_largest_scale_of_each(ledgers):
    lines = invoke("claims").stdout.splitlines()
    (first,) = [line for line in lines if "a [bold] claim" in line]
    assert [cell.strip() for cell in first.split("│")[1:-1]] == [
        *(
            "cpt",
            "a [bold] claim",
            "measured",
            "38.5 (unverified)",
            "38.25 [38, 38.5], n = 8",
            "",
            "partly",
            "full",
        )
    ]
    (second,) = [line for line in lines if "another" in line]
    assert second.split("│")[-2].strip() == "quick"
    assert json.loads(invoke("claims", "--json").stdout) == [ledgers["full"][0], ledgers["quick"][1]]
    assert json.loads(invoke("claims", "--json", "--scale", "quick").stdout) == ledgers["quick"]
    result = invoke("claims", "--scale", "paper")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "no claims at paper scale yet: `workbench figures --accept` makes them\n"


def test_data_lists_the_sets_and_refuses_an_unknown_one():
    assert "cifar10" in invoke("data").stdout
    result = invoke("data", "imagenet")
    assert result.exit_code == 1
    assert "'imagenet'" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (WorkbenchError("put [it] right"), 1, "put [it] right"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to go on"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            1,
            "/x/y: No space left on device: check its permissions and the room on its disk",
        ),
        (
            OSError("it is gone"),
            1,
            "a file that is needed: it is gone: check its permissions and the room on its disk",
        ),
    ],
)
def test_what_a_person_can_put_right_is_one_line(monkeypatch, error, code, line):
    def fail(*_):
        raise error

    monkeypatch.setattr(runner, "figures", fail)
    result = invoke("figures")
    assert (result.exit_code, result.stderr, result.stdout) == (code, f"{line}\n", "")


@pytest.mark.parametrize("arguments", [["figures", "--jobs", "0"], ["nope"], ["run"], ["claims", "--nope"]])
def test_wrong_usage_ends_with_code_2(arguments):
    assert invoke(*arguments).exit_code == 2


def test_a_bug_is_not_hidden(monkeypatch):
    monkeypatch.setattr(runner, "figures", lambda *_: 1 / 0)
    assert isinstance(invoke("figures").exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["sweep", "adadeep", "-p", "cls=1"], "unknown parameter cls"),
        (["sweep", "gebt", "-p", "seed=0..1", "--out", ""], "--out must be a file's name"),
        (["figures", "agd", "--scale", "paper"], "agd has no scale 'paper': choose one of quick, full"),
        (["run", "agd", "--scale", "paper"], "agd has no scale 'paper'"),
        (["figures", "gebt", "--scale", "/"], "unknown scale '/'"),
        (["run", "gebt", "--scale", "../full"], "unknown scale '../full'"),
        (["claims", "--scale", "x" * 300], "unknown scale 'xxx"),
        (["claims", "--scale", "quick/../full"], "unknown scale 'quick/../full'"),
        (["run", "start_here", "-p", "seed=-1"], "seed must be at least 0"),
        (["run", "start_here", "-p", "speed=1"], "has no parameter 'speed'"),
        (["run", "shiftaddnet", "-p", "bits=[]"], "bits must name at least 1"),
        (["run", "shiftaddnet", "-p", "bits=[8,8]"], "bits must name each once"),
        (["run", "fractrain", "-p", "targets=[]"], "targets must name at least 1"),
        (["run", "spline", "-p", "lr=1e999"], "lr must be finite"),
        (["sweep", "gebt", "-p", f"seeds={10**30}"], "seeds must be at least 2 and at most"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_meant_ends_in_one_line_before_anything_runs(arguments, line, monkeypatch):
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("it ran"))
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert line in result.stderr
    assert len(result.stderr.splitlines()) == 1
