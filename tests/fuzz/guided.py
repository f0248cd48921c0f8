"""Atheris on the parsers, in a process of its own: `python guided.py INPUTS SEED FOLDER`.

Inputs are made from those in the folder, guided by which lines of ours each reaches; the first byte of an input chooses
the parser. A parser that raises what isn't one of the project's errors, takes too long or too much memory ends the
process with another code than 0, and the folder has the input.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["edgeml_core", "edgeml_runtime", "edgeml_agent"]):
    from fuzz import parsers


def main(inputs: str, seed: str, folder: str) -> None:
    """Run."""
    options = {
        "runs": inputs,
        "seed": seed,
        "max_len": parsers.INPUT_MAX_BYTES,
        "timeout": parsers.PARSE_MAX_S,
        "rss_limit_mb": parsers.MEMORY_MAX_MB,
        "artifact_prefix": f"{folder}/refused-",
        "print_final_stats": 1,
    }
    atheris.Setup([sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), folder], parsers.parse_any)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
