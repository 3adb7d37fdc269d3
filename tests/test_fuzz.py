"""Random values for everything a user can give: each is accepted, or refused in one line.

The inputs are the same in each run; ``FUZZ=20`` in the environment tries others, and more (``fuzzing.tries``).
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import oracle
import pandas as pd
import pyarrow as pa
import pytest
from fuzzing import tries
from hypothesis import assume, given
from hypothesis import strategies as st
from pyspark.sql import types as T

from spark_semdedup import (
    EmbeddingKMeans,
    IdentifyDuplicates,
    PairwiseSimilarity,
    RemoveDuplicates,
    SemDedup,
    SemDedupModel,
)
from spark_semdedup.cli import commands, options
from spark_semdedup.cli import main as cli
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.kernels import unit_vectors
from spark_semdedup.params import DEFAULTS
from spark_semdedup.runs.manifest import MANIFEST, RUN_MANIFEST, read_manifest, read_run_manifest
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.target import Target
from spark_semdedup.spark.files import Files, is_within, join
from spark_semdedup.spark.vectors import (
    commonest_length,
    float16_from_bits,
    lengths,
    matrix,
    matrix_from_packed,
    packed_rows,
)

HOSTILE = [
    "",
    " ",
    "\x00",
    "\n",
    "a\nb",
    "\r",
    "\x1b[2J",
    "'",
    '"',
    "`",
    "../..",
    "*",
    "[",
    "{",
    "}",
    "%",
    "%00",
    "\\",
    "#",
]
HOSTILE += [
    "a:b",
    ":",
    "://",
    "s3a://",
    "s3a://k:s@b",
    "nosuch://x",
    "file:",
    "file:///",
    "hdfs://",
    "~",
    "${HOME}",
    "-",
    "--",
]
HOSTILE += [
    "$(id)",
    ";",
    "NaN",
    "inf",
    "-1",
    "0",
    "1e999",
    "9" * 400,
    "true",
    "None",
    "ü€",
    "\ud800",
    "x" * 3000,
    "a b",
]

words = (
    st.sampled_from(HOSTILE) | st.text(max_size=12) | st.text(st.characters(categories=["Cs", "Cc", "L"]), max_size=5)
)
whole = words.filter(lambda text: not any("\ud800" <= char <= "\udfff" for char in text))
"""What is a text to the JVM as well; of others the command line and ``Files`` are tried."""


@contextlib.contextmanager
def refused_at_most() -> Iterator[None]:
    """What is inside may be refused, by an error of ours that is one line; any other exception fails the test."""
    try:
        yield
    except SemDedupError as error:
        assert_one_line(str(error))


def assert_one_line(message: str) -> None:
    assert message
    assert len(message.splitlines()) == 1, repr(message)


# --- Params -------------------------------------------------------------------------------------------------


class Nasty:
    """An object that fails at whatever it is asked to be."""

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise RuntimeError("no")

    def __float__(self) -> float:
        raise RuntimeError("no")

    def __len__(self) -> int:
        raise RuntimeError("no")


numbers = (
    st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.sampled_from([10**400, 2**63, 2**63 - 1, -(2**63), Decimal(1), Fraction(1, 2), True, 5e-324])
    | st.sampled_from([np.float32("nan"), np.float16(0.5), np.int8(3), np.uint64(2**64 - 1), np.bool_(True)])
)
arrays = st.sampled_from(
    [
        np.zeros((3, 3)),
        np.zeros(0),
        np.array("x"),
        np.array([[1e300]]),
        np.array([[None, 1]]),
        pd.Series([1, 2]),
        pd.DataFrame({"a": [1.0]}),
        np.ones((2, 2, 2)),
        np.array([["a"]]),
        [[10**400]],
        [[1, 2], [3]],
        [[1j]],
        [[]],
    ]
)
names = st.sampled_from(
    ["id", "embedding", "hard", "quality desc", "cosine", "exact", "skip", "cpu", "random", "faiss"]
)
anything = st.recursive(
    st.none() | numbers | words | names | st.binary(max_size=3) | arrays | st.builds(Nasty) | st.just(object),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=2) | st.tuples(inner, inner),
    max_leaves=4,
)
STAGES = [SemDedup, SemDedupModel, EmbeddingKMeans, PairwiseSimilarity, IdentifyDuplicates, RemoveDuplicates]
PARAMS = {stage: sorted(param.name for param in stage().params) for stage in STAGES}


@tries(120)
@given(st.data())
def test_any_value_of_a_param_is_taken_or_refused_in_one_line(data):
    stage = data.draw(st.sampled_from(STAGES))
    params = data.draw(st.dictionaries(st.sampled_from([*PARAMS[stage], "nosuch"]), anything, min_size=1, max_size=3))
    with refused_at_most():
        made = stage(**params)
        given_ = {name: value for name, value in params.items() if value is not None}
        assert made.settings().keys() == given_.keys()
        json.dumps(made.settings())  # can be saved
        for name, value in made.settings().items():
            assert stage(**{name: value}).value(name) == value, "what was accepted is accepted again, as it is"
    for name, value in params.items():
        if name == "nosuch":
            continue
        with refused_at_most():
            getattr(stage(), f"set{name[0].upper()}{name[1:]}")(value)
        with refused_at_most():
            made = stage()
            made.set(made.getParam(name), value)
            assert value is not None


@tries(150)
@given(anything)
def test_anything_is_shown_in_one_short_line(value):
    assert_one_line(shown(value))
    assert len(shown(value)) <= 80


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("value", [10**5000, -(10**5000), [10**5000], Unspeakable(), {1: Unspeakable()}], ids=range(5))
def test_a_value_that_has_no_text_is_refused_by_its_type(value):
    assert shown(value) == f"<{type(value).__name__}>"
    for name in PARAMS[SemDedup]:
        with pytest.raises(SemDedupError) as refused:
            SemDedup(**{name: value})
        assert_one_line(str(refused.value))


# --- the command line ---------------------------------------------------------------------------------------

OPTIONS = sorted(
    {option for command in commands.COMMANDS.values() for option in map(options.option_name, command.params)}
    | {"--input", "--input-table", "--input-format", "--input-option", "--input-glob", "--output", "--output-option"}
    | {"--output-format", "--output-table", "--overwrite", "--centroids", "--duplicates", "--invalid", "--result"}
    | {"--rows", "--gpus", "--gpu-tflops", "--network-gbps", "--sample-rows", "--missed", "--verbose", "--nosuch"}
)
values = words | names | st.integers().map(str) | st.floats().map(str) | st.sampled_from(["a=b", "=", "self=1", "k="])
option = st.tuples(st.sampled_from(OPTIONS), st.lists(values, max_size=2)).map(lambda pair: [pair[0], *pair[1]])
options = st.lists(option, max_size=5).map(lambda lists: [text for each in lists for text in each])


def called(argv: list[str]) -> tuple[int, list[str]]:
    """Exit status of the program, and what it said on stderr that is no progress."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = cli.main(argv)
    assert "Traceback" not in out.getvalue()
    return status, [line for line in err.getvalue().split("\n") if line and not line.startswith("[")]


