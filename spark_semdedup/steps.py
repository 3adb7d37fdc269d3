"""The steps of the job as the program runs them: check, read, compute, write, report.

``run`` is the whole; ``cluster``, ``pairwise``, ``identify`` and ``remove`` are its parts, and one after the other they
give the same answer; ``evaluate`` looks back on a run. A step checks all it can before its first stage: until then
nothing that was there is touched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from dataclasses import field as attribute
from functools import cached_property
from typing import Any

import numpy as np
from pyspark.ml.param import Param
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup import clusterers
from spark_semdedup.accounting import (
    check_merged,
    check_neighbours,
    check_read,
    check_removed,
    check_rows,
    check_set_aside,
    check_unchanged,
)
from spark_semdedup.clustering import ASSIGNED, EmbeddingKMeans, EmbeddingKMeansModel
from spark_semdedup.columns import by_its_bytes, embedding_column, field, id_column, refuse_shadowed
from spark_semdedup.coverage import Coverage
from spark_semdedup.datasets import (
    MANIFEST,
    RUN_MANIFEST,
    STAGES,
    UNFINISHED,
    Source,
    Target,
    begin,
    delete_dataset,
    empty_dataset,
    files_for,
    finish,
    is_mark,
    is_own_run,
    read_manifest,
    read_run_manifest,
    write_dataset,
    write_with_ids,
)
from spark_semdedup.devices import resolve_backend
from spark_semdedup.duplicates import IdentifyDuplicates, RemoveDuplicates, count_similarities, without_ids
from spark_semdedup.entries import Entries, are_few
from spark_semdedup.errors import AccountingError, ResultExistsError, SemDedupError, shown
from spark_semdedup.evaluation import Evaluation, Evaluator, check_counts, noting_faults
from spark_semdedup.files import Files, is_within, join
from spark_semdedup.ids import Ids
from spark_semdedup.lineage import reads_only_files
from spark_semdedup.locking import Lock, is_lock
from spark_semdedup.pairwise import PairwiseSimilarity
from spark_semdedup.params import (
    ClusteringParams,
    DecisionParams,
    HasColumns,
    SemDedupParams,
)
from spark_semdedup.ranking import Ranking
from spark_semdedup.report import Progress, Summary, versions
from spark_semdedup.semdedup import SemDedup, SemDedupModel, similarities_of
from spark_semdedup.sizing import Hardware, Sizing, size_up
from spark_semdedup.stages import (
    COMPARED,
    FREE_PARAMS,
    VERSION,
    Stages,
    digest,
    fingerprint,
    fingerprint_of_files,
    identity_of,
    output_of,
    refuse_other_run,
)
from spark_semdedup.validation import check_ids, check_length

log = logging.getLogger("spark_semdedup")

Settings = Mapping[str, Any]
"""Values of Params by name: those alone that the user has set."""

EVALUATION = "evaluation.json"
"""Name of the file with an evaluation, where a folder is given for it; that of the run itself, say."""

RUN_RESULTS = (RUN_MANIFEST, "summary.json", "deduplicated", "invalid", "duplicates", "similarities", "centroids")
"""What a run writes into its folder. ``--overwrite`` deletes these, the manifest first, and an evaluation of them."""

FIT_PARAMS = frozenset(name for name, param in vars(ClusteringParams).items() if isinstance(param, Param))
"""The Params that only a fit uses; centroids that are given need none of them."""


@dataclass(frozen=True)
class Job:
    """What every step works with."""

    spark: SparkSession
    files: Files
    progress: Progress

    @classmethod
    def of(cls, spark: SparkSession) -> Job:
        return cls(spark, Files(spark), Progress())


@dataclass(frozen=True)
class SavedCentroids:
    """Saved centroids that a step starts from: a ``model`` to use instead of a fit, or the fit's ``initial`` ones."""

    model: str | None = None
    initial: str | None = None

    def reads(self) -> dict[str, Sequence[str]]:
        """The paths, by the name of the option."""
        return {"centroids": [self.model] if self.model else [], "initMode": [self.initial] if self.initial else []}

    def load(self, job: Job, settings: Settings) -> tuple[EmbeddingKMeansModel | None, dict[str, Any]]:
        """The model, if one is to be used, and the settings with what comes from the saved centroids."""
        if self.model is not None:
            given = FIT_PARAMS & settings.keys() | ({"initMode"} if self.initial else set())
            if given:
                raise SemDedupError(
                    f"centroids={shown(self.model, 400)} and {', '.join(sorted(given))} are both set: centroids that "
                    "are given are not fitted; drop one of them"
                )
            model = _load_model(job, self.model, "centroids")
            return model, {**settings, "distanceMeasure": model.value("distanceMeasure")}
        if self.initial is not None:
            return None, {**settings, "initMode": _load_model(job, self.initial, "initMode").centroids}
        return None, dict(settings)

    def described(self, params: dict[str, Any], k: int) -> dict[str, Any]:
        """Parameters as they are reported: paths instead of k × d numbers, and the number of centroids there are."""
        if self.model is not None:
            return {n: v for n, v in params.items() if n not in FIT_PARAMS} | {"centroids": self.model, "k": k}
        return params | {"k": k} | ({"initMode": self.initial} if self.initial else {})


