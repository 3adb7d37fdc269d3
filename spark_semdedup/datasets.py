"""What the steps read and write: input, output, and the manifest that makes a folder a result.

A folder of rows holds, beside its data, files that Spark's readers skip because of the underscore: ``_semdedup.json``
says what the rows are and what they are complete for. It is written last, so a folder that has it is whole, on
object stores too. ``_semdedup.unfinished`` is written first and removed last: a folder with it alone is a step's that
did not end.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from spark_semdedup.errors import ResultExistsError, SemDedupError, shown
from spark_semdedup.files import Files, is_within, join
from spark_semdedup.report import one_line
from spark_semdedup.validation import refuse_stream

MANIFEST = "_semdedup.json"
RUN_MANIFEST = "_manifest.json"
"""The manifest of a whole run, which lies beside the folders of its steps."""
UNFINISHED = "_semdedup.unfinished"

ROWS_PER_FILE = 2_000_000
"""Rows of narrow tables (ids and scores) per file: some tens of MB, and no task that moves more than that."""

_WITHOUT_SCHEMA = frozenset({"csv", "json", "text", "xml"})
"""Formats of which Spark would read all rows just to learn their columns."""


@dataclass(frozen=True)
class Source:
    """The rows to read: files at ``paths`` in a format Spark knows, or a ``table``."""

    paths: tuple[str, ...] = ()
    table: str | None = None
    format: str = "parquet"
    options: Mapping[str, str] = field(default_factory=dict)
    glob: str | None = None
    """Pattern that file names must match (Spark's ``pathGlobFilter``)."""

    def check(self, files: Files) -> None:
        """Raises ``SemDedupError`` for a path at which nothing is."""
        for path in self.paths:
            if files.matches(path):
                continue
            if files.exists(path):
                why = "is there, but as a pattern it matches nothing: put \\ before each of {} [] * ? in its name"
            else:
                why = "does not exist: give a file, a folder or a pattern"
            raise SemDedupError(f"input={shown(path, 400)} {why}")

    def read(self, spark: SparkSession) -> DataFrame:
        """The rows, lazily. ``SemDedupError`` where Spark cannot tell their columns."""
        try:
            if self.table is not None:
                rows = spark.table(self.table)
                refuse_stream(rows)
                return rows
            reader = spark.read.format(self.format).options(**self.options)
            if self.glob is not None:
                reader = reader.option("pathGlobFilter", self.glob)
            return reader.load(list(self.paths))
        except (PySparkException, Py4JJavaError) as error:
            what = f"inputTable={shown(self.table)}" if self.table else f"input={shown(' '.join(self.paths), 400)}"
            form = "" if self.table else f" as {self.format}"
            why = one_line(error)
            if "UNABLE_TO_INFER_SCHEMA" in why:
                why = "there are no files in it that can be (Spark skips names that begin with _ or .)"
            if "CANNOT_MERGE" in why:
                why += "; give all files the same types, or mergeSchema=false as an option to take those of one file"
            raise SemDedupError(f"{what} cannot be read{form}: {why}") from error


@dataclass(frozen=True)
class Target:
    """Where results go: folder ``path``; the rows that remain in ``format``, or in ``table`` instead of a folder."""

    path: str | None = None
    format: str = "parquet"
    options: Mapping[str, str] = field(default_factory=dict)
    table: str | None = None
    overwrite: bool = False

    def check(self, spark: SparkSession, files: Files, reads: Mapping[str, Sequence[str]]) -> None:
        """Raises ``ResultExistsError`` for a result that is there already and may not be overwritten, and
        ``SemDedupError`` where writing could harm what is read.

        ``reads``: the paths that the step reads, by the name of the Param.
        """
        if self.path is not None:
            _refuse_pattern(self.path)
            _refuse_overlap(files, self.path, reads)
            if not self.overwrite and not files.is_vacant(self.path):
                raise ResultExistsError(
                    f"output={shown(self.path, 400)} exists already: give another folder, or --overwrite to replace it"
                )
        if self.table is not None and _table_exists(spark, self.table) and not self.overwrite:
            raise ResultExistsError(
                f"outputTable={shown(self.table)} exists already: give another name, or --overwrite to replace it"
            )

    def try_writing(self, files: Files, rows: DataFrame) -> None:
        """Writes no rows and removes them again, so that a format that cannot hold the columns, or a folder that
        cannot be written to, is known before hours of work."""
        if self.path is None:
            return
        trial = join(self.path, "_semdedup.trial")
        try:
            self.save(rows.limit(0), trial)
        except (PySparkException, Py4JJavaError) as error:
            raise SemDedupError(
                f"output={shown(self.path, 400)}: the rows cannot be written as {self.format}: {one_line(error)}"
            ) from error
        finally:
            files.delete(trial)

    def save(self, rows: DataFrame, path: str) -> None:
        """Writes rows in this target's format to a folder."""
        rows.write.format(self.format).options(**self.options).mode("append").save(path)

    def save_and_count(self, rows: DataFrame, path: str) -> int:
        """``save``, and the number of rows, counted in what was written."""
        self.save(rows, path)
        reader = rows.sparkSession.read.format(self.format).options(**self.options)
        return (reader.schema(rows.schema) if self.format in _WITHOUT_SCHEMA else reader).load(path).count()

    def save_table(self, rows: DataFrame) -> int:
        """Writes rows to the table. Returns their number, counted in what was written."""
        assert self.table is not None
        writer = rows.write.mode("overwrite" if self.overwrite else "errorifexists").options(**self.options)
        # Without a format the catalog's own default decides (Delta on Databricks).
        (writer if self.format == "parquet" else writer.format(self.format)).saveAsTable(self.table)
        return rows.sparkSession.table(self.table).count()


_NAME_PART = re.compile(r"`(?:[^`]|``)*`|[^.`]+")
"""A part of a table's name: catalog, schema or table. In backticks it may have dots."""


def _table_exists(spark: SparkSession, table: str) -> bool:
    """Whether a table is there; ``SemDedupError`` where its name is none, or its schema is not there."""
    try:
        if spark.catalog.tableExists(table):
            return True
        schema = ".".join(_NAME_PART.findall(table)[:-1])
        there = not schema or spark.catalog.databaseExists(schema)
    except (PySparkException, Py4JJavaError) as error:
        raise SemDedupError(f"outputTable={shown(table)} cannot be used: {one_line(error)}") from error
    if not there:
        raise SemDedupError(f"outputTable={shown(table)} cannot be written: there is no schema {shown(schema)}")
    return False


def _refuse_pattern(output: str) -> None:
    """What is written is read again, and Spark's readers take some characters for a pattern, whatever is there."""
    found = sorted(set(output) & set("{}[]*?\\"))
    if found:
        raise SemDedupError(
            f"output={shown(output, 400)} has {' '.join(found)}, which Spark's readers take for a pattern: give a "
            "folder without {} [] * ? \\"
        )


def _refuse_overlap(files: Files, output: str, reads: Mapping[str, Sequence[str]]) -> None:
    target = files.real(output)
    for name, patterns in reads.items():
        for pattern in patterns:
            for place in map(files.real, files.matches(pattern)):
                if is_within(place, target) or is_within(target, place):
                    raise SemDedupError(
                        f"output={shown(output, 400)} and {name}={shown(pattern, 400)} overlap: what is read would be "
                        "mixed with what is written; give output a folder of its own"
                    )


# --- manifests ----------------------------------------------------------------------------------------------


def begin(files: Files, path: str) -> None:
    """Marks a folder as being written. It must be vacant."""
    files.write_text(join(path, UNFINISHED), "")


def finish(files: Files, path: str, manifest: Mapping[str, Any], name: str = MANIFEST) -> None:
    """Writes the manifest, which makes the folder valid, and takes the mark away."""
    files.write_text(join(path, name), json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    files.delete(join(path, UNFINISHED))


def write_dataset(files: Files, rows: DataFrame, path: str, manifest: Mapping[str, Any]) -> int:
    """Writes a Parquet folder of ours with its manifest. Returns the number of rows, counted in what was written."""
    begin(files, path)
    rows.write.mode("append").parquet(path)
    written = rows.sparkSession.read.schema(rows.schema).parquet(path).count()
    finish(files, path, {**manifest, "rows": written})
    return written


def read_manifest(files: Files, path: str, param: str, wanted: str) -> dict[str, Any] | None:
    """What a folder holds, by its manifest; None for one that has none because another program wrote it.

    Raises ``SemDedupError`` where nothing is there, where the step that wrote it did not end, or where it holds
    something else than ``wanted``.
    """
    place = f"{param}={shown(path, 400)}"
    if not files.matches(path):
        raise SemDedupError(f"{place} does not exist: give the folder of {wanted}")
    if not files.exists(join(path, MANIFEST)):
        if files.exists(join(path, UNFINISHED)):
            raise SemDedupError(f"{place} is not finished: the step that wrote it did not end; run it again")
        if files.exists(join(path, RUN_MANIFEST)):
            raise SemDedupError(f"{place} is the folder of a whole run: give {join(path, wanted)}")
        return None
    manifest = _parsed(files, path, MANIFEST, place)
    if manifest.get("holds") != wanted:
        raise SemDedupError(f"{place} holds {manifest.get('holds')}, not {wanted}")
    return manifest


def read_run_manifest(files: Files, path: str, param: str) -> dict[str, Any]:
    """What the folder of a whole run says of it: its summary. ``SemDedupError`` where no run has ended there."""
    place = f"{param}={shown(path, 400)}"
    if not files.matches(path):
        raise SemDedupError(f"{place} does not exist: give the folder that a run wrote")
    if not files.exists(join(path, RUN_MANIFEST)):
        if files.exists(join(path, UNFINISHED)):
            raise SemDedupError(f"{place} is not finished: the run that wrote it did not end; run it again")
        raise SemDedupError(f"{place} is not the folder of a run (it has no {RUN_MANIFEST}): give what run wrote")
    return _parsed(files, path, RUN_MANIFEST, place)


def _parsed(files: Files, path: str, name: str, place: str) -> dict[str, Any]:
    try:
        manifest = json.loads(files.read_text(join(path, name)))
    except ValueError as error:
        raise SemDedupError(f"{place}: {name} in it is not valid JSON ({error})") from error
    if not isinstance(manifest, dict):
        raise SemDedupError(f"{place}: {name} in it is no manifest (it must be a JSON object)")
    return manifest


def is_own_run(files: Files, path: str) -> bool:
    """Whether a folder is what a run of this program wrote, ended or not."""
    return any(files.exists(join(path, name)) for name in (RUN_MANIFEST, UNFINISHED))


def files_for(rows: int) -> int:
    """Number of files for narrow rows."""
    return max(1, math.ceil(rows / ROWS_PER_FILE))
