"""Side-by-side benchmark on CPUs: ``bench.py DATA … --threshold 0.95`` prints Markdown tables.

Every method runs in a process of its own under a time limit and reads the same Parquet files (``id``, ``embedding``).
For each: wall seconds, CPU seconds and peak memory of *all* its processes (JVM and Python workers included), rows
removed, and what the removal is worth against exact truth:

* precision: share of the removed rows that have another row at least as similar as the threshold;
* recall: removed rows that have one, over those plus the rows still to be removed, that is, kept rows which have a
  *kept* row of lower id at least that similar.

Both need no agreement on which row of a group is the one to keep. Truth is brute force over all rows, or, beyond
``--truth-rows``, over a random sample of rows against all; then with a 95 % Wilson interval.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

BLOCK = 2048


# --- data ---------------------------------------------------------------------------------------------------


def parts(path: Path) -> list[Path]:
    """The Parquet files of a folder, or the one file."""
    return sorted(path.rglob("*.parquet")) if path.is_dir() else [path]


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Positions of ids in their order (the rank of "lowest id"), and unit vectors float32 (n, d)."""
    table = pa.concat_tables(pq.read_table(part, columns=["id", "embedding"]) for part in parts(path))
    ids = table["id"].combine_chunks()
    flat = np.concatenate([chunk.flatten().to_numpy() for chunk in table["embedding"].chunks])
    x = flat.reshape(len(ids), -1).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return pc.rank(ids, tiebreaker="first").to_numpy().astype(np.int64) - 1, x


def ids_of(path: Path) -> pa.Array:
    return pa.concat_tables(pq.read_table(part, columns=["id"]) for part in parts(path))["id"].combine_chunks()


# --- methods: each gives the positions of the rows it removes ------------------------------------------------

OURS: dict[str, list[str]] = {
    "ours": [],
    "ours_two_probes": ["--n-probe", "2"],
    "ours_exact": ["--coverage", "exact"],
    "ours_exact_streamed": ["--coverage", "exact", "--execution", "streamed"],
}
"""Options of ``spark-semdedup run``, which is measured as a user starts it, from Parquet to the written result."""


def semhash(path: Path, threshold: float) -> np.ndarray:
    """semhash on the given embeddings (usearch HNSW), its defaults."""
    from semhash import SemHash

    ids, x = read(path)
    records = [str(i) for i in range(len(ids))]
    found = SemHash.from_embeddings(x, records, model=None).self_deduplicate(threshold)
    return np.setdiff1d(np.arange(len(ids)), np.array(found.selected, np.int64))


def all_pairs(path: Path, threshold: float) -> np.ndarray:
    """Exact all-pairs in blocks: a row goes if a row of lower id is similar enough."""
    rank, x = read(path)
    order = np.argsort(rank)
    x = x[order]
    removed = [
        start + np.flatnonzero((np.tril(block, start - 1) >= threshold).any(axis=1))
        for start, block in ((s, x[s : s + BLOCK] @ x[: s + BLOCK].T) for s in range(0, len(x), BLOCK))
    ]
    return order[np.concatenate(removed)]


def faiss_range(path: Path, threshold: float) -> np.ndarray:
    """FAISS range search on a flat index: exact; the same rule."""
    import faiss

    rank, x = read(path)
    order = np.argsort(rank)
    x = np.ascontiguousarray(x[order])
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(x)
    removed = []
    for start in range(0, len(x), BLOCK):
        limits, _, neighbours = index.range_search(x[start : start + BLOCK], threshold)
        rows = np.repeat(np.arange(len(limits) - 1), np.diff(limits).astype(np.int64))
        removed.append(start + np.unique(rows[neighbours < rows + start]))
    return order[np.concatenate(removed)]


def spark_join(path: Path, threshold: float) -> np.ndarray:
    """What a Spark user writes today: pyspark.ml KMeans, a self-join by cluster, a dot product in SQL."""
    from pyspark.ml.clustering import KMeans
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions as F

    from spark_semdedup.spark.session import local_session

    spark = local_session("join")
    df = spark.read.parquet(str(path)).select("id", "embedding")
    df = df.withColumn("vector", array_to_vector(F.col("embedding").cast("array<double>")))
    k = round(math.sqrt(df.count()))
    rows = KMeans(k=k, featuresCol="vector", seed=42).fit(df).transform(df).select("id", "embedding", "prediction")
    a, b = rows.alias("a"), rows.alias("b")
    dot = F.aggregate(
        F.zip_with("a.embedding", "b.embedding", lambda p, q: p.cast("double") * q), F.lit(0.0), lambda s, v: s + v
    )
    pairs = a.join(b, F.expr("a.prediction = b.prediction AND a.id > b.id"))
    removed = pairs.where(dot >= threshold).select("a.id").distinct().toPandas()["id"]
    return pc.index_in(pa.array(removed), ids_of(path)).to_numpy()


