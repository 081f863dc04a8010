"""ShiftAddNet measured: accuracy beside multiplications, shifts or additions alone, at equal weights and equal energy;
robustness to few bits and few weights; what the two sorts of layers each can learn.

Tables are tidy, one row a seed; accuracies in per cent. Energy is analytic, arithmetic alone, of inference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pandas as pd
import torch
from joblib import Parallel, delayed

from workbench import data, papers
from workbench.evidence import (
    CONTRADICTED,
    NOT_SEEN,
    REPRODUCED,
    Claim,
    Interval,
    Result,
    Rule,
    above,
    claims_from,
    contrast,
    interval,
    not_worse,
    published,
)
from workbench.papers import Among, Count, Range, Rate, Reads, Seed, Share, Spread
from workbench.papers.shiftaddnet import energy, robustness, trials
from workbench.papers.shiftaddnet.method import KINDS
from workbench.papers.shiftaddnet.trials import Arm, Setting, Split, matched
from workbench.quantize import reestimate
from workbench.training import generator

MARGIN = 1.0
"""Points of accuracy that "comparable" may cost; fixed before the runs."""
RESOLVED = 0.5
"""Points, two test images of the digits, below which a difference is not told from none."""
MODES = ("plain", "BatchNorm anew", "fine-tuned")
"""After rounding: nothing; BatchNorm's statistics taken anew; some epochs of training in few bits, and these anew."""
FULL = 32
"""Bits in which float32 rounds no more, only the clipping of inputs is left: the control of fine-tuning."""
FRESH = 400
"""Training images from which BatchNorm's statistics are taken anew."""
LIKE = {"weights": "equal weights", "FIX32": "equal FIX32 energy", "FIX8": "equal FIX8 energy"}


@dataclass(frozen=True)
class Config(papers.Config):
    """Parameters of the ShiftAddNet experiment.

    ``settings`` as "data, training images, epochs": the first is where ablations and robustness are measured; ``width``
    of the networks (matched ones get theirs from it); ``batch`` and ``lr``; at most ``test`` images to test on,
    ``cifar_seeds`` of the seeds; ``bits`` and ``sparsities`` of the tests of robustness, on ``robust`` kinds;
    ``tune_epochs`` and ``tune_lr`` of training in few bits.
    """

    seed: Seed = 300
    seeds: Spread = 3
    settings: tuple[Annotated[str, Reads(Setting.read)], ...] = ("digits 240 8",)
    width: Annotated[int, Range(2, 64)] = 8
    batch: Annotated[int, Range(2, 50_000)] = 60
    lr: Rate = 0.1
    test: Count = 400
    cifar_seeds: Spread = 5
    bits: tuple[Annotated[int, Range(2, FULL - 1)], ...] = (8, 4)
    sparsities: tuple[Share, ...] = (0.1, 0.3, 0.5)
    robust: tuple[Annotated[str, Among(tuple(KINDS))], ...] = ("mult", "add", "shift-Q+add")
    tune_epochs: Count = 1
    tune_lr: Rate = 0.02

    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "full": {
            "seeds": 6,
            "settings": ("digits 1400 18", "digits 400 40", "cifar10 2000 10"),
            "width": 16,
            "batch": 64,
            "test": 2000,
            "bits": (8, 6, 5, 4),
            "sparsities": (0.1, 0.2, 0.3, 0.5, 0.7, 0.9),
            "robust": ("mult", "shift-Q", "shift-PS", "add", "shift-Q+add", "fixed+add"),
            "tune_epochs": 2,
        },
    }

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        settings = [Setting.read(text) for text in self.settings]
        self.require("settings", len({s.id for s in settings}) == len(settings), "differ in data or in images")
        self.require("settings", settings[0].dataset == "digits", "begin with digits: robustness is measured there")
        self.require("batch", self.batch <= min(s.train for s in settings), "fit the training images")
        self.require("robust", {"mult", "shift-Q+add"} <= set(self.robust), "have mult and shift-Q+add among them")


