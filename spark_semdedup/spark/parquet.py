"""What the footers of Parquet files say: columns and types that Spark does not read, and files that do not agree."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, DataFrameReader, SparkSession
from pyspark.sql import types as T

from spark_semdedup.spark.files import escaped, hadoop_conf

Found = TypeVar("Found")

NANOS_AS_LONG = "spark.sql.legacy.parquet.nanosAsLong"
VECTORIZED = "spark.sql.parquet.enableVectorizedReader"

_NOT_READ = (
    (r"\(FLOAT16\)", "float16"),
    (r"\(UUID\)", "UUID"),
    (r"\(TIMESTAMP\(NANOS", "timestamp in nanoseconds"),
    (r"\(TIME\(", "time of day"),
    (r"\(INTERVAL\)", "interval"),
    (r"\(DECIMAL\((?:39|[4-9]\d|\d{3,}),", "decimal of more than 38 digits"),
)
"""Annotations of Parquet's that Spark knows no type for, and their names."""

CONVERSION = {
    "float16": "float32",
    "UUID": "text",
    "timestamp in nanoseconds": "microseconds",
    "time of day": "text",
    "interval": "bytes",
    "decimal of more than 38 digits": "text (in lists double)",
}
"""What ``convert`` makes of them."""


@dataclass(frozen=True)
class Footer:
    """Of one file: the types of its columns, as Parquet words them, by name; codecs and encodings of their values."""

    path: str
    types: dict[str, str]
    codecs: frozenset[str]
    encodings: dict[str, frozenset[str]]

    def not_read(self) -> tuple[str, str] | None:
        """The first column that Spark has no type for, and what its type is called."""
        for column, type_ in self.types.items():
            for pattern, name in _NOT_READ:
                if re.search(pattern, type_):
                    return column, name
        return None


def own_reader(spark: SparkSession) -> DataFrameReader:
    """Reads files that this program has written: one that is broken or gone fails the query, whatever the session says.
    (A user may let Spark pass over such files of the input; of ours, rows would be lost without a word.)"""
    return spark.read.options(**OWN_FILES)


OWN_FILES = {"ignoreCorruptFiles": "false", "ignoreMissingFiles": "false"}
"""Options of a reader."""


def read_footer(spark: SparkSession, path: str) -> Footer | None:
    """The footer of a file, of any file system; None where it has none that can be read."""
    return _read(spark, path, lambda reader: _footer(path, reader.getFooter()))


def _read(spark: SparkSession, place: Any, take: Callable[[Any], Found]) -> Found | None:
    """What ``take`` has from the reader of a file's footer; None where there is none that can be read. ``place``: a
    path, or a URI of the JVM's."""
    jvm: Any = spark._jvm
    conf = hadoop_conf(spark)
    try:
        file = jvm.org.apache.parquet.hadoop.util.HadoopInputFile.fromPath(jvm.org.apache.hadoop.fs.Path(place), conf)
        reader = jvm.org.apache.parquet.hadoop.ParquetFileReader.open(file)
        try:
            return take(reader)
        finally:
            reader.close()
    except Py4JError:
        return None


def count_rows(rows: DataFrame) -> int:
    """The number of rows of Parquet files, which ``rows`` are as they were read: of a few files as their footers say,
    without a job; of more in a job."""
    files = rows.inputFiles() if getattr(rows, "_jdf", None) is not None else ()
    if 0 < len(files) <= _FOOTERS_READ:
        spark = rows.sparkSession
        uri: Any = spark._jvm.java.net.URI  # type: ignore[union-attr]
        counts = [_read(spark, uri(path), lambda reader: int(reader.getRecordCount())) for path in files]
        if None not in counts:
            return sum(filter(None, counts))
    return rows.count()


_FOOTERS_READ = 4
"""Files, at most: each takes some ten calls of the JVM."""


