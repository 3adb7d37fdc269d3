"""What a deduplication will cost, before it runs: ``spark-semdedup plan`` and ``SemDedup.plan``.

A sample of the rows is clustered, into as many clusters as a run will use or the sample can tell, and into a half and
a quarter of that. Rows that no fit has seen then give cluster sizes and visits. Pairs grow with the square of the rows;
other numbers of clusters are interpolated in logarithms (plans beside runs: benchmarks/RESULTS.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote

import numpy as np
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.analysis.sizing import FitCost, Hardware, Sizing, seconds
from spark_semdedup.clustering.faiss import fit_faiss
from spark_semdedup.clustering.sample import fit_sample
from spark_semdedup.clustering.settings import FIT_ROWS_PER_CENTROID, FitSettings, number_of_clusters, rows_to_fit
from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels.assignment import Cells, Visits
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.estimate import VISIT_ROWS, FittedSample, VisitSample
from spark_semdedup.pairwise.packing import default_max_rows, default_partitions, partitions_for, plan_clusters
from spark_semdedup.pairwise.regions import RegionPlan, plan_regions
from spark_semdedup.pairwise.screen import Screening
from spark_semdedup.pairwise.workload import WorkEstimate
from spark_semdedup.params import ClusteringParams, SemDedupStageParams
from spark_semdedup.spark.backend import slots
from spark_semdedup.spark.documents import Documents

PROBES = (1, 2, 3, 4)
"""Values of nProbe that a plan shows; 1 is the own cluster alone."""

_MOST_FITTED, _FITTED_NUMBERS = 1000, 1.1e8
"""Clusters at most that are fitted for a plan, so that it takes seconds: their number, and its square times the length
of vectors, which is what a fit takes (some 5 s of a core)."""

_LEAST_FILES = 12
"""Files that a plan looks at, at least: rows of one file are often alike."""

_MOST_ROWS = 1e15
"""Rows at most that are planned for; squares of more are no float64 numbers of use."""

_ROWS_PER_REGION = 32
"""Rows of the sample that a region must hold on average for regions to be cut from the sample itself."""


def estimate_cost(
    params: SemDedupStageParams,
    dataset: DataFrame,
    *,
    rows: float | None = None,
    hardware: Hardware | None = None,
    centroids: np.ndarray | None = None,
) -> Sizing:
    """Plans the deduplication of ``dataset`` with the Params of ``SemDedup``.

    ``rows``: of the whole data set, where ``dataset`` is a sample of it. ``hardware``: default this machine.
    ``centroids``: float32 (k, d), of a fitted model, instead of fitting any for its k. Raises ``SemDedupError`` where
    the input is empty, has more than ``rows`` rows, or fewer than k, and where Params contradict each other.
    """
    count = dataset.count()
    if not count:
        raise SemDedupError("the input is empty: it must have at least one row")
    total = float(count if rows is None else rows)
    if not count <= total <= _MOST_ROWS:
        raise SemDedupError(
            f"rows={total:g} cannot be used: it must be at least {count}, the rows of the input, which are a part of "
            f"them, and at most {_MOST_ROWS:g}"
        )
    fit = FitCost.of(params)
    k = len(centroids) if centroids is not None else _target_k(params, round(total))
    dim = Documents.of_params(dataset, params).some_length() or 1
    ladder = _ladder(k, count, dim, whole=total == count)
    fitted, unseen, valid = _sample(params, dataset, count, ladder[-1])
    if centroids is not None and centroids.shape[1] != fitted.shape[1]:
        raise SemDedupError(
            f"embeddings have length {fitted.shape[1]}, but the centroids have {centroids.shape[1]}: give their own"
        )
    total *= valid
    if centroids is None and k > total:
        k = number_of_clusters(params, round(total), valid=True)
        ladder = _ladder(k, len(fitted), dim, whole=True)
    spherical = params.value("distanceMeasure") == "cosine"
    sizes = {min(size, len(fitted)) for size in ladder} - (set() if centroids is None else {k})
    cells = {size: Cells.of(_fitted(params, fitted, size), spherical=spherical) for size in sorted(sizes)}
    if centroids is not None:
        cells[k] = Cells.of(centroids, spherical=spherical)
    hardware = hardware or Hardware.here(slots(dataset.sparkSession))
    max_rows = params.value("maxClusterRows") or default_max_rows(fitted.shape[1])
    frame = _Frame(total, fitted.shape[1], max_rows, hardware.slots, screens=not hardware.number_of_gpus)
    workloads, best, top = [], {}, max(cells)
    coverages = [*(Coverage(others=n - 1) for n in PROBES), Coverage(None, params.similarity_threshold())]
    for coverage in coverages:
        samples = {n: FittedSample(unseen, total / len(unseen)).visits(each, coverage) for n, each in cells.items()}
        points = [_Point.of(size, sample) for size, sample in samples.items()]
        curve = _Curve(coverage, frame, points, frame.cut(coverage, samples[top], cells[top]))
        measured = frame.measured(coverage, samples[k], cells[k]) if k in cells else None
        workloads.append(measured or curve.at(k))
        best[coverage.label] = curve.best_k(k, hardware, fit)
    home_rows = samples[k].home_rows(k) if k in cells else None
    spread = (
        None if home_rows is None else (float(home_rows.min()), float(np.median(home_rows)), float(home_rows.max()))
    )
    looked_at = len(fitted) + (len(unseen) if unseen is not fitted else 0)
    unknown = frozenset({coverages[-1].label} if top == 1 < k else ())
    return Sizing(tuple(workloads), best, spread, looked_at, hardware, None if centroids is not None else fit, unknown)


def _target_k(params: ClusteringParams, total: int) -> int:
    k = number_of_clusters(params, total)
    rows_to_fit(params.value("fitSampleRows"), k, total)  # refuses what a run refuses
    return k


def _ladder(k: int, count: int, dim: int, *, whole: bool) -> list[int]:
    """Numbers of clusters to fit, the largest last: k, or as many as a few seconds and the rows allow, and fewer.

    A run fits on all rows where they are few, and so does a plan for them. Otherwise some rows must be left that no fit
    has seen: rows of the fit lie nearer to their centroids than others do, and visit fewer cells.
    """
    k = min(k, _MOST_FITTED, max(1, math.isqrt(int(_FITTED_NUMBERS / dim))))
    all_fitted = whole and count <= FIT_ROWS_PER_CENTROID * k
    top = max(1, min(k, count if all_fitted else (count - count // 4) // FIT_ROWS_PER_CENTROID))
    return sorted({max(1, top // 4), max(1, top // 2), top})


def _sample(
    params: SemDedupStageParams, dataset: DataFrame, count: int, top: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Unit vectors to fit, and unit vectors that no fit sees, or the same where all are fitted: float32 (n, d). And
    the share of all rows that can be compared."""
    wanted = min(FIT_ROWS_PER_CENTROID * top, count)
    dataset, count = _some_files(dataset, count, wanted + VISIT_ROWS)
    sample = fit_sample(
        Documents.of_params(dataset, params),
        total=count,
        wanted=wanted,
        seed=params.value("seed"),
        dim=params.value("embeddingDim"),
        handle_invalid=params.value("handleInvalid"),
        on_driver=True,
        spare=VISIT_ROWS,
    )
    # A handful of rows tells nothing: hardly two of them are in one cluster.
    unseen = sample.spare if 8 * len(sample.spare) >= len(sample.array) else sample.array
    return sample.array, unseen, sample.valid_rows / count


