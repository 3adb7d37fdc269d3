"""``spark-semdedup index``: each action, and its refusals, one line each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from index_rows import assigned, create, some_centroids
from program import call, refusal
from pyspark.sql import types as T

from spark_semdedup.index import SemDedupIndex
from spark_semdedup.runs import index as index_commands
from spark_semdedup.spark import lock as locking


@pytest.fixture(scope="module")
def made(spark, tmp_path_factory) -> Path:
    """An index of 60 rows in two batches, made once."""
    centroids, folder = some_centroids(), tmp_path_factory.mktemp("made") / "i"
    index = create(spark, folder, centroids)
    index.append(assigned(spark, centroids, 0, 40)).append(assigned(spark, centroids, 40, 20))
    return folder


@pytest.fixture
def path(tmp_path, made) -> str:
    """A copy of it."""
    return str(shutil.copytree(made, tmp_path / "i"))


def ids(spark, path: str) -> set:
    return {row.id for row in SemDedupIndex.open(spark, path).rows().select("id").collect()}


def test_info_prints_the_index(path, capsys):
    status, out, err = call(capsys, "index", "info", "--index", path)
    assert (status, err) == (0, [])
    assert "spark-semdedup index\n\n  version      2 (append, " in out
    assert "rows         60, of which 40 kept" in out
    _, out, _ = call(capsys, "index", "info", "--index", path, "--version", "1", "--json")
    assert json.loads(out.partition("\n\n")[2])["rows"] == 40


def test_compact_says_what_it_did(spark, path, capsys):
    status, out, _ = call(capsys, "index", "compact", "--index", path)
    assert status == 0
    assert "  2 files became 1\n" in out
    _, out, _ = call(capsys, "index", "compact", "--index", path, "--retain-hours", "0")
    assert "1 files: merging would make none fewer, so there is no new version" in out
    assert len(ids(spark, path)) == 60


def test_remove_takes_ids_and_files_of_ids(spark, path, tmp_path, capsys):
    status, out, _ = call(capsys, "index", "remove", "--index", path, "--ids", "1", "2", "999")
    assert status == 0
    assert "  2 rows removed, 1 ids unknown\n" in out
    assert "earlier versions keep the rows for 24 hours; --retain-hours 0 deletes them at once" in out
    assert "rows that were duplicates of a removed row are not added again: run over them to find them" in out
    text = tmp_path / "ids.txt"
    text.write_text("3\n\n 4 \n")
    call(capsys, "index", "remove", "--index", path, "--ids-from", text, "--ids-format", "text", "--retain-hours", 0)
    pq.write_table(pa.table({"document": pa.array([5, 6])}), tmp_path / "ids.parquet")
    parquet = ("--ids-from", tmp_path / "ids.parquet", "--id-col", "document", "--ids", "7")
    _, out, _ = call(capsys, "index", "remove", "--index", path, *parquet)
    assert "  3 rows removed, 0 ids unknown\n" in out
    assert ids(spark, path) == set(range(60)) - set(range(1, 8))


def test_lines_of_ids_keep_their_blanks_where_ids_are_text(spark):
    lines = spark.createDataFrame([("a",), ("a ",), (" ",), ("",)], "value string")
    assert {row["id"] for row in index_commands._parsed(lines, T.StringType()).collect()} == {"a", "a ", " "}


def test_refit_says_what_it_did(spark, path, capsys):
    status, out, _ = call(capsys, "index", "refit", "--index", path, "--k", "3")
    assert status == 0
    assert "  5 clusters became 3\n" in out
    assert SemDedupIndex.open(spark, path).k == 3


def test_bad_input_is_one_line(spark, path, tmp_path, capsys):
    def said(*arguments: object) -> str:
        return refusal(capsys, "index", *arguments)

    none = tmp_path / "none"
    for action in ("info", "compact", "refit"):
        assert said(action, "--index", none).endswith("none' does not exist: give the folder of an index")
    assert "is not an index (it has no whole version in _versions)" in said("info", "--index", tmp_path)
    assert "has no version 9; the newest it has: 0, 1, 2" in said("info", "--index", path, "--version", "9")
    assert said("remove", "--index", path) == "--ids and --ids-from are both unset: give the ids to remove"
    assert "ids: 'x' cannot be used: the ids of this index are of type bigint" in said(
        "remove", "--index", path, "--ids", "x"
    )
    assert "out of the range of bigint" in said("remove", "--index", path, "--ids", str(2**70))
    unknown = said("remove", "--index", path, "--ids-from", none)
    assert "none' does not exist: give a file, a folder or a pattern" in unknown
    (tmp_path / "ids.txt").write_text("1\nabc\n")
    assert "ids: line 'abc' cannot be used: the ids of this index are of type bigint" in said(
        "remove", "--index", path, "--ids-from", tmp_path / "ids.txt", "--ids-format", "text"
    )
    pq.write_table(pa.table({"id": ["1"]}), tmp_path / "ids.parquet")
    assert "has ids of type bigint, but those given are string: cast them" in said(
        "remove", "--index", path, "--ids-from", tmp_path / "ids.parquet"
    )
    assert "--k is no option of index info, which takes --json, --version" in said("info", "--index", path, "--k", "3")
    assert "must be a number of hours of at least 0" in said("compact", "--index", path, "--retain-hours", "-1")
    assert len(ids(spark, path)) == 60


def test_an_index_that_is_written_to_is_refused(spark, path, capsys, monkeypatch):
    monkeypatch.setattr(locking, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(locking, "SILENCE_SECONDS", 4.0)
    with SemDedupIndex.open(spark, path)._storage.versions.held():
        line = refusal(capsys, "index", "compact", "--index", path, "--quiet", status=1)
    assert f"--index='{path}' is being written by process" in line
    assert "wait for its end" in line
