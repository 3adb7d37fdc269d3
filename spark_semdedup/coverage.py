"""Which pairs of rows are compared: the Params ``coverage`` and ``nProbe``, in Spark's terms and in words.

``kernels.coverage`` says which cells a row visits and why that is enough, ``regions`` which tasks a row is therefore
sent to. Here both are computed where rows are assigned to cells, in the tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.columns import packed, packed_rows, packed_type, unpacked
from spark_semdedup.devices import Batch, Placement, vector_bytes
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.ids import collect_arrow
from spark_semdedup.kernels.arrays import Array, beside
from spark_semdedup.kernels.assignment import Cells, VisitRule, Visits, visited_cells
from spark_semdedup.kernels.coverage import NearestCells, WithinReach
from spark_semdedup.kernels.sketch import pays
from spark_semdedup.regions import NO_TILE, Places, RegionPlan, VisitSample
from spark_semdedup.sampling import in_lowest
from spark_semdedup.vectors import Decoder

if TYPE_CHECKING:
    from spark_semdedup.params import CoverageParams

_TILE_SEED = 1_000_033
"""Of the hash that says which tile a row belongs to; not one a user would take for the fit sample's."""

FIRST_ROWS, MOST_VISITS = 1024, 2e7
"""Rows that tell how many cells a row visits, and visits that a plan on the driver is made from, at most, unless so few
rows make more."""

PLACES = T.StructType(
    [
        T.StructField("tasks", T.ArrayType(T.LongType())),
        T.StructField("tiles", T.ArrayType(T.IntegerType())),
        T.StructField("others", T.ArrayType(T.IntegerType())),
    ]
)
"""Of one row: its tasks and, for each, its tile and the other one. Three lists, not one of structs, which the RAPIDS
Accelerator takes from Python on the CPU only."""


@dataclass(frozen=True)
class Coverage:
    """``others``: how many cells rows visit beside their own; None: as many as exact coverage of pairs of at least
    ``threshold`` needs."""

    others: int | None = 0
    threshold: float = 0.0

    @classmethod
    def of(cls, params: CoverageParams, threshold: float) -> Coverage:
        """What the Params describe; a ``SemDedupError`` where they contradict each other."""
        if params.value("coverage") == "cluster":
            return cls(others=params.value("nProbe") - 1)
        if params.isSet("nProbe"):
            raise SemDedupError(
                f"coverage='exact' and nProbe={params.value('nProbe')} are both set; set one of them: exact visits as "
                "many cells as it needs"
            )
        return cls(None, threshold)

    @property
    def is_exact(self) -> bool:
        return self.others is None

    @property
    def visits(self) -> bool:
        """Whether rows visit cells beside their own."""
        return self.others != 0

    def most_visits(self, rows: float, k: int) -> float:
        """How many cells, of ``k``, so many rows may visit."""
        return rows * (k - 1 if self.others is None else min(self.others, k - 1))

    def sketched(self, dim: int) -> bool:
        """Whether pairs with guests, of vectors so long, are mostly dismissed by sketches."""
        return self.is_exact and pays(dim)

    @property
    def at_least(self) -> float:
        """The similarity from which guests count: below it, exact coverage promises nothing."""
        return self.threshold if self.is_exact else -np.inf

    @property
    def name(self) -> str:
        """What manifests and ``summary.json`` call it."""
        return "exact" if self.is_exact else "cluster" if not self.others else "probes"

    @property
    def label(self) -> str:
        """The same with its setting, for people."""
        if self.is_exact:
            return f"exact from {self.threshold:.6g}"
        return f"nProbe {self.others + 1}" if self.others else "cluster"

    def rule(self, cells: Cells) -> VisitRule | None:
        """Which cells rows visit, made ready for ``cells``, on the device these are on."""
        if not self.visits:
            return None
        return WithinReach.of(cells, self.threshold) if self.others is None else NearestCells(self.others)

    def in_words(self) -> str:
        """Which pairs were compared, so that it can be cited."""
        if self.is_exact:
            return (
                f"every pair of rows with a similarity of at least {self.threshold:.6g} was compared (proven, whatever "
                "the clusters): scores from there on are those of all rows against all"
            )
        if self.others:
            return (
                f"each row was compared with all rows of the {self.others + 1} clusters nearest to it; other pairs "
                "were not (spark-semdedup evaluate estimates how many duplicates that leaves)"
            )
        return "each row was compared with all rows of its own cluster; pairs across clusters were not"


