"""The log: one bounded line an event, which nothing received can forge."""

from edgeml_agent import log
from edgeml_core.errors import TransportError


def logged(capsys, log_it):
    """What came out on stderr."""
    log.set_up()
    log_it()
    return capsys.readouterr().err


def test_event_is_one_line(capsys):
    """With time, level and quoted values; empty ones are left out."""
    line = logged(capsys, lambda: log.event("update active", model="mood", version="1.0", code=""))
    assert line.rstrip("\n").partition("Z ")[2] == 'INFO update active model="mood" version="1.0"'


def test_values_with_newlines_stay_in_their_line(capsys):
    """Whoever sends them."""
    error = TransportError("trust-unavailable", "a\n2026 INFO all is well")
    line = logged(capsys, lambda: log.failure("refused", error, model="x" * 10_000))
    assert line.count("\n") == 1
    assert len(line) <= log.LINE_MAX_CHARS + 50


def test_defect_has_its_traceback(capsys):
    """For the developer who has to fix it."""
    try:
        _ = 1 / 0
    except ZeroDivisionError as error:
        defect = error
    assert "ZeroDivisionError: division" in logged(capsys, lambda: log.defect("update failed", defect, model="mood"))
