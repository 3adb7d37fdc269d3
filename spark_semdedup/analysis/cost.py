"""What a deduplication will cost, before it runs: ``spark-semdedup plan`` and ``SemDedup.plan``.

A sample of the rows is clustered, into as many clusters as will be used or as the sample can tell, and into a half and
a quarter of that. Rows that no fit has seen then say how full clusters are and how many of them rows visit. From the
sample to all rows, pairs grow with the square; from these numbers of clusters to others, counts are taken to follow
powers of k (plans beside runs: benchmarks/RESULTS.md).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pyspark.sql import DataFrame

from spark_semdedup.clustering.faiss import fit_faiss
from spark_semdedup.clustering.sample import fit_sample
from spark_semdedup.clustering.settings import FIT_ROWS_PER_CENTROID, FitSettings, number_of_clusters, rows_to_fit
from spark_semdedup.errors import SemDedupError
from spark_semdedup.formatting import duration, short, short_bytes
from spark_semdedup.kernels.assignment import Cells
from spark_semdedup.kernels.sketch import DIRECTIONS
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.estimate import VISIT_ROWS, FittedSample, VisitSample
from spark_semdedup.pairwise.packing import default_max_rows, default_partitions, partitions_for, plan_clusters
from spark_semdedup.pairwise.regions import RegionPlan, plan_regions
from spark_semdedup.pairwise.workload import WorkEstimate
from spark_semdedup.params import ClusteringParams, SemDedupStageParams
from spark_semdedup.spark.backend import slots
from spark_semdedup.spark.documents import Documents

PROBES = (1, 2, 3, 4)
"""Values of nProbe that a plan shows; 1 is the own cluster alone."""

_MOST_FITTED = 1000
"""Clusters at most that are fitted for a plan, so that it takes seconds."""

_MOST_ROWS = 1e15
"""Rows at most that are planned for; squares of more are no float64 numbers of use."""

_ROWS_PER_REGION = 32
"""Rows of the sample that a region must hold on average for regions to be cut from the sample itself."""


@dataclass(frozen=True)
class Hardware:
    """What the job will run on. ``flops``: float32 operations per second of all processors together, as a product
    reaches them; ``bytes_per_second``: vectors moved to their tasks, all together; ``slots``: tasks at once."""

    flops: float
    bytes_per_second: float
    slots: int
    described: str

    CROSSING = 90e6
    """Bytes per second and core that cross from shuffle files through the JVM to Python (RESULTS.md: 1.5 GB in 8.8 s on
    two cores)."""

    CORES_PER_GPU = 8

    @classmethod
    def here(cls, task_slots: int) -> Hardware:
        """As many cores as tasks run at once, each like one of this machine: a short product tells its speed."""
        flops = _product_speed() / (os.cpu_count() or 1) * task_slots
        described = f"{task_slots} cores as those here, {flops / 1e9:,.0f} GFLOP/s"
        return cls(flops, cls.CROSSING * task_slots, task_slots, described)

    @classmethod
    def gpus(cls, number: int, tflops: float, network_gbps: float) -> Hardware:
        """``tflops``: of one GPU at the precision that screens, of which half is taken to be reached;
        ``network_gbps``: 10⁹ bits per second of network for each GPU."""
        move = min(network_gbps / 8 * 1e9, cls.CORES_PER_GPU * cls.CROSSING)
        words = f"{number} GPUs of {tflops:g} TFLOP/s, {network_gbps:g} Gbit/s and {cls.CORES_PER_GPU} cores each"
        return cls(number * tflops * 1e12 / 2, number * move, number, words)


def _product_speed() -> float:
    a = np.ones((1024, 1024), np.float32)
    best = math.inf
    for _ in range(4):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best


@dataclass(frozen=True)
class Sizing:
    """The answer of a plan: what each coverage costs at the k that would be used, and the k of least cost."""

    workloads: tuple[WorkEstimate, ...]
    best_k: dict[str, int]
    """By label of the coverage: the number of clusters for which the time is least."""
    cluster_rows: tuple[float, float, float] | None
    """Rows of the smallest, the median and the largest cluster; None where k is larger than what the sample was
    clustered into, and all is extrapolated."""
    sample_rows: int
    hardware: Hardware
    fit: FitCost | None
    """None where centroids are those of a model."""

    def as_text(self) -> str:
        """A table with one line for each coverage."""
        first = self.workloads[0]
        facts = [
            ("rows", f"{short(first.rows)} of dimension {first.dim}; {self.sample_rows:,} were looked at"),
            ("clusters", f"{first.k:,}{self._sizes()}"),
            ("hardware", self.hardware.described),
        ]
        lines = [_HEAD, *(self._line(work) for work in self.workloads)]
        width = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
        table = ["  ".join([line[0].ljust(width[0]), *map(str.rjust, line[1:], width[1:])]) for line in lines]
        return "\n".join(
            [*(f"  {name:<8}  {text}" for name, text in facts), "", *(f"  {t}" for t in table), "", _NOTES]
        )

    def _sizes(self) -> str:
        if self.cluster_rows is None:
            return " (more than the rows looked at can tell: extrapolated)"
        least, median, most = map(short, self.cluster_rows)
        return f", of {least} to {most} rows, half of them above {median}"

    def facts(self) -> list[dict[str, Any]]:
        """One dictionary for each coverage."""
        return [
            {"coverage": work.coverage.label, "rows": work.rows, "dimension": work.dim, "k": work.k}
            | work.facts()
            | {"seconds": seconds(work, self.hardware, self.fit), "best_k": self.best_k[work.coverage.label]}
            for work in self.workloads
        ]

    def _line(self, work: WorkEstimate) -> tuple[str, ...]:
        return (
            work.coverage.label,
            f"{work.cells_per_row:.1f}",
            short(work.pairs),
            f"{work.tasks_per_row:.1f}",
            short_bytes(work.shuffle_bytes),
            short_bytes(work.task_bytes),
            f"{work.partitions:,}",
            duration(seconds(work, self.hardware, self.fit)),
            f"{self.best_k[work.coverage.label]:,}",
        )


_HEAD = (
    "coverage",
    "clusters/row",
    "pairs",
    "tasks/row",
    "shuffle",
    "largest task",
    "partitions",
    "time",
    "best k",
)

_NOTES = """\
  pairs: to be compared; exact dismisses most of those across clusters by a sketch, where vectors are long enough.
  time: fitting, assigning, moving and comparing at the hardware's speed; reading and writing data come on top.
  best k: the number of clusters of least time; with exact the duplicates are the same for any k. What other numbers
  separate and find: spark-semdedup explore choose-k."""


def seconds(work: WorkEstimate, hardware: Hardware, fit: FitCost | None) -> float:
    """Of what depends on k and coverage, if all goes at the hardware's speed: fitting (None: no fit), assigning, moving
    rows to their tasks and comparing them. Reading the input and writing the result come on top."""
    sketched = DIRECTIONS + 1 if work.coverage.sketched(work.dim) else work.dim
    products = fit.products(work) if fit else 0.0
    products += work.rows * work.k * work.dim + work.native_pairs * work.dim + work.guest_pairs * sketched
    return 2 * products / hardware.flops + work.shuffle_bytes / hardware.bytes_per_second


@dataclass(frozen=True)
class FitCost:
    """What it takes to fit centroids. ``sample_rows``: ``fitSampleRows``; ``iterations``: of all starts together."""

    sample_rows: int | None
    iterations: int

    @classmethod
    def of(cls, params: ClusteringParams) -> FitCost:
        starts = params.value("nInit") if isinstance(params.value("initMode"), str) else 1
        return cls(params.value("fitSampleRows"), starts * min(params.value("maxIter"), _FIT_ITERATIONS))

    def products(self, work: WorkEstimate) -> float:
        """Products of two numbers: of the rows that are fitted on with all centroids, time after time."""
        return float(rows_to_fit(self.sample_rows, work.k, int(work.rows)) * work.k * work.dim * self.iterations)

    @property
    def most_clusters(self) -> float:
        """For which there are rows enough to fit their centroids on."""
        return self.sample_rows or math.inf


_FIT_ITERATIONS = 10
"""About as many as a fit takes until it stops by itself."""


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
    there = dataset.count()
    if not there:
        raise SemDedupError("the input is empty: it must have at least one row")
    total = float(there if rows is None else rows)
    if not there <= total <= _MOST_ROWS:
        raise SemDedupError(
            f"rows={total:g} cannot be used: it must be at least {there}, the rows of the input, which are a part of "
            f"them, and at most {_MOST_ROWS:g}"
        )
    fit = FitCost.of(params)
    k = len(centroids) if centroids is not None else _target_k(params, round(total))
    ladder = _ladder(k, there, whole=total == there)
    fitted, unseen, valid = _sample(
        params, Documents.of(dataset, params.value("idCol"), params.value("embeddingCol")), there, ladder[-1]
    )
    if centroids is not None and centroids.shape[1] != fitted.shape[1]:
        raise SemDedupError(
            f"embeddings have length {fitted.shape[1]}, but the centroids have {centroids.shape[1]}: give their own"
        )
    total *= valid
    if centroids is None and k > total:
        k = number_of_clusters(params, round(total), valid=True)
        ladder = _ladder(k, len(fitted), whole=True)
    ladder = sorted({min(size, len(fitted)) for size in ladder})
    cells = {size: _fitted_cells(params, fitted, size) for size in ladder if centroids is None or size != k}
    if centroids is not None:
        cells[k] = Cells.of(centroids, spherical=_spherical(params))
    hardware = hardware or Hardware.here(slots(dataset.sparkSession))
    max_rows = params.value("maxClusterRows") or default_max_rows(fitted.shape[1])
    frame = _Frame(total, fitted.shape[1], max_rows, hardware.slots)
    workloads, best = [], {}
    for coverage in _coverages(params):
        samples = {size: _visits(unseen, these, coverage, total) for size, these in cells.items()}
        top = max(cells)
        cut = frame.cut(coverage, samples[top], cells[top])
        curve = _Curve(coverage, frame, [_point(size, sample) for size, sample in samples.items()], cut)
        measured = frame.measured(coverage, samples[k], cells[k]) if k in cells else None
        workloads.append(measured or curve.at(k))
        best[coverage.label] = curve.best_k(k, hardware, fit)
    spread = _spread(samples[k].natives(k)) if k in cells else None
    looked_at = len(fitted) + (len(unseen) if unseen is not fitted else 0)
    return Sizing(tuple(workloads), best, spread, looked_at, hardware, None if centroids is not None else fit)


def _target_k(params: ClusteringParams, total: int) -> int:
    k = number_of_clusters(params, total)
    rows_to_fit(params.value("fitSampleRows"), k, total)  # refuses what a run refuses
    return k


def _ladder(k: int, there: int, *, whole: bool) -> list[int]:
    """Numbers of clusters to fit, the largest last: k, or as many as a few seconds and the rows allow, and fewer.

    A run fits on all rows where there are few, and so does a plan for them. Otherwise rows must be left that no fit has
    seen: those that it has lie nearer to their centroids than others do, and visit fewer cells.
    """
    k = min(k, _MOST_FITTED)
    most = there if whole and there <= FIT_ROWS_PER_CENTROID * k else (there - there // 4) // FIT_ROWS_PER_CENTROID
    top = max(1, min(k, most))
    return sorted({max(1, top // 4), max(1, top // 2), top})


def _sample(
    params: SemDedupStageParams, documents: Documents, there: int, top: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Unit vectors to fit, and unit vectors that no fit sees, or the same where all are fitted: float32 (n, d). And
    the share of all rows that can be compared."""
    sample = fit_sample(
        documents,
        total=there,
        wanted=min(FIT_ROWS_PER_CENTROID * top, there),
        seed=params.value("seed"),
        dim=params.value("embeddingDim"),
        handle_invalid=params.value("handleInvalid"),
        on_driver=True,
        spare=VISIT_ROWS,
    )
    # A handful of rows tells nothing: hardly two of them are in one cluster.
    unseen = sample.spare if 8 * len(sample.spare) >= len(sample.array) else sample.array
    return sample.array, unseen, sample.valid_rows / there


