"""Which cells rows visit: no pair that is similar enough is kept apart, whatever the centroids and the labels.

All similarities, and so all pairs, come from the oracle. Pairs are made as far apart as their threshold allows, on
either side of a bisector: there a bound that is a little too tight loses them.
"""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import vectors

from spark_semdedup.kernels import assignment, nearest_centroids
from spark_semdedup.kernels import visits as coverage
from spark_semdedup.kernels.arrays import to_device_of, to_numpy
from spark_semdedup.kernels.assignment import Cells, Visits, assign, visited_cells
from spark_semdedup.kernels.visits import NORM_TOLERANCE, NearestCells, WithinReach, reach

huge_numbers = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
"""Centroids so long that float32 does not hold their scores, which are infinite or no numbers then."""

THRESHOLDS = (0.85, 0.9, 0.95, 0.99, 0.999999)


def visited(xp, rows, centroids, labels, rule, *, spherical: bool = False) -> np.ndarray:
    """Whether each row visits each cell, its own included: bool (n, k). ``rule``: of cells, which rows visit."""
    cells = Cells.of(xp.asarray(np.asarray(centroids, np.float32)), spherical=spherical)
    found = visited_cells(xp.asarray(rows), cells, xp.asarray(labels), rule(cells))
    return as_table(found, labels, len(centroids))


def as_table(visits: Visits, labels: np.ndarray, k: int) -> np.ndarray:
    assert isinstance(visits.rows, np.ndarray)
    assert (visits.rows.dtype, visits.cells.dtype) == (np.int64, np.int32)
    table = np.zeros((len(labels), k), bool)
    table[visits.rows, visits.cells] = True
    assert table.sum() == len(visits.rows), "no cell is visited twice"
    assert (np.diff(visits.rows) >= 0).all(), "row by row"
    assert not table[np.arange(len(labels)), labels].any(), "nobody visits the own cell"
    table[np.arange(len(labels)), labels] = True
    return table


def within_reach(threshold: float):
    return lambda cells: WithinReach.of(cells, threshold)


def one_sided(threshold: float):
    return lambda cells: WithinReach.of(cells, threshold, one_sided=True)


def with_margins(rows: np.ndarray, own: np.ndarray, threshold: float):
    """Of cells whose rows are ``rows``."""

    def rule(cells: Cells) -> WithinReach:
        on_host = Cells.of(to_numpy(cells.centroids), spherical=cells.spherical)
        found, largest = coverage.margins(on_host, rows, own)
        margins = np.full((len(on_host.centroids),) * 2, -np.inf, np.float32)
        margins[found] = largest
        there = to_device_of(cells.centroids, margins)
        return WithinReach.of(cells, threshold, one_sided=True, margins=there)

    return rule


def nearest(others: int):
    return lambda cells: NearestCells(others)


