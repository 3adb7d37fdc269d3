"""The Spark session to use: the one there is, or a local one with sensible memory."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pyspark
from pyspark import SparkContext
from pyspark.sql import SparkSession

from spark_semdedup.errors import SemDedupError
from spark_semdedup.spark.disk import local_folders

APP_NAME = "spark-semdedup"

COMPILE_LATER = " ".join(
    f"-XX:Tier4{name}Threshold={25 * default}"
    for name, default in (("Invocation", 5000), ("MinInvocation", 600), ("Compile", 15_000), ("BackEdge", 40_000))
)
"""HotSpot's second compiler waits 25 times as long: less than half its CPU time (``conf/local.properties``)."""

KEEP_FREED_MEMORY = {
    "spark.executorEnv.MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "spark.executorEnv.MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
"""glibc then uses the memory of freed arrays for the next ones in Python workers. By default it returns large arrays
to the system, which clears every page of the next: up to a quarter of an assignment's time (mallopt(3))."""


class SessionError(SemDedupError):
    """No Spark session can be started."""


def given_session(app_name: str = APP_NAME) -> SparkSession | None:
    """The session of spark-submit (``PYSPARK_GATEWAY_PORT``), a notebook or Spark Connect (``SPARK_REMOTE``), as it is;
    None where Spark has not been started."""
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
    """A session on this machine: all its cores; for the JVM a GiB per core, at least 4, at most a third of the memory.

    The rest is for the Python workers' arrays, one worker per core, and for the page cache. ``quiet``: the JVM neither
    logs nor prints, for a program that reports errors itself; Spark's errors do not say which line of Python made an
    expression, since noting that takes time for each. Raises ``SessionError`` where Spark cannot start.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    cores = cores or os.cpu_count() or 1
    memory_gib = memory_gib or max(1, min(total_memory_gib() // 3, max(4, cores)))
    settings = {
        "spark.driver.memory": f"{memory_gib}g",
        "spark.driver.maxResultSize": "0",  # the fit sample is collected; its size is bounded by settings
        "spark.driver.host": "localhost",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": str(4 * cores),
        "spark.sql.parquet.columnarReaderBatchSize": "256",  # vectors stay in a core's cache: 0.85 of the time
        "spark.sql.execution.arrow.maxRecordsPerBatch": "4096",
        "spark.shuffle.compress": "false",  # unit vectors, which LZ4 makes no smaller
        "spark.shuffle.spill.compress": "false",
        "spark.network.timeout": "600s",  # a sample's task outlasts the default on a loaded laptop
        "spark.driver.defaultJavaOptions": COMPILE_LATER,  # leaves the user's extraJavaOptions alone
        **({"spark.python.sql.dataFrameDebugging.enabled": "false"} if quiet else {}),
        **KEEP_FREED_MEMORY,
        **_worker_sockets(),
        **(conf or {}),
    }
    builder = SparkSession.builder.master(f"local[{cores}]").appName(app_name)
    for name, value in settings.items():
        builder = builder.config(name, value)
    with _starting(quiet):
        session = builder.getOrCreate()
        session.sparkContext.setLogLevel("OFF" if quiet else "ERROR")
        _make_private(session)
    return session


def _worker_sockets() -> dict[str, str]:
    """Unix sockets between workers and JVM, from Spark 4.1 on, which need none of ``_linux_tcp``. They lie in a private
    folder, since permissions say who may connect; their names have 103 characters at most, of which we need 67."""
    unknown = tuple(map(int, pyspark.__version__.split(".")[:2])) < (4, 1)
    if unknown or len(os.fsencode(tempfile.gettempdir())) > 36:
        return {}
    folder = tempfile.mkdtemp(prefix="spark-semdedup-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {"spark.python.unix.domain.socket.enabled": "true", "spark.python.unix.domain.socket.dir": folder}


def _make_private(session: SparkSession) -> None:
    """Keeps other users of this machine out of the folders for shuffled and cached rows, which Spark makes in the
    shared temporary folder, readable by all that the umask lets. Spark does not say which of this user's folders there
    are the session's, so all become private."""
    for root in local_folders(session):
        for folder in Path(root).glob("blockmgr-*"):
            with suppress(FileNotFoundError):  # another session's, which ends
                if folder.stat().st_uid == os.getuid():
                    folder.chmod(0o700)


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
