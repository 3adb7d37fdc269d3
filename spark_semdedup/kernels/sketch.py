"""Pairs of rows that are at least so similar, found among many that are not, at a fraction of a product's cost.

A *sketch* of a vector x is its projection xQ onto m orthonormal directions, and the norm of what that leaves out,
x⊥. As x·y = xQ·yQ + x⊥·y⊥ ≤ xQ·yQ + ‖x⊥‖‖y⊥‖ (Cauchy–Schwarz), the product of two sketches, of m + 1 numbers each,
bounds the similarity from above, and 2(m + 1) operations dismiss a pair instead of 2d. With the directions in which
the rows at hand extend most, 63 of 384 leave one pair in some thousands, on package descriptions and similarities from
0.9 on.
(Bounds from norms of projections are known from exact maximum inner product search: LEMP, Teflioudi and Gemulla, ACM
TODS 42(1), 2016, and FEXIPRO, Li, Chan, Yiu and Mamoulis, SIGMOD 2017.)

Where rows extend in all directions alike a sketch says nothing: blocks with many candidates are compared in full.

Rounding. Directions are stored as float32, column by column within 2⁻²⁴ of orthonormal ones (as float64 made them), so
by ‖B − Q‖ ≤ √m·2⁻²⁴ all together; a float32 product of d terms adds at most γ_d to each of m elements. So the stored
projection p has ‖p − xQ‖ ≤ η = √m (γ_d + 2⁻²⁴)(1 + ε), for norms within ε of 1. The rest is taken from the other side:
‖x⊥‖² ≤ (1 + ε)² − (‖p‖ − η)², with ‖p‖ rounded down and all of it up; and xQ·yQ ≤ p·q + 2η(1 + ε) + η². ``slack``
covers the latter and the rounding of the sketches' own product.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spark_semdedup.kernels.arithmetic import FLOAT32_ROUNDING, exact_pair_dots, screening_error
from spark_semdedup.kernels.arrays import Array, array_module, nonzero_pairs, rows_per_block, to_device_of
from spark_semdedup.kernels.similarity import Best, max_similarity, row_panel
from spark_semdedup.kernels.visits import NORM_TOLERANCE

DIRECTIONS = 63
"""Directions of a sketch. (32 leave some ten times as many candidates, 128 cost twice as much: RESULTS.md.)"""

_BASIS_ROWS = 2048
"""Rows that the directions are computed from."""

CANDIDATES_PER_PAIR = 1 / 256
"""Share of a block's pairs beyond which it is compared in full: a candidate costs as much as 100 or 200 pairs there."""


def pays(dim: int) -> bool:
    """Whether vectors are so much longer than a sketch that it saves time."""
    return dim >= 4 * DIRECTIONS


@dataclass(frozen=True)
class Sketches:
    """Sketches of n vectors, float32 (n, m + 1), and how far their products may lie below a similarity.

    ``values`` None: vectors are too short for sketches to pay. On a CPU these are vectors themselves then.
    """

    values: Array | None
    slack: float

    @classmethod
    def of(cls, vectors: Array) -> Sketches:
        """Of float32 vectors (n, d) whose norms are within 10⁻⁵ of 1."""
        n, d = vectors.shape
        xp = array_module(vectors)
        if not pays(d) or n < 2 * DIRECTIONS:
            # On a CPU one product of the vectors themselves takes less than a search of either side's best.
            return cls(vectors, 2 * screening_error(d)) if xp is np else cls(None, 0.0)
        basis = xp.zeros((d, DIRECTIONS + 1), np.float32)
        basis[:, :-1] = _directions(vectors)
        eta = DIRECTIONS**0.5 * (screening_error(d, tensor_cores=xp is not np) + FLOAT32_ROUNDING) * 1.001
        values = vectors @ basis  # whose last column, zeros so far, is for the rest
        # Sums of squares in float32, less what they may be too large by.
        squares = xp.einsum("ij,ij->i", values, values).astype(np.float64)
        squares -= (1 + NORM_TOLERANCE + eta) ** 2 * screening_error(DIRECTIONS, tensor_cores=xp is not np)
        inside = xp.maximum(xp.sqrt(xp.maximum(squares, 0)) - eta, 0)
        outside = xp.sqrt(xp.maximum((1 + NORM_TOLERANCE) ** 2 - inside**2, 0))
        values[:, -1] = outside * (1 + 2 * FLOAT32_ROUNDING)
        # A sketch's norm is below √2 (1 + …): the product's error is that of unit vectors, four times.
        own = 4 * screening_error(DIRECTIONS + 1, tensor_cores=xp is not np)
        return cls(values, eta * (2.01 + eta) + own)

    def take(self, rows: Array | slice) -> Sketches:
        return Sketches(None if self.values is None else self.values[rows], self.slack)


