"""The parts of `benchmarks/serving.py`, and what they share: the models, the load, the rival servers."""
