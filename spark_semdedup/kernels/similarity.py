"""The most similar preferred row of every row: screened by matrix products, decided exactly.

Rows stand in rank order, so a row's predecessors are the columns to its left. Five rows, A = (1, 0, 0),
B = (0.8, 0.6, 0), C = (0.6, 0.8, 0), D = (0.96, 0.28, 0), E = (⅔, ⅔, ⅓), and the part of the similarity matrix that
counts::

            A      B      C      D      E
       A    .      .      .      .      .     A has no predecessor: it gets itself and 0
       B   0.800   .      .      .      .     B: max 0.8, with A
       C   0.600  0.960   .      .      .     C: max 0.96, with B
       D   0.960  0.936  0.800   .      .     D: max 0.96, with A
       E   0.667  0.933  0.933  0.827   .     E: max 0.933, with B and C alike: B, the earlier one, counts

With eps = 0.05 (a duplicate from 0.95 on), C and D are duplicates, A, B and E are kept: C is similar to B, which
is kept itself; had B been a duplicate too, C would still be one (docs/how-it-works.md, "Decision").

The *floor* for n rows of dimension d is n² d floating-point operations (half of the square, two each) and one
read of the rows. Each product of the screening pass is read twice while it lies in the cache (maximum, then the
few candidates), and each row's candidates, rarely more than two, cost d exact multiplications and additions.

CuPy arrays are screened and decided by ``cuda``, with the same bits for a result; what is here is for NumPy, for
dimensions too large for that, and for GPUs on which it fails (``precision="generic"``).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from spark_semdedup.kernels.arithmetic import exact_pair_dots, float64_screening_error, screening_error
from spark_semdedup.kernels.arrays import Array, array_module, minimum_at, nonzero_pairs, rows_per_block
from spark_semdedup.kernels.cuda.launch import MAX_DIMENSION, max_similarity_on_gpu
from spark_semdedup.kernels.oom import shrink

PRECISIONS = ("float32", "float16", "generic")
"""``generic`` is float32 by array operations alone, without the kernels in ``cuda``: for a GPU on which those fail."""

_PANEL_ROWS = 256
"""Rows multiplied at once on a CPU: enough for BLAS, few enough that little beyond the diagonal is multiplied."""

_NO_COLUMN = np.iinfo(np.int64).max

_CANDIDATES_PER_ROW = 32
"""Candidates beyond this are not decided one by one: from about here a float64 product of the block is cheaper."""


def ranked_max_similarity(
    embeddings: Array, *, batch_size: int = 1024, precision: str = "float32"
) -> tuple[Array, Array]:
    """Each row's largest similarity to a row before it, and which row that is.

    Parameters
    ----------
    embeddings
        Float32 unit vectors in rank order, the preferred first: (n, d), NumPy or CuPy.
    batch_size
        Rows compared at once, at most. The result does not depend on it.
    precision
        ``float32`` or ``float16``: what elements are rounded to for the screening products, which are float32
        themselves; or ``generic`` (``PRECISIONS``). The result does not depend on it.

    Returns
    -------
    scores, indices
        Float32 (n,) and int64 (n,), of the same library. Of several equally similar rows the earliest counts. The
        first row, which has no predecessor, gets itself and 0.

    >>> import numpy as np
    >>> ranked_max_similarity(np.array([[1, 0], [0, 1], [1, 0]], np.float32))
    (array([0., 0., 1.], dtype=float32), array([0, 0, 0]))
    """
    scores, indices = max_similarity(
        embeddings, embeddings, np.arange(embeddings.shape[0]), batch_size=batch_size, precision=precision
    )
    indices[:1] = 0
    return scores, indices


def max_similarity(
    rows: Array,
    columns: Array,
    limits: np.ndarray,
    *,
    batch_size: int = 1024,
    precision: str = "float32",
    at_least: float = -np.inf,
) -> tuple[Array, Array]:
    """For each of ``rows`` the largest similarity to one of the first ``limits[i]`` of ``columns``, and which.

    Both sides in rank order; ``limits``, a NumPy int array that never decreases, says how many of ``columns``
    precede row i. (So one function serves a cluster against itself, where ``limits`` is 0, 1, 2, …, and two parts
    of a cluster against each other.) Similarities below ``at_least`` do not count (which saves time on a CPU).

    Returns float32 scores and int64 column indices; 0 and −1 for a row that nothing precedes (or nothing that counts).
    """
    _check(rows, columns, limits, batch_size, precision)
    xp = array_module(rows)
    if xp is not np and precision != "generic" and rows.shape[1] <= MAX_DIMENSION:
        found = max_similarity_on_gpu(
            rows, columns, limits, batch_size=batch_size, precision=precision, capacity=_CANDIDATES_PER_ROW
        )
        return found if at_least == -np.inf else Best(*found).at_least(at_least).filled()
    n = rows.shape[0]
    whole = Best.none(xp, n)
    screen = _Screen.of(rows, columns, precision)
    step = row_panel(xp, batch_size)
    for start in range(int(np.searchsorted(limits, 1)), n, step):
        part = slice(start, min(start + step, n))
        best = _panel(screen, part, limits[part], at_least)
        whole.scores[part], whole.indices[part] = best.scores, best.indices
    scores, indices = whole.at_least(at_least).filled()
    _sign_zeros(rows, columns, scores, indices)
    return scores, indices


def row_panel(xp: ModuleType, batch_size: int) -> int:
    """Rows multiplied at once."""
    return min(shrink(batch_size), _PANEL_ROWS) if xp is np else shrink(batch_size)


def _sign_zeros(rows: Array, columns: Array, scores: Array, indices: Array) -> None:
    """Gives scores of zero the sign of the product they are, in place: −0 and +0 tie, and a maximum takes either."""
    i = array_module(rows).flatnonzero((scores == 0) & (indices >= 0))
    scores[i] = exact_pair_dots(rows, columns, i, indices[i])


def _check(rows: Array, columns: Array, limits: np.ndarray, batch_size: int, precision: str) -> None:
    for name, array in (("rows", rows), ("columns", columns)):
        if array.ndim != 2 or array.dtype != np.float32:
            raise ValueError(f"{name} must be a float32 matrix, not {array.dtype} of shape {array.shape}")
    if rows.shape[1] != columns.shape[1] or array_module(rows) is not array_module(columns):
        raise ValueError(f"rows of dimension {rows.shape[1]} cannot be compared with columns of {columns.shape[1]}")
    if len(limits) != rows.shape[0] or (len(limits) and (np.any(np.diff(limits) < 0) or limits[0] < 0)):
        raise ValueError("limits must hold one number for each row and never decrease")
    if len(limits) and limits[-1] > columns.shape[0]:
        raise ValueError(f"limits reach {limits[-1]}, but there are {columns.shape[0]} columns")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} cannot be used: it must be at least 1")
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} cannot be used: it must be one of {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class _Screen:
    """Both sides as they are multiplied, and how far below the best a screened value may hide the true best."""

    rows: Array
    columns: Array
    fast_rows: Array
    fast_columns: Array
    slack: float

    @classmethod
    def of(cls, rows: Array, columns: Array, precision: str) -> _Screen:
        xp = array_module(rows)
        precision = "float32" if precision == "generic" else precision
        fast_rows, fast_columns = _in_precision(rows, precision), _in_precision(columns, precision)
        error = screening_error(rows.shape[1], precision, tensor_cores=xp is not np)
        # Best and candidate may each be off by the error, and both are rounded to float32 before they are compared.
        return cls(rows, columns, fast_rows, fast_columns, 2 * error + 2.0**-23)

    def products(self, rows: slice, columns: slice, limits: np.ndarray) -> Array:
        """Screened similarities of a block; −inf where the column does not precede the row."""
        products = self.fast_rows[rows] @ self.fast_columns[columns].T
        _mask(products, columns, limits)
        return products


def _in_precision(vectors: Array, precision: str) -> Array:
    if precision == "float32":
        return vectors
    # Multiplied as float32. A GPU's own float16 product is faster, but cuBLAS may add up partial sums in float16, as
    # often as it likes: no bound holds for that unless it is told not to.
    return vectors.astype(np.float16).astype(np.float32)


def _mask(products: Array, columns: slice, limits: np.ndarray) -> None:
    first = max(int(limits[0]) - columns.start, 0)  # columns before this one precede every row of the panel
    if first < products.shape[1]:
        xp = array_module(products)
        position = xp.arange(columns.start + first, columns.start + products.shape[1])
        products[:, first:][position[None, :] >= xp.asarray(limits)[:, None]] = -np.inf


def _panel(screen: _Screen, rows: slice, limits: np.ndarray, at_least: float) -> Best:
    """Decides the rows of one panel: block after block of columns is screened, what may be the best is decided."""
    xp = array_module(screen.rows)
    n = len(limits)
    best = Best.none(xp, n)
    # As if a column of similarity at_least had been seen (rounded down): less is not looked at.
    highest = xp.full(n, np.nextafter(np.float32(at_least), np.float32(-np.inf)), np.float32)
    pending = _Candidates(capacity=_CANDIDATES_PER_ROW * n)
    for columns in _column_blocks(xp, n, int(limits[-1])):
        products = screen.products(rows, columns, limits)
        highest = xp.maximum(highest, products.max(axis=1))
        near = products >= (highest - np.float32(screen.slack))[:, None]
        if int(xp.count_nonzero(near)) > pending.capacity:
            _decide_block(screen, rows, columns, limits, best)
            continue
        i, j = nonzero_pairs(near)
        pending.add(i, j + columns.start, products[i, j])
        if pending.count > pending.capacity:
            pending.decide(screen, rows, highest, best)
    pending.decide(screen, rows, highest, best)
    return best


def _column_blocks(xp: ModuleType, panel_rows: int, end: int) -> list[slice]:
    step = rows_per_block(xp, 4 * panel_rows)
    return [slice(start, min(start + step, end)) for start in range(0, end, step)]


@dataclass
class Best:
    """The best decided so far for each of n rows: exact float32 score, and the earliest column that has it.

    A row that has none has −∞ and a number beyond all columns, or below them.
    """

    scores: Array
    indices: Array

    @classmethod
    def none(cls, xp: ModuleType, n: int) -> Best:
        return cls(xp.full(n, -np.inf, np.float32), xp.full(n, _NO_COLUMN, np.int64))

    def update(self, i: Array, j: Array, scores: Array) -> None:
        """Takes candidates in: row ``i`` has the exact score ``scores`` with column ``j``; rows may repeat."""
        xp = array_module(scores)
        before = self.scores.copy()
        xp.maximum.at(self.scores, i, scores)
        self.indices[self.scores > before] = _NO_COLUMN
        ties = scores == self.scores[i]
        minimum_at(self.indices, i[ties], j[ties])

    def at_least(self, score: float) -> Best:
        """Those alone of ``score`` or more (compared as doubles); in place."""
        if score > -np.inf:
            less = self.scores.astype(np.float64) < score
            self.scores[less], self.indices[less] = -np.inf, _NO_COLUMN
        return self

    def filled(self) -> tuple[Array, Array]:
        """Scores and columns, 0 and −1 for rows that have none; in place."""
        nothing = (self.indices == _NO_COLUMN) | (self.indices < 0)
        self.scores[nothing], self.indices[nothing] = 0, -1
        return self.scores, self.indices


class _Candidates:
    """Pairs that may be some row's best, waiting to be decided together."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        self._parts: list[tuple[Array, Array, Array]] = []

    def add(self, i: Array, j: Array, screened: Array) -> None:
        self._parts.append((i, j, screened))
        self.count += int(i.shape[0])

    def decide(self, screen: _Screen, rows: slice, highest: Array, best: Best) -> None:
        """Decides those still within the slack of their row's highest screened value, and forgets all."""
        if self.count:
            xp = array_module(highest)
            i, j, screened = (xp.concatenate(part) for part in zip(*self._parts, strict=True))
            near = screened >= highest[i] - np.float32(screen.slack)
            i, j = i[near], j[near]
            best.update(i, j, exact_pair_dots(screen.rows[rows], screen.columns, i, j))
        self.count = 0
        self._parts = []


