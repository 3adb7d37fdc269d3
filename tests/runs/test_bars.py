"""Bars and lines, and the stages that show them."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest

from spark_semdedup.runs import progress as progress_module
from spark_semdedup.runs.bars import FIRST_LINE, Lines, NoBar, TqdmBar, bar_for
from spark_semdedup.runs.progress import Progress
from spark_semdedup.spark.jobs import PREFIX, TaskCount


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_less_and_less_often():
    stream = io.StringIO()
    lines = Lines(stream, "[2/5] compare ... ")
    for second in range(601):
        lines.show(TaskCount(second, 600, 1), float(second))
    written = stream.getvalue().splitlines()
    assert written[0] == "[2/5] compare ... 15 of 600 tasks (2 %)"
    assert written[1] == "[2/5] compare ... 45 of 600 tasks (8 %), about 9 min left"
    assert [line.split()[3] for line in written] == ["15", "45", "105", "225", "465"]
    assert not lines.close()


def test_no_line_before_tasks_are_planned():
    stream = io.StringIO()
    Lines(stream, "").show(TaskCount(0, 0, 0), 10 * FIRST_LINE)
    assert stream.getvalue() == ""


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
