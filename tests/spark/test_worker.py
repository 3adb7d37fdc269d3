"""What tasks do for the Python workers they run in."""

from __future__ import annotations

import importlib
import json
import platform
import subprocess
import sys
import time
import traceback
import zipfile
import zipimport
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pandas as pd
import pyarrow as pa
import pytest

from spark_semdedup.kernels.oom import AtTaskEnd
from spark_semdedup.spark import worker as workers
from spark_semdedup.spark.session import KEEP_FREED_MEMORY


def zip_finders() -> set[str]:
    """The zip files that Python has finders for."""
    return {each.archive for each in sys.path_importer_cache.values() if isinstance(each, zipimport.zipimporter)}


@pytest.fixture
def zips(tmp_path, monkeypatch):
    """Two zip files on the path, with a package each: one was there when the process began, one came later."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    found = {}
    for name in ("fixed_zip", "later_zip"):
        path = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{name}/__init__.py", "from . import one\n")
            archive.writestr(f"{name}/one.py", "ONE = 1\n")
            archive.writestr(f"{name}/two.py", "TWO = 2\n")
        sys.path.append(str(path))
        found[name] = str(path)
        importlib.import_module(name)
    monkeypatch.setenv("PYTHONPATH", f"/nothing/here:{found['fixed_zip']}")
    yield found
    for module in [each for each in sys.modules if each.partition(".")[0] in found]:
        del sys.modules[module]


def test_directories_of_fixed_zips_are_not_read_again_and_imports_go_on(zips, monkeypatch):
    read = []
    reading = zipimport._read_directory
    monkeypatch.setattr(zipimport, "_read_directory", lambda archive: read.append(archive) or reading(archive))
    assert set(zips.values()) <= zip_finders()
    workers.forget_zip_finders()
    assert zip_finders() & set(zips.values()) == {zips["later_zip"]}
    importlib.invalidate_caches()  # as pyspark's worker does before each task
    assert importlib.import_module("fixed_zip.two").TWO == 2
    assert importlib.import_module("later_zip.two").TWO == 2
    assert zips["fixed_zip"] not in read


def test_a_file_added_later_is_found(zips, tmp_path):
    workers.forget_zip_finders()
    (tmp_path / "added").mkdir()
    (tmp_path / "added" / "came_later.py").write_text("HERE = True\n")
    sys.path.append(str(tmp_path / "added"))
    importlib.invalidate_caches()
    assert importlib.import_module("came_later").HERE
    del sys.modules["came_later"]


def test_the_driver_keeps_its_finders(zips):
    workers.prepare_worker()
    assert set(zips.values()) <= zip_finders()


def test_a_task_forgets_finders_of_spark_s_zips(spark):
    def look(batches):
        import importlib.util
        import os
        import sys
        import zipimport

        from spark_semdedup.spark.worker import prepare_worker

        def finders():
            return [
                each.archive for each in sys.path_importer_cache.values() if isinstance(each, zipimport.zipimporter)
            ]

        # The suite's daemon leaves out what Spark has put there.
        missing = [each for each in os.environ["PYTHONPATH"].split(os.pathsep) if each not in sys.path]
        sys.path += missing
        try:
            importlib.util.find_spec("no_module_of_that_name")
            before = finders()
            prepare_worker()
            found = json.dumps([before, finders()])
        finally:
            sys.path[:] = [each for each in sys.path if each not in missing]
        for batch in batches:
            yield pa.RecordBatch.from_pydict({"found": [found] * len(batch)})

    before, after = json.loads(spark.range(1).mapInArrow(look, "found string").first().found)
    for name in ("pyspark.zip", "spark-core"):
        assert any(name in each for each in before)
        assert not any(name in each for each in after)


HEAVY = ("pyspark.ml", "scipy", "sklearn", "faiss")
TASKS = ("clustering.sample", "clustering.assign", "spark.vectors", "pairwise.task", "pairwise.route", "spark.ids")

IMPORTED = f"""
import importlib, sys
for name in {TASKS}:
    importlib.import_module("spark_semdedup." + name)
print(*(name for name in {HEAVY} if name in sys.modules))
"""

IN_A_WORKER = f"""
from spark_semdedup import SemDedup
from spark_semdedup.spark.session import local_session

def loaded(batches):
    import sys
    import pyarrow as pa
    for batch in batches:
        yield pa.RecordBatch.from_arrays([pa.array([" ".join(n for n in {HEAVY} if n in sys.modules)])], ["names"])