def _some_files(dataset: DataFrame, count: int, wanted: int) -> tuple[DataFrame, int]:
    """Part of a dataset's files, chosen at random, and their rows, where all have many times the rows ``wanted``: to
    sample rows Spark decodes the vectors of all. The dataset itself where it does not read files as they are."""
    if count < 4 * wanted or dataset.is_cached:
        return dataset, count
    try:
        files = sorted(dataset.inputFiles())
        number = max(_LEAST_FILES, math.ceil(len(files) * 2 * wanted / count))
        if number >= len(files):
            return dataset, count
        chosen = np.random.default_rng(0).choice(files, number, replace=False).tolist()
        # By ``_metadata`` Spark opens no other files. It writes names otherwise than inputFiles: one slash, or no %20.
        forms = {form for file in chosen for form in (file, file.replace("file:///", "file:/", 1))}
        some = dataset.where(F.col("_metadata.file_path").isin([*forms, *map(unquote, forms)]))
        rows = some.count()
    except PySparkException:  # after a join or a union there is no one file that a row is of
        return dataset, count
    return (some, rows) if rows >= wanted else (dataset, count)


def _fitted(params: SemDedupStageParams, sample: np.ndarray, k: int) -> np.ndarray:
    plain = params.copy()
    plain.clear(plain.getParam("initMode"))
    settings = replace(FitSettings.from_params(plain, k), nInit=1)  # starts as a fit with the default does
    return fit_faiss(sample[: FIT_ROWS_PER_CENTROID * k], settings).centroids


