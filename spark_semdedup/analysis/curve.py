"""What a coverage costs as a function of the number of clusters, from a few numbers that a sample was clustered into.

The sample is clustered into as many clusters as a run would use or the sample can tell, and into a half and a quarter
of that. Rows that no fit has seen then give cluster sizes and visits. Pairs grow with the square of the rows; other
numbers of clusters are interpolated in logarithms (plans beside runs: benchmarks/RESULTS.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spark_semdedup.analysis.sizing import FitCost, Hardware, seconds
from spark_semdedup.clustering.faiss import fit_faiss
from spark_semdedup.clustering.sample import FitSample
from spark_semdedup.clustering.settings import FIT_ROWS_PER_CENTROID, FitSettings
from spark_semdedup.kernels.assignment import Cells, Visits
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.estimate import FittedSample, VisitSample
from spark_semdedup.pairwise.packing import (
    default_max_rows,
    default_partitions,
    partitions_for,
    plan_clusters,
    rows_of_a_tile,
)
from spark_semdedup.pairwise.regions import RegionPlan, plan_regions
from spark_semdedup.pairwise.screen import Screening, code_bytes, most_codes, pays
from spark_semdedup.pairwise.workload import WorkEstimate
from spark_semdedup.params import ClusteringParams, SemDedupStageParams

_MOST_FITTED, _FITTED_NUMBERS = 1000, 4e8
"""Clusters at most that are fitted for a plan, so that it takes seconds: their number, and its square times the length
of vectors, which is what a fit takes (some 6 s of a core)."""

FITTED_FOR_CHOICE = 1e8
"""The same for a choice of k, which is a part of each run (some 2 s of a core)."""

MOST_ROWS = 1e15
"""Rows at most that are planned for; squares of more are no float64 numbers of use."""

_ROWS_PER_REGION = 32
"""Rows of the sample that a region must hold on average for regions to be cut from the sample itself."""


def ladder(k: int, count: int, dim: int, *, whole: bool, numbers: float = _FITTED_NUMBERS) -> list[int]:
    """Numbers of clusters to fit, the largest last: k, or as many as a few seconds and the rows allow, and fewer.

    A run fits on all rows where they are few, and so does a plan for them. Otherwise some rows must be left that no fit
    has seen: rows of the fit lie nearer to their centroids than others do, and visit fewer cells.
    """
    k = min(k, _MOST_FITTED, max(1, math.isqrt(int(numbers / dim))))
    all_fitted = whole and count <= FIT_ROWS_PER_CENTROID * k
    top = max(1, min(k, count if all_fitted else (count - count // 4) // FIT_ROWS_PER_CENTROID))
    return sorted({max(1, top // 4), max(1, top // 2), top})


def rows_beside(sample: FitSample) -> np.ndarray:
    """Rows that no fit on the ``sample`` sees, if there are enough of them; else those that it sees."""
    # A handful of rows tells nothing: hardly two of them are in one cluster.
    return sample.spare if 8 * len(sample.spare) >= len(sample.array) else sample.array


def _fitted(params: ClusteringParams, sample: np.ndarray, k: int) -> np.ndarray:
    plain = params.copy()
    plain.clear(plain.getParam("initMode"))
    settings = replace(FitSettings.from_params(plain, k), nInit=1)  # starts as a fit with the default does
    return fit_faiss(sample[: FIT_ROWS_PER_CENTROID * k], settings).centroids


@dataclass(frozen=True)
class ClusteredSample:
    """A sample of rows, clustered into several numbers of clusters."""

    cells: dict[int, Cells]
    """By their number."""
    unseen: FittedSample
    """Rows that no fit has seen, if there are enough."""

    @classmethod
    def of_sample(cls, params: ClusteringParams, sample: FitSample, sizes: Iterable[int]) -> ClusteredSample:
        """Of a sample on the driver."""
        unseen = rows_beside(sample)
        return cls.of(params, sample.array, FittedSample(unseen, sample.valid_rows / len(unseen)), sizes)

    @classmethod
    def of(
        cls, params: ClusteringParams, fitted: np.ndarray, unseen: FittedSample, sizes: Iterable[int]
    ) -> ClusteredSample:
        """``fitted``: float32 unit vectors (n, d). ``sizes``: numbers of clusters."""
        spherical = params.value("distanceMeasure") == "cosine"
        centroids = {size: _fitted(params, fitted, size) for size in sorted({min(size, len(fitted)) for size in sizes})}
        return cls({size: Cells.of(each, spherical=spherical) for size, each in centroids.items()}, unseen)

    def of_sizes(self, sizes: Iterable[int]) -> ClusteredSample:
        """As clustered into those numbers of clusters alone."""
        most = max(self.cells)  # fewer where the sample has fewer rows
        return replace(self, cells={size: self.cells[size] for size in {min(each, most) for each in sizes}})

    def visits(self, coverage: Coverage) -> dict[int, VisitSample]:
        """Of each number of clusters."""
        return {size: self.unseen.visits(cells, coverage) for size, cells in self.cells.items()}

    def curve(self, coverage: Coverage, frame: Frame, visits: Mapping[int, VisitSample]) -> Curve:
        points, top = [Point.of(size, visits[size]) for size in self.cells], max(self.cells)
        return Curve(coverage, frame, points, frame.cut(coverage, visits[top], self.cells[top]))


@dataclass(frozen=True)
class Frame:
    """What all workloads of a plan share."""

    rows: float
    dim: int
    max_rows: int
    slots: int
    screens: bool = True
    """Whether visits may be screened by codes."""

    @classmethod
    def of(cls, params: SemDedupStageParams, rows: float, dim: int, hardware: Hardware) -> Frame:
        max_rows = params.value("maxClusterRows") or default_max_rows(dim)
        return cls(rows, dim, max_rows, hardware.slots, screens=not hardware.number_of_gpus)

    def measured(self, coverage: Coverage, sample: VisitSample, cells: Cells) -> WorkEstimate | None:
        """The workload as a run would plan it; None where the sample has too few rows for each region."""
        if sample.scale > 1 and len(sample.own) < _ROWS_PER_REGION * self._pairs_of_tiles(sample, len(cells.centroids)):
            return None
        if not coverage.visits:
            return self._clusters(sample, cells)
        plan = self._plan(coverage, sample, cells)
        if sample.scale > 1 and len(sample.own) < _ROWS_PER_REGION * len(plan.tasks):
            return None
        work = WorkEstimate.of_regions(coverage, sample, cells.centroids, plan)
        screening = None
        if self.screens:
            screening = Screening.of(coverage, sample, cells.centroids, work.shuffle_bytes, self.max_rows, self.slots)
        if screening is None:
            return work
        alone = VisitSample(sample.own, Visits.none(), sample.scale)  # hardly any visit is kept
        after = WorkEstimate.of_regions(coverage, alone, cells.centroids, self._plan(coverage, alone, cells))
        return work.screened(after, screening.bytes)

    def _pairs_of_tiles(self, sample: VisitSample, k: int) -> float:
        """Tasks of cells too large for one, at most, counted without planning each: there may be millions."""
        home_rows, probing_rows = sample.home_rows(k), sample.probing_rows(k)
        tiles, probing_tiles = np.ceil(home_rows / self.max_rows), np.ceil(probing_rows / self.max_rows)
        tasks = tiles * (tiles + 1) / 2 + tiles * probing_tiles
        return float(tasks[home_rows + probing_rows > 2 * self.max_rows].sum())

    def cut(self, coverage: Coverage, sample: VisitSample, cells: Cells) -> tuple[int, float]:
        """Regions, and to how many of them a row is sent: with as many of the rows as leave each region some of the
        sample's, and some cells."""
        m, k = len(sample.own), len(cells.centroids)
        rows = min(self.rows, self.max_rows * min(m / _ROWS_PER_REGION, k / (2 * sample.cells_per_row)))
        plan = self._plan(coverage, replace(sample, scale=rows / m), cells)
        return len(plan.tasks), max(1.0, plan.rows_sent / rows)

    def _plan(self, coverage: Coverage, sample: VisitSample, cells: Cells) -> RegionPlan:
        sketched = coverage.sketched(self.dim)
        most = rows_of_a_tile(self.max_rows, self.dim, sample.cells_per_row)
        return plan_regions(sample, cells.centroids, max_rows=most, slots=self.slots, sketched=sketched)

    def _clusters(self, sample: VisitSample, cells: Cells) -> WorkEstimate:
        """The workload of rows that stay in their clusters, each of which is a task."""
        k = len(cells.centroids)
        home_rows = sample.home_rows(k)
        sizes = {int(cell): home_rows[cell] for cell in np.flatnonzero(home_rows)}
        plan = plan_clusters(home_rows[home_rows > 0], self.dim, max_rows=self.max_rows, slots=self.slots)
        work = WorkEstimate.of_clusters(sizes, self.dim, plan, self.max_rows)
        return replace(work, k=k, home_pairs=sample.pairs(k)[0])


