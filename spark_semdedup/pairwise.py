"""``PairwiseSimilarity``: each row's most similar preferred row, in its cluster or in all it is compared in."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.ml import Transformer
from pyspark.ml.util import DefaultParamsWritable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.clustering import EmbeddingKMeansModel, size_rows
from spark_semdedup.columns import (
    embedding_column,
    field,
    id_column,
    is_float16_bits,
    quoted,
)
from spark_semdedup.comparison import GroupComparison, groups, runs
from spark_semdedup.coverage import (
    Coverage,
    Router,
    collect_visits,
    placed,
    route_assigned,
    tile_hash,
)
from spark_semdedup.devices import Placement, plugin_active, slots
from spark_semdedup.entries import SIMILARITY_COLUMNS, Entries
from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels import sketch
from spark_semdedup.params import (
    CoverageParams,
    DecisionParams,
    HasCentroidsPath,
    HasColumns,
    HasNormalize,
    PairwiseParams,
    RankingParams,
)
from spark_semdedup.persistence import StageReadable
from spark_semdedup.planning import Packed, Plan, default_max_rows, device_bytes, plan_clusters
from spark_semdedup.ranking import Ranking
from spark_semdedup.regions import RegionPlan, VisitSample, plan_regions
from spark_semdedup.sampling import in_lowest
from spark_semdedup.validation import check_ids
from spark_semdedup.vectors import Decoder, array_decoder, decode_units
from spark_semdedup.workload import Workload

log = logging.getLogger("spark_semdedup")

_SIZE_FRACTION = 1 / 16
"""Share of the rows that sizes of clusters are estimated from."""


class PairwiseSimilarity(
    Transformer,
    HasColumns,
    RankingParams,
    PairwiseParams,
    CoverageParams,
    DecisionParams,
    HasCentroidsPath,
    HasNormalize,
    StageReadable,
    DefaultParamsWritable,
):
    """Compares the rows of each cluster with one another, or with those of further ones, on the task's GPU or CPU.

    Takes what ``EmbeddingKMeansModel`` gives: an id, an embedding, ``centroid`` and the distances. Gives one row for
    each: ``id``; ``max_id``, the most similar of the rows of its cluster that are preferred to it; and
    ``cosine_sim_score`` (float), the similarity to that row. The most preferred row of a cluster has its own id and 0.
    Rows with a null ``centroid`` (invalid ones that were kept) are left out.

    ``normalize`` false: the embeddings are unit vectors already, as the ``cluster`` step or NeMo Curator stores them,
    and are used as they are (float16 bits in integer lists, which are rounded, are normalised).

    ``nProbe`` above 1, or ``coverage`` exact, compares rows with those of further clusters, too. That takes the
    centroids that the numbers in ``centroid`` stand for: ``setCentroids``, or ``centroidsPath``. Scores are then
    complete from ``1 - eps`` on (exact): ``eps`` and ``threshold`` are used for nothing else here. Give
    ``IdentifyDuplicates`` no larger ``eps`` than that.

    >>> rows = [(1, 0, [1.0, 0.0], 0.5), (2, 0, [0.8, 0.6], 0.2), (3, 0, [0.6, 0.8], 0.1), (4, 1, [1.0, 0.0], 0.0)]
    >>> df = spark.createDataFrame(rows, "id int, centroid int, embedding array<float>, cosine_dist_to_cent float")
    >>> PairwiseSimilarity().transform(df).orderBy("id").show()
    +---+------+----------------+
    | id|max_id|cosine_sim_score|
    +---+------+----------------+
    |  1|     1|             0.0|
    |  2|     1|             0.8|
    |  3|     2|      0.96000004|
    |  4|     4|             0.0|
    +---+------+----------------+
    <BLANKLINE>
    """

    _centroids: EmbeddingKMeansModel | None = None

    def setCentroids(self, model: EmbeddingKMeansModel) -> PairwiseSimilarity:
        """The model that assigned the rows; not saved with the stage."""
        self._centroids = model
        return self

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Lazy, but for small jobs: one checks the ids, one looks at a sample of the rows to plan the tasks. Where
        ``dataset`` is costly to compute (``EmbeddingKMeansModel.transform`` assigns all rows anew for the second and
        for the comparison), persist it first, or use ``SemDedup``, which assigns rows once."""
        return self.compared(dataset).rows.select(*SIMILARITY_COLUMNS)

    def compared(self, dataset: DataFrame) -> Compared:
        """The similarities and what is told beside them."""
        id_ = id_column(dataset, self.value("idCol"))
        name = self.value("embeddingCol")
        stored = not self.value("normalize")
        embedding = embedding_column(dataset, name, float16_bits=stored)
        centroid = _centroid_column(dataset)
        ranking = Ranking.of(self)
        coverage = Coverage.of(self, self.similarity_threshold())
        model = self._model() if coverage.visits else None
        keys = [key.alias(f"key_{i}") for i, key in enumerate(ranking.key_columns(dataset, id_))]
        total = check_ids(dataset, id_, self.value("idCol"))
        clustered = dataset.where(centroid.isNotNull())
        rows = clustered.select(id_.alias("id"), *keys, embedding.alias("embedding"), centroid.alias("centroid"))
        float16 = stored and is_float16_bits(rows.schema["embedding"].dataType)
        decode = array_decoder(name, stored=stored, float16=float16)
        if model is None:
            return compare_clusters(rows, _sample_sizes(rows), ranking, decode, self)
        spherical = model.value("distanceMeasure") == "cosine"
        placement = Placement.of_params(rows.sparkSession, self)
        fraction = min(1.0, size_rows(len(model.centroids)) / max(total, 1))
        some = rows.where(in_lowest(F.col("id"), fraction))
        router = Router(coverage, lists=plugin_active(rows.sparkSession))
        routed = route_assigned(some, router, decode, model.centroids, placement, spherical=spherical)
        most = coverage.most_visits(fraction * total, len(model.centroids))
        sample = collect_visits(routed, fraction, most)
        plan = plan_for(sample, model.centroids, coverage, rows.sparkSession, self)
        workload = Workload.of_regions(coverage, sample, model.centroids, plan)
        router = Router(coverage, plan, travel_as_lists(rows.sparkSession, self))
        routed = route_assigned(rows, router, decode, model.centroids, placement, spherical=spherical)
        return compare_regions(routed, plan, workload, ranking, self)

    def _model(self) -> EmbeddingKMeansModel:
        path = self.value("centroidsPath")
        if (path is None) == (self._centroids is None):
            state = "both set; set one of them" if path else "both unset; give the centroids that the rows belong to"
            raise SemDedupError(
                f"coverage={self.value('coverage')!r} with nProbe={self.value('nProbe')}: centroidsPath and "
                f"setCentroids are {state}"
            )
        return self._centroids or EmbeddingKMeansModel.load(path)


