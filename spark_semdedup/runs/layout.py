"""How the files of an input lie: what Spark would leave out without a word, and what only a table's log can tell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote

from pyspark.sql import DataFrame, SparkSession

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.spark.files import Files, escaped, join

TABLE_FORMATS = frozenset({"delta", "iceberg", "hudi"})
"""Formats of tables that have a log: which files, and which of their rows, count."""

RECURSIVE = "--input-option recursiveFileLookup=true"

_LISTING_OPTIONS = ("pathglobfilter", "modifiedbefore", "modifiedafter", "timezone")
"""Options of a reader, in lower case, that say which files it takes."""


def refuse_table(files: Files, paths: Iterable[str], format_: str) -> None:
    """Raises ``SemDedupError`` where a path is, or lies in, a table with a log, and is to be read as plain files: rows
    that the log has removed would come back, and rows that were rewritten come twice."""
    seen: set[str] = set()
    for path in paths:
        for full in files.matches(path):
            for folder in _may_be_tables(files.folder_of(full)):
                if folder in seen:
                    break  # and so were those above it
                seen.add(folder)
                _refuse_folder_of_table(files, folder, path, format_)


def _refuse_folder_of_table(files: Files, folder: str, path: str, format_: str) -> None:
    found = _table_at(files, folder)
    if found is None:
        return
    kind, log = found
    where = "is" if folder.rstrip("/").endswith(path.rstrip("/")) else "holds files of"
    raise SemDedupError(
        f"input={shown(path, 400)} {where} a table of format {kind} ({shown(join(folder, log), 400)}): as {format_} "
        "rows that were removed or rewritten would come back; give the table itself with --input-format "
        f"{kind}, or --input-table"
    )


def _may_be_tables(folder: str) -> Iterator[str]:
    """A folder, the one above it, and those further above as long as it lies in a partition of theirs."""
    yield folder
    while True:
        above, _, name = folder.rstrip("/").rpartition("/")
        if above.endswith((":", ":/")) or not above:  # the file system's root
            return
        yield above
        if "=" not in name and name != "data":  # where Iceberg keeps its files
            return
        folder = above


def _table_at(files: Files, folder: str) -> tuple[str, str] | None:
    """The format of the table that a folder is, and what tells so."""
    try:
        if files.exists(join(folder, "_delta_log")):
            return "delta", "_delta_log"
        if files.exists(join(folder, ".hoodie")):
            return "hudi", ".hoodie"
        if files.matches(join(escaped(folder), "metadata", "*.metadata.json")):
            return "iceberg", "metadata"
    except SemDedupError:  # a folder above, which the user may not look into
        return None
    return None


def refuse_left_out(rows: DataFrame, options: dict[str, str], name: str) -> None:
    """Raises ``SemDedupError`` where files lie below the folders that ``rows`` are read from, but are not read.

    Spark reads the files at a folder's top, and where there are none those of its partitions, folders called
    ``column=value``; others in subfolders are left out without a word. Lists the folders once more. ``name``: of the
    input, for the message.
    """
    location = _location(rows)
    if location is None or _is_true(options, "recursivefilelookup"):
        return
    spark = rows.sparkSession
    read = input_files(spark, rows)
    folders = [path for path in location.rootPaths().mkString("\n").split("\n") if path and path not in read]
    if not folders:
        return
    below = files_below(spark, folders, options)
    partitions = [str(column) for column in location.partitionSchema().fieldNames()]
    if partitions:  # of which those at the top are none
        mark = f"/{partitions[0]}=".lower()
        read = {path for path in read if mark in path.lower()}
    left_out = sorted(below - read)
    if left_out:
        also = f"has partitions ({partitions[0]}=…) and files outside them" if partitions else "has files in subfolders"
        top = "move them apart" if partitions else f"give those at the top alone, {shown(join(folders[0], '*'), 400)}"
        raise SemDedupError(
            f"{name} {also}, and Spark would leave {len(left_out)} of {len(below)} files out, for example "
            f"{shown(left_out[0], 400)}: read all with {RECURSIVE}, or {top}"
        )


def files_below(spark: SparkSession, folders: Iterable[str], options: dict[str, str]) -> set[str]:
    """Full paths of all files in folders, and below them, that Spark does not take for hidden."""
    reader = spark.read.format("binaryFile")
    for name, value in options.items():
        if name.lower() in _LISTING_OPTIONS:
            reader = reader.option(name, value)
    found = reader.option("recursiveFileLookup", "true").load([escaped(folder) for folder in folders])
    return input_files(spark, found)


def input_files(spark: SparkSession, rows: DataFrame) -> set[str]:
    """The paths of the files that rows are read from, in one call: an array's items would take one each."""
    jvm: Any = spark._jvm
    listed = jvm.com.fasterxml.jackson.databind.ObjectMapper().writeValueAsString(rows._jdf.inputFiles())
    return {unquote(path).replace("file:///", "file:/", 1) for path in json.loads(listed)}


def _location(rows: DataFrame) -> Any:
    """Where Spark reads files itself, its index of them; None for tables with readers of their own."""
    leaves = rows._jdf.queryExecution().analyzed().collectLeaves()
    if leaves.size() != 1 or leaves.apply(0).getClass().getSimpleName() != "LogicalRelation":
        return None
    relation = leaves.apply(0).relation()
    if relation.getClass().getSimpleName() != "HadoopFsRelation":
        return None
    location = relation.location()
    return location if location.getClass().getSimpleName() == "InMemoryFileIndex" else None


def _is_true(options: dict[str, str], name: str) -> bool:
    return any(key.lower() == name and value.lower() == "true" for key, value in options.items())


ARROW_FILES = (".arrow", ".feather", ".ipc")
"""Endings of files in Arrow's own formats, which Spark does not read."""


def is_sought(paths: Iterable[str], format_: str) -> bool:
    """Whether some of the files look like the format's: their names end so, or have no ending at all."""
    names = [path.rsplit("/", 1)[-1].lower() for path in paths]
    return any(format_.lower() in name.split(".")[1:] or "." not in name for name in names)
