"""``IdentifyDuplicates`` (which rows to remove) and ``RemoveDuplicates`` (the rows that remain)."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.spark.columns import by_its_bytes, field, id_column, refuse_id_type, shown_type, unused_name


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


def without_ids(df: DataFrame, id_name: str, unwanted: DataFrame) -> DataFrame:
    """The rows of ``df`` whose id is not in the column ``id`` of ``unwanted``.

    An anti join, written as an outer join of which the rows without a match are taken: Spark pushes a left anti join
    below a union (``PushDownLeftSemiAntiJoin``), so that a union of 100 frames would get 100 joins, each with a
    broadcast of its own.
    """
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
    joined = df.join(unwanted.select(by_its_bytes(unwanted_id).alias(name)), id_ == F.col(name), "left_outer")
    return joined.where(F.col(name).isNull()).drop(name)
