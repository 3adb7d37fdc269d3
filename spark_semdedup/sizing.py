"""What a deduplication will cost, before it runs: ``spark-semdedup plan`` and ``SemDedup.plan``.

A sample of the rows is clustered into a few numbers of clusters, up to the one that will be used or as far as the sample
reaches, and rows that no fit has seen say how many cells rows visit and how clusters are filled. What is counted on the
sample grows with the rows as written here; towards other numbers of clusters it is interpolated, or extrapolated, by
powers of k, which it follows well (see RESULTS.md for plans beside runs).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.clusterers import FitSettings, fit_faiss
from spark_semdedup.clustering import FIT_ROWS_PER_CENTROID, VISIT_ROWS
from spark_semdedup.columns import embedding_column, id_column
from spark_semdedup.coverage import Coverage
from spark_semdedup.devices import slots
from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels.assignment import Cells, assign
from spark_semdedup.kernels.sketch import DIRECTIONS
from spark_semdedup.params import SemDedupParams
from spark_semdedup.planning import default_max_rows, default_partitions, worker_bytes
from spark_semdedup.regions import VisitSample, plan_regions
from spark_semdedup.sampling import fit_sample

PROBES = (2, 3, 4)
"""Values of nProbe that a plan shows."""

_MOST_FITTED = 1000
"""Clusters at most that are fitted for a plan, so that it takes seconds."""

_ROW_BYTES = 120
"""What a row takes in a shuffle beside its vector and the numbers of its cells: id, rank key, headers (measured)."""

_ROWS_PER_REGION = 32
"""Rows of the sample that a region must hold on average for regions to be cut from the sample itself."""


# --- what is asked ------------------------------------------------------------------------------------------


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
        """This machine: a short product tells its speed."""
        flops = _product_speed()
        cores = os.cpu_count() or 1
        return cls(flops, cls.CROSSING * cores, task_slots, f"{cores} cores here, {flops / 1e9:,.0f} GFLOP/s")

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


# --- what is answered ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """What one coverage has to do. Estimates; counts as float, since they may be of rows yet to come."""

    name: str
    """``cluster``, ``nProbe 2``, ``exact to eps 0.05``."""
    rows: float
    dim: int
    k: int
    cells_per_row: float
    """Cells in which a row is native or guest."""
    native_pairs: float
    guest_pairs: float
    tasks_per_row: float
    """Tasks to which a row is sent."""
    tasks: int
    partitions: int
    rows_of_largest_task: int
    sketched: bool

    @property
    def pairs(self) -> float:
        return self.native_pairs + self.guest_pairs

    @property
    def shuffle_bytes(self) -> float:
        """Written by the shuffle that sends rows to their tasks, before compression."""
        return self.rows * self.tasks_per_row * (4 * self.dim + _ROW_BYTES + 4 * (self.cells_per_row - 1))

    @property
    def task_bytes(self) -> int:
        """Memory of the largest task in its Python worker."""
        return worker_bytes(self.rows_of_largest_task, self.dim)

    def seconds(self, hardware: Hardware) -> dict[str, float]:
        """Of the stages that depend on k and coverage; reading the input and writing the result come on top."""
        operations = 2.0 * self.dim * self.native_pairs
        operations += 2.0 * (DIRECTIONS + 1 if self.sketched else self.dim) * self.guest_pairs
        fit = 2.0 * FIT_ROWS_PER_CENTROID * self.k * self.k * self.dim * 10
        return {
            "fit": fit / hardware.flops,
            "assign": 2.0 * self.rows * self.k * self.dim / hardware.flops,
            "move": self.shuffle_bytes / hardware.bytes_per_second,
            "compare": operations / hardware.flops,
        }

    def in_words(self) -> str:
        """One line."""
        return (
            f"{self.name}: {_short(self.rows)} rows in {self.k:,} clusters, {self.cells_per_row:.1f} clusters and "
            f"{self.tasks_per_row:.1f} tasks per row, {_short(self.pairs)} pairs, {_bytes(self.shuffle_bytes)} to "
            f"shuffle, at most {_bytes(self.task_bytes)} per task"
        )

    @classmethod
    def of(
        cls, name: str, sample: VisitSample, centroids: np.ndarray, *, max_rows: int, task_slots: int, sketched: bool
    ) -> Workload:
        """Of rows that visit cells as a sample of them does."""
        k, dim = centroids.shape
        rows = len(sample.own) * sample.scale
        native, guest = sample.pairs(k)
        cells = 1 + len(sample.visits.rows) / max(len(sample.own), 1)
        partitions = default_partitions(4.0 * dim * rows * min(cells, 2.0), task_slots)
        plan = plan_regions(sample, centroids, max_rows=max_rows, partitions=partitions, sketched=sketched)
        sent = plan.rows_sent / max(rows, 1)
        return cls(
            name, rows, dim, k, cells, native, guest, sent, len(plan.tasks), partitions, plan.largest_task, sketched
        )


@dataclass(frozen=True)
class Sizing:
    """The answer of a plan: what each coverage costs at the k that would be used, and the k of least cost."""

    workloads: tuple[Workload, ...]
    best_k: dict[str, int]
    """By name of the coverage: the number of clusters for which the sum of ``seconds`` is least."""
    cluster_rows: tuple[float, float, float]
    """Rows of the smallest, the median and the largest cluster."""
    sample_rows: int
    hardware: Hardware
    extrapolated: bool
    """Whether k is larger than what the sample could be clustered into."""

    def as_text(self) -> str:
        """A table with one line for each coverage."""
        first = self.workloads[0]
        least, median, most = self.cluster_rows
        spread = "" if self.extrapolated else f", of {_short(least)} to {_short(most)} rows, median {_short(median)}"
        facts = [
            ("rows", f"{_short(first.rows)} of dimension {first.dim}, {self.sample_rows:,} looked at"),
            ("clusters", f"{first.k:,}{spread}{' (extrapolated)' if self.extrapolated else ''}"),
            ("hardware", self.hardware.described),
        ]
        head = (
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
        lines = [head, *(self._line(work) for work in self.workloads)]
        width = [max(len(line[i]) for line in lines) for i in range(len(head))]
        table = [
            "  "
            + "  ".join(
                text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(line, width, strict=True))
            )
            for line in lines
        ]
        notes = [
            "  pairs: to compare; exact dismisses most pairs with guests by sketches. time: of fitting, assigning, moving",
            "  and comparing, if all goes at the hardware's speed; reading and writing the data come on top. best k: the",
            "  number of clusters for which that time is least. Scores do not depend on it with coverage exact.",
        ]
        return "\n".join([*(f"  {name:<8}  {text}" for name, text in facts), "", *table, "", *notes])

    def _line(self, work: Workload) -> tuple[str, ...]:
        return (
            work.name,
            f"{work.cells_per_row:.1f}",
            _short(work.pairs),
            f"{work.tasks_per_row:.1f}",
            _bytes(work.shuffle_bytes),
            _bytes(work.task_bytes),
            f"{work.partitions:,}",
            _duration(sum(work.seconds(self.hardware).values())),
            f"{self.best_k[work.name]:,}",
        )


def _short(number: float) -> str:
    """A count in three digits: 63,905 → 63.9 thousand."""
    for size, word in (
        (1e15, "quadrillion"),
        (1e12, "trillion"),
        (1e9, "billion"),
        (1e6, "million"),
        (1e4, "thousand"),
    ):
        if number >= size:
            return f"{number / (1e3 if word == 'thousand' else size):.3g} {word}"
    return f"{number:,.0f}"


def _bytes(number: float) -> str:
    for size, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if number >= size:
            return f"{number / size:,.0f} {unit}" if number >= 10 * size else f"{number / size:.1f} {unit}"
    return f"{number / 2**10:,.0f} KiB"


def _duration(seconds: float) -> str:
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:,.0f} min" if seconds >= 120 else f"{seconds:,.0f} s"


# --- how it is found ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Point:
    """What was counted at one number of clusters, for one coverage, per row or per pair of rows."""

    k: int
    cells_per_row: float
    native_share: float
    """Of all ordered pairs of rows, those of two natives of a cell."""
    guest_share: float
    """The same of a native and a guest."""


def size_up(
    params: SemDedupParams,
    dataset: DataFrame,
    *,
    rows: float | None = None,
    hardware: Hardware | None = None,
    centroids: np.ndarray | None = None,
) -> Sizing:
    """Plans the deduplication of ``dataset`` with the Params of ``SemDedup``.

    ``rows``: of the whole data set, where ``dataset`` is a sample of it. ``hardware``: default this machine.
    ``centroids``: those of a fitted model, instead of fitting any for its k.
    """
    there = dataset.count()
    if not there:
        raise SemDedupError("the input is empty: it must have at least one row")
    total = float(rows or there)
    if total < there:
        raise SemDedupError(f"rows={total:g} is smaller than the {there} rows of the input, which are a part of them")
    k = _target_k(params, total, centroids)
    top = min(k, _MOST_FITTED, max(1, there // 2)) if centroids is None else k
    fitted, unseen = _sample(params, dataset, there, top)
    hardware = hardware or Hardware.here(slots(dataset.sparkSession))
    clustered = {size: _centroids(params, fitted, size) for size in _ladder(top) if centroids is None or size != k}
    if centroids is not None:
        clustered[k] = centroids
    max_rows = params.value("maxClusterRows") or default_max_rows(fitted.shape[1])
    coverages = _coverages(params)
    workloads, best = [], {}
    for name, coverage in coverages.items():
        samples = {size: _visits(params, unseen, found, coverage, total) for size, found in clustered.items()}
        curve = _Curve(name, coverage, [_point(size, sample) for size, sample in samples.items()], total, max_rows)
        curve = replace(curve, dim=fitted.shape[1], task_slots=hardware.slots)
        measured = samples.get(k)
        work = None if measured is None else curve.measured(measured, clustered[k])
        workloads.append(work or curve.at(k))
        best[name] = curve.best_k(k, hardware)
    sizes = np.sort(samples[top].natives(top))
    spread = (float(sizes[0]), float(np.median(sizes)), float(sizes[-1]))
    return Sizing(tuple(workloads), best, spread, len(fitted) + len(unseen), hardware, k not in clustered)


def _target_k(params: SemDedupParams, total: float, centroids: np.ndarray | None) -> int:
    if centroids is not None:
        return len(centroids)
    initial = params.value("initMode")
    given = None if isinstance(initial, str) else len(initial)
    k = int(params.value("k") or given or max(1, round(math.sqrt(total))))
    if k > total:
        raise SemDedupError(f"k={k} is larger than the {total:,.0f} rows: it must be at most the number of rows")
    return k


def _ladder(top: int) -> list[int]:
    """Numbers of clusters to fit, the largest last."""
    return sorted({max(1, top // 4), max(1, top // 2), top})


def _sample(params: SemDedupParams, dataset: DataFrame, there: int, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors to fit and unit vectors that no fit sees, unless there are too few: float32 (n, d) and (m, d)."""
    wanted = min(FIT_ROWS_PER_CENTROID * top, there)
    sample = fit_sample(
        dataset,
        id_column(dataset, params.value("idCol")),
        embedding_column(dataset, params.value("embeddingCol")),
        embedding_name=params.value("embeddingCol"),
        total=there,
        wanted=wanted,
        seed=params.value("seed"),
        dim=params.value("embeddingDim"),
        handle_invalid=params.value("handleInvalid"),
        on_driver=True,
        spare=VISIT_ROWS,
    )
    enough = len(sample.spare) >= min(VISIT_ROWS, there - wanted) > 0
    return sample.array, sample.spare if enough else sample.array


