"""What a comparison has to do, estimated before it is done, and how to say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spark_semdedup.formatting import short, short_bytes
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.estimate import VisitSample
from spark_semdedup.pairwise.packing import Plan, worker_bytes
from spark_semdedup.pairwise.regions import RegionPlan

ROW_BYTES = 100
"""What a row takes in a shuffle beside its vector and the numbers of its cells: 12, 8 for each column (7 to 9: a key to
rank by is one, the cells are another), and string ids. Measured with those of 10 to 20 characters: 97 in its own
cluster, 105 where it visits further ones."""


def least_shuffle_bytes(rows: float, dim: int) -> float:
    """What a comparison shuffles of so many rows, each sent to one task."""
    return rows * (4 * dim + ROW_BYTES)


@dataclass(frozen=True)
class WorkEstimate:
    """Estimates; counts are floats, since they may be of rows yet to come."""

    coverage: Coverage
    rows: float
    dim: int
    k: int
    cells_per_row: float
    """Clusters that a row belongs to or visits."""
    home_pairs: float
    probing_pairs: float
    tasks_per_row: float
    """Tasks to which a row is sent."""
    tasks: int
    partitions: int
    rows_of_largest_task: int
    code_bytes: float = 0.0
    """Shuffled to screen visits before the vectors (``screen``)."""
    kept_per_row: float = 0.0
    """Clusters that a row belongs to or still visits then."""
    links: bool = False
    """Whether tasks list the similar predecessors of their rows."""

    @classmethod
    def of_clusters(cls, sizes: Mapping[int, float], dim: int, plan: Plan, max_rows: int) -> WorkEstimate:
        """Of rows that stay in their clusters, of ``sizes`` rows."""
        found = np.fromiter(sizes.values(), float, len(sizes))
        rows, largest = float(found.sum()), int(found.max(initial=0))
        sent = float((found * plan.tiles).sum()) / max(rows, 1)
        largest = min(2 * max_rows, largest) if plan.is_tiled else largest
        pairs = float((found * (found - 1) / 2).sum())
        return cls(Coverage(), rows, dim, len(sizes), 1.0, pairs, 0.0, sent, len(plan.keys), plan.partitions, largest)

    @classmethod
    def of_regions(
        cls, coverage: Coverage, sample: VisitSample, centroids: np.ndarray, plan: RegionPlan
    ) -> WorkEstimate:
        """Of rows that visit the cells of ``centroids`` (k, d) as a sample of them does."""
        k, dim = centroids.shape
        rows = len(sample.own) * sample.scale
        home, probing = sample.pairs(k)
        sent = plan.rows_sent / max(rows, 1)
        tasks = len(plan.tasks)
        cells = sample.cells_per_row
        return cls(coverage, rows, dim, k, cells, home, probing, sent, tasks, plan.partitions, plan.largest_task)

    def screened(self, after: WorkEstimate, code_bytes: float) -> WorkEstimate:
        """Of the same rows, whose visits are screened; ``after``: of what is left."""
        kept, probing_pairs = after.cells_per_row, self.probing_pairs
        found = replace(after, cells_per_row=self.cells_per_row, probing_pairs=probing_pairs)
        return replace(found, code_bytes=code_bytes, kept_per_row=kept)

    @property
    def pairs(self) -> float:
        """Pairs to compare."""
        return self.home_pairs + self.probing_pairs

    @property
    def shuffle_bytes(self) -> float:
        """Written by the shuffle that sends rows to their tasks, before compression."""
        return self.code_bytes + self.rows * self.tasks_per_row * (4 * self.dim + ROW_BYTES + 4 * (self.cells_sent - 1))

    @property
    def cells_sent(self) -> float:
        """Clusters that a row names in each of its tasks."""
        return self.kept_per_row or self.cells_per_row

    @property
    def task_bytes(self) -> int:
        """Memory of the largest task in its Python worker."""
        return worker_bytes(self.rows_of_largest_task, self.dim, self.cells_sent, links=self.links)

    def in_words(self) -> str:
        """One line."""
        return (
            f"{self.coverage.label}: each row in {self.cells_per_row:.1f} of {self.k:,} clusters, "
            f"{short(self.pairs)} pairs, {short_bytes(self.shuffle_bytes)} to shuffle, {self.tasks:,} tasks of at most "
            f"{short_bytes(self.task_bytes)}"
        )

    def facts(self) -> dict[str, Any]:
        """What ``summary.json`` says of it."""
        return {
            "clusters_per_row": round(self.cells_per_row, 3),
            "tasks_per_row": round(self.tasks_per_row, 3),
            "pairs": round(self.pairs),
            "guest_pairs": round(self.probing_pairs),
            "shuffle_bytes": round(self.shuffle_bytes),
            "tasks": self.tasks,
            "partitions": self.partitions,
            "task_bytes": self.task_bytes,
        }
