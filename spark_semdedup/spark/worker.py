"""What a task does for the Python worker that it runs in, and for the tasks after it."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import sys
import zipimport

from pyspark import TaskContext

from spark_semdedup.spark._linux_tcp import prevent_standstill


def prepare_worker() -> None:
    """To be called before a task's first row. Nothing happens outside of a task."""
    if TaskContext.get() is not None:
        prevent_standstill()
        forget_zip_finders()
        spare_collector()
        keep_freed_memory()


@functools.cache
def spare_collector() -> None:
    """Takes what there is, the modules, out of what the collector of cyclic garbage walks through, once in a worker.

    After each task pyspark's worker has it walk (``gc.collect()`` in ``pyspark/daemon.py``): 0.05 s each time for the
    modules alone, of which none ever goes.
    """
    gc.freeze()


def forget_zip_finders() -> None:
    """Spares the next tasks the directories of Spark's own zip files.

    Before each task pyspark's worker has Python forget what it knows of modules (``importlib.invalidate_caches``, since
    files may have been added). Python, 3.10 to 3.13 at least, then reads each zip's directory anew, and that once for
    every package that was imported from it: Spark's Python sources and Spark's core jar, 5,000 entries, took 0.15 s on
    an idle machine and more on a busy one, a tenth of a comparison of 30 tasks. Finders that are gone have nothing to
    forget; the next import makes new ones, from directories that Python keeps. Only for what is on ``PYTHONPATH``,
    which stays the same while a worker lives: files added later are looked for as ever.
    """
    fixed = set(os.environ.get("PYTHONPATH", "").split(os.pathsep))
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimport.zipimporter) and finder.archive in fixed:
            del sys.path_importer_cache[path]


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of settings, from glibc's ``malloc.h``."""


@functools.cache
def keep_freed_memory() -> None:
    """Lets the memory of freed arrays be used for the next ones, once in a worker. Nothing happens without glibc.

    By default glibc gives the memory of large arrays back to the system, which then has to clear every page of the
    next ones: 2,500 pages, and up to a quarter of the time, for 4,096 rows of 384 numbers that are assigned to 1,000
    cells (RESULTS.md). Arrays beyond 32 MiB, the most that glibc lets one set, are given back as before, and so is what
    is free at the heap's end beyond twice that, so that a worker that waits does not keep much.

    Both are set because setting either ends glibc's own choice of both (mallopt(3)).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 << 20)
        mallopt(_TRIM_THRESHOLD, 64 << 20)
