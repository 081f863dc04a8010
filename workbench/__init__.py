"""A workbench for ten papers on efficient deep learning: methods, evidence, explorers."""

import math
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

__version__ = version("efficient-dl-workbench")

ROOT = Path(__file__).resolve().parents[1]
"""The checkout: notebooks/, data/ and figures/ lie here."""


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


def cannot_write(path: Path, error: OSError) -> WorkbenchError:
    """The error for a file that could not be written."""
    reason = error.strerror or error
    return WorkbenchError(f"cannot write {path}: {reason}: make room there, or check its permissions")
