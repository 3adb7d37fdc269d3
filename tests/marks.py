"""Marks of the suite, for values of parameters."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """Values that only the suite's second step tries: others of their kind are in the first."""
    return pytest.param(*values, marks=pytest.mark.slow)
