"""What a comparison is estimated to take, beside what it took."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from marks import slow

from spark_semdedup import SemDedup, SemDedupModel
from spark_semdedup.cli import main as cli
from spark_semdedup.formatting import short, short_bytes
from spark_semdedup.kernels.assignment import Visits
from spark_semdedup.pairwise.estimate import VisitSample
from spark_semdedup.pairwise.packing import plan_clusters, worker_bytes
from spark_semdedup.pairwise.workload import ROW_BYTES, WorkEstimate
from spark_semdedup.spark.arrow import local_frame

N, D, K = 3000, 16, 48

COVERAGES = {
    "cluster": {},
    "nProbe 3": {"nProbe": 3},
    "exact": {"coverage": "exact", "eps": 0.05},
}


def corpus(n: int = N, d: int = D) -> pa.Table:
    """Rows around 40 directions, of uneven number, with text ids of 20 characters."""
    rng = np.random.default_rng(11)
    centres = rng.standard_normal((40, d))
    weights = rng.exponential(size=40)
    x = centres[rng.choice(40, n, p=weights / weights.sum())] + 0.4 * rng.standard_normal((n, d))
    units = oracle.unit_vectors(x.astype(np.float32))
    ids = [f"a row of number {i:04}" for i in range(n)]
    return pa.table({"id": ids, "number": range(n), "embedding": pa.array(units.tolist(), pa.list_(pa.float32()))})


@pytest.fixture(scope="module")
def frame(spark):
    df = local_frame(spark, corpus()).repartition(2).persist()
    yield df
    df.unpersist()


@pytest.fixture(scope="module")
def centroids(frame) -> np.ndarray:
    return SemDedup(k=K).fit(frame).centroids


# --- beside a run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params", [slow(params) if name == "nProbe 3" else params for name, params in COVERAGES.items()], ids=COVERAGES
)
def test_from_all_rows_it_is_what_the_run_has(frame, centroids, params):
    """With probing rows, too: each pair of a home and a probing row is compared and counted, in any region."""
    model = SemDedupModel(centroids=centroids, **params)
    result = model.run(frame)
    planned, counts = result.workload, result.counts()
    result.unpersist()
    assert planned.pairs == counts["pairs"]
    assert (planned.rows, planned.dim, planned.k) == (N, D, K)
    assert (planned.probing_pairs > 0) == (planned.cells_per_row > 1) == planned.coverage.visits == bool(params)


@pytest.mark.parametrize("params", COVERAGES.values(), ids=COVERAGES)
def test_from_a_part_of_the_rows_it_is_near(frame, params):
    """A fit of 8 clusters looks at 512 rows, and where rows visit cells at the others, too."""
    model = SemDedup(k=8, **params).fit(frame)
    result = model.run(frame)
    planned, counts = result.workload, result.counts()
    result.unpersist()
    assert planned.pairs != counts["pairs"], "it is an estimate"
    assert planned.pairs == pytest.approx(counts["pairs"], rel=0.25)
    assert planned.rows == pytest.approx(N)


def test_rows_that_cannot_be_compared_are_in_no_pair(spark):
    table = corpus(600)
    broken = pa.array([None if i % 3 == 0 else row for i, row in enumerate(table["embedding"].to_pylist())])
    df = local_frame(spark, table.set_column(2, "embedding", broken.cast(pa.list_(pa.float32())))).persist()
    result = SemDedup(k=10, handleInvalid="skip").fit(df).run(df)
    assert (result.workload.rows, result.workload.pairs) == (400, result.counts()["pairs"])
    result.unpersist()
    df.unpersist()


@pytest.mark.slow
@pytest.mark.parametrize("ids", ["id", pytest.param("number", marks=pytest.mark.slow)])
@pytest.mark.parametrize("params", [{}, {"nProbe": 3}, {"whichToKeep": "first"}], ids=str)
def test_bytes_of_the_shuffle_are_those_that_spark_writes(spark, frame, centroids, ids, params):
    model = SemDedupModel(centroids=centroids, idCol=ids, **params)
    before = {stage.stageId() for stage in stages(spark)}
    result = model.run(frame)
    result.counts()
    result.unpersist()
    written = max(stage.shuffleWriteBytes() for stage in stages(spark) if stage.stageId() not in before)
    planned = result.workload
    per_row = (written - planned.shuffle_bytes) / (planned.rows * planned.tasks_per_row)
    assert -ROW_BYTES / 3 < per_row < ROW_BYTES / 3
    if ids == "id" and params != {"whichToKeep": "first"}:
        assert planned.shuffle_bytes == pytest.approx(written, rel=0.1)


def stages(spark) -> list:
    context = spark.sparkContext
    nothing = context._jvm.java.util.ArrayList()
    quantiles = context._gateway.new_array(context._jvm.double, 0)
    found = context._jsc.sc().statusStore().stageList(nothing, False, False, quantiles, nothing)
    return [found.apply(i) for i in range(found.size())]


@pytest.mark.slow
def test_a_run_says_it_in_one_line_and_its_summary_holds_it(capsys, spark, tmp_path):
    pq.write_table(corpus(300), tmp_path / "in.parquet")
    options = ["--k", "9", "--coverage", "exact", "--input", str(tmp_path / "in.parquet")]
    assert cli.main(["run", *options, "--output", str(tmp_path / "out")]) == 0
    err = capsys.readouterr().err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    planned = summary["planned"]
    assert planned["pairs"] == summary["pairs_compared"]
    line = (
        f"exact from 0.95: each row in {planned['clusters_per_row']:.1f} of 9 clusters, "
        f"{short(planned['pairs'])} pairs, "
        f"{short_bytes(planned['shuffle_bytes'])} to shuffle, {planned['tasks']} tasks of at most 64 MiB"
    )
    said = [text for text in err.splitlines() if "to shuffle" in text]
    assert said == [f"[2/5] assign and compare ... {line}"]
    assert err.isascii()


# --- by hand ------------------------------------------------------------------------------------------------


def test_clusters_by_hand():
    """Of three tiles each row goes to three of six tasks; the other cluster is one."""
    plan = plan_clusters(np.array([30.0, 5.0]), 4, max_rows=10, slots=2)
    found = WorkEstimate.of_clusters({7: 30.0, 2: 5.0}, 4, plan, 10)
    assert (found.rows, found.pairs, found.tasks, found.rows_of_largest_task) == (35, 435 + 10, 7, 20)
    assert found.tasks_per_row == (30 * 3 + 5) / 35
    assert found.shuffle_bytes == pytest.approx((30 * 3 + 5) * (4 * 4 + ROW_BYTES))
    assert found.task_bytes == worker_bytes(20, 4) == 20 * (16 * 4 + 500) + 2**26
    assert replace(found, links=True).task_bytes == found.task_bytes + 20 * 3_000
    assert replace(found, cells_per_row=11.0).task_bytes == found.task_bytes + 20 * 340
    assert replace(found, cells_per_row=11.0, kept_per_row=2.0).task_bytes == found.task_bytes + 20 * 34
    assert json.loads(json.dumps(found.facts()))["pairs"] == 445


def test_no_rows_at_all():
    found = WorkEstimate.of_clusters({}, 1, plan_clusters(np.zeros(0), 1, max_rows=10, slots=2), 10)
    assert (found.pairs, found.shuffle_bytes, found.tasks) == (0, 0, 0)


@pytest.mark.parametrize("size", [3, 20, 200])
def test_pairs_of_a_sample_are_without_bias(size):
    """They average to those of all rows, though squares of small counts are mostly noise."""
    rng = np.random.default_rng(size)
    n, k = 300, 12
    own = rng.choice(k, n, p=np.arange(1, k + 1) / (k * (k + 1) / 2))
    visits = np.argwhere((rng.random((n, k)) < 0.2) & (np.arange(k) != own[:, None]))
    truth = VisitSample(own, Visits(visits[:, 0], visits[:, 1]), 1).pairs(k)
    found = []
    for _ in range(3000):
        rows = rng.permutation(n)[:size]
        place = np.full(n, -1)
        place[rows] = np.arange(size)
        there = visits[place[visits[:, 0]] >= 0]
        found.append(VisitSample(own[rows], Visits(place[there[:, 0]], there[:, 1]), n / size).pairs(k))
    error = np.std(found, axis=0) / np.sqrt(len(found))
    scaled = np.array(truth) * n / (n - 1)  # pairs of n rows, of which a row makes none with itself
    assert np.all(np.abs(np.mean(found, axis=0) - scaled) < 4 * error)
    assert np.all(error < 0.05 * scaled), "the test can tell"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (9_999.6, "10,000"),
        (999_949, "999,900"),
        (999_950, "1 million"),
        (999_499_999, "999 million"),
        (999_500_000, "1 billion"),
        (1.006e9, "1.01 billion"),
        (2.5e18, "2,500 quadrillion"),
    ],
)
def test_counts_in_three_digits(number, text):
    assert short(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 KiB"), (2**20 - 1, "1,024 KiB"), (2**20, "1.0 MiB"), (11 * 2**30, "11 GiB"), (5e15, "4,547 TiB")],
)
def test_bytes_in_words(number, text):
    assert short_bytes(number) == text
