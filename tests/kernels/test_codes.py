"""Codes bound similarities from above: none of a pair that counts is dismissed, and most of the others are."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import vectors

from spark_semdedup.kernels import codes
from spark_semdedup.kernels.codes import Encoder, bytes_of, decoded, may_be_similar, numbers_of


def make(kind: str, n: int, d: int) -> np.ndarray:
    """Norms of some rows are off by as much as they may be."""
    rows = vectors.KINDS[kind](np.random.default_rng(0), n, d)
    rows[::3] *= np.float32(1 + 0.99e-5)
    rows[1::3] *= np.float32(1 - 0.99e-5)
    return rows


def bounds(rows: np.ndarray, others: np.ndarray, encoder: Encoder) -> np.ndarray:
    """In float64: above every similarity by the proof, as the kernel's product is but for its rounding."""
    mine, theirs = (decoded(encoder.encode(each)).astype(np.float64) for each in (rows, others))
    return mine @ theirs[:, [*range(mine.shape[1] - 2), -1, -2]].T


@pytest.mark.parametrize("kind", vectors.KINDS)
@pytest.mark.parametrize("d", [3, 64, 200])
def test_a_bound_is_never_below_the_similarity(kind, d):
    rows = make(kind, 150, d)
    encoder = Encoder.of(rows[:40])
    wide = rows.astype(np.float64)
    assert (bounds(rows, rows, encoder) - wide @ wide.T).min() >= 0


def test_a_code_has_a_quarter_of_the_numbers():
    assert [numbers_of(d) for d in (3, 32, 100, 384, 4096)] == [3, 32, 32, 96, 128]


def test_codes_have_few_bytes_and_say_nearly_all_of_rows_in_few_directions():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((500, 40)) @ rng.standard_normal((40, 384)) + 0.1 * rng.standard_normal((500, 384))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    encoder = Encoder.of(rows[:100])
    found = encoder.encode(rows)
    assert (found.dtype, found.shape, bytes_of(384)) == (np.int8, (500, 108), 108)
    assert (bounds(rows, rows, encoder) - rows @ rows.T).max() < 0.1


@pytest.mark.parametrize("at_least", [0.9, 0.99])
def test_rows_with_a_similar_row_are_found_whatever_the_blocks(xp, monkeypatch, at_least):
    rng = np.random.default_rng(2)
    directions = rng.standard_normal((20, 100))
    rows, others = (oracle.unit_vectors(rng.standard_normal((n, 20)) @ directions) for n in (300, 90))
    near = rows[:30] + 1e-3 * rng.standard_normal((30, 100))
    others = np.concatenate([others, oracle.unit_vectors(near)])
    encoder = Encoder.of(rows)
    mine, theirs = (xp.asarray(decoded(encoder.encode(each))) for each in (rows, others))
    found = may_be_similar(mine, theirs, at_least)
    similar = (rows.astype(np.float64) @ others.T >= at_least).any(axis=1)
    assert found[similar].all()
    assert similar.sum() <= found.sum() < similar.sum() + 30 < len(rows)
    monkeypatch.setattr(codes, "_WIDEST_BLOCK", 7)
    assert (may_be_similar(mine, theirs, at_least) == found).all()


def test_a_row_is_found_exactly_from_its_bound_on(xp):
    """The threshold is widened by the product's rounding and no more."""
    rows = make("random", 40, 32)
    encoder = Encoder.of(rows)
    values = xp.asarray(decoded(encoder.encode(rows)))
    highest = bounds(rows[:1], rows[1:], encoder).max()
    assert may_be_similar(values[:1], values[1:], highest).all()
    assert not may_be_similar(values[:1], values[1:], highest + 1e-4).any()
