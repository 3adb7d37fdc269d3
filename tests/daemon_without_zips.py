"""pyspark's daemon, for the suite's session: its workers take pyspark from the installed package, not from Spark's zip.

Before each task a worker reads the directories of all zip files on its path anew. With Spark's sources and its core jar
that takes 0.15 s, a quarter of the suite's time; many tests make a small table from a list, which takes such tasks. Our
own tasks spare the next ones that (``spark.worker.forget_zip_finders``); ``spark/test_worker.py`` has its tests.
"""

from __future__ import annotations

import runpy
import sys

sys.path[:] = [path for path in sys.path if not path.endswith((".zip", ".jar"))]
for path in [path for path in sys.path_importer_cache if path.endswith((".zip", ".jar"))]:
    del sys.path_importer_cache[path]

if __name__ == "__main__":
    runpy.run_module("pyspark.daemon", run_name="__main__", alter_sys=True)