def _load_model(job: Job, path: str, param: str) -> EmbeddingKMeansModel:
    if not job.files.exists(join(path, "metadata")):
        raise SemDedupError(
            f"{param}={shown(path, 400)} holds no saved model (no folder metadata): give the folder centroids of a "
            "run, _centroids of a cluster step, or what EmbeddingKMeansModel.save wrote"
        )
    model: EmbeddingKMeansModel = EmbeddingKMeansModel.load(path)
    return model


# --- the whole ----------------------------------------------------------------------------------------------


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
        _check_paths(job, target, source=source, reads=saved.reads(), replaces_folder=False)
        _refuse_foreign_names(job, target)
        loaded, settings = saved.load(job, settings)
        estimator = SemDedup(**settings)
        threshold = estimator.similarity_threshold()
        Coverage.of(estimator, threshold)
        ranking = Ranking.of(estimator)
        source = source.pinned(job.spark, cls._version_before(job, target))
        rows = _read(job, source, target)
        _check_columns(rows, estimator, ranking)
        if estimator.value("handleInvalid") == "skip":
            refuse_shadowed(rows, ["reason"], "handleInvalid='skip'")
        backend, clusterer = _resolve(job, estimator, fits=loaded is None)
        if loaded is not None:
            _check_length(rows, estimator, loaded)
        summary = Summary("run", backend=backend, clusterer=clusterer, threshold=threshold, eps=_eps(estimator))
        summary.input_version = source.version
        _cover(summary, estimator)
        return cls(job, _folder(target), source, target, estimator, saved, loaded, rows, summary, _Known())

    @staticmethod
    def _version_before(job: Job, target: Target) -> int | None:
        """The version of a Delta table that the run to go on with reads; None where none is to go on."""
        if not target.resume or job.files.exists(join(_folder(target), RUN_MANIFEST)):
            return None
        version: int | None = Stages(job.files, _folder(target)).identity().get(VERSION)
        return version

    def place(self, name: str) -> str:
        return join(self.folder, name)

    def about(self, holds: str) -> dict[str, Any]:
        return _manifest(holds, self.summary, self.estimator)

    @property
    def stages(self) -> Stages:
        return Stages(self.job.files, self.folder)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What another run must share to go on with this one."""
        params = {name: value for name, value in _parameters(self.estimator).items() if name not in FREE_PARAMS}
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
        return self._with(self.given or _load_model(self.job, self.place("centroids"), "output"))

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
            valid = _write_similarities(self.job.files, self.entries, facts, path, about, lock.assert_held)
            counts |= {"rows": valid, "clusters": facts["clusters"], "pairs": facts["pairs"]}

    @property
    def entries(self) -> Entries:
        coverage = Coverage.of(self.estimator, self.estimator.similarity_threshold())
        return Entries(self.written(_COMPARED), Ranking.of(self.estimator), coverage.at_least)

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
            found = self.write("duplicates", _duplicates(similarities, valid, self.estimator))
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
            kept = _write_remaining(self.job, remaining, id_col, target, self.place("deduplicated"), about)
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
        _complete(self.job, summary, self.estimator)
        summary.parameters = self.saved.described(summary.parameters, self.facts("fit")["centroids"])
        files.write_text(self.place("summary.json"), summary.as_json())
        manifest = {"holds": "run", **summary.as_dict(), "identity": self.identity}
        finish(files, self.folder, manifest, RUN_MANIFEST)
        self._tidy()
        return summary


def delete_results(files: Files, folder: str) -> None:
    """Deletes what a run wrote into a folder, and an evaluation of it; other files stay."""
    for name in (*RUN_RESULTS, EVALUATION):
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


# --- the parts ----------------------------------------------------------------------------------------------


def cluster(
    job: Job, source: Source, target: Target, settings: Settings, saved: SavedCentroids | None = None
) -> Summary:
    """Fits centroids and writes the rows by cluster: ``centroid=N/``, ``_centroids/``, with skip ``_invalid/``.

    ``settings``: Params of ``EmbeddingKMeans``, and ``rankBy``, whose columns travel along.
    """
    saved = saved or SavedCentroids()
    _check_paths(job, target, source=source, reads=saved.reads())
    loaded, settings = saved.load(job, settings)
    ranking = Ranking.of(PairwiseSimilarity(rankBy=settings.pop("rankBy", None)))
    estimator = EmbeddingKMeans(**settings)
    source = source.pinned(job.spark)
    rows = _read(job, source, target)
    _check_columns(rows, estimator, ranking)
    invalid_stay = estimator.value("handleInvalid") != "error"
    refuse_shadowed(rows, [*ASSIGNED, *(["reason"] if invalid_stay else [])], "cluster")
    backend, clusterer = _resolve(job, estimator, fits=loaded is None)
    if loaded is not None:
        _check_length(rows, estimator, loaded)
    model = loaded and EmbeddingKMeansModel(centroids=loaded.centroids, history=loaded.history, **settings)
    summary = Summary("cluster", backend=backend, clusterer=clusterer)
    job.progress.begin(2)
    at_first = fingerprint_of_files(job.files, source, rows)
    with _held(job, target) as assert_held:
        with job.progress.stage("load centroids" if model else "fit centroids") as counts:
            if model is not None:  # a fit checks them
                total = check_ids(rows, id_column(rows, model.value("idCol")), model.value("idCol"))
            else:
                model = estimator.fit(rows)
                assert model.fitted_rows is not None  # by this very fit
                total = model.fitted_rows
            if job.files.exists(join(_folder(target), MANIFEST)):
                model.refuse_invalid(rows)
            folder = _cleared(job, target, assert_held)
            begin(job.files, folder)
            model.save(join(folder, "_centroids"))
            counts["centroids"] = len(model.centroids)
        with job.progress.stage("assign and write") as counts:
            _write_clusters(job, rows, total, model, ranking, folder, summary)
            counts.update({"rows": summary.counts["rows_in"], "clusters": summary.counts["clusters"]})
        _complete(job, summary, estimator)
        summary.parameters = saved.described(summary.parameters, len(model.centroids))
        summary.parameters["rankBy"] = [f"{name} {'asc' if up else 'desc'}" for name, up in ranking.by] or None
        rows_written = summary.counts["rows_in"] - summary.counts["invalid"]
        check_unchanged(at_first, _fingerprint_now(job, source, rows))
        assert_held()
        finish(job.files, folder, {"holds": "clusters", "rows": rows_written, **summary.as_dict()})
    return summary


def _write_clusters(
    job: Job, rows: DataFrame, total: int, model: EmbeddingKMeansModel, ranking: Ranking, folder: str, summary: Summary
) -> None:
    """Assigns the ``total`` rows and writes them by cluster, the invalid ones aside; adds counts and results to
    ``summary``."""
    valid, invalid = model.clustered(rows, ranking)
    # By centroid, so that each folder gets one file, not one from every task.
    valid.repartition("centroid").write.mode("append").partitionBy("centroid").parquet(folder)
    found = _cluster_sizes(job.spark.read.schema(valid.schema).parquet(folder))  # there may be no file to tell it
    handle_invalid = model.value("handleInvalid")
    lost = total - found["rows"]
    check_read(total, found["rows"], may_lose=handle_invalid != "error")
    summary.counts = {"rows_in": total, "invalid": lost, "clusters": found["clusters"]}
    summary.results = {"clusters": folder, "centroids": join(folder, "_centroids")}
    if handle_invalid == "skip":
        # Rows are assigned again to find the invalid ones; mostly there are none, which the count has told.
        summary.results["invalid"] = join(folder, "_invalid")
        aside = invalid if lost else invalid.limit(0)
        set_aside = write_dataset(job.files, aside, summary.results["invalid"], _manifest("invalid", summary))
        check_read(total, found["rows"] + set_aside)


def pairwise(job: Job, clusters: str, target: Target, settings: Settings, centroids: str | None = None) -> Summary:
    """Compares the rows of each cluster: ``cluster``'s folder, or NeMo Curator's, to a folder of similarities.

    ``settings``: Params of ``PairwiseSimilarity``. Embeddings are taken as the unit vectors they are. ``centroids``:
    the saved model that assigned the rows, for coverage beyond the own cluster; default: ``_centroids`` in the folder.
    """
    params = PairwiseSimilarity(**settings, normalize=False)
    ranking = Ranking.of(params)
    coverage = Coverage.of(params, params.similarity_threshold())
    _check_paths(job, target, reads={"input": [clusters], "centroids": [centroids] if centroids else []})
    if coverage.visits:
        params.setCentroids(_centroids_of(job, clusters, centroids))
    manifest = _warn_foreign(read_manifest(job.files, clusters, "input", "clusters"), clusters)
    rows = Source((clusters,)).read(job.spark)
    _check_columns(rows, params, ranking, clustered=True)
    summary = Summary("pairwise", backend=resolve_backend(job.spark, params.value("backend")))
    _cover(summary, params)
    job.progress.begin(2)

    with job.progress.stage("plan") as counts:
        found = _cluster_sizes(rows)
        if not found["rows"]:
            raise SemDedupError(f"input={shown(clusters, 400)} is empty: it must have at least one row")
        _refuse_other_count(found["rows"], (manifest or {}).get("rows"), "input", clusters)
        comparison = params.compared(rows)
        entries = replace(comparison.entries, df=comparison.entries.df.persist())
        summary.planned = comparison.workload.facts()
        job.progress.note(comparison.workload.in_words())
        counts.update({"rows": found["rows"], "clusters": found["clusters"]})
    with _held(job, target) as assert_held, job.progress.stage("compare") as counts:
        # Computes all entries, with all tasks, before fewer of them write what they come to.
        totals = entries.counts()
        counts["pairs"] = pairs = totals["pairs"]
        check_read(found["rows"], totals["rows"])
        check_neighbours(entries, totals)
        folder = _cleared(job, target, assert_held)
        about = _manifest("similarities", summary, params)
        written = _write_similarities(job.files, entries, totals, folder, about, assert_held)
        entries.df.unpersist()
    summary.counts = {"rows_in": written, "clusters": found["clusters"], "pairs_compared": pairs}
    summary.results = {"similarities": folder}
    return _complete(job, summary, params)


def _centroids_of(job: Job, clusters: str, given: str | None) -> EmbeddingKMeansModel:
    """The model that assigned the rows in the folder ``clusters``."""
    beside = join(clusters, "_centroids")
    if given is None and not job.files.exists(join(beside, "metadata")):
        raise SemDedupError(
            f"centroids is not set, and input={shown(clusters, 400)} has no _centroids: rows that are compared beyond "
            "their own clusters need the saved model that assigned them"
        )
    return _load_model(job, given or beside, "centroids")


def identify(job: Job, similarities: str, target: Target, settings: Settings) -> Summary:
    """Writes the rows whose similarity makes them duplicates. ``settings``: Params of ``IdentifyDuplicates``."""
    params = IdentifyDuplicates(**settings)
    threshold = params.similarity_threshold()
    _check_paths(job, target, reads={"input": [similarities]})
    manifest = _warn_foreign(read_manifest(job.files, similarities, "input", "similarities"), similarities)
    _refuse_incomplete(params, threshold, manifest, similarities)
    rows = Source((similarities,)).read(job.spark)
    params.transform(rows)  # checks the columns
    total = count_similarities(rows)
    _refuse_other_count(total, (manifest or {}).get("rows"), "input", similarities)
    said = {name: value for name, value in (manifest or {}).items() if name in _ABOUT_COVERAGE}
    summary = Summary("identify", threshold=threshold, eps=_eps(params), **said)
    job.progress.begin(1)
    with _held(job, target) as assert_held, job.progress.stage("identify duplicates") as counts:
        folder = _cleared(job, target, assert_held)
        about = _manifest("duplicates", summary, params)
        found = _duplicates(rows, total, params)
        there = found.count()

        def check(written: int) -> None:
            check_read(there, written)
            assert_held()

        counts["duplicates"] = write_dataset(job.files, found, folder, about, check)
        summary.counts = {"rows_in": total, "duplicates": counts["duplicates"]}
    summary.results = {"duplicates": folder}
    return _complete(job, summary, params)


def remove(
    job: Job, source: Source, target: Target, settings: Settings, *, duplicates: str, invalid: str | None = None
) -> Summary:
    """Writes the rows of ``source`` that are not among the ``duplicates``, nor among the ``invalid`` rows set aside.

    ``settings``: Params of ``RemoveDuplicates``.
    """
    params = RemoveDuplicates(**settings)
    reads = {"duplicates": [duplicates], "invalid": [invalid] if invalid else []}
    _check_paths(job, target, source=source, reads=reads)
    source = source.pinned(job.spark)
    rows = _read(job, source, target)
    id_column(rows, params.value("idCol"))
    at_first = fingerprint_of_files(job.files, source, rows)
    found, removed = _counted(job, duplicates, "duplicates")
    unwanted = found.select(by_its_bytes(field(found, "id", "duplicates: column")).alias("id"))
    if invalid is not None:
        aside, set_aside = _counted(job, invalid, "invalid")
        removed |= set_aside
        unwanted = unwanted.unionAll(aside.select(id_column(aside, params.value("idCol")).alias("id")))
    remaining = params.setDuplicates(unwanted).transform(rows)
    total = check_ids(rows, id_column(rows, params.value("idCol")), params.value("idCol"))
    summary = Summary("remove", counts={"rows_in": total, **removed})
    named = sum(removed.values())
    job.progress.begin(1)
    with _held(job, target) as assert_held, job.progress.stage("write the rows that remain") as counts:
        check_unchanged(at_first, _fingerprint_now(job, source, rows))
        target.try_writing(job.files, rows)
        folder = _cleared(job, target, assert_held) if target.table is None else None
        about = _manifest("deduplicated", summary, params)

        def check(kept: int) -> None:
            check_removed(total, named, kept)
            check_unchanged(at_first, _fingerprint_now(job, source, rows))
            assert_held()

        kept = _write_remaining(job, remaining, params.value("idCol"), target, folder or "", about, check)
        summary.counts["kept"] = counts["kept"] = kept.rows
    if total - kept.rows < named:
        what, not_found = " and ".join(removed), named - (total - kept.rows)
        log.warning("%d of the %d rows of %s are not in the input, or are named twice", not_found, named, what)
    summary.results = {"deduplicated": folder or f"table {target.table}"}
    return _complete(job, summary, params)


def plan(
    job: Job,
    source: Source,
    settings: Settings,
    saved: SavedCentroids | None = None,
    *,
    rows: int | None = None,
    hardware: Hardware | None = None,
) -> Sizing:
    """What ``run`` would cost with each coverage; writes nothing. ``settings``: Params of ``SemDedup``."""
    source.check(job.files)
    loaded, settings = (saved or SavedCentroids()).load(job, settings)
    estimator = SemDedup(**settings)
    Coverage.of(estimator, estimator.similarity_threshold())
    read = source.read(job.spark)
    _check_columns(read, estimator, Ranking.of(estimator))
    job.progress.begin(1)
    with job.progress.stage("look at a sample") as counts:
        found = size_up(
            estimator, read, rows=rows, hardware=hardware, centroids=None if loaded is None else loaded.centroids
        )
        counts["rows"] = found.sample_rows
    return found


# --- looking back -------------------------------------------------------------------------------------------


def evaluate(
    job: Job,
    source: Source,
    result: str,
    settings: Settings,
    *,
    sample_rows: int,
    seed: int,
    missed: int,
    target: Target | None = None,
) -> Evaluation:
    """Estimates the recall of the run that read ``source`` and wrote the folder ``result``.

    ``settings``: Params of ``HasBackend``. ``target``: where the answer goes as JSON, to a file whose name ends with
    .json, or to ``evaluation.json`` in a folder; None: nowhere.
    """
    check_counts(sample_rows, missed)
    source.check(job.files)
    file = _evaluation_file(job, target, source, result)
    evaluator = Evaluator.of_run(source.pinned(job.spark).read(job.spark), result, **settings)
    job.progress.begin(2)
    with job.progress.stage("sample") as counts:
        sample = evaluator.sample(sample_rows, seed)
        counts["rows"] = len(sample)
    with job.progress.stage("compare with all rows") as counts:
        found = evaluator.compare(sample, missed)
        counts.update({"rows": found.rows, "to be removed": found.to_remove})
    found = noting_faults(replace(found, seconds=dict(job.progress.seconds)))
    if file is not None:
        job.files.write_text(file, found.as_json())
    return found


def _evaluation_file(job: Job, target: Target | None, source: Source, result: str) -> str | None:
    """The file to write, of which nothing is there or all may be overwritten, outside of folders of rows."""
    if target is None or target.path is None:
        return None
    file = target.path if target.path.endswith(".json") else join(target.path, EVALUATION)
    rows = [join(result, name) for name in RUN_RESULTS if "." not in name]
    own = [join(result, name) for name in RUN_RESULTS if "." in name]
    if job.files.real(file) in map(job.files.real, own):
        raise SemDedupError(f"output={shown(file, 400)} is a part of the run's result: give another file")
    replace(target, path=file).check(job.files, {"input": source.paths, "result": rows})
    return file


# --- what they share: checks --------------------------------------------------------------------------------


def _check_paths(
    job: Job,
    target: Target,
    *,
    source: Source | None = None,
    reads: Mapping[str, Sequence[str]],
    replaces_folder: bool = True,
) -> None:
    """Inputs that are missing, an output that is there already, and the two overlapping.

    ``replaces_folder``: the step deletes the whole output folder, which therefore must be a result of ours.
    """
    if source is not None:
        source.check(job.files)
        reads = {"input": source.paths, **reads}
        if _is_same_table(job.spark, source.table, target.table):
            raise SemDedupError(f"outputTable={shown(target.table)} is the table that is read: give another name")
    target.check(job.files, reads, of_run=not replaces_folder)
    if not target.resume:
        target.refuse_existing_table(job.spark)
    if replaces_folder:
        _refuse_irreplaceable(job, target)


def _refuse_irreplaceable(job: Job, target: Target) -> None:
    """``ResultExistsError`` for an output folder that is not a step's to delete, ``--overwrite`` or not."""
    if target.path is None or job.files.is_vacant(target.path):
        return
    names = job.files.names(target.path)
    if _is_in_run(job, target.path):
        what = "is a part of a run's result"
    elif _is_run(names):
        what = "is the folder of a whole run"
    elif all(map(is_mark, names)):  # nobody's, if its lock can be had
        return
    elif MANIFEST not in names and UNFINISHED not in names:
        what = f"is no earlier result (it has no {MANIFEST})"
    else:
        return
    raise ResultExistsError(
        f"output={shown(target.path, 400)} {what} and is not deleted, not even with --overwrite: give another folder"
    )


