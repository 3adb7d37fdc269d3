"""Spark and Arrow columns ⇄ matrices: which types are accepted, which rows are valid.

An Arrow list column is one flat buffer with offsets, so a batch of embeddings becomes a matrix without a copy and
without Python touching a row.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import DTypeLike
from pyspark.sql import types as T

from spark_semdedup.errors import InvalidRowsError, SemDedupError, shown
from spark_semdedup.kernels import unit_vectors
from spark_semdedup.kernels.arithmetic import norms
from spark_semdedup.kernels.visits import NORM_TOLERANCE

if TYPE_CHECKING:
    import pandas as pd


ListArray: TypeAlias = "pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray"

UNIT_NORM_TOLERANCE = NORM_TOLERANCE
"""How far from 1 the norm of a vector may be that is taken for a unit vector."""

FLOAT16_NORM_TOLERANCE = 2e-3
"""The same for unit vectors stored as float16: each element is off by up to 2⁻¹¹ of itself."""


def lengths(embeddings: ListArray | pa.Array) -> np.ndarray:
    """Elements of each row, −1 for null, ``NO_NUMBERS`` for bytes that are no float32 numbers; int64 (n,)."""
    if is_bytes(embeddings.type):
        size = pc.fill_null(pc.binary_length(embeddings), -4).to_numpy(zero_copy_only=False).astype(np.int64)
        return np.where(size % 4, NO_NUMBERS, size // 4)
    return pc.fill_null(pc.list_value_length(embeddings), -1).to_numpy(zero_copy_only=False).astype(np.int64)


def commonest_length(counts: Counter[int]) -> int | None:
    """The length most rows have (of equally common ones the shortest); None where all rows are null or empty."""
    there = [(-count, length) for length, count in counts.items() if length > 0]
    return min(there)[1] if there else None


def matrix(embeddings: ListArray | pa.Array, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch of embeddings, lists of numbers or bytes of float32, as a matrix of its valid rows.

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
    rows = _numbers(embeddings if fits.all() else embeddings.filter(pa.array(fits))).reshape(-1, dim)
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


def _numbers(embeddings: ListArray | pa.Array) -> np.ndarray:
    """Of all rows, none of them null, one after the other."""
    if is_bytes(embeddings.type):
        return unpacked(embeddings, "<f4")[0]
    values = embeddings.flatten()
    return (pc.fill_null(values, np.nan) if values.null_count else values).to_numpy(zero_copy_only=False)


def is_bytes(type_: pa.DataType) -> bool:
    return pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_fixed_size_binary(type_)


NULL_EMBEDDING = "embedding is null"
NO_NUMBERS = -2

_WHY = {
    NO_NUMBERS: "embedding is of bytes that are no float32 numbers: their number is no multiple of 4",
    -1: NULL_EMBEDDING,
    0: "embedding is empty",
}
"""Why a row of such a length (``lengths``) cannot be compared; other wrong lengths are named."""


def float16_from_bits(bits: ListArray) -> pa.Array:
    """Integer lists that hold float16 bits → float32 lists (NeMo Curator stores embeddings so); nulls stay.

    Raises ``SemDedupError`` for numbers that are not of 16 bits, signed or not.
    """
    values = bits.flatten()
    absent = pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False)  # pandas has NaN for them
    numbers = np.where(absent, 0, pc.fill_null(values, 0).to_numpy(zero_copy_only=False))
    wide = (numbers < -(2**15)) | (numbers >= 2**16)
    if wide.any():
        raise SemDedupError(f"{numbers[wide][0]} is not the bits of a float16: they are from -32768 to 65535")
    numbers = numbers.astype(np.int32).astype(np.uint16).view(np.float16).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(np.maximum(lengths(bits), 0))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(numbers, mask=absent), mask=bits.is_null())


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
    if not is_bytes(values.type):
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


Vectors: TypeAlias = "pd.Series | pa.Array | pa.ChunkedArray"
"""A column of vectors as it comes to a task."""


class Decoder(Protocol):
    """Makes a matrix of unit vectors, float32 (n, d), of a group's or a batch's vectors."""

    def __call__(self, vectors: Vectors, ids: pd.Series | pa.Array, order: np.ndarray | None = None) -> np.ndarray:
        """In that ``order``, a permutation, if there is one; ``ids``, which are for messages, are in it already."""


def decode_units(vectors: Vectors, ids: pd.Series | pa.Array, order: np.ndarray | None = None) -> np.ndarray:
    """Unit vectors from the values that travel inside a job (``Decoder``)."""
    if isinstance(vectors, pa.ChunkedArray) and order is not None:
        return ordered_matrix(vectors, order)
    vectors = _ordered(vectors, order)
    if isinstance(vectors, pa.Array):
        return matrix_from_packed(vectors)
    return np.frombuffer(b"".join(vectors), np.float32).reshape(len(vectors), -1)


def _ordered(vectors: Vectors, order: np.ndarray | None) -> pd.Series | pa.Array:
    if isinstance(vectors, pa.ChunkedArray):
        vectors = vectors.combine_chunks()
    return vectors if order is None else vectors.take(order)


def array_decoder(name: str, *, stored: bool, float16: bool) -> Decoder:
    """The function that makes unit vectors of a group's embeddings, lists of numbers, or refuses them in words."""

    def decode(vectors: Vectors, ids: pd.Series | pa.Array, order: np.ndarray | None = None) -> np.ndarray:
        vectors = _ordered(vectors, order)
        lists = vectors if isinstance(vectors, pa.Array) else pa.array(vectors, from_pandas=True)
        if pa.types.is_null(lists.type):
            raise _refusal(name, ids, 0, NULL_EMBEDDING)
        if float16:
            lists = _decoded(lists, name)
        valid, rows, reasons = matrix(lists, max(int(lengths(lists).max()), 1))
        if not valid.all():
            first = int(np.flatnonzero(~valid)[0])
            raise _refusal(name, ids, first, reasons[first])
        if not stored:
            return unit_vectors(rows)
        tolerance = FLOAT16_NORM_TOLERANCE if float16 else UNIT_NORM_TOLERANCE
        norm = norms(rows.astype(np.float32))
        off = np.flatnonzero(np.abs(norm - 1) > tolerance)
        if len(off):
            raise _refusal(
                name,
                ids,
                int(off[0]),
                f"norm is {norm[off[0]]:.6g}, not 1 (within {tolerance:g}); give unit vectors as the cluster step "
                "writes them, or normalize=True in Python",
            )
        return unit_vectors(rows) if float16 else rows.astype(np.float32)

    return decode


