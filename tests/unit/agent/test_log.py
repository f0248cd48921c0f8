"""The log: one bounded line an event, which nothing received can forge."""

from edgeml_agent import log
from edgeml_core.errors import TransportError


def said(capsys, say):
    """What came out on stderr."""
    log.set_up()
    say()
    return capsys.readouterr().err


def test_an_event_is_a_line(capsys):
    """With time, level and quoted values; empty ones are left out."""
    line = said(capsys, lambda: log.event("update active", model="mood", version="1.0", code=""))
    assert line.rstrip("\n").partition("Z ")[2] == 'INFO update active model="mood" version="1.0"'


def test_values_can_t_begin_a_line(capsys):
    """Whoever sends them."""
    error = TransportError("trust-unavailable", "a\n2026 INFO all is well")
    line = said(capsys, lambda: log.failure("refused", error, model="x" * 10_000))
    assert line.count("\n") == 1
    assert len(line) <= log.LINE_MAX_CHARS + 50


def test_a_defect_comes_with_its_traceback(capsys):
    """For whoever has to mend it."""
    try:
        _ = 1 / 0
    except ZeroDivisionError as error:
        defect = error
    assert "ZeroDivisionError: division" in said(capsys, lambda: log.defect("update failed", defect, model="mood"))
