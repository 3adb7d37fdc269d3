"""Which further cells a row visits, so that duplicates on either side of a boundary meet.

Clusters cut space into *cells*. Every row is a *home row* of the cell it is labelled with, and as a *probing row* it
visits others. Home rows are compared with one another and with probing rows. Two rules say which cells a row visits:

``NearestCells``: the nearest ones, as many as asked for. Most pairs that straddle a boundary meet (``nProbe``).

``WithinReach``: every cell that may hold a row similar enough. With it **every pair of rows whose similarity is at
least t meets**, for any centroids and any labels:

    Let x be labelled a and y labelled b ≠ a, ‖x − y‖ ≤ δ, and s_j(z) = z·c_j − ‖c_j‖²/2. Then

        (s_a(x) − s_b(x)) − (s_a(y) − s_b(y)) = (x − y)·(c_a − c_b) ≤ δ ‖c_a − c_b‖,

    as the halved squares cancel, and by Cauchy–Schwarz. So of the two numbers s_a(x) − s_b(x) and s_b(y) − s_a(y),
    whose sum the left side is, the smaller is at most half of the right side. Therefore, if every row z labelled o
    visits each cell j with

        s_o(z) − s_j(z) ≤ (δ/2) ‖c_o − c_j‖,                                                        (1)

    then x visits b, or y visits a. ∎ Nothing was said of how labels or centroids came about. In geometry: (1) holds for
    rows that lie beyond the bisector of c_o and c_j, or less than δ/2 before it. (Two that are equal have no bisector;
    written as above, (1) needs none.)

Rounding. *Reach*: similarities are exact dot products p = x·y of stored vectors, rounded once to float32, and count
from t on, so p ≥ t − 2⁻²⁴. Stored vectors have norms within ε = 10⁻⁵ of 1 (our own within 2⁻²³; others are refused), so

    ‖x − y‖² = ‖x‖² + ‖y‖² − 2p ≤ 2(1 + ε)² − 2(t − 2⁻²⁴) = δ².

*Scores*: ``Cells.scores`` gives S_j with S_j ≤ s_j ≤ S_j + w_j. (1) implies S_o − S_j ≤ (δ/2)‖c_o − c_j‖ + w_j, which
is tested, with the error of products, ``screening_error``, added under the root of ‖c_o − c_j‖², and a few roundings of
all else. For the cosine, S lacks the halved squares, which are ½ but for rounding and for centroids of norm zero; for
(1) their differences are added to the width.

*One side alone*: where the rows y stay in their cells, as those of an index do, x must visit the cell of each. Let y be
labelled with its nearest centre, b: s_a(y) ≤ s_b(y) + ω for every a, with ω for the float64 rounding of distances that
are compared (``Cells.nearness``). The first inequality then says s_a(x) − s_b(x) ≤ δ ‖c_a − c_b‖ + ω, whatever label a
x has. So x visits each cell j with

    s_a(x) − s_j(x) ≤ δ ‖c_a − c_j‖ + ω.                                                            (2)

Where for all rows y of cell j the largest s_a(y) − s_j(y) is known, the *margin* of cell j towards a, or a bound of it,

    s_a(x) − s_j(x) ≤ δ ‖c_a − c_j‖ + min(margin, ω),                                               (3)

by the same inequality: mostly no row of a cell is near its border with a, and margins are far below 0.

(For the cosine, where the nearest centre is the one of the largest z·c_j, let s_j(z) = z·c_j, and the same follows.)

Such a pair is compared in the cell that one of them visits, at most in both. Visits grow with δ and depend on k; which
pairs are found depends on neither. (For general metrics: ClusterJoin, Das Sarma, He and Chaudhuri, VLDB 2014.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from spark_semdedup.kernels.arithmetic import FLOAT32_ROUNDING, float64_screening_error, norms, screening_error
from spark_semdedup.kernels.arrays import Array, array_module, nonzero_pairs, rows_per_block, to_numpy
from spark_semdedup.kernels.assignment import Cells, Visits

NORM_TOLERANCE = 1e-5
"""How far from 1 the norm of a vector may be that is compared as a unit vector."""

_TABLE_CELLS = 4096
"""Up to so many cells the widths of all pairs of them are kept (64 MiB); beyond, computed for each block of rows."""


def reach(threshold: float) -> float:
    """The Euclidean distance that two unit vectors have at most whose similarity is ``threshold`` or more.

    >>> round(reach(0.95), 3)  # √0.1, and a slack for norms that are not quite 1
    0.316
    """
    return math.sqrt(2 * (1 + NORM_TOLERANCE) ** 2 - 2 * (threshold - FLOAT32_ROUNDING))


@dataclass(frozen=True)
class WithinReach:
    """Rows visit every cell that may hold a row at most ``distance`` away, by (1), or by (2) where rows of these cells
    visit none. ``of`` makes it ready for cells."""

    distance: float
    norm: Array
    """Of the targets: float64 (k,)."""
    one_sided: bool = False
    """Whether (2) holds: the rows that are sought visit no cell, and are labelled with their nearest centroid."""
    margins: Array | None = None
    """Of (3): float32 (k, k), of each cell towards each; NaN in none."""
    table: Array | None = None
    """The negative widths of all pairs of cells, where they are not too many: float32 (k, k)."""

    @classmethod
    def of(
        cls, cells: Cells, threshold: float, *, one_sided: bool = False, margins: Array | None = None
    ) -> WithinReach:
        """``margins``: on the device of ``cells``; for one side alone."""
        rule = cls(reach(threshold), norms(cells.targets), one_sided, margins)
        k = cells.targets.shape[0]
        if k > _TABLE_CELLS:
            return rule
        return replace(rule, table=-rule.widths(cells, array_module(cells.targets).arange(k)))

    def visits(self, cells: Cells, vectors: Array, scores: Array, own: Array) -> Visits:
        xp = array_module(vectors)
        every = xp.arange(own.shape[0])
        if self.table is not None:
            least = self.table[own]
        else:
            labels, place = xp.unique(own, return_inverse=True)
            least = -self.widths(cells, labels)[place]
        least += scores[every, own][:, None]
        beyond = scores < least  # a NaN, from centroids of norm 10²⁰ or so, is not beyond
        beyond[every, own] = True
        i, j = nonzero_pairs(~beyond)
        return Visits(to_numpy(i), to_numpy(j).astype(np.int32))

    def widths(self, cells: Cells, labels: Array) -> Array:
        """The right side of the test of (1) or (2) for rows labelled ``labels``, at least: float32 (m, k).

        ‖a − b‖² ≤ ‖a‖² + ‖b‖² − 2 fl(a·b) + 2γ‖a‖‖b‖, and 2‖a‖‖b‖ ≤ ‖a‖² + ‖b‖²: so squares taken a little too
        large cover the product's error, and with some more u the sum's.
        """
        error = screening_error(cells.targets.shape[1], tensor_cores=True) + 16 * FLOAT32_ROUNDING
        squares = (self.norm**2 * (1 + 2 * error)).astype(np.float32)
        roundings = 8 * FLOAT32_ROUNDING * (1 + self.norm) ** 2
        if self.one_sided:  # ω, of which each centre adds its part
            roundings += float64_screening_error(cells.targets.shape[1]) * (1 + self.norm) ** 2
        roundings = roundings.astype(np.float32)
        constant, of_own = cells.slack + roundings, roundings
        if cells.spherical and not self.one_sided:  # whose scores lack the halved squares
            halves = (self.norm**2 / 2).astype(np.float32)
            constant, of_own = constant - halves, of_own + halves
        widths = cells.targets[labels] @ cells.targets.T
        widths *= -2
        widths += squares
        widths += squares[labels][:, None]
        xp = array_module(widths)
        xp.sqrt(xp.maximum(widths, 0, out=widths), out=widths)
        distance = self.distance if self.one_sided else self.distance / 2
        widths *= np.float32(distance * (1 + 16 * FLOAT32_ROUNDING))
        widths += constant
        widths += of_own[labels][:, None]
        if self.margins is not None:
            widths += xp.minimum(self.margins[:, labels].T, 0)
        return widths


def margins(cells: Cells, vectors: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the margins, of (3), of the cells that some of the rows are in: these cells, ascending, integers (m,),
    and float32 (m, k), of each towards every cell. NumPy.

    From S_j ≤ s_j ≤ S_j + w_j: s_a − s_j ≤ S_a + w_a − S_j, and a few roundings more.
    """
    order = np.argsort(own, kind="stable")
    found = np.unique(own)
    k = cells.targets.shape[0]
    largest = np.full((len(found), k), -np.inf, np.float32)
    step = rows_per_block(np, 4 * k, block_bytes=1 << 22)
    for start in range(0, len(order), step):
        rows = order[start : start + step]
        scores = cells.scores(vectors[rows])
        scores -= scores[np.arange(len(rows)), own[rows]][:, None].copy()
        labels, first = np.unique(own[rows], return_index=True)
        place = np.searchsorted(found, labels)
        largest[place] = np.maximum(largest[place], np.maximum.reduceat(scores, first, axis=0))
    roundings = 16 * FLOAT32_ROUNDING * (1 + norms(cells.targets)) ** 2
    largest += (cells.slack + roundings).astype(np.float32)
    largest += roundings[found].astype(np.float32)[:, None]
    return found, np.where(np.isnan(largest), np.float32(np.inf), largest)


