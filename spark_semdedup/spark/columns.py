"""Columns of a DataFrame by name and type, checked."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.errors import SemDedupError, shown

ID_TYPES = (T.StringType, T.ByteType, T.ShortType, T.IntegerType, T.LongType)


def refuse_stream(df: DataFrame) -> None:
    """A ``SemDedupError`` for a DataFrame that never ends."""
    if df.isStreaming:
        raise SemDedupError(
            "the input is a stream: it must be a table that ends, since each row is compared with others"
        )


def quoted(name: str) -> Column:
    """The column of that very name, whatever characters it has (dots, spaces, backticks)."""
    return F.col("`" + name.replace("`", "``") + "`")


def field(df: DataFrame, name: str, param: str) -> T.StructField:
    """The schema's entry for a column; a ``SemDedupError`` that lists the columns there are if it is missing.

    Names are matched as Spark resolves them: with regard to case where ``spark.sql.caseSensitive`` is set.
    """
    if not hasattr(df, "sparkSession"):
        raise SemDedupError(f"the input is a {type(df).__module__}.{type(df).__name__}: it must be a Spark DataFrame")
    sensitive = df.sparkSession.conf.get("spark.sql.caseSensitive") == "true"
    alike = [f for f in df.schema.fields if f.name == name or (not sensitive and f.name.lower() == name.lower())]
    if len(alike) != 1:
        what = "is more than once" if alike else "is not among the columns"
        raise SemDedupError(f"{param}={shown(name)} {what}: {_listed(df.columns)}")
    return alike[0]


def _listed(names: list[str], most: int = 40) -> str:
    """Names as they stand in a message; of very many only the first, so that the line can still be read."""
    return ", ".join(map(shown, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def unused_name(name: str, *frames: DataFrame) -> str:
    """``name``, made longer until no column of the frames is called so: a join of theirs can tell it from the rest."""
    taken = {column.lower() for df in frames for column in df.columns}
    while name.lower() in taken:
        name += "_"
    return name


def id_column(df: DataFrame, name: str) -> Column:
    """The id column; a ``SemDedupError`` where it is missing or neither string nor integer.

    Text is compared by its bytes, whatever collation the column has (Spark 4): ``A`` and ``a`` are two ids.
    """
    found = field(df, name, "idCol")
    refuse_stream(df)
    refuse_id_type(found.dataType, f"idCol={shown(name)}")
    return by_its_bytes(found)


def by_its_bytes(found: T.StructField) -> Column:
    """A column of ids, without the collation that its text may have."""
    collated = isinstance(found.dataType, T.StringType) and found.dataType.simpleString() != "string"
    return quoted(found.name).cast("string").alias(found.name) if collated else quoted(found.name)


def refuse_id_type(type_: T.DataType, what: str) -> None:
    """A ``SemDedupError`` for an id that is neither string nor integer; ``what`` names it."""
    if not isinstance(type_, ID_TYPES):
        raise SemDedupError(
            f"{what} is of type {shown_type(type_)}: it must be string, tinyint, smallint, int or bigint (cast it, for "
            f"example to string{_conversion(type_)})"
        )


def _conversion(type_: T.DataType) -> str:
    """What ``convert`` makes of ids that other programs write: uint64 comes as decimal(20,0), a UUID as 16 bytes, a
    sum of DuckDB's as double."""
    if isinstance(type_, (T.DoubleType, T.FloatType)) or (isinstance(type_, T.DecimalType) and type_.scale == 0):
        return "; spark-semdedup convert makes bigint or text of whole numbers"
    return "; spark-semdedup convert makes text of bytes" if isinstance(type_, T.BinaryType) else ""


