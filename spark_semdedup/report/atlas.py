"""The rows as Embedding Atlas opens them: Parquet with a place on the map for each row.

Embedding Atlas (Apple; github.com/apple/embedding-atlas) reads a file or folder whose name ends in ``.parquet``::

    embedding-atlas out.parquet --text text --x x --y y

Nothing of it is needed to write that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.analysis.projection import Projection, nearest
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.kernels import unit_vectors
from spark_semdedup.report.data import RunResults
from spark_semdedup.report.references import has_neighbour
from spark_semdedup.report.rows import look_up, sample_share
from spark_semdedup.spark.columns import id_column, quoted
from spark_semdedup.spark.vectors import matrix

COLUMNS = ("id", "text", "x", "y", "cluster", "neighbour", "score", "removed")
"""``x`` and ``y``: principal components; ``cluster``: the nearest centroid; ``neighbour``: the most similar preferred
row, which may be a reference row, null for a row without one; ``score``: the similarity to it."""


def refuse_other_names(path: str) -> None:
    """``SemDedupError`` for a path that Embedding Atlas would not take for Parquet."""
    if not path.rstrip("/").lower().endswith(".parquet"):
        raise SemDedupError(
            f"exportAtlas={shown(path, 400)} must end in .parquet: Embedding Atlas tells formats by the name"
        )


def atlas_rows(results: RunResults) -> DataFrame:
    """``COLUMNS`` of every row of the run's input (or of the rows that remain, where no input is given).

    One pass over the input for the map's axes, which a sample decides; the rest is lazy.
    """
    rows, columns = results.rows, results.columns
    if rows is None or columns is None or columns.embedding is None:
        raise SemDedupError(
            "exportAtlas needs rows with their vectors: give the run's input, with the column that embeddingCol names"
        )
    dim = results.centroids.shape[1]
    share = sample_share(int(results.facts["rows_in"]), dim)
    _, sample = look_up(rows, columns, (), share, dim)
    if sample is None or not len(sample.units):
        raise SemDedupError("exportAtlas: no row has a vector of the centroids' length: give the run's own input")
    place = _Place(Projection.fit(sample.units), results.centroids, results.spherical)

    id_ = id_column(rows, columns.id)
    text = quoted(columns.text).cast("string") if columns.text else F.lit(None).cast("string")
    chosen = rows.select(id_.alias("id"), text.alias("text"), columns.vector(rows).alias("vector"))
    schema = T.StructType([*chosen.schema.fields[:2], *_PLACE_FIELDS])
    placed = chosen.mapInArrow(place.of_batches, schema)
    threshold = float(results.facts["threshold"])
    named = has_neighbour(results.facts)
    scored = results.similarities.select(
        F.col("id").alias("scored_id"),
        *(F.when(named, F.col(column)).alias(alias) for alias, column in _NEIGHBOUR.items()),
    )
    joined = placed.join(scored, placed["id"] == F.col("scored_id"), "left")
    removed = F.coalesce(F.col("score").cast("double") >= F.lit(threshold), F.lit(False))
    return joined.withColumn("removed", removed).select(*COLUMNS)


_NEIGHBOUR = {"neighbour": "max_id", "score": "cosine_sim_score"}

_PLACE_FIELDS = (
    T.StructField("x", T.FloatType()),
    T.StructField("y", T.FloatType()),
    T.StructField("cluster", T.IntegerType()),
)


class _Place:
    """Gives rows their place on the map. Runs in the tasks."""

    def __init__(self, projection: Projection, centroids: np.ndarray, spherical: bool) -> None:
        self._projection, self._centroids, self._spherical = projection, centroids, spherical

    def of_batches(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Batches of ``id``, ``text``, ``vector`` → ``id``, ``text``, ``x``, ``y``, ``cluster``; null where the vector
        cannot be used."""
        for batch in batches:
            if batch.num_rows:
                yield self._of(batch)

    def _of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        valid, rows, _ = matrix(batch.column("vector"), self._centroids.shape[1])
        x, y = np.zeros(len(valid), np.float32), np.zeros(len(valid), np.float32)
        cluster = np.zeros(len(valid), np.int32)
        if len(rows):
            units = unit_vectors(rows)
            x[valid], y[valid] = self._projection.apply(units).T
            cluster[valid] = nearest(units, self._centroids, spherical=self._spherical)
        values = [pa.array(column, mask=~valid) for column in (x, y, cluster)]
        names = ["id", "text", *(field.name for field in _PLACE_FIELDS)]
        return pa.RecordBatch.from_arrays([batch.column("id"), batch.column("text"), *values], names)
