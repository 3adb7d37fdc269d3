"""What the page says in words: a reader who has only the page must be able to answer with it."""

from __future__ import annotations

import numpy as np
import pytest
from report.results import FACTS, report_data

from spark_semdedup.report import view
from spark_semdedup.report.links import Groups


def test_headline_says_how_many_rows_go():
    assert view.headline(FACTS) == "Of 1,000 rows 3 are removed (0.3 %) and 997 are kept."
    assert view.headline({**FACTS, "duplicates": 0}) == "Of 1,000 rows none is a duplicate."


def test_eps_is_said_to_be_the_default_only_where_it_is():
    assert "the program's default" in view.eps_sentence(FACTS)
    changed = view.eps_sentence({**FACTS, "eps": 0.07, "threshold": 0.93})
    assert "set for this run; the default is 0.05" in changed
    assert "0.93 or more" in changed


def test_certainty_follows_coverage_and_evaluation():
    assert "not measured yet" in view.certainty(FACTS, None)
    assert "no duplicate was missed" in view.certainty({**FACTS, "coverage": "exact"}, None)
    evaluation = {"recall": 0.948, "recall_interval_95": [0.93, 0.96], "sample_rows": 1000, "rows": 63_905}
    text = view.certainty(FACTS, evaluation)
    assert "94.8 %" in text
    assert "93.0 – 96.0 %" in text
    whole = view.certainty(FACTS, {**evaluation, "rows": 1000})
    assert "all rows were evaluated" in whole
    assert "not measured yet" in view.certainty(FACTS, {"recall": None})


def test_shares_are_never_rounded_to_all():
    assert view.percent(1999, 2000) == ">99.9 %"
    evaluation = {"recall": 0.9997, "recall_interval_95": [0.999, 0.9998], "sample_rows": 1000, "rows": 63_905}
    text = view.certainty(FACTS, evaluation)
    assert text.startswith(">99.9 % of the rows")
    assert "99.9 – 99.9 %" in text


def test_what_was_not_compared_counts_pairs_and_invalid_rows():
    terms = dict(view.not_compared({**FACTS, "invalid": 10}, report_data().histogram))
    assert terms["Pairs"] == "120,000 of 489,555 pairs were compared (24.5 %)."  # 990 valid rows
    assert terms["Invalid rows"].startswith("10 rows")
    assert terms["Rows without a score"].startswith("4 rows")
    exact = dict(view.not_compared({**FACTS, "complete_from": 0.95}, report_data().histogram))
    assert "lower bounds" in exact["Smaller similarities"]


def test_alternatives_are_counted_in_the_stored_scores():
    rows = {each.eps: each for each in view.alternatives(report_data())}
    assert {eps: each.rows for eps, each in rows.items()} == {
        "0.013": "1", "0.025": "2", "0.04": "2", "0.05": "3", "0.06": "3", "0.1": "196",
    }  # fmt: skip
    assert [each.eps for each in rows.values() if each.is_this] == ["0.05"]
    assert not any(each.at_least for each in rows.values())


def test_alternatives_beyond_complete_scores_are_lower_bounds():
    facts = {"complete_eps": 0.05, "complete_from": 0.95, "coverage": "exact"}
    listed = view.alternatives(report_data(facts=facts))
    assert [each.eps for each in listed if each.at_least] == ["0.06", "0.1"]


def test_phases_name_the_time_outside_of_them():
    listed = view.phases(FACTS)
    assert [name for name, _, _ in listed] == ["fit centroids", "assign and compare", "checks before, and the summary"]
    assert sum(share for _, _, share in listed) == pytest.approx(1)


@pytest.mark.parametrize("sizes", [[], [2], [2, 3, 3, 9, 1000], [5, 5]])
def test_group_sizes_add_up(sizes: list[int]):
    each, counts = np.unique(np.array(sizes, np.int64), return_counts=True)
    groups = Groups((), each[::-1], counts[::-1])
    listed = view.group_sizes(groups)
    assert groups.count == len(sizes)
    if sizes:
        assert groups.median == sorted(sizes)[(len(sizes) - 1) // 2]
    assert sum(number for _, number, _ in listed) == len(sizes)
    assert sum(removed for _, _, removed in listed) == sum(size - 1 for size in sizes)


def test_only_changed_settings_are_marked():
    listed = view.settings(
        {"parameters": {"eps": 0.07, "seed": 42, "k": 9, "rankBy": ["a desc", "b asc"], "threshold": None}}
    )
    assert [(name, changed) for name, _, changed in listed] == [
        ("eps", True),
        ("k", False),
        ("rankBy", False),
        ("seed", False),
    ]
    assert ("rankBy", "a desc, b asc", False) in listed