def _is_run(names: Sequence[str]) -> bool:
    """Whether a folder of such entries is a run's, ended or not; not by a mark that steps make, too."""
    return any(name in (RUN_MANIFEST, STAGES) for name in names)


def _is_in_run(job: Job, path: str) -> bool:
    """Whether a folder is where a run, of the folder above, has written a result, or is about to."""
    above, _, name = job.files.full(path).rpartition("/")
    if name not in RUN_RESULTS or not job.files.exists(above):
        return False
    names = job.files.names(above)
    return _is_run(names) or any(map(is_lock, names))  # a run that has begun has a lock, and no more perhaps


def _refuse_foreign_names(job: Job, target: Target) -> None:
    """``ResultExistsError`` for a folder in which a run would replace what bears a result's name, but is none."""
    if target.path is None or job.files.is_vacant(target.path) or is_own_run(job.files, target.path):
        return
    alike = sorted({*RUN_RESULTS, EVALUATION} & set(job.files.names(target.path)))
    if alike:
        raise ResultExistsError(
            f"output={shown(target.path, 400)} is no earlier run (it has no {RUN_MANIFEST} of one), and "
            f"{', '.join(alike)} in it would be replaced: give another folder"
        )


def _is_same_table(spark: SparkSession, one: str | None, other: str | None) -> bool:
    """Whether two names stand for one table, which may be spelled with or without catalog and schema."""
    if one is None or other is None or not (spark.catalog.tableExists(one) and spark.catalog.tableExists(other)):
        return False
    tables = [spark.catalog.getTable(name) for name in (one, other)]
    return len({(t.catalog, tuple(t.namespace or ()), t.name) for t in tables}) == 1


