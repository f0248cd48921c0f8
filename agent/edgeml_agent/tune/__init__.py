"""How a release runs best on this machine: how many threads, how many requests a run, weights prepared on the disk.

Nothing here serves: `sweep` finds it out in a child process, `tuned` remembers it, `serve` reads that when it loads.
"""
