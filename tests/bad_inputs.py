"""Bad and hostile inputs, one case each: what is given, and what is said or done about it.

``test_bad_input.py`` runs them, ``tables.py`` makes the table in docs/errors.md of them. A message is given whole;
"…" in it stands for anything but a line's end, and paths are those below the case's own folder.
"""

# ruff: noqa: E501  (messages stand as they are said)

from __future__ import annotations

import datetime
import decimal
import importlib.util
import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

NAN, INF = float("nan"), float("inf")
VECTORS = ((1.0, 0.0), (2.0, 0.01), (0.0, 1.0))
"""The second means the same as the first."""


@dataclass(frozen=True)
class Rows:
    """A small table: ids, embeddings (None: null) and further columns by name."""

    ids: Sequence[Any] = ("a", "b", "c")
    vectors: Sequence[Any] = VECTORS
    id_type: pa.DataType | None = None
    type: pa.DataType = field(default_factory=lambda: pa.list_(pa.float64()))
    more: Mapping[str, Any] = field(default_factory=dict)
    id_name: str = "id"
    name: str = "embedding"

    def table(self) -> pa.Table:
        ids = pa.array(list(self.ids), self.id_type)
        vectors = [None if v is None else v if isinstance(v, (str, bytes, dict)) else list(v) for v in self.vectors]
        return pa.table({self.id_name: ids, self.name: pa.array(vectors, self.type), **self.more})


@dataclass(frozen=True)
class Place:
    """Where a case is played: a Spark session and a folder of the case's own."""

    spark: Any
    folder: Path

    def __truediv__(self, name: str) -> str:
        return str(self.folder / name)

    def write(self, table: pa.Table | Rows, name: str = "in/part-0.parquet", **options: Any) -> str:
        """Writes one Parquet file. Returns the folder it is in."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.table() if isinstance(table, Rows) else table, path, **options)
        return str(path.parent)

    def text(self, name: str, *lines: str) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        return str(path)

    def view(self, df: Any) -> list[str]:
        """The options that read a DataFrame."""
        df.createOrReplaceTempView("semdedup_bad_input")
        return ["--input-table", "semdedup_bad_input"]

    def run(self, *options: str, source: Sequence[str] | None = None, k: int = 1) -> list[str]:
        """The command line of a whole run."""
        source = ["--input", self / "in"] if source is None else source
        output = [] if "--output" in options else ["--output", self / "out"]
        first = [] if "--which-to-keep" in options or "--rank-by" in options else ["--which-to-keep", "first"]
        clusters = [] if "--k" in options or "--centroids" in options or not k else ["--k", str(k)]
        return ["run", *source, *output, *clusters, *first, *options]


Call: TypeAlias = "list[str] | Callable[[], object] | DataFrame"
"""A command line, a call of the Python API, or rows for ``SemDedup``."""


@dataclass(frozen=True)
class Case:
    """One input, and what is said or done.

    ``said``: the message of a refusal. Where there is none, the input is accepted, and ``rows`` are answered as the
    oracle does, but for the ``invalid`` ones, which are skipped for the reasons given.
    """

    name: str
    given: str
    """In words."""
    call: Callable[[Place], Call]
    said: str | None = None
    status: int = 2
    """Exit status of the command line: 1 where work had begun."""
    writes: bool = False
    """Whether the refusal comes after results had been begun, which then count as none."""
    slow: bool = True
    """Whether a fit, or another job of more than a second, comes first."""
    rows: Rows = Rows()
    params: Mapping[str, Any] = field(default_factory=dict)
    invalid: Mapping[Any, str] = field(default_factory=dict)
    removed: int = 1
    done: str = ""
    """In words, for an input that is accepted."""
    skip: Callable[[Place], str | None] = lambda place: None
    """Why the case cannot be played here, or None."""


# --- how inputs are made ------------------------------------------------------------------------------------


def vectors(*values: Any, **more: Any) -> Rows:
    """As many rows, with the ids a, b, c, …"""
    return Rows([chr(ord("a") + i) for i in range(len(values))], values, **more)


def over(rows: Rows | pa.Table, *options: str, k: int = 1) -> Callable[[Place], Call]:
    """A whole run over one Parquet file."""

    def call(place: Place) -> Call:
        place.write(rows)
        return place.run(*options, k=k)

    return call


def options(*options: str) -> Callable[[Place], Call]:
    """A run with such options over rows that are sound."""
    return over(Rows(), *options)


def after(*make: Callable[[Place], object]) -> Callable[[Place], Call]:
    """The last function's call, when the others have made the input."""

    def call(place: Place) -> Any:
        return [function(place) for function in make][-1]

    return call


def sound(place: Place) -> None:
    """Rows that are sound, as the run's input."""
    place.write(Rows())


def api(call: Callable[[Place], object]) -> Callable[[Place], Call]:
    return lambda place: lambda: call(place)


def view(make: Callable[[Any], Any], *options: str) -> Callable[[Place], Call]:
    """A whole run over a DataFrame."""
    return lambda place: place.run(*options, source=place.view(make(place.spark)))


def refused(name: str, given: str, call: Callable[[Place], Call], said: str, **more: Any) -> Case:
    """Before any work."""
    return Case(name, given, call, said, slow=False, **more)


def refused_at_work(name: str, given: str, call: Callable[[Place], Call], said: str, *, writes: bool = False) -> Case:
    """When the rows have been looked at: by the fit, which writes nothing, or later."""
    return Case(name, given, call, said, status=1, writes=writes)


def accepted(name: str, given: str, rows: Rows, *, removed: int = 1, done: str = "compared", **params: Any) -> Case:
    """By ``SemDedup``."""
    params = {"k": 1, "idCol": rows.id_name, "embeddingCol": rows.name, **params}

    def call(place: Place) -> Call:
        return place.spark.read.parquet(place.write(rows))

    return Case(name, given, call, rows=rows, params=params, removed=removed, done=done)


def accepted_by_program(name: str, given: str, call: Callable[[Place], Call], **expected: Any) -> Case:
    """By ``spark-semdedup run``."""
    return Case(name, given, call, **{"done": "compared", **expected})


# --- embeddings ---------------------------------------------------------------------------------------------

MEND = (
    "; fix it, or set --handle-invalid to skip (write such rows to invalid/) or keep (keep them, compared with nothing)"
)
NOT_FINITE = "embedding has a null, NaN or infinite element"
REASONS = {
    "d": "embedding is null",
    "e": "embedding is empty",
    "f": "embedding has length 1, not 2",
    "g": "embedding has length 3, not 2",
    "h": NOT_FINITE,
    "i": NOT_FINITE,
    "j": NOT_FINITE,
    "k": NOT_FINITE,
    "l": "embedding is zero",
}
INVALID = (None, (), (1.0,), (1.0, 2.0, 3.0), (NAN, 1.0), (INF, 1.0), (1.0, -INF), (None, 1.0), (0.0, -0.0))
WITH_INVALID = vectors(*VECTORS, *INVALID)
NOTHING_VALID = "no row has an embedding that can be compared: all are null, empty, zero or not finite"
FLOATS, DOUBLES = pa.list_(pa.float32()), pa.list_(pa.float64())


def invalid_row(name: str, given: str, value: Any, why: str) -> Case:
    """Its id and the reason are said while ``handleInvalid`` is error."""
    said = f"--embedding-col='embedding', row with id 'b': {why}{MEND}"
    return refused_at_work(name, given, over(vectors((1.0, 0.0), value, (0.0, 1.0))), said)


def embedding_type(type_: str, arrow: pa.DataType, value: Any, hint: str = "") -> Case:
    said = f"--embedding-col='embedding' is of type {type_}: it must be an array of numbers or an ML Vector{hint}"
    return refused(f"embedding of type {type_}", f"`{value}`", over(vectors(value, type=arrow)), said)


def ml_vectors(spark: Any, last: Any) -> Any:
    from pyspark.ml.linalg import Vectors

    rows = [("a", Vectors.sparse(2, {0: 1.0})), ("b", Vectors.dense([2.0, 0.01])), ("c", last(Vectors))]
    return spark.createDataFrame(rows, ["id", "embedding"])


BYTES = [np.array(v, "<f4").tobytes() for v in VECTORS]
BYTE_ROWS = vectors(*BYTES, BYTES[0][:-1], b"", BYTES[0][:4], None, type=pa.binary())
BYTE_REASONS = {
    "d": "embedding is of bytes that are no float32 numbers: their number is no multiple of 4",
    "e": "embedding is empty",
    "f": "embedding has length 1, not 2",
    "g": "embedding is null",
}
AS_JSON = " (of text such as [0.1, 0.2]: --embedding-format json)"


def bits_or_numbers(type_: str) -> str:
    return (
        f"--embedding-col='embedding' is of type {type_}, which may hold numbers or the bits of float16: set --embedding-format to "
        "numbers, or make float32 of the bits (spark-semdedup convert --float16-bits)"
    )