def arms(config: Config, setting: Setting) -> dict[str, Arm]:
    """Networks by their names in tables. All settings have those that the claims on accuracy need.

    "mult, equal weights" and its like are multiplication networks as wide as gives them what the shift-Q+add network of
    the configured width has.
    """
    w, image = config.width, setting.image
    own = ("shift-Q+add", w)
    found = {kind: Arm(kind, w) for kind in ("mult", "shift-Q", "add", "shift-Q+add")}
    for what, name in LIKE.items():
        found[f"mult, {name}"] = Arm("mult", matched("mult", own, what, image))
    found["shift-Q+add, mult's weights"] = Arm("shift-Q+add", matched("shift-Q+add", ("mult", w), "weights", image))
    if setting.dataset == "digits":
        found |= {kind: Arm(kind, w) for kind in KINDS}
    if setting == Setting.read(config.settings[0]):
        ablations = [("add", "no BatchNorm"), ("add", "no local rate"), ("shift-Q+add", "adders frozen")]
        ablations += [("shift-Q+add", "shifts frozen"), ("shift-PS", "snapped")]
        found |= {f"{kind}, {variant}": Arm(kind, w, variant) for kind, variant in ablations}
    return found


# --- the parts of the experiment -----------------------------------------------------------------------------------


def part(text: str, nets: Mapping[str, Arm], seed: int, config: Config) -> dict[str, list[dict[str, Any]]]:
    """One setting on one seed: all ``nets`` by name, and in the main setting their robustness."""
    setting = Setting.read(text)
    split = Split.draw(setting, seed, config.test)
    rows: dict[str, list[dict[str, Any]]] = {"trained": [], "bits": [], "sparsity": []}
    for name, arm in nets.items():
        net = trials.train_arm(arm, setting, split, seed, config)
        running = trials.accuracy(net, split)
        reestimate(net, [split.train_x[:FRESH]])
        own = {"arm": name, "seed": seed}
        found = {"accuracy": trials.accuracy(net, split), "accuracy_running": running}
        rows["trained"].append({"setting": setting.id, **own, **found})
        if text == config.settings[0] and name in config.robust:
            rows["sparsity"] += [own | row for row in _sparsity(net, split, seed, config)]
            rows["bits"] += [own | row for row in _bits(net, split, seed, config)]
    return rows


def analytic() -> dict[str, pd.DataFrame]:
    """Tables that need no training."""
    tables = {"operations": energy.operations(), "energies": energy.energies(), "moved": energy.moved()}
    return tables | {"counts": energy.published_counts(), "ratios": energy.ratios()}


def _sparsity(net: trials.SmallNet, split: Split, seed: int, config: Config) -> Iterator[dict[str, Any]]:
    """Accuracy of pruned copies, all with BatchNorm's statistics anew; share 0 is the unpruned network."""
    for which in robustness.kinds_of_layers(net):
        for share in (0.0, *config.sparsities):
            pruned = robustness.prune(net, share, which, generator(seed, "ties"))
            if pruned is not None:
                reestimate(pruned, [split.train_x[:FRESH]])
                found = {"zeros": 100 * robustness.zeros(pruned), "accuracy": trials.accuracy(pruned, split)}
                yield {"which": which, "share": share, **found}


def _bits(net: trials.SmallNet, split: Split, seed: int, config: Config) -> Iterator[dict[str, Any]]:
    """Accuracy of rounded copies, in every mode; `FULL` bits are the network with inputs clipped alike."""
    for bits in (FULL, *config.bits):
        twin = robustness.quantise(net, bits, split.train_x[:200])
        for mode in MODES:
            if mode == "fine-tuned":
                x, y = split.train_x, split.train_y
                trials.fit(twin, x, y, config.tune_epochs, config.tune_lr, config.batch, seed)
            if mode != "plain":
                reestimate(twin, [split.train_x[:FRESH]])
            yield {"bits": bits, "mode": mode, "accuracy": trials.accuracy(twin, split)}


def more(margin: float) -> Rule:
    """The whole interval above ``margin``; contradicted where the whole lies below ``-margin``."""

    def rule(found: Interval, _: float | None) -> str:
        return REPRODUCED if found.low > margin else CONTRADICTED if found.high < -margin else NOT_SEEN

    return rule


# --- the whole, its summary and its claims -------------------------------------------------------------------------


