"""``IdentifyDuplicates`` (which rows to remove) and ``RemoveDuplicates`` (the rows that remain)."""

from __future__ import annotations

from pyspark.ml import Transformer
from pyspark.ml.util import DefaultParamsWritable
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.columns import by_its_bytes, field, id_column, refuse_id_type, shown_type, unused_name
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.lineage import refuse_drawn
from spark_semdedup.params import DecisionParams, HasDuplicatesPath, HasIdCol
from spark_semdedup.persistence import StageReadable


class IdentifyDuplicates(Transformer, DecisionParams, StageReadable, DefaultParamsWritable):
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
        check_similarities(dataset)
        return dataset.where(self.is_duplicate(dataset))

    def is_duplicate(self, similarities: DataFrame) -> Column:
        """The decision, as a condition on the columns ``id``, ``max_id`` and ``cosine_sim_score``."""
        id_, other = (by_its_bytes(field(similarities, name, "column")) for name in ("id", "max_id"))
        score = F.col("cosine_sim_score").cast("float").cast("double")
        # To Spark NaN is larger than any number.
        enough = (score >= F.lit(self.similarity_threshold())) & ~F.isnan(score)
        return (other != id_) & enough


def check_similarities(df: DataFrame) -> None:
    """A ``SemDedupError`` where the columns of similarities are missing or of types that cannot be compared."""
    id_, other = (field(df, name, "column").dataType for name in ("id", "max_id"))
    score = field(df, "cosine_sim_score", "column").dataType
    refuse_id_type(id_, "column 'id'")
    if id_ != other:
        raise SemDedupError(
            f"column 'max_id' is of type {shown_type(other)}, but 'id' of type {shown_type(id_)}: they must be alike"
        )
    if not isinstance(score, (T.FloatType, T.DoubleType)):
        raise SemDedupError(f"column 'cosine_sim_score' is of type {shown_type(score)}: it must be float or double")


def count_similarities(df: DataFrame) -> int:
    """Counts the rows, in one job; a ``SemDedupError`` where an id, a ``max_id`` or a score is null, or a score NaN:
    nobody could say whether such a row is a duplicate."""
    bad = {
        "null in column 'id'": F.col("id").isNull(),
        "null in column 'max_id'": F.col("max_id").isNull(),
        "null or NaN in column 'cosine_sim_score'": F.col("cosine_sim_score").isNull() | F.isnan("cosine_sim_score"),
    }
    counts = [F.count(F.when(condition, 1)).alias(f"bad_{i}") for i, condition in enumerate(bad.values())]
    found = df.agg(F.count(F.lit(1)).alias("rows"), *counts).first()
    assert found is not None  # an aggregate without groups always gives one row
    for i, what in enumerate(bad):
        if found[f"bad_{i}"]:
            raise SemDedupError(f"{found[f'bad_{i}']} of {found['rows']} rows have {what}: compare the rows again")
    return int(found["rows"])


class RemoveDuplicates(Transformer, HasIdCol, HasDuplicatesPath, StageReadable, DefaultParamsWritable):
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
    unwanted_id = field(unwanted, "id", "column")
    of, in_ = field(df, id_name, "idCol").dataType, unwanted_id.dataType
    refuse_id_type(in_, "the duplicates' id")
    if isinstance(of, T.StringType) != isinstance(in_, T.StringType):
        raise SemDedupError(
            f"idCol={shown(id_name)} is {of.simpleString()}, but the duplicates' id is {in_.simpleString()}: "
            "they cannot be matched"
        )
    name = unused_name("semdedup_unwanted_id", df)
    return df.join(unwanted.select(by_its_bytes(unwanted_id).alias(name)), id_ == F.col(name), "left_anti")
