"""The ten papers. Each has a package of its own: method, experiment, views."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, Self, get_args, get_origin, get_type_hints

from workbench import ROOT, WorkbenchError


@dataclass(frozen=True)
class Paper:
    """One paper and where its notebook lies."""

    number: int
    key: str
    title: str
    arxiv: str
    venue: str
    idea: str

    @property
    def notebook(self) -> Path:
        """Path of the notebook, whether it exists yet or not."""
        return ROOT / "notebooks" / f"{self.number:02d}_{self.key}.ipynb"

    @property
    def built(self) -> bool:
        """Is there a notebook yet?"""
        return self.notebook.exists()


PAPERS = (
    Paper(
        1,
        "gebt",
        "Early-Bird GCNs: Graph-Network Co-Optimization via Early-Bird Lottery Tickets (GEBT)",
        "2103.00794",
        "AAAI 2022",
        "Prune a graph and its network together, as soon as the masks stop moving.",
    ),
    Paper(
        2,
        "spline",
        "Max-Affine Spline Insights into Deep Network Pruning",
        "2101.02338",
        "TMLR 2022",
        "Pruning removes lines from a partition of the input space; redundant lines go first.",
    ),
    Paper(
        3,
        "cpt",
        "CPT: Efficient Deep Neural Network Training via Cyclic Precision",
        "2101.09868",
        "ICLR 2021",
        "Let the bit-width cycle during training, as learning rates do.",
    ),
    Paper(
        4,
        "fractrain",
        "FracTrain: Fractionally Squeezing Bit Savings",
        "2012.13113",
        "NeurIPS 2020",
        "Raise precision progressively over time and choose it by input and layer.",
    ),
    Paper(
        5,
        "smartdeal",
        "SmartDeal: Re-Modeling Deep Network Weights for Efficient Inference and Training",
        "2101.01163",
        "TNNLS 2022",
        "Trade memory for cheap work: weights as a small basis times sparse power-of-two coefficients.",
    ),
    Paper(
        6,
        "shiftaddnet",
        "ShiftAddNet: A Hardware-Inspired Deep Network",
        "2010.12785",
        "NeurIPS 2020",
        "Build networks from bit-shifts and additions instead of multiplications.",
    ),
    Paper(
        7,
        "agd",
        "AutoGAN-Distiller (AGD): Searching to Compress Generative Adversarial Networks",
        "2006.08198",
        "ICML 2020",
        "Search a small generator under a budget, guided by distillation from a large one.",
    ),
    Paper(
        8,
        "a2d",
        "Auto-Agent-Distiller (A2D): Efficient Deep Reinforcement Learning Agents via Search",
        "2012.13091",
        "arXiv 2020",
        "Search the size and operators of a reinforcement-learning agent, stabilised by a teacher.",
    ),
    Paper(
        9,
        "dna",
        "DNA: Differentiable Network-Accelerator Co-Search",
        "2010.14778",
        "ISLPED 2021",
        "Search a network and the accelerator that runs it in one differentiable loop.",
    ),
    Paper(
        10,
        "adadeep",
        "AdaDeep: A Usage-Driven Automated Compression Framework",
        "2006.04432",
        "IEEE TMC 2021",
        "Choose a compression technique layer by layer from the user's demands.",
    ),
)


def paper(key: str) -> Paper:
    """The paper of that key; `WorkbenchError` names the valid ones."""
    for candidate in PAPERS:
        if candidate.key == key:
            return candidate
    raise WorkbenchError(f"unknown paper {key!r}: choose one of {', '.join(p.key for p in PAPERS)}")


def experiment(key: str) -> ModuleType:
    """The paper's experiment module (``Config``, ``run``); `WorkbenchError` when it is not built yet."""
    if not paper(key).built:
        raise WorkbenchError(f"{key} is not built yet: `workbench list` shows the papers that are")
    return import_module(f"workbench.papers.{key}.experiment")


# --- parameters: each field's annotation is the one description of what it may be ---------------------------------


