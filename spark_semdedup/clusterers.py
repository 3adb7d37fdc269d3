"""The KMeans implementations that can fit the centroids, and what each makes of our Params.

``rapids`` is spark-rapids-ml's KMeans on the executors' GPUs, ``faiss`` FAISS on the driver's CPU, ``mllib``
pyspark.ml's on the executors' CPUs. All get unit vectors. What they make of each Param:

==================  ============================  ================================  ==========================
Param               rapids                        faiss                             mllib
==================  ============================  ================================  ==========================
k, maxIter, seed    as they are                   as they are                       as they are
tol                 centres move no farther       objective improves by a smaller   centres move no farther
                                                  fraction; unset: by 0.001
initMode k-means||  cuML's k-means||              unset: random; set: error         pyspark.ml's
scalable-k-means++  another name of k-means||     error                             error
k-means++           Lloyd loop                    k-means++                         error
random              cuML's                        random                            pyspark.ml's
array               Lloyd loop                    initial centroids                 error
nInit               1; more: Lloyd loop           that many fits, the best kept     error, unless 1
oversamplingFactor  oversampling_factor           error if set                      error if set
maxSamplesPerBatch  max_samples_per_batch         error if set                      error if set
distanceMeasure     euclidean; cosine: Lloyd      both (spherical)                  both
==================  ============================  ================================  ==========================

"Lloyd loop" is ``kernels.lloyd`` on one executor's GPU, for what spark-rapids-ml does not offer; it has k-means|| and
all other Params, too. oversamplingFactor matters to k-means|| alone. "error" is a ``SemDedupError`` that names the
Param and the clusterer; it is raised for what the *user* has set, a default maps to its nearest equivalent.

FAISS starts from random rows unless told otherwise: at k = 1,000, on 64 rows per centroid, k-means++ took 1.5 to 2.7
times as long and came to clusters as tight but less even, with 3 to 6 % more pairs to compare. Iterations improve the
objective by less than 0.001 after 8 to 14 of them; going on changed inertia by 0.2 %, and the pairs not at all.

Seeds are folded to 31 bits, which is what cuML and FAISS take: seeds with the same last 31 bits are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.devices import Batch, Placement, vector_bytes
from spark_semdedup.errors import SemDedupError, error_from_worker
from spark_semdedup.kernels import lloyd as kernel
from spark_semdedup.kernels.arrays import Array, to_numpy
from spark_semdedup.kernels.memory import release_cached
from spark_semdedup.params import ClusteringParams
from spark_semdedup.workers import prepare_worker

if TYPE_CHECKING:
    from pyspark import SparkContext

    from spark_semdedup.sampling import FitSample

log = logging.getLogger("spark_semdedup")

SCALABLE = ("k-means||", "scalable-k-means++")
"""The two names of one initialisation (Bahmani et al. 2012)."""

_AN_ARRAY = "an array of centroids"

INSTALL_RAPIDS = "pip install 'spark-semdedup[gpu-cu12]' (or gpu-cu13, by the CUDA version)"


# --- settings and result ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FitSettings:
    """The Params a fit depends on, under their own names."""

    k: int
    maxIter: int
    tol: float
    seed: int
    initMode: str | np.ndarray
    """A name, or initial centroids: float32 (k, d)."""
    nInit: int
    oversamplingFactor: float
    maxSamplesPerBatch: int
    distanceMeasure: str
    deviceMemoryFraction: float
    set_by_user: frozenset[str] = frozenset()
    """Names of the Params that the user has set; the others hold defaults."""

    @classmethod
    def from_params(cls, params: ClusteringParams, k: int) -> FitSettings:
        """The settings of a stage, for ``k`` clusters. ``SemDedupError`` where initial centroids are not ``k``."""
        init: Any = params.value("initMode")
        if not isinstance(init, str):
            init = np.asarray(init, dtype=np.float32)
            if init.shape[0] != k:
                raise SemDedupError(f"initMode has {init.shape[0]} centroids, k={k}: it must have one per cluster")
        given = {f.name for f in fields(cls)} - {"k", "initMode", "set_by_user"}
        values = {name: params.value(name) for name in given}
        return cls(k=k, initMode=init, set_by_user=frozenset(params.settings(ClusteringParams)), **values)

    @property
    def spherical(self) -> bool:
        return self.distanceMeasure == "cosine"

    @property
    def seed31(self) -> int:
        """The seed folded to 31 bits: 0 … 2³¹ − 1, whatever its sign and size."""
        return self.seed & 0x7FFFFFFF

    @property
    def given_centroids(self) -> np.ndarray | None:
        return None if isinstance(self.initMode, str) else self.initMode

    @property
    def init_name(self) -> str:
        """``initMode`` as it stands in a message."""
        return self.initMode if isinstance(self.initMode, str) else _AN_ARRAY

    def fit_seeds(self) -> list[int]:
        """One seed of 31 bits per fit (``nInit``); the first is ``seed31``. Given centroids need but one fit."""
        if self.given_centroids is not None or self.nInit == 1:
            return [self.seed31]
        further = np.random.SeedSequence(self.seed31).generate_state(self.nInit - 1) & 0x7FFFFFFF
        return [self.seed31, *map(int, further)]


@dataclass(frozen=True, eq=False)
class Fit:
    """Fitted centroids, and how they came about."""

    centroids: np.ndarray
    """Float32 (k, d). MLlib alone may find fewer (``fit_mllib``)."""
    history: tuple[float, ...]
    """Per iteration: mean squared distance (euclidean) or mean similarity (cosine). Empty where none is reported."""
    clusterer: str
    """``rapids``, ``rapids (Lloyd loop)``, ``faiss`` or ``mllib``."""
    rows: int
    """Number of rows fitted on."""


# --- which clusterer, and whether it can do what is asked ---------------------------------------------------


def choose_clusterer(clusterer: str, backend: str, requested_backend: str = "auto") -> str:
    """``rapids``, ``faiss`` or ``mllib``; logs why.

    Parameters
    ----------
    clusterer
        The Param: one of these, or ``auto``.
    backend
        ``gpu`` or ``cpu``, as resolved for the cluster at hand.
    requested_backend
        The Param ``backend``. A CPU clusterer contradicts a ``gpu`` that the user asked for, not one that
        ``auto`` found: then the fit is on the CPU and the similarities are computed on the GPU.
    """
    if clusterer == "auto":
        chosen = "rapids" if backend == "gpu" else "faiss"
        log.info("clusterer auto → %s: it follows backend, which is %s", chosen, backend)
        return chosen
    if clusterer == "rapids" and backend == "cpu":
        why = "" if requested_backend == "cpu" else f" (which backend={requested_backend!r} came to)"
        raise SemDedupError(
            f"clusterer='rapids' contradicts backend='cpu'{why}: it needs GPUs; set clusterer to faiss or auto"
        )
    if clusterer != "rapids" and requested_backend == "gpu":
        raise SemDedupError(
            f"clusterer={clusterer!r} contradicts backend='gpu': it runs on CPUs; set clusterer to rapids or auto, "
            "or backend to auto or cpu"
        )
    log.info("clusterer %s: set by the user (backend is %s)", clusterer, backend)
    return clusterer


def refuse_unsupported(clusterer: str, settings: FitSettings) -> None:
    """Raises ``SemDedupError`` for a Param that the user has set and the clusterer cannot honour (the table above)."""
    if clusterer == "rapids":
        return
    _refuse_init(clusterer, settings)
    for name in ("oversamplingFactor", "maxSamplesPerBatch"):
        if name in settings.set_by_user:
            raise SemDedupError(
                f"{name}={getattr(settings, name)} cannot be honoured by clusterer {clusterer!r}: leave it unset, or "
                "set clusterer to rapids"
            )
    if clusterer == "mllib" and settings.nInit != 1:
        raise SemDedupError(
            f"nInit={settings.nInit} cannot be honoured by clusterer 'mllib': it must be 1 (faiss and rapids take more)"
        )


_INIT_MODES = {"faiss": ("k-means++", "random", _AN_ARRAY), "mllib": ("k-means||", "random")}
"""What these clusterers honour; rapids, with the Lloyd loop, honours all."""


def _refuse_init(clusterer: str, settings: FitSettings) -> None:
    if "initMode" not in settings.set_by_user:
        return
    honoured = _INIT_MODES[clusterer]
    if settings.init_name not in honoured:
        raise SemDedupError(
            f"initMode={settings.init_name!r} cannot be honoured by clusterer {clusterer!r}: it must be one of "
            f"{', '.join(honoured)} (clusterer rapids takes all)"
        )


def fit(clusterer: str, sample: FitSample, settings: FitSettings) -> Fit:
    """Fits the sample with the clusterer ``choose_clusterer`` named.

    Raises ``SemDedupError`` where a Param the user has set cannot be honoured, the sample has fewer rows than
    ``k``, or given centroids are of another length than the embeddings.
    """
    refuse_unsupported(clusterer, settings)
    _refuse_misfit(settings, sample.size, sample.dim)
    if clusterer == "faiss":
        found = fit_faiss(sample.array, settings)
    elif clusterer == "mllib":
        found = fit_mllib(sample.dataframe(), settings)
    elif (reason := why_lloyd(settings)) is not None:
        log.info(
            "clusterer rapids: %s, which spark-rapids-ml does not offer → Lloyd loop on one GPU, which takes the whole "
            "sample, %.3g GiB",
            reason,
            4 * sample.size * sample.dim / 2**30,
        )
        found = fit_lloyd_on_executor(sample.dataframe(), settings, backend="gpu")
    else:
        found = fit_rapids(sample.dataframe(), settings)
    return found


def _refuse_misfit(settings: FitSettings, rows: int, dim: int | None = None) -> None:
    if rows < settings.k:
        raise SemDedupError(
            f"k={settings.k} is larger than the {rows} rows there are to fit on: lower k, or raise fitSampleRows"
        )
    given = settings.given_centroids
    if given is not None and dim is not None and given.shape[1] != dim:
        raise SemDedupError(f"initMode has centroids of length {given.shape[1]}, but embeddings have length {dim}")


def _checked(found: Fit) -> Fit:
    """The fit, unless its centroids are unusable (cuML 26.06 on some GPUs: cuml issue 8401)."""
    if not np.isfinite(found.centroids).all():
        raise SemDedupError(
            f"clusterer {found.clusterer!r} returned centroids that are not finite; set clusterer to faiss"
        )
    return found


# --- faiss --------------------------------------------------------------------------------------------------


def fit_faiss(sample: np.ndarray, settings: FitSettings) -> Fit:
    """FAISS's KMeans on the driver; ``sample``: float32 unit vectors (n, d), n ≥ k.

    The same input gives the same centroids, bit for bit, on every call on the same machine and with any number of
    OpenMP threads (rows are assigned by matrix products, each centre is summed by one thread in row order).
    A centre that loses all its rows is replaced by a copy of a large cluster's, moved apart a little; where there
    are fewer distinct rows than ``k``, some centres therefore nearly coincide.
    """
    _refuse_misfit(settings, *sample.shape)
    if settings.given_centroids is not None and len(sample) == settings.k:
        # FAISS would return the rows themselves, without a look at what is given.
        found = fit_lloyd(sample, settings)
        return _checked(Fit(found.centroids, tuple(found.history), "faiss", len(sample)))
    _log_faiss_defaults(settings)
    best: tuple[np.ndarray, tuple[float, ...]] | None = None
    for seed in settings.fit_seeds():
        centroids, history = _faiss_once(sample, settings, seed)
        if best is None or (history and _better(history[-1], best[1][-1], settings.spherical)):
            best = centroids, history
    assert best is not None
    return _checked(Fit(best[0], best[1], "faiss", len(sample)))


def _better(objective: float, than: float, spherical: bool) -> bool:
    return objective > than if spherical else objective < than


def _faiss_once(sample: np.ndarray, settings: FitSettings, seed: int) -> tuple[np.ndarray, tuple[float, ...]]:
    """One fit: centroids float32 (k, d) and the mean objective of each iteration."""
    import faiss

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
    kmeans.train(np.ascontiguousarray(sample, np.float32), init_centroids=settings.given_centroids)
    return np.array(kmeans.centroids), tuple(float(total) / n for total in np.asarray(kmeans.obj))


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
        log.info("clusterer faiss: initMode %s (default) → random", settings.initMode)
    log.info("clusterer faiss: stops when the objective improves by less than the fraction %s", _faiss_tol(settings))


# --- mllib --------------------------------------------------------------------------------------------------


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
        _refuse_misfit(settings, rows)
        centroids = _mllib_centroids(sample_df, settings).astype(np.float32)
    finally:
        sample_df.unpersist()
    if len(centroids) < settings.k:
        log.warning("clusterer mllib: %d distinct centroids instead of k=%d are used", len(centroids), settings.k)
    return _checked(Fit(centroids, (), "mllib", rows))


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


# --- rapids -------------------------------------------------------------------------------------------------


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


def fit_rapids(sample_df: DataFrame, settings: FitSettings) -> Fit:
    """spark-rapids-ml's KMeans over all GPUs; ``sample_df``: one column of unit vectors, ``array<float>``.

    It reports no history. Raises ``SemDedupError`` where the package is missing.
    """
    (column,) = sample_df.columns
    estimator = rapids_estimator(settings, column)
    sample_df = sample_df.persist()
    try:
        rows = sample_df.count()
        _refuse_misfit(settings, rows)
        estimator.num_workers = gpus_to_fit_on(
            sample_df.sparkSession.sparkContext, estimator.num_workers, rows, settings.k
        )
        centroids = np.asarray(estimator.fit(sample_df).cluster_centers_, dtype=np.float32)
    finally:
        sample_df.unpersist()
    return _checked(Fit(centroids, (), "rapids", rows))


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


# --- our Lloyd loop, in one task ----------------------------------------------------------------------------

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
        _refuse_misfit(settings, 0)
    centroids = np.frombuffer(bytes(found[0]["centroids"]), np.float32).reshape(settings.k, -1)
    return _checked(Fit(centroids, tuple(found[0]["history"]), "rapids (Lloyd loop)", found[0]["rows"]))


def _lloyd_task(settings: FitSettings, backend: str) -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        prepare_worker()
        parts = [_matrix(batch.column(0)) for batch in batches if batch.num_rows]
        if not parts:
            return
        sample = np.concatenate(parts)
        parts.clear()
        alone = Placement(backend, settings.deviceMemoryFraction, tasks_per_gpu=1)
        batch = Batch(settings.maxSamplesPerBatch, "maxSamplesPerBatch", "fitSampleRows", 1, vector_bytes)
        found = alone.within_memory(lambda rows: fit_lloyd(rows, settings), sample, batch)
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


def fit_lloyd(sample: Array, settings: FitSettings) -> kernel.LloydFit:
    """The best of ``nInit`` runs of ``kernels.lloyd``; ``sample``: float32 (n, d), of either array library."""
    _refuse_misfit(settings, *sample.shape)
    return kernel.best_of(
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
        return kernel.random_rows(sample, settings.k, seed)
    if settings.initMode == "k-means++":
        return kernel.k_means_plus_plus(sample, settings.k, seed)
    return kernel.scalable_k_means_plus_plus(sample, settings.k, seed, oversampling=settings.oversamplingFactor)
