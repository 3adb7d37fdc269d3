"""Small indexes for tests: random rows of a few clusters."""

from __future__ import annotations

import vectors
from pyspark.sql import functions as F

from spark_semdedup.clustering.centroids import Centroids
from spark_semdedup.index import SemDedupIndex, index_rows
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.params import SemDedupStageParams
from spark_semdedup.spark.documents import Documents

DIM, K = 6, 5


def documents(spark, first: int, count: int, dtype="long"):
    """Rows ``first`` … with random embeddings, which only depend on the row's id."""
    units = vectors.make("random", 10_000, DIM, seed=7)[first : first + count]
    data = [(i, [float(x) for x in unit]) for i, unit in zip(range(first, first + count), units, strict=True)]
    return spark.createDataFrame(data, f"id {dtype}, embedding array<float>")


def assigned(spark, centroids, first: int, count: int, *, which="hard", dtype="long"):
    params = SemDedupStageParams(whichToKeep=which)
    docs = Documents.of_params(documents(spark, first, count, dtype), params)
    rows = index_rows(docs, centroids, Ranking.of(params), params)
    return rows.withColumn("kept", F.col("id") % 3 != 0)


def create(spark, path, centroids, *, holds="all", which="hard", dtype="long", **options) -> SemDedupIndex:
    schema = assigned(spark, centroids, 0, 1, which=which, dtype=dtype).schema
    ranking = Ranking.of(SemDedupStageParams(whichToKeep=which))
    settings = {"eps": 0.1, "whichToKeep": which}
    return SemDedupIndex.create(
        spark, str(path), centroids, schema=schema, ranking=ranking, settings=settings, holds=holds, **options
    )


def content(rows) -> list[tuple]:
    return sorted(tuple(map(bytes_of, row)) for row in rows.collect())


def bytes_of(value):
    return bytes(value) if isinstance(value, bytearray) else value


def some_centroids(k: int = K) -> Centroids:
    return Centroids(vectors.make("random", k, DIM, seed=1))
