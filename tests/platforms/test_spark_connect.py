"""docs/spark-connect.md: what a Spark Connect client can do, and what it is told where it cannot."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import connect_client
import numpy as np
import pyspark
import pytest

from spark_semdedup import SemDedupModel

DOCUMENT = (Path(__file__).parents[2] / "docs" / "spark-connect.md").read_text("utf-8")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        pyspark.__version__.startswith("3."), reason="PyPI's Spark 3.5 has no Spark Connect server in its jars"
    ),
    pytest.mark.skipif(importlib.util.find_spec("grpc_status") is None, reason="grpcio-status is not installed"),
]


@pytest.fixture(scope="module")
def source(spark, tmp_path_factory) -> str:
    """90 rows about 40 centres: most have a near-duplicate."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(40, 8))[np.arange(90) % 40] + 0.1 * rng.normal(size=(90, 8))
    rows = [(row, vector.tolist()) for row, vector in enumerate(vectors)]
    path = str(tmp_path_factory.mktemp("connect") / "input")
    spark.createDataFrame(rows, "id long, embedding array<float>").write.parquet(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("client")


@pytest.fixture(scope="module")
def told(source, folder) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
    environment["PYSPARK_PYTHON"] = sys.executable
    command = [sys.executable, connect_client.__file__, source, str(folder)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "told.json").read_text())


def test_the_session_was_a_remote_one(told):
    assert told["session"] == "pyspark.sql.connect.session.SparkSession"


@pytest.mark.parametrize("name", connect_client.MODELS)
def test_a_client_gets_the_answer_of_a_classic_session(told, spark, source, folder, name):
    """By every way to it, with the centroids it fitted and saved."""
    df = spark.read.parquet(source)
    model = SemDedupModel.load(str(folder / name))
    expected = sorted((row["id"], row["max_id"]) for row in model.duplicates(df).collect())
    found = told["models"][name]
    assert 20 < len(expected) < 60
    assert [tuple(pair) for pair in found["duplicates"]] == expected
    kept = sorted(set(range(90)) - {row for row, _ in expected})
    assert found["kept"] == kept == found["transformed"]
    assert found["similarities"] == 90
    assert (found["counts"]["rows"], found["counts"]["invalid"]) == (90, 0)


@pytest.mark.parametrize("way", ["loaded", "pipeline", "steps"])
def test_other_ways_keep_the_same_rows(told, way):
    assert told[way] == told["models"]["cluster"]["kept"]


def test_what_comes_before_and_after_a_run(told):
    assert told["plan"] == 90
    assert 0 < told["recall"] <= 1
    assert told["doctor"] is True


@pytest.mark.parametrize("what", ["overwrite", "command line"])
def test_what_does_not_work_says_what_the_document_says(told, what):
    said = told[what].removeprefix("2: spark-semdedup: ")
    assert "Spark Connect client" in said
    assert any(words in said for words in DOCUMENT.split("`") if words.endswith(("new path", "no file systems")))
