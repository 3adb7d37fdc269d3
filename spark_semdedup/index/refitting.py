"""New centroids of an index, fitted on its own rows."""

from __future__ import annotations

from pyspark.ml.param import Param
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.clustering.centroids import Centroids
from spark_semdedup.clustering.fit import fit_centroids
from spark_semdedup.clustering.sample import FitSample, hash_below
from spark_semdedup.clustering.settings import (
    ON_DRIVER,
    FitSettings,
    choose_clusterer,
    number_of_clusters,
    rows_to_fit,
)
from spark_semdedup.errors import SemDedupError
from spark_semdedup.index.version import Version
from spark_semdedup.params import ClusteringParams
from spark_semdedup.spark.arrow import collect_arrow
from spark_semdedup.spark.backend import resolve_backend


def fit_params(version: Version, k: int | None) -> ClusteringParams:
    """The Params of the fit that the index was created with, but for ``k`` and initial centroids."""
    names = [name for name, param in vars(ClusteringParams).items() if isinstance(param, Param)]
    names += ["backend", "deviceMemoryFraction", "seed"]
    kept = {name: version.settings.get(name) for name in names if name not in ("k", "initMode")}
    measure = "cosine" if version.spherical else "euclidean"
    return ClusteringParams(**{**kept, "k": k, "distanceMeasure": measure})


def fit_rows(rows: DataFrame, version: Version, k: int | None) -> Centroids:
    """Centroids fitted on the rows of an index, whose unit vectors are taken as they are.

    Raises ``SemDedupError`` where there are too few rows.
    """
    spark, total = rows.sparkSession, version.rows
    if not total:
        raise SemDedupError("the index has no rows to fit centroids on")
    params = fit_params(version, k)
    clusterer = choose_clusterer(
        params.value("clusterer"), resolve_backend(spark, params.value("backend")), params.value("backend")
    )
    k = number_of_clusters(params, total)
    settings = FitSettings.from_params(params, k)
    wanted = rows_to_fit(params.value("fitSampleRows"), k, total)
    hashed = rows.select(
        F.xxhash64("id", F.lit(params.value("seed"))).alias("hash"), F.lit(version.dim).alias("length"), "unit"
    )
    look_at = wanted + 6 * int(wanted**0.5) + 16
    some = hashed.where(F.col("hash") <= hash_below(look_at / total))
    found = collect_arrow(some if clusterer in ON_DRIVER else some.select("hash", "length"))
    size = min(wanted, len(found))
    fit = fit_centroids(clusterer, FitSample(some, found, version.dim, size, total), settings)
    return Centroids(fit.centroids, version.spherical, tuple(map(float, fit.history)))
