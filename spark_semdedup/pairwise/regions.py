"""Cells → *regions* of neighbouring cells, one task each, for rows that visit several cells (``kernels.visits``).

A vector is 4·d bytes, and at eps 0.05 a row visits some seven cells: sent to each of them, vectors would be seven times
the data. But the cells that a row visits lie near each other. So cells are gathered into regions as large as a task's
memory allows, and a row is sent once to each *region* it visits, with the numbers of the cells: two or three times the
data. Inside a region its cells are compared one by one (``kernels.cells``), so regions change no result and no cost
but that of moving.

Regions are cut by recursive bisection: cells in the order of their centroids along the direction in which these extend
most, cut where the work is halved, until a part fits. What parts hold is estimated from a sample of rows and the cells
these visit.

Some cells are crowded: they have few home rows and, as they are wide and in the middle of all others, probing rows by
the ten thousands, mostly the same ones in each. Cutting between such cells parts no rows. They are regions of their own
first. Where it sends fewer rows than a cut would, a region stays whole and its probing rows are *tiled*: one task for
its home rows, and one for these with each tile of probing rows. The home rows of a single cell that is too large by
itself are tiled as well; each pair of tiles, one of which holds home rows, is a task. (Of 1,000,000 generated rows at
eps 0.05 each was sent 4.8 times where every crowded cell was by itself, and is sent 2.9 times so.)
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
from spark_semdedup.pairwise.schema import FIRST_PROBING_TILE, NO_TILE

ROW_COST = 200.0
"""Pairs whose comparison costs as much as moving a row to a task (``packing``)."""

SKETCHED_PAIR_COST = 0.25
"""Cost of a pair that a sketch mostly dismisses (``kernels.sketch``), compared with one that is multiplied."""

_CROWDED = 4.0
"""A cell is crowded from so many times the mean's probing rows on. (Between 2 and 10 times makes little difference;
clusters of package descriptions have hardly any crowded cell.)"""


@dataclass(frozen=True)
class Task:
    """A region's rows; or its home rows; or two tiles of them."""

    rows: float
    """Estimated rows that are sent to it."""
    cost: float
    """Of its comparison and of moving its rows, in pairs."""
    tiles: tuple[int, int] = (NO_TILE, NO_TILE)


@dataclass(frozen=True)
class Region:
    """Cells, the estimated rows at home in them, the estimated probing rows (at home elsewhere), and how both are
    tiled: not at all (0), or into ``tiles`` (one, unless it is a single cell) and ``probing_tiles``."""

    cells: np.ndarray
    home_rows: float
    probing_rows: float
    home_cost: float
    """Of comparing home rows of a cell with one another, in pairs."""
    probing_cost: float
    """Of comparing home rows of a cell with its probing rows."""
    tiles: int = 0
    probing_tiles: int = 0

    @property
    def rows(self) -> float:
        return self.home_rows + self.probing_rows

    def tiled(self, max_rows: int) -> Region:
        """With tiles of at most ``max_rows`` rows."""
        tiles, probing_tiles = (max(1, math.ceil(rows / max_rows)) for rows in (self.home_rows, self.probing_rows))
        return replace(self, tiles=tiles, probing_tiles=probing_tiles)

    @property
    def sent(self) -> float:
        """Rows sent to its tasks, each as often as it is sent."""
        if not self.tiles:
            return self.rows
        return self.home_rows * (self.tiles + self.probing_tiles) + self.probing_rows * self.tiles

    def tasks(self) -> Iterator[Task]:
        """In the order of their keys: pairs of home tiles as ``packing.pair_place`` has them, then each home tile with
        each tile of probing rows."""
        if not self.tiles:
            yield Task(self.rows, self.home_cost + self.probing_cost + ROW_COST * self.rows)
            return
        home_rows, probing_rows = self.home_rows / self.tiles, self.probing_rows / self.probing_tiles
        # Home rows of one cell may be probing rows of the region's others.
        with_probing_row = self.probing_cost / max(self.rows if len(self.cells) > 1 else self.probing_rows, 1)
        for a, b in zip(*pair_tiles(self.tiles), strict=True):
            alone = self.tiles == 1
            size = home_rows if a == b else 2 * home_rows
            cost = self.home_cost * (1 if a == b else 2) / self.tiles**2 + (
                with_probing_row * home_rows if len(self.cells) > 1 else 0
            )
            yield Task(size, cost + ROW_COST * size, (NO_TILE, NO_TILE) if alone else (int(a), int(b)))
        for a in range(self.tiles):
            for g in range(self.probing_tiles):
                size = home_rows + probing_rows
                yield Task(
                    size, with_probing_row * probing_rows / self.tiles + ROW_COST * size, (a, FIRST_PROBING_TILE + g)
                )


