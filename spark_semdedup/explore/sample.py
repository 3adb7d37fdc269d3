"""The bounded, seeded sample that every function of ``explore`` looks at.

An explorer asks questions of the whole data, but silhouettes, dendrograms and maps cost the square of the rows they
see. So each function draws the same ``sample_rows`` rows for the same seed, and its result says of how many rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spark_semdedup.errors import SemDedupError, shown

if TYPE_CHECKING:
    import pyarrow as pa

SEED = 42


class Columns(NamedTuple):
    """Which columns of a table are read, and what becomes of rows that cannot be used."""

    id: str = "id"
    embedding: str = "embedding"
    text: str | None = None
    """None: ``text`` where there is such a column."""
    handle_invalid: str = "error"
    format: str = "float32"
    """Param ``embeddingFormat``, for vectors that are text or bytes."""

    def of(self, names: Sequence[str]) -> Columns:
        """With the column of texts that a table of such columns has, or None."""
        return self if self.text is not None or "text" not in names else self._replace(text="text")


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows drawn from a data set."""

    vectors: np.ndarray
    """Float32 (n, d), finite: unit vectors, unless an array was given or ``normalize`` is false."""
    ids: np.ndarray
    """Object (n,): the id column, or row numbers."""
    texts: np.ndarray | None = None
    """Object (n,): the text column; None where there is none. A row without a text has ''."""
    rows: int = 0
    """Rows of the data set that the sample was drawn from."""
    seed: int = SEED
    labels: np.ndarray | None = None
    """Int64 (n,): the clusters that a run assigned; None for other data."""
    duplicates: np.ndarray | None = None
    """Bool (n,): which rows a run removed; None for other data."""
    source: str = "array"

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    @property
    def is_whole(self) -> bool:
        """Whether the sample is all rows."""
        return len(self) == self.rows

    @cached_property
    def units(self) -> np.ndarray:
        """The rows divided by their norms: float32 (n, d). ``SemDedupError`` for a row of zeros."""
        from spark_semdedup.kernels import unit_vectors

        zero = np.flatnonzero(~self.vectors.any(axis=1))
        if len(zero):
            raise SemDedupError(f"row with id {shown(self.ids[zero[0]])} is zero: it has no direction to compare")
        squares = np.einsum("ij,ij->i", self.vectors, self.vectors)
        are_units = bool((np.abs(squares - 1) <= 2e-6).all())
        return self.vectors if are_units else unit_vectors(self.vectors)

    @cached_property
    def distinct(self) -> int:
        """Number of different vectors."""
        return len(np.unique(self.vectors, axis=0))

    def take(self, positions: np.ndarray) -> Sample:
        """The rows at ``positions``, in that order."""
        return replace(
            self,
            vectors=self.vectors[positions],
            ids=self.ids[positions],
            texts=None if self.texts is None else self.texts[positions],
            labels=None if self.labels is None else self.labels[positions],
            duplicates=None if self.duplicates is None else self.duplicates[positions],
        )

    def require_rows(self, least: int, purpose: str) -> None:
        """A ``SemDedupError`` where the sample has fewer rows than ``purpose`` needs."""
        if len(self) < least:
            raise SemDedupError(f"{purpose} needs at least {least} rows, but the sample has {len(self)}")

    def require_texts(self, purpose: str) -> np.ndarray:
        """The texts; a ``SemDedupError`` where there are none, or all are empty."""
        if self.texts is None:
            raise SemDedupError(f"{purpose} needs texts: give texts=, or text_col= for the column that holds them")
        if not any(text.strip() for text in self.texts):
            raise SemDedupError(f"{purpose} needs texts, but all {len(self)} of the sample are empty")
        return self.texts

    def describe(self) -> str:
        """``3,350 rows`` or ``10,000 of 63,905 rows``."""
        return f"{self.rows:,} rows" if self.is_whole else f"{len(self):,} of {self.rows:,} rows"


def from_arrow(table: pa.Table, columns: Columns, *, rows: int, seed: int) -> Sample:
    """A sample of the columns of an Arrow table; vectors are those of the commonest length."""
    import pyarrow as pa

    from spark_semdedup.spark.arrow import decoded
    from spark_semdedup.spark.vectors import is_bytes, lengths, matrix, refuse_invalid

    column = columns.embedding
    vectors = table[column].combine_chunks()
    if isinstance(vectors, pa.ChunkedArray):  # of no rows, or of more than one chunk can hold
        vectors = pa.concat_arrays(vectors.chunks) if vectors.num_chunks else pa.array([], vectors.type)
    if not is_bytes(vectors.type):
        vectors = _lists(vectors, column)
    sizes = lengths(vectors)
    counted = np.bincount(np.maximum(sizes, 0))
    counted[:1] = 0
    dim = int(counted.argmax()) if counted.any() else 1
    valid, found, reasons = matrix(vectors, dim)
    names = objects(table[columns.id].to_pylist())
    if columns.handle_invalid == "error":
        refuse_invalid(valid, reasons, pa.array(names.tolist()), column)
    return Sample(
        np.ascontiguousarray(found, np.float32) if found.dtype == np.float32 else _narrowed(found),
        names[valid],
        None if columns.text is None else clean_texts(decoded(table[columns.text]))[valid],
        rows - int((~valid).sum()) if len(names) == rows else rows,
        seed,
        source="table",
    )


def _lists(vectors: Any, column: str) -> Any:
    """An Arrow array of lists of floating-point numbers, from one of lists of any numbers."""
    import pyarrow as pa

    if not (pa.types.is_list(vectors.type) or pa.types.is_large_list(vectors.type) or _is_fixed(vectors.type)):
        raise SemDedupError(f"embedding_col={shown(column)} is of type {vectors.type}: it must be a list of numbers")
    values = vectors.type.value_type
    if not (pa.types.is_floating(values) or pa.types.is_integer(values)):
        raise SemDedupError(f"embedding_col={shown(column)} holds lists of {values}: they must be of numbers")
    return vectors if values in (pa.float32(), pa.float64()) else vectors.cast(pa.list_(pa.float64()))


def _is_fixed(type_: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_fixed_size_list(type_))


def _narrowed(vectors: np.ndarray) -> np.ndarray:
    """Float64 rows as float32; rows beyond float32's range are scaled into it first, as only directions count then."""
    largest = np.abs(vectors).max(axis=1, initial=0)
    beyond = (largest > 1e30) | (largest < 1e-30)
    scaled = np.where(beyond[:, None], vectors / np.where(largest == 0, 1, largest)[:, None], vectors)
    return scaled.astype(np.float32)


def objects(values: Sequence[Any]) -> np.ndarray:
    """An object array of the values, whatever they are."""
    array = np.empty(len(values), object)
    array[:] = list(values)
    return array


def clean_texts(values: Sequence[Any]) -> np.ndarray:
    """Texts as they can be counted and drawn: '' for null, no lone surrogates."""
    cleaned = ["" if v is None else str(v).encode("utf-8", "replace").decode("utf-8") for v in values]
    return objects(cleaned)
