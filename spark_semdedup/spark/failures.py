"""Errors of Spark, Java and Python workers in one line."""

from __future__ import annotations

import re
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from spark_semdedup.errors import SemDedupError, error_from_worker

_JAVA_CLASS = re.compile(r"^(?:[a-z_]\w*\.)+[A-Z]\w*(?:Exception|Error): ")


def one_line(error: BaseException) -> str:
    """What went wrong, in one line: our own message, a Python worker's last word, or the first line Java gave."""
    ours = error_from_worker(error)
    if ours is not None:
        return _printable(str(ours))
    missing = missing_module(error)
    if missing is not None:
        return _printable(missing)
    text = str(error).strip()
    if isinstance(error, Py4JJavaError):
        text = str(error.java_exception.getMessage() or error.java_exception.toString()).strip()
    elif not isinstance(error, (PySparkException, OSError)):
        return _printable(f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}")
    if "Traceback (most recent call last)" in text:
        return _printable(f"a Python worker failed: {_last_of_traceback(text)}")
    return _printable(_told_by_java(text, error)) if text else type(error).__name__


def missing_module(error: BaseException) -> str | None:
    """One line for a Python worker that cannot import a module or is of another version; None for other errors."""
    text = str(error)
    module = _NO_MODULE.search(text)
    if module is None and "PYTHON_VERSION_MISMATCH" not in text:
        return None
    python = _WORKER_PYTHON.search(text)  # of the traceback's paths: the environment that the worker runs in
    runs = f"Spark's workers run the Python of {python[1]}" if python else "Spark's workers run another Python"
    why = f", which lacks {module[1]}" if module else ", of another version than the driver's"
    return (
        f"{runs}{why}: set spark.pyspark.python or PYSPARK_PYTHON to a Python that has this package on every executor, "
        "or ship one with the job (--archives)"
    )


_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '(numpy|pandas|pyarrow|pyspark|spark_semdedup)\b")

_WORKER_PYTHON = re.compile(r'File "([^"]+?)/lib/python\d')


def _printable(text: str) -> str:
    """Blanks for line ends and for what a terminal would obey: a message may hold names of the user's."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _told_by_java(text: str, error: BaseException) -> str:
    """The first line, without what Spark puts before a task's own words; with the root cause where it says little.

    Where that line is of a driver's thread that waited (``toArrow``), the place is what a cause in between tells.
    """
    first = _bare(text.splitlines()[0])
    causes = list(map(_bare, _causes(error))) if first.startswith(_SAYS_NOTHING + _SAYS_WHERE) else []
    if not causes:
        return first
    root = causes.pop()
    place = next((line for line in (first, *causes) if line.startswith(_SAYS_WHERE)), None)
    return root if place is None else f"{_SQLSTATE.sub('', place).rstrip(' .:')}: {root}"


def _bare(line: str) -> str:
    line = _JAVA_CLASS.sub("", _TASK_FAILED.sub("", line))
    ours = line.removeprefix("[USER_RAISED_EXCEPTION] ")  # by ``raise_error``
    return line if ours is line else _SQLSTATE.sub("", ours)


_TASK_FAILED = re.compile(r"^Job aborted due to stage failure: .*?\): (?=(?:[a-z_]\w*\.)+[A-Z])")

_SQLSTATE = re.compile(r" *SQLSTATE: \w+$")

_SAYS_NOTHING = ("Exception thrown in awaitResult", "Job aborted")

_SAYS_WHERE = ("[FAILED_READ_FILE", "Encountered error while reading", "[TASK_WRITE_FAILED", "[CANNOT_MERGE")


def _causes(error: BaseException) -> list[str]:
    """The first lines of the exceptions behind it, the root's last: of those in a stack trace, else of Java's own."""
    causes = [line.removeprefix("Caused by: ") for line in str(error).splitlines() if line.startswith("Caused by: ")]
    java: Any = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    inner = None if java is None or causes else java.getCause()
    while inner is not None:
        causes += str(inner.getMessage() or inner.toString()).strip().splitlines()[:1]
        inner = inner.getCause()
    return causes


def _last_of_traceback(text: str) -> str:
    """The line that names the exception: the first unindented one after the traceback's indented lines."""
    after = text.split("Traceback (most recent call last)", 1)[1].splitlines()[1:]
    return next((line.strip() for line in after if line and not line[0].isspace()), "no message")


def is_expected(error: BaseException) -> bool:
    """Whether an error is one that input or settings explain, not a fault in the program."""
    return isinstance(error, (SemDedupError, PySparkException, Py4JJavaError, OSError))
