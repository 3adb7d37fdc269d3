"""What a session, its executors and this machine tell of themselves, for ``doctor`` to judge.

Executors are asked by one small job. What they are asked with needs nothing of theirs but Python: where NumPy, Arrow or
this package is missing, that is the answer.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import pyspark
from pyspark import SparkContext
from pyspark.sql import SparkSession

from spark_semdedup.errors import SemDedupError
from spark_semdedup.spark.backend import PLUGIN, slots
from spark_semdedup.spark.failures import one_line

SETTINGS = (
    *("spark.master", "spark.driver.memory", "spark.driver.maxResultSize"),
    *("spark.executor.memory", "spark.executor.memoryOverhead", "spark.executor.cores"),
    *("spark.executor.resource.gpu.amount", "spark.task.resource.gpu.amount", "spark.dynamicAllocation.enabled"),
    *("spark.sql.execution.arrow.maxRecordsPerBatch", "spark.sql.execution.arrow.maxBytesPerBatch"),
    *("spark.sql.adaptive.enabled", "spark.sql.shuffle.partitions", "spark.shuffle.compress", "spark.shuffle.manager"),
    *("spark.python.unix.domain.socket.enabled", "spark.plugins", "spark.rapids.sql.enabled", "spark.rapids.sql.mode"),
    *("spark.rapids.memory.gpu.allocFraction", "spark.rapids.sql.python.gpu.enabled"),
    *("spark.rapids.python.memory.gpu.pooling.enabled",),
)
"""Settings that bear on a run; what is asked of a session."""

PATIENCE = 120.0
"""Seconds that executors may take to answer."""


@dataclass(frozen=True)
class Worker:
    """What a Python process finds around it: the driver's own, or an executor's worker."""

    host: str
    process: int
    """Of the executor's Python daemon: workers of one executor have one in common."""
    python: str
    executable: str
    packages: Mapping[str, str]
    """Version by name; what is not there, or cannot be imported, is missing."""
    cores: int
    memory_gib: float
    gpus: tuple[str, ...] = ()
    """What ``nvidia-smi`` lists: index, name, memory."""
    nvidia_driver: str | None = None
    addresses: tuple[str, ...] = ()
    """GPUs that Spark assigned to the task."""
    kernel: str = ""
    """Name and release of the operating system's kernel."""
    gpu_lacking: str | None = None
    """What keeps CuPy from a GPU, in words; None where nothing does."""
    inexact: tuple[str, ...] = ()
    """Environment variables that make products inexact."""

    @classmethod
    def from_json(cls, text: str) -> Worker:
        said: dict[str, Any] = json.loads(text)
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in said.items()}
        return cls(**values)


@dataclass(frozen=True)
class Findings:
    """All that a diagnosis is made from."""

    driver: Worker
    java: str | None
    spark: str
    scala: str | None = None
    plugin: str | None = None
    """Version of the RAPIDS Accelerator on the class path; None where there is none."""
    executors: tuple[Worker, ...] = ()
    slots: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    """Values of ``SETTINGS``; those that are unset and have no default are missing."""
    failure: str | None = None
    """Why no session could be started."""
    unasked: str | None = None
    """Why executors could not be asked."""

    @property
    def is_local(self) -> bool:
        return self.settings.get("spark.master", "local").startswith("local")

    @property
    def uses_plugin(self) -> bool:
        """Whether the plugin puts steps on the GPU."""
        on = self.settings.get("spark.rapids.sql.enabled", "true") == "true"
        mode = self.settings.get("spark.rapids.sql.mode", "executeOnGPU").lower()
        return self.has_plugin and on and mode == "executeongpu"

    @property
    def has_plugin(self) -> bool:
        return PLUGIN in self.settings.get("spark.plugins", "")

    def number(self, setting: str) -> float | None:
        try:
            return float(self.settings[setting])
        except (KeyError, ValueError):
            return None


def executor_probe() -> Callable[[], str]:
    """The function that each executor runs; gives a ``Worker`` as JSON.

    A function within a function is sent by value, and this one imports all it uses: so it runs where this package is
    missing.
    """

    def look() -> str:
        import importlib
        import importlib.metadata
        import importlib.util
        import json
        import os
        import platform
        import socket
        import subprocess
        import sys

        def version_of(module: str) -> str | None:
            try:
                return str(importlib.import_module(module).__version__)
            except Exception:  # whatever an import raises, the package cannot be used
                return None

        def installed(distribution: str) -> str | None:
            try:
                return importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                return None

        imported = {name: version_of(name) for name in ("numpy", "pandas", "pyarrow", "spark_semdedup")}
        packages = {name: version for name, version in imported.items() if version is not None}
        # These are slow to import, or take a GPU: whether they are installed must do.
        for module, distributions in {
            "cupy": ("cupy-cuda12x", "cupy-cuda13x", "cupy"),
            "cuml": ("cuml-cu12", "cuml-cu13", "cuml"),
            "spark_rapids_ml": ("spark-rapids-ml",),
            "faiss": ("faiss-cpu", "faiss-gpu", "faiss"),
        }.items():
            if importlib.util.find_spec(module) is not None:
                packages[module] = next(filter(None, map(installed, distributions)), "of unknown version")
        command = ["nvidia-smi", "--query-gpu=index,name,memory.total,driver_version", "--format=csv,noheader"]
        try:
            asked = subprocess.run(command, capture_output=True, text=True, timeout=30)  # noqa: S603
            rows = [line.split(", ") for line in asked.stdout.splitlines()] if asked.returncode == 0 else []
        except (OSError, subprocess.TimeoutExpired):
            rows = []
        listed = [row for row in rows if len(row) == 4]
        lacking: str | None = "spark_semdedup cannot be imported"
        inexact: list[str] = []
        if "spark_semdedup" in packages:
            try:
                from spark_semdedup.spark.backend import gpu_lacking, inexact_settings

                lacking, inexact = gpu_lacking(), inexact_settings()
            except Exception as error:
                lacking = f"spark_semdedup cannot be imported ({error})"
        try:
            from pyspark import TaskContext

            context = TaskContext.get()
            addresses = list(context.resources()["gpu"].addresses) if context and "gpu" in context.resources() else []
        except Exception:
            addresses = []
        return json.dumps(
            {
                "host": socket.gethostname(),
                "process": os.getppid(),
                "python": platform.python_version(),
                "executable": sys.executable,
                "packages": packages,
                "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
                "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
                "gpus": [f"{index} {name}, {memory}" for index, name, memory, _ in listed],
                "nvidia_driver": listed[0][3] if listed else None,
                "addresses": addresses,
                "kernel": " ".join(os.uname()[0:3:2]),  # name and release
                "gpu_lacking": lacking,
                "inexact": inexact,
            }
        )

    return look


