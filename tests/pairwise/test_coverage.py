"""Coverage beyond the own cluster: which pairs count, and that neither clusters nor tasks change what they give.

The oracle compares every pair of rows, or those that the contract names; it is told the centroids and nothing else.
"""

from __future__ import annotations

import faiss
import numpy as np
import oracle
import pytest
from debian import DEBIAN, Packages, needs_debian
from marks import slow
from pairwise.corpora import RANK_BY, D, bits, check_exact, expected_by, found_by
from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from spark_semdedup import EmbeddingKMeansModel, PairwiseSimilarity, SemDedup, SemDedupModel
from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels.assignment import Cells, assign
from spark_semdedup.kernels.cells import Comparison, compare_cells
from spark_semdedup.kernels.visits import WithinReach
from spark_semdedup.pairwise import estimate
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.estimate import collect_visits
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.pairwise.route import TaskRouter
from spark_semdedup.pairwise.rows import UnassignedRows
from spark_semdedup.spark.documents import Documents
from spark_semdedup.spark.failures import one_line

# --- exact --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "eps", "params"),
    [
        pytest.param(1, 0.05, {"whichToKeep": "first", "maxClusterRows": 40}, marks=pytest.mark.slow),
        slow(40, 0.05, {"whichToKeep": "random", "seed": -(2**50)}),
        (12, 0.05, {"rankBy": RANK_BY, "maxClusterRows": 15, "execution": "streamed"}),
        (4, 0.1, {"maxClusterRows": 30}),
        pytest.param(
            *(12, 0.15, {"whichToKeep": "easy", "distanceMetric": "l2", "distanceMeasure": "cosine"}),
            marks=pytest.mark.slow,
        ),
        pytest.param(12, 0.01, {"maxClusterRows": 2, "whichToKeep": "easy"}, marks=pytest.mark.slow),
        pytest.param(150, 0.05, {"distanceMeasure": "cosine"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_exact_scores_are_those_of_all_rows_against_all(frame, corpus, k, eps, params):
    """For every rank, few and many clusters, one region and tiles of cells and of their probing rows."""
    centroids = corpus.centroids(k)
    found = found_by(SemDedupModel(centroids=centroids, coverage="exact", eps=eps, **params).similarities(frame))
    oracles = {name: value for name, value in params.items() if name != "maxClusterRows"}
    check_exact(found, expected_by(corpus, centroids, nProbe=max(k, 2), **oracles), 1.0 - eps)


def test_own_clusters_alone_lose_duplicates_of_this_corpus(corpus):
    """Else the tests above would prove nothing."""
    for k in (4, 12, 40):
        whole = expected_by(corpus, corpus.centroids(k), nProbe=k)
        own = expected_by(corpus, corpus.centroids(k))
        assert sum(whole[i][1] >= 0.95 > own[i][1] for i in corpus.ids) > 3


@pytest.mark.parametrize("max_rows", [None, pytest.param(60, marks=pytest.mark.slow)])
def test_exact_pairs_of_long_vectors_are_found_through_sketches(spark, max_rows):
    """Long enough for sketches (``kernels.sketch``), in one region and in tiles."""
    rng = np.random.default_rng(3)
    groups = rng.standard_normal((40, 16)) @ rng.standard_normal((16, 260))
    rows = groups[rng.integers(40, size=400)]
    rows = oracle.unit_vectors(rows + rng.choice([0, 0.1, 0.5, 2], (400, 1)) * rng.standard_normal((400, 260)))
    df = spark.createDataFrame(list(enumerate(rows.tolist())), "id int, embedding array<float>")
    expected = oracle.answer(range(400), rows, rows[:6], whichToKeep="first", nProbe=6)
    params = {"coverage": "exact", "eps": 0.1, "whichToKeep": "first", "maxClusterRows": max_rows}
    check_exact(found_by(SemDedupModel(centroids=rows[:6], **params).similarities(df)), expected, 0.9)


@pytest.mark.slow
def test_the_whole_job_finds_the_same_duplicates_for_any_k_and_seed(frame, corpus):
    answers = []
    for k, seed in ((2, 1), (25, 2)):
        model = SemDedup(k=k, seed=seed, coverage="exact", whichToKeep="first", backend="cpu").fit(frame)
        result = model.run(frame)
        found = sorted((row.id, row.max_id, bits(row.cosine_sim_score)) for row in result.duplicates.collect())
        kept = {row.id for row in result.deduplicated.select("id").collect()}
        assert kept | {row[0] for row in found} == set(corpus.ids)
        assert len(kept) + len(found) == len(corpus.ids)
        counts = result.counts()
        assert (counts["rows"], counts["invalid"]) == (len(corpus.ids), 0)
        assert counts["clusters"] <= k
        result.unpersist()
        answers.append(found)
    everything = expected_by(corpus, corpus.centroids(2), nProbe=2, whichToKeep="first")
    expected = [(i, m, bits(s)) for i, (m, s) in everything.items() if m != i and float(s) >= 1.0 - 0.05]
    assert answers == [sorted(expected)] * 2


def test_the_fit_does_not_depend_on_the_coverage(frame):
    fits = [
        SemDedup(k=5, backend="cpu", fitSampleRows=60, **params).fit(frame).centroids
        for params in ({}, {"coverage": "exact"})
    ]
    assert oracle.same_bits(*fits)


@pytest.mark.parametrize("handle", ["skip", pytest.param("keep", marks=pytest.mark.slow)])
def test_invalid_rows_are_compared_with_nothing(spark, frame, corpus, handle):
    broken = [("null", None, 1.0, "x"), ("zero", [0.0] * D, 1.0, "x"), ("short", [1.0], 1.0, "x")]
    df = spark.createDataFrame(broken, frame.schema).unionAll(frame).coalesce(1)  # before the valid ones
    centroids = corpus.centroids(12)
    params = {"coverage": "exact", "whichToKeep": "first", "maxClusterRows": 40, "handleInvalid": handle}
    result = SemDedupModel(centroids=centroids, **params).run(df)
    counts = result.counts()
    assert (counts["rows"], counts["invalid"]) == (len(corpus.ids) + 3, 3)
    expected = expected_by(corpus, centroids, nProbe=12, whichToKeep="first")
    check_exact(found_by(result.similarities), expected, 0.95)
    kept = {row.id for row in result.deduplicated.select("id").collect()}
    assert {"null", "zero", "short"} & kept == ({"null", "zero", "short"} if handle == "keep" else set())
    result.unpersist()


@pytest.mark.slow
def test_a_table_of_invalid_rows_alone(spark):
    df = spark.createDataFrame([(1, None), (2, [0.0, 0.0])], "id int, embedding array<float>")
    model = SemDedupModel(centroids=[[1.0, 0.0]], coverage="exact", handleInvalid="keep")
    result = model.run(df)
    assert result.counts() == {"rows": 2, "invalid": 2, "clusters": 0, "pairs": 0}
    assert {row.id for row in result.deduplicated.collect()} == {1, 2}
    result.unpersist()


# --- probes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "probes", "params"),
    [
        (12, 3, {"rankBy": RANK_BY, "maxClusterRows": 15}),
        (5, 2, {"whichToKeep": "easy", "distanceMeasure": "cosine", "execution": "streamed"}),
        slow(5, 5, {"maxClusterRows": 50}),
        pytest.param(12, 2, {"maxClusterRows": 3}, marks=pytest.mark.slow),
        pytest.param(40, 3, {"whichToKeep": "random"}, marks=pytest.mark.slow),
        pytest.param(5, 100, {"whichToKeep": "first"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_probes_equal_the_oracles(frame, corpus, k, probes, params):
    """Scores of any size, their zeros' signs included; with all clusters probed, all rows against all."""
    centroids = corpus.centroids(k)
    found = found_by(SemDedupModel(centroids=centroids, nProbe=probes, **params).similarities(frame))
    params.pop("maxClusterRows", None)
    expected = expected_by(corpus, centroids, nProbe=probes, **params)
    assert {i: (m, bits(s)) for i, (m, s) in found.items()} == {i: (m, bits(s)) for i, (m, s) in expected.items()}


def test_probes_and_pairs_by_hand(spark):
    """On a half circle with clusters at 0, 90 and 180 degrees, b and c lie on either side of a border."""
    angles = {"a": 0, "b": 44, "c": 46, "d": 80, "e": 134}
    rows = [(name, [float(np.cos(np.deg2rad(a))), float(np.sin(np.deg2rad(a)))]) for name, a in angles.items()]
    df = spark.createDataFrame(rows, "id string, embedding array<double>")
    centroids = [[float(np.cos(a)), float(np.sin(a))] for a in np.deg2rad([0, 90, 180])]
    result = SemDedupModel(centroids=centroids, nProbe=2, whichToKeep="first").run(df)
    neighbours = {row.id: row.max_id for row in result.similarities.collect()}
    assert neighbours == {"a": "a", "b": "a", "c": "b", "d": "c", "e": "d"}, "c: alone in its cluster before d and e"
    # Home rows a and b, probing rows c and d: 1 + 2·2. Home rows c, d and e, probing rows a and b: 3 + 3·2. e alone
    # probes the third cell: none.
    assert result.counts() == {"rows": 5, "invalid": 0, "clusters": 2, "pairs": 14}
    result.unpersist()


# --- what the answer does not depend on ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "params", [{"coverage": "exact", "eps": 0.1}, pytest.param({"nProbe": 2}, marks=pytest.mark.slow)], ids=str
)
def test_the_answer_depends_on_neither_partitions_nor_the_type_of_ids(spark, corpus, params):
    numbers = [i % 2**31 for i in corpus.numbers]
    model = SemDedupModel(centroids=corpus.centroids(12), whichToKeep="random", maxClusterRows=20, **params)
    shuffled = np.random.default_rng(7).permutation(len(numbers))
    ints, longs = (corpus.frame(spark, numbers, t, order=shuffled) for t in ("int", "bigint"))
    found = model.similarities(ints.coalesce(1))
    assert [found.schema[name].dataType.simpleString() for name in ("id", "max_id")] == ["int", "int"]
    answers = [found_by(found), found_by(model.similarities(longs.repartition(7)))]
    assert answers[0] == answers[1]
    everything = expected_by(corpus, corpus.centroids(12), ids=numbers, whichToKeep="random", nProbe=12)
    duplicates = sum(float(score) >= 0.9 for _, score in everything.values())
    assert duplicates >= sum(float(score) >= 0.9 for _, score in answers[0].values()) > 0.8 * duplicates


@pytest.mark.slow
def test_a_saved_model_gives_the_same(frame, corpus, tmp_path):
    model = SemDedupModel(centroids=corpus.centroids(12), coverage="exact", threshold=0.9, whichToKeep="first")
    model.save(str(tmp_path / "model"))
    loaded = SemDedupModel.load(str(tmp_path / "model"))
    assert (loaded.getCoverage(), loaded.getThreshold()) == ("exact", 0.9)
    expected = expected_by(corpus, corpus.centroids(12), nProbe=12, whichToKeep="first")
    check_exact(found_by(loaded.similarities(frame)), expected, 0.9)


@pytest.mark.parametrize("lists", [False, True])
def test_visits_are_collected_of_as_many_rows_as_the_driver_holds(spark, frame, corpus, monkeypatch, lists):
    """Of fewer rows, which then stand for more."""
    model, rule = EmbeddingKMeansModel(centroids=corpus.centroids(12)), Coverage(None, 0.8)
    documents = Documents.of(frame, "id", "embedding")
    rows = UnassignedRows(documents, model.fitted_centroids, Ranking(), model)
    routed = rows.routed(TaskRouter(rule, lists=lists), lists=lists)
    all_of = collect_visits(routed, 1.0, most=0)
    visits = len(all_of.visits.rows)
    assert len(all_of.own) == len(corpus.ids)
    assert visits > 300
    kept = set(spark.sparkContext._jsc.getPersistentRDDs())
    monkeypatch.setattr(estimate, "MOST_VISITS", visits / 4)
    few = collect_visits(routed, 1.0, most=rule.most_visits(len(corpus.ids), 12))
    assert (few.scale, len(few.own)) == (1, len(corpus.ids)), "of a few rows all"
    monkeypatch.setattr(estimate, "FIRST_ROWS", 10)
    some = collect_visits(routed, 1.0, most=rule.most_visits(len(corpus.ids), 12))
    assert some.scale == 4
    assert visits / 8 < len(some.visits.rows) < visits / 2
    assert len(corpus.ids) / 8 < len(some.own) < len(corpus.ids) / 2
    assert set(spark.sparkContext._jsc.getPersistentRDDs()) <= kept


# --- rows that were assigned before -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clustered(spark, frame, corpus, tmp_path_factory):
    """Rows with their clusters, and the folder of the model that assigned them."""
    path = str(tmp_path_factory.mktemp("centroids") / "model")
    model = EmbeddingKMeansModel(centroids=corpus.centroids(12))
    model.save(path)
    df = model.clustered(frame)[0].persist()
    yield df, path
    df.unpersist()


def exact(**params) -> PairwiseSimilarity:
    return PairwiseSimilarity(coverage="exact", whichToKeep="first", normalize=False, **params)


@pytest.mark.slow
def test_labels_do_not_matter_to_exact_coverage(spark, clustered, corpus):
    """Rows labelled at random, with unit vectors whose norms are off by nearly as much as is accepted."""
    rng = np.random.default_rng(1)
    found = clustered[0].select("id", "embedding").collect()
    off = [np.float32(1 + rng.choice([-0.9e-5, 0.9e-5])) * np.float32(row.embedding) for row in found]
    labels = rng.integers(12, size=len(found)).tolist()
    data = [(row.id, unit.tolist(), label) for row, unit, label in zip(found, off, labels, strict=True)]
    df = spark.createDataFrame(data, "id string, embedding array<float>, centroid bigint").repartition(3)
    order = oracle.order_first([row.id for row in found])
    expected = oracle.similarities(np.stack(off), np.zeros(len(off)), order)
    everything = {row.id: (found[j].id, s) for row, j, s in zip(found, expected.neighbour, expected.score, strict=True)}
    model = EmbeddingKMeansModel(centroids=corpus.centroids(12))
    check_exact(found_by(exact(maxClusterRows=40).setCentroids(model).transform(df)), everything, 0.95)


def test_probes_with_centroids_from_a_path(clustered, corpus):
    df, path = clustered
    stage = PairwiseSimilarity(nProbe=2, centroidsPath=path, normalize=False)
    expected = expected_by(corpus, corpus.centroids(12), nProbe=2)
    found = found_by(stage.transform(df))
    assert {i: (m, bits(s)) for i, (m, s) in found.items()} == {i: (m, bits(s)) for i, (m, s) in expected.items()}


@pytest.mark.parametrize(
    ("centroids", "labels", "message"),
    [
        (np.ones((12, 5)), "centroid", f"embeddings have length {D}, but the centroids have 5: give their own"),
        (
            np.ones((12, D)),
            "centroid - 1",
            "it is -1, but there are 12 centroids, numbered from 0: give the centroids that",
        ),
        pytest.param(np.ones((3, D)), "centroid", "but there are 3 centroids", marks=pytest.mark.slow),
        pytest.param(np.ones((12, D)), "centroid + 4294967296", "but there are 12 centroids", marks=pytest.mark.slow),
    ],
)
def test_centroids_that_cannot_be_the_rows_own_are_refused(clustered, centroids, labels, message):
    df = clustered[0].selectExpr("id", "embedding", f"{labels} AS centroid")
    stage = exact().setCentroids(EmbeddingKMeansModel(centroids=centroids))
    with pytest.raises(PySparkException) as error:
        stage.transform(df).collect()
    assert message in one_line(error.value)
    assert "\n" not in one_line(error.value)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (lambda model, path: exact(), "centroidsPath and setCentroids are both unset; give the centroids that"),
        (lambda model, path: PairwiseSimilarity(nProbe=2), "centroidsPath and setCentroids are both unset"),
        (lambda model, path: exact(centroidsPath=path).setCentroids(model), "both set; set one of them"),
        (lambda model, path: exact(nProbe=3).setCentroids(model), "coverage='exact' and nProbe=3 are both set"),
        (lambda model, path: exact(nProbe=1).setCentroids(model), "coverage='exact' and nProbe=1 are both set"),
        (lambda model, path: exact(eps=0.1, threshold=0.9).setCentroids(model), "eps=0.1 and threshold=0.9 are both"),
    ],
)
def test_contradictions_are_one_clear_line(clustered, corpus, stage, message):
    df, path = clustered
    model = EmbeddingKMeansModel(centroids=corpus.centroids(12))
    with pytest.raises(SemDedupError, match=message) as error:
        stage(model, path).transform(df)
    assert "\n" not in str(error.value)


def test_contradictions_are_refused_before_a_fit(frame):
    with pytest.raises(SemDedupError, match="coverage='exact' and nProbe=4 are both set; set one of them"):
        SemDedup(coverage="exact", nProbe=4).fit(frame)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"coverage": "all"}, "coverage='all' cannot be used: it must be one of cluster, exact"),
        ({"nProbe": 0}, "nProbe=0 cannot be used: it must be a whole number of at least 1"),
    ],
)
def test_values_that_cannot_be_used(params, message):
    with pytest.raises(SemDedupError, match=message):
        SemDedup(**params)


