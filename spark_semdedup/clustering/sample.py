"""The rows that KMeans is fitted on: the smallest hashes of their ids (docs/how-it-works.md, "Fit sample").

Which rows these are depends on ids and seed alone, not on partitions or row order. Hashes are uniform, so the
s smallest of n lie almost surely below the fraction (s + 6√s) / n of their range: one filter in the JVM, before any
embedding is decoded for Python, replaces a global sort.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels import unit_vectors
from spark_semdedup.spark.arrow import collect_arrow
from spark_semdedup.spark.documents import Documents
from spark_semdedup.spark.vectors import (
    commonest_length,
    lengths,
    matrix,
    matrix_from_packed,
    ordered_matrix,
    packed_rows,
    refuse_invalid,
)
from spark_semdedup.spark.worker import prepare_worker

_SAMPLE_SCHEMA = "hash bigint, length int, unit binary"


@dataclass(frozen=True)
class FitSample:
    """The rows to fit on: ``size`` unit vectors of length ``dim``, on the driver or distributed."""

    rows: DataFrame
    """``hash``, ``length`` and ``unit`` (packed) of the rows looked at; held by the executors where ``is_held``."""
    found: pa.Table | None
    """The same on the driver, or but for their vectors; None where all rows are the sample."""
    dim: int
    size: int
    valid_rows: float
    """How many rows can be compared, of all; where some cannot and not all were looked at, an estimate."""
    is_held: bool = False

    @cached_property
    def array(self) -> np.ndarray:
        """The unit vectors in hash order: float32 (size, dim). Only of a sample taken ``on_driver``."""
        return self._in_order[: self.size]

    @cached_property
    def spare(self) -> np.ndarray:
        """Rows looked at beyond those to fit on: float32 (m, dim). Only of a sample taken ``on_driver``."""
        return self._in_order[self.size :]

    @cached_property
    def _in_order(self) -> np.ndarray:
        if self.found is None:
            raise ValueError("the sample is not on the driver")
        fits = self.found["length"].to_numpy() == self.dim
        chosen = self.found if fits.all() else self.found.filter(pa.array(fits))
        return ordered_matrix(chosen["unit"], np.argsort(chosen["hash"].to_numpy(), kind="stable"))

    def dataframe(self, *, in_order: bool = True) -> DataFrame:
        """The unit vectors as a DataFrame of one column ``unit`` of type ``array<float>``, in hash order, so that it
        depends on neither partitions nor executors; not ``in_order``: without the shuffle."""
        chosen = self.rows.where(F.col("length") == self.dim)
        if self.found is not None:
            chosen = chosen.where(F.col("hash") <= int(self._hashes[self.size - 1]))
        return (chosen.orderBy("hash") if in_order else chosen).select("unit").mapInArrow(_decode, "unit array<float>")

    def seen(self, spare: int, most: int) -> tuple[DataFrame, int]:
        """Up to ``most`` rows looked at, of a sample that ``is_held``: ``hash`` and ``unit``, an ``array<float>``; and
        their number. Those beyond the rows to fit on, if there are half of the ``spare`` ones that were asked for."""
        beyond = self._hashes[self.size :]
        hashes = (beyond if 2 * len(beyond) >= spare > 0 else self._hashes)[:most]
        chosen = self.rows.where((F.col("length") == self.dim) & F.col("hash").between(int(hashes[0]), int(hashes[-1])))
        decoded = chosen.select("hash", "unit").mapInArrow(_decode_with_hash, "hash bigint, unit array<float>")
        return decoded, len(hashes)

    @cached_property
    def _hashes(self) -> np.ndarray:
        """Of the valid rows looked at, ascending."""
        assert self.found is not None
        return np.sort(self.found["hash"].to_numpy()[self.found["length"].to_numpy() == self.dim])

    def release(self) -> None:
        """Has the executors forget the rows that they hold."""
        if self.is_held:
            self.rows.unpersist()


def _decode(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    prepare_worker()
    for batch in batches:
        if batch.num_rows:
            yield pa.RecordBatch.from_arrays(
                [packed_rows(matrix_from_packed(batch.column("unit")), lists=True)], ["unit"]
            )


def _decode_with_hash(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for hashes, units in ((batch.column("hash"), batch.column("unit")) for batch in batches if batch.num_rows):
        yield pa.RecordBatch.from_arrays([hashes, packed_rows(matrix_from_packed(units), lists=True)], ["hash", "unit"])


def fit_sample(
    documents: Documents,
    *,
    total: int,
    wanted: int,
    seed: int,
    dim: int | None,
    handle_invalid: str,
    on_driver: bool,
    spare: int = 0,
    few: pa.Table | None = None,
) -> FitSample:
    """Chooses up to ``wanted`` valid rows of the ``total`` documents; rows that are not valid do not count.

    ``dim`` None: the commonest length among the rows looked at. About ``spare`` more are looked at. ``on_driver``:
    vectors are collected here at once; otherwise only their hashes are, and the executors hold the vectors until
    ``release``, unless the sample is all rows. ``few``: all rows, as ``read_few`` gives them; the executors hold none.
    Raises ``SemDedupError`` where no row is valid or, with ``handle_invalid`` error, where one is not.
    """
    hashed = documents.df.select(*_columns(documents, seed))
    sampler = _sampler(documents.embedding_col, dim, handle_invalid)
    least = wanted + spare + 6 * math.isqrt(wanted) + 16
    look_at = min(total, least)
    is_held = not on_driver and wanted < total
    while True:
        most = hash_below(look_at / total)
        rows = hashed.where(F.col("hash") <= most).mapInArrow(sampler, _SAMPLE_SCHEMA)
        with _held(rows) if is_held else nullcontext():  # counted, ordered, fitted on, looked at: read once
            if few is not None:
                found = _sampled_here(few.filter(pc.less_equal(few["hash"], most)), sampler)
                found_lengths = _count(found["length"].to_numpy())
            elif wanted >= total and not on_driver:  # all rows, which may be too many to know each hash of
                found, counts = None, rows.groupBy("length").count().collect()
                found_lengths = Counter({row["length"]: row["count"] for row in counts})
            else:
                found = collect_arrow(rows if on_driver else rows.select("hash", "length"))
                found_lengths = _count(found["length"].to_numpy())
            length = dim or commonest_length(found_lengths)
            valid = found_lengths[length] if length else 0
            if valid >= wanted + spare // 2 or look_at >= total:
                _refuse(found_lengths, length, handle_invalid)
                break
            if is_held:
                rows.unpersist()
        look_at = _look_farther(look_at, valid, least, total)
    assert length is not None  # refused
    all_valid = total if handle_invalid == "error" else min(total, valid * total / look_at)
    return FitSample(rows, found, length, min(wanted, valid), all_valid, is_held)


@contextmanager
def _held(rows: DataFrame) -> Iterator[None]:
    """Has the executors hold the rows; not after an error."""
    rows.persist()
    try:
        yield
    except BaseException:
        rows.unpersist()
        raise


def _sampled_here(rows: pa.Table, sampler: Callable[..., Iterator[pa.RecordBatch]]) -> pa.Table:
    """What the tasks' ``sampler`` makes of a few rows, on the driver."""
    schema = pa.schema([("hash", pa.int64()), ("length", pa.int32()), ("unit", pa.binary())])
    return pa.Table.from_batches(sampler(rows.to_batches()), schema)