def _centroids(params: SemDedupParams, sample: np.ndarray, k: int) -> np.ndarray:
    settings = FitSettings.from_params(_without_initial(params), k)
    return fit_faiss(sample[: FIT_ROWS_PER_CENTROID * k], replace(settings, initMode="random", nInit=1)).centroids


def _without_initial(params: SemDedupParams) -> SemDedupParams:
    plain = params.copy()
    plain.clear(plain.getParam("initMode"))
    return plain


def _coverages(params: SemDedupParams) -> dict[str, Coverage]:
    threshold = params.similarity_threshold()
    found = {"cluster": Coverage()}
    found |= {f"nProbe {probes}": Coverage(others=probes - 1) for probes in PROBES}
    return found | {f"exact to {threshold:.4g}": Coverage(None, threshold)}


def _visits(
    params: SemDedupParams, unseen: np.ndarray, centroids: np.ndarray, coverage: Coverage, total: float
) -> VisitSample:
    cells = Cells.of(centroids, spherical=params.value("distanceMeasure") == "cosine")
    found = assign(unseen, cells, distances=(), rule=coverage.rule(cells))
    return VisitSample(found.centroid, found.visits, total / len(unseen))


def _point(k: int, sample: VisitSample) -> _Point:
    rows = len(sample.own) * sample.scale
    native, guest = sample.pairs(k)
    return _Point(k, 1 + len(sample.visits.rows) / len(sample.own), 2 * native / rows**2, guest / rows**2)


