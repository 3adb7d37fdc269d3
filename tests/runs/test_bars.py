"""Bars and lines, and the stages that show them."""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np
import pytest

from spark_semdedup.runs import progress as progress_module
from spark_semdedup.runs.bars import EVERY, Lines, NoBar, TqdmBar, bar_for
from spark_semdedup.runs.progress import Progress
from spark_semdedup.spark.jobs import PREFIX, TaskCount


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_comes_every_ten_seconds():
    """A watch asks twice a second, and late where the machine is busy."""
    stream = io.StringIO()
    lines = Lines(stream, "[2/5] compare ... ")
    for second in [*np.arange(0, 300, 0.5), *range(300, 600, 7)]:
        lines.show(TaskCount(int(second), 600, 1), float(second))
    written = stream.getvalue().splitlines()
    assert written[0] == "[2/5] compare ... 10 of 600 tasks (2 %)"
    assert written[3] == "[2/5] compare ... 40 of 600 tasks (7 %), about 9 min left"
    done = [int(line.split()[3]) for line in written]
    assert done[:30] == [*range(10, 301, 10)]
    assert max(np.diff(done)) < 2 * EVERY
    assert len(done) == 59
    assert not lines.close()


@pytest.mark.parametrize("count", [TaskCount(0, 0, 0), TaskCount(12, 12, 2)])
def test_work_of_the_driver_shows_its_seconds(count):
    stream = io.StringIO()
    lines = Lines(stream, "[1/5] fit ... ")
    lines.show(count, EVERY - 0.1)
    lines.show(count, EVERY)
    assert stream.getvalue() == "[1/5] fit ... 10 s so far\n"


def test_a_terminal_gets_a_bar_that_leaves_no_trace():
    pytest.importorskip("tqdm")
    stream = Terminal()
    bar = bar_for(stream, "begun", "compare")
    assert isinstance(bar, TqdmBar)
    assert not bar.close()  # nothing was drawn
    bar.show(TaskCount(25, 100, 1), 3.0)
    drawn = stream.getvalue()
    assert "compare" in drawn
    assert "25/100" in drawn
    assert drawn.isascii()
    assert bar.close()
    assert stream.getvalue().rstrip(" \r") == drawn.rstrip(" \r")  # blanks over the bar


def test_without_tqdm_and_without_a_terminal_there_are_lines(monkeypatch: pytest.MonkeyPatch):
    assert isinstance(bar_for(io.StringIO(), "", ""), Lines)
    monkeypatch.setattr("spark_semdedup.runs.bars.util.find_spec", lambda name: None)
    assert isinstance(bar_for(Terminal(), "", ""), Lines)


class SignalledBar(NoBar):
    """Tells when it was first shown tasks."""

    def __init__(self) -> None:
        self.shown = threading.Event()
        self.closed = False

    def show(self, count: TaskCount, seconds: float) -> None:
        if count.done:
            self.shown.set()

    def close(self) -> bool:
        self.closed = True
        return True


def test_a_phase_names_its_jobs_and_shows_their_tasks(spark, monkeypatch: pytest.MonkeyPatch):
    bar = SignalledBar()
    monkeypatch.setattr(progress_module, "bar_for", lambda *_: bar)
    stream = Terminal()
    progress = Progress(stream, spark=spark)
    progress.later = 1
    progress.begin(1)
    with progress.phase("count rows"):
        spark.range(10).count()
        assert bar.shown.wait(60)
    assert bar.closed
    assert spark.sparkContext.statusTracker().getJobIdsForGroup(PREFIX + "count rows")
    assert stream.getvalue().startswith("[1/2] count rows ... [1/2] count rows ... ")  # again, after the bar


def test_quiet_progress_times_and_names_but_writes_nothing(spark, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any) -> None:
        raise AssertionError("a bar was asked for")

    monkeypatch.setattr(progress_module, "bar_for", refuse)
    stream = io.StringIO()
    progress = Progress(stream, spark=spark, quiet=True)
    progress.begin(1)
    with progress.phase("count quietly"):
        spark.range(10).count()
    assert stream.getvalue() == ""
    assert "count quietly" in progress.seconds
    assert spark.sparkContext.statusTracker().getJobIdsForGroup(PREFIX + "count quietly")
