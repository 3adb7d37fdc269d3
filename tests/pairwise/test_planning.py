"""How clusters are cut into tasks and tasks packed into partitions; and that none of it changes the answer."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest
from pyspark.sql import functions as F

from spark_semdedup import PairwiseSimilarity, SemDedupModel
from spark_semdedup.pairwise.packing import (
    default_max_rows,
    default_partitions,
    device_bytes,
    keys_for,
    murmur3_int64,
    pack,
    pair_place,
    pair_tiles,
    partition_of,
    partitions_for,
    plan_clusters,
    plan_tasks,
    rows_of_a_tile,
    worker_bytes,
)


def test_murmur3_is_sparks_hash_of_a_bigint(spark):
    keys = [0, 1, -1, 42, 2**40 + 7, -(2**62), 2**63 - 1, -(2**63)]
    rows = spark.createDataFrame([(key,) for key in keys], "key bigint").select("key", F.hash("key").alias("hash"))
    expected = {row["key"]: row["hash"] for row in rows.collect()}
    assert murmur3_int64(np.array(keys, np.int64)).tolist() == [expected[key] for key in keys]


def test_keys_land_in_the_partition_they_were_chosen_for(spark):
    wanted = np.random.default_rng(0).integers(0, 7, 100)
    keys = keys_for(wanted, 7)
    assert len(set(keys.tolist())) == 100
    assert partition_of(keys, 7).tolist() == wanted.tolist()
    rows = spark.createDataFrame([(int(key),) for key in keys], "key bigint").repartition(7, "key")
    landed = {r["key"]: r["p"] for r in rows.select("key", F.spark_partition_id().alias("p")).collect()}
    assert [landed[key] for key in keys.tolist()] == wanted.tolist()


@pytest.mark.parametrize("partitions", [1, 3, 16])
def test_packing_stays_within_grahams_bound(partitions):
    costs = np.random.default_rng(partitions).pareto(1.5, 200) + 1
    loads = np.bincount(pack(costs, partitions), costs, minlength=partitions)
    best_possible = max(costs.sum() / partitions, costs.max())
    assert loads.sum() == pytest.approx(costs.sum())
    assert loads.max() <= (4 / 3) * best_possible * (1 + 1e-9)


@pytest.mark.parametrize("tiles", [1, 2, 3, 10])
def test_place_of_a_pair_of_tiles(tiles):
    a, b = pair_tiles(tiles)
    assert pair_place(a, b, tiles).tolist() == list(range(len(a)))
    assert pair_place(b, a, tiles).tolist() == list(range(len(a)))


def test_every_pair_of_rows_meets_in_exactly_one_task_and_no_row_of_two_clusters():
    plan = plan_tasks(np.array([5.0, 30.0, 1.0, 12.0]), max_rows=10, partitions=3)
    assert plan.tiles.tolist() == [1, 3, 1, 2]
    visits = [[set(keys) for keys in tiles] for tiles in plan.keys_by_tile()]
    for tiles in visits:
        for a, first in enumerate(tiles):
            assert len(first) == len(tiles)  # itself, and each other tile
            for second in tiles[a + 1 :]:
                assert len(first & second) == 1
    used = [set().union(*tiles) for tiles in visits]
    assert sum(map(len, used)) == len(set().union(*used)) == len(plan.keys)


def test_an_empty_plan():
    plan = plan_tasks(np.zeros(0), max_rows=10, partitions=4)
    assert (len(plan.keys), plan.is_tiled, list(plan.keys_by_tile())) == (0, False, [])


def test_memory_of_a_task_is_known_in_advance_and_said(spark, crowded, caplog):
    centres, df = crowded
    with caplog.at_level(logging.INFO, logger="spark_semdedup"):
        SemDedupModel(centroids=centres, maxClusterRows=20).similarities(df)
    assert re.search(r" \d+ tasks of at most 64 MiB in \d+ partitions\n", caplog.text)
    for dim in (16, 384, 4096):  # two tiles at once, at the default
        assert worker_bytes(2 * default_max_rows(dim), dim) < 2.2 * 2**30
        assert device_bytes(2 * default_max_rows(dim), dim) < 2.1 * 2**30


@pytest.mark.parametrize("dim", [2, 64, 384, 4096])
def test_visits_add_half_of_a_task_s_memory_at_most(dim):
    most = default_max_rows(dim)
    assert rows_of_a_tile(most, dim, 1.0) == most
    assert rows_of_a_tile(most, 384, 22.4) == most, "as many as texts visit"
    base = worker_bytes(0, dim)
    for cells in (2.0, 100.0, 30_000.0):
        rows = rows_of_a_tile(most, dim, cells)
        assert worker_bytes(2 * rows, dim, cells) - base <= 1.5 * (worker_bytes(2 * most, dim) - base)
    assert rows < most


def test_defaults_bound_memory():
    assert default_max_rows(384) == 32_768
    assert 4 * 4096 * default_max_rows(4096) <= 2**28
    assert default_partitions(0, slots=2) == 1
    assert default_partitions(2**30, slots=2) == 8
    assert default_partitions(2**38, slots=2) == 2**10


def test_tasks_are_alone_where_that_takes_no_more_than_four_times_as_many_partitions():
    for tasks, partitions in ((1, 8), (8, 8), (9, 9), (32, 32), (33, 8), (1000, 8)):
        assert partitions_for(tasks, 2**30, slots=2) == partitions
        costs = np.random.default_rng(tasks).pareto(1.5, tasks) + 1
        most = np.bincount(pack(costs, partitions)).max()
        assert (most == 1) == (tasks <= partitions)
    for sizes, alone in ((np.full(30, 9e3), True), (np.full(40, 9e3), False), (np.full(2, 1e5), True)):
        plan = plan_clusters(sizes, 1000, max_rows=10_000, slots=2)
        most = np.bincount(partition_of(plan.keys, plan.partitions)).max()
        assert plan.one_each == alone == (most == 1)


@pytest.fixture(scope="module")
def crowded(spark):
    """200 rows in three uneven clusters, full of equal and nearly equal vectors."""
    rng = np.random.default_rng(7)
    centres = np.eye(3, 8)
    x = centres[rng.choice(3, 200, p=[0.7, 0.2, 0.1])] + 0.05 * rng.standard_normal((200, 8))
    x[100:] = np.where(rng.random((100, 1)) < 0.5, x[:100], x[:100] + 1e-7)
    rows = [(f"r{i:03d}", row.tolist(), ["ä", "z", "a", None][i % 4], float(i % 5)) for i, row in enumerate(x)]
    df = spark.createDataFrame(rows, "id string, embedding array<double>, name string, quality double")
    return centres.astype(np.float32), df.repartition(3).persist()


@pytest.mark.slow
@pytest.mark.parametrize(
    "ranking",
    [
        *({"whichToKeep": which} for which in ("hard", "easy", "random", "first")),
        *({"rankBy": by} for by in (["quality desc"], ["name desc", "quality"])),
    ],
    ids=str,
)
def test_tiles_do_not_change_the_answer(crowded, ranking):
    centres, df = crowded
    answers = [_answer(SemDedupModel(centroids=centres, maxClusterRows=rows, **ranking), df) for rows in (1000, 60, 15)]
    assert len(answers[0][1]) == 200
    assert answers[1] == answers[0]
    assert answers[2] == answers[0]


def _answer(model, df):
    """Counts, and every row's id, max_id and score."""
    result = model.run(df)
    counts, rows = result.counts(), sorted(map(tuple, result.similarities.collect()))
    result.unpersist()
    return counts, rows