@dataclass(frozen=True)
class Point:
    """What was counted at one number of clusters, for one coverage, per row or per pair of rows."""

    k: int
    cells_per_row: float
    home_share: float
    """Of all ordered pairs of rows, those of two home rows of a cell."""
    probing_share: float
    """The same of a home row and a probing row."""

    @classmethod
    def of(cls, k: int, sample: VisitSample) -> Point:
        home, probing = sample.pairs(k)
        rows = len(sample.own) * sample.scale
        return cls(k, sample.cells_per_row, 2 * home / rows**2, probing / rows**2)


@dataclass(frozen=True)
class Curve:
    """What a coverage costs as a function of k, between and beyond the points that were counted."""

    coverage: Coverage
    frame: Frame
    points: Sequence[Point]
    cut: tuple[int, float]
    """A number of regions, and to how many of them a row is sent."""

    def at(self, k: int) -> WorkEstimate:
        """The workload at any k, regions by what they would hold."""
        rows, others = self.frame.rows, self.coverage.others
        cells = 1.0 + others if others is not None else self._interpolated(k, "cells_per_row", steepest=0)
        cells = max(1.0, min(k, cells))
        # Home rows and probing rows that a row meets in its cell, on average; itself at least.
        home_rows = max(1.0, rows * min(1.0, self._interpolated(k, "home_share", steepest=-1)))
        probing_rows = rows * self._interpolated(k, "probing_share", steepest=-1) or home_rows * (cells - 1)
        probing_rows = min(probing_rows if k > 1 else 0.0, rows - home_rows)
        direct = WorkEstimate(
            coverage=self.coverage,
            rows=rows,
            dim=self.frame.dim,
            k=k,
            cells_per_row=cells,
            home_pairs=rows * home_rows / 2,
            probing_pairs=rows * probing_rows,
            **self._sent(k, cells, home_rows, probing_rows),
        )
        return self._screened(direct, home_rows, probing_rows) if self.frame.screens else direct

    def _screened(self, direct: WorkEstimate, home_rows: float, probing_rows: float) -> WorkEstimate:
        """The workload with visits screened, where that pays: hardly any visit is kept."""
        rows, dim, cells = self.frame.rows, self.frame.dim, direct.cells_per_row
        if not pays(self.coverage, rows, dim, direct.shuffle_bytes):
            return direct
        sent = self._tasks(direct.k, cells, home_rows, probing_rows, most_codes(self.frame.max_rows, dim))[1]
        codes = code_bytes(rows, dim, sent, rows * (cells - 1))
        if not pays(self.coverage, rows, dim, direct.shuffle_bytes, codes):
            return direct
        after = replace(direct, cells_per_row=1.0, **self._sent(direct.k, 1.0, home_rows, 0.0))
        return direct.screened(after, codes)

    def _sent(self, k: int, cells: float, home_rows: float, probing_rows: float) -> dict[str, Any]:
        """Fields of the workload: its tasks and what is sent to them."""
        most = rows_of_a_tile(self.frame.max_rows, self.frame.dim, cells)
        tasks, sent, largest = self._tasks(k, cells, home_rows, probing_rows, most)
        return {
            "tasks_per_row": sent,
            "tasks": tasks,
            "partitions": partitions_for(tasks, 4.0 * self.frame.dim * self.frame.rows * sent, self.frame.slots),
            "rows_of_largest_task": int(min(2 * most, largest)),
        }

    def _interpolated(self, k: int, name: str, *, steepest: float) -> float:
        """A count at ``k``: linear in logarithms through the counts above 0 and beyond them; beyond the largest k it
        falls no steeper than by the power ``steepest``, which a single count follows."""
        counts = sorted((math.log(point.k), getattr(point, name)) for point in self.points if getattr(point, name) > 0)
        if not counts:
            return 0.0
        x, y = np.array([at for at, _ in counts]), np.log([count for _, count in counts])
        slopes = np.diff(y) / np.diff(x) if len(x) > 1 else np.array([steepest])
        far = math.log(MOST_ROWS)
        ends = y[0] - slopes[0] * x[0], y[-1] + max(slopes[-1], steepest) * (far - x[-1])
        low = ([0.0], [ends[0]]) if x[0] else ([], [])
        return math.exp(np.interp(math.log(k), [*low[0], *x, far], [*low[1], *y, ends[1]]))

    def _tasks(
        self, k: int, cells: float, home_rows: float, probing_rows: float, max_rows: int
    ) -> tuple[int, float, float]:
        """Number of tasks, to how many of them a row is sent, and rows of the largest, with tiles of ``max_rows``."""
        rows = self.frame.rows
        if (home_rows > max_rows and not probing_rows) or home_rows + probing_rows > 2 * max_rows:  # cells are tiled
            tiles, probing_tiles = math.ceil(home_rows / max_rows), math.ceil(probing_rows / max_rows)
            pairs_of_tiles = tiles * (tiles + 1) // 2 + tiles * probing_tiles
            return math.ceil(rows / home_rows * pairs_of_tiles), tiles * cells + probing_tiles, 2 * max_rows
        if not self.coverage.visits:
            return k, 1.0, 2 * home_rows  # the largest cluster has about three times the mean's rows
        # Regions of any number, from all cells in one to one for each cell, and rows sent to each by interpolation.
        regions = np.unique(np.geomspace(1, k, 500).round())
        known, sent_known = min(self.cut[0], k), min(self.cut[1], cells)
        x, y = np.log([1, known, k]), np.log([1.0, sent_known if known > 1 else 1.0, cells if k > 1 else 1.0])
        sent = np.exp(np.interp(np.log(regions), x, y))
        least = 1.5 * default_partitions(4.0 * self.frame.dim * rows, self.frame.slots)
        fits = (regions >= min(k, least)) & (1.5 * max_rows * regions >= rows * sent)
        i = int(np.argmax(fits)) if fits.any() else -1
        return int(regions[i]), float(sent[i]), 1.5 * rows * float(sent[i]) / regions[i]

    def best_k(self, k: int, hardware: Hardware, fit: FitCost) -> int:
        """Of k and its multiples by powers of √2 from 1/16 to 16, as far as they can be fitted, that of least time."""
        most = max(1, min(self.frame.rows // 8, fit.most_clusters))
        candidates = {int(max(1, min(round(k * 2 ** (i / 2)), most))) for i in range(-8, 9)}
        return min(candidates, key=lambda each: (seconds(self.at(each), hardware, fit), each))