def embedding_column(df: DataFrame, name: str, *, format_: str | None = None, float16_bits: bool = False) -> Column:
    """The embedding as ``array<float>``, ``array<double>`` or ``binary``, which ``vectors.matrix`` takes.

    From an array of numbers, from one in an array of arrays (1 × d, or d × 1), from an ML ``Vector``; where ``format_``
    (Param ``embeddingFormat``) is json, from text, and where it is float32, from bytes. ``float16_bits``: integer
    arrays stay as they are, which hold the bits of float16 numbers (NeMo Curator writes uint16 lists).
    """
    found = field(df, name, "embeddingCol")
    column, type_ = quoted(found.name), found.dataType
    if _is_vector(type_):
        from pyspark.ml.functions import vector_to_array  # not for tasks, which import this module

        return vector_to_array(column)
    if is_float_array(type_) or (float16_bits and is_float16_bits(type_)):
        return column
    if format_ == "json" and isinstance(type_, T.StringType):
        return F.from_json(column.cast("string"), "array<double>")
    if format_ == "float32" and isinstance(type_, T.BinaryType):
        return column
    element = type_.elementType if isinstance(type_, T.ArrayType) else None
    if isinstance(element, T.ArrayType) and isinstance(element.elementType, _NUMBERS):
        return _only_vector(column, name)
    if is_float16_bits(type_) and format_ != "numbers":
        raise SemDedupError(
            f"embeddingCol={shown(name)} is of type {shown_type(type_)}, which may hold numbers or the bits of "
            "float16: set embeddingFormat to numbers, or make float32 of the bits (spark-semdedup convert "
            "--float16-bits)"
        )
    if isinstance(element, _NUMBERS):
        return column.cast("array<double>")
    raise SemDedupError(
        f"embeddingCol={shown(name)} is of type {shown_type(type_)}: it must be an array of numbers or an ML Vector"
        f"{_way_out(type_)}"
    )


def vector_length(df: DataFrame, embedding: Column) -> Column:
    """Elements of each of the ``df``'s embeddings (``embedding_column``), bigint; negative or null for a null one."""
    if are_bytes(df, embedding):
        return F.shiftright(F.octet_length(embedding), 2).cast("bigint")
    return F.size(embedding).cast("bigint")


def are_bytes(df: DataFrame, embedding: Column) -> bool:
    """Whether the embeddings are bytes of float32 numbers, not lists."""
    return isinstance(df.select(embedding).schema[0].dataType, T.BinaryType)


def text_column(df: DataFrame, name: str, param: str) -> Column:
    """A column of texts, compared by its bytes; a ``SemDedupError`` where it is missing or no string.

    ``param``: the Param that names it.
    """
    found = field(df, name, param)
    refuse_stream(df)
    if not isinstance(found.dataType, T.StringType):
        raise SemDedupError(
            f"{param}={shown(name)} is of type {shown_type(found.dataType)}: it must be string (cast it, or join parts "
            "with concat_ws)"
        )
    return by_its_bytes(found)


_NUMBERS = (T.FloatType, T.DoubleType, T.ByteType, T.ShortType, T.IntegerType, T.LongType, T.DecimalType)


def _only_vector(column: Column, name: str) -> Column:
    """The one vector in an array of arrays; other shapes than 1 × d and d × 1 are an error in the task."""
    numbers = F.flatten(column).cast("array<double>")
    longest = F.array_max(F.transform(column, lambda row: F.coalesce(F.size(row), F.lit(0))))
    refusal = F.raise_error(F.lit(f"embeddingCol={shown(name)} has an array of several vectors: it must be 1 x d"))
    return F.when((F.size(column) <= 1) | (longest <= 1), numbers).otherwise(refusal.cast("array<double>"))


def _way_out(type_: T.DataType) -> str:
    if isinstance(type_, T.StringType):
        return " (of text such as [0.1, 0.2]: embeddingFormat json)"
    if isinstance(type_, T.BinaryType):
        return " (of bytes that are float32 numbers: embeddingFormat float32)"
    is_binaries = isinstance(type_, T.ArrayType) and isinstance(type_.elementType, T.BinaryType)
    return " (of float16 as Spark 3.5 reads it: spark-semdedup convert)" if is_binaries else ""


def shown_type(type_: T.DataType) -> str:
    """A column's type as it stands in a message: that of a struct of many fields is cut short."""
    text = type_.simpleString()
    return text if len(text) <= 80 else text[:79] + "…"


def is_float_array(type_: T.DataType) -> bool:
    return isinstance(type_, T.ArrayType) and isinstance(type_.elementType, (T.FloatType, T.DoubleType))


def is_float16_bits(type_: T.DataType) -> bool:
    return isinstance(type_, T.ArrayType) and isinstance(type_.elementType, (T.ShortType, T.IntegerType))


def _is_vector(type_: T.DataType) -> bool:
    return type_.typeName() == "vector" or type(type_).__name__ == "VectorUDT"


def refuse_shadowed(df: DataFrame, appended: list[str], stage: str) -> None:
    """A ``SemDedupError`` if the input already has one of the columns that a stage appends."""
    there = [name for name in df.columns if name.lower() in {a.lower() for a in appended}]
    if there:
        raise SemDedupError(
            f"{stage} appends the columns {', '.join(appended)}, but the input already has {', '.join(there)}: "
            "rename or drop it first"
        )
