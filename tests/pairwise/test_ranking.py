"""The order of preference: every kind of rank, every type of column, in both directions."""

from __future__ import annotations

import datetime as dt
import itertools
from decimal import Decimal

import numpy as np
import oracle
import pandas as pd
import pyarrow as pa
import pytest
from marks import slow
from pyspark.sql import functions as F

from spark_semdedup.errors import SemDedupError
from spark_semdedup.ml.pairwise import PairwiseSimilarity
from spark_semdedup.pairwise.ranking import Ranking, rank_order

NAN, INF = float("nan"), float("inf")


# --- the array side -----------------------------------------------------------------------------------------


def order(*keys, ids=None, up=None, id_up=True) -> list[int]:
    ids = np.arange(len(keys[0])) if ids is None else ids
    return rank_order(ids, keys, [True] * len(keys) if up is None else up, id_up).tolist()


def test_keys_count_in_turn_and_ties_go_by_id():
    first, second = np.array([2, 1, 2, 1]), np.array([0.5, 0.1, 0.5, 0.0])
    assert order(first, second) == [3, 1, 0, 2]
    assert order(first, second, up=[False, True]) == [0, 2, 3, 1]
    assert order(first, second, up=[False, True], id_up=False) == [2, 0, 3, 1]
    assert order(first, second, ids=np.array(["b", "c", "a", "d"], object)) == [3, 1, 2, 0]


def test_floats_of_every_kind():
    values = np.array([NAN, INF, 1.0, 5e-324, 0.0, -0.0, -5e-324, -1.0, -INF, -NAN])
    assert order(values) == [8, 7, 6, 4, 5, 3, 2, 1, 0, 9]  # 0 and −0 by id, and the two NaN too
    assert order(values, up=[False]) == [0, 9, 1, 2, 3, 4, 5, 6, 7, 8]
    assert order(values.astype(np.float32)) == [8, 7, 3, 4, 5, 6, 2, 1, 0, 9]  # 5e-324 is 0 in float32


def test_the_ends_of_int64_in_both_directions():
    values = np.array([0, 2**63 - 1, -(2**63), -1, 1])
    assert order(values) == [2, 3, 0, 4, 1]
    assert order(values, up=[False]) == [1, 4, 0, 3, 2]


def test_strings_by_their_utf8_bytes():
    # In UTF-16, as the JVM and JavaScript compare them, 🙂 would stand before ﬀ.
    values = ["ﬀ", "🙂", "b", "", "ä", "B", "ab", "a"]
    expected = [3, 5, 7, 6, 2, 4, 0, 1]
    for column in (
        np.array(values, object),
        pd.Series(values),
        pa.array(values),
        pa.chunked_array([values[:3], values[3:]]),
    ):
        assert order(column) == expected
        assert order(column, up=[False]) == expected[::-1]


def test_binary_by_unsigned_bytes():
    assert order(pa.array([b"\xff", b"\x7f", b"", b"\x7f\x00"], pa.binary())) == [2, 1, 3, 0]
    assert order(pd.Series([b"\xff", b"\x7f", b"", b"\x7f\x00"])) == [2, 1, 3, 0]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, bool])
def test_integers_of_any_width(dtype):
    values = np.array([1, 0, 1], dtype)
    assert order(values) == [1, 0, 2]
    assert order(pd.Series(values), up=[False]) == [0, 2, 1]


def test_no_rows():
    assert order(np.zeros(0)) == []


# --- columns of every type through Spark --------------------------------------------------------------------

DAY = dt.date(1970, 1, 1)
TIME = dt.datetime(2026, 10, 25, 1, 30)  # an hour that comes twice in Berlin

LONG, LONGER = Decimal("12345678901234567890.000000000000000001"), Decimal("12345678901234567890.000000000000000002")

COLUMNS = {
    "boolean": [True, False, None],
    "tinyint": [-128, 127, 0, None],
    "smallint": [-32768, 32767, None],
    "int": [-(2**31), 2**31 - 1, 0, None],
    "bigint": [-(2**63), 2**63 - 1, 0, 2**53, 2**53 + 1, None],
    "float": [NAN, INF, -INF, 0.0, -0.0, 1.5, None],
    "double": [NAN, INF, -INF, 0.0, -0.0, 1.5, 1.5 + 2**-52, 5e-324, None],
    "string": ["", "a", "B", "b", "ä", "ﬀ", "🙂", "a\x00b", None],
    "binary": [b"", b"\x7f", b"\xff", b"\x7f\x00", None],
    "decimal(38,18)": [Decimal("-1.5"), LONG, LONGER, Decimal(0), Decimal(2), Decimal(10), None],
    "date": [DAY, DAY - dt.timedelta(days=1), dt.date(1, 1, 1), dt.date(9999, 12, 31), None],
    "timestamp": [TIME, TIME + dt.timedelta(microseconds=1), dt.datetime(1969, 12, 31), dt.datetime(1900, 1, 1), None],
    "timestamp_ntz": [
        *(TIME, TIME + dt.timedelta(microseconds=1), TIME + dt.timedelta(hours=1), None),
        *(dt.datetime(1969, 12, 31, 23, 59, 59, 999999), dt.datetime(1900, 1, 1)),
    ],
}


