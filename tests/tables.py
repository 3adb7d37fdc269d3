"""The tables of docs/guarantees.md, made of the cases that the tests run: ``python tests/tables.py`` writes them."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

GUARANTEES = Path(__file__).parents[1] / "docs" / "guarantees.md"


def bad_inputs() -> str:
    """What was given, and what is said or done."""
    from bad_inputs import CASES

    rows = [(case.name, case.given, f"“{_short(case.said)}”" if case.said else case.done) for case in CASES]
    return _table(("input", "what is given", "what is said or done"), rows)


def failures() -> str | None:
    """What was done, and what is promised then; None where the list of failures is not there."""
    if importlib.util.find_spec("failures") is None:
        return None
    from failures import FAILURES

    rows = [(each.name, each.done, each.promised, f"`{each.test}`") for each in FAILURES]
    return _table(("failure", "what is done", "what is promised", "test"), rows)


TABLES: dict[str, Callable[[], str | None]] = {"bad inputs": bad_inputs, "failures": failures}


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _short(text: str, most: int = 160) -> str:
    return text if len(text) <= most else text[:most].rpartition(" ")[0] + " …"


def _cell(text: str) -> str:
    """Text as it stands in a table's cell: nothing in it is taken for Markdown or HTML, but for code in backticks."""
    text = " ".join(text.split())
    parts = text.split("`")
    if len(parts) % 2 == 0 or text.startswith("“"):  # backticks that belong to the text itself
        parts = [text]
    escaped = [part if i % 2 else re.sub(r"([\\`*_<\[\]~])", r"\\\1", part) for i, part in enumerate(parts)]
    return "`".join(escaped).replace("|", "\\|")


def rendered(text: str) -> str:
    """The document with each table anew between its markers; a table that cannot be made stays as it is."""
    for name, make in TABLES.items():
        first = f"<!-- {name}: made by python tests/tables.py -->\n"
        table = make() if first in text else None
        if table is not None:
            before, rest = text.split(first)
            text = f"{before}{first}\n{table}\n\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
    return text


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    GUARANTEES.write_text(rendered(GUARANTEES.read_text("utf-8")), "utf-8")
