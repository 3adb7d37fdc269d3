"""The map's geometry, against NumPy's singular value decomposition and brute force."""

from __future__ import annotations

import numpy as np
import pytest

from spark_semdedup.analysis.projection import ClusterMap, Projection, nearest
from spark_semdedup.analysis.sizes import ClusterSizes


@pytest.fixture
def units() -> np.ndarray:
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((300, 12)) * np.linspace(3, 0.1, 12)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_axes_are_the_singular_vectors(units: np.ndarray):
    projection = Projection.fit(units)
    centred = units.astype(np.float64) - units.astype(np.float64).mean(axis=0)
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs((vectors[:2] * projection.axes.T).sum(axis=1)), 1, atol=1e-9)
    np.testing.assert_allclose(projection.explained, (values**2 / (values**2).sum())[:2], atol=1e-9)
    np.testing.assert_allclose(projection.apply(units), centred @ projection.axes)


def test_the_direction_of_axes_does_not_depend_on_row_order(units: np.ndarray):
    np.testing.assert_allclose(Projection.fit(units).axes, Projection.fit(units[::-1]).axes, atol=1e-7)


def test_one_dimension_and_one_row_have_a_map():
    line = np.array([[1.0], [-1.0]], np.float32)
    assert Projection.fit(line).apply(line).tolist() == [[1.0, 0.0], [-1.0, 0.0]]
    same = Projection.fit(np.ones((1, 3), np.float32))
    assert same.explained == (0.0, 0.0)
    assert same.apply(np.ones((1, 3))).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("spherical", [False, True])
def test_nearest_is_brute_force(units: np.ndarray, spherical: bool):
    centroids = np.random.default_rng(6).standard_normal((9, 12)).astype(np.float32)
    if spherical:
        expected = (units @ (centroids / np.linalg.norm(centroids, axis=1, keepdims=True)).T).argmax(axis=1)
    else:
        expected = ((units[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
    assert nearest(units, centroids, spherical=spherical, batch=64).tolist() == expected.tolist()


def test_a_map_estimates_sizes_and_shares(units: np.ndarray):
    removed = np.zeros(300, bool)
    removed[:30] = True
    picture = ClusterMap.of(units, removed, units[:3], 3000, spherical=False)
    assert picture.sizes.sampled == 300
    assert picture.sizes.rows.sum() == pytest.approx(3000)
    inside = picture.labels == 1
    assert picture.removed_share(1) == pytest.approx(removed[inside].mean())
    assert np.isnan(picture.removed_share(99))
    assert ClusterMap.of(units, removed, units[:3], 300, spherical=False).sizes.sampled is None


def test_sizes_without_rows():
    sizes = ClusterSizes(np.zeros(3))
    assert (sizes.largest, sizes.mean, sizes.empty, sizes.imbalance) == (0, 0, 3, 1)
