"""What a run does with an index or a reference table: compares its rows with theirs, and adds them as a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.errors import ResultExistsError, SemDedupError, shown
from spark_semdedup.index import SemDedupIndex
from spark_semdedup.index.version import ALL, KEPT
from spark_semdedup.index.versions import Versions
from spark_semdedup.ml.incremental import (
    INDEX_PARAMS,
    RANK_PARAMS,
    IndexReferences,
    add_to_index,
    create_index,
    found_references,
    holds_for,
    refuse_known_ids,
    refuse_other_settings,
    settings_of,
)
from spark_semdedup.ml.kmeans import EmbeddingKMeansModel
from spark_semdedup.ml.semdedup import SemDedup, SemDedupModel
from spark_semdedup.pairwise.reference import ReferenceRows, TableReferences
from spark_semdedup.runs.identity import digest
from spark_semdedup.runs.journal import Journal
from spark_semdedup.runs.manifest import is_finished, read_run_manifest
from spark_semdedup.runs.preflight import FIT_PARAMS, Job, SavedCentroids, Settings
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.target import Target, refuse_overlap
from spark_semdedup.runs.wanted import Wanted
from spark_semdedup.spark.files import Files
from spark_semdedup.spark.ids import Ids

INDEX_VERSION = "version of the index"
"""Name, in a run's identity, of the version that the run compares with."""

_EITHER = (frozenset({"eps", "threshold"}), frozenset({"coverage", "nProbe"}))
"""Params of which one takes the place of the other."""


@dataclass(frozen=True)
class Incremental:
    """What the user asked for. ``against``: path of an index; ``table``: rows to keep apart from, instead of one."""

    against: str | None = None
    table: Source | None = None
    reference_only: bool = False
    update: bool = False
    write_to: str | None = None
    """Path of a new index."""
    index_rows: str | None = None

    def __post_init__(self) -> None:
        """Raises ``SemDedupError`` for options that contradict each other or lack another."""
        if self.against and self.table:
            raise SemDedupError("against and againstInput are both set: give an index, or a table")
        if self.table and not self.reference_only:
            raise SemDedupError(
                "againstInput needs referenceOnly: a table says nothing of which rows precede which; write an index of "
                "it first (writeIndex) to find the duplicates among new rows, too"
            )
        if self.reference_only and not (self.against or self.table):
            raise SemDedupError("referenceOnly needs rows to compare with: set against or againstInput")
        if self.update and (self.reference_only or not self.against):
            what = "referenceOnly, which finds no duplicates among new rows" if self.reference_only else "no against"
            raise SemDedupError(f"updateIndex and {what}: give the index with against, and compare new rows, too")
        if self.write_to and (self.against or self.table):
            raise SemDedupError("writeIndex and against are both set: add to the index with updateIndex")
        if self.index_rows not in (None, KEPT, ALL) or (self.index_rows and not self.write_to):
            raise SemDedupError(
                f"indexRows={self.index_rows!r} cannot be used: it must be {KEPT} or {ALL}, and is for writeIndex"
            )

    @property
    def compares(self) -> bool:
        """Whether there are reference rows."""
        return bool(self.against or self.table)

    @property
    def adds(self) -> bool:
        """Whether rows are added to an index."""
        return self.update or self.write_to is not None

    def reads(self) -> dict[str, list[str]]:
        """The paths, by the name of the option."""
        paths = {"against": self.against, "writeIndex": self.write_to}
        named = {name: [path] for name, path in paths.items() if path}
        return named | ({"againstInput": list(self.table.paths)} if self.table else {})

    def refuse_wanted(self, wanted: Wanted) -> None:
        """Raises ``SemDedupError`` for results that would leave reference rows out."""
        refused = [name for name in ("pairs", "groups") if name in wanted]
        if refused and self.compares:
            raise SemDedupError(
                f"results={','.join(refused)} cannot be written with reference rows, of which they would have none: "
                "leave them out"
            )

    def refuse_saved(self, saved: SavedCentroids) -> None:
        """Raises ``SemDedupError`` where centroids are given beside those of the index."""
        if self.against and (saved.model or saved.initial):
            given = "centroids" if saved.model else "initMode"
            raise SemDedupError(
                f"against={shown(self.against, 400)} and {given} are both set: the index has its centroids"
            )

    def refuse_overlap(self, files: Files, source: Source) -> None:
        """Raises ``SemDedupError`` for an index to write in the input, or around it."""
        if self.write_to:
            refuse_overlap(files, self.write_to, {"input": source.paths}, "writeIndex")

    def settings_with(self, index: SemDedupIndex | None, settings: Settings) -> dict[str, Any]:
        """The Params of the run: those of the index, and those set, which must not contradict them.

        With ``reference_only`` eps and coverage may be others.
        """
        if index is None:
            return dict(settings)
        fits = sorted(FIT_PARAMS & settings.keys() - INDEX_PARAMS)
        if fits:
            raise SemDedupError(
                f"against={shown(self.against, 400)} and {', '.join(fits)} are both set: the index has its centroids; "
                "leave it out, or index refit"
            )
        names = INDEX_PARAMS & index.settings.keys()
        held = {name: index.settings[name] for name in names if index.settings[name] is not None}
        for either in _EITHER if self.reference_only else ():
            if either & settings.keys():
                held = {name: value for name, value in held.items() if name not in either}
        merged = held | dict(settings)
        if not self.reference_only:
            refuse_other_settings(index, settings_of(SemDedupModel(**merged)))
        elif RANK_PARAMS & settings.keys():
            given = ", ".join(sorted(RANK_PARAMS & settings.keys()))
            raise SemDedupError(f"{given}: referenceOnly ranks no rows, as it removes none for another new one")
        return merged

    def identity(self, index: SemDedupIndex | None) -> dict[str, Any]:
        """For a run's identity."""
        entries = {
            "index to compare with": digest(self.against) if self.against else None,
            INDEX_VERSION: index.version if index is not None else None,
            "table to compare with": digest([*self.table.paths, self.table.format]) if self.table else None,
            "referenceOnly": self.reference_only or None,
            "updateIndex": self.update or None,
            "index to write": digest(self.write_to) if self.write_to else None,
            "indexRows": self.index_rows,
        }
        return {name: value for name, value in entries.items() if value is not None}


