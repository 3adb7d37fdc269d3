"""``run``: the whole job as phases, each committed before the next begins."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from dataclasses import field as attribute
from functools import cached_property
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.duplicates.threshold import without_ids
from spark_semdedup.errors import AccountingError, ResultExistsError, SemDedupError, shown
from spark_semdedup.ml.kmeans import EmbeddingKMeansModel
from spark_semdedup.ml.semdedup import SemDedup, SemDedupModel
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.integrity import check_neighbours
from spark_semdedup.pairwise.merge import PartialMatches
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.runs.checks import check_rows, check_set_aside, check_unchanged
from spark_semdedup.runs.journal import (
    COMPARED,
    FREE_PARAMS,
    VERSION,
    Stages,
    digest,
    fingerprint,
    identity_of,
    output_of,
    refuse_other_run,
)
from spark_semdedup.runs.lock import Lock
from spark_semdedup.runs.manifest import (
    RUN_MANIFEST,
    STAGES,
    UNFINISHED,
    delete_dataset,
    finish,
    read_run_manifest,
    write_with_ids,
)
from spark_semdedup.runs.preflight import (
    EVALUATION,
    REPORT,
    RUN_RESULTS,
    Job,
    SavedCentroids,
    Settings,
    check_columns,
    check_embedding_length,
    check_paths,
    load_model,
    output_folder,
    read_input,
    refuse_foreign_names,
    resolve_compute,
)
from spark_semdedup.runs.results import (
    complete_summary,
    describe_coverage,
    duplicates_to_write,
    manifest_for,
    parameters_of,
    reported_eps,
    write_kept,
    write_similarities,
)
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.summary import Summary, versions
from spark_semdedup.runs.target import Target
from spark_semdedup.spark.columns import id_column, refuse_shadowed
from spark_semdedup.spark.determinism import reads_only_files
from spark_semdedup.spark.files import Files, join
from spark_semdedup.spark.ids import Ids, check_ids

log = logging.getLogger("spark_semdedup")


def run(job: Job, source: Source, target: Target, settings: Settings, saved: SavedCentroids | None = None) -> Summary:
    """Deduplicates ``source`` into the folder ``target.path``, laid out as DESIGN 4 says."""
    whole = _Run.checked(job, source, target, settings, saved or SavedCentroids())
    with Lock(job.files, whole.folder, takeover=target.overwrite or target.resume) as lock:
        finished = whole.begin()
        if finished is not None:
            return finished
        job.progress.begin(len(_TITLES))
        try:
            whole.fit(lock)
            whole.compare(lock)
            whole.identify(lock)
            whole.keep(lock)
            whole.check()
        except AccountingError:
            lock.assert_held()
            if whole.stages.begun:  # nobody goes on with what does not add up: --resume begins again
                whole.forget()
            raise
        lock.assert_held()
        return whole.finish()


_TITLES = {
    "fit": "fit centroids",
    "compare": "assign and compare",
    "identify": "identify duplicates",
    "keep": "write the rows that remain",
    "check": "check that it adds up",
}

_COMPARED = join(STAGES, COMPARED)

_RESULTS = {
    "fit": (),  # all of an earlier result (``_Run.clear``)
    "compare": (_COMPARED, "similarities"),
    "identify": ("duplicates",),
    "keep": ("invalid", "deduplicated"),
}
"""What each stage writes: it is deleted before the stage is done again."""

_WRITING = "writing"
"""Record of a run that has begun to write the table of the rows that remain."""


@dataclass
class _Known:
    """What a run learns on its way."""

    resumes: bool = False
    """Whether it goes on with another: only then do records of stages count."""
    model: SemDedupModel | None = None
    """Once this very process has fitted it: it knows the sizes of clusters."""
    schemas: dict[str, T.StructType] = attribute(default_factory=dict)
    """Of results that were written or read: to look at their files again takes Spark a job."""


@dataclass(frozen=True)
class _Run:
    """One run, after its checks. Its methods are its stages, in order; each leaves its results in the folder, its facts
    in a record, and takes what it needs from those of the stages before: so it can go on where another stopped."""

    job: Job
    folder: str
    source: Source
    target: Target
    estimator: SemDedup
    saved: SavedCentroids
    given: EmbeddingKMeansModel | None
    """Centroids that are given instead of fitted."""
    rows: DataFrame
    summary: Summary
    known: _Known

    @classmethod
    def checked(cls, job: Job, source: Source, target: Target, settings: Settings, saved: SavedCentroids) -> _Run:
        """Checks paths, settings and columns, in this order."""
        check_paths(job, target, source=source, reads=saved.reads(), replaces_folder=False)
        refuse_foreign_names(job, target)
        loaded, settings = saved.load(job, settings)
        estimator = SemDedup(**settings)
        threshold = estimator.similarity_threshold()
        Coverage.of(estimator, threshold)
        ranking = Ranking.of(estimator)
        source = source.pinned(job.spark, cls._version_before(job, target))
        rows = read_input(job, source, target)
        check_columns(rows, estimator, ranking)
        if estimator.value("handleInvalid") == "skip":
            refuse_shadowed(rows, ["reason"], "handleInvalid='skip'")
        backend, clusterer = resolve_compute(job, estimator, fits=loaded is None)
        if loaded is not None:
            check_embedding_length(rows, estimator, loaded)
        summary = Summary("run", backend=backend, clusterer=clusterer, threshold=threshold, eps=reported_eps(estimator))
        summary.input_version = source.version
        describe_coverage(summary, estimator)
        return cls(job, output_folder(target), source, target, estimator, saved, loaded, rows, summary, _Known())

    @staticmethod
    def _version_before(job: Job, target: Target) -> int | None:
        """The version of a Delta table that the run to go on with reads; None where none is to go on."""
        if not target.resume or job.files.exists(join(output_folder(target), RUN_MANIFEST)):
            return None
        version: int | None = Stages(job.files, output_folder(target)).identity().get(VERSION)
        return version

    def place(self, name: str) -> str:
        return join(self.folder, name)

    def about(self, holds: str) -> dict[str, Any]:
        return manifest_for(holds, self.summary, self.estimator)

    @property
    def stages(self) -> Stages:
        return Stages(self.job.files, self.folder)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What another run must share to go on with this one."""
        params = {name: value for name, value in parameters_of(self.estimator).items() if name not in FREE_PARAMS}
        initial = self.estimator.value("initMode")
        centroids = None if self.given is None else self.given.centroids.tolist()
        about = {
            **params,
            "centroids": centroids and digest(centroids),
            "initial centroids": None if isinstance(initial, str) else digest(initial),
            "clusterer": self.summary.clusterer,
            "spark_semdedup": versions()["spark_semdedup"],
        }
        return identity_of(self.job.files, self.source, self.target, self.rows, self.estimator, about)

    # --- beginning ---

    def begin(self) -> Summary | None:
        """Checks that an unfinished run can be gone on with, or that one can begin. Returns the summary of one that is
        finished already."""
        files, stages, known = self.job.files, self.stages, self.known
        if self.target.resume:
            if _is_finished(files, self.folder):
                return self._finished()
            known.resumes = stages.begun
        if known.resumes:
            before = stages.identity()
            if stages.record("fit") is not None:  # whatever this run would have fitted with
                self.summary.clusterer = before.get("clusterer")
            refuse_other_run(self.identity, before, self.folder)
        if not self.may_replace_table:
            self.target.refuse_existing_table(self.job.spark)
        if not known.resumes:
            self.target.refuse_written_meanwhile(files)
            self.target.try_writing(files, self.rows)
        _ = self.identity  # what the input is now, before it is read for the first time
        return None

    def clear(self) -> None:
        """Deletes an earlier result, and begins to write another. Its manifest goes first, so that it is not taken for
        valid while it goes."""
        files, stages = self.job.files, self.stages
        files.write_text(self.place(UNFINISHED), "")
        self.forget()  # what this writes tells from now on that the folder is a run's
        files.delete(self.place(RUN_MANIFEST))
        stages.clear_records()
        delete_results(files, self.folder)
        stages.begin(self.identity, overwrites=self.may_replace_table)

    def forget(self) -> None:
        """Has nobody go on with what is in the folder."""
        self.stages.forget(output_of(self.target), overwrites=self.may_replace_table)

    @property
    def may_replace_table(self) -> bool:
        """Whether a table that is there may be replaced: the user lets this run do so, or let the one that it goes on
        with, or that one has begun to write the table itself."""
        if self.target.overwrite or self.target.table is None:
            return self.target.overwrite
        stages = self.stages
        return stages.overwrites(output_of(self.target)) or (stages.begun and stages.record(_WRITING) is not None)

    def _finished(self) -> Summary:
        manifest = read_run_manifest(self.job.files, self.folder, "output")
        # It counts as this one whatever this one would have fitted with.
        self.summary.clusterer = (manifest.get("identity") or {}).get("clusterer")
        if not manifest.get("identity"):
            raise ResultExistsError(
                f"output={shown(self.folder, 400)} holds a finished run that does not say what it read: give another "
                "folder, or --overwrite to replace it"
            )
        refuse_other_run(self.identity, manifest["identity"], self.folder)
        self._tidy()
        log.warning("%s holds this run, finished: nothing is left to do", self.folder)
        return Summary.from_dict(manifest)

    def _tidy(self) -> None:
        self.job.files.delete(self.place(UNFINISHED))
        if not self.target.keep_stages:
            self.stages.clear()

    # --- the stages ---

    @contextmanager
    def stage(self, name: str, lock: Lock) -> Iterator[tuple[dict[str, int], dict[str, Any]]]:
        """Does a stage: what an earlier attempt left goes first, its record comes last. Gives what progress tells and
        the record, both to be filled."""
        facts: dict[str, Any] = {}
        with self.job.progress.stage(_TITLES[name]) as counts:
            for result in _RESULTS[name]:
                delete_dataset(self.job.files, self.place(result))
            yield counts, facts
            lock.assert_held()
        self.stages.end(name, {**facts, "seconds": self.job.progress.seconds[_TITLES[name]]})

    def done(self, name: str) -> bool:
        """Whether a stage has been done by an earlier run, which is then told."""
        record = self.stages.record(name) if self.known.resumes else None
        if record is not None:
            self.job.progress.skip(_TITLES[name], record["seconds"])
        return record is not None

    def facts(self, name: str) -> dict[str, Any]:
        """The record of a stage that is done."""
        record = self.stages.record(name)
        assert record is not None
        return record

    def fit(self, lock: Lock) -> None:
        if self.done("fit"):
            return
        with self.stage("fit", lock) as (counts, facts):
            if self.given is not None:  # a fit checks them
                check_ids(self.rows, id_column(self.rows, self.estimator.value("idCol")), self.estimator.value("idCol"))
            model: SemDedupModel = self._with(self.given) if self.given else self.estimator.fit(self.rows)
            # What is refused, repeated ids or invalid rows, is refused before an earlier result goes.
            if self.job.files.exists(self.place(RUN_MANIFEST)):
                model.clustering.refuse_invalid(self.rows)
            lock.assert_held()
            self.clear()
            model.clustering.save(self.place("centroids"))
            counts["centroids"] = facts["centroids"] = len(model.centroids)
            self.known.model = model

    def _with(self, clustering: EmbeddingKMeansModel) -> SemDedupModel:
        settings = {name: value for name, value in self.estimator.settings().items() if name != "initMode"}
        return SemDedupModel(centroids=clustering.centroids, history=clustering.history, **settings)

    @property
    def model(self) -> SemDedupModel:
        if self.known.model is not None:
            return self.known.model
        return self._with(self.given or load_model(self.job, self.place("centroids"), "output"))

    def compare(self, lock: Lock) -> None:
        if self.done("compare"):
            return
        with self.stage("compare", lock) as (counts, facts):
            found = self.model.compared(self.rows)
            self.job.progress.note(found.workload.in_words())
            # Computed once, by all tasks, and kept in files: what an executor holds is lost with it, and would be
            # computed anew, from a source that may give other rows the second time.
            found.entries.df.write.mode("append").parquet(self.place(_COMPARED))
            self.known.schemas[_COMPARED] = found.entries.df.schema
            facts |= self.entries.counts()
            facts["ids"] = Ids(facts["rows"], facts.pop("hashes")).facts()
            facts["planned"] = found.workload.facts()
            about = self.about("similarities")
            path = self.place("similarities")
            valid = write_similarities(self.job.files, self.entries, facts, path, about, lock.assert_held)
            counts |= {"rows": valid, "clusters": facts["clusters"], "pairs": facts["pairs"]}

    @property
    def entries(self) -> PartialMatches:
        coverage = Coverage.of(self.estimator, self.estimator.similarity_threshold())
        return PartialMatches(self.written(_COMPARED), Ranking.of(self.estimator), coverage.at_least)

    def invalid(self) -> DataFrame:
        """The input's rows that could not be compared, with a reason."""
        return self.model.result_of(self.rows, self.entries.df.where(F.col("own"))).invalid

    def write(self, name: str, rows: DataFrame) -> Ids:
        """Writes duplicates or invalid rows, of which ids are taken away. Returns these."""
        id_col = self.estimator.value("idCol") if name == "invalid" else "id"
        self.known.schemas[name] = rows.schema
        return write_with_ids(self.job.files, rows, self.place(name), self.about(name), id_col)

    def written(self, name: str) -> DataFrame:
        """A result of ours that this run, or the one it goes on with, wrote."""
        reader, schema = self.job.spark.read, self.known.schemas.get(name)
        rows = (reader if schema is None else reader.schema(schema)).parquet(self.place(name))
        self.known.schemas.setdefault(name, rows.schema)
        return rows

    def identify(self, lock: Lock) -> None:
        if self.done("identify"):
            return
        with self.stage("identify", lock) as (counts, facts):
            valid = self.facts("compare")["rows"] - self.facts("compare")["invalid"]
            # Lost meanwhile, its rows would be no duplicates, and nothing amiss.
            similarities = self.job.spark.read.parquet(self.place("similarities"))
            if (there := similarities.count()) != valid:
                raise AccountingError(
                    f"output={shown(self.folder, 400)}: {valid} similarities were written, but {there} are there: "
                    "files were lost or added; begin again with --overwrite"
                )
            found = self.write("duplicates", duplicates_to_write(similarities, valid, self.estimator))
            counts["duplicates"], facts["ids"] = found.rows, found.facts()

    @property
    def skipped(self) -> int:
        """Invalid rows that are set aside."""
        return self.facts("compare")["invalid"] if self.estimator.value("handleInvalid") == "skip" else 0

    def keep(self, lock: Lock) -> None:
        if self.done("keep"):
            return
        with self.stage("keep", lock) as (counts, facts):
            id_col = self.estimator.value("idCol")
            unwanted = self.written("duplicates").select("id")
            facts["skipped"] = Ids(0, 0).facts()
            if self.skipped:
                facts["skipped"] = self.write("invalid", self.invalid()).facts()
                invalid = self.written("invalid")
                unwanted = unwanted.unionAll(invalid.select(id_column(invalid, id_col).alias("id")))
            remaining = without_ids(self.rows, id_col, unwanted)
            target = self.target
            if target.table is not None:
                target = replace(target, overwrite=self.may_replace_table)
                target.refuse_existing_table(self.job.spark)  # before anything says that this table is ours
                self.stages.end(_WRITING, {})
            about = self.about("deduplicated")
            kept = write_kept(self.job, remaining, id_col, target, self.place("deduplicated"), about)
            counts["kept"], facts["ids"] = kept.rows, kept.facts()

    def check(self) -> None:
        """Every row of the input is somewhere, once, and for a reason; an ``AccountingError`` otherwise."""
        with self.job.progress.stage(_TITLES["check"]):
            check_neighbours(self.entries, self.facts("compare"))
            kept, skipped = (Ids.read(self.facts("keep")[name]) for name in ("ids", "skipped"))
            duplicates = Ids.read(self.facts("identify")["ids"])
            check_rows(Ids.read(self.facts("compare")["ids"]), kept, duplicates, skipped)
            check_set_aside(skipped.rows, self.skipped)
            if reads_only_files(self.rows):
                now = self.source.read(self.job.spark, self.rows.schema)
                check_unchanged(
                    self.identity["input's data"], fingerprint(self.job.files, self.source, now, self.estimator)
                )

    # --- the end ---

    def finish(self) -> Summary:
        compared, summary, files = self.facts("compare"), self.summary, self.job.files
        summary.counts = {
            "rows_in": compared["rows"],
            "invalid": compared["invalid"],
            "clusters": compared["clusters"],
            "pairs_compared": compared["pairs"],
            "duplicates": self.facts("identify")["ids"]["rows"],
            "kept": self.facts("keep")["ids"]["rows"],
        }
        summary.planned = compared["planned"]
        names = ["centroids", "similarities", "duplicates", "deduplicated", "invalid"]
        there = [name for name in names if files.exists(self.place(name))]
        summary.results = {name: self.place(name) for name in there}
        if self.target.table is not None:
            summary.results["deduplicated"] = f"table {self.target.table}"
        summary.results["summary"] = self.place("summary.json")
        complete_summary(self.job, summary, self.estimator)
        summary.parameters = self.saved.described(summary.parameters, self.facts("fit")["centroids"])
        files.write_text(self.place("summary.json"), summary.as_json())
        manifest = {"holds": "run", **summary.as_dict(), "identity": self.identity}
        finish(files, self.folder, manifest, RUN_MANIFEST)
        self._tidy()
        return summary


def delete_results(files: Files, folder: str) -> None:
    """Deletes what a run wrote into a folder, and an evaluation and a report of it; other files stay."""
    for name in (*RUN_RESULTS, EVALUATION, REPORT):
        if "." in name:
            files.delete(join(folder, name))
        else:
            delete_dataset(files, join(folder, name))


def _is_finished(files: Files, folder: str) -> bool:
    """Whether a run has ended here: its manifest is whole. A kill while that was written leaves the mark, too."""
    if not files.exists(join(folder, RUN_MANIFEST)):
        return False
    if not files.exists(join(folder, UNFINISHED)):
        return True
    try:
        read_run_manifest(files, folder, "output")
    except SemDedupError:
        return False
    return True
