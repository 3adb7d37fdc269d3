"""``evaluate``: the recall of a finished run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pyspark.sql import DataFrame

from spark_semdedup.analysis.recall import MISSED, SAMPLE_ROWS, Evaluation, Evaluator, check_counts, noting_faults
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.ml.kmeans import EmbeddingKMeansModel
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.pairwise.rows import UnassignedRows
from spark_semdedup.params import DEFAULTS, RankingParams
from spark_semdedup.runs.manifest import read_manifest, read_run_manifest
from spark_semdedup.runs.preflight import EVALUATION, RUN_RESULTS, Job, Settings
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.target import Target
from spark_semdedup.spark.backend import resolve_backend
from spark_semdedup.spark.documents import Documents
from spark_semdedup.spark.files import Files, join


def evaluate(
    dataset: DataFrame,
    result: str,
    *,
    sample_rows: int = SAMPLE_ROWS,
    seed: int = DEFAULTS["seed"],
    missed: int = MISSED,
    backend: str = DEFAULTS["backend"],
    deviceMemoryFraction: float = DEFAULTS["deviceMemoryFraction"],
) -> Evaluation:
    """Estimates how many of the rows that it should have removed a finished run removed.

    ``dataset``: the rows the run read. ``result``: the folder it wrote. ``sample_rows`` of its rows, those whose ids
    hash lowest with ``seed``, are compared with all of ``dataset``; every task holds their vectors. ``missed``: missed
    pairs to list at most. ``SemDedupModel.evaluate`` does the same for a result that no run wrote.

    Raises ``SemDedupError`` where ``result`` is no run's folder or ``dataset`` is not what that run read.
    """
    check_counts(sample_rows, missed)
    evaluator = evaluator_of_run(dataset, result, backend=backend, deviceMemoryFraction=deviceMemoryFraction)
    return noting_faults(evaluator.compare(evaluator.sample(sample_rows, seed), missed))


def evaluator_of_run(
    dataset: DataFrame,
    result: str,
    *,
    backend: str = DEFAULTS["backend"],
    deviceMemoryFraction: float = DEFAULTS["deviceMemoryFraction"],
) -> Evaluator:
    """The evaluator of the folder ``result`` that a run wrote; settings are what its manifest and its model say.

    Raises ``SemDedupError`` where it is no run's folder, or ``dataset`` lacks the run's columns.
    """
    spark = dataset.sparkSession
    files = Files(spark)
    manifest = read_run_manifest(files, result, "result")
    for name in ("similarities", "duplicates"):
        read_manifest(files, join(result, name), "result", name)
    if not files.exists(join(result, "centroids", "metadata")):
        raise SemDedupError(f"result={shown(result, 400)} has lost its centroids: they are needed to rank rows")
    model: EmbeddingKMeansModel = EmbeddingKMeansModel.load(join(result, "centroids"))
    model.setParams(backend=backend, deviceMemoryFraction=deviceMemoryFraction)
    model.setParams(backend=resolve_backend(spark, model.value("backend")))
    ranking = _ranking_of(manifest["parameters"])
    documents = Documents.of(dataset, model.value("idCol"), model.value("embeddingCol"))
    evaluator = Evaluator(
        rows=UnassignedRows(documents, model.fitted_centroids, ranking, model),
        similarities=spark.read.parquet(join(result, "similarities")),
        duplicates=spark.read.parquet(join(result, "duplicates")),
        threshold=manifest["threshold"],
        rows_in=manifest["rows_in"],
        coverage=manifest.get("coverage"),
        coverage_in_words=manifest.get("coverage_in_words"),
        result=result,
    )
    evaluator.check()
    return evaluator


def _ranking_of(parameters: dict[str, Any]) -> Ranking:
    """The run's, from its manifest, which holds the defaults, too: rankBy makes whichToKeep void there."""
    names = ["seed", "rankBy"] if parameters.get("rankBy") else ["seed", "whichToKeep", "distanceMetric"]
    return Ranking.of(RankingParams(**{name: parameters[name] for name in names}))


def evaluate_step(
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
    evaluator = evaluator_of_run(source.pinned(job.spark).read(job.spark), result, **settings)
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
