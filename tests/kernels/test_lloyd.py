"""The Lloyd loop against a plain float64 oracle, and what its initialisations promise. No Spark in here."""

from __future__ import annotations

import numpy as np
import pytest

from spark_semdedup.kernels.arrays import to_numpy
from spark_semdedup.kernels.lloyd import (
    best_of,
    k_means_plus_plus,
    lloyd,
    objective,
    random_rows,
    scalable_k_means_plus_plus,
)

INITIALISATIONS = [random_rows, k_means_plus_plus, scalable_k_means_plus_plus]


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request):
    return pytest.importorskip(request.param)


def units(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_units(n: int, d: int, seed: int = 0) -> np.ndarray:
    return units(np.random.default_rng(seed).normal(size=(n, d)))


def blobs(k: int, per_cluster: int, d: int = 16, spread: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Well-separated clusters around the first ``k`` axes, and each row's cluster."""
    rng = np.random.default_rng(3)
    label = rng.permutation(np.repeat(np.arange(k), per_cluster))
    return units(np.eye(d)[label] + spread * rng.normal(size=(len(label), d))), label


def oracle(x: np.ndarray, initial: np.ndarray, iterations: int, spherical: bool) -> tuple[np.ndarray, list[float]]:
    """Lloyd's iteration, row by row and in float64, with a full distance matrix."""
    x, centroids, history = x.astype(np.float64), initial.astype(np.float64), []
    for _ in range(iterations):
        if spherical:
            similarity = x @ centroids.T
            label, history = similarity.argmax(1), [*history, similarity.max(1).mean()]
        else:
            distance = ((x[:, None, :] - centroids[None]) ** 2).sum(-1)
            label, history = distance.argmin(1), [*history, distance.min(1).mean()]
        for j in range(len(centroids)):
            if (label == j).any():
                total = x[label == j].sum(0)
                centroids[j] = total / (np.linalg.norm(total) if spherical else (label == j).sum())
    return centroids, history


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("batch_rows", [1, 7, 100_000])
def test_equals_the_oracle_for_any_batch_size(xp, spherical, batch_rows):
    x, initial = random_units(300, 12), random_units(9, 12, seed=1)
    fit = lloyd(xp.asarray(x), xp.asarray(initial), max_iter=6, tol=0, spherical=spherical, batch_rows=batch_rows)
    centroids, history = oracle(x, initial, fit.iterations, spherical)
    assert fit.iterations == 6
    assert fit.centroids.dtype == np.float32
    np.testing.assert_allclose(to_numpy(fit.centroids), centroids, atol=2e-6)
    np.testing.assert_allclose(fit.history, history, atol=2e-6)


@pytest.mark.parametrize("initialise", INITIALISATIONS)
@pytest.mark.parametrize("spherical", [False, True])
def test_recovers_separated_clusters(xp, initialise, spherical):
    x, label = blobs(k=5, per_cluster=40)
    x = xp.asarray(x)
    initials = (initialise(x, 5, seed) for seed in range(20))
    fit = best_of(x, initials, max_iter=30, tol=1e-6, spherical=spherical)
    found = to_numpy(x @ fit.centroids.T).argmax(1)
    assert len(set(zip(label.tolist(), found.tolist(), strict=True))) == 5  # one centre for each cluster


def test_history_never_gets_worse_and_ends_when_no_centre_moves(xp):
    x = xp.asarray(random_units(400, 8))
    euclidean = lloyd(x, x[:10], max_iter=200, tol=0)
    spherical = lloyd(x, x[:10], max_iter=200, tol=0, spherical=True)
    assert 3 < euclidean.iterations < 200
    assert 3 < spherical.iterations < 200
    assert (np.diff(euclidean.history) <= 1e-7).all()
    assert (np.diff(spherical.history) >= -1e-7).all()
    assert len(euclidean.history) == euclidean.iterations


def test_tol_is_the_farthest_move_of_a_centre(xp):
    # The only row pulls the only centre from (1, 0) to (0, 1): it moves by √2, then not at all.
    x, initial = xp.asarray([[0.0, 1.0]], dtype=np.float32), xp.asarray([[1.0, 0.0]], dtype=np.float32)
    assert lloyd(x, initial, max_iter=9, tol=1.4143).iterations == 1
    assert lloyd(x, initial, max_iter=9, tol=1.4142).iterations == 2


def test_spherical_centroids_are_unit_also_the_initial_ones(xp):
    x = xp.asarray(random_units(100, 8))
    for max_iter in (0, 1, 5):
        fit = lloyd(x, 3 * x[:4], max_iter=max_iter, tol=0, spherical=True)
        np.testing.assert_allclose(np.linalg.norm(to_numpy(fit.centroids), axis=1), 1, atol=1e-6)


def test_no_iterations_return_the_initial_centroids(xp):
    initial = random_units(3, 4)
    fit = lloyd(xp.asarray(random_units(10, 4, seed=1)), initial, max_iter=0, tol=0)
    np.testing.assert_array_equal(to_numpy(fit.centroids), initial)
    assert fit.history == ()


def test_a_centre_without_rows_stays(xp):
    x = xp.asarray([[1.0, 0.0], [0.8, 0.6]], dtype=np.float32)
    far = [-0.6, -0.8]
    for spherical in (False, True):
        fit = lloyd(x, xp.asarray([[1.0, 0.0], far], dtype=np.float32), max_iter=3, tol=0, spherical=spherical)
        np.testing.assert_array_equal(to_numpy(fit.centroids)[1], np.asarray(far, np.float32))


def test_spherical_keeps_a_centre_whose_rows_cancel(xp):
    x = xp.asarray([[0.0, 1.0], [0.0, -1.0]], dtype=np.float32)
    fit = lloyd(x, xp.asarray([[1.0, 0.0]], dtype=np.float32), max_iter=3, tol=0, spherical=True)
    np.testing.assert_array_equal(to_numpy(fit.centroids), [[1, 0]])
    assert fit.history == (0.0,)


def test_the_same_input_gives_the_same_bits(xp):
    x = xp.asarray(random_units(5000, 24))
    first, second = (lloyd(x, random_rows(x, 40, 5), max_iter=10, tol=0, batch_rows=999) for _ in range(2))
    np.testing.assert_array_equal(to_numpy(first.centroids), to_numpy(second.centroids))
    assert first.history == second.history


@pytest.mark.parametrize("spherical", [False, True])
def test_best_of_keeps_the_fit_with_the_best_objective(xp, spherical):
    x = xp.asarray(blobs(k=4, per_cluster=30)[0])
    good = x[[int(to_numpy(x)[:, axis].argmax()) for axis in range(4)]]
    bad = xp.concatenate([good[:1]] * 4)  # three centres never get a row
    for initials in ([bad, good], [good, bad]):
        fit = best_of(x, initials, max_iter=5, tol=0, spherical=spherical)
        expected = lloyd(x, good, max_iter=5, tol=0, spherical=spherical)
        np.testing.assert_array_equal(to_numpy(fit.centroids), to_numpy(expected.centroids))


def test_objective_by_hand(xp):
    x = xp.asarray([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    centroids = xp.asarray([[1.0, 0.0], [0.6, 0.8]], dtype=np.float32)
    assert objective(x, centroids) == pytest.approx((0 + 0.36 + 0.04) / 2, abs=1e-6)
    assert objective(x, centroids, spherical=True) == pytest.approx((1 + 0.8) / 2, abs=1e-6)


@pytest.mark.parametrize("initialise", INITIALISATIONS)
def test_initial_centroids_are_different_rows(xp, initialise):
    x = random_units(60, 8)
    for k in (1, 7, 60):
        chosen = to_numpy(initialise(xp.asarray(x), k, 11))
        numbers = [int(np.flatnonzero((x == row).all(1))[0]) for row in chosen]
        assert len(set(numbers)) == k


@pytest.mark.parametrize("initialise", INITIALISATIONS)
def test_initial_centroids_depend_on_the_seed_alone(xp, initialise):
    x = xp.asarray(random_units(200, 8))
    chosen = [to_numpy(initialise(x, 10, seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(chosen[0], chosen[1])
    assert (chosen[0] != chosen[2]).any()


@pytest.mark.parametrize("initialise", INITIALISATIONS)
def test_equal_rows_are_no_obstacle(xp, initialise):
    x = xp.asarray(np.repeat(random_units(3, 8), 20, axis=0))
    for spherical in (False, True):
        fit = lloyd(x, initialise(x, 10, 0), max_iter=5, tol=0, spherical=spherical)
        assert fit.centroids.shape == (10, 8)
        assert np.isfinite(to_numpy(fit.centroids)).all()


@pytest.mark.parametrize("initialise", [k_means_plus_plus, scalable_k_means_plus_plus])
def test_spread_initialisations_take_every_distinct_row_before_any_twice(xp, initialise):
    distinct = random_units(6, 8)
    x = xp.asarray(np.repeat(distinct, [50, 1, 1, 1, 1, 1], axis=0))
    for seed in range(10):
        chosen = to_numpy(initialise(x, 6, seed))
        assert len(np.unique(chosen, axis=0)) == 6


def test_k_means_plus_plus_draws_by_squared_distance():
    # From row 0, rows 1 and 2 lie at squared distances 2 and 4: drawn second in the ratio 1 : 2.
    x = np.asarray([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=np.float32)
    pairs = [k_means_plus_plus(x, 2, seed) for seed in range(3000)]
    second = [tuple(pair[1]) for pair in pairs if tuple(pair[0]) == (1, 0)]
    share = second.count((-1, 0)) / len(second)
    assert share == pytest.approx(2 / 3, abs=0.06)


def test_a_small_oversampling_factor_still_gives_k_rows():
    x = random_units(50, 8)
    chosen = scalable_k_means_plus_plus(x, 20, 0, oversampling=0.01)
    assert len(np.unique(chosen, axis=0)) == 20
