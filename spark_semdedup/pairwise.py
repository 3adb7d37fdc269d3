"""``PairwiseSimilarity``: inside every cluster, each row's most similar preferred row."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.ml import Transformer
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.columns import (
    FLOAT16_NORM_TOLERANCE,
    UNIT_NORM_TOLERANCE,
    embedding_column,
    field,
    float16_from_bits,
    id_column,
    is_float16_bits,
    lengths,
    matrix,
    quoted,
)
from spark_semdedup.devices import Placement, slots
from spark_semdedup.errors import InvalidRowsError, SemDedupError, shown
from spark_semdedup.kernels import max_similarity, unit_vectors
from spark_semdedup.kernels.arithmetic import norms
from spark_semdedup.kernels.arrays import Array, to_numpy
from spark_semdedup.params import HasColumns, HasNormalize, PairwiseParams, RankingParams
from spark_semdedup.planning import (
    Plan,
    default_max_rows,
    default_partitions,
    device_bytes,
    plan_tasks,
    tiles_of,
    worker_bytes,
)
from spark_semdedup.ranking import Ranking, rank_order
from spark_semdedup.sampling import in_lowest
from spark_semdedup.validation import check_ids

log = logging.getLogger("spark_semdedup")

SIMILARITY_COLUMNS = ("id", "max_id", "cosine_sim_score")

_SIZE_FRACTION = 1 / 16
"""Share of the rows that sizes of clusters are estimated from."""

_TILE_SEED = 1_000_033
"""Of the hash that says which tile a row belongs to; not one a user would take for the fit sample's."""


class PairwiseSimilarity(
    Transformer, HasColumns, RankingParams, PairwiseParams, HasNormalize, DefaultParamsReadable, DefaultParamsWritable
):
    """Compares the rows of each cluster with one another, on the task's GPU or CPU.

    Takes what ``EmbeddingKMeansModel`` gives: an id, an embedding, ``centroid`` and the distances. Gives one row for
    each: ``id``; ``max_id``, the most similar of the rows of its cluster that are preferred to it; and
    ``cosine_sim_score`` (float), the similarity to that row. The most preferred row of a cluster has its own id and 0.
    Rows with a null ``centroid`` (invalid ones that were kept) are left out.

    ``normalize`` false: the embeddings are unit vectors already, as the ``cluster`` step or NeMo Curator stores them,
    and are used as they are (float16 bits in integer lists, which are rounded, are normalised).

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

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Lazy, but for two small jobs: one checks the ids, one counts a sixteenth of the rows by ``centroid``, to plan
        the tasks. Where ``dataset`` is costly to compute (``EmbeddingKMeansModel.transform`` assigns all rows anew for
        the second and for the comparison), persist it first, or use ``SemDedup``, which assigns rows once."""
        id_ = id_column(dataset, self.value("idCol"))
        name = self.value("embeddingCol")
        stored = not self.value("normalize")
        embedding = embedding_column(dataset, name, float16_bits=stored)
        centroid = _centroid_column(dataset)
        ranking = Ranking.of(self)
        keys = [key.alias(f"key_{i}") for i, key in enumerate(ranking.key_columns(dataset, id_))]
        check_ids(dataset, id_, self.value("idCol"))
        clustered = dataset.where(centroid.isNotNull())
        rows = clustered.select(id_.alias("id"), *keys, embedding.alias("embedding"), centroid.alias("centroid"))
        float16 = stored and is_float16_bits(rows.schema["embedding"].dataType)
        decode = _array_decoder(name, stored=stored, float16=float16)
        return compare_clusters(rows, _sample_sizes(rows), ranking, decode, self).select(*SIMILARITY_COLUMNS)


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


