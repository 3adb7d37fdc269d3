"""A report of the folder that a run wrote: its files as ``RunResults``, and the page as a file."""

from __future__ import annotations

import json
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.ml.kmeans import EmbeddingKMeansModel
from spark_semdedup.report.data import RunResults
from spark_semdedup.report.rows import Columns
from spark_semdedup.runs.manifest import read_run_manifest
from spark_semdedup.spark.files import Files, join


def results_of(
    spark: SparkSession, files: Files, folder: str, *, texts: DataFrame | None = None, text_col: str | None = None
) -> RunResults:
    """What a finished run left in ``folder``. ``texts``: the run's input, which has the texts of removed rows, too.

    Raises ``SemDedupError`` where no run has ended there, or the input lacks a column.
    """
    facts = read_run_manifest(files, folder, "OUT")
    if facts.get("holds") != "run":
        raise SemDedupError(f"OUT={shown(folder, 400)} holds {shown(facts.get('holds'))}: give the folder of a run")
    model = EmbeddingKMeansModel.load(join(folder, "centroids"))
    params = facts.get("parameters") or {}
    rows = texts
    if rows is None and files.exists(join(folder, "deduplicated")):
        rows = _kept(spark, files, folder)
    id_col, embedding_col = params.get("idCol", "id"), params.get("embeddingCol", "embedding")
    columns = None if rows is None else Columns.of(rows, id_col, embedding_col, text_col)
    return RunResults(
        facts=facts,
        evaluation=_evaluation(files, folder),
        similarities=spark.read.parquet(join(folder, "similarities")),
        duplicates=spark.read.parquet(join(folder, "duplicates")),
        centroids=model.centroids,
        history=tuple(model.history),
        spherical=model.value("distanceMeasure") == "cosine",
        rows=rows,
        columns=columns,
        is_whole_input=texts is not None,
        clusters=_clusters(spark, files, folder),
    )


def _kept(spark: SparkSession, files: Files, folder: str) -> DataFrame | None:
    """The rows that remain, where they are Parquet; other formats need options that are not noted."""
    names = files.names(join(folder, "deduplicated"))
    return spark.read.parquet(join(folder, "deduplicated")) if any(".parquet" in name for name in names) else None


def _clusters(spark: SparkSession, files: Files, folder: str) -> DataFrame | None:
    """The cluster of each row, where the run kept its stages."""
    path = join(folder, "_stages", "compared")
    if not files.exists(path):
        return None
    return spark.read.parquet(path).where(F.col("own") & F.col("reason").isNull()).select("id", "centroid")


def _evaluation(files: Files, folder: str) -> dict[str, Any] | None:
    path = join(folder, "evaluation.json")
    if not files.exists(path):
        return None
    try:
        found = json.loads(files.read_text(path))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
