"""``run --write-index``, ``--against``, ``--update-index``, ``--reference-only``: batch after batch, and deny lists."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import debian
import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from marks import slow
from program import call, refusal, rows
from shapes import shapes

from spark_semdedup import SemDedupIndex
from spark_semdedup.runs.incremental import Incremental
from spark_semdedup.runs.journal import Journal

BATCHES = 3
ROWS = shapes(np.random.default_rng(17))
BATCH = np.random.default_rng(5).integers(0, BATCHES, len(ROWS))
GREEDY = ("--keep-rule", "greedy", "--coverage", "exact", "--eps", 0.05, "--which-to-keep", "first", "--k", 6)


def table(which: np.ndarray, offset: int = 0) -> pa.Table:
    ids = np.flatnonzero(which)
    batch = {"id": ids + offset, "embedding": list(ROWS[ids]), "batch": BATCH[ids]}
    return pa.table(batch)


def write(path: Path, which: np.ndarray, offset: int = 0) -> Path:
    pq.write_table(table(which, offset), path)
    return path


def ids(folder: Path) -> set:
    return set(pq.read_table(folder, columns=["id"])["id"].to_pylist())


@pytest.fixture
def inputs(tmp_path) -> list[Path]:
    return [write(tmp_path / f"batch{number}.parquet", number == BATCH) for number in range(BATCHES)]


@pytest.fixture(scope="module")
def written(tmp_path_factory, spark) -> Path:
    """An index, made once."""
    from spark_semdedup.cli import main as cli

    folder = tmp_path_factory.mktemp("index")
    for number in range(2):
        write(folder / f"batch{number}.parquet", number == BATCH)
    (folder / "folder").mkdir()
    shutil.copy(folder / "batch0.parquet", folder / "folder")
    place = ["--input", folder / "batch0.parquet", "--output", folder / "0", "--write-index", folder / "index"]
    assert cli.main(["run", *map(str, [*place, *GREEDY])]) == 0
    return folder


@pytest.fixture
def index(written, tmp_path) -> Path:
    """An index of the first batch, which the test may change; the run that wrote it is in ``tmp_path / "0"``."""
    shutil.copytree(written / "0", tmp_path / "0")
    return shutil.copytree(written / "index", tmp_path / "index")


def test_batches_in_turn_keep_what_one_run_over_all_rows_keeps(spark, inputs, index, tmp_path, capsys):
    """One run in that order: ranked by batch, then by id, as ``first`` does."""
    for number in (1, 2):
        place = ("--input", inputs[number], "--output", tmp_path / str(number))
        status, out, err = call(capsys, "run", *place, "--against", index, "--update-index")
        assert status == 0, err
    one = ("run", "--input", *inputs, "--output", tmp_path / "all", *GREEDY[:6], "--rank-by", "batch", "--k", 5)
    assert call(capsys, *one)[0] == 0
    kept = set.union(*(ids(tmp_path / str(number) / "deduplicated") for number in range(BATCHES)))
    assert kept == ids(tmp_path / "all" / "deduplicated")
    removed = [row for number in range(BATCHES) for row in rows(tmp_path / str(number) / "duplicates")]
    assert sorted(removed) == rows(tmp_path / "all" / "duplicates")
    held = SemDedupIndex.open(spark, str(index))
    assert {row.id for row in held.rows().select("id").collect()} == kept
    assert [batch.rows for batch in held.batches] == [len(ids(tmp_path / str(n) / "deduplicated")) for n in range(3)]
    assert f"version 2 of the index {index}" in out
    summary = json.loads((tmp_path / "2" / "summary.json").read_text())
    assert summary["against"] == {
        "index": str(index),
        "version": 2,
        "rows": sum(batch.rows for batch in held.batches[:2]),
        "reference_only": False,
    }
    assert summary["indexed"] == held.batches[2].rows
    assert summary["similar_to_references"] > 0
    explained = call(capsys, "explain", tmp_path / "2", "--id", next(i for i in ids(tmp_path / "2" / "duplicates")))
    assert explained[0] == 0


@pytest.mark.parametrize("moment", [slow("before"), slow("after")])
def test_a_run_killed_at_its_append_adds_its_batch_once(spark, inputs, index, tmp_path, capsys, monkeypatch, moment):
    """Before or after the journal says so; then it is resumed, and once more when all is done. (Without Spark, at every
    change to a file: ``index/test_kills.py``.)"""
    commit = Journal.commit

    def killed(self, phase, metrics):
        if phase == "index" and moment == "before":
            raise KeyboardInterrupt
        commit(self, phase, metrics)
        if phase == "index":
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "commit", killed)
    command = ("run", "--input", inputs[1], "--output", tmp_path / "1", "--against", index, "--update-index")
    assert call(capsys, *command)[0] == 130
    monkeypatch.setattr(Journal, "commit", commit)
    for _ in range(2):
        status, _, err = call(capsys, *command, "--resume")
        assert status == 0, err
    held = SemDedupIndex.open(spark, str(index))
    assert len(held.batches) == 2
    assert held.rows().count() == held.rows().select("id").distinct().count() == sum(b.rows for b in held.batches)


def test_rows_that_come_again_are_refused_by_name(spark, inputs, index, tmp_path, capsys):
    place = ("--input", inputs[0], "--output", tmp_path / "again")
    said = refusal(capsys, "run", *place, "--against", index, status=1)
    known = sorted(ids(tmp_path / "0" / "deduplicated"))
    assert "come again, for example" in said
    assert any(str(i) in said for i in known)
    assert not (tmp_path / "again" / "deduplicated").exists()


def test_reference_only_removes_what_is_in_the_index_whatever_its_id(spark, inputs, tmp_path, capsys):
    """Ids of the two sides are their own: a row is removed by a reference row of its very id, too, and greedily by one
    of the id of another removed row."""
    index = tmp_path / "index"
    how = ("--write-index", index, "--eps", 0.05, "--k", 6)
    assert call(capsys, "run", "--input", inputs[0], "--output", tmp_path / "0", *how)[0] == 0
    held = np.flatnonzero(BATCH == 0)
    new = write(tmp_path / "new.parquet", BATCH != 2)  # with the ids of the index, and others
    place = ("--input", new, "--output", tmp_path / "out", "--against", index, "--reference-only")
    how = ("--coverage", "exact", "--eps", 0.05, "--keep-rule", "greedy")
    status, out, err = call(capsys, "run", *place, *how)
    assert status == 0, err
    similarity = oracle.clusters(ROWS, np.zeros(len(ROWS), int))[0].similarity
    both = np.where(np.tri(len(ROWS), k=-1, dtype=bool), similarity, similarity.T)
    expected = {int(i) for i in np.flatnonzero(BATCH != 2) if i in held or (both[i, held].astype(float) >= 0.95).any()}
    assert ids(tmp_path / "out" / "duplicates") == expected
    assert ids(tmp_path / "out" / "deduplicated") == set(np.flatnonzero(BATCH != 2).tolist()) - expected
    assert len(expected) < np.count_nonzero(BATCH != 2)
    assert "rows of the input were not compared with one another" in out
    status, out, _ = call(capsys, "explain", tmp_path / "out", "--id", held[0])
    assert status == 0
    assert f"{held[0]} is a reference row" in out
    step = ("identify", "--input", tmp_path / "out" / "similarities", "--output", tmp_path / "identified")
    assert call(capsys, *step, "--eps", 0.05)[0] == 0
    assert ids(tmp_path / "identified") == expected
    for step in (("groups",), ("evaluate", "--input", new, "--result")):
        said = refusal(capsys, *step, tmp_path / "out", "--output", tmp_path / "more")
        assert "reference rows" in said
        assert not (tmp_path / "more").exists()


def test_a_table_to_keep_apart_from(spark, inputs, tmp_path, capsys):
    reference = write(tmp_path / "reference.parquet", BATCH == 0)
    place = ("--input", inputs[1], "--output", tmp_path / "out", "--against-input", reference, "--reference-only")
    assert call(capsys, "run", *place, "--coverage", "exact", "--eps", 0.05, "--k", 4)[0] == 0
    removed = pq.read_table(tmp_path / "out" / "duplicates").to_pylist()
    assert removed
    for row in removed:
        assert BATCH[row["id"]] == 1
        assert BATCH[row["max_id"]] == 0
        assert np.float32(row["cosine_sim_score"]) == oracle.similarity(ROWS[row["id"]], ROWS[row["max_id"]])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--against", "INDEX", "--eps", 0.1), "eps is 0.1, but the index"),
        (("--against", "INDEX", "--keep-rule", "ranked"), "--keep-rule is 'ranked', but the index"),
        (("--against", "INDEX", "--which-to-keep", "easy"), "--which-to-keep is 'easy', but the index"),
        (("--against", "INDEX", "--k", 3), "are both set: the index has its centroids"),
        (("--against", "INDEX", "--results", "deduplicated,pairs"), "--results=pairs cannot be written"),
        (("--against", "INPUT"), "is not an index"),
        (("--against", "NOWHERE"), "does not exist"),
        (("--write-index", "INDEX"), "is an index already"),
        (("--write-index", "OUT"), "overlap: what is read"),
        (("--write-index", "OUT/deduplicated"), "overlap: what is read"),
        (("--write-index", "INPUT"), "exists and is no index"),
        (("--write-index", "INPUT/batch0.parquet"), "exists and is no index"),
        (("--input", "INPUT", "--write-index", "INPUT/new"), "overlap: what is read"),
        (("--write-index", "NEW", "--index-rows", "kept"), "--keep-rule='ranked' are both set"),
        (("--write-index", "NEW", "--index-rows", "some"), "it must be kept or all"),
        (("--update-index",), "--update-index and no against"),
        (("--reference-only",), "set against or --against-input"),
        (("--against", "INDEX", "--reference-only", "--update-index"), "--update-index and --reference-only"),
        (("--against-input", "INPUT"), "--against-input needs --reference-only"),
        (("--against", "INDEX", "--against-input", "INPUT", "--reference-only"), "are both set: give an index"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line_before_any_work(spark, written, tmp_path, capsys, options, said):
    names = {"INDEX": written / "index", "INPUT": written / "folder", "NEW": tmp_path / "new", "NOWHERE": "nowhere"}
    names |= {"OUT": tmp_path / "out", "OUT/deduplicated": tmp_path / "out" / "deduplicated"}
    names |= {f"INPUT/{name}": written / "folder" / name for name in ("batch0.parquet", "new")}
    place = ("--input", written / "batch1.parquet", "--output", tmp_path / "out")
    assert said in refusal(capsys, "run", *place, *(names.get(option, option) for option in options))
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"eps": 0.05, "coverage": "exact"}),
        ({"eps": 0.1}, {"eps": 0.1, "coverage": "exact"}),
        ({"threshold": 0.9}, {"threshold": 0.9, "coverage": "exact"}),
        ({"nProbe": 3}, {"eps": 0.05, "nProbe": 3}),
        ({"coverage": "cluster", "eps": 0.1}, {"eps": 0.1, "coverage": "cluster"}),
    ],
)
def test_an_index_to_keep_apart_from_gives_what_is_not_set(given, expected):
    """Of eps and threshold, and of coverage and nProbe, each takes the place of the other."""
    index = SimpleNamespace(settings={"eps": 0.05, "coverage": "exact", "nProbe": None, "keepRule": "greedy"})
    asked = Incremental(against="index", reference_only=True)
    assert asked.settings_with(index, given) == {"keepRule": "greedy"} | expected


SIZES = (30_000, 1, 20_000)
"""Of the batches of the real corpus; the last has the rest of its rows."""


@pytest.mark.slow
@pytest.mark.skipif(not debian.DEBIAN.exists(), reason="needs ../shared/data/debian")
def test_batches_of_a_real_corpus_keep_what_one_run_keeps(spark, tmp_path, capsys, monkeypatch):
    """63,905 rows; each batch is killed at its append, before or after the journal says so, and resumed."""
    corpus = pq.read_table(debian.DEBIAN, columns=["id", "embedding"])
    numbers = np.random.default_rng(20).permutation(len(corpus))
    corpus = corpus.set_column(0, "id", pa.array(numbers)).sort_by("id")  # so batches come in the order of ``first``
    pq.write_table(corpus, tmp_path / "all.parquet")
    how = ("--keep-rule", "greedy", "--coverage", "exact", "--eps", 0.05, "--which-to-keep", "first")
    one = ("--input", tmp_path / "all.parquet", "--output", tmp_path / "all")
    assert call(capsys, "run", *one, *how)[0] == 0
    commit, index, kept, start = Journal.commit, tmp_path / "index", set(), 0
    for number, size in enumerate([*SIZES, len(corpus) - sum(SIZES)]):
        path, out = tmp_path / f"batch{number}.parquet", tmp_path / f"out{number}"
        pq.write_table(corpus.slice(start, size), path)
        start += size
        settings = ("--against", index, "--update-index") if number else ("--write-index", index, *how, "--k", 250)

        def killed(self, phase, metrics, after=bool(number % 2)):
            if phase != "index" or after:
                commit(self, phase, metrics)
            if phase == "index":
                raise KeyboardInterrupt

        monkeypatch.setattr(Journal, "commit", killed)
        command = ("run", "--input", path, "--output", out, *settings)
        assert call(capsys, *command)[0] == 130
        monkeypatch.setattr(Journal, "commit", commit)
        assert call(capsys, *command, "--resume")[0] == 0
        kept |= ids(out / "deduplicated")
    assert start == len(corpus)
    assert kept == ids(tmp_path / "all" / "deduplicated")
    assert SemDedupIndex.open(spark, str(index)).rows_in == len(kept)
