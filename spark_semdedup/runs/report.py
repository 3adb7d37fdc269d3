"""``report``: the page about a finished run, and its rows for Embedding Atlas."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_semdedup.errors import ResultExistsError, SemDedupError, shown
from spark_semdedup.ml.kmeans import EmbeddingKMeansModel
from spark_semdedup.report.atlas import atlas_rows, refuse_other_names
from spark_semdedup.report.data import RunResults, gather
from spark_semdedup.report.html import is_report, render, require_libraries
from spark_semdedup.report.rows import Columns, refuse_no_text
from spark_semdedup.runs.deduplication import COMPARED
from spark_semdedup.runs.manifest import (
    EVALUATION,
    REPORT,
    RUN_RESULTS,
    UNFINISHED,
    delete_dataset,
    read_manifest,
    read_run_manifest,
)
from spark_semdedup.runs.preflight import Job
from spark_semdedup.runs.results import write_dataset
from spark_semdedup.runs.source import Source
from spark_semdedup.spark.files import Files, is_within, join
from spark_semdedup.spark.parquet import own_reader

ATLAS = "rows for Embedding Atlas"
"""What the manifest of such a folder says that it holds."""


@dataclass(frozen=True)
class ReportTarget:
    """What is written about the run in ``folder``."""

    folder: str
    output: str | None = None
    """The HTML file; None: ``report.html`` in the folder."""
    atlas: str | None = None
    """The folder of rows for Embedding Atlas; None: none."""
    text_col: str | None = None
    """The input's column of texts; None: ``text``, if the input has it."""
    page: bool = True
    """Whether to write an HTML file."""
    overwrite: bool = False
    """Whether another file or folder may be replaced; an earlier report always may."""
    resume: bool = False
    """Whether a killed run may have left the page or the rows for Embedding Atlas, not whole, which are replaced."""

    @property
    def file(self) -> str:
        return self.output or join(self.folder, REPORT)

    @property
    def phases(self) -> int:
        """How many phases of progress it takes."""
        return int(self.page) + (self.atlas is not None)

    def check(self, job: Job, texts: Source | None) -> None:
        """Raises ``SemDedupError`` for missing libraries, a folder without a run, columns and paths of no use."""
        if self.page:
            require_libraries()
        read_run_manifest(job.files, self.folder, "OUT")
        if texts is not None:
            texts.check(job.files)
            check_text_column(job, texts, self.text_col)
        self.check_paths(job, texts)

    def check_paths(self, job: Job, texts: Source | None) -> None:
        """Raises ``SemDedupError`` where something else is in the way, or would be overwritten as it is read."""
        files = job.files
        replaces = self.overwrite or self.resume
        if self.page and files.exists(self.file) and not replaces and not is_report(files.read_text(self.file)):
            raise ResultExistsError(
                f"output={shown(self.file, 400)} exists already and is no report: give another file, or --overwrite"
            )
        if self.atlas is not None:
            refuse_other_names(self.atlas)
            self._refuse_overlap(files, self.atlas, texts)
            self.refuse_existing_atlas(files, self.atlas)

    def refuse_existing_atlas(self, files: Files, atlas: str) -> None:
        """Raises ``ResultExistsError`` for a folder that may not be replaced."""
        may_replace = self.overwrite or (self.resume and _is_atlas(files, atlas))
        if not may_replace and not files.is_vacant(atlas):
            raise ResultExistsError(
                f"exportAtlas={shown(atlas, 400)} exists already: give another path, or --overwrite"
            )

    def _refuse_overlap(self, files: Files, atlas: str, texts: Source | None) -> None:
        target = files.real(atlas)
        results = [join(self.folder, name) for name in RUN_RESULTS]
        for path in (self.folder, *results, *(texts.paths if texts else ())):
            for place in map(files.real, (path, *files.matches(path))):  # a run has yet to write its results
                if is_within(place, target) or (path != self.folder and is_within(target, place)):
                    raise SemDedupError(
                        f"exportAtlas={shown(atlas, 400)} overlaps {shown(path, 400)}, which is read: give another path"
                    )