@dataclass(frozen=True)
class RegionPlan(Packed):
    """Which tasks a row goes to, by the cells it visits. Small: O(k + tasks), made on the driver.

    ``region`` (int64, k): the region that each cell is part of. ``tiles`` and ``probing_tiles`` (int32, regions): of a
    tiled region, else 0. ``first_task`` (int64, regions): place in ``keys`` of its first task; the others follow in the
    order of ``Region.tasks``. ``keys`` (int64): values of the grouping key. ``tasks``: what was estimated of each, in
    that order.
    """

    region: np.ndarray
    tiles: np.ndarray
    probing_tiles: np.ndarray
    first_task: np.ndarray
    keys: np.ndarray
    partitions: int
    tasks: tuple[Task, ...]

    def cells_of(self, key: int) -> np.ndarray:
        """Whether each cell is in the region that the task of that key compares: bool (k,)."""
        return self.region == self.regions_of(np.array([key]))[0]

    def only_probing(self, key: int) -> bool:
        """Whether the task of that key compares home rows with a tile of probing rows alone."""
        return self.tasks[int(np.flatnonzero(self.keys == key)[0])].tiles[1] >= FIRST_PROBING_TILE

    def regions_of(self, keys: np.ndarray) -> np.ndarray:
        """The regions that the tasks of those keys compare: int64 (n,)."""
        order = np.argsort(self.keys)
        tasks = order[np.searchsorted(self.keys, keys, sorter=order)]
        return np.searchsorted(self.first_task, tasks, side="right") - 1

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
            home = self.region[own[here]] == number
            parts += self._home_rows_in_tiles(number, here[home], hashes)
            parts += self._probing_rows_in_tiles(number, here[~home], hashes)
        return TaskAssignments.joined(parts)

    def _home_rows_in_tiles(self, region: int, rows: np.ndarray, hashes: np.ndarray) -> Iterator[tuple[Any, ...]]:
        """The tasks of a tiled region that its home rows ``rows`` take part in."""
        tiles, probing_tiles = int(self.tiles[region]), int(self.probing_tiles[region])
        keys = self.keys[self.first_task[region] :]
        tile = hashes[rows] % tiles
        if tiles == 1:
            yield rows, keys[tile], NO_TILE, NO_TILE
        else:
            for other in range(tiles):
                yield rows, keys[pair_place(tile, np.full_like(tile, other), tiles)], tile, other
        for other in range(probing_tiles):
            yield rows, keys[_pairs(tiles) + tile * probing_tiles + other], tile, FIRST_PROBING_TILE + other

    def _probing_rows_in_tiles(self, region: int, rows: np.ndarray, hashes: np.ndarray) -> Iterator[tuple[Any, ...]]:
        """The same of its probing rows."""
        tiles, probing_tiles = int(self.tiles[region]), int(self.probing_tiles[region])
        keys = self.keys[self.first_task[region] :]
        tile = hashes[rows] % probing_tiles
        for other in range(tiles):
            yield rows, keys[_pairs(tiles) + other * probing_tiles + tile], tile + FIRST_PROBING_TILE, other


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

    def where(self, which: np.ndarray) -> TaskAssignments:
        """Those marked, bool (m,), or numbered, in that order."""
        return TaskAssignments(self.rows[which], self.task[which], self.tile[which], self.other[which])

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
    pairs with probing rows are mostly dismissed by sketches.
    """
    k, dim = centroids.shape
    cut = _Cut.of(sample, centroids, max_rows=max_rows, slots=slots, sketched=sketched)
    probing_rows, places = sample.probing_rows(k), sample.places()
    crowded = probing_rows > _CROWDED * probing_rows.mean()
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
        probing_tiles=np.array([each.probing_tiles for each in regions], np.int32),
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
    home_rows: np.ndarray
    home_cost: np.ndarray
    probing_cost: np.ndarray
    centroids: np.ndarray
    max_rows: int
    max_cost: float

    @classmethod
    def of(cls, sample: VisitSample, centroids: np.ndarray, *, max_rows: int, slots: int, sketched: bool) -> _Cut:
        k, dim = centroids.shape
        home_rows = sample.home_rows(k)
        home_cost = home_rows**2 / 2
        probing_cost = home_rows * sample.probing_rows(k) * (SKETCHED_PAIR_COST if sketched else 1)
        # A few regions for each slot, so that slots end together.
        whole = float(home_cost.sum() + probing_cost.sum())
        max_cost = max(whole / default_partitions(4.0 * dim * home_rows.sum(), slots), 1.0)
        wide = centroids.astype(np.float64)
        return cls(sample.scale, home_rows, home_cost, probing_cost, wide, max_rows, max_cost)

    def regions(self, cells: np.ndarray, places: Visits) -> list[Region]:
        """The regions of ``cells``; ``places``: all visits of the sample's rows to them."""
        if not len(cells):
            return []
        whole = self._region(cells, places)
        fits = whole.rows <= 2 * self.max_rows
        if fits and (len(cells) == 1 or whole.home_cost + whole.probing_cost <= self.max_cost):
            return [whole]
        if len(cells) == 1:
            return [whole.tiled(self.max_rows)]
        parts = [region for part in self._halves(cells) for region in self.regions(part, _of_cells(places, part))]
        if not fits and whole.home_rows <= self.max_rows:
            tiled = whole.tiled(self.max_rows)
            if tiled.sent <= sum(part.sent for part in parts):
                return [tiled]
        return parts

    def _region(self, cells: np.ndarray, places: Visits) -> Region:
        home_rows = float(self.home_rows[cells].sum())
        probing_rows = max(len(np.unique(places.rows)) * self.scale - home_rows, 0.0)
        costs = float(self.home_cost[cells].sum()), float(self.probing_cost[cells].sum())
        return Region(cells, home_rows, probing_rows, *costs)

    def _halves(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weight = self.home_cost[cells] + self.probing_cost[cells] + 1
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
