"""CPT measured: is it the cycle, or the dose of low precision?

Every arm is one schedule of bits; what the cycle is worth must exceed the same bits in random order ("shuffled"), and
a training at the lower bound that is deployed at the upper one. Tables are tidy, one row a seed. Losses are in nats an
image or bits a character, accuracies in percent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from scipy.special import stdtrit
from torch import Tensor

from workbench import data, papers
from workbench.cost import Macs, training_bitops
from workbench.evidence import (
    Claim,
    Interval,
    Result,
    above,
    claims_from,
    contrast,
    inside,
    interval_or_none,
    not_worse,
)
from workbench.evidence import published as printed
from workbench.papers import Among, Bits, Count, Range, Rate, Reads, Seed, Share, Spread
from workbench.papers.cpt import landscape, language, method, published, range_test, vision
from workbench.papers.cpt.vision import Setting
from workbench.training import generator

MARGIN = 1.0
"""Points of accuracy that "no loss" may cost; fixed before the runs."""
SIDE_BY_SIDE = {"digits": 40, "cifar10": 12}
"""Models trained as one: many more are no faster each."""
BINS = 24
"""Points of a training curve."""
TEXT = "licence"
"""The setting of the language model."""
SHAPES = {"reversed": method.reversed_ramps, "triangle": method.triangle}
"""Forms of the cycle beside the paper's; shuffled bits are always run."""


@dataclass(frozen=True)
class Config(papers.Config):
    """Parameters of the CPT experiment.

    ``settings`` of ResNet-8, as "data, wrong labels in percent, epochs, cycles" (the first is the main one);
    ``low``, ``high`` bounds of the cycle, ``error_bits`` of the errors; ``statics`` other constant precisions,
    ``shapes`` other forms of the cycle and ``lows`` other lower bounds (main setting only) for comparison; ``batch``
    and ``lr`` of ResNet-8, ``train`` and ``test`` digits, ``cifar_*`` its sizes and number of seeds; ``language_*`` of
    the character LSTM; ``range_steps`` a precision and ``range_threshold`` (share of images) of the range test, on
    ``range_seeds``; ``sharpness_size`` relative to the weights, over ``sharpness_directions``; ``line_points`` on
    ``line_seeds`` and ``plane_points`` a side for slices of the landscape.
    """

    seed: Seed = 100
    seeds: Spread = 8
    settings: tuple[Annotated[str, Reads(Setting.read)], ...] = ("digits 20 32 8", "digits 0 12 4")
    low: Bits = 3
    high: Bits = 8
    error_bits: Bits = 8
    statics: tuple[Bits, ...] = (6, 5)
    lows: tuple[Bits, ...] = (2,)
    shapes: tuple[Annotated[str, Among(tuple(SHAPES))], ...] = ("reversed",)
    batch: Count = 32
    lr: Rate = 0.1
    train: Annotated[int, Range(1, 700)] = 128
    test: Annotated[int, Range(1, 1_000)] = 500
    cifar_seeds: Spread = 5
    cifar_train: Count = 3000
    cifar_test: Count = 2000
    language_seeds: Spread = 6
    language_steps: Count = 80
    language_cycles: Count = 8
    language_lr: Rate = 0.02
    range_seeds: Spread = 5
    range_steps: Spread = 24
    range_threshold: Share = 0.2
    sharpness_size: Annotated[float, Range(0, 100, open=True)] = 0.25
    sharpness_directions: Count = 2
    line_points: Spread = 9
    line_seeds: Count = 2
    plane_points: Spread = 7

    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "full": {
            "seeds": 16,
            "settings": ("digits 20 30 8", "digits 0 30 8", "digits 0 6 4", "cifar10 0 16 8"),
            "lows": (2, 4),
            "shapes": ("reversed", "triangle"),
            "train": 400,
            "test": 1000,
            "language_seeds": 16,
            "language_steps": 320,
            "range_seeds": 16,
            "sharpness_directions": 3,
            "line_points": 21,
            "line_seeds": 4,
            "plane_points": 21,
        },
    }

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        settings = [Setting.read(text) for text in self.settings]
        self.require("settings", len({s.id for s in settings}) == len(settings), "name each setting once")
        self.require("low", self.low < self.high, f"lie below high ({self.high})")
        between = all(b < self.high and b != self.low for b in self.statics)
        self.require("statics", between, f"lie below high ({self.high}), low ({self.low}) is run anyway")
        self.require("lows", all(b < self.high and b != self.low for b in self.lows), "be others than low")
        self.require("train", self.batch <= self.train, f"be at least batch ({self.batch})")
        self.require("cifar_train", self.batch <= self.cifar_train, f"be at least batch ({self.batch})")
        for setting in settings:
            fits = setting.cycles <= vision.steps(setting, self)
            self.require("settings", fits, "have no more cycles than steps")
        self.require("language_cycles", self.language_cycles <= self.language_steps, "fit language_steps")

    @property
    def static(self) -> str:
        """Name of the static arm that the paper compares with."""
        return f"static {self.high}"

    @property
    def deployed(self) -> str:
        """Name of the arm trained at the lower bound and evaluated at the upper one."""
        return f"static {self.low} @{self.high}"


