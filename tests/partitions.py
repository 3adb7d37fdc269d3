"""Labellings compared."""

from __future__ import annotations

import numpy as np


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two labellings group the rows alike, noise included."""
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    noise = ((a < 0) == (b < 0)).all()
    return bool(noise) and len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))
