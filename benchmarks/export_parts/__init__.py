"""The parts of `benchmarks/export.py`.

`contenders` makes the models with each tool, `runner` runs one in a process of its own, `race` lets them take turns.
"""