# --- a whole corpus -----------------------------------------------------------------------------------------


class Debian:
    """63,905 rows, longest text first, and all pairs of them with a cosine of at least 0.9, found by others."""

    def __init__(self) -> None:
        corpus = Packages()
        order = oracle.order_rank_by(corpus.ids, (corpus.lengths, True))
        rank = np.argsort(order)
        self.ids, self.units = [corpus.ids[i] for i in order], corpus.units[order]
        self.before, self.after = np.sort([rank[corpus.a], rank[corpus.b]], axis=0)
        self.scores = corpus.scores

    def centroids(self, k: int, seed: int) -> np.ndarray:
        kmeans = faiss.Kmeans(self.units.shape[1], k, niter=4, seed=seed, max_points_per_centroid=32)
        kmeans.train(self.units)
        return kmeans.centroids

    def duplicates(self, eps: float) -> dict:
        """By the pairs: id → (max_id, bits of the score)."""
        counts = self.scores.astype(np.float64) >= 1.0 - eps
        before, after, scores = self.before[counts], self.after[counts], self.scores[counts]
        order = np.lexsort((before, -scores, after))
        found, first = np.unique(after[order], return_index=True)
        best = order[first]
        return {self.ids[i]: (self.ids[j], bits(s)) for i, j, s in zip(found, before[best], scores[best], strict=True)}