def _fitted_cells(params: SemDedupStageParams, sample: np.ndarray, k: int) -> Cells:
    plain = params.copy()
    plain.clear(plain.getParam("initMode"))
    settings = replace(FitSettings.from_params(plain, k), initMode="random", nInit=1)
    fit = fit_faiss(sample[: FIT_ROWS_PER_CENTROID * k], settings)
    return Cells.of(fit.centroids, spherical=_spherical(params))


def _spherical(params: SemDedupStageParams) -> bool:
    return bool(params.value("distanceMeasure") == "cosine")


def _coverages(params: SemDedupStageParams) -> list[Coverage]:
    found = [Coverage(others=probes - 1) for probes in PROBES]
    return [*found, Coverage(None, params.similarity_threshold())]


def _visits(unseen: np.ndarray, cells: Cells, coverage: Coverage, total: float) -> VisitSample:
    return FittedSample(unseen, total / len(unseen)).visits(cells, coverage)


def _spread(natives: np.ndarray) -> tuple[float, float, float]:
    return float(natives.min()), float(np.median(natives)), float(natives.max())


@dataclass(frozen=True)
class _Frame:
    """What all workloads of a plan share."""

    rows: float
    dim: int
    max_rows: int
    slots: int

    def measured(self, coverage: Coverage, sample: VisitSample, cells: Cells) -> WorkEstimate | None:
        """The workload as a run would plan it; None where the sample has too few rows for each region."""
        if sample.scale > 1 and len(sample.own) < _ROWS_PER_REGION * self._pairs_of_tiles(sample, len(cells.centroids)):
            return None
        if not coverage.visits:
            return self._clusters(sample, cells)
        plan = self._plan(coverage, sample, cells)
        if sample.scale > 1 and len(sample.own) < _ROWS_PER_REGION * len(plan.tasks):
            return None
        return WorkEstimate.of_regions(coverage, sample, cells.centroids, plan)

    def _pairs_of_tiles(self, sample: VisitSample, k: int) -> float:
        """Tasks of cells too large for one, at most, counted without planning each: there may be millions."""
        natives, guests = sample.natives(k), sample.guests(k)
        tiles, guest_tiles = np.ceil(natives / self.max_rows), np.ceil(guests / self.max_rows)
        tasks = tiles * (tiles + 1) / 2 + tiles * guest_tiles
        return float(tasks[natives + guests > 2 * self.max_rows].sum())

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
        natives = sample.natives(k)
        sizes = {int(cell): natives[cell] for cell in np.flatnonzero(natives)}
        plan = plan_clusters(natives[natives > 0], self.dim, max_rows=self.max_rows, slots=self.slots)
        work = WorkEstimate.of_clusters(sizes, self.dim, plan, self.max_rows)
        return replace(work, k=k, native_pairs=sample.pairs(k)[0])


