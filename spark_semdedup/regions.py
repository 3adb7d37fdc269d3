"""Cells → *regions* of neighbouring cells, one task each, for rows that visit several cells (``kernels.coverage``).

A vector is 4·d bytes, and at eps 0.05 a row visits some seven cells: sent to each of them, vectors would be seven times
the data. But the cells that a row visits lie near each other. So cells are gathered into regions as large as a task's
memory allows, and a row is sent once to each *region* it visits, with the numbers of the cells: two or three times the
data. Inside a region its cells are compared one by one (``kernels.regions``), so regions change no result and no cost
but that of moving.

Regions are cut by recursive bisection: cells in the order of their centroids along the direction in which these extend
most, cut where the work is halved, until a part fits. What parts hold is estimated from a sample of rows and the cells
these visit. A cell that is too large by itself is *tiled*, its guests as well: natives are split into tiles, guests
into tiles of guests, and each pair of tiles, one of which is native, is a task.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from spark_semdedup.kernels.assignment import Visits
from spark_semdedup.planning import default_partitions, keys_for, pack, pair_place, pair_tiles

FIRST_GUEST_TILE = 1 << 20
"""Number of a cell's first tile of guests; tiles of natives count from 0."""

NO_TILE = -1
"""In place of the numbers of two tiles where a task is a region."""

ROW_COST = 200.0
"""Pairs whose comparison costs as much as moving a row to a task (``planning``)."""

SKETCHED_PAIR_COST = 0.25
"""Cost of a pair that a sketch mostly dismisses (``kernels.sketch``), compared with one that is multiplied."""


@dataclass(frozen=True)
class VisitSample:
    """A sample of rows: the cell each is native in, int (m,), the further cells it visits, and how many rows each row
    of the sample stands for."""

    own: np.ndarray
    visits: Visits
    scale: float

    def natives(self, k: int) -> np.ndarray:
        """Estimated natives of each cell: float (k,)."""
        return np.bincount(self.own, minlength=k) * self.scale

    def guests(self, k: int) -> np.ndarray:
        """Estimated guests of each cell: float (k,)."""
        return np.bincount(self.visits.cells, minlength=k) * self.scale

    @property
    def cells_per_row(self) -> float:
        """Cells in which a row is native or guest."""
        return 1 + len(self.visits.rows) / max(len(self.own), 1)

    def pairs(self, k: int) -> tuple[float, float]:
        """Estimated pairs of two natives of a cell, and of a native and a guest; without bias, however few rows."""
        rows = len(self.own)
        natives = np.bincount(self.own, minlength=k).astype(float)
        guests = np.bincount(self.visits.cells, minlength=k).astype(float)
        if self.scale == 1:
            return float((natives * (natives - 1) / 2).sum()), float((natives * guests).sum())
        # Of m rows there are m (m − 1) ordered pairs, for (m scale)² of the rows they stand for.
        each = (rows * self.scale) ** 2 / max(rows * (rows - 1), 1)
        return float((natives * (natives - 1)).sum() / 2 * each), float((natives * guests).sum() * each)

    def places(self) -> Visits:
        """All visits, to the own cell, too."""
        rows = np.concatenate([np.arange(len(self.own)), self.visits.rows])
        return Visits(rows, np.concatenate([self.own, self.visits.cells]).astype(np.int32))


@dataclass(frozen=True)
class Task:
    """A region's cells, or one cell of which a pair of tiles is compared."""

    cells: np.ndarray
    rows: float
    """Estimated rows that are sent to it."""
    cost: float
    """Of its comparison and of moving its rows, in pairs."""
    tiles: tuple[int, int] = (NO_TILE, NO_TILE)


