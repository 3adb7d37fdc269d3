"""What changes an index: each makes the next version of the newest one, whose files it never touches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spark_semdedup.index.commit import commit
from spark_semdedup.index.files import FILE_BYTES, files_for
from spark_semdedup.index.storage import Match, Storage
from spark_semdedup.index.version import Batch, FitFacts, RowFile, Version, now
from spark_semdedup.spark.ids import Ids


@dataclass(frozen=True)
class NewBatch:
    """A batch to add. ``ids``: of its rows. ``run``: digest of the run that adds it. ``facts``: what it notes."""

    rows: Any
    ids: Ids
    run: str | None
    facts: Mapping[str, Any]


def append(storage: Storage, seen: Version, new: NewBatch) -> Version:
    """Adds a batch. A run whose batch the index has is done already."""
    versions = storage.versions
    newest = versions.open()
    if newest.batch_of(new.run) is not None:
        return newest

    def make(version: Version) -> Version:
        begun = now()
        written = storage.write(new.rows, versions.rows_folder(version.version + 1), new.ids.rows, version)
        written.require(new.ids)
        fit, number = version.fit, version.next_batch
        if fit is None and written.ids.rows:
            fit = FitFacts(storage.percentile(written), written.cells, number + 1)
        margins = version.margins
        if written.files and (margins is not None or not version.files):  # margins must cover all rows, or be none
            margins = storage.add_margins(written.files, version, versions.margins_folder(version.version + 1))
        added = Batch(number, written.ids.rows, written.kept, written.far, begun, new.run, dict(new.facts))
        return version.following(
            "append",
            batches=(*version.batches, added),
            next_batch=number + 1,
            files=(*version.files, *written.files),
            cells=version.cells + written.cells,
            margins=margins,
            fit=fit,
        )

    return commit(versions, seen, make)


def compact(storage: Storage, seen: Version, *, retain_hours: float) -> Version:
    """Merges small files into few sorted ones, where that makes fewer. Then deletes what was replaced before."""

    def make(version: Version) -> Version | None:
        small = worth_merging(version.files, version.dim)
        if not small:
            return None
        expected = storage.count_files(version, small)
        rows = storage.rows(version, small)
        written = storage.write(rows, storage.versions.rows_folder(version.version + 1), expected.rows, version)
        written.require(expected)
        files = (*(file for file in version.files if file not in small), *written.files)
        return version.following("compact", changes_rows=False, files=files)

    return commit(storage.versions, seen, make, retain_hours=retain_hours)


def worth_merging(files: tuple[RowFile, ...], dim: int) -> list[RowFile]:
    """The files of less than half the wanted size, if merging makes fewer of them."""
    small = [file for file in files if file.bytes < FILE_BYTES // 2]
    return small if len(small) > files_for(sum(file.rows for file in small), dim) else []


def remove(storage: Storage, seen: Version, ids: Any, *, retain_hours: float) -> Version:
    """Writes the files that hold the ids, distinct ones, again without them. Then deletes what was replaced before."""

    def make(version: Version) -> Version | None:
        matches = storage.matches(version, ids)
        if not matches:
            return None
        paths = {match.path for match in matches}
        touched = [file for file in version.files if file.path in paths]
        rows = storage.rows(version, touched)
        expected = storage.count_files(version, touched)
        for match in matches:
            expected = Ids(expected.rows - match.rows, expected.hashes ^ match.hashes)
        folder = storage.versions.rows_folder(version.version + 1)
        written = storage.write(storage.without(rows, ids), folder, expected.rows, version)
        written.require(expected)
        files = (*(file for file in version.files if file.path not in paths), *written.files)
        return version.following("remove", files=files, **_counts_without(version, matches))

    return commit(storage.versions, seen, make, retain_hours=retain_hours)


def _counts_without(version: Version, matches: list[Match]) -> dict[str, Any]:
    cells = version.cells.copy()
    np.subtract.at(cells, [match.centroid for match in matches], [match.rows for match in matches])
    batches = []
    for batch in version.batches:
        gone = [match for match in matches if match.batch == batch.batch]
        counts = {name: getattr(batch, name) - sum(getattr(m, name) for m in gone) for name in ("rows", "kept", "far")}
        is_of_fit = version.fit is None or batch.batch < version.fit.next_batch
        batches.append(replace(batch, **counts | ({"far": 0} if is_of_fit else {})))
    return {"cells": cells, "batches": tuple(batches)}


def refit(storage: Storage, seen: Version, *, k: int | None, retain_hours: float) -> Version:
    """Fits new centroids on the rows and assigns all to them. Unit vectors, rank keys and batches stay."""
    versions = storage.versions

    def make(version: Version) -> Version:
        number = version.version + 1
        expected = storage.count_files(version, version.files)
        centroids = storage.fit(version, k)
        folder = versions.centroids_folder(number)
        storage.save_centroids(centroids, folder)
        empty = np.zeros(centroids.k, np.int64)
        fitted = replace(
            version, k=centroids.k, cells=empty, fit=None, margins=None, centroids=folder, history=centroids.history
        )
        assigned = storage.reassigned(storage.rows(version), centroids, version)
        written = storage.write(assigned, versions.rows_folder(number), expected.rows, fitted)
        written.require(expected)
        fit = FitFacts(storage.percentile(written), written.cells, version.next_batch)
        margins = storage.add_margins(written.files, fitted, versions.margins_folder(number))
        batches = tuple(replace(batch, far=0) for batch in version.batches)
        return fitted.following(
            "refit", margins=margins, files=written.files, cells=written.cells, batches=batches, fit=fit
        )

    return commit(versions, seen, make, retain_hours=retain_hours)
