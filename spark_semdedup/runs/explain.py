"""``explain``: why a row of a run went or stayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_semdedup.analysis.explain import (
    NO_REFERENCES,
    REFERENCES_ALONE,
    SOME_REFERENCES,
    ExplainedRow,
    Explanation,
    follow,
    similarity_of,
    with_facts,
)
from spark_semdedup.analysis.sweep import texts_of
from spark_semdedup.kernels import unit_vectors
from spark_semdedup.ml.kmeans import EmbeddingKMeansModel
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.pairwise.schema import ASSIGNED
from spark_semdedup.params import RankingParams
from spark_semdedup.runs.manifest import read_manifest, read_run_manifest
from spark_semdedup.runs.sweep import active_session
from spark_semdedup.spark.columns import quoted
from spark_semdedup.spark.documents import Documents
from spark_semdedup.spark.files import Files, join
from spark_semdedup.spark.parquet import own_reader


def explain(
    result: str,
    id: Any,
    *,
    dataset: DataFrame | None = None,
    text_col: str | None = None,
    spark: SparkSession | None = None,
) -> Explanation:
    """Why the row ``id`` was removed or kept by the run that wrote the folder ``result``: the rows that its links lead
    to, with scores.

    ``dataset``: the rows that the run read, for clusters, distances and what ranks them, and for texts, which
    ``text_col`` names. ``spark``: the session to use (default: the active one).

    Raises ``SemDedupError`` for a folder that is no run's, and for an id that no valid row has.
    """
    spark = spark or (dataset.sparkSession if dataset is not None else active_session())
    files = Files(spark)
    manifest = read_run_manifest(files, result, "result")
    about = read_manifest(files, join(result, "similarities"), "result", "similarities")
    similarities = own_reader(spark).parquet(join(result, "similarities"))
    rows, is_cut = follow(similarities, id, manifest["threshold"], _references(manifest))
    explanation = Explanation(
        rows[0].id,
        manifest["threshold"],
        manifest.get("keep_rule", "ranked"),
        tuple(rows),
        is_cut=is_cut,
        complete_from=(about or {}).get("complete_from"),
    )
    if dataset is None:
        return explanation
    return _with_input(explanation, result, manifest["parameters"], dataset, text_col)


def _references(manifest: Mapping[str, Any]) -> str:
    against = manifest.get("against")
    if against is None:
        return NO_REFERENCES
    return REFERENCES_ALONE if against["reference_only"] else SOME_REFERENCES


def _with_input(
    explanation: Explanation, result: str, parameters: dict[str, Any], dataset: DataFrame, text_col: str | None
) -> Explanation:
    model: EmbeddingKMeansModel = EmbeddingKMeansModel.load(join(result, "centroids"))
    model.setParams(backend="cpu", handleInvalid="skip")
    documents = Documents.of_params(dataset, model)
    ids = [row.id for row in explanation.rows]
    some = documents.where(documents.id.isin(ids))
    ranking, words = _ranking(parameters)
    assigned = model.transform(some.df).select(
        some.id.alias("semdedup_id"),
        F.struct(*(F.col(name) for name in ASSIGNED)).alias("semdedup_facts"),
        F.struct(F.lit(0), *(quoted(name) for name, _ in ranking.by)).alias("semdedup_by"),
        some.embedding.alias("semdedup_vector"),
    )
    found = {row["semdedup_id"]: row for row in assigned.collect()}
    facts = {id_: _facts(row, [name for name, _ in ranking.by]) for id_, row in found.items()}
    texts = {} if text_col is None else texts_of(dataset, set(ids), model.value("idCol"), text_col)
    rows = with_facts(explanation.rows, facts, texts)
    return replace(explanation, rows=rows, ranking=words, similarity_to_last=_to_last(rows, found))


def _facts(row: Any, by: Sequence[str]) -> dict[str, Any]:
    return {**row["semdedup_facts"].asDict(), **dict(zip(by, row["semdedup_by"][1:], strict=True))}


def _ranking(parameters: dict[str, Any]) -> tuple[Ranking, str]:
    """The run's ranking, from its manifest, and in words."""
    if parameters.get("rankBy"):
        ranking = Ranking.of(RankingParams(rankBy=parameters["rankBy"]))
        return ranking, f"{', '.join(parameters['rankBy'])}; then the lowest id"
    distance = "l2_dist_to_cent" if parameters["distanceMetric"] == "l2" else "cosine_dist_to_cent"
    words = {
        "hard": f"the largest {distance}, then the highest id",
        "easy": f"the smallest {distance}, then the lowest id",
        "random": "the lowest hash of id and seed, then the lowest id",
        "first": "the lowest id",
    }
    return Ranking(), words[parameters["whichToKeep"]]


def _to_last(rows: Sequence[ExplainedRow], found: dict[Any, Any]) -> float | None:
    ends = [found[row.id] for row in (rows[0], rows[-1]) if row.id in found and not row.is_reference]
    if len(rows) < 2 or len(ends) < 2:
        return None
    vectors = np.array([list(end["semdedup_vector"]) for end in ends], np.float64)
    return similarity_of(unit_vectors(vectors), 0, 1)
