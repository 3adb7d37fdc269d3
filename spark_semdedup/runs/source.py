"""The rows to read: files or a table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.runs.layout import (
    ARROW_FILES,
    RECURSIVE,
    TABLE_FORMATS,
    files_below,
    input_files,
    is_sought,
    refuse_left_out,
    refuse_table,
)
from spark_semdedup.spark.columns import quoted, refuse_stream
from spark_semdedup.spark.failures import one_line
from spark_semdedup.spark.files import Files, escaped
from spark_semdedup.spark.parquet import (
    CONVERSION,
    NANOS_AS_LONG,
    cannot_be_decoded,
    disagreement,
    read_footer,
    unreadable_column,
)

READ_FOR_SCHEMA = frozenset({"csv", "json", "text", "xml", "parquet"})
"""Formats whose files Spark reads to learn their columns: all rows of text, and of Parquet a footer, in a job."""

_LOOKED_AT = 100
"""Files at most whose footers tell why Spark reads none."""


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
        plain = self.format.lower() not in TABLE_FORMATS
        for path in self.paths:
            if files.matches(path):
                if plain:
                    refuse_table(files, [path], self.format)
                continue
            if files.exists(path):
                why = "exists, but as a pattern it matches nothing: put \\ before each of {} [] * ? in its name"
            else:
                why = "does not exist: give a file, a folder or a pattern"
            raise SemDedupError(f"input={shown(path, 400)} {why}")

    def read(self, spark: SparkSession, schema: T.StructType | None = None) -> DataFrame:
        """The rows, lazily. ``SemDedupError`` where Spark cannot tell their columns. ``schema``: what an earlier look
        at files found, so that they need not be read for it again."""
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
            if schema is not None and self.format.lower() in READ_FOR_SCHEMA:
                reader = reader.schema(schema)
            rows = reader.format(self.format).load(list(self.paths))
        if schema is None:
            with self._named():
                refuse_left_out(rows, self._listing, self._name)
                self._refuse_undecodable(spark, rows)
        return rows

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

    @property
    def _name(self) -> str:
        """The input as it stands in a message."""
        return f"inputTable={shown(self.table)}" if self.table else f"input={shown(' '.join(self.paths), 400)}"

    @property
    def _listing(self) -> dict[str, str]:
        """The options, with that of ``glob``, which say what files are read."""
        return {**self.options, **({} if self.glob is None else {"pathGlobFilter": self.glob})}

    @property
    def is_parquet(self) -> bool:
        """Whether the input is Parquet files."""
        return self.table is None and self.format.lower() == "parquet"

    def _refuse_undecodable(self, spark: SparkSession, rows: DataFrame) -> None:
        """Raises ``SemDedupError`` where some of the files, looked at before any work, cannot be decoded."""
        if not self.is_parquet:
            return
        paths = sorted(input_files(spark, rows))
        for path in paths[:: max(1, len(paths) // _LOOKED_INTO)][:_LOOKED_INTO]:
            footer = read_footer(spark, path)
            why = footer and cannot_be_decoded(spark, footer)
            if why:
                raise SemDedupError(f"{self._name} cannot be read as parquet: {shown(path, 400)}: {why[0]}; {why[1]}")

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What Spark says against this source as one line that names it, and the way out where there is one."""
        try:
            yield
        except (PySparkException, Py4JJavaError) as error:
            form = "" if self.table else f" as {self.format}"
            why = one_line(error)
            raise SemDedupError(f"{self._name} cannot be read{form}: {self._explained(why, str(error))}") from error

    def _explained(self, why: str, all_: str) -> str:
        """Spark's line, or a better one."""
        if "UNABLE_TO_INFER_SCHEMA" in why:
            return self._why_no_files()
        if "CANNOT_MERGE" in why:
            return self._why_not_merged(why)
        if any(part in why for part in _NO_TYPE):
            return self._why_not_typed(why)
        if "onflicting" in all_ and "basePath" in all_:
            return (
                "the paths are partitions (column=value) of one folder, or of several; give that folder itself, or "
                "--input-option basePath=FOLDER with its path"
            )
        if "CONFLICTING_PARTITION_COLUMN_NAMES" in why or "Conflicting partition column names" in all_:
            return f"its files lie in partitions of different depths; give those of one depth, or {RECURSIVE}"
        if "Checksum error" in all_ or "ChecksumException" in all_:
            return f"{why}; the file's .crc file is for other content: restore the file, or delete the .crc file"
        if self.is_parquet and any(
            part in why for part in ("FAILED_READ_FILE", "is not a Parquet file", _NULL_POINTER)
        ):
            return _why_not_read(why, self._files())
        return why

    def _files(self) -> list[str]:
        """All files below the paths that Spark does not take for hidden, sorted; none where it cannot list them."""
        spark = SparkSession.getActiveSession()
        if spark is None or not self.paths:
            return []
        matches = [full for path in self.paths for full in Files(spark).matches(path)]
        try:
            return sorted(files_below(spark, matches, self._listing))
        except (PySparkException, Py4JJavaError):
            return []

    def _why_no_files(self) -> str:
        below = self._files()
        if below and is_sought(below, self.format):
            broken = _without_footer(below[:_LOOKED_AT]) if self.is_parquet else None
            if broken:
                return f"{broken} is not a Parquet file"  # as Spark says it of other files
            return (
                f"its {len(below)} files lie in subfolders, for example {shown(below[0], 400)}: add {RECURSIVE}, or "
                "give the subfolders"
            )
        return _arrow_files(below) or "there are no files in it that can be (Spark skips names that begin with _ or .)"

    def _why_not_merged(self, why: str) -> str:
        """Which files do not agree, on which column."""
        spark = SparkSession.getActiveSession()
        if spark is None or not self.is_parquet:
            return f"{why}; give all files the same types"

        def schema_of(paths: Sequence[str]) -> T.StructType:
            return spark.read.option("mergeSchema", "true").parquet(*map(escaped, paths)).schema

        found = disagreement(self._files(), schema_of)
        if found is None:
            return f"{why}; give all files the same types (spark-semdedup convert)"
        typed = [_typed(spark, path, found.column, type_) for path, type_ in zip(found.paths, found.types, strict=True)]
        return (
            f"column {shown(found.column)} is {typed[0]} in {shown(found.paths[0], 400)}, but {typed[1]} in "
            f"{shown(found.paths[1], 400)}; write them with one type: spark-semdedup convert"
        )

    def _why_not_typed(self, why: str) -> str:
        """Which column Spark has no type for, and what to do."""
        spark = SparkSession.getActiveSession()
        found = None if spark is None or not self.is_parquet else unreadable_column(spark, self._files())
        if found is None:
            return why
        footer, column, name = found
        setting = f"set {NANOS_AS_LONG}=true to get it as bigint, or " if "nanoseconds" in name else ""
        return (
            f"column {shown(column)} of {shown(footer.path, 400)} is of type {name}, which Spark does not read: "
            f"{setting}make it {CONVERSION[name]} with spark-semdedup convert (--drop-columns leaves it out)"
        )


