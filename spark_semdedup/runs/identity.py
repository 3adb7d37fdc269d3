"""The identity of a run: all that another run must share to continue it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.params import SemDedupStageParams
from spark_semdedup.runs.journal import OUTPUT
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.target import Target
from spark_semdedup.spark.columns import embedding_column, id_column, text_column
from spark_semdedup.spark.determinism import reads_only_files
from spark_semdedup.spark.files import Files

VERSION = "version of the input table"
"""Name, in an identity, of the version of a Delta table that the run reads."""

FREE_PARAMS = frozenset(
    {
        *("backend", "batchSize", "deviceMemoryFraction", "execution", "maxClusterRows", "maxPairs", "precision"),
        "taskGpuAmount",
    }
)
"""Params that never change the answer: a run may be resumed with other values."""


def identity_of(
    files: Files,
    source: Source,
    target: Target,
    rows: DataFrame,
    params: SemDedupStageParams,
    about: Mapping[str, Any],
    text_col: str | None = None,
) -> dict[str, Any]:
    """The identity, by names a user knows, with values that JSON holds.

    ``about``: settings, versions and centroids, as the caller describes them. Paths and options may hold secrets, so
    the identity has only their digests. ``text_col``: the texts to embed, where ``rows`` have no embeddings.
    """
    return {
        "input": digest([*source.paths, source.table, source.format, source.glob, dict(source.options)]),
        "input's columns": digest(rows.schema.simpleString()),
        VERSION: source.version,
        "input's data": fingerprint(files, source, rows, params, text_col),
        OUTPUT: output_of(target),
        **about,
    }


def output_of(target: Target) -> str:
    """Digest of where the kept rows go, apart from the folder."""
    return digest([target.format, dict(target.options), target.table])


def fingerprint(
    files: Files, source: Source, rows: DataFrame, params: SemDedupStageParams, text_col: str | None = None
) -> str:
    """Digest of the input's data: of the names, lengths and times of the files that ``rows`` come from.

    Where some rows come from elsewhere, a database say, one job hashes ids, embeddings (or texts) and rank columns.

    The files of one version of a Delta table never change, so their names suffice. Two versions may share all files: a
    deletion may only mark rows in them (deletion vectors).
    """
    of_files = fingerprint_of_files(files, source, rows)
    if of_files is not None:
        return of_files
    id_ = id_column(rows, params.value("idCol"))
    if text_col is None:
        content = embedding_column(rows, params.value("embeddingCol"), format_=params.value("embeddingFormat"))
    else:
        content = text_column(rows, text_col, "textCol")
    ranks = Ranking(by=Ranking.of(params).by).key_columns(rows, id_)
    hash_ = F.bit_xor(F.xxhash64(id_, content, *ranks)).alias("hash")
    hashed = rows.agg(F.count(F.lit(1)).alias("rows"), hash_).first()
    return digest(["rows", *(hashed or ())])


def fingerprint_of_files(files: Files, source: Source, rows: DataFrame) -> str | None:
    """The same without a job. None where some rows come from no file, or a file has gone since it was listed."""
    if source.is_delta:
        return digest(["delta", source.version, *sorted(rows.inputFiles())])
    paths = rows.inputFiles() if reads_only_files(rows) else []
    states = {folder: files.sizes_and_times(folder) for folder in sorted({_folder_of(path) for path in paths})}
    read = [(path, states[_folder_of(path)].get(path.rsplit("/", 1)[1])) for path in sorted(paths)]
    if not paths or any(state is None for _, state in read):
        return None
    return digest(["files", *read])


def _folder_of(path: str) -> str:
    """With its slash: without it a file system's root would be no path."""
    return path.rsplit("/", 1)[0] + "/"


def digest(value: Any) -> str:
    """SHA-256 of a value, by its JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]
