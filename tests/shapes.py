"""Rows whose graph of similar rows has every shape: stars, chains, cliques, equal rows and ties."""

from __future__ import annotations

import numpy as np
import oracle
import vectors


def quality(i: int) -> int:
    return (i * 7919) % 100


def frame(spark, units: np.ndarray, partitions: int = 2):
    rows = [(i, units[i].tolist(), quality(i)) for i in range(len(units))]
    return spark.createDataFrame(rows, "id int, embedding array<float>, quality int").repartition(partitions)


def shapes(rng: np.random.Generator, d: int = 8) -> np.ndarray:
    """Stars, chains, cliques, equal rows and ties, each about a direction of its own, in any order."""
    parts = []
    for _ in range(3):
        centre, away = np.linalg.qr(rng.standard_normal((d, 2)))[0].T
        turns = np.arange(12) * 0.25  # a chain: neighbours at cos 0.25 = 0.969, the next ones at 0.878
        parts.append(np.cos(turns)[:, None] * centre + np.sin(turns)[:, None] * away)
        star = centre + 0.22 * np.linalg.qr(rng.standard_normal((d, d)))[0]
        parts.append(np.concatenate([centre[None], star]))
        parts.append(np.repeat(rng.standard_normal((1, d)), 7, axis=0))  # equal rows
        parts.append(rng.standard_normal((1, d)) + 0.01 * rng.standard_normal((9, d)))  # a clique
    units = oracle.unit_vectors(np.concatenate([*parts, vectors.lattice(rng, 40, d)]))
    return units[rng.permutation(len(units))]
