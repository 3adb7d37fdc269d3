"""KMeans by Lloyd's iteration, Euclidean and spherical, on unit vectors: NumPy or CuPy arrays, one source.

The fit's own clusterers (cuML, FAISS) are faster where they apply; this loop does what they do not offer on a GPU:
spherical KMeans (Dhillon and Modha 2001), given initial centroids, the objective of every iteration. It fits a
sample, so what matters is that memory stays bounded (rows are taken in batches, never an N×k matrix) and that the
same input gives the same centroids: sums are float64 over rows sorted by label, and no atomics are used.

Floor: 2 n k d operations per iteration for the matrix product; the sums add n d float64 additions.

Random choices are made on the host by a seeded NumPy generator, so that both libraries choose alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from spark_semdedup.kernels.arrays import Array, array_module, to_numpy
from spark_semdedup.kernels.oom import shrink

BATCH_ROWS = 32768
"""Rows scored at once, at most."""

SCORE_BYTES = 256 << 20
"""Bytes that one batch's scores (rows × k float32) may take; with many centroids it makes batches smaller."""

SAME_POINT = 1e-6
"""Squared distances below this are the rounding of float32 products: such rows are taken as equal."""

SCALABLE_ROUNDS = 5
"""Sampling rounds of k-means||; Bahmani et al. (section 5) find no gain in more."""


class LloydFit(NamedTuple):
    """What one run of ``lloyd`` ends with."""

    centroids: Array
    """Float32 (k, d), of the rows' array library; unit vectors if spherical."""
    history: tuple[float, ...]
    """Per iteration, as assigned, before the centres move: mean squared distance, or mean similarity if spherical."""
    iterations: int


def lloyd(
    x: Array,
    initial: Array,
    *,
    max_iter: int,
    tol: float,
    spherical: bool = False,
    batch_rows: int = BATCH_ROWS,
) -> LloydFit:
    """Moves each centre to the mean of the rows nearest to it, until no centre moves farther than ``tol``.

    Parameters
    ----------
    x
        Float32 unit vectors (n, d), n ≥ 1.
    initial
        Initial centroids (k, d), of either library; spherical: normalised first.
    max_iter
        Iterations at most; 0 returns the initial centroids.
    tol
        Euclidean distance, as in pyspark.ml: reached when no centre has moved by more.
    spherical
        Nearest by cosine, and centres normalised after each iteration.
    batch_rows
        Rows scored at once, at most; the result does not depend on it beyond rounding.

    A centre that no row is nearest to stays where it is; so does, if spherical, one whose rows add up to zero.
    """
    xp = array_module(x)
    centroids = xp.asarray(initial, dtype=np.float32)
    if spherical:
        centroids = _on_sphere(centroids.astype(np.float64), otherwise=centroids)
    square = float(_squares(x).mean())
    history: list[float] = []
    for _ in range(max_iter):
        sums, counts, mean_score = _assign_and_sum(x, centroids, spherical, batch_rows)
        history.append(_objective(square, mean_score, spherical))
        moved = _moved(centroids, sums, counts, spherical)
        farthest = _largest_distance(moved, centroids)
        centroids = moved
        if farthest <= tol:
            break
    return LloydFit(centroids, tuple(history), len(history))


def best_of(
    x: Array,
    initials: Iterable[Array],
    *,
    max_iter: int,
    tol: float,
    spherical: bool = False,
    batch_rows: int = BATCH_ROWS,
) -> LloydFit:
    """The best of several fits, one per initial centroids: by the final centroids' objective, the first on a tie."""
    best: LloydFit | None = None
    best_objective = 0.0
    for initial in initials:
        fit = lloyd(x, initial, max_iter=max_iter, tol=tol, spherical=spherical, batch_rows=batch_rows)
        reached = objective(x, fit.centroids, spherical=spherical, batch_rows=batch_rows)
        if best is None or (reached > best_objective if spherical else reached < best_objective):
            best, best_objective = fit, reached
    if best is None:
        raise ValueError("best_of needs at least one set of initial centroids")
    return best


def objective(x: Array, centroids: Array, *, spherical: bool = False, batch_rows: int = BATCH_ROWS) -> float:
    """Mean squared distance of the rows to the nearest centre; spherical: mean similarity (of unit centres)."""
    total = 0.0
    bias = _bias(centroids, spherical)
    for rows in _batches(x, centroids.shape[0], batch_rows):
        _, score = _nearest(rows, centroids, bias)
        total += float(score.sum(dtype=np.float64))
    return _objective(float(_squares(x).mean()), total / x.shape[0], spherical)


