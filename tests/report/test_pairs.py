"""The gallery's pairs, against sorted lists."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from pyspark.sql import functions as F

from spark_semdedup.report.pairs import AT_THE_EDGE, IN_A_BAND, bands_of, gallery_of

THRESHOLD = 0.95


@pytest.fixture(scope="module")
def similarities(spark):
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.uniform(0.8, 1, 3000), np.full(5, np.float32(0.95)), np.ones(50)]).astype(np.float32)
    rows = [(f"r{i}", f"r{i - 1}", float(score)) for i, score in enumerate(scores, 1)]
    rows.append(("r0", "r0", 0.0))
    return spark.createDataFrame(rows, "id string, max_id string, cosine_sim_score float").cache()


def test_both_edges_of_the_threshold(similarities):
    rows = [row for row in similarities.collect() if row.id != row.max_id]
    # float32(0.95) is less than the double 0.95, so those rows are kept.
    above = sorted((row for row in rows if row.cosine_sim_score >= THRESHOLD), key=lambda row: (row[2], row[0]))
    below = sorted((row for row in rows if row.cosine_sim_score < THRESHOLD), key=lambda row: (-row[2], row[0]))
    duplicates = similarities.where(F.col("cosine_sim_score").cast("double") >= THRESHOLD)
    gallery = gallery_of(similarities, duplicates, THRESHOLD)
    assert [pair.id for pair in gallery.above] == [row.id for row in above[:AT_THE_EDGE]]
    assert [pair.id for pair in gallery.below] == [row.id for row in below[:AT_THE_EDGE]]
    assert {pair.score for pair in gallery.below[:5]} == {float(np.float32(0.95))}
    assert all(pair.removed for pair in gallery.above)
    assert not any(pair.removed for pair in gallery.below)

    for band, count, pairs in gallery.bands:
        inside = {row.id for row in rows if band.low <= row.cosine_sim_score < band.high}
        assert count == len(inside)
        assert len(pairs) == min(IN_A_BAND, len(inside))
        assert {pair.id for pair in pairs} <= inside
    assert gallery.bands == gallery_of(similarities.repartition(5), duplicates, THRESHOLD).bands


@pytest.mark.parametrize("eps", [0.05, 0.001])
def test_bands_finer_than_the_histogram_are_counted_and_sampled(spark, eps: float):
    score = F.when(F.col("id") % 2 == 0, 0.999995).otherwise(1 - eps + eps * F.col("id") / 4000)
    rows = spark.range(1, 4000, numPartitions=2).select(
        "id", F.lit(0).cast("bigint").alias("max_id"), score.cast("float").alias("cosine_sim_score")
    )
    scores = [row.cosine_sim_score for row in rows.collect()]
    bands = gallery_of(rows, rows, 1 - eps).bands
    assert [count for _, count, _ in bands] == [sum(b.low <= score < b.high for score in scores) for b, _, _ in bands]
    assert [len(pairs) for _, _, pairs in bands] == [min(IN_A_BAND, count) for _, count, _ in bands]


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.95, 0.99, 0.9999, 0.99995, 0.01])
def test_bands_meet_without_gaps_and_one_begins_at_the_threshold(threshold: float):
    bands = bands_of(threshold)
    assert all(band.low < band.high for band in bands)
    assert all(upper.low == lower.high for upper, lower in pairwise(bands))
    assert threshold in [band.low for band in bands]
    assert bands[0].high > 1
