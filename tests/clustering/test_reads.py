"""How often a fit computes embeddings: a table of 100 million of them takes minutes to read."""

from __future__ import annotations

import numpy as np
import pytest
import vectors
from marks import slow
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup import SemDedup
from spark_semdedup.clustering import fit
from spark_semdedup.clustering.sample import hash_below
from spark_semdedup.clustering.settings import Fit
from spark_semdedup.ml import kmeans
from spark_semdedup.pairwise.execute import any_size
from spark_semdedup.pairwise.ranking import Ranking

ROWS, K, FITTED, SPARE = 2000, 5, 320, 400
LOOKED_AT = FITTED + 6 * 17 + 16


@pytest.fixture
def counted(spark):
    """Documents, and how many embeddings of them have been computed so far."""
    embeddings = vectors.make("near_duplicates", ROWS, 8).tolist()
    computed = spark.sparkContext.accumulator(0)

    @F.udf(T.ArrayType(T.FloatType()))
    def embedding(i):
        computed.add(1)
        return embeddings[i]

    ids = spark.range(0, ROWS, 1, 3).select(F.col("id").cast("string").alias("id"), F.col("id").alias("i"))
    return ids.withColumn("embedding", embedding("i")).drop("i"), computed


def lowest(documents, share: float) -> int:
    """Rows whose ids hash lowest."""
    return documents.where(F.xxhash64("id", F.lit(42)) <= hash_below(share)).count()


@pytest.fixture
def clusterer(request, monkeypatch):
    """MLlib on the executors, or what spark-rapids-ml is given on GPUs."""
    if request.param == "rapids":

        def read_once(df, settings, rows, dim):
            assert (df.count(), dim) == (rows, 8)
            units = np.array([row.unit for row in df.collect()], np.float32)
            return Fit(units[: settings.k], (), "rapids", rows)

        monkeypatch.setattr(kmeans, "choose_clusterer", lambda *_: "rapids")
        monkeypatch.setattr(fit, "fit_rapids", read_once)
        return "auto"
    return request.param


@pytest.mark.parametrize("clusterer", ["mllib", "rapids", "faiss"], indirect=True)
@pytest.mark.parametrize("across", [slow({}), {"nProbe": 2}], ids=["cluster", "nProbe"])
def test_the_sample_is_read_once_for_the_fit_and_for_the_plan(spark, counted, monkeypatch, clusterer, across):
    documents, computed = counted
    monkeypatch.setattr(kmeans, "VISIT_ROWS", SPARE)
    held = set(spark.sparkContext._jsc.getPersistentRDDs())
    params = {"k": K, "fitSampleRows": FITTED, "clusterer": clusterer, **across}
    model = SemDedup(**params).fit(documents)
    looked_at = LOOKED_AT + (SPARE if across else 0)
    assert computed.value == lowest(documents, looked_at / ROWS)
    assert set(spark.sparkContext._jsc.getPersistentRDDs()) <= held, "the sample is forgotten"
    before = computed.value
    plan = model._compared(documents, Ranking.of(model), any_size).plan
    assert computed.value == before, "the plan is made of what the fit saw"
    assert plan.workload.rows == pytest.approx(ROWS, rel=0.1)


@pytest.mark.parametrize("clusterer", ["rapids"], indirect=True)
def test_a_comparison_of_another_coverage_looks_again(counted, monkeypatch, clusterer):
    documents, computed = counted
    monkeypatch.setattr(kmeans, "VISIT_ROWS", SPARE)
    model = SemDedup(k=K, fitSampleRows=FITTED, nProbe=2).fit(documents)
    before = computed.value
    model.setParams(nProbe=3)._compared(documents, Ranking.of(model), any_size)
    assert computed.value > before


@pytest.mark.parametrize("clusterer", ["mllib"], indirect=True)
def test_after_a_failure_nothing_is_held(spark, counted, monkeypatch, clusterer):
    documents, _ = counted
    held = set(spark.sparkContext._jsc.getPersistentRDDs())

    def fails(*_):
        raise RuntimeError("no fit")

    monkeypatch.setattr(fit, "fit_mllib", fails)
    with pytest.raises(RuntimeError, match="no fit"):
        SemDedup(k=K, fitSampleRows=FITTED, clusterer=clusterer).fit(documents)
    invalid = documents.withColumn("embedding", F.when(F.col("id") != "7", F.col("embedding")))
    with pytest.raises(Exception, match="embedding is null"):
        SemDedup(k=K, fitSampleRows=ROWS - 1, clusterer=clusterer).fit(invalid)
    assert set(spark.sparkContext._jsc.getPersistentRDDs()) <= held
