"""What the answer is made of: unit vectors, and dot products that are the same bits on every machine.

BLAS sums in an order that depends on the processor, the shape and the row's position in the batch, so the last
bits of its products differ from run to run; near-ties, and with them the rows removed, differ too. Here a dot
product is defined instead (docs/how-it-works.md, "Arithmetic"): float32 values multiplied exactly in float64 (24 + 24
bits fit into 53), padded with zeros to a power of two, added by a fixed tree of elementwise additions, rounded once to
float32.
Elementwise IEEE operations give the same bits in NumPy and CuPy, for any batch (and so do conversions, where CuPy's own
would lose subnormal numbers: ``arrays``).

It costs a few nanoseconds per element, so matrix products *screen* (``similarity``, ``assignment``) and this decides.
The bounds they screen by are here too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spark_semdedup.kernels.arrays import (
    Array,
    array_module,
    differences64,
    products64,
    rounded,
    rows_per_block,
    widened,
)

FLOAT32_ROUNDING = 2.0**-24
"""Unit roundoff u of float32: a result is off by at most u times its size."""


def tree_sum(terms: Array) -> Array:
    """Sum of each row by the fixed tree ``x[:h] + x[h:]``, ``h`` halving from a power of two; (n, d) → (n,) float64.

    ``terms`` is used as workspace. Columns past ``d`` count as zeros; adding those is skipped, except for the one
    thing it would change: a sum of nothing but negative zeros is ``+0.0`` once a zero is added.

    >>> tree_sum(np.array([[1e16, 1.0, -1e16]]))  # (1e16 + -1e16) + (1.0 + 0)
    array([1.])
    """
    width = terms.shape[1]
    size = 1 << (width - 1).bit_length()
    padded = size != width
    while size > 1:
        size //= 2
        if width > size:
            terms[:, : width - size] += terms[:, size:width]
            width = size
    return terms[:, 0] + 0.0 if padded else terms[:, 0].copy()


def exact_dots(a: Array, b: Array) -> Array:
    """Dot product of each row of ``a`` with the same row of ``b``: float32 (n, d) twice → float32 (n,)."""
    return rounded(exact_dots64(a, b))


def exact_dots64(a: Array, b: Array) -> Array:
    """The same before the last rounding: float64 (n,)."""
    return _by_blocks(_dots64, a, b)


def exact_pair_dots(rows: Array, columns: Array, i: Array, j: Array) -> Array:
    """Dot products of ``rows[i]`` with ``columns[j]``; float32 matrices, integer (m,) → float32 (m,)."""
    return rounded(exact_pair_dots64(rows, columns, i, j))


def exact_pair_dots64(rows: Array, columns: Array, i: Array | None, j: Array) -> Array:
    """The same before the last rounding: float64 (m,). ``i`` None: all rows, each once."""
    return _by_blocks(_dots64, rows, columns, i, j)


def squared_pair_distances(rows: Array, columns: Array, i: Array | None, j: Array) -> Array:
    """‖rows[i] − columns[j]‖² by the same tree; float32 matrices, integer (m,) → float64 (m,). ``i`` None: all rows.

    Differences first: ‖x‖² − 2x·y + ‖y‖² would cancel where a row lies near its centre.
    """
    return _by_blocks(_distances64, rows, columns, i, j)


def _dots64(a: Array, b: Array) -> Array:
    return tree_sum(products64(a, b))


def _distances64(a: Array, b: Array) -> Array:
    difference = differences64(a, b)
    difference *= difference  # a kernel of its own in CuPy: no fused multiply-add may reach the sum
    return tree_sum(difference)


def _by_blocks(
    function: Callable[[Array, Array], Array], a: Array, b: Array, i: Array | None = None, j: Array | None = None
) -> Array:
    """``function`` of rows of ``a``, those numbered ``i`` or all, with rows of ``b``, ``j`` or all; gathered block by
    block, so that memory does not grow with the number of pairs."""
    xp = array_module(a)
    n = a.shape[0] if i is None else i.shape[0]
    result = xp.empty(n, np.float64)
    step = rows_per_block(xp, 8 * a.shape[1])
    for start in range(0, n, step):
        part = slice(start, start + step)
        left = a[part] if i is None else a[i[part]]
        right = b[part] if j is None else b[j[part]]
        result[part] = function(left, right)
    return result


def unit_vectors(vectors: Array) -> Array:
    """Rows divided by their Euclidean norm: float32 or float64 (n, d), finite → float32 (n, d).

    Norm and quotient are computed in float64, without over- or underflow, and rows that differ by a power of two
    give the same bits. The result's norm is within 2⁻²³ of 1. Normalising it again could change last bits: don't.
    A row of zeros stays a row of zeros.
    """
    xp = array_module(vectors)
    n, d = vectors.shape
    result = xp.empty((n, d), np.float32)
    step = rows_per_block(xp, 8 * d)
    for start in range(0, n, step):
        block = vectors[start : start + step]
        if vectors.dtype == np.float32:  # whose squares stay within float64's range as they are
            block = widened(block)
        else:
            block = block.astype(np.float64)
            _scale_to_one(block)
        norm = xp.sqrt(tree_sum(block * block))
        norm[norm == 0] = 1
        xp.divide(block, norm[:, None], out=block)
        result[start : start + step] = rounded(block)
    return result


def _scale_to_one(block: Array) -> None:
    """Multiplies each float64 row by the power of two that brings its largest element to [0.5, 1). In place, exact.

    In two steps, because 2¹⁰⁷⁴, which the smallest subnormal needs, is no float64.
    """
    xp = array_module(block)
    _, exponent = xp.frexp(xp.maximum(block.max(axis=1), -block.min(axis=1)))
    half = exponent // 2
    block *= xp.ldexp(np.float64(1), -half)[:, None]
    block *= xp.ldexp(np.float64(1), half - exponent)[:, None]


def norms(vectors: Array) -> Array:
    """Euclidean norms by the same tree: float32 (n, d) → float64 (n,)."""
    xp = array_module(vectors)
    return xp.sqrt(_by_blocks(_dots64, vectors, vectors))


def screening_error(d: int, precision: str = "float32", *, tensor_cores: bool = False) -> float:
    """Bound on |screened − exact| for two unit vectors of dimension ``d``; ``precision`` as in ``pairwise``.

    Let u = 2⁻²⁴. A float32 product of d terms, summed in any order, with or without fused multiply-adds, is off by
    at most γ_d Σ|xᵢyᵢ| with γ_d = du / (1 − du) (Higham, Accuracy and Stability of Numerical Algorithms, §3.1),
    and Σ|xᵢyᵢ| ≤ ‖x‖‖y‖ by Cauchy–Schwarz. Stored unit vectors have norms within 2⁻²³ of 1; the exact product's own
    rounding to float32 adds u, and underflow of single terms less than d·2⁻¹⁴⁹. Four more roundings cover all three.
    Tensor cores truncate when they align summands: allow four times as much per term.

    ``float16``: each element moves by at most 2⁻¹¹ of itself, or 2⁻²⁵ where it is subnormal, so each vector by
    ρ = 2⁻¹¹ + √d·2⁻²⁵ at most, and the product by (2 + ρ)ρ. The accumulation is float32's, on vectors of norm ≤ 1 + ρ.
    """
    per_term = FLOAT32_ROUNDING * (4 if tensor_cores else 1)
    terms = (d + 4) * per_term
    accumulation = terms / (1 - terms)
    if precision == "float32":
        return accumulation
    rho = 2.0**-11 + d**0.5 * 2.0**-25
    return (2 + rho) * rho + (1 + rho) ** 2 * accumulation


def float64_screening_error(d: int) -> float:
    """The same for a float64 matrix product: γ of float64 for the product and for the tree, unit vectors."""
    terms = (2 * d + 64) * 2.0**-53
    return terms / (1 - terms)