INTEGERS = ((4, 1), (8, 2), (-1, 4))
JSON_ROWS = vectors(*map(json.dumps, map(list, VECTORS)), "[1.0, ", "{}", type=pa.string())
SEVERAL = "--embedding-col='embedding' has an array of several vectors: it must be 1 x d"
EMBEDDINGS = [
    invalid_row("null embedding", "one embedding is null", None, "embedding is null"),
    invalid_row("NaN", "one element is NaN", (NAN, 1.0), NOT_FINITE),
    invalid_row("infinity", "one element is -Infinity", (1.0, -INF), NOT_FINITE),
    invalid_row("null element", "an array that holds a null", (None, 1.0), NOT_FINITE),
    invalid_row("zero vector", "all elements of one embedding are 0 or -0", (0.0, -0.0), "embedding is zero"),
    accepted_by_program(
        "invalid rows skipped",
        "null, empty, short, long, NaN, ±Infinity, null element and zero, with `--handle-invalid skip`",
        over(WITH_INVALID, "--handle-invalid", "skip"),
        rows=WITH_INVALID,
        invalid=REASONS,
        params={"handleInvalid": "skip"},
        done="the nine rows go to `invalid/`, each with its reason; the others are compared",
    ),
    Case(
        "invalid rows kept",
        "the same with `--handle-invalid keep`",
        lambda place: place.spark.read.parquet(place.write(WITH_INVALID)),
        rows=WITH_INVALID,
        invalid=REASONS,
        params={"k": 1, "handleInvalid": "keep"},
        done="the nine rows stay in the result; the others are compared",
    ),
    refused_at_work(
        "no valid row",
        "each embedding null, empty or zero, with `--handle-invalid skip`",
        over(vectors(None, (), (0.0, 0.0)), "--handle-invalid", "skip"),
        NOTHING_VALID,
    ),
    refused_at_work(
        "ragged arrays",
        "arrays of 2, 2 and 3 elements",
        over(vectors((1.0, 0.0), (0.0, 1.0), (1.0, 2.0, 3.0))),
        "embeddings have mixed dimensions: 2 (2 rows), 3 (1 rows); give them one length, or set --handle-invalid to skip or keep",
    ),
    refused_at_work(
        "another length than said",
        "`--embedding-dim 3` and arrays of 2 elements",
        over(vectors((1.0, 0.0)), "--embedding-dim", "3"),
        f"--embedding-col='embedding', row with id 'a': embedding has length 2, not 3{MEND}",
    ),
    accepted(
        "subnormal numbers",
        "elements of 5e-324 and 1e-310",
        vectors((5e-324, 0.0), (1e-310, 1e-312), (0.0, 5e-324)),
        done="compared: vectors are scaled by powers of two before they are normalised",
    ),
    accepted(
        "norms that underflow",
        "elements of 1e-200, whose squares are 0",
        vectors((1e-200, 0.0), (2e-200, 1e-202), (0.0, 1e-200)),
    ),
    accepted(
        "norms that overflow",
        "elements of 1.7e308, whose squares are infinite",
        vectors((1.7e308, 1.7e308), (1.7e308, 1.69e308), (-1.7e308, 1.7e308)),
    ),
    accepted(
        "largest and smallest float32",
        "`array<float>` of 3e38 and of 1e-45",
        vectors((3e38, 0.0), (1e-45, 0.0), (0.0, 1e-45), type=FLOATS),
    ),
    accepted(
        "elements 600 orders of magnitude apart",
        "(1e300, 1e-300)",
        vectors((1e300, 1e-300), (1e300, 0.0), (1e-300, 1e300)),
    ),
    accepted(
        "large lists", "polars', and Hugging Face's LargeList", vectors(*VECTORS, type=pa.large_list(pa.float32()))
    ),
    accepted(
        "lists of fixed size", "polars' Array, DuckDB's FLOAT[2]", vectors(*VECTORS, type=pa.list_(pa.float32(), 2))
    ),
    accepted("dimension 1", "arrays of one element", vectors((1.0,), (7.0,), (-1.0,))),
    accepted(
        "dimension 8,192",
        "arrays of 8,192 elements",
        vectors(*np.random.default_rng(1).standard_normal((3, 8192)).tolist()),
        removed=0,
    ),
    accepted("whole numbers", "`array<bigint>`", vectors(*INTEGERS, type=pa.list_(pa.int64()))),
    accepted("whole numbers of a byte", "`array<tinyint>`: quantised", vectors(*INTEGERS, type=pa.list_(pa.int8()))),
    accepted(
        "whole numbers, said to be such",
        "`array<int>`, `embeddingFormat='numbers'`",
        vectors(*INTEGERS, type=pa.list_(pa.int32())),
        embeddingFormat="numbers",
    ),
    accepted(
        "uint8, said to be numbers",
        "`array<smallint>` to Spark, `embeddingFormat='numbers'`",
        vectors((4, 1), (8, 2), (0, 255), type=pa.list_(pa.uint8())),
        embeddingFormat="numbers",
    ),
    refused(
        "numbers or bits",
        "`array<int>`: whole numbers, or uint16 with the bits of float16",
        over(vectors(*INTEGERS, type=pa.list_(pa.int32()))),
        bits_or_numbers("array<int>"),
    ),
    refused(
        "numbers or bits, of 16 bits",
        "`array<smallint>`",
        over(vectors(*INTEGERS, type=pa.list_(pa.int16()))),
        bits_or_numbers("array<smallint>"),
    ),
    accepted("decimals", "`array<decimal(10,2)>`", vectors(*INTEGERS, type=pa.list_(pa.decimal128(10, 2)))),
    accepted(
        "arrays of one vector",
        "1 × d, as Hugging Face's Array2D",
        vectors(*([list(v)] for v in VECTORS), type=pa.list_(DOUBLES)),
    ),
    refused_at_work(
        "arrays of several vectors",
        "2 × d",
        over(vectors(*([v, v] for v in VECTORS), type=pa.list_(DOUBLES))),
        SEVERAL,
    ),
    accepted(
        "JSON text",
        "`[1.0, 0.0]`, `embeddingFormat='json'`",
        vectors(*map(json.dumps, map(list, VECTORS)), type=pa.string()),
        embeddingFormat="json",
    ),
    accepted_by_program(
        "JSON text that is none",
        "`[1.0, ` and `{}` with `--embedding-format json --handle-invalid skip`",
        over(JSON_ROWS, "--embedding-format", "json", "--handle-invalid", "skip"),
        rows=JSON_ROWS,
        invalid={"d": "embedding is null", "e": "embedding is null"},
        params={"handleInvalid": "skip"},
        done="the two rows go to `invalid/`; the others are compared",
    ),
    accepted(
        "bytes",
        "float32, little-endian, `embeddingFormat='float32'`",
        vectors(*BYTES, type=pa.binary()),
        embeddingFormat="float32",
    ),
    accepted_by_program(
        "bytes that are no vector",
        "7 bytes, none, 4 and null with `--embedding-format float32 --handle-invalid skip`",
        over(BYTE_ROWS, "--embedding-format", "float32", "--handle-invalid", "skip"),
        rows=BYTE_ROWS,
        invalid=BYTE_REASONS,
        params={"handleInvalid": "skip"},
        done="the four rows go to `invalid/`; the others are compared",
    ),
    embedding_type("binary", pa.binary(), BYTES[0], " (of bytes that are float32 numbers: --embedding-format float32)"),
    embedding_type("array<string>", pa.list_(pa.string()), ("1", "0")),
    embedding_type("string", pa.string(), "[1.0, 0.0]", AS_JSON),
    embedding_type(
        "struct<x:double,y:double>", pa.struct({"x": pa.float64(), "y": pa.float64()}), {"x": 1.0, "y": 0.0}
    ),
    embedding_type("map<int,double>", pa.map_(pa.int32(), pa.float64()), ((0, 1.0),)),
    Case(
        "sparse and dense ML vectors",
        "both in one column",
        lambda place: ml_vectors(place.spark, lambda v: v.sparse(2, {1: 1.0})),
        params={"k": 1},
        done="compared",
    ),
    refused_at_work(
        "ML vectors of mixed sizes",
        "sizes 2, 2 and 3",
        view(lambda spark: ml_vectors(spark, lambda v: v.dense([0.0, 1.0, 1.0]))),
        "embeddings have mixed dimensions: 2 (2 rows), 3 (1 rows); give them one length, or set --handle-invalid to skip or keep",
    ),
]

# --- ids ----------------------------------------------------------------------------------------------------

LONG = "x" * 2**20