def _contrasts(tables: Mapping[str, pd.DataFrame], config: Config) -> Iterator[tuple[Claim, Interval]]:
    """Every measured claim with the evidence for it. Rules are fixed here, before any run.

    Differences are taken so that more than 0 speaks for the claim.
    """
    paper, ours = "ShiftAddNet abstract and section 4", "this workbench; not in the paper"

    def claim(id: str, text: str, source: str = paper, rule: Any = None) -> Claim:
        return Claim(f"shiftaddnet.{id}", text, "measured", "points", rule or more(RESOLVED), None, source, True)

    better = {
        "mult": ("multiplications, same width", ours),
        **{f"mult, {name}": (f"multiplications, {name}", ours) for name in LIKE.values()},
        "shift-Q": ("shifts alone, same width", paper),
        "add": ("adders alone, same width", paper),
    }
    for text in config.settings:
        setting = Setting.read(text)
        rows = tables["trained"][tables["trained"]["setting"] == setting.id]
        minus = lambda a, b, rows=rows: contrast(rows, {"arm": a}, {"arm": b})  # noqa: E731
        where = f"accuracy.{setting.id}"
        yield (
            claim(
                f"{where}.comparable", f"{setting.title}: ShiftAddNet (Q) loses at most {MARGIN:g} point against "
                "multiplications of the same width", rule=not_worse(MARGIN),
            ),
            minus("shift-Q+add", "mult"),
        )  # fmt: skip
        for arm, (words, source) in better.items():
            key = arm.replace("mult, ", "").replace(" ", "_").replace("-Q", "")
            yield (
                claim(f"{where}.vs_{key}", f"{setting.title}: ShiftAddNet (Q) is more accurate than {words}", source),
                minus("shift-Q+add", arm),
            )
        yield (
            claim(
                f"{where}.narrow", f"{setting.title}: ShiftAddNet (Q) with as many weights as multiplications is more "
                "accurate than these", ours,
            ),
            minus("shift-Q+add, mult's weights", "mult"),
        )  # fmt: skip
        if setting.dataset == "digits":
            yield (
                claim(
                    f"{where}.ps_vs_shift", f"{setting.title}: ShiftAddNet (PS) is more accurate than PS shifts alone"
                ),
                minus("shift-PS+add", "shift-PS"),
            )
            yield (
                claim(f"{where}.ps_vs_q", f"{setting.title}: ShiftAddNet is more accurate with PS than with Q", ours),
                minus("shift-PS+add", "shift-Q+add"),
            )
            yield (
                claim(
                    f"{where}.fixed", f"{setting.title}: fixed shifts lose at most {MARGIN:g} point against trained PS",
                    rule=not_worse(MARGIN),
                ),
                minus("fixed+add", "shift-PS+add"),
            )  # fmt: skip
    yield from _parts(tables["trained"], config, claim, paper, ours)
    yield from _robust(tables, config, claim, paper, ours)


def _parts(table: pd.DataFrame, config: Config, claim: Any, paper: str, ours: str) -> Iterator[tuple[Claim, Interval]]:
    """What each sort of layer learns, and the ablations."""
    setting = Setting.read(config.settings[0])
    rows = table[table["setting"] == setting.id]
    minus = lambda a, b: contrast(rows, {"arm": a}, {"arm": b})  # noqa: E731
    frozen = "shift-Q+add, adders frozen", "shift-Q+add, shifts frozen"
    texts = {
        "learning.adders": ("training adders alone gains more than training shifts alone", frozen[::-1], paper),
        "learning.both_vs_adders": ("training both is better than adders alone", ("shift-Q+add", frozen[1]), paper),
        "learning.both_vs_shifts": ("training both is better than shifts alone", ("shift-Q+add", frozen[0]), paper),
        "ablation.batch_norm": ("AdderNet needs BatchNorm", ("add", "add, no BatchNorm"), ours),
        "ablation.local_rate": ("AdderNet gains by the local learning rate", ("add", "add, no local rate"), ours),
        "ablation.snapping": (
            "PS shifts lose by rounding what is stored",
            ("shift-PS", "shift-PS, snapped"),
            ours,
        ),
    }
    for key, (text, pair, source) in texts.items():
        yield claim(key, f"{setting.title}: {text}", source), minus(*pair)


def drops(table: pd.DataFrame, by: str, reference: float) -> pd.DataFrame:
    """The table with a column ``drop``: points lost against the rows at ``reference`` of the column ``by``."""
    key = [name for name in table.columns if name not in (by, "accuracy", "zeros")]
    start = table[table[by] == reference].set_index(key)["accuracy"]
    before = pd.MultiIndex.from_frame(table[key])
    return table.assign(drop=start.loc[before].to_numpy() - table["accuracy"].to_numpy())


