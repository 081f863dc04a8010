"""The games: Catch as a Gymnasium environment, its rules for many copies at once, and MinAtar where it is installed.

Catch: a ball falls one row a step and drifts sideways, a paddle on the bottom row moves one column a step. Ten balls
make an episode, each caught one is worth 1. The board has ten rows and five columns, so a ball takes nine steps to land
and can always be caught; a paddle that moves at random catches one in five.

Copies restart in the step in which their episode ends (`AutoresetMode.SAME_STEP`): what a step returns is then the
first observation of the next episode, and the last one of the old is in ``infos["final_obs"]``. So no step is lost to a
fake transition, and an agent that bootstraps after a time limit finds the state that it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TimeLimit, TransformObservation
from numpy.typing import NDArray

from workbench import WorkbenchError

ROWS, COLUMNS, BALLS = 10, 5, 10
PLANES = 3
"""Paddle, ball, and the ball one step ago (which shows its drift)."""
BOARD = spaces.Box(0.0, 1.0, (PLANES, ROWS, COLUMNS), np.float32)
MOVES = spaces.Discrete(3)
"""Left, stay, right."""
LIMIT = 1000
"""Steps until an episode of MinAtar is cut: Breakout has no end of its own for a good player."""


def balls(random: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Columns in which an episode's balls appear, and their drifts: -1, 0 or 1, [BALLS] each."""
    return random.integers(0, COLUMNS, BALLS), random.integers(-1, 2, BALLS)


class Catch(gymnasium.Env):
    """One board. Observations [3, 10, 5] of zeros and ones, actions left, stay, right; an episode is 90 steps."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = BOARD, MOVES

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray, dict[str, Any]]:
        """A new episode, the paddle in the middle."""
        super().reset(seed=seed)
        self.columns, self.drifts = balls(self.np_random)
        self.paddle, self.landed = COLUMNS // 2, 0
        self._serve()
        return self._observe(), {}

    def step(self, action: int) -> tuple[NDArray, float, bool, bool, dict[str, Any]]:
        """The paddle moves, then the ball; where it lands the next one appears."""
        self.paddle = min(max(self.paddle + int(action) - 1, 0), COLUMNS - 1)
        self.before = self.ball
        row, column = self.ball
        if not 0 <= column + self.drift < COLUMNS:
            self.drift = -self.drift  # reflected at the wall
        self.ball = row + 1, column + self.drift
        reward = 0.0
        if self.ball[0] == ROWS - 1:
            reward = float(self.ball[1] == self.paddle)
            self.landed += 1
            if self.landed < BALLS:
                self._serve()
        return self._observe(), reward, self.landed == BALLS, False, {}

    def _serve(self) -> None:
        self.ball = self.before = 0, int(self.columns[self.landed])
        self.drift = int(self.drifts[self.landed])

    def _observe(self) -> NDArray:
        board = np.zeros(BOARD.shape, np.float32)
        board[0, ROWS - 1, self.paddle] = board[1][self.ball] = board[2][self.before] = 1
        return board


class CatchVector(VectorEnv):
    """Many boards in one numpy step, each the same as a `Catch` of its seed.

    Args:
        copies: how many.
        limit: steps after which an episode is cut (truncated), if it has not ended.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, copies: int, limit: int | None = None) -> None:
        self.num_envs, self.limit = copies, limit
        self.single_observation_space, self.single_action_space = BOARD, MOVES
        self.observation_space = gymnasium.vector.utils.batch_space(BOARD, copies)
        self.action_space = gymnasium.vector.utils.batch_space(MOVES, copies)
        self.copies = np.arange(copies)
        self.columns = np.zeros((copies, BALLS), np.int64)
        self.drifts = self.columns.copy()
        # [paddle, ball's row, its column, row and column before, drift, balls landed, steps], one row a copy
        self.state = np.zeros((8, copies), np.int64)
        self.randoms = [np.random.default_rng() for _ in range(copies)]

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray, dict[str, Any]]:
        """New episodes; a number as seed stands for seed, seed + 1, ... as Gymnasium has it."""
        if seed is not None:
            seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
            self.randoms = [gymnasium.utils.seeding.np_random(each)[0] for each in seeds]
        self._begin(self.copies)
        return self._observe(), {}

    def step(self, actions: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray, dict[str, Any]]:
        """All boards at once; those whose episode is over begin a new one in the same step."""
        paddle, row, column, row_before, column_before, drift, landed, steps = self.state
        np.clip(paddle + actions - 1, 0, COLUMNS - 1, out=paddle)
        row_before[:], column_before[:] = row, column
        aside = column + drift
        drift[(aside < 0) | (aside >= COLUMNS)] *= -1
        row += 1
        column += drift
        steps += 1
        down = row == ROWS - 1
        rewards = (down & (column == paddle)).astype(np.float64)
        landed += down
        terminated = landed == BALLS
        self._serve(np.flatnonzero(down & ~terminated))
        truncated = ~terminated & (steps == self.limit)
        infos: dict[str, Any] = {}
        over = terminated | truncated
        if over.any():
            infos = {"final_obs": self._observe(), "_final_obs": over}
            self._begin(np.flatnonzero(over))
        return self._observe(), rewards, terminated, truncated, infos

    def _begin(self, which: NDArray) -> None:
        for i in which:
            self.columns[i], self.drifts[i] = balls(self.randoms[i])
        self.state[:, which] = 0
        self.state[0, which] = COLUMNS // 2
        self._serve(which)

    def _serve(self, which: NDArray) -> None:
        landed = self.state[6, which]
        self.state[[[1], [3]], which] = 0
        self.state[[[2], [4]], which] = self.columns[which, landed]
        self.state[5, which] = self.drifts[which, landed]

    def _observe(self) -> NDArray:
        board = np.zeros((self.num_envs, *BOARD.shape), np.float32)
        paddle, row, column, row_before, column_before, *_ = self.state
        board[self.copies, 0, ROWS - 1, paddle] = 1
        board[self.copies, 1, row, column] = 1
        board[self.copies, 2, row_before, column_before] = 1
        return board


def _minatar(name: str) -> gymnasium.Env:
    env = TimeLimit(gymnasium.make(name), LIMIT)
    rows, columns, planes = env.observation_space.shape
    shape = spaces.Box(0.0, 1.0, (planes, rows, columns), np.float32)
    return TransformObservation(env, lambda board: board.transpose(2, 0, 1).astype(np.float32), shape)


def make(game: str, copies: int, limit: int | None = None) -> VectorEnv:
    """Copies of a game side by side: "catch", or one of MinAtar's such as "breakout".

    Raises:
        WorkbenchError: MinAtar is asked for and not installed, or has no such game.
    """
    if game == "catch":
        return CatchVector(copies, limit)
    try:
        from minatar.gym import register_envs
    except ImportError:
        raise WorkbenchError(
            f"the game {game!r} is MinAtar's, which is not installed: it is GPL, so we do not depend on it. "
            'Install it with `pip install minatar`, or play "catch"'
        ) from None
    name = f"MinAtar/{game.title().replace('_', '')}-v1"
    if name not in gymnasium.registry:
        register_envs()
    if name not in gymnasium.registry:
        raise WorkbenchError(
            f"MinAtar has no game {game!r}: choose asterix, breakout, freeway, seaquest, space_invaders"
        )
    return SyncVectorEnv([partial(_minatar, name)] * copies, autoreset_mode=AutoresetMode.SAME_STEP)
