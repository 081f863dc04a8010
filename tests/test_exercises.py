"""Exercises: right answers written another way pass, known mistakes are named, and nothing ends in a traceback."""

import itertools
import math

import numpy as np
import pytest
import torch

from workbench import early_bird
from workbench.cost import count as count_macs
from workbench.exercises import WITH, WITHOUT, check, exercises
from workbench.papers.agd import method as agd
from workbench.papers.gebt import method
from workbench.papers.spline import method as spline
from workbench.papers.spline import truths
from workbench.papers.spline.experiment import SQUARE
from workbench.papers.spline.partition import partition

EXERCISES = exercises()


def answered(capsys, name, answer):
    check(name, answer)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return lines[0]


def normalise_in_loops(a):
    n = len(a)
    hat = [[float(a[i, j]) + (i == j) for j in range(n)] for i in range(n)]
    degree = [sum(row) for row in hat]
    return np.array([[hat[i][j] / (degree[i] * degree[j]) ** 0.5 for j in range(n)] for i in range(n)])


def detector_epoch():
    masks, changed = [torch.ones(16, dtype=torch.bool)], itertools.count()
    for count in (6, 1, 1, 1, 0, 1, 0):
        masks.append(masks[-1].clone())
        masks[-1][[next(changed) for _ in range(count)]] = False
    watched = early_bird.detector_distance(early_bird.pairwise_distance(torch.stack(masks)), fifo=3)
    return early_bird.emergence(watched, eta=0.125)


def draw_last_of_the_tied(weights, p):
    order = sorted(range(len(weights)), key=lambda i: (float(weights[i]), -i))
    return np.isin(np.arange(len(weights)), order[int(p * len(weights)) :])


def distance_in_loops(w, b, rho):
    size = [math.hypot(*row) for row in w.tolist()]
    out = np.zeros((len(b), len(b)))
    for i, j in itertools.product(range(len(b)), repeat=2):
        cos = float(w[i] @ w[j]) / (size[i] * size[j])
        c, d = float(b[i]) / size[i], float(b[j]) / size[j] * (1 if cos > 0 else -1)
        out[i, j] = 1 - abs(cos) + rho * abs(c - d)
    return out


def merged_by_pruning(out, norms, drop, keep):
    """What the method hands over when two units of one line are the closest pair."""
    weight = torch.stack(
        [torch.tensor([n, 0.0]) if u in (drop, keep) else torch.tensor([0.3, n]) for u, n in enumerate(norms)]
    )
    units = spline.Units.of([weight[None].double()], [torch.zeros(1, len(norms)).double()], [(out.T @ out)[None]], 0.0)
    order, holds = units.remove(1, "merge")
    merged = out @ holds[0].T
    if int(order[0, 0]) != drop:  # it may keep the other one: the same function, outgoing weights scaled
        merged[:, keep] = merged[:, drop] * norms[drop] / norms[keep]
    return merged[:, [u for u in range(len(norms)) if u != drop]]


def quantised_by_looking(x, bits):
    levels = np.linspace(float(x.min()), float(x.max()), 2**bits)
    return levels[np.abs(x.numpy()[:, None] - levels).argmin(1)]


def schedule_in_loops(steps, low, high, cycles):
    length = steps // cycles
    return [round(low + (high - low) * (1 - math.cos(math.pi * (t % length) / length)) / 2) for t in range(steps)]


def stages_in_words(losses, epsilon, alpha):
    found, since, switches = [], 0, 0
    for t in range(len(losses)):
        found.append(switches)
        scale = np.mean(losses[: min(t + 1, 10)])
        last = losses[max(since, t - 4) : t + 1]
        if switches < 3 and len(last) == 5 and max(abs(np.array(last) - losses[t])) / scale <= epsilon:
            switches, since = switches + 1, t + 1
            epsilon *= alpha if switches < 3 else 1
    return found


def straight_through_by_autograd(p, g):
    logits = p.log().requires_grad_()
    soft = logits.softmax(-1)
    hard = torch.nn.functional.one_hot(soft.argmax(-1), p.shape[1]) + soft - soft.detach()
    (hard * g).sum().backward()
    return logits.grad