def mllib_lsh(path: Path, threshold: float) -> np.ndarray:
    """MLlib's BucketedRandomProjectionLSH and its approxSimilarityJoin."""
    from pyspark.ml.feature import BucketedRandomProjectionLSH
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions as F

    from spark_semdedup.spark.session import local_session

    spark = local_session("lsh")
    df = spark.read.parquet(str(path)).select(
        "id", array_to_vector(F.col("embedding").cast("array<double>")).alias("v")
    )
    model = BucketedRandomProjectionLSH(inputCol="v", outputCol="h", bucketLength=0.5, numHashTables=4, seed=42).fit(df)
    pairs = model.approxSimilarityJoin(df, df, math.sqrt(2 - 2 * threshold)).where("datasetA.id > datasetB.id")
    removed = pairs.select("datasetA.id").distinct().toPandas()["id"]
    return pc.index_in(pa.array(removed), ids_of(path)).to_numpy()


PEERS: dict[str, Callable[[Path, float], np.ndarray]] = {
    f.__name__: f for f in (semhash, all_pairs, faiss_range, spark_join, mllib_lsh)
}
METHODS = [*OURS, *PEERS]
UP_TO_64K = {"all_pairs", "faiss_range", "spark_join", "mllib_lsh"}
"""Methods whose cost or memory grows too fast for more."""


# --- measuring a process and all its children ----------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    wall: float
    cpu: float
    peak_gib: float
    removed: np.ndarray | None
    note: str
    summary: dict[str, Any] | None = None
    """Of our run (``found_by``)."""


def measure(method: str, path: Path, threshold: float, limit: float) -> Measured:
    """Runs a method in a process of its own; wall and CPU seconds, peak memory (sum of PSS) of its whole tree."""
    import psutil

    with tempfile.TemporaryDirectory() as folder:
        result, out = Path(folder, "result"), Path(folder, "removed.npy")
        if method in OURS:
            command = [
                "-m",
                "spark_semdedup.cli.main",
                "run",
                "--input",
                str(path),
                "--output",
                str(result),
                *OURS[method],
            ]
        else:
            command = [__file__, "--method", method, "--out", str(out), str(path)]
        start = time.monotonic()
        log = open(Path(folder, "log"), "w+")  # noqa: SIM115 (read below)
        process = subprocess.Popen(
            [sys.executable, *command, "--threshold", str(threshold)],
            stderr=log,
            stdout=log,
            start_new_session=True,
            env={**os.environ, "TMPDIR": folder},  # what it leaves there is deleted when the time has been taken
        )
        cpu: dict[int, float] = {}
        peak, timed_out = Peak(), False
        while process.poll() is None:
            _sample(psutil, process.pid, cpu, peak)
            timed_out = time.monotonic() - start > limit
            if timed_out:
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
        wall = time.monotonic() - start
        log.seek(0)
        text = log.read()
        note = f"not finished after {limit:.0f} s" if timed_out else ""
        if process.returncode and not timed_out:
            note = f"failed: {text.strip().splitlines()[-1][:80] if text.strip() else process.returncode}"
        removed, summary = np.load(out) if out.exists() else None, None
        if method in OURS and not note:
            removed, summary = found_by(result, path)
            note = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in summary["seconds"].items())
        return Measured(wall, sum(cpu.values()), peak.pss / 2**30, removed, note, summary)


