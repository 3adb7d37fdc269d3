"""Tables between Arrow, pandas and Spark."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyspark
import pytest

from spark_semdedup.spark.arrow import batches_of, decoded, local_frame, texts_as_objects


def test_a_local_frame_takes_no_task_whatever_the_parallelism(spark):
    table = pa.table({"n": pa.array([1, 2], pa.int64()), "keys": pa.array([[1], [2, 3]], pa.list_(pa.int64()))})
    df = local_frame(spark, table)
    assert [tuple(row) for row in df.collect()] == [(1, [1]), (2, [2, 3])]
    if pyspark.__version__ < "4":
        pytest.skip("Spark 3.5 makes it in one task")
    assert "LocalRelation" in df._jdf.queryExecution().optimizedPlan().toString()


@pytest.fixture
def in_pieces() -> pd.DataFrame:
    """Texts as pandas 3 holds them after several batches."""
    texts = pd.Series(["a", None, "b"], dtype="str" if pd.__version__ >= "3" else "string[pyarrow]")
    frame = pd.DataFrame({"text": pd.concat([texts[:1], texts[1:]], ignore_index=True), "n": [1, 2, 3]})
    assert isinstance(pa.array(frame["text"]), pa.ChunkedArray)
    return frame


def test_texts_in_several_pieces_become_one_batch(in_pieces):
    (batch,) = batches_of(in_pieces, pa.schema([("text", pa.string()), ("n", pa.int32())]))
    assert batch.to_pydict() == {"text": ["a", None, "b"], "n": [1, 2, 3]}
    assert batches_of(in_pieces[:0], batch.schema) == []


def test_texts_become_objects_and_nothing_else_changes(in_pieces):
    frame = texts_as_objects(in_pieces)
    assert frame["text"].dtype == object
    assert frame["n"].dtype == in_pieces["n"].dtype
    assert pa.array(frame["text"], from_pandas=True).to_pylist() == ["a", None, "b"]
    assert texts_as_objects(frame) is frame


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string()])
def test_bytes_that_are_not_utf8_are_replaced(type_: pa.DataType):
    column = pa.chunked_array([pa.array([b"a\xff\xfeb", None, b"\xc3\xa9"]).view(pa.string()).cast(type_)])
    assert decoded(column) == ["a\ufffd\ufffdb", None, "\u00e9"]
    assert decoded(pa.chunked_array([[1, None]])) == [1, None]