def _read(job: Job, source: Source, target: Target) -> DataFrame:
    """The input's rows. ``SemDedupError`` where a table's files lie in the output folder."""
    rows = source.read(job.spark)
    if source.table is not None and target.path is not None and not job.files.is_vacant(target.path):
        for folder in {file.rsplit("/", 1)[0] for file in rows.inputFiles()}:
            if is_within(job.files.full(folder), job.files.full(target.path)):
                raise SemDedupError(
                    f"output={shown(target.path, 400)} holds files of inputTable={shown(source.table)}: give output a "
                    "folder of its own"
                )
    return rows


def _check_columns(rows: DataFrame, params: HasColumns, ranking: Ranking, *, clustered: bool = False) -> None:
    """Every column that a Param names is there and can be used; ``clustered``: those of the cluster step, too."""
    id_ = id_column(rows, params.value("idCol"))
    embedding_column(rows, params.value("embeddingCol"), float16_bits=clustered)
    for name in params.value("metadataCols") or []:
        field(rows, name, "metadataCols")
    if clustered:
        field(rows, "centroid", "column")
    if clustered or ranking.by:
        ranking.key_columns(rows, id_)


def _fingerprint_now(job: Job, source: Source, rows: DataFrame) -> str | None:
    """Of the files that ``rows`` were read from, listed anew."""
    return fingerprint_of_files(job.files, source, source.read(job.spark, rows.schema))


