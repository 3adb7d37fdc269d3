"""The number of clusters for a coverage, where k is unset: the one of least cost, the same in a plan and in a run."""

from __future__ import annotations

import logging
import math

import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_semdedup import SemDedup
from spark_semdedup.analysis import cluster_choice
from spark_semdedup.analysis.cluster_choice import LEAST_ROWS, least_cost, may_choose_k
from spark_semdedup.analysis.curve import Curve, Frame, Point
from spark_semdedup.analysis.sizing import FitCost, Hardware, seconds
from spark_semdedup.cli import main as cli
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.spark.arrow import local_frame

EXACT = Coverage(None, 0.95)
FIT = FitCost(None, 10)
ROWS = 1e6


def curve_of(coverage: Coverage, *, slope: float, pairs: float = 20.0) -> Curve:
    """Rows of 128 numbers; from 500 to 1,000 clusters a row's visits grow, and its pairs fall, by powers of that."""
    points = [
        Point(k, cells_per_row=10 * (k / 500) ** (1 + slope), home_share=1 / k, probing_share=pairs / k**-slope)
        for k in (500, 1000)
    ]
    frame = Frame(ROWS, 128, 32_768, 8, screens=True)
    return Curve(coverage, frame, points, (4, 1.5))


def test_the_choice_is_the_candidate_of_least_cost():
    for slope in (-0.9, -0.5, -0.1):
        curve = curve_of(EXACT, slope=slope)
        found = least_cost(curve, 1000, FIT, gpu=False)
        assert set(found.seconds) == {250, 500, 1000, 2000, 4000}
        for k, cost in found.seconds.items():
            assert cost == pytest.approx(seconds(curve.at(k), Hardware.typical(gpu=False), FIT))
        assert found.shuffle_bytes == curve.at(found.k).shuffle_bytes
        least = min(found.seconds.values())
        assert found.seconds[found.k] == (found.seconds[1000] if least > 0.9 * found.seconds[1000] else least)


def test_pairs_that_fall_with_k_ask_for_more_clusters_and_pairs_that_do_not_for_fewer():
    assert least_cost(curve_of(EXACT, slope=-0.9, pairs=200), 1000, FIT, gpu=False).k > 1000
    assert least_cost(curve_of(EXACT, slope=-0.01, pairs=0.001), 1000, FIT, gpu=False).k < 1000


def test_with_probes_no_more_clusters_are_taken_than_by_default():
    """As a row visits as many of them, more clusters would separate more duplicates."""
    found = least_cost(curve_of(Coverage(1), slope=-0.9, pairs=200), 1000, FIT, gpu=False)
    assert max(found.seconds) == 1000


def test_no_more_clusters_than_the_fit_sample_has_rows_or_the_driver_memory():
    curve = curve_of(EXACT, slope=-0.9, pairs=200)
    assert max(least_cost(curve, 1000, FitCost(1500, 10), gpu=False).seconds) == 1500
    assert max(least_cost(curve, 30_000, FIT, gpu=False).seconds) == 2**30 // (4 * 128 * 64)
    assert max(least_cost(curve, 40_000, FIT, gpu=False).seconds) == 40_000, "the default itself is never refused"


@pytest.mark.parametrize(
    ("params", "coverage", "rows", "free"),
    [
        ({}, EXACT, LEAST_ROWS, True),
        ({}, Coverage(1), LEAST_ROWS, True),
        ({}, Coverage(), LEAST_ROWS, False),
        ({"k": 7}, EXACT, LEAST_ROWS, False),
        ({"initMode": [[1.0, 0.0], [0.0, 1.0]]}, EXACT, LEAST_ROWS, False),
        ({}, EXACT, LEAST_ROWS - 1, False),
    ],
)
def test_it_is_chosen_where_nothing_says_it(params, coverage, rows, free):
    assert may_choose_k(SemDedup(**params), coverage, rows) is free


def test_a_run_takes_the_k_that_the_plan_says(spark, monkeypatch, caplog):
    monkeypatch.setattr(cluster_choice, "LEAST_ROWS", 1000)
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((40, 16))
    units = oracle.unit_vectors(
        (centres[rng.choice(40, 3000)] + 0.4 * rng.standard_normal((3000, 16))).astype(np.float32)
    )
    table = pa.table({"id": range(3000), "embedding": pa.array(units.tolist(), pa.list_(pa.float32()))})
    df = local_frame(spark, table).repartition(2).persist()
    default = round(math.sqrt(len(table)))
    for params in ({"coverage": "exact"}, {"nProbe": 3}, {"coverage": "exact", "eps": 0.2}):
        estimator = SemDedup(**params)
        label = Coverage.of(estimator, estimator.similarity_threshold()).label
        planned = {work.coverage.label: work.k for work in estimator.plan(df).workloads}
        caplog.clear()
        with caplog.at_level(logging.INFO, "spark_semdedup"):
            model = estimator.fit(df)
        assert len(model.centroids) == planned[label]
        assert planned["cluster"] == default
        assert model.cluster_choice is not None
        assert model.cluster_choice.k == len(model.centroids)
        assert default in model.cluster_choice.seconds
        assert f"k {planned[label]} for {label}, by estimates from a sample (" in caplog.text
    assert len(SemDedup(k=11, coverage="exact").fit(df).centroids) == 11
    own_cluster = SemDedup().fit(df)
    assert (len(own_cluster.centroids), own_cluster.cluster_choice) == (default, None)
    df.unpersist()


def test_the_program_says_what_it_chose(capsys, spark, monkeypatch, tmp_path):
    monkeypatch.setattr(cluster_choice, "LEAST_ROWS", 100)
    rows = oracle.unit_vectors(np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32))
    table = pa.table({"id": range(200), "embedding": pa.array(rows.tolist(), pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "in.parquet")
    command = ["run", "--input", str(tmp_path / "in.parquet"), "--output", str(tmp_path / "out"), "--coverage", "exact"]
    assert cli.main(command) == 0
    assert " for exact from 0.95, by estimates from a sample (3: " in capsys.readouterr().err
