"""The Params of all stages, each defined once: name, meaning, default, and what values are allowed.

A stage inherits the groups it needs. The command line's options (``--k``) are made from the Params, and so is the
table in ``docs/params.md``. A new Param therefore needs one place: its definition, and the line of its accessors below.

A wrong value is refused when it is set, by an error that names the Param, the value and what would be right.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from pyspark.ml.param import Param, Params

from spark_semdedup.accessors import accessors, param_of
from spark_semdedup.converters import Boolean, Integer, Number, OneOf, Text, Texts, _init_mode, unknown_param
from spark_semdedup.errors import SemDedupError

ParamsT = TypeVar("ParamsT", bound="SemDedupParams")

DEFAULTS: Mapping[str, Any] = {
    "idCol": "id",
    "embeddingCol": "embedding",
    "handleInvalid": "error",
    "backend": "auto",
    "deviceMemoryFraction": 0.4,
    "clusterer": "auto",
    "maxIter": 20,
    "tol": 1e-4,
    "seed": 42,
    "initMode": "k-means||",
    "nInit": 1,
    "oversamplingFactor": 2.0,
    "maxSamplesPerBatch": 32768,
    "distanceMeasure": "euclidean",
    "batchSize": 1024,
    "precision": "auto",
    "execution": "auto",
    "normalize": True,
    "whichToKeep": "hard",
    "distanceMetric": "cosine",
    "coverage": "cluster",
    "nProbe": 1,
    "eps": 0.05,
    "keepRule": "ranked",
    "maxPairs": 100_000_000,
    "inputCol": "text",
    "outputCol": "embedding",
    "chunk": "none",
    "maxChars": 50_000,
    "modelPrecision": "float32",
    "cache": True,
}
"""Every default there is. A Param missing here is unset until the user sets it; its text says what that means."""


class SemDedupParams(Params):
    """Base of all stages: a keyword-only constructor, and defaults from ``DEFAULTS``."""

    constructor_arguments: tuple[str, ...] = ()
    """What a constructor takes beside Params."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = _constructor_signature(cls)  # type: ignore[attr-defined]

    def __init__(self, **params: Any) -> None:
        super().__init__()
        self._setDefault(**{p.name: DEFAULTS[p.name] for p in self.params if p.name in DEFAULTS})
        self.setParams(**params)

    def setParams(self: ParamsT, **kwargs: Any) -> ParamsT:
        """Sets several Params at once, by keyword; ``None`` leaves a Param as it is."""
        for name in kwargs:
            if not self.hasParam(name):
                raise unknown_param(type(self).__name__, name, [param.name for param in self.params])
        return self._set(**{name: value for name, value in kwargs.items() if value is not None})

    def set(self, param: Param[Any], value: Any) -> None:
        """Sets a Param. A wrong value is a ``SemDedupError``; pyspark's own method would make another error of it."""
        super().set(param, param.typeConverter(value))

    def value(self, name: str) -> Any:
        """The value of a Param, or None where it has neither been set nor a default."""
        return self.getOrDefault(name) if self.isDefined(name) else None

    def settings(self, of: type[SemDedupParams] | None = None) -> dict[str, Any]:
        """The values *set by the user*, for the Params of class ``of`` (default: all); to hand to another stage."""
        return {p.name: v for p, v in self._paramMap.items() if of is None or hasattr(of, p.name)}


def _constructor_signature(cls: type[SemDedupParams]) -> inspect.Signature:
    """Every Param as a keyword-only argument with its default, for ``help()`` and editors."""
    params = sorted(name for name in dir(cls) if isinstance(getattr(cls, name, None), Param))
    names = [*cls.constructor_arguments, *params]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature([inspect.Parameter(name, keyword, default=DEFAULTS.get(name)) for name in names])


class HasIdCol(SemDedupParams):
    idCol = param_of("idCol", "column with each row's id: string or integer, unique, never null", Text("idCol"))
    getIdCol, setIdCol = accessors(idCol)