def compare_clusters(
    rows: DataFrame,
    sizes: ClusterSizes,
    ranking: Ranking,
    decode: Callable[[pd.Series, pd.Series], np.ndarray],
    params: PairwiseParams,
) -> DataFrame:
    """The grouped pandas UDF: ``rows`` repartitioned by cluster, each group compared on its own.

    ``rows`` has ``id``, ``key_0`` …, one column of vectors that ``decode`` makes a matrix of unit vectors, and
    ``centroid``; with a column ``reason``, rows of negative centroid are not compared. ``sizes`` steer how tasks are
    cut and placed (``planning``), never the answer. Gives ``id``, ``max_id``,
    ``cosine_sim_score``, ``compared`` (how many rows this one was compared with as the later one) and ``reason``.
    """
    spark = rows.sparkSession
    placement = Placement.of(spark, params.value("backend"), params.value("deviceMemoryFraction"))
    centroids = np.fromiter(sizes.rows, np.int64, len(sizes.rows))
    estimates = np.fromiter(sizes.rows.values(), float, len(sizes.rows))
    max_rows = params.value("maxClusterRows") or default_max_rows(sizes.dim)
    visits = (estimates * tiles_of(estimates, max_rows)).sum()  # a row of a tiled cluster goes to several tasks
    partitions = default_partitions(4.0 * sizes.dim * visits, slots(spark))
    plan = plan_tasks(estimates, max_rows=max_rows, partitions=partitions)
    largest = min(2 * max_rows, int(estimates.max(initial=0))) if plan.is_tiled else int(estimates.max(initial=0))
    log.info(
        "%d tasks in %d partitions; the largest takes about %d MiB of its Python worker%s",
        len(plan.keys),
        plan.partitions,
        worker_bytes(largest, sizes.dim) >> 20,
        f" and {device_bytes(largest, sizes.dim) >> 20} MiB of its GPU" if placement.backend == "gpu" else "",
    )
    placed = _place(rows, centroids, plan)
    compare = _GroupComparison(
        ranking=ranking,
        keys=tuple(name for name in rows.columns if name.startswith("key_")),
        vectors=next(name for name in rows.columns if name in ("unit", "embedding")),
        decode=decode,
        placement=placement,
        batch_size=params.value("batchSize"),
        precision=_precision(params.value("precision"), placement.backend),
        tiled=plan.is_tiled,
    )
    schema = compare.schema(rows.schema)

    def compare_group(group: pd.DataFrame) -> pd.DataFrame:  # Spark wants a function of one argument
        return compare(group)

    found = placed.repartition(plan.partitions, "task").groupBy("task").applyInPandas(compare_group, schema)
    return _merge(found, compare) if plan.is_tiled else found


def _precision(precision: str, backend: str) -> str:
    """``float32`` or ``float16`` for the Param: NumPy has no float16 product, so rounding only costs time there."""
    if precision != "auto":
        return precision
    return "float16" if backend == "gpu" else "float32"


def _place(rows: DataFrame, centroids: np.ndarray, plan: Plan) -> DataFrame:
    """Each row once for every task it takes part in: ``rows`` and ``tile``, its own, ``other``, the one that the task
    compares it with (its own too, in one of them), and ``task``, the key.

    Done in the JVM by a join with the plan, a table of one row per cluster. The tile is a hash of the id: were it
    drawn at random, a task that runs again after a failure could move rows, and pairs would be lost.
    """
    table = [(int(c), int(t), keys) for c, t, keys in zip(centroids, plan.tiles, plan.keys_by_tile(), strict=True)]
    lookup = rows.sparkSession.createDataFrame(table, "plan_centroid bigint, tiles int, keys array<array<bigint>>")
    joined = rows.join(F.broadcast(lookup), F.col("centroid") == F.col("plan_centroid"), "left")
    # A cluster missing in the estimate is small, and rows of no cluster (negative) are not compared: a key of their
    # own, below zero, where the plan has none.
    own = F.when(F.col("centroid") < 0, F.col("centroid")).otherwise(-(F.col("centroid") + 1_000_000))
    hashed = F.pmod(F.xxhash64("id", F.lit(_TILE_SEED)), F.coalesce("tiles", F.lit(1)))
    tile = F.when(F.coalesce("tiles", F.lit(1)) == 1, F.lit(0)).otherwise(hashed).cast("int")
    tasks = F.coalesce(F.element_at("keys", F.col("tile") + 1), F.array(own.cast("bigint")))
    return joined.withColumn("tile", tile).select(*rows.columns, "tile", F.posexplode(tasks).alias("other", "task"))


