"""FracTrain measured: progressive and dynamic precision beside every control of equal cost.

Tables are tidy, one row a seed; accuracies in percent, costs as cp (percent of training in 32 bits). All arms of a seed
share images, wrong labels, initial weights, order of batches and rounding noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from torch import Tensor
from torch.nn import functional as F

from workbench import data, papers
from workbench.evidence import Claim, Interval, Result, above, contrast, inside, interval_or_none, not_worse
from workbench.papers import Among, Count, Range, Rate, Seed, Several, Spread
from workbench.papers.fractrain import cost, method
from workbench.papers.fractrain.method import STAGES, Gates, Indicator, Run, Schedule, Task
from workbench.papers.fractrain.nets import BLOCKS, ResNet8
from workbench.training import generator

CHOICES = ((3, 6), (4, 8), (6, 12))
"""Bits of (inputs, errors) for the gates: three of the five on CIFAR."""
MARGIN = 1.0
"""Points of accuracy that "no loss" may cost; fixed before the runs."""
PFQ, STATIC, CHEAP, EQUAL = "PFQ", "static 8", "static 3", "static of equal cost"
FIXED, REVERSED, YOKED, SHUFFLED = "fixed staircase", "PFQ's bits reversed", "yoked", "PFQ's bits shuffled"
DFQ, DEALT, BOTH = "DFQ", "DFQ's choices dealt at random", "FracTrain"
SIDE_BY_SIDE = {"digits": 40, "cifar10": 10}
"""Models trained as one: more no longer fits the cache."""
LOOK = 5
"""Periods between two looks at the validation images."""
SHOWN = 60
"""Validation images whose choices are kept for the heat-map."""


TURNS = method.WINDOW * (len(STAGES) - 1)
"""Epochs before which no run can reach the last stage."""
Target = Annotated[float, Range(0, 100, open=True)]


@dataclass(frozen=True)
class Config(papers.Config):
    """Parameters of the FracTrain experiment.

    ``datasets`` among digits and cifar10 (averaged to 16x16), each with ``noises``, shares of wrong training labels;
    ``cifar_*`` are that data set's own. ``train`` images, ``batch`` and ``lr``; ``epochs`` of schedules' training and
    ``gate_epochs`` of gates'. The indicator looks once an epoch (CIFAR-10: every ``cifar_period`` steps) with
    ``epsilon`` and ``alpha``. ``weight_bits`` where gates choose the rest; ``targets`` of DFQ's cp (percent),
    ``progressive`` those that FracTrain passes through, ``played`` those of one seed for the explorer.
    ``adapt_epochs`` of training after a change of the task. Settings were tried on seeds below 200.
    """

    seed: Seed = 200
    datasets: tuple[Annotated[str, Among(("digits", "cifar10"))], ...] = ("digits",)
    noises: tuple[Annotated[float, Range(0, 0.899)], ...] = (0.2,)
    train: Annotated[int, Range(8, 501)] = 160
    batch: Annotated[int, Range(2, 10_000)] = 32
    lr: Rate = 0.1
    epochs: Annotated[int, Range(TURNS + 1, 10_000)] = 30
    gate_epochs: Annotated[int, Range(TURNS + 1, 10_000)] = 24
    epsilon: Rate = 0.15
    alpha: Annotated[float, Range(1e-9, 1)] = 0.4
    weight_bits: Annotated[int, Range(1, 8)] = 4
    targets: tuple[Target, ...] = (2.6,)
    progressive: Annotated[tuple[Target, ...], Several(len(STAGES), len(STAGES))] = (1.8, 2.1, 2.4, 2.6)
    played: tuple[Target, ...] = (1.8, 2.2, 3.0, 4.0)
    adapt_epochs: Annotated[int, Range(TURNS + 1, 10_000)] = 24
    cifar_seeds: Spread = 5
    cifar_noises: tuple[Annotated[float, Range(0, 0.899)], ...] = (0.0,)
    cifar_train: Count = 3200
    cifar_batch: Annotated[int, Range(2, 10_000)] = 64
    cifar_width: Annotated[int, Range(1, 256)] = 8
    cifar_steps: Count = 600
    cifar_period: Count = 20

    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "full": {
            "datasets": ("digits", "cifar10"),
            "noises": (0.0, 0.2),
            "seeds": 16,
            "train": 384,
            "targets": (2.1, 2.6),
        },
    }

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        self.require(
            "train", 2 * self.batch <= self.train // 2 <= 250, "hold 4 batches at least and 500 images at most"
        )
        self.require("cifar_batch", self.cifar_batch <= self.cifar_train // 4, "be a quarter of cifar_train at most")
        self.require("cifar_period", self.cifar_period <= self.cifar_steps // 16, "leave 16 periods in cifar_steps")
        for target in (*self.targets, *self.progressive, *self.played):
            method.check_target(target, self.weight_bits, CHOICES)

    @property
    def settings(self) -> list[Setting]:
        """Every data set with each of its noises."""
        steps = self.train // self.batch
        digits = {"steps": (self.epochs * steps, self.gate_epochs * steps), "period": steps}
        cifar = {"steps": (self.cifar_steps, self.cifar_steps), "period": self.cifar_period}
        found = []
        if "digits" in self.datasets:
            own = (self.seed_list, self.train, self.batch, 4)
            found += [Setting("digits", noise, *own, **digits) for noise in self.noises]
        if "cifar10" in self.datasets:
            own = (self.seed_list[: self.cifar_seeds], self.cifar_train, self.cifar_batch, self.cifar_width)
            found += [Setting("cifar10", noise, *own, **cifar) for noise in self.cifar_noises]
        return found


@dataclass(frozen=True)
class Setting:
    """A data set, its share of wrong labels, and how it is trained; ``steps`` of schedules' training and of gates'."""

    dataset: str
    noise: float
    seeds: list[int]
    train: int
    batch: int
    width: int
    steps: tuple[int, int]
    period: int

    @property
    def labels(self) -> dict[str, Any]:
        """The columns that name it."""
        return {"dataset": self.dataset, "noise": self.noise}

    @property
    def id(self) -> str:
        """Its part of a claim's id."""
        return f"{self.dataset}.noise{100 * self.noise:.0f}"

    @property
    def net(self) -> ResNet8:
        """The network."""
        return ResNet8(1 if self.dataset == "digits" else 3, self.width)

    @property
    def together(self) -> int:
        """Models side by side."""
        return SIDE_BY_SIDE[self.dataset]

    def task(self) -> Task:
        """One model a seed: a split of its own, and of its training labels a share replaced by another class."""
        images, first, tested = _images(self.dataset)
        orders = torch.stack([torch.randperm(first, generator=generator(s, "split")) for s in self.seeds])
        train, looks = orders[:, : self.train], orders[:, self.train : self.train + 200]
        if tested > first:  # a test part of its own
            rest = [torch.randperm(tested - first, generator=generator(s, "test")) + first for s in self.seeds]
            tests = torch.stack(rest)[:, :2000]
        else:
            tests = orders[:, -1000:]
        y = torch.stack([wrong(images.y[t], self.noise, s) for t, s in zip(train, self.seeds, strict=True)])
        parts = (train, y, looks, images.y[looks], tests, images.y[tests])
        return Task(images.x, self.seeds, *parts, self.batch)