# --- tasks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClusterSizes:
    """What is known of the clusters before they are compared: (estimated) rows of each, and the dimension."""

    rows: Mapping[int, float]
    dim: int


def _sample_sizes(rows: DataFrame) -> ClusterSizes:
    """Estimated from the rows whose ids hash lowest."""
    sample = rows.where(in_lowest(F.col("id"), _SIZE_FRACTION))
    counts = sample.groupBy("centroid").agg(F.count(F.lit(1)).alias("rows"), F.max(F.size("embedding")).alias("dim"))
    found = counts.collect()
    sizes = {int(row["centroid"]): row["rows"] / _SIZE_FRACTION for row in found}
    return ClusterSizes(sizes, max((max(row["dim"] or 1, 1) for row in found), default=1))


@dataclass(frozen=True)
class Compared:
    """What comparisons give, lazy."""

    entries: Entries
    merges: bool
    """Whether rows may have several entries."""
    workload: Workload
    """What the comparison was estimated to take."""

    @property
    def rows(self) -> DataFrame:
        """One entry for each row, computed in one pass."""
        return self.entries.merged(None if self.merges else 0)


def compare_clusters(
    rows: DataFrame,
    sizes: ClusterSizes,
    ranking: Ranking,
    decode: Decoder,
    params: PairwiseParams,
) -> Compared:
    """The grouped pandas UDF: ``rows`` repartitioned by cluster, each group compared on its own.

    ``rows`` has ``id``, ``key_0`` …, one column of vectors that ``decode`` makes a matrix of unit vectors, and
    ``centroid``; with a column ``reason``, rows of negative centroid are not compared. ``sizes`` steer how tasks are
    cut and placed (``planning``), never the answer.
    """
    spark = rows.sparkSession
    placement = Placement.of_comparison(spark, params)
    centroids = np.fromiter(sizes.rows, np.int64, len(sizes.rows))
    estimates = np.fromiter(sizes.rows.values(), float, len(sizes.rows))
    max_rows = params.value("maxClusterRows") or default_max_rows(sizes.dim)
    plan = plan_clusters(estimates, sizes.dim, max_rows=max_rows, slots=slots(spark))
    workload = Workload.of_clusters(sizes.rows, sizes.dim, plan, max_rows)
    _log(workload, placement)
    compare = GroupComparison.of(rows, ranking, decode, placement, params, merges=plan.is_tiled)
    found = _compared(_place(rows, centroids, plan), plan, compare, params)
    return Compared(Entries(found, ranking), plan.is_tiled, workload)


def travel_as_lists(spark: SparkSession, params: PairwiseParams) -> bool:
    """Whether unit vectors travel as lists, with which the whole way to the comparison is on the GPU plan. A grouped
    pandas UDF takes neither lists nor binary from there, and without the plugin binary takes less time."""
    return params.value("execution") == "streamed" and plugin_active(spark)