@dataclass(frozen=True)
class _Frame:
    """What all workloads of a plan share."""

    rows: float
    dim: int
    max_rows: int
    slots: int
    screens: bool = True
    """Whether visits may be screened by codes."""

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
        return plan_regions(sample, cells.centroids, max_rows=self.max_rows, slots=self.slots, sketched=sketched)

    def _clusters(self, sample: VisitSample, cells: Cells) -> WorkEstimate:
        """The workload of rows that stay in their clusters, each of which is a task."""
        k = len(cells.centroids)
        home_rows = sample.home_rows(k)
        sizes = {int(cell): home_rows[cell] for cell in np.flatnonzero(home_rows)}
        plan = plan_clusters(home_rows[home_rows > 0], self.dim, max_rows=self.max_rows, slots=self.slots)
        work = WorkEstimate.of_clusters(sizes, self.dim, plan, self.max_rows)
        return replace(work, k=k, home_pairs=sample.pairs(k)[0])


@dataclass(frozen=True)
class _Point:
    """What was counted at one number of clusters, for one coverage, per row or per pair of rows."""

    k: int
    cells_per_row: float
    home_share: float
    """Of all ordered pairs of rows, those of two home rows of a cell."""
    probing_share: float
    """The same of a home row and a probing row."""

    @classmethod
    def of(cls, k: int, sample: VisitSample) -> _Point:
        home, probing = sample.pairs(k)
        rows = len(sample.own) * sample.scale
        return cls(k, sample.cells_per_row, 2 * home / rows**2, probing / rows**2)


@dataclass(frozen=True)
class _Curve:
    """What a coverage costs as a function of k, between and beyond the points that were counted."""

    coverage: Coverage
    frame: _Frame
    points: Sequence[_Point]
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
        tasks, sent, largest = self._tasks(k, cells, home_rows, probing_rows)
        return WorkEstimate(
            coverage=self.coverage,
            rows=rows,
            dim=self.frame.dim,
            k=k,
            cells_per_row=cells,
            home_pairs=rows * home_rows / 2,
            probing_pairs=rows * probing_rows,
            tasks_per_row=sent,
            tasks=tasks,
            partitions=partitions_for(tasks, 4.0 * self.frame.dim * rows * sent, self.frame.slots),
            rows_of_largest_task=int(min(2 * self.frame.max_rows, largest)),
        )

    def _interpolated(self, k: int, name: str, *, steepest: float) -> float:
        """A count at ``k``: linear in logarithms through the counts above 0 and beyond them; beyond the largest k it
        falls no steeper than by the power ``steepest``, which a single count follows."""
        counts = sorted((math.log(point.k), getattr(point, name)) for point in self.points if getattr(point, name) > 0)
        if not counts:
            return 0.0
        x, y = np.array([at for at, _ in counts]), np.log([count for _, count in counts])
        slopes = np.diff(y) / np.diff(x) if len(x) > 1 else np.array([steepest])
        far = math.log(_MOST_ROWS)
        ends = y[0] - slopes[0] * x[0], y[-1] + max(slopes[-1], steepest) * (far - x[-1])
        low = ([0.0], [ends[0]]) if x[0] else ([], [])
        return math.exp(np.interp(math.log(k), [*low[0], *x, far], [*low[1], *y, ends[1]]))

    def _tasks(self, k: int, cells: float, home_rows: float, probing_rows: float) -> tuple[int, float, float]:
        """Number of tasks, to how many of them a row is sent, and rows of the largest."""
        rows, max_rows = self.frame.rows, self.frame.max_rows
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
