"""Writes and reads the results of phases and steps, each with its manifest and its counts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.errors import AccountingError, SemDedupError, shown
from spark_semdedup.ml.duplicates import IdentifyDuplicates
from spark_semdedup.ml.semdedup import similarities_of
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.merge import are_few
from spark_semdedup.params import DecisionParams, SemDedupParams
from spark_semdedup.runs.checks import check_merged
from spark_semdedup.runs.manifest import MANIFEST, begin, empty_dataset, finish, read_manifest
from spark_semdedup.runs.preflight import Job, refuse_irreplaceable
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.summary import Summary, versions
from spark_semdedup.runs.target import Target
from spark_semdedup.spark.columns import id_column
from spark_semdedup.spark.files import Files
from spark_semdedup.spark.hardware import hardware_of
from spark_semdedup.spark.ids import Ids
from spark_semdedup.spark.lock import Lock
from spark_semdedup.spark.parquet import OWN_FILES, count_rows, own_reader
from spark_semdedup.spark.small import in_one_task

log = logging.getLogger("spark_semdedup")

Held = Callable[[], None]
"""Raises ``FolderInUseError`` once another process has taken the folder over."""

Check = Callable[[int], None]
"""Raises for a wrong number of rows, before the folder that has them becomes valid."""

ABOUT_COVERAGE = (
    *("coverage", "coverage_in_words", "complete_eps", "complete_from", "keep_rule", "kept_from"),
    "against",
)
"""What manifests of similarities and duplicates say of the pairs that were compared."""

ROWS_PER_FILE = 2_000_000
"""Rows of narrow tables (ids and scores) per file: some tens of MB, and no task that moves more than that."""


@dataclass(frozen=True)
class StepResult:
    """A folder that an earlier step, or another program, wrote; the option ``param`` names it."""

    path: str
    param: str
    rows: DataFrame
    manifest: Mapping[str, Any]
    """Empty for another program's folder."""

    @classmethod
    def read(cls, job: Job, path: str, param: str, holds: str) -> StepResult:
        """Raises ``SemDedupError`` where the folder is unfinished or holds something else."""
        manifest = read_manifest(job.files, path, param, holds)
        if manifest is None:
            log.warning("%s has no %s: taken as another program's data, whole and as it is", path, MANIFEST)
        options = {} if manifest is None else OWN_FILES
        return cls(path, param, Source((path,), options=options).read(job.spark), manifest or {})

    def check_count(self, rows: int) -> int:
        """Raises ``SemDedupError`` where files were added or lost since the step wrote the folder."""
        written = self.manifest.get("rows")
        if written is not None and rows != written:
            raise SemDedupError(
                f"{self.param}={shown(self.path, 400)} has {rows} rows, but {MANIFEST} in it says {written}: files "
                "were added or lost; run the step that wrote it again"
            )
        return rows


def count_clusters(rows: DataFrame) -> dict[str, int]:
    """Rows, and clusters that hold rows. Reads no column but ``centroid``."""
    sizes = rows.where(F.col("centroid").isNotNull()).groupBy("centroid").agg(F.count(F.lit(1)).alias("n"))
    counts = sizes.agg(F.coalesce(F.sum("n"), F.lit(0)).alias("rows"), F.count(F.lit(1)).alias("clusters")).first()
    assert counts is not None  # an aggregate without groups always gives one row
    return {name: int(value) for name, value in counts.asDict().items()}


@contextmanager
def held_folder(job: Job, target: Target) -> Iterator[Held]:
    """Holds the folder that a step writes, if any."""
    if target.table is not None:
        yield lambda: None
        return
    with Lock(job.files, target.folder, takeover=True) as lock:  # a step that was killed is never continued
        target.refuse_written_meanwhile(job.files)
        yield lock.assert_held


def cleared_folder(job: Job, target: Target, assert_held: Held) -> str:
    """The output folder, which the step holds, without an earlier result."""
    assert_held()
    if target.overwrite:
        refuse_irreplaceable(job, target)  # again: the first look was hours ago, perhaps
        empty_dataset(job.files, target.folder)
    target.refuse_written_meanwhile(job.files)
    return target.folder


@contextmanager
def _dataset(files: Files, path: str, manifest: Mapping[str, Any]) -> Iterator[dict[str, int]]:
    """Marks the folder as unfinished; makes it valid after the block, which adds counts to the manifest."""
    counts: dict[str, int] = {}
    begin(files, path)
    yield counts
    finish(files, path, {**manifest, **counts})


def _write_parquet(rows: DataFrame, path: str) -> DataFrame:
    """Writes rows. Returns them as they are read back."""
    rows.write.mode("append").parquet(path)
    return in_one_task(own_reader(rows.sparkSession).schema(rows.schema).parquet(path))


def _ids_in(rows: DataFrame, id_col: str) -> Ids:
    return Ids.count(rows, id_column(rows, id_col))


def _accept(rows: int) -> None:
    """Any number."""


