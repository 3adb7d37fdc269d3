"""On the benchmarks' inputs: one answer, whatever the screening precision, batches, tiles and partitions."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest

from benchmarks import skew
from benchmarks.generate import generate, hierarchy
from spark_semdedup import EmbeddingKMeans, SemDedupModel

VARIANTS = [
    {"precision": "float16"},
    {"batchSize": 33},
    {"maxClusterRows": 150},
    {"maxClusterRows": 97, "precision": "float16", "batchSize": 100_000},
]


@pytest.fixture(scope="module", params=["shipped sample", "generated"])
def documents(request, spark, tmp_path_factory):
    if request.param == "shipped sample":
        return spark.read.parquet(str(resources.files("spark_semdedup") / "data" / "debian-sample.parquet"))
    out = tmp_path_factory.mktemp("generated") / "rows"
    generate(out, 12_000, 384, 0.1, seed=1)
    return spark.read.parquet(str(out))


def answer(model: SemDedupModel, df) -> dict[object, tuple[object, bytes]]:
    rows = model.similarities(df).collect()
    return {row.id: (row.max_id, np.float32(row.cosine_sim_score).tobytes()) for row in rows}


@pytest.mark.slow
def test_one_answer_for_every_precision_batch_tile_and_number_of_partitions(spark, documents):
    df = documents.select("id", "embedding")
    centroids = EmbeddingKMeans(backend="cpu").fit(df).centroids
    expected = answer(SemDedupModel(centroids=centroids), df.repartition(1))
    assert len(expected) == df.count()
    assert answer(SemDedupModel(centroids=centroids), df.repartition(16)) == expected
    for params in VARIANTS:
        assert answer(SemDedupModel(centroids=centroids, **params), df.repartition(3)) == expected, params


@pytest.mark.slow
def test_the_skew_benchmark_finds_what_brute_force_finds(spark):
    x, centroids = skew.one_large_cluster(4000, 16)
    found = skew.deduplicate(spark, x, centroids).answer
    assert skew.different(x, centroids, found, rows=range(0, 4000, 7)) == 0
    found[7] = (found[7][0], found[7][1] + 1e-7)  # and would notice if it did not
    assert skew.different(x, centroids, found, rows=range(0, 4000, 7)) == 1


def test_topics_of_a_hierarchy_are_near_less_near_and_far():
    topics = hierarchy(np.random.default_rng(0), 250, 384)
    assert topics.shape == (256, 384)
    cosines = topics @ topics.T
    for level, expected in enumerate((0.75, 0.5, 0.25, 0.0)):
        apart = 4**level  # the first row of a group and the first of the next one of its own parent
        assert np.mean([cosines[i, i + apart] for i in range(0, 256, 4 * apart)]) == pytest.approx(expected, abs=0.1)