def _directions(vectors: Array) -> Array:
    """Orthonormal directions in which the rows extend most: float64 (d, m).

    Subspace iteration on rows at equal steps (Halko, Martinsson and Tropp, SIAM Review 53, 2011, algorithm 4.4), begun
    with rows themselves. That it is deterministic is convenient; the answer does not depend on it.
    """
    xp = array_module(vectors)
    rows = vectors[:: max(1, vectors.shape[0] // _BASIS_ROWS)].astype(np.float64)
    start = rows[xp.linspace(0, rows.shape[0] - 1, DIRECTIONS).astype(np.int64)].T
    # Equal rows would span less than m directions: a fixed little noise makes up the rest.
    noise = xp.asarray(np.random.default_rng(0).standard_normal(start.shape))
    basis, _ = xp.linalg.qr(start + 1e-3 * noise)
    basis, _ = xp.linalg.qr(rows.T @ (rows @ basis) + 1e-9 * noise)
    return basis


@dataclass(frozen=True)
class Side:
    """Vectors in rank order that are compared with others: those numbered ``places``, integers (n,), among the rows of
    ``whole``, float32 (m, d), and their sketches. Vectors are gathered when they are needed, which few are."""

    whole: Array
    places: Array
    sketches: Sketches

    @classmethod
    def of(cls, vectors: Array, *, sketched: bool) -> Side:
        """All rows of a matrix. ``sketched``: with sketches, where they save time: NumPy's. On a GPU a block of their
        products is moved three times, some 10 bytes a pair, in the time that whole vectors take in float16."""
        xp = array_module(vectors)
        sketches = Sketches.of(vectors) if sketched and xp is np else Sketches(None, 0.0)
        return cls(vectors, xp.arange(vectors.shape[0]), sketches)

    def take(self, rows: Array | slice) -> Side:
        return Side(self.whole, self.places[rows], self.sketches.take(rows))

    @property
    def vectors(self) -> Array:
        """Float32 (n, d), a copy."""
        return self.whole[self.places]

    @property
    def n(self) -> int:
        return int(self.places.shape[0])


def close_similarity(
    rows: Side,
    columns: Side,
    limits: np.ndarray,
    at_least: float,
    *,
    batch_size: int = 1024,
    precision: str = "float32",
) -> tuple[Best, Best]:
    """For every row its most similar preceding column, and for every column its most similar preceding row, where that
    similarity is ``at_least`` so much.

    ``limits``: NumPy ints (n,) that never decrease: the first ``limits[i]`` columns precede row i, which precedes the
    others. Each pair is looked at once. Sketches of both sides come from one ``Sketches.of``.

    Returns ``Best`` of the rows and of the columns; −1 where there is none.
    """
    xp = array_module(rows.whole)
    best = Best.none(xp, rows.n), Best.none(xp, columns.n)
    search = _Search(rows, columns, limits, at_least, batch_size, precision, best)
    if rows.n and columns.n:
        step = row_panel(xp, batch_size)
        width = rows_per_block(xp, 4 * step)
        for i in range(0, rows.n, step):
            for j in range(0, columns.n, width):
                search.block(slice(i, i + step), slice(j, j + width))
    rows_best, columns_best = (Best(*each.at_least(at_least).filled()) for each in best)
    return rows_best, columns_best


@dataclass(frozen=True)
class _Search:
    """What ``close_similarity`` is asked, and the ``best`` so far of the rows and of the columns."""

    rows: Side
    columns: Side
    limits: np.ndarray
    at_least: float
    batch_size: int
    precision: str
    best: tuple[Best, Best]

    def block(self, i: slice, j: slice) -> None:
        """Takes in the pairs of rows ``i`` and columns ``j``."""
        mine, theirs = self.rows.sketches.take(i), self.columns.sketches.take(j)
        if mine.values is not None and theirs.values is not None:
            near = mine.values @ theirs.values.T >= np.float32(self.at_least - mine.slack)
            found = int(array_module(near).count_nonzero(near))
            if found <= CANDIDATES_PER_PAIR * near.size:
                if found:
                    a, b = nonzero_pairs(near)
                    self.decide(a + i.start, b + j.start)
                return
        self.in_full(i, j)

    def decide(self, i: Array, j: Array) -> None:
        """Takes in the pairs (i, j) that are similar enough, each for the row or column that comes later."""
        rows, columns, xp = self.rows, self.columns, array_module(self.rows.whole)
        error = screening_error(rows.whole.shape[1], tensor_cores=xp is not np)
        near = pair_products(rows, columns, i, j) >= np.float32(self.at_least - 2 * error)
        i, j = i[near], j[near]
        scores = exact_pair_dots(rows.whole, columns.whole, rows.places[i], columns.places[j])
        row_is_later = j < self.limits_there[i]
        of_rows, of_columns = self.best
        of_rows.update(i[row_is_later], j[row_is_later], scores[row_is_later])
        of_columns.update(j[~row_is_later], i[~row_is_later], scores[~row_is_later])

    @cached_property
    def limits_there(self) -> Array:
        """``limits`` where the vectors are."""
        return to_device_of(self.rows.whole, self.limits)

    def in_full(self, i: slice, j: slice) -> None:
        """Takes them in by matrix products of the vectors themselves, either side's predecessors in turn."""
        rows, columns = self.rows.take(i).vectors, self.columns.take(j).vectors
        limits = np.clip(self.limits[i] - j.start, 0, columns.shape[0])
        sides = (
            (rows, columns, limits, i.start, j.start),
            (columns, rows, preceding(limits, columns.shape[0]), j.start, i.start),
        )
        for best, (mine, theirs, before, first, second) in zip(self.best, sides, strict=True):
            scores, found = max_similarity(
                mine,
                theirs,
                before,
                batch_size=self.batch_size,
                precision=self.precision,
                at_least=self.at_least,
            )
            there = array_module(found).flatnonzero(found >= 0)
            best.update(there + first, found[there] + second, scores[there])


def pair_products(rows: Side, columns: Side, i: Array, j: Array) -> Array:
    """Float32 dot products of rows ``i`` and columns ``j``, summed in any order: within ``screening_error``."""
    xp = array_module(rows.whole)
    products = xp.empty(i.shape[0], np.float32)
    step = rows_per_block(xp, 8 * rows.whole.shape[1])
    for start in range(0, i.shape[0], step):
        part = slice(start, start + step)
        pairs = rows.whole[rows.places[i[part]]], columns.whole[columns.places[j[part]]]
        products[part] = xp.einsum("ij,ij->i", *pairs)
    return products


def preceding(limits: np.ndarray, columns: int) -> np.ndarray:
    """The other side's limits: how many rows precede each of the columns, given how many columns precede each row.

    >>> preceding(np.array([0, 1, 3]), 3)  # in rank order: row, column, row, column, column, row
    array([1, 2, 2])
    """
    return np.searchsorted(limits, np.arange(columns), side="right")