def assert_told_in_one_line(status: int, said: list[str], *, verbose: bool = False) -> None:
    assert status in (0, 1, 2)
    errors = [line for line in said if line.startswith("spark-semdedup: error: ")]
    assert len(errors) == (status != 0), said
    assert verbose or not any("Traceback" in line for line in said), said
    # What only a fault in the program explains ends with this hint.
    assert verbose or not any(line.endswith("(--verbose shows more)") for line in said), said


class _Checked(SemDedupError):
    """Stands for the session that a command asks for once its arguments have been read."""


@tries(80)
@given(command=st.sampled_from([*commands.COMMANDS, "walk", ""]), options=options, first=st.lists(values, max_size=1))
def test_any_arguments_are_read_or_refused_in_one_line(command, options, first):
    def stop(*_: object, **__: object) -> None:
        raise _Checked("read")

    assume("-h" not in options + first and "--version" not in first)
    argv = [*first, command, *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "given_session", stop)
        status, said = called(argv)
    assert status == 2, said
    assert_told_in_one_line(status, said, verbose="--verbose" in argv)


@tries(15)
@given(
    command=st.sampled_from(["run", "cluster", "pairwise", "identify", "remove", "evaluate"]),
    path=words, other=words, options=st.lists(option.filter(lambda o: o[0] != "--verbose"), max_size=1),
)  # fmt: skip
def test_any_paths_are_refused_in_one_line(spark, tmp_path, command, path, other, options):
    """With a session: what cannot be read is refused before anything is done."""
    argv = [
        command,
        "--input",
        str(tmp_path / "nothing"),
        "--output",
        f"{tmp_path}/{other}",
        *(text for each in options for text in each),
    ]
    argv += {"remove": ["--duplicates", path], "evaluate": ["--result", path]}.get(command, ["--input", path])
    status, said = called(argv)
    assert status == 2, said
    assert_told_in_one_line(status, said)


# --- paths --------------------------------------------------------------------------------------------------


