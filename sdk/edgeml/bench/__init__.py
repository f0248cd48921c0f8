"""How fast a bundle runs on this machine, and whether the machine was quiet enough to say so.

`measure` is the whole of it; `trial` is the process that runs the model. Nothing here compares or judges models.
"""
