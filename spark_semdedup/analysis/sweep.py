"""Which eps: rows removed and groups over a grid of thresholds, and pairs just above and just below each.

Everything is read from similarities that a run stored: a row is removed from threshold t on when its score is at least
t, so one comparison serves all thresholds that its scores are complete for. Groups are trees of ``max_id`` links
(``duplicates.groups``): a kept row is the root of one at t exactly when its own score is below t, and the largest score
of the rows that name it is not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_semdedup.duplicates.threshold import check_similarities
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.formatting import aligned, one_line, percent
from spark_semdedup.spark.columns import field, id_column, quoted

GRID = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1)
"""Of eps, where none is given."""

EXAMPLES = 2
"""Pairs on either side of each threshold."""

_TEXT_SHOWN = 160


@dataclass(frozen=True)
class PairExample:
    """A row, the most similar row that precedes it, and their texts, where these were given."""

    id: Any
    max_id: Any
    cosine_sim_score: float
    text: str | None = None
    max_text: str | None = None


@dataclass(frozen=True)
class SweepStep:
    """What one eps removes."""

    eps: float
    threshold: float
    removed: int
    groups: int
    """Kept rows that removed ones lead to."""
    above: tuple[PairExample, ...] = ()
    """The least similar pairs that make duplicates, the least similar first."""
    below: tuple[PairExample, ...] = ()
    """The most similar pairs that do not, the most similar first."""


@dataclass(frozen=True)
class Sweep:
    """``as_dict`` is what a program reads, ``as_text`` what a person reads."""

    rows: int
    steps: tuple[SweepStep, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def as_json(self) -> str:
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False, default=str) + "\n"

    def as_text(self) -> str:
        """A table of all steps, then the pairs around each threshold."""
        lines = [f"  {'eps':>8}  {'similarity':>10}  {'removed':>10}  {'of all':>7}  {'groups':>9}"]
        for step in self.steps:
            share = percent(step.removed, self.rows, bounds=True)
            lines.append(
                f"  {step.eps:>8.6g}  {step.threshold:>10.6g}  {step.removed:>10,}  {share:>5} %  {step.groups:>9,}"
            )
        blocks = ["\n".join(lines)]
        for step in self.steps:
            for side, pairs in (("removed, just above", step.above), ("kept, just below", step.below)):
                if pairs:
                    head = f"{side} {step.threshold:.6g} (eps {step.eps:.6g})"
                    blocks.append("\n".join([head, *map(_pair_text, pairs)]))
        return "\n\n".join(blocks)


def _pair_text(pair: PairExample) -> str:
    id_, max_id = one_line(pair.id), one_line(pair.max_id)
    lines = [f"  {pair.cosine_sim_score:.4f}  {id_}  ~  {max_id}"]
    texts = [(name, one_line(text, _TEXT_SHOWN)) for name, text in ((id_, pair.text), (max_id, pair.max_text)) if text]
    return "\n".join([*lines, *("  " + line for line in aligned(texts).splitlines())])


def sweep(
    similarities: DataFrame,
    eps: Sequence[float] | None = None,
    *,
    complete_eps: float | None = None,
    examples: int = EXAMPLES,
    texts: DataFrame | None = None,
    text_col: str = "text",
    id_col: str = "id",
) -> Sweep:
    """Rows removed, groups and examples for each ``eps``, in ascending order; default: those of ``GRID`` that scores
    are complete for.

    Parameters
    ----------
    similarities
        ``id``, ``max_id``, ``cosine_sim_score``, of a comparison with ``keepRule`` ranked. Read a few times.
    complete_eps
        The largest eps that scores are complete for; None: any.
    examples
        Pairs on either side of each threshold.
    texts
        Rows with ``id_col`` and ``text_col``: texts of the examples.

    Raises ``SemDedupError`` for an eps that is no number between 0 and 1, or beyond ``complete_eps``.
    """
    check_similarities(similarities)
    grid = check_grid(eps, complete_eps)
    if examples < 0:
        raise SemDedupError(f"examples={examples} cannot be used: it must be at least 0")
    rows, removed = _removed(similarities, grid)
    groups = _groups(similarities, grid)
    steps = [SweepStep(e, 1.0 - e, *counts) for e, counts in zip(grid, zip(removed, groups, strict=True), strict=True)]
    if examples:
        steps = _with_examples(similarities, steps, examples)
    if texts is not None:
        steps = _with_texts(steps, texts, id_col, text_col)
    return Sweep(rows, tuple(steps))


def check_grid(eps: Sequence[float] | None, complete_eps: float | None) -> list[float]:
    """The thresholds' eps in ascending order, each once."""
    most = 1.0 if complete_eps is None else complete_eps
    if eps is None:
        return [e for e in GRID if e <= most] or [most]
    if not len(eps):
        raise SemDedupError("eps=[] cannot be used: it must have at least one number between 0 and 1")
    for each in eps:
        if not isinstance(each, (int, float)) or isinstance(each, bool) or not 0 < each < 1:
            raise SemDedupError(f"eps={shown(each)} cannot be used: it must be a number between 0 and 1, both excluded")
        if np.float32(1.0 - each) < np.float32(1.0 - most):
            raise SemDedupError(
                f"eps={each:.6g} is larger than {most:.6g}, up to which the scores are complete: lower it, or compare "
                "again with a larger eps"
            )
    return sorted(set(map(float, eps)))