def pairs_of(values: list) -> tuple[list[tuple[int, int, object]], list[tuple[int, int]]]:
    """Every two values as a cluster of two rows, the lower id for the one or the other: (id, centroid, value)."""
    rows, pairs = [], list(itertools.permutations(range(len(values)), 2))
    for cluster, (i, j) in enumerate(pairs):
        rows += [(2 * cluster, cluster, values[i]), (2 * cluster + 1, cluster, values[j])]
    return rows, pairs


def preferred(spark, df, **params) -> dict[int, int]:
    """For each cluster of two equal rows 0 where the one with the lower id is preferred, else 1."""
    same = df.withColumn("embedding", F.expr("array(1.0f, 2.0f)"))
    found = PairwiseSimilarity(**params).transform(same).where("id != max_id").collect()
    return {row.id // 2: row.max_id % 2 for row in found}


@pytest.mark.slow
@pytest.mark.parametrize(("direction", "descending"), [("asc", False), ("desc", True)])
def test_rank_by_a_column_of_each_type(spark, direction, descending):
    """Two rows of a cluster differ in one column and are null in the others, so this one decides."""
    rows, expected = [], []
    for column, values in enumerate(COLUMNS.values()):
        for pair in itertools.permutations(values, 2):
            for value in pair:
                cells = [value if c == column else None for c in range(len(COLUMNS))]
                rows.append((len(rows), len(expected), *cells))
            expected.append((int(oracle.order_rank_by([0, 1], (pair, descending))[0]), pair))
    schema = ", ".join(f"c{i} {type_}" for i, type_ in enumerate(COLUMNS))
    df = spark.createDataFrame(rows, f"id bigint, centroid int, {schema}").repartition(3)
    found = preferred(spark, df, rankBy=[f"c{i} {direction}" for i in range(len(COLUMNS))])
    assert len(found) == len(expected)
    for cluster, (first, pair) in enumerate(expected):
        assert found[cluster] == first, f"{pair} {direction}"


@pytest.mark.slow
def test_a_clock_without_time_zone_does_not_jump(spark):
    """Between 2 and 3 on a Sunday in October the session's time zone has two hours of one name, the column has not."""
    zone = spark.conf.get("spark.sql.session.timeZone")
    values = [TIME + dt.timedelta(minutes=30 * i) for i in range(6)]
    values += [dt.datetime(2026, 3, 29, 1, 59) + dt.timedelta(minutes=30 * i) for i in range(4)]
    rows, pairs = pairs_of(values)
    try:
        spark.conf.set("spark.sql.session.timeZone", "Europe/Berlin")
        df = spark.createDataFrame(rows, "id bigint, centroid int, value timestamp_ntz")
        found = preferred(spark, df, rankBy=["value"])
    finally:
        spark.conf.set("spark.sql.session.timeZone", zone)
    assert [found[c] for c in range(len(pairs))] == [int(values[j] < values[i]) for i, j in pairs]


def test_a_clock_without_time_zone_is_exact_under_any_policy_of_parsing_time(spark):
    values = [
        TIME.replace(microsecond=900),
        TIME.replace(microsecond=100),
        *COLUMNS["timestamp_ntz"][4:],
        dt.datetime.min,
    ]
    df = spark.createDataFrame([(value,) for value in values], "t timestamp_ntz").coalesce(1)
    _, key = Ranking(by=(("t", True),)).key_columns(df, F.col("t"))
    spark.conf.set("spark.sql.legacy.timeParserPolicy", "LEGACY")
    try:
        found = [row[0] for row in df.select(key).collect()]
    finally:
        spark.conf.unset("spark.sql.legacy.timeParserPolicy")
    assert found == [(value - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1) for value in values]


def test_several_columns_each_with_its_direction(spark):
    rows = list(itertools.product([1.0, None], ["x", "ä"], [True, False]))
    table, pairs = pairs_of(rows)
    flat = [(id_, cluster, *value) for id_, cluster, value in table]
    df = spark.createDataFrame(flat, "id bigint, centroid int, `a b` double, `C.c` string, asc boolean")
    found = preferred(spark, df, rankBy=["a b desc", "C.c DESC", "asc"])
    for cluster, (i, j) in enumerate(pairs):
        columns = [([rows[i][c], rows[j][c]], c < 2) for c in range(3)]
        assert found[cluster] == oracle.order_rank_by([0, 1], *columns)[0], (rows[i], rows[j])


def test_a_tie_goes_to_the_lowest_id_whichever_the_direction(spark):
    rows = [(id_, 0, 7) for id_ in ("b", "a", "ä", "Z", "🙂", "ﬀ")]
    df = spark.createDataFrame(rows, "id string, centroid int, value int")
    df = df.withColumn("embedding", F.expr("array(1.0f, 2.0f)"))
    for params in ({"rankBy": ["value desc"]}, {"whichToKeep": "first"}):
        found = PairwiseSimilarity(**params).transform(df).collect()
        assert {row.max_id for row in found} == {"Z"}


def test_the_direction_is_the_last_word_only_where_it_is_one():
    parse = Ranking.of
    assert parse(PairwiseSimilarity(rankBy=["a desc", "b", "c asc", "a b", "x descending", "desc", "a  DESC"])).by == (
        ("a", False),
        ("b", True),
        ("c", True),
        ("a b", True),
        ("x descending", True),
        ("desc", True),
        ("a", False),
    )


# --- rank without columns -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "seed"), [slow("int", 42), slow("bigint", -7), ("string", 2**31), slow("bigint", -(2**40))]
)
def test_random_is_the_hash_of_the_id_as_a_string(spark, type_, seed):
    rows, pairs = pairs_of(list(range(5)))
    df = spark.createDataFrame([(id_, c) for id_, c, _ in rows], "id bigint, centroid int").withColumn(
        "id", F.expr(f"cast(id * 1000003 - 7 as {type_})")
    )
    same = df.withColumn("embedding", F.expr("array(1.0f, 2.0f)"))
    found = PairwiseSimilarity(whichToKeep="random", seed=seed).transform(same).where("id != max_id").collect()
    assert len(found) == len(pairs)
    for row in found:
        assert oracle.spark_hash(str(row.max_id), seed) < oracle.spark_hash(str(row.id), seed)


