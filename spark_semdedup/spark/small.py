"""Small tables, whose work takes less time in one task than in several."""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame

from spark_semdedup.spark.backend import plugin_active

SMALL_BYTES = 2**23
"""Of files, as they lie on the disk: 5,000 rows of 384 numbers, or some 100,000 ids."""

SMALL_ROWS = 2**14
"""Rows of such files that are read to the driver, with their vectors."""

_PASSED = ("Project", "Filter", "Repartition")
"""Operators between files and rows that leave them few, and cost little. (Functions of Python have their own.)"""


def is_small(df: DataFrame) -> bool:
    """Whether the rows come straight from a few MiB of files. Of a Spark Connect client's rows nothing is known, and
    where the RAPIDS Accelerator plans, all tables go its way."""
    if getattr(df, "_jdf", None) is None or plugin_active(df.sparkSession):
        return False
    plan: Any = df._jdf.queryExecution().optimizedPlan()
    while (name := _class(plan)) in _PASSED:
        plan = plan.child()
    if name != "LogicalRelation" or _class(plan.relation()) != "HadoopFsRelation":
        return False
    return int(plan.relation().sizeInBytes()) <= SMALL_BYTES


def in_one_task(df: DataFrame) -> DataFrame:
    """The rows, in one partition where they are few: an aggregate or a join of such is one stage, of one task."""
    return df.coalesce(1) if is_small(df) else df


def _class(node: Any) -> str:
    return str(node.getClass().getSimpleName())
