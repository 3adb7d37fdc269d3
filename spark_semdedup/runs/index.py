"""``index``: the entries of the program that show and change an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_type

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.index import SemDedupIndex
from spark_semdedup.runs.preflight import Job
from spark_semdedup.runs.source import Source
from spark_semdedup.spark.arrow import local_frame
from spark_semdedup.spark.columns import by_its_bytes, field, quoted


def compact(job: Job, path: str, retain_hours: float) -> str:
    """Merges the small files of the index, and deletes what nobody may read any more."""
    index = SemDedupIndex.open(job.spark, path)
    before = len(index.state.files)
    job.progress.begin(1)
    with job.progress.phase("compact") as counts:
        after = index.compact(retain_hours=retain_hours)
        counts |= {"rows": after.rows_in, "files": len(after.state.files)}
    done = f"{before:,} files became {len(after.state.files):,}"
    if after.version == index.version:
        done = f"{before:,} files: merging would make none fewer, so there is no new version"
    return _changed(after, [done])


@dataclass(frozen=True)
class Ids:
    """Ids as the command line has them: ``given`` themselves, or in the rows of a ``source``, in ``column``."""

    given: Sequence[str] = ()
    source: Source | None = None
    column: str = "id"

    def read(self, job: Job, type_: T.DataType) -> DataFrame:
        """A column ``id`` of that type. Raises ``SemDedupError`` for ids of another type, and for files that cannot be
        read."""
        found = [_listed(job, self.given, type_)] if self.given else []
        if self.source is not None:
            self.source.check(job.files)
            rows = self.source.read(job.spark)
            is_text = self.source.format.lower() == "text"
            found.append(_parsed(rows, type_) if is_text else self._of_column(rows))
        return found[0] if len(found) == 1 else found[0].unionAll(found[1])

    def _of_column(self, rows: DataFrame) -> DataFrame:
        return rows.select(by_its_bytes(field(rows, self.column, "idCol")).alias("id"))


def _listed(job: Job, given: Sequence[str], type_: T.DataType) -> DataFrame:
    values = list(given) if isinstance(type_, T.StringType) else [_whole(text, type_) for text in given]
    try:
        return local_frame(job.spark, pa.table({"id": pa.array(values, to_arrow_type(type_))}))
    except (pa.ArrowInvalid, OverflowError) as error:
        raise SemDedupError(f"ids: one is out of the range of {type_.simpleString()} ({error})") from None


def _whole(text: str, type_: T.DataType) -> int:
    try:
        return int(text)
    except ValueError:
        raise SemDedupError(
            f"ids: {shown(text)} cannot be used: the ids of this index are of type {type_.simpleString()}"
        ) from None


def _parsed(lines: DataFrame, type_: T.DataType) -> DataFrame:
    """One id a line; empty lines are left out. Blanks are part of an id that is text, and of no other."""
    is_text = isinstance(type_, T.StringType)
    line = quoted(lines.columns[0])
    texts = lines.select((line if is_text else F.trim(line)).alias("line")).where(F.length("line") > 0)
    if is_text:
        return texts.toDF("id")
    parsed = texts.select("line", F.expr(f"try_cast(line AS {type_.simpleString()})").alias("id"))
    wrong = parsed.where(F.col("id").isNull()).head(1)
    if wrong:
        raise SemDedupError(
            f"ids: line {shown(wrong[0]['line'])} cannot be used: the ids of this index are of type "
            f"{type_.simpleString()}"
        )
    return parsed.select("id")


def remove(job: Job, path: str, ids: Ids, retain_hours: float) -> str:
    """Removes the rows with these ids from the index."""
    index = SemDedupIndex.open(job.spark, path)
    sought = ids.read(job, index.id_type)
    index.require_id_type(sought)
    job.progress.begin(1)
    with job.progress.phase("remove") as counts:
        after, unknown = index.remove(sought, retain_hours=retain_hours)
        counts |= {"removed": index.rows_in - after.rows_in, "unknown": unknown}
    lines = [f"{index.rows_in - after.rows_in:,} rows removed, {unknown:,} ids unknown"]
    if retain_hours > 0 and after.version != index.version:
        lines.append(
            f"earlier versions keep the rows for {retain_hours:g} hours; --retain-hours 0 deletes them at once"
        )
    if after.rows_in != index.rows_in:
        lines.append("rows that were duplicates of a removed row are not added again: run over them to find them")
    return _changed(after, lines)


def refit(job: Job, path: str, k: int | None, retain_hours: float) -> str:
    """Fits new centroids on the rows of the index, and assigns all rows to them."""
    index = SemDedupIndex.open(job.spark, path)
    job.progress.begin(1)
    with job.progress.phase("refit") as counts:
        after = index.refit(k=k, retain_hours=retain_hours)
        counts |= {"rows": after.rows_in, "clusters": after.k}
    return _changed(after, [f"{index.k:,} clusters became {after.k:,}"])


def info(job: Job, path: str, version: int | None, *, as_json: bool) -> str:
    """What is in the index, and whether its centroids still fit."""
    found = SemDedupIndex.open(job.spark, path, version).info()
    return found.as_json() if as_json else found.as_text()


def _changed(index: SemDedupIndex, lines: Sequence[str]) -> str:
    return "\n".join([*(f"  {line}" for line in lines), "", index.info().as_text()])
