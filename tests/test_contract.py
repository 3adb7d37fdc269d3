"""The answer's contract, point by point, and whole answers against the oracle to the last bit.

The sections carry the numbers of the contract: rank, score, decision, arithmetic, invariants, fit sample. (Its
seventh point, invalid rows, is in test_validation.py.)
"""

from __future__ import annotations

import numpy as np
import oracle
import pandas as pd
import pytest
import vectors
from chispa import assert_df_equality
from debian import DEBIAN, needs_debian
from marks import slow
from pyspark.ml.functions import array_to_vector
from pyspark.sql import functions as F

from spark_semdedup import EmbeddingKMeans, EmbeddingKMeansModel, IdentifyDuplicates, PairwiseSimilarity, SemDedupModel
from spark_semdedup.clustering import sample as sampling
from spark_semdedup.clustering.sample import fit_sample
from spark_semdedup.spark.arrow import collect_arrow
from spark_semdedup.spark.documents import Documents

D = 12


def found_by(model: SemDedupModel, df) -> dict:
    """id → (max_id, bits of the score)."""
    return {row.id: (row.max_id, bits(row.cosine_sim_score)) for row in model.similarities(df).collect()}


def bits(score: float) -> bytes:
    return np.float32(score).tobytes()


def expected_by(*args, execution: str | None = None, **kwargs) -> dict:
    """By brute force, which knows no execution."""
    return {id_: (max_id, bits(score)) for id_, (max_id, score) in oracle.answer(*args, **kwargs).items()}


