"""Saving and loading of models that hold centroids: Params as pyspark.ml writes them, centroids as Parquet.

Nothing is pickled, so loading a model executes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyspark
from pyspark.ml.util import (
    DefaultParamsReader,
    DefaultParamsWriter,
    MLReadable,
    MLReader,
    MLWritable,
    MLWriter,
)

from spark_semdedup.errors import SemDedupError


def _context(handle: MLReader | MLWriter) -> Any:
    """What pyspark's metadata functions take: the session from Spark 4 on, the SparkContext before."""
    return handle.sparkSession if int(pyspark.__version__.split(".")[0]) >= 4 else handle.sc


class _CentroidsWriter(MLWriter):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:
        model = self._model
        DefaultParamsWriter.saveMetadata(
            model, path, _context(self), extraMetadata={"history": list(map(float, model.history))}
        )
        rows = [(i, row.tolist()) for i, row in enumerate(model.centroids)]
        frame = self.sparkSession.createDataFrame(rows, "centroid int, vector array<float>")
        frame.coalesce(1).write.parquet(f"{path}/data")


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


class CentroidsWritable(MLWritable):
    """``save`` and ``write`` of a model with ``centroids`` and ``history``."""

    def write(self) -> MLWriter:
        return _CentroidsWriter(self)


class CentroidsReadable(MLReadable):
    """``load`` and ``read`` of such a model."""

    @classmethod
    def read(cls) -> MLReader:
        return _CentroidsReader(cls)
