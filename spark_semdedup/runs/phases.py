"""What the phases of a run compute: embed (texts alone), fit, compare, identify, keep, check.

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

from spark_semdedup.duplicates.greedy import decided
from spark_semdedup.duplicates.groups import component_groups, tree_groups
from spark_semdedup.duplicates.threshold import without_ids
from spark_semdedup.errors import AccountingError, SemDedupError, shown
from spark_semdedup.formatting import short
from spark_semdedup.ml.kmeans import EmbeddingKMeansModel
from spark_semdedup.ml.semdedup import SemDedup, SemDedupModel
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.integrity import check_neighbours
from spark_semdedup.pairwise.merge import PartialMatches
from spark_semdedup.pairwise.pairs import refuse_more_pairs
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.runs import preflight, results
from spark_semdedup.runs.checks import (
    check_grouped,
    check_pairs,
    check_read,
    check_representatives,
    check_rows,
    check_skipped,
    check_unchanged,
)
from spark_semdedup.runs.identity import FREE_PARAMS, VERSION, digest, fingerprint, identity_of, output_of
from spark_semdedup.runs.journal import WRITING, Journal
from spark_semdedup.runs.manifest import EMBEDDINGS, RUN_MANIFEST, STAGES
from spark_semdedup.runs.preflight import Job, SavedCentroids, Settings
from spark_semdedup.runs.run import Attempt, Phase
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.summary import Summary, versions
from spark_semdedup.runs.target import Target
from spark_semdedup.runs.texts import DocumentEmbedder, RunTexts
from spark_semdedup.runs.wanted import Wanted
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
    wanted: Wanted = field(default_factory=Wanted)
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
    ) -> Deduplication:
        """Checks paths, settings and columns, in this order."""
        wanted = wanted or Wanted()
        if target.table is not None and "deduplicated" not in wanted:
            raise SemDedupError(
                f"outputTable={shown(target.table)} is for the kept rows, but results leaves deduplicated out: add it, "
                "or drop outputTable"
            )
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
        args = (job, source, target, estimator, ranking, given, reserved, "handleInvalid='skip'")
        opened = preflight.open_input(*args, embedded=embedder is None)
        texts = None
        if embedder is not None:
            preflight.refuse_foreign_embeddings(job, target)
            texts = RunTexts.load(embedder, job, opened.rows, estimator, ranking)
            texts.refuse_other_length(estimator, given, saved)
        summary = Summary("run", backend=opened.backend, clusterer=opened.clusterer)
        summary.threshold, summary.eps = threshold, results.reported_eps(estimator)
        summary.input_version = source.version
        results.describe_coverage(summary, estimator)
        return cls(job, journal, source, target, estimator, saved, given, opened.rows, summary, wanted, texts)

    @property
    def phases(self) -> Sequence[Phase]:
        wanted = self.wanted
        keeps = "deduplicated" in wanted
        title = "write the rows that remain" if keeps else "set invalid rows aside"
        embedding = [Phase("embed", "embed texts", partial(embed, self, self.texts))] if self.texts else []
        phases = [
            *embedding,
            Phase("fit", "fit centroids", partial(fit, self)),
            Phase("compare", "assign and compare", partial(compare, self), (COMPARED, self.place("similarities"))),
            Phase("identify", "identify duplicates", partial(identify, self), (self.place("duplicates"),)),
            Phase("keep", title, partial(keep, self), ("invalid", "deduplicated")),
        ]
        if "pairs" in wanted:
            phases.append(Phase("pairs", "list similar pairs", partial(list_pairs, self), ("pairs",)))
        if "groups" in wanted:
            phases.append(Phase("groups", "group the rows", partial(group, self), ("groups",)))
        return [*phases, Phase(None, "check that it adds up", partial(check, self))]

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
        if not resumes:
            self.target.refuse_written_meanwhile(self.job.files)
            self.target.try_writing(self.job.files, self.rows)

    def summarize(self) -> Summary:
        summary, compared = self.summary, self.journal.metrics("compare")
        metrics = {"rows_in": "rows", "invalid": "invalid", "clusters": "clusters", "pairs_compared": "pairs"}
        summary.counts = {name: compared[metric] for name, metric in metrics.items()}
        if self.texts is not None:
            summary.counts |= {name: self.journal.metrics("embed")[name] for name in ("embedded", "truncated")}
        summary.counts["duplicates"] = self.journal.metrics("identify")["ids"]["rows"]
        summary.counts["kept"] = self.journal.metrics("keep")["ids"]["rows"]
        summary.planned = compared["planned"]
        for name, metric in (("pairs", "rows"), ("groups", "groups")):
            if name in self.wanted:
                summary.counts[name] = self.journal.metrics(name)[metric]
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

    def remaining(self, skipped: Ids) -> Ids:
        """The kept rows, where they are not written: all that are neither duplicates nor skipped."""
        all_, duplicates = (Ids.read(self.journal.metrics(phase)["ids"]) for phase in ("compare", "identify"))
        gone = duplicates + skipped
        return Ids(all_.rows - gone.rows, all_.hashes ^ gone.hashes)

    def write(self, name: str, rows: DataFrame, id_col: str) -> Ids:
        """Writes rows whose ids count. Returns these."""
        self.schemas[name] = rows.schema
        return results.write_with_ids(self.job.files, rows, self.path(self.place(name)), self.manifest(name), id_col)

    def read(self, name: str) -> DataFrame:
        """A result that this run, or the one it continues, has written."""
        reader, schema = self.job.spark.read, self.schemas.get(name)
        rows = (reader if schema is None else reader.schema(schema)).parquet(self.path(self.place(name)))
        self.schemas.setdefault(name, rows.schema)
        return rows


def embed(work: Deduplication, texts: RunTexts, attempt: Attempt) -> None:
    """Replaces an earlier result by ids, embeddings and rank columns of all rows."""
    rows, files, path = work.rows, work.job.files, work.path(EMBEDDINGS)
    total = preflight.count_ids(rows, work.estimator)  # before hours of embedding, and before the earlier result goes
    if work.estimator.value("handleInvalid") == "error":
        texts.embedder.refuse_blank(rows, work.estimator.value("idCol"))
    attempt.replace_result()
    about, check = texts.manifest("run"), partial(check_read, total)
    counts = texts.embedder.write(files, rows, path, work.estimator, about=about, carried=texts.carried, check=check)
    attempt.counts |= counts
    attempt.metrics |= counts


def fit(work: Deduplication, attempt: Attempt) -> None:
    """Fits centroids, or takes those given, and, where it is the first phase, replaces an earlier result."""
    rows = work.documents
    if work.given is not None:
        preflight.count_ids(rows, work.estimator)  # which a fit does itself
    model: SemDedupModel = work.with_centroids(work.given) if work.given else work.estimator.fit(rows)
    if work.texts is None:
        if work.job.files.exists(work.path(RUN_MANIFEST)):  # validate all rows before the earlier result goes
            model.clustering.refuse_invalid(rows)
        attempt.replace_result()
    model.clustering.save(work.path("centroids"))
    attempt.counts["centroids"] = attempt.metrics["centroids"] = len(model.centroids)
    work.fitted = model


def compare(work: Deduplication, attempt: Attempt) -> None:
    """Assigns rows to clusters, compares them, and merges the matches to one similarity per row."""
    metrics, model = attempt.metrics, work.model
    if "pairs" in work.wanted:
        estimate = model.estimate_pairs(work.documents)  # too many are refused before hours of work
        work.job.progress.note(f"about {short(estimate)} similar pairs, estimated from a sample")
    comparison = model.compared(work.documents)
    work.job.progress.note(comparison.workload.in_words())
    # All tasks compute the matches once, into files. With an executor Spark would lose those in its memory, and compute
    # them again, from a source that may give other rows the second time.
    matches = comparison.entries.df
    matches.write.mode("append").parquet(work.path(COMPARED))
    work.schemas[COMPARED] = matches.schema
    metrics |= work.matches.counts()
    metrics["ids"] = Ids(metrics["rows"], metrics.pop("hashes")).facts()
    metrics["planned"] = comparison.workload.facts()
    path, manifest = work.path(work.place("similarities")), work.manifest("similarities")
    with decided(replace(comparison, entries=work.matches), metrics["further"], work.estimator) as rows:
        valid = results.write_similarities(work.job.files, rows, metrics, path, manifest, attempt.assert_held)
    attempt.counts |= {"rows": valid, "clusters": metrics["clusters"], "pairs": metrics["pairs"]}


def identify(work: Deduplication, attempt: Attempt) -> None:
    """Writes the rows whose similarity makes them duplicates."""
    compared = work.journal.metrics("compare")
    valid = compared["rows"] - compared["invalid"]
    similarities = work.job.spark.read.parquet(work.path(work.place("similarities")))
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
    if "deduplicated" not in work.wanted:
        attempt.metrics |= {"skipped": skipped.facts(), "ids": work.remaining(skipped).facts()}
        return
    if target.table is not None:
        target = replace(target, overwrite=work.may_replace)
        target.refuse_existing_table(work.job.spark)  # before the journal says that this table is the run's
        work.journal.commit(WRITING, {})
    rows, path = without_ids(work.rows, id_col, unwanted), work.path("deduplicated")
    kept = results.write_kept(work.job, rows, id_col, target, path, work.manifest("deduplicated"))
    attempt.counts["kept"] = kept.rows
    attempt.metrics |= {"skipped": skipped.facts(), "ids": kept.facts()}


def list_pairs(work: Deduplication, attempt: Attempt) -> None:
    """Writes every compared pair of rows that are similar enough."""
    most, threshold = work.estimator.value("maxPairs"), work.estimator.similarity_threshold()
    pairs = work.model.similar_rows(work.documents).pairs(most)

    def accept(written: int) -> None:
        refuse_more_pairs(written, most, threshold)
        attempt.assert_held()

    work.schemas["pairs"] = pairs.schema
    manifest = work.manifest("pairs")
    attempt.metrics["rows"] = results.write_dataset(work.job.files, pairs, work.path("pairs"), manifest, accept)
    attempt.counts["pairs"] = attempt.metrics["rows"]


def group(work: Deduplication, attempt: Attempt) -> None:
    """Writes the group of every valid row."""
    similarities, duplicates = work.read("similarities"), work.read("duplicates")
    if work.wanted.groups_by == "tree":
        groups = tree_groups(similarities, duplicates)
    else:
        stars, own = work.model.similar_rows(work.documents).stars(), work.matches.df.where(F.col("own"))
        ranks = own.select("id", *(name for name in own.columns if name.startswith("key_")))
        groups = component_groups(similarities, duplicates, stars, ranks, work.matches.ranking)
    compared = work.journal.metrics("compare")
    groups = groups.coalesce(results.files_for(compared["rows"]))
    manifest = {**work.manifest("groups"), "groups_by": work.wanted.groups_by}

    def accept(written: int) -> None:
        check_grouped(written, compared["rows"] - compared["invalid"])
        attempt.assert_held()

    attempt.metrics["rows"] = results.write_dataset(work.job.files, groups, work.path("groups"), manifest, accept)
    groups_written = work.read("groups").select("group_id").distinct().count()
    attempt.counts["groups"] = attempt.metrics["groups"] = groups_written


def check(work: Deduplication, attempt: Attempt) -> None:
    """Raises ``AccountingError`` unless each row of the input is in exactly one result, and for a reason."""
    compared, kept = work.journal.metrics("compare"), work.journal.metrics("keep")
    check_neighbours(work.matches, compared)
    duplicates, skipped = Ids.read(work.journal.metrics("identify")["ids"]), Ids.read(kept["skipped"])
    check_rows(Ids.read(compared["ids"]), Ids.read(kept["ids"]), duplicates, skipped)
    check_skipped(skipped.rows, work.skipped)
    removed = work.read("duplicates")
    if work.estimator.value("keepRule") == "greedy":
        check_representatives(removed)
    if "pairs" in work.wanted:
        check_pairs(work.read("pairs"), removed)
    if reads_only_files(work.rows):
        now = work.source.read(work.job.spark, work.rows.schema)
        after = fingerprint(work.job.files, work.source, now, work.estimator, work.text_col)
        check_unchanged(work.identity["input's data"], after)
