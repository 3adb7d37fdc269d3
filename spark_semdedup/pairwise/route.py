"""Rows to tasks: where rows are assigned to cells, the tasks they take part in are computed beside.

``kernels.visits`` says which cells a row visits and why that is enough, ``regions`` which tasks a row is therefore
sent to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.clustering.assign import Assigned, ReadyCells, assigned_at_once
from spark_semdedup.clustering.centroids import Centroids
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.kernels.assignment import Cells, VisitRule, Visits
from spark_semdedup.kernels.oom import released_at_end
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.packing import Plan
from spark_semdedup.pairwise.regions import RegionPlan, TaskAssignments
from spark_semdedup.pairwise.schema import NO_TILE, TASK_COLUMNS, cells_column
from spark_semdedup.spark.arrow import local_frame
from spark_semdedup.spark.device import TaskDevice
from spark_semdedup.spark.vectors import Decoder, packed, packed_type
from spark_semdedup.spark.worker import prepare_worker

Locate: TypeAlias = Callable[[pa.RecordBatch], Assigned]
"""Normalises the embeddings of a batch, and finds the cells that its rows belong to and visit. Runs in the tasks."""

HASHES = 2**31
"""``tile_hash`` is below it."""

_TILE_SEED = 1_000_033
"""Of the hash that says which tile a row belongs to; not one a user would take for the fit sample's."""


def tile_hash(id_: Column) -> Column:
    """What a row's tile is drawn from: were it drawn at random, a task that runs again after a failure could move rows,
    and pairs would be lost."""
    return F.pmod(F.xxhash64(id_, F.lit(_TILE_SEED)), F.lit(HASHES))


@dataclass(frozen=True)
class Located:
    """Rows whose cells are yet to be found. ``source``: ``id``, ``embedding``, ``hash`` (``tile_hash``) and what else
    ``locate`` reads."""

    source: DataFrame
    locate: Locate


