"""The nearest centroid of every row, and the distances to it.

x lies nearest to the centroid c that minimises ‖x − c‖², which is the one that maximises x·c − ‖c‖²/2, or x·c for
unit centroids and the cosine. One matrix product for a batch of rows gives that score for all centroids; where
several come within its error bound, the squared distances of those few, computed exactly (``arithmetic``), decide,
then the lowest id. So labels and distances depend on neither batch nor machine.

Floor: 2 n k d operations for the product; the distances add 2 n d exact terms, whatever k is. Which further cells a row
visits (``coverage``) is read from the same product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from spark_semdedup.kernels.arithmetic import (
    FLOAT32_ROUNDING,
    exact_pair_dots64,
    float64_screening_error,
    norms,
    squared_pair_distances,
    unit_vectors,
)
from spark_semdedup.kernels.arrays import (
    Array,
    argmin_mask,
    array_module,
    minimum_at,
    nonzero_pairs,
    rounded,
    rows_per_block,
)


@dataclass(frozen=True)
class Cells:
    """The centroids as rows are scored with them: ``targets`` (k, d), for the cosine of unit length; what is subtracted
    from x·c to get a *lower* bound of the score (k,); and the width of that bound (k,) or (1,)."""

    centroids: Array
    targets: Array
    spherical: bool
    bias: Array
    slack: Array

    @classmethod
    def of(cls, centroids: Array, *, spherical: bool = False) -> Cells:
        """Of float32 centroids (k, d), finite, of any norm."""
        targets = unit_vectors(centroids) if spherical else centroids
        return cls(centroids, targets, spherical, *_bias_and_slack(targets, spherical))

    @cached_property
    def units(self) -> Array:
        """The centroids' directions: float32 (k, d)."""
        return self.targets if self.spherical else unit_vectors(self.centroids)

    def scores(self, vectors: Array) -> Array:
        """Lower bounds of the score of each row with each centroid: float32 (n, k)."""
        xp = array_module(vectors)
        scores = vectors @ self.targets.T
        scores -= self.bias
        if not xp.isfinite(self.bias).all():  # beyond 10¹⁹ or so: products may be infinite, too, and ∞ − ∞ no number
            scores[xp.isnan(scores)] = -np.inf
        return scores

    def nearness(self, vectors: Array, i: Array, j: Array) -> Array:
        """What decides between centroids: smaller is nearer. Of ``vectors[i]`` and centroids ``j``: float64 (m,)."""
        if self.spherical:
            return -exact_pair_dots64(vectors, self.targets, i, j)
        return squared_pair_distances(vectors, self.targets, i, j)


@dataclass(frozen=True)
class Visits:
    """Which cells rows visit beside their own: pairs of a row and a cell, row by row; int64 and int32 (m,), NumPy."""

    rows: np.ndarray
    cells: np.ndarray

    @classmethod
    def none(cls) -> Visits:
        return cls(np.empty(0, np.int64), np.empty(0, np.int32))

    def where(self, which: np.ndarray) -> Visits:
        """Those marked: bool (m,)."""
        return Visits(self.rows[which], self.cells[which])

    @classmethod
    def joined(cls, parts: Sequence[Visits], starts: Sequence[int]) -> Visits:
        """Those of blocks of rows that begin at ``starts``."""
        if not parts:
            return cls.none()
        rows = [part.rows + start for part, start in zip(parts, starts, strict=True)]
        return cls(np.concatenate(rows), np.concatenate([part.cells for part in parts]))


class VisitRule(Protocol):
    """Says which cells rows visit (``coverage``)."""

    def visits(self, cells: Cells, vectors: Array, scores: Array, own: Array) -> Visits:
        """Of a block of rows with their ``scores`` (``Cells``) and their own cells; rows count from 0 in the block."""


@dataclass(frozen=True)
class Assignment:
    """What is known of each row after assignment; all of length n, of the rows' array library."""

    centroid: Array
    """int32: id of the nearest centroid."""
    l2_dist_to_cent: Array | None
    """float32: ‖x − c‖; None if not asked for."""
    cosine_dist_to_cent: Array | None
    """float32: 1 − x·c/‖c‖, never below 0; 1 where the centroid's norm is 0."""
    visits: Visits
    """Which further cells rows visit; none unless asked for."""


DISTANCES = ("l2_dist_to_cent", "cosine_dist_to_cent")


