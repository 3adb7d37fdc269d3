"""Both array libraries for every kernel test. Nothing in this folder imports Spark."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest) -> ModuleType:
    return np if request.param == "numpy" else _cupy()


def _cupy() -> ModuleType:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"CuPy finds no GPU: {error}")
    if not devices:
        pytest.skip("CuPy finds no GPU")
    return cupy


@pytest.fixture
def like_cupy() -> ModuleType:
    """NumPy's functions in a module that is not NumPy: what takes another way for CuPy takes it."""
    module = ModuleType("like_cupy")
    module.__dict__.update(vars(np))
    return module
