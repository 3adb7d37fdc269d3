"""Where arrays are computed: which backend a job uses, and which GPU a task has.

The driver never needs a GPU: executors are asked, by a small job. CuPy is imported in tasks only.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import SparkSession

from spark_semdedup.errors import SemDedupError
from spark_semdedup.params import HasBackend

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


@dataclass(frozen=True)
class Placement:
    """Where a job's tasks compute, known on the driver before they start; travels to them."""

    backend: str
    """``gpu`` or ``cpu``, as ``resolve_backend`` gives it."""
    memory_fraction: float
    """The Param ``deviceMemoryFraction``."""
    tasks_per_gpu: int | None = None
    """As Spark schedules GPUs (``spark.task.resource.gpu.amount``); None where it does not."""
    slots: int | None = None
    """Tasks that one executor runs at once; None where only the executor knows."""

    @classmethod
    def of(cls, spark: SparkSession, backend: str, memory_fraction: float) -> Placement:
        """``backend`` as the Param has it, ``auto`` included."""
        amount = float(spark.conf.get("spark.task.resource.gpu.amount", None) or 0)
        tasks_per_gpu = max(1, math.floor(1 / amount)) if amount else None
        return cls(resolve_backend(spark, backend), memory_fraction, tasks_per_gpu, _executor_slots(spark))

    @classmethod
    def of_params(cls, spark: SparkSession, params: HasBackend) -> Placement:
        """As the Params of a stage say."""
        return cls.of(spark, params.value("backend"), params.value("deviceMemoryFraction"))

    def module(self) -> ModuleType:
        """The array module of this task: NumPy, or CuPy with the task's own GPU made current and its memory bounded.

        The GPU is the one Spark assigned to the task; where Spark schedules none (local mode, say), partitions take
        turns. Raises ``SemDedupError`` where settings of the environment would make products inexact.
        """
        if self.backend == "cpu":
            return np
        import cupy

        _refuse_inexact_products()
        devices = cupy.cuda.runtime.getDeviceCount()
        pool = cupy.get_default_memory_pool()
        if _device(devices) != cupy.cuda.Device().id:
            pool.free_all_blocks()  # what this worker keeps on the GPU of an earlier task is that of others now
            cupy.cuda.Device(_device(devices)).use()
        pool.set_limit(fraction=self.share(devices))
        return cupy

    def share(self, devices: int) -> float:
        """Fraction of its GPU's memory that one task's arrays may take; ``devices``: GPUs that its process sees."""
        slots = self.slots or os.cpu_count() or 1
        # No more tasks run than there are slots, however small the amount: 0.001 stands for "GPUs are no limit".
        tasks = math.ceil(slots / devices) if self.tasks_per_gpu is None else min(self.tasks_per_gpu, slots)
        return self.memory_fraction / tasks

    @contextmanager
    def explained(self, rows: int, dim: int) -> Iterator[None]:
        """Makes one line of a lack of GPU memory while a task works on ``rows`` vectors of length ``dim``."""
        try:
            yield
        except MemoryError as error:  # CuPy's OutOfMemoryError is one
            if not type(error).__module__.startswith("cupy"):
                raise
            raise SemDedupError(
                f"{rows} rows of length {dim} do not fit into a task's share of its GPU at deviceMemoryFraction="
                f"{self.memory_fraction:g}: lower maxClusterRows or batchSize, raise deviceMemoryFraction, or let "
                "fewer tasks share a GPU (spark.task.resource.gpu.amount)"
            ) from error


def _executor_slots(spark: SparkSession) -> int | None:
    master = spark.conf.get("spark.master", None) or ""
    if master.startswith("local[") or master == "local":
        return slots(spark)
    cores = spark.conf.get("spark.executor.cores", None)
    return max(1, int(cores) // int(spark.conf.get("spark.task.cpus", None) or 1)) if cores else None


_INEXACT = ("CUPY_TF32", "NVIDIA_TF32_OVERRIDE", "CUBLAS_EMULATE_SINGLE_PRECISION", "CUBLAS_EMULATE_DOUBLE_PRECISION")
"""What makes CuPy or cuBLAS multiply less exactly than asked for, unless it is unset, empty or 0."""


def _refuse_inexact_products() -> None:
    for name in _INEXACT:
        if os.environ.get(name, "0") not in ("", "0"):
            raise SemDedupError(
                f"{name}={os.environ[name]} in the executors' environment: products would be off by more than the "
                "bounds that candidates are screened by; unset it"
            )


def _device(devices: int) -> int:
    """Number, as this process counts them, of the GPU that Spark assigned, or of the one whose turn it is."""
    context = TaskContext.get()
    addresses = context.resources()["gpu"].addresses if context and "gpu" in context.resources() else []
    if not addresses:
        return (context.partitionId() if context else 0) % devices
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if addresses[0] in visible:
        return visible.index(addresses[0])
    if not addresses[0].isdigit():
        raise SemDedupError(
            f"GPU address {addresses[0]!r} cannot be used: the discovery script must give a number, or a name that "
            "stands in CUDA_VISIBLE_DEVICES"
        )
    return int(addresses[0]) % devices
