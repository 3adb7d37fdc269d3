"""The entries of the program: the whole run, and its parts one by one, which give the same answer.

Each checks all it can before it changes anything: paths, settings, columns, then the lock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.duplicates.greedy import decided
from spark_semdedup.duplicates.threshold import count_similarities
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.ml.duplicates import IdentifyDuplicates, RemoveDuplicates
from spark_semdedup.ml.kmeans import EmbeddingKMeans, EmbeddingKMeansModel
from spark_semdedup.ml.pairwise import PairwiseSimilarity
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.integrity import check_neighbours
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.pairwise.schema import ASSIGNED
from spark_semdedup.params import DecisionParams, HasColumns
from spark_semdedup.report.references import by_references_alone
from spark_semdedup.runs import preflight, results
from spark_semdedup.runs.checks import check_read, check_removed, check_unchanged
from spark_semdedup.runs.deduplication import Deduplication
from spark_semdedup.runs.identity import fingerprint_of_files
from spark_semdedup.runs.incremental import Incremental
from spark_semdedup.runs.manifest import EMBEDDINGS, MANIFEST, begin, finish
from spark_semdedup.runs.phases import phases_of
from spark_semdedup.runs.preflight import Job, SavedCentroids, Settings
from spark_semdedup.runs.results import StepResult
from spark_semdedup.runs.run import Run
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.summary import Summary
from spark_semdedup.runs.target import Target
from spark_semdedup.runs.texts import COLUMN_PARAMS, DocumentEmbedder, RunTexts
from spark_semdedup.runs.wanted import Wanted
from spark_semdedup.spark.backend import resolve_backend
from spark_semdedup.spark.columns import by_its_bytes, field, id_column
from spark_semdedup.spark.files import join
from spark_semdedup.spark.parquet import own_reader

log = logging.getLogger("spark_semdedup")


def run(
    job: Job,
    source: Source,
    target: Target,
    settings: Settings,
    saved: SavedCentroids | None = None,
    wanted: Wanted | None = None,
    embedder: DocumentEmbedder | None = None,
    incremental: Incremental | None = None,
) -> Summary:
    """Deduplicates ``source`` into the folder ``target.path``, laid out as docs/how-it-works.md, "Files", says.

    ``settings``: Params of ``SemDedup``. ``wanted``: which results to write. ``embedder``: how to embed the texts of
    ``source``; None: it has embeddings. ``incremental``: an index or a table to compare with, or an index to write.
    """
    saved = saved or SavedCentroids()
    work = Deduplication.of(job, source, target, settings, saved, wanted, embedder, incremental)
    discards = [EMBEDDINGS] if embedder is not None and not target.keep_embeddings else []
    flags = (target.resume, target.overwrite, target.keep_stages)
    return Run(work.journal, job.progress, work, phases_of(work), *flags, discards).execute()


class _Unchanged:
    """Notes the input's files, to check later that they are the same."""

    def __init__(self, job: Job, source: Source, rows: DataFrame) -> None:
        self._job, self._source, self._schema = job, source, rows.schema
        self._before = fingerprint_of_files(job.files, source, rows)

    def check(self) -> None:
        """Raises ``AccountingError`` for other files, sizes or times."""
        now = self._source.read(self._job.spark, self._schema)
        check_unchanged(self._before, fingerprint_of_files(self._job.files, self._source, now))


def embed(job: Job, source: Source, target: Target, settings: Settings, text_col: str) -> Summary:
    """Embeds the texts of ``source``: id, embedding and ``metadataCols``, to a folder that ``run`` takes as its input.

    ``settings``: Params of ``HasColumns`` and ``HasTextModel``, and ``backend``. Null and blank texts get a null
    embedding.
    """
    columns = HasColumns(**{name: value for name, value in settings.items() if name in COLUMN_PARAMS})
    embedder = DocumentEmbedder(text_col, {n: value for n, value in settings.items() if n not in COLUMN_PARAMS})
    preflight.check_paths(job, target, source=source, reads={})
    source = source.pinned(job.spark)
    rows = preflight.read_input(job, source, target)
    texts = RunTexts.load(embedder, job, rows, columns, carried=columns.value("metadataCols") or [])
    summary = Summary("embed", input_version=source.version)
    job.progress.begin(1)
    unchanged = _Unchanged(job, source, rows)
    with results.held_folder(job, target) as assert_held, job.progress.phase("embed texts") as counts:
        total = preflight.count_ids(rows, columns)
        folder = results.cleared_folder(job, target, assert_held)

        def check(written: int) -> None:
            check_read(total, written)
            unchanged.check()
            assert_held()

        about = texts.manifest("embed")
        counts |= embedder.write(job.files, rows, folder, columns, about=about, carried=texts.carried, check=check)
    results.complete_summary(job, summary, columns)
    summary.counts = {"rows_in": total, **{name: n for name, n in counts.items() if name != "rows"}}
    summary.results = {"embeddings": folder}
    summary.parameters |= texts.described()
    return summary


