"""Options of the JVM that a local session starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

SUBMIT_OPTIONS = "SPARK_SUBMIT_OPTS"
"""Environment variable with options of the JVM that pyspark starts. (A setting of the session,
``spark.driver.extraJavaOptions``, would hide what the user has set by that name.)"""

_LATER = 25

COMPILE_LATER = " ".join(
    f"-XX:Tier4{name}Threshold={_LATER * default}"
    for name, default in (("Invocation", 5000), ("MinInvocation", 600), ("Compile", 15_000), ("BackEdge", 40_000))
)
"""HotSpot's second compiler takes code that was called 25 times as often as by default.

It competes with the tasks for a few cores, and most of what it compiles in a run of minutes, Spark's planner and the
code generated for one query, is hardly called again. On two cores it took 35 of 241 CPU seconds of a run of 1,000,000
rows, and 26 of 82 of 250,000; so it takes 16 and 11, and tasks take hardly longer (RESULTS.md). What runs for longer is
compiled all the same, later. Other JVMs are told to ignore options they do not know (by Spark)."""


@contextmanager
def started_with(*options: str) -> Iterator[None]:
    """A JVM that pyspark starts meanwhile has these options beside those that the environment names."""
    before = os.environ.get(SUBMIT_OPTIONS)
    # The environment's come last: of two values Java takes the last.
    os.environ[SUBMIT_OPTIONS] = " ".join([*filter(None, options), *filter(None, [before])])
    try:
        yield
    finally:
        if before is None:
            del os.environ[SUBMIT_OPTIONS]
        else:
            os.environ[SUBMIT_OPTIONS] = before
