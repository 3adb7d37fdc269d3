"""The most similar preferred row: the same bits as brute force for any batch, screening precision and input."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import vectors
from marks import slow

from spark_semdedup.kernels import max_similarity, ranked_max_similarity, similarity, unit_vectors
from spark_semdedup.kernels.arrays import minimum_at, to_numpy
from spark_semdedup.kernels.similarity import PRECISIONS

BATCH_SIZES = [1, 7, 64, 1024, 10**6]


def check_ranked(xp, rows: np.ndarray, batch_sizes=BATCH_SIZES, precisions=PRECISIONS) -> None:
    expected = oracle.max_similarities(rows, range(len(rows)))
    for precision in precisions:
        for batch_size in batch_sizes:
            found = ranked_max_similarity(xp.asarray(rows), batch_size=batch_size, precision=precision)
            check(found, expected, f"batch size {batch_size}, {precision}")


def check(found, expected: oracle.Similarities, what: str = "") -> None:
    scores, indices = map(to_numpy, found)
    assert oracle.same_bits(indices, expected.neighbour), what
    assert oracle.same_bits(scores, expected.score), what


# --- by hand ------------------------------------------------------------------------------------------------

# The five rows of the module's text.
EXAMPLE = np.array([[15, 0, 0], [12, 9, 0], [9, 12, 0], [14.4, 4.2, 0], [10, 10, 5]])
EXAMPLE_SIMILARITIES = [[], [0.8], [0.6, 0.96], [0.96, 0.936, 0.8], [0.667, 0.933, 0.933, 0.827]]


def test_the_worked_example(xp):
    units = unit_vectors(xp.asarray(EXAMPLE))
    scores, indices = map(to_numpy, ranked_max_similarity(units))
    assert indices.tolist() == [0, 0, 1, 0, 1]
    assert scores.tolist() == pytest.approx([0, 0.8, 0.96, 0.96, 14 / 15], abs=1e-7)
    for i, row in enumerate(EXAMPLE_SIMILARITIES):
        assert [float(oracle.similarity(to_numpy(units[i]), to_numpy(units[j]))) for j in range(i)] == pytest.approx(
            row, abs=5e-4
        )
    kept = scores.astype(np.float64) < 1.0 - 0.05
    assert kept.tolist() == [True, True, False, False, True]


def test_of_equal_similarities_the_earliest_counts(xp):
    rows = np.array([[0, 1], [1, 0], [0, 1], [1, 0], [0, -1], [-1, 0]], np.float32)
    scores, indices = map(to_numpy, ranked_max_similarity(xp.asarray(rows)))
    assert indices.tolist() == [0, 0, 0, 1, 1, 0]
    assert scores.tolist() == [0, 0, 1, 1, 0, 0]


def test_the_largest_similarity_may_be_negative(xp):
    rows = np.array([[1.0], [-1.0]], np.float32)
    scores, indices = map(to_numpy, ranked_max_similarity(xp.asarray(rows)))
    assert (scores.tolist(), indices.tolist()) == ([0, -1], [0, 0])


@pytest.mark.parametrize("n", [0, 1])
def test_rows_that_nothing_precedes(xp, n):
    scores, indices = map(to_numpy, ranked_max_similarity(xp.ones((n, 3), np.float32)))
    assert (scores.dtype, indices.dtype) == (np.float32, np.int64)
    assert (scores.tolist(), indices.tolist()) == ([0] * n, [0] * n)


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_a_zero_score_has_the_sign_of_the_similarity_it_is(xp, batch_size):
    """−0 and +0 tie, so the earliest counts; the score is then that row's similarity to the last bit."""
    rows = np.array([[-0.0, -1], [0, 1], [1, 0], [-1, 0], [1, 0]], np.float32)
    for order in ([0, 1, 2], [1, 0, 2], [0, 1, 3], [1, 0, 3]):
        check_ranked(xp, rows[order], [batch_size])


# Public examples of other implementations. --------------------------------------------------------------------
# NVIDIA NeMo Curator, tests/stages/deduplication/semantic/test_pairwise.py (vectors and expected numbers are facts).


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5, 6])
def test_the_six_rows_of_nemo_curators_suite(xp, batch_size):
    rows = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12], [1, 2, 3], [1, 2, 3]], np.float32)
    scores, indices = ranked_max_similarity(unit_vectors(xp.asarray(rows)), batch_size=batch_size)
    assert to_numpy(indices).tolist() == [0, 0, 1, 2, 0, 0]
    assert to_numpy(scores).tolist() == pytest.approx([0, 0.974631, 0.998190, 0.999618, 1, 1], abs=1e-6)


