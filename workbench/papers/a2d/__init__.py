"""A2D: agents for reinforcement learning, searched with a teacher at hand."""
