"""The steps of the job as the program runs them: check, read, compute, write, report.

``run`` is the whole; ``cluster``, ``pairwise``, ``identify`` and ``remove`` are its parts, and one after the other they
give the same answer; ``evaluate`` looks back on a run. A step checks all it can before its first stage: until then
nothing that was there is touched.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from pyspark.sql import DataFrame

from spark_semdedup.duplicates.threshold import count_similarities
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.ml.duplicates import IdentifyDuplicates, RemoveDuplicates
from spark_semdedup.ml.kmeans import EmbeddingKMeans, EmbeddingKMeansModel
from spark_semdedup.ml.pairwise import PairwiseSimilarity
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.integrity import check_neighbours
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.pairwise.schema import ASSIGNED
from spark_semdedup.params import DecisionParams
from spark_semdedup.runs.checks import check_read, check_removed, check_unchanged
from spark_semdedup.runs.journal import fingerprint_of_files
from spark_semdedup.runs.manifest import MANIFEST, begin, finish, read_manifest, write_dataset
from spark_semdedup.runs.preflight import (
    Job,
    SavedCentroids,
    Settings,
    check_columns,
    check_embedding_length,
    check_paths,
    load_model,
    output_folder,
    read_input,
    resolve_compute,
)
from spark_semdedup.runs.results import (
    ABOUT_COVERAGE,
    cleared_folder,
    complete_summary,
    count_clusters,
    count_rows,
    describe_coverage,
    duplicates_to_write,
    fingerprint_now,
    held_folder,
    manifest_for,
    refuse_other_count,
    reported_eps,
    warn_foreign,
    write_kept,
    write_similarities,
)
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.summary import Summary
from spark_semdedup.runs.target import Target
from spark_semdedup.spark.backend import resolve_backend
from spark_semdedup.spark.columns import by_its_bytes, field, id_column, refuse_shadowed
from spark_semdedup.spark.files import join
from spark_semdedup.spark.ids import check_ids

log = logging.getLogger("spark_semdedup")


def cluster(
    job: Job, source: Source, target: Target, settings: Settings, saved: SavedCentroids | None = None
) -> Summary:
    """Fits centroids and writes the rows by cluster: ``centroid=N/``, ``_centroids/``, with skip ``_invalid/``.

    ``settings``: Params of ``EmbeddingKMeans``, and ``rankBy``, whose columns travel along.
    """
    saved = saved or SavedCentroids()
    check_paths(job, target, source=source, reads=saved.reads())
    loaded, settings = saved.load(job, settings)
    ranking = Ranking.of(PairwiseSimilarity(rankBy=settings.pop("rankBy", None)))
    estimator = EmbeddingKMeans(**settings)
    source = source.pinned(job.spark)
    rows = read_input(job, source, target)
    check_columns(rows, estimator, ranking)
    invalid_stay = estimator.value("handleInvalid") != "error"
    refuse_shadowed(rows, [*ASSIGNED, *(["reason"] if invalid_stay else [])], "cluster")
    backend, clusterer = resolve_compute(job, estimator, fits=loaded is None)
    if loaded is not None:
        check_embedding_length(rows, estimator, loaded)
    model = loaded and EmbeddingKMeansModel(centroids=loaded.centroids, history=loaded.history, **settings)
    summary = Summary("cluster", backend=backend, clusterer=clusterer)
    job.progress.begin(2)
    at_first = fingerprint_of_files(job.files, source, rows)
    with held_folder(job, target) as assert_held:
        with job.progress.stage("load centroids" if model else "fit centroids") as counts:
            if model is not None:  # a fit checks them
                total = check_ids(rows, id_column(rows, model.value("idCol")), model.value("idCol"))
            else:
                model = estimator.fit(rows)
                assert model.fitted_rows is not None  # by this very fit
                total = model.fitted_rows
            if job.files.exists(join(output_folder(target), MANIFEST)):
                model.refuse_invalid(rows)
            folder = cleared_folder(job, target, assert_held)
            begin(job.files, folder)
            model.save(join(folder, "_centroids"))
            counts["centroids"] = len(model.centroids)
        with job.progress.stage("assign and write") as counts:
            _write_clusters(job, rows, total, model, ranking, folder, summary)
            counts.update({"rows": summary.counts["rows_in"], "clusters": summary.counts["clusters"]})
        complete_summary(job, summary, estimator)
        summary.parameters = saved.described(summary.parameters, len(model.centroids))
        summary.parameters["rankBy"] = [f"{name} {'asc' if up else 'desc'}" for name, up in ranking.by] or None
        rows_written = summary.counts["rows_in"] - summary.counts["invalid"]
        check_unchanged(at_first, fingerprint_now(job, source, rows))
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
    found = count_clusters(job.spark.read.schema(valid.schema).parquet(folder))  # there may be no file to tell it
    handle_invalid = model.value("handleInvalid")
    lost = total - found["rows"]
    check_read(total, found["rows"], may_lose=handle_invalid != "error")
    summary.counts = {"rows_in": total, "invalid": lost, "clusters": found["clusters"]}
    summary.results = {"clusters": folder, "centroids": join(folder, "_centroids")}
    if handle_invalid == "skip":
        # Rows are assigned again to find the invalid ones; mostly there are none, which the count has told.
        summary.results["invalid"] = join(folder, "_invalid")
        aside = invalid if lost else invalid.limit(0)
        set_aside = write_dataset(job.files, aside, summary.results["invalid"], manifest_for("invalid", summary))
        check_read(total, found["rows"] + set_aside)


def pairwise(job: Job, clusters: str, target: Target, settings: Settings, centroids: str | None = None) -> Summary:
    """Compares the rows of each cluster: ``cluster``'s folder, or NeMo Curator's, to a folder of similarities.

    ``settings``: Params of ``PairwiseSimilarity``. Embeddings are taken as the unit vectors they are. ``centroids``:
    the saved model that assigned the rows, for coverage beyond the own cluster; default: ``_centroids`` in the folder.
    """
    params = PairwiseSimilarity(**settings, normalize=False)
    ranking = Ranking.of(params)
    coverage = Coverage.of(params, params.similarity_threshold())
    check_paths(job, target, reads={"input": [clusters], "centroids": [centroids] if centroids else []})
    if coverage.visits:
        params.setCentroids(_centroids_of(job, clusters, centroids))
    manifest = warn_foreign(read_manifest(job.files, clusters, "input", "clusters"), clusters)
    rows = Source((clusters,)).read(job.spark)
    check_columns(rows, params, ranking, clustered=True)
    summary = Summary("pairwise", backend=resolve_backend(job.spark, params.value("backend")))
    describe_coverage(summary, params)
    job.progress.begin(2)

    with job.progress.stage("plan") as counts:
        found = count_clusters(rows)
        if not found["rows"]:
            raise SemDedupError(f"input={shown(clusters, 400)} is empty: it must have at least one row")
        refuse_other_count(found["rows"], (manifest or {}).get("rows"), "input", clusters)
        comparison = params.compared(rows)
        entries = replace(comparison.entries, df=comparison.entries.df.persist())
        summary.planned = comparison.workload.facts()
        job.progress.note(comparison.workload.in_words())
        counts.update({"rows": found["rows"], "clusters": found["clusters"]})
    with held_folder(job, target) as assert_held, job.progress.stage("compare") as counts:
        # Computes all entries, with all tasks, before fewer of them write what they come to.
        totals = entries.counts()
        counts["pairs"] = pairs = totals["pairs"]
        check_read(found["rows"], totals["rows"])
        check_neighbours(entries, totals)
        folder = cleared_folder(job, target, assert_held)
        about = manifest_for("similarities", summary, params)
        written = write_similarities(job.files, entries, totals, folder, about, assert_held)
        entries.df.unpersist()
    summary.counts = {"rows_in": written, "clusters": found["clusters"], "pairs_compared": pairs}
    summary.results = {"similarities": folder}
    return complete_summary(job, summary, params)


def _centroids_of(job: Job, clusters: str, given: str | None) -> EmbeddingKMeansModel:
    """The model that assigned the rows in the folder ``clusters``."""
    beside = join(clusters, "_centroids")
    if given is None and not job.files.exists(join(beside, "metadata")):
        raise SemDedupError(
            f"centroids is not set, and input={shown(clusters, 400)} has no _centroids: rows that are compared beyond "
            "their own clusters need the saved model that assigned them"
        )
    return load_model(job, given or beside, "centroids")


def identify(job: Job, similarities: str, target: Target, settings: Settings) -> Summary:
    """Writes the rows whose similarity makes them duplicates. ``settings``: Params of ``IdentifyDuplicates``."""
    params = IdentifyDuplicates(**settings)
    threshold = params.similarity_threshold()
    check_paths(job, target, reads={"input": [similarities]})
    manifest = warn_foreign(read_manifest(job.files, similarities, "input", "similarities"), similarities)
    _refuse_incomplete(params, threshold, manifest, similarities)
    rows = Source((similarities,)).read(job.spark)
    params.transform(rows)  # checks the columns
    total = count_similarities(rows)
    refuse_other_count(total, (manifest or {}).get("rows"), "input", similarities)
    said = {name: value for name, value in (manifest or {}).items() if name in ABOUT_COVERAGE}
    summary = Summary("identify", threshold=threshold, eps=reported_eps(params), **said)
    job.progress.begin(1)
    with held_folder(job, target) as assert_held, job.progress.stage("identify duplicates") as counts:
        folder = cleared_folder(job, target, assert_held)
        about = manifest_for("duplicates", summary, params)
        found = duplicates_to_write(rows, total, params)
        there = found.count()

        def check(written: int) -> None:
            check_read(there, written)
            assert_held()

        counts["duplicates"] = write_dataset(job.files, found, folder, about, check)
        summary.counts = {"rows_in": total, "duplicates": counts["duplicates"]}
    summary.results = {"duplicates": folder}
    return complete_summary(job, summary, params)


def remove(
    job: Job, source: Source, target: Target, settings: Settings, *, duplicates: str, invalid: str | None = None
) -> Summary:
    """Writes the rows of ``source`` that are not among the ``duplicates``, nor among the ``invalid`` rows set aside.

    ``settings``: Params of ``RemoveDuplicates``.
    """
    params = RemoveDuplicates(**settings)
    reads = {"duplicates": [duplicates], "invalid": [invalid] if invalid else []}
    check_paths(job, target, source=source, reads=reads)
    source = source.pinned(job.spark)
    rows = read_input(job, source, target)
    id_column(rows, params.value("idCol"))
    at_first = fingerprint_of_files(job.files, source, rows)
    found, removed = count_rows(job, duplicates, "duplicates")
    unwanted = found.select(by_its_bytes(field(found, "id", "duplicates: column")).alias("id"))
    if invalid is not None:
        aside, set_aside = count_rows(job, invalid, "invalid")
        removed |= set_aside
        unwanted = unwanted.unionAll(aside.select(id_column(aside, params.value("idCol")).alias("id")))
    remaining = params.setDuplicates(unwanted).transform(rows)
    total = check_ids(rows, id_column(rows, params.value("idCol")), params.value("idCol"))
    summary = Summary("remove", counts={"rows_in": total, **removed})
    named = sum(removed.values())
    job.progress.begin(1)
    with held_folder(job, target) as assert_held, job.progress.stage("write the rows that remain") as counts:
        check_unchanged(at_first, fingerprint_now(job, source, rows))
        target.try_writing(job.files, rows)
        folder = cleared_folder(job, target, assert_held) if target.table is None else None
        about = manifest_for("deduplicated", summary, params)

        def check(kept: int) -> None:
            check_removed(total, named, kept)
            check_unchanged(at_first, fingerprint_now(job, source, rows))
            assert_held()

        kept = write_kept(job, remaining, params.value("idCol"), target, folder or "", about, check)
        summary.counts["kept"] = counts["kept"] = kept.rows
    if total - kept.rows < named:
        what, not_found = " and ".join(removed), named - (total - kept.rows)
        log.warning("%d of the %d rows of %s are not in the input, or are named twice", not_found, named, what)
    summary.results = {"deduplicated": folder or f"table {target.table}"}
    return complete_summary(job, summary, params)


def _refuse_incomplete(params: DecisionParams, threshold: float, manifest: Mapping[str, Any] | None, path: str) -> None:
    """Scores that are exact only from a similarity on say nothing of duplicates below it."""
    complete = (manifest or {}).get("complete_eps")
    if complete is None:
        return
    if _least_score(threshold) < _least_score((manifest or {}).get("complete_from", 1.0 - complete)):
        raise SemDedupError(
            f"eps={reported_eps(params):.6g} is larger than {complete:.6g}, up to which the scores in "
            f"{shown(path, 400)} are complete: lower eps, or compare again with a larger one"
        )


def _least_score(threshold: float) -> np.float32:
    """The smallest score that is at least ``threshold``: 1 - 0.07 and 0.93 are two doubles, with no float32 between."""
    score = np.float32(threshold)
    return score if float(score) >= threshold else np.nextafter(score, np.float32(np.inf))
