"""The Spark session to use: the one there is, or a local one with sensible memory."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import pyspark
from pyspark import SparkContext
from pyspark.sql import SparkSession

from spark_semdedup.errors import SemDedupError

log = logging.getLogger("spark_semdedup")


APP_NAME = "spark-semdedup"


COMPILE_LATER = " ".join(
    f"-XX:Tier4{name}Threshold={25 * default}"
    for name, default in (("Invocation", 5000), ("MinInvocation", 600), ("Compile", 15_000), ("BackEdge", 40_000))
)
"""HotSpot's second compiler takes code that was called 25 times as often as by default.

It competes with the tasks for a few cores, and most of what it compiles in a run of minutes, Spark's planner and the
code generated for one query, is hardly called again: on two cores 35 of 241 CPU seconds of a run of 1,000,000 rows,
16 with these thresholds. ``conf/local.properties`` has the same for spark-submit."""


KEEP_FREED_MEMORY = {
    "spark.executorEnv.MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "spark.executorEnv.MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
"""Has glibc use the memory of freed arrays for the next ones, in Python workers.

By default it returns large arrays to the system, which then clears every page of the next: up to a quarter of the time
for 4,096 rows of 384 numbers and 1,000 cells. 32 MiB is the most that glibc allows; both are set because one alone ends
glibc's own choice of both (mallopt(3)). ``conf/*.properties`` have the same."""


class SessionError(SemDedupError):
    """No Spark session can be started."""


def given_session(app_name: str = APP_NAME) -> SparkSession | None:
    """The session of spark-submit or of a notebook, as it is; None where Spark has not been started.

    spark-submit starts the JVM before Python and says so by ``PYSPARK_GATEWAY_PORT``; its master, memory and
    settings stand. ``SPARK_REMOTE`` likewise means that a Spark Connect server has been chosen.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    chosen = os.environ.get("PYSPARK_GATEWAY_PORT") or os.environ.get("SPARK_REMOTE")
    if chosen or SparkContext._active_spark_context is not None:
        return SparkSession.builder.appName(app_name).getOrCreate()
    return None


def current_or_local_session(app_name: str = APP_NAME, conf: Mapping[str, str] | None = None) -> SparkSession:
    """The session given by spark-submit or a notebook, as it is; otherwise a local one."""
    return given_session(app_name) or local_session(app_name, conf=conf)


def local_session(
    app_name: str = APP_NAME,
    *,
    cores: int | None = None,
    memory_gib: int | None = None,
    conf: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> SparkSession:
    """A session in this process's machine: all its cores; for the JVM a third of its memory, but no more than a GiB per
    core or 4 GiB, unless told otherwise.

    The rest is for the Python workers' arrays, one worker per core, and for the page cache. The JVM needs its part per
    task, whatever the number of rows, and a heap that may grow without need does.

    ``quiet``: the JVM neither logs nor prints, for a program that reports errors itself; Spark's errors do not say
    which line of Python made an expression, since noting that takes time for each. Raises ``SessionError`` where Spark
    cannot be started, for want of Java say.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    cores = cores or os.cpu_count() or 1
    memory_gib = memory_gib or max(1, min(total_memory_gib() // 3, max(4, cores)))
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
        # Vectors read a few hundred at a time stay in a core's cache: scans and writes took 0.85 of the time they take
        # with the default of 4,096 rows, 6 MiB at 384 dimensions.
        .config("spark.sql.parquet.columnarReaderBatchSize", "256")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "4096")
        # Nearly all that is shuffled is unit vectors, which LZ4 makes no smaller, and it stays on this machine.
        .config("spark.shuffle.compress", "false")
        .config("spark.shuffle.spill.compress", "false")
        # A sample's task outlasts the default timeout on a loaded laptop; heartbeats to oneself prove nothing.
        .config("spark.network.timeout", "600s")
        # Java's ``default`` options leave the user's ``spark.driver.extraJavaOptions`` alone.
        .config("spark.driver.defaultJavaOptions", COMPILE_LATER)
    )
    if quiet:
        builder = builder.config("spark.python.sql.dataFrameDebugging.enabled", "false")
    for name, value in {**KEEP_FREED_MEMORY, **_worker_sockets(), **(conf or {})}.items():
        builder = builder.config(name, value)
    return _started(builder, quiet)


def _started(builder: SparkSession.Builder, quiet: bool) -> SparkSession:
    with _starting(quiet):
        session = builder.getOrCreate()
        session.sparkContext.setLogLevel("OFF" if quiet else "ERROR")
        _make_private(session)
    return session


def _worker_sockets() -> dict[str, str]:
    """Workers and JVM speak over Unix domain sockets where Spark can, from 4.1 on: no slower than TCP, and without what
    TCP may do to them (``transport``).

    Who may connect is a matter of permissions, so the sockets lie in a private folder. TCP stays where their names
    would be too long: 103 characters at most, of which 67 are Spark's and ours.
    """
    unknown = tuple(map(int, pyspark.__version__.split(".")[:2])) < (4, 1)
    if unknown or len(os.fsencode(tempfile.gettempdir())) > 36:
        return {}
    folder = tempfile.mkdtemp(prefix="spark-semdedup-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {"spark.python.unix.domain.socket.enabled": "true", "spark.python.unix.domain.socket.dir": folder}


def _make_private(session: SparkSession) -> None:
    """Keeps other users of this machine out of the folders for shuffled and cached rows, which Spark makes in the
    shared temporary folder, readable by all that the umask lets."""
    manager = session._jvm.org.apache.spark.SparkEnv.get().blockManager().diskBlockManager()  # type: ignore[union-attr]
    for folder in manager.localDirsString():
        os.chmod(folder, 0o700)


def total_memory_gib() -> int:
    """Physical memory of this machine, whole GiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30


@contextmanager
def _starting(quiet: bool) -> Iterator[None]:
    """Makes one line of what goes wrong while the JVM starts. ``quiet``: the JVM's stderr, for as long as it lives, is
    a temporary file without a name, so what Java and Spark print there precedes no output of ours."""
    with tempfile.TemporaryFile() as log, _stderr_to(log.fileno()) if quiet else nullcontext():
        try:
            yield
        except Exception as error:
            log.seek(0)
            lines = log.read().decode(errors="replace").splitlines()
            telling = [line for line in lines if "Error" in line or "Exception" in line or "JAVA_HOME" in line]
            reason = (telling or str(error).strip().splitlines() or [type(error).__name__])[0].strip()
            raise SessionError(
                f"Spark cannot be started: {reason}; it needs Java 17 or newer, found by JAVA_HOME or on the PATH"
            ) from error


@contextmanager
def _stderr_to(descriptor: int) -> Iterator[None]:
    """Sends this process's stderr elsewhere; a JVM started meanwhile inherits that for good."""
    sys.stderr.flush()
    terminal = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)
