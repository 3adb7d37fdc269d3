"""New rows compared with *reference rows*, which all precede them: those of an index, or a table to keep apart from.

Reference rows stay where they are, each in the cell of its nearest centroid, and are read once, of the cells that new
rows visit alone. New rows visit their own cell and those that the coverage names (``kernels.visits``, (2)), and travel
to the reference rows: they are few, so every task has all of them.

    new rows ──assign, visit──▶ driver ──▶ every task
                                             │
    reference rows of the visited cells ─────┴──▶ id, max_id, cosine_sim_score ──best of each id──▶ at most one a row
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels.arrays import Array, to_device_of, to_numpy
from spark_semdedup.kernels.assignment import Visits
from spark_semdedup.kernels.cells import by_cell
from spark_semdedup.kernels.similarity import max_similarity
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.merge import by_rank
from spark_semdedup.pairwise.packing import device_bytes
from spark_semdedup.pairwise.ranking import Ranking, rank_order
from spark_semdedup.pairwise.route import TaskRouter
from spark_semdedup.pairwise.rows import UnassignedRows
from spark_semdedup.pairwise.schema import visits_from
from spark_semdedup.pairwise.task import precision_for
from spark_semdedup.params import PairwiseParams
from spark_semdedup.spark.arrow import collect_arrow
from spark_semdedup.spark.columns import shown_type
from spark_semdedup.spark.device import Batch, TaskDevice
from spark_semdedup.spark.vectors import matrix_from_packed, ordered_matrix
from spark_semdedup.spark.worker import prepare_worker

log = logging.getLogger("spark_semdedup")

MOST_BYTES = 64 << 20
"""Of the new rows' vectors that every task gets at once; of more rows, one part after the other."""


@dataclass(frozen=True)
class RankOrder:
    """The directions of the rank keys of reference rows, and of their ids."""

    key_ascending: Sequence[bool]
    id_ascending: bool


class ReferenceRows(Protocol):
    """Rows that precede all new ones, each labelled with the nearest of the centroids that new rows are assigned to."""

    @property
    def id_type(self) -> T.DataType: ...

    @property
    def order(self) -> RankOrder: ...

    def rows(self, cells: np.ndarray) -> DataFrame:
        """Those of the cells: ``id``, ``unit`` (``vectors.packed_rows``), ``centroid``, rank keys ``key_0`` …, which
        are never null."""


@dataclass(frozen=True)
class TableReferences:
    """A table of documents to keep apart from, assigned as it is read; ties go to the lowest id."""

    assigned: UnassignedRows
    order = RankOrder((), True)

    @property
    def id_type(self) -> T.DataType:
        return self.assigned.documents.df.select(self.assigned.documents.id.alias("id")).schema["id"].dataType

    def rows(self, cells: np.ndarray) -> DataFrame:
        """All of them, as assigning them is what tells their cells."""
        routed = replace(self.assigned, ranking=Ranking()).routed()
        return routed.where(F.col("centroid") >= 0).select("id", "unit", "centroid")