@dataclass
class RunReferences:
    """The rows that a run compares with, and the index that it adds its own to."""

    asked: Incremental
    job: Job
    index: SemDedupIndex | None = None

    @classmethod
    def open(cls, asked: Incremental, job: Job, version: int | None) -> RunReferences:
        """``version``: of the index, that the run to be resumed has read."""
        return cls(asked, job, SemDedupIndex.open(job.spark, asked.against, version) if asked.against else None)

    def identity(self) -> dict[str, Any]:
        return self.asked.identity(self.index)

    def given(self, settings: Settings) -> EmbeddingKMeansModel | None:
        """The centroids of the index, to use instead of a fit."""
        if self.index is None:
            return None
        columns = {name: settings[name] for name in ("distanceMeasure",) if name in settings}
        return EmbeddingKMeansModel(centroids=self.index.centroids.matrix, **columns)

    def check(self, estimator: SemDedup, text_settings: Mapping[str, Any]) -> None:
        """Raises ``SemDedupError`` for an index that cannot be written, or is of other embeddings."""
        if self.asked.write_to:
            holds_for(estimator.value("keepRule"), self.asked.index_rows)
        embedded_by = self.index.settings.get("text") if self.index is not None else None
        if self.index is not None and text_settings and embedded_by and dict(text_settings) != dict(embedded_by):
            raise SemDedupError(
                f"against={shown(self.asked.against, 400)} has embeddings of other settings "
                f"({shown(embedded_by)}): give the same model, and what else decides the embeddings"
            )

    def refuse_existing(self, run: str | None) -> None:
        """``ResultExistsError`` where the index to write exists, unless the very ``run`` that is resumed wrote it, and
        where something else does."""
        path = self.asked.write_to
        if path is None:
            return
        versions = Versions(self.job.files, path)
        if versions.is_taken():
            raise ResultExistsError(f"writeIndex={shown(path, 400)} exists and is no index: give another folder")
        if not versions.is_begun():
            return
        try:
            written = SemDedupIndex.open(self.job.spark, path)
        except SemDedupError:
            return  # its creation did not end
        if run is None or written.state.run != run:
            raise ResultExistsError(
                f"writeIndex={shown(path, 400)} is an index already: add to it with against and updateIndex, or give "
                "another folder"
            )

    def rows(self, model: SemDedupModel) -> ReferenceRows:
        """The reference rows."""
        if self.index is not None:
            greedy = model.value("keepRule") == "greedy" and not self.asked.reference_only
            return IndexReferences(self.index, kept_only=greedy)
        return TableReferences(model.rows_of(self.table_rows))

    @cached_property
    def table_rows(self) -> DataFrame:
        assert self.asked.table is not None
        self.asked.table.check(self.job.files)
        return self.asked.table.read(self.job.spark)

    def refuse_known(self, model: SemDedupModel, rows: DataFrame) -> None:
        """Raises ``SemDedupError`` where rows are in the index already, if they are to be added to it."""
        if self.index is not None and not self.asked.reference_only:
            refuse_known_ids(self.index, model.rows_of(rows).documents)

    def found(self, model: SemDedupModel, rows: DataFrame) -> DataFrame:
        """The best reference row of each row (``reference_plan.best_references``)."""
        return found_references(model, model.rows_of(rows), self.rows(model))

    def add(
        self, model: SemDedupModel, rows: DataFrame, duplicates: DataFrame, ids: tuple[Ids, Ids], run: str, about: Any
    ) -> SemDedupIndex:
        """Adds the rows to the index, or writes a new one. ``ids``: of the valid rows, and of those to remove."""
        index = self.index
        if self.asked.write_to:
            holds = self.asked.index_rows
            index = create_index(model, rows, self.asked.write_to, holds=holds, run=run, about=about)
        assert index is not None
        valid, gone = ids
        added = valid if index.holds_removed else Ids(valid.rows - gone.rows, valid.hashes ^ gone.hashes)
        facts = {"rows": valid.rows, "duplicates": gone.rows}
        return add_to_index(model, rows, duplicates, index, ids=added, run=run, facts=facts)

    def described(self) -> dict[str, Any] | None:
        """For ``summary.json``: what was compared with."""
        if not self.asked.compares:
            return None
        about: dict[str, Any] = {"reference_only": self.asked.reference_only}
        if self.index is not None:
            return {"index": self.index.path, "version": self.index.version, "rows": self.index.rows_in, **about}
        assert self.asked.table is not None
        return {"input": list(self.asked.table.paths), **about}


def version_read_before(job: Job, target: Target, journal: Journal) -> int | None:
    """The version of the index that the run to be resumed compares with, or has compared with."""
    if not target.resume:
        return None
    if is_finished(job.files, target.folder):
        identity = read_run_manifest(job.files, target.folder, "output").get("identity") or {}
        return identity.get(INDEX_VERSION)
    return journal.identity.get(INDEX_VERSION)


def count_found(found: DataFrame, threshold: float) -> int:
    """Rows that a reference row is similar enough to."""
    return found.where(F.col("cosine_sim_score") >= threshold).count()