def _score() -> Column:
    """Float32 scores, widened to doubles, as they are compared with a threshold."""
    return F.col("cosine_sim_score").cast("float").cast("double")


def _another() -> Column:
    return F.col("max_id") != F.col("id")


def _removed(similarities: DataFrame, grid: Sequence[float]) -> tuple[int, list[int]]:
    score = _score()
    counts = [F.count(F.when(_another() & (score >= 1.0 - e), 1)) for e in grid]
    counted = similarities.agg(F.count(F.lit(1)), *counts).collect()[0]
    return counted[0], list(counted[1:])


def _groups(similarities: DataFrame, grid: Sequence[float]) -> list[int]:
    score = _score()
    named = similarities.where(_another()).groupBy(F.col("max_id").alias("root")).agg(F.max(score).alias("of_others"))
    own = similarities.select("id", F.when(_another(), score).alias("own"))
    roots = named.join(own, F.col("root") == F.col("id"))
    is_kept = [F.coalesce(F.col("own") < 1.0 - e, F.lit(True)) for e in grid]
    counts = [F.count(F.when(kept & (F.col("of_others") >= 1.0 - e), 1)) for e, kept in zip(grid, is_kept, strict=True)]
    return list(roots.agg(*counts).collect()[0])


def _with_examples(similarities: DataFrame, steps: list[SweepStep], most: int) -> list[SweepStep]:
    """One job: of each threshold the pairs nearest to it."""
    pairs = similarities.where(_another()).select("id", "max_id", _score().alias("score"))
    parts = []
    for number, step in enumerate(steps):
        above, below = F.col("score") >= step.threshold, F.col("score") < step.threshold
        parts.append(_first(pairs.where(above), F.col("score").asc(), most, 2 * number))
        parts.append(_first(pairs.where(below), F.col("score").desc(), most, 2 * number + 1))
    every = parts[0]
    for part in parts[1:]:
        every = every.unionAll(part)
    listed: dict[int, list[PairExample]] = {}
    for row in every.collect():
        listed.setdefault(row["place"], []).append(PairExample(row["id"], row["max_id"], row["score"]))
    sides = [
        (sorted(listed.get(2 * i, []), key=_by_score), sorted(listed.get(2 * i + 1, []), key=_by_score, reverse=True))
        for i in range(len(steps))
    ]
    return [
        replace(step, above=tuple(above), below=tuple(below)) for step, (above, below) in zip(steps, sides, strict=True)
    ]


def _by_score(pair: PairExample) -> tuple[float, str]:
    return pair.cosine_sim_score, str(pair.id)


def _first(pairs: DataFrame, order: Column, most: int, place: int) -> DataFrame:
    return pairs.orderBy(order, "id").limit(most).withColumn("place", F.lit(place))


def _with_texts(steps: list[SweepStep], texts: DataFrame, id_col: str, text_col: str) -> list[SweepStep]:
    pairs = [pair for step in steps for pair in (*step.above, *step.below)]
    text_of = texts_of(texts, {id_ for pair in pairs for id_ in (pair.id, pair.max_id)}, id_col, text_col)

    def with_text(pair: PairExample) -> PairExample:
        return replace(pair, text=text_of.get(pair.id), max_text=text_of.get(pair.max_id))

    return [
        replace(step, above=tuple(map(with_text, step.above)), below=tuple(map(with_text, step.below)))
        for step in steps
    ]


def texts_of(texts: DataFrame, ids: set[Any], id_col: str, text_col: str) -> dict[Any, str]:
    """The texts of a few ids."""
    id_ = id_column(texts, id_col)
    field(texts, text_col, "textCol")
    rows = texts.where(id_.isin(list(ids))).select(id_.alias("id"), quoted(text_col).cast("string").alias("text"))
    return {row["id"]: row["text"] for row in rows.collect() if row["text"] is not None}