def _robust(
    tables: Mapping[str, pd.DataFrame], config: Config, claim: Any, paper: str, ours: str
) -> Iterator[tuple[Claim, Interval]]:
    """Points that multiplications lose, less those that another kind loses, at equal bits or equal total sparsity."""
    setting, names = Setting.read(config.settings[0]), {"shift-Q+add": "ShiftAddNet (Q)", "add": "AdderNet"}
    bits, sparsity = drops(tables["bits"], "bits", FULL), drops(tables["sparsity"], "share", 0.0)

    def gap(table: pd.DataFrame, arm: str) -> Interval:
        lost = {a: table[table["arm"] == a].set_index("seed")["drop"] for a in ("mult", arm)}
        return interval((lost["mult"] - lost[arm]).sort_index().tolist())

    for arm in (arm for arm in names if arm in config.robust):
        source, key = (paper if arm == "shift-Q+add" else ours), arm.replace("-Q+", "_")
        for b in config.bits:
            for mode in MODES:
                own = bits[(bits["bits"] == b) & (bits["mode"] == mode)]
                text = f"{setting.title}: {names[arm]} loses less than multiplications in {b} bits, {mode}"
                yield claim(f"bits.{key}.{b}.{mode.replace(' ', '_').replace('-', '_')}", text, source), gap(own, arm)
        for share in config.sparsities:
            for which in sorted(set(sparsity[sparsity["arm"] == arm]["which"])):
                own = sparsity[(sparsity["share"] == share) & (sparsity["which"] == "all")]
                own = own[own["arm"] == "mult"]
                mine = sparsity[(sparsity["share"] == share) & (sparsity["which"] == which) & (sparsity["arm"] == arm)]
                if len(mine):
                    part = {"all": "", "shift": ", all in its shift layers", "add": ", all in its adder layers"}[which]
                    text = f"{setting.title}: {names[arm]} loses less than multiplications with {share:.0%} of all "
                    yield (
                        claim(f"sparsity.{key}.{share:g}.{which}", f"{text}hidden weights 0{part}", source),
                        gap(pd.concat([own, mine]), arm),
                    )


def _printed_rows(scale: str, tables: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Counts and energies recomputed; accuracies of the papers' networks, which no laptop can train."""
    rows, cells = energy.rows(scale, tables), published("shiftaddnet")
    left = cells[~cells.index.isin([row["id"] for row in rows]) & (cells.index != "shiftaddnet.saving")]
    return rows + [claim.row(None, scale) for claim in claims_from(left, "measured", above()).values()]


def _costs(config: Config) -> pd.DataFrame:
    """Weights and nanojoules an image of every arm: columns setting, arm, net, weights, FIX32, FIX8."""
    rows = []
    for setting in map(Setting.read, config.settings):
        for name, arm in arms(config, setting).items():
            if not arm.variant:
                price = trials.costs(arm.kind, arm.width, setting.image)
                rows.append({"setting": setting.id, "arm": name, "net": str(arm), **price})
    return pd.DataFrame(rows)


def run(config: Config) -> Result:
    """Run everything the notebook shows, seeds and settings side by side in two processes."""
    jobs = [delayed(_alone)(analytic)]
    for text in sorted(config.settings, key=lambda text: Setting.read(text).dataset):  # CIFAR-10 takes longest
        setting = Setting.read(text)
        seeds = config.seed_list[: config.cifar_seeds] if setting.dataset == "cifar10" else config.seed_list
        jobs += [delayed(_alone)(part, text, arms(config, setting), seed, config) for seed in seeds]
    printed, *parts = Parallel(n_jobs=2)(jobs)
    tables = {name: pd.DataFrame([row for part in parts for row in part[name]]) for name in parts[0]}
    tables |= {**printed, "costs": _costs(config)}
    found = list(_contrasts(tables, config))
    rows = [claim.row(evidence, config.scale) for claim, evidence in found] + _printed_rows(config.scale, tables)
    tables["summary"] = pd.DataFrame(
        [
            {"quantity": c.id, "mean": e.mean, "low": e.low, "high": e.high, "n": len(e.samples), "unit": c.unit}
            for c, e in found
        ]
    )
    datasets = {Setting.read(text).dataset for text in config.settings}
    hashes = [data.digits().hash] + [data.cifar10(train).hash for train in (True, False) if "cifar10" in datasets]
    return Result(
        tables,
        [row | {"command": config.command("shiftaddnet")} for row in rows],
        config.record("shiftaddnet"),
        "+".join(hashes),
    )


def _alone(part: Any, *arguments: Any) -> dict[str, Any]:
    torch.set_num_threads(1)  # sums keep their order: the same figures on one core and on many
    return part(*arguments)
