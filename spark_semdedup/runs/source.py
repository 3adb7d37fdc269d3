"""The rows to read: files or a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.spark.columns import refuse_stream
from spark_semdedup.spark.failures import one_line
from spark_semdedup.spark.files import Files

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
                why = "exists, but as a pattern it matches nothing: put \\ before each of {} [] * ? in its name"
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


def with_options(reader_or_writer: Any, options: Mapping[str, str]) -> Any:
    """Sets options one by one: ``options(**options)`` has no place for one that is called ``self``."""
    for name, value in options.items():
        reader_or_writer = reader_or_writer.option(name, value)
    return reader_or_writer
