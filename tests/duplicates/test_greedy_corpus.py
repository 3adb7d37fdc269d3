"""keepRule greedy on a whole corpus equals a loop over its rows in rank order: five rankings, any number of tasks."""

from __future__ import annotations

from functools import cache

import numpy as np
import oracle
import pytest
from debian import DEBIAN, Packages, needs_debian
from pyspark.sql import functions as F

from spark_semdedup import EmbeddingKMeans, IdentifyDuplicates, PairwiseSimilarity, SemDedupModel

pytestmark = [pytest.mark.slow, needs_debian]

RANKINGS = {
    "first": ({"whichToKeep": "first"}, lambda rows: oracle.order_first(rows.ids)),
    "hard": ({"whichToKeep": "hard"}, lambda rows: oracle.order_hard(rows.ids, rows.distances)),
    "easy": ({"whichToKeep": "easy"}, lambda rows: oracle.order_easy(rows.ids, rows.distances)),
    "random": ({"whichToKeep": "random"}, lambda rows: oracle.order_random(rows.ids, 42)),
    "longest": ({"rankBy": ["length desc"]}, lambda rows: oracle.order_rank_by(rows.ids, (rows.lengths, True))),
}


class AssignedCorpus(Packages):
    """The corpus with one fit and one assignment, which all runs share."""

    def __init__(self, spark) -> None:
        super().__init__()
        self.df = spark.read.parquet(str(DEBIAN)).select("id", "embedding", F.length("text").alias("length"))
        self.clustering = EmbeddingKMeans(k=250, backend="cpu").fit(self.df)
        self.assigned = self.clustering.transform(self.df).persist()
        found = self.assigned.select("id", "centroid", "cosine_dist_to_cent").toPandas().set_index("id").loc[self.ids]
        self.labels, self.distances = found["centroid"].to_numpy(), found["cosine_dist_to_cent"].to_numpy()
        self.order_of, self.one_by_one = cache(self._order_of), cache(self._one_by_one)
        self.in_partitions = cache(lambda number: self.assigned.repartition(number).persist())

    def _order_of(self, ranking: str) -> np.ndarray:
        return RANKINGS[ranking][1](self)

    def _one_by_one(self, ranking: str, eps: float, *, everywhere: bool) -> dict[str, tuple[str, bytes]]:
        """Of each removed row its most similar kept predecessor, the first-ranked on ties, and the score's bits."""
        order = self.order_of(ranking)
        met = everywhere | (self.labels[self.a] == self.labels[self.b])
        counts = met & (self.scores.astype(np.float64) >= 1.0 - eps)
        rank = np.argsort(order)
        before, after = np.sort([rank[self.a[counts]], rank[self.b[counts]]], axis=0)
        scores = self.scores[counts]
        best_first = np.lexsort((before, -scores, after))
        before, after, scores = before[best_first], after[best_first], scores[best_first]
        rows, starts = np.unique(after, return_index=True)
        removed: dict[int, tuple[int, np.float32]] = {}
        for row, start, stop in zip(rows.tolist(), starts, [*starts[1:], len(after)], strict=True):
            kept = next((i for i in range(start, stop) if int(before[i]) not in removed), None)
            if kept is not None:
                removed[row] = int(before[kept]), scores[kept]
        assert len(removed) < len(rows)  # the published rule removes more
        named = [self.ids[i] for i in order]
        return {named[row]: (named[other], score.tobytes()) for row, (other, score) in removed.items()}


@pytest.fixture(scope="module")
def corpus(spark) -> AssignedCorpus:
    return AssignedCorpus(spark)


def removed_rows(duplicates) -> dict[str, tuple[str, bytes]]:
    return {row.id: (row.max_id, np.float32(row.cosine_sim_score).tobytes()) for row in duplicates.collect()}


CASES = [
    ("easy", 0.01, "exact", 1),
    ("first", 0.1, "cluster", 16),
    ("hard", 0.05, "exact", 16),
    ("longest", 0.1, "exact", 16),
    ("random", 0.05, "cluster", 1),
]
"""All combinations of few rows: ``duplicates/test_greedy.py`` and the fuzz tests."""


@pytest.mark.parametrize(("ranking", "eps", "coverage", "partitions"), CASES)
def test_the_rule_equals_the_loop(corpus, coverage, eps, ranking, partitions):
    """All cases share one fit, one assignment and the pairs; a case takes some 10 s on two idle cores."""
    expected = corpus.one_by_one(ranking, eps, everywhere=coverage == "exact")
    params, _ = RANKINGS[ranking]
    stage = PairwiseSimilarity(keepRule="greedy", eps=eps, coverage=coverage, backend="cpu", **params)
    similarities = stage.setCentroids(corpus.clustering).transform(corpus.in_partitions(partitions))
    assert removed_rows(IdentifyDuplicates(eps=eps).transform(similarities)) == expected


def test_the_whole_job_equals_the_loop(corpus):
    """From embeddings on, with clusters that no fit made."""
    model = SemDedupModel(
        centroids=corpus.units[:: len(corpus.units) // 250],
        eps=0.1,
        keepRule="greedy",
        coverage="exact",
        whichToKeep="first",
        execution="streamed",
        backend="cpu",
    )
    expected = corpus.one_by_one("first", 0.1, everywhere=True)
    assert removed_rows(model.duplicates(corpus.df)) == expected