@tries(15)
@given(path=words, table=st.none() | whole, format_=st.just("parquet") | whole, options=st.dictionaries(whole, whole))
def test_any_source_and_target_is_read_or_refused_in_one_line(spark, tmp_path, path, table, format_, options):
    files = Files(spark)
    for ask in (files.exists, files.is_vacant, files.matches, files.full):
        with refused_at_most():
            ask(path)
    source = Source((path,) if table is None else (), table, format_, options)
    with refused_at_most():
        source.check(files)
        source.read(spark)
    with refused_at_most():
        Target(f"{tmp_path}/{path}", format_, options).check(files, {"input": [path]})


parts = st.lists(st.text("ab.", min_size=1, max_size=3), max_size=4)


@tries(150)
@given(parts, parts)
def test_a_path_is_within_another_where_its_parts_begin_with_the_others(inner, outer):
    a, b = ("/".join(["file:", *each]) for each in (inner, outer))
    assert is_within(a, b) == (inner[: len(outer)] == outer)
    assert is_within(join(a, "x"), a)
    assert is_within(join(a + "/", "x", "y"), join(a, "x"))
    assert not is_within(a, join(a, "x"))


# --- manifests ----------------------------------------------------------------------------------------------


@dataclass
class OneFile:
    """Stands for ``Files``: a folder in which there is one manifest."""

    text: str
    name: str
    deleted: list[str] = field(default_factory=list)

    def matches(self, path: str) -> list[str]:
        return [path]

    def exists(self, path: str) -> bool:
        return path.endswith(f"/{self.name}")

    def read_text(self, path: str) -> str:
        return self.text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
manifests = (
    json_values.map(json.dumps)
    | st.text()
    | st.fixed_dictionaries({"holds": json_values | st.sampled_from(["similarities", "run"])}).map(json.dumps)
    | st.sampled_from(["", "[" * 100_000, "9" * 10_000, '{"holds": "similarities", "complete_eps": "x"}', "\x00"])
)
Reader = Callable[[Any, str], dict[str, Any] | None]
READERS: list[tuple[str, Reader]] = [
    (MANIFEST, lambda files, path: read_manifest(files, path, "input", "similarities")),
    (RUN_MANIFEST, lambda files, path: read_run_manifest(files, path, "result")),
]


@tries(80)
@given(manifests, st.sampled_from(READERS))
def test_any_manifest_is_taken_or_refused_in_one_line(text, reader):
    name, read = reader
    with refused_at_most():
        manifest = read(OneFile(text, name), "s3a://bucket/x")
        assert isinstance(manifest, dict)
        assert manifest == json.loads(text) or text.find("NaN") >= 0


# --- Arrow columns ------------------------------------------------------------------------------------------

elements = st.none() | st.floats(width=32) | st.sampled_from([0.0, -0.0, math.nan, math.inf, 3e38, 1e-45])
lists = st.lists(st.none() | st.lists(elements, max_size=4), max_size=8)
list_types = st.sampled_from([pa.list_, pa.large_list])
float_types = st.sampled_from([pa.float32(), pa.float64()])


def why_invalid(row: list | None, dim: int) -> bool:
    if row is None or len(row) != dim or any(v is None or not math.isfinite(v) for v in row):
        return True
    return not any(row)


@tries(120)
@given(
    rows=lists, dim=st.integers(1, 4), list_of=list_types, of=float_types, cut=st.integers(0, 3), chunks=st.booleans()
)
def test_a_matrix_holds_the_valid_rows_and_every_other_has_a_reason(rows, dim, list_of, of, cut, chunks):
    array = pa.array(rows, list_of(of))
    array, rows = array.slice(cut), rows[cut:]  # offsets that do not begin at 0
    valid, found, reasons = matrix(pa.chunked_array([array[:2], array[2:]]) if chunks else array, dim)
    assert valid.tolist() == [not why_invalid(row, dim) for row in rows]
    assert [reason is None for reason in reasons] == valid.tolist()
    expected = [row for row in rows if not why_invalid(row, dim)]
    assert found.shape == (len(expected), dim)
    assert (found == np.array(expected, found.dtype).reshape(-1, dim)).all()
    assert lengths(array).tolist() == [-1 if row is None else len(row) for row in rows]
    if len(found):
        assert oracle.same_bits(unit_vectors(found), oracle.unit_vectors(found))


@tries(100)
@given(st.integers(1, 6), st.integers(1, 5), st.data())
def test_rows_survive_the_way_through_arrow(n, d, data):
    bits = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=n * d, max_size=n * d))
    rows = np.array(bits, np.uint32).view(np.float32).reshape(n, d)
    first = data.draw(st.integers(0, n - 1))
    for large in (False, True):
        values = packed_rows(rows).cast(pa.large_binary()) if large else packed_rows(rows)
        assert oracle.same_bits(matrix_from_packed(values[first:]), rows[first:])
    back = packed_rows(rows, lists=True)
    assert oracle.same_bits(np.asarray(back.flatten()).reshape(n, d), rows)