@pytest.mark.parametrize(
    ("which", "metric"), [("hard", "cosine"), ("easy", "l2"), slow("hard", "l2"), slow("easy", "cosine")]
)
def test_hard_and_easy_go_by_the_stored_distance_and_then_by_id(spark, which, metric):
    near, far = 0.1, float(np.nextafter(np.float32(0.1), np.float32(1)))
    rows, pairs = pairs_of([near, far, 0.0])
    swapped = {near: 3.0, far: 2.0, 0.0: 1.0}  # what the other distance says
    df = spark.createDataFrame(
        [(id_, c, d, swapped[d]) for id_, c, d in rows] + [(100, 99, near, 1.0), (101, 99, near, 2.0)],
        f"id int, centroid int, {'cosine' if metric == 'cosine' else 'l2'}_dist_to_cent float, "
        f"{'l2' if metric == 'cosine' else 'cosine'}_dist_to_cent float",
    )
    found = preferred(spark, df, whichToKeep=which, distanceMetric=metric)
    values = [near, far, 0.0]
    for cluster, (i, j) in enumerate(pairs):
        distances = [np.float32(values[i]), np.float32(values[j])]
        ranked = oracle.order_hard([0, 1], distances) if which == "hard" else oracle.order_easy([0, 1], distances)
        assert found[cluster] == ranked[0]
    assert found[50] == (1 if which == "hard" else 0)  # equal distances: hard takes the highest id


# NVIDIA NeMo Curator, tests/stages/deduplication/semantic/test_ranking.py: the columns and the orders are facts.
@pytest.mark.parametrize(
    ("columns", "rank_by", "expected"),
    [
        ({"score": [0.1, 0.8, 0.3, 0.6]}, ["score desc"], [2, 4, 3, 1]),
        ({"score": [0.1, 0.8, 0.3, 0.6]}, ["score asc"], [1, 3, 4, 2]),
        ({"score": [0.9, 0.3, 0.7, 0.5], "priority": [2, 1, 3, 1]}, ["priority", "score desc"], [4, 2, 1, 3]),
        ({"custom_metric": [10, 5, 20]}, ["custom_metric desc"], [3, 1, 2]),
    ],
)
def test_the_orders_of_nemo_curators_suite(columns, rank_by, expected):
    ranking = Ranking.of(PairwiseSimilarity(rankBy=rank_by))
    keys = [np.array(columns[name]) for name, _ in ranking.by]
    ids = np.arange(1, len(keys[0]) + 1)
    assert ids[rank_order(ids, keys, [up for _, up in ranking.by], ranking.id_ascending)].tolist() == expected


# --- mistakes -----------------------------------------------------------------------------------------------


def test_a_column_that_is_not_there_is_named_with_those_that_are(spark):
    df = spark.createDataFrame([(1, 0, [1.0])], "id int, centroid int, embedding array<float>")
    with pytest.raises(
        SemDedupError, match=r"rankBy='quality' is not among the columns: 'id', 'centroid', 'embedding'"
    ):
        PairwiseSimilarity(rankBy=["quality desc"]).transform(df)
    with pytest.raises(SemDedupError, match=r"cosine_dist_to_cent' is not among the columns"):
        PairwiseSimilarity().transform(df)


def test_a_column_without_an_order_is_refused(spark):
    df = spark.createDataFrame([(1, 0, [1.0])], "id int, centroid int, embedding array<float>")
    with pytest.raises(SemDedupError, match=r"rankBy='embedding' is of type array<float>: it must be a number"):
        PairwiseSimilarity(rankBy=["embedding"]).transform(df)


def test_two_rankings_at_once_are_refused():
    with pytest.raises(SemDedupError, match=r"rankBy=\['q'\] and whichToKeep='easy' are both set; set one of them"):
        Ranking.of(PairwiseSimilarity(rankBy=["q"], whichToKeep="easy"))
