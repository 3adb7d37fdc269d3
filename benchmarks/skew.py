"""Skewed data on this machine: ``skew.py`` prints a Markdown table of time, worker memory, and answers checked.

* one cluster holds 60 % of 300,000 rows, the rest is spread over a hundred more;
* 50,000 equal rows among 10,000 others, all in one cluster.

Centroids are given, and the rank is the lowest id, so that truth is known without KMeans: every row of a sample is
compared with *all* rows that precede it in its cluster by exact dot products (``exact_dots``), without tiles,
screening or Spark. Memory is the largest resident set of a Python worker, against ``planning.worker_bytes``.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from spark_semdedup import SemDedupModel
from spark_semdedup.kernels import exact_dots, nearest_centroids, unit_vectors
from spark_semdedup.pairwise.packing import default_max_rows, worker_bytes
from spark_semdedup.spark.arrow import local_frame
from spark_semdedup.spark.session import local_session
from spark_semdedup.spark.vectors import packed_rows

CHECKED = 200
"""Rows compared with all their predecessors."""

WORKER_BASE = 250 * 2**20
"""Bytes of a Python worker with NumPy, pandas and pyarrow before it has any rows."""


def one_large_cluster(rows: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of which 60 % lie around the first of the centroids, and the centroids."""
    rng = np.random.default_rng(0)
    centroids = unit_vectors(rng.standard_normal((101, dim)).astype(np.float32))
    of = np.where(rng.random(rows) < 0.6, 0, rng.integers(1, 101, rows))
    spread = rng.uniform(0.02, 0.08, (rows, 1)) * rng.standard_normal((rows, dim))
    return unit_vectors((centroids[of] + spread).astype(np.float32)), centroids


def equal_rows(rows: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of which all but 10,000 are equal, and two centroids, the first the nearest to all of them."""
    rng = np.random.default_rng(1)
    boilerplate = rng.standard_normal(dim)
    x = np.tile(boilerplate, (rows, 1))
    others = rng.permutation(rows)[:10_000]
    x[others] += 0.5 * rng.standard_normal((len(others), dim))
    first = unit_vectors(boilerplate[None].astype(np.float32))
    return unit_vectors(x.astype(np.float32)), np.concatenate([first, -first])


@dataclass(frozen=True)
class Found:
    answer: dict[int, tuple[int, float]]
    """id → (max_id, cosine_sim_score)."""
    pairs: int
    seconds: float


def deduplicate(spark: SparkSession, x: np.ndarray, centroids: np.ndarray) -> Found:
    """The answer for rows whose id is their position."""
    df = local_frame(spark, pa.table({"id": np.arange(len(x)), "embedding": packed_rows(x, lists=True)}))
    start = time.perf_counter()
    result = SemDedupModel(centroids=centroids, whichToKeep="first").run(df)
    pairs = result.counts()["pairs"]
    seconds = time.perf_counter() - start
    table = result.similarities.toPandas()
    result.unpersist()
    pair = zip(table["max_id"], table["cosine_sim_score"], strict=True)
    return Found(dict(zip(table["id"], pair, strict=True)), pairs, seconds)


def different(x: np.ndarray, centroids: np.ndarray, answer: dict[int, tuple[int, float]], rows: Iterable[int]) -> int:
    """How many of ``rows`` have another answer than brute force gives them."""
    label = nearest_centroids(x, centroids, distances=()).centroid
    wrong = 0
    for row in map(int, rows):
        before = np.flatnonzero(label[:row] == label[row])
        expected = (row, 0.0)
        if len(before):
            scores = exact_dots(x[before], np.broadcast_to(x[row], (len(before), x.shape[1])))
            best = int(scores.argmax())  # the first of equal ones
            expected = (int(before[best]), float(scores[best]))
        wrong += answer[row] != expected
    return wrong


class WorkerMemory:
    """While entered, notes the largest resident set of any Python worker below this process, in bytes: ``peak``."""

    def __enter__(self) -> WorkerMemory:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        while not self._done.wait(0.2):
            for process in psutil.Process().children(recursive=True):
                try:
                    if "pyspark.daemon" in process.cmdline():  # workers are its forks
                        self.peak = max(self.peak, process.memory_info().rss)
                except psutil.Error:
                    continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rows", type=int, default=300_000, help="of the first case; the second has a fifth of them")
    args = parser.parse_args()
    spark = local_session("skew")
    budget = WORKER_BASE + worker_bytes(2 * default_max_rows(args.dim), args.dim)
    print("| case | pairs | seconds | largest worker MiB | budget MiB | rows checked | different |")
    print("|---|---|---|---|---|---|---|")
    failed = False
    for make, rows in ((one_large_cluster, args.rows), (equal_rows, args.rows // 5)):
        x, centroids = make(rows, args.dim)
        with WorkerMemory() as memory:
            found = deduplicate(spark, x, centroids)
        checked = np.random.default_rng(2).choice(rows, CHECKED, replace=False)
        wrong = different(x, centroids, found.answer, checked)
        failed |= wrong > 0 or memory.peak > budget
        print(
            f"| {make.__name__}, {rows:,} × {args.dim} | {found.pairs:,} | {found.seconds:.1f} "
            f"| {memory.peak / 2**20:.0f} | {budget / 2**20:.0f} | {CHECKED} | {wrong} |",
            flush=True,
        )
    spark.stop()
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
