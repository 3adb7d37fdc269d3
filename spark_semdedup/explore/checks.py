"""Checks of settings, answered in one line."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from spark_semdedup.errors import SemDedupError, shown


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """``value`` as an int; a ``SemDedupError`` unless it is a whole number from ``least`` to ``most``."""
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if is_whole and value >= least and (most is None or value <= most):
        return int(value)
    allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise SemDedupError(f"{name}={shown(value)} cannot be used: it must be a whole number {allowed}")


def seed(value: Any) -> int:
    """``value`` as an int, which may be negative; a ``SemDedupError`` unless it is a whole number."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise SemDedupError(f"seed={shown(value)} cannot be used: it must be a whole number")
    return int(value)


def number(name: str, value: Any, low: float, high: float) -> float:
    """``value`` as a float; a ``SemDedupError`` unless ``low`` ≤ value ≤ ``high``."""
    fits = isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)
    if fits and low <= value <= high:
        return float(value)
    upper = "" if math.isinf(high) else f" to {high:g}"
    raise SemDedupError(f"{name}={shown(value)} cannot be used: it must be a number from {low:g}{upper}")


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """``value``; a ``SemDedupError`` unless it is one of ``allowed``."""
    if value not in allowed:
        raise SemDedupError(f"{name}={shown(value)} cannot be used: it must be one of {', '.join(allowed)}")
    return str(value)
