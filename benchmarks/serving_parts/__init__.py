"""The parts of `benchmarks/serving.py`: each prints its own figures."""
