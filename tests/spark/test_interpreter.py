"""Workers that run another Python than the driver: one line before the first job."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from spark_semdedup import SemDedup, SemDedupError
from spark_semdedup.spark import interpreter
from spark_semdedup.spark.failures import missing_module, one_line
from spark_semdedup.spark.interpreter import require_worker_packages


def python_with(options: str, folder: Path) -> str:
    python = folder / "python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" {options} "$@"\n')
    python.chmod(0o755)
    return str(python)


@pytest.fixture
def bare_python(tmp_path) -> str:
    """This Python without any packages, at another path."""
    return python_with("-I -S", tmp_path)


def session(python: str, master: str = "local[2]", files: tuple[str, ...] = ()) -> SimpleNamespace:
    context = SimpleNamespace(master=master, pythonExec=python, _python_includes=list(files))
    return SimpleNamespace(sparkContext=context)


ADVICE = f"set PYSPARK_PYTHON (spark-submit: or spark.pyspark.python) to {sys.executable} before Spark starts"


def test_it_says_which_python_the_workers_run_and_what_it_lacks(bare_python):
    lacks = f"Spark's workers run {bare_python}, which lacks numpy, pandas, pyarrow, spark_semdedup: {ADVICE}"
    with pytest.raises(SemDedupError) as caught:
        require_worker_packages(session(bare_python))
    assert str(caught.value) == lacks
    with pytest.raises(SemDedupError, match="which lacks numpy, pandas, pyarrow: "):
        require_worker_packages(session(bare_python, files=("spark_semdedup.zip",)))


def test_it_says_that_versions_differ(tmp_path):
    other = tmp_path / "python3"
    other.write_text("#!/bin/sh\necho '[[3, 7], []]'\n")
    other.chmod(0o755)
    with pytest.raises(SemDedupError, match=r"Python 3\.7, and this is Python 3\.\d+: set PYSPARK_PYTHON"):
        require_worker_packages(session(str(other)))


def test_it_says_that_there_is_no_such_python():
    with pytest.raises(SemDedupError, match=r"^Spark's workers run /no/python, which does not exist: set PYSPARK"):
        require_worker_packages(session("/no/python"))


def test_the_same_python_is_not_started(monkeypatch):
    monkeypatch.setattr(interpreter.subprocess, "run", lambda *_, **__: pytest.fail("it is started"))
    require_worker_packages(session(sys.executable))


@pytest.mark.parametrize("master", ["yarn", "spark://host:7077", "k8s://https://host"])
def test_pythons_of_other_machines_are_not_looked_for_here(master):
    require_worker_packages(session("/no/python", master=master))


def test_a_python_that_does_not_answer_is_left_to_tasks(tmp_path):
    other = tmp_path / "python3"
    other.write_text("#!/bin/sh\nexit 3\n")
    other.chmod(0o755)
    require_worker_packages(session(str(other)))


def test_a_fit_says_so_before_its_first_job(spark, monkeypatch, bare_python):
    df = spark.createDataFrame([(i, [1.0, float(i)]) for i in range(8)], "id int, embedding array<double>")
    monkeypatch.setattr(spark.sparkContext, "pythonExec", bare_python)
    with pytest.raises(SemDedupError, match="which lacks numpy"):
        SemDedup(k=2).fit(df)


def test_a_fit_elsewhere_says_so_from_the_tasks_error(spark, monkeypatch, tmp_path):
    """As on a cluster, where only a task can tell: the interpreters are not compared."""
    df = spark.createDataFrame([(i, [1.0, float(i)]) for i in range(8)], "id int, embedding array<double>")
    monkeypatch.setattr(interpreter, "require_worker_packages", lambda spark: None)
    monkeypatch.setattr(spark.sparkContext, "pythonExec", python_with("-S", tmp_path))
    with pytest.raises(SemDedupError, match=r"^Spark's workers run .*, which lacks \w+: set spark\.pyspark\.python"):
        SemDedup(k=2).fit(df)


TRACEBACK = """An exception was thrown from the Python worker. Please see the stack trace below.
Traceback (most recent call last):
  File "/opt/base/lib/python3.11/site-packages/pyspark/worker.py", line 2028, in main
ModuleNotFoundError: No module named 'spark_semdedup.spark'
"""


def test_one_line_names_the_workers_environment_and_what_it_lacks():
    said = one_line(RuntimeError(TRACEBACK))
    assert said.startswith("Spark's workers run the Python of /opt/base, which lacks spark_semdedup: set spark.pyspark")


@pytest.mark.parametrize("text", ["ModuleNotFoundError: No module named 'users_own'", "ValueError: numpy", ""])
def test_other_errors_are_not_taken_for_a_lacking_package(text):
    assert missing_module(RuntimeError(text)) is None


def test_the_sessions_python_of_these_tests_is_this_one(spark):
    assert Path(spark.sparkContext.pythonExec).samefile(sys.executable)
    require_worker_packages(spark)
