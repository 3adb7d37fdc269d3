"""A result in memory as reports and plots take it; a run's folder is read by ``runs.report``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from spark_semdedup._version import __version__
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.report.data import RunResults, gather
from spark_semdedup.report.html import render, require_libraries
from spark_semdedup.report.plotting import ResultPlots
from spark_semdedup.report.rows import Columns
from spark_semdedup.spark.files import Files

if TYPE_CHECKING:
    from spark_semdedup.ml.semdedup import SemDedupModel, SemDedupResult


def plots_of(result: SemDedupResult) -> ResultPlots:
    return ResultPlots(_results(result, _decision(result.model), None))


def write_report(result: SemDedupResult, path: str, text_col: str | None) -> None:
    """Writes the page about a result to ``path``, on any file system Spark knows."""
    require_libraries()
    spark = result.dataset.sparkSession
    facts = {
        **_decision(result.model),
        **_counts(result),
        **({} if result.against is None else {"against": {"reference_only": False}}),
        "versions": {"spark_semdedup": __version__, "spark": spark.version},
    }
    Files(spark).write_text(path, render(gather(_results(result, facts, text_col))))


def _results(result: SemDedupResult, facts: dict[str, Any], text_col: str | None) -> RunResults:
    model, dataset = result.model, result.dataset
    return RunResults(
        facts=facts,
        evaluation=None,
        similarities=result.similarities,
        duplicates=result.duplicates,
        centroids=model.centroids,
        history=tuple(model.history),
        spherical=model.value("distanceMeasure") == "cosine",
        rows=dataset,
        columns=Columns.of(
            dataset, model.value("idCol"), model.value("embeddingCol"), text_col, model.value("embeddingFormat")
        ),
        is_whole_input=True,
        clusters=result.compared.where(F.col("reason").isNull()).select("id", "centroid"),
    )


def _decision(model: SemDedupModel) -> dict[str, Any]:
    """What decides, and from where on scores are complete; no job."""
    threshold = model.similarity_threshold()
    coverage = Coverage.of(model, threshold)
    eps = round(1.0 - threshold, 12)
    return {
        "eps": eps,
        "threshold": threshold,
        "coverage": coverage.name,
        "coverage_in_words": coverage.in_words(),
        "complete_eps": eps if coverage.is_exact else None,
        "complete_from": coverage.threshold if coverage.is_exact else None,
        "parameters": {**{param.name: model.value(param.name) for param in model.params}, "k": len(model.centroids)},
    }


def _counts(result: SemDedupResult) -> dict[str, int]:
    """Two small jobs over what is kept."""
    counts, duplicates = result.counts(), result.duplicates.count()
    skipped = counts["invalid"] if result.model.value("handleInvalid") == "skip" else 0
    return {
        "rows_in": counts["rows"],
        "invalid": counts["invalid"],
        "clusters": counts["clusters"],
        "pairs_compared": counts["pairs"],
        "duplicates": duplicates,
        "kept": counts["rows"] - duplicates - skipped,
    }
