"""What the notebooks say of papers and of our numbers is what the registry and the committed ledger hold."""

import json
import re

import nbformat
import pytest

from workbench import ROOT, papers

FULL = {row["id"]: row for row in json.loads((ROOT / "figures" / "full" / "ledger.json").read_text("utf-8"))}


def prose(key):
    notebook = nbformat.read(papers.paper(key).notebook, as_version=4)
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("paper", papers.PAPERS, ids=lambda paper: paper.key)
def test_a_notebooks_header_names_the_papers_number_and_venue(paper):
    header = prose(paper.key).split("\n## ")[0]
    assert paper.arxiv in header
    assert paper.venue.removeprefix("arXiv ") in header.replace("IEEE Transactions on Mobile Computing", "IEEE TMC")


def test_authors_are_those_of_the_publications():
    assert "Fu, Guo, Li, Yang, Ding, Chandra, Lin" in prose("cpt")
    assert "Zhang, Fu, Jiang, C. Li, You, M. Li, Chandra, Lin" in prose("dna")


SAID = [  # notebook, what stands before the number, the row, and how the number is written
    ("cpt", "CPT minus shuffled is ", "cpt.digits.wrong20.epochs30.loss_vs_shuffled", "{0:+.3f} ± {1:.3f}"),
    ("cpt", " nats and ", "cpt.licence.loss_vs_shuffled", "{0:+.3f} ± {1:.3f} bits"),
    ("cpt", "better in the noisy setting (", "cpt.range_test.loss_vs_2_8", "{2:.3f} ± {1:.3f}"),
    ("cpt", "a Transformer's saving, is another: ", "cpt.wikitext103.transformer.saving_4_6", "{0:.2f} %"),
    (
        "fractrain",
        "after a change of the task FracTrain is ",
        "fractrain.adaptation.keeps_accuracy",
        "{2:.1f} ± {1:.1f}",
    ),
    ("fractrain", "below it on rotated digits and ", "fractrain.fine-tuning.keeps_accuracy", "{2:.1f} ± {1:.1f}"),
    ("agd", "| CIFAR-10, x2 | ", "agd.cifar10_x2.vs_random", "{0:.2f} ± {1:.2f}"),
    ("agd", "(rank correlation ", "agd.cifar10_x4.identity", "{0:.2f} ± {1:.2f}"),
    ("agd", "(rank correlation 0.49 ± 0.34, ", "agd.cifar10_x2.identity", "{0:.2f} ± {1:.2f}"),
    ("a2d", "but not the largest (", "a2d.size.equal_steps.too_large", "{0:.1f} ± {1:.1f}"),
]


@pytest.mark.parametrize(("key", "before", "row", "form"), SAID)
def test_a_number_in_prose_is_the_ledgers(key, before, row, form):
    value, low, high = (FULL[row][name] for name in ("value", "low", "high"))
    half = (high - low) / 2 if low is not None else 0
    assert before + form.format(value, half, abs(value)) in prose(key)


def test_how_many_of_cpts_costs_come_out_is_counted():
    rows = [row for row in FULL.values() if row["paper"] == "cpt" and row["kind"] == "analytic"]
    off = [row for row in rows if row["verdict"] != "reproduced"]
    assert (len(rows), len(off)) == (39, 7)
    assert f"but for seven of {len(rows)} cells" in prose("cpt")


def test_no_measured_row_at_full_scale_has_fewer_seeds_than_is_said():
    few = [row["id"] for row in FULL.values() if row["kind"] != "analytic" and row["n"] is not None and row["n"] < 5]
    assert {(id.split(".")[0], FULL[id]["n"]) for id in few} == {("agd", 3), ("dna", 3)}
    start = nbformat.read(ROOT / "notebooks" / "00_start_here.ipynb", as_version=4)
    said = " ".join(cell.source for cell in start.cells)
    assert len(few) == 7
    assert re.search(r"with seven rows of long runs \(of AGD and DNA\) that have three", said)


def test_a_ledgers_claim_is_a_sentence_of_its_own():
    assert not [row["id"] for row in FULL.values() if re.match(r"(and|or|but|with|while)\b", row["claim"])]
