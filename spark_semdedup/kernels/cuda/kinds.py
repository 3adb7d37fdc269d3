"""How cuBLAS computes products, by the precision that is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FINER = {"float16": "float32", "float32": "float64"}


@dataclass(frozen=True)
class Kind:
    """How products are computed."""

    dtype: str
    """Of what is multiplied and of what is stored."""
    cuda_type: int
    """The same as cudaDataType."""
    compute: str
    """cuBLAS's name for the arithmetic in between."""
    sums: str
    """Type of that arithmetic, and of the factors that cuBLAS wants."""
    alignment: int
    """Dimensions are filled up with zeros to a multiple of this; float16's fast kernels want rows of whole 16 bytes."""


# "_PEDANTIC types ensure standard arithmetic and exact specified internal storage format" (cublas_api.h), so no TF32 by
# whatever setting. For float64 the default does too, and only that uses the tensor cores' IEEE float64.
KINDS = {
    "float16": Kind("float16", 2, "CUBLAS_COMPUTE_32F", "float32", 8),
    "float32": Kind("float32", 0, "CUBLAS_COMPUTE_32F_PEDANTIC", "float32", 1),
    "float64": Kind("float64", 1, "CUBLAS_COMPUTE_64F", "float64", 1),
}

ONE = {dtype: np.ones(1, dtype) for dtype in ("float32", "float64")}

ZERO = {dtype: np.zeros(1, dtype) for dtype in ("float32", "float64")}
