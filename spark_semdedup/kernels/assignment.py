"""The nearest centroid of every row, and the distances to it.

x lies nearest to the centroid c that minimises ‖x − c‖², which is the one that maximises x·c − ‖c‖²/2, or x·c for
unit centroids and the cosine. One matrix product for a batch of rows gives that score for all centroids; where
several come within its error bound, the squared distances of those few, computed exactly (``arithmetic``), decide,
then the lowest id. So labels and distances depend on neither batch nor machine.

Floor: 2 n k d operations for the product; the distances add 2 n d exact terms, whatever k is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spark_semdedup.kernels.arithmetic import (
    FLOAT32_ROUNDING,
    exact_pair_dots64,
    float64_screening_error,
    norms,
    squared_pair_distances,
    unit_vectors,
)
from spark_semdedup.kernels.arrays import Array, array_module, marked_pairs, rounded, rows_per_block


@dataclass(frozen=True)
class Assignment:
    """What is known of each row after assignment; all of length n, of the rows' array library."""

    centroid: Array
    """int32: id of the nearest centroid."""
    l2_dist_to_cent: Array | None
    """float32: ‖x − c‖; None if not asked for."""
    cosine_dist_to_cent: Array | None
    """float32: 1 − x·c/‖c‖, never below 0; 1 where the centroid's norm is 0."""


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
    xp = array_module(vectors)
    units = unit_vectors(centroids)
    targets = units if spherical else centroids
    n = vectors.shape[0]
    label = xp.empty(n, np.int32)
    step = rows_per_block(xp, 4 * centroids.shape[0], block_bytes=1 << 22)
    bias, slack = _bias_and_slack(targets, spherical)
    for start in range(0, n, step):
        part = slice(start, start + step)
        label[part] = _nearest(vectors[part], targets, bias, slack, spherical)
    own = xp.arange(n)
    l2 = cosine = None
    if "l2_dist_to_cent" in distances:
        l2 = rounded(xp.sqrt(squared_pair_distances(vectors, centroids, own, label)))
    if "cosine_dist_to_cent" in distances:
        cosine = rounded(xp.maximum(1.0 - exact_pair_dots64(vectors, units, own, label), 0.0))
    return Assignment(label, l2, cosine)


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


def _nearest(vectors: Array, targets: Array, bias: Array, slack: Array, spherical: bool) -> Array:
    """Screens a block of rows: one product, one pass for the highest score, one for what comes near it."""
    xp = array_module(vectors)
    scores = vectors @ targets.T
    scores -= bias
    highest = scores.max(axis=1)
    i, j = marked_pairs(scores >= highest[:, None] - slack)
    candidates = xp.bincount(i, minlength=vectors.shape[0])
    label = j[xp.cumsum(candidates) - candidates].astype(np.int32)  # the first of each row; of most the only one
    contested = candidates[i] > 1
    if contested.any():
        i, j = i[contested], j[contested]
        rows = xp.flatnonzero(candidates > 1)
        label[rows] = _decide(vectors, targets, i, j, spherical)[rows]
    return label


def _decide(vectors: Array, targets: Array, i: Array, j: Array, spherical: bool) -> Array:
    """For each row among ``i`` the nearest of its candidates ``j``, decided exactly; of equally near ones the lowest.

    Returns int64 (n,); rows that are not among ``i`` have no meaning.
    """
    xp = array_module(vectors)
    if spherical:
        distance = -exact_pair_dots64(vectors, targets, i, j)  # smaller is nearer, as for distances
    else:
        distance = squared_pair_distances(vectors, targets, i, j)
    least = xp.full(vectors.shape[0], np.inf)
    xp.minimum.at(least, i, distance)
    label = xp.full(vectors.shape[0], targets.shape[0], np.int64)
    ties = distance == least[i]
    xp.minimum.at(label, i[ties], j[ties])
    return label
