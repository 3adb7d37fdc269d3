"""Visits screened before vectors travel: rows send codes of their vectors to the cells they visit.

With exact coverage a row visits every cell that *may* hold a similar row; hardly any does. A vector is 4·d bytes, its
code (``kernels.codes``) d/4 or so, and proves of most visits that they are in vain. So codes are sent to the tasks of
a region plan first, with a hash of the id and the cells, and compared there with those of home rows. What is left are a
few *kept visits*. Vectors then make these alone, by a plan of their own, and are compared as ever: the answer is the
same, as no visit is dropped in which a pair counts. Kept visits are known by hashes; where two rows share one, they
visit a cell too many, which changes nothing.

The rows are read and assigned twice. So it pays where visits are many: ``Screening.of`` compares the bytes of both.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import types as T

from spark_semdedup.formatting import short_bytes
from spark_semdedup.kernels.arrays import Array, to_device_of
from spark_semdedup.kernels.assignment import Visits
from spark_semdedup.kernels.cells import by_cell
from spark_semdedup.kernels.codes import Encoder, bytes_of, decoded, may_be_similar
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.estimate import VisitSample
from spark_semdedup.pairwise.packing import device_bytes, worker_bytes
from spark_semdedup.pairwise.regions import RegionPlan, TaskAssignments, plan_regions
from spark_semdedup.pairwise.route import HASHES, KeptVisits, Locate, Located
from spark_semdedup.pairwise.schema import FIRST_PROBING_TILE
from spark_semdedup.pairwise.task import groups, runs
from spark_semdedup.pairwise.workload import ROW_BYTES, WorkEstimate
from spark_semdedup.spark.arrow import collect_arrow
from spark_semdedup.spark.device import Batch, TaskDevice
from spark_semdedup.spark.vectors import packed, packed_type, unpacked
from spark_semdedup.spark.worker import prepare_worker

log = logging.getLogger("spark_semdedup")

_ROW_BYTES = 12
"""What a code takes in a shuffle beside itself and its cells: the hash, the own cell, the number of cells."""

_TASK_ROW_BYTES = 800
"""Memory that a row's code, as it came and as it is multiplied, its cells and their places take in a task, about."""

_LEAST_GAIN = 2.0
"""How many times fewer bytes make up for assigning the rows twice (at 2.3 times fewer it saved 5 % of the CPU time)."""

_LEAST_BYTES = 1 << 26
"""Bytes below which a job more takes longer than it saves."""

_MOST_ROWS = 1 << 26
"""Rows up to which the visits that are kept are mostly few enough."""

_MOST_KEPT = 1 << 24
"""Visits that are kept, at most: the driver collects them, 20 bytes each, and every task has them, 8 bytes each."""


