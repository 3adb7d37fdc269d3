"""Why a row went or stayed: its way along ``max_id`` to the kept row, with scores, ranks, clusters and texts."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.formatting import aligned, one_line
from spark_semdedup.kernels import exact_dots

NO_REFERENCES, SOME_REFERENCES, REFERENCES_ALONE = "none", "some", "alone"
"""Whether a run compared its rows with reference rows."""

MOST_LINKS = 100
"""Links that are followed: each is a look at the similarities."""


@dataclass(frozen=True)
class ExplainedRow:
    """A row of the chain: its most similar preceding row, and what is known of it."""

    id: Any
    max_id: Any
    cosine_sim_score: float
    removed: bool
    facts: dict[str, Any] = field(default_factory=dict)
    """Cluster, distances and the columns that rank it, by name; empty where the input was not given."""
    text: str | None = None
    is_reference: bool = False
    """Whether it is a row of an index, or of a table to keep apart from."""

    @property
    def name(self) -> str:
        """The id as it is printed."""
        return one_line(self.id)

    @property
    def max_name(self) -> str:
        return one_line(self.max_id)


@dataclass(frozen=True)
class Explanation:
    """``as_dict`` is what a program reads, ``as_text`` what a person reads."""

    id: Any
    threshold: float
    keep_rule: str
    rows: tuple[ExplainedRow, ...]
    """The row itself, then the rows its links lead to. For a removed row the last one is kept; for a kept one there may
    be a second, the most similar row that precedes it."""
    ranking: str | None = None
    """Which row is preferred, in words."""
    similarity_to_last: float | None = None
    """Of the row itself and the last one; None where the input was not given."""
    is_cut: bool = False
    """Whether there were more than ``MOST_LINKS`` links."""
    complete_from: float | None = None
    """The similarity from which the run found all neighbours; None: from any."""

    @property
    def removed(self) -> bool:
        return self.rows[0].removed

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "removed": self.removed}

    def as_json(self) -> str:
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False, default=str) + "\n"

    def as_text(self) -> str:
        blocks = [self._verdict(), self._chain(), self._facts(), self._texts()]
        return "\n\n".join(block for block in blocks if block)

    def _verdict(self) -> str:
        first, last = self.rows[0], self.rows[-1]
        if not first.removed:
            return self._why_kept(first)
        line = (
            f"{first.name} was removed: its similarity to {first.max_name}, which precedes it, is "
            f"{first.cosine_sim_score:.6g}, and duplicates begin at {self.threshold:.6g}."
        )
        if self.is_cut:
            return f"{line} {first.max_name} was removed as well; the chain continues beyond {last.name}."
        if len(self.rows) == 2:
            return f"{line} {last.name} {_fate(last)}."
        line += f" {first.max_name} was removed as well; the links end at {last.name}, which {_fate(last)}."
        if self.similarity_to_last is not None:
            line += f" The similarity of {first.name} itself to {last.name} is {self.similarity_to_last:.6g}."
        return line

    def _why_kept(self, row: ExplainedRow) -> str:
        if row.max_id == row.id:
            kind = "kept row" if self.keep_rule == "greedy" else "row"
            return f"{row.name} was kept: no {kind} that it was compared with precedes it and is similar to it."
        below, least = self.threshold - row.cosine_sim_score, self.complete_from
        line = (
            f"{row.name} was kept: the most similar row that precedes it, {row.max_name}, has a similarity of "
            f"{row.cosine_sim_score:.6g}, {below:.3g} below {self.threshold:.6g}, where duplicates begin."
        )
        if least is not None and row.cosine_sim_score < least:
            line += f" (The most similar one found: the run did not look for all pairs below {least:.6g}.)"
        return line

    def _chain(self) -> str:
        lines = []
        for place, row in enumerate(self.rows):
            state = "removed" if row.removed else "index" if row.is_reference else "kept"
            similar = "" if row.max_id == row.id else f"{row.cosine_sim_score:.6g} to {row.max_name}"
            if place and not row.removed:
                similar = ""
            lines.append((row.name, f"{state:<7}  {similar}"))
        return aligned(lines)

    def _facts(self) -> str:
        names = list(self.rows[0].facts)
        if not names:
            return ""
        lines = [("", "  ".join(f"{row.name:>16.16}" for row in self.rows))]
        lines += [
            (one_line(name), "  ".join(f"{_shown(row.facts.get(name)):>16.16}" for row in self.rows)) for name in names
        ]
        return "\n".join([aligned(lines), *([f"  preferred: {one_line(self.ranking)}"] if self.ranking else [])])

    def _texts(self) -> str:
        first, last = self.rows[0], self.rows[-1]
        if first.text is None or last.text is None or first is last:
            return "" if first.text is None else aligned([(first.name, one_line(first.text))])
        mine, theirs = map(one_line, mark_differences(first.text, last.text))
        return aligned([(first.name, mine), (last.name, theirs)])


def _fate(row: ExplainedRow) -> str:
    return "is a reference row" if row.is_reference else "was kept"


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else one_line(value)


def mark_differences(a: str, b: str) -> tuple[str, str]:
    """Both texts, words that the other lacks there in brackets.

    >>> mark_differences("the quick brown fox", "the quick red fox jumps")
    ('the quick [brown] fox', 'the quick [red] fox [jumps]')
    """
    words = a.split(), b.split()
    marked: tuple[list[str], list[str]] = ([], [])
    for kind, i, j, k, m in difflib.SequenceMatcher(None, *words, autojunk=False).get_opcodes():
        for side, part in zip(marked, (words[0][i:j], words[1][k:m]), strict=True):
            if part:
                text = " ".join(part)
                side.append(text if kind == "equal" else f"[{text}]")
    return " ".join(marked[0]), " ".join(marked[1])


def follow(
    similarities: DataFrame, id_: Any, threshold: float, references: str = NO_REFERENCES
) -> tuple[list[ExplainedRow], bool]:
    """The row of that id and those that its links lead to, to the first kept one or, from a kept row, one link far; and
    whether there are more links than ``MOST_LINKS``. One job for each.

    ``id_``: as a value or as text. ``references``: whether links may lead to rows of an index (``SOME_REFERENCES``), or
    lead to reference rows alone, whose ids are their own (``REFERENCES_ALONE``). Raises ``SemDedupError`` where no row
    has the id.
    """
    rows: list[ExplainedRow] = []
    wanted = id_
    while len(rows) <= MOST_LINKS:
        row = similarities.where(F.col("id").cast("string") == str(wanted)).head(1)
        if not row and rows and references != NO_REFERENCES:
            return [*rows, reference_row(wanted)], False
        if not row:
            raise SemDedupError(
                f"id={shown(id_)} is not among the similarities: no valid row of the input has that id"
                if wanted == id_
                else f"max_id={shown(wanted)} is no row's id: the similarities are not whole; run the comparison again"
            )
        score = float(row[0]["cosine_sim_score"])
        if references == REFERENCES_ALONE:
            found = ExplainedRow(row[0]["id"], row[0]["max_id"], score, score >= threshold)
            return ([found, reference_row(found.max_id)] if found.removed else [found]), False
        named = row[0]["max_id"] != row[0]["id"]
        removed = named and score >= threshold
        rows.append(ExplainedRow(row[0]["id"], row[0]["max_id"], score, removed))
        if not named or (not removed and len(rows) > 1) or (len(rows) > 1 and not rows[0].removed):
            return rows, False
        wanted = row[0]["max_id"]
    return rows, True


def reference_row(id_: Any) -> ExplainedRow:
    """A row that no run may remove."""
    return ExplainedRow(id_, id_, 0.0, False, is_reference=True)


def similarity_of(units: np.ndarray, a: int, b: int) -> float:
    """The exact similarity of two of the unit vectors, float32 (n, d)."""
    return float(exact_dots(units[a : a + 1], units[b : b + 1])[0])


def with_facts(
    rows: Sequence[ExplainedRow], facts: Mapping[Any, dict[str, Any]], texts: Mapping[Any, str]
) -> tuple[ExplainedRow, ...]:
    """The rows with what is known of them, by id."""
    return tuple(
        row if row.is_reference else replace(row, facts=facts.get(row.id, {}), text=texts.get(row.id)) for row in rows
    )