def power_by_trying(x):
    grid = np.concatenate([[0.0], 2.0 ** np.arange(-12, 6)])
    size = grid[np.abs(np.abs(x.numpy())[:, None] - grid).argmin(1)]  # the first of two equally near ones
    return np.sign(x.numpy()) * size


def switch_in_words(c, d, smallest):
    found = []
    for value, up in zip(c.tolist(), (d > 0).tolist(), strict=True):
        if value == 0:
            found.append(smallest if up else -smallest)
        else:
            grown = value * 2 if (value > 0) == up else value / 2
            found.append(grown if abs(grown) >= smallest else 0.0)
    return found


def shift_by_trying(w, low):
    exponents = np.arange(low, 1)
    size = np.log2(np.maximum(np.abs(w.numpy()), 1e-30))[:, None]
    return np.sign(w.numpy()) * 2.0 ** exponents[np.abs(size - exponents).argmin(1)]


def template_gradient_in_loops(x, w, g):
    found = torch.zeros_like(w)
    for p in range(len(x)):
        for o in range(len(w)):
            found[o] += g[p, o] * (x[p] - w[o])
    return found


def rank_one_by_powers(w):
    """Alternating least squares for every input channel, from each of its filters; the best end counts."""
    found = torch.zeros_like(w)
    for c in range(w.shape[1]):
        filters, best = w[:, c].flatten(1), None
        for first in filters:
            u = first
            for _ in range(500):
                a = filters @ u / (u @ u)
                u = filters.T @ a / (a @ a)
            error = float((filters - torch.outer(a, u)).square().sum())
            if best is None or error < best:
                best, found[:, c] = error, torch.outer(a, u).view_as(w[:, c])
    return found


def reward_in_words(accuracy, energy, latency, storage, weight):
    found = []
    for a, e, *slack in zip(accuracy.tolist(), energy.tolist(), latency.tolist(), storage.tolist(), strict=True):
        lacking = sum(x for x in (a, *slack) if x < 0)
        found.append(lacking if lacking else (1 - weight) * a + weight * e)
    return found


def macs_of_a_block(inputs, width):
    block = agd.operator("residual", inputs, width)
    return float(count_macs(block, torch.zeros(1, inputs, 1, 1))["forward"].sum())


def expected_by_drawing_all(logits, costs):
    odds = [[math.exp(v) / sum(map(math.exp, row)) for v in row] for row in logits.tolist()]
    designs = itertools.product(*(range(len(row)) for row in odds))
    return sum(math.prod(p[i] for p, i in zip(odds, d, strict=True)) * sum(costs[k, i] for k, i in enumerate(d))
               for d in designs)  # fmt: skip


def returns_in_words(rewards, terminated, truncated, final, last, gamma):
    found = np.zeros(rewards.shape)
    for t, n in itertools.product(*map(range, rewards.shape)):
        factor = 1.0
        for k in range(t, len(rewards)):
            found[t, n] += factor * float(rewards[k, n])
            factor *= gamma
            if terminated[k, n]:
                break
            if truncated[k, n]:
                found[t, n] += factor * float(final[k, n])
                break
        else:
            found[t, n] += factor * float(last[n])
    return found


def frames_in_loops(times, chunks):
    sums = {}
    for time, chunk in zip(times.tolist(), chunks.tolist(), strict=True):
        sums[chunk] = sums.get(chunk, 0.0) + time
    return 1000 / max(sums.values())


def expected_in_loops(table, p, q):
    return sum(p[i] * q[j] * table[i, j] for i in range(len(p)) for j in range(len(q)))