class HasColumns(HasIdCol):
    embeddingCol = param_of(
        "embeddingCol",
        "column with the embedding: an array of numbers, one vector in an array (1 x d), an ML Vector, or bytes "
        "(embeddingFormat), of any norm",
        Text("embeddingCol"),
    )
    getEmbeddingCol, setEmbeddingCol = accessors(embeddingCol)
    embeddingFormat = param_of(
        "embeddingFormat",
        "what embeddingCol holds: numbers, json (text such as [0.1, 0.2]; other text counts as null), or float32 "
        "(bytes: little-endian numbers of 4 bytes, which take Spark the least time). Unset: numbers, but arrays of int "
        "or smallint, which may be the bits of float16 numbers, are refused",
        OneOf("embeddingFormat", ("numbers", "json", "float32")),
    )
    getEmbeddingFormat, setEmbeddingFormat = accessors(embeddingFormat)
    metadataCols = param_of(
        "metadataCols", "further columns to carry along in the clustered rows (unset: none)", Texts("metadataCols")
    )
    getMetadataCols, setMetadataCols = accessors(metadataCols)


class HasInvalid(SemDedupParams):
    embeddingDim = param_of(
        "embeddingDim",
        "length every embedding must have (unset: the commonest length among the rows the fit looks at)",
        Integer("embeddingDim", 1),
    )
    getEmbeddingDim, setEmbeddingDim = accessors(embeddingDim)
    handleInvalid = param_of(
        "handleInvalid",
        "what to do with rows whose embedding is null, of the wrong length, NaN, infinite or zero: error; skip "
        "(moves to invalid/, with the reason); keep (stays in the result, compared with nothing)",
        OneOf("handleInvalid", ("error", "skip", "keep")),
    )
    getHandleInvalid, setHandleInvalid = accessors(handleInvalid)


class HasBackend(SemDedupParams):
    backend = param_of(
        "backend",
        "where arrays are computed: gpu (CuPy on the executors' GPUs), cpu (NumPy), or auto (gpu where every "
        "executor has one)",
        OneOf("backend", ("auto", "gpu", "cpu")),
    )
    getBackend, setBackend = accessors(backend)
    deviceMemoryFraction = param_of(
        "deviceMemoryFraction",
        "share of a GPU's memory that the CuPy arrays of all tasks on it may take together; the rest is for the RAPIDS "
        "Accelerator, CUDA's contexts (about 0.5 GiB for each worker) and other programs",
        Number("deviceMemoryFraction", "a number above 0, and at most 1", above=0, most=1),
    )
    getDeviceMemoryFraction, setDeviceMemoryFraction = accessors(deviceMemoryFraction)


class HasSeed(SemDedupParams):
    seed = param_of("seed", "seed of the fit sample, the initial centroids and the random rank", Integer("seed"))
    getSeed, setSeed = accessors(seed)


