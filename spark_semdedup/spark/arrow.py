"""Arrow tables between the driver and Spark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

if TYPE_CHECKING:
    import pandas as pd


def collect_arrow(df: DataFrame) -> pa.Table:
    """The rows on the driver as an Arrow table. For results of bounded size only."""
    frame: Any = df
    if hasattr(type(df), "toArrow"):  # Spark 4
        return frame.toArrow()
    batches = frame._collect_as_arrow()  # Spark 3.5: what toPandas uses there
    return pa.Table.from_batches(batches) if batches else pa.Table.from_pylist([], _arrow_schema(df))


def decoded(column: pa.ChunkedArray) -> list[Any]:
    """Values for Python, texts with U+FFFD for bytes that are not UTF-8: Spark and Parquet let those pass."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    return [each.decode("utf-8", "replace") if isinstance(each, bytes) else each for each in column.to_pylist()]


def _arrow_schema(df: DataFrame) -> pa.Schema:
    from pyspark.sql.pandas.types import to_arrow_schema

    return to_arrow_schema(df.schema)


def batches_of(frame: pd.DataFrame, schema: pa.Schema) -> list[pa.RecordBatch]:
    """The rows of a frame: one batch, or none of no rows. pandas 3 holds texts in several pieces, a batch in one."""
    return pa.Table.from_pandas(frame, schema, preserve_index=False).combine_chunks().to_batches()


def texts_as_objects(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with texts as pandas 2 holds them, of which pyspark makes batches in a grouped pandas UDF."""
    import pandas as pd

    texts = [name for name, type_ in frame.dtypes.items() if isinstance(type_, pd.StringDtype)]
    return frame.astype(dict.fromkeys(texts, object)) if texts else frame


def codes_of(table: pa.Table, a: str, b: str) -> tuple[pa.Array, tuple[np.ndarray, np.ndarray]]:
    """The distinct values of two columns of one type, and both columns as numbers of theirs: int64 (n,) twice."""
    both = pa.chunked_array([*table[a].chunks, *table[b].chunks], table[a].type)
    encoded = (
        both.combine_chunks().dictionary_encode() if both.num_chunks else pa.array([], both.type).dictionary_encode()
    )
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return encoded.dictionary, (codes[: len(table)], codes[len(table) :])


def local_frame(spark: SparkSession, table: pa.Table) -> DataFrame:
    """A DataFrame of the rows of a small Arrow table, which no task makes: Spark would take as many as
    ``spark.default.parallelism`` for a list of Python's."""
    if hasattr(DataFrame, "toArrow"):  # Spark 4, where the rows are a part of the plan
        return spark.createDataFrame(table)
    return spark.createDataFrame(table.to_pylist(), from_arrow_schema(table.schema)).coalesce(1)
