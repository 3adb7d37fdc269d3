"""Groups as tasks get them, grouped or streamed: the same answer from either."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import numpy as np
import oracle
import pyarrow as pa
import pytest

from spark_semdedup import PairwiseSimilarity, SemDedup, SemDedupModel
from spark_semdedup.errors import SemDedupError
from spark_semdedup.pairwise.task import groups, runs
from spark_semdedup.spark.failures import one_line


def batch(tasks: list[int], first: int) -> pa.RecordBatch:
    numbers = pa.array(range(first, first + len(tasks)), pa.int64())
    return pa.RecordBatch.from_arrays([pa.array(tasks, pa.int64()), numbers], ["task", "n"])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 13, 100])
def test_runs_are_the_rows_of_equal_keys_wherever_batches_end(size):
    tasks = np.repeat([-5, 3, 7, 8, 9], [1, 6, 1, 13, 2]).tolist()
    batches = [batch(tasks[i : i + size], i) for i in range(0, len(tasks), size)]
    found = [run.to_pydict() for run in runs([batch([], 0), *batches, batch([], 0)], "task")]
    assert [set(run["task"]) for run in found] == [{-5}, {3}, {7}, {8}, {9}]
    assert [n for run in found for n in run["n"]] == list(range(len(tasks)))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 13, 100])
def test_groups_are_the_rows_of_equal_keys_in_whatever_order_they_come(size):
    tasks = np.random.default_rng(size).permutation(np.repeat([-5, 3, 7, 8, 9], [1, 6, 1, 13, 2])).tolist()
    batches = [batch(tasks[i : i + size], i) for i in range(0, len(tasks), size)]
    found = [group.to_pydict() for group in groups([batch([], 0), *batches, batch([], 0)], "task")]
    assert sorted(set(group["task"]).pop() for group in found) == [-5, 3, 7, 8, 9]
    for group in found:
        task = group["task"][0]
        assert set(group["task"]) == {task}
        assert group["n"] == [n for n, of in enumerate(tasks) if of == task]


def test_rows_of_a_single_group_are_not_copied():
    batches = [batch([7] * 3, 0), batch([7] * 2, 3)]
    (group,) = groups(batches, "task")
    at = [chunk.buffers()[1].address for chunk in group["n"].chunks]
    assert at == [each["n"].buffers()[1].address for each in batches]


@pytest.mark.parametrize("split", [runs, groups])
def test_a_partition_without_rows_has_no_groups(split):
    assert list(split([], "task")) == []
    assert list(split([batch([], 0)], "task")) == []


def answer(df) -> dict:
    return {row.id: (row.max_id, np.float32(row.cosine_sim_score).tobytes()) for row in df.collect()}


@pytest.mark.slow
@pytest.mark.parametrize("params", [{"maxClusterRows": 9}, {"coverage": "exact", "maxClusterRows": 15}], ids=str)
def test_streamed_equals_grouped_with_every_type_of_rank_key(spark, params):
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((8, 6))[rng.integers(8, size=90)] + 0.1 * rng.standard_normal((90, 6))).astype(np.float32)
    rows = [
        (
            *(f"é{i:02}", x[i].tolist(), i % 3 if i % 5 else None, float("nan") if i % 4 == 0 else i / 7),
            *(Decimal(i % 6) / 4, date(2020, 1, 1 + i % 3), bytes([i % 2, 255]), "Zürich"[: i % 4] if i % 9 else None),
        )
        for i in range(90)
    ]
    schema = "id string, embedding array<float>, a int, b double, c decimal(9,2), d date, e binary, f string"
    df = spark.createDataFrame(rows, schema).repartition(4)
    for rank_by in (["a desc", "c", "f"], ["b desc", "e desc", "d"]):
        model = SemDedupModel(centroids=x[:5], rankBy=rank_by, **params)
        grouped = answer(model.similarities(df))
        assert len(grouped) == 90
        assert answer(model.copy().setParams(execution="streamed").similarities(df)) == grouped


@pytest.mark.parametrize("plugin", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["binary", "lists"])
def test_invalid_rows_and_small_batches_streamed(spark, monkeypatch, plugin):
    """Batches of three rows: groups span several, and several groups lie in one. ``plugin``: whether vectors travel as
    the RAPIDS Accelerator takes them."""
    monkeypatch.setattr("spark_semdedup.pairwise.execute.plugin_active", lambda spark: plugin)
    rng = np.random.default_rng(4)
    x = rng.standard_normal((40, 3)).astype(np.float32)
    rows = [(i, x[i].tolist()) for i in range(40)] + [(100, None), (101, [0.0, 0.0, 0.0]), (102, [1.0])]
    df = spark.createDataFrame(rows, "id bigint, embedding array<float>").repartition(3)
    name = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(name)
    try:
        spark.conf.set(name, "3")
        model = SemDedupModel(centroids=x[:4], handleInvalid="keep", whichToKeep="first", execution="streamed")
        result = model.run(df)
        assert result.counts() == {"rows": 43, "invalid": 3, "clusters": 4, "pairs": result.counts()["pairs"]}
        expected = oracle.answer(list(range(40)), x, x[:4], whichToKeep="first")
        found = {row.id: (row.max_id, row.cosine_sim_score) for row in result.similarities.collect()}
        assert found == {i: (neighbour, float(score)) for i, (neighbour, score) in expected.items()}
        result.unpersist()
    finally:
        spark.conf.set(name, before)


def test_a_row_that_cannot_be_compared_is_one_line_when_streamed(spark):
    rows = [("a", 0, [1.0, 0.0]), ("b", 0, [0.0, 0.0])]
    df = spark.createDataFrame(rows, "id string, centroid int, embedding array<float>")
    stage = PairwiseSimilarity(whichToKeep="first", execution="streamed")
    with pytest.raises(Exception, match="embedding is zero") as caught:
        stage.transform(df).collect()
    assert one_line(caught.value) == "embeddingCol='embedding', row with id 'b': embedding is zero"


def test_an_unknown_execution_is_refused():
    with pytest.raises(SemDedupError, match=r"execution='both' .* it must be one of auto, grouped, streamed"):
        SemDedup(execution="both")
