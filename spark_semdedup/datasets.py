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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from spark_semdedup.columns import id_column, is_float_array, refuse_stream
from spark_semdedup.errors import FolderInUseError, ResultExistsError, SemDedupError, shown
from spark_semdedup.files import Files, is_within, join
from spark_semdedup.ids import Ids
from spark_semdedup.locking import is_lock
from spark_semdedup.redaction import COLUMN_PARAMS, redacted_values
from spark_semdedup.report import one_line

MANIFEST = "_semdedup.json"
RUN_MANIFEST = "_manifest.json"
"""The manifest of a whole run, which lies beside the folders of its steps."""
UNFINISHED = "_semdedup.unfinished"

STAGES = "_stages"
"""The folder in which a run records how far it is (``stages``)."""

ROWS_PER_FILE = 2_000_000
"""Rows of narrow tables (ids and scores) per file: some tens of MB, and no task that moves more than that."""

_WITHOUT_SCHEMA = frozenset({"csv", "json", "text", "xml"})
"""Formats of which Spark would read all rows just to learn their columns."""

_WRITTEN_WHOLE = {"csv": {"ignoreLeadingWhiteSpace": "false", "ignoreTrailingWhiteSpace": "false"}}
"""By format, options without which Spark writes less than there is: it would strip text."""

_READ_WHOLE = {"csv": {"multiLine": "true"}}
"""By format, options without which Spark does not read the rows that it wrote: text may have line breaks."""


