"""``RemoveSimilar``: leaves out the rows that are similar to rows of an index; and the model that made an index."""

from __future__ import annotations

from typing import Any

from pyspark.ml import Transformer
from pyspark.ml.util import DefaultParamsWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.duplicates.threshold import without_ids
from spark_semdedup.errors import SemDedupError
from spark_semdedup.index import SemDedupIndex
from spark_semdedup.ml.incremental import INDEX_PARAMS, IndexReferences, found_references
from spark_semdedup.ml.persistence import StageReadable
from spark_semdedup.ml.semdedup import SemDedupModel
from spark_semdedup.params import CoverageParams, DecisionParams, HasColumns, HasIndexPath, HasInvalid, PairwiseParams


def index_model(index: SemDedupIndex, **params: Any) -> SemDedupModel:
    """The model that assigns and compares rows as ``index`` was made. ``params``: others, such as columns."""
    settings = {name: value for name, value in index.settings.items() if name in INDEX_PARAMS and value is not None}
    return SemDedupModel(centroids=index.centroids.matrix, history=index.centroids.history, **settings | params)


class RemoveSimilar(
    Transformer,
    HasColumns,
    HasInvalid,
    HasIndexPath,
    PairwiseParams,
    CoverageParams,
    DecisionParams,
    StageReadable,
    DefaultParamsWritable,
):
    """Removes the rows that are within eps of a row of the index at ``indexPath``: test sets out of training data,
    licensed texts, deny lists.

    Rows are compared with those of the index alone, not with one another, and the index stays as it is. Rows that
    cannot be compared stay with ``handleInvalid`` keep, and go with skip. eps and coverage need not be the index's.
    """

    __module__ = "spark_semdedup"  # saved stages name it: see ``_moved``

    def similar(self, dataset: DataFrame) -> DataFrame:
        """``id``, ``max_id``, ``cosine_sim_score`` of the rows to remove, and the most similar row of the index."""
        return self._similar(dataset, *self._model(dataset))

    def _similar(self, dataset: DataFrame, model: SemDedupModel, index: SemDedupIndex) -> DataFrame:
        found = found_references(model, model.rows_of(dataset), IndexReferences(index, kept_only=False))
        return found.where(F.col("cosine_sim_score") >= model.similarity_threshold())

    def _transform(self, dataset: DataFrame) -> DataFrame:
        model, index = self._model(dataset)
        unwanted = self._similar(dataset, model, index).select("id")
        if self.value("handleInvalid") == "skip":
            routed = model.rows_of(dataset).routed()
            unwanted = unwanted.unionAll(routed.where(F.col("reason").isNotNull()).select("id"))
        return without_ids(dataset, self.value("idCol"), unwanted)

    def _model(self, dataset: DataFrame) -> tuple[SemDedupModel, SemDedupIndex]:
        path = self.value("indexPath")
        if path is None:
            raise SemDedupError("RemoveSimilar has no indexPath: set the folder of an index")
        index = SemDedupIndex.open(dataset.sparkSession, path)
        measure = {"distanceMeasure": index.settings["distanceMeasure"]}
        return SemDedupModel(centroids=index.centroids.matrix, **self.settings(SemDedupModel), **measure), index
