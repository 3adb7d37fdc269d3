"""The Params of all stages, each defined once: name, meaning, default, and what values are allowed.

A stage inherits the groups it needs. Getters and setters (``getK``, ``setK``) are made from the Params, the
command line's options (``--k``) too, and so is the README's table; a new Param therefore needs one place.

A wrong value is refused when it is set, by an error that names the Param, the value and what would be right.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pyspark.ml.param import Param, Params

from spark_semdedup.errors import SemDedupError, shown

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
    "execution": "grouped",
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


def _refuse(name: str, value: object, right: str) -> SemDedupError:
    return SemDedupError(f"{name}={shown(value)} cannot be used: it must be {right}")


# Converters are objects of classes at the module's top, so that stages can be pickled: into closures, by MLflow and by
# CrossValidator's threads.


@dataclass(frozen=True)
class OneOf:
    """One of a few names."""

    name: str
    allowed: tuple[str, ...]

    def __call__(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.allowed:
            raise _refuse(self.name, value, "one of " + ", ".join(self.allowed))
        return value


@dataclass(frozen=True)
class Integer:
    """A whole number of 64 bits, of at least ``least`` if that is set."""

    name: str
    least: int | None = None

    def __call__(self, value: Any) -> int:
        least = -(2**63) if self.least is None else self.least
        if not _is_number(value) or not least <= value < 2**63 or not float(value).is_integer():
            right = "from -2^63 to 2^63 - 1" if self.least is None else f"of at least {self.least}"
            raise _refuse(self.name, value, f"a whole number {right}")
        return int(value)


@dataclass(frozen=True)
class Number:
    """A number above ``above``, or of at least ``least``; below ``below``, or at most ``most``; or ``also``."""

    name: str
    right: str
    """In words."""
    above: float = -math.inf
    least: float = -math.inf
    below: float = math.inf
    most: float = math.inf
    also: float | None = None

    def __call__(self, value: Any) -> float:
        if not _is_number(value):
            raise _refuse(self.name, value, self.right)
        try:
            number = float(value)
        except OverflowError:
            raise _refuse(self.name, value, self.right) from None
        fits = self.above < number < self.below and self.least <= number <= self.most
        if not fits and number != self.also:
            raise _refuse(self.name, value, self.right)
        return number


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Boolean:
    """True or false."""

    name: str

    def __call__(self, value: Any) -> bool:
        if not isinstance(value, (bool, np.bool_)):
            raise _refuse(self.name, value, "true or false")
        return bool(value)


@dataclass(frozen=True)
class Text:
    """A name that is not empty."""

    name: str

    def __call__(self, value: Any) -> str:
        if not isinstance(value, str) or not value or _is_broken(value):
            raise _refuse(self.name, value, "a name")
        return value


@dataclass(frozen=True)
class Sentence:
    """A text, which may be empty."""

    name: str

    def __call__(self, value: Any) -> str:
        if not isinstance(value, str) or _is_broken(value):
            raise _refuse(self.name, value, "a text")
        return value


@dataclass(frozen=True)
class Texts:
    """A list of such names."""

    name: str

    def __call__(self, value: Any) -> list[str]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise _refuse(self.name, value, "a list of names")
        return [Text(self.name)(each) for each in value]


def _is_broken(text: str) -> bool:
    """Whether a text has half a surrogate pair, which neither Java nor a file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


INIT_MODES = ("k-means||", "random", "scalable-k-means++", "k-means++")


def _init_mode(value: Any) -> str | list[list[float]]:
    """A name, or the initial centroids: an array of k rows, kept as lists so that it can be saved as JSON."""
    right = "one of " + ", ".join(INIT_MODES) + ", or an array of k centroids"
    if isinstance(value, str):
        if value not in INIT_MODES:
            raise _refuse("initMode", value, right)
        return value
    try:
        with np.errstate(over="ignore"):
            centroids = np.asarray(value, dtype=np.float32)
    except Exception:  # besides what NumPy raises, whatever an object does that says it is like an array
        raise _refuse("initMode", value, right) from None
    if centroids.ndim != 2 or not centroids.size or not np.isfinite(centroids).all():
        raise _refuse("initMode", f"array of shape {centroids.shape}", "a finite array of shape (k, dimension)")
    return centroids.tolist()


def _param(name: str, doc: str, convert: Callable[[Any], Any]) -> Param[Any]:
    return Param(Params._dummy(), name, doc, typeConverter=convert)  # type: ignore[attr-defined]


