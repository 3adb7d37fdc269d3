"""``EmbeddingKMeans``: KMeans on a sample of the unit vectors, every row assigned to its nearest centroid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.ml import Estimator
from pyspark.ml.util import DefaultParamsWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from spark_semdedup.analysis.cluster_choice import ClusterChoice, choose_k, may_choose_k
from spark_semdedup.analysis.curve import FITTED_FOR_CHOICE, ClusteredSample, ladder
from spark_semdedup.clustering.assign import Assigner
from spark_semdedup.clustering.fit import fit_centroids
from spark_semdedup.clustering.sample import FitSample, fit_sample, read_few
from spark_semdedup.clustering.settings import (
    FIT_ROWS_PER_CENTROID,
    ON_DRIVER,
    SIZE_ROWS_PER_CENTROID,
    FitSettings,
    choose_clusterer,
    number_of_clusters,
    refuse_unsupported,
    rows_to_fit,
    size_rows,
)
from spark_semdedup.kernels.oom import AtTaskEnd
from spark_semdedup.ml.persistence import CentroidsModel, StageReadable
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.estimate import VISIT_ROWS, FittedEstimate, FittedSample
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.pairwise.rows import estimate_held
from spark_semdedup.pairwise.schema import ASSIGNED
from spark_semdedup.pairwise.workload import least_shuffle_bytes
from spark_semdedup.params import ClusteringParams, HasColumns, HasInvalid, SemDedupStageParams
from spark_semdedup.spark.backend import resolve_backend
from spark_semdedup.spark.columns import field, quoted, refuse_shadowed
from spark_semdedup.spark.documents import Documents
from spark_semdedup.spark.interpreter import tells_what_workers_say
from spark_semdedup.spark.vectors import list_array, matrix, refuse_invalid
from spark_semdedup.spark.worker import prepare_worker

log = logging.getLogger("spark_semdedup")

Foresee: TypeAlias = Callable[[float, float | None], None]
"""Is told what the comparison that will follow a fit shuffles: bytes at the least, and as estimated, which may be off
by a factor, where the number of clusters was chosen by such estimates. Raises a ``SemDedupError`` to end the fit."""


class _EmbeddingKMeansParams(HasColumns, HasInvalid, ClusteringParams):
    pass


class EmbeddingKMeans(Estimator["EmbeddingKMeansModel"], _EmbeddingKMeansParams, StageReadable, DefaultParamsWritable):
    """Clusters embeddings by direction: KMeans on unit vectors.

    The centroids are fitted on the rows with the smallest ``xxhash64(id, seed)`` (``fitSampleRows``); the model
    assigns every row. The embedding column is never altered.

    >>> rows = [(i, [float(i % 2), 1.0 - i % 2]) for i in range(8)]
    >>> df = spark.createDataFrame(rows, "id int, embedding array<float>")
    >>> model = EmbeddingKMeans(k=2).fit(df)
    >>> model.transform(df).groupBy("centroid").count().orderBy("centroid").show()
    +--------+-----+
    |centroid|count|
    +--------+-----+
    |       0|    4|
    |       1|    4|
    +--------+-----+
    <BLANKLINE>
    """

    __module__ = "spark_semdedup"  # saved models name it: see ``_moved``

    compared_by: Coverage | None = None
    """Of the comparison that will follow: what it is planned from is estimated from the rows that the fit reads
    (``FittedSample``), and, where they will visit further clusters, from rows beside those that are fitted on."""

    compared_with: SemDedupStageParams | None = None
    """The Params of that comparison, for which the number of clusters is chosen (``analysis.cluster_choice``)."""

    foresee: Foresee | None = None
    """Called before the fit."""

    @tells_what_workers_say
    def _fit(self, dataset: DataFrame) -> EmbeddingKMeansModel:
        documents = Documents.of_params(dataset, self)
        backend = resolve_backend(dataset.sparkSession, self.value("backend"))
        clusterer = choose_clusterer(self.value("clusterer"), backend, self.value("backend"))
        few = read_few(documents, self.value("seed")) if clusterer in ON_DRIVER else None
        total = documents.rows
        k = number_of_clusters(self, total)
        refuse_unsupported(clusterer, FitSettings.from_params(self, k))
        choice = self._chosen_for_comparison(documents, k, gpu=backend == "gpu")
        k = choice.k if choice else k
        settings = FitSettings.from_params(self, k)
        visits = self.compared_by is not None and self.compared_by.visits
        spare = max(VISIT_ROWS, SIZE_ROWS_PER_CENTROID * k) if visits else 0
        sample = fit_sample(
            documents,
            total=total,
            wanted=rows_to_fit(self.value("fitSampleRows"), k, total),
            seed=self.value("seed"),
            dim=self.value("embeddingDim"),
            handle_invalid=self.value("handleInvalid"),
            on_driver=clusterer in ON_DRIVER,
            spare=spare,
            few=few,
        )
        try:
            if k > sample.size:
                k = number_of_clusters(self, sample.size, valid=True)
                settings = replace(settings, k=k)
            if self.foresee is not None:
                least = least_shuffle_bytes(sample.valid_rows, sample.dim)
                self.foresee(least, choice.shuffle_bytes if choice else None)
            log.info("fitting %d centroids on %d of %d rows with %s", k, sample.size, total, clusterer)
            fit = fit_centroids(clusterer, sample, settings)
            model = EmbeddingKMeansModel.fitted(self, fit.centroids, fit.history)
            model.fitted_rows, model.cluster_choice = total, choice
            model.fitted_sample = self._seen_by(sample, model, spare)
        finally:
            sample.release()
        return model

    def _chosen_for_comparison(self, documents: Documents, default: int, *, gpu: bool) -> ClusterChoice | None:
        """The number of clusters of least cost, where it is free, which takes a small job."""
        params, coverage, total = self.compared_with, self.compared_by, documents.rows
        if params is None or coverage is None or not may_choose_k(params, coverage, total):
            return None
        sizes = ladder(default, total, documents.some_length() or 1, whole=True, numbers=FITTED_FOR_CHOICE)
        sample = fit_sample(
            documents,
            total=total,
            wanted=min(FIT_ROWS_PER_CENTROID * sizes[-1], total),
            seed=self.value("seed"),
            dim=self.value("embeddingDim"),
            handle_invalid=self.value("handleInvalid"),
            on_driver=True,
            spare=VISIT_ROWS,
        )
        choice = choose_k(params, ClusteredSample.of_sample(self, sample, sizes), coverage, default, gpu=gpu)
        log.info("%s", choice.in_words())
        return choice

    def _seen_by(
        self, sample: FitSample, model: EmbeddingKMeansModel, spare: int
    ) -> FittedSample | FittedEstimate | None:
        """What the rows that the fit looked at tell of all. Those fitted on lie nearer to their centroids than others
        do, and visit fewer further cells; but where few others are there, those fitted on are nearly all."""
        most = size_rows(len(model.centroids))
        if sample.found is not None and not sample.is_held:  # on the driver: it costs no job
            rows = (sample.spare if 2 * len(sample.spare) >= spare > 0 else sample.array)[:most].copy()
            return FittedSample(rows, sample.valid_rows / max(len(rows), 1))
        if self.compared_by is None or not sample.is_held:
            return None
        return estimate_held(
            *sample.seen(spare, most), sample.valid_rows, model.fitted_centroids, model, self.compared_by
        )


class EmbeddingKMeansModel(CentroidsModel, _EmbeddingKMeansParams):
    """Assigns rows to fitted centroids; see ``EmbeddingKMeans``."""

    __module__ = "spark_semdedup"  # saved models name it: see ``_moved``

    fitted_sample: FittedSample | FittedEstimate | None = None
    """Rows the fit looked at, where it had them on the driver, or what they told; not saved."""

    fitted_rows: int | None = None
    """How many rows there were when it was fitted; not saved."""

    cluster_choice: ClusterChoice | None = None
    """Which numbers of clusters were considered when it was fitted; None: the number was given; not saved."""

    def clusterCenters(self) -> list[np.ndarray]:
        """The centroids as a list of arrays, as pyspark.ml's KMeansModel gives them."""
        return list(self._centroids)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Appends ``centroid``, ``l2_dist_to_cent`` and ``cosine_dist_to_cent`` to all columns there are.

        Only embeddings travel to Python. Rows whose embedding is invalid fail (``handleInvalid`` error), are left
        out (skip) or have nulls (keep).
        """
        assigned = self._with_assignment(dataset, units=False)
        if self.value("handleInvalid") == "skip":
            assigned = assigned.where(F.col(f"{_ASSIGNMENT}.reason").isNull())
        return assigned.select(*map(quoted, dataset.columns), *(F.col(f"{_ASSIGNMENT}.{name}") for name in ASSIGNED))

    def clustered(self, dataset: DataFrame, ranking: Ranking | None = None) -> tuple[DataFrame, DataFrame]:
        """The rows as the ``cluster`` step stores them, and the invalid rows with their reasons.

        First: id, embedding (the float32 unit vector), ``metadataCols``, the columns that ``ranking`` needs, and
        the three columns of the assignment. Second: all columns of the input and ``reason``; empty, unless
        ``handleInvalid`` is skip or keep.
        """
        names = [field(dataset, self.value("idCol"), "idCol").name]
        names += [field(dataset, name, "metadataCols").name for name in self.value("metadataCols") or []]
        names += ranking.input_columns(dataset) if ranking else []
        assigned = self._with_assignment(dataset, units=True)
        unit = F.col(f"{_ASSIGNMENT}.unit").alias(self.value("embeddingCol"))
        kept = [quoted(name) for name in dict.fromkeys(names) if name.lower() != self.value("embeddingCol").lower()]
        valid = assigned.where(F.col(f"{_ASSIGNMENT}.reason").isNull()).select(
            kept[0], unit, *kept[1:], *(F.col(f"{_ASSIGNMENT}.{name}") for name in ASSIGNED)
        )
        invalid = assigned.where(F.col(f"{_ASSIGNMENT}.reason").isNotNull())
        return valid, invalid.select(*map(quoted, dataset.columns), F.col(f"{_ASSIGNMENT}.reason").alias("reason"))

    def refuse_invalid(self, dataset: DataFrame) -> None:
        """Raises the error for an invalid row, if such rows are errors (``handleInvalid``), wherever it is: a fit looks
        at a sample. Reads all embeddings, in one job."""
        if self.value("handleInvalid") != "error":
            return
        documents = Documents.of_params(dataset, self)
        column, dim = documents.embedding_col, self._centroids.shape[1]

        def look(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            prepare_worker()
            for batch in batches:
                valid, _, reasons = matrix(batch.column("embedding"), dim)
                refuse_invalid(valid, reasons, batch.column("id"), column)
            yield from ()

        columns = documents.id.alias("id"), documents.embedding.alias("embedding")
        dataset.select(*columns).mapInArrow(look, "nothing int").collect()

    def _with_assignment(self, dataset: DataFrame, *, units: bool) -> DataFrame:
        """The dataset with one struct column more. A scalar pandas UDF: Spark sends it the embedding alone and
        joins its answer to the row in the JVM, so other columns may be of any type and cost nothing."""
        refuse_shadowed(dataset, [*ASSIGNED, _ASSIGNMENT], type(self).__name__)
        documents = Documents.of_params(dataset, self)
        assign = Assigner.of(self.fitted_centroids, documents.spark, self, distances=ASSIGNED[1:])
        schema = "centroid int, l2_dist_to_cent float, cosine_dist_to_cent float, reason string"
        schema += ", unit array<float>" if units else ""

        task_end = AtTaskEnd()

        @pandas_udf(schema)  # type: ignore[call-overload]
        def assignment(embeddings: pd.Series, ids: pd.Series) -> pd.DataFrame:
            prepare_worker()
            task_end.watch()
            found = assign(list_array(embeddings), ids)
            answer = pd.DataFrame({name: found.spread_nullable(getattr(found, name)) for name in ASSIGNED})
            answer["reason"] = found.reasons
            if units:
                answer["unit"] = found.spread_unit_objects()
            return answer

        # A filter on ``reason`` would be pushed below a deterministic function, which then ran once for it and once
        # for the other columns.
        return dataset.withColumn(_ASSIGNMENT, assignment.asNondeterministic()(documents.embedding, documents.id))


_ASSIGNMENT = "semdedup_assignment"
