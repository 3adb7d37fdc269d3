"""How a local session of the program starts, is set up and ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from spark_semdedup.spark.session import KEEP_FREED_MEMORY, SessionError, _starting


def test_workers_keep_the_memory_of_freed_arrays(spark):
    """glibc reads these variables as a process starts, so the daemon that forks the workers must have them."""

    def look(batches):
        import os

        for batch in batches:
            yield pa.RecordBatch.from_pydict({"environment": [json.dumps(dict(os.environ))] * len(batch)})

    environment = json.loads(spark.range(1).mapInArrow(look, "environment string").first().environment)
    for setting, value in KEEP_FREED_MEMORY.items():
        assert environment[setting.removeprefix("spark.executorEnv.")] == value


JVM = "import os; os.write(2, b'WARNING: Using incubator modules\\nError: JAVA_HOME is not set\\n')"


def fail_to_start() -> None:
    with _starting(quiet=True):
        subprocess.run([sys.executable, "-c", JVM], check=True)
        raise RuntimeError("Java gateway process exited")


def test_what_the_jvm_prints_is_quoted_where_the_start_fails_and_dropped_otherwise(capfd):
    with _starting(quiet=True):
        process = subprocess.Popen([sys.executable, "-c", f"input(); {JVM}"], stdin=subprocess.PIPE)
    process.communicate(b"\n")
    with pytest.raises(SessionError, match=r"^Spark cannot be started: Error: JAVA_HOME is not set; it needs Java 17"):
        fail_to_start()
    assert capfd.readouterr().err == ""


def test_a_session_that_is_not_quiet_leaves_stderr_alone(capfd):
    with _starting(quiet=False):
        os.write(2, b"WARNING: Using incubator modules\n")
    assert capfd.readouterr().err == "WARNING: Using incubator modules\n"
    with pytest.raises(SessionError, match="RuntimeError; it needs Java 17"), _starting(quiet=False):
        raise RuntimeError


ENDINGS = """
import sys
import pyarrow as pa
from spark_semdedup.spark.session import local_session
from spark_semdedup.spark.worker import prepare_worker

def identity(batches):
    prepare_worker()
    yield from batches

def failing(batches):
    prepare_worker()
    for batch in batches:
        if 300 in batch.column("id").to_pylist():
            raise ValueError("row 300")
        yield batch

quiet = sys.argv[1] == "quiet"
for run in range(2):
    spark = local_session(cores=2, memory_gib=1, quiet=quiet)
    rows = spark.range(0, 600, 1, 4)
    rows.mapInArrow(identity, "id long").count()
    rows.mapInArrow(identity, "id long").limit(1).collect()
    try:
        rows.mapInArrow(failing if quiet else identity, "id long").collect()
    except Exception:
        print("failed", end=" ")
    spark.stop()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["quiet", "talking"])
def test_sessions_end_without_tracebacks_of_their_workers(kind):
    """Before, from Spark 4.1 on, idle workers told on stderr that their JVM had closed the connection. In a quiet
    session tasks fail, too, and workers that have not begun are cut off."""
    ended = subprocess.run(
        [sys.executable, "-c", ENDINGS, kind],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        timeout=600,
    )
    assert ended.stdout.split() == ["failed"] * 2 * (kind == "quiet")
    assert "BrokenPipeError" not in ended.stderr
    assert "daemon.py" not in ended.stderr