@dataclass(frozen=True)
class Source:
    """The rows to read: files at ``paths`` in a format Spark knows, or a ``table``."""

    paths: tuple[str, ...] = ()
    table: str | None = None
    format: str = "parquet"
    options: Mapping[str, str] = field(default_factory=dict)
    glob: str | None = None
    """Pattern that file names must match (Spark's ``pathGlobFilter``)."""
    is_delta: bool = False
    """Whether ``pinned`` found a Delta table."""
    version: int | None = None
    """The version of a Delta table to read, where ``options`` name none."""

    def check(self, files: Files) -> None:
        """Raises ``SemDedupError`` for a path at which nothing is, and for several of a format that takes one."""
        if self.format.lower() == "delta" and len(self.paths) > 1:
            raise SemDedupError(
                f"input={shown(' '.join(self.paths), 400)} names {len(self.paths)} paths: a Delta table has one"
            )
        for path in self.paths:
            if files.matches(path):
                continue
            if files.exists(path):
                why = "is there, but as a pattern it matches nothing: put \\ before each of {} [] * ? in its name"
            else:
                why = "does not exist: give a file, a folder or a pattern"
            raise SemDedupError(f"input={shown(path, 400)} {why}")

    def read(self, spark: SparkSession, schema: T.StructType | None = None) -> DataFrame:
        """The rows, lazily. ``SemDedupError`` where Spark cannot tell their columns. ``schema``: what an earlier look
        at files found, so that those of text need not be read for it again."""
        with self._named():
            reader = with_options(spark.read, self.options)
            if self.version is not None:
                reader = reader.option("versionAsOf", self.version)
            if self.table is not None:
                rows = reader.table(self.table)
                refuse_stream(rows)
                return rows
            if self.glob is not None:
                reader = reader.option("pathGlobFilter", self.glob)
            if schema is not None and self.format.lower() in _WITHOUT_SCHEMA:
                reader = reader.schema(schema)
            return reader.format(self.format).load(list(self.paths))

    def pinned(self, spark: SparkSession, version: int | None = None) -> Source:
        """This source; where it is a Delta table, at ``version``, or at the newest one there is, unless its options say
        which.

        A DataFrame of a Delta table gives, at each action, what the table holds then (``getSnapshotToScan`` in Delta's
        ``TahoeFileIndex.scala``), and a step reads its input more than once.
        """
        if not self._names_delta(spark):
            return self
        self.read(spark)  # says what is wrong with one that cannot be read
        if any(name.lower() in ("versionasof", "timestampasof") for name in self.options):
            return replace(self, is_delta=True)
        return replace(self, is_delta=True, version=self._newest(spark) if version is None else version)

    def _names_delta(self, spark: SparkSession) -> bool:
        if self.table is None:
            return self.format.lower() == "delta"
        with self._named():
            # The name goes in as a value, not as a part of the statement.
            said = spark.sql("DESCRIBE TABLE EXTENDED IDENTIFIER(:name)", args={"name": self.table}).collect()
        # A column may be called so, too.
        return any(row["col_name"] == "Provider" and row["data_type"].lower() == "delta" for row in said)

    def _newest(self, spark: SparkSession) -> int:
        """The number of a Delta table's newest version. (SQL's DESCRIBE HISTORY takes absolute paths only.)"""
        session, tables = spark._jsparkSession, spark._jvm.io.delta.tables.DeltaTable  # type: ignore
        with self._named():
            delta = tables.forPath(session, *self.paths) if self.table is None else tables.forName(session, self.table)
            (newest,) = DataFrame(delta.history(1), spark).select("version").collect()
            return int(newest["version"])

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What Spark says against this source as one line that names it."""
        try:
            yield
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
    resume: bool = False
    """Go on with an unfinished run that is there."""
    keep_stages: bool = False
    """Leave ``_stages`` where it is when a run has ended."""

    def check(self, files: Files, reads: Mapping[str, Sequence[str]], *, of_run: bool = False) -> None:
        """Raises ``ResultExistsError`` for a result that is there already and may not be overwritten, and
        ``SemDedupError`` where writing could harm what is read.

        ``reads``: the paths that the step reads, by the name of the Param. ``of_run``: the step is a whole run.
        """
        if self.path is None:
            return
        _refuse_pattern(self.path)
        _refuse_overlap(files, self.path, reads)
        if self.overwrite or files.is_vacant(self.path) or (self.resume and can_resume(files, self.path)):
            return
        names = files.names(self.path)
        begun = all(map(is_mark, names))
        if begun and not of_run:  # nothing is lost, and the lock tells whether somebody is at work
            return
        what, hint = "exists already", ""
        if of_run and (begun or (STAGES in names and (UNFINISHED in names or RUN_MANIFEST not in names))):
            what, hint = "holds a run that has not ended", "--resume to go on with it, "
        elif UNFINISHED in names:
            what = "holds a result that is not finished"
        raise ResultExistsError(
            f"output={shown(self.path, 400)} {what}: give another folder, {hint}or --overwrite to replace it"
        )

    def refuse_written_meanwhile(self, files: Files) -> None:
        """Raises ``FolderInUseError`` where another run or step has been in the folder since ``check`` found it vacant.
        For one that holds its lock."""
        if self.path is None or self.overwrite or self.resume or all(map(is_mark, files.names(self.path))):
            return
        raise FolderInUseError(
            f"output={shown(self.path, 400)} was written by another run or step meanwhile: give another folder, or "
            "--overwrite to replace it"
        )

    def refuse_existing_table(self, spark: SparkSession) -> None:
        """Raises ``ResultExistsError`` for a table that is there already and may not be overwritten, and
        ``SemDedupError`` for one that cannot be."""
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
        files.delete(trial)  # what a kill left of an earlier one would be appended to
        form = self.format
        if self._is_of_catalogs_format:
            form = rows.sparkSession.conf.get("spark.sql.sources.default") or form
        try:
            replace(self, format=form).save(rows.limit(0), trial)
        except (PySparkException, Py4JJavaError) as error:
            raise SemDedupError(
                f"output={shown(self.path, 400)}: the rows cannot be written as {form}: {one_line(error)}"
            ) from error
        finally:
            files.delete(trial)

    def save(self, rows: DataFrame, path: str) -> None:
        """Writes rows in this target's format to a folder."""
        whole = _WRITTEN_WHOLE.get(self.format.lower(), {})
        options = {**_without_vector_statistics(rows.schema, self.format), **whole, **self.options}
        with_options(rows.write.format(self.format), options).mode("append").save(path)

    def read_back(self, rows: DataFrame, path: str) -> DataFrame:
        """What ``save`` wrote."""
        options = {**_READ_WHOLE.get(self.format.lower(), {}), **self.options}
        reader = with_options(rows.sparkSession.read.format(self.format), options)
        return (reader.schema(rows.schema) if self.format.lower() in _WITHOUT_SCHEMA else reader).load(path)

    def save_table(self, rows: DataFrame) -> None:
        """Writes rows to the table."""
        assert self.table is not None
        writer = with_options(rows.write.mode("overwrite" if self.overwrite else "errorifexists"), self.options)
        (writer if self._is_of_catalogs_format else writer.format(self.format)).saveAsTable(self.table)

    @property
    def _is_of_catalogs_format(self) -> bool:
        """Whether the rows go to a table without a format: the catalog's own default decides (Delta on Databricks)."""
        return self.table is not None and self.format.lower() == "parquet"


def _without_vector_statistics(schema: T.StructType, format_: str) -> dict[str, str]:
    """Options that keep Parquet from noting the least and greatest element, and counts, of arrays of floating-point
    numbers for each page and row group. No reader finds rows by them, and they take a twentieth of the time to write
    embeddings (RESULTS.md). Parquet knows them from 1.15 on (Spark 4) and passes over what it does not know."""
    if format_.lower() != "parquet":
        return {}
    elements = [f"{field.name}.list.element" for field in schema.fields if is_float_array(field.dataType)]
    return {f"parquet.{kind}.statistics.enabled#{name}": "false" for kind in ("column", "size") for name in elements}


