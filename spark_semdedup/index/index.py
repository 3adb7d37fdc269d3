"""``SemDedupIndex``: kept rows on disk, which later batches are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.clustering.centroids import Centroids
from spark_semdedup.errors import SemDedupError
from spark_semdedup.index import changes, commit
from spark_semdedup.index.files import files_meeting, in_cells
from spark_semdedup.index.info import IndexInfo
from spark_semdedup.index.rows import require_schema, stored_schema
from spark_semdedup.index.storage import Storage
from spark_semdedup.index.version import ALL, KEPT, Batch, Version, now
from spark_semdedup.index.versions import Versions
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.spark.columns import shown_type
from spark_semdedup.spark.files import Files
from spark_semdedup.spark.held import held
from spark_semdedup.spark.ids import FEW, Ids

RETAIN_HOURS = 24.0
"""For which replaced versions can still be read, unless told otherwise."""


class IndexFacts:
    """What a version says of itself; reads nothing."""

    _storage: Storage
    state: Version

    @property
    def path(self) -> str:
        return self._storage.versions.path

    @property
    def version(self) -> int:
        return self.state.version

    @property
    def dim(self) -> int:
        return self.state.dim

    @property
    def k(self) -> int:
        return self.state.k

    @property
    def settings(self) -> Mapping[str, Any]:
        """The Params in effect when it was created."""
        return self.state.settings

    @property
    def ranking(self) -> Ranking:
        """The order that ``key_0`` … stand for."""
        return self.state.ranking

    @property
    def id_type(self) -> T.DataType:
        return self.state.id_type

    @property
    def holds_removed(self) -> bool:
        """Whether rows that were removed are in it too."""
        return self.state.holds == ALL

    @property
    def rows_in(self) -> int:
        """Number of rows."""
        return self.state.rows

    @property
    def cells(self) -> np.ndarray:
        """Rows of each centroid, int64 (k,)."""
        return self.state.cells

    @property
    def batches(self) -> tuple[Batch, ...]:
        return self.state.batches

    def batch_of(self, run: str) -> Batch | None:
        """The batch that a run of that name has added."""
        return self.state.batch_of(run)

    @property
    def next_batch(self) -> int:
        """The number that the next batch gets."""
        return self.state.next_batch


class SemDedupIndex(IndexFacts):
    """One version of an index: rows by centroid, with what they were assigned and ranked by.

    Immutable: a change gives the next version, as another ``SemDedupIndex``. A reader of an older version is not
    disturbed; its files stay until ``compact`` or ``remove`` deletes what nobody has read for ``retain_hours``.
    """

    def __init__(self, storage: Storage, state: Version) -> None:
        self._storage, self.state = storage, state

    def __repr__(self) -> str:
        return f"SemDedupIndex({self.path!r}, version={self.version}, rows={self.rows_in}, k={self.k}, dim={self.dim})"

    @classmethod
    def open(cls, spark: SparkSession, path: str, version: int | None = None) -> SemDedupIndex:
        """The newest version of the index at ``path``, or the one of that number.

        Raises ``SemDedupError`` for a folder that is no index, a version that it lacks, or a newer format.
        """
        storage = Storage(spark, Versions(Files(spark), path))
        return cls(storage, storage.versions.open(version))

    @classmethod
    def create(
        cls,
        spark: SparkSession,
        path: str,
        centroids: Centroids,
        *,
        schema: T.StructType,
        ranking: Ranking,
        settings: Mapping[str, Any],
        holds: str = KEPT,
        run: str | None = None,
        overwrite: bool = False,
    ) -> SemDedupIndex:
        """Writes a new index without rows: its centroids, and version 0.

        ``schema``: of the rows to come (``index_rows``). ``settings``: Params in effect, as JSON holds them. ``holds``:
        ``kept`` or ``all``. ``run``: digest of the run that creates it; of a run that has created it already, the index
        as it is now. Raises ``ResultExistsError`` for an index, without ``overwrite``, and for a folder of other files.
        """
        if holds not in (KEPT, ALL):
            raise SemDedupError(f"holds={holds!r} cannot be used: it must be {KEPT} or {ALL}")
        storage = Storage(spark, Versions(Files(spark), path))

        about = {"holds": holds, "ranking": ranking, "settings": dict(settings), "run": run}
        make = partial(_first_version, storage, centroids, stored_schema(schema), about)
        return cls(storage, commit.create(storage.versions, make, run=run, overwrite=overwrite))

    @cached_property
    def centroids(self) -> Centroids:
        """Read once, in a small job."""
        return self._storage.centroids(self.state)

    @cached_property
    def margins(self) -> np.ndarray | None:
        """Of its cells, float32 (k, k): how far, at most, their rows lie towards each centroid (``kernels.visits``)."""
        return self._storage.margins(self.state)

    # --- its rows ---

    def rows(self, cells: np.ndarray | None = None, *, kept_only: bool = False) -> DataFrame:
        """``id``, ``unit``, ``centroid``, both distances, ``key_0`` …, ``batch`` and ``kept`` of the rows in ``cells``
        (None: all). Only files that may have such rows are read, and of them only the row groups."""
        if cells is None:
            rows = self._storage.rows(self.state)
        else:
            cells = np.unique(np.asarray(cells, np.int64))
            files = files_meeting(self.state.files, cells)
            rows = self._storage.rows(self.state, files).where(in_cells(cells) if files else F.lit(True))
        return rows.where(F.col("kept")) if kept_only and self.holds_removed else rows

    def contains(self, ids: DataFrame, *, count: int | None = None) -> DataFrame:
        """``id`` of the rows whose id is in the first column of ``ids``. Reads ids alone.

        ``count``: how many there are, if known; few are sent to every task, others are shuffled.
        """
        self.require_id_type(ids)
        sought = ids.toDF("id")
        few = count is not None and count <= FEW
        return self.rows().select("id").join(F.broadcast(sought) if few else sought, "id", "left_semi")

    def require_id_type(self, ids: DataFrame) -> None:
        """Raises ``SemDedupError`` where the first column of ``ids`` is of another type than the ids of the index."""
        given = ids.schema[0].dataType
        if given != self.id_type:
            raise SemDedupError(
                f"{self._place} has ids of type {shown_type(self.id_type)}, but those given are "
                f"{shown_type(given)}: cast them"
            )

    # --- changes ---

    def append(
        self, rows: DataFrame, ids: Ids | None = None, *, run: str | None = None, facts: Mapping[str, Any] | None = None
    ) -> SemDedupIndex:
        """Adds a batch: what ``index_rows`` gives, and ``kept``. Returns the index with it.

        Of an index of kept rows, only these are added. ``ids``: of the rows that will be added; None: they are counted,
        which computes ``rows`` once more. ``run``: digest of the run; one whose batch is in the index is done already.
        ``facts``: noted with the batch. Raises ``AccountingError`` where the rows that were written are not those of
        ``ids``, and ``FolderInUseError`` where another process writes to the index.
        """
        schema = self.state.schema
        require_schema(rows.schema, schema, self._place)
        stored = rows.where(F.col("kept")) if not self.holds_removed else rows
        stored = stored.withColumn("batch", F.lit(self.next_batch)).select(*schema.names)
        expected = self._storage.count(stored) if ids is None else ids
        new = changes.NewBatch(stored, expected, run, dict(facts or {}))
        return self._with(changes.append(self._storage, self.state, new))

    def compact(self, *, retain_hours: float = RETAIN_HOURS) -> SemDedupIndex:
        """Merges small files into few sorted ones; no new version where that would make none fewer.

        Versions that were replaced more than ``retain_hours`` ago are deleted, with the files that no other names.
        """
        return self._with(changes.compact(self._storage, self.state, retain_hours=retain_hours))

    def remove(self, ids: DataFrame, *, retain_hours: float = RETAIN_HOURS) -> tuple[SemDedupIndex, int]:
        """Removes rows by the ids in the first column of ``ids``. Returns the index without them, and how many of the
        distinct ids it did not have.

        Earlier versions keep the rows for ``retain_hours``; 0 deletes their files at once. Rows that were duplicates of
        a removed row do not come back by themselves: they are in no index of kept rows; run again to find them.
        """
        self.require_id_type(ids)
        distinct = ids.toDF("id").where(F.col("id").isNotNull()).distinct()
        given = held(distinct)
        count, before = given.count(), self.rows_in
        sought = F.broadcast(given) if count <= FEW else given
        after = self._with(changes.remove(self._storage, self.state, sought, retain_hours=retain_hours))
        return after, count - (before - after.rows_in)

    def refit(self, *, k: int | None = None, retain_hours: float = RETAIN_HOURS) -> SemDedupIndex:
        """Fits new centroids on the rows and assigns all rows to them.

        ``k``: how many (default: the square root of the number of rows). Unit vectors, rank keys and batches stay as
        they are. With exact coverage, later answers do not change.
        """
        return self._with(changes.refit(self._storage, self.state, k=k, retain_hours=retain_hours))

    def info(self) -> IndexInfo:
        """What is in it, and whether its centroids still fit. Reads no rows."""
        return IndexInfo.of(self.path, self.state)

    @property
    def _place(self) -> str:
        return self._storage.versions.place

    def _with(self, state: Version) -> SemDedupIndex:
        return SemDedupIndex(self._storage, state)


def _first_version(
    storage: Storage, centroids: Centroids, schema: T.StructType, about: Mapping[str, Any], folder: str
) -> Version:
    """Version 0, without rows; its centroids are written to ``folder``."""
    storage.save_centroids(centroids, folder)
    return Version(
        version=0,
        content=0,
        operation="create",
        at=now(),
        k=centroids.k,
        dim=centroids.dim,
        spherical=centroids.spherical,
        history=tuple(map(float, centroids.history)),
        centroids=folder,
        schema=schema,
        cells=np.zeros(centroids.k, np.int64),
        **about,
    )
