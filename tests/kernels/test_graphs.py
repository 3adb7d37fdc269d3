"""Independent sets and components against what a loop over all vertices says, and against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from spark_semdedup.kernels.graphs import KEPT, REMOVED, UNDECIDED, Components, independent_set, roots

graphs = st.integers(1, 30).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=90))
)


def one_by_one(n: int, edges: list[tuple[int, int]]) -> list[int]:
    kept: set[int] = set()
    for vertex in range(n):
        if not any((vertex, other) in edges or (other, vertex) in edges for other in kept):
            kept.add(vertex)
    return [KEPT if vertex in kept else REMOVED for vertex in range(n)]


@settings(deadline=None)
@given(graphs)
def test_the_set_is_that_of_a_loop_over_all_vertices(graph):
    n, edges = graph
    edges = [(max(edge), min(edge)) for edge in edges if edge[0] != edge[1]]  # repeated ones, too
    ends = np.array(edges, np.int64).reshape(-1, 2)
    assert independent_set(n, ends[:, 0], ends[:, 1]).tolist() == one_by_one(n, edges)


@settings(deadline=None)
@given(graphs, st.sets(st.integers(0, 29)))
def test_what_is_decided_in_spite_of_hidden_edges_holds_whatever_they_are(graph, hiding):
    n, edges = graph
    edges = sorted({(max(edge), min(edge)) for edge in edges if edge[0] != edge[1]})
    hiding = {vertex for vertex in hiding if vertex < n}
    ends = np.array(edges + [(vertex, vertex) for vertex in hiding], np.int64).reshape(-1, 2)
    state = independent_set(n, ends[:, 0], ends[:, 1])
    rng = np.random.default_rng(len(edges))
    for _ in range(5):
        hidden = [(vertex, int(rng.integers(vertex))) for vertex in hiding if vertex and rng.random() < 0.7]
        whole = np.array(one_by_one(n, edges + hidden))
        decided = state != UNDECIDED
        assert (state[decided] == whole[decided]).all()


def test_a_long_chain_and_a_large_clique():
    n = 10_000
    every = np.arange(n)
    assert independent_set(n, every[1:], every[:-1]).tolist() == [KEPT, REMOVED] * (n // 2)
    later, earlier = np.tril_indices(600, -1)
    assert independent_set(600, later, earlier).tolist() == [KEPT] + [REMOVED] * 599


def test_roots_of_a_chain_and_of_stars():
    chain = np.maximum(np.arange(10_000) - 1, 0)
    assert not roots(chain).any()
    assert roots(np.array([0, 0, 2, 2, 0, 5])).tolist() == [0, 0, 2, 2, 0, 5]


@pytest.mark.parametrize("length", range(2, 18))
def test_links_in_circles_have_no_roots(length):
    circle = np.roll(np.arange(length), 1)
    assert roots(circle) is None
    beside_trees = np.concatenate([[0, 0, 1], circle + 3, [3]])  # one vertex leads into the circle
    assert roots(beside_trees) is None


@settings(deadline=None)
@given(graphs, st.integers(1, 20))
def test_components_are_those_of_scipy_however_edges_come(graph, at_once):
    n, edges = graph
    ends = np.array(edges, np.int64).reshape(-1, 2)
    components = Components(n)
    for start in range(0, len(ends), at_once):
        components.join(*ends[start : start + at_once].T)
    _, expected = connected_components(coo_array((np.ones(len(ends)), tuple(ends.T)), shape=(n, n)), directed=False)
    lowest = [int(np.flatnonzero(expected == label)[0]) for label in expected]
    assert components.labels.tolist() == lowest


@pytest.mark.parametrize("order", ["up", "down", "mixed"])
def test_components_of_a_long_chain(order):
    n = 10_000
    a = np.arange(n - 1)
    if order != "up":
        a = a[::-1] if order == "down" else np.random.default_rng(0).permutation(a)
    components = Components(n)
    for start in range(0, len(a), 97):
        components.join(a[start : start + 97], a[start : start + 97] + 1)
    assert not components.labels.any()
