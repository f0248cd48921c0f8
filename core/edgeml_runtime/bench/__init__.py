"""Benchmarks of a bundle, and how busy the host was during them."""
