"""Small tables of the driver's as DataFrames, which no task makes."""

from __future__ import annotations

import pyarrow as pa
import pyspark
import pytest

from spark_semdedup.spark.arrow import local_frame


def test_a_local_frame_takes_no_task_whatever_the_parallelism(spark):
    table = pa.table({"n": pa.array([1, 2], pa.int64()), "keys": pa.array([[1], [2, 3]], pa.list_(pa.int64()))})
    df = local_frame(spark, table)
    assert [tuple(row) for row in df.collect()] == [(1, [1]), (2, [2, 3])]
    if pyspark.__version__ < "4":
        pytest.skip("Spark 3.5 makes it in one task")
    assert "LocalRelation" in df._jdf.queryExecution().optimizedPlan().toString()
