"""How a sample is drawn, from whatever the caller has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.explore.memory import refuse_too_large
from spark_semdedup.explore.sample import SEED, Columns, Sample, clean_texts, from_arrow, objects

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLE_ROWS = 10_000
"""Rows looked at unless the caller asks for another number; 0 means all."""


class Sampling(TypedDict, total=False):
    """The keywords that every function of ``explore`` passes to ``draw_sample``."""

    sample_rows: int
    id_col: str
    embedding_col: str
    text_col: str | None
    normalize: bool | None
    handle_invalid: str
    ids: Sequence[Any] | None
    texts: Sequence[str | None] | None
    input: Any


def draw_sample(
    data: Any,
    *,
    sample_rows: int = SAMPLE_ROWS,
    seed: int = SEED,
    id_col: str = "id",
    embedding_col: str = "embedding",
    text_col: str | None = None,
    normalize: bool | None = None,
    handle_invalid: str = "error",
    ids: Sequence[Any] | None = None,
    texts: Sequence[str | None] | None = None,
    input: Any = None,
) -> Sample:
    """Draws ``sample_rows`` rows of ``data``, the same for the same data and seed.

    Parameters
    ----------
    data
        A ``Sample`` (used as it is); a matrix of n vectors, with ``ids`` and ``texts`` beside it if wanted; a pandas
        DataFrame or Arrow table; a Spark DataFrame; the folder of a run (``OUT``); or a Parquet file or folder.
    sample_rows
        At most so many rows; 0 for all. Of a Spark DataFrame those with the smallest ``xxhash64(id, seed)``, so that
        neither partitions nor row order matter.
    normalize
        Whether rows are divided by their norms. None: tables and runs are, as the deduplication itself does it;
        a matrix is used as it is.
    handle_invalid
        ``error`` refuses a row whose vector is null, of another length, zero or not finite; ``skip`` leaves it out.
    text_col
        None: the column ``text`` where the table has one.
    input
        For the folder of a run: the run's input, a path or a Spark DataFrame, where the folder does not name it or
        it has moved.

    Raises ``SemDedupError`` for data that cannot be used, and for a sample that memory would not hold.
    """
    if isinstance(data, Sample):
        return data
    _check_options(sample_rows, seed, handle_invalid)
    columns = Columns(id_col, embedding_col, text_col, handle_invalid)
    if _is_spark(data):
        from spark_semdedup.explore import spark_sample

        sample = spark_sample.of_dataframe(data, sample_rows, seed, columns)
    elif isinstance(data, (str, os.PathLike)):
        from spark_semdedup.explore import spark_sample

        sample = spark_sample.of_path(os.fspath(data), sample_rows, seed, columns, input=input)
    elif hasattr(data, "column_names") or hasattr(data, "iloc"):
        sample = _of_table(_arrow(data), sample_rows, seed, columns)
    else:
        normalize = bool(normalize)
        sample = _of_matrix(data, ids, texts, sample_rows, seed, handle_invalid)
    if not len(sample):
        raise SemDedupError("no row has a vector that can be used: all are null, empty, zero or not finite")
    return replace(sample, vectors=sample.units) if normalize or normalize is None else sample


def _check_options(sample_rows: int, seed: int, handle_invalid: str) -> None:
    if isinstance(sample_rows, bool) or not isinstance(sample_rows, (int, np.integer)) or sample_rows < 0:
        raise SemDedupError(
            f"sample_rows={shown(sample_rows)} cannot be used: it must be a whole number, 0 for all rows"
        )
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise SemDedupError(f"seed={shown(seed)} cannot be used: it must be a whole number")
    if handle_invalid not in ("error", "skip"):
        raise SemDedupError(f"handle_invalid={shown(handle_invalid)} cannot be used: it must be error or skip")


def _is_spark(data: Any) -> bool:
    return type(data).__module__.startswith("pyspark.") and hasattr(data, "sparkSession")


# --- arrays and tables in this process ----------------------------------------------------------------------


def _of_matrix(
    data: Any,
    ids: Sequence[Any] | None,
    texts: Sequence[str | None] | None,
    sample_rows: int,
    seed: int,
    handle_invalid: str,
) -> Sample:
    matrix = _matrix(data)
    total = len(matrix)
    for name, values in (("ids", ids), ("texts", texts)):
        if values is not None and len(values) != total:
            raise SemDedupError(
                f"{name} has {len(values)} values, but there are {total} vectors: one for each is needed"
            )
    chosen = draw_rows(total, sample_rows, seed)
    refuse_too_large(len(chosen), matrix.shape[1])
    vectors = np.asarray(matrix[chosen], np.float64)
    finite = np.isfinite(vectors).all(axis=1) & (np.abs(vectors) <= np.finfo(np.float32).max).all(axis=1)
    if not finite.all():
        _refuse_row(chosen[int(np.argmin(finite))], ids, handle_invalid)
        chosen, vectors = chosen[finite], vectors[finite]
    names = np.arange(total) if ids is None else ids
    return Sample(
        vectors.astype(np.float32),
        objects([names[i] for i in chosen.tolist()]),
        None if texts is None else clean_texts([texts[i] for i in chosen.tolist()]),
        total,
        seed,
    )


def _matrix(data: Any) -> np.ndarray:
    """``data`` as a matrix of numbers with at least one row."""
    if hasattr(data, "get") and type(data).__module__.startswith("cupy"):
        data = data.get()
    try:
        matrix = np.asarray(data)
        if matrix.dtype.kind not in "fiub":
            matrix = matrix.astype(np.float64)
    except (TypeError, ValueError):
        raise SemDedupError(
            f"the input is a {type(data).__name__} that is no matrix: give n vectors of one length, a table, or a path"
        ) from None
    if matrix.ndim != 2 or not matrix.size:
        raise SemDedupError(f"the input has shape {matrix.shape}: it must be a matrix of n vectors of one length")
    return matrix


def _refuse_row(row: int, ids: Sequence[Any] | None, handle_invalid: str) -> None:
    if handle_invalid == "error":
        name = f"row {row}" if ids is None else f"row with id {shown(ids[row])}"
        raise SemDedupError(
            f"{name} has a NaN or infinite element: fix it, or set handle_invalid='skip' to leave such rows out"
        )


def _arrow(data: Any) -> pa.Table:
    import pyarrow as pa

    if hasattr(data, "column_names"):
        return data
    return pa.Table.from_pandas(data, preserve_index=False)


def _of_table(table: pa.Table, sample_rows: int, seed: int, columns: Columns) -> Sample:
    import pyarrow as pa

    columns = columns.of(table.column_names)
    for name, param in ((columns.id, "id_col"), (columns.embedding, "embedding_col"), (columns.text, "text_col")):
        if name is not None and name not in table.column_names:
            raise SemDedupError(f"{param}={shown(name)} is not among the columns: {', '.join(table.column_names)}")
    refuse_too_large(min(sample_rows or table.num_rows, table.num_rows), _width(table[columns.embedding]))
    chosen = table.take(pa.array(draw_rows(table.num_rows, sample_rows, seed)))
    return from_arrow(chosen, columns, rows=table.num_rows, seed=seed)


def _width(vectors: pa.ChunkedArray) -> int:
    first: Any = next((value.as_py() for value in vectors if value.is_valid), [])
    return len(first) if isinstance(first, (list, tuple)) else 1


def draw_rows(total: int, sample_rows: int, seed: int) -> np.ndarray:
    """Positions of the sampled rows, in ascending order: int64 (m,)."""
    if not sample_rows or sample_rows >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed & 0x7FFFFFFFFFFFFFFF).choice(total, sample_rows, replace=False))
