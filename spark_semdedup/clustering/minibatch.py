"""scikit-learn's MiniBatchKMeans on the driver's CPU."""

from __future__ import annotations

import logging
import warnings

import numpy as np

from spark_semdedup.clustering.settings import Fit, FitSettings, checked, refuse_misfit
from spark_semdedup.errors import SemDedupError

log = logging.getLogger("spark_semdedup")

BATCH_ROWS = 4096
"""Rows that move the centres at once, unless ``maxSamplesPerBatch`` is set."""


def fit_minibatch(sample: np.ndarray, settings: FitSettings) -> Fit:
    """MiniBatchKMeans (Sculley, WWW 2010) on the driver; ``sample``: float32 unit vectors (n, d), n ≥ k.

    ``maxIter`` passes over the sample at most; it stops earlier where ten batches bring no improvement. It reports no
    history. Raises ``SemDedupError`` where scikit-learn is missing.
    """
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError:
        raise SemDedupError(
            "clusterer='minibatch' needs scikit-learn on the driver: pip install 'spark-semdedup[explore]'"
        ) from None
    refuse_misfit(settings, *sample.shape)
    if settings.init_name == "k-means||":
        log.info("clusterer minibatch: initMode k-means|| (default) → k-means++")
    given = settings.given_centroids
    named = "k-means++" if settings.init_name == "k-means||" else settings.init_name
    kmeans = MiniBatchKMeans(
        settings.k,
        init=named if given is None else given,
        n_init=settings.nInit if given is None else 1,
        max_iter=settings.maxIter,
        batch_size=settings.maxSamplesPerBatch if "maxSamplesPerBatch" in settings.set_by_user else BATCH_ROWS,
        tol=settings.tol if "tol" in settings.set_by_user else 0.0,
        random_state=settings.seed31,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Number of distinct clusters")  # equal rows are no fault
        kmeans.fit(sample)
    return checked(Fit(np.asarray(kmeans.cluster_centers_, np.float32), (), "minibatch", len(sample)))
