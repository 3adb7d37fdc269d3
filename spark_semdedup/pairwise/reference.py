"""New rows compared with *reference rows*, which all precede them: those of an index, or a table to keep apart from.

Reference rows stay in the cells of their nearest centroids. New rows visit their own cell and those that the coverage
names (``kernels.visits``, (2)). ``reference_plan`` says how the two meet; here is what a task does with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.kernels.arrays import Array, to_device_of, to_numpy
from spark_semdedup.kernels.assignment import Visits
from spark_semdedup.kernels.cells import by_cell
from spark_semdedup.kernels.similarity import max_similarity
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.packing import device_bytes
from spark_semdedup.pairwise.ranking import RankDirections, Ranking, rank_order
from spark_semdedup.pairwise.rows import UnassignedRows
from spark_semdedup.pairwise.schema import visits_from
from spark_semdedup.pairwise.task import precision_for
from spark_semdedup.params import PairwiseParams
from spark_semdedup.spark.device import Batch, TaskDevice
from spark_semdedup.spark.vectors import matrix_from_packed, ordered_matrix


@dataclass(frozen=True)
class RankOrder:
    """``RankDirections`` of reference rows."""

    key_ascending: Sequence[bool]
    id_ascending: bool


class ReferenceRows(Protocol):
    """Rows that precede all new ones, each labelled with the nearest of the centroids that new rows are assigned to."""

    @property
    def id_type(self) -> T.DataType: ...

    @property
    def order(self) -> RankDirections: ...

    @property
    def margins(self) -> np.ndarray | None:
        """Of their cells (``kernels.visits``): float32 (k, k); None where they are not known."""

    def rows(self, cells: np.ndarray) -> DataFrame:
        """Those of the cells: ``id``, ``unit`` (``vectors.packed_rows``), ``centroid``, rank keys ``key_0`` …, which
        are never null."""


@dataclass(frozen=True)
class TableReferences:
    """A table of documents to keep apart from, assigned as it is read; ties go to the lowest id."""

    assigned: UnassignedRows
    order = RankOrder((), True)
    margins = None

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
    def of(cls, rows: pa.Table, is_here: Callable[[np.ndarray], np.ndarray] | None = None) -> Probes:
        """Of a table with ``id``, ``unit`` and ``visited``, a list of cells; of these only those that are here, bool
        for each of an array of cells."""
        if not len(rows):
            return cls(_whole(rows["id"]), np.empty((0, 0), np.float32), Visits.none())
        visits = visits_from(_whole(rows["visited"]))
        units = ordered_matrix(rows["unit"], np.arange(len(rows)))
        return cls(_whole(rows["id"]), units, visits if is_here is None else visits.where(is_here(visits.cells)))

    @property
    def cells(self) -> np.ndarray:
        """The cells that some row visits, ascending."""
        return np.unique(self.visits.cells)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


@dataclass(frozen=True)
class ReferenceComparison:
    """How tasks compare reference rows with new ones."""

    order: RankDirections
    device: TaskDevice
    at_least: float
    batch_size: int
    precision: str

    @classmethod
    def of(
        cls, references: ReferenceRows, coverage: Coverage, params: PairwiseParams, spark: SparkSession
    ) -> ReferenceComparison:
        device = TaskDevice.of_comparison(spark, params)
        precision = precision_for(params.value("precision"), device.backend)
        return cls(references.order, device, coverage.at_least, params.value("batchSize"), precision)

    @property
    def keys(self) -> list[str]:
        return [f"key_{i}" for i in range(len(self.order.key_ascending))]

    def schema(self, rows: T.StructType) -> T.StructType:
        """Of the answer, from that of reference rows: the rank keys are those of ``max_id``."""
        schema = T.StructType([T.StructField(name, rows["id"].dataType) for name in ("id", "max_id")])
        schema.add("cosine_sim_score", T.FloatType())
        for key in self.keys:
            schema.add(f"max_{key}", rows[key].dataType)
        return schema


class Meeting:
    """New rows, on the device of the task, and the best reference row of each so far."""

    def __init__(self, how: ReferenceComparison, probes: Probes) -> None:
        self._how, self._probes = how, probes
        self._rows_of = dict(by_cell(probes.visits.cells, probes.visits.rows))
        self._is_visited = np.zeros(max(self._rows_of, default=0) + 1, bool)
        self._is_visited[list(self._rows_of)] = True
        self._units: Array | None = None
        self.best: pa.Table | None = None

    def with_all(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The entries that all reference rows of ``batches`` give."""
        for batch in batches:
            self.take_in(batch)
        return self.entries(schema)

    def entries(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """One for each new row that some of the reference rows were compared with, and similar enough to."""
        if self.best is not None:
            ids = self._probes.ids.take(self.best["probe"].combine_chunks())
            table = self.best.drop_columns(["probe"]).add_column(0, "id", ids)
            yield from table.select(schema.names).cast(schema).to_batches()

    def take_in(self, batch: pa.RecordBatch) -> None:
        """Compares the rows of a batch whose cells are visited."""
        centroid = batch.column("centroid").to_numpy()
        last = len(self._is_visited) - 1
        here = np.flatnonzero((centroid <= last) & self._is_visited[np.minimum(centroid, last)])
        if len(here):
            entries = self._entries(batch.take(pa.array(here)))
            self.best = self._best(entries if self.best is None else pa.concat_tables([self.best, entries]))

    def _entries(self, batch: pa.RecordBatch) -> pa.Table:
        """What the rows of a batch give: ``probe``, the number of a new row, and the columns of the answer but its
        id."""
        how = self._how
        keys = [batch.column(key) for key in how.keys]
        order = rank_order(batch.column("id"), keys, how.order.key_ascending, how.order.id_ascending)
        batch = batch.take(pa.array(order))
        cells = list(by_cell(batch.column("centroid").to_numpy(), np.arange(len(order))))
        units, halved = matrix_from_packed(batch.column("unit")), Batch(how.batch_size, device_bytes)
        probe, score, column = how.device.retry_on_oom(partial(self._find, cells=cells), units, halved)
        named = batch.take(pa.array(column))
        table = pa.table({"probe": probe, "cosine_sim_score": score, "max_id": named.column("id")})
        for key in how.keys:
            table = table.append_column(f"max_{key}", named.column(key))
        return table

    def _find(self, units: Array, *, cells: list[tuple[int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of new rows, their scores, and which of ``units``, which are in rank order, they have them with."""
        if self._units is None:
            self._units = to_device_of(units, self._probes.units)
        found = []
        for cell, there in cells:
            mine = self._rows_of[cell]
            scores, indices = max_similarity(
                self._units[to_device_of(units, mine)],
                units[to_device_of(units, there)],
                np.full(len(mine), len(there)),
                batch_size=self._how.batch_size,
                precision=self._how.precision,
                at_least=self._how.at_least,
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
        order_of = self._how.order
        keys = [entries[f"max_{key}"] for key in self._how.keys]
        order = rank_order(entries["max_id"], keys, order_of.key_ascending, order_of.id_ascending)
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
