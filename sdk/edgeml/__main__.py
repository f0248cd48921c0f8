"""The `edgeml` program. Here only what must happen before the command line's own libraries are imported."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run `edgeml`; where its command line isn't installed, say which install mends that."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import click  # noqa: F401, PLC0415 - absent where only the agent is installed
    except ModuleNotFoundError:
        sys.stderr.write("error[extra-missing]: the host's command line is not installed here\n")
        sys.stderr.write("hint: pip install 'edgeml[export]' to export models, 'edgeml[fleet]' to steer a fleet\n")
        raise SystemExit(2) from None
    from edgeml.cli.main import run  # noqa: PLC0415 - after the check above

    run()


if __name__ == "__main__":
    main()
