"""Small tables: which are, that the answer does not know, and that their runs take few jobs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from marks import slow
from pyspark.sql import functions as F

from spark_semdedup import SemDedup
from spark_semdedup.runs.preflight import Job
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.steps import run
from spark_semdedup.runs.target import Target
from spark_semdedup.spark import small
from spark_semdedup.spark.jobs import PREFIX, job_group
from spark_semdedup.spark.parquet import count_rows

RESULTS = ("similarities", "duplicates", "deduplicated")


@pytest.fixture(scope="module")
def rows(spark, tmp_path_factory) -> str:
    """Files of 300 rows, of which some are similar and one is invalid."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((40, 16))
    vectors = centres[rng.integers(0, 40, 300)] + 0.05 * rng.standard_normal((300, 16))
    data = [(f"é{i}", [float(x) for x in vector]) for i, vector in enumerate(vectors)]
    data[7] = ("invalid", [0.0] * 16)
    path = str(tmp_path_factory.mktemp("small") / "rows")
    spark.createDataFrame(data, "id string, embedding array<float>").repartition(3).write.parquet(path)
    return path


def test_few_bytes_of_files_are_small(spark, rows, monkeypatch):
    files = spark.read.parquet(rows)
    assert small.is_small(files)
    assert small.is_small(files.where("id > 'a'").select("id").coalesce(1))
    assert small.in_one_task(files).rdd.getNumPartitions() == 1
    monkeypatch.setattr(small, "SMALL_BYTES", 1000)
    assert not small.is_small(files)
    assert small.in_one_task(files) is files


@pytest.mark.parametrize(
    "made",
    [
        lambda files: files.join(files.select("id"), "id"),
        lambda files: files.select(F.explode("embedding")),
        lambda files: files.withColumn("x", F.udf(str)("id")),
        lambda files: files.groupBy("id").count(),
        lambda files: files.sparkSession.range(3),
        lambda files: files.unionAll(files),
    ],
    ids=["join", "explode", "udf", "aggregate", "no files", "union"],
)
def test_what_may_grow_or_cost_is_not_small(spark, rows, made):
    assert not small.is_small(made(spark.read.parquet(rows)))


def test_rows_are_counted_by_footers_or_by_a_job(spark, rows, tmp_path):
    assert count_rows(spark.read.parquet(rows)) == 300
    spark.range(100).repartition(9).write.parquet(str(tmp_path / "nine"))
    assert count_rows(spark.read.parquet(str(tmp_path / "nine"))) == 100
    (tmp_path / "none").mkdir()
    assert count_rows(spark.read.schema("id int").parquet(str(tmp_path / "none"))) == 0


@pytest.mark.parametrize(
    "settings", [{}, *map(slow, ({"whichToKeep": "first"}, {"keepRule": "greedy"}, {"coverage": "exact"}))], ids=str
)
def test_small_and_large_ways_give_the_same_files(spark, rows, tmp_path, monkeypatch, settings):
    """Bit for bit: one task or several, ids and the fit's rows read on the driver or by tasks."""

    def results(name: str) -> list[list[tuple]]:
        out = str(tmp_path / name)
        run(Job.of(spark, quiet=True), Source((rows,)), Target(out), {"k": 5, "handleInvalid": "skip", **settings})
        assert Path(out, "invalid").exists()
        return [sorted(map(tuple, spark.read.parquet(f"{out}/{result}").collect())) for result in RESULTS]

    one_task = results("small")
    monkeypatch.setattr(small, "SMALL_BYTES", 0)
    assert results("large") == one_task
    assert len(one_task[0]) == 299
    assert 0 < len(one_task[1]) < 299


def test_a_small_run_starts_few_jobs(spark, rows, tmp_path):
    """Start-up is most of a small run's time, and each job adds to it; there were 30."""
    phases = ("fit centroids", "assign and compare", "identify duplicates", "write the kept rows", "check row counts")

    def started() -> int:
        tracker = spark.sparkContext.statusTracker()
        return sum(len(tracker.getJobIdsForGroup(PREFIX + name)) for name in ("a small run", *phases))

    with job_group(spark, "a small run"):
        before = started()
        settings = {"handleInvalid": "skip"}
        run(Job.of(spark, quiet=True), Source((rows,)), Target(str(tmp_path / "out")), settings)
    assert started() - before <= 16


def test_a_fit_and_a_transform_of_files_are_those_of_rows(spark, rows):
    """Rows of a list are not small files: they take the other way."""
    files = spark.read.parquet(rows).where("id != 'invalid'")
    listed = spark.createDataFrame(files.collect(), files.schema)
    of_files, of_rows = (SemDedup(k=5).fit(df) for df in (files, listed))
    assert np.array_equal(of_files.centroids, of_rows.centroids)
    kept = [
        sorted(row.id for row in model.transform(df).collect()) for model, df in ((of_files, files), (of_rows, listed))
    ]
    assert kept[0] == kept[1]
    assert 0 < len(kept[0]) < 299
