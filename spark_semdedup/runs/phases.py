"""What the phases of a run compute: fit, compare, identify, keep, check.

Each phase writes its results to the run's folder and its metrics to the journal, and reads those of earlier phases from
there. So a run continues wherever another stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.duplicates.threshold import without_ids
from spark_semdedup.errors import AccountingError, shown
from spark_semdedup.ml.kmeans import EmbeddingKMeansModel
from spark_semdedup.ml.semdedup import SemDedup, SemDedupModel
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.integrity import check_neighbours
from spark_semdedup.pairwise.merge import PartialMatches
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.runs import preflight, results
from spark_semdedup.runs.checks import check_rows, check_skipped, check_unchanged
from spark_semdedup.runs.identity import FREE_PARAMS, VERSION, digest, fingerprint, identity_of, output_of
from spark_semdedup.runs.journal import WRITING, Journal
from spark_semdedup.runs.manifest import RUN_MANIFEST, STAGES
from spark_semdedup.runs.preflight import Job, SavedCentroids, Settings
from spark_semdedup.runs.run import Attempt, Phase
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.summary import Summary, versions
from spark_semdedup.runs.target import Target
from spark_semdedup.spark.columns import id_column
from spark_semdedup.spark.determinism import reads_only_files
from spark_semdedup.spark.files import join
from spark_semdedup.spark.ids import Ids

COMPARED = join(STAGES, "compared")
"""Folder of the partial matches, which the phases after the comparison merge."""


@dataclass
class Deduplication:
    """The work of a run (``run.Work``): its input, settings and output, all checked."""

    job: Job
    journal: Journal
    source: Source
    target: Target
    estimator: SemDedup
    saved: SavedCentroids
    given: EmbeddingKMeansModel | None
    """Saved centroids to use instead of a fit."""
    rows: DataFrame
    summary: Summary
    fitted: SemDedupModel | None = None
    """The model, where this very process has fitted it: it knows the sizes of clusters."""
    schemas: dict[str, T.StructType] = field(default_factory=dict)
    """Of results written or read before: Spark needs a job to read them from the files again."""

    @classmethod
    def of(cls, job: Job, source: Source, target: Target, settings: Settings, saved: SavedCentroids) -> Deduplication:
        """Checks paths, settings and columns, in this order."""
        preflight.check_paths(job, target, source=source, reads=saved.reads(), replaces_folder=False)
        preflight.refuse_foreign_names(job, target)
        given, settings = saved.load(job, settings)
        estimator = SemDedup(**settings)
        threshold = estimator.similarity_threshold()
        Coverage.of(estimator, threshold)
        ranking = Ranking.of(estimator)
        journal = Journal(job.files, target.folder, output_of(target))
        # A resumed run reads the version of a Delta table that it read before.
        resumes = target.resume and not job.files.exists(join(target.folder, RUN_MANIFEST))
        source = source.pinned(job.spark, journal.identity.get(VERSION) if resumes else None)
        reserved = ["reason"] if estimator.value("handleInvalid") == "skip" else []
        opened = preflight.open_input(job, source, target, estimator, ranking, given, reserved, "handleInvalid='skip'")
        summary = Summary("run", backend=opened.backend, clusterer=opened.clusterer)
        summary.threshold, summary.eps = threshold, results.reported_eps(estimator)
        summary.input_version = source.version
        results.describe_coverage(summary, estimator)
        return cls(job, journal, source, target, estimator, saved, given, opened.rows, summary)

    @property
    def phases(self) -> Sequence[Phase]:
        return [
            Phase("fit", "fit centroids", partial(fit, self)),
            Phase("compare", "assign and compare", partial(compare, self), (COMPARED, "similarities")),
            Phase("identify", "identify duplicates", partial(identify, self), ("duplicates",)),
            Phase("keep", "write the rows that remain", partial(keep, self), ("invalid", "deduplicated")),
            Phase(None, "check that it adds up", partial(check, self)),
        ]

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        params = results.parameters_of(self.estimator)
        initial = self.estimator.value("initMode")
        about = {
            **{name: value for name, value in params.items() if name not in FREE_PARAMS},
            "centroids": None if self.given is None else digest(self.given.centroids.tolist()),
            "initial centroids": None if isinstance(initial, str) else digest(initial),
            "clusterer": self.summary.clusterer,
            "spark_semdedup": versions()["spark_semdedup"],
        }
        return identity_of(self.job.files, self.source, self.target, self.rows, self.estimator, about)

    @property
    def may_replace(self) -> bool:
        return self.target.overwrite or (self.target.table is not None and self.journal.may_replace)

    def adopt(self, identity: Mapping[str, Any]) -> None:
        self.summary.clusterer = identity.get("clusterer")

    def check_output(self, *, resumes: bool) -> None:
        if not self.may_replace:
            self.target.refuse_existing_table(self.job.spark)
        if not resumes:
            self.target.refuse_written_meanwhile(self.job.files)
            self.target.try_writing(self.job.files, self.rows)

    def summarize(self) -> Summary:
        summary, compared = self.summary, self.journal.metrics("compare")
        metrics = {"rows_in": "rows", "invalid": "invalid", "clusters": "clusters", "pairs_compared": "pairs"}
        summary.counts = {name: compared[metric] for name, metric in metrics.items()}
        summary.counts["duplicates"] = self.journal.metrics("identify")["ids"]["rows"]
        summary.counts["kept"] = self.journal.metrics("keep")["ids"]["rows"]
        summary.planned = compared["planned"]
        names = ("centroids", "similarities", "duplicates", "deduplicated", "invalid")
        summary.results = {name: self.path(name) for name in names if self.job.files.exists(self.path(name))}
        if self.target.table is not None:
            summary.results["deduplicated"] = f"table {self.target.table}"
        summary.results["summary"] = self.path("summary.json")
        results.complete_summary(self.job, summary, self.estimator)
        summary.parameters = self.saved.described(summary.parameters, self.journal.metrics("fit")["centroids"])
        return summary

    # --- what phases share ---

    def path(self, name: str) -> str:
        return join(self.journal.folder, name)

    def manifest(self, holds: str) -> dict[str, Any]:
        return results.manifest_for(holds, self.summary, self.estimator)

    def with_centroids(self, clustering: EmbeddingKMeansModel) -> SemDedupModel:
        settings = {name: value for name, value in self.estimator.settings().items() if name != "initMode"}
        return SemDedupModel(centroids=clustering.centroids, history=clustering.history, **settings)

    @property
    def model(self) -> SemDedupModel:
        if self.fitted is not None:
            return self.fitted
        return self.with_centroids(self.given or preflight.load_model(self.job, self.path("centroids"), "output"))

    @property
    def matches(self) -> PartialMatches:
        """What the comparison wrote."""
        coverage = Coverage.of(self.estimator, self.estimator.similarity_threshold())
        return PartialMatches(self.read(COMPARED), Ranking.of(self.estimator), coverage.at_least)

    def invalid_rows(self) -> DataFrame:
        """The input's rows that could not be compared, with a reason."""
        return self.model.result_of(self.rows, self.matches.df.where(F.col("own"))).invalid

    @property
    def skipped(self) -> int:
        """Invalid rows that the run moves to ``invalid``."""
        skips = self.estimator.value("handleInvalid") == "skip"
        return int(self.journal.metrics("compare")["invalid"]) if skips else 0

    def write(self, name: str, rows: DataFrame, id_col: str) -> Ids:
        """Writes rows whose ids count. Returns these."""
        self.schemas[name] = rows.schema
        return results.write_with_ids(self.job.files, rows, self.path(name), self.manifest(name), id_col)

    def read(self, name: str) -> DataFrame:
        """A result that this run, or the one it continues, has written."""
        reader, schema = self.job.spark.read, self.schemas.get(name)
        rows = (reader if schema is None else reader.schema(schema)).parquet(self.path(name))
        self.schemas.setdefault(name, rows.schema)
        return rows


