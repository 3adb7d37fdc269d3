"""All pairs from a threshold on, against brute force; exact at the threshold, bounded in memory."""

from __future__ import annotations

import numpy as np
import pytest

from spark_semdedup.errors import SemDedupError
from spark_semdedup.explore import neighbours as module
from spark_semdedup.explore.neighbours import neighbours
from spark_semdedup.kernels import exact_dots


def every_pair(units: np.ndarray, threshold: float) -> dict[tuple[int, int], float]:
    i, j = np.triu_indices(len(units), 1)
    scores = exact_dots(units[i], units[j])
    kept = scores.astype(np.float64) >= threshold
    return dict(zip(zip(i[kept].tolist(), j[kept].tolist(), strict=True), scores[kept].tolist(), strict=True))


@pytest.mark.parametrize("threshold", [0.95, 0.6, -1.0])
@pytest.mark.parametrize("block", [7, 64, 4096])
def test_pairs_are_brute_force_s(debian, monkeypatch, threshold, block):
    monkeypatch.setattr(module, "BLOCK", block)
    units = debian.units[:150]
    found = neighbours(units, threshold)
    i, j = found.pairs
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == set(every_pair(units, threshold))


def test_neighbours_are_sorted_and_scored_exactly(debian):
    units = debian.units[:400]
    expected = every_pair(units, 0.5)
    found = neighbours(units, 0.5)
    for row in range(0, 400, 23):
        columns = found.of(row)
        scores = found.similarities[found.starts[row] : found.starts[row + 1]]
        assert columns[0] == row
        assert scores[0] == 1
        assert (np.diff(scores[1:]) <= 0).all()
        for column, score in zip(columns[1:].tolist(), scores[1:].tolist(), strict=True):
            assert expected[min(row, column), max(row, column)] == score


def test_a_pair_at_the_threshold_is_decided_exactly(debian):
    units = debian.units[:300]
    scores = np.array(sorted(every_pair(units, 0.7).values()))
    for score in scores[:: max(1, len(scores) // 40)].tolist():
        at = neighbours(units, score).pairs[0]
        above = neighbours(units, float(np.nextafter(score, 2))).pairs[0]
        assert len(at) == (scores >= score).sum()
        assert len(above) == (scores > score).sum()


def test_more_pairs_than_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda: 1000 * 2 * module.BYTES_PER_PAIR)
    equal = np.tile(np.array([[1.0, 0.0]], np.float32), (100, 1))
    with pytest.raises(SemDedupError, match=r"threshold=0\.5 makes more than 1,000 pairs of 100 rows"):
        neighbours(equal, 0.5)