@cache
def _images(dataset: str) -> tuple[data.Images, int, int]:
    """Images, how many of them are to train with, and how many there are."""
    if dataset == "digits":
        images = data.digits()
        return data.Images(images.name, images.x - 0.3, images.y), len(images.y), len(images.y)
    train, test = data.cifar10(train=True), data.cifar10(train=False)
    x = torch.cat([F.avg_pool2d(part.x, 2) for part in (train, test)])
    return data.Images("cifar10-16x16", 4 * x - 2, torch.cat([train.y, test.y])), len(train.y), len(x)


def wrong(y: Tensor, share: float, seed: int) -> Tensor:
    """Labels ``[n]`` of ten classes, each replaced with probability ``share`` by another one."""
    g = generator(seed, "wrong labels")
    other = (y + torch.randint(1, 10, y.shape, generator=g)) % 10
    return torch.where(torch.rand(y.shape, generator=g) < share, other, y)


# --- the parts of the experiment --------------------------------------------------------------------------------------


def _arm_rows(run: Run, names: Sequence[tuple[str, int]], labels: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Tables "arms", "looks" and "losses" of K models, named by (arm, seed).

    ``best_step`` is the first at which validation accuracy is the run's best, and ``counted`` the cost up to it: what a
    cost counted until the best iteration counts, where ``cp`` counts all.
    """
    best = run.validation.argmax(1)
    tables: dict[str, list[dict[str, Any]]] = {"arms": [], "looks": [], "losses": []}
    for k, (arm, seed) in enumerate(names):
        own, until = labels | {"arm": arm, "seed": seed}, run.looks[int(best[k])]
        tables["arms"].append(
            own
            | {
                "cp": float(run.cp[k].mean()),
                "late_cp": float(run.cp[k, run.cp.shape[1] // 2 :].mean()),
                "accuracy": 100 * float(run.hits[k].float().mean()),
                "test_loss": float(run.test_losses[k].mean()),
                "train_loss": float(run.loss[k, -1]),
                "best_step": until,
                "counted": float(run.cp[k, :until].sum()) / run.cp.shape[1],
            }
        )
        tables["looks"] += [
            own | {"step": step, "validation": 100 * value}
            for step, value in zip(run.looks, run.validation[k].tolist(), strict=True)
        ]
        spent = run.cp[k].view(run.loss.shape[1], -1).mean(1).tolist()
        tables["losses"] += [
            own | {"period": period, "loss": loss, "cp": cp}
            for period, (loss, cp) in enumerate(zip(run.loss[k].tolist(), spent, strict=True), 1)
        ]
    return tables


def _merged(tables: Sequence[Mapping[str, list]]) -> dict[str, list]:
    return {
        name: [row for table in tables for row in table.get(name, [])]
        for name in dict.fromkeys(name for table in tables for name in table)
    }


def train_schedules(setting: Setting, config: Config, arms: Mapping[str, Sequence[Tensor | None]]) -> dict[str, Any]:
    """Train arms of schedules: for each, the bits ``[steps, 2]`` of every seed, or None for PFQ's indicator."""
    names = [(arm, at) for arm in arms for at in range(len(setting.seeds))]
    parts, bits = [], {}
    for first in range(0, len(names), setting.together):
        some = names[first : first + setting.together]
        models = [at for _, at in some]
        seeds = [setting.seeds[at] for at in models]
        plans = [arms[arm][at] for arm, at in some]
        steps = setting.steps[0]
        filled = torch.stack([torch.zeros(steps, 2, dtype=torch.long) if p is None else p for p in plans])
        indicators = [Indicator(config.epsilon, config.alpha) if p is None else None for p in plans]
        schedule = Schedule(filled, indicators, [generator(s, "rounding") for s in seeds])
        start = setting.net.init([generator(s, "start") for s in seeds])
        run = method.fit(
            setting.net, start, setting.task().take(models), schedule, steps, config.lr, setting.period, LOOK
        )
        parts.append(_arm_rows(run, [(arm, setting.seeds[at]) for arm, at in some], setting.labels))
        bits |= {name: schedule.bits[k] for k, name in enumerate(some)}
    return _merged(parts) | {"bits": {arm: [bits[arm, at] for at in range(len(setting.seeds))] for arm in arms}}


def _constant(setting: Setting, bits: int, error_bits: int) -> list[Tensor]:
    return [torch.tensor([bits, error_bits]).expand(setting.steps[0], 2)] * len(setting.seeds)


def first_arms(setting: Setting, config: Config) -> dict[str, Any]:
    """PFQ, and what needs no knowledge of its bits: static 8 and 3, and equal quarters for the stages."""
    steps = setting.steps[0]
    quarters = torch.tensor(STAGES)[torch.arange(steps) * len(STAGES) // steps]
    arms = {
        PFQ: [None] * len(setting.seeds),
        STATIC: _constant(setting, 8, 8),
        CHEAP: _constant(setting, 3, 8),
        FIXED: [quarters] * len(setting.seeds),
    }
    return train_schedules(setting, config, arms)


def control_arms(setting: Setting, config: Config, pfq: Sequence[Tensor]) -> dict[str, Any]:
    """Controls at PFQ's cost: its bits backwards, in random order and from the next seed, and the nearest static."""
    spent = torch.stack([cost.cp(b[:, 0], b[:, 0], b[:, 1]).mean() for b in pfq]).mean()
    candidates = [(bits, errors) for bits in range(2, 9) for errors in (6, 8)]
    nearest = min(candidates, key=lambda choice: abs(cost.cp(choice[0], *choice) - float(spent)))
    orders = [
        torch.randperm(len(b), generator=generator(s, "shuffle")) for b, s in zip(pfq, setting.seeds, strict=True)
    ]
    arms = {
        REVERSED: [b.flip(0) for b in pfq],
        SHUFFLED: [b[order] for b, order in zip(pfq, orders, strict=True)],
        YOKED: [*pfq[1:], pfq[0]],
        EQUAL: _constant(setting, *nearest),
    }
    return train_schedules(setting, config, arms)


def _targeted(name: str, target: float) -> str:
    return f"{name} {target:g}"


def gated(setting: Setting, config: Config) -> dict[str, Any]:
    """DFQ at each target, its choices dealt at random, FracTrain, and fixed choices; one seed also at more targets."""
    net, S = setting.net, len(setting.seeds)
    gates = [(_targeted(DFQ, target), at, [target], None) for target in config.targets for at in range(S)]
    gates += [(BOTH, at, config.progressive, (config.epsilon, config.alpha)) for at in range(S)]
    twins = [(_targeted(DEALT, target), i * S + at, at) for i, target in enumerate(config.targets) for at in range(S)]
    fixed = [(_fixed(choice), at, c) for c, choice in enumerate(CHOICES) for at in range(S)]
    parts = []
    plans: list[Any] = [
        (gates[at::S], [t for t in twins if t[2] == at], [f for f in fixed if f[1] == at]) for at in range(S)
    ]
    played = [(f"played {target:g}", 0, [target], None) for target in config.played]
    group = max(1, setting.together // (len(plans[0][0]) + len(plans[0][1]) + len(plans[0][2])))
    for first in range(0, S, group):
        mine, dealt, constant = ([x for plan in plans[first : first + group] for x in plan[i]] for i in range(3))
        mine = mine + (played if first == 0 else [])
        models = [g[1] for g in mine] + [t[2] for t in dealt] + [f[1] for f in constant]
        seeds = [setting.seeds[at] for at in models]
        places = {(name, at): k for k, (name, at, *_) in enumerate(mine)}
        wanted = torch.tensor([[*g[2]] + [g[2][-1]] * (len(STAGES) - len(g[2])) for g in mine])
        policy = Gates(
            method.init_gates(net, len(CHOICES), [generator(s, "gates") for s in seeds[: len(mine)]]),
            torch.tensor([places[name.replace(DEALT, DFQ), at] for name, _, at in dealt]),
            torch.tensor([c for *_, c in constant]),
            wanted,
            [None if g[3] is None else Indicator(*g[3]) for g in mine],
            seeds,
            config.weight_bits,
            CHOICES,
        )
        start = net.init([generator(s, "start") for s in seeds])
        task, steps = setting.task().take(models), setting.steps[1]
        run = method.fit(net, start, task, policy, steps, config.lr, setting.period, LOOK)
        names = [(g[0], setting.seeds[at]) for g, at in zip((*mine, *dealt, *constant), models, strict=True)]
        part: dict[str, Any] = _arm_rows(run, names, setting.labels)
        part["shares"] = _shares(run, names[: len(mine)], setting.labels)
        part["dependence"] = _dependence(run, names, len(mine), task, setting.labels)
        part["choices"] = [
            {
                **setting.labels,
                "arm": arm,
                "steps": run.looks,
                "y": task.val_y[k, :SHOWN],
                "choices": run.choices[:, :, k, :SHOWN],
            }
            for k, (arm, seed) in enumerate(names[: len(mine)])
            if seed == setting.seeds[0]
        ]
        parts.append(part)
    return _merged(parts)


def _fixed(choice: tuple[int, int]) -> str:
    return f"all blocks {choice[0]}/{choice[1]}"


HIGHEST, LOWEST = _fixed(CHOICES[-1]), _fixed(CHOICES[0])
"""Every block at the most bits, with which gated arms are compared, or at the fewest."""


def _shares(run: Run, names: Sequence[tuple[str, int]], labels: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How often each choice is made for the validation images, by block, over training."""
    shares = F.one_hot(run.choices, len(CHOICES)).float().mean(3)  # [looks, blocks, K, choices]
    return [
        {**labels, "arm": arm, "seed": seed, "step": step, "block": block, "choice": f"{b}/{g}", "share": float(share)}
        for k, (arm, seed) in enumerate(names)
        for step, by_block in zip(run.looks, shares[:, :, k], strict=True)
        for block, by_choice in enumerate(by_block)
        for (b, g), share in zip(CHOICES, by_choice, strict=True)
    ]


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Of two arrays of small integers ``[n]``, in bits, from their counts."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log2(joint[seen] / product[seen])).sum())


def _dependence(
    run: Run, names: Sequence[tuple[str, int]], own: int, task: Task, labels: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Do choices on test images depend on the class, and on how hard the image is for the same net of fixed 4/8 bits?

    Both against the 95 % point of 100 permutations of the images.
    """
    rows = []
    for k, (arm, seed) in enumerate(names[:own]):
        rng = np.random.default_rng(seed)
        ranks = run.test_losses[names.index((_fixed(CHOICES[1]), seed))].argsort().argsort().numpy()
        against = {"class": task.test_y[k].numpy(), "difficulty": ranks * 4 // len(ranks)}
        for block in range(BLOCKS):
            chosen = run.tested[block, k].numpy()
            row = {**labels, "arm": arm, "seed": seed, "block": block, "entropy": mutual_information(chosen, chosen)}
            for name, other in against.items():
                chance = [mutual_information(rng.permutation(chosen), other) for _ in range(100)]
                row |= {name: mutual_information(chosen, other), f"{name}_chance": float(np.quantile(chance, 0.95))}
            rows.append(row)
    return rows


# --- a change of the task --------------------------------------------------------------------------------------------


def _halves(config: Config, change: str) -> tuple[Task, Task]:
    """The task before and after: other digits ("fine-tuning"), or the same ones rotated ("adaptation")."""
    (images, *_), half = _images("digits"), config.train // 2
    upright = torch.arange(len(images.y))
    pictures, y = torch.cat([images.x, images.x.rot90(1, (2, 3))]), images.y.repeat(2)
    tasks = []
    for later in (False, True):
        parts = []
        for seed in config.seed_list:
            order = upright[torch.randperm(len(upright), generator=generator(seed, "split"))]
            if change == "fine-tuning":
                order = order[(images.y[order] >= 5) == later]
            elif later:
                order = order[half:] + len(upright)
            else:
                order = order[: len(order) // 2]
            parts.append((order[:half], order[half : half + 100], order[-500:]))
        split = [torch.stack(part) for part in zip(*parts, strict=True)]
        tasks.append(Task(pictures, config.seed_list, *(t for part in split for t in (part, y[part])), config.batch))
    return tasks[0], tasks[1]


def adaptation(config: Config) -> dict[str, Any]:
    """From a network trained on one task with the most bits to another task: FracTrain beside fixed choices."""
    net, seeds, S, rows = ResNet8(), config.seed_list, config.seeds, []
    period = config.train // 2 // config.batch
    steps = config.adapt_epochs * period
    none = torch.empty(0, dtype=torch.long)
    for change in ("adaptation", "fine-tuning"):
        before, after = _halves(config, change)
        highest = Gates(
            {}, none, torch.full((S,), len(CHOICES) - 1), torch.empty(0, 1), [], seeds, config.weight_bits, CHOICES
        )
        start = net.init([generator(s, "start") for s in seeds])
        first = method.fit(net, start, before, highest, steps, config.lr, period, config.adapt_epochs)
        start = first.parameters
        if change == "adaptation":
            _, hits, _ = method.evaluate(net, start, after, highest, after.test, after.test_y, method.CHUNK)
            untouched = {"change": change, "arm": "before", "cp": 0.0}
            rows += [
                untouched | {"seed": s, "accuracy": 100 * float(hit.float().mean())}
                for s, hit in zip(seeds, hits, strict=True)
            ]
        else:
            start = start | net.head([generator(s, "new head") for s in seeds])
        arms, fixed = [BOTH, HIGHEST, LOWEST], torch.tensor([len(CHOICES) - 1, 0])
        models = [*range(S)] * len(arms)
        policy = Gates(
            method.init_gates(net, len(CHOICES), [generator(s, "gates") for s in seeds]),
            none,
            fixed.repeat_interleave(S),
            torch.tensor(config.progressive).expand(S, -1),
            [Indicator(config.epsilon, config.alpha) for _ in seeds],
            seeds * len(arms),
            config.weight_bits,
            CHOICES,
        )
        copies = {name: p[models] for name, p in start.items()}
        run = method.fit(net, copies, after.take(models), policy, steps, config.lr, period, LOOK)
        names = [(arm, seed) for arm in arms for seed in seeds]
        rows += _arm_rows(run, names, {"change": change})["arms"]
    return {"adaptation": rows}


# --- the whole, its summary and its claims ---------------------------------------------------------------------------

PAPER, OURS = "FracTrain section 4", "this workbench; not in the paper"
Found = Iterator[tuple[Claim, Interval]]


def _claim(id: str, text: str, rule: Any, source: str = OURS, unit: str = "nats") -> Claim:
    return Claim(f"fractrain.{id}", text, "measured", unit, rule, None, source, None)


def _pick(table: pd.DataFrame, labels: Mapping[str, Any]) -> pd.DataFrame:
    return table[np.logical_and.reduce([table[name] == value for name, value in labels.items()])]


def savings(arms: pd.DataFrame) -> pd.DataFrame:
    """What each run saves of its reference's cost, in percent, one row a seed; references: static 8, most bits.

    Columns ``bits`` (all iterations counted), ``counted`` (both up to their best validation accuracy: so, we infer, the
    paper counts) and ``time`` (the difference: what counting to the best iteration adds or takes).
    """
    schedules = {PFQ, STATIC, CHEAP, EQUAL, FIXED, REVERSED, YOKED, SHUFFLED}
    keys = ["dataset", "noise", "seed"]
    rows = arms[[*keys, "arm", "cp", "counted"]].assign(
        reference=np.where(arms["arm"].isin(schedules), STATIC, HIGHEST)
    )
    table = rows.merge(rows, left_on=[*keys, "reference"], right_on=[*keys, "arm"], suffixes=("", "_of"))
    table["bits"], table["counted"] = (100 * (1 - table[name] / table[f"{name}_of"]) for name in ("cp", "counted"))
    table["time"] = table["counted"] - table["bits"]
    return table[[*keys, "arm", "reference", "bits", "time", "counted"]]


def _saving_claims(table: pd.DataFrame, setting: Setting, arm: str, name: str, text: str) -> Found:
    rows = _pick(table, setting.labels | {"arm": arm}).set_index("seed")
    said = {
        "bits": ("saves bits, all iterations counted", PAPER),
        "time": ("saves more if both are counted up to their best iteration", OURS),
    }
    for column, (what, source) in said.items():
        yield (
            _claim(f"{name}.saving_{column}", f"{text} {what}", above(), source, "%"),
            interval_or_none(rows[column]),
        )


def _progressive_claims(tables: Mapping[str, pd.DataFrame], setting: Setting) -> Found:
    """PFQ against static 8, and against everything that costs as little."""
    arms, name = tables["arms"], f"{setting.id}.pfq"
    text = f"PFQ on {setting.dataset}, {100 * setting.noise:.0f} % wrong labels"
    at = {arm: setting.labels | {"arm": arm} for arm in (PFQ, STATIC, CHEAP, EQUAL, FIXED, REVERSED, YOKED, SHUFFLED)}
    yield (
        _claim(f"{name}.keeps_accuracy", f"{text}: at most {MARGIN:g} point worse than 8 bits throughout",
               not_worse(MARGIN), PAPER, "points"),
        contrast(arms, at[PFQ], at[STATIC]),
    )  # fmt: skip
    for short, arm, what in (
        ("static", STATIC, "8 bits throughout"),
        ("equal", EQUAL, "the constant bits nearest in cost"),
        ("cheap", CHEAP, "3 bits throughout, evaluated at 8"),
        ("fixed", FIXED, "a staircase of equal stages"),
        ("reversed", REVERSED, "its own bits backwards"),
        ("yoked", YOKED, "the bits that another seed's indicator chose"),
        ("shuffled", SHUFFLED, "its own bits in random order"),
    ):
        yield (
            _claim(f"{name}.beats_{short}", f"{text}: lower test loss than {what}", above()),
            contrast(arms, at[arm], at[PFQ], "test_loss"),
        )
    yield from _saving_claims(tables["savings"], setting, PFQ, name, text)
    last = _pick(tables["switches"], setting.labels | {"number": len(STAGES) - 1}).set_index("seed")["period"]
    before_end = inside(1, setting.steps[0] // setting.period - 1)
    yield (
        _claim(f"{name}.reaches_the_top", f"{text}: the indicator reaches 8 bits before the end", before_end,
               unit="period"),
        interval_or_none(last),
    )  # fmt: skip


def _dynamic_claims(tables: Mapping[str, pd.DataFrame], setting: Setting, config: Config) -> Found:
    """DFQ and FracTrain against the most bits, the same choices at random, and a fixed choice of about its cost."""
    arms, where = tables["arms"], f"on {setting.dataset}, {100 * setting.noise:.0f} % wrong labels"
    named = lambda arm: setting.labels | {"arm": arm}  # noqa: E731
    methods = {_targeted(DFQ, t): (f"dfq{t:g}", f"DFQ at cp {t:g} % {where}") for t in config.targets}
    methods[BOTH] = "fractrain", f"FracTrain {where}"
    for arm, (short, text) in methods.items():
        name, target = f"{setting.id}.{short}", float(arm.removeprefix(DFQ)) if arm != BOTH else config.progressive[-1]
        yield (
            _claim(f"{name}.keeps_accuracy", f"{text}: at most {MARGIN:g} point worse than all blocks at most bits",
                   not_worse(MARGIN), PAPER, "points"),
            contrast(arms, named(arm), named(HIGHEST)),
        )  # fmt: skip
        near = min(CHOICES, key=lambda choice, t=target: abs(cost.cp(config.weight_bits, *choice) - t))
        yield (
            _claim(f"{name}.beats_fixed", f"{text}: lower test loss than {_fixed(near)}", above()),
            contrast(arms, named(_fixed(near)), named(arm), "test_loss"),
        )  # fmt: skip
        yield from _saving_claims(tables["savings"], setting, arm, name, text)
        if arm == BOTH:
            dfq = min(config.targets, key=lambda t: abs(t - target))
            yield (
                _claim(f"{name}.keeps_dfqs_accuracy", f"{text}: at most {MARGIN:g} point worse than DFQ at {dfq:g} %",
                       not_worse(MARGIN), PAPER, "points"),
                contrast(arms, named(arm), named(_targeted(DFQ, dfq))),
            )  # fmt: skip
            continue
        random = named(_targeted(DEALT, target))
        yield (
            _claim(f"{name}.beats_random", f"{text}: lower test loss than its choices dealt at random", above(), PAPER),
            contrast(arms, random, named(arm), "test_loss"),
        )
        yield (
            _claim(f"{name}.reaches_target", f"{text}: its cp is within 5 % of the target in the second half",
                   inside(0.95 * target, 1.05 * target), PAPER, "%"),
            interval_or_none(_pick(arms, named(arm)).set_index("seed")["late_cp"]),
        )  # fmt: skip
        rows = _pick(tables["dependence"], named(arm))
        for what, said in (("class", "the image's class"), ("difficulty", "how hard the image is")):
            excess = (rows[what] - rows[f"{what}_chance"]).groupby(rows["seed"]).mean()
            yield (
                _claim(f"{name}.follows_{what}", f"{text}: choices follow {said}, beyond chance", above(), unit="bits"),
                interval_or_none(excess),
            )  # fmt: skip


def _adaptation_claims(table: pd.DataFrame) -> Found:
    for change, said in (("adaptation", "rotated digits"), ("fine-tuning", "five other digits")):
        at = {arm: {"change": change, "arm": arm} for arm in (BOTH, HIGHEST, LOWEST)}
        text = f"FracTrain from a trained network to {said}"
        yield (
            _claim(f"{change}.keeps_accuracy", f"{text}: at most {MARGIN:g} point worse than the most bits",
                   not_worse(MARGIN), PAPER, "points"),
            contrast(table, at[BOTH], at[HIGHEST]),
        )  # fmt: skip
        yield (
            _claim(f"{change}.beats_cheapest", f"{text}: better than the fewest bits", above(), unit="points"),
            contrast(table, at[BOTH], at[LOWEST]),
        )


def _contrast_table(arms: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Paired differences of PFQ, each DFQ and FracTrain to every arm trained on the same kind of network."""
    kinds = [([PFQ], [STATIC, CHEAP, EQUAL, FIXED, REVERSED, YOKED, SHUFFLED])]
    dealt, dynamic = ([_targeted(name, target) for target in config.targets] for name in (DEALT, DFQ))
    kinds.append(([*dynamic, BOTH], [*dynamic, *dealt, *map(_fixed, CHOICES)]))
    rows = []
    for (dataset, noise), one in arms.groupby(["dataset", "noise"], sort=False):
        pairs = [(arm, other) for some, others in kinds for arm in some for other in others if arm != other]
        for arm, other in pairs:
            for measure in ("accuracy", "test_loss", "train_loss", "cp"):
                found = contrast(one, {"arm": arm}, {"arm": other}, measure)
                labels = {"dataset": dataset, "noise": noise, "arm": arm, "minus": other, "measure": measure}
                rows.append(
                    labels | {"mean": found.mean, "low": found.low, "high": found.high, "n": len(found.samples)}
                )
    return pd.DataFrame(rows)


def _switches(losses: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Periods after which PFQ's indicator switched; NaN where it never did."""
    rows = []
    for (dataset, noise, seed), one in losses[losses["arm"] == PFQ].groupby(["dataset", "noise", "seed"], sort=False):
        stages = method.staircase(one["loss"].tolist(), config.epsilon, config.alpha)
        for number in range(1, len(STAGES)):
            period = float((stages < number).sum()) if (stages >= number).any() else np.nan
            rows.append({"dataset": dataset, "noise": noise, "seed": seed, "number": number, "period": period})
    return pd.DataFrame(rows)


def run(config: Config) -> Result:
    """Run everything the notebook shows, in two processes: first what stands alone, then what needs PFQ's bits."""
    settings = config.settings
    order = settings[::-1]  # the longest job begins
    jobs = [delayed(_alone)(part, setting, config) for part in (gated, first_arms) for setting in order]
    with Parallel(n_jobs=2) as parallel:
        parts = parallel(jobs)
        pfq = [part.pop("bits")[PFQ] for part in parts[len(order) :]]
        jobs = [delayed(_alone)(control_arms, *each) for each in zip(order, repeat(config), pfq)]
        controls = parallel([*jobs, delayed(_alone)(adaptation, config)])
    parts = [*parts[::-1], *controls[::-1]]
    merged = _merged([{name: rows for name, rows in part.items() if name != "bits"} for part in parts])
    choices = merged.pop("choices")
    tables = {name: pd.DataFrame(rows) for name, rows in merged.items()}
    tables["switches"] = _switches(tables["losses"], config)
    tables["savings"] = savings(tables["arms"])
    tables["contrasts"] = _contrast_table(tables["arms"], config)
    tables |= {"printed": cost.budgets(), "improvements": cost.savings(), "bits_and_time": cost.bits_and_time()}
    found = [pair for setting in settings for pair in _progressive_claims(tables, setting)]
    found += [pair for setting in settings for pair in _dynamic_claims(tables, setting, config)]
    found += _adaptation_claims(tables["adaptation"])
    tables["summary"] = pd.DataFrame(
        [
            {"quantity": c.id, "mean": e.mean, "low": e.low, "high": e.high, "n": len(e.samples), "unit": c.unit}
            for c, e in found
        ]
    )
    rows = [claim.row(evidence, config.scale) for claim, evidence in found] + cost.rows(config.scale)
    hashes = "+".join(_images(dataset)[0].hash for dataset in config.datasets)
    return Result(
        tables,
        [row | {"command": config.command("fractrain")} for row in rows],
        config.record("fractrain"),
        hashes,
        {"choices": choices},
    )


def _alone(part: Any, *arguments: Any) -> dict[str, Any]:
    torch.set_num_threads(1)  # sums keep their order: the same figures on one core and on many
    return part(*arguments)
