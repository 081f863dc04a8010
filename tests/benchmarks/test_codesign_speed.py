"""Design points a second in DNA's search: all accelerators of a network at once, drawn ones by the table, one by one.

Times are printed and stored with the benchmark, never asserted: they differ from machine to machine.
"""

import torch
from timing import seconds

from workbench.papers.dna import accelerators, method, study
from workbench.papers.dna.accelerators import RULES, TEMPLATES, Design
from workbench.papers.dna.method import Logits, Objective
from workbench.training import generator

DRAWN = 1 << 14


def test_design_points_a_second(benchmark):
    torch.set_num_threads(1)
    space, template = study.workload(4, 4), TEMPLATES["asic"]
    table, stream = accelerators.costs(space, template), generator("speed")
    nets = torch.stack([torch.randint(n, (DRAWN,), generator=stream) for n in space.choices], 1)
    rule = torch.randint(len(RULES), (DRAWN,), generator=stream)
    chunks = torch.randint(len(template.configurations), (DRAWN, 2), generator=stream)
    few = 20

    def one_by_one():
        found = []
        for net, r, pair in zip(nets[:few].tolist(), rule[:few].tolist(), chunks[:few].tolist(), strict=True):
            items = accelerators.itemised(space, template, Design(tuple(net), r, tuple(pair)))
            cycles = items.drop_duplicates("layer").groupby("chunk")["cycles"].sum().max()
            found.append((cycles / 2e5, items["pj"].sum() / 1e6))
        return torch.tensor(found, dtype=torch.float64)

    # The same work was timed.
    ms, uj = table.evaluate(nets, rule, chunks)
    torch.testing.assert_close(torch.stack([ms[:few], uj[:few]], 1), one_by_one())

    accuracy, objective = torch.zeros(space.choices, dtype=torch.float64), Objective("edp", 3.0)
    logits = Logits.start(space.choices, len(RULES), template.factors, stream)

    def step():
        (-method.expected_objective(table, accuracy, objective, logits)).backward()

    benchmark.pedantic(step, rounds=20, warmup_rounds=3)
    ours = benchmark.stats.stats.min if benchmark.stats else seconds(step)
    some = nets[:16]
    enumerated = len(some) * (int(table.alone.sum()) + 3 * int(table.pairs.sum()))
    report = {
        "drawn_points_per_s": DRAWN / seconds(lambda: table.evaluate(nets, rule, chunks)),
        "enumerated_points_per_s": enumerated / seconds(lambda: table.best(some), 2),
        "loop_points_per_s": few / seconds(one_by_one, 2),
        "expectation_points_per_s": space.count * (int(table.alone.sum()) + 3 * int(table.pairs.sum())) / ours,
        "gradient_ms": 1e3 * ours,
        "pricing_s": seconds(lambda: accelerators.costs(space, template), 2),
    }
    report["ratio"] = report["drawn_points_per_s"] / report["loop_points_per_s"]
    benchmark.extra_info.update(report)
    print("\n" + ", ".join(f"{name} {value:.4g}" for name, value in report.items()))
