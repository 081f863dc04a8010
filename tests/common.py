"""What tests of several papers need."""

import json
import re

import joblib
import torch

from workbench.figures import load


def in_this_process(run, config):
    """The result of a run whose parts follow one another here; torch has as many threads afterwards as before."""
    threads = torch.get_num_threads()
    with joblib.parallel_config("sequential"):
        result = run(config)
    torch.set_num_threads(threads)
    return result


def saved(view, result, folder, monkeypatch):
    """Draw a figure into ``folder``: the table that lies beside it, not empty, and how its columns are compared."""
    monkeypatch.setenv("WORKBENCH_OUT", str(folder))
    shown = view(result)
    assert shown.data
    assert shown.alt.startswith(" ".join(view.__doc__.split("\n\n")[0].split()).rstrip(".")), "words, not a file's name"
    assert re.search(r"[xy] axis: |Shown: ", shown.alt), "and more than one sentence of what is drawn"
    table, meta = load(folder / result.parameters["paper"] / f"{view.__name__}.csv")
    assert len(table)
    assert meta["parameters"] == json.loads(json.dumps(result.parameters))
    return table, meta["tolerance"]
