"""The Spark session to use: the one there is, or a local one with sensible memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from pyspark.sql import SparkSession


def current_or_local_session(app_name: str, conf: Mapping[str, str] | None = None) -> SparkSession:
    """The session given by spark-submit or a notebook, as it is; otherwise a local one.

    spark-submit starts the JVM before Python and says so by ``PYSPARK_GATEWAY_PORT``; its master, memory and
    settings stand. ``SPARK_REMOTE`` likewise means that a Spark Connect server has been chosen.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    if os.environ.get("PYSPARK_GATEWAY_PORT") or os.environ.get("SPARK_REMOTE"):
        return SparkSession.builder.appName(app_name).getOrCreate()
    return local_session(app_name, conf=conf)


def local_session(
    app_name: str,
    *,
    cores: int | None = None,
    memory_gib: int | None = None,
    conf: Mapping[str, str] | None = None,
) -> SparkSession:
    """A session in this process's machine: all cores and a third of its memory for the JVM, unless told otherwise.

    The other two thirds are for the Python workers' arrays, one worker per core, and for the page cache.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    cores = cores or os.cpu_count() or 1
    memory_gib = memory_gib or max(1, total_memory_gib() // 3)
    builder = (
        SparkSession.builder.master(f"local[{cores}]")
        .appName(app_name)
        .config("spark.driver.memory", f"{memory_gib}g")
        .config("spark.driver.maxResultSize", "0")  # the fit sample is collected; its size is bounded by settings
        .config("spark.driver.host", "localhost")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", str(4 * cores))
        # A sample's task outlasts the default timeout on a loaded laptop; heartbeats to oneself prove nothing.
        .config("spark.network.timeout", "600s")
    )
    for name, value in (conf or {}).items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def total_memory_gib() -> int:
    """Physical memory of this machine, whole GiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
