"""``pairs`` and ``groups``: what a run's phases of these names write, as steps of their own."""

from __future__ import annotations

from spark_semdedup.duplicates.groups import tree_groups
from spark_semdedup.duplicates.threshold import count_similarities
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.formatting import short
from spark_semdedup.ml.semdedup import SemDedup, SemDedupModel
from spark_semdedup.pairwise.pairs import refuse_more_pairs
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.runs import preflight, results
from spark_semdedup.runs.checks import check_grouped
from spark_semdedup.runs.preflight import Job, SavedCentroids, Settings
from spark_semdedup.runs.results import StepResult
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.summary import Summary
from spark_semdedup.runs.target import Target
from spark_semdedup.spark.parquet import own_reader


def pairs(job: Job, source: Source, target: Target, settings: Settings, saved: SavedCentroids | None = None) -> Summary:
    """Writes every compared pair of rows whose similarity is at least 1 - eps: ``id_a``, which precedes, ``id_b`` and
    ``cosine_sim_score``.

    ``settings``: Params of ``SemDedup``.
    """
    saved = saved or SavedCentroids()
    preflight.check_paths(job, target, source=source, reads=saved.reads())
    given, settings = saved.load(job, settings)
    estimator = SemDedup(**settings)
    threshold, most = estimator.similarity_threshold(), estimator.value("maxPairs")
    source = source.pinned(job.spark)
    opened = preflight.open_input(job, source, target, estimator, Ranking.of(estimator), given, [], "pairs")
    rows = opened.rows
    summary = Summary("pairs", backend=opened.backend, clusterer=opened.clusterer)
    summary.threshold, summary.eps = threshold, results.reported_eps(estimator)
    results.describe_coverage(summary, estimator)
    job.progress.begin(2)
    with results.held_folder(job, target) as assert_held:
        with job.progress.phase("load centroids" if given else "fit centroids") as counts:
            total = preflight.count_ids(rows, estimator)
            if given is not None:
                initial = {name: value for name, value in estimator.settings().items() if name != "initMode"}
                model = SemDedupModel(centroids=given.centroids, history=given.history, **initial)
            else:
                model = estimator.fit(rows)
            counts["centroids"] = len(model.centroids)
        with job.progress.phase("list similar pairs") as counts:
            job.progress.note(f"about {short(model.estimate_pairs(rows))} similar pairs, estimated from a sample")
            similar = model.similar_rows(rows).pairs(most)
            folder = results.cleared_folder(job, target, assert_held)

            def accept(written: int) -> None:
                refuse_more_pairs(written, most, threshold)
                assert_held()

            manifest = results.manifest_for("pairs", summary, estimator)
            counts["pairs"] = results.write_dataset(job.files, similar, folder, manifest, accept)
    summary.counts = {"rows_in": total, "pairs": counts["pairs"]}
    summary.results = {"pairs": folder}
    results.complete_summary(job, summary, estimator)
    summary.parameters = saved.described(summary.parameters, len(model.centroids))
    return summary


def groups(job: Job, similarities: str, duplicates: str, target: Target) -> Summary:
    """Writes the group of every row of ``similarities``, a tree of the links of ``duplicates``: ``id``, ``group_id``,
    ``representative`` and ``size``."""
    preflight.check_paths(job, target, reads={"similarities": [similarities], "duplicates": [duplicates]})
    read = StepResult.read(job, similarities, "similarities", "similarities")
    removed = StepResult.read(job, duplicates, "duplicates", "duplicates")
    if read.manifest.get("against") or removed.manifest.get("against"):
        raise SemDedupError(
            f"similarities={shown(similarities, 400)} were made with reference rows, of which groups would have none: "
            "give those of a run without them"
        )
    if read.rows.schema["id"].dataType != removed.rows.schema["id"].dataType:
        raise SemDedupError("similarities and duplicates have ids of different types: give those of one run")
    total = read.check_count(count_similarities(read.rows))
    job.progress.begin(1)
    with results.held_folder(job, target) as assert_held, job.progress.phase("group the rows") as counts:
        removed.check_count(removed.rows.count())
        grouped = tree_groups(read.rows, removed.rows).coalesce(results.files_for(total))
        folder = results.cleared_folder(job, target, assert_held)

        def accept(written: int) -> None:
            check_grouped(written, total)
            assert_held()

        summary = Summary("groups")
        manifest = {**results.manifest_for("groups", summary), "groups_by": "tree"}
        results.write_dataset(job.files, grouped, folder, manifest, accept)
        counts["groups"] = own_reader(job.spark).parquet(folder).select("group_id").distinct().count()
    summary.counts = {"rows_in": total, "groups": counts["groups"]}
    summary.results = {"groups": folder}
    return summary
