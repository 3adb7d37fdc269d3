"""Unit vectors and dot products: the same bits as the oracle, whatever the size, scale and array library."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import vectors
from marks import slow

from spark_semdedup.kernels.arithmetic import (
    exact_dots,
    exact_dots64,
    exact_pair_dots,
    float64_screening_error,
    norms,
    screening_error,
    squared_pair_distances,
    tree_sum,
    unit_vectors,
)
from spark_semdedup.kernels.arrays import to_numpy
from spark_semdedup.kernels.similarity import PRECISIONS, _Screen

DIMENSIONS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 31, 33, 64, 100, 127, 257, 384, 768, 1000, 1025, 1536, 2047, 4095, 4096]
SUBNORMAL = float(np.float32(1e-45))


# --- sums and dot products ----------------------------------------------------------------------------------


@pytest.mark.parametrize("d", DIMENSIONS)
def test_tree_sum_is_the_oracles(xp, d):
    rng = np.random.default_rng(d)
    terms = rng.standard_normal((50, d)) * 10.0 ** rng.uniform(-20, 20, (50, d))
    assert oracle.same_bits(to_numpy(tree_sum(xp.array(terms))), oracle.tree_add(terms.T))


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16])
def test_zeros_of_either_sign_add_up_as_padding_demands(xp, d):
    terms = np.random.default_rng(d).choice(np.array([-0.0, 0.0]), (64, d), p=[0.9, 0.1])
    terms[0] = -0.0
    total = to_numpy(tree_sum(xp.array(terms)))
    assert oracle.same_bits(total, oracle.tree_add(terms.T))
    assert np.signbit(total[0]) == (d in (1, 2, 4, 8, 16))  # a padded sum meets a +0, and −0 + 0 is +0


@pytest.mark.parametrize("d", DIMENSIONS)
def test_dot_products_are_the_oracles(xp, d):
    a, b = (np.concatenate([vectors.make(kind, 20, d, seed) for kind in vectors.KINDS]) for seed in (0, 1))
    expected = oracle.tree_add((a.astype(np.float64) * b.astype(np.float64)).T)
    assert oracle.same_bits(to_numpy(exact_dots64(xp.asarray(a), xp.asarray(b))), expected)
    assert oracle.same_bits(to_numpy(exact_dots(xp.asarray(a), xp.asarray(b))), expected.astype(np.float32))


def test_products_of_subnormals_and_of_the_largest_numbers_are_exact(xp):
    big = float(np.finfo(np.float32).max)
    a = np.array([[SUBNORMAL, SUBNORMAL], [big, big], [big, SUBNORMAL], [1, -1]], np.float32)
    b = np.array([[SUBNORMAL, SUBNORMAL], [big, -big], [SUBNORMAL, 0.0], [1, 1]], np.float32)
    found = to_numpy(exact_dots64(xp.asarray(a), xp.asarray(b)))
    assert found.tolist() == [2 * SUBNORMAL**2, 0.0, big * SUBNORMAL, 0.0]


def test_pairs_are_gathered_whatever_their_number(xp):
    rows, columns = vectors.make("random", 40, 37), vectors.make("random", 60, 37, seed=1)
    rng = np.random.default_rng(2)
    i, j = rng.integers(40, size=20_000), rng.integers(60, size=20_000)
    found = exact_pair_dots(*map(xp.asarray, (rows, columns, i, j)))
    expected = oracle.tree_add((rows[i].astype(np.float64) * columns[j]).T).astype(np.float32)
    assert oracle.same_bits(to_numpy(found), expected)
    squares = squared_pair_distances(*map(xp.asarray, (rows, columns, i, j)))
    differences = rows[i].astype(np.float64) - columns[j]
    assert oracle.same_bits(to_numpy(squares), oracle.tree_add((differences * differences).T))


def test_distances_of_nearly_equal_rows_do_not_cancel(xp):
    a = vectors.make("random", 1, 384)
    b = np.nextafter(a, np.float32(2))
    exact = sum((float(y) - float(x)) ** 2 for x, y in zip(a[0], b[0], strict=True))
    first = xp.arange(1)
    found = squared_pair_distances(xp.asarray(a), xp.asarray(b), first, first)
    assert to_numpy(found)[0] == pytest.approx(exact, rel=1e-14)


# --- unit vectors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", DIMENSIONS)
def test_unit_vectors_are_the_oracles(xp, d, dtype):
    rng = np.random.default_rng(d)
    rows = (rng.standard_normal((30, d)) * 10.0 ** rng.uniform(-15, 15, (30, 1))).astype(dtype)
    found = to_numpy(unit_vectors(xp.asarray(rows)))
    assert oracle.same_bits(found, oracle.unit_vectors(rows))
    assert oracle.same_bits(found[7], oracle.unit_vector(rows[7]))
    assert np.abs(to_numpy(norms(xp.asarray(found))) - 1).max() <= 2.0**-23


@pytest.mark.parametrize("kind", vectors.KINDS)
def test_the_type_of_equal_values_does_not_matter(xp, kind):
    rows = np.float32(3.7) * vectors.make(kind, 50, 96)
    assert oracle.same_bits(
        to_numpy(unit_vectors(xp.asarray(rows))), to_numpy(unit_vectors(xp.asarray(rows.astype(np.float64))))
    )


@pytest.mark.parametrize("exponent", [-1000, -537, -100, -1, 1, 64, 511, 512, 1000])
def test_scaling_by_a_power_of_two_changes_nothing_float64(xp, exponent):
    rows = np.random.default_rng(0).standard_normal((40, 50))
    scaled = np.ldexp(rows, exponent)
    assert oracle.same_bits(to_numpy(unit_vectors(xp.asarray(scaled))), to_numpy(unit_vectors(xp.asarray(rows))))


@pytest.mark.parametrize("exponent", [-60, -1, 1, 100])
def test_scaling_by_a_power_of_two_changes_nothing_float32(xp, exponent):
    rows = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    scaled = np.ldexp(rows, exponent)
    assert np.array_equal(np.ldexp(scaled, -exponent), rows), "the scaling itself must be exact"
    assert oracle.same_bits(to_numpy(unit_vectors(xp.asarray(scaled))), to_numpy(unit_vectors(xp.asarray(rows))))


@pytest.mark.parametrize(
    "rows",
    [
        np.full((1, 4), 5e-324),
        np.full((1, 4), np.finfo(np.float64).max),
        np.full((1, 4), SUBNORMAL, np.float32),
        np.full((1, 4), np.finfo(np.float32).max, np.float32),
    ],
    ids=["least float64", "largest float64", "least float32", "largest float32"],
)
def test_the_ends_of_the_number_range_neither_overflow_nor_vanish(xp, rows):
    assert to_numpy(unit_vectors(xp.asarray(rows))).tolist() == [[0.5, 0.5, 0.5, 0.5]]


def test_subnormal_rows_keep_their_direction(xp):
    rows = np.array([[3.0, -4.0]]) * 5e-324
    assert to_numpy(unit_vectors(xp.asarray(rows))).tolist() == [[np.float32(0.6), np.float32(-0.8)]]


def test_zero_rows_stay_zero(xp):
    for dtype in (np.float32, np.float64):
        assert not to_numpy(unit_vectors(xp.zeros((3, 5), dtype))).any()


def test_no_rows_at_all(xp):
    found = unit_vectors(xp.zeros((0, 5)))
    assert found.shape == (0, 5)
    assert found.dtype == np.float32


def test_rows_do_not_influence_one_another(xp):
    rows = np.random.default_rng(0).standard_normal((3000, 384))
    alone = np.concatenate([to_numpy(unit_vectors(xp.asarray(rows[i : i + 1]))) for i in (0, 1, 341, 342, 2999)])
    assert oracle.same_bits(to_numpy(unit_vectors(xp.asarray(rows)))[[0, 1, 341, 342, 2999]], alone)


# --- error bounds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", vectors.KINDS)
@pytest.mark.parametrize("d", [1, slow(2), 3, slow(17), 64, 384, slow(1000), 4096])
def test_screened_products_stay_within_the_bound(xp, kind, d, precision):
    error = screening_error(d, precision, tensor_cores=xp is not np)
    assert worst_screening_error(xp, vectors.make(kind, 100, d), precision) <= error


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_bound_holds_for_vectors_that_all_round_one_way(xp, precision):
    """All elements 1/√d: float16 moves each of them by the same amount in the same direction."""
    c = 1 / np.sqrt(np.arange(1, 4097))
    moved = np.abs(c.astype(np.float16).astype(np.float64) / c - 1)
    for d in (np.argsort(moved)[-20:] + 1).tolist():
        error = screening_error(d, precision, tensor_cores=xp is not np)
        worst = worst_screening_error(xp, oracle.unit_vectors(np.ones((1, d))), precision)
        assert worst <= error
        if precision == "float16":
            assert worst > 0.9e-3, "these vectors are meant to come near the bound of about 2⁻¹⁰"


def worst_screening_error(xp, rows: np.ndarray, precision: str) -> float:
    n = len(rows)
    screen = _Screen.of(xp.asarray(rows), xp.asarray(rows), precision)
    products = to_numpy(screen.products(slice(0, n), slice(0, n), np.full(n, n)))
    i, j = np.divmod(np.arange(n * n), n)
    exact = to_numpy(exact_pair_dots(*map(xp.asarray, (rows, rows, i, j)))).reshape(n, n)
    return float(np.abs(products.astype(np.float64) - exact).max())


@pytest.mark.parametrize("kind", vectors.KINDS)
@pytest.mark.parametrize("d", [1, 3, 384, slow(4096)])
def test_float64_products_stay_within_their_bound(xp, kind, d):
    rows = vectors.make(kind, 60, d)
    n = len(rows)
    wide = xp.asarray(rows.astype(np.float64))
    i, j = np.divmod(np.arange(n * n), n)
    exact = oracle.tree_add((rows[i].astype(np.float64) * rows[j]).T).reshape(n, n)
    assert np.abs(to_numpy(wide @ wide.T) - exact).max() <= float64_screening_error(d)


# --- properties ---------------------------------------------------------------------------------------------


def test_any_finite_matrix_equals_the_oracle_and_any_power_of_two_gives_the_same():
    hypothesis = pytest.importorskip("hypothesis")
    st, arrays = hypothesis.strategies, pytest.importorskip("hypothesis.extra.numpy").arrays
    numbers = st.floats(min_value=-1e6, max_value=1e6, allow_subnormal=False)
    shapes = st.tuples(st.integers(1, 5), st.integers(1, 20))
    matrices = shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=numbers))

    @hypothesis.settings(max_examples=200, deadline=None)
    @hypothesis.given(rows=matrices, exponent=st.integers(-40, 40))
    def check(rows, exponent):
        rows = rows[np.abs(rows).max(axis=1) > 1e-200]  # so that a scaled row is exact
        rows[np.abs(rows) < 1e-200] = 0
        if len(rows):
            found = unit_vectors(rows)
            assert oracle.same_bits(found, oracle.unit_vectors(rows))
            assert oracle.same_bits(found, unit_vectors(np.ldexp(rows, exponent)))
            dots = np.array([oracle.dot(a, b) for a, b in zip(found, found[::-1], strict=True)])
            assert oracle.same_bits(exact_dots64(found, found[::-1]), dots)

    check()
