"""What all fault tests share: the counts printed at the end, with the seed."""

from __future__ import annotations

import pytest

from faults import campaign

#: Minutes of waiting for keepalives and time limits are not for every day.
collect_ignore = ["test_hostile_broker.py", "test_pulled_cable.py"] if campaign.IS_SHORT else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts."""
    if campaign.COUNTS:
        terminalreporter.section(f"fault campaign, seed {campaign.SEED}")
        for line in campaign.summary():
            terminalreporter.line(line)
