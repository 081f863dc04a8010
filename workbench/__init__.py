"""A workbench for ten papers on efficient deep learning: methods, evidence, explorers."""

import os
import uuid
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

__version__ = version("efficient-dl-workbench")

ROOT = Path(__file__).resolve().parents[1]
"""The checkout: notebooks/, data/ and figures/ lie here."""


class WorkbenchError(Exception):
    """Something the reader can put right. Its text is one line that says how; no traceback is shown."""


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
