"""Rows of which clusters part many that are similar, and what brute force says of them."""

from __future__ import annotations

import numpy as np
import oracle
import vectors

D = 8


def chain(rng: np.random.Generator, n: int) -> np.ndarray:
    """Rows on a great circle, 14 degrees apart: cos 14° = 0.970, cos 28° = 0.883."""
    start, end = np.linalg.qr(rng.standard_normal((D, 2)))[0].T
    angle = np.deg2rad(14 * np.arange(n))[:, None]
    return np.cos(angle) * start + np.sin(angle) * end


class Corpus:
    """160 rows: chains of rows, each similar to the next, which any clusters cut somewhere; groups of similar rows,
    some equal, some opposite; and some that differ in the last bit."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        groups = rng.standard_normal((12, D))
        noise = rng.choice([0.0, 0.2, 0.4], (40, 1)) * rng.standard_normal((40, D))
        chains = [chain(rng, 14) for _ in range(5)]
        parts = [*chains, groups[rng.integers(12, size=40)] + noise, vectors.make("lattice", 25, D)]
        rows = np.concatenate([*parts, vectors.make("last_bit", 15, D), -parts[0][:10]]).astype(np.float32)
        self.rows = rows[rng.permutation(len(rows))]
        n = len(rows)
        self.units = oracle.unit_vectors(self.rows)
        self.ids = [f"{'äZ🙂a'[i % 4]}{i:03}" for i in rng.permutation(n)]
        self.numbers = [int(i) * 13_000_003 for i in rng.permutation(n)]
        self.quality = [None if i % 7 == 0 else float("nan") if i % 11 == 0 else float(i % 5) for i in range(n)]
        self.text = ["Zürich"[: i % 6] for i in range(n)]

    def centroids(self, k: int) -> np.ndarray:
        """Means of some rows, as a fit's; with three or more, one of norm zero and two that are equal."""
        rng = np.random.default_rng(k)
        found = np.stack([self.units[rng.integers(len(self.units), size=6)].mean(axis=0) for _ in range(k)])
        if k > 2:
            found[1], found[2] = 0, found[0]
        return found.astype(np.float32)

    def frame(self, spark, ids=None, id_type="string", order=None):
        table = list(zip(ids or self.ids, self.rows.tolist(), self.quality, self.text, strict=True))
        schema = f"id {id_type}, embedding array<float>, quality double, text string"
        return spark.createDataFrame([table[i] for i in (range(len(table)) if order is None else order)], schema)


def bits(score: float) -> bytes:
    return np.float32(score).tobytes()


def found_by(similarities) -> dict:
    """id → (max_id, score)."""
    rows = similarities.collect()
    found = {row.id: (row.max_id, row.cosine_sim_score) for row in rows}
    assert len(found) == len(rows), "each row once"
    return found


def expected_by(corpus, centroids, *, ids=None, execution: str | None = None, **params) -> dict:
    """By brute force, which knows no execution."""
    if "rankBy" in params:
        params["rankBy"] = [(corpus.quality, True), (corpus.text, False)]
    return oracle.answer(ids or corpus.ids, corpus.rows, centroids, **params)


def check_exact(found: dict, everything: dict, threshold: float) -> None:
    """Where all rows against all give a score that counts, that very score and row; elsewhere a lower bound."""
    assert found.keys() == everything.keys()
    duplicates = {i for i, (max_id, score) in everything.items() if max_id != i and float(score) >= threshold}
    assert 10 < len(duplicates) < len(found) - 10
    for id_, (max_id, score) in everything.items():
        if id_ in duplicates:
            assert (found[id_][0], bits(found[id_][1])) == (max_id, bits(score)), id_
        else:
            assert found[id_][0] == id_ or found[id_][1] <= score, id_


RANK_BY = ["quality desc", "text"]