RIGHT = {
    "a2d.kl": [
        float(torch.nn.functional.kl_div(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.8, 0.2]), reduction="sum"))
    ],
    "a2d.macs": [24 * (8 * 24 + 24 * 25 + 24 * 8)],
    "a2d.returns": [returns_in_words],
    "adadeep.separable": [73_728 / 8_768, 8.41],
    "adadeep.rank_one": [rank_one_by_powers],
    "adadeep.reward": [reward_in_words],
    "start.paired": [np.mean(np.subtract(WITH, WITHOUT)), 0.5],
    "early_bird.detector": [8, detector_epoch()],
    "gebt.normalise": [normalise_in_loops],
    "gebt.mask_distance": [
        lambda a, b: sum(bool(x) != bool(y) for x, y in zip(a, b, strict=True)) / len(a),
        lambda a, b: early_bird.pairwise_distance(torch.stack([a, b]))[0, 1],
    ],
    "gebt.draw": [draw_last_of_the_tied, lambda w, p: method.draw_edges(w[None], p, ties=[3])[0]],
    "cpt.saving": [100 * (1 - (6 * 6 + 2 * 6 * 8) / (3 * 64)), 31.2],
    "cpt.quantise": [quantised_by_looking],
    "cpt.schedule": [schedule_in_loops],
    "fractrain.cp": [100 * (6 * 4 + 6 * 8 + 4 * 8) / (3 * 32**2)],
    "fractrain.stages": [stages_in_words],
    "fractrain.straight_through": [straight_through_by_autograd],
    "dna.bottleneck": [1000 / max(3 + 2, 5 + 4)],
    "dna.fps": [frames_in_loops],
    "dna.expected": [expected_in_loops],
    "dna.disguise": [7],
    "shiftaddnet.saving": [100 - 100 * (24 + 3 * 30) / 230],
    "shiftaddnet.to_shift": [shift_by_trying],
    "shiftaddnet.template_gradient": [template_gradient_in_loops],
    "agd.residual": [9 * 8 * 12 + 9 * 12 * 12 + 8 * 12, macs_of_a_block(8, 12)],
    "agd.expected": [expected_by_drawing_all],
    "agd.budget": [lambda e, b: (math.log(float(e)) - math.log(b)) ** 2],
    "smartdeal.bits": [216 * 4 + 192 * 3 + 9 * 8],
    "smartdeal.power_of_two": [power_by_trying],
    "smartdeal.switch": [switch_in_words],
    "spline.regions": [len(partition(truths.lines(7, 1.0), 20 * np.array(SQUARE)).maps)],
    "spline.distance": [
        lambda w, b, rho: spline.distance(w[None], b[None], rho)[0],
        distance_in_loops,
    ],
    "spline.merge": [merged_by_pruning],
    "gebt.macs": [51.2, (0.9 * 2 * 4732 * 3703 + 0.1 * 3312 * 16 * (3703 + 6)) / 1e6],
}


@pytest.mark.parametrize("name", EXERCISES)
def test_right_answers_pass_however_they_are_written(name, capsys):
    for answer in [EXERCISES[name].right, *RIGHT[name]]:
        assert answered(capsys, name, answer) == f"right: {EXERCISES[name].praise}"


@pytest.mark.parametrize("name", EXERCISES)
def test_each_known_mistake_is_named_by_its_own_hint(name, capsys):
    exercise = EXERCISES[name]
    assert len(exercise.mistakes) >= 2
    for wrong, hint in exercise.mistakes:
        assert answered(capsys, name, wrong) == f"not yet: {hint}"