@pytest.mark.slow
def test_nan_ranks_above_all_numbers_across_tiles_too(spark):
    rows = [(i, [1.0, 0.0], float("nan") if i % 3 == 0 else float(i)) for i in range(24)]
    df = spark.createDataFrame(rows, "id int, embedding array<float>, quality double")
    for direction in ("asc", "desc"):
        model = SemDedupModel(centroids=[[1.0, 0.0]], rankBy=[f"quality {direction}"])
        assert _answer(model.copy().setMaxClusterRows(4), df) == _answer(model, df)


@pytest.mark.slow
def test_empty_tiles_compare_nothing_twice(spark):
    rows = [(i, [1.0, 0.1 * i]) for i in range(3)]
    df = spark.createDataFrame(rows, "id int, embedding array<float>")
    assert _answer(SemDedupModel(centroids=[[1.0, 0.0]], maxClusterRows=2, whichToKeep="first"), df)[0]["pairs"] == 3
    columns = df.selectExpr("id", "embedding", "0 AS centroid")
    tiled = PairwiseSimilarity(maxClusterRows=2, whichToKeep="first").transform(columns)
    assert {row["id"]: row["max_id"] for row in tiled.collect()} == {0: 0, 1: 0, 2: 1}


@pytest.mark.slow
def test_invalid_rows_are_kept_apart_in_a_tiled_plan(spark, crowded):
    centres, df = crowded
    broken = spark.createDataFrame([("null", None, "x", 1.0), ("zero", [0.0] * 8, "x", 1.0)], df.schema)
    model = SemDedupModel(centroids=centres, maxClusterRows=20, handleInvalid="skip")
    result = model.run(df.unionAll(broken))
    assert result.counts()["rows"] == 202
    assert {row["id"] for row in result.invalid.collect()} == {"null", "zero"}
    assert result.similarities.count() == 200
    result.unpersist()