# The five rows by which its pairwise_cosine_similarity_batched explains itself; eps = 0.1 removes B and E.
def test_the_five_rows_of_nemo_curators_text(xp):
    rows = np.array([[1, 0, 0, 0], [0.96, 0.28, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0.96, 0, 0.28]])
    scores, indices = map(to_numpy, ranked_max_similarity(unit_vectors(xp.asarray(rows))))
    assert indices.tolist() == [0, 0, 1, 0, 2]
    assert scores.tolist() == pytest.approx([0, 0.96, 0.28, 0, 0.96], abs=1e-7)


def test_negative_similarities_count_unlike_in_the_first_implementation(xp):
    """facebookresearch/SemDeDup takes the maximum over a triangle filled up with zeros (``torch.triu``), so a
    negative maximum becomes 0 there. No eps in (0, 1) can tell: neither is a duplicate."""
    rows = np.array([[1, 0], [-0.6, 0.8]], np.float32)
    assert to_numpy(ranked_max_similarity(xp.asarray(rows))[0]).tolist() == [0, np.float32(-0.6)]


# --- against brute force ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", vectors.KINDS)
@pytest.mark.parametrize("d", [1, 2, 3, 5, 8, 33, slow(384)])
def test_equals_brute_force(xp, kind, d):
    check_ranked(xp, vectors.make(kind, 300, d), [7, 64, 1024])


@pytest.mark.parametrize("kind", ["random", "last_bit", "skewed"])
@pytest.mark.parametrize("d", [768, slow(1000), slow(1025), 4096])
def test_equals_brute_force_in_many_dimensions(xp, kind, d):
    check_ranked(xp, vectors.make(kind, 150, d), [64, 1024])


@pytest.mark.parametrize("kind", ["random", "near_duplicates", "lattice", "last_bit"])
def test_equals_brute_force_for_any_batch_size(xp, kind):
    check_ranked(xp, vectors.make(kind, 700, 24), BATCH_SIZES)


@pytest.mark.parametrize("kind", ["equal", "last_bit", "collinear"])
def test_thousands_of_rows_that_are_all_candidates(xp, kind):
    """More candidates than are kept: whole blocks are decided at once."""
    check_ranked(xp, vectors.make(kind, 4000, 3), [1024])


def test_thousands_of_last_bit_neighbours_among_other_rows(xp):
    rng = np.random.default_rng(0)
    rows = np.concatenate([vectors.make("last_bit", 1500, 16), vectors.make("random", 500, 16)])
    check_ranked(xp, rows[rng.permutation(len(rows))], [256, 1024])


def test_a_million_equal_pairs_of_long_vectors_take_the_first(xp):
    rows = vectors.make("equal", 1500, 384)
    for precision in PRECISIONS:
        scores, indices = map(to_numpy, ranked_max_similarity(xp.asarray(rows), precision=precision))
        assert not indices.any()
        assert np.unique(scores[1:]).tolist() == [float(oracle.similarity(rows[0], rows[0]))]


@pytest.mark.parametrize("kind", vectors.KINDS)
@pytest.mark.parametrize("d", [1, 3, 8, 100])
def test_deciding_whole_blocks_and_single_candidates_agree(xp, monkeypatch, kind, d):
    rows = vectors.make(kind, 300, d)
    for candidates in (0, 1, 10**6):
        monkeypatch.setattr("spark_semdedup.kernels.similarity._CANDIDATES_PER_ROW", candidates)
        check_ranked(xp, rows, [1024])


@pytest.mark.parametrize("shift", [0.999, 1.0, 1.000001])
def test_near_ties_below_float32_products_are_decided_by_the_exact_ones(xp, shift):
    """Rows whose similarity to the last one differs by a few last bits, in an order that BLAS need not see."""
    rng = np.random.default_rng(1)
    base = rng.standard_normal(384)
    rows = oracle.unit_vectors(base + 1e-7 * shift * rng.standard_normal((400, 384)))
    check_ranked(xp, rows, [64, 1024])


