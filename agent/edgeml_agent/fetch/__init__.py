"""A release's chunks on their way to the disk: how many at a time, in which order, and by which keys."""
