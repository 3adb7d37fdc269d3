"""Sweeps against thresholds applied one by one, and explanations against links followed by hand."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from program import call, refusal

from spark_semdedup.analysis.explain import ExplainedRow, Explanation, follow, mark_differences
from spark_semdedup.analysis.sweep import PairExample, Sweep, SweepStep, check_grid, sweep
from spark_semdedup.errors import SemDedupError


def links(n: int = 200, seed: int = 0) -> list[tuple[int, int, float]]:
    """Similarities of n rows in rank order; some scores are thresholds to the last bit."""
    rng = np.random.default_rng(seed)
    scores = np.where(rng.random(n) < 0.2, np.float32(0.95), rng.uniform(0.8, 1, n).astype(np.float32))
    rows = [(i, int(rng.integers(i)), float(scores[i])) for i in range(1, n)]
    return [(0, 0, 0.0), *rows]


def frame(spark, rows):
    return spark.createDataFrame(rows, "id int, max_id int, cosine_sim_score float")


def one_by_one(rows, eps: float) -> tuple[int, int]:
    removed = {id_: max_id for id_, max_id, score in rows if id_ != max_id and score >= 1.0 - eps}

    def root(id_: int) -> int:
        return root(removed[id_]) if id_ in removed else id_

    return len(removed), len({root(id_) for id_ in removed})


def test_counts_and_examples_are_those_of_each_threshold(spark):
    rows = links()
    grid = [0.1, 0.02, 0.05, 0.001, 0.15]
    found = sweep(frame(spark, rows), grid, examples=3)
    assert found.rows == len(rows)
    assert [step.eps for step in found.steps] == sorted(grid)
    for step in found.steps:
        assert (step.removed, step.groups) == one_by_one(rows, step.eps)
        pairs = sorted((score, id_) for id_, max_id, score in rows if id_ != max_id)
        above = [pair for pair in pairs if pair[0] >= 1.0 - step.eps][:3]
        below = sorted((pair for pair in pairs if pair[0] < 1.0 - step.eps), key=lambda pair: (-pair[0], pair[1]))[:3]
        assert [(pair.cosine_sim_score, pair.id) for pair in step.above] == above
        assert [(pair.cosine_sim_score) for pair in step.below] == [score for score, _ in below]
    text = found.as_text()
    assert f"{found.steps[-1].removed:,}" in text
    assert "removed, just above 0.95 (eps 0.05)" in text


def test_a_grid_stays_within_what_scores_are_complete_for():
    assert check_grid(None, 0.05) == [0.01, 0.02, 0.03, 0.05]
    assert check_grid(None, 0.001) == [0.001]
    assert check_grid([0.3, 0.1, 0.3], None) == [0.1, 0.3]
    with pytest.raises(SemDedupError, match=r"eps=0.1 is larger than 0.05, up to which the scores are complete"):
        check_grid([0.1], 0.05)
    for wrong in (0, 1, -0.1, float("nan"), True, "0.1"):
        with pytest.raises(SemDedupError, match="must be a number between 0 and 1"):
            check_grid([wrong], None)
    with pytest.raises(SemDedupError, match="at least one number"):
        check_grid([], None)


def test_links_are_followed_to_the_first_kept_row(spark):
    rows = [(0, 0, 0.0), (1, 0, 0.97), (2, 1, 0.96), (3, 2, 0.9), (4, 3, 0.99)]
    similar = frame(spark, rows)

    def ids(id_) -> list[int]:
        return [row.id for row in follow(similar, id_, 0.95)[0]]

    assert ids(2) == [2, 1, 0]
    assert ids("2") == [2, 1, 0]
    assert ids(4) == [4, 3]
    assert ids(3) == [3, 2]  # kept: its most similar row, and no farther
    assert ids(0) == [0]
    with pytest.raises(SemDedupError, match="id=9 is not among the similarities"):
        follow(similar, 9, 0.95)


def test_what_is_said_of_removed_and_kept_rows(spark):
    rows = [(0, 0, 0.0), (1, 0, 0.97), (2, 1, 0.96), (3, 2, 0.9)]
    similar = frame(spark, rows)

    def said(id_: int, rule: str = "ranked", least: float | None = None) -> str:
        explained, is_cut = follow(similar, id_, 0.95)
        return Explanation(id_, 0.95, rule, tuple(explained), is_cut=is_cut, complete_from=least).as_text()

    assert said(1).startswith("1 was removed: its similarity to 0, which precedes it, is 0.97, and duplicates begin")
    assert "1 was removed as well; the links end at 0, which was kept" in said(2)
    assert said(3).startswith("3 was kept: the most similar row that precedes it, 2, has a similarity of 0.9, 0.05 ")
    assert "found" not in said(3)
    assert "(The most similar one found: the run did not look for all pairs below 0.95.)" in said(3, least=0.95)
    assert said(0).startswith("0 was kept: no row that it was compared with")
    assert said(0, "greedy").startswith("0 was kept: no kept row")


def test_differing_words_are_marked():
    assert mark_differences("a b c d", "a x c") == ("a [b] c [d]", "a [x] c")
    assert mark_differences("", "a") == ("", "[a]")
    assert mark_differences("same words", "same words") == ("same words", "same words")


def test_no_id_or_text_reaches_the_terminal_as_a_command():
    id_, max_id, text = "a\x1b[2J", "b\x9b31m\n", "words \x1b]0;title\x07 \u202e\x7f"
    step = SweepStep(0.05, 0.95, 1, 1, (PairExample(id_, max_id, 0.96, text, text),))
    rows = (ExplainedRow(id_, max_id, 0.97, True, {id_: text}, text), ExplainedRow(max_id, max_id, 0, False, {}, text))
    kept = (ExplainedRow(id_, max_id, 0.9, False, text=text), rows[1])
    said = [
        Sweep(1, (step,)),
        *(Explanation(id_, 0.95, "ranked", each, ranking=text) for each in (rows, kept, kept[:1])),
    ]
    for each in said:
        lines = each.as_text().splitlines()
        assert all(line.isprintable() for line in lines)
        assert any("a\N{REPLACEMENT CHARACTER}[2J" in line for line in lines)


def test_sweep_explain_and_groups_of_a_run(spark, capsys, tmp_path):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((12, 8))[rng.integers(12, size=90)] + 0.08 * rng.standard_normal((90, 8))
    ids = [f"doc {i}" for i in range(90)]
    columns = {"id": ids, "embedding": pa.array(x.tolist(), pa.list_(pa.float32())), "text": [f"text {i}" for i in ids]}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    out, rows = tmp_path / "out", tmp_path / "rows.parquet"
    arguments = ("--output", out, "--k", 4, "--coverage", "exact", "--results")
    assert call(capsys, "run", "--input", rows, *arguments, "duplicates,similarities,pairs,groups")[0] == 0
    duplicates = {row["id"]: row["max_id"] for row in pq.read_table(out / "duplicates").to_pylist()}
    status, said, _ = call(capsys, "sweep", out, "--eps", 0.05, 0.01, "--json", "--texts", rows)
    assert status == 0
    steps = json.loads(said[said.index("{") :])
    assert steps["steps"][1]["removed"] == len(duplicates)
    assert all(pair["text"] == f"text {pair['id']}" for step in steps["steps"] for pair in step["above"])
    assert "is larger than 0.05" in refusal(capsys, "sweep", out, "--eps", 0.2)
    removed = sorted(duplicates)[0]
    status, said, _ = call(capsys, "explain", out, "--id", removed, "--texts", rows)
    assert status == 0
    assert f"{removed} was removed: its similarity to {duplicates[removed]}" in said
    assert "cosine_dist_to_cent" in said
    assert "doc x" in refusal(capsys, "explain", out, "--id", "doc x")
    assert call(capsys, "groups", out, "--output", tmp_path / "groups")[0] == 0
    key = ("id", "group_id", "representative", "size")
    grouped, again = (
        sorted(tuple(row[name] for name in key) for row in pq.read_table(folder).to_pylist())
        for folder in (out / "groups", tmp_path / "groups")
    )
    assert grouped == again
    assert len(grouped) == 90
    assert not (out / "deduplicated").exists()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["pairs"] == pq.read_table(out / "pairs").num_rows >= len(duplicates)
    assert summary["groups"] == len({row[1] for row in grouped})
