"""What a run has done so far, kept in ``OUT/_stages``, so that one that was killed can go on.

``run.json`` says what the run is: its input, its settings, its versions. Each stage that has ended has a record beside
it, ``fit.json`` say, with its counts, written when all its results are; a stage without one is done again from its
beginning, and what an earlier attempt left of it is deleted first. Nothing here counts as a result: that takes the
manifests (``datasets``).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.params import SemDedupStageParams
from spark_semdedup.runs.manifest import STAGES
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.target import Target
from spark_semdedup.spark.columns import embedding_column, id_column
from spark_semdedup.spark.determinism import reads_only_files
from spark_semdedup.spark.files import Files, join

RUN = "run.json"

COMPARED = "compared"
"""Folder, inside ``_stages``, of the entries that the comparison gave (``entries``)."""

VERSION = "version of the input table"
"""Name, in what a run is, of the version of a Delta table that it reads."""

OUTPUT = "output of the rows that remain"
"""Name, in what a run is, of where these go (``output_of``)."""

FREE_PARAMS = frozenset(
    {"backend", "batchSize", "deviceMemoryFraction", "execution", "maxClusterRows", "precision", "taskGpuAmount"}
)
"""Params that never change the answer: a run may be resumed with other values."""


@dataclass(frozen=True)
class Stages:
    """The records of a run's stages in its folder."""

    files: Files
    folder: str

    def path(self, name: str) -> str:
        return join(self.folder, STAGES, name)

    @property
    def begun(self) -> bool:
        """Whether a run has begun here that can be gone on with."""
        return "identity" in (self._read(RUN) or {})

    def begin(self, identity: Mapping[str, Any], *, overwrites: bool) -> None:
        """``overwrites``: whether the user lets this run replace a table that is there."""
        begun = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._write(RUN, {"identity": identity, "begun": begun, "overwrites": overwrites})

    def identity(self) -> dict[str, Any]:
        """What the run that has begun here is."""
        found: dict[str, Any] = (self._read(RUN) or {}).get("identity", {})
        return found

    def overwrites(self, output: str) -> bool:
        """Whether the run that has begun here, or is forgotten, may replace what is at this very ``output``."""
        found = self._read(RUN) or {}
        return bool(found.get("overwrites")) and found.get("identity", found).get(OUTPUT) == output

    def record(self, stage: str) -> dict[str, Any] | None:
        """What a stage that has ended said of itself; None for one that has not."""
        return self._read(f"{stage}.json")

    def end(self, stage: str, facts: Mapping[str, Any]) -> None:
        """Makes a stage count as done."""
        self._write(f"{stage}.json", facts)

    def forget(self, output: str, *, overwrites: bool) -> None:
        """From now on nothing can be gone on with here; the next run may replace as much (``overwrites``)."""
        self._write(RUN, {OUTPUT: output, "overwrites": overwrites})

    def clear_records(self) -> None:
        """Deletes what stages have left, and keeps ``run.json``."""
        for name in self.files.names(join(self.folder, STAGES)):
            if name != RUN:
                self.files.delete(self.path(name))

    def clear(self) -> None:
        """Deletes everything, ``run.json`` first."""
        self.files.delete(self.path(RUN))
        self.files.delete(join(self.folder, STAGES))

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        self.files.write_text(self.path(name), json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def _read(self, name: str) -> dict[str, Any] | None:
        """None where nothing is, or what a kill in the midst of writing left: no JSON, since it ends in a brace."""
        if not self.files.exists(self.path(name)):
            return None
        try:
            found = json.loads(self.files.read_text(self.path(name)))
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None


def identity_of(
    files: Files, source: Source, target: Target, rows: DataFrame, params: SemDedupStageParams, about: Mapping[str, Any]
) -> dict[str, Any]:
    """What must be equal in a run that goes on with another: by names a user knows, values that JSON holds.

    ``about``: settings, versions and centroids, as the caller describes them. Paths and options may hold secrets, so
    only a digest of them is kept.
    """
    return {
        "input": digest([*source.paths, source.table, source.format, source.glob, dict(source.options)]),
        "input's columns": digest(rows.schema.simpleString()),
        VERSION: source.version,
        "input's data": fingerprint(files, source, rows, params),
        OUTPUT: output_of(target),
        **about,
    }


def output_of(target: Target) -> str:
    """Tells apart where the rows that remain go, beside the folder."""
    return digest([target.format, dict(target.options), target.table])


def refuse_other_run(identity: Mapping[str, Any], before: Mapping[str, Any], folder: str) -> None:
    """Raises ``SemDedupError`` that names what differs from the run to go on with."""
    for name in dict.fromkeys([*before, *identity]):
        now, then = identity.get(name), before.get(name)
        if now == then:
            continue
        if name.startswith("input's data"):
            what = "the input's data have changed (files, their sizes or times)"
        elif name.startswith(("input", "output")):
            what = f"{name} differs"
        else:
            what = f"{name} is {shown(now)}, was {shown(then)}"
        raise SemDedupError(
            f"output={shown(folder, 400)} holds another run: {what}; give what it was begun with, or --overwrite "
            "to begin again"
        )


def fingerprint(files: Files, source: Source, rows: DataFrame, params: SemDedupStageParams) -> str:
    """Tells apart what ``rows``, read from ``source``, are: by names, lengths and times of their files, or, where not
    all come from files (but from a database, say), by a hash of ids, embeddings and what ranks them, in one job.

    The files of one version of a Delta table never change, so their names tell. Of two versions they do not: a deletion
    may leave all files and mark rows in them (deletion vectors).
    """
    of_files = fingerprint_of_files(files, source, rows)
    if of_files is not None:
        return of_files
    id_, embedding = id_column(rows, params.value("idCol")), embedding_column(rows, params.value("embeddingCol"))
    ranks = Ranking(by=Ranking.of(params).by).key_columns(rows, id_)
    hash_ = F.bit_xor(F.xxhash64(id_, embedding, *ranks)).alias("hash")
    hashed = rows.agg(F.count(F.lit(1)).alias("rows"), hash_).first()
    return digest(["rows", *(hashed or ())])


def fingerprint_of_files(files: Files, source: Source, rows: DataFrame) -> str | None:
    """The same, without a job. None where not all rows come from files, or one of these has gone since it was
    listed."""
    if source.is_delta:
        return digest(["delta", source.version, *sorted(rows.inputFiles())])
    paths = rows.inputFiles() if reads_only_files(rows) else []
    folders = {_folder_of(path) for path in paths}
    there = {folder: files.sizes_and_times(folder) for folder in sorted(folders)}
    read = [(path, there[_folder_of(path)].get(path.rsplit("/", 1)[1])) for path in sorted(paths)]
    if not paths or any(found is None for _, found in read):
        return None
    return digest(["files", *read])


def _folder_of(path: str) -> str:
    """With its slash: without it a file system's root would be no path."""
    return path.rsplit("/", 1)[0] + "/"


def digest(value: Any) -> str:
    """SHA-256 of a value, by its JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]