def _check_length(rows: DataFrame, params: HasColumns, model: EmbeddingKMeansModel) -> None:
    name = params.value("embeddingCol")
    check_length(rows, embedding_column(rows, name), name, model.centroids.shape[1])


def _resolve(job: Job, params: Any, *, fits: bool) -> tuple[str, str | None]:
    """Backend and clusterer that will be used; contradictions are refused before the fit."""
    backend = resolve_backend(job.spark, params.value("backend"))
    if not fits:
        return backend, None
    clusterer = clusterers.choose_clusterer(params.value("clusterer"), backend, params.value("backend"))
    initial = params.value("initMode")
    k = params.value("k") or (1 if isinstance(initial, str) else len(initial))
    clusterers.refuse_unsupported(clusterer, clusterers.FitSettings.from_params(params, k))
    return backend, clusterer


def _refuse_incomplete(params: DecisionParams, threshold: float, manifest: Mapping[str, Any] | None, path: str) -> None:
    """Scores that are exact only from a similarity on say nothing of duplicates below it."""
    complete = (manifest or {}).get("complete_eps")
    if complete is None:
        return
    if _least_score(threshold) < _least_score((manifest or {}).get("complete_from", 1.0 - complete)):
        raise SemDedupError(
            f"eps={_eps(params):.6g} is larger than {complete:.6g}, up to which the scores in {shown(path, 400)} are "
            "complete: lower eps, or compare again with a larger one"
        )


