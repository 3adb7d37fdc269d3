"""Where results go: a folder, or a table for the kept rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from spark_semdedup.errors import FolderInUseError, ResultExistsError, SemDedupError, shown
from spark_semdedup.runs.manifest import RUN_MANIFEST, STAGES, UNFINISHED, can_resume, is_mark
from spark_semdedup.runs.source import READ_FOR_SCHEMA, Source, with_options
from spark_semdedup.spark.columns import is_float_array
from spark_semdedup.spark.failures import one_line
from spark_semdedup.spark.files import Files, is_within, join

_WRITTEN_WHOLE = {"csv": {"ignoreLeadingWhiteSpace": "false", "ignoreTrailingWhiteSpace": "false"}}
"""By format, options without which Spark strips text as it writes."""

_READ_WHOLE = {"csv": {"multiLine": "true"}}
"""By format, options without which Spark breaks rows at line breaks in text as it reads."""


@dataclass(frozen=True)
class Target:
    """Where results go: folder ``path``; the kept rows in ``format``, or in ``table`` instead of a folder."""

    path: str | None = None
    format: str = "parquet"
    options: Mapping[str, str] = field(default_factory=dict)
    table: str | None = None
    overwrite: bool = False
    resume: bool = False
    """Continue an unfinished run."""
    keep_stages: bool = False
    """Keep the journal of a finished run."""
    keep_embeddings: bool = False
    """Keep the embeddings of a finished run that embedded texts."""
    force: bool = False
    """Run even where the local disk has too little room."""

    @property
    def folder(self) -> str:
        """The path; ``SemDedupError`` without one."""
        if self.path is None:
            raise SemDedupError("output is not set: give the folder to write to")
        return self.path

    def check(self, files: Files, reads: Mapping[str, Sequence[str]], *, of_run: bool = False) -> None:
        """Raises ``ResultExistsError`` for an existing result that may not be replaced, and ``SemDedupError`` where the
        output overlaps the input.

        ``reads``: the paths that the step reads, by the name of the Param. ``of_run``: the step is a whole run.
        """
        if self.path is None:
            return
        _refuse_pattern(self.path)
        refuse_overlap(files, self.path, reads)
        if self.overwrite or files.is_vacant(self.path) or (self.resume and can_resume(files, self.path)):
            return
        names = files.names(self.path)
        begun = all(map(is_mark, names))
        if begun and not of_run:  # nothing is lost, and the lock shows whether another process is at work
            return
        what, hint = "exists already", ""
        if of_run and (begun or (STAGES in names and (UNFINISHED in names or RUN_MANIFEST not in names))):
            what, hint = "holds a run that has not ended", "--resume to continue it, "
        elif UNFINISHED in names:
            what = "holds a result that is not finished"
        raise ResultExistsError(
            f"output={shown(self.path, 400)} {what}: give another folder, {hint}or --overwrite to replace it"
        )

    def refuse_written_meanwhile(self, files: Files) -> None:
        """Raises ``FolderInUseError`` where another process has written since ``check`` found the folder vacant. The
        caller holds the lock."""
        if self.path is None or self.overwrite or self.resume or all(map(is_mark, files.names(self.path))):
            return
        raise FolderInUseError(
            f"output={shown(self.path, 400)} was written by another run or step in between: give another folder, or "
            "--overwrite to replace it"
        )

    def refuse_existing_table(self, spark: SparkSession) -> None:
        """Raises ``ResultExistsError`` for an existing table that may not be replaced, and ``SemDedupError`` for an
        unusable name."""
        if self.table is not None and _table_exists(spark, self.table) and not self.overwrite:
            raise ResultExistsError(
                f"outputTable={shown(self.table)} exists already: give another name, or --overwrite to replace it"
            )

    def try_writing(self, files: Files, rows: DataFrame, source: Source) -> None:
        """Writes no rows and deletes them: fails before hours of work where the format cannot hold the columns, or the
        folder cannot be written to. Not for rows of Parquet files in Parquet again, in a folder that has our lock."""
        if self.path is None or (source.is_parquet and self._is_plain_parquet(rows.sparkSession)):
            return
        trial = join(self.path, "_semdedup.trial")
        files.delete(trial)  # a kill may have left an earlier one
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

    def _is_plain_parquet(self, spark: SparkSession) -> bool:
        """Whether folders are written as Parquet, by a codec that it comes with."""
        codec = str(spark.conf.get("spark.sql.parquet.compression.codec", None) or "snappy").lower()
        plain = self.table is None and not self.options and self.format.lower() == "parquet"
        return plain and codec in ("none", "uncompressed", "snappy", "gzip", "zstd")

    def save(self, rows: DataFrame, path: str) -> None:
        """Writes rows in this target's format to a folder."""
        whole = _WRITTEN_WHOLE.get(self.format.lower(), {})
        options = {**_without_vector_statistics(rows.schema, self.format), **whole, **self.options}
        with_options(rows.write.format(self.format), options).mode("append").save(path)

    def read_back(self, rows: DataFrame, path: str) -> DataFrame:
        """What ``save`` wrote."""
        options = {**_READ_WHOLE.get(self.format.lower(), {}), **self.options}
        reader = with_options(rows.sparkSession.read.format(self.format), options)
        return (reader.schema(rows.schema) if self.format.lower() in READ_FOR_SCHEMA else reader).load(path)

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
    """Options against Parquet's statistics of the elements of floating-point arrays. No reader filters by them, and
    they take a twentieth of the time to write embeddings. Parquet honours the options from 1.15 on (Spark 4)."""
    if format_.lower() != "parquet":
        return {}
    elements = [f"{field.name}.list.element" for field in schema.fields if is_float_array(field.dataType)]
    return {f"parquet.{kind}.statistics.enabled#{name}": "false" for kind in ("column", "size") for name in elements}


_NAME_PART = re.compile(r"`(?:[^`]|``)*`|[^.`]+")
"""A part of a table's name: catalog, schema or table. In backticks it may have dots."""


def _table_exists(spark: SparkSession, table: str) -> bool:
    """Whether a table exists; ``SemDedupError`` where its name is none, or its schema does not exist."""
    try:
        if spark.catalog.tableExists(table):
            return True
        schema = ".".join(_NAME_PART.findall(table)[:-1])
        has_schema = not schema or spark.catalog.databaseExists(schema)
    except (PySparkException, Py4JJavaError) as error:
        raise SemDedupError(f"outputTable={shown(table)} cannot be used: {one_line(error)}") from error
    if not has_schema:
        raise SemDedupError(f"outputTable={shown(table)} cannot be written: there is no schema {shown(schema)}")
    return False


def _refuse_pattern(output: str) -> None:
    """Spark reads the results back, and its readers take some characters for a pattern."""
    special = sorted(set(output) & set("{}[]*?\\"))
    if special:
        raise SemDedupError(
            f"output={shown(output, 400)} has {' '.join(special)}, which Spark's readers take for a pattern: give a "
            "folder without {} [] * ? \\"
        )


def refuse_overlap(files: Files, output: str, reads: Mapping[str, Sequence[str]], name: str = "output") -> None:
    """Raises ``SemDedupError`` where the folder to write, ``name``, is in what is read, or around it."""
    target = files.real(output)
    for read, patterns in reads.items():
        for pattern in patterns:
            for place in map(files.real, (pattern, *files.matches(pattern))):  # it may have yet to be written
                if is_within(place, target) or is_within(target, place):
                    raise SemDedupError(
                        f"{name}={shown(output, 400)} and {read}={shown(pattern, 400)} overlap: what is read would be "
                        f"mixed with what is written; give {name} a folder of its own"
                    )
