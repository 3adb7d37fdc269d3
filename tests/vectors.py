"""Unit vectors that are hard on arithmetic, made by name: float32 (n, d). NumPy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from oracle import unit_vectors


def random(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return unit_vectors(rng.standard_normal((n, d)))


def near_duplicates(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Groups of rows that differ by about 1e-4 from one another."""
    centres = rng.standard_normal((max(1, n // 8), d))
    return unit_vectors(centres[rng.integers(len(centres), size=n)] + 1e-4 * rng.standard_normal((n, d)))


def skewed(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """A few large elements hold nearly all of the norm."""
    return unit_vectors(rng.choice([-1, 1], (n, d)) * np.exp(3 * rng.standard_normal((n, d))))


def tiny_components(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Elements from 1 down to subnormal float32 numbers and zeros of either sign."""
    values = rng.choice([-1, 1], (n, d)) * 10.0 ** rng.uniform(-50, 0, (n, d))
    values[:, 0] = 1
    return unit_vectors(values)


def equal(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return np.repeat(random(rng, 1, d), n, axis=0)


def last_bit(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """One vector, each row with one element moved to the next or previous float32."""
    rows = equal(rng, n, d)
    column, up = rng.integers(d, size=n), rng.choice([-2.0, 2.0], n).astype(np.float32)
    rows[np.arange(n), column] = np.nextafter(rows[np.arange(n), column], up)
    return rows


def collinear(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Multiples of one vector, of either sign, rounded before they are normalised."""
    factors = rng.choice([-1, 1], n) * rng.uniform(0.1, 10, n)
    return unit_vectors((factors[:, None] * rng.standard_normal(d)).astype(np.float32))


def lattice(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Elements −1, −0, 0, 1 before they are normalised: many ties, zeros of either sign."""
    values = rng.choice(np.array([-1.0, -0.0, 0.0, 1.0]), (n, d))
    values[~values.any(axis=1), 0] = 1
    return unit_vectors(values)


def opposite(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """All similarities are negative: corners of a regular simplex (at most d + 1 of them)."""
    count = min(n, d + 1)
    if count == 1:
        return random(rng, 1, d)
    corners = np.eye(count) - 1 / count  # they span count − 1 dimensions
    basis, _ = np.linalg.qr(corners[:, : count - 1])
    return unit_vectors(np.pad(corners @ basis, ((0, 0), (0, d - count + 1))))


KINDS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    function.__name__: function
    for function in (
        random,
        near_duplicates,
        skewed,
        tiny_components,
        equal,
        last_bit,
        collinear,
        lattice,
        opposite,
    )
}


def make(kind: str, n: int, d: int, seed: int = 0) -> np.ndarray:
    return KINDS[kind](np.random.default_rng(seed), n, d)
