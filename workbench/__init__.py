"""A workbench for ten papers on efficient deep learning: methods, evidence, explorers."""

from importlib.metadata import version
from pathlib import Path

__version__ = version("efficient-dl-workbench")

ROOT = Path(__file__).resolve().parents[1]
"""The checkout: notebooks/, data/ and figures/ lie here."""


class WorkbenchError(Exception):
    """Something the reader can put right. Its text is one line that says how; no traceback is shown."""