def _assign_and_sum(x: Array, centroids: Array, spherical: bool, batch_rows: int) -> tuple[Array, Array, float]:
    """Sum (float64, k × d) and number (k) of the rows nearest to each centre, and the rows' mean best score."""
    xp = array_module(x)
    k, d = centroids.shape
    sums, counts, total = xp.zeros((k, d), np.float64), xp.zeros(k, np.int64), 0.0
    bias = _bias(centroids, spherical)
    for rows in _batches(x, max(k, 5 * d), batch_rows):  # its scores, or the sums' 5 float32 and float64 copies
        label, score = _nearest(rows, centroids, bias)
        _add_by_label(rows, label, sums, counts)
        total += float(score.sum(dtype=np.float64))
    return sums, counts, total / x.shape[0]


def _add_by_label(rows: Array, label: Array, sums: Array, counts: Array) -> None:
    """Adds each row to its label's sum, in place.

    Sorted by label, a label's rows are one segment, which ``reduceat`` adds up: no atomics, whose order of additions,
    and last bits, would differ from run to run on a GPU. (NumPy adds in row order. CuPy takes the difference of two
    cumulative sums, ``_add_reduceat`` in ``cupy/_core/_routines_indexing.pyx``: as deterministic, within rounding of
    float64, and two arrays of float64 large.)
    """
    xp = array_module(rows)
    in_batch = xp.bincount(label, minlength=counts.shape[0])
    there = xp.flatnonzero(in_batch)
    starts = (xp.cumsum(in_batch) - in_batch)[there]
    by_label = rows[xp.argsort(label, kind="stable")]
    sums[there] += xp.add.reduceat(by_label, starts, axis=0, dtype=np.float64)
    counts += in_batch


def _nearest(rows: Array, centroids: Array, bias: Array) -> tuple[Array, Array]:
    """The nearest centre of each row, the lowest of equally near ones, and its score x·c − ‖c‖²/2 (x·c: spherical)."""
    scores = rows @ centroids.T
    scores -= bias
    label = scores.argmax(axis=1)
    best = array_module(rows).take_along_axis(scores, label[:, None], axis=1)[:, 0]
    return label, best


def _bias(centroids: Array, spherical: bool) -> Array:
    """What is subtracted from x·c so that the largest difference belongs to the nearest centre; float32 (k,)."""
    if spherical:
        return array_module(centroids).zeros(centroids.shape[0], np.float32)
    wide = centroids.astype(np.float64)
    return ((wide * wide).sum(axis=1) / 2).astype(np.float32)


def _moved(centroids: Array, sums: Array, counts: Array, spherical: bool) -> Array:
    """The next centres, float32 (k, d): means of their rows (spherical: on the unit sphere)."""
    xp = array_module(centroids)
    if spherical:
        return _on_sphere(sums, otherwise=centroids)
    means = sums / xp.maximum(counts, 1)[:, None]
    return xp.where(counts[:, None] > 0, means, centroids).astype(np.float32)


def _on_sphere(vectors: Array, otherwise: Array) -> Array:
    """Float64 rows divided by their norms, float32; a row of zeros is replaced by that of ``otherwise``."""
    xp = array_module(vectors)
    norm = xp.sqrt((vectors * vectors).sum(axis=1))[:, None]
    units = vectors / xp.where(norm > 0, norm, 1)
    return xp.where(norm > 0, units, otherwise).astype(np.float32)


def _largest_distance(a: Array, b: Array) -> float:
    difference = a.astype(np.float64) - b
    return float((difference * difference).sum(axis=1).max()) ** 0.5


def _objective(mean_square: float, mean_score: float, spherical: bool) -> float:
    """‖x − c‖² = ‖x‖² − 2 (x·c − ‖c‖²/2), averaged; rounding must not make it negative."""
    return mean_score if spherical else max(0.0, mean_square - 2 * mean_score)


def _squares(rows: Array) -> Array:
    """‖x‖² of each row, float64 (n,)."""
    result = array_module(rows).empty(rows.shape[0], np.float64)
    start = 0
    for part in _batches(rows, 2 * rows.shape[1], BATCH_ROWS):  # a float64 copy takes two float32 columns for each
        wide = part.astype(np.float64)
        result[start : start + part.shape[0]] = (wide * wide).sum(axis=1)
        start += part.shape[0]
    return result


