"""The ten papers. Each has a package of its own: method, experiment, views."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

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


@dataclass(frozen=True)
class Config:
    """What an experiment needs to know: a paper's subclass adds fields and says how the scales differ.

    ``SCALES`` maps a scale's name to the fields in which it differs from the defaults, which are quick's.
    ``seed`` is the first of ``seeds`` paired seeds.
    """

    scale: str = "quick"
    seed: int = 0
    seeds: int = 5

    SCALES: ClassVar[dict[str, dict[str, Any]]] = {"quick": {}}

    @classmethod
    def at(cls, scale: str, **overrides: Any) -> Self:
        """The configuration of a scale; an override of None leaves the scale's own value.

        A single value stands for a tuple of one. `WorkbenchError`, before anything runs, for an unknown scale
        or parameter (naming the valid ones) and for a value of the wrong type or out of range.
        """
        if scale not in cls.SCALES:
            raise WorkbenchError(f"unknown scale {scale!r}: choose one of {', '.join(cls.SCALES)}")
        defaults = {f.name: f.default for f in fields(cls) if f.name != "scale"}
        unknown = sorted(set(overrides) - set(defaults))
        if unknown:
            raise WorkbenchError(f"unknown parameter {', '.join(unknown)}: choose from {', '.join(defaults)}")
        chosen = dict(cls.SCALES[scale])
        for name, value in overrides.items():
            if value is not None:
                chosen[name] = _as_type_of(defaults[name], name, value)
        return cls(scale=scale, **chosen)

    def __post_init__(self) -> None:
        """Refuse values out of range; subclasses add theirs."""
        self.require("seeds", self.seeds >= 2, "be at least 2: an interval needs a spread")

    def require(self, name: str, holds: bool, must: str) -> None:
        """`WorkbenchError` saying what parameter ``name`` must be, unless it holds."""
        if not holds:
            raise WorkbenchError(f"{name} must {must}; got {getattr(self, name)!r}")

    @property
    def seed_list(self) -> list[int]:
        """The paired seeds."""
        return list(range(self.seed, self.seed + self.seeds))

    def record(self, paper: str) -> dict[str, Any]:
        """The parameters as they are stored with every figure."""
        return {"paper": paper, **asdict(self)}


def _as_type_of(default: Any, name: str, value: Any) -> Any:
    if isinstance(default, tuple):
        values = tuple(value) if isinstance(value, tuple | list) else (value,)
        return tuple(_as_type_of(default[0], name, item) for item in values)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise WorkbenchError(f"{name} must be a {type(default).__name__} such as {default!r}; got {value!r}")
    return value
