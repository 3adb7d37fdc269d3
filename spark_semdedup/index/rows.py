"""The rows of an index: documents assigned to centroids, unit vectors beside their distances and rank keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import types as T

from spark_semdedup.clustering.assign import Assigned, Assigner, ReadyCells, assigned_at_once
from spark_semdedup.clustering.centroids import Centroids
from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels.arrays import Array, to_numpy
from spark_semdedup.kernels.assignment import DISTANCES, assign
from spark_semdedup.kernels.visits import margins
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.pairwise.schema import ASSIGNED
from spark_semdedup.spark.columns import shown_type
from spark_semdedup.spark.device import TaskDevice
from spark_semdedup.spark.documents import Documents
from spark_semdedup.spark.vectors import matrix_from_packed, packed_rows
from spark_semdedup.spark.worker import prepare_worker

_ASSIGNED_FIELDS = [
    T.StructField("unit", T.BinaryType()),
    T.StructField("centroid", T.IntegerType()),
    T.StructField("l2_dist_to_cent", T.FloatType()),
    T.StructField("cosine_dist_to_cent", T.FloatType()),
]
"""``unit``: the unit vector, d float32 numbers, little-endian."""


def index_rows(documents: Documents, centroids: Centroids, ranking: Ranking, params: Any) -> DataFrame:
    """The valid documents as an index holds them: ``id``, ``unit``, ``centroid``, both distances, ``key_0`` …; lazy.

    One crossing to Python. Rows that cannot be compared are left out, or raise, as ``handleInvalid`` says. ``params``:
    of the stage: columns, ``handleInvalid``, ``embeddingDim``, backend.
    """
    df, id_ = documents.df, documents.id
    keys = [] if ranking.distance else ranking.key_columns(df, id_)
    named = [key.alias(f"key_{i}") for i, key in enumerate(keys)]
    source = df.select(id_.alias("id"), documents.embedding.alias("embedding"), *named)
    carried, distance = source.columns[2:], ranking.distance
    schema = T.StructType([source.schema["id"], *_ASSIGNED_FIELDS, *(source.schema[name] for name in carried)])
    if distance:
        schema.add("key_0", T.FloatType())
    assigner = Assigner.of(centroids, documents.spark, params, distances=DISTANCES)

    def assigned(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        prepare_worker()
        for batch in batches:
            if batch.num_rows:
                found = assigner(batch.column("embedding"), batch.column("id"))
                valid = batch.filter(pa.array(found.valid)) if not found.valid.all() else batch
                columns = [valid.column("id"), *_assigned_columns(found)]
                columns += [valid.column(name) for name in carried]
                columns += [pa.array(getattr(found, distance))] if distance else []
                yield pa.RecordBatch.from_arrays(columns, names=schema.names)

    return source.mapInArrow(assigned, schema)


def _assigned_columns(found: Assigned) -> list[pa.Array]:
    return [packed_rows(found.units), *(pa.array(getattr(found, name)) for name in ASSIGNED)]


def reassigned(rows: DataFrame, centroids: Centroids, device: TaskDevice) -> DataFrame:
    """Rows of an index with other centroids: ``centroid`` and both distances anew, of the stored unit vectors."""
    schema, cells = rows.schema, ReadyCells(centroids)

    def nearest(units: Array) -> tuple[np.ndarray, ...]:
        ready, _ = cells.on_device_of(units)
        found = assign(units, ready)
        return tuple(to_numpy(getattr(found, name)) for name in ASSIGNED)

    def assigned(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        prepare_worker()
        for batch in batches:
            if batch.num_rows:
                units = matrix_from_packed(batch.column("unit"))
                values = device.retry_on_oom(nearest, units, assigned_at_once(len(units)))
                new = dict(zip(ASSIGNED, map(pa.array, values), strict=True))
                columns = [new.get(name, batch.column(name)) for name in schema.names]
                yield pa.RecordBatch.from_arrays(columns, names=schema.names)

    return rows.mapInArrow(assigned, schema)


def cell_margins(rows: DataFrame, centroids: Centroids) -> DataFrame:
    """``centroid`` and ``margins``, k float32 numbers (``kernels.visits.margins``), of each cell that has rows; of one
    whose rows are in several partitions as often."""
    schema = T.StructType([T.StructField("centroid", T.IntegerType()), T.StructField("margins", T.BinaryType())])

    def found(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        prepare_worker()
        cells = centroids.cells()
        largest: dict[int, np.ndarray] = {}
        for batch in batches:
            if batch.num_rows:
                own = batch.column("centroid").to_numpy()
                for cell, row in zip(*margins(cells, matrix_from_packed(batch.column("unit")), own), strict=True):
                    largest[int(cell)] = np.maximum(largest.get(int(cell), row), row)
        if largest:
            columns = [pa.array(list(largest), pa.int32()), packed_rows(np.stack(list(largest.values())))]
            yield pa.RecordBatch.from_arrays(columns, names=schema.names)

    return rows.select("centroid", "unit").mapInArrow(found, schema)


def stored_schema(rows: T.StructType) -> T.StructType:
    """What an index stores of rows with such columns (``index_rows``): ``batch`` and ``kept`` are added, nothing is
    null. Raises ``SemDedupError`` for other columns."""
    names = [field.name for field in rows if field.name not in ("batch", "kept")]
    keys = [name for name in names if name.startswith("key_")]
    expected = ["id", *(field.name for field in _ASSIGNED_FIELDS), *(f"key_{i}" for i in range(len(keys)))]
    if names != expected:
        raise SemDedupError(f"rows for an index must have the columns {', '.join(expected)}, not {', '.join(names)}")
    fields = [T.StructField(name, rows[name].dataType) for name in expected]
    fields += [T.StructField("batch", T.IntegerType()), T.StructField("kept", T.BooleanType())]
    return T.StructType(fields)


def require_schema(given: T.StructType, stored: T.StructType, place: str) -> None:
    """Raises ``SemDedupError`` where rows are of other types than those in the index."""
    for field in stored_schema(given):
        if field.name not in stored.names:
            raise SemDedupError(f"{place} has no column {field.name}: its rows are ranked by other columns")
        kept = stored[field.name].dataType
        if field.dataType != kept:
            what = "ids" if field.name == "id" else f"column {field.name}"
            raise SemDedupError(
                f"{place} has {what} of type {shown_type(kept)}, but the new rows' are {shown_type(field.dataType)}: "
                "cast them"
            )
    missing = [name for name in stored.names if name.startswith("key_") and name not in given.names]
    if missing:
        raise SemDedupError(f"{place} has the rank keys {', '.join(missing)}, which the new rows lack: rank them alike")
