"""The KMeans implementations that can fit the centroids, and what each makes of our Params.

``rapids`` is spark-rapids-ml's KMeans on the executors' GPUs, ``faiss`` FAISS on the driver's CPU, ``mllib``
pyspark.ml's on the executors' CPUs. All get unit vectors. What they make of each Param:

==================  ============================  ================================  ==========================
Param               rapids                        faiss                             mllib
==================  ============================  ================================  ==========================
k, maxIter, seed    as they are                   as they are                       as they are
tol                 squared moves of all centres  objective improves by a smaller   centres move no farther
                    or gain of inertia less       fraction; unset: by 0.001
initMode k-means||  cuML's k-means||              unset: k-means++ up to k = 64,    pyspark.ml's
                                                  beyond random; set: error
scalable-k-means++  another name of k-means||     error                             error
k-means++           Lloyd loop                    greedy up to k = 64, FAISS's      error
                                                  beyond
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

``minibatch`` is scikit-learn's MiniBatchKMeans on the driver's CPU (extra ``explore``). k, seed and nInit are used as
they are, maxIter counts passes over the sample, maxSamplesPerBatch rows move the centres at once (unset: 4,096), tol is
the relative move of the centres (unset: 0). initMode: k-means++ (unset, too), random, or an array; others, a set
oversamplingFactor, the cosine and maxIter 0: error.

Beyond k = 64 FAISS starts from random rows unless told otherwise: at k = 1,000, on 64 rows per centroid, k-means++
took 1.5 to 2.7 times as long and came to clusters as tight but less even, with 3 to 6 % more pairs to compare.
Iterations improve the objective by less than 0.001 after 8 to 14 of them; going on changed inertia by 0.2 %, and the
pairs not at all.

Seeds are folded to 31 bits, which is what cuML and FAISS take: seeds with the same last 31 bits are the same.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from spark_semdedup.errors import SemDedupError
from spark_semdedup.params import ClusteringParams

log = logging.getLogger("spark_semdedup")


SCALABLE = ("k-means||", "scalable-k-means++")
"""The two names of one initialisation (Bahmani et al. 2012)."""

_AN_ARRAY = "an array of centroids"

ON_DRIVER = ("faiss", "minibatch")
"""Clusterers that the sample is collected for."""

INSTALL_RAPIDS = "pip install 'spark-semdedup[gpu-cu12]' (or gpu-cu13, by the CUDA version)"


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
    """``rapids``, ``rapids (Lloyd loop)``, ``faiss``, ``mllib`` or ``minibatch``."""
    rows: int
    """Number of rows fitted on."""


def choose_clusterer(clusterer: str, backend: str, requested_backend: str = "auto") -> str:
    """``rapids``, ``faiss``, ``mllib`` or ``minibatch``; logs why.

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
        if name in settings.set_by_user and (clusterer, name) != ("minibatch", "maxSamplesPerBatch"):
            raise SemDedupError(
                f"{name}={getattr(settings, name)} cannot be honoured by clusterer {clusterer!r}: leave it unset, or "
                "set clusterer to rapids"
            )
    if clusterer == "mllib" and settings.nInit != 1:
        raise SemDedupError(
            f"nInit={settings.nInit} cannot be honoured by clusterer 'mllib': it must be 1 (faiss and rapids take more)"
        )
    if clusterer == "minibatch" and settings.spherical:
        raise SemDedupError(
            "distanceMeasure='cosine' cannot be honoured by clusterer 'minibatch': it must be euclidean "
            "(faiss, mllib and rapids take both)"
        )
    if clusterer == "minibatch" and not settings.maxIter:
        raise SemDedupError("maxIter=0 cannot be honoured by clusterer 'minibatch': it must be at least 1")


_INIT_MODES = {
    "faiss": ("k-means++", "random", _AN_ARRAY),
    "mllib": ("k-means||", "random"),
    "minibatch": ("k-means++", "random", _AN_ARRAY),
}
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


def refuse_misfit(settings: FitSettings, rows: int, dim: int | None = None) -> None:
    if rows < settings.k:
        raise SemDedupError(
            f"k={settings.k} is larger than the {rows} rows there are to fit on: lower k, or raise fitSampleRows"
        )
    given = settings.given_centroids
    if given is not None and dim is not None and given.shape[1] != dim:
        raise SemDedupError(f"initMode has centroids of length {given.shape[1]}, but embeddings have length {dim}")


def checked(found: Fit) -> Fit:
    """The fit, unless its centroids are unusable (cuML 26.06 on some GPUs: cuml issue 8401)."""
    if not np.isfinite(found.centroids).all():
        raise SemDedupError(
            f"clusterer {found.clusterer!r} returned centroids that are not finite; set clusterer to faiss"
        )
    return found


SIZE_ROWS = 65_536
"""Rows at least, if there are as many, that sizes and visits of clusters are estimated from."""

SIZE_ROWS_PER_CENTROID = 16
"""The same for each centroid, where these are more."""

FIT_ROWS_PER_CENTROID = 64
"""Rows per centroid that are fitted on by default."""


def number_of_clusters(params: ClusteringParams, total: int, *, valid: bool = False) -> int:
    """k for ``total`` rows: ``k``, the number of given centroids, or the square root of the number of rows, rounded.

    ``valid``: ``total`` counts the rows with a valid embedding. Raises ``SemDedupError`` where ``k`` and ``initMode``
    contradict each other, or k is larger than ``total``.
    """
    given = params.value("initMode")
    k = params.value("k")
    if not isinstance(given, str):
        if k is not None and k != len(given):
            raise SemDedupError(f"k={k} and initMode with {len(given)} centroids contradict each other")
        k = len(given)
    if k is None:
        k = max(1, round(math.sqrt(total)))
    if k > total:
        if valid:
            raise SemDedupError(f"k={k} is larger than the {total} rows with a valid embedding: lower k")
        raise SemDedupError(f"k={k} is larger than the {total} rows: it must be at most the number of rows")
    return int(k)


def size_rows(k: int) -> int:
    """How many rows sizes and visits of ``k`` clusters are estimated from, if there are as many."""
    return max(SIZE_ROWS, SIZE_ROWS_PER_CENTROID * k)


def rows_to_fit(wanted: int | None, k: int, total: int) -> int:
    """How many of ``total`` rows centroids are fitted on, by ``fitSampleRows``; a ``SemDedupError`` if fewer than k."""
    rows = FIT_ROWS_PER_CENTROID * k if wanted is None else wanted
    if 0 < rows < k:
        raise SemDedupError(f"fitSampleRows={rows} is smaller than k={k}: it must be 0 (all rows) or at least k")
    return min(rows, total) if rows else total
