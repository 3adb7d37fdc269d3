"""Models that hold centroids, saved and loaded: Params as pyspark.ml writes them, centroids as Parquet.

Nothing is pickled, so loading a model executes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyspark
from pyspark.ml import Model
from pyspark.ml.util import (
    DefaultParamsReader,
    DefaultParamsWriter,
    MLReadable,
    MLReader,
    MLWritable,
    MLWriter,
)
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from spark_semdedup.columns import list_rows
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.params import SemDedupParams


def _context(handle: MLReader | MLWriter) -> Any:
    """What pyspark's metadata functions take: the session from Spark 4 on, the SparkContext before."""
    return handle.sparkSession if int(pyspark.__version__.split(".")[0]) >= 4 else handle.sc


class _CentroidsWriter(MLWriter):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:
        model = self._model
        history = {"history": list(map(float, model.history))}
        metadata = DefaultParamsWriter._get_metadata_to_save(model, _context(self), extraMetadata=history)
        # What saveMetadata does, and as many Arrow rows as there are: rows that are pickled start Python workers.
        frame = local_frame(self.sparkSession, pa.table({"value": [metadata]}))
        frame.coalesce(1).write.text(f"{path}/metadata")
        ids = pa.array(range(len(model.centroids)), pa.int32())
        table = pa.table({"centroid": ids, "vector": list_rows(model.centroids)})
        local_frame(self.sparkSession, table).coalesce(1).write.parquet(f"{path}/data")


def local_frame(spark: SparkSession, table: pa.Table) -> DataFrame:
    """A DataFrame of the rows of a small Arrow table."""
    if hasattr(DataFrame, "toArrow"):  # Spark 4
        return spark.createDataFrame(table)
    return spark.createDataFrame(table.to_pylist(), from_arrow_schema(table.schema))


class _CentroidsReader(MLReader):
    def __init__(self, cls: type) -> None:
        super().__init__()
        self._class = cls

    def load(self, path: str) -> Any:
        """Raises ``SemDedupError`` for a folder that holds something else, or centroids that cannot be used."""
        metadata = self._metadata(path)
        expected = f"{self._class.__module__}.{self._class.__name__}"
        if metadata["class"] != expected:
            raise SemDedupError(f"saved model {shown(path, 400)} holds a {metadata['class']}, not a {expected}")
        model = self._class(centroids=self._centroids(path), history=metadata.get("history", ()))
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model

    def _metadata(self, path: str) -> dict[str, Any]:
        try:
            metadata: Any = DefaultParamsReader.loadMetadata(path, _context(self))
        except ValueError as error:
            raise SemDedupError(
                f"saved model {shown(path, 400)}: metadata in it is not valid JSON ({error})"
            ) from error
        if not isinstance(metadata, dict) or "class" not in metadata:
            raise SemDedupError(f"saved model {shown(path, 400)}: metadata in it names no class")
        return metadata

    def _centroids(self, path: str) -> np.ndarray:
        """float32 (k, d), as they were saved."""
        place = f"saved model {shown(path, 400)}"
        found = self.sparkSession.read.parquet(f"{path}/data")
        if not {"centroid", "vector"} <= set(found.columns):
            raise SemDedupError(f"{place}: data in it lacks the columns centroid and vector")
        rows = found.orderBy("centroid").collect()
        if not rows or [row.centroid for row in rows] != list(range(len(rows))):
            raise SemDedupError(f"{place} does not hold centroids 0 to k - 1, each once, but {len(rows)} rows")
        return centroid_matrix([row.vector for row in rows], place)


def centroid_matrix(values: Any, what: str) -> np.ndarray:
    """Centroids as a float32 matrix (k, d); a ``SemDedupError`` for what is none, or has NaN or infinite elements."""
    try:
        centroids = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        raise SemDedupError(f"{what}: centroids cannot be used: they must be k vectors of one length") from None
    if centroids.ndim != 2 or not centroids.size:
        raise SemDedupError(
            f"{what}: centroids of shape {centroids.shape} cannot be used: they must be k vectors of one length"
        )
    if not np.isfinite(centroids).all():
        first = int(np.flatnonzero(~np.isfinite(centroids).all(axis=1))[0])
        raise SemDedupError(f"{what}: centroid {first} has a NaN or infinite element: all must be finite")
    return centroids


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

    @classmethod
    def fitted(cls: type[ModelT], estimator: SemDedupParams, centroids: np.ndarray, history: Sequence[float]) -> ModelT:
        """The model of a fitted estimator: its Params and uid, but for given initial centroids, k × d numbers that the
        fitted ones supersede."""
        model: ModelT = estimator._copyValues(cls(centroids=centroids, history=history))
        model._resetUid(estimator.uid)
        if not isinstance(model.value("initMode"), str):
            model.clear(model.getParam("initMode"))
        return model

    @property
    def centroids(self) -> np.ndarray:
        """float32 (k, d); row number is the centroid's id."""
        return self._centroids

    def write(self) -> MLWriter:
        return _CentroidsWriter(self)

    @classmethod
    def read(cls) -> MLReader:
        return _CentroidsReader(cls)