spark = local_session(cores=1, memory_gib=1, quiet=True)
rows = [(i, [float(i % 7 == j) + i / 1000 for j in range(7)]) for i in range(200)]
df = spark.createDataFrame(rows, "id long, embedding array<double>")
for coverage in ("cluster", "exact"):
    result = SemDedup(k=5, coverage=coverage, execution="streamed").fit(df).run(df)
    print(result.duplicates.count(), *spark.range(0, 1, 1, 1).mapInArrow(loaded, "names string").first())
"""


def printed(code: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()


def test_what_tasks_import_is_light():
    assert printed(IMPORTED) == [""]
    assert printed(IMPORTED.replace("pairwise.route", "clustering.settings")) != [""], "the stages are not"


@pytest.mark.slow
def test_workers_import_no_stages():
    for line in printed(IN_A_WORKER):
        removed, _, heavy = line.partition(" ")
        assert int(removed) > 100, "workers have compared"
        assert not heavy


FAULTS = """
import ctypes, resource
import numpy as np

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: where huge pages are the rule, faults are few anyway

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        arrays = [np.ones(size) for size in (30_000, 130_000, 500_000, 500_000, 500_000, 500_000)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc, which this Python does not use")
def test_memory_of_freed_arrays_is_used_again(monkeypatch):
    (before,) = map(int, printed(FAULTS))
    for setting, value in KEEP_FREED_MEMORY.items():
        monkeypatch.setenv(setting.removeprefix("spark.executorEnv."), value)
    (after,) = map(int, printed(FAULTS))
    assert before > 10_000, "pages are cleared for the same arrays over and over"
    assert after < before / 100


@pytest.fixture
def daemon(monkeypatch):
    """A stand-in for ``pyspark.daemon``, which Spark runs as the main module of its workers."""
    main = ModuleType("__main__")
    main.__spec__ = ModuleSpec("pyspark.daemon", None)
    main.traceback = traceback
    monkeypatch.setitem(sys.modules, "__main__", main)
    yield main
    workers.hush_closed_connections.cache_clear()


def print_raised(daemon: ModuleType, error: Exception) -> None:
    try:
        raise error
    except Exception:
        daemon.traceback.print_exc()


def test_closed_connections_are_not_told_and_other_errors_are(daemon, capsys):
    workers.hush_closed_connections.__wrapped__()
    print_raised(daemon, BrokenPipeError(32, "Broken pipe"))
    print_raised(daemon, ConnectionResetError())
    print_raised(daemon, ValueError("another"))
    said = capsys.readouterr().err
    assert "ValueError: another" in said
    assert "BrokenPipe" not in said
    assert "ConnectionReset" not in said
    assert daemon.traceback.format_exc() == "NoneType: None\n"


def test_a_process_that_is_no_daemon_prints_its_tracebacks_itself(daemon):
    daemon.__spec__ = None
    workers.hush_closed_connections.__wrapped__()
    assert daemon.traceback is traceback


def test_workers_run_under_the_daemon_whose_tracebacks_are_filtered(spark):
    """Fails where a newer pyspark runs workers otherwise, and the filter has no effect."""

    def look(batches):
        import sys

        from spark_semdedup.spark.worker import prepare_worker

        prepare_worker()
        printer = getattr(getattr(sys.modules["__main__"], "traceback", None), "print_exc", None)
        for batch in batches:
            yield pa.RecordBatch.from_pydict({"name": [str(getattr(printer, "__name__", None))] * len(batch)})

    assert spark.range(1).mapInArrow(look, "name string").first().name == "_print_unless_closed"


def test_what_a_grouped_task_keeps_is_released_at_its_end(spark, tmp_path):
    """And no earlier: not between two groups. Nothing else runs in that worker before it is released."""
    released, task_end = tmp_path / "released", AtTaskEnd(partial(Path.touch, tmp_path / "released"))

    def early(group: pd.DataFrame) -> pd.DataFrame:
        task_end.watch()
        return pd.DataFrame({"early": [released.exists()]})

    rows = spark.range(40).selectExpr("id % 7 as task").coalesce(1)
    found = rows.groupBy("task").applyInPandas(early, "early boolean").collect()
    assert [row.early for row in found] == [False] * 7
    deadline = time.monotonic() + 30  # the worker ends the task after its last row has arrived
    while not released.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert released.exists()
