"""Documents say who does what, in short sentences, with the field's words.

``WORDS`` lists expressions that made readers read twice, each with a better one. Program output in code blocks and
generated tables are made of the package's messages, which ``messages`` extracts for the same check.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

WORDS = {
    r"what (?:there )?(?:is|was|are)(?: there)?\b(?= *[,.;:)]|$)|\bwhat there (?:is|was)\b": "name the thing",
    r"those (?:that|which|of which)\b": "name the things",
    r"\b(?:is|are|was|were|be) told\b|\btells? (?:all|more|it|of)\b": "print, report, list",
    r"\b(?:go|goes|going|gone|went) on\b": "continue",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bst(?:and|ands|ood|anding)\b": "is, is listed, is saved",
    r"\b(?:set|sets|setting) aside\b": "move to invalid/, skip",
    r"\brows that remain\b|\bwhat remains\b": "kept rows",
    r"\bin words\b": "in one sentence, as text",
    r"\bbe(?:sides|side)\b": "next to, in addition to",
    r"\banew\b": "again",
    r"\bfor want of\b": "without",
    r"\bhence\b|\bthereof\b|\bwhereof\b|\bmeanwhile\b": "so, of it, during it",
    r"\badds? up\b": "row counts are consistent",
    r"\bthere already\b|\bis there\b|\bare there\b|\bnot there\b": "exists",
    r"\bwho(?:m)? (?:keeps|wants|needs|has)\b": "name the reader",
}
"""Regular expressions of the worst expressions, and what to write instead."""

MOST_WORDS = 25
"""Words of a sentence."""

DOCUMENTS = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "SECURITY.md",
        ROOT / "benchmarks" / "RESULTS.md",
        *(path for path in (ROOT / "conf").rglob("*") if path.is_file() and path.suffix != ".json"),
        ROOT / "spark_semdedup" / "data" / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "notebooks").glob("*.*"),
    ]
)

SOURCES = sorted(set((ROOT / "spark_semdedup").rglob("*.py")) - {ROOT / "spark_semdedup" / "runs" / "journal.py"})
"""Modules whose messages are checked. The journal's strings are keys in files that earlier versions wrote."""


# --- what is read of a file ---------------------------------------------------------------------------------


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Paragraphs, list items and table cells of a document with their line; no code blocks, no generated tables. Of a
    notebook its Markdown cells, of settings and scripts their comments."""
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "markdown"]
        for number, cell in enumerate(cells, 1):
            yield from ((number, text) for _, text in _blocks("".join(cell["source"])))
    elif path.suffix != ".md":
        lines = (re.match(r" *# ?(.*)", line) for line in path.read_text("utf-8").splitlines())
        yield from _blocks("\n".join(line[1] if line else "" for line in lines))
    else:
        yield from _blocks(path.read_text("utf-8"))


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    text = re.sub(r"<!-- generated.*?<!-- end -->", lambda m: "\n" * m[0].count("\n"), text, flags=re.DOTALL)
    text = re.sub(r"^( *)```.*?^\1```", lambda m: "\n" * m[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)
    block: list[str] = []
    start = 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if block and re.match(r"\s*(?:[-*|#]|\d+\.|\Z)", line):
            yield start, _plain(" ".join(block))
            block = []
        if line.startswith("|"):
            yield from ((number, _plain(cell)) for cell in re.split(r"(?<!\\)\|", line))
        elif line.strip():
            start = start if block else number
            block.append(re.sub(r"^\s*(?:[-*#]+|\d+\.)\s+", "", line.strip()))


def _plain(text: str) -> str:
    """Markdown without its marks: code becomes one word, a link its text."""
    text = re.sub(r"`[^`]*`", "CODE", text)
    return re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("**", "").strip()


def messages(source: str) -> Iterator[tuple[int, str]]:
    """String literals of a module with their line, except docstrings and such of a single word."""
    tree = ast.parse(source)
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            text = " ".join(node.value.split())
            if " " in text:
                yield node.lineno, text


def worst_words(blocks: Iterator[tuple[int, str]]) -> list[str]:
    """A line for each expression of ``WORDS``: where, what, and the better one."""
    return [
        f"{line}: {hit[0]!r} in {text[:80]!r}: {better}"
        for line, text in blocks
        for pattern, better in WORDS.items()
        for hit in re.finditer(pattern, text, re.IGNORECASE)
    ]


def long_sentences(blocks: Iterator[tuple[int, str]]) -> list[str]:
    """A line for each sentence of more than ``MOST_WORDS`` words."""
    sentences = [(line, each) for line, text in blocks for each in re.split(r"(?<=[.!?:;])\s+", text)]
    counted = [(line, len(re.findall(r"[^\W_][\w’'./%-]*", each)), each) for line, each in sentences]
    return [f"{line}: {words} words: {each}" for line, words, each in counted if words > MOST_WORDS]


# --- tests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_use_plain_words(path):
    assert worst_words(prose(path)) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_sentences_are_short(path):
    assert long_sentences(prose(path)) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_messages_use_plain_words(path):
    assert worst_words(messages(path.read_text("utf-8"))) == []


def test_messages_are_the_strings_that_are_no_docstrings():
    source = '"""Mend it."""\nx = 1\n"""It stands."""\nraise ValueError(f"row {x} is told to\\n mend it", "word")\n'
    assert list(messages(source)) == [(4, "is told to mend it")] or [text for _, text in messages(source)] == [
        "is told to mend it"
    ]
    assert len(worst_words(messages(source))) == 2


def test_prose_leaves_out_code_and_generated_tables(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# It stands\n\n```text\nmend\n```\n\n<!-- generated by: x -->\n\n| mend |\n\n<!-- end -->\n\n"
        "- see `mend` and\n  [more](mend.md)\n- two\n\n| a \\| b | c |\n"
    )
    assert [text for _, text in prose(page)] == ["It stands", "see CODE and more", "two", "", "a \\| b", "c", ""]
    assert len(worst_words(prose(page))) == 1


def test_a_long_sentence_is_noticed():
    text = "A short one. " + "word " * MOST_WORDS + "word."
    assert long_sentences(iter([(1, text)])) == [f"1: {MOST_WORDS + 1} words: " + "word " * MOST_WORDS + "word."]
