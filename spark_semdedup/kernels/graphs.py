"""Graphs of similar rows, as arrays of edges: what of them is kept, and what hangs together. NumPy only."""

from __future__ import annotations

import numpy as np

KEPT, REMOVED, UNDECIDED = 0, 1, 2


def independent_set(n: int, later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """The maximal independent set that one finds by going through all vertices in rank order: int8 (n,).

    A vertex is ``REMOVED`` when one of its predecessors is ``KEPT``, and ``KEPT`` when all of them are removed. An edge
    from a vertex to itself stands for predecessors that are not listed: such a vertex is never kept for sure, and what
    depends on it may be ``UNDECIDED``.

    ``later``, ``earlier``: integer (m,), the ends of each edge. The ranks themselves are not needed: all vertices whose
    predecessors are decided are decided at once, so there are as many steps as the longest chain is deep (Blelloch,
    Fineman and Shun, SPAA 2012: of O(log² n) depth for random orders); each edge is looked at twice in all.

    >>> independent_set(4, np.array([1, 2, 3]), np.array([0, 1, 2])).tolist()  # a chain
    [0, 1, 0, 1]
    """
    order = np.argsort(earlier, kind="stable")
    followers = later[order]
    starts = np.searchsorted(earlier[order], np.arange(n + 1))
    state = np.full(n, UNDECIDED, np.int8)
    open_predecessors = np.bincount(later, minlength=n)
    ready = np.flatnonzero(open_predecessors == 0)
    while len(ready):
        state[ready] = KEPT
        gone = np.unique(_of(followers, starts, ready))
        gone = gone[state[gone] == UNDECIDED]
        state[gone] = REMOVED
        freed = _of(followers, starts, gone)
        np.subtract.at(open_predecessors, freed, 1)
        freed = np.unique(freed)
        ready = freed[(open_predecessors[freed] == 0) & (state[freed] == UNDECIDED)]
    return state


def _of(followers: np.ndarray, starts: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """The followers of some vertices, one after the other."""
    counts = starts[vertices + 1] - starts[vertices]
    offsets = np.repeat(starts[vertices] - np.cumsum(counts) + counts, counts)
    return followers[offsets + np.arange(len(offsets))]


def roots(parents: np.ndarray) -> np.ndarray | None:
    """The root of each vertex's tree, by pointer doubling: int (n,); None where there is a cycle. A root is its own
    parent.

    >>> roots(np.array([0, 0, 1, 3])).tolist()
    [0, 0, 0, 3]
    """
    ends = parents
    for _ in range(len(parents).bit_length() + 1):
        farther = ends[ends]
        if np.array_equal(farther, ends):  # so it is, too, on a cycle as long as a power of two
            return ends if np.array_equal(parents[ends], ends) else None
        ends = farther
    return None


class Components:
    """Connected components of n vertices, as edges come in: each is known by its lowest vertex."""

    def __init__(self, n: int) -> None:
        self._parents = np.arange(n)

    def join(self, a: np.ndarray, b: np.ndarray) -> None:
        """Takes in edges between ``a`` and ``b``, integer (m,): the higher of two roots is hung under the lower one,
        and trees are flattened, until no edge lies between two trees."""
        while len(a):
            a, b = self._parents[a], self._parents[b]
            apart = a != b
            a, b = a[apart], b[apart]
            np.minimum.at(self._parents, np.maximum(a, b), np.minimum(a, b))
            flat = roots(self._parents)
            assert flat is not None  # links lead to lower vertices, so there is no cycle
            self._parents = flat

    @property
    def labels(self) -> np.ndarray:
        """The lowest vertex of each vertex's component: int (n,)."""
        return self._parents