def ask_executors(spark: SparkSession) -> tuple[Worker, ...]:
    """One ``Worker`` for each executor: as many tasks at once as there is room for, so that all have one."""
    look, tasks = executor_probe(), max(1, slots(spark))
    context = getattr(spark, "sparkContext", None)
    if context is not None:  # needs neither pandas nor Arrow
        with _patience(context):
            answers = context.parallelize(range(tasks), tasks).mapPartitions(lambda _: [look()]).collect()
    else:
        answers = [
            row[0] for row in spark.range(0, tasks, 1, tasks).mapInPandas(_each(look), "answer string").collect()
        ]
    by_executor: dict[tuple[str, int], Worker] = {}
    for worker in map(Worker.from_json, answers):
        other = by_executor.get((worker.host, worker.process), worker)
        addresses = tuple(sorted({*other.addresses, *worker.addresses}))
        by_executor[worker.host, worker.process] = replace(worker, addresses=addresses)
    return tuple(by_executor[key] for key in sorted(by_executor))


def _each(look: Callable[[], str]) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    def look_from_frames(frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        import pandas

        for _ in frames:
            yield pandas.DataFrame({"answer": [look()]})

    return look_from_frames


@contextmanager
def _patience(context: SparkContext) -> Iterator[None]:
    """Ends the jobs of the block, with an error, where they take longer than ``PATIENCE``: no executor has room."""
    group, names = (
        f"doctor-{os.getpid()}",
        ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel"),
    )
    before = {name: context.getLocalProperty(name) for name in names}  # a notebook has its own
    context.setJobGroup(group, "spark-semdedup doctor asks the executors")
    timer = threading.Timer(PATIENCE, context.cancelJobGroup, [group])
    timer.start()
    try:
        yield
    except Exception as error:
        if not timer.finished.is_set():
            raise
        raise SemDedupError(
            f"no executor had room for a task within {PATIENCE:g} s: compare what the cluster offers with "
            "spark.executor.cores, spark.executor.memory and spark.executor.resource.gpu.amount"
        ) from error
    finally:
        timer.cancel()
        for name, value in before.items():
            context.setLocalProperty(name, value)  # type: ignore[arg-type]  # None removes it


def probe_cluster(spark: SparkSession) -> Findings:
    """What a session and its executors tell."""
    executors: tuple[Worker, ...] = ()
    unasked = None
    try:
        executors = ask_executors(spark)
    except Exception as error:  # a Python that does not start, versions that differ, no room: all are findings
        unasked = one_line(error)
    return Findings(
        driver=Worker.from_json(executor_probe()()),
        java=_jvm(spark, lambda jvm: jvm.java.lang.System.getProperty("java.version")),
        spark=spark.version,
        scala=_jvm(spark, lambda jvm: jvm.scala.util.Properties.versionNumberString()),
        plugin=_jvm(spark, _plugin_version),
        executors=executors,
        slots=slots(spark),
        settings={name: value for name in SETTINGS if (value := _setting(spark, name)) is not None},
        unasked=unasked,
    )


def probe_without_session(failure: str) -> Findings:
    """What is found where no session could be started, for the reason given."""
    return Findings(Worker.from_json(executor_probe()()), java_on_path(), pyspark.__version__, failure=failure)


def java_on_path() -> str | None:
    """Version of the Java that Spark would start: ``JAVA_HOME``'s, or that on the PATH; None where none runs."""
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if not java:
        return None
    try:
        asked = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "([^"]+)"', asked.stderr + asked.stdout)
    return found[1] if found and asked.returncode == 0 else None


def _plugin_version(jvm: Any) -> str | None:
    """From a file in the plugin's jar."""
    loader = jvm.org.apache.spark.util.Utils.getContextOrSparkClassLoader()
    stream = loader.getResourceAsStream("rapids4spark-version-info.properties")
    if stream is None:
        return None
    properties = jvm.java.util.Properties()
    properties.load(stream)
    stream.close()
    version: str | None = properties.getProperty("version")
    return version


def _jvm(spark: SparkSession, ask: Callable[[Any], str | None]) -> str | None:
    """What the JVM answers; None where it is out of reach (Spark Connect) or does not know."""
    try:
        return ask(spark.sparkContext._jvm)
    except Exception:
        return None


def _setting(spark: SparkSession, name: str) -> str | None:
    try:
        return spark.conf.get(name)
    except Exception:  # unset and without a default; its class differs between Spark and Spark Connect
        return None
