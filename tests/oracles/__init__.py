"""Slow, independent versions of what the package does another way."""