# --- columns ------------------------------------------------------------------------------------------------


def tile_hash(id_: Column) -> Column:
    """What a row's tile is drawn from: were it drawn at random, a task that runs again after a failure could move rows,
    and pairs would be lost."""
    return F.pmod(F.xxhash64(id_, F.lit(_TILE_SEED)), F.lit(2**31))


def cells_column(rows: int, visits: Visits, *, lists: bool = False) -> pa.Array:
    """The cells that each of ``rows`` rows visits: int32 numbers one after the other, as binary or as lists."""
    if 4 * len(visits.cells) >= 2**31:
        raise SemDedupError(
            f"a batch of {rows} rows visits {len(visits.cells)} clusters, which passes 2 GiB: lower "
            "spark.sql.execution.arrow.maxRecordsPerBatch, eps or k"
        )
    return packed(visits.cells.astype(np.int32), np.bincount(visits.rows, minlength=rows), lists=lists)


def visits_from(cells: pa.Array) -> Visits:
    """The inverse of ``cells_column``."""
    numbers, counts = unpacked(cells, np.int32)
    return Visits(np.repeat(np.arange(len(cells)), counts), numbers)


def places_columns(rows: int, places: Places) -> list[pa.Array]:
    """The tasks that each of ``rows`` rows goes to: the columns ``PLACES``."""
    counts = np.bincount(places.rows, minlength=rows)
    return [packed(numbers, counts, lists=True) for numbers in (places.task, places.tile, places.other)]


@dataclass(frozen=True)
class Router:
    """Makes the columns that send assigned rows to their tasks: ``cells`` and, with a plan, ``PLACES``."""

    coverage: Coverage
    plan: RegionPlan | None = None
    lists: bool = False
    """Whether vectors and cells travel as lists (``columns.packed``)."""

    @property
    def fields(self) -> list[T.StructField]:
        cells = T.StructField("cells", packed_type(T.IntegerType(), lists=self.lists))
        return [cells, *(PLACES.fields if self.plan else [])]

    def columns(self, own: np.ndarray, visits: Visits, hashes: Any) -> list[pa.Array]:
        """For a batch of rows: their own cells, int (n,), negative where a row has none; the cells they visit; and
        ``tile_hash``, an Arrow array."""
        found = [cells_column(len(own), visits, lists=self.lists)]
        if self.plan is not None:
            valid = np.flatnonzero(own >= 0)
            place = np.cumsum(own >= 0) - 1
            there = Visits(place[visits.rows], visits.cells)
            places = self.plan.places(own[valid], there, hashes.to_numpy()[valid])
            found += places_columns(len(own), _with_invalid(places, valid, own))
        return found


def _with_invalid(places: Places, valid: np.ndarray, own: np.ndarray) -> Places:
    """Rows of no cell go where their negative number says: no task has such a key, and they spread."""
    if len(valid) == len(own):
        return places
    invalid = np.flatnonzero(own < 0)
    return Places.joined(
        [
            (valid[places.rows], places.task, places.tile, places.other),
            (invalid, own[invalid].astype(np.int64), NO_TILE, NO_TILE),
        ]
    )


@dataclass
class ReadyCells:
    """The centroids (k, d) as rows are assigned to them, and which further cells rows visit: made ready once in each
    task, on its device, which the driver may lack."""

    centroids: np.ndarray
    spherical: bool
    coverage: Coverage
    made: tuple[Cells, VisitRule | None] | None = None

    def where(self, units: Array) -> tuple[Cells, VisitRule | None]:
        """Where ``units`` are."""
        if self.made is None:
            cells = Cells.of(beside(units, self.centroids), spherical=self.spherical)
            self.made = cells, self.coverage.rule(cells)
        return self.made

    def visits(self, own: np.ndarray, units: Array) -> Visits:
        """Of rows whose own cells are given."""
        cells, rule = self.where(units)
        return visited_cells(units, cells, beside(units, own), rule) if rule else Visits.none()


def assigned_at_once(rows: int) -> Batch:
    """A batch of ``rows`` rows that are assigned; their number is Spark's own setting."""
    setting = "spark.sql.execution.arrow.maxRecordsPerBatch"
    return Batch(rows, "rows assigned at once", setting, rows_per_bound=1, needs=vector_bytes)


