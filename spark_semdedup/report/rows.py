"""The rows that a report shows: texts of those in its lists, and a sample for the map, from one pass over the input."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.kernels import unit_vectors
from spark_semdedup.report.words import TEXT_SHOWN
from spark_semdedup.spark.arrow import collect_arrow, decoded
from spark_semdedup.spark.columns import embedding_column, field, id_column, quoted, shown_type
from spark_semdedup.spark.vectors import matrix

SAMPLE_ROWS = 20_000
SAMPLE_NUMBERS = 8_000_000
"""Rows of the map's sample, and how many numbers their vectors may have: 64 MB where they come as doubles."""

_SCALE = 2**31


@dataclass(frozen=True)
class Columns:
    """Where ids, vectors and texts are in a table of rows."""

    id: str
    embedding: str | None
    text: str | None
    format: str | None = None
    """Param ``embeddingFormat``."""

    @classmethod
    def of(cls, rows: DataFrame, id_: str, embedding: str, text: str | None, format_: str | None = None) -> Columns:
        """``text``: None takes the column ``text``, if the table has it. ``SemDedupError`` for a given column that is
        missing, or is no text."""
        id_column(rows, id_)
        names = {name.lower() for name in rows.columns}
        if text is not None:
            refuse_no_text(rows, text)
        elif "text" in names and isinstance(field(rows, "text", "textCol").dataType, T.StringType):
            text = "text"
        return cls(id_, embedding if embedding.lower() in names else None, text, format_)

    def vector(self, rows: DataFrame) -> Column:
        """The embeddings of the rows, which have such a column."""
        assert self.embedding is not None
        return embedding_column(rows, self.embedding, format_=self.format)


def refuse_no_text(rows: DataFrame, text_col: str) -> None:
    """``SemDedupError`` for a column that is missing, or is no text."""
    type_ = field(rows, text_col, "textCol").dataType
    if not isinstance(type_, T.StringType):
        raise SemDedupError(f"textCol={shown(text_col)} is of type {shown_type(type_)}: it must be string")


@dataclass(frozen=True)
class Text:
    """The beginning of a row's text, and how long the whole is."""

    shown: str
    length: int
    """Characters."""

    @property
    def cut(self) -> int:
        """Characters that are not shown."""
        return self.length - len(self.shown)


@dataclass(frozen=True)
class RowSample:
    """A random sample of the rows with valid vectors."""

    ids: list[Any]
    units: np.ndarray
    """float32 (m, d): their unit vectors."""


def sample_share(total: int, dim: int) -> float:
    """Share of ``total`` rows with vectors of length ``dim`` that a sample holds."""
    return min(1.0, min(SAMPLE_ROWS, max(1000, SAMPLE_NUMBERS // max(1, dim))) / max(1, total))


def is_sampled(id_: Column, share: float) -> Column:
    """Whether a row is in the sample, by its id alone: the same rows in whatever order, and in every table of ids."""
    place = F.pmod(F.xxhash64(id_.cast("string"), F.lit(2)), F.lit(_SCALE))
    return place < F.lit(int(share * _SCALE))


def look_up(
    rows: DataFrame, columns: Columns, wanted: Collection[Any], share: float, dim: int
) -> tuple[dict[Any, Text], RowSample | None]:
    """Texts of the ``wanted`` rows and of a sample, by id; and the sample, or None where the rows have no vectors."""
    id_ = id_column(rows, columns.id)
    sampled = is_sampled(id_, share) if columns.embedding else F.lit(False)
    listed = id_.isin(list(wanted)) if wanted and columns.text else F.lit(False)
    text = quoted(columns.text) if columns.text else F.lit(None).cast("string")
    vector = columns.vector(rows) if columns.embedding else None
    chosen = rows.where(sampled | listed).select(
        id_.alias("id"),
        # No collation, no more than is shown: a text may have any length. Spark reads on past a last character whose
        # bytes are not all there.
        F.substring(text.cast("string"), 1, TEXT_SHOWN)
        .cast("binary")
        .substr(F.lit(1), F.octet_length(text))
        .alias("text"),
        # Of bytes that are not UTF-8, Spark and Python may count other characters.
        F.greatest(F.length(text) - TEXT_SHOWN, F.lit(0)).alias("cut"),
        *([F.when(sampled, vector).alias("vector")] if vector is not None else []),
    )
    table = collect_arrow(chosen)
    ids = table["id"].to_pylist()
    texts = zip(ids, decoded(table["text"]), table["cut"].to_pylist(), strict=True)
    by_id = {each: Text(text, len(text) + cut) for each, text, cut in texts if text is not None}
    return by_id, None if vector is None else _sample(ids, table["vector"], dim)


def _sample(ids: list[Any], vectors: Any, dim: int) -> RowSample:
    present = vectors.is_valid().to_numpy()
    valid, rows, _ = matrix(vectors.combine_chunks().filter(vectors.is_valid()), dim)
    places = np.flatnonzero(present)[valid]
    return RowSample([ids[place] for place in places], unit_vectors(rows))
