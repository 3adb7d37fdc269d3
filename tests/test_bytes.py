"""Embeddings that are bytes of float32 numbers: every stage, command and page gives what it gives for lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marks import slow

from spark_semdedup import PairwiseSimilarity, SemDedup
from spark_semdedup.cli import main as cli
from spark_semdedup.explore.sample import Columns
from spark_semdedup.explore.spark_sample import of_dataframe, of_path
from spark_semdedup.runs.convert import convert

SAMPLE = str(Path(__file__).parents[1] / "spark_semdedup" / "data" / "debian-sample.parquet")
COLUMNS = ("id", "max_id", "cosine_sim_score")


@pytest.fixture(scope="module")
def tables(spark, tmp_path_factory) -> tuple[Any, Any, str]:
    """The shipped sample with lists and with bytes, and the folder of the latter."""
    folder = str(tmp_path_factory.mktemp("bytes") / "rows")
    convert([SAMPLE], folder, float32_bytes=["embedding"])
    return spark.read.parquet(SAMPLE), spark.read.parquet(folder), folder


def rows(df: Any, *columns: str) -> list[tuple]:
    return sorted(map(tuple, df.select(*columns).collect()))


@pytest.mark.parametrize(
    "settings", [slow({}), {"coverage": "exact", "execution": "streamed"}, slow({"keepRule": "greedy"})], ids=str
)
def test_a_run_gives_the_answer_of_lists(tables, settings):
    lists, of_bytes, _ = tables
    found = []
    for df, more in ((lists, {}), (of_bytes, {"embeddingFormat": "float32"})):
        result = SemDedup(k=20, eps=0.1, **settings, **more).fit(df).run(df)
        found.append((rows(result.similarities, *COLUMNS), rows(result.deduplicated, "id")))
        assert result.deduplicated.schema == df.schema
        result.unpersist()
    assert found[0] == found[1]
    assert 0 < len(found[0][1]) < 3350


def test_pairwise_similarity_takes_bytes_of_clusters_made_by_others(tables):
    lists, of_bytes, _ = tables
    answers = []
    for df, format_ in ((lists, None), (of_bytes, "float32")):
        clustered = df.selectExpr("id", "embedding", "cast(pmod(hash(id), 7) as int) as centroid")
        stage = PairwiseSimilarity(normalize=True, whichToKeep="first")
        answers.append(rows((stage.setEmbeddingFormat(format_) if format_ else stage).transform(clustered), *COLUMNS))
    assert answers[0] == answers[1]
    assert len(answers[0]) == 3350


@pytest.mark.slow
def test_plan_run_report_and_explore(spark, tables, tmp_path, capsys):
    """The commands around a run read such a column by the run's own Params."""
    folder, out = tables[2], str(tmp_path / "out")
    bytes_ = ["--embedding-format", "float32"]
    assert cli.main(["plan", "--input", folder, *bytes_]) == 0
    assert cli.main(["run", "--input", folder, "--output", out, "--k", "20", *bytes_, "--report"]) == 0, (
        capsys.readouterr()
    )
    summary = json.loads(Path(out, "summary.json").read_text("utf-8"))
    assert summary["kept"] == spark.read.parquet(f"{out}/deduplicated").count()
    page = Path(out, "report.html").read_text("utf-8")
    assert "<svg" in page
    sample = of_path(out, 500, 0, Columns())
    assert sample.vectors.shape == (500, 384)
    assert np.array_equal(
        of_dataframe(tables[1], 100, 0, Columns()).units, of_dataframe(tables[0], 100, 0, Columns()).units
    )


@pytest.mark.slow
def test_a_report_of_texts_that_are_json_shows_vectors(spark, tmp_path, capsys):
    """embeddingFormat reaches the page for JSON, too."""
    folder, out = str(tmp_path / "in"), str(tmp_path / "out")
    numbers = [(f"r{i}", json.dumps([float(i % 7), 1.0, float(i)])) for i in range(60)]
    spark.createDataFrame(numbers, "id string, embedding string").write.parquet(folder)
    call = ["run", "--input", folder, "--output", out, "--embedding-format", "json", "--report"]
    assert cli.main(call) == 0, capsys.readouterr()
    assert Path(out, "report.html").exists()