def _batches(x: Array, columns: int, batch_rows: int) -> Iterator[Array]:
    """Consecutive rows of ``x``: at most ``batch_rows``, and ``SCORE_BYTES`` of float32 ``columns`` for them."""
    step = max(1, min(shrink(batch_rows), shrink(SCORE_BYTES) // (4 * columns)))
    for start in range(0, x.shape[0], step):
        yield x[start : start + step]


def random_rows(x: Array, k: int, seed: int) -> Array:
    """``k`` different rows of ``x``, each choice equally likely; ``seed`` ≥ 0."""
    return x[array_module(x).asarray(_different_rows(np.random.default_rng(seed), x.shape[0], k))]


def k_means_plus_plus(x: Array, k: int, seed: int) -> Array:
    """``k`` rows, each drawn with probability ∝ its squared distance to the nearest one before (Arthur and
    Vassilvitskii 2007). Once every row equals a chosen one, further ones are drawn at random."""
    return x[array_module(x).asarray(_spread_rows(x, k, np.random.default_rng(seed), weights=None))]


def scalable_k_means_plus_plus(x: Array, k: int, seed: int, *, oversampling: float = 2.0) -> Array:
    """``k`` rows by k-means|| (Bahmani et al. 2012, arXiv:1203.6402).

    In each of ``SCALABLE_ROUNDS`` rounds a row becomes a candidate with probability ``oversampling`` · k · D² / ΣD²,
    D being its distance to the nearest candidate so far. Weighted by the rows nearest to them, the candidates are
    then thinned out to ``k`` by k-means++.
    """
    xp = array_module(x)
    rng = np.random.default_rng(seed)
    candidates, weights = _candidates(x, k, rng, oversampling)
    if len(candidates) < k:
        rest = np.setdiff1d(np.arange(x.shape[0]), candidates)
        added = rest[_different_rows(rng, len(rest), k - len(candidates))]
        return x[xp.asarray(np.concatenate([candidates, added]))]
    points = x[xp.asarray(candidates)]
    return points[xp.asarray(_spread_rows(points, k, rng, weights))]


def _different_rows(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    return rng.choice(n, size=k, replace=False)


def _candidates(x: Array, k: int, rng: np.random.Generator, oversampling: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows that k-means|| samples, int64 (m,), and how many rows are nearest to each, int64 (m,)."""
    n = x.shape[0]
    candidates = np.array([rng.integers(n)])
    distance, nearest = np.full(n, np.inf), np.zeros(n, np.int64)
    _update_nearest(x, candidates, 0, distance, nearest)
    for _ in range(SCALABLE_ROUNDS):
        total = distance.sum()
        if total == 0:
            break
        sampled = np.flatnonzero(rng.random(n) < oversampling * k * distance / total)
        if len(sampled):
            _update_nearest(x, sampled, len(candidates), distance, nearest)
            candidates = np.concatenate([candidates, sampled])
    return candidates, np.bincount(nearest, minlength=len(candidates))


def _update_nearest(x: Array, added: np.ndarray, first: int, distance: np.ndarray, nearest: np.ndarray) -> None:
    """Takes the candidates ``added``, numbered from ``first``, into every row's nearest one. In place.

    ``distance`` (float64, squared) and ``nearest`` are on the host, where the choices are made.
    """
    points = x[array_module(x).asarray(added)]
    bias = _bias(points, spherical=False)
    start = 0
    for rows in _batches(x, len(added), BATCH_ROWS):
        label, score = _nearest(rows, points, bias)
        part = slice(start, start + rows.shape[0])
        found = to_numpy(_squares(rows) - 2 * score.astype(np.float64))
        found[found < SAME_POINT] = 0
        nearer = found < distance[part]
        distance[part][nearer] = found[nearer]
        nearest[part][nearer] = first + to_numpy(label)[nearer]
        start = part.stop
    distance[added] = 0  # so that no row is sampled twice, whatever rounding says


def _spread_rows(points: Array, k: int, rng: np.random.Generator, weights: np.ndarray | None) -> np.ndarray:
    """Numbers of ``k`` different rows chosen by k-means++, int64 (k,); ``weights`` (n,) multiply the probabilities."""
    n = points.shape[0]
    weight = np.ones(n) if weights is None else weights.astype(np.float64)
    square = to_numpy(_squares(points))
    chosen = np.empty(k, np.int64)
    left = np.ones(n, bool)
    distance = np.full(n, np.inf)
    for i in range(k):
        chosen[i] = _draw(rng, weight if i == 0 else weight * distance, left)
        left[chosen[i]] = False
        product = to_numpy(points @ points[chosen[i]]).astype(np.float64)
        to_last = square + square[chosen[i]] - 2 * product
        to_last[to_last < SAME_POINT] = 0
        np.minimum(distance, to_last, out=distance)
        distance[chosen[i]] = 0
    return chosen


def _draw(rng: np.random.Generator, mass: np.ndarray, left: np.ndarray) -> int:
    """One row with probability ∝ ``mass``; where nothing has mass, any row of ``left`` (bool)."""
    cumulative = np.cumsum(mass)
    total = cumulative[-1]
    if total == 0:
        return int(rng.choice(np.flatnonzero(left)))
    # Only a row with mass raises the sum past the draw; the product may round up to the total, which no row passes.
    drawn = np.searchsorted(cumulative, rng.random() * total, side="right")
    return int(min(drawn, np.searchsorted(cumulative, total, side="left")))
