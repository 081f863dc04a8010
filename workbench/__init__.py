"""A workbench for ten papers on efficient deep learning: methods, evidence, explorers."""

import errno
import hashlib
import math
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs

__version__ = version("efficient-dl-workbench")

ROOT = Path(__file__).resolve().parents[1]
"""The checkout: notebooks/, data/ and figures/ lie here."""

WRITABLE = os.access(ROOT, os.W_OK)
"""May this user write there? A class may share one checkout that only its owner can change."""

SCRATCH = (
    ROOT / ".workbench"
    if WRITABLE
    else platformdirs.user_cache_path("efficient-dl-workbench") / hashlib.sha256(str(ROOT).encode()).hexdigest()[:16]
)
"""Runs, sweeps and notes of what is finished; nothing in it is committed."""


class WorkbenchError(Exception):
    """Something the reader can put right. Its text is one line that says how; no traceback is shown."""


def check_number(
    what: str, value: Any, low: float, high: float = math.inf, *, whole: bool = False, above: bool = False
) -> None:
    """Refuse, in one line, what is no number from ``low`` to ``high``; of an array or tensor, if any entry is none.

    ``whole``: no fractions; ``above``: ``low`` itself is refused too. NaN lies nowhere.
    """
    try:
        fine = ((value > low) if above else (value >= low)) & (value <= high)
        if whole:
            fine = fine & (value % 1 == 0)
        fine = fine if isinstance(fine, bool) else bool(fine.all())
    except TypeError:
        fine = False
    if not fine:
        kind = "a whole number" if whole else "a number"
        bounds = f"above {low:g}" if above else f"of at least {low:g}"
        bounds += f" and at most {high:g}" if high < math.inf else ""
        raise WorkbenchError(f"{what} must be {kind} {bounds}; got {' '.join(repr(value).split())}")


def check_choice(what: str, value: Any, choices: Iterable[str]) -> None:
    """Refuse, in one line, a name that is not one of ``choices``."""
    known = list(choices)
    if value not in known:
        raise WorkbenchError(f"{what} {value!r} is unknown: choose from {', '.join(known)}")


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path` whole or not at all; folders are made as needed.

    Raises WorkbenchError where that cannot be done (disk full, no permission): what was there before stays.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):  # after success it is gone
            temporary.unlink()


def check_output(path: Path) -> Path:
    """Return `path` resolved, where a command may write the file `path`: call it before the work is done.

    Raises WorkbenchError where the checkout's own files lie, where something lies that `write_output` did not
    write or that was changed since, and where this user cannot write.
    """
    path = path.resolve()
    if path.is_relative_to(SCRATCH.resolve()):
        return path
    for name in ("notebooks", "data", "figures", "workbench", "tests", ".git", ".ci"):
        if path.is_relative_to(ROOT / name):
            raise WorkbenchError(f"{path} lies in {name}/, among the checkout's own files: name another --out")
    if path.is_dir():
        raise WorkbenchError(f"{path} is a folder: name another --out")
    if path.exists() and not (_written(path).exists() and _written(path).read_text() == _sha256(path.read_bytes())):
        raise WorkbenchError(f"{path} was not written by this command, or was changed since: move it, or name another")
    parent = next(parent for parent in path.parents if parent.exists())
    if not parent.is_dir():
        raise cannot_write(path, NotADirectoryError(errno.ENOTDIR, f"{parent} is no folder"))
    if not os.access(parent, os.W_OK):
        raise cannot_write(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return path


def write_output(path: Path, content: bytes) -> None:
    """Write a file that the user has asked for; raises WorkbenchError as `check_output` and `write_atomic` do."""
    path = check_output(path)
    write_atomic(path, content)
    write_atomic(_written(path), _sha256(content).encode())


def _written(path: Path) -> Path:
    """The note that we wrote `path`: it holds the content's hash."""
    return SCRATCH / "written" / _sha256(str(path).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def cannot_write(path: Path, error: OSError) -> WorkbenchError:
    """The error for a file that could not be written."""
    reason = error.strerror or error
    return WorkbenchError(f"cannot write {path}: {reason}: make room there, or check its permissions")