def _decoded(bits: ListArray, name: str) -> pa.Array:
    try:
        return float16_from_bits(bits)
    except SemDedupError as error:
        raise InvalidRowsError(f"embeddingCol={shown(name)}: {error}") from None


def _refusal(name: str, ids: pd.Series | pa.Array, row: int, why: str) -> InvalidRowsError:
    id_ = ids[row].as_py() if isinstance(ids, pa.Array) else ids.iat[row]
    return InvalidRowsError(f"embeddingCol={shown(name)}, row with id {shown(id_)}: {why}")


def refuse_invalid(valid: np.ndarray, reasons: np.ndarray, ids: pa.Array | pd.Series, column: str) -> None:
    """Raises an ``InvalidRowsError`` for the first row of a batch that cannot be compared, where such rows are errors.

    ``valid``: bool (n,); ``reasons``: (n,), of each row that is not.
    """
    if valid.all():
        return
    first = int(np.flatnonzero(~valid)[0])
    id_ = ids[first].as_py() if isinstance(ids, pa.Array) else ids.iloc[first]
    raise InvalidRowsError(
        f"embeddingCol={shown(column)}, row with id {shown(id_)}: {reasons[first]}; fix it, or set handleInvalid to "
        "skip (write such rows to invalid/) or keep (keep them, compared with nothing)"
    )


def list_array(embeddings: pd.Series) -> pa.Array:
    """The Series of a pandas UDF as an Arrow column again; element type by the first row that is not null."""
    first = next((value for value in embeddings if value is not None), np.zeros(0, np.float32))
    if isinstance(first, (bytes, bytearray)):
        return pa.array(embeddings, pa.binary(), from_pandas=True)
    return pa.array(embeddings, pa.list_(pa.from_numpy_dtype(np.asarray(first).dtype)), from_pandas=True)
