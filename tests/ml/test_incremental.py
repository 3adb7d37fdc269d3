"""New rows against reference rows: batch after batch gives what one run over all rows in that order gives."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import numpy as np
import oracle
import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from shapes import frame, quality, shapes

from spark_semdedup import RemoveSimilar, SemDedupError, SemDedupIndex, SemDedupModel, index_model
from spark_semdedup.errors import AccountingError
from spark_semdedup.ml.incremental import compare_with, found_references
from spark_semdedup.pairwise import reference_plan
from spark_semdedup.pairwise.reference import RankOrder, TableReferences

EPS = 0.05


@dataclass(frozen=True)
class Batches:
    """Reference rows in memory, as an index has them."""

    model: SemDedupModel
    frames: tuple[DataFrame, ...] = ()
    margins = None

    def and_(self, rows: DataFrame, batch: int) -> Batches:
        routed = self.model.rows_of(rows).routed().where(F.col("centroid") >= 0)
        keys = [F.col(name).alias(f"key_{int(name[4:]) + 1}") for name in routed.columns if name.startswith("key_")]
        routed = routed.select("id", "unit", "centroid", F.lit(batch).alias("key_0"), *keys)
        return replace(self, frames=(*self.frames, routed.localCheckpoint()))

    @property
    def id_type(self):
        return self.frames[0].schema["id"].dataType

    @property
    def order(self) -> RankOrder:
        ranking = self.model.rows_of(self.frames[0].selectExpr("id", "array(1f) embedding", "0 quality")).ranking
        return RankOrder((True, *ranking.key_ascending), ranking.id_ascending)

    def rows(self, cells: np.ndarray) -> DataFrame:
        rows = self.frames[0]
        for each in self.frames[1:]:
            rows = rows.unionAll(each)
        return rows.where(F.col("centroid").isin(cells.tolist()))


ORDERS = {
    "first": ({"whichToKeep": "first"}, lambda ids, distance: oracle.order_first(ids)),
    "hard": ({"whichToKeep": "hard"}, oracle.order_hard),
    "random": ({"whichToKeep": "random"}, lambda ids, distance: oracle.order_random(ids, 42)),
    "rankBy": (
        {"rankBy": ["quality desc"]},
        lambda ids, distance: oracle.order_rank_by(ids, ([quality(i) for i in ids], True)),
    ),
}


def removed_one_by_one(units: np.ndarray, order: np.ndarray, *, greedy: bool, together) -> dict:
    """Going through all rows in order: for each removed row its most similar predecessor (greedy: a kept one)."""
    (cluster,) = oracle.clusters(units, np.zeros(len(units), int))
    both = np.where(np.tri(len(units), k=-1, dtype=bool), cluster.similarity, cluster.similarity.T)
    before: list[int] = []
    removed = {}
    for row in order.tolist():
        near = [i for i in before if together(i, row) and float(both[row, i]) >= 1.0 - EPS]
        if near:
            best = near[int(np.argmax(both[row, near]))]
            removed[row] = best, both[row, best].tobytes()
        if not near or not greedy:
            before.append(row)
    return removed


def in_order(order: np.ndarray, batch: np.ndarray) -> np.ndarray:
    return order[np.argsort(batch[order], kind="stable")]


@pytest.mark.parametrize(
    ("ranking", "rule", "how", "batches"),
    [
        ("first", "greedy", {"coverage": "exact"}, 3),
        ("hard", "ranked", {"coverage": "exact", "maxClusterRows": 20}, 2),
        pytest.param("hard", "greedy", {}, 3, marks=pytest.mark.slow),
        pytest.param("random", "greedy", {"coverage": "exact", "maxClusterRows": 20}, 3, marks=pytest.mark.slow),
        pytest.param("rankBy", "ranked", {}, 4, marks=pytest.mark.slow),
        pytest.param("rankBy", "greedy", {"nProbe": 6}, 4, marks=pytest.mark.slow),
    ],
)
def test_batches_in_turn_remove_what_one_run_in_that_order_removes(spark, monkeypatch, ranking, rule, how, batches):
    if "maxClusterRows" in how:  # new rows are sent to the tasks of their cells, several parts of them
        monkeypatch.setattr(reference_plan, "MOST_BYTES", 0)
    rng = np.random.default_rng(11)
    units = shapes(rng)
    batch = rng.integers(0, batches, len(units))
    params, order_of = ORDERS[ranking]
    labels = oracle.assignment(units, units[:6])
    order = in_order(order_of(list(range(len(units))), labels.cosine_dist_to_cent), batch)

    def together(i: int, j: int) -> bool:
        return "nProbe" in how or "coverage" in how or labels.centroid[i] == labels.centroid[j]

    expected = removed_one_by_one(units, order, greedy=rule == "greedy", together=together)
    model = SemDedupModel(centroids=units[:6], eps=EPS, keepRule=rule, **how, **params)
    rows = frame(spark, units).withColumn("batch", F.element_at(F.lit(batch), F.col("id") + 1)).persist()
    known, removed = Batches(model), {}
    for number in range(batches):
        new = rows.where(F.col("batch") == number).drop("batch")
        result = model.run(new, against=known if known.frames else None)
        for row in result.duplicates.collect():
            removed[row.id] = row.max_id, np.float32(row.cosine_sim_score).tobytes()
        known = known.and_(result.deduplicated if rule == "greedy" else new, number)
        result.unpersist()
    assert removed == expected
    assert len(expected) > 50


def test_a_reference_removes_what_is_similar_to_it_and_nothing_else(spark):
    """New rows that equal one another stay."""
    units = shapes(np.random.default_rng(3))
    model = SemDedupModel(centroids=units[:6], eps=EPS, coverage="exact")
    rows = frame(spark, units)
    known, new = rows.where("id < 40"), rows.where("id >= 40")
    references = TableReferences(model.rows_of(known))
    found = {row.id: row for row in compare_with(model, model.rows_of(new), references).collect()}
    (cluster,) = oracle.clusters(units, np.zeros(len(units), int))
    similarity = cluster.similarity[40:, :40]
    assert set(found) == set(range(40, len(units)))
    hits = 0
    for i, row in found.items():
        best = int(np.argmax(similarity[i - 40]))
        if float(similarity[i - 40, best]) >= 1 - EPS:
            assert (row.max_id, np.float32(row.cosine_sim_score)) == (best, similarity[i - 40, best])
            hits += 1
        else:
            assert (row.max_id, row.cosine_sim_score) == (i, 0)
    assert hits > 10


@pytest.fixture(scope="module")
def halves(spark, tmp_path_factory):
    """Rows, of which the first half is in an index; and the index's folder."""
    units = shapes(np.random.default_rng(8))
    rows = frame(spark, units).persist()
    model = SemDedupModel(centroids=units[:6], eps=EPS, keepRule="greedy", coverage="exact", whichToKeep="first")
    path = str(tmp_path_factory.mktemp("halves") / "index")
    model.run(rows.where("id < 60")).write_index(path)
    return units, rows, path


