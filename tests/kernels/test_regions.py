"""Cells compared with their probing rows in one task: what brute force finds under the same rule, to the last bit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import oracle
import pytest
import vectors

from spark_semdedup.kernels import cells, sketch
from spark_semdedup.kernels.assignment import Visits
from spark_semdedup.kernels.cells import Comparison, compare_cells
from spark_semdedup.kernels.sketch import Side


@dataclass(frozen=True)
class Region:
    """Rows in rank order, the cell each is at home in (−1: none of these), and the cells it visits: bool (n, cells)."""

    units: np.ndarray
    own: np.ndarray
    probing: np.ndarray

    @property
    def visits(self) -> Visits:
        rows, cells = np.nonzero(self.probing)
        return Visits(rows.astype(np.int64), cells.astype(np.int32))


def region(kind: str, n: int, d: int, *, cells: int = 6, seed: int = 0) -> Region:
    """The last cell is empty, the one before has probing rows only; a third of the rows are at home elsewhere."""
    rng = np.random.default_rng(seed)
    units = vectors.make(kind, n, d, seed)
    n = len(units)
    own = rng.integers(-cells // 2, max(cells - 2, 1), size=n).clip(-1)
    probing = rng.random((n, cells)) < 0.3
    probing[:, cells - 1] = False
    probing[np.arange(n), own] &= own < 0
    return Region(units, own, probing)


def brute_force(region: Region, at_least: float) -> oracle.Similarities:
    """By the contract's words: home rows with home rows, and home rows with probing rows from ``at_least`` on; a row's
    best over all cells, of equal ones the earliest. −1 and 0 where there is none."""
    n = len(region.own)
    scores = oracle.clusters(region.units, np.zeros(n, int))[0].similarity if n else np.zeros((0, 0), np.float32)
    home_rows = (region.own[:, None] == region.own) & (region.own[:, None] >= 0)
    at = np.maximum(region.own, 0)
    probing_of_home = region.probing[:, at] & (region.own >= 0)  # row i visits the cell of row j
    met = (probing_of_home | probing_of_home.T) & (scores.astype(np.float64) >= at_least)
    before = np.tri(n, k=-1, dtype=bool) & (home_rows | met)
    best = np.where(before, scores, np.float32(-np.inf))
    there = before.any(axis=1)
    neighbour = best.argmax(axis=1) if n else np.zeros(0, int)
    return oracle.Similarities(np.where(there, neighbour, -1), np.where(there, best[np.arange(n), neighbour], 0))


def test_only_probing_rows(xp):
    """The whole without pairs of home rows, and without the visits of rows that are at home in a cell."""
    for at_least in (-np.inf, 0.9):
        some = region("near_duplicates", 160, 252, seed=5)
        assert some.own[0] in (0, 1)
        some.probing[0, 1 - some.own[0]] = True  # a home row that visits another cell
        how = Comparison(at_least)
        found = compare_cells(xp.asarray(some.units), some.own, some.visits, how, only_probing=True)
        n = len(some.own)
        scores = oracle.clusters(some.units, np.zeros(n, int))[0].similarity
        met = some.probing[:, np.maximum(some.own, 0)] & (some.own >= 0) & (some.own[:, None] < 0)
        close = (met | met.T) & (scores.astype(np.float64) >= at_least) & np.tri(n, k=-1, dtype=bool)
        best = np.where(close, scores, np.float32(-np.inf))
        there = close.any(axis=1)
        assert there[some.own >= 0].any()
        assert there[some.own < 0].any()
        assert found.neighbours.tolist() == np.where(there, best.argmax(axis=1), -1).tolist()
        assert oracle.same_bits(found.scores, np.where(there, best.max(axis=1), np.float32(0)))
        assert found.compared.tolist() == met.sum(axis=0).tolist(), "each pair counts with its home row"


def pairs(region: Region) -> int:
    """Home rows with home rows, and with each probing row."""
    cells = range(region.probing.shape[1])
    sizes = [(int((region.own == cell).sum()), int(region.probing[:, cell].sum())) for cell in cells]
    return sum(n * (n - 1) // 2 + n * probing_rows for n, probing_rows in sizes)


def check(xp, region: Region, at_least: float, **options) -> np.ndarray:
    found = compare_cells(xp.asarray(region.units), region.own, region.visits, Comparison(at_least, **options))
    expected = brute_force(region, at_least)
    assert found.neighbours.tolist() == expected.neighbour.tolist()
    assert oracle.same_bits(found.scores, expected.score.astype(np.float32))
    assert found.compared.sum() == pairs(region)
    assert not found.compared[region.own < 0].any(), "a pair counts with its home row"
    return found.neighbours


@pytest.mark.parametrize("kind", vectors.KINDS)
@pytest.mark.parametrize("d", [1, 12, 252])
def test_cells_with_probing_rows_equal_brute_force(xp, kind, d):
    some = region(kind, 130, d)
    for at_least in (-np.inf, 0.5, 0.9, 1.0):
        check(xp, some, at_least)


@pytest.mark.parametrize("kind", vectors.KINDS)
def test_where_there_are_no_sketches_whole_vectors_are_compared(monkeypatch, like_cupy, kind):
    """On a GPU: see ``Side.of``."""
    monkeypatch.setattr(cells, "array_module", lambda _: like_cupy)
    monkeypatch.setattr(cells, "close_similarity", None)
    monkeypatch.setattr(sketch, "array_module", lambda _: like_cupy)
    some = region(kind, 130, 252)
    assert Side.of(some.units, sketched=True).sketches.values is None
    for at_least in (-np.inf, 0.5, 0.9, 1.0):
        check(np, some, at_least)


@pytest.mark.parametrize("at_least", [-np.inf, 0.9])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_answer_does_not_depend_on_the_batch_size_and_precision(xp, at_least, batch_size, precision):
    mixed = region("near_duplicates", 200, 20, seed=3)
    check(xp, mixed, at_least, batch_size=batch_size, precision=precision)


def test_probing_rows_count_from_a_similarity_that_occurs_and_not_above(xp):
    """One home row after one probing row; the next double above their score is too much, for home rows it never is."""
    units = vectors.make("near_duplicates", 2, 12, seed=1)
    score = float(oracle.similarity(*units))
    probing = Region(units, np.array([-1, 0]), np.array([[True], [False]]))
    home = Region(units, np.array([0, 0]), np.zeros((2, 1), bool))
    assert check(xp, probing, score).tolist() == [-1, 0]
    assert check(xp, probing, np.nextafter(score, 2)).tolist() == [-1, -1]
    assert check(xp, home, np.nextafter(score, 2)).tolist() == [-1, 0]


@pytest.mark.parametrize("at_least", [-np.inf, 0.9])
def test_of_equal_rows_in_several_cells_the_earliest_counts(xp, at_least):
    """The last row has an equal one in its own cell and, earlier, in each that it visits."""
    units = vectors.make("equal", 5, 12)
    own = np.array([3, 1, 2, 0, 0])
    probing = np.zeros((5, 4), bool)
    probing[4, [1, 2]] = True
    assert check(xp, Region(units, own, probing), at_least).tolist() == [-1, -1, -1, -1, 1]
    probing[0, 0] = True
    assert check(xp, Region(units, own, probing), at_least).tolist() == [-1, -1, -1, 0, 0]


def test_a_zero_has_the_sign_of_the_earliest_neighbours(xp):
    """−0 and +0 tie across cells too."""
    units = np.array([[-0.0, -1], [0, 1], [1, 0]], np.float32)
    for order in ([0, 1, 2], [1, 0, 2]):
        for own in ([0, 1, 0], [1, 0, 0]):
            probing = np.array([[False, False], [False, False], [False, True]])
            assert check(xp, Region(units[order], np.array(own), probing), -np.inf)[2] == 0


@pytest.mark.parametrize("at_least", [-np.inf, 0.9])
def test_probing_rows_are_not_compared_with_one_another(xp, at_least):
    units = vectors.make("equal", 3, 12)
    probing_rows = Region(units, np.array([-1, -1, -1]), np.ones((3, 1), bool))
    assert check(xp, probing_rows, at_least).tolist() == [-1, -1, -1]
    with_home_row = Region(units, np.array([-1, -1, 0]), np.array([[True], [True], [False]]))
    assert check(xp, with_home_row, at_least).tolist() == [-1, -1, 0]


@pytest.mark.parametrize("at_least", [-np.inf, 0.9])
def test_no_rows_and_no_cells(xp, at_least):
    none = Region(np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros((0, 3), bool))
    assert check(xp, none, at_least).shape == (0,)
    alone = Region(vectors.make("random", 1, 4), np.array([2]), np.zeros((1, 3), bool))
    assert check(xp, alone, at_least).tolist() == [-1]


def test_the_worked_example(xp):
    """Home rows and probing rows of the module's text: which pairs are compared, seen by what each row finds."""
    a, b, c, d, e = range(5)
    probing = np.zeros((5, 2), bool)
    probing[d, 0] = probing[c, 1] = True
    own = np.array([0, 0, 0, 1, 1])
    units = vectors.make("opposite", 5, 6)
    found = compare_cells(xp.asarray(units), own, Visits(*_int(np.nonzero(probing))), Comparison())
    assert found.compared.tolist() == [1, 2, 3, 1, 2]  # ad; ab, bd; ac, bc, cd; cd; de, ce
    alike = units.copy()
    for row, other, met in ((d, a, True), (e, a, False), (e, b, False), (e, c, True), (e, d, True)):
        alike[:] = units
        alike[row] = alike[other]
        found = compare_cells(xp.asarray(alike), own, Visits(*_int(np.nonzero(probing))), Comparison(0.9))
        assert (found.neighbours[row] == other and found.scores[row] > 0.9) == met


def _int(found: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return found[0].astype(np.int64), found[1].astype(np.int32)
