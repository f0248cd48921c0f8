"""The parts of `benchmarks/startup.py`."""