def integer_ids(type_: pa.DataType, name: str, bits: int) -> Case:
    ids = (-(2 ** (bits - 1)), -1, 2 ** (bits - 1) - 1)
    rows = Rows(ids, id_type=type_)
    return accepted(
        f"extremes of {name}", f"the ids {', '.join(map(str, ids))}", rows, done="compared; ids keep their type"
    )


def id_type(type_: str, arrow: pa.DataType, value: Any, words: str, also: str = "") -> Case:
    said = f"--id-col='id' is of type {type_}: it must be string, tinyint, smallint, int or bigint (cast it, for example to string{also})"
    return refused(f"id of type {type_}", words, over(Rows((value,), VECTORS[:1], id_type=arrow)), said)


def repeated(name: str, given: str, id_: Any, shown: str) -> Case:
    said = f"--id-col='id' is not unique: 1 ids are in more than one row, for example {shown}; drop exact repeats first (dropDuplicates(['id']))"
    return refused_at_work(name, given, over(Rows((id_, "b", id_))), said)


def not_utf8(place: Place) -> Call:
    bytes_ = pa.array([b"a", b"\xff\xfe", b"\xff\xff"], pa.binary())
    ids = pa.Array.from_buffers(pa.string(), 3, bytes_.buffers())
    place.write(Rows().table().set_column(0, "id", ids))
    return place.run()


IDS = [
    refused_at_work(
        "null id",
        "one id is null, with `--handle-invalid skip`",
        over(Rows(("a", None, "c")), "--handle-invalid", "skip"),
        "--id-col='id' is null in 1 rows: every row needs an id of its own",
    ),
    repeated("repeated id", "one id in two rows", "a", "'a'"),
    repeated("repeated id of 1 MiB", "a long id in two rows", LONG, "'xxx…"),
    repeated("repeated id with a newline", "`a\\nc` in two rows", "a\nc", r"'a\nc'"),
    refused_at_work(
        "ids that are not UTF-8",
        "a Parquet string of the bytes ff fe",
        not_utf8,
        "--id-col='id' is not UTF-8 text in 2 rows: write the ids again in that encoding, or give another column",
    ),
    accepted(
        "ids of 1 MiB",
        "three ids that differ in the last of a million characters",
        Rows((LONG + "1", LONG + "2", LONG + "3")),
    ),
    accepted("empty id", "an id of no characters, and one of a blank", Rows(("", " ", "a"))),
    accepted(
        "ids alike but for case or blanks",
        "`A`, `a` and `a` followed by a blank",
        Rows(("A", "a", "a ")),
        done="compared: three ids",
    ),
    accepted(
        "unicode ids",
        "é composed and combined, Hebrew, emoji alone and joined",
        Rows(
            ("e\u0301", "\u00e9", "\u05d0", "\U0001f468", "\U0001f468\u200d\U0001f469"),
            (*VECTORS, (0.0, 3.0), (-1.0, 0.0)),
        ),
        removed=2,
        done="compared: other code points are other ids",
    ),
    accepted(
        "ids with control characters", "NUL, newline, tab, line separator", Rows(("a\x00", "a\x00b\n", "a\u2028\t"))
    ),
    accepted("ids of SQL text", "`' OR 1=1; DROP TABLE x --`", Rows(("' OR 1=1; DROP TABLE x --", "`a`", "${a}"))),
    accepted("large text", "`large_string` ids, as polars writes them", Rows(id_type=pa.large_string())),
    accepted(
        "categories", "dictionary-encoded ids of pandas and polars", Rows(id_type=pa.dictionary(pa.int8(), pa.string()))
    ),
    accepted(
        "pandas' index",
        "a column `__index_level_0__`: it is carried along",
        Rows(more={"__index_level_0__": [5, 3, 1]}),
    ),
    integer_ids(pa.int8(), "tinyint", 8),
    integer_ids(pa.int16(), "smallint", 16),
    integer_ids(pa.int64(), "bigint", 64),
    id_type("date", pa.date32(), datetime.date(2026, 11, 21), "a day"),
    id_type(
        "timestamp",
        pa.timestamp("us", "UTC"),
        datetime.datetime(2026, 11, 21, tzinfo=datetime.timezone.utc),
        "an instant",
    ),
    id_type(
        "decimal(38,0)",
        pa.decimal128(38, 0),
        decimal.Decimal(10) ** 37,
        "a number of 38 digits",
        "; spark-semdedup convert makes bigint or text of whole numbers",
    ),
    id_type(
        "decimal(20,0)",
        pa.uint64(),
        2**64 - 1,
        "uint64",
        "; spark-semdedup convert makes bigint or text of whole numbers",
    ),
    id_type("binary", pa.binary(), b"\x00\xff", "two bytes", "; spark-semdedup convert makes text of bytes"),
    id_type("boolean", pa.bool_(), True, "a truth value"),
    id_type(
        "double",
        pa.float64(),
        1.0,
        "a number that is not whole by its type, as DuckDB writes HUGEINT",
        "; spark-semdedup convert makes bigint or text of whole numbers",
    ),
    id_type("struct<a:int>", pa.struct({"a": pa.int32()}), {"a": 1}, "a struct"),
    refused(
        "id inside a struct",
        "`--id-col doc.id`",
        over(Rows(more={"doc": [{"id": "a"}] * 3}), "--id-col", "doc.id"),
        "--id-col='doc.id' is not among the columns: 'id', 'embedding', 'doc'",
    ),
]

# --- shapes of the table ------------------------------------------------------------------------------------

RANKED = Rows(more={"score": [None, NAN, -0.0]})


def frame(spark: Any) -> Any:
    rows = [(id_, list(vector)) for id_, vector in zip("abc", VECTORS, strict=True)]
    return spark.createDataFrame(rows, "id string, embedding array<double>")


SHAPES = [
    refused_at_work(
        "no rows",
        "columns, but no rows",
        over(Rows((), (), id_type=pa.string())),
        "the input is empty: it must have at least one row",
    ),
    accepted("one row", "one row", Rows(("a",), VECTORS[:1]), removed=0, done="kept"),
    accepted("two rows", "two rows, k = 1", Rows(("a", "b"), VECTORS[:2])),
    accepted(
        "all rows equal",
        "20 equal embeddings, k = 4",
        Rows([f"{i:02}" for i in range(20)], [(1.0, 2.0)] * 20),
        k=4,
        removed=19,
        done="one is kept",
    ),
    accepted(
        "as many clusters as rows",
        "3 rows, k = 3",
        Rows(),
        k=3,
        removed=0,
        done="each row is a cluster, so all are kept",
    ),
    accepted(
        "more probes than clusters", "k = 2, nProbe = 7", Rows(), k=2, nProbe=7, done="each row is compared with all"
    ),
    refused_at_work(
        "more clusters than rows",
        "3 rows, `--k 4`",
        over(Rows(), k=4),
        "--k=4 is larger than the 3 rows: it must be at most the number of rows",
    ),
    Case(
        "empty partitions",
        "3 rows in 9 partitions",
        lambda place: frame(place.spark).repartition(9),
        params={"k": 1},
        done="compared",
    ),
    accepted(
        "rank of nulls, NaN and -0",
        "`rankBy=['score desc']`",
        RANKED,
        rankBy=["score desc"],
        done="compared: NaN ranks above all numbers, null after them",
    ),
]

# --- files and tables ---------------------------------------------------------------------------------------

MORE = Rows(("d", "e", "f"), more={"text": ["x", "y", "z"]})
NO_FILES = "cannot be read as parquet: there are no files in it that can be (Spark skips names that begin with _ or .)"


def differ(column: str, one: str, other: str) -> str:
    """What is said of a column that two files have in different types."""
    return (
        f"--input='in' cannot be read as parquet: column '{column}' is {one} in 'file:in/part-0.parquet', but {other} in "
        "'file:in/part-1.parquet'; write them with one type: spark-semdedup convert"
    )


def not_read(type_: str, made: str, column: str = "more", setting: str = "") -> str:
    """What is said of a column that Spark has no type for."""
    return (
        f"--input='in' cannot be read as parquet: column '{column}' of 'file:in/part-0.parquet' is of type {type_}, which "
        f"Spark does not read: {setting}make it {made} with spark-semdedup convert (--drop-columns leaves it out)"
    )


def two_files(first: Rows, second: Rows) -> Callable[[Place], Call]:
    return after(lambda p: p.write(first), lambda p: p.write(second, "in/part-1.parquet"), lambda p: p.run())


