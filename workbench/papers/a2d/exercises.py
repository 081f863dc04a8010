"""Exercises on returns, distillation and what an operator costs."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from workbench.exercises import Exercise
from workbench.papers.a2d.method import operator_macs, returns

# Three copies, five steps: one runs on, one ends in the third step, one is cut by time in the second.
REWARDS = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 0]])
TERMINATED = torch.zeros(5, 3, dtype=torch.bool)
TERMINATED[2, 1] = True
TRUNCATED = torch.zeros(5, 3, dtype=torch.bool)
TRUNCATED[1, 2] = True
FINAL = torch.zeros(5, 3)
FINAL[1, 2] = 3.0
LAST = torch.tensor([2.0, 4.0, 1.0])


def _walk(after: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns whose rest after a step is ``after(following, terminated, truncated, final)``."""

    def found(
        rewards: Tensor, terminated: Tensor, truncated: Tensor, final: Tensor, last: Tensor, gamma: float
    ) -> Tensor:
        out, following = torch.empty_like(rewards), last
        for t in reversed(range(len(rewards))):
            following = out[t] = rewards[t] + gamma * after(following, terminated[t], truncated[t], final[t])
        return out

    return found


EXERCISES = {
    "a2d.kl": Exercise(
        "a game with two moves: the teacher takes the first with probability 0.8, the student with 0.5. What is the "
        "actor's distillation loss, in nats?",
        0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5),
        "the teacher stands first: where it is sure, the student must not be without probability.",
        [
            (0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2), "that is KL(student || teacher): swap them."),
            (
                0.8 * math.log2(0.8 / 0.5) + 0.2 * math.log2(0.2 / 0.5),
                "those are bits: nats need the natural logarithm.",
            ),
            (0.8 * math.log(0.8 / 0.5), "the second move counts too: 0.2 x log(0.2 / 0.5), which is negative."),
            (0.4 * math.log(0.8 / 0.5) + 0.1 * math.log(0.2 / 0.5), "a sum over moves, no mean (reduction='mean'!)."),
        ],
    ),
    "a2d.macs": Exercise(
        "an inverted residual with kernel 5 and expansion 3, on 8 channels and 8x3 positions. How many MACs?",
        operator_macs("ir 5 e3", 8, 24),
        "two 1x1 convolutions of 8 to 24 channels, and 25 weights for each of the 24 hidden ones.",
        [
            ((8 * 24 + 25 * 24) * 24, "both 1x1 convolutions count: one expands, one projects."),
            ((2 * 8 * 24 + 25 * 24 * 24) * 24, "depthwise: a hidden channel sees only itself."),
            (2 * 8 * 24 + 25 * 24, "that is one position; there are 8x3."),
            ((2 * 8 * 24 + 25 * 8) * 24, "the depthwise convolution works on the 24 hidden channels."),
        ],
    ),
    "a2d.returns": Exercise(
        "write f(rewards, terminated, truncated, final, last, gamma): n-step returns [T, N] of a rollout. After a "
        "terminated step nothing follows; after a truncated one the value in final; after the last step the value in "
        "last.",
        returns,
        "an episode that was cut would have gone on, and its value says how well.",
        [
            (
                _walk(lambda following, terminated, truncated, final: following * ~(terminated | truncated)),
                "truncation is no termination: an episode that was cut by time is completed by its value in final.",
            ),
            (
                _walk(lambda following, terminated, truncated, final: torch.where(truncated, final, following)),
                "a terminated episode is over: what follows in the rollout is the next episode's.",
            ),
            (
                _walk(lambda following, terminated, truncated, final: following * ~terminated),
                "after a truncated step the rollout goes on with a new episode: take the value in final instead.",
            ),
            (
                lambda *given: returns(*given[:4], 0 * given[4], given[5]),
                "the rollout ends, the episode does not: bootstrap with the values in last.",
            ),
        ],
        [(REWARDS, TERMINATED, TRUNCATED, FINAL, LAST, 0.9)],
    ),
}
