"""The code keeps its shape: sizes, imports without circles, no name that the glossary's terms have replaced."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {path.parent.name: path.parent for path in ROOT.glob("*/*/py.typed")}
MODULES = {
    ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in PACKAGES.values()
    for path in sorted(folder.rglob("*.py"))
}
MODULE_MAX_LINES = 400
FUNCTION_MAX_LINES = 60
#: Names of modules before they had the field's words.
OLD_MODULES = {
    *("prompt", "patience", "line", "turn", "leaving", "bounds", "doors", "wire", "shown", "mqtt_door", "access"),
    *(
        "telling",
        "hours",
        "judged",
        "rights",
        "request_line",
        "stick",
        "tuned",
        "sweep",
        "asking",
        "pace",
        "cap",
        "pulls",
    ),
    *("waves", "demand", "waiting", "several", "relayed", "difference", "packets", "spelling", "observed", "quiet"),
    *("trial", "program", "checkup", "labels", "spans", "proof", "once", "work", "refusal", "choice", "measured"),
    *("precision", "sentences", "stopwatch", "root", "outgoing", "freshness", "view", "way", "places"),
}
#: Names of classes and functions before.
OLD_NAMES = {
    *("Telling", "Voice", "Passenger", "Ear", "Judged", "Asking", "Noticed", "Line", "Turn", "Watch", "Way", "Rule"),
    *(
        "Saying",
        "Said",
        "Terms",
        "Listed",
        "_Promise",
        "Errand",
        "Place",
        "Told",
        "Silent",
        "Once",
        "Sought",
        "Passage",
    ),
    *(
        "Piece",
        "About",
        "come_up",
        "_pursue",
        "_go",
        "believed",
        "said",
        "give_way",
        "_let_go",
        "_led",
        "_be_expendable",
    ),
    *("require", "mend", "hear", "tell", "say", "attempts", "calibrated", "proved"),
}


Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(path: Path) -> ast.Module:
    """The parsed module."""
    return ast.parse(path.read_text())


@cache
def definitions() -> list[tuple[str, Function | ast.ClassDef]]:
    """All functions, methods and classes, each with its module."""
    return [
        (name, node)
        for name, path in MODULES.items()
        for node in ast.walk(tree(path))
        if isinstance(node, Function | ast.ClassDef)
    ]


def imports(path: Path) -> Iterator[str]:
    """Modules of ours that a module imports when it is imported itself, or names in its types."""
    pending: list[ast.stmt] = list(tree(path).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ImportFrom) and node.module:
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (it if it in MODULES else node.module for it in named if node.module in MODULES)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.Try | ast.With | ast.If):
            pending += node.body


def test_modules_and_functions_are_short():
    """A module has at most `MODULE_MAX_LINES` lines, a function `FUNCTION_MAX_LINES`."""
    assert not {name for name, path in MODULES.items() if path.read_text().count("\n") > MODULE_MAX_LINES}
    functions = ((name, it) for name, it in definitions() if isinstance(it, Function))
    sizes = {f"{name}.{it.name}": it.end_lineno - it.lineno + 1 for name, it in functions}
    assert not {name: lines for name, lines in sizes.items() if lines > FUNCTION_MAX_LINES}


def test_imports_make_no_circle():
    """Modules can be sorted so that each imports only those before it."""
    left = {name: {it for it in imports(path) if it != name} for name, path in MODULES.items()}
    while ready := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in ready}
    assert not left, f"these import each other: {sorted(left)}"


def test_no_module_has_an_old_name():
    """An engineer finds a module under the word that the field has for it."""
    assert not [name for name in MODULES if name.rpartition(".")[2] in OLD_MODULES]


def test_no_class_or_function_has_an_old_name():
    """Nor is a class or a function found under a name of its own making."""
    assert not {(module, it.name) for module, it in definitions() if it.name in OLD_NAMES}


def test_types_are_decoded_in_one_way():
    """Two threads that decode a type for the first time by msgspec itself end the process."""
    calls = re.compile(r"msgspec\.(?:convert\(|(?:json|msgpack)\.(?:Decoder|decode\([^\n]*type=))")
    assert [name for name, path in MODULES.items() if calls.search(path.read_text())] == ["edgeml_core.decoding"]
