"""``spark-semdedup explore``: each question from a table or a run's folder, its files, its refusals."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread

from spark_semdedup.cli.commands.explore import QUESTIONS, k_range
from spark_semdedup.cli.main import main


@pytest.fixture(scope="module")
def table(spark, debian, tmp_path_factory) -> str:
    """400 rows of the shipped sample as a Parquet file."""
    path = str(tmp_path_factory.mktemp("explore") / "rows.parquet")
    part = debian.take(np.arange(400))
    columns = {"id": part.ids.tolist(), "embedding": list(part.units), "text": part.texts.tolist()}
    pq.write_table(pa.table(columns), path)
    return path


OPTIONS = {
    "choose-k": ["--k-range", "2-4", "--n-init", "1"],
    "hdbscan": ["--min-samples", "2"],
    "agglomerative": ["--n-clusters", "5"],
    "kmeans": ["--k", "6"],
    "communities": ["--threshold", "0.7", "--min-community-size", "4"],
    "topics": ["--k", "6"],
    "map": ["--k", "6", "--method", "pca"],
    "representatives": ["--k", "6", "--per-cluster", "2"],
    "outliers": ["--k", "6"],
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_question_writes_its_answer(table, question, tmp_path, capsys):
    out = tmp_path / "answers"
    assert main(["explore", question, "--input", table, "--output", str(out), *OPTIONS[question]]) == 0
    assert sorted(path.name for path in out.iterdir()) == [f"{question}.json", f"{question}.png"]
    assert json.loads((out / f"{question}.json").read_text())
    assert min(imread(out / f"{question}.png").shape[:2]) > 100
    shown = capsys.readouterr().out
    assert "spark-semdedup explore\n\n" in shown
    assert str(out / f"{question}.png") in shown


def test_without_an_output_nothing_is_written(table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["explore", "hdbscan", "--input", table, "--sample-rows", "100"]) == 0
    assert list(tmp_path.iterdir()) == []
    assert "hdbscan(min_cluster_size=5" in capsys.readouterr().out


def test_a_run_s_folder_has_clusters_of_its_own(spark, table, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["run", "--input", table, "--output", out, "--k", "7"]) == 0
    capsys.readouterr()
    command = ["explore", "map", "--result", out, "--input", table, "--method", "pca", "--output", str(tmp_path / "a")]
    assert main(command) == 0
    answer = json.loads((tmp_path / "a" / "map.json").read_text())
    shown = capsys.readouterr().out
    assert f"\nmap of 400 rows by PCA, in 7 clusters, {answer['duplicates']} of them duplicates\n" in shown
    assert answer["n_clusters"] == 7
    assert answer["rows"] == 400
    assert answer["duplicates"] == spark.read.parquet(f"{out}/duplicates").count() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hdbscan"], "--input, --input-table and --result are all unset"),
        (
            ["hdbscan", "--k", "3", "--input", "x"],
            "--k is no option of explore hdbscan, which takes --min-cluster-size",
        ),
        (["choose-k", "--k-range", "a", "--input", "x"], "a cannot be used: it must be like 2-10"),
        (["tsne", "--input", "x"], "invalid choice: 'tsne'"),
        (["agglomerative", "--input", "TABLE"], "both unset: set one of them"),
        (["kmeans", "--k", "900", "--input", "TABLE"], "--k=900 is larger than the sample's 400 rows"),
        (["topics", "--text-col", "body", "--input", "TABLE"], "--text-col='body' is not among the columns"),
        (["hdbscan", "--result", "TABLE/.."], "is not the folder of a run"),
    ],
)
def test_refusals_are_one_line(table, arguments, message, capsys):
    status = main(["explore", *(argument.replace("TABLE", table) for argument in arguments)])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert status in (1, 2)
    assert error.startswith("spark-semdedup: error: ")
    import re

    assert re.search(message, error), error


def test_files_that_are_there_are_kept(table, tmp_path, capsys):
    (tmp_path / "kmeans.json").write_text("mine")
    command = ["explore", "kmeans", "--k", "3", "--input", table, "--output", str(tmp_path)]
    assert main(command) == 2
    assert "kmeans.json' exists already" in capsys.readouterr().err
    assert (tmp_path / "kmeans.json").read_text() == "mine"
    assert main([*command, "--overwrite"]) == 0
    assert json.loads((tmp_path / "kmeans.json").read_text())["n_clusters"] == 3


def test_ranges_of_k():
    assert k_range("2-5") == [2, 3, 4, 5]
    assert k_range("5,10,20") == [5, 10, 20]