def similar_pairs(rows: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """All pairs i > j whose score, widened to double, is at least ``threshold``."""
    scores = oracle.clusters(rows, np.zeros(len(rows), int))[0].similarity
    return np.nonzero(np.tril(scores.astype(np.float64) >= threshold, -1))


def missed(table: np.ndarray, labels: np.ndarray, i: np.ndarray, j: np.ndarray) -> int:
    """How many of the pairs (i, j) meet in neither one's cell."""
    return int((~table[i, labels[j]] & ~table[j, labels[i]]).sum())


# --- rows, centroids and labels that are hard ---------------------------------------------------------------


def at_angles(rng: np.random.Generator, rows: np.ndarray, threshold: float) -> np.ndarray:
    """``rows``, and for each another one whose similarity to it is a little above ``threshold``, or at it."""
    aside = rng.standard_normal(rows.shape)
    aside -= (aside * rows).sum(axis=1, keepdims=True) * rows
    aside /= np.maximum(np.linalg.norm(aside, axis=1, keepdims=True), 1e-300)
    cosine = threshold + (1 - threshold) * rng.choice([0, 1e-7, 1e-3, 0.3], (len(rows), 1))
    return np.concatenate([rows, oracle.unit_vectors(cosine * rows + np.sqrt(1 - cosine**2) * aside)])


def across_bisectors(rng: np.random.Generator, centroids: np.ndarray, n: int, threshold: float) -> np.ndarray:
    """Pairs of rows on either side of the bisector of two centroids, as far apart as ``threshold`` allows."""
    a, b = rng.integers(len(centroids), size=(2, n))
    wide = centroids.astype(np.float64)
    wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300)
    across = wide[a] - wide[b] + 1e-9 * rng.standard_normal((n, centroids.shape[1]))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    between = wide[a] + wide[b] + 0.2 * rng.standard_normal(across.shape)
    between -= (between * across).sum(axis=1, keepdims=True) * across
    between /= np.maximum(np.linalg.norm(between, axis=1, keepdims=True), 1e-300)
    half = reach(threshold) / 2 * rng.choice([0, 0.5, 1 - 1e-4, 1 - 1e-6], (n, 1))
    middle = np.sqrt(1 - half**2) * between
    rows = np.concatenate([middle + half * across, middle - half * across])
    return oracle.unit_vectors(rows[rows.any(axis=1)])  # in one dimension nothing lies between


