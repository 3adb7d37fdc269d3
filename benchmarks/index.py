"""Appends to an index, and its compaction: ``index.py [--appends 50] [--rows 2000]`` prints a table of seconds.

Rows are generated unit vectors of 384 dimensions. An append takes rows that are computed as it writes them, from a
Parquet file of embeddings, as a run's do.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from spark_semdedup.clustering.centroids import Centroids
from spark_semdedup.index import SemDedupIndex, index_rows
from spark_semdedup.kernels import unit_vectors
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.params import SemDedupStageParams
from spark_semdedup.spark.documents import Documents
from spark_semdedup.spark.ids import Ids
from spark_semdedup.spark.jobs import count_tasks, job_group
from spark_semdedup.spark.session import local_session
from spark_semdedup.spark.vectors import packed_rows

DIM, K = 384, 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--appends", type=int, default=50)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--first", type=int, default=2000, help="rows of the first append")
    args = parser.parse_args()
    spark = local_session("index", quiet=True)
    rng = np.random.default_rng(0)
    centroids = Centroids(unit_vectors(rng.standard_normal((K, DIM)).astype(np.float32)))
    params = SemDedupStageParams()
    with tempfile.TemporaryDirectory(prefix="index-") as folder:
        index, seconds, start = None, [], 0
        for number in range(args.appends):
            count = args.rows if number else args.first
            near = centroids.matrix[rng.integers(K, size=count)]
            vectors = (near + 0.04 * rng.standard_normal((count, DIM))).astype(np.float32)
            path = f"{folder}/{number}.parquet"
            pq.write_table(
                pa.table({"id": pa.array(range(start, start + count)), "embedding": packed_rows(vectors, lists=True)}),
                path,
            )
            start += count
            documents = Documents.of_params(spark.read.parquet(path), params)
            rows = index_rows(documents, centroids, Ranking.of(params), params).withColumn("kept", F.lit(True))
            index = index or SemDedupIndex.create(
                spark, f"{folder}/index", centroids, schema=rows.schema, ranking=Ranking.of(params), settings={}
            )
            ids = Ids.count(documents.df, F.col("id"))
            begun = time.monotonic()
            with job_group(spark, f"append {number}") as group:
                index = index.append(rows, ids)
                jobs = count_tasks(spark, group)
            seconds.append(time.monotonic() - begun)
            print(f"append {number + 1}: {seconds[-1]:.2f} s, {jobs.jobs} jobs, {jobs.total} tasks", flush=True)
        early, late = seconds[1:6], seconds[-5:]
        print(f"2nd {seconds[1]:.2f} s, last {seconds[-1]:.2f} s: {seconds[-1] / seconds[1]:.2f} x")
        print(f"2nd to 6th {median(early):.2f} s, last five {median(late):.2f} s: {median(late) / median(early):.2f} x")
        assert index is not None
        for step in ("read", "compact", "read"):
            begun = time.monotonic()
            if step == "compact":
                index = index.compact()
            else:
                index.rows(np.arange(10)).agg(F.sum(F.length("unit"))).collect()
            print(f"{step}: {time.monotonic() - begun:.2f} s, {len(index.state.files)} files", flush=True)
    spark.stop()


if __name__ == "__main__":
    main()
