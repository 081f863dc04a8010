"""DNA measured: does a network fit its accelerator better when both are searched together, and by which search?

Every network of the small space was trained (`record`, six training seeds), every accelerator is priced, so the true
optimum is known and regret is exact. A table is one training seed: a search reads its validation accuracies and is
scored by the test accuracies of the other seeds. Samples are tables; several searches of one table are averaged first.

How the settings were found, on training seed 900, which is not among the recorded ones. Weights of the objectives: of a
range over which neither the most accurate nor the cheapest network was always best, in two versions of the networks
(without residual connections and with them). The joint search: of five combinations of spread, steps and rate of its
starts the cheapest that was no worse than the others. The supernet's schedule: the first that decided, on two seeds.
Evolution and the score function have customary settings, not tuned; sequential searches have none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pandas as pd
import torch
from joblib import Parallel, delayed

from workbench import data, papers
from workbench.evidence import (
    CONTRADICTED,
    NOT_SEEN,
    PARTLY,
    REPRODUCED,
    Claim,
    Interval,
    Kind,
    Result,
    Rule,
    above,
    contrast,
    interval,
    not_worse,
    published,
)
from workbench.papers import Among, Count, Range, Rate, Several, Spread
from workbench.papers.dna import cifar10
from workbench.papers.dna.accelerators import RULES, TEMPLATES
from workbench.papers.dna.checks import compared, slopes
from workbench.papers.dna.method import Objective
from workbench.papers.dna.oneshot import Schedule
from workbench.papers.dna.record import SEEDS, updates
from workbench.papers.dna.space import digits
from workbench.papers.dna.study import (
    JOINT,
    OPTIMUM,
    SEQUENTIAL,
    Accuracies,
    Setting,
    matched,
    mean_over_searches,
    one_shot,
    priced,
    searched,
    workload,
)
from workbench.recorded import load_table

MARGIN = 0.5
"""Points that "as good as" may miss; fixed before the runs."""
SAMPLED = 2
"""On so many of the objectives, the first ones, the searches that sample are run."""


@dataclass(frozen=True)
class Config(papers.Config):
    """Parameters of the DNA experiment.

    ``seeds`` tables from training seed ``seed`` on; ``searches`` of each table by every method that samples, with so
    many ``questions``; ``templates`` and ``objectives`` (a cost and its weight in points for a factor of ten; the first
    is the main one). The joint search: ``starts``, ``steps``, ``lr``. The workload has ``width`` times the channels and
    ``size`` times the rows of the networks that were trained. The supernet: ``epochs``, on the first template.
    """

    seeds: Spread = 3
    searches: Count = 2
    questions: tuple[Annotated[int, Range(8, 10**6)], ...] = (16, 64)
    templates: Annotated[tuple[Annotated[str, Among(tuple(TEMPLATES))], ...], Several(2)] = ("asic", "fpga")
    objectives: tuple[str, ...] = ("edp 3", "latency 6")
    starts: Count = 2
    steps: Count = 100
    lr: Rate = 0.2
    width: Annotated[int, Range(1, 64)] = 4
    size: Annotated[int, Range(1, 64)] = 4
    epochs: Annotated[int, Range(4, 10_000)] = 16

    SCALES: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "full": {
            "seeds": 6,
            "searches": 3,
            "questions": (16, 64, 256),
            "templates": ("asic", "systolic", "fpga"),
            "objectives": ("edp 3", "latency 6", "edp 5", "latency 10"),
            "starts": 4,
            "epochs": 60,
        },
    }

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        for text in self.objectives:
            cost, _, weight = text.partition(" ")
            fine = cost in ("edp", "latency") and weight.replace(".", "", 1).isdecimal() and float(weight) > 0
            fine = fine and Objective(cost, float(weight)).id == text
            self.require("objectives", fine, 'be like "edp 3" or "latency 6"')
        self.require("objectives", any(o.cost == "latency" for o in self.parsed()), "have one of latency among them")
        last = SEEDS[-1]
        self.require("seed", self.seed < last, f"be below {last}, the last one recorded")
        self.require("seeds", self.seed + self.seeds - 1 <= last, f"end at seed {last}, the last one recorded")

    def parsed(self) -> list[Objective]:
        """The objectives."""
        return [Objective(text.split()[0], float(text.split()[1])) for text in self.objectives]


# --- the parts ---------------------------------------------------------------------------------------------------


def table_part(template: str, seed: int, found: Any, config: Config) -> dict[str, list[dict[str, Any]]]:
    """Everything about one table on one template."""
    read, score = Accuracies.recorded().of(seed)
    space, big = digits(), workload(config.width, config.size)
    macs = torch.tensor([big.macs(design) for design in space.designs().tolist()])
    settings = [Setting(TEMPLATES[template], *found, space, macs, o, read, score) for o in config.parsed()]
    where = {"template": template, "seed": seed}
    rows: dict[str, list[dict[str, Any]]] = {"searches": [], "matched": [], "supernet": [], "course": []}
    for setting in settings:
        own = where | {"objective": setting.objective.id}
        sampling = setting.objective.id in config.objectives[:SAMPLED]
        rows["searches"] += [own | row for row in searched(setting, seed, config, sampling)]
    by_latency = next(s for s in settings if s.objective.cost == "latency")
    rows["matched"].append(where | matched(by_latency))
    if template == config.templates[0]:
        rows["supernet"], rows["course"] = one_shot(settings[0], seed, config)
        rows["supernet"] = [where | {"objective": settings[0].objective.id} | row for row in rows["supernet"]]
    return rows


def generic_rows(found: dict[str, Any], config: Config) -> list[dict[str, Any]]:
    """Points that a network searched for one template loses on another, against one searched for that: by table."""
    accuracies, rows = Accuracies.recorded(), []
    for seed in config.seed_list:
        read, score = accuracies.of(seed)
        for objective in config.parsed():
            worth = {
                t: [a - objective.weight * best[objective.cost][0].log10() for a in (read, score)]
                for t, (_, best) in found.items()
            }
            for source, target in ((a, b) for a in found for b in found if a != b):
                own, moved = (int(worth[t][0].argmax()) for t in (target, source))
                loss = float(worth[target][1][own] - worth[target][1][moved])
                rows.append({"seed": seed, "objective": objective.id, "source": source, "target": target, "loss": loss})
    return rows


# --- claims ------------------------------------------------------------------------------------------------------

OURS = "this workbench; not in the paper"
PAPER = "DNA (arXiv 2010.14778), abstract"


def reaches() -> Rule:
    """Of an improvement "by" a published factor: reproduced where the interval reaches it, partly where it is one."""

    def rule(found: Interval, target: float | None) -> str:
        none = 1.0 if target is not None and target < 5 else 0.0  # no change: a factor of 1, or 0 points
        if found.low != found.low:  # an analytic number
            return REPRODUCED if found.mean >= target else PARTLY if found.mean > 1 else CONTRADICTED
        if found.low >= target:
            return REPRODUCED
        return PARTLY if found.low > none else CONTRADICTED if found.high < none else NOT_SEEN

    return rule


def _slug(text: str) -> str:
    return text.replace(",", "").replace(" ", "_")


def _claim(id: str, text: str, rule: Rule, unit: str = "points", source: str = OURS, kind: Kind = "measured") -> Claim:
    return Claim(f"dna.{id}", text, kind, unit, rule, None, source, True)


def _search_claims(table: pd.DataFrame, config: Config) -> Iterator[tuple[Claim, Interval]]:
    """Held-out regret of the others minus that of the joint searches."""
    means = mean_over_searches(table, ("template", "objective", "seed", "method", "questions"))
    for template in config.templates:
        for objective in config.objectives:
            own = means[(means["template"] == template) & (means["objective"] == objective)]
            at, named = f"{template}.{_slug(objective)}", f"{TEMPLATES[template].title}, {objective}"

            def less(a: str, b: str, questions: int, own: pd.DataFrame = own, column: str = "held_out") -> Interval:
                rows = own[own["questions"] == questions]
                return contrast(rows, {"method": a}, {"method": b}, column)

            joint = own[own["method"] == JOINT].set_index("seed")["regret"]
            yield (
                _claim(f"{at}.joint_regret", f"{named}: the joint search by true gradients misses at most {MARGIN:g} "
                       "points to the enumerated optimum", not_worse(MARGIN), source=PAPER),
                interval((-joint).tolist()),
            )  # fmt: skip
            for method in SEQUENTIAL:
                yield (
                    _claim(f"{at}.optimum_vs_{_slug(method)}", f"{named}: the best pair on validation is worth more "
                           f"than {method}, each with unlimited questions", above(), source=PAPER),
                    less(method, OPTIMUM, 0),
                )  # fmt: skip
            if objective not in config.objectives[:SAMPLED]:
                continue
            most = max(config.questions)
            for method in ("random", "network first", "accelerator first", "alternating", "evolution"):
                yield (
                    _claim(f"{at}.sampled_vs_{_slug(method)}", f"{named}, {most} questions: the joint score function "
                           f"is worth more than {method}", above()),
                    less(method, "score function", most),
                )  # fmt: skip
            yield (
                _claim(f"{at}.disguised_vs_random", f"{named}, {most} questions: the released successor's estimator "
                       "finds more than random search", above()),
                less("random", "disguised", most, column="regret"),
            )  # fmt: skip


def _matched_claims(table: pd.DataFrame) -> Iterator[tuple[Claim, Interval]]:
    for template, rows in table.groupby("template", sort=False):
        named, rows = TEMPLATES[template].title, rows.sort_values("seed")
        yield (
            _claim(f"{template}.matched.fps", f"{named}: a matched pair of no less validation accuracy has more frames "
                   "per second than the separately optimised pair", above(1.0), "x", PAPER),
            interval((rows["fps"] / rows["separate_fps"]).tolist()),
        )  # fmt: skip
        yield (
            _claim(f"{template}.matched.fps_accuracy", f"{named}: and loses at most {MARGIN:g} points of test accuracy",
                   not_worse(MARGIN), source=PAPER),
            interval((rows["fps_accuracy"] - rows["separate_accuracy"]).tolist()),
        )  # fmt: skip
        yield (
            _claim(f"{template}.matched.accuracy", f"{named}: a matched pair that is no slower is more accurate than "
                   "the separately optimised pair", above(), source=PAPER),
            interval((rows["accuracy"] - rows["separate_accuracy"]).tolist()),
        )  # fmt: skip


def _generic_claims(table: pd.DataFrame, config: Config) -> Iterator[tuple[Claim, Interval]]:
    for (source, target), rows in table.groupby(["source", "target"], sort=False):
        loss = rows.groupby("seed")["loss"].mean()
        text = (
            f"a network searched for {TEMPLATES[source].title} is worth less on {TEMPLATES[target].title} than its own"
        )
        yield _claim(f"generic.{source}_to_{target}", text, above(), source=PAPER), interval(loss.tolist())


def _supernet_claims(table: pd.DataFrame, config: Config) -> Iterator[tuple[Claim, Interval]]:
    means = mean_over_searches(table, ("seed", "method"))
    named = f"{TEMPLATES[config.templates[0]].title}, {config.objectives[0]}, supernet"
    few = next(method for method in means["method"].unique() if "random" in method)
    for id, method, text in (
        ("network_first", "supernet, network first", "joint search is worth more than network first, equal updates"),
        (
            "random",
            few,
            "joint search is worth more than random networks of equal training, on their best accelerators",
        ),
    ):
        found = contrast(means, {"method": method}, {"method": "supernet, joint"}, "held_out")
        yield _claim(f"supernet.vs_{id}", f"{named}: {text}", above(), source=PAPER), found
    joint = means[means["method"] == "supernet, joint"].set_index("seed")["held_out"]
    text = f"{named}: the joint search misses at most 1 point to the best pair of all, held out"
    yield _claim("supernet.gap", text, not_worse(1.0)), interval((-joint).tolist())


def _cifar10_claims(table: pd.DataFrame) -> Iterator[tuple[Claim, Interval]]:
    """The recorded runs in the FBNet-like space; fixed before them."""
    worth, named = cifar10.compared(table), f"CIFAR-10, {TEMPLATES['fpga'].title}, {cifar10.OBJECTIVE.id}, supernet"
    for id, other in (
        ("network_first", "network first"),
        ("random", "random, mean"),
        ("best_random", "random, best of 4"),
    ):
        yield (
            _claim(f"cifar10.vs_{id}", f"{named}: the joint search's pair is worth more than {other}, trained alike",
                   above(), "points", PAPER, "recorded"),
            interval((worth["joint"] - worth[other]).tolist()),
        )  # fmt: skip
    arms = table.pivot(index="seed", columns="arm", values=["ms", "test"])
    yield (
        _claim("cifar10.fps", f"{named}: the joint search's pair has more frames per second than network first",
               above(1.0), "x", PAPER, "recorded"),
        interval((arms["ms"]["network first"] / arms["ms"]["joint"]).tolist()),
    )  # fmt: skip
    yield (
        _claim("cifar10.accuracy", f"{named}: the joint search's pair is more accurate than network first", above(),
               "points", PAPER, "recorded"),
        interval((arms["test"]["joint"] - arms["test"]["network first"]).tolist()),
    )  # fmt: skip


def _published_rows(matched_table: pd.DataFrame, config: Config) -> Iterator[dict[str, Any]]:
    """The abstract's numbers beside ours; what needs ImageNet and ten accelerators is not testable here."""
    table, main = published("dna"), matched_table[matched_table["template"] == config.templates[-1]].sort_values("seed")
    ratio = interval((main["fps"] / main["separate_fps"]).tolist())
    points = interval((main["accuracy"] - main["separate_accuracy"]).tolist())
    found = {"dna.abstract.fps": ratio, "dna.abstract.accuracy": points, "dna.abstract.search_time": _saving(config)}
    for id, cell in table.iterrows():
        kind = "analytic" if id == "dna.abstract.search_time" else "measured"
        claim = Claim(str(id), cell["claim"], kind, cell["unit"], reaches(), cell["value"], cell["source"],
                      bool(cell["verified"]))  # fmt: skip
        yield claim.row(found.get(str(id)), config.scale)


