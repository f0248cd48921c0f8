"""Texts, pictures and sounds become tensors. One module for each kind of input."""
