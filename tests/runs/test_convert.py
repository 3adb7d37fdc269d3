"""``convert``: what pyarrow, pandas, polars, DuckDB and Hugging Face datasets write and Spark does not read."""

from __future__ import annotations

import datetime
import decimal
import uuid

import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vectors

from spark_semdedup.errors import ResultExistsError, SemDedupError
from spark_semdedup.runs.convert import convert

FLOAT16 = pa.list_(pa.float16())


def written(folder, name="part-0.parquet", **columns):
    path = folder / "in" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return [str(folder / "in")]


def converted(folder, **options):
    found = convert([str(folder / "in")], str(folder / "out"), **options)
    return pq.read_table(folder / "out", partitioning=None), found


def test_types_and_values_change_as_little_as_they_can(tmp_path):
    x = np.array([[1.5, -2.0], [0.1, 65504.0]], np.float16)
    ids = [uuid.UUID(int=1), uuid.UUID(int=2**128 - 1)]
    moment = 1_600_000_000_123_456_789
    written(
        tmp_path,
        id=pa.array([each.bytes for each in ids], pa.binary(16)),
        embedding=pa.array(list(x), FLOAT16),
        fixed=pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 2),
        nested=pa.array([[list(row)] for row in x.astype(np.float32)], pa.list_(pa.list_(pa.float32()))),
        at=pa.array([moment, None], pa.timestamp("ns", "UTC")),
        time=pa.array([datetime.time(1, 2, 3), None], pa.time64("us")),
        small=pa.array([1, 2**63 - 1], pa.uint64()),
        large=pa.array([None, 2**64 - 1], pa.uint64()),
        word=pa.array(["a", "b"]).dictionary_encode(),
        nothing=pa.nulls(2),
        text=["x", "y"],
    )
    table, found = converted(tmp_path)
    rows = table.to_pydict()
    assert rows["id"] == list(map(str, ids))
    assert table.schema.field("embedding").type.value_type == pa.float32()
    assert rows["embedding"] == rows["fixed"] == x.astype(np.float32).tolist()
    assert table["at"].cast(pa.int64()).to_pylist() == [moment // 1000, None]
    assert rows["time"] == ["01:02:03.000000", None]
    assert (table.schema.field("small").type, rows["large"]) == (pa.int64(), [None, str(2**64 - 1)])
    assert (rows["word"], rows["nothing"], rows["text"]) == (["a", "b"], [None, None], ["x", "y"])
    assert found.changes["embedding"] == ("list<halffloat>", "list<float>")
    assert not {"text", "nested"} & found.changes.keys()
    assert "embedding: list<halffloat> → list<float>" in found.as_text()


@pytest.mark.parametrize(
    ("ids", "type_", "made"),
    [
        ([1, 2**63 - 1], pa.decimal128(38, 0), [1, 2**63 - 1]),  # DuckDB's DECIMAL, polars' Int128
        ([1, 2**70], pa.decimal128(38, 0), ["1", str(2**70)]),
        ([-(2**70), None], pa.decimal256(50, 0), [str(-(2**70)), None]),
        ([b"a", b"\x00\xff"], pa.binary(), ["61", "00ff"]),
        ([b"abc", None], pa.large_binary(), ["616263", None]),
        ([b"\x01" * 20, b"\x02" * 20], pa.binary(20), ["01" * 20, "02" * 20]),
        ([1.0, 2.0**53], pa.float64(), [1, 2**53]),  # DuckDB's sums and HUGEINT
        ([1.0, None], pa.float32(), [1, None]),
    ],
)
def test_ids_of_other_types_become_bigint_or_text(tmp_path, ids, type_, made):
    ids = [decimal.Decimal(each) if pa.types.is_decimal(type_) and each is not None else each for each in ids]
    written(tmp_path, id=pa.array(ids, type_), other=pa.array(ids, type_))
    table, _ = converted(tmp_path)
    assert table["id"].to_pylist() == made
    assert table.schema.field("id").type == (pa.string() if isinstance(made[0], str) else pa.int64())


@pytest.mark.parametrize("ids", [[1.5, 2.0], [1.0, 2.0**53 + 2], [1.0, float("nan")], [1.0, float("inf")]])
def test_ids_of_numbers_that_may_not_be_exact_are_refused(tmp_path, ids):
    written(tmp_path, id=ids)
    with pytest.raises(SemDedupError, match="column 'id' is of type double and holds numbers that are not whole, or"):
        converted(tmp_path)
    assert not (tmp_path / "out").exists()


def test_views_categories_and_wide_decimals_become_what_spark_reads(tmp_path):
    views = pa.array(["a", "b"]).cast(pa.string_view())
    table = pa.table(
        {
            "id": pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.uint32()), views),  # polars' Categorical
            "more": views,
            "embedding": pa.array([[decimal.Decimal("1.25")], None], pa.list_(pa.decimal256(50, 2))),
        }
    )
    (tmp_path / "in").mkdir()
    with pa.ipc.new_file(str(tmp_path / "in" / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert converted(tmp_path)[0].to_pydict() == {"id": ["b", "a"], "more": ["a", "b"], "embedding": [[1.25], None]}


def test_files_of_several_types_get_one_and_keep_their_partitions(tmp_path):
    written(tmp_path, "day=1/a.parquet", id=["a"], more=pa.nulls(1), n=pa.array([1], pa.int32()), gone=[1])
    written(tmp_path, "day=2/b.parquet", id=["b"], more=["x"], n=[1.5], gone=["x"], new=[True])
    table, found = converted(tmp_path, drop=["gone"])
    assert table.column_names == ["id", "more", "n", "new"]
    assert table.sort_by("id").to_pydict() == {
        "id": ["a", "b"],
        "more": [None, "x"],
        "n": [1.0, 1.5],
        "new": [None, True],
    }
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.parquet")) == [
        "day=1/a.parquet",
        "day=2/b.parquet",
    ]
    assert (found.files, found.rows) == (2, 2)


def test_arrow_files_and_streams_are_read(tmp_path):
    table = pa.table({"id": ["a"], "embedding": pa.array([[1.0]], FLOAT16)})
    (tmp_path / "in").mkdir()
    for name, new in (("a.feather", pa.ipc.new_file), ("b.arrow", pa.ipc.new_stream)):
        with pa.OSFile(str(tmp_path / "in" / name), "wb") as sink, new(sink, table.schema) as writer:
            writer.write_table(table)
    assert converted(tmp_path)[0].to_pydict() == {"id": ["a", "a"], "embedding": [[1.0], [1.0]]}


def test_nanoseconds_are_cut_wherever_they_are(tmp_path):
    at = pa.timestamp("ns")
    written(
        tmp_path,
        record=pa.array([{"at": 1001}, None], pa.struct([("at", at)])),
        map=pa.array([[("a", 2001)], []], pa.map_(pa.string(), at)),
        records=pa.array([[{"at": [3001]}, None], None], pa.list_(pa.struct([("at", pa.list_(at))]))),
    )
    one, two, three = (datetime.datetime(1970, 1, 1, microsecond=count) for count in (1, 2, 3))
    assert converted(tmp_path)[0].to_pydict() == {
        "record": [{"at": one}, None],
        "map": [[("a", two)], []],
        "records": [[{"at": [three]}, None], None],
    }


def test_bits_of_float16_become_numbers(tmp_path):
    x = np.array([[1.5, -2.0], [0.1, 3.0]], np.float16)
    written(tmp_path, id=["a", "b"], embedding=pa.array(list(x.view(np.uint16)), pa.list_(pa.uint16())))
    table, _ = converted(tmp_path, float16_bits=["embedding"])
    assert table["embedding"].to_pylist() == x.astype(np.float32).tolist()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"drop": ["nosuch"]}, "column 'nosuch' is not among the columns: id, more"),
        (
            {"float16_bits": ["more"]},
            "of type string or int64: bits of float16 come as lists of integers",
        ),
        (
            {},
            "'more' is of type string or int64, and no type holds both: write one of them again, or leave it out",
        ),
    ],
)
def test_what_cannot_be_converted_is_named_and_nothing_stays(tmp_path, options, said):
    written(tmp_path, "a.parquet", id=["a"], more=["x"])
    written(tmp_path, "b.parquet", id=["b"], more=[1])
    with pytest.raises(SemDedupError, match=said):
        converted(tmp_path, **options)
    assert not (tmp_path / "out").exists()


