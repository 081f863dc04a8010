"""Exercises on pipelines and expected costs."""

import torch
from torch import Tensor

from workbench.exercises import Exercise

TIMES = torch.tensor([3.0, 5.0, 2.0, 4.0])
CHUNKS = torch.tensor([0, 1, 0, 1])
TABLE = torch.tensor([[4.0, 6.0], [1.0, 3.0], [9.0, 2.0]])
ODDS = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.25, 0.75])


def pipeline(times: Tensor, chunks: Tensor) -> Tensor:
    """Images a second, times in ms: the slowest chunk decides."""
    return 1e3 / torch.zeros(int(chunks.max()) + 1).index_add(0, chunks, times).max()


def expected(table: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """The exact expectation of ``table[i, j]`` under independent choices."""
    return p @ table @ q


EXERCISES = {
    "dna.bottleneck": Exercise(
        "four layers take 3, 5, 2 and 4 ms and go to chunks 1, 2, 1 and 2. Images flow through the chunks as through a "
        "pipeline. How many images a second?",
        1e3 / 9,
        "chunk 1 takes 5 ms and chunk 2 takes 9: an image leaves every 9 ms, 111 a second.",
        [
            (1e3 / 14, "that is one image after the other; in a pipeline both chunks work at the same time."),
            (1e3 / 5, "that is the faster chunk: the slower one holds everybody up."),
            (9.0, "9 ms between two images is right; how many is that in a second?"),
            (1e3 / 7, "the mean of the chunks is not what an image waits for."),
        ],
    ),
    "dna.fps": Exercise(
        "write f(times, chunks): images a second of a pipeline; times of layers in ms, chunks says which chunk (0, 1, "
        "...) has each.",
        pipeline,
        "layers of a chunk add up, and the slowest chunk decides.",
        [
            (lambda t, c: 1e3 / t.sum(), "chunks work at the same time: take the largest of their sums."),
            (lambda t, c: 1e3 / t.max(), "a chunk computes all of its layers for each image: add them up."),
            (lambda t, c: pipeline(t, c) / 1e3, "times are in ms, and images are counted by the second."),
            (
                lambda t, c: 1e3 / torch.zeros(int(c.max()) + 1).index_add(0, c, t).mean(),
                "the slowest chunk decides, not the mean.",
            ),
        ],
        [(TIMES, CHUNKS), (TIMES, torch.tensor([2, 0, 1, 0])), (TIMES, torch.zeros(4, dtype=torch.long))],
    ),
    "dna.expected": Exercise(
        "write f(table, p, q): the exact expected cost where operator i has probability p[i] and configuration j has "
        "q[j]; no sampling.",
        expected,
        "it is linear in p for a given q and the other way round, so autograd's derivative is the true one.",
        [
            (lambda t, p, q: t[p.argmax(), q.argmax()], "that is the cost of the most probable design, and constant."),
            (lambda t, p, q: t.mean(), "weigh each design by its probability p[i] q[j]."),
            (lambda t, p, q: (t * p[:, None]).sum(0).min(), "the configuration is drawn as well: weigh by q too."),
            (lambda t, p, q: (p @ t).sum(), "the columns want the weights q."),
        ],
        [(TABLE, *ODDS), (TABLE, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0]))],
    ),
    "dna.disguise": Exercise(
        "the released loss is cost x prod((1 - p_i) + p_i), where (1 - p_i) is detached and p_i is the probability of "
        "what was sampled. Three choices with p = 0.2, 0.5, 0.9, cost 7: its derivative in the first p?",
        7.0,
        "each factor is 1, so the derivative is the cost itself, whatever p is and whatever was sampled.",
        [
            (0.0, "the second p in the factor is not detached."),
            (-7.0, "the factor grows with p: every sample pushes its own probability down, good or bad."),
            (1.4, "not cost times p: that would be the value of cost x p."),
            (35.0, "dividing by p is the score function; here nothing divides."),
        ],
    ),
}
