"""The largest groups, of trees that are known."""

from __future__ import annotations

import pytest

from spark_semdedup.report.links import LEAST_SIMILAR_SHOWN, MEMBERS_SHOWN, groups_of


@pytest.fixture(scope="module")
def duplicates(spark):
    """Two trees: ``a`` with a chain and a star of 21 rows in all, ``x`` with 2 rows."""
    rows = [("b", "a", 0.99), ("c", "b", 0.98), ("d", "c", 0.97)]
    rows += [(f"star {i:02d}", "a", 0.96 - i / 10_000) for i in range(17)]
    rows += [("y", "x", 0.955)]
    return spark.createDataFrame(rows, "id string, max_id string, cosine_sim_score float").cache()


def test_groups_follow_chains_and_list_both_ends(duplicates):
    groups = groups_of(duplicates, 21)
    assert [(group.kept, group.rows) for group in groups.largest] == [("a", 21), ("x", 2)]
    assert groups.sizes.tolist() == [21, 2]
    assert groups.counts.tolist() == [1, 1]
    first = groups.largest[0]
    assert len(first.members) == MEMBERS_SHOWN
    assert [member.id for member in first.members[:4]] == ["b", "c", "d", "star 00"]
    assert [member.id for member in first.members[-LEAST_SIMILAR_SHOWN:]] == [f"star {i}" for i in range(13, 17)]
    assert first.members[1].max_id == "b"


def test_integer_ids_stay_integers(spark):
    df = spark.createDataFrame([(2, 1, 0.99), (3, 2, 0.97)], "id bigint, max_id bigint, cosine_sim_score float")
    group = groups_of(df, 2).largest[0]
    assert (group.kept, [member.id for member in group.members]) == (1, [2, 3])


def test_a_root_is_named_where_none_of_its_listed_rows_names_it(spark):
    rows = [("near", "root", 0.951)] + [(f"far {i:02d}", "near", 0.99) for i in range(9)]
    rows += [(f"low {i}", "near", 0.9501) for i in range(4)]
    df = spark.createDataFrame(rows, "id string, max_id string, cosine_sim_score float")
    group = groups_of(df, len(rows)).largest[0]
    assert group.kept == "root"
    assert "near" not in [member.id for member in group.members]


def test_no_duplicates_no_groups(spark):
    df = spark.createDataFrame([], "id string, max_id string, cosine_sim_score float")
    assert groups_of(df, 0).count == 0
