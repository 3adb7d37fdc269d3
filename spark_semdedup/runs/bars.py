"""How far a phase is, as a bar or as lines: tasks done, their share, the time left.

tqdm draws the bar, in terminals and notebooks. Without it, or where lines are logged, a line is written now and then.
"""

from __future__ import annotations

from importlib import util
from typing import Any, Protocol, TextIO

from spark_semdedup.formatting import duration
from spark_semdedup.spark.jobs import TaskCount, seconds_left

EVERY = 10.0
"""Seconds between two lines of a phase: 360 lines, some 30 KB, in an hour of a log."""


class Bar(Protocol):
    """Shows counts until it is closed."""

    def show(self, count: TaskCount, seconds: float) -> None:
        """``seconds``: since the phase began."""

    def close(self) -> bool:
        """Clears what was drawn. Returns whether the line that the cursor is in must be written again."""


class NoBar:
    """Shows nothing."""

    def show(self, count: TaskCount, seconds: float) -> None:
        """Nothing."""

    def close(self) -> bool:
        return False


class Lines:
    """Lines such as ``[2/5] assign and compare ... 312 of 812 tasks (38 %), about 40 s left``, one in ten seconds."""

    def __init__(self, stream: TextIO, begun: str) -> None:
        self._stream, self._begun = stream, begun
        self._next = EVERY

    def show(self, count: TaskCount, seconds: float) -> None:
        if seconds < self._next:
            return
        self._next = EVERY * (seconds // EVERY + 1)
        self._stream.write(f"{self._begun}{in_words(count, seconds)}\n")
        self._stream.flush()

    def close(self) -> bool:
        return False


class TqdmBar:
    """A bar of tqdm's."""

    def __init__(self, stream: TextIO, title: str, *, notebook: bool) -> None:
        self._stream, self._title, self._notebook = stream, title, notebook
        self._bar: Any = None

    def show(self, count: TaskCount, seconds: float) -> None:
        if not count.total:
            return
        bar = self._bar = self._bar or self._new()
        bar.total, bar.n = count.total, count.done
        bar.refresh()

    def close(self) -> bool:
        if self._bar is None:
            return False
        self._bar.close()
        return not self._notebook

    def _new(self) -> Any:
        if self._notebook:
            from tqdm.notebook import tqdm

            return tqdm(desc=self._title, unit=" tasks", leave=False)
        from tqdm import tqdm

        return tqdm(desc=self._title, unit=" tasks", leave=False, file=self._stream, dynamic_ncols=True, ascii=" =")


def bar_for(stream: TextIO, begun: str, title: str) -> Bar:
    """The bar that fits where the program runs: a notebook with widgets, a terminal, or neither."""
    if util.find_spec("tqdm") is None:
        return Lines(stream, begun)
    if _in_notebook():
        return TqdmBar(stream, title, notebook=util.find_spec("ipywidgets") is not None)
    return TqdmBar(stream, title, notebook=False) if stream.isatty() else Lines(stream, begun)


def in_words(count: TaskCount, seconds: float) -> str:
    """
    >>> in_words(TaskCount(312, 812, 2), 25.0)
    '312 of 812 tasks (38 %), about 40 s left'
    >>> in_words(TaskCount(1, 812, 2), 25.0)
    '1 of 812 tasks (0 %)'
    >>> in_words(TaskCount(12, 12, 2), 50.0)  # the driver works, between two jobs or as it fits the centroids
    '50 s so far'
    """
    if count.done >= count.total:
        return f"{duration(seconds)} so far"
    left = seconds_left(count, seconds)
    rest = "" if left is None else f", about {duration(left)} left"
    return f"{count.done:,} of {count.total:,} tasks ({100 * count.share:.0f} %){rest}"


def _in_notebook() -> bool:
    """Whether this is a kernel of Jupyter's."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and shell.__class__.__name__ == "ZMQInteractiveShell"
