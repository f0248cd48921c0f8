"""Encoders of texts, pictures and sounds to tensors. One module for each kind of input."""
