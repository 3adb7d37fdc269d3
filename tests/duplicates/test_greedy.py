"""keepRule greedy: what going through all rows in rank order keeps, however the rows are compared."""

from __future__ import annotations

import json

import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from program import call
from shapes import frame, quality, shapes

from spark_semdedup import PairwiseSimilarity, SemDedupModel
from spark_semdedup.duplicates import greedy
from spark_semdedup.errors import AccountingError
from spark_semdedup.kernels.graphs import REMOVED
from spark_semdedup.pairwise.links import LinkRule
from spark_semdedup.runs.checks import check_pairs, check_representatives


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


def removed_by(model: SemDedupModel, df) -> dict:
    return {row.id: (row.max_id, np.float32(row.cosine_sim_score).tobytes()) for row in model.duplicates(df).collect()}


RANKINGS = {
    "first": ({"whichToKeep": "first"}, lambda ids, distance: oracle.order_first(ids)),
    "hard": ({"whichToKeep": "hard"}, oracle.order_hard),
    "easy": ({"whichToKeep": "easy"}, oracle.order_easy),
    "random": ({"whichToKeep": "random"}, lambda ids, distance: oracle.order_random(ids, 42)),
    "rankBy": (
        {"rankBy": ["quality desc"]},
        lambda ids, distance: oracle.order_rank_by(ids, ([quality(i) for i in ids], True)),
    ),
}


