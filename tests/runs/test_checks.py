"""The check at the end of a run: it finds each kind of wrong result, and says which."""

from __future__ import annotations

import pytest
from marks import slow

from spark_semdedup.errors import AccountingError
from spark_semdedup.pairwise.integrity import check_neighbours
from spark_semdedup.pairwise.merge import PartialMatches
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.runs.checks import check_merged, check_read, check_removed, check_rows, check_skipped
from spark_semdedup.spark.ids import Ids

SCHEMA = (
    "id string, max_id string, cosine_sim_score float, centroid int, compared long, reason string, own boolean, "
    "key_0 double"
)
BY_KEY_DOWN = Ranking(ascending=False, distance="cosine_dist_to_cent")

GOOD = [("a", "a", 0.9), ("b", "a", 0.5), ("c", "b", 0.5), ("d", "b", 0.1)]
"""id, max_id, key: the largest key ranks first, of equal ones the highest id: c ranks before b, and cannot name it."""


def check(spark, rows, ranking=BY_KEY_DOWN, further=(), at_least=-1.0, **counts):
    full = [
        (id_, max_id, 0.5, 0, 1, reason, own, key)
        for entries, own in ((rows, True), (further, False))
        for id_, max_id, key, reason in entries
    ]
    entries = PartialMatches(spark.createDataFrame(full, SCHEMA), ranking, at_least)
    check_neighbours(entries, {**entries.counts(), **counts})


def plain(rows):
    return [(*row, None) for row in rows]


def test_what_adds_up_passes(spark):
    rows = plain([("a", "a", 0.9), ("b", "c", 0.5), ("c", "a", 0.5), ("d", "b", 0.1)])
    further = plain([("d", "a", 0.1), ("a", "a", 0.9)])
    check(spark, [*rows, ("x", "x", None, "embedding is null")], further=further)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (plain([*GOOD[:2], ("c", "a", 0.5), ("c", "a", 0.5)]), "the row with id 'c' is in more than one row"),
        (plain([("a", "a", 0.9), ("b", "z", 0.5)]), "the row with id 'b' has a max_id that is no row's"),
        (plain([("a", "b", 0.9), ("b", "b", 0.5)]), "the row with id 'a' has a max_id that does not precede it"),
        (plain(GOOD), "the row with id 'c' has a max_id that does not precede it"),
        (
            [*plain([("a", "a", 0.9), ("b", "x", 0.5)]), ("x", "x", 0.95, "embedding is null")],
            "the row with id 'b' has a max_id that was not compared",
        ),
    ],
)
@pytest.mark.parametrize("few", [True, slow(False)], ids=["few", "many"])
def test_what_does_not_is_named(spark, monkeypatch, rows, message, few):
    """``few``: whether claims are sent to all tasks."""
    monkeypatch.setattr("spark_semdedup.pairwise.integrity.FEW", 100 if few else 0)
    with pytest.raises(AccountingError) as caught:
        check(spark, rows)
    assert str(caught.value).startswith(f"the comparison is inconsistent: {message}; no result is valid")


def test_what_a_further_entry_claims_is_checked_and_what_counts_for_nothing_is_not(spark):
    rows, wrong = plain([("a", "a", 0.9), ("b", "a", 0.5)]), plain([("a", "b", 0.9)])
    with pytest.raises(AccountingError, match="the row with id 'a' has a max_id that does not precede it"):
        check(spark, rows, further=wrong)
    check(spark, rows, further=wrong, at_least=0.6)


def test_entries_that_are_lost_after_they_were_counted_are_missed(spark):
    rows = plain([("a", "a", 0.9), ("b", "a", 0.5)])
    check(spark, rows, claims=1)
    with pytest.raises(AccountingError, match="2 neighbours were counted, but 1 exist; no result is valid"):
        check(spark, rows, claims=2)


def test_each_valid_row_has_a_similarity():
    check_merged(3, {"rows": 5, "invalid": 2})
    with pytest.raises(AccountingError, match="3 rows were compared, but 4 similarities written; no result is valid"):
        check_merged(4, {"rows": 5, "invalid": 2})


def test_rows_that_come_and_go_are_noticed_by_their_number():
    check_read(5, 5)
    check_read(5, 3, may_lose=True)
    for then, may_lose in ((4, False), (6, False), (6, True)):
        with pytest.raises(
            AccountingError, match=f"5 rows at first, {then} when it was read again; no result is valid"
        ):
            check_read(5, then, may_lose=may_lose)
    check_skipped(2, 2)
    with pytest.raises(AccountingError, match="2 rows are invalid, but 1 were skipped; no result is valid"):
        check_skipped(1, 2)
    for kept in (3, 4, 5):
        check_removed(5, 2, kept)
    for kept in (2, 6):
        with pytest.raises(
            AccountingError, match=f"5 rows, of which 2 were to be removed, but {kept} remain; no result"
        ):
            check_removed(5, 2, kept)


@pytest.mark.parametrize(
    ("ranking", "first", "second"),
    [
        slow(Ranking(distance="cosine_dist_to_cent"), 0.1, 0.2),
        slow(Ranking(ascending=False, distance="cosine_dist_to_cent"), 0.2, 0.1),
        (Ranking(ascending=False, distance="cosine_dist_to_cent"), None, 0.1),  # null was NaN: above all numbers
        slow(Ranking(distance="cosine_dist_to_cent"), 0.1, None),
        (Ranking(seed=1), -5.0, 7.0),
    ],
    ids=str,
)
def test_ranks_go_by_their_direction(spark, ranking, first, second):
    right = plain([("a", "a", first), ("b", "a", second)])
    check(spark, right, ranking)
    wrong = plain([("a", "b", first), ("b", "b", second)])
    with pytest.raises(AccountingError, match="the row with id 'a' has a max_id that does not precede it"):
        check(spark, wrong, ranking)


def test_rows_are_counted_and_told_apart_by_their_ids(spark):
    def of(*ids: str) -> Ids:
        df = spark.createDataFrame([(id_,) for id_ in ids], "id string")
        return Ids.count(df, df["id"])

    everything, none = of("a", "b", "c", "d"), Ids(0, 0)
    check_rows(everything, of("a", "c"), of("b"), of("d"))
    check_rows(everything, of("d", "c", "b", "a"), none, none)
    with pytest.raises(AccountingError, match=r"4 rows were compared, but 2 kept \+ 1 duplicates \+ 0 skipped; no"):
        check_rows(everything, of("a", "c"), of("b"), none)
    with pytest.raises(AccountingError, match="their ids differ from those compared"):
        check_rows(everything, of("a", "c"), of("b"), of("e"))
    with pytest.raises(AccountingError, match="their ids differ from those compared"):
        check_rows(everything, of("a", "c"), of("b"), of("a"))
