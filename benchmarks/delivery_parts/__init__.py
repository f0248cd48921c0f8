"""The parts of `benchmarks/delivery.py`: each prints its own figures."""