def apart(distance: float):
    """Centroids in groups of four that lie ``distance`` from one another."""

    def make(rng: np.random.Generator, k: int, d: int) -> np.ndarray:
        groups = vectors.random(rng, -(-k // 4), d)
        shift = vectors.random(rng, k, d)
        return (np.repeat(groups, 4, axis=0)[:k] + distance * shift.astype(np.float64)).astype(np.float32)

    return make


def of_norm(*norms: float):
    def make(rng: np.random.Generator, k: int, d: int) -> np.ndarray:
        return (rng.choice(norms, (k, 1)) * vectors.random(rng, k, d)).astype(np.float32)

    return make


CENTROIDS = {
    "means of rows": of_norm(0.5, 0.8, 0.95),
    "equal": apart(0),
    "1e-6 apart": apart(1e-6),
    "1e-7 apart": apart(1e-7),
    "1e-12 apart": apart(1e-12),
    "some of norm zero": of_norm(0, 1),
    "all of norm zero": of_norm(0),
    "tiny": of_norm(1e-30, 1e-38),
    "small and large": of_norm(1e-30, 1e-6, 1, 30, 1e4),
    "huge": of_norm(1e19),
    "beyond float32's squares": of_norm(1, 1e19, 1e30, 3e38),
}


def hard_rows(rng: np.random.Generator, centroids: np.ndarray, threshold: float) -> np.ndarray:
    d = centroids.shape[1]
    kinds = [kind(rng, 10, d) for kind in vectors.KINDS.values()]
    parts = [across_bisectors(rng, centroids, 30, threshold), at_angles(rng, vectors.random(rng, 10, d), threshold)]
    rows = np.concatenate([*parts, *kinds])
    column = rng.integers(d, size=len(rows))
    rows[np.arange(len(rows)), column] = np.nextafter(
        rows[np.arange(len(rows)), column], rng.choice([-2.0, 2.0], len(rows)).astype(np.float32)
    )
    return rows


# --- within reach -------------------------------------------------------------------------------------------


@huge_numbers
@pytest.mark.parametrize("spherical", [False, True], ids=["euclidean", "spherical"])
@pytest.mark.parametrize("kind", CENTROIDS)
def test_every_pair_that_is_similar_enough_meets(xp, monkeypatch, kind, spherical):
    """Labels are the nearest cells, and any; widths come from a table, and are computed block by block."""
    pairs = 0
    shapes = [(1, 3), (2, 7), (2, 4), (3, 1), (3, 12), (12, 9), (12, 2), (96, 40), (96, 8), (512, 5)]
    for number, (d, k) in enumerate(shapes):
        rng = np.random.default_rng(number)
        threshold = THRESHOLDS[number % len(THRESHOLDS)]
        centroids = CENTROIDS[kind](rng, k, d)
        rows = hard_rows(rng, centroids, threshold)
        i, j = similar_pairs(rows, threshold)
        pairs += len(i)
        any_labels = rng.integers(k, size=len(rows))
        own = to_numpy(nearest_centroids(xp.asarray(rows), xp.asarray(centroids), spherical=spherical).centroid)
        for limit in (4096, 0):
            monkeypatch.setattr(coverage, "_TABLE_CELLS", limit)
            for labels in (own, any_labels):
                table = visited(xp, rows, centroids, labels, within_reach(threshold), spherical=spherical)
                assert missed(table, labels, i, j) == 0, (d, k, threshold, limit)
    assert pairs > 1000


@huge_numbers
@pytest.mark.parametrize("spherical", [False, True], ids=["euclidean", "spherical"])
@pytest.mark.parametrize("kind", CENTROIDS)
def test_one_side_alone_visits_the_cell_of_every_row_similar_enough(xp, kind, spherical):
    """The rows that are sought stay in their nearest cells; those that visit have any label."""
    pairs, kept_apart = 0, 0
    for number, (d, k) in enumerate([(1, 3), (2, 7), (3, 12), (12, 9), (96, 40), (512, 5)]):
        rng = np.random.default_rng(number)
        threshold = THRESHOLDS[number % len(THRESHOLDS)]
        centroids = CENTROIDS[kind](rng, k, d)
        rows = hard_rows(rng, centroids, threshold)
        i, j = similar_pairs(rows, threshold)
        pairs += 2 * len(i)
        nearest = to_numpy(nearest_centroids(xp.asarray(rows), xp.asarray(centroids), spherical=spherical).centroid)
        for labels in (nearest, rng.integers(k, size=len(rows))):
            table = visited(xp, rows, centroids, labels, one_sided(threshold), spherical=spherical)
            assert table[i, nearest[j]].all(), (d, k, threshold)
            assert table[j, nearest[i]].all(), (d, k, threshold)
            tight = visited(xp, rows, centroids, labels, with_margins(rows, nearest, threshold), spherical=spherical)
            assert tight[i, nearest[j]].all(), (d, k, threshold)
            assert tight[j, nearest[i]].all(), (d, k, threshold)
            assert not (tight & ~table).any()
        two_sided = visited(xp, rows, centroids, nearest, within_reach(threshold), spherical=spherical)
        kept_apart += int((~two_sided[i, nearest[j]]).sum() + (~two_sided[j, nearest[i]]).sum())
    assert pairs > 1000
    assert kept_apart or kind not in ("means of rows", "small and large"), "half the distance would not be enough"


def test_margins_spare_most_visits_and_those_of_cells_without_rows(xp):
    rng = np.random.default_rng(4)
    centroids = np.float32(0.9) * vectors.random(rng, 60, 32)
    near = centroids[rng.integers(50, size=900)]  # ten cells are nobody's
    rows = oracle.unit_vectors(near + 0.06 * rng.standard_normal((900, 32)))
    labels = oracle.assignment(rows, centroids).centroid
    loose = visited(xp, rows, centroids, labels, one_sided(0.9))
    tight = visited(xp, rows, centroids, labels, with_margins(rows, labels, 0.9))
    assert not tight[:, sorted(set(range(60)) - set(labels.tolist()))].any()
    assert tight.sum() - len(rows) < (loose.sum() - len(rows)) / 2


@pytest.mark.parametrize("spherical", [False, True], ids=["euclidean", "spherical"])
@pytest.mark.parametrize("d", [2, 64, 512])
def test_one_side_alone_reaches_a_row_at_the_very_bisector(xp, d, spherical):
    """By (2) such a row has no room: the other one is as far from the bisector as the two are from each other."""
    rng = np.random.default_rng(d)
    for _ in range(40):
        centroids = vectors.random(rng, 1, d).astype(np.float64)
        aside = rng.choice([1e-3, 0.1, 1, 10])
        centroids = np.concatenate([centroids, oracle.unit_vectors(centroids + aside * vectors.random(rng, 1, d))])
        near, far = mirror_images(rng, centroids, np.sqrt(rng.uniform(1e-4, 0.3)) / 2)
        middle = oracle.unit_vectors((near.astype(np.float64) + far)[None])
        rows = np.concatenate([near[None], middle])
        own = to_numpy(
            nearest_centroids(xp.asarray(rows), xp.asarray(np.float32(centroids)), spherical=spherical).centroid
        )
        table = visited(
            xp, rows, np.float32(centroids), own, one_sided(float(oracle.similarity(*rows))), spherical=spherical
        )
        assert table[0, own[1]]


@pytest.mark.parametrize("spherical", [False, True], ids=["euclidean", "spherical"])
@pytest.mark.parametrize("norm", [1.0, 1 + NORM_TOLERANCE, 1 - NORM_TOLERANCE])
@pytest.mark.parametrize("d", [2, 64, 512])
def test_a_pair_exactly_as_far_apart_as_it_may_be_meets(xp, d, norm, spherical):
    """Mirror images in a bisector: by the theorem neither has any room. Norms may be off by the tolerance."""
    rng = np.random.default_rng(d)
    for _ in range(40):
        distance = rng.choice([1e-3, 0.1, 1, 10])
        centroids = vectors.random(rng, 1, d).astype(np.float64)
        centroids = np.concatenate([centroids, oracle.unit_vectors(centroids + distance * vectors.random(rng, 1, d))])
        rows = mirror_images(rng, centroids, np.sqrt(rng.uniform(1e-4, 0.3)) / 2)
        rows = scaled_to(rows, norm)
        threshold = float(oracle.similarity(*rows))
        for length in (0.1, 0.9, 1):
            labels = np.array([0, 1])
            table = visited(xp, rows, length * centroids, labels, within_reach(threshold), spherical=spherical)
            assert table[0, 1] or table[1, 0], (distance, threshold)


def mirror_images(rng: np.random.Generator, centroids: np.ndarray, half: float) -> np.ndarray:
    """Two unit vectors, each ``half`` from the bisector of two centroids of one norm."""
    across = centroids[0] - centroids[1]
    across /= np.linalg.norm(across)
    between = centroids[0] + centroids[1] + rng.standard_normal(len(across)) / len(across)
    between -= (between @ across) * across
    middle = np.sqrt(1 - half**2) * between / np.linalg.norm(between)
    return oracle.unit_vectors(np.stack([middle + half * across, middle - half * across]))


def scaled_to(rows: np.ndarray, norm: float) -> np.ndarray:
    """Rows as near to that norm as float32 allows, within the tolerance."""
    wide = rows.astype(np.float64)
    while True:
        rows = (wide * (norm / np.linalg.norm(wide, axis=1, keepdims=True))).astype(np.float32)
        if (np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - 1) <= NORM_TOLERANCE).all():
            return rows
        norm += np.sign(1 - norm) * 2.0**-27


@pytest.mark.parametrize("spherical", [False, True], ids=["euclidean", "spherical"])
@pytest.mark.parametrize("d", [3, 96, 384])
def test_rounding_errors_larger_than_the_distance_of_centroids_lose_no_pair(xp, d, spherical):
    """Centroids that differ in last bits: scores are mostly noise, and labels are arbitrary."""
    rng = np.random.default_rng(d)
    centroids = np.float32(0.7) * vectors.last_bit(rng, 12, d)
    rows = np.concatenate([vectors.near_duplicates(rng, 150, d), vectors.last_bit(rng, 50, d)])
    i, j = similar_pairs(rows, 0.999)
    assert len(i) > 1000
    for _ in range(5):
        labels = rng.integers(12, size=len(rows))
        assert missed(visited(xp, rows, centroids, labels, within_reach(0.999), spherical=spherical), labels, i, j) == 0


@pytest.mark.parametrize("threshold", [1e-9, 0.1, 0.5, *THRESHOLDS, 1 - 2**-24, np.nextafter(1, 0)])
def test_reach_is_the_distance_of_vectors_whose_norms_and_similarity_are_off(threshold):
    assert reach(threshold) ** 2 >= 2 * (1 + NORM_TOLERANCE) ** 2 - 2 * (threshold - 2**-25)
    assert reach(threshold) ** 2 <= 2 * (1 - threshold) + 5e-5, "no farther than that"


@pytest.mark.parametrize("spherical", [False, True], ids=["euclidean", "spherical"])
@pytest.mark.parametrize("tabled", [True, False])
def test_no_cell_is_visited_that_is_clearly_out_of_reach(xp, monkeypatch, spherical, tabled):
    if not tabled:
        monkeypatch.setattr(coverage, "_TABLE_CELLS", 0)
    rng = np.random.default_rng(1)
    centroids = (rng.choice([0, 0.5, 0.8, 1], (60, 1)) * vectors.random(rng, 60, 48)).astype(np.float32)
    rows = np.concatenate([vectors.random(rng, 400, 48), across_bisectors(rng, centroids, 200, 0.95)])
    labels = rng.integers(60, size=len(rows))
    table = visited(xp, rows, centroids, labels, within_reach(0.95), spherical=spherical)
    wide = centroids.astype(np.float64)
    if spherical:
        wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300)
    score = rows @ wide.T - (wide**2).sum(axis=1) / 2
    between = np.linalg.norm(wide[:, None] - wide, axis=2)[labels]
    room = score[np.arange(len(rows)), labels][:, None] - score - np.sqrt(0.1) / 2 * between
    assert not table[room > 1e-4].any()
    assert table[room < -1e-6].all()
    assert (room > 1e-4).sum() > 5000


