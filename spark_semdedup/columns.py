"""Spark and Arrow columns ⇄ matrices: which types are accepted, which rows are valid.

An Arrow list column is one flat buffer with offsets, so a batch of embeddings becomes a matrix without a copy and
without Python touching a row.
"""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import DTypeLike
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.kernels.coverage import NORM_TOLERANCE

ListArray: TypeAlias = "pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray"

ID_TYPES = (T.StringType, T.ByteType, T.ShortType, T.IntegerType, T.LongType)

UNIT_NORM_TOLERANCE = NORM_TOLERANCE
"""How far from 1 the norm of a vector may be that is taken for a unit vector (DESIGN 4)."""

FLOAT16_NORM_TOLERANCE = 2e-3
"""The same for unit vectors stored as float16: each element is off by up to 2⁻¹¹ of itself."""


# --- Spark columns ------------------------------------------------------------------------------------------


def refuse_stream(df: DataFrame) -> None:
    """A ``SemDedupError`` for a DataFrame that never ends."""
    if df.isStreaming:
        raise SemDedupError(
            "the input is a stream: it must be a table that ends, since each row is compared with others"
        )


def quoted(name: str) -> Column:
    """The column of that very name, whatever characters it has (dots, spaces, backticks)."""
    return F.col("`" + name.replace("`", "``") + "`")


def field(df: DataFrame, name: str, param: str) -> T.StructField:
    """The schema's entry for a column; a ``SemDedupError`` that lists the columns there are if it is missing.

    Names are matched as Spark resolves them: with regard to case where ``spark.sql.caseSensitive`` is set.
    """
    if not hasattr(df, "sparkSession"):
        raise SemDedupError(f"the input is a {type(df).__module__}.{type(df).__name__}: it must be a Spark DataFrame")
    sensitive = df.sparkSession.conf.get("spark.sql.caseSensitive") == "true"
    alike = [f for f in df.schema.fields if f.name == name or (not sensitive and f.name.lower() == name.lower())]
    if len(alike) != 1:
        what = "is there more than once" if alike else "is not among the columns"
        raise SemDedupError(f"{param}={shown(name)} {what}: {_listed(df.columns)}")
    return alike[0]


