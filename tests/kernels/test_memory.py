"""A GPU's memory that does not suffice: the work begins anew in smaller blocks, and its answer keeps every bit."""

from __future__ import annotations

import sys
import weakref
from types import SimpleNamespace

import numpy as np
import oracle
import pytest
import vectors
from scarce import CupysError, Scarce

from spark_semdedup.kernels import oom as memory
from spark_semdedup.kernels import ranked_max_similarity, sketch, unit_vectors
from spark_semdedup.kernels.arrays import rows_per_block, to_numpy
from spark_semdedup.kernels.assignment import Cells, Visits, assign
from spark_semdedup.kernels.cells import Comparison, compare_cells
from spark_semdedup.kernels.lloyd import lloyd
from spark_semdedup.kernels.oom import OomRetry, lacks_device_memory, shrink
from spark_semdedup.kernels.visits import NearestCells, WithinReach


@pytest.fixture
def scarce(monkeypatch):
    def make(array: np.ndarray, limit: int) -> np.ndarray:
        monkeypatch.setattr(Scarce, "limit", limit)
        return array.view(Scarce)

    return make


# --- halving ------------------------------------------------------------------------------------------------


def test_work_begins_anew_with_half_the_rows_until_it_fits():
    tried, sizes = [], OomRetry()

    def work() -> str:
        tried.append(shrink(1000))
        if tried[-1] > 200:
            raise CupysError
        return "done"

    assert sizes.fitted(work, 1000) == "done"
    assert tried == [1000, 500, 250, 125]
    assert sizes.left_of(1000) == 125


def test_what_was_halved_stays_so_for_the_task_and_for_nothing_else():
    sizes, tried = OomRetry(2), []
    sizes.fitted(lambda: tried.append(shrink(1024)), 1024)
    assert tried == [256]
    assert shrink(1024) == 1024  # outside of the work
    OomRetry().fitted(lambda: tried.append(shrink(1024)), 1024)  # another task
    assert tried == [256, 1024]


def test_a_batch_of_one_row_is_the_end():
    tried = []

    def work() -> None:
        tried.append(shrink(5))
        raise CupysError("Out of memory allocating 125 bytes")

    with pytest.raises(MemoryError, match="125 bytes"):
        OomRetry().fitted(work, 5)
    assert tried == [5, 2, 1]
    assert shrink(5) == 5


def test_other_errors_are_not_tried_again():
    tried = []

    def work() -> None:
        tried.append(1)
        raise MemoryError("of the host")

    with pytest.raises(MemoryError, match="of the host"):
        OomRetry().fitted(work, 1024)
    assert tried == [1]


def test_before_work_begins_anew_its_arrays_are_gone_and_the_pool_is_emptied(monkeypatch):
    """CuPy gives memory back to other sizes only where the arrays are gone, which the exception's frames hold."""
    held, released = [], []
    monkeypatch.setattr(memory, "release_cached", lambda: released.append([array() for array in held]))

    def work() -> None:
        array = np.zeros(8)
        held.append(weakref.ref(array))
        if len(held) < 3:
            raise CupysError

    OomRetry().fitted(work, 1024)
    assert released == [[None], [None, None]]


def from_module(module: str, text: str) -> Exception:
    return type("Error", (RuntimeError,), {"__module__": module})(text)


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (CupysError("Out of memory allocating 512 bytes"), True),
        (MemoryError("of the host"), False),
        (
            from_module("cupy_backends.cuda.api.runtime", "cudaErrorMemoryAllocation: out of memory"),
            True,
        ),
        (from_module("cupy_backends.cuda.api.driver", "CUDA_ERROR_OUT_OF_MEMORY: out of memory"), True),
        (from_module("cupy_backends.cuda.libs.cublas", "CUBLAS_STATUS_ALLOC_FAILED"), True),
        (from_module("cupy_backends.cuda.api.runtime", "cudaErrorIllegalAddress: illegal"), False),
        (RuntimeError("cudaErrorMemoryAllocation, says a text"), False),
    ],
)
def test_what_counts_as_a_lack_of_gpu_memory(error, lacks):
    assert lacks_device_memory(error) is lacks


# --- the kernels --------------------------------------------------------------------------------------------


def same(sizes: OomRetry, work, batch_size: int, roomy) -> None:
    """``work`` needed fewer rows at once and still gives the bits of ``roomy``."""
    found = sizes.fitted(work, batch_size)
    assert sizes.halvings > 0
    for mine, its in zip(found, roomy, strict=True):
        assert oracle.same_bits(np.asarray(mine), np.asarray(its))


