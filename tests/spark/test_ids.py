"""Ids: that none is there twice is proven by their hashes, where these are few enough to look at."""

from __future__ import annotations

import pytest
from pyspark.sql import functions as F

from spark_semdedup.errors import SemDedupError
from spark_semdedup.spark import arrow, ids
from spark_semdedup.spark.ids import check_ids, count_distinct_ids


def table(spark, values, partitions=3):
    return spark.createDataFrame([(value,) for value in values], "id string").repartition(partitions)


def test_distinct_ids_are_counted(spark):
    assert count_distinct_ids(table(spark, map(str, range(1000))), F.col("id")) == 1000
    assert count_distinct_ids(table(spark, []), F.col("id")) == 0
    assert count_distinct_ids(spark.range(7).where("id < 1"), F.col("id")) == 1


@pytest.mark.parametrize("values", [["a", "b", "a"], [None, "b", None], [*map(str, range(500)), "77"]])
def test_repeated_ids_prove_nothing(spark, values):
    assert count_distinct_ids(table(spark, values), F.col("id")) is None


def test_ids_that_are_not_sound_prove_nothing(spark):
    rows, sound = table(spark, ["a", None, "c"]), F.col("id").isNotNull()
    assert count_distinct_ids(rows, F.col("id"), sound) is None
    assert count_distinct_ids(rows.where(sound), F.col("id"), sound) == 2


@pytest.mark.parametrize(("rows", "partitions"), [(9, 1), (30, 2)])
def test_too_many_ids_prove_nothing_and_stay_where_they_are(spark, monkeypatch, rows, partitions):
    """Of eight rows that may come of the first partition, four may of the second; one more of each tells."""
    monkeypatch.setattr(ids, "_MOST", 8)
    came, collect = [], arrow.collect_arrow

    def collected(df):
        found = collect(df)
        came.append(found.num_rows)
        return found

    monkeypatch.setattr(ids, "collect_arrow", collected)
    assert count_distinct_ids(spark.range(0, rows, 1, partitions), F.col("id")) is None
    assert came == [9 if partitions == 1 else 9 + 5]
    assert count_distinct_ids(spark.range(0, 8, 1, 1), F.col("id")) == 8
    assert count_distinct_ids(spark.range(0, 8, 1, 1), F.col("id"), rows=80) == 8
    assert count_distinct_ids(spark.range(0, 8, 1, 1), F.col("id"), rows=81) is None


@pytest.mark.parametrize("most", [0, 1 << 20], ids=["grouped by Spark", "by their hashes"])
def test_ids_of_files_are_checked_either_way(spark, monkeypatch, tmp_path, most):
    monkeypatch.setattr(ids, "_MOST", most)
    sound, repeated = str(tmp_path / "sound"), str(tmp_path / "repeated")
    table(spark, map(str, range(40))).write.parquet(sound)
    table(spark, [*map(str, range(40)), "7"]).write.parquet(repeated)
    assert check_ids(spark.read.parquet(sound), F.col("id"), "id") == 40
    with pytest.raises(
        SemDedupError, match="idCol='id' is not unique: 1 ids are in more than one row, for example '7'"
    ):
        check_ids(spark.read.parquet(repeated), F.col("id"), "id")
    with pytest.raises(SemDedupError, match="the input is empty"):
        check_ids(spark.read.parquet(sound).where("id = 'x'"), F.col("id"), "id")
