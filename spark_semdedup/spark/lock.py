"""One writer to a folder: a lock that a crash of its holder does not leave behind for ever.

A lock is a file ``_semdedup.lock-N`` in the folder, which its holder creates (``Files.create_new``) and writes a new
beat into every few seconds. Others watch the beats instead of comparing clocks, which differ between machines. While
they change, the folder is in use. After a silence, or where the holder was a process of this machine that has ended,
another process takes over by creating N + 1; of two that try, one succeeds. A holder that sees a higher number than its
own has lost the folder and stops.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from spark_semdedup.errors import FolderInUseError, SemDedupError, shown
from spark_semdedup.spark.files import Files, join

BEAT_SECONDS = 5.0
"""Between two beats of a holder."""

SILENCE_SECONDS = 30.0
"""Without a beat after which a holder counts as gone. A long pause of the driver's JVM is shorter."""

LOOKS = 60
"""For a beat, in that time. A silence is a number of looks, not of seconds: a pause of the process that looks is one
look."""

PREFIX = "_semdedup.lock-"

_NAME = re.compile(re.escape(PREFIX) + r"(\d+)")


class Lock:
    """Holds a folder; a context manager, whose end deletes the lock.

    Raises ``FolderInUseError`` where another process holds it, or, without ``takeover``, where one that is gone did.
    """

    def __init__(self, files: Files, folder: str, *, takeover: bool, param: str = "output") -> None:
        """``param``: names the folder in messages."""
        self._files, self._folder, self._takeover = files, folder, takeover
        self._place = f"{param}={shown(folder, 400)}"
        host, pid = socket.gethostname(), os.getpid()
        self._holder = {"run": uuid.uuid4().hex, "machine": _machine(), "host": host, "pid": pid}
        self._number = 0
        self._ended, self._lost = threading.Event(), threading.Event()
        self._beating = threading.Thread(target=self._beat, name="semdedup-lock", daemon=True)

    def __enter__(self) -> Lock:
        earlier = self._numbers()
        if earlier and not self._takeover:
            raise self._in_use(self._read(earlier[-1]), "")
        if earlier:
            self._wait_for_silence(earlier[-1])
        number = (earlier[-1] if earlier else 0) + 1
        if not self._create(number):
            raise self._in_use(self._read(number), ", since a moment ago")
        self._number = number
        for old in earlier:
            self._files.delete(self._path(old))
        self._beating.start()
        return self

    def _create(self, number: int) -> bool:
        try:
            return self._files.create_new(self._path(number), self._text(0))
        except SemDedupError as error:
            why = str(error).partition(" cannot be used: ")[2] or str(error)
            raise SemDedupError(f"{self._place} cannot be written to: {why}") from error

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._beating.join()
        holds = not self._lost.is_set() and self._newest() == self._number
        if holds and self._read(self._number).get("run") == self._holder["run"]:
            self._files.delete(self._path(self._number))

    def assert_held(self) -> None:
        """Raises ``FolderInUseError`` once another process has taken the folder over, even if it has finished."""
        newest = self._newest()
        holder = self._read(newest) if newest else {}
        # Two may create one file on some stores: the later of them holds it. (Empty: a beat is being written.)
        another = holder.get("run", self._holder["run"]) != self._holder["run"]
        if self._lost.is_set() or newest != self._number or another:
            raise self._in_use(holder, ", and was taken over from this process, which was silent for long")

    # --- the files ---

    def _numbers(self) -> list[int]:
        if not self._files.exists(self._folder):
            return []
        matches = (_NAME.fullmatch(name) for name in self._files.names(self._folder))
        return sorted(int(match[1]) for match in matches if match)

    def _newest(self) -> int | None:
        return max(self._numbers(), default=None)

    def _path(self, number: int) -> str:
        return join(self._folder, f"{PREFIX}{number:04}")

    def _text(self, beat: int) -> str:
        return json.dumps({**self._holder, "beat": beat}) + "\n"

    def _read(self, number: int) -> dict[str, Any]:
        """A lock's contents; empty while its holder writes it, and after it was deleted."""
        try:
            contents = json.loads(self._files.read_text(self._path(number)))
        except (SemDedupError, ValueError):
            return {}
        return contents if isinstance(contents, dict) else {}

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT_SECONDS):
            beat += 1
            with suppress(Exception):  # the next beat may succeed; `assert_held` finds out whether the folder is lost
                if self._newest() != self._number:
                    self._lost.set()
                    return
                self._files.write_text(self._path(self._number), self._text(beat))

    # --- whether a holder lives ---

    def _wait_for_silence(self, number: int) -> None:
        """Returns when the holder of a lock is gone; raises while it lives."""
        first = self._read(number)
        if _is_gone(first):
            return
        for _ in range(LOOKS):
            time.sleep(SILENCE_SECONDS / LOOKS)
            if self._newest() != number:
                return  # given back, or taken over by another process, which `create_new` will notice
            now = self._read(number)  # empty for the moment in which a beat is written
            if now and now.get("beat") != first.get("beat"):
                raise self._in_use(now, ", and is alive")

    def _in_use(self, holder: dict[str, Any], since: str) -> FolderInUseError:
        who = f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= holder.keys() else "another process"
        hint = "; if that has ended, --resume continues its run, or --overwrite begins again"
        return FolderInUseError(
            f"{self._place} is being written by {who}{since}: wait for its end, or give another folder"
            f"{'' if self._takeover else hint}"
        )


def is_lock(name: str) -> bool:
    """Whether a file of this name is a lock."""
    return _NAME.fullmatch(name) is not None


def _machine() -> str:
    """Identifies a machine, or a container on one: the same process id means another process elsewhere."""
    sources = map(Path, ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"))
    parts = (os.readlink(path) if path.is_symlink() else path.read_text().strip() for path in sources if path.exists())
    return "/".join([socket.gethostname(), *parts])


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether a lock's holder was a process of this very machine that has ended."""
    pid = holder.get("pid")
    if holder.get("machine") != _machine() or not isinstance(pid, int) or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's process
        pass
    return False