def plan_for(
    sample: VisitSample, centroids: np.ndarray, coverage: Coverage, spark: SparkSession, params: PairwiseParams
) -> RegionPlan:
    """Regions for rows that visit several cells, as ``sample`` says they do."""
    dim = centroids.shape[1]
    max_rows = params.value("maxClusterRows") or default_max_rows(dim)
    return plan_regions(sample, centroids, max_rows=max_rows, slots=slots(spark), sketched=coverage.sketched(dim))


def compare_regions(
    rows: DataFrame, plan: RegionPlan, workload: Workload, ranking: Ranking, params: PairwiseParams
) -> Compared:
    """``compare_clusters`` for rows that visit several cells, routed by ``plan`` (``Router``)."""
    placement = Placement.of_comparison(rows.sparkSession, params)
    _log(workload, placement)
    at_least, merges = workload.coverage.at_least, len(plan.keys) > 1
    compare = GroupComparison.of(
        rows, ranking, decode_units, placement, params, merges=merges, plan=plan, at_least=at_least
    )
    found = _compared(placed(rows), plan, compare, params)
    return Compared(Entries(found, ranking, at_least), merges, workload)


def _compared(placed: DataFrame, plan: Packed, compare: GroupComparison, params: PairwiseParams) -> DataFrame:
    schema = compare.schema(placed.schema)
    rows = placed.repartition(plan.partitions, "task")
    # The rows of a task that is alone need no sorting; but rows that are not compared, and those of clusters that the
    # plan does not know, may be beside them.
    split = groups if plan.one_each else runs

    def compare_group(group: pd.DataFrame) -> pd.DataFrame:  # Spark wants a function of one argument
        return compare(group)

    def compare_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return compare.stream(split(batches, "task"), schema)

    if params.value("execution") == "streamed":
        resources = compare.placement.stage_resources(rows.sparkSession)
        ready = rows if plan.one_each else rows.sortWithinPartitions("task")
        return ready.mapInArrow(compare_partition, schema, **resources)
    return rows.groupBy("task").applyInPandas(compare_group, schema)


def _log(workload: Workload, placement: Placement) -> None:
    sketched = workload.coverage.is_exact and sketch.pays(workload.dim)
    needed = device_bytes(workload.rows_of_largest_task, workload.dim, sketched=sketched)
    on_gpu = f", {needed >> 20} MiB of its GPU"
    log.info(
        "%s in %d partitions%s", workload.in_words(), workload.partitions, on_gpu if placement.backend == "gpu" else ""
    )


def _place(rows: DataFrame, centroids: np.ndarray, plan: Plan) -> DataFrame:
    """Each row once for every task it takes part in: ``rows`` and ``tile``, its own, ``other``, the one that the task
    compares it with (its own too, in one of them), and ``task``, the key.

    Done in the JVM by a join with the plan, a table of one row per cluster. The tile is a hash of the id.
    """
    # The keys of all tiles of a cluster in one list, as many for each: joins of lists of lists stay on the CPU.
    keys = ([key for of_tile in by_tile for key in of_tile] for by_tile in plan.keys_by_tile())
    table = [(int(c), int(t), k) for c, t, k in zip(centroids, plan.tiles, keys, strict=True)]
    lookup = rows.sparkSession.createDataFrame(table, "plan_centroid bigint, tiles int, keys array<bigint>")
    joined = rows.join(F.broadcast(lookup), F.col("centroid") == F.col("plan_centroid"), "left")
    # A cluster missing in the estimate is small, and rows of no cluster (negative) are not compared: their key is their
    # number, but where the plan has such keys, one far below zero.
    last = int(plan.keys.max(initial=-1))
    number = F.col("centroid").cast("bigint")
    own = F.when(number.between(0, last), number + F.lit(-(2**63))).otherwise(number)
    hashed = F.pmod(tile_hash(F.col("id")), F.coalesce("tiles", F.lit(1)))
    tile = F.when(F.coalesce("tiles", F.lit(1)) == 1, F.lit(0)).otherwise(hashed).cast("int")
    of_tile = F.slice("keys", F.col("tile") * F.col("tiles") + 1, F.col("tiles"))
    tasks = F.coalesce(of_tile, F.array(own))
    return joined.withColumn("tile", tile).select(*rows.columns, "tile", F.posexplode(tasks).alias("other", "task"))


def _centroid_column(df: DataFrame) -> Any:
    found = field(df, "centroid", "column")
    if not isinstance(found.dataType, (T.IntegerType, T.LongType, T.ShortType, T.ByteType)):
        raise SemDedupError(f"column 'centroid' is of type {found.dataType.simpleString()}: it must be an integer")
    return quoted(found.name)
