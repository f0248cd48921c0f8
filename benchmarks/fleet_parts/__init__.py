"""The parts of `benchmarks/fleet.py`: a simulator of devices, and what is measured with it."""
