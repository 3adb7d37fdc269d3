"""Models that hold centroids, saved and loaded: Params as pyspark.ml writes them, centroids as Parquet.

Nothing is pickled, and no class is imported because a file names it, so loading a model or a stage executes nothing.
What the files hold is checked before it is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyspark
from pyspark.ml import Model
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWriter, MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql import SparkSession

from spark_semdedup.clustering.centroids import Centroids, centroid_matrix
from spark_semdedup.clustering.saved import read_centroids, write_centroids
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.params import SemDedupParams
from spark_semdedup.spark.arrow import local_frame
from spark_semdedup.spark.files import Files, join

_MODULES_OF_0_1 = {
    "EmbeddingKMeans": "spark_semdedup.clustering",
    "EmbeddingKMeansModel": "spark_semdedup.clustering",
    "IdentifyDuplicates": "spark_semdedup.duplicates",
    "PairwiseSimilarity": "spark_semdedup.pairwise",
    "RemoveDuplicates": "spark_semdedup.duplicates",
    "SemDedup": "spark_semdedup.semdedup",
    "SemDedupModel": "spark_semdedup.semdedup",
}
"""The modules that stages saved by version 0.1.0 name (``_moved``)."""


def _context(writer: MLWriter) -> Any:
    """What pyspark's metadata functions take: the session from Spark 4 on, the SparkContext before."""
    return writer.sparkSession if int(pyspark.__version__.split(".")[0]) >= 4 else writer.sc


class _CentroidsWriter(MLWriter):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def _handleOverwrite(self, path: str) -> None:
        if getattr(self.sparkSession, "_jvm", None) is None:
            raise SemDedupError(f"path={shown(path)}: a Spark Connect client cannot overwrite; save to a new path")
        super()._handleOverwrite(path)

    def saveImpl(self, path: str) -> None:
        model = self._model
        history = {"history": list(map(float, model.history))}
        metadata = DefaultParamsWriter._get_metadata_to_save(model, _context(self), extraMetadata=history)
        write_centroids(self.sparkSession, model.centroids, f"{path}/data")
        self._save_metadata(f"{path}/metadata", metadata)

    def _save_metadata(self, path: str, metadata: str) -> None:
        """What saveMetadata does, without a job where the driver knows the file systems."""
        if getattr(self.sparkSession, "_jvm", None) is not None:
            Files(self.sparkSession).write_text(join(path, "part-00000.txt"), metadata + "\n")
        else:
            local_frame(self.sparkSession, pa.table({"value": [metadata]})).write.text(path)


def _read_metadata(spark: SparkSession, path: str, cls: type) -> dict[str, Any]:
    """The metadata of a saved stage of class ``cls``; ``SemDedupError`` for what is not such a stage's.

    pyspark's own reader imports the class that the file names, whichever that is, and makes one of it.
    """
    place = f"{shown(f'{path}/metadata', 400)} cannot be loaded"
    rows = spark.read.text(f"{path}/metadata").head(1)
    try:
        metadata = json.loads(rows[0][0]) if rows else None
    except (ValueError, RecursionError) as error:
        raise SemDedupError(f"{place}: it is not valid JSON ({shown(str(error))})") from None
    if not isinstance(metadata, dict):
        raise SemDedupError(f"{place}: it is not the JSON object that save writes")
    expected = f"{cls.__module__}.{cls.__name__}"
    if metadata.get("class") not in (expected, f"{_MODULES_OF_0_1.get(cls.__name__)}.{cls.__name__}"):
        raise SemDedupError(f"{shown(path, 400)} holds a {shown(metadata.get('class'))}, not a {expected}")
    wanted = {"uid": str, "sparkVersion": str, "paramMap": dict, "defaultParamMap": dict}
    for name, type_ in wanted.items():
        if not isinstance(metadata.get(name), type_):
            raise SemDedupError(f"{place}: {name} in it is {shown(metadata.get(name))}, not what save writes")
    return metadata


