"""``spark-semdedup embed``: JSON lines, CSV and Parquet of documents to a folder of embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_semdedup.cli import main as cli
from spark_semdedup.text.hashing import HashingModel

DOCUMENTS = [
    {"id": "a", "text": "a fast editor for text", "stars": 3},
    {"id": "b", "text": "A fast editor, for text!", "stars": 5},
    {"id": "c", "text": "kernel modules", "stars": 1},
    {"id": "d", "text": "a fast editor for text", "stars": 2},
]


@pytest.fixture
def json_lines(tmp_path) -> Path:
    return written(tmp_path / "docs.jsonl", DOCUMENTS)


def written(path: Path, documents: list[dict]) -> Path:
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return path


def embed(*arguments: object, text_col: str = "text", model: str = "hashing:32") -> int:
    return cli.main(["embed", "--text-col", text_col, "--model", model, *map(str, arguments)])


def rows(folder: Path) -> dict[str, dict]:
    return {row["id"]: row for row in pq.read_table(folder).to_pylist()}


def expected(text: str) -> np.ndarray:
    model = HashingModel(32)
    (vector,) = model.embed(model.tokenize([text]))
    return vector / np.linalg.norm(vector)


def test_json_lines_become_ids_and_embeddings(spark, json_lines, tmp_path, capsys):
    assert embed("--input", json_lines, "--input-format", "json", "--output", tmp_path / "out") == 0
    found = rows(tmp_path / "out")
    assert found.keys() == {"a", "b", "c", "d"}
    for document in DOCUMENTS:
        row = found[document["id"]]
        assert list(row) == ["id", "embedding"]
        np.testing.assert_allclose(row["embedding"], expected(document["text"]), rtol=1e-6)
    shown = capsys.readouterr().out
    for line in ("rows in 4", "invalid 0", "embedded 3", "truncated 0"):
        assert line in " ".join(shown.split()), "of equal texts one is embedded, whichever partitions they were in"


def test_the_manifest_says_how_they_were_made(spark, json_lines, tmp_path):
    embed("--input", json_lines, "--input-format", "json", "--output", tmp_path / "out", "--max-chars", 10)
    said = json.loads((tmp_path / "out" / "_semdedup.json").read_text())
    assert (said["holds"], said["step"], said["rows"]) == ("embeddings", "embed", 4)
    assert said["parameters"]["model"] == "hashing:32"
    assert said["parameters"]["maxChars"] == 10
    assert said["parameters"]["modelFacts"]["dim"] == 32


def test_columns_keep_the_names_they_are_given_and_metadata_travels_along(spark, tmp_path):
    documents = pa.table({"Doc": ["x", "y"], "body": ["one", "two"], "n": [1, 2], "other": [0, 0]})
    pq.write_table(documents, tmp_path / "docs.parquet")
    arguments = ["--input", tmp_path / "docs.parquet", "--output", tmp_path / "out", "--id-col", "doc"]
    assert embed(*arguments, "--embedding-col", "vector", "--metadata-cols", "n", "body", text_col="body") == 0
    table = pq.read_table(tmp_path / "out")
    assert table.column_names == ["Doc", "n", "body", "vector"]


def test_csv_with_a_header_is_read(spark, tmp_path):
    (tmp_path / "docs.csv").write_text('id,text\n1,"one, two"\n2,three\n')
    arguments = ["--input", tmp_path / "docs.csv", "--input-format", "csv", "--input-option", "header=true"]
    assert embed(*arguments, "--output", tmp_path / "out") == 0
    assert rows(tmp_path / "out").keys() == {"1", "2"}


def test_a_run_takes_the_embeddings_as_its_input(spark, json_lines, tmp_path):
    embed("--input", json_lines, "--input-format", "json", "--output", tmp_path / "embeddings")
    arguments = ["run", "--input", tmp_path / "embeddings", "--output", tmp_path / "out", "--k", 1]
    assert cli.main([*map(str, arguments), "--which-to-keep", "first"]) == 0
    assert rows(tmp_path / "out" / "deduplicated").keys() == {"a", "c"}


def test_null_and_blank_texts_get_null_embeddings_and_are_counted(spark, tmp_path, capsys):
    documents = [*DOCUMENTS, {"id": "e", "text": None}, {"id": "f", "text": " \u0007"}]
    path = written(tmp_path / "docs.jsonl", documents)
    assert embed("--input", path, "--input-format", "json", "--output", tmp_path / "out") == 0
    found = rows(tmp_path / "out")
    assert {i for i, row in found.items() if row["embedding"] is None} == {"e", "f"}
    assert "invalid 2" in " ".join(capsys.readouterr().out.split())


def test_an_earlier_result_stays_unless_it_may_be_replaced(spark, json_lines, tmp_path, capsys):
    arguments = ["--input", json_lines, "--input-format", "json", "--output", tmp_path / "out"]
    assert embed(*arguments) == 0
    assert embed(*arguments, model="hashing:16") == 2
    assert "exists already: give another folder, or --overwrite to replace it" in capsys.readouterr().err
    assert len(rows(tmp_path / "out")["a"]["embedding"]) == 32
    assert embed(*arguments, "--overwrite", model="hashing:16") == 0
    assert len(rows(tmp_path / "out")["a"]["embedding"]) == 16


# --- refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"text_col": "body"}, "--text-col='body' is not among the columns: 'id', 'stars', 'text'"),
        ({"text_col": "stars"}, "--text-col='stars' is of type bigint: it must be string"),
        ({"model": "/no/model"}, "--model='/no/model' does not exist on "),
        ({"model": "hashing:none"}, "--model='hashing:none' cannot be used: it must be hashing:DIM"),
        (["--embedding-col", "text"], "embed appends the columns text, but the input already has text"),
        (["--id-col", "key"], "--id-col='key' is not among the columns"),
        (["--metadata-cols", "none"], "--metadata-cols='none' is not among the columns"),
        (["--chunk", "words"], "--chunk='words' cannot be used: it must be one of none, tokens"),
        (["--max-tokens", "1"], "--max-tokens=1 cannot be used: it must be a whole number of at least 4"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_writes_nothing(spark, json_lines, tmp_path, capsys, arguments, said):
    options, keywords = (arguments, {}) if isinstance(arguments, list) else ([], arguments)
    where = ["--input", json_lines, "--input-format", "json", "--output", tmp_path / "out"]
    assert embed(*where, *options, **keywords) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("spark-semdedup: error: ")
    assert said in line
    assert not (tmp_path / "out").exists()


def test_repeated_ids_are_refused_before_a_text_is_embedded(spark, tmp_path, capsys):
    path = written(tmp_path / "docs.jsonl", [*DOCUMENTS, DOCUMENTS[0]])
    assert embed("--input", path, "--input-format", "json", "--output", tmp_path / "out") == 1
    assert "--id-col='id'" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("part-*"))