class ClusteringParams(HasBackend, HasSeed):
    clusterer = param_of(
        "clusterer",
        "KMeans to use: rapids (spark-rapids-ml, on the GPUs), faiss (on the driver's CPU), mllib (pyspark.ml), "
        "minibatch (scikit-learn's MiniBatchKMeans, on the driver's CPU), or auto (rapids with backend gpu, faiss with "
        "cpu)",
        OneOf("clusterer", ("auto", "rapids", "faiss", "mllib", "minibatch")),
    )
    getClusterer, setClusterer = accessors(clusterer)
    k = param_of(
        "k",
        "number of clusters (unset: the square root of the number of rows, rounded; with exact or nProbe, from 100,000 "
        "rows on, the number of least cost)",
        Integer("k", 1),
    )
    getK, setK = accessors(k)
    maxIter = param_of("maxIter", "KMeans iterations at most", Integer("maxIter", 0))
    getMaxIter, setMaxIter = accessors(maxIter)
    tol = param_of(
        "tol",
        "convergence tolerance: mllib stops when no centre moves farther; rapids when the sum of all squared moves "
        "is smaller, or inertia improves by less; faiss when the objective improves by a smaller fraction",
        Number("tol", "a number of at least 0", least=0),
    )
    getTol, setTol = accessors(tol)
    initMode = param_of(
        "initMode",
        "initial centroids: k-means||, scalable-k-means++, k-means++, random, or an array of k centroids (also a "
        "fitted model's, to start from); unset: k-means|| with rapids and mllib, k-means++ with minibatch and, up to "
        "64 clusters, with faiss, which beyond takes random rows",
        _init_mode,
    )
    getInitMode, setInitMode = accessors(initMode)
    nInit = param_of(
        "nInit",
        "number of fits from different initial centroids; the best is kept (rapids: more than one on one GPU alone)",
        Integer("nInit", 1),
    )
    getNInit, setNInit = accessors(nInit)
    oversamplingFactor = param_of(
        "oversamplingFactor",
        "candidates per centroid and round that k-means|| samples (rapids only)",
        Number("oversamplingFactor", "a number above 0", above=0),
    )
    getOversamplingFactor, setOversamplingFactor = accessors(oversamplingFactor)
    maxSamplesPerBatch = param_of(
        "maxSamplesPerBatch",
        "rows whose distances to all centroids are computed at once in the fit (rapids), or that move the centres at "
        "once (minibatch; unset: 4,096)",
        Integer("maxSamplesPerBatch", 1),
    )
    getMaxSamplesPerBatch, setMaxSamplesPerBatch = accessors(maxSamplesPerBatch)
    distanceMeasure = param_of(
        "distanceMeasure",
        "euclidean (centroids are means of unit vectors), or cosine (spherical KMeans: centroids are normalised "
        "after each iteration)",
        OneOf("distanceMeasure", ("euclidean", "cosine")),
    )
    getDistanceMeasure, setDistanceMeasure = accessors(distanceMeasure)
    fitSampleRows = param_of(
        "fitSampleRows",
        "rows to fit on; 0 means all (unset: 64 per centroid)",
        Integer("fitSampleRows", 0),
    )
    getFitSampleRows, setFitSampleRows = accessors(fitSampleRows)


class RankingParams(HasSeed):
    whichToKeep = param_of(
        "whichToKeep",
        "which row of a group of duplicates is preferred: hard (farthest from its centroid), easy (nearest), "
        "random (by a hash of id and seed), first (lowest id)",
        OneOf("whichToKeep", ("hard", "easy", "random", "first")),
    )
    getWhichToKeep, setWhichToKeep = accessors(whichToKeep)
    rankBy = param_of(
        "rankBy",
        "columns that rank rows instead of whichToKeep, each optionally followed by asc or desc: "
        "['quality desc', 'date']; nulls last, ties by id; text by its bytes, whatever its collation",
        Texts("rankBy"),
    )
    getRankBy, setRankBy = accessors(rankBy)
    distanceMetric = param_of(
        "distanceMetric",
        "distance to the centroid that hard and easy rank by: cosine or l2",
        OneOf("distanceMetric", ("cosine", "l2")),
    )
    getDistanceMetric, setDistanceMetric = accessors(distanceMetric)


class PairwiseParams(HasBackend):
    maxClusterRows = param_of(
        "maxClusterRows",
        "rows of one cluster compared in one task; a larger cluster is split into tiles, and each pair of tiles is a "
        "task (unset: 32,768, or what fits into 256 MiB of float32); the answer is the same",
        Integer("maxClusterRows", 2),
    )
    getMaxClusterRows, setMaxClusterRows = accessors(maxClusterRows)
    batchSize = param_of(
        "batchSize",
        "rows compared at once inside a cluster; more uses more memory, the answer is the same",
        Integer("batchSize", 1),
    )
    getBatchSize, setBatchSize = accessors(batchSize)
    precision = param_of(
        "precision",
        "what elements are rounded to where similarities are screened: float16 (faster on GPUs), float32 (faster on "
        "CPUs), auto, or generic (float32 by CuPy alone, for GPUs on which our kernels fail); exact arithmetic "
        "decides, so the answer is the same",
        OneOf("precision", ("auto", "float32", "float16", "generic")),
    )
    getPrecision, setPrecision = accessors(precision)
    execution = param_of(
        "execution",
        "how tasks get their rows: grouped (a grouped pandas UDF), streamed (a map over partitions, of a task each or "
        "sorted by task, which holds one of them at a time), or auto (streamed with the RAPIDS Accelerator or "
        "taskGpuAmount, grouped elsewhere); the answer is the same",
        OneOf("execution", ("auto", "grouped", "streamed")),
    )
    getExecution, setExecution = accessors(execution)
    taskGpuAmount = param_of(
        "taskGpuAmount",
        "GPUs of each task of the streamed comparison: 0.25 lets four tasks share one, whatever other stages do (Spark "
        "4.0 or newer, on a cluster; unset: spark.task.resource.gpu.amount)",
        Number("taskGpuAmount", "a number above 0 and at most 0.5, or 1", above=0, most=0.5, also=1),
    )
    getTaskGpuAmount, setTaskGpuAmount = accessors(taskGpuAmount)


