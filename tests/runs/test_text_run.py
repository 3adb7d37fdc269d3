"""``spark-semdedup run --text-col``: documents without embeddings to kept documents."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import text_models

from spark_semdedup import SemDedup
from spark_semdedup.cli import main as cli
from spark_semdedup.text.hashing import HashingModel

TEXTS = [
    "a fast editor for text",
    "A fast editor, for text!",
    "kernel modules",
    "a viewer of pictures",
    "kernel modules",
]


def documents(path: Path, texts: list[str | None]) -> Path:
    lines = [json.dumps({"id": i, "text": text, "n": -i}) for i, text in enumerate(texts)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def place(tmp_path):
    """Options that name the input and the output of every run."""
    path = documents(tmp_path / "docs.jsonl", TEXTS)
    return ["--input", path, "--input-format", "json", "--output", tmp_path / "out"]


def run(place: list, *options: object, model: str = "hashing:64") -> int:
    texts = ["--text-col", "text", "--model", model] if model else []
    fixed = ["--k", 1, "--which-to-keep", "first", "--backend", "cpu"]
    return cli.main(["run", *map(str, [*place, *texts, *fixed, *options])])


def ids(folder: Path) -> set[int]:
    return set(pq.read_table(folder, columns=["id"])["id"].to_pylist())


def kept_lines(folder: Path) -> dict[int, dict]:
    rows = [json.loads(line) for part in folder.glob("part-*") for line in part.read_text().splitlines()]
    return {row["id"]: row for row in rows}


def test_json_lines_become_kept_json_lines_and_nothing_else_is_left(spark, place, tmp_path, capsys):
    assert run(place, "--output-format", "json") == 0
    kept = kept_lines(tmp_path / "out" / "deduplicated")
    assert kept == {i: {"id": i, "text": TEXTS[i], "n": -i} for i in (0, 2, 3)}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["rows_in"], summary["embedded"], summary["duplicates"], summary["kept"]) == (5, 4, 2, 3)
    assert summary["parameters"]["model"] == "hashing:64"
    assert next(iter(summary["seconds"])) == "embed texts"
    assert not (tmp_path / "out" / "embeddings").exists()
    assert "[1/6] embed texts ... 5 rows" in capsys.readouterr().err


def test_rank_columns_travel_along_and_the_input_s_own_embedding_is_left_alone(spark, tmp_path):
    table = pa.table({"id": range(5), "text": TEXTS, "n": [0, 1, 2, 3, 4], "embedding": ["mine"] * 5})
    pq.write_table(table, tmp_path / "docs.parquet")
    arguments = ["run", "--input", tmp_path / "docs.parquet", "--output", tmp_path / "out", "--keep-embeddings"]
    arguments += ["--text-col", "text", "--model", "hashing:64", "--k", 1, "--rank-by", "n desc"]
    assert cli.main(list(map(str, arguments))) == 0
    assert ids(tmp_path / "out" / "deduplicated") == {1, 3, 4}
    kept = pq.read_table(tmp_path / "out" / "deduplicated")
    assert kept.column_names == table.column_names
    assert set(kept["embedding"].to_pylist()) == {"mine"}
    embeddings = pq.read_table(tmp_path / "out" / "embeddings")
    assert embeddings.column_names == ["id", "n", "embedding"]
    model = HashingModel(64)
    for row in embeddings.to_pylist():
        (vector,) = model.embed(model.tokenize([TEXTS[row["id"]]]))
        np.testing.assert_allclose(row["embedding"], vector / np.linalg.norm(vector), rtol=1e-6)


def test_an_interrupted_run_goes_on_without_embedding_again(spark, place, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SemDedup, "fit_foreseen", fail)
        assert run(place) == 130
    out = tmp_path / "out"
    before = {part: part.stat().st_mtime_ns for part in (out / "embeddings").glob("part-*")}
    assert before
    capsys.readouterr()
    assert run(place, "--resume", model="hashing:32") == 2
    assert "holds another run: model is 'hashing:32', was 'hashing:64'" in capsys.readouterr().err
    assert run(place, "--resume", "--keep-embeddings", "--batch-tokens", 7) == 0
    assert "embed texts ... done before" in capsys.readouterr().err
    assert {part: part.stat().st_mtime_ns for part in (out / "embeddings").glob("part-*")} == before
    assert ids(out / "deduplicated") == {0, 2, 3}
    # A finished run resumes to nothing; without --keep-embeddings these go.
    assert run(place, "--resume") == 0
    assert not (out / "embeddings").exists()


def test_an_interruption_while_texts_are_embedded_begins_that_phase_again(spark, place, tmp_path, monkeypatch):
    from spark_semdedup.runs import texts

    def fail(*_, **__):
        (tmp_path / "out" / "embeddings").mkdir()
        (tmp_path / "out" / "embeddings" / "part-0.parquet").write_bytes(b"half")
        (tmp_path / "out" / "embeddings" / "_semdedup.unfinished").write_bytes(b"")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(texts, "write_dataset", fail)
        assert run(place) == 130
    assert run(place, "--resume", "--keep-embeddings") == 0
    assert len(pq.read_table(tmp_path / "out" / "embeddings")) == 5
    assert ids(tmp_path / "out" / "deduplicated") == {0, 2, 3}


def test_blank_texts_are_refused_before_anything_is_embedded_or_lost(spark, place, tmp_path, capsys):
    assert run(place, "--keep-embeddings") == 0
    earlier = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    documents(tmp_path / "docs.jsonl", [*TEXTS, None, " \u0007"])
    assert run(place, "--overwrite") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line == (
        "spark-semdedup: error: --text-col='text': 2 texts are null or blank, such as the one of the row with id 5: "
        "fix them, or set --handle-invalid to skip or keep"
    )
    assert {path: path.stat().st_mtime_ns for path in earlier} == earlier


def test_blank_texts_are_set_aside_with_their_reason_or_kept(spark, place, tmp_path):
    documents(tmp_path / "docs.jsonl", [*TEXTS, None, " \u0007"])
    assert run(place, "--handle-invalid", "skip") == 0
    invalid = pq.read_table(tmp_path / "out" / "invalid").to_pylist()
    assert {row["id"]: row["reason"] for row in invalid} == dict.fromkeys([5, 6], "text is null or blank")
    assert ids(tmp_path / "out" / "deduplicated") == {0, 2, 3}
    assert run(place, "--handle-invalid", "keep", "--overwrite") == 0
    assert ids(tmp_path / "out" / "deduplicated") == {0, 2, 3, 5, 6}


def test_a_folder_of_embeddings_that_is_another_s_stays(spark, place, tmp_path, capsys):
    (tmp_path / "out" / "embeddings").mkdir(parents=True)
    (tmp_path / "out" / "embeddings" / "mine.txt").write_text("mine")
    assert run(place, "--overwrite") == 2
    assert "embeddings in it is no run's" in capsys.readouterr().err
    assert (tmp_path / "out" / "embeddings" / "mine.txt").read_text() == "mine"


def test_what_cannot_be_used_is_one_line_and_writes_nothing(spark, place, tmp_path, capsys):
    documents(tmp_path / "other.jsonl", TEXTS)
    saved = tmp_path / "saved"
    vectors = spark.createDataFrame([(1, [1.0, 0.0])], "id int, embedding array<double>")
    SemDedup(k=1, backend="cpu").fit(vectors).clustering.save(str(saved))
    cases = [
        ({"model": ""}, ["--model", "hashing"], "--model: for texts alone; name their column with --text-col"),
        ({"model": ""}, ["--keep-embeddings"], "--keep-embeddings: for texts alone"),
        ({"model": ""}, ["--text-col", "text"], "--text-col text: --model is missing"),
        (
            {},
            ["--embedding-dim", "32"],
            "--model='hashing:64' gives embeddings of length 64, but --embedding-dim=32 has",
        ),
        ({}, ["--embedding-col", "text"], "embed appends the columns text, but the input already has text"),
        ({"model": "none/such.onnx"}, [], "--model='none/such.onnx' does not exist on "),
    ]
    for keywords, options, said in cases:
        assert run(place, *options, **keywords) == 2, options
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
        assert not (tmp_path / "out").exists()
    where = [*place, "--centroids", saved, "--text-col", "text", "--model", "hashing:64"]
    assert cli.main(["run", *map(str, where)]) == 2
    said = f"--model='hashing:64' gives embeddings of length 64, but --centroids='{saved}' has length 2"
    assert said in capsys.readouterr().err


@pytest.mark.slow
@text_models.no_minilm
def test_minilm_gives_the_answer_of_the_sample_s_embeddings(spark, tmp_path):
    """``maxTokens`` 128: what the sample's embeddings were made of."""
    with resources.as_file(resources.files("spark_semdedup") / "data" / "debian-sample.parquet") as path:
        pq.write_table(pq.read_table(path).slice(0, 300), tmp_path / "sample.parquet")
    model = text_models.minilm_onnx(tmp_path / "minilm")
    fixed = ["run", "--input", tmp_path / "sample.parquet", "--coverage", "exact", "--which-to-keep", "first"]
    text = ["--text-col", "text", "--model", model, "--max-tokens", 128]
    for name, options in {"text": text, "given": []}.items():
        assert cli.main(list(map(str, [*fixed, *options, "--output", tmp_path / name]))) == 0
    found, expected = (
        {row["id"]: row for row in pq.read_table(tmp_path / name / "duplicates").to_pylist()}
        for name in ("text", "given")
    )
    assert found.keys() == expected.keys()
    for id_, row in expected.items():
        assert found[id_]["cosine_sim_score"] == pytest.approx(row["cosine_sim_score"], abs=1e-6)
