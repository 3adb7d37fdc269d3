"""Reports of runs with reference rows, whose ids may be those of other rows of the input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from report.results import FACTS

from spark_semdedup.report.atlas import atlas_rows
from spark_semdedup.report.data import RunResults, gather
from spark_semdedup.report.html import render
from spark_semdedup.report.rows import Columns

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

VECTORS = np.random.default_rng(5).standard_normal((5, 4)).tolist()


def results(spark, links: list[tuple[int, int, float]], *, alone: bool) -> RunResults:
    """Of five rows. ``links``: their similarities."""
    rows = spark.createDataFrame(
        [(i, f"text of {i}", vector) for i, vector in enumerate(VECTORS)],
        "id bigint, text string, embedding array<double>",
    )
    similarities = spark.createDataFrame(links, "id bigint, max_id bigint, cosine_sim_score float").coalesce(1)
    removed = similarities.where("cosine_sim_score >= 0.95")
    counts = {"rows_in": 5, "duplicates": removed.count(), "kept": 5 - removed.count()}
    facts = {**FACTS, **counts, "against": {"index": "index", "version": 1, "rows": 9, "reference_only": alone}}
    return RunResults(
        facts=facts,
        evaluation=None,
        similarities=similarities,
        duplicates=removed,
        centroids=np.array(VECTORS[:2], np.float32),
        history=(1.0,),
        spherical=False,
        rows=rows,
        columns=Columns.of(rows, "id", "embedding", None),
        is_whole_input=True,
    )


def groups(data: Any) -> dict[str, set[str]]:
    return {group.kept: {member.id for member in group.members} for group in data.groups.largest}


def test_ids_of_references_alone_are_not_those_of_the_input(spark):
    """Rows 0 and 1 name each other's ids, row 2 its own: three rows of the reference."""
    links = [(0, 1, 0.99), (1, 0, 0.98), (2, 2, 1.0), (3, 0, 0.97), (4, 4, 0.0)]
    read = results(spark, links, alone=True)
    data = gather(read)
    assert groups(data) == {"0 (reference)": {"1", "3"}, "1 (reference)": {"0"}, "2 (reference)": {"2"}}
    assert (data.histogram.alone, data.histogram.removed(0.05)) == (1, 4)
    assert {pair.max_id for pair in data.pairs.above} == {"0 (reference)", "1 (reference)", "2 (reference)"}
    assert data.texts["3"].shown == "text of 3"
    assert data.picture is not None
    assert sum(data.picture.removed) == 4
    page = render(data)
    assert "Of 5 rows 4 are removed" in page
    assert "similarity to a reference row" in page
    assert "not compared with one another" in page
    placed = {row.id: row for row in atlas_rows(read).collect()}
    assert {i for i, row in placed.items() if row.removed} == {0, 1, 2, 3}
    assert (placed[2].neighbour, placed[2].score, placed[4].neighbour) == (2, 1.0, None)


def test_a_group_may_end_at_a_row_of_the_index(spark):
    links = [(0, 70, 0.99), (1, 0, 0.98), (2, 2, 0.0), (3, 2, 0.97), (4, 71, 0.5)]
    data = gather(results(spark, links, alone=False))
    assert groups(data) == {"70 (reference)": {"0", "1"}, "2": {"3"}}
    assert [(pair.id, pair.max_id) for pair in data.pairs.below] == [("4", "71 (reference)")]
    assert "Rows marked (reference) are not of the input" in render(data)
