"""Sizes of clusters, counted or estimated from a sample, and how evenly they are filled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClusterSizes:
    """Rows of each of the k clusters, counted or estimated."""

    rows: np.ndarray
    """float64 (k,), by the cluster's number."""
    sampled: int | None = None
    """Rows of the sample that the sizes are estimated from; None where all rows were counted."""

    @classmethod
    def estimated(cls, labels: np.ndarray, k: int, total: float) -> ClusterSizes:
        """From the clusters of a sample of m rows out of ``total``; ``labels``: integers (m,)."""
        share = np.bincount(labels, minlength=k) / max(1, len(labels))
        return cls(share * total, None if len(labels) >= total else len(labels))

    @property
    def largest(self) -> float:
        return float(self.rows.max(initial=0.0))

    @property
    def mean(self) -> float:
        """Rows of the mean cluster, empty ones included."""
        return float(self.rows.mean()) if len(self.rows) else 0.0

    @property
    def empty(self) -> int:
        """Clusters without rows, or without sampled ones."""
        return int((self.rows == 0).sum())

    @property
    def imbalance(self) -> float:
        """Pairs inside the clusters, relative to the pairs of k equal ones: k · Σ n² / (Σ n)²; 1 is perfect balance.

        >>> ClusterSizes(np.array([10.0, 10.0])).imbalance, ClusterSizes(np.array([20.0, 0.0])).imbalance
        (1.0, 2.0)
        """
        total = float(self.rows.sum())
        return len(self.rows) * float((self.rows**2).sum()) / total**2 if total else 1.0