def _with_params(stage: Any, metadata: dict[str, Any], path: str) -> Any:
    """The stage with uid and Params of its metadata, each value checked as if the user had set it."""
    place = f"{shown(f'{path}/metadata', 400)} cannot be loaded"
    stage._resetUid(metadata["uid"])
    for section, put in (("paramMap", stage.set), ("defaultParamMap", _set_default(stage))):
        for name, value in metadata[section].items():
            if not stage.hasParam(name):
                raise SemDedupError(f"{place}: {type(stage).__name__} has no Param {shown(name)}")
            try:
                put(stage.getParam(name), value)
            except SemDedupError as error:
                raise SemDedupError(f"{place}: {error}") from None
    return stage


def _set_default(stage: Any) -> Any:
    # pyspark's takes null for any Param.
    return lambda param, value: stage._setDefault(**{param.name: param.typeConverter(value)})


class _StageReader(MLReader):
    """Reads a stage that is its Params alone."""

    def __init__(self, cls: type) -> None:
        super().__init__()
        self._class = cls

    def load(self, path: str) -> Any:
        metadata = _read_metadata(self.sparkSession, path, self._class)
        return _with_params(self._class(), metadata, path)


class StageReadable(DefaultParamsReadable):
    """Gives a stage ``load`` and ``read``, as ``DefaultParamsReadable`` does, for stages of its own class alone."""

    @classmethod
    def read(cls) -> Any:
        return _StageReader(cls)


class _CentroidsReader(_StageReader):
    def load(self, path: str) -> Any:
        metadata = _read_metadata(self.sparkSession, path, self._class)
        history = metadata.get("history", [])
        if not isinstance(history, list) or not all(_is_number(value) for value in history):
            raise SemDedupError(
                f"{shown(f'{path}/metadata', 400)} cannot be loaded: history in it is no list of numbers"
            )
        model = self._class(centroids=read_centroids(self.sparkSession, f"{path}/data"), history=history)
        return _with_params(model, metadata, path)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


ModelT = TypeVar("ModelT", bound="CentroidsModel")


class CentroidsModel(Model, SemDedupParams, MLReadable, MLWritable):
    """Base of the models: centroids, the fit's history, ``save`` and ``load``.

    ``history`` holds, per iteration of the fit, the mean squared distance to the nearest centroid (euclidean) or
    the mean similarity to it (cosine); empty where the clusterer reports none.
    """

    constructor_arguments = ("centroids", "history")

    def __init__(self, *, centroids: np.ndarray | None = None, history: Sequence[float] = (), **params: Any) -> None:
        super().__init__(**params)
        # pyspark.ml makes models without any before it fills them.
        unset = np.zeros((0, 0), np.float32)
        self._centroids = unset if centroids is None else centroid_matrix(centroids, type(self).__name__)
        self.history = tuple(history)

    def __getstate__(self) -> dict[str, Any]:
        """Without what a fit left for this process alone: rows of its DataFrame, and a reference to that."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_fitted_on", "fitted_sample")}

    @classmethod
    def fitted(cls: type[ModelT], estimator: SemDedupParams, centroids: np.ndarray, history: Sequence[float]) -> ModelT:
        """The model of a fitted estimator: its Params and uid, but for given initial centroids, k × d numbers that the
        fitted ones supersede."""
        model: ModelT = estimator._copyValues(cls(centroids=centroids, history=history))
        model._resetUid(estimator.uid)
        if not isinstance(model.value("initMode"), str):
            model.clear(model.getParam("initMode"))
        return model

    def __repr__(self) -> str:
        k, dim = self._centroids.shape
        eps = f", eps={self.value('eps')}" if self.hasParam("eps") else ""
        return f"{type(self).__name__}(k={k}, dim={dim}{eps})"

    @property
    def centroids(self) -> np.ndarray:
        """float32 (k, d); row number is the centroid's id."""
        return self._centroids

    @property
    def fitted_centroids(self) -> Centroids:
        """The centroids as the engine takes them."""
        return Centroids(self._centroids, self.value("distanceMeasure") == "cosine", self.history)

    def write(self) -> MLWriter:
        return _CentroidsWriter(self)

    @classmethod
    def read(cls) -> MLReader:
        return _CentroidsReader(cls)
