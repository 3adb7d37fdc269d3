"""``EmbeddingKMeans``: KMeans on a sample of the unit vectors, every row assigned to its nearest centroid."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.ml import Estimator
from pyspark.ml.util import DefaultParamsWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import pandas_udf

from spark_semdedup import clusterers
from spark_semdedup.assigning import Assigner, list_array
from spark_semdedup.columns import (
    embedding_column,
    field,
    id_column,
    matrix,
    packed_type,
    quoted,
    refuse_shadowed,
)
from spark_semdedup.coverage import FIRST_ROWS, MOST_VISITS, Coverage, ReadyCells, Router, collect_visits, tile_hash
from spark_semdedup.devices import Placement, plugin_active, resolve_backend
from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels.assignment import Cells, assign
from spark_semdedup.params import ClusteringParams, HasColumns, HasInvalid
from spark_semdedup.persistence import CentroidsModel, StageReadable
from spark_semdedup.ranking import Ranking
from spark_semdedup.regions import VisitSample
from spark_semdedup.sampling import fit_sample, in_lowest
from spark_semdedup.validation import check_ids, refuse_invalid
from spark_semdedup.workers import prepare_worker

log = logging.getLogger("spark_semdedup")

ASSIGNED = ("centroid", "l2_dist_to_cent", "cosine_dist_to_cent")
"""The columns that assignment appends: int, float, float."""

VISIT_ROWS = 16_384
"""Rows, at least, that visits are estimated from beside a fit."""

SIZE_ROWS = 65_536
"""Rows at least, if there are as many, that sizes and visits of clusters are estimated from."""

SIZE_ROWS_PER_CENTROID = 16
"""The same for each centroid, where these are more."""

FIT_ROWS_PER_CENTROID = 64
"""Rows per centroid that are fitted on by default."""


class _EmbeddingKMeansParams(HasColumns, HasInvalid, ClusteringParams):
    pass


class EmbeddingKMeans(Estimator, _EmbeddingKMeansParams, StageReadable, DefaultParamsWritable):
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

    visits: bool = False
    """Whether the model's rows will visit further clusters: then rows are looked at beside those that are fitted on,
    where that costs little (``FittedSample``)."""

    def _fit(self, dataset: DataFrame) -> EmbeddingKMeansModel:
        id_ = id_column(dataset, self.value("idCol"))
        embedding = embedding_column(dataset, self.value("embeddingCol"))
        backend = resolve_backend(dataset.sparkSession, self.value("backend"))
        clusterer = clusterers.choose_clusterer(self.value("clusterer"), backend, self.value("backend"))
        total = check_ids(dataset, id_, self.value("idCol"))
        k = self.number_of_clusters(total)
        settings = clusterers.FitSettings.from_params(self, k)
        clusterers.refuse_unsupported(clusterer, settings)
        spare = max(VISIT_ROWS, SIZE_ROWS_PER_CENTROID * k) if self.visits and clusterer == "faiss" else 0
        sample = fit_sample(
            dataset,
            id_,
            embedding,
            embedding_name=self.value("embeddingCol"),
            total=total,
            wanted=rows_to_fit(self.value("fitSampleRows"), k, total),
            seed=self.value("seed"),
            dim=self.value("embeddingDim"),
            handle_invalid=self.value("handleInvalid"),
            on_driver=clusterer == "faiss",
            spare=spare,
        )
        if k > sample.size:
            k = self.number_of_clusters(sample.size, valid=True)
            settings = replace(settings, k=k)
        log.info("fitting %d centroids on %d of %d rows with %s", k, sample.size, total, clusterer)
        fit = clusterers.fit(clusterer, sample, settings)
        model = EmbeddingKMeansModel.fitted(self, fit.centroids, fit.history)
        model.fitted_rows = total
        if clusterer == "faiss":  # the sample is on the driver: what it says of the clusters costs no job
            # Rows fitted on lie nearer to their centroids than others do, and visit fewer further cells; but where few
            # others are there, those fitted on are nearly all.
            seen = sample.spare if 2 * len(sample.spare) >= spare > 0 else sample.array
            rows = seen[: size_rows(k)].copy()
            model.fitted_sample = FittedSample(rows, sample.valid_rows / max(len(rows), 1))
        return model

    def number_of_clusters(self, total: int, *, valid: bool = False) -> int:
        """k for ``total`` rows; a ``SemDedupError`` where the Params contradict each other, or the rows are fewer.
        ``valid``: they are those with a valid embedding."""
        given = self.value("initMode")
        k = self.value("k")
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


@dataclass(frozen=True)
class FittedSample:
    """Rows that a fit looked at: float32 unit vectors (n, d), each of which stands for ``scale`` rows."""

    units: np.ndarray
    scale: float

    def sizes(self, cells: Cells) -> dict[int, float]:
        """Estimated rows of each cluster."""
        labels = assign(self.units, cells, distances=()).centroid
        return {int(c): n * self.scale for c, n in Counter(labels.tolist()).items()}

    def visits(self, cells: Cells, coverage: Coverage) -> VisitSample:
        """Estimated visits, of as many rows as keeps them few enough for the driver."""
        rule = coverage.rule(cells)
        first = assign(self.units[:FIRST_ROWS], cells, distances=(), rule=rule).visits
        each = max(1.0, len(first.rows) / min(FIRST_ROWS, len(self.units)))
        units = self.units[: max(FIRST_ROWS, int(MOST_VISITS / each))]
        found = assign(units, cells, distances=(), rule=rule)
        return VisitSample(found.centroid, found.visits, self.scale * len(self.units) / len(units))


class EmbeddingKMeansModel(CentroidsModel, _EmbeddingKMeansParams):
    """Assigns rows to fitted centroids; see ``EmbeddingKMeans``."""

    fitted_sample: FittedSample | None = None
    """Rows the fit looked at, where it had them on the driver; not saved."""

    fitted_rows: int | None = None
    """How many rows there were when it was fitted; not saved."""

    @property
    def cells(self) -> Cells:
        """The centroids as rows are assigned to them."""
        return Cells.of(self._centroids, spherical=self.value("distanceMeasure") == "cosine")

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
        column, dim = self.value("embeddingCol"), self._centroids.shape[1]
        id_, embedding = id_column(dataset, self.value("idCol")), embedding_column(dataset, column)

        def look(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            prepare_worker()
            for batch in batches:
                valid, _, reasons = matrix(batch.column("embedding"), dim)
                refuse_invalid(valid, reasons, batch.column("id"), column)
            yield from ()

        dataset.select(id_.alias("id"), embedding.alias("embedding")).mapInArrow(look, "nothing int").collect()

    def unit_rows(
        self, dataset: DataFrame, ranking: Ranking, router: Router | None = None, *, lists: bool = False
    ) -> DataFrame:
        """What the pairwise step of one job needs, and nothing else: ``id``, ``key_0`` …, ``unit`` (binary or, with
        ``lists``, a list), ``centroid``, ``reason``; where rows visit further cells, what ``router`` says of them.

        One crossing from the JVM to Python and back, in which rows are normalised, assigned and given their rank
        keys. Invalid rows have a reason and a negative centroid (many different ones, so that they spread).
        """
        id_ = id_column(dataset, self.value("idCol"))
        embedding = embedding_column(dataset, self.value("embeddingCol"))
        keys = [] if ranking.distance else ranking.key_columns(dataset, id_)
        carried = [id_.alias("id"), *(key.alias(f"key_{i}") for i, key in enumerate(keys))]
        source = dataset.select(*carried, embedding.alias("embedding"), tile_hash(id_).alias("hash"))
        schema = T.StructType([source.schema[i] for i in range(len(carried))])
        if ranking.distance:
            schema.add("key_0", T.FloatType())
        schema.add("unit", packed_type(T.FloatType(), lists=lists))
        schema.add("centroid", T.IntegerType()).add("reason", T.StringType())
        for column in router.fields if router else ():
            schema.add(column)
        distance, width = ranking.distance, len(carried)
        assign = self._assigner(dataset, distances=(distance,) if distance else (), router=router)

        def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                found = assign(batch.column("embedding"), batch.column("id"))
                columns = [batch.column(i) for i in range(width)]
                if distance:
                    columns.append(found.spread(getattr(found, distance), np.float32(0)))
                scattered = (-1 - batch.column("hash").to_numpy() % 1000).astype(np.int32)
                own = np.where(found.valid, found.spread_numpy(found.centroid), scattered)
                columns += [found.spread_units(lists=lists), pa.array(own), pa.array(found.reasons, pa.string())]
                if router:
                    columns += router.columns(own, found.spread_visits(), batch.column("hash"))
                yield pa.RecordBatch.from_arrays(columns, names=schema.names)

        return source.mapInArrow(rows, schema)

    def estimate_sizes(self, dataset: DataFrame, total: int) -> dict[int, float]:
        """Estimated rows of each cluster: a sample of the ``total`` rows is assigned, those whose ids hash lowest."""
        wanted = FIT_ROWS_PER_CENTROID * len(self._centroids)
        fraction = min(1.0, wanted / total)
        id_ = id_column(dataset, self.value("idCol"))
        lists = plugin_active(dataset.sparkSession)  # only numbers leave the GPU then
        sample = self.unit_rows(dataset.where(in_lowest(id_, fraction)), Ranking(), lists=lists)
        counts = sample.groupBy("centroid").agg(F.count(F.lit(1)).alias("rows")).collect()
        return {row["centroid"]: row["rows"] / fraction for row in counts if row["centroid"] >= 0}

    def sample_visits(self, dataset: DataFrame, total: int, coverage: Coverage) -> VisitSample:
        """The same with the cells that the sample's rows visit."""
        fraction = min(1.0, size_rows(len(self._centroids)) / total)
        sample = dataset.where(in_lowest(id_column(dataset, self.value("idCol")), fraction))
        lists = plugin_active(dataset.sparkSession)
        routed = self.unit_rows(sample, Ranking(), Router(coverage, lists=lists), lists=lists)
        return collect_visits(routed, fraction, coverage.most_visits(fraction * total, len(self._centroids)))

    def _with_assignment(self, dataset: DataFrame, *, units: bool) -> DataFrame:
        """The dataset with one struct column more. A scalar pandas UDF: Spark sends it the embedding alone and
        joins its answer to the row in the JVM, so other columns may be of any type and cost nothing."""
        refuse_shadowed(dataset, [*ASSIGNED, _ASSIGNMENT], type(self).__name__)
        id_ = id_column(dataset, self.value("idCol"))
        embedding = embedding_column(dataset, self.value("embeddingCol"))
        assign = self._assigner(dataset)
        schema = "centroid int, l2_dist_to_cent float, cosine_dist_to_cent float, reason string"
        schema += ", unit array<float>" if units else ""

        @pandas_udf(schema)  # type: ignore[call-overload]
        def assignment(embeddings: pd.Series, ids: pd.Series) -> pd.DataFrame:
            found = assign(list_array(embeddings), ids)
            answer = pd.DataFrame({name: found.spread_nullable(getattr(found, name)) for name in ASSIGNED})
            answer["reason"] = found.reasons
            if units:
                answer["unit"] = found.spread_unit_objects()
            return answer

        # A filter on ``reason`` would be pushed below a deterministic function, which then ran once for it and once
        # for the other columns.
        return dataset.withColumn(_ASSIGNMENT, assignment.asNondeterministic()(embedding, id_))

    def _assigner(
        self, dataset: DataFrame, distances: Sequence[str] = ASSIGNED[1:], router: Router | None = None
    ) -> Assigner:
        k, dim = self._centroids.shape
        if not k:
            raise SemDedupError(f"{type(self).__name__} has no centroids: give it some (centroids=…), or fit it")
        if self.value("embeddingDim") not in (None, dim):
            raise SemDedupError(
                f"embeddingDim={self.value('embeddingDim')} contradicts the model's {k} centroids of length {dim}"
            )
        return Assigner(
            cells=ReadyCells(
                self._centroids,
                self.value("distanceMeasure") == "cosine",
                router.coverage if router else Coverage(),
            ),
            raises=self.value("handleInvalid") == "error",
            column=self.value("embeddingCol"),
            placement=Placement.of_params(dataset.sparkSession, self),
            distances=tuple(distances),
        )


_ASSIGNMENT = "semdedup_assignment"
