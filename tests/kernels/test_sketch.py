"""Sketches bound similarities from above, and what they leave is brute force's answer, to the last bit."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import vectors

from spark_semdedup.kernels import similarity, sketch
from spark_semdedup.kernels.arrays import to_numpy
from spark_semdedup.kernels.sketch import DIRECTIONS, Side, Sketches, close_similarity, preceding


def low_rank(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Similar rows next to one another, in few directions and a little beside them, as embeddings of text are."""
    centres = rng.standard_normal((n // 6 + 1, 20))
    inside = centres[np.arange(n) // 6] + rng.choice([0, 0.1, 0.4], (n, 1)) * rng.standard_normal((n, 20))
    return oracle.unit_vectors(inside @ rng.standard_normal((20, d)) + 0.2 * rng.standard_normal((n, d)))


KINDS = {**vectors.KINDS, "low_rank": low_rank}


def make(kind: str, n: int, d: int, seed: int = 0) -> np.ndarray:
    return KINDS[kind](np.random.default_rng(seed), n, d)


# --- the bound ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [252, 640])
def test_a_product_of_sketches_is_never_below_the_similarity(xp, kind, d):
    """Norms of some rows are off by as much as they may be."""
    rows = make(kind, 150, d)
    rows[::3] *= np.float32(1 + 0.99e-5)
    rows[1::3] *= np.float32(1 - 0.99e-5)
    sketches = Sketches.of(xp.asarray(rows))
    products = to_numpy(sketches.values @ sketches.values.T).astype(np.float64)
    wide = rows.astype(np.float64)
    assert (products + sketches.slack - wide @ wide.T).min() >= 2.0**-24, "with room for the similarity's rounding"
    assert sketches.slack < 1e-2, "but not much"
    assert sketches.values.dtype == np.float32
    assert sketches.values.shape == (len(rows), DIRECTIONS + 1)


def test_sketches_of_rows_in_few_directions_are_nearly_their_similarity(xp):
    rows = make("low_rank", 2000, 384)
    sketches = Sketches.of(xp.asarray(rows))
    above = to_numpy(sketches.values @ sketches.values.T) - rows @ rows.T
    assert np.median(above) < 0.05


@pytest.mark.parametrize(("n", "d"), [(200, 251), (125, 384), (0, 384), (1, 1)])
def test_where_they_do_not_pay_they_are_the_vectors_or_none_on_a_gpu(xp, n, d):
    rows = xp.asarray(make("random", n, d)) if n else xp.zeros((0, d), np.float32)
    sketches = Sketches.of(rows)
    if xp is np:
        assert sketches.values is rows
        assert sketches.take(slice(0, 3)).values.shape == (min(n, 3), d)
    else:
        assert sketches.values is None
        assert sketches.take(slice(0, 3)).values is None


def test_some_rows_keep_their_sketches(xp):
    sketches = Sketches.of(xp.asarray(make("random", 130, 252)))
    some = sketches.take(xp.asarray(np.array([5, 2])))
    assert np.array_equal(to_numpy(some.values), to_numpy(sketches.values)[[5, 2]])
    assert some.slack == sketches.slack


# --- close rows of two sides --------------------------------------------------------------------------------


def interleaved(rng: np.random.Generator, rows: np.ndarray, share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Positions of rows and of columns among ``rows`` in rank order."""
    is_row = rng.random(len(rows)) < share
    return np.flatnonzero(is_row), np.flatnonzero(~is_row)


def sides_of(xp, units: np.ndarray, *positions: np.ndarray) -> list[Side]:
    both = Side.of(xp.asarray(units), sketched=True)
    return [both.take(xp.asarray(some)) for some in positions]


def between(units: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Scores of all rows with all columns: float32 (rows, columns)."""
    wide = units[columns].astype(np.float64).T
    found = [oracle.tree_add(wide * units[row].astype(np.float64)[:, None]) for row in rows]
    return np.array(found, np.float32).reshape(len(rows), len(columns))


def expected_of(scores: np.ndarray, mine: np.ndarray, theirs: np.ndarray, at_least: float):
    """Brute force: for each of mine the largest score of at least so much with one of theirs before it."""
    counts = (theirs[None, :] < mine[:, None]) & (scores.astype(np.float64) >= at_least)
    masked = np.pad(np.where(counts, scores, np.float32(-np.inf)), ((0, 0), (0, 1)), constant_values=-np.inf)
    there = counts.any(axis=1)
    return np.where(there, masked.argmax(axis=1), -1), np.where(there, masked.max(axis=1), np.float32(0))


def check(xp, units: np.ndarray, rows: np.ndarray, columns: np.ndarray, thresholds, **options) -> int:
    """Both directions against brute force; how many entries there were."""
    scores = between(units, rows, columns)
    limits, entries = np.searchsorted(columns, rows), 0
    for at_least in thresholds(scores):
        found = close_similarity(*sides_of(xp, units, rows, columns), limits, at_least, **options)
        expected = (
            expected_of(scores, rows, columns, at_least),
            expected_of(scores.T.copy(), columns, rows, at_least),
        )
        for best, (indices, values) in zip(found, expected, strict=True):
            got_values, got_indices = map(to_numpy, best.filled())
            assert got_indices.tolist() == indices.tolist(), at_least
            assert oracle.same_bits(got_values, values), at_least
            entries += int((indices >= 0).sum())
    return entries


def some_that_occur(scores: np.ndarray) -> list[float]:
    """Scores that occur, widened to double, the next doubles above, and a few beside."""
    high = np.unique(scores[scores >= 0.5])
    found = [0.9, 0.95]
    for score in high[[0, len(high) // 2, -1]].astype(np.float64).tolist() if len(high) else []:
        found += [score, np.nextafter(score, 2)]
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [1, 16, 252])
def test_close_rows_and_columns_equal_brute_force(xp, kind, d):
    units = make(kind, 130, d)
    check(xp, units, *interleaved(np.random.default_rng(1), units), some_that_occur)


@pytest.mark.parametrize("d", [16, 252])
@pytest.mark.parametrize(("batch_size", "precision"), [(1, "float32"), (7, "float16"), (10_000, "float32")])
def test_the_answer_does_not_depend_on_blocks(xp, monkeypatch, d, batch_size, precision):
    """Of some of the blocks the sketches leave little, of others too much."""
    monkeypatch.setattr(sketch, "rows_per_block", lambda *_, **__: 23)
    units = np.concatenate([make("low_rank", 100, d), make("last_bit", 30, d), make("random", 30, d)])
    positions = interleaved(np.random.default_rng(2), units)
    options = {"batch_size": batch_size, "precision": precision}
    assert check(xp, units, *positions, lambda _: (0.9, 0.999999), **options) > 100


@pytest.mark.parametrize("share", [1 / 3, 0.02])
def test_sides_of_different_length(xp, share):
    units = make("low_rank", 400, 252)
    assert check(xp, units, *interleaved(np.random.default_rng(3), units, share), lambda _: (0.8,)) > 10


def test_few_candidates_are_decided_without_full_products(xp, monkeypatch):
    """Otherwise sketches would be for nothing."""
    monkeypatch.setattr(sketch._Search, "in_full", None)
    units = make("low_rank", 1500, 384)
    assert check(xp, units, *interleaved(np.random.default_rng(4), units, 0.1), lambda _: (0.9,)) > 100


@pytest.mark.parametrize("d", [4, 384])
def test_thousands_of_equal_rows_take_the_first_that_precedes_them(xp, d):
    units = make("equal", 3000, d)
    rows, columns = interleaved(np.random.default_rng(5), units)
    limits = np.searchsorted(columns, rows)
    score = oracle.similarity(units[0], units[0])
    at_least = float(score)
    found = close_similarity(*sides_of(xp, units, rows, columns), limits, at_least)
    for best, mine, theirs in zip(found, (rows, columns), (columns, rows), strict=True):
        scores, indices = map(to_numpy, best.filled())
        assert indices.tolist() == np.where(mine > theirs[0], 0, -1).tolist()
        assert oracle.same_bits(scores, np.where(mine > theirs[0], score, np.float32(0)))
    above = close_similarity(*sides_of(xp, units, rows, columns), limits, np.nextafter(at_least, 2))
    assert (to_numpy(above[0].indices) == -1).all()
    assert (to_numpy(above[1].indices) == -1).all()


@pytest.mark.parametrize("d", [4, 252])
def test_hundreds_of_last_bit_neighbours(xp, d):
    units = make("last_bit", 700, d)
    assert check(xp, units, *interleaved(np.random.default_rng(6), units), lambda _: (0.9, 1.0)) > 600


def test_a_side_without_rows(xp):
    units = make("random", 10, 4)
    none, every = np.zeros(0, np.int64), np.arange(10)
    for rows, columns in ((none, every), (every, none)):
        found = close_similarity(*sides_of(xp, units, rows, columns), np.zeros(len(rows), np.int64), 0.5)
        assert [len(best.filled()[1]) for best in found] == [len(rows), len(columns)]
        assert all((to_numpy(best.indices) == -1).all() for best in found)


def test_preceding_is_the_other_sides_limits():
    rng = np.random.default_rng(0)
    for n, m in ((0, 5), (5, 0), (1, 1), (30, 20), (7, 60)):
        order = rng.permutation(n + m)
        rows, columns = np.sort(order[:n]), np.sort(order[n:])
        limits = np.array([(columns < row).sum() for row in rows], np.int64)
        assert preceding(limits, m).tolist() == [(rows < column).sum() for column in columns]


def test_any_rows_and_thresholds_equal_brute_force():
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies

    @hypothesis.settings(max_examples=15, deadline=None)
    @hypothesis.given(
        kind=st.sampled_from(list(KINDS)),
        n=st.integers(126, 180),
        d=st.sampled_from([3, 252, 300]),
        seed=st.integers(0, 2**32 - 1),
        at_least=st.floats(0.01, 1),
        batch_size=st.integers(1, 200),
    )
    def check_any(kind, n, d, seed, at_least, batch_size):
        units = make(kind, n, d, seed)
        positions = interleaved(np.random.default_rng(seed), units)
        check(np, units, *positions, lambda _: (at_least,), batch_size=batch_size)

    check_any()


def test_blocks_that_are_compared_in_full_are_so_in_batches(monkeypatch):
    asked = []

    def listening(*arguments, **options):
        asked.append(options["batch_size"])
        return similarity.max_similarity(*arguments, **options)

    monkeypatch.setattr(sketch, "max_similarity", listening)
    units = make("random", 40, 16)
    check(np, units, *interleaved(np.random.default_rng(0), units), lambda _: (-0.9,), batch_size=7)
    assert set(asked) == {7}
