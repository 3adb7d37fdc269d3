"""Rows that are equal bit for bit: compared once, with the answer of the whole comparison."""

from __future__ import annotations

import numpy as np
import pytest

from spark_semdedup.kernels import unit_vectors
from spark_semdedup.kernels.cells import Comparison, distinct_rows
from spark_semdedup.kernels.similarity import max_similarity
from spark_semdedup.kernels.sketch import preceding


def repeated(distinct: int, n: int, seed: int = 0, d: int = 8) -> np.ndarray:
    x = unit_vectors(np.random.default_rng(seed).normal(size=(distinct, d)))
    x[0, :3] = [0.0, -0.0, 0.0]
    return x[np.random.default_rng(seed + 1).integers(distinct, size=n)]


@pytest.mark.parametrize("distinct", [1, 2, 30, 120])
def test_the_answer_is_that_of_all_rows_bit_for_bit(distinct):
    x, y = repeated(distinct, 200), repeated(distinct, 150, seed=5)
    y[:20] = x[:20]
    how = Comparison()
    within, limits = np.arange(200), np.sort(np.random.default_rng(3).integers(0, 151, size=200))
    pairs = [(how.home_rows(x), max_similarity(x, x, within))]
    of_x, of_y = how.two_sides(how.sides(x), how.sides(y), limits)
    pairs += [(of_x, max_similarity(x, y, limits)), (of_y, max_similarity(y, x, preceding(limits, 150)))]
    for best, (scores, indices) in pairs:
        assert best.scores.tobytes() == scores.tobytes()
        np.testing.assert_array_equal(best.indices, indices)


def test_the_first_of_each_set_counts_and_few_repeats_do_not_pay():
    x = np.array([[1, 0], [0, 1], [1, 0], [1, -0.0], [0, 1]], np.float32)
    np.testing.assert_array_equal(distinct_rows(x), [0, 1, 3])
    assert distinct_rows(repeated(1000, 100)[:20]) is None
    assert distinct_rows(np.eye(50, dtype=np.float32)) is None, "equal at first, not in all"
    assert distinct_rows(np.zeros((0, 3), np.float32)) is None


def test_a_cluster_of_equal_rows_multiplies_one_column(monkeypatch):
    columns = []

    def noted(rows, columns_, limits, **options):
        columns.append(len(columns_))
        return max_similarity(rows, columns_, limits, **options)

    monkeypatch.setattr("spark_semdedup.kernels.cells.max_similarity", noted)
    best = Comparison().home_rows(repeated(1, 5000))
    assert columns == [1]
    np.testing.assert_array_equal(best.indices[1:], 0)
