"""keepRule greedy: what going through all rows in rank order keeps, however the rows are compared."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import vectors

from spark_semdedup import SemDedupModel
from spark_semdedup.duplicates import greedy
from spark_semdedup.pairwise import links


def one_by_one(units: np.ndarray, labels: np.ndarray, order: np.ndarray, eps: float, *, everywhere: bool):
    """For each removed row its most similar kept predecessor, the first-ranked on ties, and the similarity to it."""
    (cluster,) = oracle.clusters(units, np.zeros(len(units), int))
    both = np.where(np.tri(len(units), k=-1, dtype=bool), cluster.similarity, cluster.similarity.T)
    kept: list[int] = []
    removed: dict[int, tuple[int, bytes]] = {}
    for row in order.tolist():
        near = [i for i in kept if (everywhere or labels[i] == labels[row]) and float(both[row, i]) >= 1.0 - eps]
        if near:
            best = near[int(np.argmax(both[row, near]))]
            removed[row] = best, both[row, best].tobytes()
        else:
            kept.append(row)
    return removed


def frame(spark, units: np.ndarray, partitions: int = 2):
    rows = [(i, units[i].tolist(), (i * 7919) % 100) for i in range(len(units))]
    return spark.createDataFrame(rows, "id int, embedding array<float>, quality int").repartition(partitions)


def removed_by(model: SemDedupModel, df) -> dict:
    return {row.id: (row.max_id, np.float32(row.cosine_sim_score).tobytes()) for row in model.duplicates(df).collect()}


def shapes(rng: np.random.Generator, d: int = 8) -> np.ndarray:
    """Stars, chains, cliques, equal rows and ties, each about a direction of its own."""
    parts = []
    for _ in range(3):
        centre, away = np.linalg.qr(rng.standard_normal((d, 2)))[0].T
        turns = np.arange(12) * 0.25  # a chain: neighbours at cos 0.25 = 0.969, the next ones at 0.878
        parts.append(np.cos(turns)[:, None] * centre + np.sin(turns)[:, None] * away)
        star = centre + 0.22 * np.linalg.qr(rng.standard_normal((d, d)))[0]
        parts.append(np.concatenate([centre[None], star]))
        parts.append(np.repeat(rng.standard_normal((1, d)), 7, axis=0))  # equal rows
        parts.append(rng.standard_normal((1, d)) + 0.01 * rng.standard_normal((9, d)))  # a clique
    lattice = vectors.lattice(rng, 40, d)  # ties
    units = oracle.unit_vectors(np.concatenate([*parts, lattice]))
    return units[rng.permutation(len(units))]


RANKINGS = {
    "first": ({"whichToKeep": "first"}, lambda ids, distance: oracle.order_first(ids)),
    "hard": ({"whichToKeep": "hard"}, oracle.order_hard),
    "easy": ({"whichToKeep": "easy"}, oracle.order_easy),
    "random": ({"whichToKeep": "random"}, lambda ids, distance: oracle.order_random(ids, 42)),
    "rankBy": (
        {"rankBy": ["quality desc"]},
        lambda ids, distance: oracle.order_rank_by(ids, ([(i * 7919) % 100 for i in ids], True)),
    ),
}


@pytest.mark.parametrize("most_links", [1, links.MOST_LINKS])
@pytest.mark.parametrize(
    "how", [{}, {"maxClusterRows": 20}, {"coverage": "exact"}, {"coverage": "exact", "maxClusterRows": 15}], ids=str
)
@pytest.mark.parametrize("ranking", ["hard", "rankBy"])
def test_the_rule_equals_a_loop_over_all_rows(spark, monkeypatch, how, ranking, most_links):
    monkeypatch.setattr(links.LinkRule.__init__, "__defaults__", (most_links,))
    units = shapes(np.random.default_rng(5))
    params, order_of = RANKINGS[ranking]
    centroids = units[:6]
    assigned = oracle.assignment(units, centroids)
    order = order_of(list(range(len(units))), assigned.cosine_dist_to_cent)
    everywhere = how.get("coverage") == "exact"
    expected = one_by_one(units, assigned.centroid, order, 0.05, everywhere=everywhere)
    model = SemDedupModel(centroids=centroids, eps=0.05, keepRule="greedy", **how, **params)
    assert removed_by(model, frame(spark, units)) == expected
    assert expected


@pytest.mark.parametrize("ranking", sorted(RANKINGS))
def test_many_links_are_thinned_out_where_the_rows_are(spark, monkeypatch, ranking):
    monkeypatch.setattr(greedy, "FEW_LINKS", 3)
    units = shapes(np.random.default_rng(6))
    params, order_of = RANKINGS[ranking]
    assigned = oracle.assignment(units, units[:3])
    order = order_of(list(range(len(units))), assigned.cosine_dist_to_cent)
    expected = one_by_one(units, assigned.centroid, order, 0.05, everywhere=True)
    model = SemDedupModel(
        centroids=units[:3], eps=0.05, keepRule="greedy", coverage="exact", execution="streamed", **params
    )
    assert removed_by(model, frame(spark, units)) == expected
