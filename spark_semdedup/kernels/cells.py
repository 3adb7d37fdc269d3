"""Several neighbouring cells compared in one task: each cell's home rows with one another and with its probing rows.

    cell 1          cell 2                home rows   probing rows
   ┌───────────┬───────────┐     cell 1   a b c     d
   │ a    b   c│d          │     cell 2   d e       c
   │           │        e  │
   └───────────┴───────────┘     compared: ab ac bc, ad bd cd; de, cd ce; not: ae, be

A home row lies in the cell; a probing row lies in another cell and visits this one. A task holds a vector once, however
many of its cells the row visits. Probing rows are not compared with one another: two rows within reach meet where one
of them is at home (``visits``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from spark_semdedup.kernels.arrays import Array, array_module, to_device_of, to_numpy
from spark_semdedup.kernels.assignment import Visits
from spark_semdedup.kernels.similarity import Best, max_similarity
from spark_semdedup.kernels.sketch import Side, close_similarity, preceding

_MOST_DISTINCT = 0.9
"""Share of distinct rows from which it does not pay to leave the others out."""


def distinct_rows(x: np.ndarray) -> np.ndarray | None:
    """The first of each set of rows that are equal bit for bit, ascending, int64; None where few rows repeat.

    ``x``: float32 (n, d). The first few numbers of each row mostly tell, in a hundredth of the comparison's time.
    """
    n, d = x.shape
    if n < 2 or not d or len(np.unique(_bytes_of(x[:, : min(d, 4)]))) > _MOST_DISTINCT * n:
        return None
    first = np.unique(_bytes_of(x), return_index=True)[1]
    return np.sort(first) if len(first) <= _MOST_DISTINCT * n else None


def _bytes_of(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(np.dtype((np.void, x.itemsize * x.shape[1]))).ravel()


@dataclass(frozen=True)
class Comparison:
    """How cells are compared. ``at_least``: probing rows count from that similarity on (−∞: from any)."""

    at_least: float = -np.inf
    batch_size: int = 1024
    precision: str = "float32"

    def sides(self, units: Array) -> Side:
        """Unit vectors made ready to be compared as probing rows or with probing rows."""
        return Side.of(units, sketched=self.at_least > -np.inf)

    def home_rows(self, units: Array) -> Best:
        """Each row of a cell, float32 (n, d) in rank order, with those before it."""
        return self._max_similarity(units, units, np.arange(units.shape[0]))

    def two_sides(self, rows: Side, columns: Side, limits: np.ndarray) -> tuple[Best, Best]:
        """Home and probing rows, or two parts of a cell: each row of either with the other's rows that precede it.

        ``limits`` as in ``max_similarity``. Columns and rows −1 where there is none.
        """
        if self.at_least > -np.inf and array_module(rows.whole) is np:
            return close_similarity(
                rows, columns, limits, self.at_least, batch_size=self.batch_size, precision=self.precision
            )
        mine, theirs = rows.vectors, columns.vectors
        return (
            self._max_similarity(mine, theirs, limits, self.at_least),
            self._max_similarity(theirs, mine, preceding(limits, columns.n), self.at_least),
        )

    def _max_similarity(self, rows: Array, columns: Array, limits: np.ndarray, at_least: float = -np.inf) -> Best:
        """Of columns that equal each other bit for bit only the first is compared: of a tie the earliest counts."""
        first = distinct_rows(columns) if isinstance(columns, np.ndarray) else None
        if first is not None:
            columns, limits = columns[first], np.searchsorted(first, limits)
        best = Best(
            *max_similarity(
                rows, columns, limits, batch_size=self.batch_size, precision=self.precision, at_least=at_least
            )
        )
        if first is not None and len(first):
            best.indices = np.where(best.indices < 0, best.indices, first[best.indices])
        return best


@dataclass(frozen=True)
class Found:
    """What was found for n rows in rank order: float32 scores and int64 neighbours, −1 where there is none; and how
    many of the pairs compared count with each row: the later of two home rows, or the home row of a pair. NumPy."""

    scores: np.ndarray
    neighbours: np.ndarray
    compared: np.ndarray


def compare_cells(
    units: Array, own: np.ndarray, visits: Visits, how: Comparison, *, only_probing: bool = False
) -> Found:
    """Compares the rows of a task's cells.

    ``only_probing``: home rows are compared with no home row of any cell, only with rows that are at home in none.

    Parameters
    ----------
    units
        Float32 unit vectors (n, d) in rank order.
    own
        The cell in which each row is at home, if that is one of the task's; else −1. Integer (n,).
    visits
        Which of the task's other cells each row visits.
    """
    n = units.shape[0]
    best = Best(np.full(n, -np.inf, np.float32), np.full(n, -1, np.int64))
    compared = np.zeros(n, np.int64)
    side = how.sides(units)
    if only_probing:
        visits = visits.where(own[visits.rows] < 0)
    probing_rows_of = dict(by_cell(visits.cells, visits.rows))
    for cell, home_rows in by_cell(own, np.arange(n)):
        if cell < 0:
            continue
        here = side.take(to_device_of(units, home_rows))
        if not only_probing:
            take_in(best, home_rows, home_rows, how.home_rows(here.vectors))
            compared[home_rows] += np.arange(len(home_rows))
        probing_rows = probing_rows_of.get(cell)
        if probing_rows is None:
            continue
        limits = np.searchsorted(probing_rows, home_rows)
        of_home_rows, of_probing_rows = how.two_sides(here, side.take(to_device_of(units, probing_rows)), limits)
        take_in(best, home_rows, probing_rows, of_home_rows)
        take_in(best, probing_rows, home_rows, of_probing_rows)
        compared[home_rows] += len(probing_rows)
    best.scores[best.indices < 0] = 0
    return Found(best.scores, best.indices, compared)


def by_cell(cells: np.ndarray, rows: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
    """For each cell that occurs, its rows in ascending order."""
    order = np.lexsort((rows, cells))
    found, starts = np.unique(cells[order], return_index=True)
    return zip(found.tolist(), np.split(rows[order], starts[1:]), strict=True) if len(found) else ()


def take_in(best: Best, rows: np.ndarray, columns: np.ndarray, found: Best) -> None:
    """Takes what was found for ``rows`` among ``columns`` (positions in the task) into the best of all, in place."""
    scores, indices = to_numpy(found.scores), to_numpy(found.indices)
    there = indices >= 0
    rows, scores, neighbours = rows[there], scores[there], columns[indices[there]]
    before, known = best.scores[rows], best.indices[rows]
    better = (scores > before) | ((scores == before) & (neighbours < known))
    best.scores[rows[better]], best.indices[rows[better]] = scores[better], neighbours[better]
