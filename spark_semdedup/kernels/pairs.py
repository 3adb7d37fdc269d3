"""All pairs of rows that are at least so similar, or the first few of each row: screened, then decided exactly.

``similarity`` looks for one best column of each row, and dismisses whatever cannot be it. Here every column counts, so
the bound to screen by is the threshold itself. Where thousands of rows are alike, every pair would be listed; with
``most`` a row is done as soon as it has so many, in the order of the columns, and its other columns are not multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spark_semdedup.kernels.arithmetic import exact_pair_dots, screening_error
from spark_semdedup.kernels.arrays import Array, array_module, nonzero_pairs, rows_per_block, to_device_of, to_numpy
from spark_semdedup.kernels.similarity import row_panel
from spark_semdedup.kernels.sketch import CANDIDATES_PER_PAIR, Side, pair_products

_WIDEST_BLOCK = 4096
"""Columns multiplied at once: where most pairs count, a block's pairs must fit into memory."""


@dataclass(frozen=True)
class SimilarPairs:
    """Pairs of a row and a column that precedes it, by row and, of each row, by column. NumPy.

    ``rows``, ``columns``: int64 (m,), positions. ``scores``: float32 (m,), exact. ``more``: bool (n,), which rows have
    further columns that are not listed.
    """

    rows: np.ndarray
    columns: np.ndarray
    scores: np.ndarray
    more: np.ndarray

    @classmethod
    def joined(cls, parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], n: int) -> SimilarPairs:
        """Of parts of rows, columns and scores, in any order; of pairs that occur more than once, one."""
        rows, columns = (np.concatenate([part[i] for part in parts] or [np.empty(0, np.int64)]) for i in (0, 1))
        scores = np.concatenate([part[2] for part in parts] or [np.empty(0, np.float32)])
        order = np.lexsort((columns, rows))
        rows, columns, scores = rows[order], columns[order], scores[order]
        once = np.ones(len(rows), bool)
        once[1:] = (np.diff(rows) != 0) | (np.diff(columns) != 0)
        return cls(rows[once], columns[once], scores[once], np.zeros(n, bool))

    def first(self, most: int) -> SimilarPairs:
        """The first ``most`` of each row."""
        listed = place_in_run(self.rows) < most
        more = self.more.copy()
        more[self.rows[~listed]] = True
        return SimilarPairs(self.rows[listed], self.columns[listed], self.scores[listed], more)


def place_in_run(sorted_values: np.ndarray) -> np.ndarray:
    """How many equal values stand before each, in an array in which equal ones follow one another.

    >>> place_in_run(np.array([3, 3, 5, 7, 7, 7]))
    array([0, 1, 0, 0, 1, 2])
    """
    return np.arange(len(sorted_values)) - np.searchsorted(sorted_values, sorted_values)


def similar_pairs(
    rows: Side, columns: Side, limits: np.ndarray, at_least: float, *, most: int | None = None, batch_size: int = 1024
) -> SimilarPairs:
    """For each of ``rows`` those of its first ``limits[i]`` columns that are ``at_least`` so similar to it.

    Parameters
    ----------
    rows, columns
        Unit vectors in rank order, of one task (``Side.of``).
    limits
        NumPy ints (n,) that never decrease: how many of ``columns`` precede each row.
    at_least
        Compared with the exact float32 score, widened to float64.
    most
        Columns that are listed for each row, at most: the first ones. None: all.

    >>> side = Side.of(np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32), sketched=False)
    >>> found = similar_pairs(side, side, np.arange(4), 0.9, most=1)
    >>> found.rows, found.columns, found.more
    (array([2, 3]), array([0, 0]), array([False, False, False,  True]))
    """
    step = row_panel(array_module(rows.whole), batch_size)
    parts, more = [], np.zeros(rows.n, bool)
    for start in range(0, rows.n, step):
        panel = np.arange(start, min(start + step, rows.n))
        found, more[panel] = _panel(rows, columns, panel, limits[panel], at_least, most)
        parts += found
    pairs = SimilarPairs.joined(parts, rows.n)
    return SimilarPairs(pairs.rows, pairs.columns, pairs.scores, more)


