"""Checks of the input that need a look at the data, answered in one line."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.spark.arrow import collect_arrow
from spark_semdedup.spark.determinism import reads_only_files, require_deterministic
from spark_semdedup.spark.small import SMALL_ROWS, is_small

log = logging.getLogger("spark_semdedup")


def check_ids(df: DataFrame, id_: Column, name: str) -> int:
    """Counts the rows; refuses an empty input and null or duplicate ids, naming examples.

    Only ids are read: in one job where their hashes prove them sound (``count_distinct_ids``; tried where all that is
    read are files, which can be read again), otherwise in one that shuffles them. Null or duplicate ids are errors
    whatever ``handleInvalid`` says: nobody could say which row an output line means. So are ids that are
    not the same whenever they are computed: those of Spark's functions are known from the plan (``lineage``), those of
    users' functions are looked at twice.
    """
    made = require_deterministic(df, name, "idCol")
    if made.is_numbered:
        log.warning(
            "idCol=%s is made by row_number(): where rows tie in its order, Spark may number them differently "
            "whenever it reads them; write the rows and read them back first, or order them by columns that do not tie",
            shown(name),
        )
    is_text = _is_text(df, id_)
    if reads_only_files(df) and not made.is_opaque:
        total = count_distinct_ids(df, id_, _is_sound(df, id_))
        if total:
            return total
    counts = df.groupBy(id_.alias("id")).agg(F.count(F.lit(1)).alias("rows"))
    repeated = F.when(F.col("rows") > 1, F.col("id"))
    garbled = ~is_utf8(F.col("id")) if is_text else F.lit(False)
    found = counts.agg(
        F.coalesce(F.sum("rows"), F.lit(0)).alias("rows"),
        F.coalesce(F.sum(F.when(F.col("id").isNull(), F.col("rows"))), F.lit(0)).alias("nulls"),
        F.count(F.when(garbled, 1)).alias("garbled"),
        F.count(repeated).alias("repeated"),
        F.min(repeated).alias("example"),
        F.bit_xor(F.xxhash64("id")).alias("print"),
    ).first()
    assert found is not None  # an aggregate without groups always gives one row
    if found["rows"] == 0:
        raise SemDedupError("the input is empty: it must have at least one row")
    if found["nulls"]:
        raise SemDedupError(f"idCol={shown(name)} is null in {found['nulls']} rows: every row needs an id of its own")
    if found["garbled"]:
        raise SemDedupError(
            f"idCol={shown(name)} is not UTF-8 text in {found['garbled']} rows: write the ids again in that encoding, "
            "or give another column"
        )
    if found["repeated"]:
        raise SemDedupError(
            f"idCol={shown(name)} is not unique: {found['repeated']} ids are in more than one row, for example "
            f"{shown(found['example'])}; drop exact repeats first (dropDuplicates([{shown(name)}]))"
        )
    if made.is_opaque:
        _refuse_changed(df, id_, name, found["print"])
    return int(found["rows"])


def read_few(df: DataFrame, id_: Column, name: str, columns: Sequence[Column]) -> pa.Table | None:
    """``columns`` of all rows of a small table, where the same job proves their ids sound; None for any other table, of
    which ``check_ids`` says what is wrong, if anything is."""
    if not is_small(df):
        return None
    made = require_deterministic(df, name, "idCol")
    if made.is_numbered or made.is_opaque:
        return None
    # So many rows are few, whatever size files are: equal vectors take next to no place in them.
    found = _distinct_ids(df.coalesce(1).limit(SMALL_ROWS + 1), id_, _is_sound(df, id_), columns)
    return found if found is not None and 0 < len(found) <= SMALL_ROWS else None


def _is_text(df: DataFrame, id_: Column) -> bool:
    return isinstance(df.select(id_).schema[0].dataType, T.StringType)


def _is_sound(df: DataFrame, id_: Column) -> Column:
    return id_.isNotNull() & is_utf8(id_) if _is_text(df, id_) else id_.isNotNull()


def is_utf8(text: Column) -> Column:
    """Whether a string column's bytes are UTF-8. Spark's readers do not look, but Arrow does, on the way to Python."""
    if hasattr(F, "is_valid_utf8"):  # Spark 4, where decode fails on other bytes
        return F.is_valid_utf8(text)  # type: ignore[no-any-return, unused-ignore]
    binary = text.cast("binary")
    return F.encode(F.decode(binary, "UTF-8"), "UTF-8") == binary


def _refuse_changed(df: DataFrame, id_: Column, name: str, fingerprint: int) -> None:
    """Computes the ids again, and refuses them where they are others. Spark takes a Python function for deterministic
    unless told otherwise, so its plan says nothing of ``udf(lambda: str(uuid4()))``."""
    again = df.select(id_.alias("id")).agg(F.bit_xor(F.xxhash64("id")).alias("print")).first()
    if again is None or again["print"] != fingerprint:
        raise SemDedupError(
            f"idCol={shown(name)} has other values when it is computed again, so a function that makes it draws other "
            "values each time: write the rows and read them back (or checkpoint() them) first"
        )


FEW = 1 << 17
"""Ids that are sent to every task as they are: a few MiB."""

_MOST = 1 << 21
"""Rows of the first partition whose hashes may come to the driver; half as many of the second, a third of the third …:
9 MiB per million rows, and no more than 0.2 GiB of 10,000 partitions."""

_FAR_TOO_MANY = 10
"""Times ``_MOST``: what may come of 10,000 partitions that are all as full as they may be."""


@dataclass(frozen=True)
class Ids:
    """A set of ids, so far as one pass tells: how many there are, and the exclusive or of their hashes."""

    rows: int
    hashes: int

    @staticmethod
    def hash_of(id_: Column) -> Column:
        """The aggregate that is ``hashes``; of ids that are null, nothing."""
        return F.coalesce(F.bit_xor(F.when(id_.isNotNull(), F.xxhash64(id_))), F.lit(0)).alias("hashes")

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


def count_distinct_ids(df: DataFrame, id_: Column, sound: Column | None = None, rows: int | None = None) -> int | None:
    """The number of rows, where a look at the hashes of their ids proves that no two ids are equal, and all ``sound``.

    None: that must be looked at otherwise, as two hashes are equal, or there are too many rows for the driver. One job,
    which shuffles nothing: of a million ids it takes a third of the time in which Spark groups them. ``rows``: how many
    there are, where that is known: of far too many it does not begin.
    """
    if rows is not None and rows > _FAR_TOO_MANY * _MOST:
        return None
    found = _distinct_ids(df, id_, sound)
    return None if found is None else len(found)


def _distinct_ids(
    df: DataFrame, id_: Column, sound: Column | None = None, columns: Sequence[Column] = ()
) -> pa.Table | None:
    """A row for each row, with these ``columns``, where ``count_distinct_ids`` has a number."""
    place = F.monotonically_increasing_id()
    partition, index = F.shiftright(place, 33), place.bitwiseAND((1 << 33) - 1)
    allowed = F.lit(_MOST) / (partition + 1)
    # A row more of each partition than is allowed tells that there are too many.
    fine = (index < allowed) & (F.lit(True) if sound is None else sound)
    looked_at = df.select(
        F.xxhash64(id_).alias("id_hash"), fine.alias("fine"), (index < allowed + 1).alias("comes"), *columns
    )
    found = collect_arrow(looked_at.where(F.col("comes")).drop("comes"))
    hashes = np.sort(found["id_hash"].to_numpy())
    distinct = not (hashes[1:] == hashes[:-1]).any()
    return found if distinct and pc.all(found["fine"], min_count=0).as_py() else None
