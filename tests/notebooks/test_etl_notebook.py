"""The notebook about pipelines and streams: what its stream keeps, batch by batch, against brute force."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import notebook_runs
import numpy as np
import oracle
import pandas as pd
import pytest
from notebook_runs import code_cells, numbers, output_kinds, printed

EPS = 0.05
BATCHES = (-1, 0, 1, 2)
"""What the pipeline kept, and the deliveries."""

KEEP_FACTS = """
import json

prepared = prepare.transform(everything).join(everything.select("id", "delivery"), "id")
prepared.toPandas().to_parquet("prepared.parquet")
kept[["id", "batch"]].to_parquet("kept.parquet")
removed[["id", "max_id", "cosine_sim_score", "batch", "of_old"]].to_parquet("removed.parquet")
with open("facts.json", "w") as file:
    json.dump({"rows": rows, "at_once": at_once, "shares": shares.to_numpy().tolist()}, file)
"""
"""Run after the notebook's last cell, so that what it found can be compared in full."""


# --- the committed file -----------------------------------------------------------------------------------------


def test_committed_counts_add_up():
    shown = Shown.of(notebook_runs.read("etl_pipeline"))
    assert list(shown.by_batch) == list(BATCHES)
    assert shown.by_stream == sum(shown.by_batch.values())
    assert shown.by_stream == shown.at_once
    assert shown.same_again
    assert shown.there + shown.to_arrive >= shown.rows > shown.by_stream


class Shown(NamedTuple):
    """The numbers a reader sees."""

    there: int
    to_arrive: int
    by_batch: dict[int, int]
    same_again: bool
    by_stream: int
    at_once: int
    rows: int

    @classmethod
    def of(cls, notebook: nbformat.NotebookNode) -> Shown:
        text = printed(notebook)
        by_batch = [line.split() for line in text["stream"].splitlines() if line != "batch"]
        counts = {int(batch): int(rows) for batch, rows in by_batch}
        same_again = text["again"].strip().endswith("True")
        return cls(*numbers(text["data"]), counts, same_again, *numbers(text["difference"]))


# --- brute force ------------------------------------------------------------------------------------------------


class Truth(NamedTuple):
    """What each batch must give."""

    kept: dict[int, list[str]]
    removed: dict[int, list[str]]
    at_once: int


def stream_by_brute_force(rows: pd.DataFrame) -> Truth:
    """All rows one by one, in the order of arrival, of words, of ids: a row goes that a kept one is similar to."""
    units = oracle.unit_vectors(np.stack(rows["embedding"].to_numpy()))
    batch = np.maximum(rows["delivery"].to_numpy() - 6, -1)
    words, ids = rows["words"].tolist(), rows["id"].tolist()
    order = oracle.order_rank_by(ids, (batch.tolist(), False), (words, True))  # True: descending
    (all_rows,) = oracle.clusters(units, np.zeros(len(units), int))
    similarity = np.where(np.tri(len(units), k=-1, dtype=bool), all_rows.similarity, all_rows.similarity.T)
    kept: list[int] = []
    for row in order:
        if not (similarity[row, kept].astype(np.float64) >= 1 - EPS).any():
            kept.append(row)
    gone = set(range(len(ids))) - set(kept)
    by_batch = {each: sorted(ids[i] for i in kept if batch[i] == each) for each in BATCHES}
    return Truth(by_batch, {each: sorted(ids[i] for i in gone if batch[i] == each) for each in BATCHES}, len(kept))


# --- a fresh run ------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    notebook: nbformat.NotebookNode
    folder: Path
    facts: dict[str, Any]
    truth: Truth


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("etl")
    notebook = notebook_runs.execute("etl_pipeline", folder, after=[KEEP_FACTS])
    truth = stream_by_brute_force(pd.read_parquet(folder / "prepared.parquet"))
    return Run(notebook, folder, json.loads((folder / "facts.json").read_text()), truth)


@pytest.mark.slow
def test_notebook_runs_without_warnings_and_shows_what_is_committed(run):
    notebook_runs.assert_clean(run.notebook)
    fresh = {cell.id: output_kinds(cell) for cell in code_cells(run.notebook)}
    assert fresh == {cell.id: output_kinds(cell) for cell in code_cells(notebook_runs.read("etl_pipeline"))}
    assert fresh["stages"] == fresh["batches"] == ["image/png"]
    assert notebook_runs.machine_paths(run.notebook) == []


@pytest.mark.slow
def test_each_batch_keeps_and_removes_what_brute_force_does(run):
    kept, removed = (pd.read_parquet(run.folder / f"{name}.parquet") for name in ("kept", "removed"))
    for batch in BATCHES:
        assert sorted(kept["id"][kept["batch"] == batch]) == run.truth.kept[batch]
    for batch in BATCHES[1:]:
        assert len(run.truth.removed[batch]) > 20
        assert sorted(removed["id"][removed["batch"] == batch]) == run.truth.removed[batch]


@pytest.mark.slow
def test_counts_shown_are_brute_force_s(run):
    shown = Shown.of(run.notebook)
    assert shown.by_batch == {batch: len(run.truth.kept[batch]) for batch in BATCHES}
    assert shown.same_again
    assert (shown.by_stream, shown.at_once) == (sum(shown.by_batch.values()), run.truth.at_once)
    removed = pd.read_parquet(run.folder / "removed.parquet")
    of_old = [int(removed["of_old"][removed["batch"] == batch].sum()) for batch in BATCHES[1:]]
    assert all(of_old)
    expected = zip(BATCHES[1:], of_old, run.facts["shares"], strict=True)
    for batch, old, share in expected:
        assert share == [len(run.truth.kept[batch]), old, len(run.truth.removed[batch]) - old]


@pytest.mark.slow
def test_stages_of_the_pipeline_leave_fewer_and_fewer_rows(run):
    rows = run.facts["rows"]
    assert rows["documents"] > rows["tidy"] > rows["SemDedup"] == len(run.truth.kept[-1])