@dataclass(frozen=True)
class Probes:
    """New rows on their way to reference rows: n ids, unit vectors, float32 (n, d), and the cells that each is compared
    in, its own included."""

    ids: pa.Array
    units: np.ndarray
    visits: Visits

    @classmethod
    def collect(cls, rows: UnassignedRows, coverage: Coverage) -> Probes:
        """The valid ones of ``rows``, assigned and collected on the driver."""
        router = TaskRouter(replace(coverage, one_sided=True))
        routed = replace(rows, ranking=Ranking()).routed(router)
        found = collect_arrow(routed.where(F.col("centroid") >= 0).select("id", "unit", "centroid", "cells"))
        n = len(found)
        if not n:
            return cls(_whole(found["id"]), np.empty((0, rows.centroids.dim), np.float32), Visits.none())
        visits = visits_from(_whole(found["cells"]))
        own = found["centroid"].to_numpy()
        every = Visits(
            np.concatenate([np.arange(n), visits.rows]), np.concatenate([own, visits.cells]).astype(np.int32)
        )
        return cls(_whole(found["id"]), ordered_matrix(found["unit"], np.arange(n)), every)

    @property
    def cells(self) -> np.ndarray:
        """The cells that some row visits, ascending."""
        return np.unique(self.visits.cells)

    def parts(self, most_bytes: int) -> Iterator[Probes]:
        """The rows in parts of at most so many bytes of vectors."""
        step = max(1, most_bytes // max(self.units[:1].nbytes, 1))
        for start in range(0, len(self.ids), step):
            here = (self.visits.rows >= start) & (self.visits.rows < start + step)
            visits = Visits(self.visits.rows[here] - start, self.visits.cells[here])
            yield Probes(self.ids.slice(start, step), self.units[start : start + step], visits)

    def pairs(self, sizes: np.ndarray) -> int:
        """How many pairs they are compared in, with cells of such ``sizes``, integers (k,)."""
        return int(sizes[self.visits.cells].sum())


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def best_references(
    probes: Probes, references: ReferenceRows, coverage: Coverage, params: PairwiseParams, spark: SparkSession
) -> DataFrame:
    """``id``, ``max_id``, ``cosine_sim_score`` of each new row that has a reference row in its cells, or with exact
    coverage one as similar as that promises: the most similar one, of equally similar ones that of the first rank.
    Lazy."""
    refuse_other_ids(probes.ids.type, references)
    found = None
    for part in probes.parts(MOST_BYTES):
        task = ReferenceComparison(
            probes=part,
            order=references.order,
            device=TaskDevice.of_comparison(spark, params),
            at_least=coverage.at_least,
            batch_size=params.value("batchSize"),
            precision=params.value("precision"),
        )
        each = _compared(task, references.rows(part.cells))
        found = each if found is None else found.unionAll(each)
    return _empty(spark, references.id_type) if found is None else found


def refuse_other_ids(type_: pa.DataType, references: ReferenceRows) -> None:
    """Raises ``SemDedupError`` where new and reference ids are of two types, so that none could equal another."""
    theirs = to_arrow_schema(T.StructType().add("id", references.id_type)).field("id").type
    if type_ != theirs:
        raise SemDedupError(
            f"the ids are of type {type_}, but those of the reference rows of type "
            f"{shown_type(references.id_type)}: cast them alike"
        )


def _empty(spark: SparkSession, id_type: T.DataType) -> DataFrame:
    return spark.range(0).select(
        *(F.lit(None).cast(id_type).alias(name) for name in ("id", "max_id")),
        F.lit(None).cast("float").alias("cosine_sim_score"),
    )


def _compared(task: ReferenceComparison, rows: DataFrame) -> DataFrame:
    schema = T.StructType([T.StructField(name, rows.schema["id"].dataType) for name in ("id", "max_id")])
    schema.add("cosine_sim_score", T.FloatType())
    for name in task.keys:
        schema.add(f"max_{name}", rows.schema[name].dataType)

    def compare_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        prepare_worker()
        return task(batches, to_arrow_schema(schema))

    columns = ["id", "unit", "centroid", *task.keys]
    found = rows.select(columns).mapInArrow(compare_partition, schema, **task.device.stage_resources(rows.sparkSession))
    first = Window.partitionBy("id").orderBy(
        F.col("cosine_sim_score").desc(), *by_rank(task.order, "max_id", "max_key_")
    )
    best = found.withColumn("place", F.row_number().over(first)).where(F.col("place") == 1)
    return best.select("id", "max_id", "cosine_sim_score")


@dataclass
class ReferenceComparison:
    """Compares the reference rows of a partition with the new rows that visit their cells. Runs in the tasks."""

    probes: Probes
    order: RankOrder
    device: TaskDevice
    at_least: float
    batch_size: int
    precision: str
    _units: Array | None = field(default=None, repr=False)

    @property
    def keys(self) -> list[str]:
        return [f"key_{i}" for i in range(len(self.order.key_ascending))]

    def __call__(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """One entry for each new row that a reference row of the partition is compared with, and similar enough to."""
        best: pa.Table | None = None
        rows_of = dict(by_cell(self.probes.visits.cells, self.probes.visits.rows))
        is_visited = np.zeros(max(rows_of, default=0) + 1, bool)
        is_visited[list(rows_of)] = True
        for batch in batches:
            centroid = batch.column("centroid").to_numpy()
            here = np.flatnonzero((centroid < len(is_visited)) & is_visited[np.minimum(centroid, len(is_visited) - 1)])
            if len(here):
                entries = self._entries(batch.take(pa.array(here)), rows_of)
                best = entries if best is None else self._best(pa.concat_tables([best, entries]))
        if best is not None and len(best):
            ids = self.probes.ids.take(best["probe"].combine_chunks())
            table = best.drop_columns(["probe"]).add_column(0, "id", ids)
            yield from table.select(schema.names).cast(schema).to_batches()

    def _entries(self, batch: pa.RecordBatch, rows_of: dict[int, np.ndarray]) -> pa.Table:
        """The best of the batch for each new row: ``probe``, its number, and the columns of the answer but its id."""
        keys = [batch.column(key) for key in self.keys]
        order = rank_order(batch.column("id"), keys, self.order.key_ascending, self.order.id_ascending)
        batch = batch.take(pa.array(order))
        cells = list(by_cell(batch.column("centroid").to_numpy(), np.arange(len(order))))
        halved = Batch(self.batch_size, device_bytes)
        find = partial(self._find, cells=cells, rows_of=rows_of)
        probe, score, column = self.device.retry_on_oom(find, matrix_from_packed(batch.column("unit")), halved)
        named = batch.take(pa.array(column))
        table = pa.table({"probe": probe, "cosine_sim_score": score, "max_id": named.column("id")})
        for key in self.keys:
            table = table.append_column(f"max_{key}", named.column(key))
        return self._best(table)

    def _find(
        self, units: Array, *, cells: list[tuple[int, np.ndarray]], rows_of: dict[int, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of new rows, their scores, and which rows of ``units`` they have them with; rank order within cells
        is that of ``units``."""
        if self._units is None:
            self._units = to_device_of(units, self.probes.units)
        found = []
        for cell, there in cells:
            mine = rows_of[cell]
            scores, indices = max_similarity(
                self._units[to_device_of(units, mine)],
                units[to_device_of(units, there)],
                np.full(len(mine), len(there)),
                batch_size=self.batch_size,
                precision=precision_for(self.precision, self.device.backend),
                at_least=self.at_least,
            )
            scores, indices = to_numpy(scores), to_numpy(indices)
            is_found = indices >= 0
            found.append((mine[is_found], scores[is_found], there[indices[is_found]]))
        probe, score, column = (np.concatenate([part[i] for part in found]) for i in range(3))
        return probe, score, column

    def _best(self, entries: pa.Table) -> pa.Table:
        """Of each new row the entry of the highest score, of equal ones that of the reference row of the first rank."""
        probe, score = entries["probe"].to_numpy(), entries["cosine_sim_score"].to_numpy()
        if len(np.unique(probe)) == len(probe):
            return entries
        keys = [entries[f"max_{key}"] for key in self.keys]
        order = rank_order(entries["max_id"], keys, self.order.key_ascending, self.order.id_ascending)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        sorted_ = np.lexsort((place, -score, probe))
        first = np.ones(len(sorted_), bool)
        first[1:] = np.diff(probe[sorted_]) != 0
        return entries.take(pa.array(sorted_[first]))


def with_references(merged: DataFrame, found: DataFrame) -> DataFrame:
    """One entry for each row (``PartialMatches.merged``), by all rows it was compared with: ``found`` (of
    ``best_references``) counts where it is at least as similar, as reference rows precede new ones."""
    named = found.select(*(F.col(name).alias(f"reference_{name}") for name in found.columns))
    joined = merged.join(named, F.col("id") == F.col("reference_id"), "left")
    alone = F.col("max_id") == F.col("id")
    counts = F.col("reference_id").isNotNull() & F.col("reason").isNull()
    counts &= alone | (F.col("reference_cosine_sim_score") >= F.col("cosine_sim_score"))
    columns = {
        name: F.when(counts, F.col(f"reference_{name}")).otherwise(F.col(name)).alias(name)
        for name in ("max_id", "cosine_sim_score")
    }
    return joined.select([columns.get(name, F.col(name)) for name in merged.columns])
