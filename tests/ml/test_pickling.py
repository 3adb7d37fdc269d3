"""Stages travel by pickle: into closures, MLflow, and CrossValidator's copies."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from pyspark import cloudpickle

from spark_semdedup import (
    EmbeddingKMeans,
    EmbeddingKMeansModel,
    IdentifyDuplicates,
    PairwiseSimilarity,
    RemoveDuplicates,
    SemDedup,
    SemDedupModel,
)
from spark_semdedup.errors import SemDedupError

CENTROIDS = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
STAGES = [
    EmbeddingKMeans(k=3, seed=-7, tol=0.5),
    EmbeddingKMeansModel(centroids=CENTROIDS, history=[0.5]),
    IdentifyDuplicates(eps=0.1),
    PairwiseSimilarity(coverage="exact", normalize=False, taskGpuAmount=0.5),
    RemoveDuplicates(duplicatesPath="somewhere"),
    SemDedup(k=2, rankBy=["quality desc"], initMode=[[1.0, 0.0], [0.0, 1.0]]),
    SemDedupModel(centroids=CENTROIDS, eps=0.2),
]


@pytest.mark.parametrize("pickler", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
def test_a_stage_keeps_its_params_and_still_checks_them(stage, pickler):
    copy = pickle.loads(pickler.dumps(stage))
    assert (type(copy), copy.uid) == (type(stage), stage.uid)
    assert copy.settings() == stage.settings()
    assert {param.name for param in copy.params} == {param.name for param in stage.params}
    if hasattr(stage, "centroids"):
        np.testing.assert_array_equal(copy.centroids, stage.centroids)
        assert copy.history == stage.history
    with pytest.raises(SemDedupError, match="cannot be used"):
        copy.set(copy.params[0], object())


def test_a_closure_over_a_model_is_pickled():
    model = SemDedupModel(centroids=CENTROIDS)
    assert pickle.loads(cloudpickle.dumps(lambda: model.centroids.shape))() == (2, 2)


@pytest.mark.slow
def test_a_fitted_model_is_pickled_without_the_rows_it_was_fitted_on(spark):
    rows = [(i, [float(i % 3), 1.0]) for i in range(9)]
    df = spark.createDataFrame(rows, "id long, embedding array<double>")
    model = SemDedup(k=2).fit(df)
    copy = pickle.loads(pickle.dumps(model))
    assert model._fitted_on is not None
    assert copy._fitted_on is None
    assert {row.id for row in copy.transform(df).collect()} == {row.id for row in model.transform(df).collect()}
