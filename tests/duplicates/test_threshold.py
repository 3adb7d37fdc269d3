"""Rows without the unwanted ids, whatever the rows are made of."""

from __future__ import annotations

from functools import reduce

import pytest
from pyspark.sql import DataFrame

from spark_semdedup.duplicates.threshold import without_ids


def plan_of(df: DataFrame) -> str:
    return df._jdf.queryExecution().optimizedPlan().toString()


@pytest.mark.slow
def test_a_union_of_200_frames_is_joined_once(spark):
    """Spark pushes an anti join into every branch of a union: no end after five minutes of 100 frames."""
    frame = spark.range(0, 3, 1, 1).selectExpr("id", "id AS day")
    union = reduce(DataFrame.unionByName, [frame.selectExpr(f"id + {3 * i} AS id", f"{i} AS day") for i in range(200)])
    unwanted = spark.createDataFrame([(0,), (299,), (599,), (1000,)], "id long").persist()
    try:
        kept = without_ids(union, "id", unwanted)
        assert plan_of(kept).count("Join") == 1
        assert kept.columns == ["id", "day"]
        assert sorted(row.id for row in kept.select("id").collect()) == sorted(set(range(600)) - {0, 299, 599})
    finally:
        unwanted.unpersist()


def test_ids_that_are_null_stay_and_repeated_unwanted_ones_remove_once(spark):
    rows = spark.createDataFrame([("a", 1), (None, 2), ("b", 3), ("b", 4)], "id string, n int")
    unwanted = spark.createDataFrame([("a",), ("a",), (None,)], "id string")
    assert sorted(row.n for row in without_ids(rows, "id", unwanted).collect()) == [2, 3, 4]
