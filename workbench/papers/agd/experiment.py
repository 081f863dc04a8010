"""AGD measured: search by distillation against random designs, uniform scaling, pruning and no teacher, at equal cost.

Tables are tidy, one row a seed and arm. Settings were found on seeds 900 and above, which are not reported: the
learning rate of students (one for all arms) on the uniform design, the search's length and rates on how far its
entropy falls. There, uniform designs beat random ones; so we also ask whether identity shortcuts are the reason.
Contrasts and rules below were fixed before the reported runs; the paths around cells came into the space after a first
report without them, on the same seeds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from torch import Tensor
from torch.nn import functional as F

from workbench import data, papers
from workbench.evidence import Claim, Interval, Result, Rule, above, inside, interval, interval_or_none, not_worse
from workbench.papers import Count, Range, Rate, Reads, Spread
from workbench.papers.agd import analytic, method, record, students, teachers
from workbench.papers.agd.method import OPERATORS, Design, Generator, Plan, Trace
from workbench.papers.agd.tasks import Images, Task, enlarge, images
from workbench.recorded import state_hash
from workbench.supernet import most_probable, random_designs

BAND = 0.95
"""A design must cost between this share of the budget and all of it; so must searched, random, pruned, uniform ones."""
MARGIN = {"super resolution": 0.05, "translation": 0.1}
"""What eight bits may lose: dB, Frechet distance in its logarithm. Fixed before the runs."""
ENTROPY = math.log(len(OPERATORS))
PRESSURE = 0.01
"""The weight that doubling and halving start from: next to nothing, as in the code."""
OTHERS = (4, 6, 10)
"""Widths of uniform designs whose cost is another budget, for the plane of cost and quality."""
PICTURES, SIDE = 4, 32
"""Test pictures that are kept for the explorer, and their side."""


@dataclass(frozen=True)
class Config(papers.Config):
    """Parameters of the AGD experiment.

    ``tasks`` as in `tasks.TASKS`, the first with ``seeds`` seeds and the others with ``more_seeds``; at most ``images``
    to train on; students' ``updates``, ``batch`` and ``lr``; the search's ``pretrain`` and ``steps``, its batch and
    learning rates; ``cloud`` random designs at each other budget (first task and seed); ``control_seeds`` for searches
    of the first task whose cost term has a fixed ``control_weight``, or is doubled and halved as in the paper.
    """

    seeds: Spread = 2
    tasks: tuple[Annotated[str, Reads(Task.read)], ...] = ("photographs 4", "digits paint")
    more_seeds: Spread = 2
    images: Annotated[int, Range(100, 10**6)] = 1000
    updates: Count = 150
    batch: Count = 8
    lr: Rate = 8e-3
    pretrain: Annotated[int, Range(0, 10**6)] = 4
    steps: Count = 10
    search_batch: Count = 8
    search_lr: Rate = 2e-3
    lr_choices: Rate = 0.1
    cloud: Count = 1
    control_seeds: Spread = 2
    control_weight: Annotated[float, Range(0, 1e6, open=True)] = 5.0

    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "full": {
            "seeds": 6,
            "tasks": ("cifar10 4", "cifar10 2", "photographs 4", "photographs 2", "cifar10 paint"),
            "more_seeds": 5,
            "images": 9500,
            "updates": 400,
            "batch": 32,
            "pretrain": 60,
            "steps": 140,
            "search_batch": 16,
            "cloud": 3,
            "control_seeds": 3,
        },
    }

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        self.require("control_seeds", self.control_seeds <= self.seeds, "lie in 2..seeds")

    def plan(self, rule: str = "log-ratio") -> Plan:
        """How to search."""
        weight = {"fixed": self.control_weight, "pressure": PRESSURE}.get(rule, 1.0)
        rates = self.search_lr, self.lr_choices
        return Plan(self.pretrain, self.steps, self.search_batch, *rates, rule, weight)


def budget(task: Task, width: int = students.UNIFORM) -> float:
    """MACs a pixel of the body: the uniform design of that width lies in the band's upper half."""
    return 1.02 * method.macs(task.skeleton, students.uniform(task, width))


def search_cost(task: Task, config: Config) -> float:
    """Of a search, in trainings of one student: MACs of all passes through generators."""
    student = budget(task) * config.updates * config.batch
    return method.search_macs(task.skeleton, config.plan()) / student