def test_numbers_that_are_no_bits_of_float16_are_refused_and_no_file_stays(tmp_path):
    written(tmp_path, id=["a"], wide=[[70000]])
    with pytest.raises(SemDedupError, match="column 'wide': 70000 is not the bits of a float16"):
        converted(tmp_path, float16_bits=["wide"])
    assert not list((tmp_path / "out").iterdir())


def test_no_files_a_text_file_and_an_output_that_exists_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(SemDedupError, match="has no files that end in"):
        converted(tmp_path)
    (tmp_path / "in" / "a.parquet").write_text("text")
    with pytest.raises(SemDedupError, match=r"a\.parquet' cannot be read by Arrow"):
        converted(tmp_path)
    written(tmp_path, "a.parquet", id=["a"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(ResultExistsError, match="give another folder"):
        converted(tmp_path)
    with pytest.raises(SemDedupError, match="does not exist"):
        convert([str(tmp_path / "nowhere")], str(tmp_path / "new"))


@pytest.mark.slow
def test_converted_float16_rows_are_answered_as_the_oracle_answers_them(spark, tmp_path):
    from spark_semdedup import SemDedupModel

    x = vectors.make("near_duplicates", 60, 8, seed=4).astype(np.float16)
    written(tmp_path, id=list(range(60)), embedding=pa.array(list(x), FLOAT16))
    converted(tmp_path)
    centroids = x[[0, 11, 22]].astype(np.float32)
    similarities = SemDedupModel(centroids=centroids).similarities(spark.read.parquet(str(tmp_path / "out")))
    found = {row.id: (row.max_id, np.float32(row.cosine_sim_score)) for row in similarities.collect()}
    assert found == oracle.answer(list(range(60)), x.astype(np.float32), centroids)


def test_lists_of_numbers_become_bytes(tmp_path):
    rows = [[1.5, -2.0], None, [], [0.1, None]]
    written(tmp_path, id=[1, 2, 3, 4], embedding=pa.array(rows, pa.list_(pa.float64())))
    table, found = converted(tmp_path, float32_bytes=["embedding"])
    values = [None if each is None else np.frombuffer(each, "<f4") for each in table["embedding"].to_pylist()]
    assert found.changes == {"embedding": ("list<double>", "binary")}
    assert values[0].tolist() == [1.5, -2.0]
    assert values[1] is None
    assert len(values[2]) == 0
    assert values[3][0] == np.float32(0.1)
    assert np.isnan(values[3][1])


def test_bytes_of_float16_bits(tmp_path):
    x = np.array([[1.5, -2.0]], np.float16)
    written(tmp_path, id=[1], embedding=pa.array(x.view(np.uint16).tolist(), pa.list_(pa.uint16())))
    table, _ = converted(tmp_path, float16_bits=["embedding"], float32_bytes=["embedding"])
    assert np.frombuffer(table["embedding"][0].as_py(), "<f4").tolist() == x[0].tolist()


def test_bytes_of_other_columns_are_refused(tmp_path):
    written(tmp_path, id=[1], text=["a"])
    with pytest.raises(SemDedupError, match=r"^column 'text' is of type string: bytes are made of lists of numbers$"):
        converted(tmp_path, float32_bytes=["text"])