class SemDedupParams(Params):
    """Base of all stages: a keyword-only constructor, defaults from ``DEFAULTS``, ``getX``/``setX`` for every Param."""

    constructor_arguments: tuple[str, ...] = ()
    """What a constructor takes beside Params."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, param in vars(cls).copy().items():
            if isinstance(param, Param):
                _add_accessors(cls, name, param.doc)
        cls.__signature__ = _constructor_signature(cls)  # type: ignore[attr-defined]

    def __init__(self, **params: Any) -> None:
        super().__init__()
        self._setDefault(**{p.name: DEFAULTS[p.name] for p in self.params if p.name in DEFAULTS})
        self.setParams(**params)

    def setParams(self: ParamsT, **kwargs: Any) -> ParamsT:
        """Sets several Params at once, by keyword; ``None`` leaves a Param as it is."""
        for name in kwargs:
            if not self.hasParam(name):
                raise SemDedupError(f"{type(self).__name__} has no Param {name!r}; {self._nearest(name)}")
        return self._set(**{name: value for name, value in kwargs.items() if value is not None})

    def _nearest(self, name: str) -> str:
        """What to say instead of a name that no Param has: the most alike, or all there are."""
        names = {p.name.lower(): p.name for p in self.params}
        alike = difflib.get_close_matches(name.replace("_", "").lower(), names, 1, 0.75)
        return f"did you mean {names[alike[0]]}?" if alike else f"it has {', '.join(sorted(names.values()))}"

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


def _add_accessors(cls: type, name: str, doc: str) -> None:
    suffix = name[0].upper() + name[1:]

    def get(self: SemDedupParams) -> Any:
        return self.getOrDefault(name)

    def set_(self: ParamsT, value: Any) -> ParamsT:
        return self.setParams(**{name: value})

    for function, verb in ((get, "get"), (set_, "set")):
        function.__name__ = f"{verb}{suffix}"
        function.__qualname__ = f"{cls.__qualname__}.{verb}{suffix}"
        function.__doc__ = f"{'Gets' if verb == 'get' else 'Sets'} ``{name}``: {doc}"
        setattr(cls, function.__name__, function)


class HasIdCol(SemDedupParams):
    idCol = _param("idCol", "column with each row's id: string or integer, unique, never null", Text("idCol"))


class HasColumns(HasIdCol):
    embeddingCol = _param(
        "embeddingCol",
        "column with the embedding: an array of numbers, one vector in an array (1 x d), or an ML Vector, of any norm",
        Text("embeddingCol"),
    )
    embeddingFormat = _param(
        "embeddingFormat",
        "what embeddingCol holds: numbers, or json (text such as [0.1, 0.2]; other text counts as null). Unset: "
        "numbers, but arrays of int or smallint, which may be the bits of float16 numbers, are refused",
        OneOf("embeddingFormat", ("numbers", "json")),
    )
    metadataCols = _param(
        "metadataCols", "further columns to carry along in the clustered rows (unset: none)", Texts("metadataCols")
    )


class HasInvalid(SemDedupParams):
    embeddingDim = _param(
        "embeddingDim",
        "length every embedding must have (unset: the commonest length among the rows the fit looks at)",
        Integer("embeddingDim", 1),
    )
    handleInvalid = _param(
        "handleInvalid",
        "what to do with rows whose embedding is null, of the wrong length, NaN, infinite or zero: error; skip "
        "(moves to invalid/, with the reason); keep (stays in the result, compared with nothing)",
        OneOf("handleInvalid", ("error", "skip", "keep")),
    )


class HasBackend(SemDedupParams):
    backend = _param(
        "backend",
        "where arrays are computed: gpu (CuPy on the executors' GPUs), cpu (NumPy), or auto (gpu where every "
        "executor has one)",
        OneOf("backend", ("auto", "gpu", "cpu")),
    )
    deviceMemoryFraction = _param(
        "deviceMemoryFraction",
        "share of a GPU's memory that the CuPy arrays of all tasks on it may take together; the rest is for the RAPIDS "
        "Accelerator, CUDA's contexts (about 0.5 GiB for each worker) and other programs",
        Number("deviceMemoryFraction", "a number above 0, and at most 1", above=0, most=1),
    )


class HasSeed(SemDedupParams):
    seed = _param("seed", "seed of the fit sample, the initial centroids and the random rank", Integer("seed"))


class ClusteringParams(HasBackend, HasSeed):
    clusterer = _param(
        "clusterer",
        "KMeans to use: rapids (spark-rapids-ml, on the GPUs), faiss (on the driver's CPU), mllib (pyspark.ml), "
        "minibatch (scikit-learn's MiniBatchKMeans, on the driver's CPU), or auto (rapids with backend gpu, faiss with "
        "cpu)",
        OneOf("clusterer", ("auto", "rapids", "faiss", "mllib", "minibatch")),
    )
    k = _param("k", "number of clusters (unset: the square root of the number of rows, rounded)", Integer("k", 1))
    maxIter = _param("maxIter", "KMeans iterations at most", Integer("maxIter", 0))
    tol = _param(
        "tol",
        "convergence tolerance: rapids and mllib stop when no centre moves farther; faiss when the objective "
        "improves by a smaller fraction",
        Number("tol", "a number of at least 0", least=0),
    )
    initMode = _param(
        "initMode",
        "initial centroids: k-means||, scalable-k-means++, k-means++, random, or an array of k centroids (also a "
        "fitted model's, to start from); unset: k-means|| with rapids and mllib, k-means++ with minibatch and, up to "
        "64 clusters, with faiss, which beyond takes random rows",
        _init_mode,
    )
    nInit = _param(
        "nInit",
        "number of fits from different initial centroids; the best is kept (rapids: more than one on one GPU alone)",
        Integer("nInit", 1),
    )
    oversamplingFactor = _param(
        "oversamplingFactor",
        "candidates per centroid and round that k-means|| samples (rapids only)",
        Number("oversamplingFactor", "a number above 0", above=0),
    )
    maxSamplesPerBatch = _param(
        "maxSamplesPerBatch",
        "rows whose distances to all centroids are computed at once in the fit (rapids only)",
        Integer("maxSamplesPerBatch", 1),
    )
    distanceMeasure = _param(
        "distanceMeasure",
        "euclidean (centroids are means of unit vectors), or cosine (spherical KMeans: centroids are normalised "
        "after each iteration)",
        OneOf("distanceMeasure", ("euclidean", "cosine")),
    )
    fitSampleRows = _param(
        "fitSampleRows",
        "rows to fit on; 0 means all (unset: 64 per centroid)",
        Integer("fitSampleRows", 0),
    )


class RankingParams(HasSeed):
    whichToKeep = _param(
        "whichToKeep",
        "which row of a group of duplicates is preferred: hard (farthest from its centroid), easy (nearest), "
        "random (by a hash of id and seed), first (lowest id)",
        OneOf("whichToKeep", ("hard", "easy", "random", "first")),
    )
    rankBy = _param(
        "rankBy",
        "columns that rank rows instead of whichToKeep, each optionally followed by asc or desc: "
        "['quality desc', 'date']; nulls last, ties by id; text by its bytes, whatever its collation",
        Texts("rankBy"),
    )
    distanceMetric = _param(
        "distanceMetric",
        "distance to the centroid that hard and easy rank by: cosine or l2",
        OneOf("distanceMetric", ("cosine", "l2")),
    )


class PairwiseParams(HasBackend):
    maxClusterRows = _param(
        "maxClusterRows",
        "rows of one cluster compared in one task; a larger cluster is split into tiles, and each pair of tiles is a "
        "task (unset: 32,768, or what fits into 256 MiB of float32); the answer is the same",
        Integer("maxClusterRows", 2),
    )
    batchSize = _param(
        "batchSize",
        "rows compared at once inside a cluster; more uses more memory, the answer is the same",
        Integer("batchSize", 1),
    )
    precision = _param(
        "precision",
        "what elements are rounded to where similarities are screened: float16 (faster on GPUs), float32 (faster on "
        "CPUs), or auto; exact arithmetic decides, so the answer is the same",
        OneOf("precision", ("auto", "float32", "float16")),
    )
    execution = _param(
        "execution",
        "how tasks get their rows: grouped (a grouped pandas UDF), or streamed (a map over partitions, of a task each "
        "or sorted by task, which holds one of them at a time); the answer is the same",
        OneOf("execution", ("grouped", "streamed")),
    )
    taskGpuAmount = _param(
        "taskGpuAmount",
        "GPUs of each task of the streamed comparison: 0.25 lets four tasks share one, whatever other stages do (Spark "
        "4.0 or newer, on a cluster; unset: spark.task.resource.gpu.amount)",
        Number("taskGpuAmount", "a number above 0 and at most 0.5, or 1", above=0, most=0.5, also=1),
    )


class CoverageParams(SemDedupParams):
    coverage = _param(
        "coverage",
        "which rows are compared: cluster (rows of the same cluster, and of further ones with nProbe), or exact (every "
        "pair whose similarity is at least 1 - eps, proven)",
        OneOf("coverage", ("cluster", "exact")),
    )
    nProbe = _param(
        "nProbe",
        "number of clusters each row is compared in: its own, and the nearest of the others; 2 finds most duplicates "
        "that lie across a boundary",
        Integer("nProbe", 1),
    )


class HasCentroidsPath(SemDedupParams):
    centroidsPath = _param(
        "centroidsPath",
        "saved model with the centroids that the rows were assigned to, for nProbe above 1 or coverage exact",
        Text("centroidsPath"),
    )


class HasNormalize(SemDedupParams):
    normalize = _param(
        "normalize",
        "divide embeddings by their norm first; false: they are unit vectors already, as the cluster step writes them",
        Boolean("normalize"),
    )


class DecisionParams(SemDedupParams):
    eps = _param(
        "eps",
        "a row is a duplicate when its cosine_sim_score is at least 1 - eps",
        Number("eps", "a number between 0 and 1, both excluded", above=0, below=1),
    )
    threshold = _param(
        "threshold",
        "the similarity itself, instead of eps: eps = 1 - threshold",
        Number("threshold", "a number between 0 and 1, both excluded", above=0, below=1),
    )

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
    keepRule = _param(
        "keepRule",
        "which similar rows that precede it remove a row: ranked (any, removed ones too, as published), or greedy "
        "(kept ones alone: every removed row has a kept row within eps)",
        OneOf("keepRule", ("ranked", "greedy")),
    )


class HasMaxPairs(SemDedupParams):
    maxPairs = _param(
        "maxPairs",
        "pairs of similar rows that are listed, at most: more are an error, before the comparison where an estimate "
        "says so",
        Integer("maxPairs", 1),
    )


class HasDuplicatesPath(SemDedupParams):
    duplicatesPath = _param(
        "duplicatesPath", "Parquet folder of the duplicates to remove, with a column id", Text("duplicatesPath")
    )


class SemDedupStageParams(
    HasColumns, HasInvalid, ClusteringParams, RankingParams, PairwiseParams, CoverageParams, KeepParams, HasMaxPairs
):
    """The Params of the whole job; the command line's options are made from them."""


