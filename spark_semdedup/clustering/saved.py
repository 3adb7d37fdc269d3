"""Centroids as Parquet: ``centroid`` int and ``vector`` array<float>. What is read is checked before it is used."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.clustering.centroids import centroid_matrix
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.spark.arrow import collect_arrow, local_frame
from spark_semdedup.spark.columns import is_float_array
from spark_semdedup.spark.files import escaped
from spark_semdedup.spark.parquet import own_reader
from spark_semdedup.spark.vectors import ordered_matrix, packed_rows

MOST_NUMBERS = 2**31
"""Of centroids, k times their length, that are loaded: 8 GiB. No fit comes near."""

_BYTES_AT_ONCE = 2**23
"""Of centroids, that are written by one task. They travel as part of it: as float32, from Spark 3.5 as nine bytes for
each number, and a cluster takes no task of more than ``spark.rpc.message.maxSize``, 128 MiB unless told otherwise."""


def write_centroids(spark: SparkSession, centroids: np.ndarray, path: str) -> None:
    """Writes a float32 matrix (k, d) to a new folder, in one job: of several, those that ended before a failure would
    pass for a whole model."""
    step = max(1, _BYTES_AT_ONCE // (centroids[:1].nbytes or 1))
    parts = [_part(spark, centroids, start, step) for start in range(0, max(len(centroids), 1), step)]
    with _parts_apart(spark):
        functools.reduce(DataFrame.unionAll, parts).write.parquet(path)


@contextmanager
def _parts_apart(spark: SparkSession) -> Iterator[None]:
    """Has a union of frames of one partition each one partition for each, as before Spark 4.2, which makes it one."""
    with _SETTING:
        before = spark.conf.get(_UNION_PARTITIONING, None)
        spark.conf.set(_UNION_PARTITIONING, "false")
        try:
            yield
        finally:
            if before is None:
                spark.conf.unset(_UNION_PARTITIONING)
            else:
                spark.conf.set(_UNION_PARTITIONING, before)


_SETTING = threading.Lock()
"""The setting is the session's: of two threads that save at once, the second would restore what the first has set."""

_UNION_PARTITIONING = "spark.sql.unionOutputPartitioning"


def _part(spark: SparkSession, centroids: np.ndarray, start: int, rows: int) -> DataFrame:
    """Some of the centroids, in one partition."""
    part = centroids[start : start + rows]
    ids = pa.array(range(start, start + len(part)), pa.int32())
    table = pa.table({"centroid": ids, "vector": packed_rows(part, lists=True)})
    return local_frame(spark, table).coalesce(1)


def read_centroids(spark: SparkSession, path: str) -> np.ndarray:
    """The centroids in order of their number, float32 (k, d); looked at where they are before they are collected.

    Raises ``SemDedupError`` for what ``write_centroids`` has not written.
    """
    place = f"{shown(path, 400)} holds no centroids that can be used"
    rows = own_reader(spark).parquet(escaped(path))
    types = {field.name: field.dataType for field in rows.schema.fields}
    if not isinstance(types.get("centroid"), T.IntegerType) or not is_float_array(types.get("vector", T.NullType())):
        raise SemDedupError(f"{place}: it must have the columns centroid int and vector array<float>")
    length = F.coalesce(F.size("vector"), F.lit(-1))
    found = rows.agg(F.count("*").alias("k"), F.min(length).alias("least"), F.max(length).alias("most")).collect()
    k, least, most = found[0]
    if not k:
        raise SemDedupError(f"{place}: there are no rows")
    if least != most or least < 1 or k * most > MOST_NUMBERS:
        raise SemDedupError(f"{place}: {k} vectors of lengths {least} to {most}; they must be of one length above 0")
    return _ordered(rows, k, place)


def read_matrix(spark: SparkSession, path: str, shape: tuple[int, int]) -> np.ndarray:
    """The same of a matrix whose shape is known, in one job.

    Raises ``SemDedupError`` for a matrix of another shape.
    """
    place = f"{shown(path, 400)} cannot be used"
    rows = own_reader(spark).schema("centroid int, vector array<float>").parquet(escaped(path))
    matrix = _ordered(rows, shape[0], place)
    if matrix.shape != shape:
        raise SemDedupError(f"{place}: it holds a matrix of shape {matrix.shape}, not {shape}: files were replaced")
    return matrix


def _ordered(rows: DataFrame, k: int, place: str) -> np.ndarray:
    collected = collect_arrow(rows.select("centroid", "vector"))  # rows of Python numbers would take ten times as much
    numbers = collected["centroid"].to_numpy()
    order = np.argsort(numbers, kind="stable")
    if not np.array_equal(numbers[order], np.arange(k)):
        raise SemDedupError(f"{place}: their numbers are not 0 to {k - 1}, each once")
    with np.errstate(over="ignore"):  # doubles beyond float32 are infinite, and refused
        return centroid_matrix(ordered_matrix(collected["vector"], order), place)
