"""The number of clusters, and what each costs a deduplication."""

from __future__ import annotations

import numpy as np
import pytest
from partitions import same_partition
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from spark_semdedup.errors import SemDedupError
from spark_semdedup.explore import choose_k
from spark_semdedup.explore.cluster_count import estimated_pairs, own_cluster_recall
from spark_semdedup.explore.neighbours import neighbours


def test_five_separated_blobs_are_five(blobs):
    vectors, labels = blobs
    choice = choose_k(vectors, n_init=3)
    assert choice.k == 5

    assert same_partition(choice.clusters().labels, labels)
    assert "→   5" in choice.as_text()


def test_scores_are_scikit_learn_s(blobs):
    vectors, _ = blobs
    choice = choose_k(vectors, k_range=[3, 5], n_init=2, seed=7)
    for k in (3, 5):
        fit = KMeans(k, n_init=2, random_state=7).fit(vectors.astype(np.float32))
        score = choice.score(k)
        assert score.inertia == pytest.approx(fit.inertia_)
        assert score.silhouette == pytest.approx(silhouette_score(vectors.astype(np.float32), fit.labels_))


def test_pairs_and_recall_are_brute_force_s():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(200, 6))
    vectors[100:] = vectors[:100] + rng.normal(0, 0.15, (100, 6))
    choice = choose_k(vectors, k_range=[40], n_init=1, eps=0.05)
    labels = choice.labels[40]
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = (units @ units.T >= 0.95) & ~np.eye(200, dtype=bool)
    together = labels[:, None] == labels[None]
    has = similar.any(axis=1)
    assert 0 < choice.rows_with_duplicate == has.sum()
    assert choice.score(40).recall == pytest.approx((similar & together).any(axis=1).sum() / has.sum())
    assert choice.score(40).recall < 1
    assert choice.score(40).pairs == (together.sum() - 200) / 2


def test_pairs_are_estimated_without_bias():
    labels = np.random.default_rng(0).integers(0, 7, 2000)
    sizes = np.bincount(labels)
    truth = (sizes * (sizes - 1) / 2).sum()
    draws = [np.random.default_rng(i).choice(labels, 100, replace=False) for i in range(400)]
    mean = np.mean([estimated_pairs(draw, 2000) for draw in draws])
    assert mean == pytest.approx(truth, rel=0.02)


def test_no_duplicates_no_recall():
    similar = neighbours(np.eye(4, dtype=np.float32), 0.9)
    assert own_cluster_recall(np.zeros(4, int), similar) is None
    choice = choose_k(np.eye(4), k_range=[2], n_init=1)
    assert choice.score(2).recall is None
    assert "–" in choice.as_text()


def test_the_figure_is_written_at_150_dpi_in_two_panels(blobs, tmp_path):
    from matplotlib.image import imread

    choice = choose_k(blobs[0], k_range=range(2, 7), n_init=1, output_file=tmp_path / "cluster_analysis.png")
    assert imread(tmp_path / "cluster_analysis.png").shape[:2] == (690, 1800)
    panels = choice.plot(output_file=None).axes
    assert {axes.get_ylabel() for axes in panels} >= {"silhouette", "inertia", "pairs to compare"}
    (silhouettes, *_) = panels[0].get_lines()
    assert silhouettes.get_ydata() == pytest.approx([score.silhouette for score in choice.scores])


@pytest.mark.parametrize(
    ("vectors", "options", "message"),
    [
        (np.ones((1, 2)), {}, "needs at least 3 rows, but the sample has 1"),
        (np.ones((9, 2)), {}, "all 9 rows are equal"),
        (np.eye(4), {}, "k_range reaches 10, but the sample has 4 rows, 4 of them distinct: k must be at most 3"),
        (np.repeat(np.eye(3), 5, axis=0), {"k_range": [4]}, "3 of them distinct: k must be at most 3"),
        (np.eye(4), {"k_range": []}, "k_range is empty"),
        (np.eye(4), {"k_range": [1]}, "k_range=1 cannot be used"),
        (np.eye(4), {"k_range": 3}, "must be several whole numbers"),
        (np.eye(4), {"n_init": 0}, "n_init=0"),
        (np.eye(4), {"eps": 0}, "eps=0"),
    ],
)
def test_bad_input_is_refused_in_one_line(vectors, options, message):
    with pytest.raises(SemDedupError, match=message):
        choose_k(vectors, **options)


def test_an_untried_k_is_refused(blobs):
    choice = choose_k(blobs[0], k_range=[2], n_init=1)
    with pytest.raises(SemDedupError, match="k=9 was not tried: k_range was 2"):
        choice.clusters(9)