_NO_TYPE = (
    "PARQUET_TYPE",
    "DECIMAL_PRECISION_EXCEEDS",
    "UNSUPPORTED_TIME_TYPE",
    "Illegal Parquet type",
    "Parquet type not",
)
"""Parts of Spark's messages about columns that it has no type for; the last two are Spark 3.5's."""

_FORMATS = {
    ".csv": "--input-format csv --input-option header=true --embedding-format json",
    ".json": "--input-format json",
    ".jsonl": "--input-format json",
    ".orc": "--input-format orc",
}
"""Options for files of other formats, by the ends of their names."""

_NULL_POINTER = "java.lang.NullPointerException"


def _why_not_read(why: str, files: Sequence[str]) -> str:
    """What a file is that is no Parquet file, or not one that Spark knows."""
    arrow = _arrow_files(files)
    if arrow:
        return arrow
    is_other = re.search(r"([^/\s]+) is not a Parquet file", why)
    forms = {_FORMATS.get(PurePosixPath(file.removesuffix(".gz")).suffix) for file in files}
    if len(forms) == 1 and None not in forms:
        return f"it is not Parquet: give {forms.pop()}"
    if is_other and not is_other[1].endswith((".parquet", ".parq", ".pq")):
        return f"{why}; leave such files out: --input-glob '*.parquet'"
    if _NULL_POINTER not in why:
        return why
    # Of a type that Spark has not heard of: DuckDB's VARIANT, and for Spark 3.5 float16.
    what = "a column has a type that this Spark does not know, such as float16" if why == _NULL_POINTER else why
    return f"{what}; write the files again (spark-semdedup convert)"


def _without_footer(files: Sequence[str]) -> str | None:
    """A file that is no Parquet file: from 4.3 on Spark passes over empty ones."""
    spark = SparkSession.getActiveSession()
    return next((file for file in files if spark is not None and read_footer(spark, file) is None), None)


def _typed(spark: SparkSession, path: str, column: str, type_: str) -> str:
    values = spark.read.parquet(escaped(path)).select(quoted(column)).dropna()
    return f"of type {type_}" if values.head(1) else "without any value"


def _arrow_files(paths: Sequence[str]) -> str | None:
    """What is said of files of which one is in Arrow's own formats; None where none is."""
    arrow = next((path for path in paths if path.endswith(ARROW_FILES)), None)
    if arrow is None:
        return None
    return f"it has Arrow files, {shown(arrow, 400)} for example: make Parquet of them (spark-semdedup convert)"


_LOOKED_INTO = 4
"""Files whose footers are looked into for codecs and encodings: those of one writer are alike."""


def with_options(reader_or_writer: Any, options: Mapping[str, str]) -> Any:
    """Sets options one by one: ``options(**options)`` has no place for one that is called ``self``."""
    for name, value in options.items():
        reader_or_writer = reader_or_writer.option(name, value)
    return reader_or_writer