@dataclass(frozen=True)
class Range:
    """Bounds of a number; an ``open`` range leaves both out."""

    low: float
    high: float
    open: bool = False

    def check(self, name: str, value: float) -> None:
        """`WorkbenchError` unless the value lies within."""
        inside = self.low < value < self.high if self.open else self.low <= value <= self.high
        if not inside:
            form = "above {} and below {}" if self.open else "at least {} and at most {}"
            raise WorkbenchError(f"{name} must be {form.format(self.low, self.high)}; got {value!r}")


@dataclass(frozen=True)
class Among:
    """The texts there are to choose from."""

    names: tuple[str, ...]

    def check(self, name: str, value: str) -> None:
        """`WorkbenchError` unless the value is one of them."""
        if value not in self.names:
            raise WorkbenchError(f"{name} must be among {', '.join(self.names)}; got {value!r}")


@dataclass(frozen=True)
class Reads:
    """A text that ``read`` understands; it raises `WorkbenchError` for another."""

    read: Callable[[str], Any]

    def check(self, name: str, value: str) -> None:
        """What ``read`` says, with the parameter's name before it."""
        try:
            self.read(value)
        except WorkbenchError as error:
            raise WorkbenchError(f"{name}: {error}") from None


@dataclass(frozen=True)
class Several:
    """How many items a tuple has, whether one may stand twice, and whether they rise."""

    least: int = 1
    most: int = 1_000
    unique: bool = True
    rising: bool = False

    def check(self, name: str, values: tuple) -> None:
        """`WorkbenchError` unless the items are so."""
        if not self.least <= len(values) <= self.most:
            raise WorkbenchError(f"{name} must name at least {self.least} and at most {self.most}; got {values!r}")
        if self.unique and len(set(values)) < len(values):
            raise WorkbenchError(f"{name} must name each once; got {values!r}")
        if self.rising and list(values) != sorted(values):
            raise WorkbenchError(f"{name} must rise; got {values!r}")


Seed = Annotated[int, Range(0, 2**31 - 1)]
Count = Annotated[int, Range(1, 10**6)]
Spread = Annotated[int, Range(2, 10_000)]
"""A number of seeds, directions or points that an interval or a slice is made from."""
Bits = Annotated[int, Range(1, 16)]
Rate = Annotated[float, Range(0, 10, open=True)]
Factor = Annotated[float, Range(0, 1_000)]
Share = Annotated[float, Range(0, 1, open=True)]
Ratio = Annotated[float, Range(0, 1 - 1e-9)]
"""A share that may be 0, never 1."""

WORDS = {int: "a whole number", float: "a number", str: "text", tuple: "a list"}


def check(name: str, hint: Any, value: Any) -> None:
    """`WorkbenchError`, in one line, unless ``value`` is what the type hint ``hint`` describes."""
    conditions: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *conditions = get_args(hint)
    if (get_origin(hint) or hint) is tuple:
        if not isinstance(value, tuple):
            raise WorkbenchError(f"{name} must be a list; got {value!r}")
        items = get_args(hint)
        if items[-1] is ...:
            items = items[:1] * len(value)
            conditions = conditions or (Several(),)
        if len(items) != len(value):
            raise WorkbenchError(f"every item of {name} must have {len(items)} values; got {value!r}")
        for item, each in zip(items, value, strict=True):
            check(name, item, each)
    elif type(value) is not hint:
        shell = f"""; in a shell: -p '{name}="{value}"'""" if hint is str else ""
        raise WorkbenchError(f"{name} must be {WORDS[hint]}; got {value!r}{shell}")
    elif hint is float and not math.isfinite(value):
        raise WorkbenchError(f"{name} must be finite; got {value!r}")
    for condition in conditions:
        condition.check(name, value)


@cache
def descriptions(config: type) -> dict[str, Any]:
    """What each parameter may be: its type hint, with the conditions that it is annotated with."""
    hints = get_type_hints(config, include_extras=True)
    return {f.name: hints[f.name] for f in fields(config) if f.name != "scale"}


