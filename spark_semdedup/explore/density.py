"""Clusters of unknown number: HDBSCAN, which finds dense groups and leaves the rest as noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spark_semdedup.errors import SemDedupError
from spark_semdedup.explore import checks
from spark_semdedup.explore.clusters import Clusters
from spark_semdedup.explore.draw import draw_sample
from spark_semdedup.explore.labels import NOISE
from spark_semdedup.explore.memory import refuse_too_large
from spark_semdedup.explore.optional import gpu_is_present, require
from spark_semdedup.explore.sample import SEED, Sample

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from spark_semdedup.explore.draw import Sampling

METRICS = ("euclidean", "cosine", "manhattan")
SELECTION = ("eom", "leaf")
BACKENDS = ("auto", "cpu", "gpu")


def hdbscan(
    data: Any,
    *,
    min_cluster_size: int = 5,
    min_samples: int = 3,
    metric: str = "euclidean",
    cluster_selection_method: str = "eom",
    backend: str = "auto",
    seed: int = SEED,
    **sampling: Unpack[Sampling],
) -> Clusters:
    """Clusters by density (Campello, Moulavi and Sander, PAKDD 2013): scikit-learn's HDBSCAN, cuML's on a GPU.

    Parameters
    ----------
    data
        As in ``draw_sample``, like ``seed`` and ``sampling``.
    min_cluster_size
        A group of fewer rows is noise.
    min_samples
        Rows, itself counted, that a row's distance to its neighbours is measured over: more make more noise.
    metric
        ``euclidean``, ``cosine`` or ``manhattan``. For unit vectors the first two rank pairs alike.
    cluster_selection_method
        ``eom`` (excess of mass: the most persistent clusters) or ``leaf`` (many small ones).
    backend
        ``auto`` takes cuML where it is installed and a GPU is present.

    Returns
    -------
    Clusters
        Labels (−1 for noise), the number of clusters and of noise rows, and probabilities. Time grows with the square
        of the sampled rows.
    """
    min_cluster_size = checks.whole_number("min_cluster_size", min_cluster_size, 2)
    min_samples = checks.whole_number("min_samples", min_samples, 1)
    checks.one_of("metric", metric, METRICS)
    checks.one_of("cluster_selection_method", cluster_selection_method, SELECTION)
    checks.one_of("backend", backend, BACKENDS)
    sample = draw_sample(data, seed=seed, **sampling)
    sample.require_rows(max(2, min_samples), f"hdbscan with min_samples={min_samples}")
    settings = {
        "min_cluster_size": min_cluster_size,
        "min_samples": min_samples,
        "metric": metric,
        "cluster_selection_method": cluster_selection_method,
    }
    refuse_too_large(len(sample), sample.dim, purpose="hdbscan")
    on_gpu = gpu_is_present() if backend == "auto" else backend == "gpu"
    fit = _fit_cuml(sample, settings) if on_gpu else _fit_sklearn(sample, settings)
    labels = np.where(np.asarray(fit.labels_) < 0, NOISE, fit.labels_).astype(np.int64)
    probabilities = np.asarray(fit.probabilities_, np.float64)
    return Clusters(labels, sample, "hdbscan", settings, probabilities)


def _fit_sklearn(sample: Sample, settings: dict[str, Any]) -> Any:
    cluster = require("sklearn.cluster", "hdbscan")
    if not hasattr(cluster, "HDBSCAN"):
        raise SemDedupError("hdbscan needs scikit-learn 1.3 or newer: pip install --upgrade scikit-learn")
    if settings["metric"] == "cosine":
        refuse_too_large(len(sample), sample.dim, bytes_per_pair=32, purpose="hdbscan with metric='cosine'")
    # n_jobs=-1 asks joblib, which starts threads here; the labels do not depend on their number.
    return cluster.HDBSCAN(**settings, n_jobs=-1, copy=True).fit(sample.vectors)


def _fit_cuml(sample: Sample, settings: dict[str, Any]) -> Any:
    cuml = require("cuml.cluster", "hdbscan with backend='gpu'", install="pip install 'spark-semdedup[gpu-cu12]'")
    # cuML follows scikit-learn-contrib, which does not count the row itself; scikit-learn does.
    ours = settings | {"min_samples": max(1, settings["min_samples"] - 1)}
    vectors = sample.vectors
    if ours["metric"] == "cosine":  # which cuML lacks: distances of unit vectors have the same order
        vectors, ours["metric"] = sample.units, "euclidean"
    return cuml.HDBSCAN(**ours, output_type="numpy").fit(vectors)
