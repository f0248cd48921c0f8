"""The fetch of a release's chunks to the disk: the window, the order of requests, and their wire keys."""