def rivals(task: Task, config: Config) -> int:
    """As many random designs as can be trained with at least what a search and its student take."""
    return 1 + math.ceil(search_cost(task, config))


# --- one seed of one task --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lesson:
    """What a seed's students learn from: images, the teacher's outputs for them, and how they are judged."""

    task: Task
    seed: int
    images: Images
    targets: Tensor
    distance: students.Perceptual
    config: Config

    @classmethod
    def prepare(cls, task: Task, seed: int, config: Config) -> Lesson:
        """Images of the seed, and what the recorded teacher makes of them."""
        pictures = images(task, config.images, seed, "images", task.id)
        targets = method.outputs(record.teacher(task), pictures.inputs)
        return cls(task, seed, pictures, targets, students.distance(task, record.features()), config)

    def fit(self, net: Generator, targets: Tensor, distance: method.Distance | None = None) -> Generator:
        """Trained in place; the order of batches is the seed's, for all arms."""
        c = self.config
        stream = self.seed, "students", self.task.id
        return method.fit(
            net, self.images.inputs, targets, distance or self.distance, c.updates, c.batch, c.lr, *stream
        )

    def student(self, design: Design) -> Generator:
        """A design at its start, which depends on seed and design."""
        return method.build(self.task.skeleton, design, self.seed, "student", design)

    def distil(self, design: Design) -> Generator:
        """A design trained from scratch on the teacher's outputs; no truth and no discriminator is in reach."""
        return self.fit(self.student(design), self.targets)

    def alone(self, design: Design) -> Generator:
        """The same without a teacher: on the truth, by absolute difference; or as one half of a CycleGAN, for in
        translation there is no truth.
        """
        if self.task.scale > 1:
            return self.fit(self.student(design), self.images.truths)
        back = method.build(self.task.skeleton, design, self.seed, "back", design)
        c, stream = self.config, (self.seed, "alone", self.task.id)
        batch = max(2, c.batch // 4)  # an update has six passes through generators
        return teachers.cyclegan(self.student(design), back, self.images, c.updates, *stream, batch=batch)

    def search(self, rule: str = "log-ratio") -> tuple[Generator, Trace]:
        """The supernet after a search, and its trace."""
        net = method.supernet(self.task.skeleton, self.seed, "supernet", self.task.id)
        split = method.halves(len(self.targets), self.seed, "halves", self.task.id)
        stream = self.seed, "search", self.task.id, rule
        plan, target = self.config.plan(rule), budget(self.task)
        return net, method.search(net, self.images.inputs, self.targets, split, self.distance, target, plan, *stream)

    def test(self, net: Callable[..., Tensor]) -> dict[str, float]:
        """Measures of a network on the test pairs: ``score`` decides."""
        pairs = self.images.test
        made = students.apply(net, pairs)
        found = students.score(self.task, made, pairs, self.images, self.distance.features)
        return {"score": found, **students.fidelity(self.task, made, pairs)}

    def validate(self, net: Callable[..., Tensor]) -> float:
        """The score on the validation pairs."""
        pairs = self.images.validation
        made = students.apply(net, pairs)
        return students.score(self.task, made, pairs, self.images, self.distance.features)


def part(text: str, seed: int, config: Config, controls: bool = False, keep: bool = False) -> dict[str, Any]:
    """All arms of a task on one seed; ``controls``: also searches with other rules; ``keep``: what explorers show."""
    task = Task.read(text)
    lesson = Lesson.prepare(task, seed, config)
    band = BAND * budget(task), budget(task)
    costs, own = method.space(task.skeleton), {"task": task.id, "seed": seed}
    began = time.process_time()
    net, trace = lesson.search()
    found = {"search": [own | _search_row(trace, task, "log-ratio", time.process_time() - began)], "arms": []}
    designs = {"searched": method.design_of(task.skeleton, most_probable(trace.logits, costs, *band))}
    drawn = random_designs(costs, *band, rivals(task, config), method.generator(seed, "random", task.id))
    designs |= {f"random {i + 1}": method.design_of(task.skeleton, row) for i, row in enumerate(drawn)}
    designs["uniform"] = students.uniform(task)
    nets = {}
    for name, design in designs.items():
        began = time.process_time()
        nets[name] = lesson.distil(design)
        shared = lesson.validate(method.fixed_path(net, design))
        found["arms"].append(own | _arm_row(lesson, name, nets[name], design, time.process_time() - began, shared))
    pruned = lesson.fit(students.prune(record.teacher(task), task), lesson.targets)
    found["arms"].append(own | _arm_row(lesson, "pruned", pruned, designs["uniform"]))
    for name in ("searched", "uniform"):
        alone = nets[f"{name}, no teacher"] = lesson.alone(designs[name])
        found["arms"].append(own | _arm_row(lesson, f"{name}, no teacher", alone, designs[name]))
        rounded = students.eight_bits(nets[name], lesson.images.inputs[:1000])
        found["arms"].append(own | _arm_row(lesson, f"{name}, 8 bits", rounded, designs[name]))
    found["arms"] += [own | row for row in _references(lesson)]
    found["cloud"] = [own | row for row in _cloud(lesson)] if text == config.tasks[0] and keep else []
    if controls:
        for rule in ("pressure", "fixed"):
            found["search"].append(own | _search_row(lesson.search(rule)[1], task, rule, math.nan))
    if keep:
        found["trace"] = {task.id: trace}
        found["pictures"] = {task.id: _pictures(lesson, {**nets, "pruned": pruned})}
    return found


def _search_row(trace: Trace, task: Task, rule: str, seconds: float) -> dict[str, Any]:
    """How a search ended, costs over the budget."""
    cheapest = float(method.space(task.skeleton).cost(torch.zeros(2 * task.skeleton.layers, dtype=torch.long)))
    return {
        "rule": rule,
        "expected": float(trace.expected[-1]) / budget(task),
        "argmax": float(trace.argmax[-1]) / budget(task),
        "cheapest": cheapest / budget(task),
        "entropy": float(trace.entropy[-1]),
        "seconds": seconds,
    }


def _arm_row(
    lesson: Lesson, arm: str, net: Any, design: Design, seconds: float = math.nan, shared: float = math.nan
) -> dict[str, Any]:
    """An arm's design, cost and scores; ``shared`` is the score of its path through the supernet."""
    return {
        "arm": arm,
        "design": " ".join(f"{name}-{width}" for name, width in design),
        "macs": method.macs(lesson.task.skeleton, design),
        "identities": method.identities(lesson.task.skeleton, design),
        **lesson.test(net),
        "validation": lesson.validate(net) if arm.startswith("random") else math.nan,
        "shared": shared,
        "seconds": seconds,
    }


def _cloud(lesson: Lesson) -> Iterator[dict[str, Any]]:
    """Uniform and random designs at other budgets, distilled."""
    task, space = lesson.task, method.space(lesson.task.skeleton)
    for width in OTHERS:
        most = budget(task, width)
        stream = method.generator(lesson.seed, "cloud", task.id, width)
        drawn = random_designs(space, BAND * most, most, lesson.config.cloud, stream)
        designs = [("uniform", students.uniform(task, width))]
        designs += [("random", method.design_of(task.skeleton, row)) for row in drawn]
        for arm, design in designs:
            yield _arm_row(lesson, arm, lesson.distil(design), design)


def _references(lesson: Lesson) -> Iterator[dict[str, Any]]:
    """The teacher, and what needs no network: bicubic enlargement, or the input itself."""
    task, teacher = lesson.task, record.teacher(lesson.task)
    plain = (lambda x: enlarge(x, task.scale)) if task.scale > 1 else lambda x: x
    for arm, net, cost in (
        ("teacher", teacher, method.macs(teacher.skeleton, teachers.design(task))),
        ("bicubic" if task.scale > 1 else "copy", plain, 0),
    ):
        yield {"arm": arm, "design": "", "macs": cost, **lesson.test(net), "validation": math.nan}


@torch.no_grad()
def _pictures(lesson: Lesson, nets: Mapping[str, Generator]) -> dict[str, np.ndarray]:
    """Some test pictures by network, as [PICTURES, SIDE, SIDE, 3] in 0 to 1."""
    task, small = lesson.task, SIDE // lesson.task.scale
    inputs = lesson.images.test.inputs[0]
    if len(inputs) < PICTURES:  # the squares of a photograph with the most contrast
        squares = F.unfold(inputs[:1], small, stride=small)[0].T.view(-1, 3, small, small)
        x = squares[squares.std((1, 2, 3)).topk(PICTURES).indices]
    else:
        x = inputs[:PICTURES]
    plain = enlarge(x, task.scale) if task.scale > 1 else x
    shown = {"input": x, "plain": plain, "teacher": record.teacher(task)(x)} | {n: net(x) for n, net in nets.items()}
    return {name: F.interpolate(y.clamp(0, 1), (SIDE, SIDE)).permute(0, 2, 3, 1).numpy() for name, y in shown.items()}


# --- the whole, its summary and its claims ---------------------------------------------------------------------------


def differences(arms: pd.DataFrame, task: str, config: Config) -> dict[str, Interval]:
    """Paired differences of the score of one task, by name; each taken so that more than 0 speaks for AGD."""
    own = arms[arms["task"] == task]
    score = own.pivot(index="seed", columns="arm", values="score").sort_index()
    drawn = own[own["arm"].str.startswith("random")]
    chosen = drawn.loc[drawn.groupby("seed")["validation"].idxmax()].set_index("seed")["score"].sort_index()
    plain = score["bicubic" if "bicubic" in score else "copy"]
    searched = score["searched"]
    found = {
        "vs_random": searched - drawn.groupby("seed")["score"].mean().sort_index(),
        "vs_best_random": searched - chosen,
        "vs_uniform": searched - score["uniform"],
        "vs_pruned": searched - score["pruned"],
        "vs_plain": searched - plain,
        "distil.searched": searched - score["searched, no teacher"],
        "distil.uniform": score["uniform"] - score["uniform, no teacher"],
        "bits8.searched": score["searched, 8 bits"] - searched,
        "bits8.uniform": score["uniform, 8 bits"] - score["uniform"],
        "teacher_vs_plain": score["teacher"] - plain,
    }
    trained = own[own["shared"].notna()].groupby("seed")  # searched, random and uniform designs
    for name, column in (("ranking", "shared"), ("identity", "identities")):
        ranks = trained[[column, "score"]].apply(lambda rows: rows.iloc[:, 0].corr(rows["score"], "spearman"))
        found[name] = ranks.sort_index()
    return {name: interval_or_none(values) for name, values in found.items()}


def _contrasts(tables: Mapping[str, pd.DataFrame], config: Config) -> Iterator[tuple[Claim, Interval]]:
    """Every measured claim with the evidence for it; rules are fixed here, before any run."""
    paper, ours = "AGD (ICML 2020), abstract and section 4", "this workbench; not in the paper"

    def claim(id: str, text: str, unit: str, source: str = ours, rule: Rule | None = None) -> Claim:
        return Claim(f"agd.{id}", text, "measured", unit, rule or above(), None, source, True)

    for task in map(Task.read, config.tasks):
        unit, k = "dB" if task.scale > 1 else "ln FD", rivals(task, config)
        plain = "bicubic enlargement" if task.scale > 1 else "the input, copied"
        nothing = "training on the truth" if task.scale > 1 else "adversarial training of its own"
        margin = MARGIN[task.skeleton.task]
        eight = not_worse(margin)
        texts = {
            "vs_random": ("the searched design beats the mean of random designs of the band", paper, None),
            "vs_best_random": (f"the searched design beats the best of {k} random ones, for which as much is computed",
                               ours, None),
            "vs_uniform": ("the searched design beats the teacher's shape, narrowed", paper, None),
            "vs_pruned": ("the searched design beats the pruned and fine-tuned teacher", paper, None),
            "vs_plain": (f"the searched student beats {plain}", ours, None),
            "distil.searched": (f"the searched design learns more from the teacher than by {nothing}", paper, None),
            "distil.uniform": (f"the narrow teacher learns more from the teacher than by {nothing}", paper, None),
            "bits8.searched": (f"8 bits cost the searched student at most {margin:g}", paper, eight),
            "bits8.uniform": (f"8 bits cost the narrow teacher at most {margin:g}", ours, eight),
            "teacher_vs_plain": (f"the teacher beats {plain}: there is something to distil", ours, None),
            "ranking": ("supernet weights rank designs as training from scratch does (rank correlation)", ours, None),
            "identity": ("designs with more identity shortcuts in layers are better (rank correlation)", ours, None),
        }  # fmt: skip
        found = differences(tables["arms"], task.id, config)
        for key, (text, source, rule) in texts.items():
            own = "rank correlation" if key in ("ranking", "identity") else unit
            yield claim(f"{task.id}.{key}", f"{task.title}: {text}", own, source, rule), found[key]
    yield from _searches(tables["search"], claim, config)


def _searches(table: pd.DataFrame, claim: Callable[..., Claim], config: Config) -> Iterator[tuple[Claim, Interval]]:
    """Where searches end, seed by seed; costs as shares of the budget."""

    def ends(task: str, rule: str, column: str) -> Interval:
        rows = table[(table["task"] == task) & (table["rule"] == rule)].sort_values("seed")
        return interval(rows[column].tolist())

    for task in map(Task.read, config.tasks):
        texts = {
            "expected": ("the log-ratio term ends within 10 % of the budget", "budgets", inside(0.9, 1.1)),
            "argmax": (f"the plain argmax keeps the band of {BAND:.0%} to 100 %", "budgets", inside(BAND, 1.0)),
            "entropy": ("the search decides: entropy of operators falls by 0.3 nats", "nats", inside(0, ENTROPY - 0.3)),
        }
        for column, (text, unit, rule) in texts.items():
            found = ends(task.id, "log-ratio", column)
            yield claim(f"{task.id}.search.{column}", f"{task.title}: {text}", unit, rule=rule), found
    first = Task.read(config.tasks[0])
    band, cheapest = inside(BAND, 1.0), float(table["cheapest"].iloc[0])
    yield (
        claim(
            f"{first.id}.control.fixed", f"{first.title}: a fixed, strong weight ends at the cheapest design "
            f"({cheapest:.0%} of the budget)", "budgets", rule=inside(cheapest - 1e-9, cheapest + 1e-9),
        ),
        ends(first.id, "fixed", "argmax"),
    )  # fmt: skip
    yield (
        claim(
            f"{first.id}.control.pressure", f"{first.title}: the argmax keeps the band where the weight is halved and "
            "doubled", "budgets", "AGD (ICML 2020), section 3.3", band,
        ),
        ends(first.id, "pressure", "argmax"),
    )  # fmt: skip


def run(config: Config) -> Result:
    """Run everything the notebook shows, seeds and tasks side by side in two processes."""
    jobs = []
    for at, text in enumerate(config.tasks):
        for n, seed in enumerate(config.seed_list if at == 0 else range(config.seed, config.seed + config.more_seeds)):
            jobs.append(delayed(_alone)(part, text, seed, config, at == 0 and n < config.control_seeds, n == 0))
    parts = Parallel(n_jobs=2)(jobs)
    names = "arms", "search", "cloud"
    tables = {name: pd.DataFrame([row for part in parts for row in part[name]]) for name in names}
    tables["conventions"] = analytic.conventions()
    found = list(_contrasts(tables, config))
    rows = [claim.row(evidence, config.scale) for claim, evidence in found] + analytic.rows(config.scale)
    tables["summary"] = pd.DataFrame(
        [
            {"quantity": c.id, "mean": e.mean, "low": e.low, "high": e.high, "n": len(e.samples), "unit": c.unit}
            for c, e in found
        ]
    )
    kept = [part for part in parts if "trace" in part]
    extra = {key: {k: v for part in kept for k, v in part[key].items()} for key in ("trace", "pictures")}
    tasks = [Task.read(text) for text in config.tasks]
    taught = [state_hash(record.teacher(task).state_dict()) for task in tasks]
    return Result(
        tables,
        [row | {"command": config.command("agd")} for row in rows],
        config.record("agd"),
        "+".join([*taught, *_hashes(tasks)]),
        extra,
    )


def _hashes(tasks: list[Task]) -> list[str]:
    """Of the data sets."""
    sets = {task.dataset for task in tasks}
    found = [data.digits().hash] if "digits" in sets else []
    return found + [data.cifar10(train).hash for train in (True, False) if "cifar10" in sets]


def _alone(part: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    torch.set_num_threads(1)  # sums keep their order: the same figures on one core and on many
    return part(*arguments)