@pytest.fixture(scope="module")
def packages() -> Debian:
    return Debian()


@pytest.mark.slow
@needs_debian
@pytest.mark.parametrize(("k", "seed"), [(64, 1), (250, 2), (1000, 1), (1000, 3)])
def test_no_pair_of_the_whole_corpus_is_missed(packages, k, seed):
    cells = Cells.of(packages.centroids(k, seed))
    for eps in (0.01, 0.05, 0.1):
        found = assign(packages.units, cells, distances=(), rule=WithinReach.of(cells, 1.0 - eps))
        own, visits = found.centroid.astype(np.int64), found.visits
        met = np.unique(visits.rows * k + visits.cells)
        counts = packages.scores.astype(np.float64) >= 1.0 - eps
        i, j = packages.before[counts], packages.after[counts]
        together = (own[i] == own[j]) | np.isin(i * k + own[j], met) | np.isin(j * k + own[i], met)
        print(f"k={k} eps={eps}: {len(visits.rows) / len(own):.1f} visits, {(own[i] != own[j]).sum()} pairs apart")
        assert (own[i] != own[j]).any()
        assert together.all()
        if seed == 1:
            compared = compare_cells(packages.units, own, visits, Comparison(1.0 - eps))
            there = np.flatnonzero(compared.scores.astype(np.float64) >= 1.0 - eps)
            ids, neighbours = packages.ids, compared.neighbours
            found_here = {ids[i]: (ids[neighbours[i]], bits(compared.scores[i])) for i in there}
            assert found_here == packages.duplicates(eps)


@pytest.mark.slow
@needs_debian
@pytest.mark.parametrize("k", [64, 1000])
def test_the_whole_job_removes_the_same_rows_for_any_k(spark, packages, k):
    df = spark.read.parquet(str(DEBIAN)).withColumn("length", F.length("text"))
    model = SemDedup(k=k, seed=k, coverage="exact", rankBy=["length desc"], backend="cpu").fit(df)
    found = {row.id: (row.max_id, bits(row.cosine_sim_score)) for row in model.duplicates(df).collect()}
    assert found == packages.duplicates(0.05)
