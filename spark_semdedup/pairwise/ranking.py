"""Which of several equal documents is preferred: one total order of all rows
(docs/how-it-works.md, "Rank").

A *rank key* is a column with a direction. Whatever its type, it sorts here as int64 codes, so that the order
is the one written down and not that of a library: nulls last in either direction, NaN above all numbers, −0 equal
to 0, strings and binary by their bytes. Ties are broken by id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.spark.columns import field, quoted, shown_type
from spark_semdedup.spark.determinism import require_deterministic

if TYPE_CHECKING:
    from spark_semdedup.params import RankingParams


DISTANCES = {"cosine": "cosine_dist_to_cent", "l2": "l2_dist_to_cent"}


class RankDirections(Protocol):
    """Whether ranks ascend with each rank key, and of equal keys with the id."""

    @property
    def key_ascending(self) -> Sequence[bool]: ...

    @property
    def id_ascending(self) -> bool: ...


@dataclass(frozen=True)
class Ranking:
    """The order of preference, before it is bound to a table.

    ``distance`` is the distance column that ranks (``hard``, ``easy``), or None; ``by`` holds pairs of column name
    and direction (``rankBy``); ``seed`` is set for ``random``.
    """

    ascending: bool = True
    distance: str | None = None
    by: tuple[tuple[str, bool], ...] = ()
    seed: int | None = None

    @classmethod
    def of(cls, params: RankingParams) -> Ranking:
        """The ranking that the Params describe; a ``SemDedupError`` where both rankBy and whichToKeep are set."""
        rank_by = params.value("rankBy")
        which = params.value("whichToKeep")
        if rank_by:
            if params.isSet("whichToKeep"):
                raise SemDedupError(
                    f"rankBy={shown(rank_by)} and whichToKeep={which!r} are both set; set one of them: each ranks rows"
                )
            return cls(by=tuple(_direction(entry) for entry in rank_by))
        if which in ("hard", "easy"):
            return cls(ascending=which == "easy", distance=DISTANCES[params.value("distanceMetric")])
        return cls(seed=params.value("seed") if which == "random" else None)

    @property
    def id_ascending(self) -> bool:
        """Ties go to the lowest id, but to the highest with ``hard``."""
        return self.ascending

    @property
    def key_ascending(self) -> list[bool]:
        """Direction of each key column that ``key_columns`` gives, the distance included."""
        if self.distance:
            return [self.ascending]
        if self.seed is not None:
            return [True]
        return [direction for _, ascending in self.by for direction in (True, ascending)]

    def input_columns(self, df: DataFrame) -> list[str]:
        """Names of the input's columns that rank rows."""
        return [_resolve(df, name).name for name, _ in self.by]

    def key_columns(self, df: DataFrame, id_: Column) -> list[Column]:
        """The key columns, never null, as the array code takes them: int, float, string or binary.

        Each ``rankBy`` column becomes two: whether it is null, and its value. One that is drawn at random is refused:
        after a failure, tasks that compare the same rows could rank them in different orders.
        """
        if self.distance:
            found = field(df, self.distance, "whichToKeep")
            if not isinstance(found.dataType, (T.FloatType, T.DoubleType)):
                raise SemDedupError(
                    f"column {self.distance!r} is of type {shown_type(found.dataType)}: it must be float or double"
                )
            return [quoted(found.name)]
        if self.seed is not None:
            return [F.xxhash64(id_.cast("string"), F.lit(self.seed))]
        columns: list[Column] = []
        for name, _ in self.by:
            found = _resolve(df, name)
            require_deterministic(df, name, "rankBy")
            column, filler = _sortable(found)
            columns += [F.isnull(column).cast("int"), F.coalesce(column, filler)]
        return columns


def _direction(entry: str) -> tuple[str, bool]:
    """``"name desc"`` → ("name", False); without a direction, ascending."""
    name, _, last = entry.rpartition(" ")
    if name and last.lower() in ("asc", "desc"):
        return name.strip(), last.lower() == "asc"
    return entry, True


def _resolve(df: DataFrame, name: str) -> T.StructField:
    return field(df, name, "rankBy")


def _sortable(found: T.StructField) -> tuple[Column, Column]:
    """The column in a type that sorts as the original does, and a value to stand where it is null."""
    column, type_ = quoted(found.name), found.dataType
    if isinstance(type_, (T.BooleanType, T.ByteType, T.ShortType, T.IntegerType, T.LongType)):
        return column.cast("long"), F.lit(0).cast("long")
    if isinstance(type_, (T.FloatType, T.DoubleType)):
        return column.cast("double"), F.lit(0.0)
    if isinstance(type_, T.StringType):
        return column.cast("string"), F.lit("")
    if isinstance(type_, T.BinaryType):
        return column, F.lit(bytearray())
    if isinstance(type_, T.DecimalType):
        return column, F.lit(0).cast(type_)
    if isinstance(type_, T.DateType):
        return F.unix_date(column).cast("long"), F.lit(0).cast("long")
    if isinstance(type_, T.TimestampType):
        return F.unix_micros(column), F.lit(0).cast("long")
    if isinstance(type_, T.TimestampNTZType):
        # By its own clock: through the session's time zone an hour would come twice in autumn.
        minutes = F.unix_date(F.to_date(column)).cast("long") * 1440 + F.hour(column) * 60 + F.minute(column)
        seconds = F.extract(F.lit("SECOND"), column)  # a decimal, with microseconds
        return minutes * 60_000_000 + (seconds * 1_000_000).cast("long"), F.lit(0).cast("long")
    raise SemDedupError(
        f"rankBy={shown(found.name)} is of type {shown_type(type_)}: it must be a number, boolean, string, binary, "
        "decimal, date or timestamp"
    )


def rank_order(ids: Any, keys: Sequence[Any], key_ascending: Sequence[bool], id_ascending: bool) -> np.ndarray:
    """Positions of the rows in rank order, the preferred first: int64 (n,).

    ``ids`` and ``keys`` are NumPy arrays, pandas Series or Arrow arrays of length n without nulls.
    """
    columns = [_codes(key, up) for key, up in zip(keys, key_ascending, strict=True)]
    columns.append(_codes(ids, id_ascending))
    return np.lexsort(columns[::-1])


def _codes(values: Any, ascending: bool) -> np.ndarray:
    """int64 codes that sort as the values do; ``~code`` reverses an order of int64 without overflow."""
    array = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else np.asarray(values)
    if isinstance(array, np.ndarray) and array.dtype.kind in "biu":
        codes = array.astype(np.int64)
    elif isinstance(array, np.ndarray) and array.dtype.kind == "f":
        codes = _float_codes(array)
    elif isinstance(array, np.ndarray):
        codes = _dense_ranks(pa.array(array))
    elif pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        return _codes(array.to_numpy(), ascending)
    else:
        codes = _dense_ranks(array)
    return codes if ascending else ~codes


def _float_codes(values: np.ndarray) -> np.ndarray:
    """IEEE bits, negative numbers' flipped, sort as the numbers do; adding 0 makes −0 to 0; NaN goes above all."""
    bits = (values.astype(np.float64) + 0.0).view(np.int64)
    codes = np.where(bits < 0, bits ^ np.int64(0x7FFF_FFFF_FFFF_FFFF), bits)
    codes[np.isnan(values)] = np.iinfo(np.int64).max
    return codes


def _dense_ranks(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return pc.rank(values, sort_keys="ascending", tiebreaker="dense").to_numpy().astype(np.int64)
