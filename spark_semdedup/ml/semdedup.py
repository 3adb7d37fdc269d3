"""``SemDedup``: the whole of semantic deduplication as one stage of a ``pyspark.ml.Pipeline``."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace
from functools import cached_property

from pyspark.ml import Estimator
from pyspark.ml.util import DefaultParamsWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.analysis.cluster_choice import ClusterChoice
from spark_semdedup.analysis.cost import estimate_cost
from spark_semdedup.analysis.evaluation import Evaluation
from spark_semdedup.analysis.recall import MISSED, SAMPLE_ROWS, Evaluator, check_counts, noting_faults
from spark_semdedup.analysis.sizing import Hardware, Sizing
from spark_semdedup.duplicates.greedy import decide, links_for
from spark_semdedup.duplicates.groups import check_kind, component_groups, tree_groups
from spark_semdedup.duplicates.threshold import without_ids
from spark_semdedup.errors import SemDedupError
from spark_semdedup.index import SemDedupIndex
from spark_semdedup.ml.duplicates import IdentifyDuplicates
from spark_semdedup.ml.incremental import (
    add_to_index,
    create_index,
    deduplicate_against,
    naming_own_rows,
    refuse_other_index,
)
from spark_semdedup.ml.kmeans import EmbeddingKMeans, EmbeddingKMeansModel, Foresee
from spark_semdedup.ml.persistence import CentroidsModel, StageReadable
from spark_semdedup.ml.report import plots_of, write_report
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.estimate import FittedEstimate, FittedSample
from spark_semdedup.pairwise.execute import Accept, Compared, ComparisonPlan, any_size, compare
from spark_semdedup.pairwise.integrity import check_neighbours
from spark_semdedup.pairwise.merge import PartialMatches
from spark_semdedup.pairwise.pairs import ESTIMATE_ROWS, SimilarRows, estimate_pairs, refuse_too_many
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.pairwise.reference import ReferenceRows
from spark_semdedup.pairwise.rows import UnassignedRows
from spark_semdedup.pairwise.schema import SIMILARITY_COLUMNS
from spark_semdedup.pairwise.workload import WorkEstimate
from spark_semdedup.params import DEFAULTS, SemDedupStageParams
from spark_semdedup.report.plotting import ResultPlots
from spark_semdedup.spark.columns import id_column, quoted, refuse_shadowed, unused_name
from spark_semdedup.spark.documents import Documents
from spark_semdedup.spark.held import held


class SemDedup(Estimator["SemDedupModel"], SemDedupStageParams, StageReadable, DefaultParamsWritable):
    """Finds rows that mean the same and keeps one of each.

    ``fit`` fits the centroids, the model's ``transform`` gives the rows to keep, with all their columns.

    >>> rows = [("a", [1.0, 0.0]), ("b", [0.999, 0.001]), ("c", [0.0, 1.0]), ("d", [0.7, 0.7])]
    >>> df = spark.createDataFrame(rows, "id string, embedding array<double>")
    >>> model = SemDedup(k=1, eps=0.05, whichToKeep="first").fit(df)
    >>> [row.id for row in model.transform(df).orderBy("id").collect()]
    ['a', 'c', 'd']
    >>> model.duplicates(df).select("id", "max_id").show()
    +---+------+
    | id|max_id|
    +---+------+
    |  b|     a|
    +---+------+
    <BLANKLINE>
    """

    __module__ = "spark_semdedup"  # saved models name it: see ``_moved``

    def _fit(self, dataset: DataFrame) -> SemDedupModel:
        return self.fit_foreseen(dataset, None)

    def fit_foreseen(self, dataset: DataFrame, foresee: Foresee | None) -> SemDedupModel:
        """As ``fit``. ``foresee``: is told what will be shuffled before centroids are fitted, and may refuse."""
        Ranking.of(self)  # contradictions are refused before any work
        coverage = Coverage.of(self, self.similarity_threshold())
        stage = EmbeddingKMeans(**self.settings(EmbeddingKMeans))
        stage.compared_by, stage.compared_with, stage.foresee = coverage, self, foresee
        clustering = stage.fit(dataset)
        model = SemDedupModel.fitted(self, clustering.centroids, clustering.history)
        model.cluster_choice = clustering.cluster_choice
        if clustering.fitted_sample is not None:
            model._fitted_on = _FittedOn(weakref.ref(dataset), self.value("idCol"), clustering.fitted_sample)
        return model

    def plan(self, dataset: DataFrame, *, rows: float | None = None, hardware: Hardware | None = None) -> Sizing:
        """What deduplicating ``dataset`` will cost with each coverage, from a sample; see ``analysis.cost``."""
        return estimate_cost(self, dataset, rows=rows, hardware=hardware)


class SemDedupModel(CentroidsModel, SemDedupStageParams):
    """Deduplicates with fitted centroids; see ``SemDedup``.

    Spark computes the rows of ``dataset`` anew for every look at them, and parts of them once more after a failure.
    What is decided does not depend on how often:

    * Ids must be the same each time, or duplicates would stay, or other rows be removed: those drawn by ``uuid()``,
      ``rand()``, ``monotonically_increasing_id()`` or a Python function are refused, and columns of ``rankBy`` by the
      first of these. (``persist()`` holds drawn values as long as no executor is lost, ``checkpoint()`` or a written
      table for good. Those of an RDD cannot be told from others: the caller answers for them.)
    * The order of rows, and their partitions, matter nowhere: rows are chosen and placed by hashes of their ids.
    * Embeddings are taken from one look, the comparison's; ``run`` keeps what came of it. Exact coverage may look at
      them before, to tell which clusters a row need not visit: they must be the same then.
    * Rows that are there at one look and not at another (a ``sample`` or ``limit`` after a shuffle, files that change)
      are not noticed here: the program ``spark-semdedup`` counts, and fails where rows are missing or too many.
    """

    __module__ = "spark_semdedup"  # saved models name it: see ``_moved``

    _fitted_on: _FittedOn | None = None

    cluster_choice: ClusterChoice | None = None
    """Which numbers of clusters were considered when it was fitted; None: the number was given; not saved."""

    @property
    def clustering(self) -> EmbeddingKMeansModel:
        """The clustering alone, as a stage."""
        settings = self.settings(EmbeddingKMeansModel)
        return EmbeddingKMeansModel(centroids=self._centroids, history=self.history, **settings)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """The rows to keep. Computed anew at each action; ``run`` keeps what several actions share."""
        return self._result(dataset, persist=False).deduplicated

    def similarities(self, dataset: DataFrame) -> DataFrame:
        """``id``, ``max_id``, ``cosine_sim_score`` of every valid row."""
        return self._result(dataset, persist=False).similarities

    def duplicates(self, dataset: DataFrame) -> DataFrame:
        """``id``, ``max_id``, ``cosine_sim_score`` of the rows to remove."""
        return self._result(dataset, persist=False).duplicates

    def pairs(self, dataset: DataFrame) -> DataFrame:
        """``id_a``, ``id_b``, ``cosine_sim_score``: every compared pair of rows whose similarity is at least 1 - eps,
        once. ``id_a`` precedes ``id_b`` in rank order. Lazy, but for the jobs that plan it.

        Raises ``SemDedupError`` where a sample says that there are more than ``maxPairs``, or a task finds more.
        """
        self.estimate_pairs(dataset)
        return self.similar_rows(dataset).pairs(self.value("maxPairs"))

    def estimate_pairs(self, dataset: DataFrame) -> float:
        """About how many pairs ``pairs`` lists, from a sample; a ``SemDedupError`` for more than ``maxPairs``."""
        threshold = self.similarity_threshold()
        across = Coverage.of(self, threshold).visits
        sample = self.rows_of(dataset).vectors(ESTIMATE_ROWS)
        estimate = estimate_pairs(sample, threshold, across_clusters=across)
        refuse_too_many(estimate, self.value("maxPairs"), threshold)
        return estimate

    def groups(self, dataset: DataFrame, kind: str = "tree") -> DataFrame:
        """``id``, ``group_id``, ``representative``, ``size`` of every valid row; a row that nothing is similar to is a
        group of its own. ``kind``: ``tree`` (a kept row and the removed ones that lead to it) or ``components`` (all
        that hang together by pairs). Computed when called, and held; see ``duplicates.groups``."""
        check_kind(kind)
        result = self.run(dataset)
        try:
            if kind == "tree":
                return held(result.groups())
            return held(result.groups_by(self.similar_rows(dataset).stars()))
        finally:
            result.unpersist()

    def similar_rows(self, dataset: DataFrame) -> SimilarRows:
        """What ``pairs`` and components are made from."""
        ranking, threshold = Ranking.of(self), self.similarity_threshold()
        rows = self.rows_of(dataset)
        return SimilarRows(rows, ComparisonPlan.of(rows, Coverage.of(self, threshold), self), ranking, self, threshold)

    def run(self, dataset: DataFrame, *, against: SemDedupIndex | ReferenceRows | None = None) -> SemDedupResult:
        """All of them from one computation, which is kept until ``unpersist()``.

        ``against``: rows that precede all of ``dataset``, such as an index of earlier batches (``ml.incremental``).
        """
        if against is None:
            return self._result(dataset, persist=True)
        return replace(self.result_of(dataset, deduplicate_against(self, dataset, against)), against=against)

    def plan(self, dataset: DataFrame, *, rows: float | None = None, hardware: Hardware | None = None) -> Sizing:
        """What deduplicating ``dataset`` with these centroids will cost with each coverage; see ``analysis.cost``."""
        return estimate_cost(self, dataset, rows=rows, hardware=hardware, centroids=self._centroids)

    def evaluate(
        self,
        dataset: DataFrame,
        result: SemDedupResult,
        *,
        sample_rows: int = SAMPLE_ROWS,
        seed: int = DEFAULTS["seed"],
        missed: int = MISSED,
    ) -> Evaluation:
        """Estimates how many of the rows to be removed ``result``, what ``run(dataset)`` gave, removes.

        See ``spark_semdedup.evaluate``, which does so for the folder that a run of the program wrote.
        """
        check_counts(sample_rows, missed)
        if self.value("keepRule") == "greedy":
            raise SemDedupError("keepRule='greedy' keeps rows that 'ranked' removes: evaluate a result of 'ranked'")
        if result.against is not None:
            raise SemDedupError("against: no sample of the dataset has reference rows: evaluate a result without them")
        coverage = Coverage.of(self, self.similarity_threshold())
        evaluator = Evaluator(
            similarities=result.similarities,
            duplicates=result.duplicates,
            rows=self.rows_of(dataset),
            threshold=self.similarity_threshold(),
            coverage=coverage.name,
            coverage_in_words=coverage.in_words(),
        )
        return noting_faults(evaluator.compare(evaluator.sample(sample_rows, seed), missed))

    def _result(self, dataset: DataFrame, *, persist: bool) -> SemDedupResult:
        compared = self.compared(dataset)
        if self.value("keepRule") == "greedy":
            return self.result_of(dataset, decide(compared, self.similarity_threshold()), compared.workload)
        return self.result_of(dataset, compared.rows.persist() if persist else compared.rows, compared.workload)

    def compared(self, dataset: DataFrame, accept: Accept = any_size) -> Compared:
        """The comparison alone, lazy: what all results are made from (``result_of``), for who keeps it elsewhere than
        in Spark's memory. ``accept``: raises where so many bytes cannot be shuffled."""
        ranking = Ranking.of(self)
        self.similarity_threshold()
        if self.value("handleInvalid") == "skip":
            refuse_shadowed(dataset, ["reason"], "handleInvalid='skip'")
        return self._compared(dataset, ranking, accept)

    def result_of(
        self, dataset: DataFrame, compared: DataFrame, workload: WorkEstimate | None = None
    ) -> SemDedupResult:
        """The results that follow from the rows that ``compared(dataset)`` gave."""
        name = self.value("idCol")
        identify = IdentifyDuplicates(**self.settings(IdentifyDuplicates))
        valid_row = F.col("reason").isNull()
        similarities = similarities_of(compared)
        duplicates = identify.transform(similarities)
        invalid_ids = compared.where(~valid_row).select("id", "reason")
        handle_invalid = self.value("handleInvalid")
        # One filter, not a union of both: each branch of a union would run the comparison again.
        decided = identify.is_duplicate(similarities)
        unwanted = compared.where((~valid_row & F.lit(handle_invalid == "skip")) | (valid_row & decided)).select("id")
        return SemDedupResult(
            similarities=similarities,
            duplicates=duplicates,
            deduplicated=without_ids(dataset, name, unwanted),
            invalid=_with_reason(dataset, name, invalid_ids),
            compared=compared,
            ranking=Ranking.of(self),
            workload=workload,
            dataset=dataset,
            model=self,
        )

    def _compared(self, dataset: DataFrame, ranking: Ranking, accept: Accept) -> Compared:
        """Assigns rows, sends them to their tasks and compares them there."""
        coverage = Coverage.of(self, self.similarity_threshold())
        return compare(self.rows_of(dataset), coverage, ranking, self, links_for(self), accept)

    def rows_of(self, dataset: DataFrame) -> UnassignedRows:
        """The rows of ``dataset`` as comparisons take them, yet to be assigned."""
        documents = Documents.of_params(dataset, self)
        return UnassignedRows(documents, self.fitted_centroids, Ranking.of(self), self, self._fitted_sample(dataset))

    def _fitted_sample(self, dataset: DataFrame) -> FittedSample | FittedEstimate | None:
        known = self._fitted_on
        same = known is not None and known.dataset() is dataset and known.id_col == self.value("idCol")
        return known.sample if known is not None and same else None


