"""``IdentifyDuplicates`` (which rows to remove) and ``RemoveDuplicates`` (the rows that remain)."""

from __future__ import annotations

from pyspark.ml import Transformer
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.columns import field, id_column
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.lineage import refuse_drawn
from spark_semdedup.params import DecisionParams, HasDuplicatesPath, HasIdCol


class IdentifyDuplicates(Transformer, DecisionParams, DefaultParamsReadable, DefaultParamsWritable):
    """Keeps the rows of ``PairwiseSimilarity``'s output that are duplicates.

    A row is a duplicate when ``max_id`` is not its own id and its float32 score, widened to double, is at least the
    double ``1 - eps``.

    >>> df = spark.createDataFrame([("a", "a", 0.0), ("b", "a", 0.97), ("c", "b", 0.9)], "id string, max_id string, cosine_sim_score float")
    >>> IdentifyDuplicates(eps=0.05).transform(df).show()
    +---+------+----------------+
    | id|max_id|cosine_sim_score|
    +---+------+----------------+
    |  b|     a|            0.97|
    +---+------+----------------+
    <BLANKLINE>
    """  # noqa: E501

    def _transform(self, dataset: DataFrame) -> DataFrame:
        for name in ("id", "max_id", "cosine_sim_score"):
            field(dataset, name, "column")
        return dataset.where(self.is_duplicate())

    def is_duplicate(self) -> Column:
        """The decision, as a condition on the columns ``id``, ``max_id`` and ``cosine_sim_score``."""
        score = F.col("cosine_sim_score").cast("float").cast("double")
        return (F.col("max_id") != F.col("id")) & (score >= F.lit(self.similarity_threshold()))


class RemoveDuplicates(Transformer, HasIdCol, HasDuplicatesPath, DefaultParamsReadable, DefaultParamsWritable):
    """The rows whose id is not among the duplicates' (left anti join); every column untouched.

    The duplicates, a table with a column ``id``, come from ``duplicatesPath`` (Parquet; can be saved with the stage)
    or from ``setDuplicates``.

    >>> df = spark.createDataFrame([("a", "x"), ("b", "y")], "id string, text string")
    >>> RemoveDuplicates().setDuplicates(spark.createDataFrame([("b",)], "id string")).transform(df).show()
    +---+----+
    | id|text|
    +---+----+
    |  a|   x|
    +---+----+
    <BLANKLINE>
    """

    _duplicates: DataFrame | None = None

    def setDuplicates(self, duplicates: DataFrame) -> RemoveDuplicates:
        """The duplicates as a DataFrame with a column ``id``; not saved with the stage."""
        self._duplicates = duplicates
        return self

    def _transform(self, dataset: DataFrame) -> DataFrame:
        name = self.value("idCol")
        refuse_drawn(dataset, name, "idCol")
        return without_ids(dataset, name, self._find_duplicates(dataset))

    def _find_duplicates(self, dataset: DataFrame) -> DataFrame:
        path = self.value("duplicatesPath")
        if (path is None) == (self._duplicates is None):
            both = "both set; set one of them" if path else "both unset; set one of them"
            raise SemDedupError(f"duplicatesPath={shown(path)} and setDuplicates are {both}")
        return self._duplicates if self._duplicates is not None else dataset.sparkSession.read.parquet(path)


def without_ids(df: DataFrame, id_name: str, unwanted: DataFrame) -> DataFrame:
    """The rows of ``df`` whose id is not in the column ``id`` of ``unwanted``."""
    id_ = id_column(df, id_name)
    of, in_ = field(df, id_name, "idCol").dataType, field(unwanted, "id", "column").dataType
    if isinstance(of, T.StringType) != isinstance(in_, T.StringType):
        raise SemDedupError(
            f"idCol={shown(id_name)} is {of.simpleString()}, but the duplicates' id is {in_.simpleString()}: "
            "they cannot be matched"
        )
    renamed = unwanted.select(F.col("id").alias(_UNWANTED))
    return df.join(renamed, id_ == F.col(_UNWANTED), "left_anti")


_UNWANTED = "semdedup_unwanted_id"