def _is_atlas(files: Files, path: str) -> bool:
    """Whether rows for Embedding Atlas are there, or were begun."""
    if files.exists(join(path, UNFINISHED)):
        return True
    try:
        return files.exists(path) and read_manifest(files, path, "exportAtlas", ATLAS) is not None
    except SemDedupError:  # another step wrote it
        return False


def check_text_column(job: Job, texts: Source, text_col: str | None) -> None:
    """``SemDedupError`` for a column of texts that the input does not have, or that holds none."""
    if text_col is not None:
        refuse_no_text(texts.read(job.spark), text_col)


def write_report(job: Job, target: ReportTarget, texts: Source | None) -> dict[str, str]:
    """Writes what ``target`` names, after its checks. Returns what is where.

    ``texts``: the run's input, of a Delta table in the version that the run read; without it only rows that remain have
    texts.
    """
    version = read_run_manifest(job.files, target.folder, "OUT").get("input_version")
    rows = None if texts is None else texts.pinned(job.spark, version).read(job.spark)
    results = results_of(job.spark, job.files, target.folder, texts=rows, text_col=target.text_col)
    written: dict[str, str] = {}
    if not job.progress.started:  # by itself, or after a run that had ended before
        job.progress.later = 0
        job.progress.begin(target.phases)
    if target.page:
        with job.progress.phase("write the report"):
            job.files.write_text(target.file, render(gather(results)))
        written["report"] = target.file
    if target.atlas is not None:
        with job.progress.phase("write rows for Embedding Atlas"):
            rows_placed = atlas_rows(results)
            target.refuse_existing_atlas(job.files, target.atlas)  # again: the first look was hours ago, perhaps
            delete_dataset(job.files, target.atlas)
            write_dataset(job.files, rows_placed, target.atlas, {"holds": ATLAS, "result": target.folder})
        written["atlas"] = target.atlas
    return written


def results_of(
    spark: SparkSession, files: Files, folder: str, *, texts: DataFrame | None = None, text_col: str | None = None
) -> RunResults:
    """What a finished run left in ``folder``. ``texts``: the run's input, which has the texts of removed rows, too.

    Raises ``SemDedupError`` for a folder without a finished run, or an input without a column.
    """
    facts = read_run_manifest(files, folder, "OUT")
    if facts.get("holds") != "run":
        raise SemDedupError(f"OUT={shown(folder, 400)} holds {shown(facts.get('holds'))}: give the folder of a run")
    model: EmbeddingKMeansModel = EmbeddingKMeansModel.load(join(folder, "centroids"))
    params = facts.get("parameters") or {}
    rows = _kept(spark, files, folder) if texts is None else texts
    named = params.get("idCol", "id"), params.get("embeddingCol", "embedding"), text_col, params.get("embeddingFormat")
    return RunResults(
        facts=facts,
        evaluation=_evaluation(files, folder),
        similarities=own_reader(spark).parquet(join(folder, "similarities")),
        duplicates=own_reader(spark).parquet(join(folder, "duplicates")),
        centroids=model.centroids,
        history=tuple(model.history),
        spherical=model.value("distanceMeasure") == "cosine",
        rows=rows,
        columns=None if rows is None else Columns.of(rows, *named),
        is_whole_input=texts is not None,
        clusters=_clusters(spark, files, folder),
    )


def _kept(spark: SparkSession, files: Files, folder: str) -> DataFrame | None:
    """The rows that remain, where they are Parquet; other formats need options that are not noted."""
    path = join(folder, "deduplicated")
    is_parquet = files.exists(path) and any(".parquet" in name for name in files.names(path))
    return own_reader(spark).parquet(path) if is_parquet else None


def _clusters(spark: SparkSession, files: Files, folder: str) -> DataFrame | None:
    """The cluster of each row, where the run kept its stages."""
    path = join(folder, COMPARED)
    if not files.exists(path):
        return None
    return own_reader(spark).parquet(path).where(F.col("own") & F.col("reason").isNull()).select("id", "centroid")


def _evaluation(files: Files, folder: str) -> dict[str, Any] | None:
    path = join(folder, EVALUATION)
    if not files.exists(path):
        return None
    try:
        said = json.loads(files.read_text(path))
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
