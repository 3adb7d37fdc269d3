"""Which array library an array belongs to, and how many rows of it to hold at once."""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any

import numpy as np

from spark_semdedup.kernels.oom import shrink

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

    A GPU wants large blocks (its bandwidth hides in many threads), a CPU core ones that stay in its cache; where a
    GPU's memory did not suffice they are smaller (``memory``).
    """
    factor = 1 if xp is np else 256
    return max(1, shrink(factor * block_bytes) // max(1, bytes_per_row))


def nonzero_pairs(marked: Array) -> tuple[Array, Array]:
    """Row and column numbers of what is true in a boolean matrix, row by row.

    ``nonzero`` of a flat array is several times faster in NumPy than of a matrix.
    """
    places = array_module(marked).flatnonzero(marked)
    return places // marked.shape[1], places % marked.shape[1]


def to_device_of(array: Array, values: np.ndarray) -> Array:
    """NumPy values where ``array`` is: on its device, or as they are."""
    return array_module(array).asarray(values)


def minimum_at(numbers: Array, places: Array, values: Array) -> None:
    """``numpy.minimum.at`` for int64 numbers of at least 0, in place. (CuPy 13's takes no int64, but uint64.)"""
    unsigned = np.uint64
    array_module(numbers).minimum.at(numbers.view(unsigned), places, values.astype(unsigned))


def argmin_mask(n: int, places: Array, values: Array) -> Array:
    """Which of the float64 ``values``, none NaN, at ``places`` from 0 to n − 1, are the least of their place: bool.

    ``minimum.at`` itself would do for NumPy. CuPy's takes the minimum of float64 numbers by ``fminf``, rounded to
    float32 (``atomicMin(double*, double)`` in ``cupy/_core/include/cupy/atomics.cuh``, 13.6 and 14.2), so they are
    compared as integers of the same order.

    >>> argmin_mask(2, np.array([0, 0, 1]), np.array([-1.0, -2.0, 0.5]))
    array([False,  True,  True])
    """
    xp = array_module(values)
    bits = (values + 0.0).view(np.int64)  # −0 becomes 0, which it is equal to
    ascending = bits ^ ((bits >> 63) & np.int64(2**63 - 1))  # of negative numbers the larger bits are the lesser ones
    keys = ascending.view(np.uint64) ^ np.uint64(2**63)
    least = xp.full(n, -1, np.int64).view(np.uint64)  # the largest
    xp.minimum.at(least, places, keys)
    return keys == least[places]


# CuPy compiles with -ftz=true (``cupy/cuda/compiler.py``, 14.2): its own conversions, ``astype`` among them, make zeros
# of subnormal float32 numbers, as NumPy's do not. In PTX nothing is flushed unless an instruction says so.
_WIDENED = 'double {0}64; asm("cvt.f64.f32 %0, %1;" : "=d"({0}64) : "f"({0}));'

_ROUNDED = 'float {0}32; asm("cvt.rn.f32.f64 %0, %1;" : "=f"({0}32) : "d"({0}));'

OPERATIONS = {
    "widened": ("float32 x", "float64 y", _WIDENED.format("x") + " y = x64;"),
    "rounded": ("float64 x", "float32 y", _ROUNDED.format("x") + " y = x32;"),
    "products64": (
        "float32 a, float32 b",
        "float64 y",
        _WIDENED.format("a") + _WIDENED.format("b") + " y = a64 * b64;",
    ),
    "differences64": (
        "float32 a, float32 b",
        "float64 y",
        _WIDENED.format("a") + _WIDENED.format("b") + " y = a64 - b64;",
    ),
}
"""Elementwise kernels: their arguments, their result, and what is done."""


@functools.cache
def _operation(name: str) -> Any:
    import cupy

    return cupy.ElementwiseKernel(*OPERATIONS[name], f"spark_semdedup_{name}")


def widened(array: Array) -> Array:
    """A float32 array as float64."""
    return array.astype(np.float64) if array_module(array) is np else _operation("widened")(array)


def rounded(array: Array) -> Array:
    """A float64 array rounded to float32."""
    return array.astype(np.float32) if array_module(array) is np else _operation("rounded")(array)


def products64(a: Array, b: Array) -> Array:
    """Products of float32 arrays, exact in float64."""
    return np.multiply(a, b, dtype=np.float64) if array_module(a) is np else _operation("products64")(a, b)


def differences64(a: Array, b: Array) -> Array:
    """Differences of float32 arrays in float64."""
    return np.subtract(a, b, dtype=np.float64) if array_module(a) is np else _operation("differences64")(a, b)