def found_by(result: Path, path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The positions of the rows that our run removed; its summary, and ``iterations`` of the fit."""
    summary = json.loads((result / "summary.json").read_text())
    model = next(result.glob("centroids/metadata/part-*")).read_text()
    removed = pq.read_table(result / "duplicates", columns=["id"])["id"].combine_chunks()
    return pc.index_in(removed, ids_of(path)).to_numpy(), summary | {"iterations": len(json.loads(model)["history"])}


@dataclass
class Peak:
    """The largest sums of resident and of proportional set sizes seen, bytes."""

    rss: int = 0
    pss: int = 0


def _sample(psutil, pid: int, cpu: dict[int, float], peak: Peak) -> None:  # type: ignore[no-untyped-def]
    """Notes the CPU seconds of each process of the tree, and their memory.

    The kernel walks all pages of a process for its proportional size, and makes it wait: a tenth of a second, of every
    second, for ours. So that is asked for only where the resident sizes, which cost nothing, have grown.
    """
    rss, pss = 0, 0
    try:
        root = psutil.Process(pid)
        there = [root, *root.children(recursive=True)]
    except psutil.Error:
        return
    for each in there:
        with suppress(psutil.Error):  # it has ended meanwhile
            times = each.cpu_times()
            cpu[each.pid] = times.user + times.system
            rss += each.memory_info().rss
    if rss > 1.02 * peak.rss:
        for each in there:
            with suppress(psutil.Error):
                pss += each.memory_full_info().pss
        peak.rss, peak.pss = rss, max(peak.pss, pss)


# --- truth --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """For each of the ``rows`` looked at, the positions of the rows at least as similar as the threshold."""

    rows: np.ndarray
    neighbours: list[np.ndarray]
    rank: np.ndarray
    sampled: bool

    @classmethod
    def of(cls, path: Path, threshold: float, most: int) -> Truth:
        rank, x = read(path)
        sampled = len(x) > 70_000
        rows = np.arange(len(x))
        if sampled:
            rows = np.sort(np.random.default_rng(0).choice(len(x), most, replace=False))
        found: list[np.ndarray] = []
        for start in range(0, len(rows), 256):
            some = rows[start : start + 256]
            near = x[some] @ x.T >= threshold
            near[np.arange(len(some)), some] = False
            found += [np.flatnonzero(line) for line in near]
        return cls(rows, found, rank, sampled)

    def worth(self, removed: np.ndarray) -> tuple[str, str]:
        """Recall and precision of a removal, as text."""
        gone = np.zeros(len(self.rank), bool)
        gone[removed] = True
        right = wrong = missed = 0
        for row, near in zip(self.rows, self.neighbours, strict=True):
            if gone[row]:
                right += len(near) > 0
                wrong += len(near) == 0
            else:
                missed += bool((~gone[near] & (self.rank[near] < self.rank[row])).any())
        return self._share(right, right + missed), self._share(right, right + wrong)

    def _share(self, part: int, whole: int) -> str:
        if not whole:
            return "–"
        if not self.sampled:
            return f"{100 * part / whole:.2f} %"
        low, high = wilson(part, whole)
        return f"{100 * part / whole:.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def wilson(part: int, whole: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    p, z2 = part / whole, z * z / whole
    centre, half = p + z2 / 2, z * math.sqrt(p * (1 - p) / whole + z2 / (4 * whole))
    return (centre - half) / (1 + z2), (centre + half) / (1 + z2)


# --- the floor of our run -----------------------------------------------------------------------------------


def floor(path: Path, summary: dict[str, Any]) -> dict[str, float]:
    """Seconds below which our design cannot go on this machine, part by part, measured now.

    Matrix products of fit, assignment and comparison at the machine's float32 rate; with coverage exact pairs with
    probing rows count as the products of their sketches, and the sketch of each row that is sent is a product, too. One
    identity ``mapInArrow`` for each crossing between JVM and Python: the fit sample (all rows are read, few cross), the
    embeddings as they are and back as binary unit vectors, the shuffled unit vectors. The shuffle of those, each row as
    often as it was sent. The input read, and the share of it that remains written as Parquet; ids and scores of all
    rows likewise. Each once, in a fresh session, as the run itself is; starting that is not counted.
    """
    pairs, k, duplicates = (summary[name] for name in ("pairs_compared", "clusters", "duplicates"))
    planned = summary["planned"]
    probing_rows = pairs * planned["guest_pairs"] / max(planned["pairs"], 1)
    from pyspark.sql import functions as F

    from spark_semdedup.kernels.sketch import DIRECTIONS, pays
    from spark_semdedup.spark.session import local_session
    from spark_semdedup.spark.worker import prepare_worker

    n, d = len(ids_of(path)), read_dim(path)
    a = np.random.default_rng(0).standard_normal((4096, d), np.float32)
    b = a[::-1].copy()
    rate = 2 * 4096 * 4096 * d / min(timed(lambda: a @ b.T) for _ in range(9))
    sketch = DIRECTIONS + 1 if summary["coverage"] == "exact" and pays(d) else None
    sent_rows = round(n * planned["tasks_per_row"])
    seconds = {
        "GEMM fit": 2 * min(64 * k, n) * k * d * summary["iterations"] / rate,
        "GEMM assign": 2 * n * k * d / rate,
        "GEMM compare": 2 * ((pairs - probing_rows) * d + probing_rows * (sketch or d)) / rate,
    }
    if sketch:
        seconds["GEMM sketches"] = 2 * sent_rows * d * sketch / rate
    spark = local_session("floor")
    df = spark.read.parquet(str(path)).select("id", "embedding")

    def same(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        prepare_worker()  # as the run does
        yield from batches

    def pack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from spark_semdedup.spark.vectors import matrix, packed_rows

        prepare_worker()
        for batch in batches:
            yield pa.RecordBatch.from_arrays([batch.column(0), packed_rows(matrix(batch.column(1), d)[1])], ["id", "u"])

    def run(rows) -> float:  # type: ignore[no-untyped-def]
        return timed(lambda: rows.write.save(format="noop", mode="overwrite"))

    run(spark.range(1000).mapInArrow(same, "id long"))  # starts the workers
    sampled = df.where(F.xxhash64("id") < min(int((64 * k / n - 0.5) * 2**64), 2**63 - 1))
    seconds["read, first crossing (fit sample)"] = run(sampled.mapInArrow(same, df.schema))
    schema = f"id {df.schema['id'].dataType.simpleString()}, u binary"
    seconds["read, second crossing and back"] = run(df.mapInArrow(pack, schema))
    # Rows as large as those shuffled, made from nothing, so that making them takes next to no time.
    sent = spark.range(sent_rows)
    packed = sent.select("id", F.expr(f"cast(repeat('x', {4 * d}) as binary) as u"))
    made = run(packed)
    shuffled = packed.repartition(8, "id")
    seconds["shuffle"] = run(shuffled) - made
    seconds["third crossing"] = run(shuffled.mapInArrow(same, shuffled.schema)) - seconds["shuffle"] - made
    with tempfile.TemporaryDirectory() as out:
        kept = spark.read.parquet(str(path)).where(F.pmod(F.hash("id"), F.lit(10_000)) >= round(1e4 * duplicates / n))
        seconds["read, encode and write what remains"] = timed(lambda: kept.write.parquet(f"{out}/kept"))
        score = (F.xxhash64("id") / 2.0**63).cast("float").alias("score")
        scores = spark.read.parquet(str(path)).select("id", F.col("id").alias("max_id"), score)
        seconds["encode and write ids and scores"] = timed(lambda: scores.write.parquet(f"{out}/scores"))
    spark.stop()
    return seconds


def read_dim(path: Path) -> int:
    return len(next(pq.ParquetFile(parts(path)[0]).iter_batches(1, columns=["embedding"])).column(0)[0])


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# --- the report ---------------------------------------------------------------------------------------------


def machine() -> str:
    names = ("spark-semdedup", "pyspark", "numpy", "pyarrow", "faiss-cpu", "semhash", "usearch")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, Python "
        f"{platform.python_version()}, {', '.join(versions)}"
    )


HEADER = "| method | wall s | CPU s | peak GiB | removed | recall | precision | |\n|---|---|---|---|---|---|---|---|"


def report(path: Path, args: argparse.Namespace) -> None:
    rows = len(ids_of(path))
    truth = Truth.of(path, args.threshold, args.truth_rows)
    print(f"\n### {path.name}: {rows:,} × {read_dim(path)}, similarity ≥ {args.threshold}\n\n{machine()}\n")
    in_table = False
    for method in args.methods:
        if rows > 70_000 and method in UP_TO_64K:
            continue
        ratios = []
        for _ in range(args.repeat):
            got = measure(method, path, args.threshold, args.limit)
            if not in_table:
                print(HEADER)
            print_measured(method, got, truth)
            in_table = not args.floor or got.summary is None
            if not in_table:
                ratios.append(print_floor(path, got))
        if len(ratios) > 1:
            whole, run = (statistics.median(each) for each in zip(*ratios, strict=True))
            print(f"Medians of {len(ratios)}: {whole:.2f} × and {run:.2f} ×.\n", flush=True)


def print_measured(method: str, got: Measured, truth: Truth) -> None:
    recall, precision = truth.worth(got.removed) if got.removed is not None else ("–", "–")
    removed = f"{len(got.removed):,}" if got.removed is not None else "–"
    print(
        f"| {method} | {got.wall:.1f} | {got.cpu:.0f} | {got.peak_gib:.1f} | {removed} | {recall} | {precision} "
        f"| {got.note} |",
        flush=True,
    )


def print_floor(path: Path, ours: Measured) -> tuple[float, float]:
    """Returns how many times its floor our process took, and our run by its own clock: without the start of Python and
    Spark, which the floor does not have either."""
    assert ours.summary is not None
    seconds = floor(path, ours.summary)
    total = sum(seconds.values())
    whole, run = ours.wall / total, ours.summary["seconds"]["in all"] / total
    print("\n| floor | s |\n|---|---|")
    print(*(f"| {name} | {part:.1f} |" for name, part in seconds.items()), sep="\n")
    told = f"Ours took {whole:.2f} × its floor, {run:.2f} × from the started session on."
    print(f"| in all | {total:.1f} |\n\n{told}\n", flush=True)
    return whole, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="+", help="folders of Parquet files with id and embedding")
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--limit", type=float, default=300, help="seconds that a method may take")
    parser.add_argument("--truth-rows", type=int, default=5000, help="rows compared with all, beyond 70,000 rows")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--floor", action="store_true", help="also the floor of our run, part by part")
    parser.add_argument("--repeat", type=int, default=1, help="measure so often, each time with the floor, in turn")
    parser.add_argument("--method", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.method:
        np.save(args.out, PEERS[args.method](args.data[0], args.threshold))
    else:
        for path in args.data:
            report(path, args)


if __name__ == "__main__":
    main()