@dataclass(frozen=True)
class NearestCells:
    """Rows visit the ``others`` cells that are nearest to them beside their own; near-ties are decided exactly, then
    by the lowest id, as labels are."""

    others: int

    def visits(self, cells: Cells, vectors: Array, scores: Array, own: Array) -> Visits:
        xp = array_module(vectors)
        n, k = scores.shape
        others = min(self.others, k - 1)
        if not others or not n:
            return Visits.none()
        every = xp.arange(n)
        remaining = scores.copy()
        remaining[every, own] = -np.inf
        last = self._nth_highest(remaining.copy(), others)
        near = remaining >= last[:, None] - cells.slack
        near[every, own] = False
        i, j = nonzero_pairs(near)
        found = xp.bincount(i, minlength=n)
        if int(found.max()) > others:
            i, j = self._decide(cells, vectors, i, j, found, others)
        return Visits(to_numpy(i), to_numpy(j).astype(np.int32))

    @staticmethod
    def _nth_highest(scores: Array, n: int) -> Array:
        """The n-th highest score of each row. A pass for each is quicker than a partition, as n is small.

        Overwrites ``scores``."""
        xp = array_module(scores)
        every = xp.arange(scores.shape[0])
        for _ in range(n - 1):
            scores[every, scores.argmax(axis=1)] = -np.inf
        return scores.max(axis=1)

    @staticmethod
    def _decide(
        cells: Cells, vectors: Array, i: Array, j: Array, found: Array, others: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of rows with more candidates than ``others`` the nearest ones, on the host."""
        contested = found[i] > others
        nearness = to_numpy(cells.nearness(vectors, i[contested], j[contested]))
        sure = to_numpy(~contested)
        i, j = to_numpy(i), to_numpy(j)
        rows, cell = i[~sure], j[~sure]
        order = np.lexsort((cell, nearness, rows))
        rows, cell = rows[order], cell[order]
        first = np.searchsorted(rows, rows)  # place of the row's nearest candidate
        taken = np.arange(len(rows)) - first < others
        rows, cell = np.concatenate([i[sure], rows[taken]]), np.concatenate([j[sure], cell[taken]])
        order = np.lexsort((cell, rows))
        return rows[order], cell[order]
