"""What a task does for the Python worker that it runs in, and for the tasks after it."""

from __future__ import annotations

import functools
import gc
import os
import sys
import zipimport

from pyspark import TaskContext

from spark_semdedup.transport import prevent_standstill


def prepare_worker() -> None:
    """To be called before a task's first row. Nothing happens outside of a task."""
    if TaskContext.get() is not None:
        prevent_standstill()
        forget_zip_finders()
        spare_collector()


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