@pytest.mark.parametrize("spherical", [False, True], ids=["euclidean", "spherical"])
def test_rows_of_clusters_visit_few_cells(xp, spherical):
    rng = np.random.default_rng(2)
    centroids = np.float32(0.9) * vectors.random(rng, 200, 64)
    rows = oracle.unit_vectors(centroids[rng.integers(200, size=2000)] + 0.05 * rng.standard_normal((2000, 64)))
    cells = Cells.of(xp.asarray(centroids), spherical=spherical)
    found = assign(xp.asarray(rows), cells, rule=WithinReach.of(cells, 0.95)).visits
    assert len(found.rows) < 2000, "less than one each, of 199"


def test_one_cell_is_never_left(xp):
    rows = vectors.make("random", 20, 8)
    assert len(visited_of(xp, rows, rows[:1], within_reach(0.9)).rows) == 0


def visited_of(xp, rows, centroids, rule) -> Visits:
    cells = Cells.of(xp.asarray(centroids))
    return assign(xp.asarray(rows), cells, rule=rule(cells)).visits


@pytest.mark.parametrize("rule", [within_reach(0.9), nearest(2)], ids=["within reach", "nearest"])
def test_visits_do_not_depend_on_how_rows_are_cut(xp, monkeypatch, rule):
    rows, centroids = vectors.make("random", 200, 6), vectors.make("random", 30, 6, seed=1)
    whole = visited_of(xp, rows, centroids, rule)
    assert 0 < len(whole.rows) < 29 * 200
    monkeypatch.setattr(assignment, "rows_per_block", lambda *_, **__: 7)
    parts = visited_of(xp, rows, centroids, rule)
    assert parts.rows.tolist() == whole.rows.tolist()
    assert parts.cells.tolist() == whole.cells.tolist()


