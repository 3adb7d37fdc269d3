"""Where arrays are computed: which backend a job uses, and which GPU a task has.

The driver never needs a GPU: executors are asked, by a small job. CuPy is imported in tasks only.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from types import ModuleType

import numpy as np
import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import SparkSession

from spark_semdedup.errors import SemDedupError

log = logging.getLogger("spark_semdedup")

INSTALL_GPU = "pip install 'spark-semdedup[gpu-cu12]' (or gpu-cu13, by the CUDA version) on every executor"


def resolve_backend(spark: SparkSession, backend: str) -> str:
    """``gpu`` or ``cpu`` for a ``backend`` Param of ``auto``, ``gpu`` or ``cpu``; logs why.

    Raises ``SemDedupError`` for ``gpu`` where an executor has none that CuPy can use.
    """
    if backend == "cpu":
        return backend
    if backend == "auto" and _surely_without_gpu(spark):
        log.info("backend auto → cpu: local mode and CuPy is not installed")
        return "cpu"
    lacking = [report for report in _probe_executors(spark) if report is not None]
    if not lacking:
        log.info("backend %s → gpu: every executor asked has a GPU that CuPy can use", backend)
        return "gpu"
    if backend == "gpu":
        raise SemDedupError(f"backend='gpu' cannot be used: {lacking[0]}; {INSTALL_GPU}, or set backend to cpu or auto")
    log.info("backend auto → cpu: %s", lacking[0])
    return "cpu"


def _surely_without_gpu(spark: SparkSession) -> bool:
    """In local mode the driver is the executor, so no job need ask."""
    return (spark.conf.get("spark.master") or "").startswith("local") and importlib.util.find_spec("cupy") is None


def _probe_executors(spark: SparkSession) -> list[str | None]:
    """One report per task of a small job spread over the cluster: None where a GPU works, else what is missing."""

    def probe(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            yield pa.RecordBatch.from_pydict({"lacking": pa.array([gpu_lacking()], pa.string())})

    tasks = max(2, slots(spark))
    return [row.lacking for row in spark.range(0, tasks, 1, tasks).mapInArrow(probe, "lacking string").collect()]


def slots(spark: SparkSession) -> int:
    """Tasks that run at once, as far as the driver knows; a Spark Connect client does not, so a guess."""
    context = getattr(spark, "sparkContext", None)
    return context.defaultParallelism if context is not None else 8


def gpu_lacking() -> str | None:
    """What keeps CuPy from using a GPU in this process, in words; None if nothing does."""
    host = socket.gethostname()
    try:
        import cupy
    except ImportError as error:
        return f"CuPy cannot be imported on {host} ({error})"
    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            return f"{host} has no GPU"
        cupy.arange(2).sum().get()
    except Exception as error:  # CuPy raises its own classes for driver, runtime and compiler faults
        return f"CuPy cannot use a GPU on {host} ({str(error).splitlines()[0]})"
    return None


def task_module(backend: str) -> ModuleType:
    """The array module of this task: NumPy, or CuPy with the task's own GPU made current.

    The GPU is the one Spark assigned to the task; where Spark schedules none (local mode, say), partitions take
    turns.
    """
    if backend == "cpu":
        return np
    import cupy

    if os.environ.get("CUPY_TF32", "0") not in ("", "0"):
        raise SemDedupError(
            f"CUPY_TF32={os.environ['CUPY_TF32']} in the executors' environment: products of TF32 are off by more than "
            "the bounds that candidates are screened by; unset it"
        )
    context = TaskContext.get()
    addresses = context.resources()["gpu"].addresses if context and "gpu" in context.resources() else []
    if addresses:
        device = int(addresses[0])
        # A worker that CUDA_VISIBLE_DEVICES confines to the task's GPU sees it as device 0.
        device = device if device < cupy.cuda.runtime.getDeviceCount() else 0
    else:
        device = (context.partitionId() if context else 0) % cupy.cuda.runtime.getDeviceCount()
    cupy.cuda.Device(device).use()
    return cupy
