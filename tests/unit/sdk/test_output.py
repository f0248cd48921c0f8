"""Options that several commands have."""

from __future__ import annotations

import json
import os

import click
import pytest

from edgeml.cli.output import Fraction, Output, fail, printable, table
from edgeml_core.errors import UsageError

MAX_DROP = click.Option(["--max-drop"])
#: What Python says of a file that is absent.
CAUSE = f"[Errno 2] {os.strerror(2)}: 'a'"


@pytest.mark.parametrize(("text", "fraction"), [("1%", 0.01), ("0.01", 0.01), ("100%", 1.0), ("0", 0.0), ("1", 1.0)])
def test_fraction_is_a_number_or_a_percentage(text: str, fraction: float):
    """Of 1 both."""
    assert Fraction().convert(text, MAX_DROP, None) == pytest.approx(fraction)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("5", "--max-drop 5 is 500 %, not within 0 and 100 %", "write 0.05 for 5 %"),
        ("2.5", "--max-drop 2.5 is 250 %, not within 0 and 100 %", "write 0.025 for 2.5 %"),
        ("500%", "--max-drop 500% is 500 %, not within 0 and 100 %", "write it as 1% or 0.01"),
        ("-1", "--max-drop -1 is -100 %, not within 0 and 100 %", "write it as 1% or 0.01"),
        ("nan", "--max-drop nan is nan %, not within 0 and 100 %", "write it as 1% or 0.01"),
    ],
)
def test_fraction_beyond_one_is_refused_with_the_way(text: str, message: str, hint: str):
    """The commonest mistake is a percentage without its sign."""
    with pytest.raises(UsageError) as caught:
        Fraction().convert(text, MAX_DROP, None)
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    "hostile", ["\x1b]52;c;cm0gLXJm\x07", "\x1b[2J", "\r", "\x9b2J", "\u202egnp.exe", "\x00"], ids=ascii
)
def test_control_characters_of_a_device_are_shown_not_obeyed(hostile: str, capsys):
    """On stdout and stderr; a table's cell forges no row either."""
    out = Output(as_json=False, quiet=False)
    out.result({}, f"one{hostile}\ntwo")
    out.note(hostile)
    printed = "".join(capsys.readouterr())
    assert all(it.isprintable() or it == "\n" for it in printed)
    assert "two" in printed.splitlines()
    assert len(table(("device",), [(f"pi{hostile}\nforged",)]).splitlines()) == 2


def test_printable_text_stays_as_it_is():
    """In any script."""
    assert printable("Zwölf Äpfel 水 🐄") == "Zwölf Äpfel 水 🐄"


@pytest.mark.parametrize(
    ("message", "cause"), [("a can't be read", CAUSE), (f"a can't be read: {os.strerror(2)}", None)]
)
def test_fail_tells_the_cause_in_both_forms(message: str, cause: str | None, capsys: pytest.CaptureFixture[str]):
    """Once: a message that has the reason needs no cause."""
    error = UsageError("usage", message)
    error.__cause__ = FileNotFoundError(2, os.strerror(2), "a")
    for as_json in (True, False):
        with pytest.raises(SystemExit):
            fail(error, as_json=as_json)
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"].get("cause") == cause
    assert ("cause:" in printed.err) is (cause is not None)