def as_described(hint: Any, value: Any) -> Any:
    """``value`` with lists as tuples, one item as a tuple of one, and whole numbers as floats where these are due."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) is tuple:
        items = get_args(hint)
        values = tuple(value) if isinstance(value, tuple | list) else (value,)
        # A pair stands for one pair, as (0.2, 0.8) for ((0.2, 0.8),).
        nested = get_origin(items[0]) is tuple
        values = (values,) if nested and values and not isinstance(values[0], tuple | list) else values
        items = items[:1] * len(values) if items[-1] is ... else items
        return tuple(as_described(item, each) for item, each in zip(items, values, strict=False)) + values[len(items) :]
    if hint is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    return value


@dataclass(frozen=True)
class Config:
    """What an experiment needs to know: a paper's subclass adds fields and says how the scales differ.

    ``SCALES`` maps a scale's name to the fields in which it differs from the defaults, which are quick's.
    ``seed`` is the first of ``seeds`` paired seeds. The annotation of a field says all that one parameter alone must be
    (`Range`, `Among`, `Reads`, `Several`; a tuple that has none of them names one thing or more, each once); what holds
    between parameters is for ``__post_init__``.
    """

    scale: str = "quick"
    seed: Seed = 0
    seeds: Spread = 5

    SCALES: ClassVar[dict[str, dict[str, Any]]] = {"quick": {}}

    @classmethod
    def at(cls, scale: str, /, **overrides: Any) -> Self:
        """The configuration of a scale; an override of None leaves the scale's own value.

        A single value stands for a tuple of one. `WorkbenchError`, before anything runs, for an unknown scale
        or parameter (naming the valid ones) and for a value of the wrong type or out of range.
        """
        if scale not in cls.SCALES:
            raise WorkbenchError(f"unknown scale {scale!r}: choose one of {', '.join(cls.SCALES)}")
        hints = descriptions(cls)
        unknown = sorted(set(overrides) - set(hints))
        if unknown:
            raise WorkbenchError(f"unknown parameter {', '.join(unknown)}: choose from {', '.join(hints)}")
        own = {name: as_described(hints[name], value) for name, value in overrides.items() if value is not None}
        try:
            return cls(scale=scale, **(cls.SCALES[scale] | own))
        except WorkbenchError as error:
            # Another parameter's name alone would leave the reader looking for what they never wrote.
            if not own or any(re.search(rf"\b{name}\b", str(error)) for name in own):
                raise
            given = ", ".join(f"{name}={value!r}" for name, value in own.items())
            raise WorkbenchError(f"{error} (with {given})") from None

    def __post_init__(self) -> None:
        """Refuse what a field's annotation excludes; subclasses add what holds between fields."""
        for name, hint in descriptions(type(self)).items():
            check(name, hint, getattr(self, name))

    def require(self, name: str, holds: bool, must: str) -> None:
        """`WorkbenchError` saying what parameter ``name`` must be, unless it holds."""
        if not holds:
            raise WorkbenchError(f"{name} must {must}; got {getattr(self, name)!r}")

    def command(self, paper: str) -> str:
        """The shell command that makes what this configuration makes, ready to paste."""
        at_scale = type(self).at(self.scale)
        own = {name: getattr(self, name) for name in descriptions(type(self))}
        own = {name: value for name, value in own.items() if value != getattr(at_scale, name)}
        words = ["workbench", "run" if own else "figures", paper, "--scale", self.scale]
        for name, value in own.items():
            words += ["-p", f"{name}={value!r}"]
        return shlex.join(words)

    @property
    def seed_list(self) -> list[int]:
        """The paired seeds."""
        return list(range(self.seed, self.seed + self.seeds))

    def record(self, paper: str) -> dict[str, Any]:
        """The parameters as they are stored with every figure."""
        return {"paper": paper, **asdict(self)}


@dataclass(frozen=True)
class Simulation(Config):
    """Parameters of start_here's simulated experiments."""

    kind: Annotated[str, Among(("analytic", "measured", "recorded"))] = "measured"
