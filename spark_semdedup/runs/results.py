"""Writes the results of a step, each with its manifest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.errors import AccountingError, SemDedupError, shown
from spark_semdedup.ml.duplicates import IdentifyDuplicates
from spark_semdedup.ml.semdedup import similarities_of
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.merge import PartialMatches, are_few
from spark_semdedup.params import DecisionParams, SemDedupParams
from spark_semdedup.runs.checks import check_merged
from spark_semdedup.runs.journal import fingerprint_of_files
from spark_semdedup.runs.lock import Lock
from spark_semdedup.runs.manifest import MANIFEST, begin, empty_dataset, files_for, finish, read_manifest, write_dataset
from spark_semdedup.runs.preflight import Job, output_folder, refuse_irreplaceable
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.summary import Summary, versions
from spark_semdedup.runs.target import Target
from spark_semdedup.spark.columns import id_column
from spark_semdedup.spark.files import Files
from spark_semdedup.spark.hardware import hardware_of
from spark_semdedup.spark.ids import Ids

log = logging.getLogger("spark_semdedup")


def fingerprint_now(job: Job, source: Source, rows: DataFrame) -> str | None:
    """Of the files that ``rows`` were read from, listed anew."""
    return fingerprint_of_files(job.files, source, source.read(job.spark, rows.schema))


def warn_foreign(manifest: dict[str, Any] | None, path: str) -> dict[str, Any] | None:
    if manifest is None:
        log.warning("%s has no %s: taken as another program's data, whole and as it is", path, MANIFEST)
    return manifest


def refuse_other_count(rows: int, said: int | None, param: str, path: str) -> None:
    """Files that were added or lost since a step wrote the folder, of whose rows its manifest ``said`` the number."""
    if said is not None and rows != said:
        raise SemDedupError(
            f"{param}={shown(path, 400)} has {rows} rows, but {MANIFEST} in it says {said}: files were added or lost; "
            "run the step that wrote it again"
        )


def count_rows(job: Job, path: str, holds: str) -> tuple[DataFrame, dict[str, int]]:
    """The rows of a folder that a step wrote, and their number, by what they are."""
    manifest = warn_foreign(read_manifest(job.files, path, holds, holds), path)
    rows = Source((path,)).read(job.spark)
    count = rows.count()
    refuse_other_count(count, (manifest or {}).get("rows"), holds, path)
    return rows, {holds: count}


ABOUT_COVERAGE = ("coverage", "coverage_in_words", "complete_eps", "complete_from")
"""What manifests of similarities and duplicates say of the pairs that were compared."""


def describe_coverage(summary: Summary, params: Any) -> None:
    """Notes in ``summary`` which pairs the Params have compared."""
    coverage = Coverage.of(params, params.similarity_threshold())
    summary.coverage, summary.coverage_in_words = coverage.name, coverage.in_words()
    if coverage.is_exact:
        summary.complete_eps, summary.complete_from = reported_eps(params), coverage.threshold


def reported_eps(params: DecisionParams) -> float:
    """eps as it is reported: what the user set, or what a threshold comes to."""
    if params.isSet("threshold"):
        return round(1.0 - params.value("threshold"), 12)
    return float(params.value("eps"))


@contextmanager
def held_folder(job: Job, target: Target) -> Iterator[Callable[[], None]]:
    """Holds the folder that a step writes, if it does. Gives what raises once another process has taken it over."""
    if target.table is not None:
        yield lambda: None
        return
    with Lock(
        job.files, output_folder(target), takeover=True
    ) as lock:  # of a step that was killed nothing is gone on with
        target.refuse_written_meanwhile(job.files)
        yield lock.assert_held


def cleared_folder(job: Job, target: Target, assert_held: Callable[[], None]) -> str:
    """The output folder, which the step holds. An earlier result of ours (``_check_paths``) is deleted, its manifest
    first, if it may be: otherwise the folder was vacant, and what may have come since is another's."""
    folder = output_folder(target)
    assert_held()
    if target.overwrite:
        refuse_irreplaceable(job, target)  # that was hours ago, perhaps
        empty_dataset(job.files, folder)
    target.refuse_written_meanwhile(job.files)
    return folder


