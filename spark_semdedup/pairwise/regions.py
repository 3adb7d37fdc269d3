"""Cells → *regions* of neighbouring cells, one task each, for rows that visit several cells (``kernels.coverage``).

A vector is 4·d bytes, and at eps 0.05 a row visits some seven cells: sent to each of them, vectors would be seven times
the data. But the cells that a row visits lie near each other. So cells are gathered into regions as large as a task's
memory allows, and a row is sent once to each *region* it visits, with the numbers of the cells: two or three times the
data. Inside a region its cells are compared one by one (``kernels.regions``), so regions change no result and no cost
but that of moving.

Regions are cut by recursive bisection: cells in the order of their centroids along the direction in which these extend
most, cut where the work is halved, until a part fits. What parts hold is estimated from a sample of rows and the cells
these visit.

Some cells are crowded: few natives and, as they are wide and in the middle of all others, guests by the ten thousands,
mostly the same ones in each. Cutting between such cells parts no rows. They are set aside first, and where it sends
fewer rows than a cut would, a region stays whole and its guests are *tiled*: one task for its natives, and one for
these with each tile of guests. The natives of a single cell that is too large by itself are tiled as well; each pair of
tiles, one of which is native, is a task. (Of 1,000,000 generated rows at eps 0.05 each was sent 4.8 times where every
crowded cell was by itself, and is sent 2.9 times so: RESULTS.md.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spark_semdedup.kernels.assignment import Visits
from spark_semdedup.pairwise.estimate import VisitSample
from spark_semdedup.pairwise.packing import (
    Packed,
    default_partitions,
    keys_for,
    pack,
    pair_place,
    pair_tiles,
    partitions_for,
)
from spark_semdedup.pairwise.schema import FIRST_GUEST_TILE, NO_TILE

ROW_COST = 200.0
"""Pairs whose comparison costs as much as moving a row to a task (``planning``)."""

SKETCHED_PAIR_COST = 0.25
"""Cost of a pair that a sketch mostly dismisses (``kernels.sketch``), compared with one that is multiplied."""

_CROWDED = 4.0
"""A cell is crowded from so many times the mean's guests on. (Between 2 and 10 times makes little difference; there are
none, or next to none, among clusters of package descriptions.)"""


@dataclass(frozen=True)
class Task:
    """A region's rows; or its natives; or two tiles of them."""

    rows: float
    """Estimated rows that are sent to it."""
    cost: float
    """Of its comparison and of moving its rows, in pairs."""
    tiles: tuple[int, int] = (NO_TILE, NO_TILE)


@dataclass(frozen=True)
class Region:
    """Cells, the estimated rows that are native in one of them, those that are guests and native elsewhere, and how
    both are tiled: not at all (0), or into ``tiles`` (one, unless it is a single cell) and ``guest_tiles``."""

    cells: np.ndarray
    natives: float
    guests: float
    native_cost: float
    """Of comparing natives of a cell with one another, in pairs."""
    guest_cost: float
    """Of comparing natives of a cell with its guests."""
    tiles: int = 0
    guest_tiles: int = 0

    @property
    def rows(self) -> float:
        return self.natives + self.guests

    def tiled(self, max_rows: int) -> Region:
        """With tiles of at most ``max_rows`` rows."""
        tiles, guest_tiles = (max(1, math.ceil(rows / max_rows)) for rows in (self.natives, self.guests))
        return replace(self, tiles=tiles, guest_tiles=guest_tiles)

    @property
    def sent(self) -> float:
        """Rows sent to its tasks, each as often as it is sent."""
        if not self.tiles:
            return self.rows
        return self.natives * (self.tiles + self.guest_tiles) + self.guests * self.tiles

    def tasks(self) -> Iterator[Task]:
        """In the order of their keys: pairs of native tiles as ``planning.pair_place`` has them, then each native tile
        with each tile of guests."""
        if not self.tiles:
            yield Task(self.rows, self.native_cost + self.guest_cost + ROW_COST * self.rows)
            return
        natives, guests = self.natives / self.tiles, self.guests / self.guest_tiles
        # Natives of one cell may be guests of the region's others.
        with_guest = self.guest_cost / max(self.rows if len(self.cells) > 1 else self.guests, 1)
        for a, b in zip(*pair_tiles(self.tiles), strict=True):
            alone = self.tiles == 1
            size = natives if a == b else 2 * natives
            cost = self.native_cost * (1 if a == b else 2) / self.tiles**2 + (
                with_guest * natives if len(self.cells) > 1 else 0
            )
            yield Task(size, cost + ROW_COST * size, (NO_TILE, NO_TILE) if alone else (int(a), int(b)))
        for a in range(self.tiles):
            for g in range(self.guest_tiles):
                size = natives + guests
                yield Task(size, with_guest * guests / self.tiles + ROW_COST * size, (a, FIRST_GUEST_TILE + g))


