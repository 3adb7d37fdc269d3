"""Vectors as they come to a task, and the matrix of unit vectors that they become.

A worker begins with imports, on every executor. So what the tasks of a run need stands in modules that import no
``pyspark.ml``, which brings SciPy and takes as long as all else: Params and Spark's stages are for the driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from spark_semdedup.columns import (
    FLOAT16_NORM_TOLERANCE,
    UNIT_NORM_TOLERANCE,
    float16_from_bits,
    lengths,
    matrix,
    matrix_from_packed,
    ordered_matrix,
)
from spark_semdedup.errors import InvalidRowsError, shown
from spark_semdedup.kernels import unit_vectors
from spark_semdedup.kernels.arithmetic import norms

if TYPE_CHECKING:
    import pandas as pd

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
            raise _refusal(name, ids, 0, "embedding is null")
        dim = int(lengths(lists).max())
        valid, rows, reasons = matrix(float16_from_bits(lists) if float16 else lists, max(dim, 1))
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


def _refusal(name: str, ids: pd.Series | pa.Array, row: int, why: str) -> InvalidRowsError:
    id_ = ids[row].as_py() if isinstance(ids, pa.Array) else ids.iat[row]
    return InvalidRowsError(f"embeddingCol={shown(name)}, row with id {shown(id_)}: {why}")