def write_similarities(
    files: Files,
    entries: PartialMatches,
    counts: Mapping[str, int],
    path: str,
    about: Mapping[str, Any],
    assert_held: Callable[[], None],
) -> int:
    """Writes those of all valid rows. Returns how many they are."""
    merged = similarities_of(entries.merged(counts["further"]))
    few = files_for(counts["rows"])
    # Many entries are merged by all tasks, before fewer write what is left of them.
    narrow = merged.coalesce(few) if are_few(counts["further"]) else merged.repartition(few)

    def check(written: int) -> None:
        check_merged(written, counts)
        assert_held()

    return write_dataset(files, narrow, path, about, check)


def duplicates_to_write(similarities: DataFrame, rows: int, params: SemDedupParams) -> DataFrame:
    """Those among the similarities of so many ``rows``, to be written."""
    stage = IdentifyDuplicates(**params.settings(IdentifyDuplicates))
    return stage.transform(similarities).coalesce(files_for(rows))


def write_kept(
    job: Job,
    rows: DataFrame,
    id_col: str,
    target: Target,
    path: str,
    about: Mapping[str, Any],
    check: Callable[[int], None] = lambda _: None,
) -> Ids:
    """Writes rows to a folder or table. Returns their ids, as they are read back. ``check``: of their number, before
    the folder counts as whole."""
    if target.table is not None:
        target.save_table(rows)
        written = job.spark.table(target.table)
        kept = Ids.count(written, id_column(written, id_col))
        try:
            check(kept.rows)
        except AccountingError as error:
            raise AccountingError(
                f"outputTable={shown(target.table)} was written, and must not be used: {error}"
            ) from error
        return kept
    begin(job.files, path)
    target.save(rows, path)
    written = target.read_back(rows, path)
    kept = Ids.count(written, id_column(written, id_col))
    check(kept.rows)
    finish(job.files, path, {**about, "rows": kept.rows})
    return kept


def count_clusters(rows: DataFrame) -> dict[str, int]:
    """Rows, and clusters that hold rows. Reads no column but ``centroid``."""
    sizes = rows.where(F.col("centroid").isNotNull()).groupBy("centroid").agg(F.count(F.lit(1)).alias("n"))
    found = sizes.agg(
        F.coalesce(F.sum("n"), F.lit(0)).alias("rows"),
        F.count(F.lit(1)).alias("clusters"),
    ).first()
    assert found is not None  # an aggregate without groups always gives one row
    return {name: int(value) for name, value in found.asDict().items()}


def manifest_for(holds: str, summary: Summary, params: SemDedupParams | None = None) -> dict[str, Any]:
    """What a folder's manifest says, but for its number of rows."""
    about: dict[str, Any] = {"holds": holds, "step": summary.step}
    if holds in ("similarities", "duplicates"):
        said = {name: getattr(summary, name) for name in ABOUT_COVERAGE}
        about |= {name: value for name, value in said.items() if value is not None or name == "complete_eps"}
    if holds == "duplicates":
        about |= {"eps": summary.eps, "threshold": summary.threshold}
    about["parameters"] = parameters_of(params) if params is not None else {}
    about["versions"] = versions(summary.backend, summary.clusterer)
    return about


def parameters_of(params: SemDedupParams) -> dict[str, Any]:
    """All Params in effect; initial centroids by their shape only."""
    values = {param.name: params.value(param.name) for param in params.params}
    initial = values.get("initMode")
    if initial is not None and not isinstance(initial, str):
        values["initMode"] = f"array of shape ({len(initial)}, {len(initial[0])})"
    return values


def complete_summary(job: Job, summary: Summary, params: SemDedupParams) -> Summary:
    """Adds what is known at the end only."""
    summary.parameters = parameters_of(params)
    summary.seconds = {**job.progress.seconds, "in all": round(job.progress.elapsed, 3)}
    summary.versions = versions(summary.backend, summary.clusterer, job.spark.version)
    summary.hardware = hardware_of(job.spark)
    return summary
