"""Progress of a run, on stderr, and in Spark's UI."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from spark_semdedup.redaction import redacted
from spark_semdedup.runs.bars import Bar, NoBar, bar_for
from spark_semdedup.spark.jobs import TaskWatch, job_group

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class Progress:
    """Lines on stderr such as ``[2/4] assign and compare ... 63,905 rows, 250 clusters, 8.3 s``.

    On a terminal each line grows as its phase begins and ends. Elsewhere Spark's log may come between, so the beginning
    gets a line of its own and the end repeats it. ASCII only: spark-submit passes the text on through the JVM, in
    whatever encoding that has.

    With a session, Spark's jobs have the names of the phases, and a long phase shows its tasks (``bars``).
    """

    def __init__(self, stream: TextIO | None = None, *, spark: SparkSession | None = None, quiet: bool = False) -> None:
        """``quiet``: nothing is written; jobs are named and phases are timed all the same."""
        self._stream = stream if stream is not None else sys.stderr
        self._spark, self._quiet = spark, quiet
        self._bar: Bar = NoBar()
        self._total = 0
        self.later = 0
        """Phases after those of ``begin``: a report after a run, say."""
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
        """Declares that checks are over, and the number of phases, without those that come ``later``."""
        self._total = phases + self.later

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
            with self._watched(title):
                yield counts
        except BaseException:
            self._write(f"{ending}failed after {time.monotonic() - start:.1f} s\n")
            raise
        self.seconds[title] = round(time.monotonic() - start, 3)
        parts = [*(f"{n:,} {what}" for what, n in counts.items()), f"{self.seconds[title]:.1f} s"]
        self._write(f"{ending}{', '.join(parts)}\n")

    @contextmanager
    def _watched(self, title: str) -> Iterator[None]:
        """Names the jobs of a phase, and shows how far they are."""
        if self._spark is None:
            yield
            return
        self._bar = NoBar() if self._quiet else bar_for(self._stream, self._begun, title)
        try:
            with job_group(self._spark, title) as group, TaskWatch(self._spark, group, self._bar.show):
                yield
        finally:
            if self._bar.close():
                self._write(self._begun)  # the bar was drawn over it
            self._bar = NoBar()

    def skip(self, title: str, seconds: float) -> None:
        """Reports a phase that an earlier run finished in so many ``seconds``."""
        self._write(f"[{len(self.seconds) + 1}/{self._total}] {title} ... done before\n")
        self.seconds[title] = seconds

    def note(self, text: str) -> None:
        """Writes a line about the running phase."""
        self._write(f"{text}\n{self._begun}" if self._stream.isatty() else f"{self._begun}{text}\n")

    def _write(self, text: str) -> None:
        if self._quiet:
            return
        self._stream.write(redacted(text))
        self._stream.flush()
