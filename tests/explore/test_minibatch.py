"""``clusterer="minibatch"``: scikit-learn's MiniBatchKMeans fits the centroids of a deduplication."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.cluster import MiniBatchKMeans

from spark_semdedup import EmbeddingKMeans, SemDedup, SemDedupError
from spark_semdedup.clustering.minibatch import BATCH_ROWS, fit_minibatch
from spark_semdedup.clustering.settings import FitSettings, choose_clusterer, refuse_unsupported


def settings(k: int, **params) -> FitSettings:
    return FitSettings.from_params(EmbeddingKMeans(clusterer="minibatch", **params), k)


def test_centroids_are_scikit_learn_s(debian):
    fit = fit_minibatch(debian.units, settings(20, seed=5, maxIter=7, nInit=2))
    theirs = MiniBatchKMeans(20, n_init=2, max_iter=7, batch_size=BATCH_ROWS, random_state=5).fit(debian.units)
    assert np.array_equal(fit.centroids, theirs.cluster_centers_)
    assert (fit.clusterer, fit.rows, fit.history) == ("minibatch", 3350, ())


def test_settings_reach_it(debian):
    start = debian.units[:6]
    fit = fit_minibatch(debian.units, settings(6, initMode=start, maxSamplesPerBatch=500, tol=0.01))
    theirs = MiniBatchKMeans(6, init=start, n_init=1, max_iter=20, batch_size=500, tol=0.01, random_state=42)
    assert np.array_equal(fit.centroids, theirs.fit(debian.units).cluster_centers_)


def test_a_deduplication_fits_with_it_and_finds_the_same_with_exact_coverage(spark, debian):
    part = debian.take(np.arange(400))
    rows = list(zip(part.ids.tolist(), part.units.tolist(), strict=True))
    df = spark.createDataFrame(rows, "id string, embedding array<float>")
    found = [
        {row.id for row in SemDedup(k=8, clusterer=clusterer, coverage="exact", whichToKeep="first", eps=0.1)
         .fit(df).duplicates(df).collect()}
        for clusterer in ("minibatch", "faiss")
    ]  # fmt: skip
    assert found[0] == found[1]
    assert len(found[0]) > 20


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"distanceMeasure": "cosine"}, "distanceMeasure='cosine' cannot be honoured by clusterer 'minibatch'"),
        ({"initMode": "k-means||"}, "must be one of k-means"),
        ({"oversamplingFactor": 3.0}, "oversamplingFactor=3.0 cannot be honoured"),
        ({"maxIter": 0}, "maxIter=0 cannot be honoured"),
    ],
)
def test_what_it_cannot_honour_is_refused(params, message):
    with pytest.raises(SemDedupError, match=message):
        refuse_unsupported("minibatch", settings(3, **params))


def test_it_runs_on_cpus():
    assert choose_clusterer("minibatch", "cpu", "cpu") == "minibatch"
    with pytest.raises(SemDedupError, match="contradicts backend='gpu'"):
        choose_clusterer("minibatch", "gpu", "gpu")


def test_without_scikit_learn_the_extra_is_named(monkeypatch, debian):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(SemDedupError, match=r"pip install 'spark-semdedup\[explore\]'"):
        fit_minibatch(debian.units, settings(3))
