"""Packages of the extra ``explore``, imported when they are first used."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from spark_semdedup.errors import SemDedupError

INSTALL = "pip install 'spark-semdedup[explore]'"


def require(module: str, purpose: str, *, install: str = INSTALL) -> Any:
    """The module; a ``SemDedupError`` that says how to install it where it is missing.

    >>> require("no_such_module", "drawing")
    Traceback (most recent call last):
    ...
    spark_semdedup.errors.SemDedupError: drawing needs no_such_module, which is not installed: \
pip install 'spark-semdedup[explore]'
    """
    try:
        return import_module(module)
    except ImportError:
        package = module.split(".")[0]
        state = "cannot be imported" if is_installed(package) else "is not installed"
        raise SemDedupError(f"{purpose} needs {package}, which {state}: {install}") from None


def is_installed(module: str) -> bool:
    """Whether a top-level module can be imported; it is not imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def gpu_is_present() -> bool:
    """Whether cuML is installed and CuPy finds a GPU."""
    if not (is_installed("cuml") and is_installed("cupy")):
        return False
    try:
        cupy = import_module("cupy")
        return int(cupy.cuda.runtime.getDeviceCount()) > 0
    except Exception:  # the driver's own errors are no ImportError, and each has a class of its own
        return False