def truncate(place: Place) -> None:
    """The second of two files, so that Spark meets it late."""
    place.write(Rows())
    place.write(Rows(("d", "e", "f")), "in/part-1.parquet")
    path = place.folder / "in" / "part-1.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def arrow_stream(place: Place) -> None:
    table = Rows().table()
    (place.folder / "in").mkdir()
    with pa.ipc.new_stream(place / "in/data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)


def other_checksum(place: Place) -> None:
    """The checksums of another file: a header, and one of each 512 bytes."""
    sums = b"crc\x00" + (512).to_bytes(4, "big") + bytes(4) * 8
    (place.folder / "in" / ".part-0.parquet.crc").write_bytes(sums)


def byte_stream_split(place: Place) -> None:
    encoding = {"id": "PLAIN", "embedding.list.element": "BYTE_STREAM_SPLIT"}
    place.write(Rows(), use_dictionary=False, column_encoding=encoding)


def corrupt(place: Place) -> None:
    """A page, while the footer is whole."""
    place.write(Rows())
    path = place.folder / "in" / "part-0.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 40 + content[44:])


def read_as(format_: str, *options: str) -> Callable[[Place], Call]:
    return lambda place: place.run("--input-format", format_, *options)


def table(name: str) -> Callable[[Place], Call]:
    return lambda place: place.run(source=["--input-table", name])


def dividing(place: Place) -> Call:
    place.spark.conf.set("spark.sql.ansi.enabled", "true")  # the default from Spark 4 on
    # The removed rows are joined by a shuffle, before which it divides. Where Spark changes to a broadcast in time, it
    # divides as it writes, and Spark 3.5 names what it writes before the cause.
    place.spark.conf.set("spark.sql.autoBroadcastJoinThreshold", "-1")
    return place.run(source=place.view(frame(place.spark).selectExpr("*", "1 / (length(id) - 1) AS ratio")))


def raising(column: str) -> Callable[[Place], Call]:
    from pyspark.sql import functions as F

    def fail(_: str) -> Any:
        raise ValueError("the service is down\ntry later")

    def call(place: Place) -> Call:
        return place.run(source=place.view(frame(place.spark).withColumn(column, F.udf(fail, "array<double>")("id"))))

    return call


def stream(spark: Any) -> Any:
    return spark.readStream.format("rate").load().selectExpr("value AS id", "array(1.0D) AS embedding")


FILES = [
    refused(
        "missing input",
        "`--input nowhere`",
        lambda p: p.run(source=["--input", p / "nowhere"]),
        "--input='nowhere' does not exist: give a file, a folder or a pattern",
    ),
    refused(
        "no input path",
        "`--input ''`",
        lambda p: p.run(source=["--input", ""]),
        "path '' cannot be used: Can not create a Path from an empty string",
    ),
    refused(
        "folder without files",
        "an empty folder",
        after(lambda p: (p.folder / "in").mkdir(), lambda p: p.run()),
        f"--input='in' {NO_FILES}",
    ),
    refused(
        "hidden file",
        "`--input in/_part.parquet`",
        after(
            lambda p: p.write(Rows(), "in/_part.parquet"), lambda p: p.run(source=["--input", p / "in/_part.parquet"])
        ),
        f"--input='in/_part.parquet' {NO_FILES}",
    ),
    refused(
        "no file of that name", "`--input-glob '*.orc'`", options("--input-glob", "*.orc"), f"--input='in' {NO_FILES}"
    ),
    refused(
        "empty file",
        "0 bytes named .parquet",
        after(lambda p: p.text("in/part-0.parquet"), lambda p: p.run()),
        "--input='in' cannot be read as parquet: …part-0.parquet is not a Parquet file…",
    ),
    refused(
        "text named .parquet",
        "a CSV file named .parquet",
        after(lambda p: p.text("in/part-0.parquet", "id,embedding", "a,1"), lambda p: p.run()),
        "--input='in' cannot be read as parquet: …part-0.parquet is not a Parquet file…",
    ),
    refused(
        "a CSV file",
        "without `--input-format`",
        after(lambda p: p.text("in/rows.csv", "id,embedding", "a,1"), lambda p: p.run()),
        "--input='in' cannot be read as parquet: it is not Parquet: give --input-format csv --input-option header=true "
        "--embedding-format json",
    ),
    refused(
        "truncated file",
        "the second of two Parquet files lacks its end",
        after(truncate, lambda p: p.run()),
        "--input='in' cannot be read as parquet: …part-1.parquet is not a Parquet file…",
    ),
    refused_at_work(
        "corrupt file",
        "a Parquet file in which a page is overwritten",
        after(corrupt, lambda p: p.run()),
        "…part-0.parquet…",
    ),
    refused(
        "elements of two types",
        "one file of `array<double>`, one of `array<float>`",
        two_files(Rows(), Rows(("d", "e", "f"), type=FLOATS)),
        differ("embedding", "of type array<double>", "of type array<float>"),
    ),
    refused(
        "ids of two types",
        "one file of string ids, one of numbers",
        two_files(Rows(), Rows((1, 2, 3))),
        differ("id", "of type string", "of type bigint"),
    ),
    refused(
        "column without values in one file",
        "all null, as pandas writes it, beside text",
        two_files(Rows(more={"more": pa.nulls(3)}), Rows(("d", "e", "f"), more={"more": ["x", "y", "z"]})),
        differ("more", "without any value", "of type string"),
    ),
    refused(
        "numbers of two types",
        "int64 beside double, as pandas writes a column with and without gaps",
        two_files(Rows(more={"more": [1, 2, 3]}), Rows(("d", "e", "f"), more={"more": [1.0, None, 2.0]})),
        differ("more", "of type bigint", "of type double"),
    ),
    refused(
        "files in subfolders, too",
        "one file at the top, one in a subfolder",
        after(sound, lambda p: p.write(MORE, "in/sub/part-1.parquet"), lambda p: p.run()),
        "--input='in' has files in subfolders, and Spark would leave 1 of 2 files out, for example "
        "'file:in/sub/part-1.parquet': read all with --input-option recursiveFileLookup=true, or give those at the top alone, 'file:in/*'",
    ),
    refused(
        "files beside partitions",
        "one file at the top, one in `day=1`",
        after(sound, lambda p: p.write(MORE, "in/day=1/part-1.parquet"), lambda p: p.run()),
        "--input='in' has partitions (day=…) and files outside them, and Spark would leave 1 of 2 files out, for example "
        "'file:in/part-0.parquet': read all with --input-option recursiveFileLookup=true, or move them apart",
    ),
    refused(
        "subfolders only",
        "all files in subfolders",
        after(lambda p: p.write(Rows(), "in/sub/part-0.parquet"), lambda p: p.run()),
        "--input='in' cannot be read as parquet: its 1 files lie in subfolders, for example 'file:in/sub/part-0.parquet': "
        "add --input-option recursiveFileLookup=true, or give the subfolders",
    ),
    accepted_by_program(
        "files in subfolders, asked for",
        "the same with `--input-option recursiveFileLookup=true`",
        after(
            lambda p: p.write(Rows(), "in/sub/part-0.parquet"),
            lambda p: p.run("--input-option", "recursiveFileLookup=true"),
        ),
    ),
    refused(
        "Delta table read as Parquet",
        "a folder with `_delta_log`",
        after(sound, lambda p: p.text("in/_delta_log/0.json", "{}"), lambda p: p.run()),
        "--input='in' is a table of format delta ('file:in/_delta_log'): as parquet rows that were removed or rewritten "
        "would come back; give the table itself with --input-format delta, or --input-table",
    ),
    refused(
        "files of a Delta table",
        "a partition's folder of it",
        after(
            lambda p: p.write(Rows(), "in/day=1/part-0.parquet"),
            lambda p: p.text("in/_delta_log/0.json", "{}"),
            lambda p: p.run(source=["--input", p / "in/day=1"]),
        ),
        "--input='in/day=1' holds files of a table of format delta ('file:in/_delta_log'): as parquet rows that were removed or "
        "rewritten would come back; give the table itself with --input-format delta, or --input-table",
    ),
    refused(
        "Iceberg table read as Parquet",
        "its folder `data`",
        after(
            lambda p: p.write(Rows(), "in/data/part-0.parquet"),
            lambda p: p.text("in/metadata/v1.metadata.json", "{}"),
            lambda p: p.run(source=["--input", p / "in/data"]),
        ),
        "--input='in/data' holds files of a table of format iceberg ('file:in/metadata'): as parquet rows that were removed or "
        "rewritten would come back; give the table itself with --input-format iceberg, or --input-table",
    ),
    refused(
        "partitions of two folders",
        "`in/year=1/day=1` and `other/day=1`",
        after(
            lambda p: p.write(Rows(), "in/year=1/day=1/part-0.parquet"),
            lambda p: p.write(MORE, "in/other/day=2/part-0.parquet"),
            lambda p: p.run(),
        ),
        "--input='in' cannot be read as parquet: …",
    ),
    refused(
        "Arrow files",
        "a folder that Hugging Face's `save_to_disk` wrote",
        after(arrow_stream, lambda p: p.text("in/state.json", "{}"), lambda p: p.run()),
        "--input='in' cannot be read as parquet: it has Arrow files, 'file:in/data-00000-of-00001.arrow' for example: make Parquet "
        "of them (spark-semdedup convert)",
    ),
    refused(
        "another file beside the data",
        "a README.md in the folder",
        after(sound, lambda p: p.text("in/README.md", "# my embeddings, in rows of Parquet"), lambda p: p.run()),
        "--input='in' cannot be read as parquet: …README.md is not a Parquet file…; leave such files out: --input-glob '*.parquet'",
    ),
    refused(
        "file that is not its checksum's",
        "`.part-0.parquet.crc` of other bytes",
        after(sound, other_checksum, lambda p: p.run()),
        "--input='in' cannot be read as parquet: …the file's .crc file is for other content: restore the file, or delete the .crc file",
    ),
    refused(
        "bytes split by stream",
        "BYTE_STREAM_SPLIT embeddings",
        after(byte_stream_split, lambda p: p.run()),
        "--input='in' cannot be read as parquet: 'file:in/part-0.parquet': column 'embedding' is encoded as BYTE_STREAM_SPLIT, "
        "which Spark's vectorized reader does not know; set spark.sql.parquet.enableVectorizedReader=false, or write the files again (spark-semdedup convert)",
        skip=lambda p: "Spark reads them from 4.3 on" if p.spark.version >= "4.3" else None,
    ),
    refused(
        "compressed by brotli",
        "for which Java has no codec",
        after(lambda p: p.write(Rows(), compression="brotli"), lambda p: p.run()),
        "--input='in' cannot be read as parquet: 'file:in/part-0.parquet': its columns are compressed by BROTLI, for which Java "
        "has no codec here; add one to the session's jars, or write the files again (spark-semdedup convert)",
    ),
    refused(
        "float16",
        "embeddings of float16, as pyarrow and Hugging Face datasets write them",
        over(Rows(type=pa.list_(pa.float16()), vectors=np.array(VECTORS, np.float16))),
        not_read("float16", "float32", "embedding"),
        skip=lambda p: "Spark 3.5 does not know the type's name" if p.spark.version < "4" else None,
    ),
    refused(
        "float16 with Spark 3.5",
        "embeddings of float16",
        over(Rows(type=pa.list_(pa.float16()), vectors=np.array(VECTORS, np.float16))),
        "--input='in' cannot be read as parquet: a column has a type that this Spark does not know, such as float16; write "
        "the files again (spark-semdedup convert)",
        skip=lambda p: "Spark 4 knows the type's name" if p.spark.version >= "4" else None,
    ),
    refused(
        "timestamps in nanoseconds",
        "in a column that is only carried along, as pandas and polars write them",
        over(Rows(more={"more": pa.array([1, 2, 3], pa.timestamp("ns"))})),
        not_read(
            "timestamp in nanoseconds",
            "microseconds",
            setting="set spark.sql.legacy.parquet.nanosAsLong=true to get it as bigint, or ",
        ),
    ),
    refused(
        "times of day",
        "in a column that is only carried along, as polars and DuckDB write them",
        over(Rows(more={"more": pa.array([1, 2, 3], pa.time64("us"))})),
        not_read("time of day", "text"),
    ),
    refused(
        "UUID column",
        "as DuckDB writes it",
        over(Rows(more={"more": pa.array([bytes(16)] * 3, pa.uuid())})),
        not_read("UUID", "text"),
    ),
    refused_at_work(
        "file without embeddings",
        "one of two files lacks the column",
        two_files(Rows(), Rows(("d", "e", "f"), name="vector")),
        f"--embedding-col='embedding', row with id '…': embedding is null{MEND}",
    ),
    refused_at_work(
        "file without ids",
        "one of two files lacks the column",
        two_files(Rows(), Rows(id_name="doc")),
        "--id-col='id' is null in 3 rows: every row needs an id of its own",
    ),
    accepted_by_program(
        "file with a column more",
        "the second of two files has it",
        two_files(Rows(), MORE),
        rows=Rows(("a", "b", "c", "d", "e", "f"), VECTORS * 2, more={"text": [None, None, None, "x", "y", "z"]}),
        removed=4,
        done="compared; the column is kept, null for the other file's rows",
    ),
    refused(
        "unknown format",
        "`--input-format nosuch`",
        options("--input-format", "nosuch"),
        "--input='in' cannot be read as nosuch: [DATA_SOURCE_NOT_FOUND]…",
    ),
    refused(
        "CSV",
        "the embedding is text in it",
        after(
            lambda p: p.text("in/a.csv", "id,embedding", 'a,"[1.0, 0.0]"'),
            read_as("csv", "--input-option", "header=true"),
        ),
        f"--embedding-col='embedding' is of type string: it must be an array of numbers or an ML Vector{AS_JSON}",
    ),
    refused(
        "CSV without a header",
        "columns called `_c0`, `_c1`",
        after(lambda p: p.text("in/a.csv", "a,1"), read_as("csv")),
        "--id-col='id' is not among the columns: '_c0', '_c1'",
    ),
    refused_at_work(
        "JSON with a garbage line",
        "`{garbage` in the second line",
        after(lambda p: p.text("in/a.json", '{"id": "a", "embedding": [1.0, 0.0]}', "{garbage"), read_as("json")),
        "--id-col='id' is null in 1 rows: every row needs an id of its own",
    ),
    accepted_by_program(
        "JSON of whole numbers",
        "`[4, 1]` in files of JSON",
        after(
            lambda p: p.text(
                "in/a.json", *(json.dumps({"id": i, "vector": v}) for i, v in zip("abc", INTEGERS, strict=True))
            ),
            read_as("json", "--embedding-col", "vector"),
        ),
        rows=vectors(*INTEGERS, type=pa.list_(pa.int64()), name="vector"),
    ),
    refused(
        "missing table",
        "`--input-table no_such_table`",
        table("no_such_table"),
        "--input-table='no_such_table' cannot be read: [TABLE_OR_VIEW_NOT_FOUND]…",
    ),
    refused(
        "table name of SQL",
        "`--input-table 'x; DROP TABLE y'`",
        table("x; DROP TABLE y"),
        "--input-table='x; DROP TABLE y' cannot be read: [PARSE_SYNTAX_ERROR]…",
    ),
    refused_at_work(
        "view that divides by zero",
        "in a column that is only carried along",
        dividing,
        "[DIVIDE_BY_ZERO]…",
        writes=True,
    ),
    refused(
        "view with a UDF that raises",
        "in the embedding",
        raising("embedding"),
        "a Python worker failed: ValueError: the service is down",
    ),
    refused_at_work(
        "column with a UDF that raises",
        "in a column that is only carried along",
        raising("text"),
        "a Python worker failed: ValueError: the service is down",
        writes=True,
    ),
    refused(
        "stream",
        "a view of `spark.readStream`",
        view(stream),
        "the input is a stream: it must be a table that ends, since each row is compared with others",
    ),
]

# --- names of columns ---------------------------------------------------------------------------------------

OURS = ("centroid", "max_id", "cosine_sim_score", "task", "tile", "other", "reason", "unit", "key_0", "compared", "hash", "cells", "keys", "tiles", "plan_centroid", "entry", "l2_dist_to_cent", "semdedup_unwanted_id", "semdedup_invalid_id", "semdedup_reason", "semdedup_assignment")  # fmt: skip
STRANGE = "a.b `c` 'd' \"e\"; DROP TABLE x"


def named(*names: str) -> Rows:
    return Rows(more={name: [f"{name} {i}" for i in range(3)] for name in names})


NAMES = [
    accepted(
        "columns named as ours",
        "`centroid`, `max_id`, `task`, `unit`, `key_0`, `semdedup_reason`, …",
        named(*OURS),
        done="compared; the columns are kept as they are",
    ),
    accepted(
        "the same, exact",
        "the same with `coverage='exact'`",
        named(*OURS),
        coverage="exact",
        done="compared; the columns are kept as they are",
    ),
    accepted(
        "`id` and `embedding` of another meaning",
        "with `--id-col doc --embedding-col vec`",
        Rows(more={"id": ["x", "x", None], "embedding": ["not", "a", "vector"]}, id_name="doc", name="vec"),
        done="compared; the columns are kept as they are",
    ),
    accepted_by_program(
        "hostile names",
        "dots, backticks, blanks, quotes, SQL, `*`",
        over(
            HOSTILE := Rows(id_name=STRANGE, name="* " + STRANGE, more={"*": [1, 2, 3], "id": [4, 4, 4]}),
            "--id-col",
            STRANGE,
            "--embedding-col",
            "* " + STRANGE,
        ),
        rows=HOSTILE,
    ),
    accepted(
        "unicode names",
        "`идентификатор`, `嵌入`, an emoji",
        Rows(id_name="идентификатор", name="嵌入", more={"🙂": [1, 2, 3]}),
    ),
    accepted(
        "names in another case",
        "`ID` and `Embedding` for `id` and `embedding`",
        Rows(),
        idCol="ID",
        embeddingCol="Embedding",
    ),
    refused(
        "`reason`, with skip",
        "the column that skip appends",
        over(named("reason"), "--handle-invalid", "skip"),
        "--handle-invalid='skip' appends the columns reason, but the input already has reason: rename or drop it first",
    ),
    refused(
        "`centroid`, in the cluster step",
        "a column that it appends",
        lambda p: ["cluster", "--input", p.write(named("centroid")), "--output", p / "out"],
        "cluster appends the columns centroid, l2_dist_to_cent, cosine_dist_to_cent, but the input already has centroid: rename or drop it first",
    ),
    refused(
        "`ID` and `id`",
        "both in one file",
        over(named("ID")),
        "--input='in' cannot be read as parquet: [COLUMN_ALREADY_EXISTS]…",
    ),
    refused(
        "`ID` and `id` in a view",
        "both in one view",
        view(lambda spark: frame(spark).selectExpr("*", "1 AS ID")),
        "--id-col='id' is more than once: 'id', 'embedding', 'ID'",
    ),
    refused(
        "missing column",
        "`--id-col '*'`",
        options("--id-col", "*"),
        "--id-col='*' is not among the columns: 'id', 'embedding'",
    ),
    refused(
        "missing column called SQL",
        "`--embedding-col 'id; DROP TABLE x'`",
        options("--embedding-col", "id; DROP TABLE x"),
        "--embedding-col='id; DROP TABLE x' is not among the columns: 'id', 'embedding'",
    ),
    refused(
        "missing column of 2,002",
        "`--id-col nosuch`",
        over(Rows(more={f"column {i}": [1, 2, 3] for i in range(2000)}), "--id-col", "nosuch"),
        "--id-col='nosuch' is not among the columns: 'id', 'embedding', 'column 0', … and 1962 more",
    ),
    refused(
        "name with a newline",
        "`--id-col $'a\\nb'`",
        options("--id-col", "a\nb"),
        r"--id-col='a\nb' is not among the columns: 'id', 'embedding'",
    ),
    refused(
        "one column for both",
        "`--id-col embedding`",
        options("--id-col", "embedding"),
        "--id-col='embedding' is of type array<double>: it must be string, tinyint, smallint, int or bigint (cast it, for example to string)",
    ),
]

# --- paths --------------------------------------------------------------------------------------------------

PATH = "ü 漢字 🙂 %20 a=b #1 +& in,out"
OVERLAP = "overlap: what is read would be mixed with what is written; give output a folder of its own"
GLOB = "which Spark's readers take for a pattern: give a folder without {} [] * ? \\"


def strange_path(place: Place) -> Call:
    place.write(Rows(), f"{PATH}/part-0.parquet")
    return place.run("--output", place / f"{PATH} out", source=["--input", place / PATH])


def unwritable(place: Place) -> Call:
    if os.geteuid() == 0:  # may write wherever the file system can
        return place.run("--output", "/proc/spark-semdedup")
    (place.folder / "locked").mkdir(mode=0o500)
    return place.run("--output", place / "locked/out")


def small_disk(place: Place) -> Call:
    """A disk of 256 KiB, and rows of 1 MiB."""
    place.write(Rows(more={"text": [np.random.default_rng(i).bytes(2**19).hex() for i in range(3)]}))
    return place.run("--output", place / "disk/out")


def cannot_mount(place: Place) -> str | None:
    """Mounts the small disk; says why that cannot be done."""
    disk = place.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, text=True
    )
    return None if mounted.returncode == 0 else f"a small disk cannot be mounted: {mounted.stderr.strip()}"