@pytest.mark.parametrize("rule", [within_reach(0.9), nearest(2)], ids=["within reach", "nearest"])
def test_no_rows_visit_nothing(xp, rule):
    found = visited_of(xp, np.zeros((0, 4), np.float32), np.eye(4, dtype=np.float32), rule)
    assert (found.rows.shape, found.cells.shape) == ((0,), (0,))
    assert (found.rows.dtype, found.cells.dtype) == (np.int64, np.int32)


@huge_numbers
def test_any_rows_centroids_and_labels_keep_no_pair_apart():
    hypothesis = pytest.importorskip("hypothesis")
    st, arrays = hypothesis.strategies, pytest.importorskip("hypothesis.extra.numpy").arrays
    few = st.sampled_from([-1.0, -0.5, -0.0, 0.0, 1e-30, 1e-6, 0.5, 1.0, 1 + 2**-23, 1e19])
    numbers = few | st.floats(min_value=-1, max_value=1, width=32)
    tables = st.tuples(st.integers(2, 9), st.integers(1, 6), st.integers(1, 4)).flatmap(
        lambda s: st.tuples(
            arrays(np.float32, (s[0], s[2]), elements=numbers),
            arrays(np.float32, (s[1], s[2]), elements=numbers),
            arrays(np.int64, s[0], elements=st.integers(0, s[1] - 1)),
        )
    )

    @hypothesis.settings(max_examples=300, deadline=None)
    @hypothesis.given(tables=tables, threshold=st.floats(0.01, 0.999999), spherical=st.booleans())
    def check_any(tables, threshold, spherical):
        rows, centroids, labels = tables
        labels, rows = labels[rows.any(axis=1)], rows[rows.any(axis=1)]
        if len(rows) > 1:
            rows = oracle.unit_vectors(rows)
            table = visited(np, rows, centroids, labels, within_reach(threshold), spherical=spherical)
            assert missed(table, labels, *similar_pairs(rows, threshold)) == 0

    check_any()


