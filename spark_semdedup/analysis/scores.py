"""The distribution of similarity scores: what a histogram shows, and how many rows each ``eps`` would remove."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

BINS_PER_UNIT = 1000
"""Bins between two scores that differ by 1: the resolution of ``eps`` is 0.001."""


@dataclass(frozen=True)
class ScoreHistogram:
    """Scores of all valid rows in bins of width 1 / ``BINS_PER_UNIT``.

    A row without a preferred row to compare with has no score: it is counted in ``alone``, in no bin.
    """

    counts: np.ndarray
    """int64 (2 · ``BINS_PER_UNIT`` + 1,): rows with a score in [b / 1000 − 1, (b + 1) / 1000 − 1); the last: 1."""
    alone: int

    @classmethod
    def of(cls, similarities: DataFrame) -> ScoreHistogram:
        """Counts the rows of ``id``, ``max_id``, ``cosine_sim_score``. One job, whose result has at most 2,002 rows."""
        # Float32 scores are exact doubles, and no product with 1,000 rounds one across an edge: two neighbouring
        # float32 differ by a million times the rounding error. Rounding may leave a score slightly outside [-1, 1].
        place = F.floor(F.col("cosine_sim_score").cast("double") * BINS_PER_UNIT).cast("int") + BINS_PER_UNIT
        inside = F.greatest(F.lit(0), F.least(F.lit(2 * BINS_PER_UNIT), place))
        place = F.when(F.col("max_id") == F.col("id"), F.lit(-1)).otherwise(inside)
        rows = similarities.groupBy(place.alias("bin")).agg(F.count(F.lit(1)).alias("rows")).collect()
        counts, alone = np.zeros(2 * BINS_PER_UNIT + 1, np.int64), 0
        for row in rows:
            if row["bin"] < 0:
                alone = int(row["rows"])
            else:
                counts[row["bin"]] = row["rows"]
        return cls(counts, alone)

    @property
    def rows(self) -> int:
        """Rows counted: all valid ones."""
        return int(self.counts.sum()) + self.alone

    @property
    def edges(self) -> np.ndarray:
        """Lower edges of the bins, float64, ascending."""
        return np.arange(-BINS_PER_UNIT, BINS_PER_UNIT + 1) / BINS_PER_UNIT

    def removed(self, eps: float) -> int:
        """Rows whose score is at least 1 − ``eps``, for an ``eps`` that is a multiple of 0.001; else for the next
        smaller multiple.

        >>> histogram = ScoreHistogram(np.bincount([1949, 1950, 2000], minlength=2001), alone=1)
        >>> histogram.removed(0.05), histogram.removed(0.051), histogram.removed(0.001)
        (2, 3, 1)
        """
        steps = int(np.floor(eps * BINS_PER_UNIT + 1e-9))
        return int(self.counts[max(0, 2 * BINS_PER_UNIT - steps) :].sum())

    def removal_curve(self, most: float) -> tuple[np.ndarray, np.ndarray]:
        """``eps`` from 0.001 to ``most``, float64 (m,), and the rows that each removes, int64 (m,)."""
        steps = np.arange(1, round(most * BINS_PER_UNIT) + 1)
        from_above = np.cumsum(self.counts[::-1])
        return steps / BINS_PER_UNIT, from_above[steps]

    def coarse(self, bins_at_once: int, lowest: float, anchor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Wider bins for a chart: lower edges, ascending, the first at or below ``lowest``, and counts, int64. One of
        the edges is ``anchor``, to the resolution of 0.001. A score of 1 belongs to the last bin below it.

        >>> histogram = ScoreHistogram(np.bincount([1930, 1955, 2000], minlength=2001), alone=0)
        >>> edges, counts = histogram.coarse(20, 0.9, anchor=0.95)
        >>> edges.tolist(), counts.tolist()
        ([0.89, 0.91, 0.93, 0.95, 0.97, 0.99], [0, 0, 1, 1, 0, 1])
        """
        counts = self.counts[:-1].copy()
        counts[-1] += self.counts[-1]
        first, fixed = (round((score + 1) * BINS_PER_UNIT) for score in (lowest, anchor))
        start = first - (first - fixed) % bins_at_once
        starts = np.arange(start if start >= 0 else start + bins_at_once, 2 * BINS_PER_UNIT, bins_at_once)
        return self.edges[starts], np.add.reduceat(counts, starts)

    def quantile(self, share: float) -> float:
        """The lower edge of the bin that holds the given quantile of the scores; 0 where no row has a score."""
        total = int(self.counts.sum())
        if not total:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self.counts), max(1, share * total)))
        return float(self.edges[min(place, len(self.counts) - 1)])
