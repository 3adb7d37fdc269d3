"""The histogram of scores, against counting row by row."""

from __future__ import annotations

import numpy as np
import pytest

from spark_semdedup.analysis.scores import ScoreHistogram


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    rng = np.random.default_rng(3)
    edges = np.array([-1, 0, 0.5, 0.75, 0.875, 1, np.nextafter(np.float32(1), 2), 0.95, 0.9])
    near_edges = rng.integers(-1000, 1001, 500) / 1000
    return np.concatenate([rng.uniform(-1, 1, 2000), near_edges, edges]).astype(np.float32)


@pytest.fixture(scope="module")
def histogram(spark, scores: np.ndarray) -> ScoreHistogram:
    rows = [(f"r{i}", "other", float(score)) for i, score in enumerate(scores)] + [("alone", "alone", 0.0)]
    return ScoreHistogram.of(spark.createDataFrame(rows, "id string, max_id string, cosine_sim_score float"))


def test_every_row_is_counted_once(histogram: ScoreHistogram, scores: np.ndarray):
    assert histogram.alone == 1
    assert histogram.rows == len(scores) + 1


@pytest.mark.parametrize("eps", [0.001, 0.01, 0.05, 0.1, 0.125, 0.25, 0.333, 0.5, 1.0])
def test_removed_is_what_the_decision_removes(histogram: ScoreHistogram, scores: np.ndarray, eps: float):
    assert histogram.removed(eps) == int((scores.astype(np.float64) >= 1.0 - eps).sum())


def test_the_curve_agrees(histogram: ScoreHistogram):
    eps, rows = histogram.removal_curve(0.3)
    assert len(eps) == 300
    assert rows.tolist() == [histogram.removed(value) for value in eps]


@pytest.mark.parametrize(("bins", "anchor"), [(1, 1.0), (10, 0.95), (17, 0.934), (50, 0.2)])
def test_wide_bins_keep_all_rows_and_meet_at_the_anchor(histogram: ScoreHistogram, bins: int, anchor: float):
    edges, counts = histogram.coarse(bins, -1.0, anchor)
    assert np.abs(np.append(edges, 1.0) - anchor).min() < 1e-9
    left_out = int((histogram.counts[: round((edges[0] + 1) * 1000)]).sum())
    assert counts.sum() == histogram.counts.sum() - left_out


def test_quantile_is_the_bin_of_the_sorted_score(histogram: ScoreHistogram, scores: np.ndarray):
    ordered = np.sort(scores.clip(-1, 1))
    for share in (0.01, 0.5, 0.99):
        expected = ordered[int(np.ceil(share * len(ordered))) - 1]
        assert histogram.quantile(share) == pytest.approx(np.floor(expected * 1000 + 1e-6) / 1000, abs=1e-9)
    assert ScoreHistogram(np.zeros(2001, np.int64), 5).quantile(0.5) == 0
