"""Progress of a run, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from spark_semdedup.redaction import redacted


class Progress:
    """Lines on stderr such as ``[2/4] assign and compare ... 63,905 rows, 250 clusters, 8.3 s``.

    On a terminal each line grows as its phase begins and ends. Elsewhere Spark's log may come between, so the beginning
    gets a line of its own and the end repeats it. ASCII only: spark-submit passes the text on through the JVM, in
    whatever encoding that has.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._total = 0
        self._begun = ""
        self._born = time.monotonic()
        self.seconds: dict[str, float] = {}
        """Wall-clock seconds of each finished phase."""

    @property
    def started(self) -> bool:
        """Whether checks are over and work has begun."""
        return self._total > 0

    @property
    def elapsed(self) -> float:
        """Seconds since this object was made."""
        return time.monotonic() - self._born

    def begin(self, phases: int) -> None:
        """Declares that checks are over, and the number of phases."""
        self._total = phases

    @contextmanager
    def phase(self, title: str) -> Iterator[dict[str, int]]:
        """Times a phase. Counts that the block puts into the dictionary, by their names, end the line."""
        counts: dict[str, int] = {}
        self._begun = begun = f"[{len(self.seconds) + 1}/{self._total}] {title} ... "
        on_terminal = self._stream.isatty()
        self._write(begun if on_terminal else begun.rstrip() + "\n")
        ending = "" if on_terminal else begun
        start = time.monotonic()
        try:
            yield counts
        except BaseException:
            self._write(f"{ending}failed after {time.monotonic() - start:.1f} s\n")
            raise
        self.seconds[title] = round(time.monotonic() - start, 3)
        parts = [*(f"{n:,} {what}" for what, n in counts.items()), f"{self.seconds[title]:.1f} s"]
        self._write(f"{ending}{', '.join(parts)}\n")

    def skip(self, title: str, seconds: float) -> None:
        """Reports a phase that an earlier run finished in so many ``seconds``."""
        self._write(f"[{len(self.seconds) + 1}/{self._total}] {title} ... done before\n")
        self.seconds[title] = seconds

    def note(self, text: str) -> None:
        """Writes a line about the running phase."""
        self._write(f"{text}\n{self._begun}" if self._stream.isatty() else f"{self._begun}{text}\n")

    def _write(self, text: str) -> None:
        self._stream.write(redacted(text))
        self._stream.flush()