def with_options(reader_or_writer: Any, options: Mapping[str, str]) -> Any:
    """Sets options one by one: ``options(**options)`` has no place for one that is called ``self``."""
    for name, value in options.items():
        reader_or_writer = reader_or_writer.option(name, value)
    return reader_or_writer


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
    """Marks a folder as being written. For who holds its lock, or that of the folder it is in."""
    files.write_text(join(path, UNFINISHED), "")


def delete_dataset(files: Files, path: str) -> None:
    """Deletes a folder. One of ours is marked as unfinished first, then loses its manifest, and the mark goes last: so
    that it is not taken for whole, nor for another program's, while it goes."""
    if not files.exists(path):
        return
    if any(files.exists(join(path, name)) for name in (MANIFEST, UNFINISHED)):
        empty_dataset(files, path)
    files.delete(path)


def empty_dataset(files: Files, path: str) -> None:
    """Deletes what is in a folder of ours in this order, but for the lock of whoever does so."""
    files.write_text(join(path, UNFINISHED), "")
    files.delete(join(path, MANIFEST))
    for name in files.names(path):
        if name != UNFINISHED and not is_lock(name):
            files.delete(join(path, name))
    files.delete(join(path, UNFINISHED))


def finish(files: Files, path: str, manifest: Mapping[str, Any], name: str = MANIFEST) -> None:
    """Writes the manifest, which makes the folder valid, and takes the mark away. Secrets are not written: a path that
    is to be compared with one in a manifest must be redacted too."""
    said = redacted_values(manifest, verbatim=COLUMN_PARAMS)
    files.write_text(join(path, name), json.dumps(said, indent=2, ensure_ascii=False) + "\n")
    files.delete(join(path, UNFINISHED))


def write_dataset(
    files: Files,
    rows: DataFrame,
    path: str,
    manifest: Mapping[str, Any],
    check: Callable[[int], None] = lambda rows: None,
) -> int:
    """Writes a Parquet folder of ours with its manifest. Returns the number of rows, counted in what was written.
    ``check``: of that number, before the folder counts as whole."""
    with _dataset(files, rows, path, manifest) as (written, found):
        found["rows"] = written.count()
        check(found["rows"])
    return found["rows"]


def write_with_ids(files: Files, rows: DataFrame, path: str, manifest: Mapping[str, Any], id_col: str) -> Ids:
    """The same. Returns the ids, as they are read back."""
    with _dataset(files, rows, path, manifest) as (written, found):
        ids = Ids.count(written, id_column(written, id_col))
        found["rows"] = ids.rows
    return ids


@contextmanager
def _dataset(
    files: Files, rows: DataFrame, path: str, manifest: Mapping[str, Any]
) -> Iterator[tuple[DataFrame, dict[str, int]]]:
    """Gives what was written, and what the manifest is to say beside, to be filled."""
    begin(files, path)
    rows.write.mode("append").parquet(path)
    found: dict[str, int] = {}
    yield rows.sparkSession.read.schema(rows.schema).parquet(path), found
    finish(files, path, {**manifest, **found})


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
    except (ValueError, RecursionError) as error:
        raise SemDedupError(f"{place}: {name} in it is not valid JSON ({error})") from error
    if not isinstance(manifest, dict):
        raise SemDedupError(f"{place}: {name} in it is not a JSON object: it is none that this program wrote")
    return manifest


def is_own_run(files: Files, path: str) -> bool:
    """Whether a folder is what a run of this program wrote, ended or not."""
    names = files.names(path)
    if STAGES in names or any(map(is_mark, names)):
        return True
    if RUN_MANIFEST not in names:
        return False
    try:
        return read_run_manifest(files, path, "output").get("holds") == "run"
    except SemDedupError:  # another program's has that name, too
        return False


def can_resume(files: Files, path: str) -> bool:
    """Whether a run can go on in a folder: one has begun there, or was stopped before it wrote anything."""
    names = files.names(path)
    return any(name in names for name in (RUN_MANIFEST, UNFINISHED, STAGES)) or all(map(is_mark, names))


def is_mark(name: str) -> bool:
    """Marks of a run or step that has not ended: its lock, and what it tries out before it begins."""
    return name.startswith("_semdedup.") and name != MANIFEST


def files_for(rows: int) -> int:
    """Number of files for narrow rows."""
    return max(1, math.ceil(rows / ROWS_PER_FILE))
