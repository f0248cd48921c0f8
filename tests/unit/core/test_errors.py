"""Codes are a closed list: every one raised in the source stands in the table, and every one in the table is raised."""

import ast
from pathlib import Path

from edgeml_core import errors
from edgeml_core.errors import CODES, EdgemlError

ROOT = Path(__file__).parents[3]
FAMILIES = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, EdgemlError)}


def raised_codes() -> dict[str, str]:
    """Each code that the source passes to an error's constructor, with one place."""
    found = {}
    for path in (path for room in ("core", "sdk", "agent") for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in FAMILIES and node.args:
                codes = [leaf.value for leaf in ast.walk(node.args[0]) if isinstance(leaf, ast.Constant)]
                found |= {code: f"{path.name}:{node.lineno}" for code in codes if isinstance(code, str)}
    return found


def test_every_raised_code_is_documented():
    """A code that the table doesn't know would reach users unexplained."""
    assert {code: place for code, place in raised_codes().items() if code not in CODES} == {}


def test_every_documented_code_is_raised():
    """A code that nothing raises is a promise that nobody keeps."""
    assert sorted(set(CODES) - set(raised_codes())) == []


def test_the_wire_form_carries_code_message_and_hint():
    """The same three fields go to logs, MQTT, HTTP and --json."""
    error = errors.DeviceError("disk-full", "no room", "delete something")
    assert error.to_dict() == {"code": "disk-full", "message": "no room", "hint": "delete something"}
