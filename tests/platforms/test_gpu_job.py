"""The whole job on a GPU, spark-rapids-ml's fit included, beside the CPU: ``make test-gpu`` where that is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from spark_semdedup import EmbeddingKMeansModel, SemDedupModel
from spark_semdedup.cli import main as cli

SAMPLE = str(Path(__file__).parents[2] / "spark_semdedup" / "data" / "debian-sample.parquet")

EPS = 0.1

BACKEND = "gpu"

FITS = {
    "cuML": [],
    "ours": ["--distance-measure", "cosine"],  # which cuML does not offer: our own Lloyd iterations, on the GPU too
}

WAYS = {
    "cluster": {},
    "exact": {"coverage": "exact"},
    "two probes": {"nProbe": 2},
    "streamed": {"execution": "streamed", "coverage": "exact"},
    "float16": {"precision": "float16"},
    "float32": {"precision": "float32"},
    "generic": {"precision": "generic"},
    "tiles": {"maxClusterRows": 100},
    "small batches": {"batchSize": 64},
}

pytestmark = [
    pytest.mark.gpu,
    *(
        pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")
        for name in ("cupy", "cuml", "spark_rapids_ml")
    ),
]


@pytest.fixture(scope="module", params=FITS)
def result(request, spark, tmp_path_factory) -> Path:
    """What the program wrote."""
    folder = tmp_path_factory.mktemp("gpu") / request.param
    command = ["run", "--input", SAMPLE, "--output", str(folder), "--k", "40", "--eps", str(EPS), "--backend", BACKEND]
    assert cli.main([*command, *FITS[request.param]]) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["backend"] == BACKEND
    assert summary["clusterer"] == "rapids"
    return folder


@pytest.fixture(scope="module")
def centroids(result):
    return EmbeddingKMeansModel.load(str(result / "centroids")).centroids


def rows(df) -> set[tuple]:
    return {tuple(row) for row in df.select("id", "max_id", "cosine_sim_score").collect()}


def test_the_program_removes_what_it_removes_on_the_cpu(spark, result, centroids):
    on_cpu = rows(SemDedupModel(centroids=centroids, eps=EPS, backend="cpu").duplicates(spark.read.parquet(SAMPLE)))
    assert len(on_cpu) > 500
    assert rows(spark.read.parquet(str(result / "duplicates"))) == on_cpu


@pytest.mark.parametrize("way", WAYS)
def test_scores_are_those_of_the_cpu_to_the_bit(spark, centroids, way):
    """Of all rows, duplicates or not; below 1 - eps exact coverage promises bounds only, so there the duplicates."""
    df = spark.read.parquet(SAMPLE)
    found = {}
    for backend in (BACKEND, "cpu"):
        model = SemDedupModel(centroids=centroids, eps=EPS, backend=backend, **WAYS[way])
        found[backend] = rows(model.duplicates(df) if "coverage" in WAYS[way] else model.similarities(df))
    assert len(found["cpu"]) > 500
    assert found[BACKEND] == found["cpu"]
