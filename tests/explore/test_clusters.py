"""Density, dendrograms, communities, KMeans in batches and on the sphere; and what every labelling offers."""

from __future__ import annotations

import numpy as np
import pytest
from partitions import same_partition
from sklearn import cluster as sk

from spark_semdedup.errors import SemDedupError
from spark_semdedup.explore import (
    Clusters,
    agglomerative,
    community_detection,
    draw_sample,
    hdbscan,
    mini_batch_kmeans,
    spherical_kmeans,
)
from spark_semdedup.explore.hierarchy import LINKAGES
from spark_semdedup.explore.labels import by_size, checked_labels


@pytest.fixture(scope="module")
def some(debian):
    """800 rows of the shipped sample."""
    return debian.take(np.arange(0, 3200, 4))


# --- hdbscan ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "method"), [("euclidean", "eom"), ("euclidean", "leaf"), ("cosine", "eom")])
def test_hdbscan_is_scikit_learn_s_on_the_same_sample(some, metric, method):
    ours = hdbscan(some, metric=metric, cluster_selection_method=method)
    theirs = sk.HDBSCAN(
        min_cluster_size=5, min_samples=3, metric=metric, cluster_selection_method=method, copy=True
    ).fit(some.vectors)
    assert np.array_equal(ours.labels, theirs.labels_)
    assert np.array_equal(ours.probabilities, theirs.probabilities_)
    assert ours.n_clusters == theirs.labels_.max() + 1 > 10
    assert ours.n_noise == (theirs.labels_ == -1).sum() > 10


def test_hdbscan_finds_blobs_and_noise(blobs):
    vectors, labels = blobs
    far = np.array([[40.0, 0], [0, 40.0], [-40.0, 3]])
    found = hdbscan(np.vstack([vectors, far]), min_cluster_size=20, min_samples=5)
    assert found.labels[-3:].tolist() == [-1, -1, -1]
    inside = found.labels[:-3] >= 0
    assert inside.mean() > 0.8
    assert same_partition(found.labels[:-3][inside], labels[inside])
    assert "5 clusters" in found.as_text()


def test_a_gpu_is_asked_for_by_name(blobs):
    with pytest.raises(SemDedupError, match="needs cuml, which is not installed"):
        hdbscan(blobs[0], backend="gpu")


# --- agglomerative ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linkage", LINKAGES)
def test_agglomerative_cuts_like_scikit_learn(some, linkage):
    metric = "euclidean" if linkage == "ward" else "cosine"
    ours = agglomerative(some, n_clusters=25, linkage=linkage, metric=metric)
    vectors = some.units.astype(np.float64)
    theirs = sk.AgglomerativeClustering(25, linkage=linkage, metric=metric).fit(vectors)
    assert same_partition(ours.labels, theirs.labels_)
    threshold = ours.height
    cut = ours.cut(distance_threshold=threshold)
    assert same_partition(cut.labels, theirs.labels_)
    sizes = np.bincount(ours.labels)
    assert (np.diff(sizes) <= 0).all()


def test_a_threshold_of_zero_joins_equal_rows_alone():
    vectors = np.array([[1.0, 0], [1, 0], [0, 1], [0.6, 0.8], [1, 0]])
    found = agglomerative(vectors, distance_threshold=0)
    assert found.labels.tolist() == [0, 0, 1, 2, 0]
    assert agglomerative(vectors, n_clusters=1).n_clusters == 1
    assert agglomerative(vectors, n_clusters=5).n_clusters == 5  # even where rows are equal


# --- communities --------------------------------------------------------------------------------------------


def by_definition(units: np.ndarray, threshold: float, least: int) -> list[set[int]]:
    """Communities in plain Python, from all similarities in float64."""
    similar = units.astype(np.float64) @ units.astype(np.float64).T >= threshold
    np.fill_diagonal(similar, True)
    kept: list[set[int]] = []
    for centre in sorted(range(len(units)), key=lambda row: -similar[row].sum()):
        if similar[centre].sum() < least or any(centre in community for community in kept):
            continue
        rest = set(np.flatnonzero(similar[centre]).tolist()).difference(*kept)
        if len(rest) >= least:
            kept.append(rest)
    return sorted(kept, key=len, reverse=True)


