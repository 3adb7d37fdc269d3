"""The Python that Spark's workers run, and what it lacks."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from pyspark.sql import SparkSession

from spark_semdedup.errors import SemDedupError, error_from_worker
from spark_semdedup.spark.failures import missing_module

Fit = TypeVar("Fit", bound=Callable[..., Any])

NEEDED = ("numpy", "pandas", "pyarrow", "spark_semdedup")

_LOOK = f"""
import importlib.util, json, sys
print(json.dumps([sys.version_info[:2], [name for name in {NEEDED} if importlib.util.find_spec(name) is None]]))
"""


def tells_what_workers_say(fit: Fit) -> Fit:
    """Decorates ``fit(stage, dataset)``: a ``SemDedupError`` says in one line what is wrong with a row, and what
    workers lack: before the first job in local mode, from the task's error elsewhere."""

    @functools.wraps(fit)
    def checked(stage: Any, dataset: Any) -> Any:
        if hasattr(dataset, "sparkSession"):  # what is no Spark DataFrame is refused with its columns
            require_worker_packages(dataset.sparkSession)
        try:
            return fit(stage, dataset)
        except Exception as error:
            ours = error_from_worker(error)
            if ours is None and (missing := missing_module(error)) is not None:
                ours = SemDedupError(missing)
            if ours is None or ours is error:
                raise
            raise ours from None

    return checked  # type: ignore[return-value]


def require_worker_packages(spark: SparkSession) -> None:
    """``SemDedupError`` where workers on this machine run another Python that lacks what tasks import."""
    try:
        context = spark.sparkContext
    except Exception:  # Spark Connect's sessions have none, and workers elsewhere
        return
    if not str(context.master).startswith("local"):
        return
    shipped = {"spark_semdedup"} if context._python_includes else set()  # by --py-files or addPyFile
    complaint = _complaint(context.pythonExec, frozenset(shipped))
    if complaint is not None:
        raise SemDedupError(complaint)


@functools.cache
def _complaint(python: str, shipped: frozenset[str]) -> str | None:
    """What keeps tasks from running in ``python``, a path or a command; None where nothing does."""
    path = shutil.which(python)
    advice = f"set PYSPARK_PYTHON (spark-submit: or spark.pyspark.python) to {sys.executable} before Spark starts"
    if path is None:
        return f"Spark's workers run {python}, which does not exist: {advice}"
    if os.path.abspath(path) == os.path.abspath(sys.executable):
        return None
    try:
        said = subprocess.run([path, "-c", _LOOK], capture_output=True, text=True, timeout=60, check=True)  # noqa: S603
        version, lacking = json.loads(said.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None  # a wrapper script, say: tasks will tell
    lacking = [name for name in lacking if name not in shipped]
    if tuple(version) != sys.version_info[:2]:
        found, mine = ".".join(map(str, version)), ".".join(map(str, sys.version_info[:2]))
        return f"Spark's workers run {path}, Python {found}, and this is Python {mine}: {advice}"
    return f"Spark's workers run {path}, which lacks {', '.join(lacking)}: {advice}" if lacking else None