def cluster(
    job: Job, source: Source, target: Target, settings: Settings, saved: SavedCentroids | None = None
) -> Summary:
    """Fits centroids and writes the rows by cluster: ``centroid=N/``, ``_centroids/``, with skip ``_invalid/``.

    ``settings``: Params of ``EmbeddingKMeans``, and ``rankBy``, whose columns are written too.
    """
    saved = saved or SavedCentroids()
    preflight.check_paths(job, target, source=source, reads=saved.reads())
    given, settings = saved.load(job, settings)
    ranking = Ranking.of(PairwiseSimilarity(rankBy=settings.pop("rankBy", None)))
    estimator = EmbeddingKMeans(**settings)
    source = source.pinned(job.spark)
    reserved = [*ASSIGNED, *(["reason"] if estimator.value("handleInvalid") != "error" else [])]
    opened = preflight.open_input(job, source, target, estimator, ranking, given, reserved, "cluster")
    rows, summary = opened.rows, Summary("cluster", backend=opened.backend, clusterer=opened.clusterer)
    model = given and EmbeddingKMeansModel(centroids=given.centroids, history=given.history, **settings)
    job.progress.begin(2)
    unchanged = _Unchanged(job, source, rows)
    with results.held_folder(job, target) as assert_held:
        with job.progress.phase("load centroids" if model else "fit centroids") as counts:
            if model is not None:
                total = preflight.count_ids(rows, model)  # which a fit does itself
            else:
                model = estimator.fit(rows)
                assert model.fitted_rows is not None  # by this very fit
                total = model.fitted_rows
            if job.files.exists(join(target.folder, MANIFEST)):  # validate all rows before the earlier result goes
                model.refuse_invalid(rows)
            folder = results.cleared_folder(job, target, assert_held)
            begin(job.files, folder)
            model.save(join(folder, "_centroids"))
            counts["centroids"] = len(model.centroids)
        with job.progress.phase("assign and write") as counts:
            _write_clusters(job, rows, total, model, ranking, folder, summary)
            counts.update({"rows": summary.counts["rows_in"], "clusters": summary.counts["clusters"]})
        results.complete_summary(job, summary, estimator)
        summary.parameters = saved.described(summary.parameters, len(model.centroids))
        summary.parameters["rankBy"] = [f"{name} {'asc' if up else 'desc'}" for name, up in ranking.by] or None
        valid = summary.counts["rows_in"] - summary.counts["invalid"]
        unchanged.check()
        assert_held()
        finish(job.files, folder, {"holds": "clusters", "rows": valid, **summary.as_dict()})
    return summary


def _write_clusters(
    job: Job, rows: DataFrame, total: int, model: EmbeddingKMeansModel, ranking: Ranking, folder: str, summary: Summary
) -> None:
    """Assigns the ``total`` rows and writes the valid ones by cluster; adds counts and results to ``summary``."""
    valid, invalid = model.clustered(rows, ranking)
    # By centroid, so that each folder gets one file, not one from every task.
    valid.repartition("centroid").write.mode("append").partitionBy("centroid").parquet(folder)
    read = own_reader(job.spark).schema(valid.schema).parquet(folder)  # there may be no file to read a schema from
    counts = results.count_clusters(read)
    handle_invalid, lost = model.value("handleInvalid"), total - counts["rows"]
    check_read(total, counts["rows"], may_lose=handle_invalid != "error")
    summary.counts = {"rows_in": total, "invalid": lost, "clusters": counts["clusters"]}
    summary.results = {"clusters": folder, "centroids": join(folder, "_centroids")}
    if handle_invalid == "skip":
        # Finding the invalid rows means assigning all rows again; mostly there are none, as the count shows.
        summary.results["invalid"] = path = join(folder, "_invalid")
        skipped = invalid if lost else invalid.limit(0)
        check_read(
            total,
            counts["rows"] + results.write_dataset(job.files, skipped, path, results.manifest_for("invalid", summary)),
        )


