"""``evaluate``: the recall of a finished run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pyspark.sql import DataFrame

from spark_semdedup.analysis.evaluation import Evaluation
from spark_semdedup.analysis.recall import MISSED, SAMPLE_ROWS, Evaluator, check_counts, noting_faults
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.ml.kmeans import EmbeddingKMeansModel
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.pairwise.rows import UnassignedRows
from spark_semdedup.params import DEFAULTS, RankingParams
from spark_semdedup.runs.manifest import EVALUATION, RUN_RESULTS, read_manifest, read_run_manifest
from spark_semdedup.runs.preflight import Job, Settings
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.target import Target
from spark_semdedup.spark.backend import resolve_backend
from spark_semdedup.spark.documents import Documents
from spark_semdedup.spark.files import Files, join
from spark_semdedup.spark.parquet import own_reader


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
    """Estimates the recall of a finished run: of the rows that it should have removed, the share that it removed.

    ``dataset``: the rows the run read. ``result``: the folder it wrote. ``sample_rows`` of its rows, those whose ids
    hash lowest with ``seed``, are compared with all of ``dataset``; every task holds their vectors. ``missed``: missed
    pairs to list at most. ``SemDedupModel.evaluate`` does the same for a result that no run wrote.

    Raises ``SemDedupError`` where ``result`` is no run's folder or ``dataset`` is not what that run read.
    """
    check_counts(sample_rows, missed)
    evaluator = evaluator_of_run(dataset, result, {"backend": backend, "deviceMemoryFraction": deviceMemoryFraction})
    return noting_faults(evaluator.compare(evaluator.sample(sample_rows, seed), missed))


def evaluator_of_run(dataset: DataFrame, result: str, settings: Settings) -> Evaluator:
    """The evaluator of the folder ``result`` that a run wrote, with that run's settings.

    ``settings``: Params of ``HasBackend``. Raises ``SemDedupError`` where ``result`` is no run's folder, or ``dataset``
    lacks the run's columns.
    """
    spark = dataset.sparkSession
    files = Files(spark)
    manifest = read_run_manifest(files, result, "result")
    if manifest.get("against"):
        raise SemDedupError(
            f"result={shown(result, 400)} was compared with reference rows, which no sample of the input has: evaluate "
            "a run without them"
        )
    if manifest.get("keep_rule") == "greedy":
        raise SemDedupError(
            f"result={shown(result, 400)} was decided with keepRule='greedy', which keeps rows that 'ranked' removes: "
            "evaluate a run with keepRule='ranked' and the same coverage, which compares the same pairs"
        )
    for name in ("similarities", "duplicates"):
        read_manifest(files, join(result, name), "result", name)
    if not files.exists(join(result, "centroids", "metadata")):
        raise SemDedupError(f"result={shown(result, 400)} has lost its centroids: they are needed to rank rows")
    model: EmbeddingKMeansModel = EmbeddingKMeansModel.load(join(result, "centroids"))
    defaults = {name: DEFAULTS[name] for name in ("backend", "deviceMemoryFraction")}
    model.setParams(**{**defaults, **settings})
    model.setParams(backend=resolve_backend(spark, model.value("backend")))
    documents = Documents.of_params(dataset, model)
    evaluator = Evaluator(
        rows=UnassignedRows(documents, model.fitted_centroids, _ranking_of(manifest["parameters"]), model),
        similarities=own_reader(spark).parquet(join(result, "similarities")),
        duplicates=own_reader(spark).parquet(join(result, "duplicates")),
        threshold=manifest["threshold"],
        rows_in=manifest["rows_in"],
        coverage=manifest.get("coverage"),
        coverage_in_words=manifest.get("coverage_in_words"),
        result=result,
    )
    evaluator.check()
    return evaluator


def _ranking_of(parameters: dict[str, Any]) -> Ranking:
    """The run's, from its manifest. That holds the defaults, too, so ``rankBy`` must win over ``whichToKeep``."""
    names = ["seed", "rankBy"] if parameters.get("rankBy") else ["seed", "whichToKeep", "distanceMetric"]
    return Ranking.of(RankingParams(**{name: parameters[name] for name in names}))


def evaluate_step(
    job: Job,
    source: Source,
    result: str,
    settings: Settings,
    target: Target,
    *,
    sample_rows: int,
    seed: int,
    missed: int,
) -> Evaluation:
    """Estimates the recall of the run that read ``source`` and wrote the folder ``result``.

    ``settings``: Params of ``HasBackend``. ``target``: a file whose name ends with .json, or a folder for
    ``evaluation.json``; without a path, the evaluation is only returned.
    """
    check_counts(sample_rows, missed)
    source.check(job.files)
    file = _evaluation_file(job, target, source, result)
    evaluator = evaluator_of_run(source.pinned(job.spark).read(job.spark), result, settings)
    job.progress.begin(2)
    with job.progress.phase("sample") as counts:
        sample = evaluator.sample(sample_rows, seed)
        counts["rows"] = len(sample)
    with job.progress.phase("compare with all rows") as counts:
        evaluation = evaluator.compare(sample, missed)
        counts.update({"rows": evaluation.rows, "to be removed": evaluation.to_remove})
    evaluation = noting_faults(replace(evaluation, seconds=dict(job.progress.seconds)))
    if file is not None:
        job.files.write_text(file, evaluation.as_json())
    return evaluation


def _evaluation_file(job: Job, target: Target, source: Source, result: str) -> str | None:
    """The file to write. It must be outside of folders of rows, and new or allowed to be overwritten."""
    if target.path is None:
        return None
    file = target.path if target.path.endswith(".json") else join(target.path, EVALUATION)
    if job.files.real(file) in (job.files.real(join(result, name)) for name in RUN_RESULTS if "." in name):
        raise SemDedupError(f"output={shown(file, 400)} is a part of the run's result: give another file")
    folders = [join(result, name) for name in RUN_RESULTS if "." not in name]
    replace(target, path=file).check(job.files, {"input": source.paths, "result": folders})
    return file
