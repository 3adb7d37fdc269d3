"""The check at the end of a run: every row of the input is somewhere, once, and for a reason.

Rows are counted and their ids hashed in what was *written*; neighbours are looked up and ranked by Spark, from ids and
rank keys alone, not by the array code that found them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_semdedup.errors import AccountingError, shown
from spark_semdedup.ranking import Ranking

_AGAIN = "no result is valid; run again, on an input that gives the same rows each time it is read"


@dataclass(frozen=True)
class Ids:
    """A set of ids, so far as one pass tells: how many there are, and the exclusive or of their hashes."""

    rows: int
    hashes: int

    @staticmethod
    def hash_of(id_: Column) -> Column:
        """The aggregate that is ``hashes``."""
        return F.coalesce(F.bit_xor(F.xxhash64(id_)), F.lit(0)).alias("hashes")

    @classmethod
    def count(cls, df: DataFrame, id_: Column) -> Ids:
        found = df.agg(F.count(F.lit(1)).alias("rows"), cls.hash_of(id_)).first()
        assert found is not None  # an aggregate without groups always gives one row
        return cls(int(found["rows"]), int(found["hashes"]))

    @classmethod
    def read(cls, facts: Mapping[str, int]) -> Ids:
        return cls(facts["rows"], facts["hashes"])

    def facts(self) -> dict[str, int]:
        return asdict(self)

    def __add__(self, other: Ids) -> Ids:
        return Ids(self.rows + other.rows, self.hashes ^ other.hashes)


def check_rows(all_: Ids, kept: Ids, duplicates: Ids, skipped: Ids) -> None:
    """Raises ``AccountingError`` unless the rows in are those kept, removed as duplicates, and skipped, each once."""
    told = f"{kept.rows} kept + {duplicates.rows} duplicates + {skipped.rows} skipped"
    found = kept + duplicates + skipped
    if found.rows != all_.rows:
        raise AccountingError(
            f"the input changed while it was read: {all_.rows} rows were compared, but {told}; {_AGAIN}"
        )
    if found.hashes != all_.hashes:
        raise AccountingError(
            f"the input changed while it was read: {all_.rows} rows were compared, and {told}, but their ids are not "
            f"those that were compared; {_AGAIN}"
        )


def check_neighbours(compared: DataFrame, ranking: Ranking) -> None:
    """Raises ``AccountingError`` unless ids are unique, and each ``max_id`` is the row's own id or a valid row's that
    precedes it, and every row that was not compared has a reason.

    ``compared``: ``id``, ``max_id``, ``reason`` and the rank keys ``key_0`` … of every row.
    """
    keys = [f"key_{i}" for i in range(len(ranking.key_ascending))]
    row = compared.groupBy("id").agg(
        F.count(F.lit(1)).alias("copies"),
        F.count("reason").alias("invalid"),
        *(F.first(key).alias(key) for key in keys),
    )
    has_neighbour = F.col("reason").isNull() & (F.col("max_id") != F.col("id"))
    claims = compared.where(has_neighbour).select(
        F.col("id").alias("of"), F.col("max_id").alias("names"), *(F.col(key).alias(f"of_{key}") for key in keys)
    )
    joined = row.join(claims, F.col("id") == F.col("names"), "full_outer")
    wrong = {
        "stands in more than one row": F.when(F.col("copies") > 1, F.col("id")),
        "has a max_id that is no row's": F.when(F.col("id").isNull(), F.col("of")),
        "has a max_id that was not compared": F.when(F.col("of").isNotNull() & (F.col("invalid") > 0), F.col("of")),
        "has a max_id that does not precede it": F.when(
            F.col("id").isNotNull() & F.col("of").isNotNull() & ~_precedes(keys, ranking), F.col("of")
        ),
    }
    found = joined.agg(*(F.min(id_).alias(f"fault_{i}") for i, id_ in enumerate(wrong.values()))).first()
    assert found is not None  # an aggregate without groups always gives one row
    for what, example in zip(wrong, found, strict=True):
        if example is not None:
            raise AccountingError(f"the comparison does not add up: the row with id {shown(example)} {what}; {_AGAIN}")


def _precedes(keys: list[str], ranking: Ranking) -> Column:
    """Whether row ``id`` ranks before row ``of``. A null key was NaN: above all numbers."""
    before = F.col("id") < F.col("of") if ranking.id_ascending else F.col("id") > F.col("of")
    for key, ascending in reversed(list(zip(keys, ranking.key_ascending, strict=True))):
        mine, other = F.col(key), F.col(f"of_{key}")
        smaller = F.when(mine.isNull(), F.lit(False)).when(other.isNull(), F.lit(True)).otherwise(mine < other)
        larger = F.when(other.isNull(), F.lit(False)).when(mine.isNull(), F.lit(True)).otherwise(mine > other)
        before = (smaller if ascending else larger) | (mine.eqNullSafe(other) & before)
    return before
