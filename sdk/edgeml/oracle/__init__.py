"""The oracle: a model's own library answers raw items, in a process and, if asked, an environment of its own.

It takes no tensor, tokenizer or setting from edgeml, so that it can judge edgeml's. `library` has the process on the
host's side, `child` is the program, and each other module the adapter to one library.
"""