def read_few(documents: Documents, seed: int) -> pa.Table | None:
    """All rows of a small table, for ``fit_sample``; None of a larger one."""
    return documents.read_few(*_columns(documents, seed))


def _columns(documents: Documents, seed: int) -> list[Column]:
    hash_ = F.xxhash64(documents.id, F.lit(seed)).alias("hash")
    return [hash_, documents.id.alias("id"), documents.embedding.alias("embedding")]


def _look_farther(looked_at: int, valid: int, least: int, total: int) -> int:
    """At how many of ``total`` rows to look for ``least`` valid ones, where ``looked_at`` had too few.

    As many as their share asks for, not many times as many: all that are valid come to the driver.
    """
    if valid < 64:  # too few to tell a share by
        return min(total, 4 * looked_at)
    return min(total, math.ceil(1.02 * least * looked_at / valid))


def hash_below(fraction: float) -> int:
    """The int64 below which ``fraction`` of all hashes lie."""
    return 2**63 - 1 if fraction >= 1 else int(-(2**63) + fraction * 2**64)


def in_lowest(id_: Column, fraction: float) -> Column:
    """Whether a row is among the ``fraction`` of all rows whose ids hash lowest."""
    return F.xxhash64(id_, F.lit(_SIZE_SEED)) <= F.lit(hash_below(fraction))


_SIZE_SEED = 1_000_003
"""Not one a user would take: sizes estimated from the fit sample itself would be too close to what the fit saw."""


def _count(values: np.ndarray) -> Counter[int]:
    return Counter(dict(zip(*(part.tolist() for part in np.unique(values, return_counts=True)), strict=True)))


def _refuse(lengths_found: Counter[int], length: int | None, handle_invalid: str) -> None:
    if length is None or not lengths_found[length]:
        raise SemDedupError("no row has an embedding that can be compared: all are null, empty, zero or not finite")
    if handle_invalid == "error" and len(lengths_found) > 1:
        mixed = ", ".join(f"{length} ({rows} rows)" for length, rows in lengths_found.most_common(4))
        raise SemDedupError(
            f"embeddings have mixed dimensions: {mixed}; give them one length, or set handleInvalid to skip or keep"
        )


def _sampler(
    embedding_name: str, dim: int | None, handle_invalid: str
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def sample(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        prepare_worker()
        for batch in batches:
            length = lengths(batch.column("embedding"))
            for each in [dim] if dim else np.unique(length):
                part = batch if dim else batch.filter(pa.array(length == each))
                valid, rows, reasons = matrix(part.column("embedding"), max(int(each), 1))
                if handle_invalid == "error":
                    refuse_invalid(valid, reasons, part.column("id"), embedding_name)
                if len(rows):
                    hashes = part.column("hash").filter(pa.array(valid))
                    sizes = pa.array(np.full(len(rows), each, np.int32))
                    yield pa.RecordBatch.from_arrays(
                        [hashes, sizes, packed_rows(unit_vectors(rows))], ["hash", "length", "unit"]
                    )

    return sample
