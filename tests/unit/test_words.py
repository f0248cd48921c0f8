"""The glossary holds: code and docs use its words, and none of those that it rules out."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
CODE = sorted(path for room in ("core", "sdk", "agent") for path in (ROOT / room).rglob("*.py"))
DOCS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: A sentence whose subject is a relative clause: "What is queued is dropped." A question may begin so.
NAMELESS_SUBJECT = re.compile(r"(?:^|[.:;]\s+)(Who|Whoever|Whatever|What|That which)\s[^.?]*(?:\.|$)")
WORDS_MAX = 25


def ruled_out() -> list[str]:
    """The words in the second table of the glossary."""
    rows = re.findall(r"^\| ([^|]+) \|", GLOSSARY.partition("## Words that are not used")[2], re.MULTILINE)
    return [word.strip() for row in rows[1:] if not row.startswith("---") for word in row.split(",")]


RULED_OUT = re.compile(rf"\b({'|'.join(map(re.escape, ruled_out()))})\b", re.IGNORECASE)


@cache
def parsed(source: str) -> ast.Module:
    """The tree of a module, which two kinds of tests walk."""
    return ast.parse(source)


@cache
def comments(source: str) -> tuple[tuple[int, str], ...]:
    """See `_comments`; to find them takes the most of these tests' time."""
    return tuple(_comments(source))


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each comment; comments that stand below each other make one text."""
    text, begun, last = "", 0, -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or re.match(r"# (noqa|type:)", token.string):
            continue
        line, words = token.start[0], token.string.partition("# noqa")[0].lstrip("#: ")
        if line != last + 1 and text:
            yield begun, text
            text = ""
        begun, last, text = (begun if text else line), line, f"{text}\n{words}".lstrip()
    if text:
        yield begun, text


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield getattr(node, "lineno", 1), ast.get_docstring(node) or ""


@cache
def prose(path: Path) -> tuple[tuple[int, str], ...]:
    """Line and text of each docstring, comment and message of a module."""
    return tuple(_prose(path))


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring, comment and message of a module."""
    source = path.read_text()
    yield from comments(source)
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def documentation(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring and comment of a module."""
    source = path.read_text()
    yield from comments(source)
    yield from docstrings(parsed(source))


def without_code(text: str) -> str:
    """Prose alone: no code, no links, no names in backticks."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.sub(r"`[^`]*`|\]\([^)]*\)|https?://\S+", "NAME", text)


def sentences(text: str) -> Iterator[str]:
    """Sentences of a docstring, each on one line; items of lists and tables count as sentences of their own."""
    for paragraph in re.split(r"\n\s*\n|\n\s*[-*|]\s|\n\s*\w+: |:\n|\n {4,}", text):
        yield from re.split(r"(?<=[.!?;:])\s+", " ".join(paragraph.split()))


@cache
def all_sentences() -> tuple[tuple[str, str], ...]:
    """Place and text of each sentence in docstrings and comments."""
    return tuple(
        (place(path, line), sentence)
        for path in CODE
        for line, text in documentation(path)
        for sentence in sentences(without_code(text))
    )


def place(path: Path, line: int) -> str:
    """Name a line as an editor takes it."""
    return f"{path.relative_to(ROOT)}:{line}"


def test_prose_of_modules_uses_the_words_of_the_glossary():
    """No word that the glossary rules out stands in a docstring, a comment or a message."""
    found = [
        (place(path, line), it[1])
        for path in CODE
        for line, text in prose(path)
        for it in RULED_OUT.finditer(without_code(text))
    ]
    assert not found, f"see docs/glossary.md: {found}"


def test_sentences_name_their_subject():
    """A thing with a name does something; no sentence begins with "What ..." or "Whoever ..."."""
    found = [it for it in all_sentences() if NAMELESS_SUBJECT.search(it[1])]
    assert not found, f"name the subject: {found}"


def test_sentences_are_short():
    """A sentence of a docstring or comment has at most `WORDS_MAX` words."""
    found = [it for it in all_sentences() if len(it[1].split()) > WORDS_MAX]
    assert not found, f"split these sentences: {found}"


def test_docs_use_the_words_of_the_glossary():
    """Nor in the documents, but for the glossary's own table."""
    texts = {path: path.read_text().partition("## Words that are not used")[0] for path in DOCS}
    found = [(path.name, it[1]) for path, text in texts.items() for it in RULED_OUT.finditer(without_code(text))]
    assert not found, f"see docs/glossary.md: {found}"
