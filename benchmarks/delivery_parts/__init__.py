"""The parts of `benchmarks/delivery.py`, and the models that they deliver."""