@dataclass(frozen=True)
class _Curve:
    """What a coverage costs as a function of k, between and beyond the points that were counted."""

    name: str
    coverage: Coverage
    points: Sequence[_Point]
    rows: float
    max_rows: int
    dim: int = 0
    task_slots: int = 1

    def measured(self, sample: VisitSample, centroids: np.ndarray) -> Workload | None:
        """The workload as a run would plan it; None where the sample has too few rows for each region."""
        work = Workload.of(
            self.name,
            sample,
            centroids,
            max_rows=self.max_rows,
            task_slots=self.task_slots,
            sketched=self.coverage.is_exact,
        )
        return work if len(sample.own) >= _ROWS_PER_REGION * work.tasks or sample.scale == 1 else None

    def at(self, k: int) -> Workload:
        """The workload at any k, regions by what they would hold."""
        cells = max(1.0, self._power(k, lambda point: point.cells_per_row))
        native = self.rows**2 / 2 * self._power(k, lambda point: point.native_share)
        guest = self.rows**2 * self._power(k, lambda point: point.guest_share) if self.coverage.visits else 0.0
        regions, sent = self._regions(k, cells)
        partitions = default_partitions(4.0 * self.dim * self.rows * min(cells, 2.0), self.task_slots)
        largest = int(min(2 * self.max_rows, self.rows * sent / regions * 1.5))
        return Workload(
            self.name,
            self.rows,
            self.dim,
            k,
            cells,
            native,
            guest,
            sent,
            regions,
            partitions,
            largest,
            self.coverage.is_exact,
        )

    def _regions(self, k: int, cells: float) -> tuple[int, float]:
        """Number of regions, and to how many of them a row is sent: to about as many as it would visit cells, were
        there as many cells as regions."""
        sent = 1.0
        for _ in range(20):
            regions = max(1, min(k, math.ceil(max(self.rows * sent / (1.5 * self.max_rows), 4 * self.task_slots))))
            sent = min(cells, max(1.0, self._power(regions, lambda point: point.cells_per_row)))
        return regions, sent

    def _power(self, k: float, of: Callable[[_Point], float]) -> float:
        """A count at ``k``, on the straight line through the nearest two points in logarithms."""
        points = sorted(self.points, key=lambda point: point.k)
        values = [max(of(point), 1e-300) for point in points]
        if len(points) == 1:
            return values[0]
        i = int(np.clip(np.searchsorted([point.k for point in points], k), 1, len(points) - 1))
        low, high = points[i - 1].k, points[i].k
        slope = math.log(values[i] / values[i - 1]) / math.log(high / low)
        return values[i] * (k / high) ** slope

    def best_k(self, k: int, hardware: Hardware) -> int:
        """Of k and its multiples by powers of √2 up to 16 and down to 1/16, that of least time."""
        candidates = {max(1, min(round(k * 2 ** (i / 2)), int(self.rows / 8) or 1)) for i in range(-8, 9)}
        return min(candidates, key=lambda each: (sum(self.at(each).seconds(hardware).values()), each))


def iter_facts(sizing: Sizing) -> Iterator[dict[str, object]]:
    """One dictionary for each coverage: what a table or a JSON file of plans holds."""
    for work in sizing.workloads:
        yield {
            "coverage": work.name,
            "rows": work.rows,
            "dimension": work.dim,
            "k": work.k,
            "best_k": sizing.best_k[work.name],
            "cells_per_row": work.cells_per_row,
            "tasks_per_row": work.tasks_per_row,
            "pairs": work.pairs,
            "shuffle_bytes": work.shuffle_bytes,
            "task_bytes": work.task_bytes,
            "tasks": work.tasks,
            "partitions": work.partitions,
            "seconds": work.seconds(sizing.hardware),
        }