@dataclass(frozen=True)
class _FittedOn:
    """The rows a model was fitted on, whose ids are known to be sound, and the sample of them that the fit kept."""

    dataset: weakref.ref[DataFrame]
    id_col: str
    sample: FittedSample | FittedEstimate


def _with_reason(dataset: DataFrame, id_name: str, invalid_ids: DataFrame) -> DataFrame:
    """The input's invalid rows, all their columns, and a column ``reason``."""
    id_, reason = (unused_name(name, dataset) for name in ("semdedup_invalid_id", "semdedup_reason"))
    found = invalid_ids.select(F.col("id").alias(id_), F.col("reason").alias(reason))
    joined = dataset.join(found, id_column(dataset, id_name) == F.col(id_))
    return joined.select(*map(quoted, dataset.columns), F.col(reason).alias("reason"))


@dataclass(frozen=True)
class SemDedupResult:
    """What one run found. DataFrames, lazy like all of Spark's; the comparison they share is computed once."""

    similarities: DataFrame
    """``id``, ``max_id``, ``cosine_sim_score``: every valid row."""
    duplicates: DataFrame
    """The same columns: the rows to remove."""
    deduplicated: DataFrame
    """The input's rows that remain, every column untouched."""
    invalid: DataFrame
    """The input's rows that could not be compared, with a ``reason``; they are in ``deduplicated`` too with
    ``handleInvalid`` keep, and nowhere else with skip."""
    compared: DataFrame = field(repr=False)
    """What all of them are made from: ``SIMILARITY_COLUMNS``, ``centroid``, ``compared``, ``reason`` and the rank keys
    of every row (``entries.Entries``, merged)."""

    ranking: Ranking = field(repr=False)
    workload: WorkEstimate | None = field(repr=False)
    """What the comparison was estimated to take when it was planned; None where it was read back."""
    dataset: DataFrame = field(repr=False)
    """The rows that were deduplicated."""
    model: SemDedupModel = field(repr=False)
    against: SemDedupIndex | ReferenceRows | None = field(default=None, repr=False)
    """The rows that precede them, which they were compared with, too."""

    @cached_property
    def plot(self) -> ResultPlots:
        """Charts for notebooks: ``result.plot.scores()``, ``removal``, ``clusters``, ``map``, ``convergence``."""
        return plots_of(self)

    def report(self, path: str, *, text_col: str | None = None) -> None:
        """Writes a self-contained HTML page about the result: scores, groups, pairs side by side, a map of clusters.

        ``text_col``: the column whose texts are shown; None takes ``text``, if there is one. Raises ``SemDedupError``
        where the packages of the extra ``report`` are missing. A few jobs over what is kept, one over the dataset.
        """
        write_report(self, path, text_col)

    def groups(self) -> DataFrame:
        """``id``, ``group_id``, ``representative``, ``size`` of every valid row: a kept row and the removed ones whose
        ``max_id`` leads to it are a group."""
        return tree_groups(self.similarities, self.duplicates)

    def groups_by(self, stars: DataFrame) -> DataFrame:
        """The same of rows that hang together by ``stars`` (``SemDedupModel.similar_rows``)."""
        keys = [name for name in self.compared.columns if name.startswith("key_")]
        ranks = self.compared.select("id", *keys)
        return component_groups(self.similarities, self.duplicates, stars, ranks, self.ranking)

    def write_index(self, path: str, *, index_rows: str | None = None) -> SemDedupIndex:
        """Writes an index that later batches are compared with: of the kept rows, or ``all``; by default what the
        ``keepRule`` needs. Raises ``ResultExistsError`` where there is one."""
        return self.update_index(create_index(self.model, self.dataset, path, holds=index_rows))

    def update_index(self, index: SemDedupIndex, *, run: str | None = None) -> SemDedupIndex:
        """Adds the rows to the index that they were run against, as its next batch. Returns its next version.

        ``run``: a name for the batch; one that the index has already is not added again. Raises ``SemDedupError`` where
        they were run against another one, or it has been changed since.
        """
        refuse_other_index(index, self.against)
        return add_to_index(self.model, self.dataset, self.duplicates, index, run=run)

    def check(self) -> None:
        """Raises ``AccountingError`` unless ids are unique and each ``max_id`` is the row's own, a reference row's, or
        that of a valid row which precedes it; a few small jobs over ids and rank keys. (The program checks so at the
        end of every run.)"""
        entries = self._entries
        if self.against is not None:
            own = naming_own_rows(entries.df, self.against, len(self.model.centroids))
            entries = replace(entries, df=own)
        check_neighbours(entries, entries.counts())

    def counts(self) -> dict[str, int]:
        """Rows in, invalid rows, clusters that hold rows, pairs compared; one small job over what is kept."""
        counts = self._entries.counts()
        return {name: counts[name] for name in ("rows", "invalid", "clusters", "pairs")}

    @property
    def _entries(self) -> PartialMatches:
        """What is kept: one for each row, its best."""
        return PartialMatches(self.compared.withColumn("own", F.lit(True)), self.ranking)

    def unpersist(self) -> None:
        """Frees the kept comparison."""
        self.compared.unpersist()


def similarities_of(compared: DataFrame) -> DataFrame:
    """``SIMILARITY_COLUMNS`` of the valid rows."""
    return compared.where(F.col("reason").isNull()).select(*SIMILARITY_COLUMNS)
