"""The notebook for Databricks, run on real Delta tables, the platform standing in: its answer against brute force."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import delta_scenarios
import nbformat
import notebook_runs
import numpy as np
import oracle
import pandas as pd
import pytest
from notebook_runs import code_cells, numbers, output_kinds, printed

EPS = 0.05
TABLES = ("documents", "documents_deduplicated", "documents_duplicates")

KEEP_FACTS = """
import json

np.save("centroids.npy", model.centroids)
tables = {name: spark.table(f"corpus.{name}") for name in TABLES}
facts = {name: sorted(row["id"] for row in table.select("id").collect()) for name, table in tables.items()}
facts["columns"] = {name: table.dtypes for name, table in tables.items()}
with open("facts.json", "w") as file:
    json.dump(facts, file)
"""
"""Run after the notebook's last cell, so that what it found can be compared in full."""


# --- the committed file -----------------------------------------------------------------------------------------


def test_committed_counts_add_up():
    shown = Shown.of(notebook_runs.read("databricks"))
    assert shown.rows == shown.kept + shown.removed == shown.before
    assert shown.left == shown.kept


def test_every_widget_is_explained():
    cells = {cell.id: cell.source for cell in notebook_runs.read("databricks").cells}
    defined = [line.split('"')[1] for line in cells["widgets"].splitlines() if line.startswith("dbutils.widgets.")]
    assert len(defined) == 9
    for name in defined:
        assert f"`{name}`" in cells["widgets-text"], name
    code = "".join(cell.source for cell in code_cells(notebook_runs.read("databricks")))
    for name in defined:
        assert f'dbutils.widgets.get("{name}")' in code, name


class Shown(NamedTuple):
    """The numbers a reader sees."""

    version: int
    rows: int
    kept: int
    removed: int
    left: int
    before: int

    @classmethod
    def of(cls, notebook: nbformat.NotebookNode) -> Shown:
        text = printed(notebook)
        version, rows = numbers(text["read"].splitlines()[-1])
        kept, removed = numbers(text["run"])
        left, as_of, before = numbers(text["delete"].splitlines()[0])
        assert as_of == version
        return cls(version, rows, kept, removed, left, before)


# --- a fresh run ------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    notebook: nbformat.NotebookNode
    facts: dict[str, Any]
    kept: list[str]
    removed: list[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """The notebook run on the sample, and what brute force keeps and removes with the centroids it fitted."""
    if not delta_scenarios.jars():
        pytest.skip("Delta's jars for this Spark are not in build/jars: make delta-jars")
    folder = tmp_path_factory.mktemp("databricks")
    notebook = notebook_runs.execute("databricks", folder, after=[f"TABLES = {TABLES}", KEEP_FACTS])
    return Run(notebook, json.loads((folder / "facts.json").read_text()), *brute_force(folder / "centroids.npy"))


def brute_force(centroids: Path) -> tuple[list[str], list[str]]:
    with resources.as_file(resources.files("spark_semdedup") / "data" / "debian-sample.parquet") as path:
        sample = pd.read_parquet(path)
    units = oracle.unit_vectors(np.stack(sample["embedding"].to_numpy()))
    assigned = oracle.assignment(units, np.load(centroids))
    order = oracle.order_hard(sample["id"].tolist(), assigned.cosine_dist_to_cent)
    removed = oracle.duplicates(oracle.ranked(oracle.clusters(units, assigned.centroid), order), EPS)
    return sorted(sample["id"][~removed]), sorted(sample["id"][removed])


@pytest.mark.slow
def test_notebook_runs_without_warnings_and_shows_what_is_committed(run):
    notebook_runs.assert_clean(run.notebook)
    fresh = {cell.id: output_kinds(cell) for cell in code_cells(run.notebook)}
    assert fresh == {cell.id: output_kinds(cell) for cell in code_cells(notebook_runs.read("databricks"))}
    assert fresh["look"] == ["image/png"]
    assert notebook_runs.machine_paths(run.notebook) == []


@pytest.mark.slow
def test_tables_hold_what_brute_force_keeps_and_removes(run):
    assert run.facts["documents_deduplicated"] == run.kept
    assert run.facts["documents_duplicates"] == run.removed
    assert dict(run.facts["columns"]["documents_duplicates"]) == {
        "id": "string",
        "max_id": "string",
        "cosine_sim_score": "float",
    }
    assert run.facts["columns"]["documents_deduplicated"] == run.facts["columns"]["documents"]


@pytest.mark.slow
def test_duplicates_are_deleted_from_the_table_itself(run):
    assert run.facts["documents"] == run.kept
    history = printed(run.notebook)["delete"]
    assert "MERGE" in history


@pytest.mark.slow
def test_counts_shown_are_brute_force_s(run):
    kept, removed = len(run.kept), len(run.removed)
    assert Shown.of(run.notebook) == Shown(0, kept + removed, kept, removed, kept, kept + removed)
