"""Start-up time of `edgeml --help` beside a Python that does nothing: `python benchmarks/startup.py`.

Both run as whole processes, in turns.
"""

from harness import program

PARTS = {"startup": ["startup_parts.help_command"]}

if __name__ == "__main__":
    program.main(__doc__, PARTS)
