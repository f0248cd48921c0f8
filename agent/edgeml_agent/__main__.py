"""The `edgeml-agent` program; `python -m edgeml_agent` runs it, too."""

from edgeml_agent.cli import main

if __name__ == "__main__":
    main()
