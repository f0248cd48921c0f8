"""Runs of a model in a child process, apart from the serving ones: the probe, tuning, operators' calls."""
