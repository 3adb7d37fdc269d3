"""``Centroids``: what a fit gives and rows are assigned to, without the ML stage that carries it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels.arrays import Array, to_device_of
from spark_semdedup.kernels.assignment import Cells


@dataclass(frozen=True, eq=False)
class Centroids:
    """``matrix``: float32 (k, d), finite; row number is the centroid's id. ``spherical``: rows are assigned by cosine
    (``distanceMeasure``), otherwise by Euclidean distance. ``history``: the fit's objective per iteration."""

    matrix: np.ndarray
    spherical: bool = False
    history: tuple[float, ...] = ()

    @property
    def k(self) -> int:
        return len(self.matrix)

    @property
    def dim(self) -> int:
        return int(self.matrix.shape[1])

    def cells(self, on_device_of: Array | None = None) -> Cells:
        """The centroids made ready to assign rows, on the device of ``on_device_of``; by default on this host."""
        matrix = self.matrix if on_device_of is None else to_device_of(on_device_of, self.matrix)
        return Cells.of(matrix, spherical=self.spherical)


def centroid_matrix(values: Any, what: str) -> np.ndarray:
    """Centroids as a float32 matrix (k, d); a ``SemDedupError`` for what is none, or has NaN or infinite elements."""
    try:
        centroids = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        raise SemDedupError(f"{what}: centroids cannot be used: they must be k vectors of one length") from None
    if centroids.ndim != 2 or not centroids.size:
        raise SemDedupError(
            f"{what}: centroids of shape {centroids.shape} cannot be used: they must be k vectors of one length"
        )
    if not np.isfinite(centroids).all():
        first = int(np.flatnonzero(~np.isfinite(centroids).all(axis=1))[0])
        raise SemDedupError(f"{what}: centroid {first} has a NaN or infinite element: all must be finite")
    return centroids