def fit(work: Deduplication, attempt: Attempt) -> None:
    """Fits centroids, or takes those given, and replaces an earlier result."""
    if work.given is not None:
        preflight.count_ids(work.rows, work.estimator)  # which a fit does itself
    model: SemDedupModel = work.with_centroids(work.given) if work.given else work.estimator.fit(work.rows)
    if work.job.files.exists(work.path(RUN_MANIFEST)):  # validate all rows before the earlier result goes
        model.clustering.refuse_invalid(work.rows)
    attempt.replace_result()
    model.clustering.save(work.path("centroids"))
    attempt.counts["centroids"] = attempt.metrics["centroids"] = len(model.centroids)
    work.fitted = model


def compare(work: Deduplication, attempt: Attempt) -> None:
    """Assigns rows to clusters, compares them, and merges the matches to one similarity per row."""
    metrics, comparison = attempt.metrics, work.model.compared(work.rows)
    work.job.progress.note(comparison.workload.in_words())
    # All tasks compute the matches once, into files. With an executor Spark would lose those in its memory, and compute
    # them again, from a source that may give other rows the second time.
    matches = comparison.entries.df
    matches.write.mode("append").parquet(work.path(COMPARED))
    work.schemas[COMPARED] = matches.schema
    metrics |= work.matches.counts()
    metrics["ids"] = Ids(metrics["rows"], metrics.pop("hashes")).facts()
    metrics["planned"] = comparison.workload.facts()
    path, manifest = work.path("similarities"), work.manifest("similarities")
    valid = results.write_similarities(work.job.files, work.matches, metrics, path, manifest, attempt.assert_held)
    attempt.counts |= {"rows": valid, "clusters": metrics["clusters"], "pairs": metrics["pairs"]}