@dataclass(frozen=True)
class KeptVisits:
    """The visits that may matter (``screen``). ``keys``: ascending int64, the hash of a row's id times ``k`` plus the
    cell."""

    keys: np.ndarray
    k: int

    def of(self, own: np.ndarray, hashes: np.ndarray) -> Visits:
        """Those of rows with these own cells and hashes, int (n,). Rows whose hashes are equal make each other's, too;
        negative cells visit nothing."""
        start = np.searchsorted(self.keys, hashes * self.k)
        counts = np.where(own < 0, 0, np.searchsorted(self.keys, (hashes + 1) * self.k) - start)
        rows = np.repeat(np.arange(len(own)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        cells = (self.keys[start[rows] + within] % self.k).astype(np.int32)
        return Visits(rows, cells).where(cells != own[rows])


def task_columns(rows: int, places: TaskAssignments) -> list[pa.Array]:
    """The tasks that each of ``rows`` rows goes to: the columns ``TASK_COLUMNS``."""
    counts = np.bincount(places.rows, minlength=rows)
    return [packed(numbers, counts, lists=True) for numbers in (places.task, places.tile, places.other)]


@dataclass(frozen=True)
class TaskRouter:
    """Makes the columns that send assigned rows to their tasks: ``cells`` and, with a plan, ``TASK_COLUMNS``."""

    coverage: Coverage
    plan: RegionPlan | None = None
    lists: bool = False
    """Whether vectors and cells travel as lists (``vectors.packed``)."""
    kept: KeptVisits | None = None
    """The visits to make, where they are known."""

    def rule(self, cells: Cells) -> VisitRule | None:
        """Which cells rows visit, where this is to be found."""
        return None if self.kept is not None else self.coverage.rule(cells)

    @property
    def fields(self) -> list[T.StructField]:
        cells = T.StructField("cells", packed_type(T.IntegerType(), lists=self.lists))
        return [cells, *(TASK_COLUMNS.fields if self.plan else [])]

    def columns(self, own: np.ndarray, visits: Visits, hashes: Any) -> list[pa.Array]:
        """For a batch of rows: their own cells, int (n,), negative where a row has none; the cells they visit; and
        ``tile_hash``, an Arrow array."""
        if self.kept is not None:
            visits = self.kept.of(own, hashes.to_numpy())
        found = [cells_column(len(own), visits, lists=self.lists)]
        if self.plan is not None:
            valid = np.flatnonzero(own >= 0)
            place = np.cumsum(own >= 0) - 1
            there = Visits(place[visits.rows], visits.cells)
            places = self.plan.places(own[valid], there, hashes.to_numpy()[valid])
            found += task_columns(len(own), _with_invalid(places, valid, own))
        return found


def _with_invalid(places: TaskAssignments, valid: np.ndarray, own: np.ndarray) -> TaskAssignments:
    """Rows of no cell go where their negative number says: no task has such a key, and they spread."""
    if len(valid) == len(own):
        return places
    invalid = np.flatnonzero(own < 0)
    return TaskAssignments.joined(
        [
            (valid[places.rows], places.task, places.tile, places.other),
            (invalid, own[invalid].astype(np.int64), NO_TILE, NO_TILE),
        ]
    )


@dataclass(frozen=True)
class DocumentRouter:
    """Makes unit vectors and cells of documents, and the columns of ``router``, in tasks.

    ``source``: what is carried along, ``id`` and rank keys for example; ``embedding``; ``hash``, the ``tile_hash``; and
    what else ``locate`` reads. The answer: the carried columns; ``key_0``, the ``distance`` to the centroid, where rows
    are ranked by one; ``unit`` (binary or, with ``lists``, a list); ``centroid``; ``reason``; the router's columns.
    Invalid rows have a reason and a negative centroid, many different ones, so that they spread.
    """

    source: DataFrame
    locate: Locate
    router: TaskRouter | None = None
    distance: str | None = None
    lists: bool = False

    @property
    def carried(self) -> list[str]:
        return [name for name in self.source.columns if name not in ("embedding", "centroid", "hash")]

    @cached_property
    def schema(self) -> T.StructType:
        """Of the answer."""
        schema = T.StructType([self.source.schema[name] for name in self.carried])
        if self.distance:
            schema.add("key_0", T.FloatType())
        schema.add("unit", packed_type(T.FloatType(), lists=self.lists))
        schema.add("centroid", T.IntegerType()).add("reason", T.StringType())
        for column in self.router.fields if self.router else ():
            schema.add(column)
        return schema

    def in_task(self) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
        """What a task does: it needs no DataFrame."""
        carried, names = self.carried, self.schema.names
        locate, router, distance, lists = self.locate, self.router, self.distance, self.lists

        def routed(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            prepare_worker()
            with released_at_end():
                for batch in batches:
                    if batch.num_rows:
                        found = locate(batch), batch.column("hash")
                        columns = [batch.column(name) for name in carried]
                        columns += _routed_columns(*found, router, distance=distance, lists=lists)
                        yield pa.RecordBatch.from_arrays(columns, names=names)

        return routed

    def routed(self) -> DataFrame:
        """All rows: one crossing from the JVM to Python and back."""
        return self.source.mapInArrow(self.in_task(), self.schema)


def by_cluster(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Routed rows with the columns of tasks, where each cluster is one, and no cluster has tiles."""
    none = pa.array(np.zeros(batch.num_rows, np.int32))
    task = batch.column("centroid").cast(pa.int64())
    return pa.RecordBatch.from_arrays(
        [*batch.columns, none, none, task], [*batch.schema.names, "tile", "other", "task"]
    )


def _routed_columns(
    assigned: Assigned, hashes: pa.Array, router: TaskRouter | None, *, distance: str | None, lists: bool
) -> list[pa.Array]:
    """The columns that ``DocumentRouter`` appends to the carried ones, of one batch."""
    scattered = (-1 - hashes.to_numpy() % 1000).astype(np.int32)
    own = np.where(assigned.valid, assigned.spread_numpy(assigned.centroid), scattered).astype(np.int32)
    columns = [assigned.spread(getattr(assigned, distance), np.float32(0))] if distance else []
    columns += [assigned.spread_units(lists=lists), pa.array(own), pa.array(assigned.reasons, pa.string())]
    return columns + (router.columns(own, assigned.spread_visits(), hashes) if router else [])


def cells_given(decode: Decoder, cells: ReadyCells, device: TaskDevice) -> Locate:
    """Locates rows that were assigned before, by us or by others: column ``centroid`` says their own cells."""

    def locate(batch: pa.RecordBatch) -> Assigned:
        units = decode(batch.column("embedding"), batch.column("id"))
        own = batch.column("centroid").to_numpy()
        _refuse_foreign(units, own, batch.column("id"), cells.centroids)
        visits = device.retry_on_oom(partial(cells.visits, own), units, assigned_at_once(len(units)))
        return Assigned(np.ones(len(own), bool), np.full(len(own), None, object), units, own, visits)

    return locate


def _refuse_foreign(units: np.ndarray, own: np.ndarray, ids: pa.Array, centroids: Centroids) -> None:
    """Rows that cannot belong to these centroids are an error, not a miss."""
    k, dim = centroids.k, centroids.dim
    if units.shape[1] != dim:
        raise SemDedupError(f"embeddings have length {units.shape[1]}, but the centroids have {dim}: give their own")
    wrong = np.flatnonzero((own < 0) | (own >= k))
    if len(wrong):
        raise SemDedupError(
            f"column 'centroid', row with id {shown(ids[int(wrong[0])].as_py())}: it is {own[wrong[0]]}, but there are "
            f"{k} centroids, numbered from 0: give the centroids that the rows were assigned to"
        )


def explode_by_task(rows: DataFrame) -> DataFrame:
    """Each row once for every task it takes part in, with ``task``, ``tile`` and ``other``."""
    kept = [name for name in rows.columns if name not in TASK_COLUMNS.names]
    exploded = rows.select(*kept, "tiles", "others", F.posexplode("tasks").alias("place", "task"))
    place = F.col("place") + 1
    return exploded.select(
        *kept, "task", F.element_at("tiles", place).alias("tile"), F.element_at("others", place).alias("other")
    )


def explode_by_tile(rows: DataFrame, centroids: np.ndarray, plan: Plan) -> DataFrame:
    """Each row once for every task it takes part in: ``rows`` and ``tile``, its own, ``other``, the one that the task
    compares it with (its own too, in one of them), and ``task``, the key.

    Done in the JVM by a join with the plan, a table of one row per cluster. The tile is a hash of the id.
    """
    # The keys of all tiles of a cluster in one list, as many for each: joins of lists of lists stay on the CPU.
    keys = ([key for of_tile in by_tile for key in of_tile] for by_tile in plan.keys_by_tile())
    table = pa.table(
        {
            "plan_centroid": pa.array(centroids, pa.int64()),
            "tiles": pa.array(plan.tiles, pa.int32()),
            "keys": pa.array(keys, pa.list_(pa.int64())),
        }
    )
    lookup = local_frame(rows.sparkSession, table)
    joined = rows.join(F.broadcast(lookup), F.col("centroid") == F.col("plan_centroid"), "left")
    # A cluster missing in the estimate is small, and rows of no cluster (negative) are not compared: their key is their
    # number, but where the plan has such keys, one far below zero.
    last = int(plan.keys.max(initial=-1))
    number = F.col("centroid").cast("bigint")
    own = F.when(number.between(0, last), number + F.lit(-(2**63))).otherwise(number)
    hashed = F.pmod(tile_hash(F.col("id")), F.coalesce("tiles", F.lit(1)))
    tile = F.when(F.coalesce("tiles", F.lit(1)) == 1, F.lit(0)).otherwise(hashed).cast("int")
    of_tile = F.slice("keys", F.col("tile") * F.col("tiles") + 1, F.col("tiles"))
    tasks = F.coalesce(of_tile, F.array(own))
    return joined.withColumn("tile", tile).select(*rows.columns, "tile", F.posexplode(tasks).alias("other", "task"))