# --- what a task does ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _GroupComparison:
    """Compares the rows of one group: a cluster, a tile of one, or two tiles with each other (of which one may be
    empty). Runs in the tasks."""

    ranking: Ranking
    keys: tuple[str, ...]
    vectors: str
    decode: Callable[[pd.Series, pd.Series], np.ndarray]
    placement: Placement
    batch_size: int
    precision: str
    tiled: bool

    def schema(self, rows: T.StructType) -> T.StructType:
        """Of the answer; in a tiled plan an entry carries its neighbour's rank keys."""
        id_type = rows["id"].dataType
        schema = T.StructType().add("id", id_type).add("max_id", id_type).add("cosine_sim_score", T.FloatType())
        schema.add("compared", T.LongType()).add("reason", T.StringType())
        if self.tiled:
            for key in self.keys:
                schema.add(f"max_{key}", rows[key].dataType)
        return schema

    def __call__(self, group: pd.DataFrame) -> pd.DataFrame:
        if "reason" in group and group["centroid"].iat[0] < 0:
            return self._not_compared(group)
        group = group.reset_index(drop=True)
        self._refuse_missing_distance(group)
        order = rank_order(
            group["id"], [group[key] for key in self.keys], self.ranking.key_ascending, self.ranking.id_ascending
        )
        group = group.take(order)
        vectors = self.decode(group[self.vectors], group["id"])
        module = self.placement.module()
        with self.placement.explained(*vectors.shape):
            return self._compare(group, module.asarray(vectors))

    def _compare(self, group: pd.DataFrame, units: Array) -> pd.DataFrame:
        tile = group["tile"].to_numpy()
        if tile[0] == group["other"].iat[0]:
            scores, neighbours = self._max_similarity(units, units, np.arange(len(group)))
            return self._answer(group, scores, neighbours, np.arange(len(group)))
        return self._two_tiles(group, units, tile == tile.max())

    def _refuse_missing_distance(self, group: pd.DataFrame) -> None:
        if self.ranking.distance and group[self.keys[0]].isna().any():
            first = group["id"][int(np.flatnonzero(group[self.keys[0]].isna())[0])]
            raise InvalidRowsError(f"column {self.ranking.distance!r}, row with id {shown(first)}: it is null or NaN")

    def _two_tiles(self, group: pd.DataFrame, units: Array, second: np.ndarray) -> pd.DataFrame:
        """Rows of either tile with the rows of the other that precede them; only rows that have such."""
        parts = []
        for mine in (second, ~second):
            rows, columns = np.flatnonzero(mine), np.flatnonzero(~mine)
            limits = np.searchsorted(columns, rows)
            scores, found = self._max_similarity(units[rows], units[columns], limits)
            there = found >= 0
            neighbours = columns[found[there]]
            parts.append(self._answer(group.iloc[rows[there]], scores[there], neighbours, limits[there], among=group))
        return pd.concat(parts)

    def _max_similarity(self, rows: Array, columns: Array, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = max_similarity(rows, columns, limits, batch_size=self.batch_size, precision=self.precision)
        return to_numpy(found[0]), to_numpy(found[1])

    def _answer(
        self,
        rows: pd.DataFrame,
        scores: np.ndarray,
        neighbours: np.ndarray,
        compared: np.ndarray,
        among: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """One entry per row: its best neighbour, by position in ``among`` (default: in ``rows``); itself for −1."""
        among = rows if among is None else among
        neighbours = np.where(neighbours < 0, np.arange(len(rows)), neighbours)
        answer = {
            "id": rows["id"].to_numpy(),
            "max_id": among["id"].to_numpy()[neighbours],
            "cosine_sim_score": scores,
            "compared": compared,
            "reason": np.full(len(rows), None, object),
        }
        if self.tiled:
            answer |= {f"max_{key}": among[key].to_numpy()[neighbours] for key in self.keys}
        return pd.DataFrame(answer)

    def _not_compared(self, group: pd.DataFrame) -> pd.DataFrame:
        return self._answer(
            group, np.zeros(len(group), np.float32), np.arange(len(group)), np.zeros(len(group), np.int64)
        ).assign(reason=group["reason"].to_numpy())


def _merge(found: DataFrame, compare: _GroupComparison) -> DataFrame:
    """One row for each id: the entry of the largest score, of equal ones that whose neighbour ranks first (DESIGN 3.2).

    An entry without a neighbour (its own id: the first row of a tile) gives way to any other.
    """
    directions = zip(compare.keys, compare.ranking.key_ascending, strict=True)
    rank = [_directed(f"max_{key}", ascending) for key, ascending in directions]
    rank.append(_directed("max_id", compare.ranking.id_ascending))
    alone = (F.col("max_id") == F.col("id")).cast("int")
    entries = Window.partitionBy("id")
    best = entries.orderBy(alone, F.col("cosine_sim_score").desc(), *rank)
    numbered = found.withColumn("entry", F.row_number().over(best)).withColumn(
        "compared", F.sum("compared").over(entries)
    )
    return numbered.where(F.col("entry") == 1).select(*SIMILARITY_COLUMNS, "compared", "reason")


def _directed(name: str, ascending: bool) -> Column:
    """Keys are never null; what is null here was NaN, which Spark's pandas functions return so: above all numbers."""
    return F.col(name).asc_nulls_last() if ascending else F.col(name).desc_nulls_first()


def decode_units(vectors: pd.Series, ids: pd.Series) -> np.ndarray:
    """Unit vectors from the binary values that travel inside a job."""
    return np.frombuffer(b"".join(vectors), np.float32).reshape(len(vectors), -1)


def _array_decoder(name: str, *, stored: bool, float16: bool) -> Callable[[pd.Series, pd.Series], np.ndarray]:
    """The function that makes unit vectors of a group's embeddings, lists of numbers, or refuses them in words."""

    def decode(vectors: pd.Series, ids: pd.Series) -> np.ndarray:
        lists = pa.array(vectors, from_pandas=True)
        if pa.types.is_null(lists.type):
            raise _refusal(name, ids.iat[0], "embedding is null")
        dim = int(lengths(lists).max())
        valid, rows, reasons = matrix(float16_from_bits(lists) if float16 else lists, max(dim, 1))
        if not valid.all():
            first = int(np.flatnonzero(~valid)[0])
            raise _refusal(name, ids.iat[first], reasons[first])
        if not stored:
            return unit_vectors(rows)
        tolerance = FLOAT16_NORM_TOLERANCE if float16 else UNIT_NORM_TOLERANCE
        norm = norms(rows.astype(np.float32))
        off = np.flatnonzero(np.abs(norm - 1) > tolerance)
        if len(off):
            raise _refusal(
                name,
                ids.iat[off[0]],
                f"norm is {norm[off[0]]:.6g}, not 1 (within {tolerance:g}); give unit vectors as the cluster step "
                "writes them, or set normalize to true",
            )
        return unit_vectors(rows) if float16 else rows.astype(np.float32)

    return decode


def _refusal(name: str, id_: Any, why: str) -> InvalidRowsError:
    return InvalidRowsError(f"embeddingCol={shown(name)}, row with id {shown(id_)}: {why}")


def _centroid_column(df: DataFrame) -> Any:
    found = field(df, "centroid", "column")
    if not isinstance(found.dataType, (T.IntegerType, T.LongType, T.ShortType, T.ByteType)):
        raise SemDedupError(f"column 'centroid' is of type {found.dataType.simpleString()}: it must be an integer")
    return quoted(found.name)