class HasTextModel(SemDedupParams):
    model = _param(
        "model",
        "model that embeds texts: a folder or a name on the Hugging Face Hub (sentence-transformers, Model2Vec or "
        "ONNX), an .onnx file, or hashing (no model: hashed words, a baseline)",
        Text("model"),
    )
    prompt = _param(
        "prompt", "text put before each text, as some models want: 'passage: ' (unset: none)", Sentence("prompt")
    )
    maxTokens = _param(
        "maxTokens",
        "tokens that the model reads of a text; longer texts are truncated (unset: the model's own limit)",
        Integer("maxTokens", 4),
    )
    chunk = _param(
        "chunk",
        "what to do with texts longer than the model reads: none (only their beginning counts), or tokens (the mean "
        "of the embeddings of all chunks of maxTokens, weighted by their tokens)",
        OneOf("chunk", ("none", "tokens")),
    )
    batchTokens = _param(
        "batchTokens",
        "tokens of one forward pass, padding included; bounds the model's memory (unset: 8,192, on a GPU 65,536)",
        Integer("batchTokens", 1),
    )
    maxChars = _param(
        "maxChars",
        "characters of a text that are sent to the model's tokenizer at most; of longer texts the rest is ignored",
        Integer("maxChars", 1),
    )
    modelPrecision = _param(
        "modelPrecision",
        "precision of a sentence-transformers model on a GPU: float32, float16 or bfloat16",
        OneOf("modelPrecision", ("float32", "float16", "bfloat16")),
    )


class TextEmbedderParams(HasTextModel):
    inputCol = _param("inputCol", "column with the text: string", Text("inputCol"))
    outputCol = _param("outputCol", "column that gets the embedding: array<float>", Text("outputCol"))
    backend = _param(
        "backend",
        "where the model runs: gpu (the task's GPU), cpu, or auto (gpu where the task has one that the model's package "
        "can use); static and hashing models always run on CPUs",
        OneOf("backend", ("auto", "gpu", "cpu")),
    )
    normalize = _param("normalize", "divide embeddings by their norm", Boolean("normalize"))
    cache = _param(
        "cache",
        "keep the output in Spark's memory and on its disks, so that later stages read embeddings instead of embedding "
        "again; unpersist() frees it",
        Boolean("cache"),
    )
