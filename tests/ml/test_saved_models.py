"""Stages and pipelines that version 0.1.0 saved still load and still give the same answer."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel

import spark_semdedup
from spark_semdedup import (
    EmbeddingKMeans,
    EmbeddingKMeansModel,
    IdentifyDuplicates,
    PairwiseSimilarity,
    RemoveDuplicates,
    SemDedup,
    SemDedupModel,
)

SAVED = Path(__file__).parent.parent / "saved_by_0_1_0"

STAGES = {
    "semdedup": (SemDedup, {"k": 3, "eps": 0.05, "whichToKeep": "first", "coverage": "exact"}),
    "semdedup_model": (SemDedupModel, {"k": 3, "eps": 0.05, "whichToKeep": "first", "coverage": "exact"}),
    "kmeans": (EmbeddingKMeans, {"k": 3, "seed": 7}),
    "kmeans_model": (EmbeddingKMeansModel, {"k": 3}),
    "pairwise": (PairwiseSimilarity, {"whichToKeep": "easy"}),
    "identify": (IdentifyDuplicates, {"eps": 0.1}),
    "remove": (RemoveDuplicates, {"idCol": "doc"}),
}

KEPT = list(range(9))
"""What version 0.1.0 kept of ``points``."""


@pytest.fixture(scope="module")
def points(spark):
    rows = [(i, [float(np.cos(i * 0.7)), float(np.sin(i * 0.7)), 0.5]) for i in range(40)]
    return spark.createDataFrame(rows, "id int, embedding array<float>")


def kept(stage, df) -> list[int]:
    return sorted(row.id for row in stage.transform(df).select("id").collect())


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_loads_with_its_params(spark, name):
    cls, params = STAGES[name]
    stage = cls.load(str(SAVED / name))
    assert type(stage) is cls
    assert {param: stage.getOrDefault(param) for param in params} == params


def test_a_loaded_model_removes_what_it_removed(points):
    assert kept(SemDedupModel.load(str(SAVED / "semdedup_model")), points) == KEPT


def test_pipelines_load(points):
    assert isinstance(Pipeline.load(str(SAVED / "pipeline")).getStages()[1], SemDedup)
    assert kept(PipelineModel.load(str(SAVED / "pipeline_model")), points) == KEPT


@pytest.mark.parametrize("cls", [cls for cls, _ in STAGES.values()], ids=lambda cls: cls.__name__)
def test_stages_name_the_package_itself_when_saved(spark, tmp_path, cls):
    stage = cls(centroids=np.eye(2)) if cls.__name__.endswith("Model") else cls()
    stage.save(str(tmp_path / "stage"))
    saved = spark.read.text(str(tmp_path / "stage" / "metadata")).head()[0]
    assert f'"class":"spark_semdedup.{cls.__name__}"' in saved.replace(" ", "")


@pytest.mark.parametrize("cls", [cls for cls, _ in STAGES.values()], ids=lambda cls: cls.__name__)
def test_doctests_of_stages(spark, cls):
    """pytest looks for a class's doctest in the module that the class names, which is the package."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(
        cls, cls.__name__, globs={**vars(spark_semdedup), "spark": spark, cls.__name__: cls}
    ):
        runner.run(test)
    assert runner.failures == 0
