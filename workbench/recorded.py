"""Results of long runs, made once: small tables and weights under data/recorded/, each with where it comes from.

Beside ``<name>.csv`` (a table) or ``<name>.npz`` (tensors, read without pickle, so that no code can hide in it) lies
``<name>.json``: the command that repeats the run, its seed, versions, commit, date, and the file's hash.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from workbench import ROOT, WorkbenchError, __version__, write_atomic

FOLDER = ROOT / "data" / "recorded"


def save_table(name: str, table: pd.DataFrame, command: str, seed: int) -> None:
    """Write ``table`` and its provenance; ``name`` is ``<paper>/<what>``, ``command`` repeats the run."""
    _save(f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode(), command, seed)


def load_table(name: str) -> pd.DataFrame:
    """The table of that name; `WorkbenchError` where it is missing or not what was recorded."""
    return pd.read_csv(io.BytesIO(_load(f"{name}.csv")))


def save_tensors(name: str, tensors: Mapping[str, Tensor], command: str, seed: int) -> None:
    """Write tensors by name (a state dict, say) and their provenance."""
    file = io.BytesIO()
    np.savez_compressed(file, **{key: tensor.detach().numpy() for key, tensor in tensors.items()})
    _save(f"{name}.npz", file.getvalue(), command, seed)


def load_tensors(name: str) -> dict[str, Tensor]:
    """The tensors of that name; `WorkbenchError` where they are missing or not what was recorded."""
    try:
        with np.load(io.BytesIO(_load(f"{name}.npz")), allow_pickle=False) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    except (ValueError, zipfile.BadZipFile) as error:
        raise WorkbenchError(f"data/recorded/{name}.npz holds no plain arrays ({error}): restore it with git") from None


def provenance(name: str) -> dict[str, Any]:
    """Where that record comes from: file, sha256, command, seed, versions, commit, date."""
    path = FOLDER / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        paper = name.split("/")[0]
        raise WorkbenchError(
            f"no record {name}: restore {_shown(path)} with git, or `workbench record {paper}`"
        ) from None
    except ValueError as error:
        raise WorkbenchError(f"{_shown(path)} is damaged ({error}): restore it with git") from None


def state_hash(tensors: Mapping[str, Tensor]) -> str:
    """A hash of tensors by name, value and shape: which trained network a row of a table belongs to."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        array = tensors[key].detach().numpy()
        digest.update(f"{key} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def _save(file: str, content: bytes, command: str, seed: int) -> None:
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    about = {
        "file": Path(file).name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "command": command,
        "seed": seed,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "workbench": __version__,
        },
        "commit": git.stdout.strip() or None,
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_atomic(FOLDER / file, content)
    write_atomic((FOLDER / file).with_suffix(".json"), (json.dumps(about, indent=1) + "\n").encode())


def _load(file: str) -> bytes:
    about, path = provenance(file.rsplit(".", 1)[0]), FOLDER / file
    content = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise WorkbenchError(f"{_shown(path)} is not what was recorded: restore it with git, or `{about['command']}`")
    return content


def _shown(path: Path) -> str:
    return f"data/recorded/{path.relative_to(FOLDER).as_posix()}"
