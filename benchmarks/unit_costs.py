"""Seconds of a core for each byte of embeddings on its way through Spark.

    python benchmarks/unit_costs.py [ROWS DIM]

What ``analysis/job.py`` counts with. Each line is a job more than the one before: Parquet decoded; the vectors brought
to Python by Arrow; unit vectors brought back as binary; these shuffled and brought to Python; rows read and written as
Parquet; and the same of vectors that are bytes in the files (embeddingFormat float32). CPU time of all processes
together, so other work on the machine hardly counts. Medians of three, after one run that warms Spark up.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pyspark.sql import functions as F

from spark_semdedup.spark.session import local_session
from spark_semdedup.spark.vectors import matrix, packed_rows

CORES = 2


def write(folder: Path, rows: int, dim: int, *, as_bytes: bool = False, files: int = 8) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(files):
        x = rng.standard_normal((rows // files, dim), dtype=np.float32)
        ids = np.arange(len(x)) + i * len(x)
        # Random bytes have no dictionary, which pyarrow gives up only after a MiB of it; Spark writes them plain, too.
        table = pa.table({"id": ids, "embedding": packed_rows(x, lists=not as_bytes)})
        pq.write_table(table, folder / f"part-{i}.parquet", use_dictionary=not as_bytes)


def nothing(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        matrix(batch.column("embedding"), DIM)
    yield from ()


def packed(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        _, x, _ = matrix(batch.column("embedding"), DIM)
        yield pa.RecordBatch.from_arrays([batch.column("id"), packed_rows(x.astype(np.float32))], ["id", "unit"])


def end(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        batch.column("unit").cast(pa.binary())
    yield from ()


def cpu_seconds() -> float:
    """Of this process, the JVM and the workers that live."""
    mine = psutil.Process()
    times = [each.cpu_times() for each in (mine, *mine.children(recursive=True))]
    return sum(each.user + each.system + each.children_user + each.children_system for each in times)


def took(work: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds."""
    work()
    found = []
    for _ in range(3):
        start = cpu_seconds(), time.perf_counter()
        work()
        found.append((cpu_seconds() - start[0], time.perf_counter() - start[1]))
    return median(cpu for cpu, _ in found), median(wall for _, wall in found)


def main() -> None:
    global DIM
    rows, DIM = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (240_000, 384)
    spark = local_session(cores=CORES, quiet=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "in", rows, DIM)
        write(folder / "bytes", rows, DIM, as_bytes=True)
        df, of_bytes = (spark.read.parquet(str(folder / name)) for name in ("in", "bytes"))
        units = df.mapInArrow(packed, "id long, unit binary")
        jobs: dict[str, Callable[[], object]] = {
            "decode": lambda: df.agg(F.sum(F.element_at("embedding", 1))).collect(),
            "to Python": lambda: df.mapInArrow(nothing, "nothing int").collect(),
            "and back": lambda: units.agg(F.sum(F.octet_length("unit"))).collect(),
            "shuffled": lambda: units.repartition(16, "id").mapInArrow(end, "nothing int").collect(),
            "written": lambda: df.write.mode("overwrite").parquet(str(folder / "out")),
            "written without dictionary": lambda: (
                df.write.mode("overwrite")
                .option("parquet.enable.dictionary#embedding.list.element", "false")
                .parquet(str(folder / "out"))
            ),
            "written without compression either": lambda: (
                df.write.mode("overwrite")
                .option("parquet.enable.dictionary#embedding.list.element", "false")
                .option("compression", "none")
                .parquet(str(folder / "out"))
            ),
            "bytes: decode": lambda: of_bytes.agg(F.sum(F.octet_length("embedding"))).collect(),
            "bytes: to Python": lambda: of_bytes.mapInArrow(nothing, "nothing int").collect(),
            "bytes: written": lambda: of_bytes.write.mode("overwrite").parquet(str(folder / "out")),
        }
        size = 4.0 * rows * DIM
        for job, work in jobs.items():
            cpu, wall = took(work)
            shown = {"CPU s": round(cpu, 2), "wall s": round(wall, 2), "ns for each byte": round(1e9 * cpu / size, 2)}
            print(job, json.dumps(shown), flush=True)
        shutil.rmtree(folder / "out")


if __name__ == "__main__":
    main()