def test_an_index_knows_the_model_that_made_it(spark, halves, tmp_path):
    units, rows, path = halves
    index = SemDedupIndex.open(spark, shutil.copytree(path, str(tmp_path / "index")))
    model = index_model(index)
    assert np.array_equal(model.centroids, units[:6])
    assert (model.getKeepRule(), model.getCoverage(), model.getEps()) == ("greedy", "exact", EPS)
    result = model.run(rows.where("id >= 60"), against=index)
    expected = removed_one_by_one(units, np.arange(len(units)), greedy=True, together=lambda i, j: True)
    assert {row.id for row in result.duplicates.collect()} == {i for i in expected if i >= 60}
    result.check()
    lost = F.when(F.col("id") == 60, F.lit(9999)).otherwise(F.col("max_id"))
    with pytest.raises(AccountingError, match="60 has a max_id that is no row's"):
        replace(result, compared=result.compared.withColumn("max_id", lost)).check()
    with pytest.raises(SemDedupError, match="evaluate a result without"):
        index_model(index, keepRule="ranked").evaluate(rows.where("id >= 60"), result)
    after = result.update_index(index)
    assert after.rows_in == len(units) - len(expected)
    with pytest.raises(SemDedupError, match="changed by another process"):
        result.update_index(index)


def test_rows_that_were_not_compared_with_an_index_are_not_added_to_it(spark, halves):
    units, rows, path = halves
    index = SemDedupIndex.open(spark, path)
    alone = index_model(index).run(rows.where("id >= 60"))
    with pytest.raises(SemDedupError, match=r"were not compared with version \d+ of the index"):
        alone.update_index(index)
    other = SemDedupModel(centroids=units[1:7], eps=EPS, keepRule="greedy", coverage="exact", whichToKeep="first")
    with pytest.raises(SemDedupError, match="made with other centroids"):
        other.run(rows.where("id >= 60"), against=index)
    with pytest.raises(SemDedupError, match=r"eps is 0\.1, but the index .* was made with 0\.05"):
        index_model(index, eps=0.1).run(rows.where("id >= 60"), against=index)


def test_a_stage_removes_what_is_similar_to_an_index(spark, halves, tmp_path):
    """Saved and loaded; rows that cannot be compared go with skip, and stay with keep."""
    units, rows, path = halves
    RemoveSimilar(indexPath=path, eps=EPS, coverage="exact").save(str(tmp_path / "stage"))
    stage = RemoveSimilar.load(str(tmp_path / "stage"))
    held = [row.id for row in SemDedupIndex.open(spark, path).rows().collect() if row.id < 60]
    similarity = oracle.clusters(units, np.zeros(len(units), int))[0].similarity
    similar = {i for i in range(60, len(units)) if (similarity[i, held].astype(float) >= 1 - EPS).any()}
    new = rows.where("id >= 60")
    assert {row.id for row in stage.transform(new).collect()} == set(range(60, len(units))) - similar
    assert len(similar) > 10
    zero = F.when(F.col("id") == 61, F.array(F.lit(0.0).cast("float"))).otherwise(F.col("embedding"))
    for how, stays in (("keep", True), ("skip", False)):
        kept = stage.copy().setHandleInvalid(how).transform(new.withColumn("embedding", zero))
        assert (61 in {row.id for row in kept.collect()}) is stays


def test_a_stage_without_an_index_says_so(spark, halves):
    with pytest.raises(SemDedupError, match="has no indexPath"):
        RemoveSimilar().transform(halves[1])


def test_ids_of_another_type_are_refused(spark):
    units = shapes(np.random.default_rng(3))[:20]
    model = SemDedupModel(centroids=units[:2], eps=EPS)
    rows = frame(spark, units)
    others = rows.withColumn("id", F.col("id").cast("string"))
    with pytest.raises(Exception, match="cast them alike"):
        found_references(model, model.rows_of(rows), TableReferences(model.rows_of(others)))


def test_no_new_row_at_all(spark):
    units = shapes(np.random.default_rng(3))[:20]
    model = SemDedupModel(centroids=units[:2], eps=EPS, handleInvalid="skip")
    rows = frame(spark, units)
    invalid = rows.limit(2).withColumn("embedding", F.array(F.lit(0.0).cast("float")))
    found = found_references(model, model.rows_of(invalid), TableReferences(model.rows_of(rows)))
    assert found.collect() == []