@pytest.mark.parametrize(("threshold", "least"), [(0.75, 10), (0.9, 2), (0.5, 25), (0.99, 1)])
def test_communities_are_those_of_the_definition(debian, threshold, least):
    found = community_detection(debian, threshold=threshold, min_community_size=least)
    expected = by_definition(debian.units, threshold, least)
    assert [set(rows.tolist()) for rows in found.communities] == expected
    assert len(expected) >= 3
    for number, rows in enumerate(found.communities):
        assert (found.labels[rows] == number).all()
        similarity = debian.units[rows] @ debian.units[rows[0]]
        assert (np.diff(similarity) <= 1e-6).all()
        assert similarity.min() >= threshold - 1e-6
    assert found.n_noise == len(debian) - sum(map(len, expected))


@pytest.mark.slow
def test_communities_are_sentence_transformers_own(debian):
    util = pytest.importorskip("sentence_transformers.util", reason="sentence-transformers is not installed")
    for threshold, least in ((0.75, 10), (0.9, 2), (0.5, 10)):
        theirs = util.community_detection(debian.units, threshold=threshold, min_community_size=least)
        ours = community_detection(debian, threshold=threshold, min_community_size=least).communities
        assert [set(rows) for rows in theirs] == [set(rows.tolist()) for rows in ours]
        assert [rows[0] for rows in theirs] == [rows[0] for rows in ours]


# --- kmeans -------------------------------------------------------------------------------------------------


def test_mini_batches_are_scikit_learn_s(some):
    ours = mini_batch_kmeans(some, k=12, batch_size=256, n_init=2, seed=5)
    theirs = sk.MiniBatchKMeans(12, batch_size=256, n_init=2, random_state=5).fit(some.vectors)
    assert np.array_equal(ours.labels, theirs.labels_)


def test_spherical_kmeans_climbs_and_ends_at_a_fixed_point(some):
    fit = spherical_kmeans(some, k=15, max_iter=100)
    assert (np.diff(fit.history) >= -1e-6).all()
    assert len(fit.history) < 100
    assert np.allclose(np.linalg.norm(fit.centres, axis=1), 1, atol=1e-6)
    similarities = some.units @ fit.centres.T
    assert np.array_equal(similarities.argmax(axis=1), fit.labels)
    assert fit.history[-1] == pytest.approx(similarities.max(axis=1).mean(), abs=1e-5)
    means = fit.centroids / np.linalg.norm(fit.centroids, axis=1, keepdims=True)
    assert np.abs((means * fit.centres[fit.numbers]).sum(axis=1) - 1).max() < 1e-5


def test_spherical_kmeans_finds_directions_whatever_the_lengths(blobs):
    vectors, labels = blobs
    scaled = vectors * np.random.default_rng(0).uniform(0.1, 10, (len(vectors), 1))
    best = max(
        (spherical_kmeans(scaled, k=5, seed=seed, max_iter=50) for seed in range(8)), key=lambda f: f.history[-1]
    )
    assert same_partition(best.labels, labels)


def test_the_convergence_plot_shows_the_history(some, tmp_path):
    fit = spherical_kmeans(some, k=6, max_iter=7)
    (line,) = fit.plot_convergence(output_file=tmp_path / "c.png").axes[0].get_lines()
    assert line.get_ydata() == pytest.approx(fit.history)
    assert (tmp_path / "c.png").stat().st_size > 5000


# --- all of them --------------------------------------------------------------------------------------------


def test_sizes_means_and_members(some):
    labels = np.arange(len(some)) % 3
    labels[:5] = -1
    found = Clusters(labels, some, "by hand", {})
    assert found.n_noise == 5
    assert sum(found.sizes.values()) == len(some) - 5
    for place, number in enumerate(found.numbers):
        expected = some.units[labels == number].mean(axis=0, dtype=np.float64)
        assert np.allclose(found.centroids[place], expected, atol=1e-7)
    assert found.members(-1).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(SemDedupError, match="cluster=9 has no rows: the clusters are 0, 1, 2"):
        found.members(9)
    assert found.as_dict()["sizes"] == {str(n): s for n, s in found.sizes.items()}


def test_labels_are_checked(some):
    with pytest.raises(SemDedupError, match="labels has 2 values, but the sample has 800 rows"):
        checked_labels([0, 1], some)
    for wrong in ([[0, 1]], ["a"] * 800, [0.5] * 800):
        with pytest.raises(SemDedupError, match="must be whole numbers, one for each row"):
            checked_labels(wrong, some)
    with pytest.raises(SemDedupError, match="labels is not set"):
        checked_labels(None, some)


