"""The integrity check of a comparison: ids are unique, and every neighbour is a compared row that ranks before.

Spark looks neighbours up and ranks them from ids and rank keys alone, not the array code that made the matches.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.errors import AccountingError, shown
from spark_semdedup.pairwise.merge import PartialMatches
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.spark.ids import FEW, count_distinct_ids
from spark_semdedup.spark.small import is_small

RUN_AGAIN = "no result is valid; run again, on an input that gives the same rows each time it is read"


def check_neighbours(entries: PartialMatches, counts: Mapping[str, int]) -> None:
    """Raises ``AccountingError`` unless ids are unique, and each ``max_id`` that is claimed is that of a valid row
    which precedes the entry's.

    ``counts``: how many rows and claims there were when the entries were counted.
    """
    rows, ranking = entries.df.where(F.col("own")), entries.ranking
    if count_distinct_ids(rows, F.col("id"), rows=counts["rows"]) is None:
        repeated = rows.groupBy("id").count().where(F.col("count") > 1)
        _refuse_where({"is in more than one row": F.col("id")}, repeated)
    keys = [f"key_{i}" for i in range(len(ranking.key_ascending))]
    claimed = entries.df.where(entries.claim).select(
        F.col("id").alias("of"), F.col("max_id").alias("names"), *(F.col(key).alias(f"of_{key}") for key in keys)
    )
    # Keys of text may be as long as documents: how such claims are sent is for Spark, which knows how large they are.
    light = counts["claims"] <= FEW and not any(_is_long(entries.df, key) for key in keys)
    sent = claimed.hint("shuffle_hash") if is_small(entries.df) else F.broadcast(claimed) if light else claimed
    met = rows.join(sent, F.col("id") == F.col("names"))
    was_compared = F.col("reason").isNull()
    found = _refuse_where(
        {
            "has a max_id that was not compared": F.when(~was_compared, F.col("of")),
            "has a max_id that does not precede it": F.when(was_compared & ~_precedes(keys, ranking), F.col("of")),
        },
        met,
    )
    if found != counts["claims"]:
        # No anti join: Spark 3.5 pushes that of a frame with itself below an alias, and compares other columns then.
        known = rows.select(F.col("id").alias("known"))
        lost = claimed.join(known, F.col("names") == F.col("known"), "left_outer").where(F.col("known").isNull())
        _refuse_where({"has a max_id that is no row's": F.col("of")}, lost)
        raise AccountingError(
            f"the comparison is inconsistent: {counts['claims']} neighbours were counted, but {found} exist; "
            f"{RUN_AGAIN}"
        )


def _is_long(df: DataFrame, column: str) -> bool:
    return isinstance(df.schema[column].dataType, (T.StringType, T.BinaryType))


def _refuse_where(wrong: Mapping[str, Column], df: DataFrame) -> int:
    """Raises the error for the first kind of fault of which ``df`` has a row, which names itself. Returns its rows."""
    examples = (F.min(id_).alias(f"fault_{i}") for i, id_ in enumerate(wrong.values()))
    *found, rows = df.agg(*examples, F.count(F.lit(1)).alias("rows")).collect()[0]
    for what, example in zip(wrong, found, strict=True):
        if example is not None:
            raise AccountingError(
                f"the comparison is inconsistent: the row with id {shown(example)} {what}; {RUN_AGAIN}"
            )
    return int(rows)


def _precedes(keys: list[str], ranking: Ranking) -> Column:
    """Whether row ``id`` ranks before row ``of``. A null key was NaN: above all numbers."""
    before = F.col("id") < F.col("of") if ranking.id_ascending else F.col("id") > F.col("of")
    for key, ascending in reversed(list(zip(keys, ranking.key_ascending, strict=True))):
        mine, other = F.col(key), F.col(f"of_{key}")
        smaller = F.when(mine.isNull(), F.lit(False)).when(other.isNull(), F.lit(True)).otherwise(mine < other)
        larger = F.when(other.isNull(), F.lit(False)).when(mine.isNull(), F.lit(True)).otherwise(mine > other)
        before = (smaller if ascending else larger) | (mine.eqNullSafe(other) & before)
    return before
