"""The log: one bounded line an event, which nothing received can forge."""

import json

import pytest

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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mqtt://me:hunter2@host refused", "mqtt://***@host refused"),
        ("Authorization: Bearer abc.def-1 sent", "Authorization: Bearer *** sent"),
        ("password=hunter2, next", "password=***, next"),
        ('{"api_key": "abc"}', '{"api_key": "***"}'),
        ("the prompt has 12 tokens", "the prompt has 12 tokens"),
        ("wrote tokens=12 for password_file", "wrote tokens=12 for password_file"),
        ("at /v1/models: ok@farm", "at /v1/models: ok@farm"),
    ],
)
def test_lines_mask_texts_of_the_form_of_a_secret(text, shown):
    """Whatever library has written them; words of models stay."""
    assert log.masked(text) == shown


def test_lines_mask_a_hidden_secret(capsys):
    """Also inside other text, on stderr and in the lines that are kept."""
    log.hide("correct horse")
    log.hide("no")
    line = logged(capsys, lambda: log.event("refused", reason="not 'correct horse' or no"))
    assert "not '***' or no" in line
    assert log.newest(1, 10_000)[0] == line.rstrip("\n")


def test_newest_lines_stay_within_their_bytes():
    """The newest ones are kept when not all fit, and a long traceback keeps its end."""
    log.set_up()
    for number in range(log.LINES_MAX + 10):
        log.event("line", number=number, more='"' * 100)
    found = log.newest(log.LINES_MAX, 5000)
    assert 0 < len(json.dumps(found)) <= 5000 + 2
    assert f'number=\\"{log.LINES_MAX + 9}\\"' in json.dumps(found[-1])
    log.defect("failed", ValueError("x" * 10_000 + "end"))
    (kept,) = log.newest(1, 10_000)
    assert len(kept) == log.KEPT_MAX_CHARS
    assert kept.endswith("end")


@pytest.mark.parametrize("secret", ['quo"ted pass', "geheimes wört", "back\\slash"])
def test_lines_mask_a_hidden_secret_that_json_would_escape(capsys, secret):
    """A value is quoted as JSON has it."""
    log.hide(secret)
    line = logged(capsys, lambda: log.event("refused", reason=f"not {secret}"))
    assert line.endswith('refused reason="not ***"\n')


def test_lines_mask_a_hidden_secret_at_the_end_of_a_long_value(capsys):
    """A value is cut after its secrets are masked."""
    log.hide("correct horse")
    line = logged(capsys, lambda: log.event("refused", reason="x" * (log.VALUE_MAX_CHARS - 10) + "correct horse"))
    assert "correct" not in line
