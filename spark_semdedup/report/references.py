"""Reference rows in a report: those of an index, or of a table to keep apart from.

They are no rows of the input. Where a run compared with them alone, their ids are their own, and may be those of other
rows of the input: there a report must not follow ``max_id`` into the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_semdedup.spark.columns import id_column, unused_name

if TYPE_CHECKING:
    from spark_semdedup.report.data import RunResults

MARK = " (reference)"


def by_references_alone(facts: Mapping[str, Any]) -> bool:
    """Whether rows were compared with reference rows and not with one another."""
    return bool((facts.get("against") or {}).get("reference_only"))


def has_neighbour(facts: Mapping[str, Any]) -> Column:
    """Whether a row of the similarities names another one, which as a reference row may have its very id."""
    named = F.col("max_id") != F.col("id")
    return named | (F.col("cosine_sim_score") != 0) if by_references_alone(facts) else named


def naming_references(results: RunResults) -> RunResults:
    """The results of a run with reference rows, all ids as text, those of reference rows with a mark; others as they
    are."""
    if not results.facts.get("against"):
        return results
    rows, columns = results.rows, results.columns
    if rows is not None and columns is not None:
        name = unused_name("semdedup_id", rows)
        rows, columns = rows.withColumn(name, id_column(rows, columns.id).cast("string")), replace(columns, id=name)
    similarities, duplicates = (_named(results, frame) for frame in (results.similarities, results.duplicates))
    return replace(results, similarities=similarities, duplicates=duplicates, rows=rows, columns=columns)


def _named(results: RunResults, frame: DataFrame) -> DataFrame:
    if by_references_alone(results.facts):
        is_reference = has_neighbour(results.facts)
    else:  # no new row has the id of one in the index
        own = results.similarities.select(F.col("id").alias("own_id"))
        frame, is_reference = frame.join(own, F.col("max_id") == F.col("own_id"), "left"), F.col("own_id").isNull()
    id_, max_id = (F.col(name).cast("string") for name in ("id", "max_id"))
    named = F.when(is_reference, F.concat(max_id, F.lit(MARK))).otherwise(max_id)
    return frame.select(id_.alias("id"), named.alias("max_id"), "cosine_sim_score")