def _least_score(threshold: float) -> np.float32:
    """The smallest score that is at least ``threshold``: 1 - 0.07 and 0.93 are two doubles, with no float32 between."""
    score = np.float32(threshold)
    return score if float(score) >= threshold else np.nextafter(score, np.float32(np.inf))


def _warn_foreign(manifest: dict[str, Any] | None, path: str) -> dict[str, Any] | None:
    if manifest is None:
        log.warning("%s has no %s: taken as another program's data, whole and as it is", path, MANIFEST)
    return manifest


def _refuse_other_count(rows: int, said: int | None, param: str, path: str) -> None:
    """Files that were added or lost since a step wrote the folder, of whose rows its manifest ``said`` the number."""
    if said is not None and rows != said:
        raise SemDedupError(
            f"{param}={shown(path, 400)} has {rows} rows, but {MANIFEST} in it says {said}: files were added or lost; "
            "run the step that wrote it again"
        )


def _counted(job: Job, path: str, holds: str) -> tuple[DataFrame, dict[str, int]]:
    """The rows of a folder that a step wrote, and their number, by what they are."""
    manifest = _warn_foreign(read_manifest(job.files, path, holds, holds), path)
    rows = Source((path,)).read(job.spark)
    count = rows.count()
    _refuse_other_count(count, (manifest or {}).get("rows"), holds, path)
    return rows, {holds: count}