def pairwise(job: Job, clusters: str, target: Target, settings: Settings, centroids: str | None = None) -> Summary:
    """Compares the rows of each cluster: from ``cluster``'s folder, or NeMo Curator's, to a folder of similarities.

    ``settings``: Params of ``PairwiseSimilarity``. Embeddings must be unit vectors. ``centroids``: the saved model that
    assigned the rows, for coverage beyond the own cluster; default: ``_centroids`` in the folder.
    """
    params = PairwiseSimilarity(**settings, normalize=False)
    ranking = Ranking.of(params)
    coverage = Coverage.of(params, params.similarity_threshold())
    preflight.check_paths(job, target, reads={"input": [clusters], "centroids": [centroids] if centroids else []})
    if coverage.visits:
        params.setCentroids(_centroids_of(job, clusters, centroids))
    read = StepResult.read(job, clusters, "input", "clusters")
    read = replace(read, rows=_with_whole_centroid(read.rows))
    preflight.check_columns(read.rows, params, ranking, clustered=True)
    summary = Summary("pairwise", backend=resolve_backend(job.spark, params.value("backend")))
    results.describe_coverage(summary, params)
    job.progress.begin(2)

    with job.progress.phase("plan") as counts:
        sizes = results.count_clusters(read.rows)
        if not sizes["rows"]:
            raise SemDedupError(f"input={shown(clusters, 400)} is empty: it must have at least one row")
        read.check_count(sizes["rows"])
        comparison = params.compared(read.rows)
        summary.planned = comparison.workload.facts()
        job.progress.note(comparison.workload.in_words())
        counts |= sizes
    with (
        _persisted(comparison.entries.df) as entries,
        results.held_folder(job, target) as assert_held,
        job.progress.phase("compare") as counts,
    ):
        matches = replace(comparison.entries, df=entries)
        totals = matches.counts()  # all tasks compute all matches here, before fewer write the similarities
        counts["pairs"] = totals["pairs"]
        check_read(sizes["rows"], totals["rows"])
        check_neighbours(matches, totals)
        folder = results.cleared_folder(job, target, assert_held)
        manifest = results.manifest_for("similarities", summary, params)
        with decided(replace(comparison, entries=matches), totals["further"], params) as rows:
            written = results.write_similarities(job.files, rows, totals, folder, manifest, assert_held)
    summary.counts = {"rows_in": written, "clusters": sizes["clusters"], "pairs_compared": totals["pairs"]}
    summary.results = {"similarities": folder}
    return results.complete_summary(job, summary, params)


@contextmanager
def _persisted(rows: DataFrame) -> Iterator[DataFrame]:
    """The rows, cached until the end, whichever it is."""
    try:
        yield rows.persist()
    finally:
        rows.unpersist()


def _with_whole_centroid(rows: DataFrame) -> DataFrame:
    """The rows of clusters, whose number, the name of a folder, is text where the session infers no types of those."""
    infers = rows.sparkSession.conf.get("spark.sql.sources.partitionColumnTypeInference.enabled")
    is_text = "centroid" in rows.columns and isinstance(rows.schema["centroid"].dataType, T.StringType)
    return rows.withColumn("centroid", F.col("centroid").cast("int")) if is_text and infers == "false" else rows


def _centroids_of(job: Job, clusters: str, given: str | None) -> EmbeddingKMeansModel:
    """The model that assigned the rows in the folder ``clusters``."""
    beside = join(clusters, "_centroids")
    if given is None and not job.files.exists(join(beside, "metadata")):
        raise SemDedupError(
            f"centroids is not set, and input={shown(clusters, 400)} has no _centroids: rows that are compared beyond "
            "their own clusters need the saved model that assigned them"
        )
    return preflight.load_model(job, given or beside, "centroids")


