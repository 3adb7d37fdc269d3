"""Pairs and groups against brute force and SciPy, however the rows are compared and links are followed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import oracle
import pyarrow.parquet as pq
import pytest
from debian import DEBIAN, PAIRS, needs_debian
from marks import slow
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from shapes import frame, shapes

from spark_semdedup import SemDedupModel
from spark_semdedup.duplicates import groups
from spark_semdedup.errors import SemDedupError


class Expected:
    """Pairs, components and trees of rows that are all compared, or those of the same cluster."""

    def __init__(self, units: np.ndarray, centroids: np.ndarray, *, everywhere: bool, eps: float = 0.05) -> None:
        self.n = n = len(units)
        (cluster,) = oracle.clusters(units, np.zeros(n, int))
        both = np.where(np.tri(n, k=-1, dtype=bool), cluster.similarity, cluster.similarity.T)
        assigned = oracle.assignment(units, centroids)
        order = oracle.order_hard(list(range(n)), assigned.cosine_dist_to_cent)
        self.rank = np.empty(n, int)
        self.rank[order] = np.arange(n)
        meet = everywhere | (assigned.centroid[:, None] == assigned.centroid[None, :])
        near = meet & (both.astype(np.float64) >= 1.0 - eps) & (self.rank[:, None] < self.rank[None, :])
        self.pairs = [(int(a), int(b), both[a, b].tobytes()) for a, b in np.argwhere(near)]
        ends = np.argwhere(near).T
        graph = coo_array((np.ones(ends.shape[1]), tuple(ends)), shape=(n, n))
        self.labels = connected_components(graph, directed=False)[1]

    def component(self, row: int) -> tuple[int, int]:
        """The first-ranked row of the row's component, and its size."""
        members = np.flatnonzero(self.labels == self.labels[row])
        return int(members[np.argmin(self.rank[members])]), len(members)


def root(links: dict, id_):
    while id_ in links:
        id_ = links[id_]
    return id_


@pytest.mark.parametrize(
    "how", [slow({}), {"coverage": "exact", "maxClusterRows": 15}], ids=["cluster", "exact, tiled"]
)
def test_pairs_and_groups_are_those_of_brute_force(spark, how):
    units = shapes(np.random.default_rng(5))
    expected = Expected(units, units[:6], everywhere=bool(how))
    df = frame(spark, units).persist()
    model = SemDedupModel(centroids=units[:6], eps=0.05, **how)
    pairs = [(row.id_a, row.id_b, np.float32(row.cosine_sim_score).tobytes()) for row in model.pairs(df).collect()]
    assert sorted(pairs) == sorted(expected.pairs)
    links = {row.id: row.max_id for row in model.duplicates(df).collect()}
    sizes = Counter(root(links, i) for i in range(expected.n))
    trees = {row.id: row for row in model.groups(df).collect()}
    components = {row.id: row for row in model.groups(df, "components").collect()}
    assert len(trees) == len(components) == expected.n
    for i in range(expected.n):
        kept = root(links, i)
        assert (trees[i].group_id, trees[i].representative, trees[i].size) == (kept, kept, sizes[kept])
        assert (components[i].group_id, components[i].size) == expected.component(i)
        assert components[i].representative == kept
    df.unpersist()


def test_many_links_are_followed_in_joins(spark, monkeypatch):
    """Chains of 1 to 60 links, whose ids are in no order."""
    monkeypatch.setattr(groups, "FEW_LINKS", 2)
    rng = np.random.default_rng(0)
    names = [f"n{i}" for i in rng.permutation(400)]
    ends, links = {}, []
    start = 0
    for length in (1, 2, 3, 7, 60, 20):
        chain = names[start : start + length + 1]
        start += length + 1
        links += list(zip(chain[1:], chain[:-1], strict=True))
        ends |= dict.fromkeys(chain[1:], chain[0])
    duplicates = spark.createDataFrame(links, "id string, max_id string")
    assert {row.id: row.representative for row in groups.representatives(duplicates).collect()} == ends
    stars = duplicates.withColumnRenamed("max_id", "head")
    component = {row.id: row.component for row in groups.components(stars).collect()}
    by_end = {}
    for id_, end in [*ends.items(), *((end, end) for end in set(ends.values()))]:
        by_end.setdefault(end, set()).add(component[id_])
    assert all(len(labels) == 1 for labels in by_end.values())
    assert len(set.union(*by_end.values())) == len(by_end)


def test_chains_of_10000_links_on_the_driver(spark):
    n = 10_001
    duplicates = spark.range(1, n).selectExpr("cast(id as int) id", "cast(id - 1 as int) max_id")
    found = groups.representatives(duplicates)
    assert found.count() == n - 1
    assert found.select("representative").distinct().collect()[0][0] == 0


@pytest.mark.parametrize("few", [2, groups.FEW_LINKS])
def test_links_in_a_circle_are_refused(spark, monkeypatch, few):
    monkeypatch.setattr(groups, "FEW_LINKS", few)
    monkeypatch.setattr(groups, "_MOST_ROUNDS", 3)
    circle = spark.createDataFrame([(1, 2), (2, 3), (3, 1)], "id int, max_id int")
    with pytest.raises(SemDedupError, match="go in circles"):
        groups.representatives(circle).collect()


def test_too_many_pairs_are_refused_before_they_are_listed(spark):
    units = np.repeat(oracle.unit_vectors(np.eye(2)), 30, axis=0)
    df = frame(spark, units)
    model = SemDedupModel(centroids=units[[0, -1]], maxPairs=800)
    with pytest.raises(SemDedupError, match=r"maxPairs=800: about 870 pairs of rows are at least 0\.95 similar"):
        model.pairs(df)
    assert model.setParams(maxPairs=870).pairs(df).count() == 870


def test_another_kind_of_groups_is_refused(spark):
    with pytest.raises(SemDedupError, match="kind='both' cannot be used: it must be one of tree, components"):
        SemDedupModel(centroids=np.eye(2)).groups(spark.range(1), "both")


@pytest.mark.slow
@needs_debian
def test_pairs_of_the_whole_corpus(spark):
    known = pq.read_table(PAIRS).to_pylist()
    df = spark.read.parquet(str(DEBIAN)).select("id", "embedding")
    centroids = np.stack([np.array(row.embedding, np.float32) for row in df.orderBy("id").limit(250).collect()])
    model = SemDedupModel(centroids=centroids, eps=0.1, coverage="exact", whichToKeep="first")
    pairs = model.pairs(df).toPandas()
    found = set(zip(pairs.id_a, pairs.id_b, strict=True))
    assert len(found) == len(pairs)
    assert all(a.encode() < b.encode() for a, b in found)
    assert {frozenset(pair) for pair in found} == {frozenset((row["id_a"], row["id_b"])) for row in known}
    ids = sorted({id_ for pair in found for id_ in pair})
    place = {id_: i for i, id_ in enumerate(ids)}
    ends = np.array([(place[a], place[b]) for a, b in found]).T
    graph = coo_array((np.ones(len(found)), tuple(ends)), shape=(len(ids), len(ids)))
    labels = connected_components(graph, directed=False)[1]
    grouped = {row.id: row.group_id for row in model.groups(df, "components").where("size > 1").collect()}
    assert set(grouped) == set(ids)
    assert all(grouped[id_] == ids[int(np.argmax(labels == labels[place[id_]]))] for id_ in ids)
