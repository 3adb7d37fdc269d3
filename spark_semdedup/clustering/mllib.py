"""pyspark.ml's KMeans."""

from __future__ import annotations

import logging

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.clustering.settings import Fit, FitSettings, checked, refuse_misfit

log = logging.getLogger("spark_semdedup")


def fit_mllib(sample_df: DataFrame, settings: FitSettings) -> Fit:
    """pyspark.ml's KMeans; ``sample_df``: one column of unit vectors, ``array<float>``.

    It adds up rows in the order tasks end, so the centroids' last bits may differ from run to run. Where there are
    fewer distinct rows than ``k`` it returns fewer centroids than asked for; these are used, with a warning: further
    ones could only be empty. It reports no history.
    """
    from pyspark.ml.functions import array_to_vector

    (column,) = sample_df.columns
    # It takes arrays only of a type that excludes null elements, so they become vectors.
    sample_df = sample_df.select(array_to_vector(F.col(column).cast("array<double>")).alias("features")).persist()
    try:
        rows = sample_df.count()
        refuse_misfit(settings, rows)
        centroids = _mllib_centroids(sample_df, settings).astype(np.float32)
    finally:
        sample_df.unpersist()
    if len(centroids) < settings.k:
        log.warning("clusterer mllib: %d distinct centroids instead of k=%d are used", len(centroids), settings.k)
    return checked(Fit(centroids, (), "mllib", rows))


def _mllib_centroids(sample_df: DataFrame, settings: FitSettings) -> np.ndarray:
    """Float64 (k or fewer, d). ``sample_df``: one column ``features`` of ML vectors."""
    from pyspark.ml.clustering import KMeans
    from pyspark.ml.stat import Summarizer

    if settings.k == 1:  # which its KMeans refuses: the one centroid is the mean
        (mean,) = sample_df.select(Summarizer.mean(F.col("features"))).collect()[0]
        only = mean.toArray()[None, :]
        return only / (np.linalg.norm(only) or 1.0) if settings.spherical else only
    kmeans = KMeans(
        k=settings.k,
        initMode=settings.init_name,
        tol=settings.tol,
        maxIter=settings.maxIter,
        seed=settings.seed31,
        distanceMeasure=settings.distanceMeasure,
    )
    return np.asarray(kmeans.fit(sample_df).clusterCenters())