def nearest_centroids(
    vectors: Array, centroids: Array, *, spherical: bool = False, distances: Sequence[str] = DISTANCES
) -> Assignment:
    """Assigns each unit vector to its nearest centroid.

    Parameters
    ----------
    vectors
        Float32 unit vectors (n, d).
    centroids
        Float32 (k, d), finite, of any norm.
    spherical
        Nearest by cosine (largest x·c/‖c‖) instead of Euclidean distance.
    distances
        Which of ``DISTANCES`` to compute; each reads all rows once more. The others are None.
    """
    return assign(vectors, Cells.of(centroids, spherical=spherical), distances=distances)


def assign(
    vectors: Array, cells: Cells, *, distances: Sequence[str] = DISTANCES, rule: VisitRule | None = None
) -> Assignment:
    """The same for cells that are made ready once for many batches, and with the visits that ``rule`` says."""
    xp = array_module(vectors)
    label = xp.empty(vectors.shape[0], np.int32)
    found = []
    blocks = _blocks(vectors, cells)
    for part in blocks:
        scores = cells.scores(vectors[part])
        label[part] = _nearest(vectors[part], cells, scores)
        if rule is not None:
            found.append(rule.visits(cells, vectors[part], scores, label[part]))
    l2 = cosine = None
    if "l2_dist_to_cent" in distances:
        l2 = rounded(xp.sqrt(squared_pair_distances(vectors, cells.centroids, None, label)))
    if "cosine_dist_to_cent" in distances:
        cosine = rounded(xp.maximum(1.0 - exact_pair_dots64(vectors, cells.units, None, label), 0.0))
    return Assignment(label, l2, cosine, Visits.joined(found, [part.start for part in blocks] if found else []))


def visited_cells(vectors: Array, cells: Cells, own: Array, rule: VisitRule) -> Visits:
    """The visits alone, of rows whose own cells are given, by whoever labelled them: integer (n,), from 0 to k − 1."""
    blocks = _blocks(vectors, cells)
    found = [rule.visits(cells, vectors[part], cells.scores(vectors[part]), own[part]) for part in blocks]
    return Visits.joined(found, [part.start for part in blocks])


def _blocks(vectors: Array, cells: Cells) -> list[slice]:
    step = rows_per_block(array_module(vectors), 4 * cells.targets.shape[0], block_bytes=1 << 22)
    return [slice(start, start + step) for start in range(0, vectors.shape[0], step)]


def _bias_and_slack(targets: Array, spherical: bool) -> tuple[Array, Array]:
    """For each centroid what is subtracted from x·c to get a *lower* bound of the score, and the width of the bound.

    The product is off by at most γ‖c‖ (see ``arithmetic.screening_error``; tensor cores are not used here, but
    the allowance for them costs nothing), half the squared norm and the subtraction by two more roundings each.
    Squared distances decide what is left; where a centroid is so small that float64 rounds it away beside x, they tie,
    and the last term keeps the screen from telling such centroids apart.
    """
    xp = array_module(targets)
    norm = norms(targets)
    half_square = xp.zeros_like(norm) if spherical else norm * norm / 2
    error = (targets.shape[1] + 8) * 4 * FLOAT32_ROUNDING * (norm + half_square)
    error += float64_screening_error(targets.shape[1]) * (1 + norm) ** 2
    slack = (2 * error).astype(np.float32)
    if slack.max() <= 4 * slack.min():  # as good as equal: the largest for all spares a temporary of n × k
        slack = slack.max()[None]
    return (half_square + error).astype(np.float32), slack


def _nearest(vectors: Array, cells: Cells, scores: Array) -> Array:
    """The labels of a block of rows: one pass over their scores for the highest, one for what comes near it."""
    xp = array_module(vectors)
    highest = scores.max(axis=1)
    i, j = nonzero_pairs(scores >= highest[:, None] - cells.slack)
    candidates = xp.bincount(i, minlength=vectors.shape[0])
    label = j[xp.cumsum(candidates) - candidates].astype(np.int32)  # the first of each row; of most the only one
    contested = candidates[i] > 1
    if contested.any():
        i, j = i[contested], j[contested]
        rows = xp.flatnonzero(candidates > 1)
        label[rows] = _decide(vectors, cells, i, j)[rows]
    return label


def _decide(vectors: Array, cells: Cells, i: Array, j: Array) -> Array:
    """For each row among ``i`` the nearest of its candidates ``j``, decided exactly; of equally near ones the lowest.

    Returns int64 (n,); rows that are not among ``i`` have no meaning.
    """
    xp = array_module(vectors)
    label = xp.full(vectors.shape[0], cells.targets.shape[0], np.int64)
    ties = argmin_mask(vectors.shape[0], i, cells.nearness(vectors, i, j))
    minimum_at(label, i[ties], j[ties])
    return label
