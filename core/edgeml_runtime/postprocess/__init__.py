"""Postprocessing, from a model's outputs to answers: a table by kind, and one module for each kind of answer."""