@dataclass(frozen=True)
class RegionPlan:
    """Which tasks a row goes to, by the cells it visits. Small: O(k + tasks), made on the driver.

    ``region`` (int64, k): place in ``keys`` of the region that a cell is part of, −1 for a tiled cell. ``tiles`` and
    ``guest_tiles`` (int32, k): of a tiled cell, else 0. ``first_task`` (int64, k): of a tiled cell the place in
    ``keys`` of its first task, pairs of native tiles in the order of ``planning.pair_place`` and then each native tile
    with each tile of guests. ``keys`` (int64): values of the grouping key. ``tasks``: what was estimated of each, in
    that order.
    """

    region: np.ndarray
    tiles: np.ndarray
    guest_tiles: np.ndarray
    first_task: np.ndarray
    keys: np.ndarray
    partitions: int
    tasks: tuple[Task, ...]

    def cells_of(self, key: int) -> np.ndarray:
        """Whether each cell is in the region of that key: bool (k,)."""
        return (self.region >= 0) & (self.keys[self.region] == key)

    @property
    def rows_sent(self) -> float:
        """Estimated rows sent to tasks, a row once for each of its tasks."""
        return sum(task.rows for task in self.tasks)

    @property
    def largest_task(self) -> int:
        """Estimated rows of the largest task."""
        return int(max((task.rows for task in self.tasks), default=0))

    def places(self, own: np.ndarray, visits: Visits, hashes: np.ndarray) -> Places:
        """Where rows go: ``own`` cells, int (n,), further ``visits``, and for tiles a hash of each id, int64 (n,)."""
        rows = np.concatenate([np.arange(len(own)), visits.rows])
        cells = np.concatenate([own, visits.cells])
        region = self.region[cells]
        in_region = region >= 0
        # Several cells of one region are one place.
        found = np.unique(rows[in_region] * len(self.keys) + region[in_region])
        parts: list[tuple[Any, ...]] = [(found // len(self.keys), self.keys[found % len(self.keys)], NO_TILE, NO_TILE)]
        guest = np.arange(len(rows)) >= len(own)
        for cell in np.unique(cells[~in_region]).tolist():
            for guests in (False, True):
                here = rows[(cells == cell) & (guest == guests)]
                parts += self._in_tiles(cell, here, hashes[here], guests=guests)
        return Places.joined(parts)

    def _in_tiles(
        self, cell: int, rows: np.ndarray, hashes: np.ndarray, *, guests: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
        """The tasks of a tiled cell that its natives or its guests take part in."""
        native_tiles, guest_tiles = int(self.tiles[cell]), int(self.guest_tiles[cell])
        keys = self.keys[self.first_task[cell] :]
        with_guests = native_tiles * (native_tiles + 1) // 2
        tile = hashes % (guest_tiles if guests else native_tiles)
        for other in range(native_tiles):
            if guests:
                place = with_guests + other * guest_tiles + tile
            else:
                place = pair_place(tile, np.full_like(tile, other), native_tiles)
            yield rows, keys[place], tile + (FIRST_GUEST_TILE if guests else 0), other
        for other in range(0 if guests else guest_tiles):
            yield rows, keys[with_guests + tile * guest_tiles + other], tile, FIRST_GUEST_TILE + other


@dataclass(frozen=True)
class Places:
    """Rows and the tasks they go to, row by row: the task's key, the row's tile there and the tile it is compared with.
    Int64, int64, int32, int32 (m,)."""

    rows: np.ndarray
    task: np.ndarray
    tile: np.ndarray
    other: np.ndarray

    @classmethod
    def joined(cls, parts: list[tuple[Any, ...]]) -> Places:
        """Of parts of rows, tasks, tiles and others, arrays or one number for all."""
        rows = np.concatenate([part[0] for part in parts] or [np.empty(0, np.int64)])
        order = np.argsort(rows, kind="stable")
        columns = [
            np.concatenate([np.broadcast_to(part[i], len(part[0])) for part in parts] or [np.empty(0, np.int64)])[order]
            for i in (1, 2, 3)
        ]
        return cls(rows[order], columns[0].astype(np.int64), columns[1].astype(np.int32), columns[2].astype(np.int32))


def plan_regions(
    sample: VisitSample, centroids: np.ndarray, *, max_rows: int, slots: int, sketched: bool
) -> RegionPlan:
    """The plan for the rows that ``sample`` stands for: no task of more than 2 ``max_rows`` rows, as far as it tells.

    ``centroids``: float32 (k, d). ``slots``: tasks that run at once; there are a few for each. ``sketched``: whether
    pairs with guests are mostly dismissed by sketches.
    """
    k, dim = centroids.shape
    natives, guests = sample.natives(k), sample.guests(k)
    pairs = natives**2 / 2 + natives * guests * (SKETCHED_PAIR_COST if sketched else 1)
    tiled = natives + guests > 2 * max_rows
    tiles = np.where(tiled, np.maximum(1, np.ceil(natives / max_rows)), 0).astype(np.int32)
    guest_tiles = np.where(tiled, np.maximum(1, np.ceil(guests / max_rows)), 0).astype(np.int32)
    # A few regions for each slot, so that slots end together.
    max_pairs = max(pairs.sum() / default_partitions(4.0 * dim * natives.sum(), slots), 1.0)
    cut = _Cut(sample.scale, natives, pairs, centroids.astype(np.float64), 2 * max_rows, max_pairs)
    places = sample.places()
    here = ~tiled[places.cells]
    tasks = [*cut.regions(np.flatnonzero(~tiled), Visits(places.rows[here], places.cells[here]))]
    first_task = np.full(k, -1, np.int64)
    region_tasks = len(tasks)
    for cell in np.flatnonzero(tiled):
        first_task[cell] = len(tasks)
        tasks += _tile_tasks(int(cell), natives[cell], guests[cell], int(tiles[cell]), int(guest_tiles[cell]))
    partitions = default_partitions(4.0 * dim * sum(task.rows for task in tasks), slots)
    keys = keys_for(pack(np.array([task.cost for task in tasks]), partitions), partitions)
    region = np.full(k, -1, np.int64)
    for number, task in enumerate(tasks[:region_tasks]):
        region[task.cells] = number
    return RegionPlan(region, tiles, guest_tiles, first_task, keys, partitions, tuple(tasks))


def _tile_tasks(cell: int, natives: float, guests: float, tiles: int, guest_tiles: int) -> Iterator[Task]:
    rows, visitors = natives / tiles, guests / guest_tiles
    for a, b in zip(*pair_tiles(tiles), strict=True):
        size = rows if a == b else 2 * rows
        yield Task(np.array([cell]), size, size**2 / 2 + ROW_COST * size, (int(a), int(b)))
    for a in range(tiles):
        for g in range(guest_tiles):
            size = rows + visitors
            yield Task(np.array([cell]), size, rows * visitors + ROW_COST * size, (a, FIRST_GUEST_TILE + g))


@dataclass(frozen=True)
class _Cut:
    """Cuts cells into regions of at most ``max_rows`` rows and a cost of ``max_pairs``, a single cell excepted."""

    scale: float
    natives: np.ndarray
    pairs: np.ndarray
    centroids: np.ndarray
    max_rows: float
    max_pairs: float

    def regions(self, cells: np.ndarray, places: Visits) -> Iterator[Task]:
        """The tasks of ``cells``; ``places``: all visits of the sample's rows to them."""
        rows = len(np.unique(places.rows)) * self.scale
        pairs = self.pairs[cells].sum()
        if len(cells) <= 1 or (rows <= self.max_rows and pairs <= self.max_pairs):
            if len(cells):
                yield Task(cells, rows, pairs + ROW_COST * rows)
            return
        for part in self._halves(cells):
            inside = np.isin(places.cells, part)
            yield from self.regions(part, Visits(places.rows[inside], places.cells[inside]))

    def _halves(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weight = self.pairs[cells] + 1
        order = np.argsort(_along_principal_axis(self.centroids[cells], weight), kind="stable")
        work = np.cumsum(weight[order])
        nearest = int(np.argmin(np.abs(work - work[-1] / 2))) + 1
        half = min(nearest, len(cells) - 1)
        return cells[order[:half]], cells[order[half:]]


def _along_principal_axis(points: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Coordinates of points (m, d) along the axis in which they extend most, by power iteration: float64 (m,)."""
    centred = points - np.average(points, axis=0, weights=weight)
    axis = centred[np.argmax((centred**2).sum(axis=1))]
    for _ in range(16):
        axis = centred.T @ (weight * (centred @ axis))
        length = np.linalg.norm(axis)
        if not length > 0:  # all points are equal
            break
        axis = axis / length
    return centred @ axis
