"""PartialMatches: merged to one for each row, in one pass or where they are kept, and counted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from marks import slow

from spark_semdedup import SemDedupModel
from spark_semdedup.errors import AccountingError
from spark_semdedup.pairwise.merge import PartialMatches
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.runs import results
from spark_semdedup.spark.files import Files

RANKINGS = [
    Ranking(),
    Ranking(ascending=False, distance="cosine_dist_to_cent"),
    Ranking(by=(("a", True), ("b", False))),
]


def random_entries(ranking: Ranking, seed: int) -> pd.DataFrame:
    """Of 60 rows, of which a third have further entries; few scores and keys, so that many tie."""
    rng = np.random.default_rng(seed)
    further = rng.choice(60, 40)
    row = np.concatenate([np.arange(60), further])
    alone = rng.random(len(row)) < 0.2
    best = np.where(alone, row, rng.integers(0, 60, len(row)))
    found = pd.DataFrame({"id": [f"r{i:02}" for i in row], "max_id": [f"r{i:02}" for i in best]})
    found["cosine_sim_score"] = np.where(alone, 0, rng.choice([0.25, 0.5, 1.0], len(row))).astype(np.float32)
    found["centroid"] = row % 7
    found["compared"] = rng.integers(0, 9, len(row))
    found["reason"] = None
    found["own"] = np.arange(len(row)) < 60
    keys = rng.choice([0.5, 1.5, np.nan], (60, len(ranking.key_ascending)))
    for i in range(len(ranking.key_ascending)):
        found[f"key_{i}"], found[f"max_key_{i}"] = keys[row, i], keys[best, i]
    return found


def expected(entries: pd.DataFrame, ranking: Ranking) -> dict[str, tuple]:
    """By plain Python: the best entry of each id, and the sum of what its entries compared."""

    def place(entry):
        keys = [
            (np.inf if np.isnan(key) else key) * (1 if up else -1)
            for key, up in zip(
                (entry[f"max_key_{i}"] for i in range(len(ranking.key_ascending))), ranking.key_ascending, strict=True
            )
        ]
        number = int(entry["max_id"][1:]) * (1 if ranking.id_ascending else -1)
        return (entry["max_id"] == entry["id"], -entry["cosine_sim_score"], *keys, number)

    found = {}
    for id_, group in entries.groupby("id"):
        best = min(group.to_dict("records"), key=place)
        found[id_] = (best["max_id"], best["cosine_sim_score"], int(group["compared"].sum()))
    return found


SCHEMA = "id string, max_id string, cosine_sim_score float, centroid int, compared long, reason string, own boolean"


def as_entries(spark, found: pd.DataFrame, ranking: Ranking, at_least: float = -np.inf) -> PartialMatches:
    keys = [name for name in found.columns if "key_" in name]
    schema = ", ".join([SCHEMA, *(f"{name} double" for name in keys)])
    rows = [tuple(None if value is None or value != value else value for value in row) for row in found.values.tolist()]
    return PartialMatches(spark.createDataFrame(rows, schema).repartition(3), ranking, at_least)


def merged(df) -> dict[str, tuple]:
    rows = df.collect()
    found = {row["id"]: (row["max_id"], row["cosine_sim_score"], row["compared"]) for row in rows}
    assert len(found) == len(rows), "one for each id"
    return found


@pytest.mark.parametrize("ranking", [RANKINGS[0], slow(RANKINGS[1]), RANKINGS[2]], ids=["id", "distance", "columns"])
@pytest.mark.parametrize("way", ["one pass", "few", slow("many")])
def test_entries_are_merged_to_the_best_of_each_row(spark, monkeypatch, ranking, way):
    found = random_entries(ranking, seed=len(ranking.key_ascending))
    entries = as_entries(spark, found, ranking)
    further = entries.counts()["further"]
    assert further == 40
    monkeypatch.setattr("spark_semdedup.pairwise.merge.FEW", 40 if way == "few" else 39)
    best = entries.merged(None if way == "one pass" else further)
    assert best.columns == [name for name in found.columns if name != "own" and not name.startswith("max_key_")]
    assert merged(best) == expected(found, ranking)


def test_own_entries_alone_are_the_rows(spark):
    found = random_entries(Ranking(), seed=7)
    entries = as_entries(spark, found[found["own"]], Ranking())
    assert merged(entries.merged(0)) == expected(found[found["own"]], Ranking())


def test_entries_are_counted(spark):
    found = pd.DataFrame(
        [
            ("a", "b", 0.5, 3, 4, None, True),
            ("b", "b", 0.0, 3, 1, None, True),
            ("c", "a", 0.75, 8, 2, None, True),
            ("a", "c", 0.75, 3, 5, None, False),
            ("b", "b", 0.0, 3, 6, None, False),
            ("x", "x", 0.0, -9, 0, "embedding is null", True),
        ],
        columns=["id", "max_id", "cosine_sim_score", "centroid", "compared", "reason", "own"],
    )
    counts = as_entries(spark, found, Ranking(), at_least=0.75).counts()
    hashes = counts.pop("hashes")
    assert counts == {"rows": 4, "invalid": 1, "clusters": 2, "pairs": 18, "further": 2, "claims": 2}
    assert as_entries(spark, found, Ranking()).counts()["claims"] == 3
    assert as_entries(spark, found[found["own"]], Ranking()).counts()["hashes"] == hashes


@pytest.mark.parametrize(
    "params",
    [
        slow({"maxClusterRows": 9}),
        {"coverage": "exact", "eps": 0.05, "maxClusterRows": 15},
        slow({"nProbe": 3, "maxClusterRows": 15, "execution": "streamed"}),
    ],
    ids=str,
)
def test_each_row_has_one_entry_that_is_its_own(spark, params):
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((8, 6))[rng.integers(8, size=120)] + 0.2 * rng.standard_normal((120, 6))).astype(
        np.float32
    )
    rows = [(i, x[i].tolist()) for i in range(120)] + [(500, None), (501, [0.0] * 6)]
    df = spark.createDataFrame(rows, "id int, embedding array<float>").repartition(3)
    model = SemDedupModel(centroids=x[:6], handleInvalid="keep", **params)
    entries = model.compared(df).entries
    kept = PartialMatches(entries.df.persist(), entries.ranking, entries.at_least)
    try:
        own = sorted(row["id"] for row in kept.df.where("own").select("id").collect())
        assert own == [*range(120), 500, 501]
        counts = kept.counts()
        assert (counts["rows"], counts["invalid"]) == (122, 2)
        assert counts["further"] > 0
        one_pass, where_kept = kept.merged(), kept.merged(counts["further"])
        assert merged(where_kept) == merged(one_pass)
    finally:
        kept.df.unpersist()


@pytest.mark.parametrize("few", [True, slow(False)], ids=["few", "many"])
def test_similarities_are_written_of_merged_entries_and_of_all_rows(spark, monkeypatch, tmp_path, few):
    monkeypatch.setattr("spark_semdedup.pairwise.merge.FEW", 40 if few else 39)
    found = random_entries(Ranking(), seed=11)
    entries = as_entries(spark, found, Ranking())
    counts, files, path = entries.counts(), Files(spark), str(tmp_path / "similarities")
    rows = entries.merged(counts["further"])
    looked: list[bool] = []
    about, assert_held = {"holds": "similarities"}, lambda: looked.append(True)
    assert results.write_similarities(files, rows, counts, path, about, assert_held) == 60
    assert looked == [True]
    written = {row["id"]: (row["max_id"], row["cosine_sim_score"]) for row in spark.read.parquet(path).collect()}
    assert written == {id_: best[:2] for id_, best in expected(found, Ranking()).items()}
    assert len(list((tmp_path / "similarities").glob("part-*"))) == 1

    with pytest.raises(AccountingError, match="61 rows were compared, but 60 similarities written"):
        results.write_similarities(files, rows, {**counts, "rows": 61}, f"{path}_2", about, assert_held)
    assert not (tmp_path / "similarities_2" / "_semdedup.json").exists()
    assert (tmp_path / "similarities_2" / "_semdedup.unfinished").exists()
