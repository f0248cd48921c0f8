"""Trained models that packages on the package index carry, the items they answer, and their own metrics."""