class Corpus:
    """Two hundred rows with near-duplicates, equal rows, opposite rows and rows that differ in the last bit."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        parts = [vectors.make(kind, n, D) for kind, n in (("near_duplicates", 90), ("lattice", 40), ("last_bit", 40))]
        rows = np.concatenate([*parts, -parts[0][:10], parts[0][:20]])
        self.rows = rows * np.exp(rng.uniform(-3, 3, (len(rows), 1))).astype(np.float32)
        self.ids = [f"{'äZ🙂a'[i % 4]}{i:03}" for i in rng.permutation(len(rows))]
        self.numbers = [int(i) * 1_000_003 for i in rng.permutation(len(rows))]
        self.centroids = np.concatenate([rows[[0, 95, 135]] * np.float32(0.8), np.zeros((1, D), np.float32)])
        self.quality = [None if i % 7 == 0 else float(i % 5) for i in range(len(rows))]
        self.text = ["Zürich"[: i % 6] for i in range(len(rows))]

    def frame(self, spark, order=None, ids=None, id_type="string", rows=None, type_="float"):
        ids, rows = ids or self.ids, self.rows if rows is None else rows
        table = list(zip(ids, rows.tolist(), self.quality, self.text, strict=True))
        schema = f"id {id_type}, embedding array<{type_}>, quality double, text string"
        return spark.createDataFrame([table[i] for i in (range(len(rows)) if order is None else order)], schema)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus()


# --- 1, 2, 4: whole answers for every rank ------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        {},
        slow({"distanceMetric": "l2", "distanceMeasure": "cosine"}),
        slow({"whichToKeep": "easy"}),
        {"whichToKeep": "easy", "distanceMetric": "l2", "execution": "streamed"},
        slow({"whichToKeep": "first"}),
        slow({"whichToKeep": "random"}),
        {"whichToKeep": "random", "seed": -(2**50)},
    ],
    ids=str,
)
def test_whole_answers_equal_the_oracles(frame, corpus, params):
    model = SemDedupModel(centroids=corpus.centroids, **params)
    assert found_by(model, frame) == expected_by(corpus.ids, corpus.rows, corpus.centroids, **params)


def test_whole_answers_ranked_by_columns_equal_the_oracles(frame, corpus):
    model = SemDedupModel(centroids=corpus.centroids, rankBy=["quality desc", "text"])
    rank_by = [(corpus.quality, True), (corpus.text, False)]
    assert found_by(model, frame) == expected_by(corpus.ids, corpus.rows, corpus.centroids, rankBy=rank_by)


def test_xxhash64_of_the_oracle_is_sparks(spark):
    texts = ["", "a", "abc", "abcdefg", "abcdefgh", "x" * 31, "y" * 32, "z" * 33, "é漢字🙂" * 9, "-12"]
    seeds = [42, 0, -7, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**62]
    df = spark.createDataFrame([(t,) for t in texts], "t string").coalesce(1)
    for row in df.select("t", *(F.xxhash64("t", F.lit(seed)).alias(str(seed)) for seed in seeds)).collect():
        assert [row[str(seed)] for seed in seeds] == [oracle.spark_hash(row.t, seed) for seed in seeds]


# --- 2: score, by hand --------------------------------------------------------------------------------------


def test_scores_ties_and_first_rows_by_hand(spark):
    """Two clusters: in the first, rows by id; c is equally near a and b (a counts), d opposes all, e stands alone."""
    rows = [
        ("a", [1.0, 0.0, 0.0]),
        ("b", [0.0, 7.0, 0.0]),
        ("c", [3.0, 3.0, 0.0]),
        ("d", [-1.0, -1.0, 0.0]),
        ("e", [0.0, 0.0, -2.0]),
    ]
    centroids = [[0.1, 0.1, 0.0], [0.0, 0.0, -1.0]]
    df = spark.createDataFrame(rows, "id string, embedding array<double>")
    result = SemDedupModel(centroids=centroids, whichToKeep="first").run(df)
    half = float(np.float32(0.5**0.5))
    expected = [("a", "a", 0.0), ("b", "a", 0.0), ("c", "a", half), ("d", "a", -half), ("e", "e", 0.0)]
    schema = "id string, max_id string, cosine_sim_score float"
    assert_df_equality(
        result.similarities, spark.createDataFrame(expected, schema), ignore_row_order=True, ignore_nullable=True
    )
    assert result.counts() == {"rows": 5, "invalid": 0, "clusters": 2, "pairs": 6}
    result.unpersist()


# --- 3: decision --------------------------------------------------------------------------------------------


def similar(spark, *rows):
    return spark.createDataFrame(list(rows), "id string, max_id string, cosine_sim_score float")


def test_the_threshold_itself_is_a_duplicate_in_double_arithmetic(spark):
    """float32 0.95 is 0.949999988…, less than the double 0.95; 0.75 and 0.96875 are the same in both."""
    up = np.nextafter(np.float32(0.95), np.float32(1)).item()
    rows = [("at", "x", 0.75), ("above", "x", up), ("f95", "x", 0.95), ("own", "own", 1.0), ("31/32", "x", 0.96875)]
    df = similar(spark, *rows)

    def duplicates(**params) -> set:
        return {row.id for row in IdentifyDuplicates(**params).transform(df).collect()}

    assert duplicates(eps=0.25) == {"at", "above", "f95", "31/32"}
    assert duplicates(eps=0.05) == {"above", "31/32"}
    assert duplicates(threshold=float(np.float32(0.95))) == {"above", "f95", "31/32"}
    assert duplicates(eps=0.03125) == {"31/32"}
    assert duplicates(threshold=0.96875) == {"31/32"}
    assert duplicates(eps=0.031) == set()


def test_a_removed_row_still_removes_another(spark):
    """A~B and B~C, but not A~C: B goes because of A, and C because of B."""
    angles = np.deg2rad([0, 14, 28])
    rows = [(name, [float(np.cos(a)), float(np.sin(a))]) for name, a in zip("ABC", angles, strict=True)]
    df = spark.createDataFrame(rows, "id string, embedding array<double>")
    model = SemDedupModel(centroids=[[1.0, 0.0]], whichToKeep="first", eps=0.05)
    assert np.cos(angles[2]) < 0.95 < np.cos(angles[1])
    assert {row.id: row.max_id for row in model.duplicates(df).collect()} == {"B": "A", "C": "B"}
    assert [row.id for row in model.transform(df).collect()] == ["A"]


# --- 4: arithmetic ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["euclidean", "cosine"])
def test_labels_and_distances_equal_the_oracles(frame, corpus, measure):
    """With equal centroids, one of norm zero, and rows that are centroids."""
    centroids = np.concatenate([corpus.centroids, corpus.centroids])
    assigned = EmbeddingKMeansModel(centroids=centroids, distanceMeasure=measure).transform(frame).toPandas()
    rows = np.stack(assigned["embedding"]).astype(np.float32)
    expected = oracle.assignment(oracle.unit_vectors(rows), centroids, spherical=measure == "cosine")
    for name in oracle.Assignment._fields:
        assert oracle.same_bits(assigned[name].to_numpy(), getattr(expected, name)), name
    assert set(assigned["centroid"]) <= {0, 1, 2, 3}, "of equal centroids the lowest id counts"
    zero = assigned["centroid"] == 3
    assert zero.any()
    assert (assigned["cosine_dist_to_cent"][zero] == 1).all()


def test_vectors_are_not_normalised_twice(spark, corpus):
    """The cluster step's unit vectors, taken as they are, give the same bits as the whole from the rows."""
    df = corpus.frame(spark)
    model = SemDedupModel(centroids=corpus.centroids)
    clustered, invalid = model.clustering.clustered(df)
    stepwise = PairwiseSimilarity(normalize=False).transform(clustered)
    assert {r.id: (r.max_id, bits(r.cosine_sim_score)) for r in stepwise.collect()} == expected_by(
        corpus.ids, corpus.rows, corpus.centroids
    )
    assert invalid.count() == 0
    assert clustered.columns == ["id", "embedding", "centroid", "l2_dist_to_cent", "cosine_dist_to_cent"]


