"""One list of dependencies in three places, and nothing tracked that ties the checkout to a place."""

import re
import subprocess
import tomllib
import warnings

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from workbench import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LARGEST = 3_000_000


def by_name(lines):
    found = {}
    for requirement in map(Requirement, lines):
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement.specifier)
    return found


NEEDED = by_name([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]])
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
PIP = next(entry["pip"] for entry in CONDA if isinstance(entry, dict))
PINNED = by_name(line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line and line[0] != "#")


@pytest.fixture(scope="module")
def tracked():
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if git.returncode or not git.stdout:
        pytest.skip("not a git checkout: there is no list of tracked files")
    paths = [ROOT / name for name in git.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_conda_lists_the_same_dependencies_with_the_same_bounds():
    assert "-e .[test]" in PIP
    assert "-c constraints.txt" in PIP
    assert by_name(line for line in PIP if not line.startswith("-")) == NEEDED


def test_condas_python_is_one_that_the_project_takes():
    (python,) = [entry for entry in CONDA if str(entry).startswith("python=")]
    version = python.removeprefix("python=").removesuffix(".*")
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{version}.0")


@pytest.mark.parametrize("name", NEEDED)
def test_every_dependency_is_pinned_at_a_version_it_may_have(name):
    assert PINNED.get(name), f"constraints.txt does not pin {name}"
    for specifier in PINNED[name]:
        (pin,) = specifier
        assert pin.operator == "=="
        assert NEEDED[name][0].contains(pin.version)


def joined(text):
    """Remove the dots that keep this file from holding what it looks for."""
    return text.replace("·", "")


HOSTS = joined(r"py·pi\.org|python·hosted\.org|conda\.ana·conda|ana·conda\.org|download\.py·torch")
HOMES = joined(r"/ho·me/\w|/ro·ot/|/Us·ers/\w|C:\\Us·ers|(?<![\w.])/wo·rk/")
TIES = re.compile(f"{HOSTS}|{HOMES}")


@pytest.mark.parametrize("text", ["https://py·pi.org/x", "files.python·hosted.org", "/ho·me/me", "cd /wo·rk/x"])
def test_the_pattern_finds_what_it_is_for(text):
    assert TIES.search(joined(text))
    assert not TIES.search(joined("../shared/data ROOT/.workbench/lab networks/wo·rk/x https://arxiv.org/abs/1"))


def test_no_tracked_text_names_a_registry_or_a_place_on_one_machine(tracked):
    found = []
    for path in tracked:
        content = path.read_bytes()
        if b"\0" not in content:
            hits = TIES.findall(content.decode("utf-8"))
            found += [f"{path.relative_to(ROOT)}: {hit}" for hit in hits]
    assert not found


def test_no_large_file_and_no_second_lock_is_tracked(tracked):
    assert not [path.name for path in tracked if path.stat().st_size > LARGEST]
    assert "uv.lock" not in {path.name for path in tracked}


@pytest.mark.parametrize("source", sorted((ROOT / "workbench").rglob("*.py")), ids=lambda path: path.stem)
def test_sources_compile_without_a_warning(source):
    """Python 3.12 made a backslash that escapes nothing a SyntaxWarning; before it is a DeprecationWarning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile(source.read_text("utf-8"), source, "exec")