def identify(work: Deduplication, attempt: Attempt) -> None:
    """Writes the rows whose similarity makes them duplicates."""
    compared = work.journal.metrics("compare")
    valid = compared["rows"] - compared["invalid"]
    similarities = work.job.spark.read.parquet(work.path("similarities"))
    # A row whose similarity was lost would be kept, and all numbers would add up.
    if (rows := similarities.count()) != valid:
        raise AccountingError(
            f"output={shown(work.journal.folder, 400)}: {valid} similarities were written, but {rows} are there: "
            "files were lost or added; begin again with --overwrite"
        )
    ids = work.write("duplicates", results.duplicates_to_write(similarities, valid, work.estimator), "id")
    attempt.counts["duplicates"], attempt.metrics["ids"] = ids.rows, ids.facts()


def keep(work: Deduplication, attempt: Attempt) -> None:
    """Writes the kept rows, and with ``handleInvalid='skip'`` the invalid ones."""
    id_col, target = work.estimator.value("idCol"), work.target
    unwanted, skipped = work.read("duplicates").select("id"), Ids(0, 0)
    if work.skipped:
        skipped = work.write("invalid", work.invalid_rows(), id_col)
        invalid = work.read("invalid")
        unwanted = unwanted.unionAll(invalid.select(id_column(invalid, id_col).alias("id")))
    if target.table is not None:
        target = replace(target, overwrite=work.may_replace)
        target.refuse_existing_table(work.job.spark)  # before the journal says that this table is the run's
        work.journal.commit(WRITING, {})
    rows, path = without_ids(work.rows, id_col, unwanted), work.path("deduplicated")
    kept = results.write_kept(work.job, rows, id_col, target, path, work.manifest("deduplicated"))
    attempt.counts["kept"] = kept.rows
    attempt.metrics |= {"skipped": skipped.facts(), "ids": kept.facts()}


def check(work: Deduplication, attempt: Attempt) -> None:
    """Raises ``AccountingError`` unless each row of the input is in exactly one result, and for a reason."""
    compared, kept = work.journal.metrics("compare"), work.journal.metrics("keep")
    check_neighbours(work.matches, compared)
    duplicates, skipped = Ids.read(work.journal.metrics("identify")["ids"]), Ids.read(kept["skipped"])
    check_rows(Ids.read(compared["ids"]), Ids.read(kept["ids"]), duplicates, skipped)
    check_skipped(skipped.rows, work.skipped)
    if reads_only_files(work.rows):
        now = work.source.read(work.job.spark, work.rows.schema)
        after = fingerprint(work.job.files, work.source, now, work.estimator)
        check_unchanged(work.identity["input's data"], after)