PATHS = [
    accepted_by_program("paths of any characters", f"`{PATH}`", strange_path),
    refused(
        "glob characters in the input",
        "a folder `in[1]`, `--input 'in[1]'`",
        after(lambda p: p.write(Rows(), "in[1]/part-0.parquet"), lambda p: p.run(source=["--input", p / "in[1]"])),
        "--input='in[1]' exists, but as a pattern it matches nothing: put \\ before each of {} [] * ? in its name",
    ),
    refused(
        "glob characters in the output",
        "`--output 'out[1]'`",
        after(sound, lambda p: p.run("--output", p / "out[1]")),
        f"--output='out[1]' has [ ], {GLOB}",
    ),
    refused(
        "output equal to input",
        "with `--overwrite`",
        after(sound, lambda p: p.run("--output", p / "in", "--overwrite")),
        f"--output='in' and --input='in' {OVERLAP}",
    ),
    refused(
        "output inside input",
        "with `--overwrite`",
        after(sound, lambda p: p.run("--output", p / "in/out", "--overwrite")),
        f"--output='in/out' and --input='in' {OVERLAP}",
    ),
    refused(
        "output around input",
        "with `--overwrite`",
        after(sound, lambda p: p.run("--output", p / ".", "--overwrite")),
        f"--output='…' and --input='in' {OVERLAP}",
    ),
    refused(
        "output a link to input",
        "with `--overwrite`",
        after(
            sound,
            lambda p: (p.folder / "link").symlink_to(p / "in"),
            lambda p: p.run("--output", p / "link", "--overwrite"),
        ),
        f"--output='link' and --input='in' {OVERLAP}",
    ),
    refused(
        "output under a file",
        "`--output file/out`",
        after(sound, lambda p: p.text("file", "mine"), lambda p: p.run("--output", p / "file/out")),
        "--output='file/out' cannot be written to: Parent path is not a directory: …",
    ),
    refused(
        "output a file",
        "with `--overwrite`",
        after(sound, lambda p: p.text("file", "mine"), lambda p: p.run("--output", p / "file", "--overwrite")),
        "--output='file' cannot be written to: Destination exists and is not a directory: file",
    ),
    refused(
        "output that may not be written",
        "a folder without the right to write",
        after(sound, unwritable),
        "--output='…' cannot be written to: …",
    ),
    Case(
        "full disk",
        "rows of 3 MiB, a disk of 256 KiB",
        after(small_disk),
        "…No space left on device…",
        status=1,
        writes=True,
        skip=cannot_mount,
    ),
    refused(
        "no output path",
        "`--output ''`",
        after(sound, lambda p: p.run("--output", "")),
        "path '' cannot be used: Can not create a Path from an empty string",
    ),
    refused(
        "NUL in the output",
        "`--output $'a\\x00b'`",
        after(sound, lambda p: p.run("--output", p / "a\x00b")),
        r"path 'a\x00b' cannot be used: Invalid file path",
    ),
    refused(
        "unknown file system",
        "`--output nosuch://a/b`",
        after(sound, lambda p: p.run("--output", "nosuch://a/b")),
        "path 'nosuch://a/b' cannot be used: No FileSystem for scheme \"nosuch\"",
    ),
    refused(
        "existing output",
        "a folder with a file, without `--overwrite`",
        after(sound, lambda p: p.text("out/mine.txt", "mine"), lambda p: p.run()),
        "--output='out' exists already: give another folder, or --overwrite to replace it",
    ),
    refused(
        "a step's output that is no result",
        "a folder with a file, `cluster --overwrite`",
        after(
            sound,
            lambda p: p.text("out/mine.txt", "mine"),
            lambda p: ["cluster", "--input", p / "in", "--output", p / "out", "--overwrite"],
        ),
        "--output='out' is no earlier result (it has no _semdedup.json) and is not deleted, not even with --overwrite: give another folder",
    ),
    refused(
        "a step's output that is a run's",
        "`cluster --overwrite` into a folder that `run` wrote",
        after(
            sound,
            lambda p: p.text("out/_manifest.json", "{}"),
            lambda p: ["cluster", "--input", p / "in", "--output", p / "out", "--overwrite"],
        ),
        "--output='out' is the folder of a whole run and is not deleted, not even with --overwrite: give another folder",
    ),
    refused(
        "a run's output with names of results",
        "a folder with the user's own `centroids`, `--overwrite`",
        after(sound, lambda p: p.text("out/centroids/mine.txt", "mine"), lambda p: p.run("--overwrite")),
        "--output='out' is no earlier run (it has no _manifest.json of one), and centroids in it would be replaced: give another folder",
    ),
    refused(
        "a run's output with another program's manifest",
        "a folder with the user's own `_manifest.json`, `--overwrite`",
        after(sound, lambda p: p.text("out/_manifest.json", '{"version": 1}'), lambda p: p.run("--overwrite")),
        "--output='out' is no earlier run (it has no _manifest.json of one), and _manifest.json in it would be replaced: give another folder",
    ),
    refused(
        "format that cannot hold the rows",
        "`--output-format csv`",
        options("--output-format", "csv"),
        "--output='out': the rows cannot be written as csv: [UNSUPPORTED_DATA_TYPE_FOR_DATASOURCE]…",
    ),
    refused(
        "missing schema",
        "`--output-table nosuch.t`",
        options("--output-table", "nosuch.t"),
        "--output-table='nosuch.t' cannot be written: there is no schema 'nosuch'",
    ),
    refused(
        "output table name of SQL",
        "`--output-table 'x; DROP TABLE y'`",
        options("--output-table", "x; DROP TABLE y"),
        "--output-table='x; DROP TABLE y' cannot be used: [PARSE_SYNTAX_ERROR]…",
    ),
]