def _listed(names: list[str], most: int = 40) -> str:
    """Names as they stand in a message; of very many only the first, so that the line can still be read."""
    return ", ".join(map(shown, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def unused_name(name: str, *frames: DataFrame) -> str:
    """``name``, made longer until no column of the frames is called so: a join of theirs can tell it from the rest."""
    taken = {column.lower() for df in frames for column in df.columns}
    while name.lower() in taken:
        name += "_"
    return name


def id_column(df: DataFrame, name: str) -> Column:
    """The id column; a ``SemDedupError`` where it is missing or neither string nor integer.

    Text is compared by its bytes, whatever collation the column has (Spark 4): ``A`` and ``a`` are two ids.
    """
    found = field(df, name, "idCol")
    refuse_stream(df)
    refuse_id_type(found.dataType, f"idCol={shown(name)}")
    return by_its_bytes(found)


def by_its_bytes(found: T.StructField) -> Column:
    """A column of ids, without the collation that its text may have."""
    collated = isinstance(found.dataType, T.StringType) and found.dataType.simpleString() != "string"
    return quoted(found.name).cast("string").alias(found.name) if collated else quoted(found.name)


def refuse_id_type(type_: T.DataType, what: str) -> None:
    """A ``SemDedupError`` for an id that is neither string nor integer; ``what`` names it."""
    if not isinstance(type_, ID_TYPES):
        raise SemDedupError(
            f"{what} is of type {shown_type(type_)}: it must be string, tinyint, smallint, int or bigint (cast it, for "
            "example to string)"
        )


def embedding_column(df: DataFrame, name: str, *, float16_bits: bool = False) -> Column:
    """The embedding as ``array<float>`` or ``array<double>``, from either or from an ML ``Vector``.

    ``float16_bits``: also integer arrays, which hold the bits of float16 numbers (NeMo Curator writes uint16 lists).
    """
    found = field(df, name, "embeddingCol")
    if _is_vector(found.dataType):
        from pyspark.ml.functions import vector_to_array  # not for tasks, which import this module

        return vector_to_array(quoted(found.name))
    if is_float_array(found.dataType) or (float16_bits and is_float16_bits(found.dataType)):
        return quoted(found.name)
    raise SemDedupError(
        f"embeddingCol={shown(name)} is of type {shown_type(found.dataType)}: it must be array<float>, "
        f"array<double> or an ML Vector{_cast_hint(found.dataType)}"
    )


def _cast_hint(type_: T.DataType) -> str:
    numbers = isinstance(type_, T.ArrayType) and isinstance(type_.elementType, T.NumericType)
    return " (cast it, for example to array<float>)" if numbers else ""


def shown_type(type_: T.DataType) -> str:
    """A column's type as it stands in a message: that of a struct of many fields is cut short."""
    text = type_.simpleString()
    return text if len(text) <= 80 else text[:79] + "…"


def is_float_array(type_: T.DataType) -> bool:
    return isinstance(type_, T.ArrayType) and isinstance(type_.elementType, (T.FloatType, T.DoubleType))


def is_float16_bits(type_: T.DataType) -> bool:
    return isinstance(type_, T.ArrayType) and isinstance(type_.elementType, (T.ShortType, T.IntegerType))


def _is_vector(type_: T.DataType) -> bool:
    return type_.typeName() == "vector" or type(type_).__name__ == "VectorUDT"


def refuse_shadowed(df: DataFrame, appended: list[str], stage: str) -> None:
    """A ``SemDedupError`` if the input already has one of the columns that a stage appends."""
    there = [name for name in df.columns if name.lower() in {a.lower() for a in appended}]
    if there:
        raise SemDedupError(
            f"{stage} appends the columns {', '.join(appended)}, but the input already has {', '.join(there)}: "
            "rename or drop it first"
        )


# --- Arrow columns ------------------------------------------------------------------------------------------


def lengths(embeddings: ListArray) -> np.ndarray:
    """Elements of each row, −1 for null; int64 (n,)."""
    return pc.fill_null(pc.list_value_length(embeddings), -1).to_numpy(zero_copy_only=False).astype(np.int64)


def commonest_length(counts: Counter[int]) -> int | None:
    """The length most rows have (of equally common ones the shortest); None where all rows are null or empty."""
    there = [(-count, length) for length, count in counts.items() if length > 0]
    return min(there)[1] if there else None


def matrix(embeddings: ListArray, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch of embeddings as a matrix of its valid rows.

    Returns ``valid`` (bool, n), the valid rows as float32 or float64 (m, dim), not yet normalised, and
    ``reasons`` (object, n): None for a valid row, else why it cannot be compared, in words.
    """
    if isinstance(embeddings, pa.ChunkedArray):
        embeddings = embeddings.combine_chunks()
    length = lengths(embeddings)
    reasons = np.full(len(length), None, dtype=object)
    fits = length == dim
    for row in np.flatnonzero(~fits):
        reasons[row] = _WHY.get(int(length[row]), f"embedding has length {length[row]}, not {dim}")
    values = (embeddings if fits.all() else embeddings.filter(pa.array(fits))).flatten()
    if values.null_count:
        values = pc.fill_null(values, np.nan)
    rows = values.to_numpy(zero_copy_only=False).reshape(-1, dim)
    finite = np.isfinite(rows).all(axis=1)
    nonzero = rows.any(axis=1)
    good = finite & nonzero
    if good.all():
        return fits, rows, reasons
    there = np.flatnonzero(fits)
    reasons[there[~finite]] = "embedding has a null, NaN or infinite element"
    reasons[there[finite & ~nonzero]] = "embedding is zero"
    valid = fits.copy()
    valid[there[~good]] = False
    return valid, rows[good], reasons


_WHY = {-1: "embedding is null", 0: "embedding is empty"}
"""Why a row of such a length (``lengths``) cannot be compared; other wrong lengths are named."""


def float16_from_bits(bits: ListArray) -> pa.Array:
    """Integer lists that hold float16 bits → float32 lists (NeMo Curator stores embeddings so)."""
    values = bits.flatten().to_numpy(zero_copy_only=False).astype(np.uint16).view(np.float16).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(np.maximum(lengths(bits), 0))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=bits.is_null())


def packed(numbers: np.ndarray, counts: np.ndarray, *, lists: bool = False) -> pa.Array:
    """Numbers of n rows one after the other, ``counts`` (n,) of each row, as n binary values, or as n lists; no copy.

    Inside the job vectors and numbers of cells travel as binary: the JVM copies them as one piece, where it would walk
    an array element by element on the way to and from Arrow. The RAPIDS Accelerator takes only lists to Python and back
    without leaving the GPU (its supported-operators page, PythonMapInArrowExec), so where it does they are lists.
    """
    numbers = np.ascontiguousarray(numbers)
    if numbers.nbytes >= 2**31:
        raise SemDedupError(
            f"a batch of {len(counts)} rows with {numbers.size} numbers passes 2 GiB: lower "
            "spark.sql.execution.arrow.maxRecordsPerBatch"
        )
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    if lists:
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(numbers))
    offsets *= np.int32(numbers.itemsize)
    return pa.Array.from_buffers(pa.binary(), len(counts), [None, pa.py_buffer(offsets), pa.py_buffer(numbers)])


def unpacked(values: ListArray | pa.Array, dtype: DTypeLike) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of ``packed``, of null-free values: all their numbers one after the other, not copied, and how many
    each value has, int64 (n,)."""
    if not len(values):  # whose buffers may be missing
        return np.empty(0, dtype), np.empty(0, np.int64)
    if not (pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type)):
        numbers = values.flatten().to_numpy(zero_copy_only=False).astype(dtype, copy=False)
        return numbers, values.value_lengths().to_numpy().astype(np.int64)
    values = values.cast(pa.binary())  # spark.sql.execution.arrow.useLargeVarTypes brings large_binary
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    data = np.frombuffer(values.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    numbers = data.view(dtype)
    return numbers, np.diff(offsets).astype(np.int64) // numbers.itemsize


def packed_type(element: T.DataType, *, lists: bool = False) -> T.DataType:
    """The Spark type of what ``packed`` gives."""
    return T.ArrayType(element) if lists else T.BinaryType()


def packed_rows(rows: np.ndarray, *, lists: bool = False) -> pa.Array:
    """A float32 matrix (n, d) as n values of d numbers each (``packed``)."""
    return packed(np.ascontiguousarray(rows, np.float32).ravel(), np.full(*rows.shape), lists=lists)


def matrix_from_packed(values: pa.Array) -> np.ndarray:
    """The inverse of ``packed_rows``; null-free, all of one length, at least one row."""
    numbers, _ = unpacked(values, np.float32)
    return numbers.reshape(len(values), -1)


def ordered_matrix(values: pa.ChunkedArray, order: np.ndarray) -> np.ndarray:
    """The rows that ``packed_rows`` packed, those numbered ``order[0]``, ``order[1]``, …, a permutation, int (n,).

    Each is copied once, from the batch it came in to its place.
    """
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    chunks = [matrix_from_packed(chunk) for chunk in values.chunks if len(chunk)]
    rows = np.empty((len(order), chunks[0].shape[1]), np.float32)
    for chunk, places in zip(chunks, np.split(place, np.cumsum([len(chunk) for chunk in chunks])[:-1]), strict=True):
        rows[places] = chunk
    return rows