def route_assigned(
    rows: DataFrame, router: Router, decode: Decoder, centroids: np.ndarray, placement: Placement, *, spherical: bool
) -> DataFrame:
    """Routes rows that were assigned before, by us or by others: ``unit``, packed, instead of ``embedding``, and the
    router's columns. (``EmbeddingKMeansModel.unit_rows`` does so where it assigns.)

    ``rows``: ``embedding``, which ``decode`` makes unit vectors of, ``centroid``, which says a row's own cell among
    ``centroids`` (k, d), ``id``, and what else is carried along.
    """
    carried = [name for name in rows.columns if name not in ("embedding", "centroid")]
    hashed = tile_hash(F.col("id")).alias("hash")
    source = rows.select(*carried, "embedding", F.col("centroid").cast("bigint"), hashed)
    schema = T.StructType([source.schema[name] for name in carried])
    schema.add("unit", packed_type(T.FloatType(), lists=router.lists)).add("centroid", T.IntegerType())
    for column in router.fields:
        schema.add(column)

    def visit(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        ready = ReadyCells(centroids, spherical, router.coverage)
        for batch in batches:
            if not batch.num_rows:
                continue
            units = decode(batch.column("embedding"), batch.column("id"))
            own = batch.column("centroid").to_numpy()
            _refuse_foreign(units, own, batch.column("id"), centroids)
            visits = placement.within_memory(partial(ready.visits, own), units, assigned_at_once(len(units)))
            columns = [batch.column(name) for name in carried]
            columns += [packed_rows(units, lists=router.lists), pa.array(own, pa.int32())]
            columns += router.columns(own, visits, batch.column("hash"))
            yield pa.RecordBatch.from_arrays(columns, names=schema.names)

    return source.mapInArrow(visit, schema)


def _refuse_foreign(units: np.ndarray, own: np.ndarray, ids: pa.Array, centroids: np.ndarray) -> None:
    """Rows that cannot belong to these centroids are an error, not a miss."""
    k, dim = centroids.shape
    if units.shape[1] != dim:
        raise SemDedupError(f"embeddings have length {units.shape[1]}, but the centroids have {dim}: give their own")
    wrong = np.flatnonzero((own < 0) | (own >= k))
    if len(wrong):
        raise SemDedupError(
            f"column 'centroid', row with id {shown(ids[int(wrong[0])].as_py())}: it is {own[wrong[0]]}, but there are "
            f"{k} centroids, numbered from 0: give those that the rows were assigned to"
        )


def placed(rows: DataFrame) -> DataFrame:
    """Each row once for every task it takes part in, with ``task``, ``tile`` and ``other``."""
    kept = [name for name in rows.columns if name not in PLACES.names]
    exploded = rows.select(*kept, "tiles", "others", F.posexplode("tasks").alias("place", "task"))
    place = F.col("place") + 1
    return exploded.select(
        *kept, "task", F.element_at("tiles", place).alias("tile"), F.element_at("others", place).alias("other")
    )


def collect_visits(rows: DataFrame, fraction: float, most: float) -> VisitSample:
    """The sample of visits from ``rows`` with ``id``, ``centroid`` and ``cells``: the ``fraction`` of all whose ids
    hash lowest (``in_lowest``), which may make up to ``most`` visits. Of fewer rows where the driver should not hold
    all that they make."""
    seen = rows.where("centroid >= 0").select("id", "centroid", "cells")
    if most <= MOST_VISITS:
        return _collected(seen, fraction)
    seen = seen.persist()  # to be counted before it is collected
    try:
        is_list = isinstance(rows.schema["cells"].dataType, T.ArrayType)
        visits = F.size("cells") if is_list else F.octet_length("cells") / 4
        found = seen.agg(F.count(F.lit(1)).alias("rows"), F.coalesce(F.sum(visits), F.lit(0)).alias("visits")).first()
        assert found is not None  # an aggregate without groups always gives one row
        fraction *= min(1.0, max(MOST_VISITS / max(found["visits"], 1), FIRST_ROWS / max(found["rows"], 1)))
        return _collected(seen.where(in_lowest(F.col("id"), fraction)), fraction)
    finally:
        seen.unpersist()


def _collected(seen: DataFrame, fraction: float) -> VisitSample:
    found = collect_arrow(seen.select("centroid", "cells"))
    chunks = found["cells"].chunks  # which joined may pass 2 GiB
    starts = np.cumsum([0, *map(len, chunks)]).tolist()[:-1]
    return VisitSample(found["centroid"].to_numpy(), Visits.joined([*map(visits_from, chunks)], starts), 1 / fraction)