_Part = tuple[np.ndarray, np.ndarray, np.ndarray]


def _panel(
    rows: Side, columns: Side, panel: np.ndarray, limits: np.ndarray, at_least: float, most: int | None
) -> tuple[list[_Part], np.ndarray]:
    """Pairs of the rows ``panel``, positions, and which of them have more. Blocks of columns one after the other; rows
    that have all they may have take no part in the next ones."""
    xp = array_module(rows.whole)
    listed = np.zeros(len(panel), np.int64)
    more = np.zeros(len(panel), bool)
    parts: list[_Part] = []
    width = min(rows_per_block(xp, 4 * len(panel)), _WIDEST_BLOCK)
    for start in range(0, int(limits[-1]), width):
        active = np.flatnonzero((limits > start) & ~more)
        if not len(active):
            break
        stop = min(start + width, int(limits[-1]))
        mine, theirs = rows.take(to_device_of(rows.whole, panel[active])), columns.take(slice(start, stop))
        i, j = _candidates(mine, theirs, limits[active] - start, at_least)
        for row, column, score in _decided(
            mine, theirs, i, j, at_least, None if most is None else most - listed[active]
        ):
            place = listed[active[row]] + place_in_run(row)
            counts = np.ones(len(row), bool) if most is None else place < most
            more[active[row[~counts]]] = True
            np.add.at(listed, active[row[counts]], 1)
            parts.append((panel[active[row[counts]]], column[counts] + start, score[counts]))
    return parts, more


def _candidates(rows: Side, columns: Side, limits: np.ndarray, at_least: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows and columns, those before ``limits``, that may be similar enough: by row, then by column. NumPy."""
    xp = array_module(rows.whole)
    error = screening_error(rows.whole.shape[1], tensor_cores=xp is not np)
    precedes = xp.arange(columns.n)[None, :] < to_device_of(rows.whole, limits)[:, None]
    mine, theirs = rows.sketches, columns.sketches
    if mine.values is not None and theirs.values is not None:
        near = mine.values @ theirs.values.T >= np.float32(at_least - mine.slack)
        near &= precedes
        if int(xp.count_nonzero(near)) <= CANDIDATES_PER_PAIR * near.size:
            i, j = nonzero_pairs(near)
            likely = pair_products(rows, columns, i, j) >= np.float32(at_least - 2 * error)
            return to_numpy(i[likely]), to_numpy(j[likely])
    near = rows.vectors @ columns.vectors.T >= np.float32(at_least - 2 * error)
    near &= precedes
    i, j = nonzero_pairs(near)
    return to_numpy(i), to_numpy(j)


def _decided(
    rows: Side, columns: Side, i: np.ndarray, j: np.ndarray, at_least: float, room: np.ndarray | None
) -> list[_Part]:
    """Those of the candidates (i, j), sorted, that are similar enough, with their exact scores.

    ``room``: of a row with room for so many no more are decided than one beyond, which tells that there are more.
    """
    parts: list[_Part] = []
    while len(i):
        now = np.ones(len(i), bool) if room is None else place_in_run(i) <= room[i]
        scores = _exact(rows, columns, i[now], j[now])
        similar = scores.astype(np.float64) >= at_least
        part = i[now][similar], j[now][similar], scores[similar]
        parts.append(part)
        i, j = i[~now], j[~now]
        if room is not None:
            room = room - np.bincount(part[0], minlength=len(room))
            wanted = room[i] >= 0
            i, j = i[wanted], j[wanted]
    return parts


def _exact(rows: Side, columns: Side, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    of, with_ = (side.places[to_device_of(side.whole, at)] for side, at in ((rows, i), (columns, j)))
    scores: Array = exact_pair_dots(rows.whole, columns.whole, of, with_)
    return to_numpy(scores)