@dataclass(frozen=True)
class _Point:
    """What was counted at one number of clusters, for one coverage, per row or per pair of rows."""

    k: int
    cells_per_row: float
    native_share: float
    """Of all ordered pairs of rows, those of two natives of a cell."""
    guest_share: float
    """The same of a native and a guest."""


def _point(k: int, sample: VisitSample) -> _Point:
    rows = len(sample.own) * sample.scale
    native, guest = sample.pairs(k)
    return _Point(k, sample.cells_per_row, 2 * native / rows**2, guest / rows**2)


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
        rows = self.frame.rows
        cells = self._cells(k)
        # Natives and guests that a row finds in its cell, on average; itself at least.
        natives = max(1.0, rows * min(1.0, self._power(k, lambda point: point.native_share, least_slope=-1)))
        guests = rows * self._power(k, lambda point: point.guest_share, least_slope=-1) if k > 1 else 0.0
        guests = min(guests, rows - natives)
        tasks, sent, largest = self._tasks(k, cells, natives, guests)
        return WorkEstimate(
            coverage=self.coverage,
            rows=rows,
            dim=self.frame.dim,
            k=k,
            cells_per_row=cells,
            native_pairs=rows * natives / 2,
            guest_pairs=rows * guests,
            tasks_per_row=sent,
            tasks=tasks,
            partitions=partitions_for(tasks, 4.0 * self.frame.dim * rows * sent, self.frame.slots),
            rows_of_largest_task=int(min(2 * self.frame.max_rows, largest)),
        )

    def _cells(self, k: float) -> float:
        """Clusters per row. Beyond the largest k counted they are not taken to get fewer."""
        return max(1.0, min(k, self._power(k, lambda point: point.cells_per_row, least_slope=0)))

    def _tasks(self, k: int, cells: float, natives: float, guests: float) -> tuple[int, float, float]:
        """Number of tasks, to how many of them a row is sent, and rows of the largest."""
        max_rows = self.frame.max_rows
        if (natives > max_rows and not guests) or natives + guests > 2 * max_rows:  # cells are tiled
            tiles, guest_tiles = math.ceil(natives / max_rows), math.ceil(guests / max_rows)
            pairs_of_tiles = tiles * (tiles + 1) // 2 + tiles * guest_tiles
            sent = tiles + guest_tiles + (cells - 1) * tiles
            return math.ceil(self.frame.rows / natives * pairs_of_tiles), sent, 2 * max_rows
        if not self.coverage.visits:
            return k, 1.0, 2 * natives  # the largest cluster has about three times the mean's rows
        regions, sent = self._regions(k, cells)
        return regions, sent, 1.5 * self.frame.rows * sent / regions

    def _regions(self, k: int, cells: float) -> tuple[int, float]:
        """Number of regions, and to how many of them a row is sent."""
        least = default_partitions(4.0 * self.frame.dim * self.frame.rows, self.frame.slots)
        regions, sent = 1, 1.0
        for _ in range(20):
            filled = self.frame.rows * sent / (1.5 * self.frame.max_rows)
            regions = min(k, math.ceil(max(filled, 1.5 * least)))
            sent = self._sent(regions, k, cells)
        return regions, sent

    def _sent(self, regions: int, k: int, cells: float) -> float:
        """To how many of ``regions`` a row is sent that visits so many of ``k`` ``cells``: in logarithms, on the lines
        from one region through those that were cut to regions of one cell."""
        known, sent = min(self.cut[0], k), min(self.cut[1], cells)
        if regions >= k:
            return cells
        if regions <= known:
            return float(sent ** (math.log(regions) / math.log(known))) if known > 1 else sent
        return float(sent * (cells / sent) ** (math.log(regions / known) / math.log(k / known)))

    def _power(self, k: float, of: Callable[[_Point], float], *, least_slope: float) -> float:
        """A count at ``k``: in logarithms, on the straight line through the nearest two points, which beyond the
        largest falls at most as steeply as ``least_slope`` says, and through a single one exactly so. Counts of nothing
        have no logarithm and are left out."""
        points = sorted((point for point in self.points if of(point) > 0), key=lambda point: point.k)
        values = [of(point) for point in points]
        if len(points) < 2:
            return sum(value * (k / point.k) ** least_slope for value, point in zip(values, points, strict=True))
        i = int(np.clip(np.searchsorted([point.k for point in points], k), 1, len(points) - 1))
        low, high = points[i - 1].k, points[i].k
        slope = math.log(values[i] / values[i - 1]) / math.log(high / low)
        if k > points[-1].k:
            slope = max(slope, least_slope)
        return float(values[i] * (k / high) ** slope)

    def best_k(self, k: int, hardware: Hardware, fit: FitCost) -> int:
        """Of k and its multiples by powers of √2 from 1/16 to 16, as far as they can be fitted, that of least time."""
        most = max(1, min(self.frame.rows // 8, fit.most_clusters))
        candidates = {int(max(1, min(round(k * 2 ** (i / 2)), most))) for i in range(-8, 9)}
        return min(candidates, key=lambda each: (seconds(self.at(each), hardware, fit), each))