_ABOUT_COVERAGE = ("coverage", "coverage_in_words", "complete_eps", "complete_from")
"""What manifests of similarities and duplicates say of the pairs that were compared."""


def _cover(summary: Summary, params: Any) -> None:
    """Notes in ``summary`` which pairs the Params have compared."""
    coverage = Coverage.of(params, params.similarity_threshold())
    summary.coverage, summary.coverage_in_words = coverage.name, coverage.in_words()
    if coverage.is_exact:
        summary.complete_eps, summary.complete_from = _eps(params), coverage.threshold


def _eps(params: DecisionParams) -> float:
    """eps as it is reported: what the user set, or what a threshold comes to."""
    if params.isSet("threshold"):
        return round(1.0 - params.value("threshold"), 12)
    return float(params.value("eps"))


# --- what they share: writing -------------------------------------------------------------------------------


def _folder(target: Target) -> str:
    if target.path is None:
        raise SemDedupError("output is not set: give the folder to write to")
    return target.path


@contextmanager
def _held(job: Job, target: Target) -> Iterator[Callable[[], None]]:
    """Holds the folder that a step writes, if it does. Gives what raises once another process has taken it over."""
    if target.table is not None:
        yield lambda: None
        return
    with Lock(job.files, _folder(target), takeover=True) as lock:  # of a step that was killed nothing is gone on with
        target.refuse_written_meanwhile(job.files)
        yield lock.assert_held