WRONG = [  # written here, without the exercises' own functions
    ("agd.residual", 2160, "shortcut is missing"),
    ("agd.expected", lambda a, c: (a.exp() / a.exp().sum(0) * c).sum(), "operators of a layer"),
    ("agd.expected", lambda a, c: sum(row[k] for row, k in zip(c, a.argmax(1), strict=True)), "argmax"),
    ("agd.budget", lambda e, b: math.log(float(e) / b), "cheapest design"),
    ("agd.budget", lambda e, b: (float(e) / b - 1) ** 2, "logarithm"),
    ("adadeep.separable", 9.0, "depthwise part is missing"),
    ("adadeep.reward", lambda a, e, t, s, w: 0.7 * a + 0.3 * e + t + s, "slack within the budgets"),
    ("dna.bottleneck", 1000 / (3 + 5 + 2 + 4), "one image after the other"),
    ("dna.fps", lambda times, chunks: 1000 / sum(times.tolist()), "same time"),
    ("dna.expected", lambda table, p, q: table.sum() / table.numel(), "p[i] q[j]"),
    ("dna.disguise", 7 * 0.2, "cost times p"),
    ("shiftaddnet.saving", 100 * 114 / 230, "what is left"),
    (
        "shiftaddnet.to_shift",
        lambda w, low: [np.sign(v) * min(2.0 ** np.arange(low, 1), key=lambda p: abs(abs(v) - p)) for v in w.tolist()],
        "nearest by value",
    ),
    (
        "shiftaddnet.template_gradient",
        lambda x, w, g: -torch.autograd.functional.vjp(lambda w: (x[:, None] - w).abs().sum(-1), w, g)[1],
        "signs alone",
    ),
    ("start.paired", -0.5, "sign"),
    ("start.paired", sum(WITH) - sum(WITHOUT), "sum"),
    ("early_bird.detector", 6, "not below"),
    ("early_bird.detector", 7, "off by one"),
    ("gebt.normalise", lambda a: a / (a.sum(0) * a.sum(1)[:, None]).sqrt(), "identity"),
    ("gebt.normalise", lambda a: np.diag(1 / a.sum(1).numpy()) @ a.numpy(), "D^-1 A"),
    (
        "gebt.normalise",
        lambda a: (a + torch.eye(len(a))) / (a.sum(0) * a.sum(1)[:, None]).sqrt(),
        "before the loops",
    ),
    ("gebt.mask_distance", lambda a, b: int((a ^ b).sum()), "count"),
    ("gebt.mask_distance", lambda a, b: 1 - (a ^ b).float().mean(), "overlap"),
    ("gebt.mask_distance", lambda a, b: (a.int() - b.int()).clamp(min=0).float().mean(), "came back"),
    ("gebt.draw", lambda w, p: w > w.kthvalue(int(p * len(w))).values, "ties at 1|tie with it"),
    ("gebt.draw", lambda w, p: ~torch.isin(torch.arange(len(w)), w.topk(int(p * len(w))).indices), "largest"),
    ("gebt.macs", 231.6, "dense"),
    ("gebt.macs", 180.4, "swapped"),
    ("gebt.macs", 102.4, "one MAC"),
]


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG)
def test_a_readers_mistake_is_recognised(name, answer, hint, capsys):
    said = answered(capsys, name, answer)
    assert said.startswith("not yet: ")
    assert any(each in said for each in hint.split("|"))


def raises(*_):
    raise IndexError("list index out of range")


@pytest.mark.parametrize(
    ("name", "answer", "hint"),
    [
        ("gebt.macs", None, "no answer yet: how many"),
        ("gebt.draw", ..., "no answer yet: write"),
        ("gebt.macs", "many", "expected numbers, got str 'many'"),
        ("gebt.macs", 1j, "real numbers"),
        ("gebt.macs", [51.2, 51.2], "none of the usual mistakes"),
        ("gebt.macs", 77.0, "none of the usual mistakes"),
        ("gebt.macs", float("nan"), "none of the usual mistakes"),
        ("gebt.macs", lambda: 51.2, "wants a number"),
        ("gebt.draw", torch.ones(10), "wants a function"),
        ("gebt.draw", raises, "stops with IndexError: list index"),
        ("gebt.draw", lambda weights: weights, "stops with TypeError"),
        ("gebt.draw", lambda w, p: None, "your function returns None"),
        ("gebt.draw", lambda w, p: w, "should be bool"),
        ("gebt.draw", lambda w, p: w[1:] > 1, r"the shape is [9], and should be [10]"),
        ("gebt.normalise", lambda a: a.sum(), r"the shape is [], and should be [4, 4]"),
        ("gebt.nosuch", 1, "there is no exercise 'gebt.nosuch'; there are: start.paired"),
    ],
)
def test_what_is_no_answer_gets_a_sentence(name, answer, hint, capsys):
    assert hint in answered(capsys, name, answer)


def test_an_answer_that_works_in_place_spoils_nothing(capsys):
    def in_place(a):
        a += torch.eye(len(a))
        scale = a.sum(1) ** -0.5
        a *= scale
        return a * scale[:, None]

    for _ in range(2):
        assert answered(capsys, "gebt.normalise", in_place).startswith("right")
