"""spark-rapids-ml's KMeans on the executors' GPUs, and a Lloyd loop on one GPU for what it does not offer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.clustering.settings import INSTALL_RAPIDS, Fit, FitSettings, checked, refuse_misfit
from spark_semdedup.errors import SemDedupError, error_from_worker
from spark_semdedup.kernels.arrays import Array, to_numpy
from spark_semdedup.kernels.lloyd import LloydFit, best_of, k_means_plus_plus, random_rows, scalable_k_means_plus_plus
from spark_semdedup.kernels.oom import release_cached
from spark_semdedup.spark.device import Batch, TaskDevice, vector_bytes
from spark_semdedup.spark.worker import prepare_worker

if TYPE_CHECKING:
    from pyspark import SparkContext

log = logging.getLogger("spark_semdedup")


def why_lloyd(settings: FitSettings) -> str | None:
    """What is asked of ``rapids`` that spark-rapids-ml does not offer, in words; None where it offers all."""
    if settings.spherical:
        return "distanceMeasure is cosine"
    if settings.given_centroids is not None:
        return "initial centroids are given"
    if settings.initMode == "k-means++":
        return "initMode is k-means++"
    if settings.maxIter == 0:
        return "maxIter is 0"
    if settings.k == 1:
        return "k is 1"  # it has pyspark.ml's KMeans check its Params (``_validate_parameters``), which wants 2
    if settings.nInit > 1:
        # cuVS's fit for several GPUs, which cuML calls, starts once, whatever n_init says (26.06,
        # ``cpp/src/cluster/detail/kmeans_mg.cuh``; later sources have the loop).
        return f"nInit is {settings.nInit}"
    return None


def fit_rapids(sample_df: DataFrame, settings: FitSettings, rows: int, dim: int) -> Fit:
    """spark-rapids-ml's KMeans over all GPUs; ``sample_df``: ``rows`` rows of one column of unit vectors of length
    ``dim``, ``array<float>``, read once.

    It reports no history. Raises ``SemDedupError`` where the package is missing.
    """
    (column,) = sample_df.columns
    estimator = rapids_estimator(settings, column)
    context = sample_df.sparkSession.sparkContext
    estimator.num_workers = gpus_to_fit_on(context, estimator.num_workers, rows, settings.k)
    _warn_of_memory(rows, dim, estimator.num_workers)
    centroids = np.asarray(estimator.fit(sample_df).cluster_centers_, dtype=np.float32)
    return checked(Fit(centroids, (), "rapids", rows))


def _warn_of_memory(rows: int, dim: int, gpus: int) -> None:
    """Each worker puts its rows together on the host, which takes twice their bytes, and then brings them to its GPU
    (``_call_cuml_fit_func`` in spark-rapids-ml's ``core.py``, 26.6)."""
    each = 4 * rows * dim / gpus
    if each > _MUCH_MEMORY:
        log.warning(
            "the fit holds %.3g GiB of vectors on each of %d GPUs, and also twice as much in the host's memory: "
            "where that is too much, lower fitSampleRows from %d",
            each / 2**30,
            gpus,
            rows,
        )


_MUCH_MEMORY = 4 << 30


def gpus_to_fit_on(context: SparkContext, gpus: int, rows: int, k: int) -> int:
    """How many of the ``gpus`` that spark-rapids-ml sees it is to use, one task each and all at once.

    cuML refuses a GPU with fewer than k rows (26.06; https://github.com/rapidsai/cuml/issues/8340), and rows are dealt
    out unevenly: twice as many each on average. A local session runs no more tasks at once than it has cores.
    """
    if (context.master or "").startswith("local"):
        gpus = min(gpus, context.defaultParallelism)
    return max(1, min(gpus, rows // (2 * k)))


def rapids_estimator(settings: FitSettings, features_col: str) -> Any:
    """The ``spark_rapids_ml.clustering.KMeans`` that our settings come to; building it needs no GPU.

    Every value is given, because its defaults are not ours: without ``n_init`` cuML's ``auto`` would run, and its
    seed would be a hash of the class's name.
    """
    try:
        from spark_rapids_ml.clustering import KMeans
    except ImportError as error:
        raise SemDedupError(
            f"clusterer='rapids' needs spark-rapids-ml, which cannot be imported ({error}): {INSTALL_RAPIDS}"
        ) from None
    return KMeans(
        featuresCol=features_col,
        k=settings.k,
        # pyspark.ml's KMeans, which checks its Params, does not know cuML's other name of it.
        initMode="k-means||" if settings.initMode == "scalable-k-means++" else settings.initMode,
        tol=settings.tol,
        maxIter=settings.maxIter,
        seed=settings.seed31,
        n_init=1,
        oversampling_factor=settings.oversamplingFactor,
        max_samples_per_batch=settings.maxSamplesPerBatch,
    )


_POSITION = "position"

_LLOYD_SCHEMA = "centroids binary, rows bigint, history array<double>"


def fit_lloyd_on_executor(sample_df: DataFrame, settings: FitSettings, backend: str) -> Fit:
    """``kernels.lloyd`` in one Spark task, on its GPU (``backend`` gpu) or with NumPy (cpu).

    ``sample_df``: one column of unit vectors, ``array<float>``, whose row order (an ``orderBy``) is kept, so that
    the centroids depend on neither partitions nor executors. The whole sample has to fit into one task's memory:
    4·n·d bytes, twice while it is put together.
    """
    (column,) = sample_df.columns
    # The id grows with partition and row: sorted by it, one partition has the order the DataFrame had.
    numbered = sample_df.select(F.col(column).alias("unit"), F.monotonically_increasing_id().alias(_POSITION))
    in_one_task = numbered.repartition(1).sortWithinPartitions(_POSITION).select("unit")
    try:
        found = in_one_task.mapInArrow(_lloyd_task(settings, backend), _LLOYD_SCHEMA).collect()
    except Exception as error:
        ours = error_from_worker(error)
        if ours is None:
            raise
        raise ours from None
    if not found:
        refuse_misfit(settings, 0)
    centroids = np.frombuffer(bytes(found[0]["centroids"]), np.float32).reshape(settings.k, -1)
    return checked(Fit(centroids, tuple(found[0]["history"]), "rapids (Lloyd loop)", found[0]["rows"]))


def _lloyd_task(settings: FitSettings, backend: str) -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        prepare_worker()
        parts = [_matrix(batch.column(0)) for batch in batches if batch.num_rows]
        if not parts:
            return
        sample = np.concatenate(parts)
        parts.clear()
        alone = TaskDevice(backend, settings.deviceMemoryFraction, tasks_per_gpu=1)
        batch = Batch(settings.maxSamplesPerBatch, vector_bytes, "maxSamplesPerBatch", "fitSampleRows", 1)
        found = alone.retry_on_oom(lambda rows: fit_lloyd(rows, settings), sample, batch)
        centroids = to_numpy(found.centroids)
        history = list(found.history)
        del found
        release_cached()  # nearly all that this task may take of its GPU, which the others' workers share from now on
        row = {
            "centroids": pa.array([centroids.tobytes()], pa.binary()),
            "rows": pa.array([len(sample)], pa.int64()),
            "history": pa.array([history], pa.list_(pa.float64())),
        }
        yield pa.RecordBatch.from_pydict(row)

    return run


def _matrix(embeddings: Any) -> np.ndarray:
    """A batch of vectors, all valid and of one length, as float32 (n, d)."""
    return embeddings.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(embeddings), -1)


def fit_lloyd(sample: Array, settings: FitSettings) -> LloydFit:
    """The best of ``nInit`` runs of ``kernels.lloyd``; ``sample``: float32 (n, d), of either array library."""
    refuse_misfit(settings, *sample.shape)
    return best_of(
        sample,
        (_initial(sample, settings, seed) for seed in settings.fit_seeds()),
        max_iter=settings.maxIter,
        tol=settings.tol,
        spherical=settings.spherical,
        batch_rows=settings.maxSamplesPerBatch,
    )


def _initial(sample: Array, settings: FitSettings, seed: int) -> Array:
    if settings.given_centroids is not None:
        return settings.given_centroids
    if settings.initMode == "random":
        return random_rows(sample, settings.k, seed)
    if settings.initMode == "k-means++":
        return k_means_plus_plus(sample, settings.k, seed)
    return scalable_k_means_plus_plus(sample, settings.k, seed, oversampling=settings.oversamplingFactor)
