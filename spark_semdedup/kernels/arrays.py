"""Which array library an array belongs to, and how many rows of it to hold at once."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

Array = Any
"""A ``numpy.ndarray`` or a ``cupy.ndarray``. (CuPy is never imported unless an array of it is at hand.)"""

BLOCK_BYTES = 1 << 20
"""Bytes of float64 temporaries that elementwise NumPy code works on at once: about one core's L2 cache."""


def array_module(array: Array) -> ModuleType:
    """``cupy`` for a CuPy array, else ``numpy``."""
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(array, cupy.ndarray) else np


def to_numpy(array: Array) -> np.ndarray:
    """The array in host memory."""
    return array if isinstance(array, np.ndarray) else array.get()


def rows_per_block(xp: ModuleType, bytes_per_row: int, block_bytes: int = BLOCK_BYTES) -> int:
    """Rows to work on at once, so that ``bytes_per_row`` of temporaries for each stay near ``block_bytes``.

    A GPU wants large blocks (its bandwidth hides in many threads), a CPU core ones that stay in its cache.
    """
    factor = 1 if xp is np else 256
    return max(1, factor * block_bytes // max(1, bytes_per_row))


def marked_pairs(marked: Array) -> tuple[Array, Array]:
    """Row and column numbers of what is true in a boolean matrix, row by row.

    ``nonzero`` of a flat array is several times faster in NumPy than of a matrix.
    """
    places = array_module(marked).flatnonzero(marked)
    return places // marked.shape[1], places % marked.shape[1]