def most_codes(max_rows: int, dim: int) -> int:
    """Codes that take the memory of ``max_rows`` vectors in a task."""
    return max_rows * max(1, (worker_bytes(1, dim) - worker_bytes(0, dim)) // _TASK_ROW_BYTES)


def code_bytes(rows: float, dim: int, sent: float, visits: float) -> float:
    """Bytes that a screening shuffles whose tasks are sent ``rows`` codes ``sent`` times, with ``visits`` in all."""
    return rows * sent * (bytes_of(dim) + _ROW_BYTES) + 4 * visits


def pays(coverage: Coverage, rows: float, dim: int, direct: float, codes: float = 0.0) -> bool:
    """Whether ``codes`` bytes and vectors that make hardly any visit are so much less than ``direct`` bytes, of vectors
    that make all visits."""
    screened = codes + rows * (4 * dim + ROW_BYTES)
    return coverage.is_exact and rows <= _MOST_ROWS and direct >= max(_LEAST_BYTES, _LEAST_GAIN * screened)


@dataclass(frozen=True)
class Screened:
    """What a screening found: the visits ``kept``, the cell that the row of each is at home in, int (m,), and how many
    pairs of codes were compared."""

    kept: KeptVisits
    own: np.ndarray
    pairs: int

    def sample(self, before: VisitSample) -> VisitSample:
        """A sample of visits as they are now: the home rows of the sample ``before``, of which some still visit."""
        k = self.kept.k
        hashes, cells = np.divmod(self.kept.keys, k)
        some = hashes < HASHES / before.scale
        _, first, rows = np.unique(hashes[some], return_index=True, return_inverse=True)
        own = self.own[some][first]
        rest = np.maximum(np.bincount(before.own, minlength=k) - np.bincount(own, minlength=k), 0)
        every = np.concatenate([own, np.repeat(np.arange(k), rest)])
        return VisitSample(every, Visits(rows, cells[some].astype(np.int32)), before.scale)


@dataclass(frozen=True)
class Screening:
    """A screening that pays, planned. ``bytes``: what it shuffles, estimated; ``in_all``: with the vectors after it."""

    plan: RegionPlan
    encoder: Encoder
    at_least: float
    bytes: float
    in_all: float

    @classmethod
    def of(
        cls, coverage: Coverage, sample: VisitSample, centroids: np.ndarray, direct: float, max_rows: int, slots: int
    ) -> Screening | None:
        """None where it does not pay. ``direct``: bytes that vectors take which make all visits. ``max_rows``: of
        vectors in one of a task's two tiles."""
        rows, dim = len(sample.own) * sample.scale, centroids.shape[1]
        if not pays(coverage, rows, dim, direct):
            return None
        plan = plan_regions(sample, centroids, max_rows=most_codes(max_rows, dim), slots=slots, sketched=True)
        codes = code_bytes(rows, dim, plan.rows_sent / rows, len(sample.visits.rows) * sample.scale)
        if not pays(coverage, rows, dim, direct, codes):
            return None
        return cls(plan, Encoder.of(centroids), coverage.at_least, codes, codes + rows * (4 * dim + ROW_BYTES))

    def in_words(self, workload: WorkEstimate) -> str:
        """One line, beside the ``workload`` of vectors that make all visits."""
        return (
            f"visits are screened by codes of {bytes_of(workload.dim)} bytes: {short_bytes(self.bytes)} to shuffle, "
            f"where vectors would take {short_bytes(workload.shuffle_bytes)}"
        )

    def run(self, located: Located, device: TaskDevice, batch_size: int, *, lists: bool) -> Screened | None:
        """Sends the codes and compares them: one job. None where more visits are kept than can be held, as where many
        clusters hold copies of a text. ``lists``: whether codes and cells travel as lists."""
        sender = CodeSender(located.locate, self.plan, self.encoder, lists)
        rows = located.source.mapInArrow(sender, sender.schema).repartition(self.plan.partitions, "task")
        ready = rows if self.plan.one_each else rows.sortWithinPartitions("task")
        comparison = CodeComparison(self.plan, self.at_least, device, batch_size)
        found = collect_arrow(ready.mapInArrow(comparison, comparison.schema).limit(_MOST_KEPT + 1))
        if len(found) > _MOST_KEPT:
            log.warning("screening keeps more than %s visits; vectors make all visits", f"{_MOST_KEPT:,}")
            return None
        visits, own, pairs = (found[name].to_numpy() for name in ("visit", "centroid", "pairs"))
        keys, first = np.unique(visits[visits >= 0], return_index=True)
        return Screened(KeptVisits(keys, len(self.plan.region)), own[visits >= 0][first], int(pairs.sum()))


@dataclass(frozen=True)
class CodeSender:
    """Makes of a batch of rows one record for each task: of the rows that take part in it the hashes, own cells,
    numbers of cells visited there, these cells, and codes. So Spark moves a few long records. Runs in tasks."""

    locate: Locate
    plan: RegionPlan
    encoder: Encoder
    lists: bool

    @property
    def schema(self) -> T.StructType:
        schema = T.StructType().add("task", T.LongType())
        for name in ("hash", "centroid", "visits", "cells"):
            schema.add(name, packed_type(T.IntegerType(), lists=self.lists))
        return schema.add("code", packed_type(T.ByteType(), lists=self.lists))

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        prepare_worker()
        for batch in batches:
            if batch.num_rows:
                yield self._coded(batch)

    def _coded(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        found = self.locate(batch)
        own, hashes = found.centroid.astype(np.int32), batch.column("hash").to_numpy()[found.valid].astype(np.int32)
        places = self.plan.places(own, found.visits, hashes)
        # Home rows of two tiles have met no probing row: their pairs are compared as vectors alone.
        places = places.where((places.tile < 0) | (np.maximum(places.tile, places.other) >= FIRST_PROBING_TILE))
        places = places.where(np.argsort(places.task, kind="stable"))
        there = self._visits_there(places, found.visits)
        visits = np.bincount(there.rows, minlength=len(places.rows)).astype(np.int32)
        tasks, first, rows = np.unique(places.task, return_index=True, return_counts=True)
        codes, cells = self.encoder.encode(found.units)[places.rows], np.add.reduceat(visits, first, dtype=np.int64)
        columns = [
            pa.array(tasks),
            packed(hashes[places.rows], rows, lists=self.lists),
            packed(own[places.rows], rows, lists=self.lists),
            packed(visits, rows, lists=self.lists),
            packed(there.cells, cells, lists=self.lists),
            packed(codes.ravel(), rows * codes.shape[1], lists=self.lists),
        ]
        return pa.RecordBatch.from_arrays(columns, names=self.schema.names)

    def _visits_there(self, places: TaskAssignments, visits: Visits) -> Visits:
        """The visits of each place's row to cells of the place's region, by the numbers of the places."""
        regions = int(self.plan.region.max()) + 1
        groups = visits.rows * regions + self.plan.region[visits.cells]
        order = np.argsort(groups, kind="stable")
        wanted = places.rows * regions + self.plan.regions_of(places.task)
        start, stop = (np.searchsorted(groups[order], wanted, side=side) for side in ("left", "right"))
        counts = stop - start
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return Visits(np.repeat(np.arange(len(wanted)), counts), visits.cells[order[np.repeat(start, counts) + within]])


@dataclass(frozen=True)
class CodeComparison:
    """Compares the codes of tasks: ``visit``, the key of a visit that is kept, and ``centroid``, where its row is at
    home; and, once for each task, a visit of −1 with the number of ``pairs`` compared. Runs in tasks."""

    plan: RegionPlan
    at_least: float
    device: TaskDevice
    batch_size: int

    schema = T.StructType().add("visit", T.LongType()).add("centroid", T.IntegerType()).add("pairs", T.LongType())

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        prepare_worker()
        for group in (groups if self.plan.one_each else runs)(batches, "task"):
            yield self._answer(group)

    def _answer(self, group: pa.Table) -> pa.RecordBatch:
        hashes, own, visits, cells = (joined(group[name], np.int32) for name in ("hash", "centroid", "visits", "cells"))
        task = int(group["task"][0].as_py())
        home = np.where(self.plan.cells_of(task)[own], own, -1)
        made = Visits(np.repeat(np.arange(len(own)), visits), cells)
        if self.plan.only_probing(task):
            made = made.where(home[made.rows] < 0)
        values = decoded(joined(group["code"], np.int8).reshape(len(own), -1))
        batch = Batch(self.batch_size, device_bytes)
        kept, pairs = self.device.retry_on_oom(partial(self._kept, home, made), values, batch)
        columns = (
            np.append(hashes[kept.rows].astype(np.int64) * len(self.plan.region) + kept.cells, -1),
            np.append(own[kept.rows], 0).astype(np.int32),
            np.append(np.zeros(len(kept.rows), np.int64), pairs),
        )
        return pa.RecordBatch.from_arrays([*map(pa.array, columns)], names=self.schema.names)

    def _kept(self, home: np.ndarray, visits: Visits, values: Array) -> tuple[Visits, int]:
        """The visits to rows that may be similar, and how many pairs were compared."""
        home_rows, pairs = dict(by_cell(home, np.arange(len(home)))), 0
        parts = [Visits.none()]
        for cell, rows in by_cell(visits.cells, visits.rows):
            if cell not in home_rows:
                continue
            pairs += len(rows) * len(home_rows[cell])
            mine, theirs = (values[to_device_of(values, each)] for each in (rows, home_rows[cell]))
            near = rows[may_be_similar(mine, theirs, self.at_least)]
            parts.append(Visits(near, np.full(len(near), cell, np.int32)))
        return Visits.joined(parts, [0] * len(parts)), pairs


def joined(column: pa.ChunkedArray, dtype: type) -> np.ndarray:
    """The numbers of all values that ``packed`` made."""
    return np.concatenate([unpacked(chunk, dtype)[0] for chunk in column.chunks])