def _decide_block(screen: _Screen, rows: slice, columns: slice, limits: np.ndarray, best: Best) -> None:
    """Decides a whole block, where candidates are too many to decide one by one (boilerplate, equal rows).

    A float64 product knows the exact sum up to a bound so small that both ends almost always round to the same
    float32: that is the score. Only where they differ, and the score may be the row's best, is the pair decided.
    """
    xp = array_module(screen.rows)
    error = float64_screening_error(screen.rows.shape[1])
    panel = screen.rows[rows].astype(np.float64)
    step = rows_per_block(xp, 16 * panel.shape[0])
    for start in range(columns.start, columns.stop, step):
        part = slice(start, min(start + step, columns.stop))
        products = panel @ screen.columns[part].astype(np.float64).T
        _mask(products, part, limits)
        low, high = (products - error).astype(np.float32), (products + error).astype(np.float32)
        # Where the panel's masked part is all there is, low.max is −inf and nothing may count.
        near = (high >= xp.maximum(low.max(axis=1), best.scores)[:, None]) & (high > -np.inf)
        sure = near & (low == high)
        i, j = nonzero_pairs(sure)
        best.update(i, j + start, low[i, j])
        i, j = nonzero_pairs(near & ~sure)
        best.update(i, j + start, exact_pair_dots(screen.rows[rows], screen.columns[part], i, j))
