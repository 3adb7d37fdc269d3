"""What a task does for the Python worker that it runs in, and for the tasks after it."""

from __future__ import annotations

import functools
import os
import sys
import traceback
import zipimport
from types import SimpleNamespace
from typing import Any

from pyspark import TaskContext

from spark_semdedup.spark._linux_tcp import prevent_standstill


def prepare_worker() -> None:
    """Prepares a task's worker before the first row. Outside of a task it does nothing."""
    if TaskContext.get() is not None:
        prevent_standstill()
        forget_zip_finders()
        hush_closed_connections()


def forget_zip_finders() -> None:
    """Spares the next tasks the directories of Spark's own zip files.

    Before each task pyspark's worker calls ``importlib.invalidate_caches``. Python, 3.10 to 3.13 at least, then reads
    each zip's directory anew, once for every package imported from it: 0.15 s on an idle machine for Spark's Python
    sources and its core jar of 5,000 entries. The next import makes new finders from directories that Python keeps.
    Only zips on ``PYTHONPATH`` are left out, which never change while a worker lives.
    """
    fixed = set(os.environ.get("PYTHONPATH", "").split(os.pathsep))
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimport.zipimporter) and finder.archive in fixed:
            del sys.path_importer_cache[path]


@functools.cache
def hush_closed_connections() -> None:
    """Keeps ``pyspark.daemon`` from printing a traceback for a worker whose connection the JVM has closed.

    The JVM closes the connection of a task that it needs no more: another task failed, a LIMIT is reached. As a session
    ends it closes those of all idle workers, and only then ends their daemon (``PythonWorkerFactory.stop``), so an
    idle worker may wake first. From Spark 4.1 on the daemon raises where a worker cannot flush to a closed connection
    and prints the ``BrokenPipeError``; no setting turns that off. All other tracebacks are printed as before. A worker
    whose task ends before its first row has not come here and still prints; the JVM of a quiet session shows neither.
    """
    daemon: Any = sys.modules["__main__"]
    if getattr(daemon.__spec__, "name", None) == "pyspark.daemon":
        daemon.traceback = SimpleNamespace(print_exc=_print_unless_closed, format_exc=traceback.format_exc)


def _print_unless_closed() -> None:
    if not isinstance(sys.exc_info()[1], (BrokenPipeError, ConnectionResetError)):
        traceback.print_exc()
