"""Delta tables in and out, with the real Delta Lake: what ``delta_scenarios.py`` found, against brute force."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import delta_scenarios
import numpy as np
import oracle
import pyarrow as pa
import pytest
from program import refusal

from spark_semdedup import SemDedup
from spark_semdedup.runs.identity import fingerprint
from spark_semdedup.runs.source import Source
from spark_semdedup.spark.files import Files

EPS = delta_scenarios.EPS


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Any]:
    """All scenarios, in one process with one session."""
    if not delta_scenarios.jars():
        pytest.skip("Delta's jars for this Spark are not in build/jars: make delta-jars")
    folder = tmp_path_factory.mktemp("delta")
    program = Path(delta_scenarios.__file__)
    paths = os.pathsep.join([str(program.parent), str(program.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    run = subprocess.run(
        [sys.executable, str(program), str(folder)],
        cwd=folder,
        env=environment,
        timeout=900,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    scenarios: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return scenarios


def kept_and_removed(table: pa.Table) -> tuple[list[str], list[str]]:
    """Of all rows against all, the lowest id preferred."""
    ids = table["id"].to_pylist()
    units = oracle.unit_vectors(np.array(table["embedding"].to_pylist(), np.float32))
    inside = oracle.clusters(units, np.zeros(len(ids), np.int32))
    removed = oracle.duplicates(oracle.ranked(inside, oracle.order_first(ids)), EPS)
    return [i for i, gone in zip(ids, removed, strict=True) if not gone], [
        i for i, gone in zip(ids, removed, strict=True) if gone
    ]


ROWS = delta_scenarios.ROWS
KEPT, REMOVED = kept_and_removed(delta_scenarios.corpus())


def summary(version: int | None) -> dict[str, Any]:
    return {"rows_in": ROWS, "duplicates": len(REMOVED), "kept": len(KEPT), "input_version": version}


def succeeded(answer: dict[str, Any]) -> bool:
    assert answer["status"] == 0, answer["err"]
    return True


def said(answer: dict[str, Any], status: int = 2) -> str:
    """The one line that a refused command said."""
    assert answer["status"] == status, answer["err"]
    (line,) = answer["err"].splitlines()
    assert line.startswith("spark-semdedup: error: ")
    return line.removeprefix("spark-semdedup: error: ")


def test_the_scenarios_have_something_to_tell():
    assert 20 < len(REMOVED) < 100


# --- in and out -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_table_is_read_and_the_rest_written_by_path(found):
    by_path = found["by_path"]
    assert succeeded(by_path)
    assert by_path["summary"] == summary(version=1)
    assert (by_path["kept"], by_path["duplicates"]) == (KEPT, REMOVED)
    assert by_path["same_columns"]
    assert by_path["same_rows"] == 0
    assert "version 1 of the Delta table" in by_path["out"]


@pytest.mark.slow
def test_trying_to_write_leaves_nothing_behind(found):
    results = ["_manifest.json", "centroids", "deduplicated", "duplicates", "similarities", "summary.json"]
    assert found["by_path"]["in_folder"] == results


@pytest.mark.slow
def test_a_result_is_replaced_in_the_same_session(found):
    assert succeeded(found["by_path"]["again"])
    assert found["by_path"]["kept_again"] == KEPT


@pytest.mark.slow
def test_a_table_is_read_and_written_by_name(found):
    by_name = found["by_name"]
    assert succeeded(by_name)
    assert by_name["summary"] == summary(version=0)
    assert by_name["kept"] == KEPT
    assert len(by_name["versions"]) == 2  # written, then replaced


@pytest.mark.slow
def test_an_older_version_is_read_when_asked_for(found):
    assert succeeded(found["by_path"]["old"])
    assert found["by_path"]["old_summary"]["rows_in"] == 50
    assert succeeded(found["by_name"]["old"])
    assert found["by_name"]["old_summary"] == summary(version=None)


# --- one version from beginning to end ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_goes_on_with_the_version_it_began_with(found):
    resumed = found["resumed"]
    assert resumed["stopped"]["status"] == 1
    assert resumed["rows_now"] == ROWS - 60 + 20
    assert succeeded(resumed)
    assert resumed["err"].count("done before") == 2
    assert resumed["summary"] == summary(version=0)
    assert resumed["kept"] == KEPT


@pytest.mark.slow
def test_rows_that_arrive_meanwhile_are_not_in_a_run(found):
    busy = found["changed_meanwhile"]
    assert succeeded(busy)
    assert busy["rows_now"] == ROWS + 20
    assert busy["summary"] == summary(version=0)


@pytest.mark.slow
def test_a_finished_run_has_nothing_to_do_until_the_table_has_a_newer_version(found):
    assert succeeded(found["by_path"]["finished"])
    assert "nothing is left to do" in found["by_path"]["finished"]["err"]
    assert "version of the input table is 2, was 1" in said(found["by_path"]["moved_on"])


@pytest.mark.slow
def test_versions_are_told_apart_where_their_files_are_the_same(found):
    """Rows deleted with deletion vectors."""
    assert found["by_name"]["same_files"]
    assert "version of the input table is 1, was 0" in said(found["by_name"]["moved_on"])


def test_the_data_of_two_versions_differ_even_with_the_same_files(spark, tmp_path):
    spark.range(3).withColumnRenamed("id", "embedding").write.parquet(str(tmp_path / "rows"))
    rows, files = spark.read.parquet(str(tmp_path / "rows")), Files(spark)
    found = [fingerprint(files, Source(is_delta=True, version=version), rows, SemDedup()) for version in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_what_is_no_delta_table_is_read_as_it_is(spark, tmp_path):
    spark.sql("CREATE DATABASE delta_test")
    try:
        # A column may have the name under which Spark tells a table's format.
        spark.range(3).selectExpr("id", "'delta' AS Provider").write.saveAsTable("delta_test.docs")
        spark.sql("CREATE VIEW delta_test.some AS SELECT * FROM delta_test.docs")
        for source in (Source(table="delta_test.docs"), Source(table="delta_test.some"), Source(("a", "b"))):
            assert source.pinned(spark) == source
    finally:
        spark.sql("DROP DATABASE delta_test CASCADE")


# --- what the page about Delta says ---------------------------------------------------------------------------


@pytest.mark.slow
def test_duplicates_are_deleted_in_place_and_come_back(found):
    merged = found["merged"]
    assert succeeded(merged)
    assert merged["deleted"]["num_deleted_rows"] == merged["deleted"]["num_affected_rows"] == len(REMOVED)
    assert merged["left"] == KEPT
    assert merged["deleted_again"]["num_affected_rows"] == 0
    assert merged["before"] == merged["restored"] == sorted(KEPT + REMOVED)
    assert "RESTORE" in merged["versions"]


@pytest.mark.slow
def test_a_stream_writes_each_batch_once(found):
    streamed = found["streamed"]
    assert streamed["streamed"] == KEPT
    assert streamed["batch 0 again"] == KEPT
    later = [id_ for id_ in streamed["batch 1"] if id_ not in KEPT]
    assert streamed["batch 1"] == sorted(KEPT + later)
    assert 0 < len(later) < 20
    assert streamed["batch 1 again"] == streamed["unusable"] == streamed["batch 1"]


# --- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_cannot_be_used_is_refused_in_one_line(found):
    refused = found["refused"]
    assert "cannot be read as delta: " in said(refused["not a table"])
    assert "names 2 paths: a Delta table has one" in said(refused["two paths"])
    assert "cannot be read as delta: " in said(refused["no such version"])
    assert "cannot be written as delta: " in said(refused["column"])
    assert refused["left"] == []


def test_without_the_jar_the_format_is_refused(capsys, spark, tmp_path):
    (tmp_path / "table").mkdir()
    arguments = ("run", "--input", tmp_path / "table", "--input-format", "delta", "--output", tmp_path / "out")
    assert "cannot be read as delta" in refusal(capsys, *arguments)
