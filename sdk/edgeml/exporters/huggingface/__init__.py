"""Hugging Face folders: their JSON files, and the model loaded by transformers."""
