"""All pairs of rows from a threshold on, in bounded memory: screened by matrix products, decided exactly.

The similarity of two rows is the dot product of their unit vectors as the deduplication defines it (``arithmetic``):
exact float64 terms in a fixed tree, rounded once to float32. A float32 product tells on which side of the threshold a
pair lies for all but the few within its error bound; those are computed exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spark_semdedup.errors import SemDedupError
from spark_semdedup.explore.memory import available_memory

BLOCK = 1024
"""Rows multiplied with a block of others at once."""

BYTES_PER_PAIR = 48
"""Of a pair while its row's neighbours are sorted: two numbers of a row, a similarity, and copies of them."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """For each row the rows at least as similar as the threshold, the most similar first, itself among them."""

    starts: np.ndarray
    """Int64 (n + 1,): the neighbours of row i are ``columns[starts[i]:starts[i + 1]]``."""
    columns: np.ndarray
    """Int32 (m,)."""
    similarities: np.ndarray
    """Float32 (m,): exact for all neighbours but a row itself, which has 1."""
    threshold: float

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, row: int) -> np.ndarray:
        """The neighbours of a row: int32, itself first."""
        return self.columns[self.starts[row] : self.starts[row + 1]]

    @property
    def counts(self) -> np.ndarray:
        """Neighbours of each row, itself counted: int64 (n,)."""
        return np.diff(self.starts)

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Each pair of different rows once, i < j: int64 and int32 (p,)."""
        rows = np.repeat(np.arange(len(self)), self.counts)
        once = rows < self.columns
        return rows[once], self.columns[once]


def neighbours(units: np.ndarray, threshold: float) -> Neighbours:
    """Every pair of ``units``, float32 unit vectors (n, d), whose similarity is at least ``threshold``.

    Raises ``SemDedupError`` where the pairs would not fit in memory.
    """
    i, j = _similar_pairs(units, threshold)
    from spark_semdedup.kernels.arithmetic import exact_pair_dots

    n = len(units)
    scores = exact_pair_dots(units, units, i, j)
    itself = np.arange(n)
    rows = np.concatenate([itself, i, j])
    columns = np.concatenate([itself, j, i]).astype(np.int32)
    similarities = np.concatenate([np.ones(n, np.float32), scores, scores])
    # Itself first, even where equal rows have a similarity that rounds to more than 1.
    order = np.lexsort((columns, -similarities, columns != rows, rows))
    starts = np.searchsorted(rows[order], np.arange(n + 1))
    return Neighbours(starts, columns[order], similarities[order], threshold)


def _similar_pairs(units: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The pairs i < j from ``threshold`` on: int64 (p,) each."""
    from spark_semdedup.kernels.arithmetic import exact_pair_dots, screening_error

    n, dim = units.shape
    slack = screening_error(dim) + 2.0**-23
    most = available_memory() // (2 * BYTES_PER_PAIR)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    count = 0
    for top in range(0, n, BLOCK):
        rows = units[top : top + BLOCK]
        for left in range(top, n, BLOCK):
            products = rows @ units[left : left + BLOCK].T
            i, j = np.nonzero(products >= threshold - slack)
            if left == top:
                i, j = i[i < j], j[i < j]
            unsure = np.flatnonzero(products[i, j] <= threshold + slack)
            kept = np.ones(len(i), bool)
            exact = exact_pair_dots(units, units, i[unsure] + top, j[unsure] + left)
            kept[unsure] = exact.astype(np.float64) >= threshold
            parts.append((i[kept] + top, j[kept] + left))
            count += int(kept.sum())
            if count > most:
                raise SemDedupError(
                    f"threshold={threshold} makes more than {most:,} pairs of {n:,} rows, which memory would not hold: "
                    "raise threshold, or lower sample_rows"
                )
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.concatenate([i for i, _ in parts]), np.concatenate([j for _, j in parts])