def _saving(config: Config) -> float:
    """Network updates of training every network, over those of one supernet search."""
    images = 400
    plan = Schedule(epochs=config.epochs, warm_up=config.epochs // 4)
    return digits().count * updates(images) / plan.updates(images)


# --- the whole ---------------------------------------------------------------------------------------------------


def run(config: Config) -> Result:
    """Run everything the notebook shows, its parts side by side in two processes."""
    work = Parallel(n_jobs=2)
    found = dict(
        zip(
            config.templates,
            work(delayed(_alone)(priced, t, config.width, config.size) for t in config.templates),
            strict=True,
        )
    )
    parts = work(
        delayed(_alone)(table_part, template, seed, found[template], config)
        for template in config.templates
        for seed in config.seed_list
    )
    tables = {name: pd.DataFrame([row for part in parts for row in part[name]]) for name in parts[0]}
    tables["generic"] = pd.DataFrame(generic_rows(found, config))
    tables["hardware"] = _hardware(found, config)
    tables["slopes"] = pd.DataFrame(slopes(config.seed))
    tables["cifar10"], tables["cifar10_course"] = cifar10.recorded(), load_table(f"{cifar10.NAME}_course")
    checked = pd.concat([compared(workload(config.width, config.size), TEMPLATES[t]) for t in config.templates])
    claims = [
        *_search_claims(tables["searches"], config),
        *_matched_claims(tables["matched"]),
        *_generic_claims(tables["generic"], config),
        *_supernet_claims(tables["supernet"], config),
        *_cifar10_claims(tables["cifar10"]),
    ]
    rows = [claim.row(evidence, config.scale) for claim, evidence in claims]
    rows += list(_published_rows(tables["matched"], config))
    agree = Claim("dna.gradient", "derivatives of the expected objective that finite differences confirm to 1e-4",
                  "analytic", "%", inside_number(100.0), None, OURS, True)  # fmt: skip
    rows.append(agree.row(100.0 * float((checked["error"] <= 1e-4).mean()), config.scale))
    down = Claim("dna.disguised.slopes", "derivatives of the released successor's loss in the sampled probabilities "
                 "that are the cost itself, whatever was sampled", "analytic", "%", inside_number(100.0), None,
                 "Auto-NBA's public code, in our words", True)  # fmt: skip
    same = (tables["slopes"]["slope"] - tables["slopes"]["cost"]).abs() <= 1e-9 * tables["slopes"]["cost"]
    rows.append(down.row(100.0 * float(same.mean()), config.scale))
    tables["summary"] = pd.DataFrame(
        [
            {"quantity": c.id, "mean": e.mean, "low": e.low, "high": e.high, "n": len(e.samples), "unit": c.unit}
            for c, e in claims
        ]
    )
    return Result(
        tables, [row | {"command": config.command("dna")} for row in rows], config.record("dna"), data.digits().hash
    )


def inside_number(wanted: float) -> Rule:
    """A count that must come out."""
    return lambda found, _: REPRODUCED if found.mean == wanted else CONTRADICTED


def _hardware(found: dict[str, Any], config: Config) -> pd.DataFrame:
    """Every network on its best accelerators: columns template, net, mmacs, ms, uj_ms, accuracy (test, all seeds)."""
    big, space, accuracy = workload(config.width, config.size), digits(), Accuracies.recorded().test.mean(0)
    designs = space.designs().tolist()
    rows = []
    for template, (_, best) in found.items():
        for i, design in enumerate(designs):
            rule = RULES[int(best["latency"][1][i])]
            rows.append(
                {"template": template, "net": " ".join(space.operators(design)[1:]), "mmacs": big.macs(design) / 1e6,
                 "ms": float(best["latency"][0][i]), "edp": float(best["edp"][0][i]), "rule": rule,
                 "accuracy": float(accuracy[i])}
            )  # fmt: skip
    return pd.DataFrame(rows)


def _alone(part: Any, *arguments: Any) -> Any:
    torch.set_num_threads(1)  # sums keep their order: the same figures on one core and on many
    return part(*arguments)
