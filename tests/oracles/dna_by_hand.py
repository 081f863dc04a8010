"""DNA's expectations by walking over every design, and a network of plain torch layers."""

import itertools

import torch
from torch import nn


def expected_cost(costs, probabilities, rule, chunks, sharpness):
    """Expected ms and µJ: means over every network, with loops; the smooth maximum at the end."""
    nets = list(itertools.product(*(range(len(p)) for p in probabilities)))
    ms, uj = 0.0, 0.0
    for r, pr in enumerate(rule.tolist()):
        cycles = [0.0, 0.0]
        weights = {}
        for a, b in itertools.product(range(len(chunks[0])), repeat=2):
            fine = costs.alone[a] if r == 0 else costs.pairs[a, b]
            if fine:
                weights[a, b] = float(chunks[0][a] * chunks[1][b])
        total = sum(weights.values())
        energy = 0.0
        for net in nets:
            pn = 1.0
            for slot, choice in enumerate(net):
                pn *= float(probabilities[slot][choice])
            table = [
                costs.fixed_cycles[r, k] + sum(costs.cycles[r, k, s, o] for s, o in enumerate(net)) for k in (0, 1)
            ]
            spent = [
                costs.fixed_energy[r, k] + sum(costs.energy[r, k, s, o] for s, o in enumerate(net)) for k in (0, 1)
            ]
            for (a, b), w in weights.items():
                for k, at in enumerate((a, b)):
                    cycles[k] += pn * w / total * float(table[k][at])
                    energy += pn * w / total * float(spent[k][at])
        used = cycles[:1] if r == 0 else cycles
        slowest = sum(t**sharpness for t in used) ** (1 / sharpness)
        ms, uj = ms + pr * slowest / costs.megahertz / 1e3, uj + pr * energy
    return ms, uj


def plain_network(space, design, stacked, member):
    """One net of a stack, as torch layers written out, with that net's weights."""
    parts = []
    for slot, where, held in zip(space.slots, stacked.members, stacked.slots, strict=True):
        (name,) = [n for n, rows in where.items() if member in rows.tolist()]
        at = where[name].tolist().index(member)
        convs = [m for m in held[name].modules() if isinstance(m, nn.Conv2d)]
        body = []
        for conv in convs:
            count = len(where[name])
            outputs, groups = conv.out_channels // count, conv.groups // count
            alone = nn.Conv2d(
                conv.in_channels // count,
                outputs,
                conv.kernel_size,
                conv.stride,
                conv.padding,
                groups=groups,
                bias=False,
            )
            alone.weight.data = conv.weight.data[at * outputs : (at + 1) * outputs].clone()
            body += [alone, nn.BatchNorm2d(outputs), nn.ReLU()]
        same = name != "skip" and slot.inputs == slot.outputs and slot.stride == 1
        parts.append((nn.Sequential(*body), same))

    def forward(x):
        for body, residual in parts:
            x = x + body(x) if residual else body(x)
        return x.mean((2, 3)) @ stacked.head[member]

    return forward, torch.nn.ModuleList(body for body, _ in parts)
