"""Public stages under the module names of version 0.1.0, which saved pipelines name in their metadata.

pyspark loads each stage of a saved ``Pipeline`` by the class path in the stage's metadata. Stages saved now name
``spark_semdedup`` itself, so that later moves inside the package break no saved pipeline.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def stages_moved_from(module: str, *names: str) -> Callable[[str], Any]:
    """A module's ``__getattr__`` (PEP 562) that finds the public stages ``names``, which ``module`` once defined."""

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(import_module("spark_semdedup"), name)

    return find
