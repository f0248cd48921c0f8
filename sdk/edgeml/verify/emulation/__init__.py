"""A target's CPU emulated by qemu: its system root, and a bundle verified in it."""