# --- nearest cells ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spherical", [False, True], ids=["euclidean", "spherical"])
@pytest.mark.parametrize("kind", ["means of rows", "equal", "1e-6 apart", "1e-12 apart", "some of norm zero", "tiny"])
def test_rows_visit_the_nearest_cells_and_no_others(xp, kind, spherical):
    """Among them ties, which the lowest id wins, rows on bisectors, and labels that are not the nearest."""
    for number, (d, k, others) in enumerate([(1, 3, 1), (2, 7, 2), (3, 8, 3), (12, 9, 8), (96, 40, 5), (384, 5, 1)]):
        rng = np.random.default_rng(number)
        centroids = CENTROIDS[kind](rng, k, d)
        rows = hard_rows(rng, centroids, 0.95)
        own = to_numpy(nearest_centroids(xp.asarray(rows), xp.asarray(centroids), spherical=spherical).centroid)
        for labels in (own, rng.integers(k, size=len(rows))):
            found = visited(xp, rows, centroids, labels, nearest(others), spherical=spherical)
            expected = oracle.nearest_cells(rows, centroids, labels, others, spherical=spherical)
            expected[np.arange(len(rows)), labels] = True
            assert np.array_equal(found, expected), (d, k, others)


def test_ties_go_to_the_lowest_id_by_hand(xp):
    centroids = [[1, 0], [0, 1], [0, -1], [0, 1], [-1, 0]]
    labels = np.array([0, 3])
    found = visited(xp, np.array([[1, 0], [1, 0]], np.float32), centroids, labels, nearest(2))
    assert found.tolist() == [[True, True, True, False, False], [True, True, False, True, False]]


@pytest.mark.parametrize("others", [4, 5, 1000])
def test_as_many_as_there_are_is_all(xp, others):
    rows, labels = vectors.make("random", 30, 8), np.arange(30) % 5
    assert visited(xp, rows, vectors.make("random", 5, 8, seed=1), labels, nearest(others)).all()


@pytest.mark.parametrize("k", [1, 4])
def test_no_others_are_none(xp, k):
    rows, labels = vectors.make("random", 30, 8), np.arange(30) % k
    table = visited(xp, rows, vectors.make("random", k, 8, seed=1), labels, nearest(0 if k > 1 else 3))
    assert table.sum() == 30
