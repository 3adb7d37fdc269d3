"""Which rows of a task meet, and the similar predecessors of each: what the graph of similar rows is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from spark_semdedup.kernels.arrays import Array, to_device_of
from spark_semdedup.kernels.assignment import Visits
from spark_semdedup.kernels.cells import by_cell
from spark_semdedup.kernels.pairs import SimilarPairs, similar_pairs
from spark_semdedup.kernels.sketch import Side
from spark_semdedup.pairwise.regions import RegionPlan
from spark_semdedup.pairwise.schema import FIRST_PROBING_TILE, LINK_COLUMNS, NO_TILE

MOST_LINKS = 32
"""Similar predecessors that a task's entries list, on the average, at most."""

LONGEST_LIST = 1024
"""Similar predecessors that one entry lists, as long as the task's others leave room; where they do not,
``MOST_LINKS``: the first in rank order, which are the likeliest to be kept."""

_SKETCHED_FROM = 512
"""Rows with links from which sketches of a task's rows save more than they cost."""

_ROWS_AT_ONCE = 1024
"""Rows whose lists are made before it is looked at how much room is left: a million links, 20 MB."""


@dataclass(frozen=True)
class RankedRows:
    """The rows of a task in rank order: ``group``, all their columns but vectors and cells; ``units``, float32 (n, d);
    the cells they visit; and, of a region, the plan that made it."""

    group: pd.DataFrame
    units: np.ndarray
    visits: Visits
    plan: RegionPlan | None

    def meetings(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Which rows are compared with which columns, positions in ascending order: of either side those that precede.
        Each pair of rows that meet is a row and a column once; in a region it may be so in two cells."""
        tile, other = self.group["tile"].to_numpy(), self.group["other"].iat[0]
        with_probing = max(tile[0], other) >= FIRST_PROBING_TILE
        if tile[0] == NO_TILE or with_probing:
            yield from self._in_cells(only_probing=with_probing)
        elif tile[0] == other:
            every = np.arange(len(tile))
            yield every, every
        else:
            second = tile == max(tile.max(), other)
            a, b = np.flatnonzero(~second), np.flatnonzero(second)
            yield a, b
            yield b, a

    def _in_cells(self, *, only_probing: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        assert self.plan is not None
        here = self.plan.cells_of(int(self.group["task"].iat[0]))
        centroid = self.group["centroid"].to_numpy()
        own = np.where(here[centroid], centroid, -1)
        visits = self.visits.where(here[self.visits.cells])
        if only_probing:
            visits = visits.where(own[visits.rows] < 0)
        probing_rows_of = dict(by_cell(visits.cells, visits.rows))
        for cell, home_rows in by_cell(own, np.arange(len(own))):
            if cell < 0:
                continue
            if not only_probing:
                yield home_rows, home_rows
            if cell in probing_rows_of:
                yield home_rows, probing_rows_of[cell]
                yield probing_rows_of[cell], home_rows


@dataclass(frozen=True)
class LinkRule:
    """Similar predecessors, at least ``at_least`` so similar. A task lists up to ``longest`` of each row until it has
    ``most`` for each on the average, and then the first ``most`` of each further row."""

    at_least: float
    most: int = MOST_LINKS
    longest: int = LONGEST_LIST

    def append(self, answer: pd.DataFrame, ready: RankedRows, units: Array, batch_size: int) -> pd.DataFrame:
        """``answer``, entries indexed by the rows' positions, with ``LINK_COLUMNS``. Of rows whose best neighbour here
        is not similar enough nothing is multiplied again."""
        n = len(ready.group)
        has_link = np.zeros(n, bool)
        similar = answer["cosine_sim_score"].to_numpy().astype(np.float64) >= self.at_least
        has_link[answer.index.to_numpy()[similar & (answer["max_id"] != answer["id"]).to_numpy()]] = True
        found = self.among(ready, units, batch_size, rows=has_link)
        return self.columns_of(found, ready.group["id"].to_numpy(), answer)

    def among(
        self,
        ready: RankedRows,
        units: Array,
        batch_size: int,
        *,
        rows: np.ndarray,
        columns: np.ndarray | None = None,
    ) -> SimilarPairs:
        """Links of the rows for which ``rows``, bool (n,), holds, among the ``columns`` (all) of a task."""
        listed = _Listed(len(rows), self)
        side: Side | None = None
        sketched = int(rows.sum()) >= _SKETCHED_FROM
        for of, with_ in ready.meetings():
            mine, theirs = of[rows[of]], with_ if columns is None else with_[columns[with_]]
            if not len(mine) or not len(theirs):
                continue
            side = side or Side.of(units, sketched=sketched)
            for start in range(0, len(mine), _ROWS_AT_ONCE):
                some = mine[start : start + _ROWS_AT_ONCE]
                found = meeting_pairs(side, some, theirs, self.at_least, most=listed.allowed, batch_size=batch_size)
                listed.add(some, found)
        return listed.pairs()

    @staticmethod
    def columns_of(found: SimilarPairs, ids: np.ndarray, answer: pd.DataFrame) -> pd.DataFrame:
        """``answer``, indexed by positions, with what was found for its rows."""
        n = len(found.more)
        starts = np.searchsorted(found.rows, np.arange(n + 1))
        positions = answer.index.to_numpy()
        linked = starts[positions] < starts[positions + 1]
        lists = [np.full(len(answer), None, object) for _ in range(2)]
        for place in np.flatnonzero(linked).tolist():
            part = slice(starts[positions[place]], starts[positions[place] + 1])
            lists[0][place], lists[1][place] = ids[found.columns[part]], found.scores[part]
        more = found.more[positions]
        return answer.assign(**dict(zip(LINK_COLUMNS, (*lists, more), strict=True)))

    @staticmethod
    def append_none(answer: pd.DataFrame) -> pd.DataFrame:
        """``answer`` with ``LINK_COLUMNS`` that say nothing."""
        return answer.assign(**{name: np.full(len(answer), None, object) for name in LINK_COLUMNS})


class _Listed:
    """The links of a task's n rows as they come in, twice as many as there is room for at most."""

    def __init__(self, n: int, rule: LinkRule) -> None:
        self._n, self._rule, self._room = n, rule, rule.most * n
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._more = np.zeros(n, bool)
        self._count = 0

    @property
    def allowed(self) -> int:
        """How many links of each of the next rows are wanted."""
        return self._rule.longest if self._count < self._room else self._rule.most

    def add(self, rows: np.ndarray, found: SimilarPairs) -> None:
        """``found.more`` is of ``rows``; positions are in the task."""
        self._parts.append((found.rows, found.columns, found.scores))
        self._more[rows[found.more]] = True
        self._count += len(found.rows)
        if self._count > 2 * self._room:  # rows of many cells have as many lists
            short = self._joined().first(self._rule.most)
            self._parts, self._count = [(short.rows, short.columns, short.scores)], len(short.rows)
            self._more |= short.more

    def pairs(self) -> SimilarPairs:
        found = self._joined()
        return SimilarPairs(found.rows, found.columns, found.scores, self._more)

    def _joined(self) -> SimilarPairs:
        return SimilarPairs.joined(self._parts, self._n)


def meeting_pairs(
    side: Side, rows: np.ndarray, columns: np.ndarray, at_least: float, *, most: int | None = None, batch_size: int
) -> SimilarPairs:
    """The similar pairs of ``rows`` and the ``columns`` that precede them, positions in ``side`` in ascending order;
    ``more`` is of ``rows``."""
    pairs = similar_pairs(
        side.take(to_device_of(side.whole, rows)),
        side.take(to_device_of(side.whole, columns)),
        np.searchsorted(columns, rows),
        at_least,
        most=most,
        batch_size=batch_size,
    )
    return SimilarPairs(rows[pairs.rows], columns[pairs.columns], pairs.scores, pairs.more)