# --- the parts of the experiment ---------------------------------------------------------------------------------


def schedules(config: Config, steps: int, cycles: int, seeds: Sequence[int], lows: Sequence[int]) -> dict[str, Tensor]:
    """Bits ``[S, steps]`` by arm."""
    low, high = config.low, config.high
    bits = method.cyclic(steps, low, high, cycles)
    arms = {
        config.static: method.static(steps, high),
        "CPT": bits,
        "shuffled": torch.stack([method.shuffled(bits, generator(seed, "shuffled")) for seed in seeds]),
        **{shape: SHAPES[shape](steps, low, high, cycles) for shape in config.shapes},
        **{f"static {b}": method.static(steps, b) for b in (*config.statics, low)},
        **{f"CPT {b}-{high}": method.cyclic(steps, b, high, cycles) for b in lows},
    }
    return {arm: bits.expand(len(seeds), -1) for arm, bits in arms.items()}


def evaluations(config: Config, arms: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Rows of the table: name to the arm trained, and the bits at which it works afterwards."""
    static = {f"static {b}": b for b in (*config.statics, config.low)}
    rows = {arm: (arm, static.get(arm, config.high)) for arm in arms}
    return rows | {config.deployed: (f"static {config.low}", config.high)}


def cost(bits: Tensor, error_bits: int) -> float:
    """BitOps of a schedule ``[steps]`` in percent of float32's."""
    return 100 * training_bitops(Macs(1, 1, 1), bits, error_bits, 1) / (len(bits) * 3 * 32**2)


def _table(
    name: str, seeds: Sequence[int], arms: Mapping[str, Tensor], measured: Mapping[str, Sequence[float]], config: Config
) -> list[dict[str, Any]]:
    """Tidy rows of evaluated models, ordered by row of `evaluations`, then seed."""
    rows = []
    for at, (row, (arm, _)) in enumerate(evaluations(config, [*arms]).items()):
        for k, seed in enumerate(seeds):
            own = {column: values[at * len(seeds) + k] for column, values in measured.items()}
            price = cost(arms[arm][k], config.error_bits)
            rows.append({"setting": name, "arm": row, "seed": seed, "cost": price, **own})
    return rows


def _curves(name: str, seeds: Sequence[int], arms: Sequence[str], losses: Tensor) -> list[dict[str, Any]]:
    """Training loss in `BINS` means over steps, from ``[steps, K]``."""
    rows = []
    for at in torch.arange(len(losses)).tensor_split(BINS):
        means = losses[at].mean(0).view(len(arms), len(seeds)).tolist() if len(at) else []
        for arm, line in zip(arms, means, strict=False):
            middle = float(at.double().mean())
            rows += [
                {"setting": name, "arm": arm, "seed": seed, "step": middle, "loss": value}
                for seed, value in zip(seeds, line, strict=True)
            ]
    return rows


def vision_part(text: str, seeds: Sequence[int], slices: int, config: Config) -> dict[str, Any]:
    """One setting of ResNet-8 on some seeds, all arms side by side; the landscape of the first ``slices`` seeds."""
    setting, S = Setting.read(text), len(seeds)
    lows = config.lows if text == config.settings[0] else ()
    arms = schedules(config, vision.steps(setting, config), setting.cycles, seeds, lows)
    run = vision.train_schedules(setting, seeds, arms, config)
    rows = evaluations(config, [*arms])
    names = [*arms]
    index = [names.index(arm) * S + k for arm, _ in rows.values() for k in range(S)]
    bits = torch.tensor([b for _, b in rows.values()]).repeat_interleave(S)
    measured = vision.measure(run.pick(index), bits, config)
    found = {
        "trained": _table(setting.id, seeds, arms, measured, config),
        "curves": _curves(setting.id, seeds, names, run.losses),
    }
    if slices:
        found |= _slices(run, names, list(seeds[:slices]), config)
    return found


def _slices(run: vision.Trained, names: list[str], seeds: list[int], config: Config) -> dict[str, Any]:
    """The loss along a line for some seeds, and on a plane for the first."""
    arms = {config.static: config.static, "CPT": "CPT", "shuffled": "shuffled", config.deployed: f"static {config.low}"}
    S = len(run.seeds)
    index = [names.index(arm) * S + k for arm in arms.values() for k in range(len(seeds))]
    high = torch.full((len(index),), config.high)
    at = landscape.grid(config.line_points).tolist()
    losses = vision.surface(run.pick(index), high, config, plane=False).view(len(at), len(arms), -1)
    line = [
        {"arm": arm, "seed": seed, "at": x, "loss": float(losses[i, j, k])}
        for i, x in enumerate(at)
        for j, arm in enumerate(arms)
        for k, seed in enumerate(seeds)
    ]
    first = index[:: len(seeds)]
    planes = vision.surface(run.pick(first), high[: len(first)], config, plane=True)
    at = landscape.grid(config.plane_points).tolist()
    plane = [
        {"arm": arm, "x": x, "y": y, "loss": float(planes[j, i, a])}
        for a, arm in enumerate(arms)
        for j, y in enumerate(at)
        for i, x in enumerate(at)
    ]
    return {"line": line, "plane": plane}


def language_part(seeds: Sequence[int], config: Config) -> dict[str, Any]:
    """The character LSTM on some seeds, all arms side by side."""
    S = len(seeds)
    arms = schedules(config, config.language_steps, config.language_cycles, seeds, ())
    parameters, losses = language.train_schedules(seeds, arms, config)
    rows, names = evaluations(config, [*arms]), [*arms]
    index = [names.index(arm) * S + k for arm, _ in rows.values() for k in range(S)]
    bits = torch.tensor([b for _, b in rows.values()]).repeat_interleave(S)
    chosen = {name: value[index] for name, value in parameters.items()}
    measured = language.measure(chosen, [*seeds] * len(rows), bits, config)
    return {"trained": _table(TEXT, seeds, arms, measured, config), "curves": _curves(TEXT, seeds, names, losses)}


def range_part(fresh: bool, config: Config) -> dict[str, Any]:
    """The precision range test in the main setting, on a training that goes on or on fresh networks."""
    seeds = config.seed_list[: config.range_seeds]
    accuracy = range_test.watch(Setting.read(config.settings[0]), seeds, fresh, config)
    mode = "fresh" if fresh else "continuing"
    rows = [
        {"mode": mode, "seed": seed, "bits": bits, "accuracy": 100 * value}
        for seed, line in zip(seeds, accuracy.tolist(), strict=True)
        for bits, value in zip(range_test.BITS, line, strict=True)
    ]
    bounds = [
        {"mode": mode, "seed": seed, "bits": range_test.lower_bound(line, config.range_threshold)}
        for seed, line in zip(seeds, accuracy.tolist(), strict=True)
    ]
    return {"range": rows, "bounds": bounds}


# --- the whole, its summary and its claims -----------------------------------------------------------------------


def log_variance_ratio(a: pd.Series, b: pd.Series) -> Interval:
    """ln of var(a) / var(b) with the 95 % interval that inverts the Pitman-Morgan test for paired samples.

    Exact for normal pairs: the ratio lies within a factor ``K +- sqrt(K^2 - 1)`` of the one found, with
    ``K = 1 + 2 (1 - r^2) t^2 / (n - 2)`` and r the pairs' correlation (Morgan 1939, Pitman 1939).
    """
    a, b = a.sort_index(), b.sort_index()
    n, r = len(a), float(np.corrcoef(a, b)[0, 1])
    half = math.acosh(1 + 2 * (1 - r**2) * float(stdtrit(n - 2, 0.975)) ** 2 / (n - 2)) if n > 2 else math.inf
    mean = math.log(a.var(ddof=1) / b.var(ddof=1))
    return Interval(mean, mean - half, mean + half, tuple((a - b).tolist()))


def _contrasts(tables: Mapping[str, pd.DataFrame], config: Config) -> Iterator[tuple[Claim, Interval]]:
    """Every measured claim with the evidence for it. Rules are fixed here, before any run.

    Differences are taken so that more than 0 speaks for the claim.
    """
    trained, bounds = tables["trained"], tables["bounds"]
    paper, ours = "CPT abstract and section 4", "this workbench; not in the paper"
    low, high = config.low, config.high

    def claim(id: str, text: str, rule: Any, unit: str, source: str = paper) -> Claim:
        return Claim(f"cpt.{id}", text, "measured", unit, rule, None, source, True)

    others = {
        f"static{high}": (config.static, config.static, paper),
        "shuffled": ("shuffled", "the same bits in random order", ours),
        f"low_at_{high}": (config.deployed, f"{low} bits throughout, deployed at {high}", ours),
    }
    shapes = {
        **{shape: (shape, f"{shape} cycles", ours) for shape in config.shapes},
        **{f"static{b}": (f"static {b}", f"static {b}", ours) for b in config.statics},
    }
    settings = [Setting.read(text) for text in config.settings]
    where = {s.id: (f"ResNet-8 on {s.title}", "nats") for s in settings}
    where[TEXT] = ("A character LSTM on Python's licence", "bits/character")
    for setting, (text, unit) in where.items():
        rows = trained[trained["setting"] == setting]
        own = {"arm": "CPT"}
        lower = lambda a, b, value, rows=rows: contrast(rows, {"arm": b}, {"arm": a}, value)  # noqa: E731
        for key, (arm, name, source) in (others | shapes).items():
            yield (
                claim(f"{setting}.loss_vs_{key}", f"{text}: CPT has less test loss than {name}", above(), unit, source),
                lower("CPT", arm, "test_loss"),
            )
        yield (
            claim(
                f"{setting}.dose",
                f"{text}: shuffled bits have less test loss than {config.static}",
                above(),
                unit,
                ours,
            ),
            lower("shuffled", config.static, "test_loss"),
        )
        for key, (arm, name, source) in others.items():
            yield (
                claim(
                    f"{setting}.flatter_vs_{key}", f"{text}: CPT's minimum is flatter than that of {name}", above(),
                    unit, source,
                ),
                lower("CPT", arm, "sharpness"),
            )  # fmt: skip
        spread = "test_loss" if setting == TEXT else "accuracy"
        for key, (arm, name, source) in others.items():
            by_arm = [rows[rows["arm"] == a].set_index("seed")[spread] for a in (arm, "CPT")]
            yield (
                claim(
                    f"{setting}.variance_vs_{key}",
                    f"{text}: CPT's {spread.replace('_', ' ')} varies less over seeds than with {name}", above(),
                    "ln variance ratio", source,
                ),
                log_variance_ratio(*by_arm),
            )  # fmt: skip
        if setting == TEXT:
            continue
        for key, (arm, name, source) in others.items():
            yield (
                claim(
                    f"{setting}.accuracy_vs_{key}",
                    f"{text}: CPT loses at most {MARGIN:g} point of accuracy against {name}", not_worse(MARGIN),
                    "points", source,
                ),
                contrast(rows, own, {"arm": arm}),
            )  # fmt: skip
        mixed = rows[rows["arm"] == "CPT"].set_index("seed")
        yield (
            claim(
                f"{setting}.reestimation",
                f"{text}: statistics taken anew at {high} bits raise CPT's accuracy", above(), "points", ours,
            ),
            interval_or_none(mixed["accuracy"] - mixed["accuracy_running"]),
        )  # fmt: skip

    main, (text, unit) = settings[0].id, where[settings[0].id]
    rows = trained[trained["setting"] == main]
    for mode, source in (("continuing", paper), ("fresh", ours)):
        nets = {"continuing": "one training", "fresh": "fresh networks"}[mode]
        found = bounds[bounds["mode"] == mode].set_index("seed")["bits"]
        yield (
            claim(
                f"range_test.{mode}",
                f"The range test on {nets} finds {low} bits (threshold {100 * config.range_threshold:.0f} %)",
                inside(low, low), "bits", source,
            ),
            interval_or_none(found),
        )  # fmt: skip
    for b in config.lows:
        yield (
            claim(f"range_test.loss_vs_{b}_{high}", f"{text}: CPT {low}-{high} has less test loss than CPT {b}-{high}",
                  above(), unit),
            contrast(rows, {"arm": f"CPT {b}-{high}"}, {"arm": "CPT"}, "test_loss"),
        )  # fmt: skip


def _printed_rows(scale: str) -> list[dict[str, Any]]:
    """Costs recomputed; accuracies and perplexities of the paper's networks, which no laptop can train."""
    rows = published.rows(scale)
    costs = {row["id"] for row in rows}
    cells = printed("cpt")
    cells = cells[~cells.index.isin(costs) & (cells["unit"] != "GBitOps")]
    return rows + [claim.row(None, scale) for claim in claims_from(cells, "measured", above()).values()]


def _shares(seeds: list[int], most: int) -> list[list[int]]:
    """The seeds in parts of nearly equal size, none larger than ``most``, if possible."""
    return [part.tolist() for part in np.array_split(seeds, -(-len(seeds) // max(1, most)))]


def _jobs(config: Config) -> list[Any]:
    """The parts, the longest first."""
    jobs = []
    for text in sorted(config.settings, key=lambda text: Setting.read(text).dataset):  # CIFAR-10 takes longest
        dataset = Setting.read(text).dataset
        seeds = config.seed_list[: config.cifar_seeds] if dataset == "cifar10" else config.seed_list
        arms = 4 + len(config.statics + config.shapes) + len(config.lows) * (text == config.settings[0])
        for part in _shares(seeds, SIDE_BY_SIDE[dataset] // arms):
            slices = config.line_seeds if text == config.settings[0] and part[0] == config.seed else 0
            jobs.append(delayed(_alone)(vision_part, text, part, slices, config))
    for part in _shares(config.seed_list[: config.language_seeds], 4):
        jobs.append(delayed(_alone)(language_part, part, config))
    return jobs + [delayed(_alone)(range_part, fresh, config) for fresh in (False, True)]


def run(config: Config) -> Result:
    """Run everything the notebook shows, its parts side by side in two processes."""
    parts = Parallel(n_jobs=2)(_jobs(config))
    names = dict.fromkeys(name for part in parts for name in part)
    tables = {name: pd.DataFrame([row for part in parts for row in part.get(name, [])]) for name in names}
    tables["published"] = published.table()
    tables["cifar_costs"] = published.cifar_costs()
    found = list(_contrasts(tables, config))
    rows = [claim.row(evidence, config.scale) for claim, evidence in found] + _printed_rows(config.scale)
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
        [row | {"command": config.command("cpt")} for row in rows],
        config.record("cpt"),
        "+".join([*hashes, language.digest()]),
    )


def _alone(part: Any, *arguments: Any) -> Any:
    torch.set_num_threads(1)  # sums keep their order: the same figures on one core and on many
    return part(*arguments)