@pytest.mark.parametrize("kind", ["near_duplicates", "equal", "last_bit", "random"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_most_similar_rows(scarce, kind, precision):
    rows = vectors.make(kind, 700, 16)
    few = scarce(rows, 200_000)  # a panel of 256 × 700 products is 700 kB
    with pytest.raises(MemoryError):
        ranked_max_similarity(few, batch_size=256, precision=precision)
    roomy = ranked_max_similarity(rows, precision=precision)
    same(OomRetry(), lambda: ranked_max_similarity(few, batch_size=256, precision=precision), 256, roomy)


@pytest.mark.parametrize("at_least", [-np.inf, 0.9])
def test_the_cells_of_a_region(scarce, monkeypatch, at_least):
    monkeypatch.setattr(sketch, "_BASIS_ROWS", 100)
    d = 256  # long enough for sketches
    rng = np.random.default_rng(0)
    units = vectors.near_duplicates(rng, 600, d)
    own = rng.integers(3, size=600)
    probing_rows = np.flatnonzero(rng.random(600) < 0.7)
    visits = Visits(probing_rows, ((own[probing_rows] + 1) % 3).astype(np.int32))
    how = Comparison(at_least=at_least, batch_size=256)
    roomy = compare_cells(units, own, visits, how)
    few = scarce(units, 300_000)  # room for the vectors of a cell; a block of exact products takes 1 MiB

    def work():
        found = compare_cells(few, own, visits, how)
        return found.scores, found.neighbours, found.compared

    same(OomRetry(), work, 256, (roomy.scores, roomy.neighbours, roomy.compared))


@pytest.mark.parametrize("rule", ["nearest", "reach"])
def test_labels_distances_and_visits(scarce, rule):
    rows, centroids = vectors.make("random", 5000, 16), vectors.make("random", 200, 16, seed=1)
    roomy_cells = Cells.of(centroids)
    made = (lambda cells: NearestCells(2)) if rule == "nearest" else (lambda cells: WithinReach.of(cells, 0.9))
    roomy = assign(rows, roomy_cells, rule=made(roomy_cells))
    few = scarce(rows, 2_000_000)  # scores of all rows are 4 MB

    def work():
        cells = Cells.of(centroids.view(Scarce))
        found = assign(few, cells, rule=made(cells))
        return found.centroid, found.l2_dist_to_cent, found.cosine_dist_to_cent, found.visits.rows, found.visits.cells

    expected = roomy.centroid, roomy.l2_dist_to_cent, roomy.cosine_dist_to_cent, roomy.visits.rows, roomy.visits.cells
    same(OomRetry(), work, len(rows), expected)


def test_unit_vectors(scarce):
    rows = np.random.default_rng(0).standard_normal((3000, 64)).astype(np.float32)
    few = scarce(rows, 800_000)  # 1 MiB of float64 at once
    same(OomRetry(), lambda: (unit_vectors(few),), 3000, (unit_vectors(rows),))


def test_a_fit_is_the_same_but_for_rounding(scarce):
    """Its sums are added batch by batch."""
    rows = vectors.make("random", 4000, 8)
    first = rows[:100]
    few = scarce(rows, 800_000)  # 4000 × 100 scores are twice as much
    sizes = OomRetry()
    fit = sizes.fitted(lambda: lloyd(few, first.view(Scarce), max_iter=3, tol=0.0, batch_rows=4000), 4000)
    assert sizes.halvings == 1
    roomy = lloyd(rows, first, max_iter=3, tol=0.0)
    np.testing.assert_allclose(np.asarray(fit.centroids), roomy.centroids, atol=1e-6)
    assert fit.history == pytest.approx(roomy.history, rel=1e-7)


def test_blocks_of_a_gpu_are_halved_too():
    found = []
    OomRetry(3).fitted(lambda: found.append(rows_per_block(object(), 1024)), 1024)  # not NumPy: a GPU
    assert found == [rows_per_block(object(), 1024) / 8]


# --- on a GPU -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("xp", [pytest.param("cupy", marks=pytest.mark.gpu)], indirect=True)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_pool_of_a_few_mib_gives_the_same_answer(xp, precision):
    rows = vectors.make("near_duplicates", 20_000, 64)  # 5 MiB, as much or half of it once more, and 32 MiB of products
    roomy = [to_numpy(each) for each in ranked_max_similarity(xp.asarray(rows), precision=precision)]
    pool, sizes = xp.get_default_memory_pool(), OomRetry()
    pool.free_all_blocks()
    pool.set_limit(size=pool.total_bytes() + (24 << 20))
    try:
        on_device = xp.asarray(rows)

        def work():
            return [to_numpy(each) for each in ranked_max_similarity(on_device, batch_size=1024, precision=precision)]

        same(sizes, work, 1024, roomy)
    finally:
        pool.set_limit(size=0)


def test_where_a_sort_finds_no_memory_on_a_gpu_cython_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    assert lacks_device_memory(MemoryError("std::bad_alloc"))
    assert not lacks_device_memory(MemoryError("of the host"))
    monkeypatch.delitem(sys.modules, "cupy")  # which a machine with a GPU may have imported by now
    assert not lacks_device_memory(MemoryError("std::bad_alloc"))
