"""Hugging Face folders: what their files say, and the model loaded by transformers."""
