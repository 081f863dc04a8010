"""The teacher: trained once by plain A2C until it plays nearly without a miss, and committed."""

from __future__ import annotations

import torch

from workbench import recorded
from workbench.papers.a2d import games
from workbench.papers.a2d.method import Agent, Design
from workbench.papers.a2d.play import Alone, Player, Rules, board, evaluate, learn, new_agent
from workbench.papers.a2d.search import optimiser

NAME = "a2d/teacher"
SEED, LR, DECAY = 999, 4e-3, 0.1
DESIGN = Design(16, (), 64)
STEPS, EVERY = 400_000, 20_000
TARGET, EPISODES = 9.8, 500
"""It stops where it reaches 9.8 of 10 over 500 fresh episodes."""


def record() -> None:
    """Train the teacher and save it under data/recorded (some 15 seconds)."""
    torch.set_num_threads(1)
    rules = Rules()
    env = games.make("catch", rules.copies)
    agent = new_agent(DESIGN, board(env), SEED)
    curve = learn(
        Alone(agent),
        Player(env, SEED),
        optimiser(agent, LR),
        STEPS,
        rules,
        decay=DECAY,
        marks=range(EVERY, STEPS + 1, EVERY),
        score=lambda done: evaluate(agent, "catch", EPISODES, SEED, done),
        target=TARGET,
        stop=True,
        label="the teacher",
    )
    tensors = agent.state_dict() | {"return": torch.tensor(curve.returns[-1])}
    recorded.save_tensors(NAME, tensors, "workbench record a2d", SEED)


def teacher() -> tuple[Agent, float]:
    """The recorded teacher, of whom no parameter takes a gradient, and its return when it was recorded."""
    tensors = recorded.load_tensors(NAME)
    found = float(tensors.pop("return"))
    agent = Agent(DESIGN, board(games.make("catch", 1)))
    agent.load_state_dict(tensors)
    return agent.eval().requires_grad_(False), found
