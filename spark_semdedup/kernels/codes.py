"""Codes of vectors: a few bytes each that prove of most pairs that they are *not* similar.

A sketch (``sketch``) says x·y ≤ xQ·yQ + ‖x⊥‖‖y⊥‖. A code is the sketch rounded: xQ to int8 numbers times a step of the
vector's own, p; with it go ρ ≥ ‖x⊥‖ and a bound e ≥ ‖xQ − p‖ of the rounding. Then

    x·y ≤ p·q + ‖p‖e_y + e_x‖q‖ + e_x e_y + ρ_x ρ_y.

As ‖p‖ ≤ 1 + ε + e_x, for norms within ε of 1, and 2 e_x e_y ≤ e_x² + e_y², the terms with e come to E_x + E_y at most,
with E = (1 + ε) e + 3/2 e². So one product of m + 3 numbers, (p, ρ, E_x, 1)·(q, ρ, 1, E_y), bounds the similarity.

Rounding. As for sketches, the computed projection is within η of xQ, which e includes, and ‖xQ‖ is taken smaller by η
for ρ. All else is a few roundings of float32, and the factors and terms below are far larger than those.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spark_semdedup.kernels.arithmetic import FLOAT32_ROUNDING, screening_error
from spark_semdedup.kernels.arrays import Array, array_module, rows_per_block, to_device_of, to_numpy
from spark_semdedup.kernels.visits import NORM_TOLERANCE

_LEAST_NUMBERS, _MOST_NUMBERS = 32, 128


def numbers_of(dim: int) -> int:
    """How many numbers the code of a vector has: a quarter of the vector's, between 32 and 128. (Of 256,000 short texts
    with 128 dimensions a row visits 17 cells at a similarity of 0.95; 32 numbers keep 0.16 of them, 64 keep 0.02.)"""
    return min(dim, max(_LEAST_NUMBERS, min(dim // 4, _MOST_NUMBERS)))


def bytes_of(dim: int) -> int:
    """Bytes of the code of a vector of ``dim`` numbers."""
    return numbers_of(dim) + 12


_WIDEST_BLOCK = 4096
"""Rows of either side that are multiplied at once, at most."""


@dataclass(frozen=True)
class Encoder:
    """Makes codes of unit vectors (n, d): int8 (n, m + 12), each a vector's m numbers and, as bytes of float32, its
    step, ρ and E. ``basis``: float32 (d, m), whose columns are within 2⁻²⁴ of orthonormal ones. NumPy."""

    basis: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Encoder:
        """In the directions in which ``rows``, float32 (n, d), extend most; any rows will do, these dismiss most if
        they lie as the vectors do."""
        wide = rows.astype(np.float64)
        directions = np.linalg.eigh(wide.T @ wide)[1]
        return cls(np.ascontiguousarray(directions[:, ::-1][:, : numbers_of(rows.shape[1])], np.float32))

    def encode(self, units: np.ndarray) -> np.ndarray:
        """Of float32 vectors whose norms are within 10⁻⁵ of 1."""
        d, m = self.basis.shape
        eta = m**0.5 * (screening_error(d) + FLOAT32_ROUNDING) * 1.001
        projected = units @ self.basis
        step = np.maximum(np.abs(projected).max(axis=1, initial=0) / np.float32(127), np.float32(1e-30))
        numbers = np.clip(np.rint(projected / step[:, None]), -127, 127)
        length = np.linalg.norm(projected, axis=1).astype(np.float64)
        inside = np.maximum(length * (1 - 1e-5) - eta, 0)
        rest = np.sqrt(np.maximum((1 + NORM_TOLERANCE) ** 2 - inside**2, 0))
        projected -= numbers * step[:, None]
        error = np.linalg.norm(projected, axis=1).astype(np.float64) * (1 + 1e-5) + eta + 1e-6
        bound = (1 + NORM_TOLERANCE) * error + 1.5 * error**2
        scalars = np.stack([step, rest * (1 + 1e-6), bound * (1 + 1e-6)], axis=1).astype(np.float32)
        return np.concatenate([numbers.astype(np.int8), scalars.view(np.int8)], axis=1)


def decoded(codes: np.ndarray) -> np.ndarray:
    """Codes as they are multiplied, (p, ρ, E, 1): int8 (n, m + 12) → float32 (n, m + 3)."""
    numbers = codes[:, :-12]
    scalars = np.ascontiguousarray(codes[:, -12:]).view(np.float32)
    values = np.empty((len(codes), numbers.shape[1] + 3), np.float32)
    np.multiply(numbers, scalars[:, :1], out=values[:, :-3])
    values[:, -3:-1], values[:, -1] = scalars[:, 1:], 1
    return values


def may_be_similar(rows: Array, others: Array, at_least: float) -> np.ndarray:
    """Which of ``rows`` may be ``at_least`` as similar to one of ``others``, both as ``decoded``: bool (n,), NumPy."""
    xp = array_module(rows)
    m = rows.shape[1]
    # The norms of both sides are below 2: the product's error is that of unit vectors four times.
    slack = 4 * screening_error(m, tensor_cores=xp is not np) + 2.0**-22
    least = np.float32(at_least - slack)
    order = to_device_of(rows, np.array([*range(m - 2), m - 1, m - 2]))
    found = xp.zeros(rows.shape[0], bool)
    for start in range(0, others.shape[0], _WIDEST_BLOCK):
        theirs = others[start : start + _WIDEST_BLOCK][:, order].T
        step = min(rows_per_block(xp, 4 * theirs.shape[1]), _WIDEST_BLOCK)
        for first in range(0, rows.shape[0], step):
            part = slice(first, first + step)
            found[part] |= (rows[part] @ theirs).max(axis=1) >= least
    return to_numpy(found)
