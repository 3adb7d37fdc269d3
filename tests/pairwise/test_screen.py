"""Visits screened by codes: fewer visits, the same answer to the last bit."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from pairwise.corpora import RANK_BY, check_exact, expected_by, found_by

from spark_semdedup import EmbeddingKMeansModel, PairwiseSimilarity, SemDedupModel
from spark_semdedup.kernels.assignment import Visits
from spark_semdedup.pairwise import screen
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.estimate import VisitSample
from spark_semdedup.pairwise.execute import ComparisonPlan
from spark_semdedup.pairwise.route import HASHES, KeptVisits
from spark_semdedup.pairwise.screen import Screened, Screening

EPS = 0.05


@pytest.fixture
def screened(monkeypatch) -> list[Screened]:
    """Has every exact comparison screened, and lists what that found."""
    done: list[Screened] = []
    run = Screening.run
    monkeypatch.setattr(screen, "_LEAST_GAIN", 0.0)
    monkeypatch.setattr(screen, "_LEAST_BYTES", 0)
    monkeypatch.setattr(Screening, "run", lambda *args, **named: done.append(run(*args, **named)) or done[-1])
    return done


@pytest.mark.parametrize(
    ("k", "params"),
    [
        (12, {"rankBy": RANK_BY, "maxClusterRows": 15, "execution": "streamed"}),
        (4, {"maxClusterRows": 30}),
        pytest.param(40, {"whichToKeep": "random"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_answer_is_that_of_all_visits(frame, corpus, monkeypatch, screened, k, params):
    """In regions and in tiles of cells and of probing rows."""
    model = SemDedupModel(centroids=corpus.centroids(k), coverage="exact", eps=EPS, **params)
    found = found_by(model.similarities(frame))
    assert len(screened) == 1
    oracles = {name: value for name, value in params.items() if name != "maxClusterRows"}
    check_exact(found, expected_by(corpus, corpus.centroids(k), nProbe=k, **oracles), 1.0 - EPS)
    monkeypatch.setattr(screen, "_MOST_ROWS", 0)
    assert found_by(model.similarities(frame)) == found
    assert len(screened) == 1, "not screened any more"


def test_most_visits_are_dropped_and_those_with_a_similar_row_kept(spark, screened):
    rng = np.random.default_rng(0)
    rows = oracle.unit_vectors(rng.standard_normal((600, 24)))
    rows[300:330] = oracle.unit_vectors(rows[:30] + 0.01 * rng.standard_normal((30, 24)))
    df = spark.createDataFrame(list(enumerate(rows.tolist())), "id int, embedding array<float>")
    centroids = rows[::15] * np.float32(0.4)
    model = SemDedupModel(centroids=centroids, coverage="exact", eps=EPS, whichToKeep="first")
    workload = model.compared(df).workload
    assert workload.cells_per_row > 5
    assert len(screened[0].kept.keys) < 60
    assert workload.kept_per_row == pytest.approx(1 + len(screened[0].kept.keys) / 600)
    assert screened[0].pairs == pytest.approx(workload.probing_pairs, rel=1e-6), "the sample is all rows"
    assert sorted(model.duplicates(df).toPandas()["id"]) == list(range(300, 330))


def test_more_kept_visits_than_can_be_held_are_made_by_vectors(frame, corpus, monkeypatch, screened, caplog):
    """The driver collects one more than may be, and no task is sent any."""
    model = SemDedupModel(centroids=corpus.centroids(12), coverage="exact", eps=EPS)
    found = found_by(model.similarities(frame))
    assert len(screened[0].kept.keys) > 3
    monkeypatch.setattr(screen, "_MOST_KEPT", 3)
    compared = model.compared(frame)
    assert (screened[1], compared.plan.screened) == (None, None)
    assert compared.workload.code_bytes == 0
    assert "screening keeps more than 3 visits; vectors make all visits" in caplog.text
    assert found_by(model.similarities(frame)) == found


def test_rows_that_were_assigned_before(frame, corpus, screened):
    model = EmbeddingKMeansModel(centroids=corpus.centroids(12))
    stage = PairwiseSimilarity(coverage="exact", whichToKeep="first", normalize=False, eps=EPS).setCentroids(model)
    found = found_by(stage.transform(model.clustered(frame)[0]))
    assert len(screened) == 1
    check_exact(found, expected_by(corpus, corpus.centroids(12), nProbe=12, whichToKeep="first"), 1.0 - EPS)


def test_invalid_rows_send_no_code(spark, frame, screened, corpus):
    data = [("zero", [0.0] * 8), ("none", None), ("short", [1.0])]
    df = frame.select("id", "embedding").unionAll(spark.createDataFrame(data, "id string, embedding array<float>"))
    model = SemDedupModel(
        centroids=corpus.centroids(4), coverage="exact", eps=EPS, whichToKeep="first", handleInvalid="keep"
    )
    found = found_by(model.similarities(df))
    assert len(screened) == 1
    check_exact(found, expected_by(corpus, corpus.centroids(4), nProbe=4, whichToKeep="first"), 1.0 - EPS)


def test_pairs_and_greedy_rounds_make_the_kept_visits(frame, corpus, monkeypatch, screened):
    params = {"centroids": corpus.centroids(12), "coverage": "exact", "eps": EPS, "whichToKeep": "first"}

    def answers() -> tuple:
        pairs = SemDedupModel(**params).pairs(frame).collect()
        greedy = SemDedupModel(**params, keepRule="greedy").duplicates(frame).collect()
        return sorted(map(tuple, pairs)), sorted(map(tuple, greedy))

    found = answers()
    assert len(screened) == 2
    monkeypatch.setattr(screen, "_MOST_ROWS", 0)
    assert answers() == found


def test_it_pays_where_visits_are_many_and_rows_few_enough():
    rng = np.random.default_rng(0)
    centroids = rng.standard_normal((50, 128)).astype(np.float32)
    own, rows = rng.integers(50, size=1000), np.repeat(np.arange(1000), 20)

    def planned(coverage: Coverage, visits: int, scale: float) -> Screening | None:
        some = Visits(rows[: 1000 * visits], rng.integers(50, size=1000 * visits).astype(np.int32))
        direct = 1000 * scale * (1 + visits) * 612
        return Screening.of(coverage, VisitSample(own, some, scale), centroids, direct, 32_768, 2)

    exact = Coverage(None, 0.95)
    assert planned(exact, 20, 100.0) is not None
    assert planned(exact, 1, 100.0) is None, "hardly any visits"
    assert planned(Coverage(3), 20, 100.0) is None, "the nearest cells are visited whatever is there"
    assert planned(exact, 20, 1e5) is None, "the kept visits of 100 million rows do not fit into a task"


def test_kept_visits_by_hand():
    kept = KeptVisits(np.array([7, 12, 25]), 10)
    found = kept.of(np.array([3, 9, 7, 1, -1, 2]), np.array([0, 1, 0, 3, 1, 2]))
    assert (found.rows.tolist(), found.cells.tolist()) == ([0, 1, 5], [7, 2, 5])
    assert (found.rows.dtype, found.cells.dtype) == (np.int64, np.int32)
    assert len(KeptVisits(np.empty(0, np.int64), 10).of(np.array([3, 9]), np.array([0, 1])).rows) == 0


def test_a_sample_of_what_is_left_by_hand():
    """Half of the hashes are in a sample of half of the rows; cells keep their home rows."""
    low, high = 5, HASHES // 2 + 5
    keys = np.array([low * 3 + 1, low * 3 + 2, high * 3 + 1])
    before = VisitSample(np.array([0, 0, 1, 2]), Visits(np.array([0, 1]), np.array([1, 2], np.int32)), 2.0)
    found = Screened(KeptVisits(keys, 3), np.array([0, 0, 2]), 0).sample(before)
    assert np.bincount(found.own).tolist() == [2, 1, 1]
    assert found.own[found.visits.rows].tolist() == [0, 0]
    assert (found.visits.cells.tolist(), found.scale) == ([1, 2], 2.0)


def test_the_plan_of_a_comparison_knows_what_was_screened(frame, corpus, screened):
    model = SemDedupModel(centroids=corpus.centroids(12), coverage="exact", eps=EPS)
    plan = model.compared(frame).plan
    assert isinstance(plan, ComparisonPlan)
    assert plan.screened is screened[0]
    assert plan.workload.code_bytes > 0
    assert plan.workload.shuffle_bytes > plan.workload.code_bytes
