"""KMeans for exploring: in small batches, and on the sphere."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_semdedup.errors import SemDedupError
from spark_semdedup.explore import checks, figures
from spark_semdedup.explore.clusters import Clusters
from spark_semdedup.explore.draw import draw_sample
from spark_semdedup.explore.memory import refuse_too_large
from spark_semdedup.explore.optional import require
from spark_semdedup.explore.sample import SEED, Sample

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from spark_semdedup.explore.draw import Sampling


def mini_batch_kmeans(
    data: Any,
    *,
    k: int,
    batch_size: int = 4096,
    max_iter: int = 100,
    n_init: int = 3,
    seed: int = SEED,
    **sampling: Unpack[Sampling],
) -> Clusters:
    """``k`` clusters from small batches (Sculley, WWW 2010): scikit-learn's MiniBatchKMeans on the sample.

    Each step moves the centres by one batch of ``batch_size`` rows, so rows need not be read as often as Lloyd's
    iteration reads them; its clusters are a little less tight. ``data`` and ``sampling`` as in ``draw_sample``.
    """
    k, seed = checks.whole_number("k", k, 1), checks.seed(seed)
    batch_size = checks.whole_number("batch_size", batch_size, 1)
    max_iter = checks.whole_number("max_iter", max_iter, 1)
    n_init = checks.whole_number("n_init", n_init, 1)
    sample = draw_sample(data, seed=seed, **sampling)
    _refuse_too_few(sample, k)
    refuse_too_large(len(sample), sample.dim, purpose="mini_batch_kmeans")
    cluster = require("sklearn.cluster", "mini_batch_kmeans")
    fit = cluster.MiniBatchKMeans(
        n_clusters=k, batch_size=batch_size, max_iter=max_iter, n_init=n_init, random_state=seed & 0x7FFFFFFF
    ).fit(sample.vectors)
    settings = {"k": k, "batch_size": batch_size, "max_iter": max_iter, "n_init": n_init, "seed": seed}
    return Clusters(fit.labels_.astype(np.int64), sample, "mini_batch_kmeans", settings)


def _refuse_too_few(sample: Sample, k: int) -> None:
    if k > len(sample):
        raise SemDedupError(f"k={k} is larger than the sample's {len(sample):,} rows: lower k, or raise sample_rows")
    if k > 1 and k > sample.distinct:
        raise SemDedupError(f"k={k} is larger than the sample's {sample.distinct:,} distinct rows: lower k")


@dataclass(frozen=True, eq=False)
class SphericalFit(Clusters):
    """Unit centroids, and how the fit converged."""

    centres: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32), repr=False)
    """Float32 unit vectors (k, d); row number is the cluster's number."""
    history: tuple[float, ...] = ()
    """Mean similarity of the rows to their nearest centre, per iteration, before the centres move."""
    seconds: float = 0.0

    def plot_convergence(self, axes: Any = None, *, output_file: str | os.PathLike[str] | None = None) -> Any:
        """Mean similarity by iteration; the figure."""
        return figures.save(figures.draw(self._paint_convergence, axes, size=(7.0, 4.2)), output_file)

    def _paint_convergence(self, axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        axes.plot(np.arange(1, len(self.history) + 1), self.history, "o-", color=figures.LINE)
        title = f"Spherical KMeans, k = {self.parameters['k']:,}, {self.sample.describe()}"
        figures.tidy(axes, title, "iteration", "mean similarity to the nearest centre")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def spherical_kmeans(
    data: Any,
    *,
    k: int,
    max_iter: int = 10,
    tol: float = 0.0,
    seed: int = SEED,
    **sampling: Unpack[Sampling],
) -> SphericalFit:
    """``k`` directions (Dhillon and Modha, Machine Learning 42, 2001): nearest by cosine, centres back on the sphere.

    Lloyd's iteration of the deduplication's own kernel, from ``k`` random rows; it ends after ``max_iter`` iterations,
    or when no centre has moved farther than ``tol``. On a GPU it runs on CuPy arrays. ``data`` and ``sampling`` as in
    ``draw_sample``; give ``sample_rows=0`` to fit all rows.
    """
    k, seed = checks.whole_number("k", k, 1), checks.seed(seed)
    max_iter = checks.whole_number("max_iter", max_iter, 1)
    tol = checks.number("tol", tol, 0, float("inf"))
    sample = draw_sample(data, seed=seed, **sampling)
    if k > len(sample):
        raise SemDedupError(f"k={k} is larger than the sample's {len(sample):,} rows: lower k, or raise sample_rows")
    refuse_too_large(len(sample), sample.dim, purpose="spherical_kmeans")
    started = time.perf_counter()
    initial = sample.units[np.random.default_rng(seed & 0x7FFFFFFF).choice(len(sample), k, replace=False)]
    centres, history = fit_on_sphere(sample.units, initial, max_iter=max_iter, tol=tol)
    seconds = time.perf_counter() - started
    labels = nearest(sample.units, centres)
    settings = {"k": k, "max_iter": max_iter, "tol": tol, "seed": seed}
    return SphericalFit(labels, sample, "spherical_kmeans", settings, centres=centres, history=history, seconds=seconds)


def fit_on_sphere(
    units: np.ndarray, initial: np.ndarray, *, max_iter: int, tol: float
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Centres, float32 (k, d), and the mean similarity of each iteration."""
    from spark_semdedup.explore.optional import gpu_is_present
    from spark_semdedup.kernels.arrays import to_numpy
    from spark_semdedup.kernels.lloyd import lloyd

    rows: Any = units
    if gpu_is_present():
        rows = require("cupy", "a fit on the GPU").asarray(units)
    fit = lloyd(rows, initial, max_iter=max_iter, tol=tol, spherical=True)
    return to_numpy(fit.centroids), tuple(fit.history)


def nearest(units: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The centre of each row's largest similarity: int64 (n,)."""
    from spark_semdedup.kernels import nearest_centroids

    return nearest_centroids(units, centres, spherical=True, distances=()).centroid.astype(np.int64)
