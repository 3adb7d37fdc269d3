"""Rows that Spark holds, computed once: in rounds plans would grow, and be computed anew in each."""

from __future__ import annotations

from pyspark.errors import PySparkNotImplementedError
from pyspark.sql import DataFrame


def held(df: DataFrame) -> DataFrame:
    """The same rows, computed now and held by the executors for as long as the DataFrame is referred to.

    A lost executor is an error later, as no plan says any more how to compute them. (Spark Connect's client of 3.5
    knows no local checkpoints: there rows are persisted, and their plans kept.)
    """
    try:
        return df.localCheckpoint(eager=True)
    except PySparkNotImplementedError:
        kept = df.persist()
        kept.count()
        return kept
