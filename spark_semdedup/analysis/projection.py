"""Unit vectors on a plane: the two principal components of a sample, and a map of the clusters in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spark_semdedup.analysis.sizes import ClusterSizes


@dataclass(frozen=True)
class Projection:
    """The affine map from d dimensions to the plane of the largest variance (principal component analysis)."""

    mean: np.ndarray
    """float64 (d,)."""
    axes: np.ndarray
    """float64 (d, 2): orthonormal columns; one-dimensional data have a second column of zeros."""
    explained: tuple[float, float]
    """Share of the sample's variance along each axis."""

    @classmethod
    def fit(cls, sample: np.ndarray) -> Projection:
        """From the rows of a sample, floats (m, d), m at least 1.

        An axis has two directions: the one whose largest component is positive is taken, so that equal samples give
        equal maps.
        """
        rows = np.asarray(sample, np.float64)
        mean = rows.mean(axis=0)
        centred = rows - mean
        values, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
        axes = np.zeros((rows.shape[1], 2))
        axes[:, : min(2, rows.shape[1])] = vectors[:, ::-1][:, :2]
        axes *= np.where(axes[np.abs(axes).argmax(axis=0), [0, 1]] < 0, -1, 1)
        total = float(values.clip(0).sum())
        shares = [float(value) / total if total else 0.0 for value in (*values[::-1][:2].clip(0), 0.0)]
        return cls(mean, axes, (shares[0], shares[1]))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Floats (n, d) → float64 (n, 2)."""
        return (np.asarray(rows, np.float64) - self.mean) @ self.axes


@dataclass(frozen=True)
class ClusterMap:
    """A sample of rows and all centroids on one plane."""

    rows: np.ndarray
    """float64 (m, 2): the sampled rows."""
    labels: np.ndarray
    """int64 (m,): their clusters."""
    removed: np.ndarray | None
    """bool (m,): which of them are duplicates; None where that is unknown."""
    centroids: np.ndarray
    """float64 (k, 2)."""
    sizes: ClusterSizes
    explained: tuple[float, float]

    @classmethod
    def of(
        cls, units: np.ndarray, removed: np.ndarray | None, centroids: np.ndarray, total: float, *, spherical: bool
    ) -> ClusterMap:
        """From sampled unit vectors, float32 (m, d), out of ``total`` rows, and centroids, float32 (k, d)."""
        projection = Projection.fit(units)
        labels = nearest(units, centroids, spherical=spherical)
        return cls(
            rows=projection.apply(units),
            labels=labels,
            removed=removed,
            centroids=projection.apply(centroids),
            sizes=ClusterSizes.estimated(labels, len(centroids), total),
            explained=projection.explained,
        )

    def removed_share(self, cluster: int) -> float:
        """Share of a cluster's sampled rows that are duplicates; NaN where none was sampled, or that is unknown."""
        inside = self.labels == cluster
        return float("nan") if self.removed is None or not inside.any() else float(self.removed[inside].mean())


def nearest(units: np.ndarray, centroids: np.ndarray, *, spherical: bool, batch: int = 4096) -> np.ndarray:
    """The nearest centroid of each unit vector, int64 (m,), for pictures: by float32 products, near-ties undecided.

    ``spherical``: by cosine, otherwise by Euclidean distance.
    """
    centroids = np.asarray(centroids, np.float32)
    norms = np.linalg.norm(centroids, axis=1)
    if spherical:
        centroids, offset = centroids / np.maximum(norms, np.finfo(np.float32).tiny)[:, None], np.zeros(len(norms))
    else:
        offset = norms**2 / 2
    labels = [(part @ centroids.T - offset).argmax(axis=1) for part in np.array_split(units, len(units) // batch + 1)]
    return np.concatenate(labels).astype(np.int64)