# --- two different sides ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["random", "near_duplicates", "lattice", "last_bit", "equal"])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1024])
def test_any_limits_that_never_decrease(xp, kind, batch_size):
    rng = np.random.default_rng(batch_size)
    rows, columns = vectors.make(kind, 150, 20), vectors.make(kind, 230, 20)
    for highest in (0, 3, 230):
        limits = np.sort(rng.integers(0, highest + 1, size=150))
        for precision in PRECISIONS:
            found = max_similarity(
                xp.asarray(rows), xp.asarray(columns), limits, batch_size=batch_size, precision=precision
            )
            scores, indices = map(to_numpy, found)
            for i, limit in enumerate(limits):
                if limit == 0:
                    assert (scores[i], indices[i]) == (0, -1)
                    continue
                exact = oracle.tree_add((rows[i].astype(np.float64) * columns[:limit]).T).astype(np.float32)
                assert indices[i] == exact.argmax()
                assert oracle.same_bits(scores[i : i + 1], exact[exact.argmax()][None])


def test_no_columns_and_no_rows(xp):
    some, none = xp.ones((4, 2), np.float32), xp.zeros((0, 2), np.float32)
    scores, indices = map(to_numpy, max_similarity(some, none, np.zeros(4, np.int64)))
    assert (scores.tolist(), indices.tolist()) == ([0] * 4, [-1] * 4)
    scores, indices = max_similarity(none, some, np.zeros(0, np.int64))
    assert (scores.shape, indices.shape) == ((0,), (0,))


ONES = np.ones((3, 2), np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": ONES.astype(np.float64)}, "rows must be a float32 matrix, not float64"),
        ({"columns": ONES.astype(np.float16)}, "columns must be a float32 matrix, not float16"),
        ({"rows": ONES[0]}, r"rows must be a float32 matrix, not float32 of shape \(2,\)"),
        ({"columns": np.ones((3, 4), np.float32)}, "dimension 2 cannot be compared with columns of 4"),
        ({"limits": np.array([0, 1])}, "one number for each row"),
        ({"limits": np.array([0, 2, 1])}, "never decrease"),
        ({"limits": np.array([-1, 0, 1])}, "limits must"),
        ({"limits": np.array([0, 1, 4])}, "limits reach 4, but there are 3 columns"),
        ({"batch_size": 0}, "batch_size=0 .* at least 1"),
        ({"precision": "bfloat16"}, "precision='bfloat16' .* float32, float16"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message):
    with pytest.raises(ValueError, match=message):
        max_similarity(**{"rows": ONES, "columns": ONES, "limits": np.arange(3), **arguments})


def test_the_lowest_value_stays_at_each_place(xp):
    numbers = xp.asarray(np.array([5, 2**62, 0, np.iinfo(np.int64).max], np.int64))
    minimum_at(numbers, xp.asarray([0, 3, 3, 2, 0]), xp.asarray(np.array([7, 2**40, 9, 4, 3], np.int64)))
    assert to_numpy(numbers).tolist() == [3, 2**62, 0, 9]
    assert numbers.dtype == np.int64


# --- properties ---------------------------------------------------------------------------------------------


def test_any_vectors_equal_brute_force():
    hypothesis = pytest.importorskip("hypothesis")
    st, arrays = hypothesis.strategies, pytest.importorskip("hypothesis.extra.numpy").arrays
    few = st.sampled_from([-1.0, -0.5, -1e-30, -0.0, 0.0, 1e-45, 1e-8, 0.5, 1.0, 1 + 2**-23])
    numbers = few | st.floats(min_value=-1, max_value=1, width=32)
    shapes = st.tuples(st.integers(1, 12), st.integers(1, 9))
    matrices = shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=numbers))

    @hypothesis.settings(max_examples=300, deadline=None)
    @hypothesis.given(rows=matrices, batch_size=st.integers(1, 14), precision=st.sampled_from(PRECISIONS))
    def check_any(rows, batch_size, precision):
        rows = rows[rows.any(axis=1)]
        if len(rows):
            check_ranked(np, oracle.unit_vectors(rows), [batch_size], [precision])

    check_any()


@pytest.mark.parametrize("kind", vectors.KINDS)
def test_generic_takes_array_operations_alone(monkeypatch, like_cupy, kind):
    """The way out for a GPU on which the kernels fail."""

    def fails(*_, **__):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(similarity, "array_module", lambda _: like_cupy)
    monkeypatch.setattr(similarity, "max_similarity_on_gpu", fails)
    rows = vectors.make(kind, 150, 20)
    with pytest.raises(RuntimeError, match="no kernel image"):
        similarity.ranked_max_similarity(rows)
    expected = oracle.max_similarities(rows, range(len(rows)))
    for batch_size in (1, 64, 1000):
        scores, indices = similarity.ranked_max_similarity(rows, batch_size=batch_size, precision="generic")
        assert oracle.same_bits(scores, expected.score)
        assert oracle.same_bits(indices, expected.neighbour)
