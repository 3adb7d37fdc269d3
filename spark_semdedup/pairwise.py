"""``PairwiseSimilarity``: inside every cluster, each row's most similar preferred row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.ml import Transformer
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame
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
from spark_semdedup.devices import resolve_backend, task_module
from spark_semdedup.errors import InvalidRowsError, SemDedupError, shown
from spark_semdedup.kernels import ranked_max_similarity, unit_vectors
from spark_semdedup.kernels.arithmetic import norms
from spark_semdedup.kernels.arrays import to_numpy
from spark_semdedup.params import HasColumns, HasNormalize, PairwiseParams, RankingParams
from spark_semdedup.ranking import Ranking, rank_order

SIMILARITY_COLUMNS = ("id", "max_id", "cosine_sim_score")


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
        id_ = id_column(dataset, self.value("idCol"))
        name = self.value("embeddingCol")
        stored = not self.value("normalize")
        embedding = embedding_column(dataset, name, float16_bits=stored)
        centroid = _centroid_column(dataset)
        ranking = Ranking.of(self)
        keys = [key.alias(f"key_{i}") for i, key in enumerate(ranking.key_columns(dataset, id_))]
        rows = dataset.where(centroid.isNotNull()).select(
            id_.alias("id"), *keys, embedding.alias("embedding"), centroid.alias("centroid")
        )
        float16 = stored and is_float16_bits(rows.schema["embedding"].dataType)
        decode = _array_decoder(name, stored=stored, float16=float16)
        backend = resolve_backend(dataset.sparkSession, self.value("backend"))
        compared = compare_clusters(rows, ranking, decode, backend=backend, batch_size=self.value("batchSize"))
        return compared.select(*SIMILARITY_COLUMNS)


def compare_clusters(
    rows: DataFrame,
    ranking: Ranking,
    decode: Callable[[pd.Series, pd.Series], np.ndarray],
    *,
    backend: str,
    batch_size: int,
) -> DataFrame:
    """The grouped pandas UDF: ``rows`` repartitioned by ``centroid``, each group compared on its own.

    ``rows`` has ``id``, ``key_0`` …, one column of vectors that ``decode`` makes a matrix of unit vectors, and
    ``centroid``; with a column ``reason``, groups of negative centroid are rows that are not compared. Gives ``id``,
    ``max_id``, ``cosine_sim_score``, ``compared`` (the number of rows this one was compared with as the later) and
    ``reason``.
    """
    id_type = rows.schema["id"].dataType
    schema = T.StructType().add("id", id_type).add("max_id", id_type).add("cosine_sim_score", T.FloatType())
    schema.add("compared", T.LongType()).add("reason", T.StringType())
    vectors = next(name for name in rows.columns if name in ("unit", "embedding"))
    keys = [name for name in rows.columns if name.startswith("key_")]

    def compare(group: pd.DataFrame) -> pd.DataFrame:
        ids = group["id"]
        _refuse_bad_ids(ids)
        if group["centroid"].iat[0] < 0:
            return pd.DataFrame(
                {"id": ids, "max_id": ids, "cosine_sim_score": np.float32(0), "compared": 0, "reason": group["reason"]}
            )
        order = rank_order(ids, [group[key] for key in keys], ranking.key_ascending, ranking.id_ascending)
        units = decode(group[vectors], ids)
        xp = task_module(backend)
        scores, indices = ranked_max_similarity(xp.asarray(units[order]), batch_size=batch_size)
        ids = ids.to_numpy()[order]
        return pd.DataFrame(
            {
                "id": ids,
                "max_id": ids[to_numpy(indices)],
                "cosine_sim_score": to_numpy(scores),
                "compared": np.arange(len(ids)),
                "reason": None,
            }
        )

    return rows.groupBy("centroid").applyInPandas(compare, schema)


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


def _refuse_bad_ids(ids: pd.Series) -> None:
    if ids.isna().any():
        raise InvalidRowsError(f"{int(ids.isna().sum())} rows of one cluster have a null id: every row needs its own")
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise InvalidRowsError(f"id {shown(repeated.iat[0])} stands in more than one row: ids must be unique")


def _centroid_column(df: DataFrame) -> Any:
    found = field(df, "centroid", "column")
    if not isinstance(found.dataType, (T.IntegerType, T.LongType, T.ShortType, T.ByteType)):
        raise SemDedupError(f"column 'centroid' is of type {found.dataType.simpleString()}: it must be an integer")
    return quoted(found.name)


