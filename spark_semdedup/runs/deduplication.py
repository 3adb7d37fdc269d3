"""``Deduplication``: the work of a run, which its phases share (``runs.phases``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.ml.kmeans import EmbeddingKMeansModel
from spark_semdedup.ml.semdedup import SemDedup, SemDedupModel
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.merge import PartialMatches
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.runs import preflight, results
from spark_semdedup.runs.identity import FREE_PARAMS, VERSION, digest, identity_of, output_of
from spark_semdedup.runs.incremental import Incremental, RunReferences, version_read_before
from spark_semdedup.runs.journal import Journal
from spark_semdedup.runs.manifest import EMBEDDINGS, RUN_MANIFEST, STAGES
from spark_semdedup.runs.preflight import Job, SavedCentroids, Settings
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.summary import Summary, versions
from spark_semdedup.runs.target import Target
from spark_semdedup.runs.texts import DocumentEmbedder, RunTexts
from spark_semdedup.runs.wanted import Wanted
from spark_semdedup.spark.files import join
from spark_semdedup.spark.ids import Ids
from spark_semdedup.spark.parquet import own_reader
from spark_semdedup.spark.small import in_one_task

COMPARED = join(STAGES, "compared")
"""Folder of the partial matches, which the phases after the comparison merge."""

REFERENCED = join(STAGES, "references")
"""Folder of the best reference row of each row."""


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
    wanted: Wanted = field(default_factory=Wanted)
    references: RunReferences | None = None
    """What the rows are compared with beside one another, and the index they are added to."""
    texts: RunTexts | None = None
    """How texts are embedded; None: the input has embeddings."""
    fitted: SemDedupModel | None = None
    """The model, where this very process has fitted it: it knows the sizes of clusters."""
    schemas: dict[str, T.StructType] = field(default_factory=dict)
    """Of results written or read before: Spark needs a job to read them from the files again."""

    @classmethod
    def of(
        cls,
        job: Job,
        source: Source,
        target: Target,
        settings: Settings,
        saved: SavedCentroids,
        wanted: Wanted | None = None,
        embedder: DocumentEmbedder | None = None,
        incremental: Incremental | None = None,
    ) -> Deduplication:
        """Checks paths, settings and columns, in this order."""
        wanted = wanted or Wanted()
        if target.table is not None and "deduplicated" not in wanted:
            raise SemDedupError(
                f"outputTable={shown(target.table)} is for the kept rows, but results leaves deduplicated out: add it, "
                "or drop outputTable"
            )
        asked = incremental or Incremental()
        asked.refuse_wanted(wanted)
        asked.refuse_saved(saved)
        asked.refuse_overlap(job.files, source)
        reads = {**saved.reads(), **asked.reads()}
        preflight.check_paths(job, target, source=source, reads=reads, replaces_folder=False)
        preflight.refuse_foreign_names(job, target)
        journal = Journal(job.files, target.folder, output_of(target))
        references = RunReferences.open(asked, job, version_read_before(job, target, journal)) if incremental else None
        given, settings = saved.load(job, settings)
        if references is not None and references.index is not None:
            settings = asked.settings_with(references.index, settings)
            given = references.given(settings)
        estimator = SemDedup(**settings)
        threshold = estimator.similarity_threshold()
        Coverage.of(estimator, threshold)
        ranking = Ranking.of(estimator)
        # A resumed run reads the version of a Delta table that it read before.
        resumes = target.resume and not job.files.exists(join(target.folder, RUN_MANIFEST))
        source = source.pinned(job.spark, journal.identity.get(VERSION) if resumes else None)
        reserved = ["reason"] if estimator.value("handleInvalid") == "skip" else []
        args = (job, source, target, estimator, ranking, given, reserved, "handleInvalid='skip'")
        opened = preflight.open_input(*args, embedded=embedder is None)
        texts = None
        if embedder is not None:
            preflight.refuse_foreign_embeddings(job, target)
            texts = RunTexts.load(embedder, job, opened.rows, estimator, ranking)
            texts.refuse_other_length(estimator, given, saved)
        if references is not None:
            references.check(estimator, texts.identity() if texts else {})
        summary = Summary("run", backend=opened.backend, clusterer=opened.clusterer)
        summary.threshold, summary.eps = threshold, results.reported_eps(estimator)
        summary.input_version = source.version
        results.describe_coverage(summary, estimator)
        summary.against = references.described() if references is not None else None
        checked = (estimator, saved, given, opened.rows, summary, wanted, references, texts)
        return cls(job, journal, source, target, *checked)

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
            **self.wanted.described(),
            **(self.references.identity() if self.references else {}),
            **(self.texts.identity() if self.texts else {}),
        }
        return identity_of(self.job.files, self.source, self.target, self.rows, self.estimator, about, self.text_col)

    @property
    def may_replace(self) -> bool:
        return self.target.overwrite or (self.target.table is not None and self.journal.may_replace)

    def adopt(self, identity: Mapping[str, Any]) -> None:
        embedded_only = self.texts is not None and self.journal.begun and self.journal.record("fit") is None
        if not embedded_only:
            self.summary.clusterer = identity.get("clusterer")

    def check_output(self, *, resumes: bool) -> None:
        if not self.may_replace:
            self.target.refuse_existing_table(self.job.spark)
        if self.references is not None:
            self.references.refuse_existing(self.index_run if resumes else None)
        if not resumes:
            self.target.refuse_written_meanwhile(self.job.files)
            self.target.try_writing(self.job.files, self.rows, self.source)

    def summarize(self) -> Summary:
        summary = self.summary
        summary.counts, summary.planned = counts_of(self), self.journal.metrics("compare")["planned"]
        names = ["centroids", "similarities", "duplicates", "pairs", "groups", "deduplicated", "invalid"]
        names += [EMBEDDINGS] if self.texts is not None and self.target.keep_embeddings else []
        summary.results = {name: self.path(name) for name in names if self.job.files.exists(self.path(name))}
        if self.target.table is not None:
            summary.results["deduplicated"] = f"table {self.target.table}"
        summary.results["summary"] = self.path("summary.json")
        results.complete_summary(self.job, summary, self.estimator)
        summary.parameters = self.saved.described(summary.parameters, self.journal.metrics("fit")["centroids"])
        if self.texts is not None:
            summary.parameters |= self.texts.described()
        return summary

    # --- what phases share ---

    @property
    def index_run(self) -> str:
        """Digest of the run, by which an index knows its batch."""
        return digest([self.job.files.full(self.journal.folder), dict(self.identity)])

    @property
    def reference_only(self) -> bool:
        """Whether rows are compared with reference rows alone."""
        return self.references is not None and self.references.asked.reference_only

    @property
    def text_col(self) -> str | None:
        return self.texts.embedder.text_col if self.texts else None

    @cached_property
    def documents(self) -> DataFrame:
        """The rows to compare: the input's, or ids and embeddings that ``embed`` has written."""
        return self.rows if self.texts is None else self.read(EMBEDDINGS)

    def path(self, name: str) -> str:
        return join(self.journal.folder, name)

    def place(self, name: str) -> str:
        """Where a result of that name is, below the run's folder: one that is not wanted, but needed, in the journal's,
        which goes at the end."""
        needed = ("similarities", "duplicates")
        return join(STAGES, name) if name in needed and name not in self.wanted else name

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
        invalid = self.model.result_of(self.rows, self.matches.df.where(F.col("own"))).invalid
        return invalid if self.texts is None else self.texts.with_reasons(invalid)

    @property
    def skipped(self) -> int:
        """Invalid rows that the run moves to ``invalid``."""
        skips = self.estimator.value("handleInvalid") == "skip"
        return int(self.journal.metrics("compare")["invalid"]) if skips else 0

    def write(self, name: str, rows: DataFrame, id_col: str) -> Ids:
        """Writes rows whose ids count. Returns these."""
        self.schemas[name] = rows.schema
        return results.write_with_ids(self.job.files, rows, self.path(self.place(name)), self.manifest(name), id_col)

    def read(self, name: str) -> DataFrame:
        """A result that this run, or the one it continues, has written."""
        reader, schema = own_reader(self.job.spark), self.schemas.get(name)
        rows = (reader if schema is None else reader.schema(schema)).parquet(self.path(self.place(name)))
        self.schemas.setdefault(name, rows.schema)
        return in_one_task(rows)


def counts_of(work: Deduplication) -> dict[str, int]:
    """What a run counted, by the names of the summary."""
    metrics_of = work.journal.metrics
    compared = metrics_of("compare")
    names = {"rows_in": "rows", "invalid": "invalid", "clusters": "clusters", "pairs_compared": "pairs"}
    counts = {name: compared[metric] for name, metric in names.items()}
    if work.texts is not None:
        counts |= {name: metrics_of("embed")[name] for name in ("embedded", "truncated")}
    if work.references is not None and work.references.asked.compares:
        counts["similar_to_references"] = compared["similar to references"]
    counts["duplicates"] = metrics_of("identify")["ids"]["rows"]
    counts["kept"] = metrics_of("keep")["ids"]["rows"]
    if work.references is not None and work.references.asked.adds:
        counts["indexed"] = metrics_of("index")["rows"]
    for name, metric in (("pairs", "rows"), ("groups", "groups")):
        if name in work.wanted:
            counts[name] = metrics_of(name)[metric]
    return counts
