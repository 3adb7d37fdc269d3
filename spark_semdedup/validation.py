"""Checks of the input that need a look at the data, answered in one line."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.errors import InvalidRowsError, SemDedupError, shown
from spark_semdedup.ids import count_distinct_ids
from spark_semdedup.lineage import reads_only_files, refuse_drawn

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("spark_semdedup")


def check_ids(df: DataFrame, id_: Column, name: str) -> int:
    """Counts the rows; refuses an empty input and null or duplicate ids, naming examples.

    Only ids are read: in one job where their hashes prove them sound (``count_distinct_ids``; tried where all that is
    read are files, which can be read again), otherwise in one that shuffles them. Null or duplicate ids are errors
    whatever ``handleInvalid`` says (DESIGN 3.7): nobody could say which row an output line means. So are ids that are
    not the same whenever they are computed: those of Spark's functions are known from the plan (``lineage``), those of
    users' functions are looked at twice.
    """
    made = refuse_drawn(df, name, "idCol")
    if made.is_numbered:
        log.warning(
            "idCol=%s is made by row_number(): where rows tie in its order, Spark may number them anew whenever it "
            "reads them; write the rows and read them back first, or order them by columns that do not tie",
            shown(name),
        )
    is_text = isinstance(df.select(id_).schema[0].dataType, T.StringType)
    if reads_only_files(df) and not made.is_opaque:
        total = count_distinct_ids(df, id_, id_.isNotNull() & is_utf8(id_) if is_text else id_.isNotNull())
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
            f"idCol={shown(name)} is not unique: {found['repeated']} ids stand in more than one row, for example "
            f"{shown(found['example'])}; drop exact repeats first (dropDuplicates([{shown(name)}]))"
        )
    if made.is_opaque:
        _refuse_changed(df, id_, name, found["print"])
    return int(found["rows"])


def is_utf8(text: Column) -> Column:
    """Whether a string column's bytes are UTF-8. Spark's readers do not look, but Arrow does, on the way to Python."""
    if hasattr(F, "is_valid_utf8"):  # Spark 4, where decode fails on other bytes
        return F.is_valid_utf8(text)  # type: ignore[no-any-return, unused-ignore]
    binary = text.cast("binary")
    return F.encode(F.decode(binary, "UTF-8"), "UTF-8") == binary


def check_length(df: DataFrame, embedding: Column, name: str, dim: int) -> None:
    """A ``SemDedupError`` where all embeddings have another length than the centroids they are to be compared with.

    Otherwise one small job, which ends at the first row that fits.
    """
    length = F.size(embedding).alias("length")
    if _any_of(df.where(F.size(embedding) == dim).select(length)) is not None:
        return
    other = _any_of(df.where(F.size(embedding) > 0).select(length))
    if other is not None:
        raise SemDedupError(
            f"embeddingCol={shown(name)} has embeddings of length {other}, but the centroids have length "
            f"{dim}: give the centroids that were fitted on such embeddings"
        )


def _any_of(rows: DataFrame) -> int | None:
    """A value of the only column, from the first row there is, or None."""
    try:
        found = rows.head(1)
    except (Py4JJavaError, PySparkException) as error:
        # Spark 4.0's reader of a Python worker's output may fail like this where a task needs no more of it.
        if "CancelledKeyException" not in str(error):
            raise
        found = rows.agg(F.min(rows.columns[0])).collect()
    return found[0][0] if found else None


def _refuse_changed(df: DataFrame, id_: Column, name: str, fingerprint: int) -> None:
    """Computes the ids again, and refuses them where they are others. Spark takes a Python function for deterministic
    unless told otherwise, so its plan says nothing of ``udf(lambda: str(uuid4()))``."""
    again = df.select(id_.alias("id")).agg(F.bit_xor(F.xxhash64("id")).alias("print")).first()
    if again is None or again["print"] != fingerprint:
        raise SemDedupError(
            f"idCol={shown(name)} has other values when it is computed again, so a function that it is made by draws "
            "them anew each time: write the rows and read them back (or checkpoint() them) first"
        )


def refuse_invalid(valid: np.ndarray, reasons: np.ndarray, ids: pa.Array | pd.Series, column: str) -> None:
    """Raises an ``InvalidRowsError`` for the first row of a batch that cannot be compared, where such rows are errors.

    ``valid``: bool (n,); ``reasons``: (n,), of each row that is not.
    """
    if valid.all():
        return
    first = int(np.flatnonzero(~valid)[0])
    id_ = ids[first].as_py() if isinstance(ids, pa.Array) else ids.iloc[first]
    raise InvalidRowsError(
        f"embeddingCol={shown(column)}, row with id {shown(id_)}: {reasons[first]}; mend it, or set handleInvalid to "
        "skip (set such rows aside) or keep (leave them in, compared with nothing)"
    )
