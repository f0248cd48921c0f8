"""A target's CPU emulated by qemu: its system root, and a bundle run in it."""
