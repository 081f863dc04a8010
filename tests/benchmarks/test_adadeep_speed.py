"""How fast a demand ranks the measured designs, and how fast the searches propose.

Printed and stored with the benchmark, never asserted: numbers differ from machine to machine.
"""

import pytest
import torch

from workbench.papers.adadeep import method, record, search
from workbench.papers.adadeep.measure import DESIGNS, SPACES
from workbench.papers.adadeep.study import PERSONAS, Study, walk
from workbench.training import generator

SEEDS = list(record.SEEDS)


@pytest.fixture(scope="module")
def study():
    torch.set_num_threads(1)
    found = Study.of(record.designs(), SEEDS)
    for demand in PERSONAS.values():
        found.costs(demand.platform)
    return found


def test_a_demand_ranks_all_designs_of_all_seeds(benchmark, study):
    demand = PERSONAS["drone"]
    benchmark(lambda: study.rewards(demand, "val").argsort(1, descending=True))
    rate = len(SEEDS) * len(DESIGNS) / benchmark.stats["median"]
    benchmark.extra_info["designs_per_second"] = rate
    print(f"\n{rate:,.0f} designs a second")


@pytest.mark.parametrize("name", search.BASELINES)
def test_a_baseline_proposes(benchmark, study, name):
    rewards, choices = study.rewards(PERSONAS["drone"], "val")[0], [len(space) for space in SPACES]
    benchmark(lambda: search.BASELINES[name](rewards, choices, 60, generator(name)))
    print(f"\n{name}: {60 / benchmark.stats['median']:,.0f} evaluations a second")


def test_agents_walk(benchmark, study):
    rewards, K = study.rewards(PERSONAS["drone"], "val"), 100
    problems = walk(rewards[:1].expand(K, -1), [PERSONAS["drone"]] * K)
    benchmark.pedantic(lambda: method.q_learning(problems, range(K), 120), rounds=2)
    print(f"\nQ-learning: {K * 120 / benchmark.stats['median']:,.0f} walks a second")
