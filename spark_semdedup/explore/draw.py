"""How a sample is drawn, from whatever the caller has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.explore import checks
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

    Raises
    ------
    SemDedupError
        For data that cannot be used, and for a sample that memory would not hold.
    """
    if isinstance(data, Sample):
        return data
    sample_rows, seed = _checked_options(sample_rows, seed, handle_invalid)
    columns = Columns(id_col, embedding_col, text_col, handle_invalid)
    if _is_spark(data):
        from spark_semdedup.explore import spark_sample

        sample = spark_sample.of_dataframe(data, sample_rows, seed, columns)
    elif isinstance(data, (str, os.PathLike)):
        from spark_semdedup.explore import spark_sample

        sample = spark_sample.of_path(os.fspath(data), sample_rows, seed, columns, input=input)
    elif hasattr(data, "column_names") or hasattr(data, "iloc"):
        sample = _of_table(data, sample_rows, seed, columns)
    else:
        normalize = bool(normalize)
        sample = _of_matrix(data, ids, texts, sample_rows, seed, handle_invalid)
    if not len(sample):
        raise SemDedupError("no row has a vector that can be used: all are null, empty, zero or not finite")
    return replace(sample, vectors=sample.units) if normalize or normalize is None else sample


def _checked_options(sample_rows: int, seed: int, handle_invalid: str) -> tuple[int, int]:
    """``sample_rows`` and ``seed`` as ints."""
    if isinstance(sample_rows, bool) or not isinstance(sample_rows, (int, np.integer)) or sample_rows < 0:
        raise SemDedupError(
            f"sample_rows={shown(sample_rows)} cannot be used: it must be a whole number, 0 for all rows"
        )
    if handle_invalid not in ("error", "skip"):
        raise SemDedupError(f"handle_invalid={shown(handle_invalid)} cannot be used: it must be error or skip")
    return int(sample_rows), checks.seed(seed)


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
    ids = range(total) if ids is None else _by_position("ids", ids, total)
    texts = None if texts is None else _by_position("texts", texts, total)
    chosen = draw_rows(total, sample_rows, seed)
    refuse_too_large(len(chosen), matrix.shape[1])
    vectors = np.asarray(matrix[chosen], np.float64)
    finite = np.isfinite(vectors).all(axis=1) & (np.abs(vectors) <= np.finfo(np.float32).max).all(axis=1)
    if not finite.all():
        _refuse_row(int(chosen[np.argmin(finite)]), ids, handle_invalid)
        chosen, vectors = chosen[finite], vectors[finite]
    return Sample(
        vectors.astype(np.float32),
        objects([ids[i] for i in chosen.tolist()]),
        None if texts is None else clean_texts([texts[i] for i in chosen.tolist()]),
        total,
        seed,
    )


def _by_position(name: str, values: Any, total: int) -> Sequence[Any]:
    """The values, one for each vector, by position whatever labels they have, and of Python's types."""
    try:
        listed = values.tolist() if hasattr(values, "tolist") else list(values)
    except TypeError:
        raise SemDedupError(f"{name}={shown(values)} cannot be used: it must have a value for each vector") from None
    if len(listed) != total:
        raise SemDedupError(f"{name} has {len(listed)} values, but there are {total} vectors: one for each is needed")
    return [value.item() if isinstance(value, np.generic) else value for value in listed]


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


def _refuse_row(row: int, ids: Sequence[Any], handle_invalid: str) -> None:
    if handle_invalid == "error":
        name = f"row {row}" if isinstance(ids, range) else f"row with id {shown(ids[row])}"
        raise SemDedupError(
            f"{name} has a NaN or infinite element: fix it, or set handle_invalid='skip' to leave such rows out"
        )


def _of_table(data: Any, sample_rows: int, seed: int, columns: Columns) -> Sample:
    """Of an Arrow table or a pandas DataFrame."""
    import pyarrow as pa

    names = data.column_names if hasattr(data, "column_names") else [str(name) for name in data.columns]
    columns = columns.of(names)
    for name, param in ((columns.id, "id_col"), (columns.embedding, "embedding_col"), (columns.text, "text_col")):
        if name is not None and names.count(name) != 1:
            state = "is more than once" if name in names else "is not"
            raise SemDedupError(f"{param}={shown(name)} {state} among the columns: {', '.join(names)}")
    read = {columns.id, columns.embedding, columns.text}
    table = _arrow(data, [place for place, name in enumerate(names) if name in read])
    wanted = min(sample_rows or table.num_rows, table.num_rows)
    texts = 0 if columns.text is None else table[columns.text].nbytes * wanted / max(table.num_rows, 1)
    refuse_too_large(wanted, _width(table[columns.embedding]), text_bytes=texts)
    chosen = table.take(pa.array(draw_rows(table.num_rows, sample_rows, seed)))
    return from_arrow(chosen, columns, rows=table.num_rows, seed=seed)


def _arrow(data: Any, places: list[int]) -> pa.Table:
    """The columns at ``places``."""
    import pyarrow as pa

    if hasattr(data, "column_names"):
        return data.select(places)
    try:
        return pa.Table.from_pandas(data.iloc[:, places], preserve_index=False)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        reason = "; ".join(str(part) for part in error.args)
        raise SemDedupError(f"the table's columns cannot be read, each needs one type: {shown(reason, 400)}") from None


def _width(vectors: pa.ChunkedArray) -> int:
    first: Any = next((value.as_py() for value in vectors if value.is_valid), [])
    return len(first) if isinstance(first, (list, tuple)) else 1


def draw_rows(total: int, sample_rows: int, seed: int) -> np.ndarray:
    """Positions of the sampled rows, in ascending order: int64 (m,)."""
    if not sample_rows or sample_rows >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed & 0x7FFFFFFFFFFFFFFF).choice(total, sample_rows, replace=False))
