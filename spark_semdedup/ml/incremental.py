"""New rows against reference rows: those of an index, which were deduplicated before, or of a table to keep apart from.

``deduplicate_against`` finds the duplicates among new rows, too; ``compare_with`` leaves these alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.duplicates.greedy import decide
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.reference import Probes, ReferenceRows, best_references, with_references
from spark_semdedup.pairwise.rows import UnassignedRows

if TYPE_CHECKING:
    from spark_semdedup.ml.semdedup import SemDedupModel


def found_references(model: SemDedupModel, rows: UnassignedRows, references: ReferenceRows) -> DataFrame:
    """The best reference row of each row (``reference.best_references``). One small job that collects the new rows;
    the rest is lazy."""
    coverage = Coverage.of(model, model.similarity_threshold())
    return best_references(Probes.collect(rows, coverage), references, coverage, model, rows.spark)


def compare_with(model: SemDedupModel, rows: UnassignedRows, references: ReferenceRows) -> DataFrame:
    """One entry for each row, by reference rows alone: new rows are not compared with one another. Lazy."""
    return with_references(alone(rows), found_references(model, rows, references))


def alone(rows: UnassignedRows) -> DataFrame:
    """One entry for each row as if there were no other: its own id and 0."""
    routed = rows.routed()
    keys = [name for name in routed.columns if name.startswith("key_")]
    zero = F.lit(0)
    columns = [F.col("id"), F.col("id").alias("max_id"), zero.cast("float").alias("cosine_sim_score")]
    columns += [F.col("centroid"), zero.cast("long").alias("compared"), F.col("reason"), *map(F.col, keys)]
    return routed.select(columns)


def deduplicate_against(model: SemDedupModel, dataset: DataFrame, references: ReferenceRows) -> DataFrame:
    """One entry for each row of ``dataset``, by reference rows, which precede all, and by one another. Held by Spark
    until it is unpersisted."""
    compared = model.compared(dataset)
    found = found_references(model, model.rows_of(dataset), references).persist()
    if model.value("keepRule") == "greedy":
        try:
            return decide(compared, model.similarity_threshold(), found)
        finally:
            found.unpersist()
    return with_references(compared.rows, found).persist()
