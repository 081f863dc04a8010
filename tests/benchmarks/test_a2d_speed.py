"""Environment steps a second: Catch many boards at once and one at a time, and agents that learn it.

Forms take turns in one process, so that a slow minute of the machine falls on all of them; seconds are the processor's
on this process, one thread. ``SyncVectorEnv`` is Gymnasium's own way to many copies. The last test is why agents are
not stacked: eight in one call beside eight calls. Numbers are printed and stored with the benchmark, never asserted.
"""

import copy
import time

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch.func import functional_call, stack_module_state, vmap

from workbench.papers.a2d.experiment import Config
from workbench.papers.a2d.games import Catch, CatchVector
from workbench.papers.a2d.method import Design
from workbench.papers.a2d.play import Alone, Player, Rules, learn, new_agent
from workbench.papers.a2d.record import teacher
from workbench.papers.a2d.search import Plan, Search, optimiser
from workbench.papers.a2d.trials import WHERE

STEPS, ROUNDS = 32_000, 5


def rates(forms, steps):
    """Median steps a processor second by name; every form runs once a round."""
    found = {name: [] for name in forms}
    for _ in range(ROUNDS):
        for name, form in forms.items():
            begin = time.process_time()
            form()
            found[name].append(steps / (time.process_time() - begin))
    return {name: float(np.median(values)) for name, values in found.items()}


def report(benchmark, found, unit):
    print()
    for name, value in found.items():
        print(f"{name:36} {value:12,.0f} {unit}")
    benchmark.extra_info.update(found)


def boards(env, copies):
    """32,000 steps at random; ``copies`` is 0 for a single board."""
    actions = np.random.default_rng(0).integers(0, 3, (STEPS // copies, copies) if copies else STEPS)

    def play():
        env.reset(seed=0)
        for action in actions:
            over = env.step(action)[2]
            if not copies and over:
                env.reset()

    return play


def test_environment_steps(benchmark):
    forms = {f"CatchVector, {copies} copies": boards(CatchVector(copies), copies) for copies in (16, 128)}
    for copies in (16, 128):
        sync = SyncVectorEnv([Catch] * copies, autoreset_mode=AutoresetMode.SAME_STEP)
        forms[f"SyncVectorEnv, {copies} copies"] = boards(sync, copies)
    forms["Catch, one at a time"] = boards(Catch(), 0)
    found = benchmark.pedantic(rates, (forms, STEPS), rounds=1)
    report(benchmark, found, "steps/s")


@pytest.mark.parametrize("with_teacher", [False, True], ids=["alone", "with teacher"])
def test_training_steps(benchmark, with_teacher):
    torch.set_num_threads(1)
    guide, rules, steps = teacher()[0] if with_teacher else None, Rules(), 4800
    config = Config.at("full")
    forms = {}
    for design in (Design(2, (), 8), Design(8, (), 32), Design(16, (), 64), Design(64, (), 256)):
        agent = new_agent(design, WHERE, 0)
        parts = Alone(agent), Player(CatchVector(rules.copies), 0), optimiser(agent, 1e-3)
        forms[f"agent {design}"] = lambda parts=parts: learn(*parts, steps, rules, guide)
    net = config.supernet(0)
    search = Search(net, Plan(steps, config.budget, warm_up=0.0), 0)
    parts = search, Player(CatchVector(rules.copies), 0), optimiser(net, 1e-3, search.logits, 0.03)
    forms["search in the supernet"] = lambda: learn(*parts, steps, rules, guide)
    report(benchmark, benchmark.pedantic(rates, (forms, steps), rounds=1), "environment steps/s")


@pytest.mark.parametrize("design", [Design(8, (), 32), Design(16, (), 64)], ids=str)
def test_agents_stacked_or_one_after_another(benchmark, design):
    torch.set_num_threads(1)
    agents = [new_agent(design, WHERE, seed) for seed in range(8)]
    weights, _ = stack_module_state(agents)
    weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
    base = copy.deepcopy(agents[0]).to("meta")
    x = torch.rand(8, 160, 3, 10, 5)
    stacked = vmap(lambda own, boards: functional_call(base, own, boards))

    def total(out):
        return out[0].sum() + out[1].sum()

    forms = {
        "eight calls": lambda: [total(agent(boards)).backward() for agent, boards in zip(agents, x, strict=True)],
        "one call of eight, by vmap": lambda: total(stacked(weights, x)).backward(),
    }
    report(benchmark, benchmark.pedantic(rates, (forms, x.shape[0] * x.shape[1]), rounds=1), "observations/s")
