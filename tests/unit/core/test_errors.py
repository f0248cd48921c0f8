"""Codes are a closed list: every one raised in the source stands in the table, and every one in the table is raised."""

import ast
from pathlib import Path

from edgeml_core import errors
from edgeml_core.errors import CODES, EdgemlError

ROOT = Path(__file__).parents[3]
FAMILIES = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, EdgemlError)}


def given_codes(node: ast.AST) -> list[str]:
    """The code in an error's constructor, or in a rollback, which notes one without raising it."""
    if not isinstance(node, ast.Call):
        return []
    if getattr(node.func, "id", "") in FAMILIES:
        return [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
    if getattr(node.func, "attr", "") == "roll_back":
        return [arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant) and arg.value]
    return []


def raised_codes() -> dict[str, str]:
    """Each code that the source passes to an error's constructor, with one place."""
    found = {}
    for path in (path for room in ("core", "sdk", "agent") for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for code in given_codes(node):
                found[code] = f"{path.name}:{node.lineno}"
    return found


def test_every_raised_code_is_documented():
    """A code that the table doesn't know would reach users unexplained."""
    assert {code: place for code, place in raised_codes().items() if code not in CODES} == {}


def test_every_documented_code_is_raised():
    """A code that nothing raises is a promise that nobody keeps."""
    assert sorted(set(CODES) - set(raised_codes())) == []


def test_every_error_has_a_remedy():
    """Its own, or its family's."""
    assert errors.TransportError("chunk-timeout", "late").hint == errors.TransportError.usual_hint


def test_the_wire_form_carries_code_message_and_hint():
    """The same three fields go to logs, MQTT, HTTP and --json."""
    error = errors.DeviceError("disk-full", "no room", "delete something")
    assert error.to_dict() == {"code": "disk-full", "message": "no room", "hint": "delete something"}
