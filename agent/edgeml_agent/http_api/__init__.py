"""Inference over HTTP: one gateway, and a package or module for each API behind it."""
