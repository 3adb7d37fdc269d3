"""``IdentifyDuplicates`` (which rows to remove) and ``RemoveDuplicates`` (the rows to keep)."""

from __future__ import annotations

from pyspark.ml import Transformer
from pyspark.ml.util import DefaultParamsWritable
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_semdedup.duplicates.threshold import check_similarities, without_ids
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.ml.persistence import StageReadable
from spark_semdedup.params import DecisionParams, HasDuplicatesPath, HasIdCol
from spark_semdedup.spark.columns import by_its_bytes, field
from spark_semdedup.spark.determinism import require_deterministic
from spark_semdedup.spark.parquet import own_reader


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

    __module__ = "spark_semdedup"  # saved models name it: see ``_moved``

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


class RemoveDuplicates(Transformer, HasIdCol, HasDuplicatesPath, StageReadable, DefaultParamsWritable):
    """The rows whose id is not among the duplicates' (an anti join); every column untouched.

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

    __module__ = "spark_semdedup"  # saved models name it: see ``_moved``

    _duplicates: DataFrame | None = None

    def setDuplicates(self, duplicates: DataFrame) -> RemoveDuplicates:
        """The duplicates as a DataFrame with a column ``id``; not saved with the stage."""
        self._duplicates = duplicates
        return self

    def _transform(self, dataset: DataFrame) -> DataFrame:
        name = self.value("idCol")
        require_deterministic(dataset, name, "idCol")
        return without_ids(dataset, name, self._find_duplicates(dataset))

    def _find_duplicates(self, dataset: DataFrame) -> DataFrame:
        path = self.value("duplicatesPath")
        if (path is None) == (self._duplicates is None):
            both = "both set; set one of them" if path else "both unset; set one of them"
            raise SemDedupError(f"duplicatesPath={shown(path)} and setDuplicates are {both}")
        return self._duplicates if self._duplicates is not None else own_reader(dataset.sparkSession).parquet(path)
