"""One writer to a folder: a lock that outlives neither its holder nor, wrongly, a crash.

A lock is a file ``_semdedup.lock-N`` in the folder, made where none of that name is (``Files.create_new``), and its
holder writes a new beat into it every few seconds. Whoever finds one goes by its beats, not by clocks, which differ
between machines: if they go on, the folder is in use; if not for a while, or if the holder was a process of this
machine that is gone, the lock can be taken over, by making the next N. Of two that try, one succeeds. A holder that
finds a higher N than its own has lost the folder and stops.
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
"""Without a beat after which a holder counts as gone: a long pause of the driver's JVM is shorter."""

LOOKS = 60
"""For a beat, in that time. Looks are counted, not seconds: a pause of the process that looks, in which it would see no
beat either, is one look and no silence."""

PREFIX = "_semdedup.lock-"

_NAME = re.compile(re.escape(PREFIX) + r"(\d+)")


class Lock:
    """A folder held; a context manager, whose end removes the lock.

    Raises ``FolderInUseError`` where another process holds it, or, without ``takeover``, where one that is gone did.
    """

    def __init__(self, files: Files, folder: str, *, takeover: bool) -> None:
        self._files, self._folder, self._takeover = files, folder, takeover
        self._about = {"run": uuid.uuid4().hex, "machine": _machine(), "host": socket.gethostname(), "pid": os.getpid()}
        self._number = 0
        self._ended, self._lost = threading.Event(), threading.Event()
        self._beating = threading.Thread(target=self._beat, name="semdedup-lock", daemon=True)

    def __enter__(self) -> Lock:
        found = self._numbers()
        if found and not self._takeover:
            raise self._in_use(self._read(found[-1]), "")
        if found:
            self._wait_for_silence(found[-1])
        number = (found[-1] if found else 0) + 1
        if not self._create(number):
            raise self._in_use(self._read(number), ", since a moment ago")
        self._number = number
        for old in found:
            self._files.delete(self._path(old))
        self._beating.start()
        return self

    def _create(self, number: int) -> bool:
        try:
            return self._files.create_new(self._path(number), self._text(0))
        except SemDedupError as error:
            why = str(error).partition(" cannot be used: ")[2] or str(error)
            raise SemDedupError(f"output={shown(self._folder, 400)} cannot be written to: {why}") from error

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._beating.join()
        if self._is_own():
            self._files.delete(self._path(self._number))

    def assert_held(self) -> None:
        """Raises ``FolderInUseError`` where another process has taken the folder over, be it done with it or not."""
        numbers = self._numbers()
        holder = self._read(numbers[-1]) if numbers else {}
        # Where two could make one file, the later of them holds it. (Empty: a beat is just being written.)
        another = holder.get("run", self._about["run"]) != self._about["run"]
        if self._lost.is_set() or numbers[-1:] != [self._number] or another:
            raise self._in_use(holder, ", and was taken over from this process, which was silent for long")

    def _is_own(self) -> bool:
        """Whether the lock is still this one's. For the thread that writes it, or when that has ended."""
        if self._lost.is_set() or self._numbers()[-1:] != [self._number]:
            return False
        return self._read(self._number).get("run") == self._about["run"]

    # --- the files ---

    def _numbers(self) -> list[int]:
        if not self._files.exists(self._folder):
            return []
        found = (_NAME.fullmatch(name) for name in self._files.names(self._folder))
        return sorted(int(match[1]) for match in found if match)

    def _path(self, number: int) -> str:
        return join(self._folder, f"{PREFIX}{number:04}")

    def _text(self, beat: int) -> str:
        return json.dumps({**self._about, "beat": beat}) + "\n"

    def _read(self, number: int) -> dict[str, Any]:
        """What a lock says; empty while it is being written, or when it has just gone."""
        try:
            found = json.loads(self._files.read_text(self._path(number)))
        except (SemDedupError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT_SECONDS):
            beat += 1
            with suppress(Exception):  # the next one may succeed; `assert_held` says whether the folder is still ours
                if self._numbers()[-1:] != [self._number]:
                    self._lost.set()
                    return
                self._files.write_text(self._path(self._number), self._text(beat))

    # --- whether a holder lives ---

    def _wait_for_silence(self, number: int) -> None:
        """Returns when the holder of a lock is gone; raises where it is not."""
        first = self._read(number)
        if _is_gone(first):
            return
        for _ in range(LOOKS):
            time.sleep(SILENCE_SECONDS / LOOKS)
            if self._numbers()[-1:] != [number]:
                return  # given back, or taken over by another, which `create_new` finds
            now = self._read(number)  # empty for the moment in which a beat is written
            if now and now.get("beat") != first.get("beat"):
                raise self._in_use(now, ", and is alive")

    def _in_use(self, holder: dict[str, Any], since: str) -> FolderInUseError:
        who = f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= holder.keys() else "another process"
        hint = (
            ""
            if self._takeover
            else "; if that has ended, --resume goes on where it stopped, or --overwrite begins again"
        )
        return FolderInUseError(
            f"output={shown(self._folder, 400)} is being written by {who}{since}: wait for its end, or give another "
            f"folder{hint}"
        )


def is_lock(name: str) -> bool:
    """Whether a file of this name is a lock."""
    return _NAME.fullmatch(name) is not None


def _machine() -> str:
    """Tells machines, and containers on one, apart: a process id means something in one of them only."""
    parts = [socket.gethostname()]
    for source in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        path = Path(source)
        if path.exists():
            parts.append(os.readlink(path) if path.is_symlink() else path.read_text().strip())
    return "/".join(parts)


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether a lock's holder was a process of this very machine that no longer is."""
    if holder.get("machine") != _machine() or not isinstance(holder.get("pid"), int):
        return False
    if holder["pid"] == os.getpid():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is there, and another user's
        pass
    return False
