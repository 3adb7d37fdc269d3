"""FAISS's KMeans on the driver's CPU."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from spark_semdedup.clustering.openblas import import_faiss
from spark_semdedup.clustering.rapids import fit_lloyd
from spark_semdedup.clustering.settings import FIT_ROWS_PER_CENTROID, SCALABLE, Fit, FitSettings, checked, refuse_misfit

log = logging.getLogger("spark_semdedup")


def fit_faiss(sample: np.ndarray, settings: FitSettings) -> Fit:
    """FAISS's KMeans on the driver; ``sample``: float32 unit vectors (n, d), n ≥ k.

    The same input gives the same centroids, bit for bit, on every call on the same machine and with any number of
    OpenMP threads (rows are assigned by matrix products, each centre is summed by one thread in row order).
    A centre that loses all its rows is replaced by a copy of a large cluster's, moved apart a little; where there
    are fewer distinct rows than ``k``, some centres therefore nearly coincide.
    """
    refuse_misfit(settings, *sample.shape)
    if settings.given_centroids is not None and len(sample) == settings.k:
        # FAISS would return the rows themselves, without a look at what is given.
        found = fit_lloyd(sample, settings)
        return checked(Fit(found.centroids, tuple(found.history), "faiss", len(sample)))
    _log_faiss_defaults(settings)
    best: tuple[np.ndarray, tuple[float, ...]] | None = None
    for seed in settings.fit_seeds():
        centroids, history = _faiss_once(sample, settings, seed)
        if best is None or (history and _better(history[-1], best[1][-1], settings.spherical)):
            best = centroids, history
    assert best is not None
    return checked(Fit(best[0], best[1], "faiss", len(sample)))


def _better(objective: float, than: float, spherical: bool) -> bool:
    return objective > than if spherical else objective < than


def _faiss_once(sample: np.ndarray, settings: FitSettings, seed: int) -> tuple[np.ndarray, tuple[float, ...]]:
    """One fit: centroids float32 (k, d) and the mean objective of each iteration."""
    faiss = import_faiss()
    n, d = sample.shape
    # One fit at a time, not FAISS's nredo: its statistics run on over all fits, so the best one's have no place.
    kmeans = faiss.Kmeans(
        d,
        settings.k,
        niter=settings.maxIter,
        early_stop_threshold=_faiss_tol(settings),
        spherical=settings.spherical,
        seed=seed,
        init_method=_faiss_init(faiss, settings),
        min_points_per_centroid=1,
        max_points_per_centroid=2**31 - 1,
        verbose=False,
    )
    given = settings.given_centroids
    if given is None and _spreads(settings):
        given = spread_rows(sample, settings.k, seed)
    kmeans.train(np.ascontiguousarray(sample, np.float32), init_centroids=given)
    return np.array(kmeans.centroids), tuple(float(total) / n for total in np.asarray(kmeans.obj))


SPREAD_UP_TO = 64
"""Clusters up to which a fit starts from rows that lie apart, unless told otherwise.

At 64 rows per centroid of 384 numbers this costs up to a tenth of a fit, its Spark jobs included; the cost grows with
the square of k. Beyond, random rows make as good clusters (``settings``)."""


def _spreads(settings: FitSettings) -> bool:
    wanted = settings.init_name == "k-means++" or settings.init_name in SCALABLE
    return wanted and settings.k <= SPREAD_UP_TO


def spread_rows(sample: np.ndarray, k: int, seed: int) -> np.ndarray:
    """``k`` rows that lie apart, float32 (k, d): greedy k-means++ on the first 64 rows per centroid.

    Each next row is the best of several that are drawn with probability ∝ their squared distance to the nearest one
    chosen before (Arthur and Vassilvitskii 2007, who tried so; FAISS draws one). With one draw tight clusters are
    missed: of 20 separated blobs FAISS's k-means++ merged two in eight of ten fits, this in none.
    """
    rows = np.ascontiguousarray(sample[: FIT_ROWS_PER_CENTROID * k], np.float32)
    rng = np.random.default_rng(seed)
    draws = 4 + 2 * int(np.log2(k))
    square = np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
    chosen = [int(rng.integers(len(rows)))]
    nearest = _squared_distances(rows, square, chosen)[:, 0]
    while len(chosen) < k:
        mass = np.cumsum(nearest)
        if mass[-1] <= 0:  # every row equals a chosen one
            left = np.setdiff1d(np.arange(len(rows)), chosen)
            chosen += rng.choice(left, k - len(chosen), replace=False).tolist()
            break
        drawn = np.searchsorted(mass, rng.random(draws) * mass[-1], side="right").clip(max=len(rows) - 1)
        then = np.minimum(nearest[:, None], _squared_distances(rows, square, drawn))
        best = int(then.sum(axis=0).argmin())
        chosen.append(int(drawn[best]))
        nearest = then[:, best]
    return rows[chosen]


def _squared_distances(rows: np.ndarray, square: np.ndarray, to: Sequence[int] | np.ndarray) -> np.ndarray:
    """Of every row to the rows numbered ``to``: float64 (n, len(to)); what rounding makes of equal rows is 0."""
    found = square[:, None] + square[None, to] - 2 * (rows @ rows[to].T).astype(np.float64)
    found[found < _SAME_ROW] = 0
    return found


_SAME_ROW = 1e-6
"""Squared distance of unit vectors below which float32 products cannot tell them apart."""


def _faiss_init(faiss: Any, settings: FitSettings) -> int:
    if settings.init_name == "k-means++":
        return int(faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS)
    return int(faiss.ClusteringInitMethod_RANDOM)


def _faiss_tol(settings: FitSettings) -> float:
    """Fraction of the objective by which an iteration must improve it for the fit to go on."""
    return min(settings.tol, 1.0) if "tol" in settings.set_by_user else _FAISS_TOL


_FAISS_TOL = 1e-3
"""Where the user has set no ``tol``: its default is a distance that centres move, for the other clusterers."""


def _log_faiss_defaults(settings: FitSettings) -> None:
    if settings.init_name in SCALABLE:
        start = "k-means++" if _spreads(settings) else "random"
        log.info("clusterer faiss: initMode %s (default), k = %d → %s", settings.initMode, settings.k, start)
    log.info("clusterer faiss: stops when the objective improves by less than the fraction %s", _faiss_tol(settings))