@tries(100)
@given(st.lists(st.none() | st.lists(st.integers(0, 65535), max_size=3), max_size=5), st.integers(0, 2))
def test_float16_bits_become_the_numbers_they_are(rows, cut):
    found = float16_from_bits(pa.array(rows, pa.list_(pa.int32())).slice(cut)).to_pylist()
    for row, bits in zip(found, rows[cut:], strict=True):
        assert (row is None) == (bits is None)
        if bits:
            expected = np.array(bits, np.uint16).view(np.float16).astype(np.float32)
            assert np.array_equal(np.array(row, np.float32), expected, equal_nan=True)


@tries(60)
@given(st.dictionaries(st.integers(-1, 5), st.integers(1, 4)))
def test_the_commonest_length_is_the_shortest_of_the_most_frequent(counts):
    there = {length: count for length, count in counts.items() if length > 0}
    most = [length for length, count in there.items() if count == max(there.values())]
    assert commonest_length(Counter(counts)) == (min(most) if most else None)


# --- the whole ----------------------------------------------------------------------------------------------

wild = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 3e38, -1e-45, 1e-30, math.nan, math.inf, None])
tables = st.integers(1, 4).flatmap(
    lambda dim: st.lists(
        st.none()
        | st.lists(wild | st.floats(-1, 1, width=32), min_size=dim, max_size=dim)
        | st.lists(wild, max_size=4),
        min_size=1,
        max_size=12,
    ).map(lambda rows: (dim, rows))
)
NAMES = ["id", "a.b`c", "x y", "'; DROP TABLE x --", "ü"]


def expected_answer(ids: list[str], rows: list, dim: int, centroids: np.ndarray, eps: float) -> tuple[set, set, dict]:
    """Ids of the duplicates, of the invalid rows, and (neighbour, score) of the valid ones, by the contract's words."""
    valid = [i for i, row in enumerate(rows) if not why_invalid(row, dim)]
    invalid = {ids[i] for i in range(len(rows)) if i not in valid}
    if not valid:
        return set(), invalid, {}
    units = oracle.unit_vectors(np.array([rows[i] for i in valid], np.float32))
    assigned = oracle.assignment(units, centroids)
    mine = [ids[i] for i in valid]
    order = oracle.order_hard(mine, assigned.cosine_dist_to_cent.tolist())
    found = oracle.similarities(units, assigned.centroid, order)
    scores = {mine[i]: (mine[found.neighbour[i]], found.score[i]) for i in range(len(mine))}
    removed = {id_ for id_, (other, score) in scores.items() if other != id_ and float(score) >= 1.0 - eps}
    return removed, invalid, scores


@pytest.mark.slow
@tries(5)
@given(
    table=tables,
    handling=st.sampled_from(["error", "skip", "keep"]),
    eps=st.sampled_from([DEFAULTS["eps"], 1e-6, 0.5, 0.999]),
    id_name=st.sampled_from(NAMES),
    k=st.integers(1, 3),
)
def test_any_small_table_gives_the_contracts_answer_or_is_refused(spark, table, handling, eps, id_name, k):
    dim, rows = table
    ids = [f"row {i}" for i in range(len(rows))]
    vectors = T.StructField("embedding", T.ArrayType(T.FloatType()))
    df = spark.createDataFrame(
        list(zip(ids, rows, strict=True)), T.StructType([T.StructField(id_name, T.StringType()), vectors])
    )
    centroids = oracle.unit_vectors(np.random.default_rng(k).normal(size=(k, dim)))
    model = SemDedupModel(
        centroids=centroids, idCol=id_name, handleInvalid=handling, eps=eps, backend="cpu", embeddingDim=dim
    )
    removed, invalid, scores = expected_answer(ids, rows, dim, centroids, eps)
    lengths = {len(row) for row in rows if row}
    if lengths and dim not in lengths:
        with pytest.raises(SemDedupError, match="but the centroids have length"):
            model.run(df)
        return
    if handling == "error" and invalid:
        with pytest.raises(Exception, match="row with id 'row"):
            model.run(df).counts()
        return
    result = model.run(df)
    found = {row["id"]: (row["max_id"], np.float32(row["cosine_sim_score"])) for row in result.similarities.collect()}
    kept = {row[id_name] for row in result.deduplicated.collect()}
    aside = {row[id_name] for row in result.invalid.collect()}
    result.unpersist()
    assert found == scores
    assert aside == invalid
    assert kept == set(ids) - removed - (invalid if handling == "skip" else set())
