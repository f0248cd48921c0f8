"""Rollouts: a deployment in waves, each of which has to end well before the next one begins."""