def _footer(path: str, metadata: Any) -> Footer:
    fields = metadata.getFileMetaData().getSchema().getFields()
    codecs: set[str] = set()
    encodings: dict[str, frozenset[str]] = {}
    for block in list(metadata.getBlocks())[:1]:  # a writer writes all of them alike
        for chunk in block.getColumns():
            codecs.add(str(chunk.getCodec().toString()))
            name = str(chunk.getPath().toArray()[0])
            names = re.findall(r"\w+", str(chunk.getEncodings().toString()))
            encodings[name] = encodings.get(name, frozenset()) | set(names)
    types = {str(field.getName()): str(field.toString()) for field in fields}
    return Footer(path, types, frozenset(codecs), encodings)


def unreadable_column(spark: SparkSession, paths: Sequence[str], most: int = 1000) -> tuple[Footer, str, str] | None:
    """The first file, of the ``most`` first, with a column that Spark has no type for: its footer, column and type."""
    for path in paths[:most]:
        footer = read_footer(spark, path)
        not_read = footer and footer.not_read()
        if footer and not_read:
            return footer, *not_read
    return None


@dataclass(frozen=True)
class Disagreement:
    """Two files, the first one read earlier, and a column that they have in different types."""

    column: str
    paths: tuple[str, str]
    types: tuple[str, str]


def disagreement(paths: Sequence[str], schema_of: Callable[[Sequence[str]], T.StructType]) -> Disagreement | None:
    """The first file whose columns do not agree with those of the files before it, and one of these.

    ``schema_of`` gives the columns of all files together, or raises Spark's error: a look at n files takes it two
    times log2(n) calls.
    """

    def fails(some: Sequence[str]) -> bool:
        try:
            schema_of(some)
        except (PySparkException, Py4JError):
            return True
        return False

    many = list(paths)
    if not fails(many):
        return None
    last = _least(1, len(many), lambda n: fails(many[:n]))
    later = many[last - 1]
    if fails([later]):
        return None
    first = _least(1, last - 1, lambda n: fails([*many[:n], later]))
    earlier = many[first - 1]
    a, b = schema_of([earlier]), schema_of([later])
    types = {field.name: field.dataType for field in a}
    for field in b:
        if field.name in types and _conflict(types[field.name], field.dataType):
            shown_types = types[field.name].simpleString(), field.dataType.simpleString()
            return Disagreement(field.name, (earlier, later), shown_types)
    return None


def _conflict(one: T.DataType, other: T.DataType) -> bool:
    if isinstance(one, T.StructType) and isinstance(other, T.StructType):
        types = {field.name: field.dataType for field in one}
        return any(f.name in types and _conflict(types[f.name], f.dataType) for f in other)
    if isinstance(one, T.ArrayType) and isinstance(other, T.ArrayType):
        return _conflict(one.elementType, other.elementType)
    return one != other


def _least(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The least number from ``low`` to ``high`` for which something holds that holds for ``high`` and all above it."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def cannot_be_decoded(spark: SparkSession, footer: Footer) -> tuple[str, str] | None:
    """Why this session cannot read the values of a file whose columns it knows, and what to do; None where it can.

    Only files whose footer names a codec or an encoding that some readers lack are tried.
    """
    split = [column for column, encodings in footer.encodings.items() if "BYTE_STREAM_SPLIT" in encodings]
    rare = sorted(footer.codecs & {"BROTLI", "LZO"})
    if not split and not rare:
        return None
    columns = split or list(footer.types)[:1]
    try:
        spark.read.parquet(escaped(footer.path)).select(
            *("`" + column.replace("`", "``") + "`" for column in columns)
        ).limit(1).collect()
    except (PySparkException, Py4JError):
        if rare:
            return (
                f"its columns are compressed by {rare[0]}, for which Java has no codec here",
                "add one to the session's jars, or write the files again (spark-semdedup convert)",
            )
        return (
            f"column {split[0]!r} is encoded as BYTE_STREAM_SPLIT, which Spark's vectorized reader does not know",
            f"set {VECTORIZED}=false, or write the files again (spark-semdedup convert)",
        )
    return None
