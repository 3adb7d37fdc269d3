"""``Documents``: a table of ids and embeddings, its columns checked once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.spark.columns import are_bytes, embedding_column, id_column, vector_length
from spark_semdedup.spark.ids import check_ids, read_few


@dataclass(frozen=True)
class Documents:
    """Rows with an id and an embedding, under whatever names.

    ``id`` is the id column without a collation; ``embedding`` is ``array<float>`` or ``array<double>``. Both columns
    exist and have a type that the package accepts; values are checked where they are read.
    """

    df: DataFrame
    id: Column
    id_col: str
    embedding: Column
    embedding_col: str

    @classmethod
    def of(
        cls,
        df: DataFrame,
        id_col: str,
        embedding_col: str,
        *,
        embedding_format: str | None = None,
        float16_bits: bool = False,
    ) -> Documents:
        """The documents of ``df``. ``embedding_format``: Param ``embeddingFormat``. ``float16_bits``: accept integer
        lists that hold float16 bits, too.

        Raises ``SemDedupError`` for a column that is missing or of a type that cannot be used.
        """
        embedding = embedding_column(df, embedding_col, format_=embedding_format, float16_bits=float16_bits)
        return cls(df, id_column(df, id_col), id_col, embedding, embedding_col)

    @classmethod
    def of_params(cls, df: DataFrame, params: Any, *, float16_bits: bool = False) -> Documents:
        """The same, by the Params of a stage."""
        names = params.value("idCol"), params.value("embeddingCol")
        return cls.of(df, *names, embedding_format=params.value("embeddingFormat"), float16_bits=float16_bits)

    @property
    def spark(self) -> SparkSession:
        return self.df.sparkSession

    @cached_property
    def rows(self) -> int:
        """The number of rows; their ids are checked as they are counted (``check_ids``). One job, the first time."""
        return check_ids(self.df, self.id, self.id_col)

    def read_few(self, *columns: Column) -> pa.Table | None:
        """``columns`` of all rows of a small table, on the driver, read by the job that checks the ids; else None."""
        found = read_few(self.df, self.id, self.id_col, columns)
        if found is not None:
            self.__dict__["rows"] = len(found)  # where the property keeps it
        return found

    @property
    def are_bytes(self) -> bool:
        """Whether embeddings are bytes, not lists."""
        return are_bytes(self.df, self.embedding)

    def where(self, condition: Column) -> Documents:
        """The documents for which ``condition`` holds."""
        return Documents(self.df.where(condition), self.id, self.id_col, self.embedding, self.embedding_col)

    def some_length(self) -> int | None:
        """The length of some embedding; None where all are null or empty. One small job."""
        length = vector_length(self.df, self.embedding)
        return _any_value(self.df.where(length > 0).select(length.alias("length")))

    def require_length(self, dim: int) -> None:
        """Raises ``SemDedupError`` where every embedding has another length than the ``dim`` of the centroids.

        One small job, which ends at the first row that fits; a second one where none does.
        """
        length = vector_length(self.df, self.embedding)
        if _any_value(self.df.where(length == dim).select(length.alias("length"))) is not None:
            return
        other = self.some_length()
        if other is not None:
            raise SemDedupError(
                f"embeddingCol={shown(self.embedding_col)} has embeddings of length {other}, but the centroids have "
                f"length {dim}: give the centroids that were fitted on such embeddings"
            )


def _any_value(rows: DataFrame) -> int | None:
    """The only column's value in some row, or None where there is no row."""
    try:
        first = rows.head(1)
    except (Py4JJavaError, PySparkException) as error:
        # Spark 4.0's reader of a Python worker's output may fail like this where a task needs no more of it.
        if "CancelledKeyException" not in str(error):
            raise
        first = rows.agg(F.min(rows.columns[0])).collect()
    return first[0][0] if first else None
