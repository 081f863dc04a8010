"""One progress bar for a terminal and for a notebook."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from IPython import get_ipython
from IPython.display import DisplayHandle
from tqdm.std import tqdm


class _Output:
    """An output of the notebook's cell, rewritten in place: a stream that tqdm can write to.

    The empty text with which tqdm ends leaves an empty output. Bars on stderr leave an error's red strip there, and
    tqdm's widgets a view of a model that is gone.
    """

    encoding = "utf-8"
    handle: DisplayHandle | None = None

    def write(self, text: str) -> None:
        """Show the text in place of the one before."""
        text = text.strip()
        shown = {"text/plain": text} if text else {}
        if self.handle:
            self.handle.update(shown, raw=True)
        elif text:
            self.handle = DisplayHandle()
            self.handle.display(shown, raw=True)

    def flush(self) -> None:
        """Nothing waits."""


def progress(items: Iterable[Any] | None, label: str, total: int | None = None) -> tqdm:
    """A tqdm over `items`, or `total` steps by hand; seen once it has taken two seconds, and gone when it is done.

    None is seen where the variable TQDM_DISABLE is set.
    """
    in_notebook = getattr(get_ipython(), "kernel", None) is not None
    file = _Output() if in_notebook else sys.stderr
    return tqdm(items, label, total, file=file, ncols=100 if in_notebook else None, delay=2, leave=False)
