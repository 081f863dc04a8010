"""Exercises that check themselves: `check("gebt.mask_distance", my_function)` in a notebook.

An exercise is data: a right answer, and wrong answers that readers really give, each with the hint that names
the mistake. A reader's answer that gives what a known wrong one gives gets its hint. An answer is a number
(predict) or a function (implement); what a function returns is compared on the exercise's inputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from workbench.papers.cpt import method as cpt
from workbench.papers.fractrain import cost as fractrain_cost
from workbench.papers.fractrain import method as fractrain
from workbench.papers.gebt import cost
from workbench.papers.shiftaddnet import shift
from workbench.papers.smartdeal import bucket
from workbench.papers.smartdeal.decompose import power_of_two
from workbench.papers.spline import method as spline

RTOL = 0.005
"""How far an answer may be off, relatively: numbers are meant to three digits."""

Answer = float | Callable[..., Any]


@dataclass(frozen=True)
class Exercise:
    """What is asked, the right answer, what is said then, and the known mistakes as (wrong answer, hint).

    ``inputs`` are a function's arguments, one tuple a call. ``view(output, *arguments)`` is what is compared:
    it hides what the question leaves open.
    """

    question: str
    right: Answer
    praise: str
    mistakes: Sequence[tuple[Answer, str]]
    inputs: Sequence[tuple] = ()
    view: Callable[..., Tensor] = lambda output, *_: output

    def outputs(self, answer: Answer) -> list[Tensor]:
        """What an answer gives, for comparison; ValueError for a wrong type or shape, in words for readers."""
        if not callable(self.right):
            return [_tensor(answer).double()]
        if not callable(answer):
            raise ValueError("this one wants a function, given without calling it")
        results = []
        for arguments in self.inputs:
            wanted, given = (_tensor(f(*_copies(arguments))) for f in (self.right, answer))
            if given.shape != wanted.shape:
                raise ValueError(f"the shape is {list(given.shape)}, and should be {list(wanted.shape)}")
            if wanted.dtype == torch.bool != given.dtype:
                raise ValueError(f"the result should be bool, and is {given.dtype}")
            results.append(self.view(given, *arguments).double())
        return results


def check(name: str, answer: Answer | None = None) -> None:
    """Print whether the answer is right, or a hint; without an answer, print the question."""
    if name not in EXERCISES:
        print(f"there is no exercise {name!r}; there are: {', '.join(EXERCISES)}")
        return
    exercise = EXERCISES[name]
    if answer is None or answer is ...:
        print(f"no answer yet: {exercise.question}")
        return
    try:
        given = exercise.outputs(answer)
    except ValueError as error:
        print(f"not yet: {error}")
    except Exception as error:  # whatever a reader's function raises, a hint is kinder than our traceback
        print(f"not yet: your function stops with {type(error).__name__}: {error}")
    else:
        print(_judge(exercise, given))


def _judge(exercise: Exercise, given: list[Tensor]) -> str:
    if _same(given, exercise.outputs(exercise.right)):
        return f"right: {exercise.praise}"
    for wrong, hint in exercise.mistakes:
        if _same(given, exercise.outputs(wrong)):
            return f"not yet: {hint}"
    return f"not yet, and none of the usual mistakes. Read again: {exercise.question}"


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    pairs = zip(a, b, strict=True)
    return all(x.shape == y.shape and torch.allclose(x, y, rtol=RTOL, atol=1e-6) for x, y in pairs)


def _tensor(answer: Any) -> Tensor:
    if answer is None:
        raise ValueError("your function returns None: does it end in `return ...`?")
    if callable(answer):
        raise ValueError("this one wants a number, not a function")
    try:
        tensor = torch.as_tensor(answer).detach()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"expected numbers, got {type(answer).__name__} {str(answer)[:40]!r}") from None
    if tensor.is_complex():
        raise ValueError("expected real numbers")
    return tensor


def _copies(arguments: tuple) -> list:
    # So that a function that works in place does not spoil the next comparison.
    return [each.clone() if isinstance(each, Tensor) else each for each in arguments]


# --- start here --------------------------------------------------------------------------------------------

WITH, WITHOUT = (80.1, 77.4, 83.0, 79.3, 81.2), (79.5, 77.6, 81.9, 78.4, 81.1)

EXERCISES = {
    "start.paired": Exercise(
        f"two arms, five seeds: with the trick {WITH}, without it {WITHOUT} percent. Mean paired difference?",
        0.5,
        "the seed's own luck cancels in each pair, so five differences say more than two means.",
        [
            (-0.5, "the sign: with minus without, so that a gain is positive."),
            (2.5, "that is the sum of the differences; divide by the number of seeds."),
            (0.58, "those are absolute differences: the second seed lost, and must count as a loss."),
            (0.6, "that is the median of the differences."),
        ],
    ),
}

# --- early-bird tickets ------------------------------------------------------------------------------------

EXERCISES["early_bird.detector"] = Exercise(
    "a mask has 16 entries. From epoch 2 to 8 on, 6, 1, 1, 1, 0, 1, 0 entries change, never the same one twice. "
    "The detector compares the newest mask with each of the last 3 before it and fires where all these distances "
    "are below 0.125. At which epoch (the first is 1)?",
    8,
    "within its last 3 steps only one entry has moved, 1/16 of the mask, and that for the first time.",
    [
        (3, "you compared with the last mask alone; there must be 3 older ones, and all must be near."),
        (5, "you compared neighbours. Steps of 1/16 add up: the newest is 3 entries from the oldest held."),
        (6, "there the distance is 2 / 16 = 0.125, which is not below 0.125."),
        (7, "off by one: the first epoch is 1, and a change from epoch 2 is seen in the mask of epoch 2."),
    ],
)

# --- GEBT --------------------------------------------------------------------------------------------------

RING = torch.tensor([[0, 1, 0, 1.0], [1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]])
STAR = torch.tensor([[0, 0.5, 1.0], [0.5, 0, 0], [1.0, 0, 0]])
KEPT = torch.tensor([1, 1, 1, 0, 0, 1, 1, 1]).bool()
LATER = torch.tensor([1, 0, 0, 1, 0, 1, 1, 1]).bool()
TIED = torch.tensor([1.0, 0.5, 1.0, 1.0, 1.0, 1.2, 0.7, 1.0, 1.0, 2.0])
CITESEER = cost.SHAPES["citeseer"]


def _normalised(a: Tensor, loops: float, degree_loops: float) -> Tensor:
    scale = (a.sum(1) + degree_loops).rsqrt()
    return scale[:, None] * (a + loops * torch.eye(len(a))) * scale


def _draw(weights: Tensor, p: float, largest: bool = False) -> Tensor:
    dropped = weights.argsort(descending=largest, stable=True)[: int(p * len(weights))]
    return torch.ones(len(weights), dtype=torch.bool).index_fill(0, dropped, False)


EXERCISES |= {
    "gebt.normalise": Exercise(
        "write f(A) for a symmetric A [N, N] without loops: D^-1/2 (A + I) D^-1/2, D the row sums of A + I.",
        lambda a: _normalised(a, 1, 1),
        "this is the matrix that a GCN multiplies by, and what an edge's weight enters twice: A and D.",
        [
            (lambda a: _normalised(a, 0, 0), "the identity is missing: a node must hear itself."),
            (lambda a: _normalised(a, 0, 1), "the loops are in D and not in the matrix: use A + I in both."),
            (lambda a: _normalised(a, 1, 0), "the degrees are taken before the loops were added."),
            (lambda a: a / a.sum(1, keepdim=True), "that is D^-1 A: rows alone, and no loops."),
            (lambda a: (a + torch.eye(len(a))) / (a.sum(1)[:, None] + 1), "that is D^-1 (A + I): rows alone."),
        ],
        [(RING,), (STAR,)],
    ),
    "gebt.mask_distance": Exercise(
        "write f(mask_a, mask_b) for bool masks [E]: the fraction of entries that differ.",
        lambda a, b: (a != b).float().mean(),
        "a Hamming distance: 0 for equal masks, and what the early-bird detector watches.",
        [
            (lambda a, b: (a != b).float().sum(), "that is a count; divide by the number of entries."),
            (lambda a, b: (a == b).float().mean(), "that is the overlap, 1 - distance."),
            (lambda a, b: (a & ~b).float().mean(), "entries that were dropped and came back count too."),
            (lambda a, b: (a & b).sum() / a.sum(), "that is the share of kept entries that stay."),
        ],
        [(KEPT, LATER), (LATER, KEPT), (KEPT, KEPT)],
    ),
    "gebt.draw": Exercise(
        "write f(weights, p) for weights [E]: a bool mask that drops exactly int(p E) of the smallest.",
        _draw,
        "exactly int(p E) are gone, ties or not; which of the tied ones go is a choice, so make it by a seed.",
        [
            (
                lambda w, p: w > w.sort().values[int(p * len(w)) - 1],
                "a threshold drops all edges that tie with it, and untrained edges tie at 1: sort, then count.",
            ),
            (
                lambda w, p: w >= w.sort().values[int(p * len(w))],
                "a threshold keeps all edges that tie with it: too few go. Sort, then count.",
            ),
            (lambda w, p: _draw(w, p, largest=True), "you dropped the largest."),
            (lambda w, p: ~_draw(w, p), "the mask is inverted: True means kept."),
        ],
        [(TIED, 0.4), (TIED, 0.25)],
        lambda mask, weights, p: (weights * mask).sort().values,  # any of the tied ones may go
    ),
    "gebt.macs": Exercise(
        "how many million MACs has one pass of the CiteSeer ticket with p_g = 0.1, p_w = 0.9, as Table 2 counts?",
        cost.inference_macs(CITESEER, 0.1, 0.9) / 1e6,
        "most of the saving comes from p_w: the transform is the larger term of the dense network.",
        [
            (cost.inference_macs(CITESEER) / 1e6, "that is the dense network, nothing pruned."),
            (cost.inference_macs(CITESEER, 0.9, 0.1) / 1e6, "p_g and p_w are swapped: p_g prunes edges."),
            (2 * cost.inference_macs(CITESEER, 0.1, 0.9) / 1e6, "a multiply and its add are one MAC here."),
            (cost.inference_macs(CITESEER, 0.1, 0.9), "in millions, please."),
        ],
    ),
}

# --- spline pruning ----------------------------------------------------------------------------------------

WEIGHT = torch.tensor([[1.0, 0], [3, 0], [0.3, 2], [-2, 0.1], [1, 1]], dtype=torch.float64)
BIAS = torch.tensor([0.5, 1.5, -1, 1, 0.2], dtype=torch.float64)
OUT = torch.tensor([[1.0, -2, 0.5], [0, 1, 4]], dtype=torch.float64)
NORMS = torch.tensor([2.0, 1, 3], dtype=torch.float64)


def _line_distance(
    weight: Tensor, bias: Tensor, rho: float, angle: Callable, scale: bool = True, sign: bool = True
) -> Tensor:
    norm = weight.norm(dim=1)
    cos, c = spline.cosine(weight[None])[0], bias / norm if scale else bias
    flip = torch.where(cos < 0, -1.0, 1.0) if sign else torch.ones_like(cos)
    return (1 - angle(cos)).clamp(min=0) + rho * (c[:, None] - flip * c[None]).abs()


def _merged(out: Tensor, norms: Tensor, drop: int, keep: int, factor: Callable) -> Tensor:
    out = out.clone()
    out[:, keep] += factor(norms[drop], norms[keep]) * out[:, drop]
    return out[:, [unit for unit in range(out.shape[1]) if unit != drop]]


EXERCISES |= {
    "spline.regions": Exercise(
        "one hidden layer of 7 ReLU units on the plane, lines in general position: how many regions?",
        29,
        "1 + n + n(n-1)/2: every new line adds one region for each line that it crosses, and one more.",
        [
            (28, "the plane itself is one region before the first line cuts it."),
            (14, "that is 2n: all lines through one point. In general position they meet two by two."),
            (21, "those are the crossings; each adds a region, but so does each line."),
            (128, "2^n sign patterns could be written down, but in the plane most of them are empty."),
            (8, "that is n + 1: parallel lines, or a single input."),
        ],
    ),
    "spline.distance": Exercise(
        "write f(weight [n, 2], bias [n], rho): the distances [n, n] (1 - |cos|) + rho |c_i - s c_j| of the units' "
        "lines, c = b / ||w||, s = the sign of the cosine.",
        lambda w, b, rho: _line_distance(w, b, rho, torch.abs),
        "a unit times any number, or negative in (w, b), has the same line, and distance 0 to itself.",
        [
            (lambda w, b, rho: _line_distance(w, b, rho, lambda cos: cos), "a line has no direction: take |cos|."),
            (
                lambda w, b, rho: _line_distance(w, b, rho, torch.abs, scale=False),
                "c must be b / ||w||: units 1 and 2 have the same line, and yours are apart.",
            ),
            (
                lambda w, b, rho: _line_distance(w, b, rho, torch.abs, sign=False),
                "where the weights point in opposite ways, the offset's sign turns too: compare c_i with s c_j.",
            ),
            (
                lambda w, b, rho: _line_distance(w, b, 0.0, torch.abs),
                "the offset is missing: parallel lines are not one.",
            ),
            (lambda w, b, rho: 1 - _line_distance(w, b, 0.0, torch.abs), "that is |cos|, a likeness: 1 - |cos|."),
        ],
        [(WEIGHT, BIAS, 0.05), (WEIGHT, BIAS, 1.0)],
    ),
    "spline.merge": Exercise(
        "units drop and keep have one line and the same side of it; norms [n] are those of the incoming weights. Write "
        "f(out [C, n], norms, drop, keep): outgoing weights [C, n - 1] without drop that leave the function as it was.",
        lambda *arguments: _merged(*arguments, lambda drop, keep: drop / keep),
        "ReLU of a positive multiple is that multiple of the ReLU, so nothing is lost.",
        [
            (lambda *arguments: _merged(*arguments, lambda drop, keep: 0.0), "you threw the dropped unit's part away."),
            (
                lambda *arguments: _merged(*arguments, lambda drop, keep: 1.0),
                "the two differ in size: scale by their norms.",
            ),
            (lambda *arguments: _merged(*arguments, lambda drop, keep: keep / drop), "the ratio is upside down."),
        ],
        [(OUT, NORMS, 0, 1), (OUT, NORMS, 2, 0)],
    ),
}

# --- cyclic precision --------------------------------------------------------------------------------------

SIGNED = torch.tensor([-1.0, -0.62, -0.1, 0.0, 0.33, 0.8, 1.4])
POSITIVE = torch.tensor([0.0, 0.05, 0.4, 0.77, 1.3])


def _rounded(x: Tensor, low: Tensor, step: Tensor, to: Callable = torch.round) -> Tensor:
    return to((x - low) / step) * step + low


def _levels(x: Tensor, bits: int, count: int = -1, to: Callable = torch.round) -> Tensor:
    return _rounded(x, x.min(), (x.max() - x.min()) / (2**bits + count), to)


def _symmetric(x: Tensor, bits: int) -> Tensor:
    largest = x.abs().max()
    return _rounded(x, -largest, 2 * largest / (2**bits - 1))


def _ramps(steps: int, low: int, high: int, cycles: int, turns: float = 1.0, linear: bool = False) -> Tensor:
    share = torch.arange(steps, dtype=torch.float64) % (steps // cycles) / (steps // cycles)
    rise = share if linear else (1 - torch.cos(turns * torch.pi * share)) / 2
    return low + (high - low) * rise


EXERCISES |= {
    "cpt.saving": Exercise(
        "a training step has one product of b x b bits and two of b x 8. How many per cent do constant 6 bits save "
        "against constant 8?",
        31.25,
        "132 of 192 bit products are left; the two backward ones keep their 8-bit side.",
        [
            (43.75, "that is the forward product alone; two of the three have errors of 8 bits on one side."),
            (25.0, "a product's cost goes with the bits of both its sides: 6 x 6 and 2 x 6 x 8."),
            (68.75, "that is what is left, not what is saved."),
            (0.3125, "in per cent, please."),
        ],
    ),
    "cpt.quantise": Exercise(
        "write f(x, bits): each entry goes to the nearest of 2^bits evenly spaced levels, the least at x.min(), the "
        "largest at x.max().",
        _levels,
        "zero is a level only by luck, or where x.min() is zero.",
        [
            (lambda x, bits: _levels(x, bits, 0), "that makes one level too many: 2^bits levels have 2^bits - 1 gaps."),
            (lambda x, bits: _levels(x, bits, to=torch.floor), "you rounded down: to the nearest."),
            (_symmetric, "your range is symmetric; here it goes from x.min() to x.max()."),
            (lambda x, bits: ((x - x.min()) / (x.max() - x.min()) * (2**bits - 1)).round(), "scale back to x's range."),
        ],
        [(SIGNED, 2), (SIGNED, 3), (POSITIVE, 2)],
    ),
    "cpt.schedule": Exercise(
        "write f(steps, low, high, cycles): bits [steps]. Each cycle of steps // cycles rises from low to high by half "
        "a cosine, low + (high - low)(1 - cos(pi t / cycle)) / 2, rounded, and drops.",
        cpt.cyclic,
        "half of the steps of 3 to 8 run at 5 bits or fewer.",
        [
            (lambda *of: _ramps(*of), "bits are whole numbers: round."),
            (lambda *of: _ramps(*of, turns=2.0).round(), "a whole cosine comes down again; the code drops at once."),
            (lambda *of: _ramps(*of, linear=True).round(), "that rises in a straight line."),
            (lambda *of: cpt.reversed_ramps(*of), "it falls where it should rise."),
            (lambda steps, low, high, cycles: cpt.cyclic(steps, low, high, 1), "that is a single cycle."),
        ],
        [(40, 3, 8, 4), (32, 4, 8, 2)],
    ),
}

# --- fractional bits ---------------------------------------------------------------------------------------

PLATEAUS = [
    2.0,
    1.6,
    1.3,
    1.1,
    1.0,
    0.97,
    0.95,
    0.94,
    0.93,
    0.93,
    0.8,
    0.7,
    0.66,
    0.65,
    0.64,
    0.64,
    0.64,
    0.6,
    0.5,
    0.4,
    0.4,
]
CRAWL = [1.0 - 0.005 * t for t in range(24)]
CHANCES = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]])
UPSTREAM = torch.tensor([[1.0, -0.5, 2.0], [0.3, 0.0, -1.0]])


def _stages(
    losses: Sequence[float],
    epsilon: float,
    alpha: float,
    forget: bool = True,
    shrinks: int = 2,
    neighbours: bool = False,
) -> Tensor:
    stage, window, stages = 0, [], []
    for at, loss in enumerate(losses):
        stages.append(stage)
        scale = sum(losses[: min(at + 1, 10)]) / min(at + 1, 10)
        window = [*window, loss][-5:]
        pairs = pairwise(window) if neighbours else ((old, loss) for old in window)
        if stage < 3 and len(window) == 5 and max(abs(a - b) for a, b in pairs) / scale <= epsilon:
            stage += 1
            epsilon *= alpha if stage <= shrinks else 1
            window = [] if forget else window
    return torch.tensor(stages)


EXERCISES |= {
    "fractrain.cp": Exercise(
        "weights of 6 bits, inputs of 4, errors of 8: cp, the three products' bits in per cent of those of 32 bits?",
        fractrain_cost.cp(6, 4, 8),
        "(24 + 48 + 32) / 3072; which of the three has which bits makes no difference.",
        [
            (100 * 24 / 1024, "that is the forward product alone."),
            (fractrain_cost.cp(6, 4, 8) / 100, "in per cent, please."),
            (100 * 104 / 1024, "three products of 32 bits are 3072."),
            (100 * 6 * 4 * 8 / 32**3, "each of the three products has two sides: 6 x 4, 6 x 8, 4 x 8."),
        ],
    ),
    "fractrain.stages": Exercise(
        "write f(losses, epsilon, alpha): the stage (0 to 3) in which each period is trained. After a period its loss "
        "joins a window of at most 5; when 5 are there and the older 4 all lie within epsilon x scale of the newest, "
        "the next stage begins and the window is emptied. scale: the mean of the first 10 losses, or of those so far. "
        "epsilon is multiplied by alpha after switches 1 and 2.",
        lambda losses, epsilon, alpha: fractrain.staircase(losses, epsilon, alpha),
        "a stage lasts five periods at least, and a steady crawl may look like a standstill.",
        [
            (
                lambda *of: _stages(*of, forget=False),
                "empty the window at a switch: each stage needs five losses of its own.",
            ),
            (lambda *of: _stages(*of, shrinks=0), "epsilon must shrink by alpha after the first two switches."),
            (lambda *of: _stages(*of, neighbours=True), "compare each with the newest, not with its neighbour."),
            (
                lambda *of: torch.cat([fractrain.staircase(*of)[1:], fractrain.staircase(*of)[-1:]]),
                "off by one: a period's own loss decides about the next one.",
            ),
        ],
        [(PLATEAUS, 0.2, 0.4), (CRAWL, 0.05, 0.9)],
    ),
    "fractrain.straight_through": Exercise(
        "the gate passes on a one-hot choice, and its gradient is taken as if it had passed on the softmax p [n, c]. "
        "Write f(p, g): the gradient of the logits, where g [n, c] arrives at the choice.",
        lambda p, g: p * (g - (p * g).sum(-1, keepdim=True)),
        "a choice that would have helped more than the mean gets a larger logit, although it was not taken.",
        [
            (lambda p, g: g, "that treats the choice as the logits themselves; go through the softmax."),
            (lambda p, g: torch.zeros_like(p), "the choice itself has no gradient: that is why the softmax's is used."),
            (lambda p, g: p * g, "the softmax's rows sum to one: the mean of g under p must be taken off."),
            (lambda p, g: p * (1 - p) * g, "that is the diagonal alone: raising one logit lowers the others."),
        ],
        [(CHANCES, UPSTREAM)],
    ),
}

# --- power-of-two coefficients -----------------------------------------------------------------------------

NUMBERS = torch.tensor([0.0, 0.36, -0.36, 0.8, 1.5, -3.0, 1.4, 0.09, -5.9, 12.0])
COEFFICIENTS = torch.tensor([1.0, -0.5, 0.25, -0.25, 0.0, 0.0, 8.0, -2.0])
PUSHES = torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0, -1.0, -1.0, -1.0])


def _power(x: Tensor, exponent: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.where(x == 0, x, x.sign() * 2.0 ** exponent(x.abs().clamp(min=1e-9)))


EXERCISES |= {
    "smartdeal.bits": Exercise(
        "a block of 64 channels has 192 rows of three coefficients; 216 of them are not zero and use 5 exponents. How "
        "many bits are codes, mask and an 8-bit basis?",
        4 * 216 + 576 + 72,
        "864 of codes, 576 of mask, 72 of basis: 12.2 times fewer than in FP32, and the basis is the least of it.",
        [
            (3 * 216 + 576 + 72, "the sign is missing: 3 bits tell 5 exponents apart, and one more is the sign."),
            (4 * 216 + 72, "how would you know where the zeros are? One mask bit a coefficient."),
            (4 * 216 + 576, "the basis is missing: 9 numbers of 8 bits."),
            (4 * 576 + 72, "with a mask the zeros have no code."),
            (5 * 216 + 576 + 72, "5 exponents are told apart by 3 bits, not by 4."),
        ],
    ),
    "smartdeal.power_of_two": Exercise(
        "write f(x): each entry becomes the nearest of 0 and +-2^k, nearest by |difference|, of two equally near ones "
        "the smaller; zero stays zero.",
        power_of_two,
        "the boundary lies at 1.5 times a power of two, so 0.36 becomes 0.25.",
        [
            (
                lambda x: _power(x, lambda a: a.log2().round()),
                "you rounded the logarithm: 0.36 is nearer to 0.25 than to 0.5. The boundary is 1.5 x 2^k.",
            ),
            (lambda x: _power(x, lambda a: a.log2().floor()), "you rounded down: 0.8 is nearer to 1 than to 0.5."),
            (
                lambda x: _power(x, lambda a: a.log2().floor() + (a >= 1.5 * 2 ** a.log2().floor())),
                "ties go down: 1.5 becomes 1, and 12 becomes 8.",
            ),
            (lambda x: power_of_two(x).abs(), "the sign got lost."),
        ],
        [(NUMBERS,)],
    ),
    "smartdeal.switch": Exercise(
        "write f(c, d, smallest): the coefficients after their buckets ran full in direction d (+1: up, -1: down). A "
        "step towards larger magnitude doubles, the other halves; what falls below smallest becomes 0; from 0 it goes "
        "to d x smallest.",
        bucket.switched,
        "the sign changes only by way of zero, and powers of two stay powers of two.",
        [
            (
                lambda c, d, smallest: torch.where(c == 0, d * smallest, c * 2.0**d),
                "up is towards plus: pushed up, -0.5 becomes -0.25. And what falls below smallest becomes 0.",
            ),
            (
                lambda c, d, smallest: torch.where(c == 0, d * smallest, c * 2.0 ** (d * c.sign())),
                "what falls below smallest becomes 0, or it could shrink for ever and never change its sign.",
            ),
            (
                lambda c, d, smallest: bucket.switched(c, d, smallest) * (c != 0),
                "a zero inside the mask comes back, as d x smallest.",
            ),
            (
                lambda c, d, smallest: bucket.switched(c, -d, smallest),
                "the direction is the step's, not the gradient's: +1 moves up.",
            ),
        ],
        [(COEFFICIENTS, PUSHES, 0.25)],
    ),
}

# --- shifts and additions ----------------------------------------------------------------------------------

WEIGHTS = torch.tensor([0.36, -0.36, 0.8, 0.0, -0.7, 0.001, 1.7, 0.3])
SEEN = torch.tensor([[0.5, 1.0, -2.0], [0.0, 3.0, 0.25], [-1.0, 0.5, 0.5], [2.0, -0.5, 1.0]])
TEMPLATES = torch.tensor([[1.0, -1.0, 0.5], [0.2, 0.4, -0.6]])
ASKED = torch.tensor([[1.0, -0.5], [0.3, 0.2], [-0.7, 1.0], [0.1, 0.4]])


def _clipped(w: Tensor, low: int, exponent: Callable[[Tensor], Tensor]) -> Tensor:
    return w.sign() * 2.0 ** exponent(w.abs().clamp(min=1e-9)).clamp(low, 0)


EXERCISES |= {
    "shiftaddnet.saving": Exercise(
        "8-bit fixed point: multiplication 0.2 pJ, addition 0.03, shift 0.024. A convolution becomes a shift layer and "
        "an adder layer of its size. How many per cent of the arithmetic's energy are saved?",
        100 * (1 - (0.024 + 0.03 + 2 * 0.03) / (0.2 + 0.03)),
        "0.114 pJ in place of 0.23: a half. In 32 bits it would be nine tenths.",
        [
            (100 * (1 - (0.024 + 2 * 0.03) / 0.2), "the products of both have to be summed: that is an addition each."),
            (
                100 * (1 - (0.024 + 0.03 + 0.03) / 0.23),
                "an adder layer has two additions for a MAC: a difference, and a sum.",
            ),
            (100 * (1 - (0.024 + 0.03) / 0.23), "that is the shift layer alone; behind it stands an adder layer."),
            (100 * (0.024 + 0.03 + 2 * 0.03) / 0.23, "that is what is left; the question is what is saved."),
        ],
    ),
    "shiftaddnet.to_shift": Exercise(
        "write f(w, low): each entry becomes the signed power of two whose exponent is nearest to log2 |w|, exponents "
        "from low to 0; zero stays zero.",
        shift.round_power,
        "by exponent the boundary lies at the root of two: 0.36 becomes 0.5.",
        [
            (
                lambda w, low: shift.round_power(w, low, "linear"),
                "you took the nearest by value: 0.36 is nearer to 0.25. By exponent it is nearer to 0.5.",
            ),
            (lambda w, low: _clipped(w, low, lambda a: a.log2().floor()), "you rounded down; round to the nearest."),
            (lambda w, low: shift.round_power(w, low).abs(), "the sign got lost."),
            (
                lambda w, low: w.sign() * 2.0 ** w.abs().clamp(min=1e-9).log2().round(),
                "exponents end at low and at 0: 1.7 becomes 1, and 0.001 becomes 2^low.",
            ),
        ],
        [(WEIGHTS, -7)],
    ),
    "shiftaddnet.template_gradient": Exercise(
        "an adder layer answers y = -sum |x - w| to patches x [P, K] with templates w [O, K]; g [P, O] arrives at y. "
        "Write f(x, w, g): the gradient of w in the paper's full-precision form [O, K], before it is scaled.",
        lambda x, w, g: g.T @ x - w * g.sum(0)[:, None],
        "one product of matrices, and no tensor of size P x O x K.",
        [
            (
                lambda x, w, g: (g[:, :, None] * (x[:, None] - w).sign()).sum(0),
                "that is the true gradient, signs alone; the paper takes x - w itself.",
            ),
            (
                lambda x, w, g: (g[:, :, None] * (x[:, None] - w).clamp(-1, 1)).sum(0),
                "clipping is for the gradient of x; that of w is not clipped.",
            ),
            (lambda x, w, g: w * g.sum(0)[:, None] - g.T @ x, "the sign: a larger answer moves w towards x."),
            (lambda x, w, g: g.T @ x, "that is a convolution's; the template itself must be taken off, times sum g."),
        ],
        [(SEEN, TEMPLATES, ASKED)],
    ),
}