# --- settings and models ------------------------------------------------------------------------------------


def semdedup(**params: Any) -> Any:
    from spark_semdedup import SemDedup

    return SemDedup(**params)


def model(centroids: Any, **params: Any) -> Any:
    from spark_semdedup import SemDedupModel

    return SemDedupModel(centroids=centroids, whichToKeep="first", **params)


def saved(
    place: Place,
    *,
    centroids: Sequence[Any] = ((1.0, 0.0),),
    cls: str = "spark_semdedup.EmbeddingKMeansModel",
) -> None:
    """The files of a saved model, as ``EmbeddingKMeansModel.save`` writes them."""
    metadata = {"class": cls, "timestamp": 0, "sparkVersion": "4.0.3", "uid": "saved", "paramMap": {}}
    place.text("model/metadata/part-0", json.dumps({**metadata, "defaultParamMap": {}}))
    numbers = pa.array(range(len(centroids)), pa.int32())
    rows = pa.array(list(map(list, centroids)), FLOATS)
    place.write(pa.table({"centroid": numbers, "vector": rows}), "model/data/part-0.parquet")


def with_model(*options: str, **content: Any) -> Callable[[Place], Call]:
    return after(sound, lambda p: saved(p, **content), lambda p: p.run("--centroids", p / "model", *options))