@dataclass(frozen=True)
class RegionPlan(Packed):
    """Which tasks a row goes to, by the cells it visits. Small: O(k + tasks), made on the driver.

    ``region`` (int64, k): the region that each cell is part of. ``tiles`` and ``guest_tiles`` (int32, regions): of a
    tiled region, else 0. ``first_task`` (int64, regions): place in ``keys`` of its first task; the others follow in the
    order of ``Region.tasks``. ``keys`` (int64): values of the grouping key. ``tasks``: what was estimated of each, in
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
        """Whether each cell is in the region that the task of that key compares: bool (k,)."""
        task = int(np.flatnonzero(self.keys == key)[0])
        return self.region == np.searchsorted(self.first_task, task, side="right") - 1

    @property
    def rows_sent(self) -> float:
        """Estimated rows sent to tasks, a row once for each of its tasks."""
        return sum(task.rows for task in self.tasks)

    @property
    def largest_task(self) -> int:
        """Estimated rows of the largest task."""
        return int(max((task.rows for task in self.tasks), default=0))

    def places(self, own: np.ndarray, visits: Visits, hashes: np.ndarray) -> TaskAssignments:
        """Where rows go: ``own`` cells, int (n,), further ``visits``, and for tiles a hash of each id, int64 (n,)."""
        rows = np.concatenate([np.arange(len(own)), visits.rows])
        region = self.region[np.concatenate([own, visits.cells])]
        # Several cells of one region are one place; by region and, of each, by row.
        found = np.unique(region * max(len(own), 1) + rows)
        region, rows = np.divmod(found, max(len(own), 1))
        whole = self.tiles[region] == 0
        parts: list[tuple[Any, ...]] = [(rows[whole], self.keys[self.first_task[region[whole]]], NO_TILE, NO_TILE)]
        rows, region = rows[~whole], region[~whole]
        numbers, starts = np.unique(region, return_index=True)
        for number, here in zip(numbers.tolist(), np.split(rows, starts[1:]), strict=False):
            native = self.region[own[here]] == number
            parts += self._natives_in_tiles(number, here[native], hashes)
            parts += self._guests_in_tiles(number, here[~native], hashes)
        return TaskAssignments.joined(parts)

    def _natives_in_tiles(self, region: int, rows: np.ndarray, hashes: np.ndarray) -> Iterator[tuple[Any, ...]]:
        """The tasks of a tiled region that its natives ``rows`` take part in."""
        tiles, guest_tiles = int(self.tiles[region]), int(self.guest_tiles[region])
        keys = self.keys[self.first_task[region] :]
        tile = hashes[rows] % tiles
        if tiles == 1:
            yield rows, keys[tile], NO_TILE, NO_TILE
        else:
            for other in range(tiles):
                yield rows, keys[pair_place(tile, np.full_like(tile, other), tiles)], tile, other
        for other in range(guest_tiles):
            yield rows, keys[_pairs(tiles) + tile * guest_tiles + other], tile, FIRST_GUEST_TILE + other

    def _guests_in_tiles(self, region: int, rows: np.ndarray, hashes: np.ndarray) -> Iterator[tuple[Any, ...]]:
        """The same of its guests."""
        tiles, guest_tiles = int(self.tiles[region]), int(self.guest_tiles[region])
        keys = self.keys[self.first_task[region] :]
        tile = hashes[rows] % guest_tiles
        for other in range(tiles):
            yield rows, keys[_pairs(tiles) + other * guest_tiles + tile], tile + FIRST_GUEST_TILE, other


def _pairs(tiles: int) -> int:
    """Pairs of so many tiles, a tile with itself among them."""
    return tiles * (tiles + 1) // 2


@dataclass(frozen=True)
class TaskAssignments:
    """Rows and the tasks they go to, row by row: the task's key, the row's tile there and the tile it is compared with.
    Int64, int64, int32, int32 (m,)."""

    rows: np.ndarray
    task: np.ndarray
    tile: np.ndarray
    other: np.ndarray

    @classmethod
    def joined(cls, parts: list[tuple[Any, ...]]) -> TaskAssignments:
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
    cut = _Cut.of(sample, centroids, max_rows=max_rows, slots=slots, sketched=sketched)
    guests, places = sample.guests(k), sample.places()
    crowded = guests > _CROWDED * guests.mean()
    regions: list[Region] = []
    for cells in (np.flatnonzero(crowded), np.flatnonzero(~crowded)):
        regions += cut.regions(cells, _of_cells(places, cells))
    tasks = [list(region.tasks()) for region in regions]
    every = tuple(task for of_region in tasks for task in of_region)
    partitions = partitions_for(len(every), 4.0 * dim * sum(task.rows for task in every), slots)
    region = np.empty(k, np.int64)
    for number, each in enumerate(regions):
        region[each.cells] = number
    return RegionPlan(
        region=region,
        tiles=np.array([each.tiles for each in regions], np.int32),
        guest_tiles=np.array([each.guest_tiles for each in regions], np.int32),
        first_task=np.cumsum([0, *map(len, tasks[:-1])]),
        keys=keys_for(pack(np.array([task.cost for task in every]), partitions), partitions),
        partitions=partitions,
        tasks=every,
    )


def _of_cells(places: Visits, cells: np.ndarray) -> Visits:
    return places.where(np.isin(places.cells, cells))


@dataclass(frozen=True)
class _Cut:
    """Cuts cells into regions of at most 2 ``max_rows`` rows and, if they are of several cells, a cost of ``max_cost``,
    or tiled ones."""

    scale: float
    natives: np.ndarray
    native_cost: np.ndarray
    guest_cost: np.ndarray
    centroids: np.ndarray
    max_rows: int
    max_cost: float

    @classmethod
    def of(cls, sample: VisitSample, centroids: np.ndarray, *, max_rows: int, slots: int, sketched: bool) -> _Cut:
        k, dim = centroids.shape
        natives = sample.natives(k)
        native_cost = natives**2 / 2
        guest_cost = natives * sample.guests(k) * (SKETCHED_PAIR_COST if sketched else 1)
        # A few regions for each slot, so that slots end together.
        whole = float(native_cost.sum() + guest_cost.sum())
        max_cost = max(whole / default_partitions(4.0 * dim * natives.sum(), slots), 1.0)
        wide = centroids.astype(np.float64)
        return cls(sample.scale, natives, native_cost, guest_cost, wide, max_rows, max_cost)

    def regions(self, cells: np.ndarray, places: Visits) -> list[Region]:
        """The regions of ``cells``; ``places``: all visits of the sample's rows to them."""
        if not len(cells):
            return []
        whole = self._region(cells, places)
        fits = whole.rows <= 2 * self.max_rows
        if fits and (len(cells) == 1 or whole.native_cost + whole.guest_cost <= self.max_cost):
            return [whole]
        if len(cells) == 1:
            return [whole.tiled(self.max_rows)]
        parts = [region for part in self._halves(cells) for region in self.regions(part, _of_cells(places, part))]
        if not fits and whole.natives <= self.max_rows:
            tiled = whole.tiled(self.max_rows)
            if tiled.sent <= sum(part.sent for part in parts):
                return [tiled]
        return parts

    def _region(self, cells: np.ndarray, places: Visits) -> Region:
        natives = float(self.natives[cells].sum())
        guests = max(len(np.unique(places.rows)) * self.scale - natives, 0.0)
        costs = float(self.native_cost[cells].sum()), float(self.guest_cost[cells].sum())
        return Region(cells, natives, guests, *costs)

    def _halves(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weight = self.native_cost[cells] + self.guest_cost[cells] + 1
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
