"""The parts of `benchmarks/language.py`, one for each shape of model.

`shapes` makes the models, `contenders` and `rivals` convert them for each engine, `runner` runs one in a process of
its own, and `comparison` lets them take turns and returns the figures.
"""
