"""The nearest centroid and the distances to it: brute force's labels and bits."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import vectors

from spark_semdedup.kernels import nearest_centroids
from spark_semdedup.kernels.arrays import argmin_mask, to_numpy

DISTANCES = ("l2_dist_to_cent", "cosine_dist_to_cent")


def assign(xp, rows, centroids, *, spherical: bool = False) -> oracle.Assignment:
    rows, centroids = np.asarray(rows, np.float32), np.asarray(centroids, np.float32)
    found = nearest_centroids(xp.asarray(rows), xp.asarray(centroids), spherical=spherical)
    return oracle.Assignment(*(to_numpy(getattr(found, name)) for name in oracle.Assignment._fields))


def check(xp, rows, centroids, *, spherical: bool = False) -> oracle.Assignment:
    found = assign(xp, rows, centroids, spherical=spherical)
    expected = oracle.assignment(rows, centroids, spherical=spherical)
    for name in oracle.Assignment._fields:
        assert oracle.same_bits(getattr(found, name), getattr(expected, name)), name
    return found


# --- by hand ------------------------------------------------------------------------------------------------


def test_labels_and_distances_by_hand(xp):
    found = assign(xp, [[1, 0], [0, 1], [0.6, 0.8]], [[2, 0], [0, 0.5]])
    assert found.centroid.tolist() == [0, 1, 1]
    assert found.l2_dist_to_cent.tolist() == pytest.approx([1, 0.5, np.hypot(0.6, 0.3)], abs=1e-7)
    assert found.cosine_dist_to_cent.tolist() == pytest.approx([0, 0, 0.2], abs=1e-7)
    assert [array.dtype for array in found] == [np.int32, np.float32, np.float32]


def test_spherical_looks_at_directions_only(xp):
    rows, centroids = [[0.8, 0.6]], [[100, 0], [0.01, 0.01]]
    assert assign(xp, rows, centroids).centroid.tolist() == [1]
    assert assign(xp, [[0.8, 0.6]], [[0.5, 0.0], [0.0, 1.0]]).centroid.tolist() == [0]
    assert assign(xp, [[0.6, 0.8]], [[0.9, 0.0], [0.0, 9.0]]).centroid.tolist() == [0]
    assert assign(xp, [[0.6, 0.8]], [[0.9, 0.0], [0.0, 9.0]], spherical=True).centroid.tolist() == [1]


def test_a_row_on_the_bisector_goes_to_the_lowest_id(xp):
    centroids = [[9, 9], [0.5, 0.25], [0.5, -0.25]]
    assert assign(xp, [[1, 0]], centroids).centroid.tolist() == [1]
    assert assign(xp, [[1, 0]], centroids[::-1]).centroid.tolist() == [0]
    assert assign(xp, [[1, 0]], centroids, spherical=True).centroid.tolist() == [1]


class CupysMinimum:
    """``numpy.minimum``, but for ``at`` of float64 numbers, which CuPy rounds to float32 (``kernels.arrays``)."""

    def __init__(self) -> None:
        self.minimum = np.minimum

    def __getattr__(self, name):
        return getattr(self.minimum, name)

    def __call__(self, *arguments, **more):
        return self.minimum(*arguments, **more)

    def at(self, numbers, places, values):
        wide = numbers.dtype == np.float64
        self.minimum.at(numbers, places, values.astype(np.float32) if wide else values)


@pytest.mark.parametrize("spherical", [False, True])
def test_labels_are_right_where_minima_in_place_are_rounded(monkeypatch, spherical):
    monkeypatch.setattr(np, "minimum", CupysMinimum())
    least = np.full(1, np.inf)
    np.minimum.at(least, [0], np.array([0.1]))
    assert least[0] != 0.1, "as on a GPU"
    centroids = np.repeat(vectors.make("random", 20, 48), 3, axis=0)
    centroids[1::3] *= np.float32(1 + 2**-22)
    check(np, vectors.make("random", 300, 48), centroids, spherical=spherical)


def test_the_least_of_each_place():
    rng = np.random.default_rng(3)
    special = [0.0, -0.0, 5e-324, -5e-324, 1.0, np.nextafter(1, 2), -1.0, -np.nextafter(1, 2), np.inf, -np.inf, 1e300]
    values, places = rng.choice(special, 4000), rng.integers(0, 900, 4000)
    expected = np.full(900, np.inf)
    np.minimum.at(expected, places, values)
    assert np.array_equal(argmin_mask(900, places, values), values == expected[places])


def test_of_equal_centroids_the_lowest_id_counts(xp):
    centroid = vectors.make("random", 1, 100)
    centroids = np.concatenate([-centroid, *[0.9 * centroid] * 50])
    rows = vectors.make("last_bit", 40, 100)
    for spherical in (False, True):
        labels = check(xp, np.concatenate([rows, centroid]), centroids, spherical=spherical).centroid
        assert labels[-1] == 1
        assert set(labels.tolist()) <= {0, 1}


def test_a_centroid_of_norm_zero_is_at_cosine_distance_one(xp):
    found = check(xp, [[1, 0], [0, 1]], [[0, 0], [0, -3]])
    assert found.centroid.tolist() == [0, 0]
    assert found.l2_dist_to_cent.tolist() == [1, 1]
    assert found.cosine_dist_to_cent.tolist() == [1, 1]


def test_a_spherical_centroid_of_norm_zero_is_nearer_than_one_beyond_a_right_angle(xp):
    found = check(xp, [[1, 0], [0, 1]], [[0, 0], [-1, 1]], spherical=True)
    assert found.centroid.tolist() == [0, 1]


def test_cosine_distance_is_never_negative(xp):
    rows = vectors.make("random", 2000, 7)  # norms are above 1 in places, by rounding
    found = assign(xp, rows, rows[:1000])
    assert (found.cosine_dist_to_cent >= 0).all()
    assert (found.cosine_dist_to_cent[:1000] < 1e-6).all()


# --- against brute force ------------------------------------------------------------------------------------


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("kind", vectors.KINDS)
@pytest.mark.parametrize("d", [1, 2, 3, 17, 384])
def test_equals_brute_force(xp, kind, d, spherical):
    rows = vectors.make(kind, 120, d)
    lengths = np.random.default_rng(d).uniform(0.2, 1.2, (30, 1)).astype(np.float32)
    for centroids in (lengths * vectors.make("random", 30, d, seed=1), vectors.make(kind, 30, d, seed=1), rows[:30]):
        check(xp, rows, centroids, spherical=spherical)


@pytest.mark.parametrize("spherical", [False, True])
def test_centroids_that_differ_in_the_last_bit(xp, spherical):
    centroids = vectors.make("last_bit", 200, 48)
    rows = np.concatenate([vectors.make("last_bit", 100, 48, seed=5), vectors.make("random", 100, 48)])
    check(xp, rows, np.float32(0.7) * centroids, spherical=spherical)
    check(xp, centroids, centroids, spherical=spherical)


@pytest.mark.parametrize("spherical", [False, True])
def test_rows_near_bisectors(xp, spherical):
    """Each row stands between two centroids, up to its rounding: BLAS would toss a coin."""
    rng = np.random.default_rng(0)
    centroids = vectors.make("random", 40, 64)
    i, j = rng.integers(40, size=400), rng.integers(40, size=400)
    between = centroids[i].astype(np.float64) + centroids[j]
    rows = oracle.unit_vectors(np.where(i[:, None] == j[:, None], centroids[i], between))
    check(xp, rows, centroids, spherical=spherical)


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e-12, 1e-9, 1e-6, 1e3, 1e12])
@pytest.mark.parametrize("spherical", [False, True])
def test_centroids_of_any_norm(xp, scale, spherical):
    rows = vectors.make("random", 100, 20)
    check(xp, rows, np.float32(scale) * vectors.make("random", 25, 20, seed=1), spherical=spherical)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_centroids_whose_products_overflow_are_the_farthest(xp):
    """x·c is infinite in float32, and so is ‖c‖²/2: their difference is no number, but very small."""
    rows = vectors.make("random", 100, 8)
    largest = np.full((1, 8), np.finfo(np.float32).max)
    for order in (slice(None), slice(None, None, -1)):
        check(xp, rows, np.concatenate([largest, np.eye(8), -largest])[order].astype(np.float32))


def test_the_distances_are_those_of_exact_arithmetic(xp):
    rows, centroids = vectors.make("near_duplicates", 200, 384), np.float32(0.8) * vectors.make("random", 20, 384)
    centroids[0] = rows[0]
    found = assign(xp, rows, centroids)
    wide, own = rows.astype(np.longdouble), centroids[found.centroid].astype(np.longdouble)
    cosine = 1 - (wide * own).sum(axis=1) / np.sqrt((own * own).sum(axis=1))
    assert np.allclose(found.l2_dist_to_cent, np.sqrt(((wide - own) ** 2).sum(axis=1)), rtol=1e-7, atol=0)
    assert np.allclose(found.cosine_dist_to_cent, np.maximum(cosine, 0), rtol=0, atol=2e-7)


@pytest.mark.parametrize("spherical", [False, True])
def test_a_row_is_assigned_alike_alone_and_among_others(xp, spherical):
    rows, centroids = vectors.make("near_duplicates", 5000, 33), vectors.make("near_duplicates", 300, 33, seed=1)
    together = assign(xp, rows, centroids, spherical=spherical)
    for start, stop in ((0, 1), (1, 8), (8, 1032), (1032, 5000)):
        alone = assign(xp, rows[start:stop], centroids, spherical=spherical)
        for whole, part in zip(together, alone, strict=True):
            assert oracle.same_bits(whole[start:stop], part)


def test_no_rows(xp):
    found = assign(xp, np.zeros((0, 4)), np.ones((3, 4)))
    assert [array.shape for array in found] == [(0,)] * 3


# --- properties ---------------------------------------------------------------------------------------------


def test_any_rows_and_centroids_equal_brute_force():
    hypothesis = pytest.importorskip("hypothesis")
    st, arrays = hypothesis.strategies, pytest.importorskip("hypothesis.extra.numpy").arrays
    few = st.sampled_from([-1.0, -0.5, -0.0, 0.0, 1e-20, 0.5, 1.0, 1 + 2**-23])
    numbers = few | st.floats(min_value=-4, max_value=4, width=32)
    tables = st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 6)).flatmap(
        lambda s: st.tuples(
            arrays(np.float32, (s[0], s[2]), elements=numbers), arrays(np.float32, (s[1], s[2]), elements=numbers)
        )
    )

    @hypothesis.settings(max_examples=300, deadline=None)
    @hypothesis.given(tables=tables, spherical=st.booleans())
    def check_any(tables, spherical):
        rows, centroids = tables
        rows = rows[rows.any(axis=1)]
        if len(rows):
            check(np, oracle.unit_vectors(rows), centroids, spherical=spherical)

    check_any()
