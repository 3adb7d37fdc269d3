"""``PairwiseSimilarity``: the most similar preferred row of each row."""

from __future__ import annotations

from typing import Any

from pyspark.ml import Transformer
from pyspark.ml.util import DefaultParamsWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.duplicates.greedy import decide, links_for
from spark_semdedup.errors import SemDedupError
from spark_semdedup.ml.kmeans import EmbeddingKMeansModel
from spark_semdedup.ml.persistence import StageReadable
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.execute import (
    Compared,
    compare,
)
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.pairwise.route import tile_hash
from spark_semdedup.pairwise.rows import AssignedRows
from spark_semdedup.pairwise.schema import SIMILARITY_COLUMNS
from spark_semdedup.params import (
    CoverageParams,
    HasCentroidsPath,
    HasColumns,
    HasNormalize,
    KeepParams,
    PairwiseParams,
    RankingParams,
)
from spark_semdedup.spark.columns import field, is_float16_bits, quoted
from spark_semdedup.spark.documents import Documents
from spark_semdedup.spark.vectors import array_decoder


class PairwiseSimilarity(
    Transformer,
    HasColumns,
    RankingParams,
    PairwiseParams,
    CoverageParams,
    KeepParams,
    HasCentroidsPath,
    HasNormalize,
    StageReadable,
    DefaultParamsWritable,
):
    """Compares the rows of each cluster with one another, or with those of further ones, on the task's GPU or CPU.

    Takes what ``EmbeddingKMeansModel`` gives: an id, an embedding, ``centroid`` and the distances. Gives one row for
    each: ``id``; ``max_id``, the most similar of the rows of its cluster that are preferred to it; and
    ``cosine_sim_score`` (float), the similarity to that row. The most preferred row of a cluster has its own id and 0.
    Rows with a null ``centroid`` (invalid ones that were kept) are left out. Rows with a negative one (−1: noise, as
    HDBSCAN labels it) are kept and compared with nothing: they have their own id and 0.

    ``normalize`` false: the embeddings are unit vectors already, as the ``cluster`` step or NeMo Curator stores them,
    and are used as they are (float16 bits in integer lists, which are rounded, are normalised).

    ``nProbe`` above 1, or ``coverage`` exact, compares rows with those of further clusters, too. That takes the
    centroids that the numbers in ``centroid`` stand for: ``setCentroids``, or ``centroidsPath``. Scores are then
    complete from ``1 - eps`` on (exact): ``eps`` and ``threshold`` are used for nothing else here. Give
    ``IdentifyDuplicates`` no larger ``eps`` than that.

    ``keepRule`` greedy decides which rows are kept, by ``eps`` or ``threshold``, when ``transform`` is called, and
    holds what came of it: ``max_id`` of a removed row is the most similar kept one, and ``IdentifyDuplicates`` finds
    the removed rows with the same ``eps``, and no other.

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

    __module__ = "spark_semdedup"  # saved models name it: see ``_moved``

    _centroids: EmbeddingKMeansModel | None = None

    def setCentroids(self, model: EmbeddingKMeansModel) -> PairwiseSimilarity:
        """The model that assigned the rows; not saved with the stage."""
        self._centroids = model
        return self

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Lazy, but for small jobs: one checks the ids, one looks at a sample of the rows to plan the tasks. Where
        ``dataset`` is costly to compute (``EmbeddingKMeansModel.transform`` assigns all rows anew for the second and
        for the comparison), persist it first, or use ``SemDedup``, which assigns rows once."""
        compared = self.compared(dataset)
        rows = compared.rows if self.value("keepRule") == "ranked" else decide(compared, self.similarity_threshold())
        return rows.select(*SIMILARITY_COLUMNS)

    def compared(self, dataset: DataFrame) -> Compared:
        """The similarities and what is told beside them."""
        stored = not self.value("normalize")
        documents = Documents.of_params(dataset, self, float16_bits=stored)
        centroid = _centroid_column(dataset)
        ranking = Ranking.of(self)
        coverage = Coverage.of(self, self.similarity_threshold())
        centroids = self._model().fitted_centroids if coverage.visits else None
        keys = [key.alias(f"key_{i}") for i, key in enumerate(ranking.key_columns(dataset, documents.id))]
        total = documents.rows
        rows = dataset.where(centroid.isNotNull()).select(
            documents.id.alias("id"), *keys, documents.embedding.alias("embedding"), centroid.alias("centroid")
        )
        if not coverage.visits:  # where rows visit further clusters, a row without one of its own is an error
            rows = _with_noise(rows)
        float16 = stored and is_float16_bits(rows.schema["embedding"].dataType)
        decode = array_decoder(documents.embedding_col, stored=stored, float16=float16)
        source = AssignedRows(rows, total, decode, self, centroids)
        return compare(source, coverage, ranking, self, links_for(self))

    def _model(self) -> EmbeddingKMeansModel:
        path = self.value("centroidsPath")
        if (path is None) == (self._centroids is None):
            state = "both set; set one of them" if path else "both unset; give the centroids that the rows belong to"
            raise SemDedupError(
                f"coverage={self.value('coverage')!r} with nProbe={self.value('nProbe')}: centroidsPath and "
                f"setCentroids are {state}"
            )
        return self._centroids or EmbeddingKMeansModel.load(path)


def _with_noise(rows: DataFrame) -> DataFrame:
    """Noise as the comparison takes rows that it keeps and compares with nothing: a column ``reason``, null as nothing
    is wrong with them, and many different negative numbers, so that they spread over tasks."""
    centroid = F.col("centroid").cast("bigint")
    scattered = -1 - tile_hash(F.col("id")) % 1000
    kept = rows.withColumn("centroid", F.when(centroid < 0, scattered).otherwise(centroid))
    return kept.withColumn("reason", F.lit(None).cast("string"))


def _centroid_column(df: DataFrame) -> Any:
    found = field(df, "centroid", "column")
    if not isinstance(found.dataType, (T.IntegerType, T.LongType, T.ShortType, T.ByteType)):
        raise SemDedupError(f"column 'centroid' is of type {found.dataType.simpleString()}: it must be an integer")
    return quoted(found.name)