@pytest.mark.parametrize(
    ("ranking", "how", "most_links"),
    [
        pytest.param("hard", {}, 1, marks=pytest.mark.slow),
        pytest.param("rankBy", {"maxClusterRows": 20}, 2, marks=pytest.mark.slow),
        ("random", {"coverage": "exact", "maxClusterRows": 15}, 1),
        pytest.param("first", {"coverage": "exact", "execution": "streamed"}, 32, marks=pytest.mark.slow),
        pytest.param("easy", {"maxClusterRows": 20, "execution": "streamed"}, 32, marks=pytest.mark.slow),
        pytest.param("hard", {"nProbe": 6}, 3, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_rule_equals_a_loop_over_all_rows(spark, monkeypatch, ranking, how, most_links):
    """``most_links``: with few of them most rows are undecided at first, and compared again."""
    monkeypatch.setattr(LinkRule.__init__, "__defaults__", (most_links, most_links))
    units = shapes(np.random.default_rng(5))
    params, order_of = RANKINGS[ranking]
    assigned = oracle.assignment(units, units[:6])
    order = order_of(list(range(len(units))), assigned.cosine_dist_to_cent)
    everywhere = how.get("coverage") == "exact" or how.get("nProbe") == 6
    expected = one_by_one(units, assigned.centroid, order, 0.05, everywhere=everywhere)
    model = SemDedupModel(centroids=units[:6], eps=0.05, keepRule="greedy", **how, **params)
    assert removed_by(model, frame(spark, units)) == expected
    assert len(expected) > 50


def test_the_step_by_step_comparison_decides_the_same(spark):
    units = shapes(np.random.default_rng(7))[:60]
    rows = [(i, 0, units[i].tolist()) for i in range(len(units))]
    df = spark.createDataFrame(rows, "id int, centroid int, embedding array<float>")
    found = PairwiseSimilarity(keepRule="greedy", whichToKeep="first").transform(df)
    similar = {row.id: (row.max_id, row.cosine_sim_score) for row in found.collect()}
    removed = one_by_one(units, np.zeros(60), np.arange(60), 0.05, everywhere=True)
    got = {i: (j, np.float32(s).tobytes()) for i, (j, s) in similar.items() if i != j and s >= 0.95}
    assert got == removed
    assert len(similar) == 60


def test_links_are_thinned_out_in_joins_as_on_the_driver(spark, monkeypatch):
    """Thirty graphs at once. With room for two links on the driver, all others are decided in joins."""
    rng, links, removed = np.random.default_rng(2), [], {}
    for graph in range(30):
        n = int(rng.integers(2, 9))
        edges = {(int(max(edge)), int(min(edge))) for edge in rng.integers(0, n, (int(rng.integers(20)), 2))}
        edges = {edge for edge in edges if edge[0] != edge[1]}
        kept: list[int] = []
        for vertex in range(n):
            if not any((vertex, other) in edges for other in kept):
                kept.append(vertex)
        links += [(f"{graph} {i}", f"{graph} {j}") for i, j in edges]
        removed |= {f"{graph} {i}": REMOVED for i in range(n) if i not in kept}
    monkeypatch.setattr(greedy, "FEW_LINKS", 2)
    frame_ = spark.createDataFrame(links, "id string, other string")
    assert {row.id: row.state for row in greedy.solve(frame_).collect()} == removed


def test_a_chain_of_10000_links_ends(spark):
    """Every second row is kept, though the last one hangs on the first."""
    n = 10_001
    links = spark.createDataFrame([(i, i - 1) for i in range(1, n)], "id int, other int")
    states = {row.id for row in greedy.solve(links).collect()}
    assert states == set(range(1, n, 2))


@pytest.mark.slow
def test_thousands_of_equal_and_nearly_equal_rows(spark):
    rng = np.random.default_rng(1)
    base = rng.standard_normal((2, 16))
    x = np.concatenate([np.repeat(base[:1], 6000, axis=0), base[1] + 1e-4 * rng.standard_normal((6000, 16))])
    units = oracle.unit_vectors(x)
    model = SemDedupModel(centroids=units[[0, -1]], keepRule="greedy", whichToKeep="first", maxClusterRows=2500)
    removed = removed_by(model, frame(spark, units))
    assert len(removed) == len(units) - 2
    assert {max_id for max_id, _ in removed.values()} == {0, 6000}


def test_a_removed_representative_and_a_lost_pair_do_not_add_up(spark):
    duplicates = spark.createDataFrame([(2, 1, 0.97), (3, 2, 0.99)], "id int, max_id int, cosine_sim_score float")
    with pytest.raises(AccountingError, match="the row with id 3 names a removed row"):
        check_representatives(duplicates)
    pairs = duplicates.select(duplicates.max_id.alias("id_a"), duplicates.id.alias("id_b"), "cosine_sim_score")
    check_pairs(pairs, duplicates)
    with pytest.raises(AccountingError, match="the row with id 2 and its max_id are not among the pairs"):
        check_pairs(pairs.where("id_b = 3"), duplicates)


def test_scores_of_the_greedy_rule_are_for_its_own_eps_alone(spark, capsys, tmp_path):
    units = shapes(np.random.default_rng(3))[:80]
    table = pa.table({"id": range(80), "embedding": pa.array(units.tolist(), pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "rows.parquet")
    out = tmp_path / "out"
    said = call(
        *(capsys, "run", "--input", tmp_path / "rows.parquet", "--output", out, "--k", 3, "--keep-rule", "greedy"),
        *("--which-to-keep", "first", "--results", "duplicates,similarities,groups", "--write-pairs"),
    )
    assert said[0] == 0, said
    assert "every removed row has a kept row within eps" in said[1]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["keep_rule"], summary["kept_from"]) == ("greedy", 0.95)
    assert not (out / "deduplicated").exists()
    same, other = tmp_path / "same", tmp_path / "other"
    assert call(capsys, "identify", "--input", out / "similarities", "--output", same)[0] == 0
    again = {row["id"] for row in pq.read_table(same).to_pylist()}
    assert again == {row["id"] for row in pq.read_table(out / "duplicates").to_pylist()}
    refused = call(capsys, "identify", "--input", out / "similarities", "--output", other, "--eps", 0.01)
    assert "eps=0.01 is not 0.05, for which keepRule='greedy' decided the scores" in refused[2][-1]
    for command in ("sweep", "evaluate"):
        arguments = [out] if command == "sweep" else ["--result", out, "--input", tmp_path / "rows.parquet"]
        assert "keepRule='greedy'" in call(capsys, command, *arguments)[2][-1]