class CoverageParams(SemDedupParams):
    coverage = param_of(
        "coverage",
        "which rows are compared: cluster (rows of the same cluster, and of further ones with nProbe), or exact (every "
        "pair whose similarity is at least 1 - eps, proven)",
        OneOf("coverage", ("cluster", "exact")),
    )
    getCoverage, setCoverage = accessors(coverage)
    nProbe = param_of(
        "nProbe",
        "number of clusters each row is compared in: its own, and the nearest of the others; 2 finds most duplicates "
        "that lie across a boundary",
        Integer("nProbe", 1),
    )
    getNProbe, setNProbe = accessors(nProbe)


class HasCentroidsPath(SemDedupParams):
    centroidsPath = param_of(
        "centroidsPath",
        "saved model with the centroids that the rows were assigned to, for nProbe above 1 or coverage exact",
        Text("centroidsPath"),
    )
    getCentroidsPath, setCentroidsPath = accessors(centroidsPath)


class HasNormalize(SemDedupParams):
    normalize = param_of(
        "normalize",
        "divide embeddings by their norm first; false: they are unit vectors already, as the cluster step writes them",
        Boolean("normalize"),
    )
    getNormalize, setNormalize = accessors(normalize)


class DecisionParams(SemDedupParams):
    eps = param_of(
        "eps",
        "a row is a duplicate when its cosine_sim_score is at least 1 - eps",
        Number("eps", "a number between 0 and 1, both excluded", above=0, below=1),
    )
    getEps, setEps = accessors(eps)
    threshold = param_of(
        "threshold",
        "the similarity itself, instead of eps: eps = 1 - threshold",
        Number("threshold", "a number between 0 and 1, both excluded", above=0, below=1),
    )
    getThreshold, setThreshold = accessors(threshold)

    def similarity_threshold(self) -> float:
        """The similarity from which a row is a duplicate: ``1 - eps`` in double arithmetic, or ``threshold`` itself.

        Raises ``SemDedupError`` where the user has set both.
        """
        if self.isSet("eps") and self.isSet("threshold"):
            raise SemDedupError(
                f"eps={self.value('eps')} and threshold={self.value('threshold')} are both set; set one of them "
                "(threshold is 1 - eps)"
            )
        return self.value("threshold") if self.isSet("threshold") else 1.0 - self.value("eps")


class KeepParams(DecisionParams):
    keepRule = param_of(
        "keepRule",
        "which similar rows that precede it remove a row: ranked (any, removed ones too, as published), or greedy "
        "(kept ones alone: every removed row has a kept row within eps)",
        OneOf("keepRule", ("ranked", "greedy")),
    )
    getKeepRule, setKeepRule = accessors(keepRule)


class HasMaxPairs(SemDedupParams):
    maxPairs = param_of(
        "maxPairs",
        "pairs of similar rows that are listed, at most: more are an error, before the comparison where an estimate "
        "says so",
        Integer("maxPairs", 1),
    )
    getMaxPairs, setMaxPairs = accessors(maxPairs)


class HasIndexPath(SemDedupParams):
    indexPath = param_of("indexPath", "folder of the index whose rows are compared with", Text("indexPath"))
    getIndexPath, setIndexPath = accessors(indexPath)


class HasDuplicatesPath(SemDedupParams):
    duplicatesPath = param_of(
        "duplicatesPath", "Parquet folder of the duplicates to remove, with a column id", Text("duplicatesPath")
    )
    getDuplicatesPath, setDuplicatesPath = accessors(duplicatesPath)


class SemDedupStageParams(
    HasColumns, HasInvalid, ClusteringParams, RankingParams, PairwiseParams, CoverageParams, KeepParams, HasMaxPairs
):
    """The Params of the whole job; the command line's options are made from them."""