# --- 5: what the answer does not depend on ------------------------------------------------------------------


def shuffled(corpus) -> np.ndarray:
    return np.random.default_rng(7).permutation(len(corpus.ids))


VARIANTS = {
    "one partition": lambda spark, c: c.frame(spark).coalesce(1),
    "seven partitions, shuffled": lambda spark, c: c.frame(spark, shuffled(c)).repartition(7),
    "array<double>": lambda spark, c: c.frame(spark, type_="double"),
    "ML Vector": lambda spark, c: c.frame(spark).withColumn("embedding", array_to_vector("embedding")),
    "scaled by powers of two": lambda spark, c: c.frame(
        spark, rows=np.ldexp(c.rows.astype(np.float64), shuffled(c)[:, None] - 100), type_="double"
    ),
    "scaled by 2^±900": lambda spark, c: c.frame(
        spark, rows=np.ldexp(c.rows.astype(np.float64), 900 * (-1) ** shuffled(c)[:, None]), type_="double"
    ),
}


QUICK = ("seven partitions, shuffled", "ML Vector", "scaled by 2^±900")


@pytest.fixture(scope="module")
def hard_answer(corpus) -> dict:
    return expected_by(corpus.ids, corpus.rows, corpus.centroids)


@pytest.mark.parametrize("variant", [name if name in QUICK else slow(name) for name in VARIANTS])
def test_the_answer_does_not_depend_on(spark, corpus, hard_answer, variant):
    df = VARIANTS[variant](spark, corpus)
    assert found_by(SemDedupModel(centroids=corpus.centroids), df) == hard_answer


@pytest.mark.parametrize("batch_size", [slow(1), 7, slow(100_000)])
def test_the_answer_does_not_depend_on_the_batch_size(frame, corpus, hard_answer, batch_size):
    assert found_by(SemDedupModel(centroids=corpus.centroids, batchSize=batch_size), frame) == hard_answer


def test_the_answer_does_not_depend_on_the_size_of_arrow_batches(spark, frame, corpus, hard_answer):
    name = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(name)
    try:
        spark.conf.set(name, "13")
        assert found_by(SemDedupModel(centroids=corpus.centroids), frame) == hard_answer
    finally:
        spark.conf.set(name, before)


@pytest.mark.slow
def test_int_and_long_ids_give_the_same_answer_and_keep_their_type(spark, corpus):
    ids = [i % 2**31 for i in corpus.numbers]
    expected = expected_by(ids, corpus.rows, corpus.centroids, whichToKeep="random")
    for id_type in ("int", "bigint"):
        df = corpus.frame(spark, ids=ids, id_type=id_type)
        found = SemDedupModel(centroids=corpus.centroids, whichToKeep="random").similarities(df)
        assert [found.schema[c].dataType.simpleString() for c in ("id", "max_id")] == [id_type] * 2
        assert {row.id: (row.max_id, bits(row.cosine_sim_score)) for row in found.collect()} == expected


