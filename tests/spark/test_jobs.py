"""Job groups and counts of tasks, in a real session."""

from __future__ import annotations

import threading

import pytest

from spark_semdedup.spark.jobs import PREFIX, TaskCount, TaskWatch, count_tasks, job_group, seconds_left


def test_jobs_bear_the_groups_name_and_an_outer_group_comes_back(spark):
    context = spark.sparkContext
    context.setJobGroup("the user's", "the user's words")
    try:
        with job_group(spark, "count rows") as group:
            assert group == PREFIX + "count rows"
            spark.range(10).count()
        assert context.getLocalProperty("spark.jobGroup.id") == "the user's"
        assert context.getLocalProperty("spark.job.description") == "the user's words"
    finally:
        for key in ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel"):
            context.setLocalProperty(key, None)
    assert context.statusTracker().getJobIdsForGroup(group)


def test_a_group_is_left_when_its_block_fails(spark):
    with pytest.raises(ZeroDivisionError), job_group(spark, "fails"):
        raise ZeroDivisionError
    assert spark.sparkContext.getLocalProperty("spark.jobGroup.id") is None


def test_tasks_that_are_done_are_counted_and_skipped_stages_are_not(spark):
    with job_group(spark, "shuffle twice") as group:
        shuffled = spark.sparkContext.parallelize(range(12), 3).map(lambda x: (x % 2, x)).reduceByKey(max, 2)
        assert shuffled.count() == 2
        assert count_tasks(spark, group) == TaskCount(done=5, total=5, jobs=1)
        assert shuffled.count() == 2  # its first stage is skipped
    assert count_tasks(spark, group) == TaskCount(done=7, total=7, jobs=2)
    assert count_tasks(spark, "no such group") == TaskCount(0, 0, 0)


def test_a_watch_shows_tasks_while_they_run(spark):
    shown: list[TaskCount] = []
    enough = threading.Event()

    def show(count: TaskCount, seconds: float) -> None:
        shown.append(count)
        if count.total:
            enough.set()

    with job_group(spark, "watched") as group, TaskWatch(spark, group, show, delay=0.01, every=0.01):
        spark.range(100).repartition(4).count()
        assert enough.wait(60)
    last = len(shown)
    assert shown[-1].total >= shown[-1].done > 0
    assert threading.active_count() == len([each for each in threading.enumerate() if each.is_alive()])
    assert len(shown) == last  # nothing is shown after the block


def test_a_watch_whose_count_fails_ends_quietly(spark, monkeypatch: pytest.MonkeyPatch):
    asked = threading.Event()

    def fail(*_: object) -> None:
        asked.set()
        raise RuntimeError("the gateway is closed")

    monkeypatch.setattr("spark_semdedup.spark.jobs.count_tasks", fail)
    with TaskWatch(spark, "any", lambda *_: pytest.fail("nothing to show"), delay=0.01, every=0.01):
        assert asked.wait(60)


def test_time_left_is_that_at_the_pace_so_far():
    assert seconds_left(TaskCount(50, 100, 1), 8.0) == 8.0
    assert seconds_left(TaskCount(100, 100, 1), 8.0) == 0.0
    assert seconds_left(TaskCount(0, 0, 0), 8.0) is None