def test_by_size_keeps_the_groups():
    labels = np.array([7, 7, -1, 3, 3, 3, 9])
    assert by_size(labels).tolist() == [1, 1, -1, 0, 0, 0, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hdbscan(np.ones((1, 2))), "hdbscan with min_samples=3 needs at least 3 rows"),
        (lambda: hdbscan(np.eye(4), min_cluster_size=1), "min_cluster_size=1"),
        (lambda: hdbscan(np.eye(4), min_samples=0), "min_samples=0"),
        (lambda: hdbscan(np.eye(4), metric="hamming"), "metric='hamming' cannot be used: it must be one of euclidean"),
        (lambda: hdbscan(np.eye(4), cluster_selection_method="all"), "must be one of eom, leaf"),
        (lambda: agglomerative(np.eye(4)), "both unset: set one of them"),
        (lambda: agglomerative(np.eye(4), n_clusters=1, distance_threshold=1), "both set"),
        (lambda: agglomerative(np.eye(4), n_clusters=5), "n_clusters=5 is larger than the sample's 4 rows"),
        (lambda: agglomerative(np.ones((1, 2)), n_clusters=1), "needs at least 2 rows"),
        (lambda: agglomerative(np.eye(4), n_clusters=2, linkage="ward"), "set metric to euclidean"),
        (lambda: agglomerative(np.eye(4), distance_threshold=-1), "distance_threshold=-1"),
        (lambda: community_detection(np.eye(4), threshold=2), "threshold=2"),
        (lambda: community_detection(np.zeros((3, 2))), "row with id 0 is zero"),
        (lambda: mini_batch_kmeans(np.eye(4), k=5), "k=5 is larger than the sample's 4 rows"),
        (lambda: mini_batch_kmeans(np.ones((4, 2)), k=2), "k=2 is larger than the sample's 1 distinct rows"),
        (lambda: spherical_kmeans(np.eye(4), k=0), "k=0"),
        (lambda: spherical_kmeans(np.eye(4), k=9), "k=9 is larger than the sample's 4 rows"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(SemDedupError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_all_equal_rows_are_one_group_or_noise_and_no_error():
    equal = np.ones((30, 4))
    assert hdbscan(equal).n_clusters <= 1
    assert community_detection(equal).n_clusters == 1
    assert agglomerative(equal, distance_threshold=0.1).n_clusters == 1
    assert mini_batch_kmeans(equal, k=1).n_clusters == 1


def test_a_dendrogram_that_memory_would_not_hold_is_refused(monkeypatch, some):
    from spark_semdedup.explore import memory

    monkeypatch.setattr(memory, "available_memory", lambda: 20_000_000)
    with pytest.raises(SemDedupError, match="agglomerative of 800 rows needs"):
        agglomerative(some, n_clusters=3)


@pytest.mark.parametrize("noise", [False, True])
def test_the_sizes_plot_has_a_bar_for_each_cluster(some, noise):
    labels = np.arange(len(some)) % 4 - int(noise)
    found = Clusters(labels, some, "by hand", {})
    axes = found.plot().axes[0]
    assert [bar.get_height() for bar in axes.patches] == list(found.sizes.values())
    assert (axes.get_legend() is not None) == noise


def test_the_dendrogram_shows_the_cut(some):
    found = agglomerative(some, n_clusters=7, linkage="ward", metric="euclidean")
    axes = found.plot(max_leaves=20).axes[0]
    assert len(axes.get_xticklabels()) == 20
    assert any("7 clusters" in text.get_text() for text in axes.texts)


# --- compared by the deduplication --------------------------------------------------------------------------


def test_rows_of_any_labelling_are_a_table_for_the_comparison(spark, some):
    found = hdbscan(some)
    table = {row.id: row for row in found.dataframe(spark).collect()}
    assert len(table) == len(some)
    for position in range(0, len(some), 37):
        row, label = table[some.ids[position]], found.labels[position]
        assert row.centroid == label
        if label < 0:
            assert row.l2_dist_to_cent == row.cosine_dist_to_cent == 0
            continue
        mean = found.centroids[np.searchsorted(found.numbers, label)].astype(np.float64)
        assert row.l2_dist_to_cent == pytest.approx(np.linalg.norm(some.units[position] - mean), abs=1e-6)
        cosine = 1 - some.units[position] @ mean / np.linalg.norm(mean)
        assert row.cosine_dist_to_cent == pytest.approx(cosine, abs=1e-6)


def test_a_sample_of_tables_can_be_drawn_once(debian):
    assert draw_sample(debian) is debian
