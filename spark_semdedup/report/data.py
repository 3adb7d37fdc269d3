"""What a report needs of a run, read with Spark in bounded size.

Everything comes from the folder that the run wrote; texts and vectors of removed rows come from the run's input, where
it is given. It takes a few jobs over ids and scores, and one pass over the rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.analysis.projection import ClusterMap
from spark_semdedup.analysis.scores import ScoreHistogram
from spark_semdedup.analysis.sizes import ClusterSizes
from spark_semdedup.report.links import Groups, groups_of
from spark_semdedup.report.pairs import PairGallery, gallery_of
from spark_semdedup.report.references import naming_references
from spark_semdedup.report.rows import Columns, RowSample, Text, is_sampled, look_up, sample_share


@dataclass(frozen=True)
class RunResults:
    """A run as a report takes it: lazy tables, facts, the fit."""

    facts: Mapping[str, Any]
    """What ``summary.json`` says."""
    evaluation: Mapping[str, Any] | None
    """What ``evaluation.json`` says, where the run was evaluated."""
    similarities: DataFrame
    duplicates: DataFrame
    centroids: np.ndarray
    """float32 (k, d)."""
    history: tuple[float, ...]
    spherical: bool
    rows: DataFrame | None
    """The run's input, or of it the rows that remain; None where neither can be read."""
    columns: Columns | None
    """Of ``rows``."""
    is_whole_input: bool
    """Whether ``rows`` has the removed rows, too."""
    clusters: DataFrame | None = None
    """``id`` and ``centroid`` of every valid row, where the run kept them."""


@dataclass(frozen=True)
class ReportData:
    """All that a report shows, on the driver."""

    facts: Mapping[str, Any]
    evaluation: Mapping[str, Any] | None
    histogram: ScoreHistogram
    groups: Groups
    pairs: PairGallery
    history: tuple[float, ...]
    spherical: bool
    picture: ClusterMap | None
    """None where no rows with vectors could be read."""
    sample: RowSample | None
    texts: Mapping[Any, Text]
    text_column: str | None
    is_whole_input: bool


def gather(results: RunResults) -> ReportData:
    """Reads what a report shows."""
    results = naming_references(results)
    facts = results.facts
    valid = int(facts["rows_in"]) - int(facts.get("invalid", 0))
    threshold = float(facts["threshold"])
    histogram = ScoreHistogram.of(results.similarities)
    groups = groups_of(results.duplicates, int(facts["duplicates"]))
    pairs = gallery_of(results.similarities, results.duplicates, threshold)
    texts, sample, picture = cluster_map_of(results, _ids_in(groups, pairs), valid)
    if results.clusters is not None and picture is not None:
        picture = replace(picture, sizes=counted_sizes(results.clusters, len(results.centroids)))
    return ReportData(
        facts=facts,
        evaluation=results.evaluation,
        histogram=histogram,
        groups=groups,
        pairs=pairs,
        history=results.history,
        spherical=results.spherical,
        picture=picture,
        sample=sample,
        texts=texts,
        text_column=results.columns.text if results.columns else None,
        is_whole_input=results.is_whole_input,
    )


def counted_sizes(clusters: DataFrame, k: int) -> ClusterSizes:
    """Rows of each of the k clusters, of ``id`` and ``centroid``; one job."""
    rows = np.zeros(k)
    for row in clusters.groupBy("centroid").agg(F.count(F.lit(1)).alias("rows")).collect():
        if row["centroid"] is not None:
            rows[row["centroid"]] = row["rows"]
    return ClusterSizes(rows)


def _ids_in(groups: Groups, pairs: PairGallery) -> set[Any]:
    lists = [pairs.above, pairs.below, *(sampled for _, _, sampled in pairs.bands)]
    wanted = {id_ for listed in lists for pair in listed for id_ in (pair.id, pair.max_id)}
    for group in groups.largest:
        wanted |= {group.kept, *(member.id for member in group.members)}
    return wanted


def cluster_map_of(
    results: RunResults, wanted: Collection[Any], valid: int
) -> tuple[Mapping[Any, Text], RowSample | None, ClusterMap | None]:
    """Texts of the ``wanted`` rows, by id; a sample of the ``valid`` rows, and a map of it, or None for both where no
    rows with vectors can be read."""
    if results.rows is None or results.columns is None:
        return {}, None, None
    dim = results.centroids.shape[1]
    share = sample_share(valid, dim)
    texts, sample = look_up(results.rows, results.columns, wanted, share, dim)
    if sample is None or not len(sample.units):
        return texts, None, None
    # Rows that remain tell nothing of how many were removed around them.
    removed = _which_are_removed(results.duplicates, sample, share) if results.is_whole_input else None
    total = valid if results.is_whole_input else int(results.facts["kept"])
    picture = ClusterMap.of(sample.units, removed, results.centroids, total, spherical=results.spherical)
    return texts, sample, picture


def _which_are_removed(duplicates: DataFrame, sample: RowSample, share: float) -> np.ndarray:
    """Of each sampled row, whether it is a duplicate: bool (m,)."""
    removed = {row["id"] for row in duplicates.where(is_sampled(F.col("id"), share)).select("id").collect()}
    return np.array([id_ in removed for id_ in sample.ids], bool)
