"""The glossary holds: code and docs use its words, and none of those that it rules out."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring, comment and message of a module."""
    source = path.read_text()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"# (noqa|type:)", token.string):
            yield token.start[0], token.string.partition("# noqa")[0].lstrip("#: ")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def without_code(text: str) -> str:
    """Prose alone: no code, no links, no names in backticks."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.sub(r"`[^`]*`|\]\([^)]*\)|https?://\S+", "NAME", text)


def sentences(text: str) -> Iterator[str]:
    """Sentences of a docstring, each on one line; items of lists and tables count as sentences of their own."""
    for paragraph in re.split(r"\n\s*\n|\n\s*[-*|]\s|\n\s*\w+: |:\n|\n {4,}", text):
        yield from re.split(r"(?<=[.!?;:])\s+", " ".join(paragraph.split()))


@pytest.mark.parametrize("path", CODE, ids=lambda it: str(it.relative_to(ROOT)))
def test_prose_of_a_module_uses_the_words_of_the_glossary(path: Path):
    """No word that the glossary rules out stands in a docstring, a comment or a message."""
    found = [(line, it[1]) for line, text in prose(path) for it in RULED_OUT.finditer(without_code(text))]
    assert not found, f"see docs/glossary.md: {found}"


@pytest.mark.parametrize("path", CODE, ids=lambda it: str(it.relative_to(ROOT)))
def test_sentences_name_their_subject(path: Path):
    """A thing with a name does something; no sentence begins with "What ..." or "Whoever ..."."""
    found = [
        (line, sentence)
        for line, text in prose(path)
        for sentence in sentences(without_code(text))
        if NAMELESS_SUBJECT.search(sentence)
    ]
    assert not found, f"name the subject: {found}"


@pytest.mark.parametrize("path", CODE, ids=lambda it: str(it.relative_to(ROOT)))
def test_sentences_are_short(path: Path):
    """A sentence of a docstring or comment has at most `WORDS_MAX` words."""
    found = [
        (line, len(sentence.split()), sentence)
        for line, text in prose(path)
        for sentence in sentences(without_code(text))
        if len(sentence.split()) > WORDS_MAX
    ]
    assert not found, f"split these sentences: {found}"


@pytest.mark.parametrize("path", DOCS, ids=lambda it: str(it.relative_to(ROOT)))
def test_docs_use_the_words_of_the_glossary(path: Path):
    """Nor in the documents, but for the glossary's own table."""
    text = path.read_text().partition("## Words that are not used")[0]
    found = [it[1] for it in RULED_OUT.finditer(without_code(text))]
    assert not found, f"see docs/glossary.md: {found}"
