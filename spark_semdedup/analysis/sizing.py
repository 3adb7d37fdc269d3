"""The answer of a plan: the cost of each coverage on given hardware, and the k of least cost."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from spark_semdedup.analysis.job import LISTS, Step, Stored, as_lines, steps
from spark_semdedup.clustering.settings import rows_to_fit
from spark_semdedup.formatting import duration, short, short_bytes
from spark_semdedup.kernels.codes import numbers_of
from spark_semdedup.kernels.sketch import DIRECTIONS
from spark_semdedup.pairwise.workload import WorkEstimate
from spark_semdedup.params import ClusteringParams


@dataclass(frozen=True)
class Hardware:
    """What the job will run on. ``flops``: operations per second of all processors together, as a product that screens
    reaches them; ``bytes_per_second``: vectors moved to their tasks, all together; ``slots``: tasks at once."""

    flops: float
    bytes_per_second: float
    slots: int
    described: str
    number_of_gpus: int = 0
    network_bytes_per_second: float = math.inf
    """Of all GPUs' machines together."""

    FLOAT32_SHARE = 1 / 10
    """Of the float16 operations that a GPU reaches, what it reaches in float32 without TF32, in which centroids are
    fitted and rows assigned: 50 of 500 TFLOP/s on an H100."""

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
    def typical(cls, *, gpu: bool) -> Hardware:
        """A machine that is the same wherever the question is asked: a GPU, or eight cores of a server."""
        return cls.gpus(1, 500, 25) if gpu else cls(8 * 80e9, 8 * cls.CROSSING, 8, "8 cores, 640 GFLOP/s")

    @classmethod
    def gpus(cls, number: int, tflops: float, network_gbps: float) -> Hardware:
        """``tflops``: of one GPU at the precision that screens, of which half is taken to be reached;
        ``network_gbps``: 10⁹ bits per second of network for each GPU."""
        network = network_gbps / 8 * 1e9
        move = min(network, cls.CORES_PER_GPU * cls.CROSSING)
        words = f"{number} GPUs of {tflops:g} TFLOP/s, {network_gbps:g} Gbit/s and {cls.CORES_PER_GPU} cores each"
        return cls(number * tflops * 1e12 / 2, number * move, number, words, number, number * network)

    @property
    def float32_flops(self) -> float:
        """Operations per second of a float32 product."""
        return self.flops * (self.FLOAT32_SHARE if self.number_of_gpus else 1)

    @property
    def cores(self) -> int:
        """Cores of the host that Spark works on."""
        return self.number_of_gpus * self.CORES_PER_GPU or self.slots


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
    unknown: frozenset[str] = frozenset()
    """Labels of coverages of which the sample, with rows for one cluster alone, tells nothing but their least."""
    stored: Stored = LISTS
    """How the files hold vectors."""

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
            [*(f"  {name:<8}  {text}" for name, text in facts), "", *(f"  {t}" for t in table), ""]
            + [*(f"  {t}" for t in as_lines(self.job(), self.hardware)), "", _NOTES]
            + ["  ?: too few rows were looked at to tell which clusters are near each other."] * bool(self.unknown)
        )

    def job(self, coverage: int = 0) -> tuple[Step, ...]:
        """The steps of the whole job, with the ``coverage`` of that number among ``workloads``."""
        work = self.workloads[coverage]
        return steps(work, self.hardware, self.fit, compared_products(work, self.hardware), self.stored)

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
        if work.coverage.label in self.unknown:
            return (work.coverage.label, *["?"] * (len(_HEAD) - 1))
        return (
            work.coverage.label,
            f"{work.k:,}",
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
    "k",
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
  steps: of the first coverage, for the embeddings alone; host and GPUs work at the same time, steps one by one.
  pairs: to be compared; exact dismisses most of those across clusters by a sketch, where vectors are long enough.
  time: fitting, assigning, moving and comparing at the hardware's speed; steps has reading and writing, too.
  k, best k: the number of clusters that a run takes, and the one of least time here.
  choose k: spark-semdedup explore choose-k shows how well other numbers of clusters separate, and what they find."""


def seconds(work: WorkEstimate, hardware: Hardware, fit: FitCost | None) -> float:
    """Of what depends on k and coverage, if all goes at the hardware's speed: fitting (None: no fit), assigning, moving
    rows to their tasks and comparing them. Reading the input and writing the result come on top."""
    assigning = (fit.products(work) if fit else 0.0) + (2 if work.code_bytes else 1) * work.rows * work.k * work.dim
    computed = 2 * assigning / hardware.float32_flops + 2 * compared_products(work, hardware) / hardware.flops
    return computed + work.shuffle_bytes / hardware.bytes_per_second


def compared_products(work: WorkEstimate, hardware: Hardware) -> float:
    """Products of two numbers that the comparison takes. GPUs compare whole vectors, not sketches."""
    sketched = work.coverage.sketched(work.dim) and not hardware.number_of_gpus
    numbers = DIRECTIONS + 1 if sketched else work.dim
    return work.home_pairs * work.dim + work.probing_pairs * (numbers_of(work.dim) if work.code_bytes else numbers)


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
