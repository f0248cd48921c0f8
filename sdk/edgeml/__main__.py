"""The `edgeml` program: the steps before the libraries of the command line are imported."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run `edgeml`, or name the install that provides its command line."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import click  # noqa: F401, PLC0415 - absent where only the agent is installed
    except ModuleNotFoundError:
        sys.stderr.write("error[extra-missing]: the command line of the host is not installed here\n")
        sys.stderr.write(
            "hint: pip install 'edgeml-deploy[export]' to export models, 'edgeml-deploy[fleet]' to serve a fleet\n"
        )
        raise SystemExit(2) from None
    from edgeml.cli.main import run  # noqa: PLC0415 - after the check above

    run()


if __name__ == "__main__":
    main()
