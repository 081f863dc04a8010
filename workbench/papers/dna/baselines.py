"""Searches to compare with, all at an equal number of questions.

A question is a pair: what is this network worth on this accelerator? An `Oracle` answers from the table, counts, and
remembers the best answer. A search that optimises the network first asks about networks only: also a question each.
Whether an accelerator keeps to the limits is known before, and free for everyone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import optuna
import torch
from torch import Tensor

from workbench.papers.dna.accelerators import Costs, Design, Template
from workbench.papers.dna.method import Objective, disguised, fresh, score_function
from workbench.papers.dna.space import Networks

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass
class Oracle:
    """Answers questions about designs, at most ``budget`` of them.

    A design is a row of choices: an operator a slot, the rule, and of each chunk array, dataflow, buffer and order.
    ``accuracy``: of every network in percent, ``[count]`` in the order of `Networks.designs`; ``macs`` the same.
    """

    space: Networks
    template: Template
    costs: Costs
    accuracy: Tensor
    macs: Tensor
    objective: Objective
    budget: int
    asked: int = 0
    best: Design | None = None
    worth: float = float("-inf")
    seen: list[float] = field(default_factory=list)

    @property
    def sizes(self) -> list[int]:
        """Candidates of every choice."""
        return [*self.space.choices, len(self.costs.cycles), *self.template.factors, *self.template.factors]

    @property
    def slots(self) -> int:
        """How many choices are the network's."""
        return len(self.space.free)

    @property
    def left(self) -> int:
        """Questions that may still be asked."""
        return self.budget - self.asked

    def place(self, nets: Tensor) -> Tensor:
        """Index of networks ``[n, slots]`` in the list of all."""
        at = torch.zeros(len(nets), dtype=torch.long)
        for slot, n in enumerate(self.space.choices):
            at = at * n + nets[:, slot]
        return at

    def parts(self, choices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Networks, rules and configurations of rows of choices."""
        rule, chunks, at = choices[:, self.slots], [], self.slots + 1
        for _ in range(2):
            index = torch.zeros(len(choices), dtype=torch.long)
            for n in self.template.factors:
                index = index * n + choices[:, at]
                at += 1
            chunks.append(index)
        return choices[:, : self.slots], rule, torch.stack(chunks, 1)

    def answers(self, choices: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Accuracy, ms, µJ and whether the limits are kept; uncounted."""
        nets, rule, chunks = self.parts(choices)
        ms, uj = self.costs.evaluate(nets, rule, chunks)
        return self.accuracy[self.place(nets)], ms, uj, self.costs.allowed(rule, chunks)

    def ask(self, choices: Tensor) -> Tensor:
        """What designs ``[n, choices]`` are worth; -inf, uncounted, where one is over the limits."""
        accuracy, ms, uj, allowed = self.answers(choices)
        worth = self.objective.value(accuracy, ms, uj).where(allowed, -torch.inf)
        self._count(int(allowed.sum()))
        if len(worth) and float(worth.max()) > self.worth:
            nets, rule, chunks = self.parts(choices[worth.argmax()][None])
            self.worth = float(worth.max())
            self.best = Design(tuple(nets[0].tolist()), int(rule[0]), tuple(chunks[0].tolist()))
        return worth

    def ask_network(self, nets: Tensor) -> Tensor:
        """What networks ``[n, slots]`` seem to be worth by accuracy and MACs: no accelerator in sight."""
        self._count(len(nets))
        at = self.place(nets)
        return self.objective.by_macs(self.accuracy[at], self.macs[at])

    def _count(self, questions: int) -> None:
        self.asked += questions
        if self.asked > self.budget:
            raise ValueError(f"{self.asked} questions, {self.budget} were allowed")


def _even(oracle: Oracle, fixed: dict[int, int]) -> list[Tensor]:
    """Logits that draw evenly, but for choices that are fixed."""
    logits = [torch.zeros(n, dtype=torch.float64) for n in oracle.sizes]
    for choice, value in fixed.items():
        logits[choice][:] = -torch.inf
        logits[choice][value] = 0.0
    return logits


def random_pairs(oracle: Oracle, stream: torch.Generator) -> None:
    """Draw everything evenly."""
    fresh(oracle, _even(oracle, {}), oracle.left, stream)


def _accelerator_for(oracle: Oracle, net: Sequence[int], count: int, stream: torch.Generator) -> list[int]:
    """The best of some random accelerators for a network, as choices."""
    designs, worth = fresh(oracle, _even(oracle, dict(enumerate(net))), count, stream)
    return designs[worth.argmax(), oracle.slots :].tolist()


def _network_for(oracle: Oracle, accelerator: Sequence[int], count: int, stream: torch.Generator) -> list[int]:
    """The best of some random networks on an accelerator, each asked once."""
    nets = oracle.space.designs()[torch.randperm(oracle.space.count, generator=stream)[:count]]
    choices = torch.cat([nets, torch.tensor(accelerator).expand(len(nets), -1)], 1)
    return nets[oracle.ask(choices).argmax()].tolist()


def _reference(oracle: Oracle) -> list[int]:
    """The network of plain convolutions."""
    return [0] * oracle.slots


def network_first(oracle: Oracle, stream: torch.Generator) -> None:
    """Half of the questions find the best network by accuracy and MACs, the others its accelerator."""
    nets = oracle.space.designs()[torch.randperm(oracle.space.count, generator=stream)[: oracle.budget // 2]]
    net = nets[oracle.ask_network(nets).argmax()].tolist()
    _accelerator_for(oracle, net, oracle.left, stream)


def accelerator_first(oracle: Oracle, stream: torch.Generator) -> None:
    """Half of the questions find an accelerator for the network of plain convolutions, the others a network for it."""
    accelerator = _accelerator_for(oracle, _reference(oracle), oracle.budget // 2, stream)
    _network_for(oracle, accelerator, oracle.left, stream)


def alternating(oracle: Oracle, stream: torch.Generator, rounds: int = 2) -> None:
    """Accelerator, network, accelerator, network: a quarter of the questions each."""
    net, part = _reference(oracle), oracle.budget // (2 * rounds)
    for _ in range(rounds):
        accelerator = _accelerator_for(oracle, net, part, stream)
        net = _network_for(oracle, accelerator, part, stream)


def fixed_network(oracle: Oracle, stream: torch.Generator) -> None:
    """All questions go to accelerators for the network of plain convolutions."""
    _accelerator_for(oracle, _reference(oracle), oracle.left, stream)


def evolution(oracle: Oracle, stream: torch.Generator, population: int = 16) -> None:
    """optuna's NSGA-II on accuracy and cost; designs over the limits are its worst, and not counted."""
    seed = int(torch.randint(1 << 30, (1,), generator=stream))
    sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    domains = {f"{i:02d}": optuna.distributions.CategoricalDistribution(range(n)) for i, n in enumerate(oracle.sizes)}
    while oracle.left:
        trial = study.ask(domains)
        choices = torch.tensor([[trial.params[name] for name in domains]])
        worth, (accuracy, ms, uj, _) = oracle.ask(choices), oracle.answers(choices)
        cost = ms if oracle.objective.cost == "latency" else ms * uj
        over = not bool(worth.isfinite())
        study.tell(trial, [0.0, 1e9] if over else [float(accuracy), float(cost)])


WORST = 100.0
"""Above every utility here: the disguised search's cost is what is missing to it."""

METHODS = {
    "random": random_pairs,
    "network first": network_first,
    "accelerator first": accelerator_first,
    "alternating": alternating,
    "fixed network": fixed_network,
    "evolution": evolution,
    "score function": score_function,
    "disguised": lambda oracle, stream: disguised(oracle, stream, WORST),
}
"""Name -> search(oracle, random stream)."""
