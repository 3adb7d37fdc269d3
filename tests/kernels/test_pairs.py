"""All pairs that are similar enough, or the first of each row: as brute force has them, whatever the vectors."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from spark_semdedup.kernels import pairs as kernel
from spark_semdedup.kernels.pairs import SimilarPairs, similar_pairs
from spark_semdedup.kernels.sketch import Side


def brute_force(units: np.ndarray, limits: np.ndarray, at_least: float, most: int | None):
    """(row, column, score) of each pair, by row and column; and the rows that have more than ``most``."""
    (cluster,) = oracle.clusters(units, np.zeros(len(units), int))
    both = np.where(np.tri(len(units), k=-1, dtype=bool), cluster.similarity, cluster.similarity.T)
    found, more = [], []
    for i, limit in enumerate(limits):
        near = [j for j in range(limit) if float(both[i, j]) >= at_least]
        found += [(i, j, both[i, j].tobytes()) for j in near[:most]]
        more.append(most is not None and len(near) > most)
    return found, more


def listed(pairs: SimilarPairs):
    return list(
        zip(pairs.rows.tolist(), pairs.columns.tolist(), [score.tobytes() for score in pairs.scores], strict=True)
    )


@pytest.mark.parametrize("kind", sorted(vectors.KINDS))
@pytest.mark.parametrize("most", [None, 1, 3])
@pytest.mark.parametrize("d", [5, 300])
def test_pairs_are_those_of_brute_force(kind, most, d, monkeypatch):
    monkeypatch.setattr(kernel, "_WIDEST_BLOCK", 50)
    units = vectors.make(kind, 170, d, seed=d)
    limits = np.arange(len(units))
    (cluster,) = oracle.clusters(units, np.zeros(len(units), int))
    scores = np.unique(cluster.similarity[np.tri(len(units), k=-1, dtype=bool)])
    side = Side.of(units, sketched=True)
    # Thresholds that some pairs meet to the last bit.
    for at_least in {float(scores[-1]), float(scores[len(scores) // 2]), float(scores[0]), 0.9}:
        found = similar_pairs(side, side, limits, at_least, most=most, batch_size=37)
        expected, more = brute_force(units, limits, at_least, most)
        assert listed(found) == expected
        assert found.more.tolist() == more


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(0, 60), st.sampled_from([None, 1, 2, 5]))
def test_two_sides_in_any_order(seed, n, m, most):
    rng = np.random.default_rng(seed)
    units = vectors.make("lattice", n + m, 3, seed=seed)
    is_column = rng.permutation(n + m) < m
    rows, columns = np.flatnonzero(~is_column), np.flatnonzero(is_column)
    side = Side.of(units, sketched=True)
    found = similar_pairs(side.take(rows), side.take(columns), np.searchsorted(columns, rows), 0.8, most=most)
    got = sorted((int(rows[i]), int(columns[j])) for i, j in zip(found.rows, found.columns, strict=True))
    every, _ = brute_force(units, np.arange(n + m), 0.8, None)
    expected = []
    for row in rows:
        expected += [(int(row), j) for i, j, _ in every if i == row and is_column[j]][:most]
    assert got == sorted(expected)


def test_thousands_of_equal_rows_are_not_multiplied_with_one_another(monkeypatch):
    """50,000 equal rows have 1.25 billion pairs: of each row the first few are decided, and no others."""
    n, most, decided = 50_000, 4, []
    exact = kernel.exact_pair_dots
    monkeypatch.setattr(kernel, "exact_pair_dots", lambda a, b, i, j: decided.append(len(i)) or exact(a, b, i, j))
    side = Side.of(vectors.make("equal", n, 8), sketched=True)
    found = similar_pairs(side, side, np.arange(n), 0.95, most=most)
    assert sum(decided) <= n * (most + 1)
    assert found.more.sum() == n - most - 1
    assert np.bincount(found.rows, minlength=n).tolist() == [0, 1, 2, 3] + [4] * (n - 4)
    assert (found.columns < most).all()
