"""Spark and Arrow columns to matrices and back: every layout a list column can have, and every invalid row."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql import types as T

from spark_semdedup.errors import SemDedupError
from spark_semdedup.spark.columns import embedding_column, field, id_column, quoted, refuse_shadowed
from spark_semdedup.spark.vectors import (
    commonest_length,
    float16_from_bits,
    lengths,
    matrix,
    matrix_from_packed,
    ordered_matrix,
    packed,
    packed_rows,
    unpacked,
)

NAN, INF = float("nan"), float("inf")
ROWS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]

LAYOUTS = {
    "list": lambda rows, type_: pa.array(rows, pa.list_(type_)),
    "large list": lambda rows, type_: pa.array(rows, pa.large_list(type_)),
    "slice": lambda rows, type_: pa.array([[9.0] * 3, None, *rows, [9.0]], pa.list_(type_)).slice(2, len(rows)),
    "chunks": lambda rows, type_: pa.chunked_array(
        [pa.array(rows[:1], pa.list_(type_)), pa.array(rows[1:], pa.list_(type_))]
    ),
}


# --- Arrow --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", [pa.float32(), pa.float64()], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_valid_rows_become_a_matrix(layout, type_):
    valid, rows, reasons = matrix(LAYOUTS[layout](ROWS, type_), 2)
    assert valid.tolist() == [True] * 4
    assert rows.tolist() == ROWS
    assert rows.dtype == type_.to_pandas_dtype()
    assert reasons.tolist() == [None] * 4


@pytest.mark.parametrize("type_", [pa.binary(), pa.large_binary(), pa.binary(8)], ids=str)
def test_bytes_become_a_matrix(type_):
    values = [np.array(row, "<f4").tobytes() for row in ROWS]
    valid, rows, reasons = matrix(pa.array([b"8 bytes.", *values, None], type_).slice(1), 2)
    assert (valid.tolist(), rows.tolist()) == ([True] * 4 + [False], ROWS)
    assert rows.dtype == np.float32
    assert reasons[4] == "embedding is null"


def test_bytes_that_start_anywhere_become_a_matrix():
    values = [np.array(row, "<f4").tobytes() for row in ROWS]
    valid, rows, reasons = matrix(pa.array([b"odd", *values, b""], pa.binary()), 2)
    assert (valid.tolist(), rows.tolist()) == ([False, *[True] * 4, False], ROWS)
    assert reasons[0].startswith("embedding is of bytes that are no float32 numbers")
    assert reasons[5] == "embedding is empty"


def test_fixed_size_lists_become_a_matrix():
    fixed = pa.array([[9.0, 9.0], *ROWS, None], pa.list_(pa.float32(), 2))
    valid, rows, reasons = matrix(fixed.slice(1), 2)
    assert (valid.tolist(), rows.tolist()) == ([True] * 4 + [False], ROWS)
    assert reasons[4] == "embedding is null"


INVALID = {
    "embedding is null": None,
    "embedding is empty": [],
    "embedding has length 1, not 2": [1.0],
    "embedding has length 3, not 2": [1.0, 2.0, 3.0],
    "embedding is zero": [0.0, -0.0],
}
NOT_FINITE = [[NAN, 1.0], [INF, 1.0], [1.0, -INF], [None, 1.0], [INF, -INF], [None, None], [0.0, NAN]]


@pytest.mark.parametrize("type_", [pa.float32(), pa.float64()], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_invalid_row_gets_its_reason(layout, type_):
    bad = [*INVALID.items(), *(("embedding has a null, NaN or infinite element", row) for row in NOT_FINITE)]
    mixed = [row for i, (_, row) in enumerate(bad) for row in (ROWS[i % 4], row)]
    valid, rows, reasons = matrix(LAYOUTS[layout](mixed, type_), 2)
    assert valid.tolist() == [True, False] * len(bad)
    assert rows.tolist() == [ROWS[i % 4] for i in range(len(bad))]
    assert reasons[::2].tolist() == [None] * len(bad)
    assert reasons[1::2].tolist() == [reason for reason, _ in bad]


def test_all_rows_invalid_and_no_rows_at_all():
    valid, rows, reasons = matrix(pa.array([None, [], [0.0, 0.0]], pa.list_(pa.float64())), 2)
    assert (valid.tolist(), rows.shape) == ([False] * 3, (0, 2))
    assert all(reasons)
    valid, rows, _ = matrix(pa.array([], pa.list_(pa.float32())), 2)
    assert (valid.shape, rows.shape) == ((0,), (0, 2))


def test_the_smallest_numbers_are_not_zero():
    valid, _, _ = matrix(pa.array([[5e-324, 0.0], [0.0, 1e-45]], pa.list_(pa.float64())), 2)
    assert valid.all()


def test_a_matrix_of_valid_rows_is_no_copy():
    values = np.arange(6, dtype=np.float32) + 1
    _, rows, _ = matrix(pa.ListArray.from_arrays(pa.array([0, 2, 4, 6], pa.int32()), pa.array(values)), 2)
    assert np.shares_memory(rows, values)


def test_lengths_and_the_commonest_of_them():
    assert lengths(pa.array([[1.0], None, [], [1.0, 2.0]], pa.list_(pa.float64()))).tolist() == [1, -1, 0, 2]
    assert commonest_length(Counter({3: 2, 2: 2, 4: 1})) == 2
    assert commonest_length(Counter({-1: 9, 0: 9, 7: 1})) == 7
    assert commonest_length(Counter({-1: 9, 0: 9})) is None
    assert commonest_length(Counter()) is None


def test_float16_bits_as_integers():
    numbers = np.array([[1.0, -0.5], [65504.0, 5.9604645e-08], [INF, -0.0]], np.float16)
    rows = numbers.view(np.uint16).tolist()
    for type_, values in ((pa.uint16(), rows), (pa.int32(), rows), (pa.int16(), numbers.view(np.int16).tolist())):
        decoded = float16_from_bits(pa.array([values[0], None, [], *values[1:]], pa.list_(type_)))
        assert decoded.type == pa.list_(pa.float32())
        assert decoded.to_pylist() == [[1.0, -0.5], None, [], numbers[1].tolist(), [INF, -0.0]]
    gaps = [pa.array([[15360, None], [None]], pa.list_(pa.int32())), pa.array([[15360, np.nan], [np.nan]])]
    assert [float16_from_bits(bits).to_pylist() for bits in gaps] == [[[1.0, None], [None]]] * 2
    for wide in (65536, -32769):
        with pytest.raises(SemDedupError, match=f"^{wide} is not the bits of a float16: they are from -32768 to 65535"):
            float16_from_bits(pa.array([[1, wide]], pa.list_(pa.int32())))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (5, 1)])
@pytest.mark.parametrize(("lists", "type_"), [(False, pa.binary()), (True, pa.list_(pa.float32()))])
def test_rows_travel_and_come_back(shape, lists, type_):
    rows = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    sent = packed_rows(rows, lists=lists)
    assert sent.type == type_
    assert matrix_from_packed(sent).tobytes() == rows.tobytes()
    assert matrix_from_packed(sent.slice(shape[0] - 1)).tobytes() == rows[-1].tobytes()
    assert matrix_from_packed(pa.array(sent.to_pylist(), type_)).tobytes() == rows.tobytes()
    assert packed_rows(np.asfortranarray(rows), lists=lists).equals(sent)


@pytest.mark.parametrize("lists", [False, True])
def test_numbers_of_each_row_come_back(lists):
    numbers, counts = np.arange(6, dtype=np.int32), np.array([2, 0, 1, 3])
    array = packed(numbers, counts, lists=lists)
    for part, first, last in ((array, 0, 6), (array.slice(1, 2), 2, 3), (array.take(pa.array([3, 0, 1])), 3, 6)):
        found, of_each = unpacked(part, np.int32)
        assert found.dtype == np.int32
        assert of_each.tolist() == [len(value) // (1 if lists else 4) for value in part.to_pylist()]
        assert found[: last - first].tolist() == list(range(first, last))
    assert unpacked(array.slice(4), np.int32)[1].tolist() == []
    assert unpacked(pa.array([[]] * 3) if lists else pa.array([b""] * 3), np.int32)[1].tolist() == [0, 0, 0]
    from_python = pa.array(array.to_pylist())  # int64, where they are lists
    assert unpacked(from_python, np.int32)[0].tolist() == numbers.tolist()


@pytest.mark.parametrize("lists", [False, True])
def test_rows_are_put_in_order_from_several_batches(lists):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((9, 3)).astype(np.float32)
    whole = packed_rows(rows, lists=lists)
    batches = pa.chunked_array([whole.slice(0, 4), whole.slice(4, 0), whole.slice(4, 1), whole.slice(5)])
    for order in (np.arange(9), rng.permutation(9)):
        assert ordered_matrix(batches, order).tobytes() == rows[order].tobytes()


# --- Spark --------------------------------------------------------------------------------------------------


def frame(spark, schema: str | T.StructType, *rows):
    return spark.createDataFrame(list(rows), schema)


def test_columns_of_any_name(spark):
    names = ["a.b", "with space", "UPPER", "back`tick", "ünï", "select", "a..b", "1"]
    df = frame(spark, T.StructType([T.StructField(n, T.IntegerType()) for n in names]), tuple(range(len(names))))
    assert df.select(*map(quoted, names)).columns == names
    assert tuple(df.select(*map(quoted, names)).first()) == tuple(range(len(names)))
    for name in names:
        assert field(df, name, "idCol").name == name


def test_names_are_found_without_regard_to_case_if_that_is_unambiguous(spark):
    df = frame(spark, "Id int, x int", (1, 2))
    assert field(df, "ID", "idCol").name == "Id"
    both = frame(spark, T.StructType([T.StructField(n, T.IntegerType()) for n in ("Id", "id", "a", "a")]), (1, 2, 3, 4))
    for name in ("ID", "id"):  # Spark itself takes neither
        with pytest.raises(SemDedupError, match=rf"idCol='{name}' is more than once: 'Id', 'id', 'a', 'a'"):
            field(both, name, "idCol")
    spark.conf.set("spark.sql.caseSensitive", "true")
    try:
        assert field(both, "id", "idCol").name == "id"
    finally:
        spark.conf.unset("spark.sql.caseSensitive")
    with pytest.raises(SemDedupError, match=r"embeddingCol='a' is more than once"):
        field(both, "a", "embeddingCol")
    with pytest.raises(SemDedupError, match=r"^idCol='doc' is not among the columns: 'Id', 'x'$"):
        field(df, "doc", "idCol")


@pytest.mark.parametrize("type_", ["string", "tinyint", "smallint", "int", "bigint"])
def test_ids_of_these_types_are_accepted(spark, type_):
    assert id_column(frame(spark, f"id {type_}"), "id") is not None


@pytest.mark.parametrize(
    "type_", ["double", "decimal(10,0)", "boolean", "array<int>", "date", "binary", "struct<a:int>"]
)
def test_ids_of_other_types_are_refused(spark, type_):
    with pytest.raises(
        SemDedupError, match=r"idCol='id' is of type .*: it must be string, tinyint, smallint, int or bigint"
    ):
        id_column(frame(spark, f"id {type_}"), "id")


@pytest.mark.parametrize("type_", ["array<string>", "array<array<string>>", "string", "float", "binary"])
def test_embeddings_of_other_types_are_refused(spark, type_):
    with pytest.raises(SemDedupError, match=r"embeddingCol='e' is of type .*: it must be an array of numbers or an ML"):
        embedding_column(frame(spark, f"e {type_}"), "e")


@pytest.mark.parametrize("type_", ["array<int>", "array<smallint>"])
def test_whole_numbers_that_may_be_bits_of_float16_must_be_said_to_be_numbers(spark, type_):
    df = frame(spark, f"e {type_}", ([3, -4],))
    with pytest.raises(SemDedupError, match="set embeddingFormat to numbers, or make float32 of the bits"):
        embedding_column(df, "e")
    assert df.select(embedding_column(df, "e", format_="numbers")).first()[0] == [3.0, -4.0]
    assert df.select(embedding_column(df, "e", float16_bits=True)).first()[0] == [3, -4]


def test_arrays_of_one_vector_and_json_become_arrays_of_doubles(spark):
    df = frame(
        spark,
        "row array<array<float>>, column array<array<float>>, text string",
        ([[1.0, 2.0]], [[1.0], [2.0]], "[1,2]"),
    )
    found = df.select(
        embedding_column(df, "row"), embedding_column(df, "column"), embedding_column(df, "text", format_="json")
    )
    assert [list(cell) for cell in found.first()] == [[1.0, 2.0]] * 3
    several = frame(spark, "e array<array<float>>", ([[1.0, 2.0], [3.0, 4.0]],))
    with pytest.raises(Exception, match="has an array of several vectors: it must be 1 x d"):
        several.select(embedding_column(several, "e")).collect()


def test_embeddings_of_every_accepted_type_have_the_same_values(spark):
    floats, doubles = (T.ArrayType(type_) for type_ in (T.FloatType(), T.DoubleType()))
    schema = T.StructType().add("v", VectorUDT()).add("s", VectorUDT()).add("f", floats).add("d", doubles)
    values = [0.0, 0.5, -2.0]
    df = frame(spark, schema, (Vectors.dense(values), Vectors.sparse(3, [1, 2], values[1:]), values, values))
    found = df.select(*(embedding_column(df, name).alias(name) for name in "vsfd"))
    assert [list(cell) for cell in found.first()] == [values] * 4


def test_columns_that_a_stage_appends_must_not_be_there(spark):
    df = frame(spark, "id int, Centroid int")
    refuse_shadowed(df, ["l2_dist_to_cent"], "EmbeddingKMeansModel")
    with pytest.raises(
        SemDedupError, match=r"EmbeddingKMeansModel appends the columns centroid, .*already has Centroid"
    ):
        refuse_shadowed(df, ["centroid", "l2_dist_to_cent"], "EmbeddingKMeansModel")


def test_large_binary_values_become_the_same_matrix():
    rows = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    large = packed_rows(rows).cast(pa.large_binary())
    assert matrix_from_packed(large).tolist() == rows.tolist()