def test_any_small_table_any_partitions_any_batch_size_equal_the_oracle(spark):
    """Many small tables as the clusters of one, so that one job checks them all."""
    hypothesis = pytest.importorskip("hypothesis")
    st, arrays = hypothesis.strategies, pytest.importorskip("hypothesis.extra.numpy").arrays
    numbers = st.sampled_from([-1.0, -0.5, -0.0, 0.0, 1e-30, 0.5, 1.0, 1 + 2**-23]) | st.floats(-1, 1, width=32)
    table = st.integers(1, 12).flatmap(lambda n: arrays(np.float32, (n, 5), elements=numbers))
    schema = "id bigint, centroid int, embedding array<float>, cosine_dist_to_cent float"

    @hypothesis.settings(max_examples=4, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(
        tables=st.lists(table, min_size=20, max_size=30),
        partitions=st.integers(1, 7),
        batch_size=st.integers(1, 13),
        which=st.sampled_from(["hard", "easy", "first", "random"]),
    )
    def check(tables, partitions, batch_size, which):
        rows = np.concatenate(tables)
        clusters = np.repeat(np.arange(len(tables)), [len(t) for t in tables])[rows.any(axis=1)]
        rows = rows[rows.any(axis=1)]
        ids, distances = list(range(len(rows))), (np.arange(len(rows)) * 7 % 3).astype(np.float32)
        order = {
            "hard": lambda: oracle.order_hard(ids, distances),
            "easy": lambda: oracle.order_easy(ids, distances),
            "first": lambda: oracle.order_first(ids),
            "random": lambda: oracle.order_random(ids, 42),
        }[which]()
        expected = oracle.similarities(oracle.unit_vectors(rows), clusters, order)
        data = list(zip(ids, clusters.tolist(), rows.tolist(), distances.tolist(), strict=True))
        df = spark.createDataFrame(data, schema).repartition(partitions)
        found = PairwiseSimilarity(whichToKeep=which, batchSize=batch_size).transform(df).toPandas().sort_values("id")
        assert found["id"].tolist() == ids
        assert found["max_id"].tolist() == expected.neighbour.tolist()
        assert oracle.same_bits(found["cosine_sim_score"].to_numpy(), expected.score)

    check()


# --- 6: the fit sample --------------------------------------------------------------------------------------


def sample_of(df, wanted: int, seed: int = 42, **options) -> np.ndarray:
    options = {"dim": None, "handle_invalid": "error", "on_driver": True, **options}
    documents = Documents.of(df, "id", "embedding")
    return fit_sample(documents, total=df.count(), wanted=wanted, seed=seed, **options).array


def hash_order(ids: list[str], seed: int = 42) -> np.ndarray:
    return np.argsort([oracle.spark_hash(i, seed) for i in ids], kind="stable")


@pytest.mark.parametrize("wanted", [slow(1), 30, slow(200)])
def test_the_sample_is_the_rows_with_the_smallest_hashes_in_that_order(spark, corpus, wanted):
    expected = oracle.unit_vectors(corpus.rows)[hash_order(corpus.ids)[:wanted]]
    for df in (corpus.frame(spark), corpus.frame(spark, shuffled(corpus)).repartition(5)):
        assert oracle.same_bits(sample_of(df, wanted), expected)


def test_invalid_rows_do_not_count_and_the_seed_does(spark, corpus):
    valid = [i % 3 != 0 for i in range(len(corpus.ids))]
    df = corpus.frame(spark).withColumn(
        "embedding",
        F.when(F.col("id").isin([i for i, v in zip(corpus.ids, valid, strict=True) if v]), F.col("embedding")),
    )
    order = hash_order(corpus.ids, seed=7)
    expected = oracle.unit_vectors(corpus.rows)[[i for i in order if valid[i]][:20]]
    assert oracle.same_bits(sample_of(df, 20, seed=7, handle_invalid="skip"), expected)


def test_where_rows_are_invalid_few_more_are_looked_at_than_are_wanted(spark, monkeypatch):
    """Those that are looked at come to the driver: four times as many would where a hundredth lacks an embedding."""
    came = []
    monkeypatch.setattr(sampling, "collect_arrow", lambda df: came.append(collect_arrow(df)) or came[-1])
    embedding = F.when(F.col("id") % 4 != 0, F.array(F.lit(1.0), F.col("id").cast("double")))
    df = spark.range(40_000).select("id", embedding.alias("embedding"))
    for spare in (0, 500):
        came.clear()
        sample = fit_sample(
            Documents.of(df, "id", "embedding"), total=40_000, wanted=2000, seed=42, dim=None,
            handle_invalid="skip", on_driver=True, spare=spare,
        )  # fmt: skip
        assert [len(sample.array), len(came)] == [2000, 2]
        assert spare <= len(sample.spare) < spare + 600
        assert came[0].num_rows < 2000 + spare // 2


@pytest.mark.parametrize(
    ("looked_at", "valid", "least", "total", "then"),
    [
        (2000, 1000, 2000, 10**9, 4080),  # half are valid
        (2000, 63, 2000, 10**9, 8000),  # who knows
        (2000, 0, 2000, 10**9, 8000),
        (2000, 64, 2000, 10**9, 63_750),
        (2000, 1000, 2000, 3000, 3000),
    ],
)
def test_how_much_farther_is_looked_for_valid_rows(looked_at, valid, least, total, then):
    assert sampling._look_farther(looked_at, valid, least, total) == then


@pytest.mark.slow
def test_the_distributed_sample_has_the_same_rows(spark, corpus):
    df = corpus.frame(spark, shuffled(corpus)).repartition(4)
    options = {"total": 200, "wanted": 25, "seed": 42, "dim": None}
    sample = fit_sample(Documents.of(df, "id", "embedding"), handle_invalid="error", on_driver=False, **options)
    rows = np.array([row.unit for row in sample.dataframe().collect()], np.float32)
    assert oracle.same_bits(rows, oracle.unit_vectors(corpus.rows)[hash_order(corpus.ids)[:25]])


def test_the_centroids_depend_on_the_data_alone(spark, corpus):
    estimator = EmbeddingKMeans(k=5, fitSampleRows=60, backend="cpu")
    first = estimator.fit(corpus.frame(spark).coalesce(1)).centroids
    again = estimator.fit(corpus.frame(spark, shuffled(corpus)).repartition(7)).centroids
    assert oracle.same_bits(first, again)


# --- a whole corpus -----------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_debian
def test_the_whole_debian_corpus_equals_the_oracle(spark):
    """By distance from both ends and by a column; other ranks: ``duplicates/test_greedy_corpus.py``."""
    df = spark.read.parquet(str(DEBIAN)).withColumn("length", F.length("text"))
    rows = df.toPandas()
    ids, units = rows["id"].tolist(), oracle.unit_vectors(np.stack(rows["embedding"]))
    clustering = EmbeddingKMeans(k=250, backend="cpu").fit(df)
    assigned = clustering.transform(df).select("id", *oracle.Assignment._fields).toPandas()
    assigned = assigned.set_index("id").loc[ids]
    check_assignment(units, clustering.centroids, assigned)
    hard = assigned["cosine_dist_to_cent"].to_numpy()
    ranks = {
        ("whichToKeep", "hard"): oracle.order_hard(ids, hard),
        ("whichToKeep", "easy"): oracle.order_easy(ids, hard),
        ("rankBy", ("length desc",)): oracle.order_rank_by(ids, (rows["length"].tolist(), True)),
    }
    inside = oracle.clusters(units, assigned["centroid"])
    for (param, value), order in ranks.items():
        model = SemDedupModel(centroids=clustering.centroids, **{param: value})
        found = model.similarities(df).toPandas().set_index("id").loc[ids]
        expected = oracle.ranked(inside, order)
        assert found["max_id"].tolist() == [ids[j] for j in expected.neighbour], value
        assert oracle.same_bits(found["cosine_sim_score"].to_numpy(), expected.score), value
        removed = oracle.duplicates(expected, eps=0.05)
        print(f"{value}: {len(ids)} rows, {removed.sum()} duplicates at eps 0.05")


def check_assignment(units: np.ndarray, centroids: np.ndarray, assigned: pd.DataFrame) -> None:
    expected = oracle.assignment(units[::16], centroids)  # every 16th row: it takes the oracle a while
    for name in oracle.Assignment._fields:
        assert oracle.same_bits(assigned[name].to_numpy()[::16], getattr(expected, name)), name
