"""Noise in the comparison: rows labelled −1 are kept and compared with nothing."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from marks import slow

from spark_semdedup import IdentifyDuplicates, PairwiseSimilarity, SemDedupError
from spark_semdedup.explore import hdbscan
from spark_semdedup.explore.clusters import Clusters


@pytest.fixture(scope="module")
def dense(debian) -> Clusters:
    """HDBSCAN's clusters of 500 rows, many of them noise."""
    return hdbscan(debian.take(np.arange(500)), min_samples=2)


@pytest.mark.parametrize("execution", [slow("grouped"), "streamed"])
def test_clusters_are_compared_and_noise_is_not(spark, dense, execution):
    table = dense.dataframe(spark)
    stage = PairwiseSimilarity(whichToKeep="first", execution=execution, normalize=False)
    found = {row.id: (row.max_id, row.cosine_sim_score) for row in stage.transform(table).collect()}
    ids, units, labels = dense.sample.ids.tolist(), dense.sample.units, dense.labels
    alone = np.where(labels < 0, -1 - np.arange(len(labels)), labels)  # each row of noise a cluster of its own
    expected = oracle.similarities(units, alone, oracle.order_first(ids))
    assert found == {
        id_: (ids[neighbour], float(score))
        for id_, neighbour, score in zip(ids, expected.neighbour, expected.score, strict=True)
    }
    assert (labels < 0).sum() > 100
    duplicates = {row.id for row in IdentifyDuplicates(eps=0.1).transform(stage.transform(table)).collect()}
    assert len(duplicates) > 10
    assert not duplicates & {id_ for id_, label in zip(ids, labels, strict=True) if label < 0}


def test_noise_is_neither_invalid_nor_a_cluster(spark, dense):
    counts = PairwiseSimilarity(whichToKeep="first").compared(dense.dataframe(spark)).entries.counts()
    sizes = np.array(list(dense.sizes.values()))
    assert counts["rows"] == 500
    assert counts["invalid"] == 0
    assert counts["clusters"] == dense.n_clusters
    assert counts["pairs"] == (sizes * (sizes - 1) // 2).sum()


def test_noise_alone_is_kept(spark, dense):
    table = dense.dataframe(spark).where("centroid < 0")
    rows = PairwiseSimilarity().transform(table).collect()
    assert len(rows) == dense.n_noise
    assert all(row.max_id == row.id and row.cosine_sim_score == 0 for row in rows)


def test_further_clusters_cannot_be_visited_without_one_of_one_s_own(spark, dense):
    from spark_semdedup import EmbeddingKMeansModel

    model = EmbeddingKMeansModel(centroids=dense.centroids)
    stage = PairwiseSimilarity(coverage="exact", eps=0.1).setCentroids(model)
    with pytest.raises(Exception, match="it is -1, but there are"):
        stage.transform(dense.dataframe(spark)).collect()
    assert issubclass(SemDedupError, ValueError)
