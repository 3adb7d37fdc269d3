"""The rows of a comparison: documents that are yet to be assigned to cells, or rows that were assigned before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_semdedup.clustering.assign import Assigner, ReadyCells, RuleOf, no_visits
from spark_semdedup.clustering.centroids import Centroids
from spark_semdedup.clustering.sample import in_lowest
from spark_semdedup.clustering.settings import FIT_ROWS_PER_CENTROID, size_rows
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.estimate import (
    ClusterSizes,
    FittedEstimate,
    FittedSample,
    VectorSample,
    VisitSample,
    collect_visits,
    count_by_cluster,
)
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.pairwise.route import DocumentRouter, Located, TaskRouter, cells_given, tile_hash
from spark_semdedup.spark.arrow import collect_arrow
from spark_semdedup.spark.backend import plugin_active
from spark_semdedup.spark.columns import quoted, unused_name, vector_length
from spark_semdedup.spark.device import TaskDevice
from spark_semdedup.spark.documents import Documents
from spark_semdedup.spark.small import is_small
from spark_semdedup.spark.vectors import Decoder, decode_units, ordered_matrix


class ComparableRows(Protocol):
    """What ``execute.compare`` asks of rows, wherever their cells come from."""

    @property
    def spark(self) -> SparkSession: ...

    @property
    def centroids(self) -> Centroids | None: ...

    @property
    def decode(self) -> Decoder:
        """Makes unit vectors of the vectors in ``routed()``, in the tasks that compare."""

    def routed(self, router: TaskRouter | None = None, *, lists: bool = False) -> DataFrame:
        """``id``, rank keys, a column of vectors, ``centroid``; with a ``router`` its columns, too."""

    def located(self, coverage: Coverage) -> Located:
        """The rows without rank keys, and what finds their cells and the cells they visit."""

    def router_of_few(self) -> DocumentRouter | None:
        """The documents and what routes them, where they are yet to be assigned, and so few that one task may."""

    def with_states(self, states: DataFrame) -> ComparableRows:
        """The rows whose id is in ``states``, whose column ``state`` comes with them (``rounds``)."""

    def sizes(self) -> ClusterSizes:
        """Estimated rows of each cluster."""

    def visits(self, coverage: Coverage) -> VisitSample:
        """The cells that a sample of the rows visits."""


@dataclass(frozen=True)
class UnassignedRows:
    """Documents, and the centroids they are to be assigned to."""

    documents: Documents
    centroids: Centroids
    ranking: Ranking
    params: Any
    """Of the stage: columns, ``handleInvalid``, ``embeddingDim``, backend."""
    fitted: FittedSample | FittedEstimate | None = None
    """What the fit left on the driver of rows of the same documents: estimates from it cost no job."""
    state_col: str | None = None
    """A column of the documents that is routed with them, as ``state``."""

    @property
    def spark(self) -> SparkSession:
        return self.documents.spark

    @property
    def decode(self) -> Decoder:
        return decode_units

    def routed(self, router: TaskRouter | None = None, *, lists: bool = False) -> DataFrame:
        """Unit vectors, cells, rank keys and tasks of all rows."""
        return self._router(router, lists=lists).routed()

    def router_of_few(self) -> DocumentRouter | None:
        return self._router() if is_small(self.documents.df) else None

    def _router(self, router: TaskRouter | None = None, *, lists: bool = False) -> DocumentRouter:
        df, id_ = self.documents.df, self.documents.id
        distance = self.ranking.distance
        keys = [] if distance else self.ranking.key_columns(df, id_)
        carried = [id_.alias("id"), *(key.alias(f"key_{i}") for i, key in enumerate(keys))]
        carried += [quoted(self.state_col).alias("state")] if self.state_col else []
        located = self._located(carried, distance, router.rule if router else no_visits)
        return DocumentRouter(located.source, located.locate, router, distance, lists)

    def located(self, coverage: Coverage) -> Located:
        return self._located([self.documents.id.alias("id")], None, coverage.rule)

    def _located(self, carried: list[Column], distance: str | None, rule_of: RuleOf) -> Located:
        documents = self.documents
        vectors = documents.embedding.alias("embedding"), tile_hash(documents.id).alias("hash")
        distances = (distance,) if distance else ()
        assigner = Assigner.of(self.centroids, self.spark, self.params, distances=distances, rule_of=rule_of)
        return Located(
            documents.df.select(*carried, *vectors),
            lambda batch: assigner(batch.column("embedding"), batch.column("id")),
        )

    def with_states(self, states: DataFrame) -> UnassignedRows:
        documents = self.documents
        id_, state = (unused_name(name, documents.df) for name in ("semdedup_id", "semdedup_state"))
        found = states.select(F.col("id").alias(id_), F.col("state").alias(state))
        joined = documents.df.join(found, documents.id == F.col(id_))
        return replace(self, documents=replace(documents, df=joined), state_col=state)

    def sizes(self) -> ClusterSizes:
        known = self.fitted.sizes(self.centroids.cells()) if self.fitted else None
        if known is not None:
            return ClusterSizes(known, self.centroids.dim)
        fraction = self._fraction(FIT_ROWS_PER_CENTROID * self.centroids.k)
        sample = self._sample(fraction).routed(lists=plugin_active(self.spark))
        return ClusterSizes(count_by_cluster(sample, 1 / fraction), self.centroids.dim)

    def visits(self, coverage: Coverage) -> VisitSample:
        known = self.fitted.visits(self.centroids.cells(), coverage) if self.fitted else None
        if known is not None:
            return known
        fraction = self._fraction(size_rows(self.centroids.k))
        lists = plugin_active(self.spark)  # only numbers leave the GPU then
        sample = self._sample(fraction).routed(TaskRouter(coverage, lists=lists), lists=lists)
        most = coverage.most_visits(fraction * self.documents.rows, self.centroids.k)
        return collect_visits(sample, fraction, most)

    def vectors(self, most: int) -> VectorSample:
        """About ``most`` rows, or all where there are fewer, on the driver."""
        known = self.fitted.vectors(self.centroids.cells(), most) if self.fitted else None
        if known is not None:
            return known
        fraction = self._fraction(most)
        sample = self._sample(fraction).routed().where(F.col("centroid") >= 0)
        rows = collect_arrow(sample.select("unit", "centroid"))
        if not len(rows):
            return VectorSample(np.empty((0, self.centroids.dim), np.float32), np.empty(0, np.int32), 1 / fraction)
        return VectorSample(
            ordered_matrix(rows["unit"], np.arange(len(rows))), rows["centroid"].to_numpy(), 1 / fraction
        )

    def _fraction(self, wanted: float) -> float:
        """The share of the rows that ``wanted`` rows are. Ids are checked as rows are counted."""
        share = min(1.0, wanted / self.documents.rows)
        self.documents.require_length(self.centroids.dim)
        return share

    def _sample(self, fraction: float) -> UnassignedRows:
        """The rows whose ids hash lowest, without the columns that would rank them."""
        documents = self.documents.where(in_lowest(self.documents.id, fraction))
        return replace(self, documents=documents, ranking=Ranking())


def estimate_held(
    sample: DataFrame, number: int, total: float, centroids: Centroids, params: Any, coverage: Coverage
) -> FittedEstimate:
    """Sizes of clusters, or visits where rows visit further ones, from ``number`` rows with ``hash`` and ``unit`` that
    stand for ``total`` rows. A small job. ``params``: of a stage with columns and a backend."""
    documents = Documents(sample, F.col("hash"), "hash", F.col("unit"), "unit")
    rows = UnassignedRows(documents, centroids, Ranking(), params)
    lists = plugin_active(rows.spark)  # only numbers leave the GPU then
    scale = total / max(number, 1)
    if not coverage.visits:
        return FittedEstimate(coverage, cluster_rows=count_by_cluster(rows.routed(lists=lists), scale))
    routed = rows.routed(TaskRouter(coverage, lists=lists), lists=lists)
    found = collect_visits(routed, 1.0, coverage.most_visits(number, centroids.k))
    return FittedEstimate(coverage, visit_sample=replace(found, scale=scale * found.scale))


_SIZE_FRACTION = 1 / 16
"""Share of the assigned rows that sizes of clusters are estimated from."""


@dataclass(frozen=True)
class AssignedRows:
    """Rows that have a cell: ``df`` with ``id``, ``key_0`` …, ``embedding`` and ``centroid``, which is never null."""

    df: DataFrame
    total: int
    """Rows, or a few more: those without a cell may be counted in."""
    decode: Decoder
    """Makes unit vectors of ``embedding``."""
    params: Any
    """Of the stage: backend and memory."""
    centroids: Centroids | None = None
    """What the numbers in ``centroid`` stand for: needed where rows visit further cells."""

    @property
    def spark(self) -> SparkSession:
        return self.df.sparkSession

    def routed(self, router: TaskRouter | None = None, *, lists: bool = False) -> DataFrame:
        """The rows as they are, without a crossing to Python, unless a ``router`` is to send them to further cells."""
        return self.df if router is None else self._routed(self.df, router)

    def router_of_few(self) -> None:
        return None

    def with_states(self, states: DataFrame) -> AssignedRows:
        return replace(self, df=self.df.join(states.select("id", "state"), "id"))

    def _routed(self, rows: DataFrame, router: TaskRouter) -> DataFrame:
        located = self._located(rows, router.rule)
        return DocumentRouter(located.source, located.locate, router, lists=router.lists).routed()

    def located(self, coverage: Coverage) -> Located:
        return self._located(self.df.select("id", "embedding", "centroid"), coverage.rule)

    def _located(self, rows: DataFrame, rule_of: RuleOf) -> Located:
        assert self.centroids is not None  # whoever asks for visits gives them
        cells = ReadyCells(self.centroids, rule_of)
        locate = cells_given(self.decode, cells, TaskDevice.of_params(self.spark, self.params))
        source = rows.withColumn("centroid", F.col("centroid").cast("bigint"))
        return Located(source.withColumn("hash", tile_hash(F.col("id"))), locate)

    def sizes(self) -> ClusterSizes:
        sample = self.df.where(in_lowest(F.col("id"), _SIZE_FRACTION) & (F.col("centroid") >= 0))
        length = vector_length(sample, F.col("embedding"))
        counts = sample.groupBy("centroid").agg(F.count(F.lit(1)).alias("rows"), F.max(length).alias("dim"))
        clusters = counts.collect()
        sizes = {int(row["centroid"]): row["rows"] / _SIZE_FRACTION for row in clusters}
        return ClusterSizes(sizes, max((max(row["dim"] or 1, 1) for row in clusters), default=1))

    def visits(self, coverage: Coverage) -> VisitSample:
        assert self.centroids is not None
        fraction = min(1.0, size_rows(self.centroids.k) / max(self.total, 1))
        some = self.df.where(in_lowest(F.col("id"), fraction))
        sample = self._routed(some, TaskRouter(coverage, lists=plugin_active(self.spark)))
        return collect_visits(sample, fraction, coverage.most_visits(fraction * self.total, self.centroids.k))
