"""Remembers what names of the JVM are. Py4J asks at each use, and a name that is no class is sought in every jar."""

from __future__ import annotations

from typing import Any

from py4j.java_gateway import JavaPackage, JVMView


def remember(found: Any) -> Any:
    """``__getattr__`` of a class of Py4J that asks for each name once. Classes and packages do not change."""
    known: dict[tuple[int, str, str], Any] = {}

    def member(self: Any, name: str) -> Any:
        key = id(self._gateway_client), self.__dict__.get("_fqn", ""), name
        if key not in known:
            known[key] = found(self, name)
        return known[key]

    return member


def remember_classes() -> None:
    JVMView.__getattr__ = remember(JVMView.__getattr__)
    JavaPackage.__getattr__ = remember(JavaPackage.__getattr__)