def has_gpu(_: Place) -> str | None:
    return None if importlib.util.find_spec("cupy") is None else "CuPy is installed here, so there may be a GPU"


OTHER_LENGTH = "--embedding-col='embedding' has embeddings of length 2, but the centroids have length 3: give the centroids that were fitted on such embeddings"
SETTINGS = [
    refused(
        "no clusters",
        "`--k 0`",
        options("--k", "0"),
        "--k=0 cannot be used: it must be a whole number of at least 1",
    ),
    refused(
        "eps of 1",
        "`--eps 1`",
        options("--eps", "1"),
        "--eps=1 cannot be used: it must be a number between 0 and 1, both excluded",
    ),
    refused(
        "eps of NaN",
        "`--eps nan`",
        options("--eps", "nan"),
        "--eps=nan cannot be used: it must be a number between 0 and 1, both excluded",
    ),
    refused(
        "text for a number",
        "`--eps much`",
        options("--eps", "much"),
        "--eps='much' cannot be used: it must be a number between 0 and 1, both excluded",
    ),
    refused(
        "number of more than 64 bits",
        "`--seed 9223372036854775808`",
        options("--seed", "9223372036854775808"),
        "--seed=9223372036854775808 cannot be used: it must be a whole number from -2^63 to 2^63 - 1",
    ),
    refused(
        "unknown choice",
        "`--which-to-keep best`",
        options("--which-to-keep", "best"),
        "--which-to-keep='best' cannot be used: it must be one of hard, easy, random, first",
    ),
    refused(
        "unknown option",
        "`--batch 7`",
        options("--batch", "7"),
        "unrecognized arguments: --batch 7 (spark-semdedup --help lists all options)",
    ),
    refused(
        "unknown Param",
        "`SemDedup(n_clusters=5)`",
        api(lambda p: semdedup(n_clusters=5)),
        "SemDedup has no Param 'n_clusters'; NeMo Curator's n_clusters is k here",
    ),
    refused(
        "Param of another type",
        "`SemDedup(rankBy='text')`",
        api(lambda p: semdedup(rankBy="text")),
        "rankBy='text' cannot be used: it must be a list of names",
    ),
    refused(
        "eps and threshold",
        "`--eps 0.1 --threshold 0.9`",
        options("--eps", "0.1", "--threshold", "0.9"),
        "--eps=0.1 and --threshold=0.9 are both set; set one of them (threshold is 1 - eps)",
    ),
    refused(
        "two rankings",
        "`--rank-by text --which-to-keep easy`",
        options("--rank-by", "text", "--which-to-keep", "easy"),
        "--rank-by=['text'] and --which-to-keep='easy' are both set; set one of them: each ranks rows",
    ),
    refused(
        "rank by a missing column",
        "`--rank-by 'worth desc'`",
        options("--rank-by", "worth desc"),
        "--rank-by='worth' is not among the columns: 'id', 'embedding'",
    ),
    refused(
        "rank by an array",
        "`--rank-by embedding`",
        options("--rank-by", "embedding"),
        "--rank-by='embedding' is of type array<double>: it must be a number, boolean, string, binary, decimal, date or timestamp",
    ),
    refused(
        "exact with probes",
        "`--coverage exact --n-probe 2`",
        options("--coverage", "exact", "--n-probe", "2"),
        "--coverage='exact' and --n-probe=2 are both set; set one of them: exact visits as many cells as it needs",
    ),
    Case(
        "missing GPU",
        "`--backend gpu`",
        options("--backend", "gpu"),
        "--backend='gpu' cannot be used: CuPy cannot be imported on …; pip install 'spark-semdedup[gpu-cu12]' (or gpu-cu13, by the CUDA version) on every executor, or set backend to cpu or auto",
        skip=has_gpu,
    ),
    refused_at_work(
        "sample smaller than k",
        "`--fit-sample-rows 1 --k 2`",
        over(Rows(), "--fit-sample-rows", "1", k=2),
        "--fit-sample-rows=1 is smaller than --k=2: it must be 0 (all rows) or at least k",
    ),
    refused(
        "initial centroids of NaN",
        "`SemDedup(initMode=[[nan, 1.0]])`",
        api(lambda p: semdedup(initMode=[[NAN, 1.0]])),
        "initMode='array of shape (1, 2)' cannot be used: it must be a finite array of shape (k, dimension)",
    ),
    Case(
        "initial centroids of another length",
        "of length 3 for embeddings of length 2",
        api(lambda p: semdedup(initMode=[[1.0, 0.0, 0.0]]).fit(frame(p.spark))),
        "initMode has centroids of length 3, but embeddings have length 2",
    ),
    refused(
        "model of NaN",
        "`SemDedupModel(centroids=[[nan, 1.0]])`",
        api(lambda p: model([[NAN, 1.0]])),
        "SemDedupModel: centroid 0 has a NaN or infinite element: all must be finite",
    ),
    refused(
        "model of ragged centroids",
        "`SemDedupModel(centroids=[[1.0, 0.0], [1.0]])`",
        api(lambda p: model([[1.0, 0.0], [1.0]])),
        "SemDedupModel: centroids cannot be used: they must be k vectors of one length",
    ),
    Case(
        "model of another length",
        "centroids of length 3 for embeddings of length 2, handleInvalid skip",
        api(lambda p: model([[1.0, 0.0, 0.0]], handleInvalid="skip").run(frame(p.spark))),
        OTHER_LENGTH.replace("--embedding-col", "embeddingCol"),
    ),
    refused(
        "pandas DataFrame",
        "`SemDedup(k=1).fit(pandas_frame)`",
        api(lambda p: semdedup(k=1).fit(Rows().table().to_pandas())),
        "the input is a pandas…DataFrame: it must be a Spark DataFrame",
    ),
    refused(
        "missing centroids",
        "`--centroids nowhere`",
        options("--centroids", "nowhere"),
        "--centroids='nowhere' holds no saved model (no folder metadata): give the folder centroids of a run, _centroids of a cluster step, or what EmbeddingKMeansModel.save wrote",
    ),
    refused(
        "saved model of garbage",
        "its metadata is not JSON",
        after(sound, lambda p: p.text("model/metadata/part-0", "garbage"), lambda p: p.run("--centroids", p / "model")),
        "'model/metadata' cannot be loaded: it is not valid JSON ('Expecting value: line 1 column 1 (char 0)')",
    ),
    refused(
        "saved model of another class",
        "`org.example.Model`",
        with_model(cls="org.example.Model"),
        "'model' holds a 'org.example.Model', not a spark_semdedup.EmbeddingKMeansModel",
    ),
    refused(
        "saved centroids of NaN",
        "(1, NaN)",
        with_model(centroids=[[1.0, NAN]]),
        "'model/data' holds no centroids that can be used: centroid 0 has a NaN or infinite element: all must be finite",
    ),
    refused(
        "saved centroids that are ragged",
        "lengths 2 and 1",
        with_model(centroids=[[1.0, 1.0], [1.0]]),
        "'model/data' holds no centroids that can be used: 2 vectors of lengths 1 to 2; they must be of one length above 0",
    ),
    refused(
        "saved model without centroids",
        "no rows in its data",
        with_model(centroids=[]),
        "'model/data' holds no centroids that can be used: there are no rows",
    ),
    refused(
        "saved centroids of another length",
        "of length 3 for embeddings of length 2, with `--handle-invalid skip`",
        with_model("--handle-invalid", "skip", centroids=[[1.0, 0.0, 0.0]]),
        OTHER_LENGTH,
    ),
]