def write_dataset(files: Files, rows: DataFrame, path: str, manifest: Mapping[str, Any], check: Check = _accept) -> int:
    """Writes a Parquet folder with its manifest. Returns the number of rows, counted in the files."""
    with _dataset(files, path, manifest) as counts:
        counts["rows"] = count_rows(_write_parquet(rows, path))
        check(counts["rows"])
    return counts["rows"]


def write_with_ids(files: Files, rows: DataFrame, path: str, manifest: Mapping[str, Any], id_col: str) -> Ids:
    """The same. Returns the ids, as they are read back."""
    with _dataset(files, path, manifest) as counts:
        ids = _ids_in(_write_parquet(rows, path), id_col)
        counts["rows"] = ids.rows
    return ids


def files_for(rows: int) -> int:
    """Number of files for narrow rows."""
    return max(1, -(-rows // ROWS_PER_FILE))


def write_similarities(
    files: Files, rows: DataFrame, counts: Mapping[str, int], path: str, manifest: Mapping[str, Any], held: Held
) -> int:
    """Writes the similarities of all valid rows, from merged matches. Returns the number of these."""
    merged = similarities_of(rows)
    files_wanted = files_for(counts["rows"])
    # All tasks merge where there is much to merge, before fewer write the result.
    narrow = merged.coalesce(files_wanted) if are_few(counts["further"]) else merged.repartition(files_wanted)

    def check(written: int) -> None:
        check_merged(written, counts)
        held()

    return write_dataset(files, narrow, path, manifest, check)


def duplicates_to_write(similarities: DataFrame, rows: int, params: SemDedupParams) -> DataFrame:
    """The duplicates among the similarities of so many ``rows``, in few files."""
    stage = IdentifyDuplicates(**params.settings(IdentifyDuplicates))
    return stage.transform(similarities).coalesce(files_for(rows))


def similar_to_write(similarities: DataFrame, rows: int, params: DecisionParams) -> DataFrame:
    """The same by reference rows alone, whose ids are their own: one may be that of the row that it removes."""
    similar = similarities.where(F.col("cosine_sim_score") >= params.similarity_threshold())
    return similar.coalesce(files_for(rows))


def write_kept(
    job: Job,
    rows: DataFrame,
    id_col: str,
    target: Target,
    path: str,
    manifest: Mapping[str, Any],
    check: Check = _accept,
) -> Ids:
    """Writes the kept rows to a folder or the target's table. Returns their ids, as they are read back."""
    if target.table is None:
        with _dataset(job.files, path, manifest) as counts:
            target.save(rows, path)
            kept = _ids_in(in_one_task(target.read_back(rows, path)), id_col)
            check(kept.rows)
            counts["rows"] = kept.rows
        return kept
    target.save_table(rows)
    kept = _ids_in(job.spark.table(target.table), id_col)
    try:
        check(kept.rows)
    except AccountingError as error:
        place = f"outputTable={shown(target.table)}"
        raise AccountingError(f"{place} was written, and must not be used: {error}") from error
    return kept


def describe_coverage(summary: Summary, params: Any) -> None:
    """Notes in ``summary`` which pairs the Params compare, and which rows they keep."""
    coverage = Coverage.of(params, params.similarity_threshold())
    summary.keep_rule = params.value("keepRule")
    summary.kept_from = params.similarity_threshold() if summary.keep_rule == "greedy" else None
    summary.coverage, summary.coverage_in_words = coverage.name, coverage.in_words()
    if coverage.is_exact:
        summary.complete_eps, summary.complete_from = reported_eps(params), coverage.threshold


def reported_eps(params: DecisionParams) -> float:
    """eps as it is reported: as the user set it, or 1 - threshold."""
    if params.isSet("threshold"):
        return round(1.0 - params.value("threshold"), 12)
    return float(params.value("eps"))


def manifest_for(holds: str, summary: Summary, params: SemDedupParams | None = None) -> dict[str, Any]:
    """A folder's manifest, without its number of rows."""
    manifest: dict[str, Any] = {"holds": holds, "step": summary.step}
    if holds in ("similarities", "duplicates"):
        coverage = {name: getattr(summary, name) for name in ABOUT_COVERAGE}
        manifest |= {name: value for name, value in coverage.items() if value is not None or name == "complete_eps"}
    if holds == "duplicates":
        manifest |= {"eps": summary.eps, "threshold": summary.threshold}
    manifest["parameters"] = parameters_of(params) if params is not None else {}
    manifest["versions"] = versions(summary.backend, summary.clusterer)
    return manifest


def parameters_of(params: SemDedupParams) -> dict[str, Any]:
    """All Params in effect; initial centroids by their shape only."""
    values = {param.name: params.value(param.name) for param in params.params}
    initial = values.get("initMode")
    if initial is not None and not isinstance(initial, str):
        values["initMode"] = f"array of shape ({len(initial)}, {len(initial[0])})"
    return values


def complete_summary(job: Job, summary: Summary, params: SemDedupParams) -> Summary:
    """Adds Params, times and versions."""
    summary.parameters = parameters_of(params)
    summary.seconds = {**job.progress.seconds, "in all": round(job.progress.elapsed, 3)}
    summary.versions = versions(summary.backend, summary.clusterer, job.spark.version)
    summary.hardware = hardware_of(job.spark)
    return summary
