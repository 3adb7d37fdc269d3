"""Spark's jobs under our names, and how far they are: job groups, and the status tracker's counts of tasks.

The names stand in Spark's UI, in its history server and in its event log. Counting asks the driver's own records; it
starts no job.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PREFIX = "spark-semdedup: "

_GROUP = ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel")
"""The local properties that ``SparkContext.setJobGroup`` sets."""


@dataclass(frozen=True)
class TaskCount:
    """Tasks of the stages that Spark has planned so far; adaptive execution plans some only when others have ended."""

    done: int
    total: int
    jobs: int
    """Jobs that have ended or run."""

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return self.done / self.total if self.total else 0.0


@contextmanager
def job_group(spark: SparkSession, name: str) -> Iterator[str]:
    """Names the jobs that this thread starts inside the block; gives the group's id. An outer group comes back after.

    A Spark Connect client has no job groups, so its jobs keep their names.
    """
    context: Any = _context(spark)
    group = PREFIX + name
    if context is None:
        yield group
        return
    before = [context.getLocalProperty(key) for key in _GROUP]
    context.setJobGroup(group, group)
    try:
        yield group
    finally:
        for key, value in zip(_GROUP, before, strict=True):
            context.setLocalProperty(key, value)


def count_tasks(spark: SparkSession, group: str) -> TaskCount:
    """Tasks of a group's jobs.

    Stages that Spark skipped, because a shuffle's files could be used again, do not count.
    """
    tracker: Any = spark.sparkContext.statusTracker()
    done = total = 0
    jobs = tracker.getJobIdsForGroup(group)
    for job in jobs:
        info = tracker.getJobInfo(job)
        for stage in () if info is None else info.stageIds:
            state = tracker.getStageInfo(stage)
            if state is not None and (info.status == "RUNNING" or state.numCompletedTasks):
                done += state.numCompletedTasks
                total += state.numTasks
    return TaskCount(done, total, len(jobs))


class TaskWatch:
    """Calls ``show`` with the tasks of a group, now and then, from a thread of its own, until it is left.

    ``delay``: seconds before the first call, so that short phases show nothing. ``every``: seconds between two calls.
    A count that cannot be had, from a session that has been stopped, say, ends the watch without an error: progress is
    no reason for a run to fail.
    """

    def __init__(
        self,
        spark: SparkSession,
        group: str,
        show: Callable[[TaskCount, float], None],
        *,
        delay: float = 2.0,
        every: float = 0.5,
    ) -> None:
        self._spark, self._group, self._show = spark, group, show
        self._delay, self._every = delay, every
        self._left = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> TaskWatch:
        if _context(self._spark) is not None:
            self._thread = threading.Thread(target=self._watch, name="semdedup-progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        began = time.monotonic()
        pause = self._delay
        while not self._left.wait(pause):
            pause = self._every
            try:
                count = count_tasks(self._spark, self._group)
            except Exception:  # whatever the gateway says: the job itself reports what is wrong
                return
            self._show(count, time.monotonic() - began)


def seconds_left(count: TaskCount, seconds: float) -> float | None:
    """What is left at the pace so far; None before a twentieth of the tasks is done, which says little.

    >>> seconds_left(TaskCount(25, 100, 1), 10.0), seconds_left(TaskCount(1, 100, 1), 10.0)
    (30.0, None)
    """
    return None if count.share < 0.05 else seconds * (1 - count.share) / count.share


def _context(spark: SparkSession) -> Any:
    """The SparkContext; None for a Spark Connect client."""
    return spark.sparkContext if getattr(spark, "_jsparkSession", None) is not None else None