# --- the steps ----------------------------------------------------------------------------------------------

CLUSTERED = {"centroid": [0, 0, 1], "cosine_dist_to_cent": pa.array([0.0, 0.1, 0.0], pa.float32())}
UNITS = ((1.0, 0.0), (0.6, 0.8), (0.0, 1.0))


def step(name: str, table: pa.Table | Rows, *options: str, manifest: str | None = None) -> Callable[[Place], Call]:
    def call(place: Place) -> Call:
        if manifest is not None:
            place.text("in/_semdedup.json", manifest)
        return [name, "--input", place.write(table), "--output", place / "out", *options]

    return call


def clusters(rows: Sequence[Any] = UNITS, **columns: Any) -> Rows:
    return Rows(vectors=rows, type=FLOATS, more={**CLUSTERED, **columns})


def similar(ids: Sequence[Any] = ("a", "b"), others: Sequence[Any] = ("a", "a"), scores: Any = (0.0, 0.99)) -> pa.Table:
    floats = pa.float32() if isinstance(scores[0], float) else None
    return pa.table({"id": list(ids), "max_id": list(others), "cosine_sim_score": pa.array(list(scores), floats)})


def remove(duplicates: pa.Table, rows: Rows | None = None, manifest: str | None = None) -> Callable[[Place], Call]:
    def call(place: Place) -> Call:
        if manifest is not None:
            place.text("duplicates/_semdedup.json", manifest)
        found = place.write(duplicates, "duplicates/part-0.parquet")
        return ["remove", "--input", place.write(rows or Rows()), "--duplicates", found, "--output", place / "out"]

    return call


STEPS = [
    refused(
        "pairwise of documents",
        "rows without clusters",
        step("pairwise", Rows()),
        "column='centroid' is not among the columns: 'id', 'embedding'",
    ),
    refused(
        "pairwise of similarities",
        "the output of another step",
        step("pairwise", similar(), manifest='{"holds": "similarities"}'),
        "--input='in' holds similarities, not clusters",
    ),
    Case(
        "pairwise of no rows",
        "clusters without rows",
        step(
            "pairwise",
            Rows(
                (),
                (),
                id_type=pa.string(),
                more={"centroid": pa.array([], pa.int32()), "cosine_dist_to_cent": pa.array([], pa.float32())},
            ),
        ),
        "--input='in' is empty: it must have at least one row",
        status=1,
    ),
    Case(
        "clusters called by text",
        "a column `centroid` of type string",
        step("pairwise", clusters(centroid=["x", "y", "z"])),
        "column 'centroid' is of type string: it must be an integer",
        status=1,
    ),
    refused(
        "distances of text",
        "a column `cosine_dist_to_cent` of type string",
        step("pairwise", clusters(cosine_dist_to_cent=["1", "2", "3"])),
        "column 'cosine_dist_to_cent' is of type string: it must be float or double",
    ),
    refused_at_work(
        "distances of NaN",
        "in `cosine_dist_to_cent`",
        step("pairwise", clusters(cosine_dist_to_cent=pa.array([NAN, 0.0, 0.0], pa.float32()))),
        "column 'cosine_dist_to_cent', row with id 'a': it is null or NaN",
        writes=True,
    ),
    refused_at_work(
        "clusters of vectors that are not unit vectors",
        "norm 2",
        step("pairwise", clusters(((1.0, 0.0), (2.0, 0.0), (0.0, 1.0)))),
        "--embedding-col='embedding', row with id 'b': norm is 2, not 1 (within 1e-05); give unit vectors as the cluster step writes them, or normalize=True in Python",
        writes=True,
    ),
    refused(
        "exact without centroids",
        "`pairwise --coverage exact` of clusters without `_centroids`",
        step("pairwise", clusters(), "--coverage", "exact"),
        "centroids is not set, and --input='in' has no _centroids: rows that are compared beyond their own clusters need the saved model that assigned them",
    ),
    refused(
        "identify of documents",
        "rows without similarities",
        step("identify", Rows()),
        "column='max_id' is not among the columns: 'id', 'embedding'",
    ),
    refused(
        "similarities of NaN",
        "one score is NaN",
        step("identify", similar(scores=(0.0, NAN))),
        "1 of 2 rows have null or NaN in column 'cosine_sim_score': compare the rows again",
    ),
    refused(
        "null similarities",
        "one score is null",
        step("identify", similar(scores=(0.0, None))),
        "1 of 2 rows have null or NaN in column 'cosine_sim_score': compare the rows again",
    ),
    refused(
        "null neighbours",
        "one `max_id` is null",
        step("identify", similar(others=("a", None))),
        "1 of 2 rows have null in column 'max_id': compare the rows again",
    ),
    refused(
        "similarities of text",
        "the score `'0.99'`",
        step("identify", similar(scores=("0.0", "0.99"))),
        "column 'cosine_sim_score' is of type string: it must be float or double",
    ),
    refused(
        "similarities of two id types",
        "`id` is text, `max_id` a number",
        step("identify", similar(("1", "2"), (1, 1))),
        "column 'max_id' is of type bigint, but 'id' of type string: they must be alike",
    ),
    refused(
        "unfinished step",
        "similarities of a step that did not end",
        after(lambda p: p.text("in/_semdedup.unfinished"), step("identify", similar())),
        "--input='in' is not finished: the step that wrote it did not end; run it again",
    ),
    refused(
        "manifest of garbage",
        "not JSON",
        step("identify", similar(), manifest="garbage"),
        "--input='in': _semdedup.json in it is not valid JSON (Expecting value: line 1 column 1 (char 0))",
    ),
    refused(
        "manifest of another kind",
        "a JSON list",
        step("identify", similar(), manifest="[1]"),
        "--input='in': _semdedup.json in it is not a JSON object, so spark-semdedup did not write it",
    ),
    refused(
        "eps beyond what is complete",
        "`identify --eps 0.1` of exact similarities up to 0.05",
        step("identify", similar(), "--eps", "0.1", manifest='{"holds": "similarities", "complete_eps": 0.05}'),
        "--eps=0.1 is larger than 0.05, up to which the scores in 'in' are complete: lower eps, or compare again with a larger one",
    ),
    refused(
        "similarities for duplicates",
        "`remove --duplicates similarities`",
        remove(similar(), manifest='{"holds": "similarities"}'),
        "--duplicates='duplicates' holds similarities, not duplicates",
    ),
    refused(
        "duplicates without ids",
        "no column `id`",
        remove(similar().rename_columns(["doc", "max_id", "score"])),
        "duplicates: column='id' is not among the columns: 'doc', 'max_id', 'score'",
    ),
    refused(
        "duplicates of another id type",
        "numbers, for rows with text",
        remove(similar((1, 2), (1, 1))),
        "--id-col='id' is string, but the duplicates' id is bigint: they cannot be matched",
    ),
    refused(
        "duplicates with ids of type double",
        "for rows with whole numbers",
        remove(similar((1.0, 2.0), (1.0, 1.0)), Rows((1, 2, 3))),
        "the duplicates' id is of type double: it must be string, tinyint, smallint, int or bigint (cast it, for example to string; spark-semdedup convert makes bigint or text of whole numbers)",
    ),
    refused(
        "repeated id, in the remove step",
        "two rows have an id to remove",
        remove(similar(), Rows(("a", "b", "b"))),
        "--id-col='id' is not unique: 1 ids are in more than one row, for example 'b'; drop exact repeats first (dropDuplicates(['id']))",
    ),
    refused(
        "evaluate of no run",
        "a folder that no run wrote",
        after(
            sound,
            lambda p: p.text("mine/notes", "mine"),
            lambda p: ["evaluate", "--input", p / "in", "--result", p / "mine"],
        ),
        "--result='mine' is not the folder of a run (it has no _manifest.json): give what run wrote",
    ),
    refused(
        "plan for fewer than one row",
        "`plan --rows -5`",
        after(sound, lambda p: ["plan", "--input", p / "in", "--rows", "-5"]),
        "argument --rows: -5 cannot be used: it must be a number above 0 (spark-semdedup plan --help lists all options)",
    ),
]

CASES = [*EMBEDDINGS, *IDS, *SHAPES, *FILES, *NAMES, *PATHS, *SETTINGS, *STEPS]
