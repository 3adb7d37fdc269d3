"""How many similar predecessors a task lists: all, as long as there is room."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import vectors

from spark_semdedup.kernels.assignment import Visits
from spark_semdedup.pairwise import links
from spark_semdedup.pairwise.links import LinkRule, RankedRows


def equal_rows(n: int) -> RankedRows:
    """Every row is similar to all that precede it."""
    group = pd.DataFrame({"id": np.arange(n), "tile": 0, "other": 0})
    return RankedRows(group, vectors.make("equal", n, 8), Visits.none(), None)


def counts(rule: LinkRule, n: int) -> np.ndarray:
    """Links of each row. Those listed are the first ones, and ``more`` tells which rows have others."""
    ready = equal_rows(n)
    found = rule.among(ready, ready.units, 1024, rows=np.ones(n, bool))
    listed = np.bincount(found.rows, minlength=n)
    assert found.columns.tolist() == [column for row in listed for column in range(row)]
    assert found.more.tolist() == (listed < np.arange(n)).tolist()
    assert found.scores.min() > 0.999
    return listed


def test_lists_are_long_until_there_is_no_more_room(monkeypatch):
    monkeypatch.setattr(links, "_ROWS_AT_ONCE", 10)
    listed = counts(LinkRule(0.9, most=2, longest=5), 40)
    assert listed.tolist() == [min(i, 5) for i in range(20)] + [2] * 20


@pytest.mark.parametrize(("most", "longest", "at_once"), [(1, 5, 10), (3, 40, 7), (2, 100, 40)])
def test_a_task_never_lists_more_than_twice_its_room(monkeypatch, most, longest, at_once):
    monkeypatch.setattr(links, "_ROWS_AT_ONCE", at_once)
    listed = counts(LinkRule(0.9, most, longest), 40)
    assert listed.sum() <= 2 * most * 40
    assert (listed >= np.minimum(np.arange(40), most)).all()


def test_a_row_with_hundreds_of_predecessors_lists_them_all():
    n = 60
    assert counts(LinkRule(0.9), n).tolist() == list(range(n))