def identify(job: Job, similarities: str, target: Target, settings: Settings) -> Summary:
    """Writes the rows whose similarity makes them duplicates. ``settings``: Params of ``IdentifyDuplicates``."""
    params = IdentifyDuplicates(**settings)
    threshold = params.similarity_threshold()
    preflight.check_paths(job, target, reads={"input": [similarities]})
    read = StepResult.read(job, similarities, "input", "similarities")
    _refuse_incomplete(params, threshold, read)
    params.transform(read.rows)  # checks the columns
    total = read.check_count(count_similarities(read.rows))
    coverage = {name: value for name, value in read.manifest.items() if name in results.ABOUT_COVERAGE}
    summary = Summary("identify", threshold=threshold, eps=results.reported_eps(params), **coverage)
    job.progress.begin(1)
    with results.held_folder(job, target) as assert_held, job.progress.phase("identify duplicates") as counts:
        folder = results.cleared_folder(job, target, assert_held)
        find = results.similar_to_write if by_references_alone(read.manifest) else results.duplicates_to_write
        duplicates = find(read.rows, total, params)
        expected = duplicates.count()

        def check(written: int) -> None:
            check_read(expected, written)
            assert_held()

        manifest = results.manifest_for("duplicates", summary, params)
        counts["duplicates"] = results.write_dataset(job.files, duplicates, folder, manifest, check)
        summary.counts = {"rows_in": total, "duplicates": counts["duplicates"]}
    summary.results = {"duplicates": folder}
    return results.complete_summary(job, summary, params)


def _refuse_incomplete(params: DecisionParams, threshold: float, read: StepResult) -> None:
    """Scores that are exact only from some similarity on do not tell the duplicates below it; those of the greedy rule,
    which are similarities to the rows that one eps keeps, tell those of that eps alone."""
    kept_from = read.manifest.get("kept_from")
    if kept_from is not None and _least_score(threshold) != _least_score(kept_from):
        raise SemDedupError(
            f"eps={results.reported_eps(params):.6g} is not {1 - kept_from:.6g}, for which keepRule='greedy' decided "
            f"the scores in {shown(read.path, 400)}: give that eps, or compare again"
        )
    complete = read.manifest.get("complete_eps")
    if complete is None:
        return
    if _least_score(threshold) < _least_score(read.manifest.get("complete_from", 1.0 - complete)):
        raise SemDedupError(
            f"eps={results.reported_eps(params):.6g} is larger than {complete:.6g}, up to which the scores in "
            f"{shown(read.path, 400)} are complete: lower eps, or compare again with a larger one"
        )


def _least_score(threshold: float) -> np.float32:
    """The smallest score that is at least ``threshold``: 1 - 0.07 and 0.93 are two doubles, with no float32 between."""
    score = np.float32(threshold)
    return score if float(score) >= threshold else np.nextafter(score, np.float32(np.inf))


def remove(
    job: Job, source: Source, target: Target, settings: Settings, *, duplicates: str, invalid: str | None = None
) -> Summary:
    """Writes the rows of ``source`` whose ids are neither among the ``duplicates`` nor among the ``invalid`` rows.

    ``settings``: Params of ``RemoveDuplicates``.
    """
    params = RemoveDuplicates(**settings)
    id_col = params.value("idCol")
    reads = {"duplicates": [duplicates], "invalid": [invalid] if invalid else []}
    preflight.check_paths(job, target, source=source, reads=reads)
    source = source.pinned(job.spark)
    rows = preflight.read_input(job, source, target)
    id_column(rows, id_col)
    unchanged = _Unchanged(job, source, rows)
    read = StepResult.read(job, duplicates, "duplicates", "duplicates")
    removed = {"duplicates": read.check_count(read.rows.count())}
    unwanted = read.rows.select(by_its_bytes(field(read.rows, "id", "duplicates: column")).alias("id"))
    if invalid is not None:
        read = StepResult.read(job, invalid, "invalid", "invalid")
        removed["invalid"] = read.check_count(read.rows.count())
        unwanted = unwanted.unionAll(read.rows.select(id_column(read.rows, id_col).alias("id")))
    wanted = params.setDuplicates(unwanted).transform(rows)
    total, named = preflight.count_ids(rows, params), sum(removed.values())
    summary = Summary("remove", counts={"rows_in": total, **removed})
    job.progress.begin(1)
    with results.held_folder(job, target) as assert_held, job.progress.phase("write the kept rows") as counts:
        unchanged.check()
        target.try_writing(job.files, rows, source)
        folder = results.cleared_folder(job, target, assert_held) if target.table is None else ""

        def check(kept: int) -> None:
            check_removed(total, named, kept)
            unchanged.check()
            assert_held()

        manifest = results.manifest_for("deduplicated", summary, params)
        kept = results.write_kept(job, wanted, id_col, target, folder, manifest, check).rows
        summary.counts["kept"] = counts["kept"] = kept
    if (absent := named - (total - kept)) > 0:
        what = " and ".join(removed)
        log.warning("%d of the %d rows of %s are not in the input, or are named twice", absent, named, what)
    summary.results = {"deduplicated": folder or f"table {target.table}"}
    return results.complete_summary(job, summary, params)
