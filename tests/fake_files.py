"""A file system that is a dictionary, whose user is killed at any change of a file: before, in the midst, after."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from spark_semdedup.errors import SemDedupError
from spark_semdedup.spark import lock as locking


class Killed(BaseException):
    """What ends a process at once."""


class FakeFiles:
    """What state machines use of ``Files``, over a dictionary. A folder exists as long as a file is in it.

    ``kill(n, how)`` kills the process at the n-th change from then on; beats of the lock are not counted.
    """

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.changes = 0
        self._left, self._how = None, "before"
        self.dead = False

    def kill(self, change: int | None, how: str = "before") -> None:
        self._left, self._how, self.dead, self.changes = change, how, False, 0

    def _change(self, apply: Callable[[], None], tear: Callable[[], None]) -> None:
        if self.dead:  # a dead process changes nothing any more, not even its lock
            raise Killed
        self.changes += 1
        self.dead = self.changes - 1 == self._left
        if not self.dead or self._how == "after":
            apply()
        elif self._how == "amid":
            tear()
        if self.dead:
            raise Killed

    def exists(self, path: str) -> bool:
        return path in self.texts or self._within(path) != []

    def _within(self, path: str) -> list[str]:
        return [name for name in self.texts if name.startswith(path + "/")]

    def matches(self, pattern: str) -> list[str]:
        return [pattern] if self.exists(pattern) else []

    def names(self, path: str) -> list[str]:
        return sorted({name.removeprefix(path + "/").split("/")[0] for name in self._within(path)})

    def read_text(self, path: str) -> str:
        if path not in self.texts:
            raise SemDedupError(f"path {path} cannot be used: it does not exist")
        return self.texts[path]

    def write_text(self, path: str, text: str) -> None:
        self._change(
            lambda: self.texts.__setitem__(path, text), lambda: self.texts.__setitem__(path, text[: len(text) // 2])
        )

    def create_new(self, path: str, text: str) -> bool:
        if path in self.texts:
            return False
        self.write_text(path, text)
        return True

    def delete(self, path: str) -> None:
        gone = [path] if path in self.texts else sorted(self._within(path))
        self._change(lambda: self._drop(gone), lambda: self._drop(gone[::2]))

    def _drop(self, names: list[str]) -> None:
        for name in names:
            del self.texts[name]

    def below(self, path: str) -> dict[str, str]:
        return {name: self.texts[name] for name in sorted(self._within(path))}


def moments(stride: int = 1) -> Iterator[tuple[int, str]]:
    """All numbers of changes, to be ended by the caller."""
    change = 0
    while True:
        for how in ("before", "amid", "after"):
            yield change, how
        change += stride


def quicken_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock of this very process is dead only by its silence; no beat falls into a test."""
    monkeypatch.setattr(locking, "SILENCE_SECONDS", 0.0)
    monkeypatch.setattr(locking, "LOOKS", 2)
    monkeypatch.setattr(locking, "BEAT_SECONDS", 3600.0)
    monkeypatch.setattr(locking, "_machine", lambda: "here")
