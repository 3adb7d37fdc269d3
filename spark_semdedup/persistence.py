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
from spark_semdedup.errors import SemDedupError
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
        metadata = DefaultParamsReader.loadMetadata(path, _context(self))
        expected = f"{self._class.__module__}.{self._class.__name__}"
        if metadata["class"] != expected:
            raise SemDedupError(f"{path} holds a {metadata['class']}, not a {expected}")
        rows = self.sparkSession.read.parquet(f"{path}/data").orderBy("centroid").collect()
        if [row.centroid for row in rows] != list(range(len(rows))):
            raise SemDedupError(f"{path}/data does not hold centroids 0 to {len(rows) - 1}, each once")
        model = self._class(
            centroids=np.array([row.vector for row in rows], np.float32), history=metadata.get("history", ())
        )
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model


ModelT = TypeVar("ModelT", bound="CentroidsModel")


class CentroidsModel(Model, SemDedupParams, MLReadable, MLWritable):
    """Base of the models: centroids, the fit's history, ``save`` and ``load``.

    ``history`` holds, per iteration of the fit, the mean squared distance to the nearest centroid (euclidean) or
    the mean similarity to it (cosine); empty where the clusterer reports none.
    """

    constructor_arguments = ("centroids", "history")

    def __init__(self, *, centroids: np.ndarray | None = None, history: Sequence[float] = (), **params: Any) -> None:
        super().__init__(**params)
        self._centroids = np.zeros((0, 0), np.float32) if centroids is None else np.asarray(centroids, np.float32)
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
