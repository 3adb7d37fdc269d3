"""The steps of the job as the program runs them: read, check, compute, write, report.

``run`` is the whole; ``cluster``, ``pairwise``, ``identify`` and ``remove`` are its parts, and one after the other they
give the same answer. Each checks all it can before it begins a stage (``Progress.begin``): until then nothing that was
there has been touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_semdedup import clusterers
from spark_semdedup.clustering import ASSIGNED, EmbeddingKMeans, EmbeddingKMeansModel
from spark_semdedup.columns import embedding_column, field, id_column, quoted, refuse_shadowed
from spark_semdedup.datasets import (
    RUN_MANIFEST,
    Source,
    Target,
    begin,
    files_for,
    finish,
    read_manifest,
    write_dataset,
)
from spark_semdedup.devices import resolve_backend
from spark_semdedup.duplicates import IdentifyDuplicates, RemoveDuplicates, without_ids
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.files import Files, join
from spark_semdedup.pairwise import PairwiseSimilarity
from spark_semdedup.params import ClusteringParams, HasBackend, HasSeed, RankingParams, SemDedupParams
from spark_semdedup.ranking import Ranking
from spark_semdedup.report import Progress, Summary, versions
from spark_semdedup.semdedup import SemDedup, SemDedupModel, SemDedupResult

RUN_RESULTS = ("centroids", "similarities", "duplicates", "deduplicated", "invalid", "summary.json", RUN_MANIFEST)
"""What a run writes into its folder; ``--overwrite`` deletes these and nothing else."""

Settings = Mapping[str, Any]
"""Values of Params by their names, those alone that the user has set."""


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
class Centroids:
    """Saved centroids that a step starts from: a ``model`` to use instead of a fit, or the fit's ``initial`` ones."""

    model: str | None = None
    initial: str | None = None


# --- the whole ----------------------------------------------------------------------------------------------


def run(job: Job, source: Source, target: Target, settings: Settings, centroids: Centroids | None = None) -> Summary:
    """Deduplicates ``source`` into the folder ``target.path`` (DESIGN 4)."""
    centroids = centroids or Centroids()
    output = _folder(target)
    job_params = SemDedup(**settings)
    threshold = job_params.similarity_threshold()
    ranking = Ranking.of(job_params)
    _check_paths(job, source, target, centroids)
    model, job_params = _saved_centroids(job, job_params, centroids)
    rows = source.read(job.spark)
    _check_columns(rows, job_params, ranking)
    if job_params.value("handleInvalid") == "skip":
        refuse_shadowed(rows, ["reason"], "handleInvalid='skip'")
    backend, clusterer = _resolve(job, job_params, fits=model is None)
    target.try_writing(job.files, rows)
    _clear_run(job, output)
    job.progress.begin(4)

    begin(job.files, output)
    with job.progress.stage("load centroids" if model else "fit centroids") as counts:
        fitted = model or job_params.fit(rows)
        fitted.clustering.save(join(output, "centroids"))
        counts["centroids"] = len(fitted.centroids)
    with job.progress.stage("assign and compare") as counts:
        result = fitted.run(rows)
        found = result.counts()  # computes the comparison with all tasks, before few of them write it
        counts.update({"rows": found["rows"], "clusters": found["clusters"], "pairs": found["pairs"]})
        about = _about("similarities", job_params, job, backend, clusterer)
        similarities = join(output, "similarities")
        valid = found["rows"] - found["invalid"]
        write_dataset(job.files, result.similarities.coalesce(files_for(valid)), similarities, about)
    with job.progress.stage("identify duplicates") as counts:
        duplicates = join(output, "duplicates")
        counts["duplicates"] = _write_duplicates(job, job_params, similarities, duplicates, backend, clusterer)
    with job.progress.stage("write the rows that remain") as counts:
        skipped = _write_invalid(job, job_params, result, found["invalid"], target)
        result.unpersist()
        unwanted = [job.spark.read.parquet(duplicates).select("id"), *skipped]
        kept = target.save_remaining(_without(rows, job_params.value("idCol"), unwanted), join(output, "deduplicated"))
        counts["kept"] = kept

    set_aside = found["invalid"] if skipped else 0
    _check_balance(found["rows"], kept, counts_removed=_duplicates_of(job, duplicates), skipped=set_aside)
    results = {name: join(output, name) for name in ("centroids", "similarities", "duplicates")}
    results["deduplicated"] = target.table or join(output, "deduplicated")
    results |= {"invalid": join(output, "invalid")} if skipped else {}
    results["summary"] = join(output, "summary.json")
    summary = _summary(job, "run", job_params, results, backend=backend, clusterer=clusterer)
    summary.counts = {
        "rows_in": found["rows"],
        "invalid": found["invalid"],
        "clusters": found["clusters"],
        "pairs_compared": found["pairs"],
        "duplicates": _duplicates_of(job, duplicates),
        "kept": kept,
    }
    summary.parameters |= _origin(centroids, len(fitted.centroids))
    summary.threshold, summary.eps = threshold, _eps(job_params)
    summary.coverage = "cluster"
    job.files.write_text(results["summary"], summary.as_json())
    finish(job.files, output, {"holds": "run", **summary.as_dict()}, RUN_MANIFEST)
    return summary
