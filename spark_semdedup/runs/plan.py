"""``plan``: what a run would cost."""

from __future__ import annotations

from spark_semdedup.analysis.cost import estimate_cost
from spark_semdedup.analysis.sizing import Hardware, Sizing
from spark_semdedup.ml.semdedup import SemDedup
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.runs.preflight import Job, SavedCentroids, Settings, check_columns
from spark_semdedup.runs.source import Source


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
    check_columns(read, estimator, Ranking.of(estimator))
    job.progress.begin(1)
    with job.progress.phase("look at a sample") as counts:
        found = estimate_cost(
            estimator, read, rows=rows, hardware=hardware, centroids=None if loaded is None else loaded.centroids
        )
        counts["rows"] = found.sample_rows
    return found