def _cleared(job: Job, target: Target, assert_held: Callable[[], None]) -> str:
    """The output folder, which the step holds. An earlier result of ours (``_check_paths``) is deleted, its manifest
    first, if it may be: otherwise the folder was vacant, and what may have come since is another's."""
    folder = _folder(target)
    assert_held()
    if target.overwrite:
        _refuse_irreplaceable(job, target)  # that was hours ago, perhaps
        empty_dataset(job.files, folder)
    target.refuse_written_meanwhile(job.files)
    return folder


def _write_similarities(
    files: Files,
    entries: Entries,
    counts: Mapping[str, int],
    path: str,
    about: Mapping[str, Any],
    assert_held: Callable[[], None],
) -> int:
    """Writes those of all valid rows. Returns how many they are."""
    merged = similarities_of(entries.merged(counts["further"]))
    few = files_for(counts["rows"])
    # Many entries are merged by all tasks, before fewer write what is left of them.
    narrow = merged.coalesce(few) if are_few(counts["further"]) else merged.repartition(few)

    def check(written: int) -> None:
        check_merged(written, counts)
        assert_held()

    return write_dataset(files, narrow, path, about, check)


def _duplicates(similarities: DataFrame, rows: int, params: SemDedupParams) -> DataFrame:
    """Those among the similarities of so many ``rows``, to be written."""
    stage = IdentifyDuplicates(**params.settings(IdentifyDuplicates))
    return stage.transform(similarities).coalesce(files_for(rows))


def _write_remaining(
    job: Job,
    rows: DataFrame,
    id_col: str,
    target: Target,
    path: str,
    about: Mapping[str, Any],
    check: Callable[[int], None] = lambda _: None,
) -> Ids:
    """Writes rows to a folder or table. Returns their ids, as they are read back. ``check``: of their number, before
    the folder counts as whole."""
    if target.table is not None:
        target.save_table(rows)
        written = job.spark.table(target.table)
        kept = Ids.count(written, id_column(written, id_col))
        try:
            check(kept.rows)
        except AccountingError as error:
            raise AccountingError(
                f"outputTable={shown(target.table)} was written, and must not be used: {error}"
            ) from error
        return kept
    begin(job.files, path)
    target.save(rows, path)
    written = target.read_back(rows, path)
    kept = Ids.count(written, id_column(written, id_col))
    check(kept.rows)
    finish(job.files, path, {**about, "rows": kept.rows})
    return kept


def _cluster_sizes(rows: DataFrame) -> dict[str, int]:
    """Rows, and clusters that hold rows. Reads no column but ``centroid``."""
    sizes = rows.where(F.col("centroid").isNotNull()).groupBy("centroid").agg(F.count(F.lit(1)).alias("n"))
    found = sizes.agg(
        F.coalesce(F.sum("n"), F.lit(0)).alias("rows"),
        F.count(F.lit(1)).alias("clusters"),
    ).first()
    assert found is not None  # an aggregate without groups always gives one row
    return {name: int(value) for name, value in found.asDict().items()}


def _manifest(holds: str, summary: Summary, params: SemDedupParams | None = None) -> dict[str, Any]:
    """What a folder's manifest says, but for its number of rows."""
    about: dict[str, Any] = {"holds": holds, "step": summary.step}
    if holds in ("similarities", "duplicates"):
        said = {name: getattr(summary, name) for name in _ABOUT_COVERAGE}
        about |= {name: value for name, value in said.items() if value is not None or name == "complete_eps"}
    if holds == "duplicates":
        about |= {"eps": summary.eps, "threshold": summary.threshold}
    about["parameters"] = _parameters(params) if params is not None else {}
    about["versions"] = versions(summary.backend, summary.clusterer)
    return about


def _parameters(params: SemDedupParams) -> dict[str, Any]:
    """All Params in effect; initial centroids by their shape only."""
    values = {param.name: params.value(param.name) for param in params.params}
    initial = values.get("initMode")
    if initial is not None and not isinstance(initial, str):
        values["initMode"] = f"array of shape ({len(initial)}, {len(initial[0])})"
    return values


def _complete(job: Job, summary: Summary, params: SemDedupParams) -> Summary:
    """Adds what is known at the end only."""
    summary.parameters = _parameters(params)
    summary.seconds = {**job.progress.seconds, "in all": round(job.progress.elapsed, 3)}
    summary.versions = versions(summary.backend, summary.clusterer, job.spark.version)
    return summary
