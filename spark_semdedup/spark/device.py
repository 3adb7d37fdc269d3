"""Where arrays are computed: which backend a job uses, and which GPU a task has.

The driver never needs a GPU: executors are asked, by a small job. CuPy is imported in tasks only.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pyspark.resource.profile import ResourceProfileBuilder
from pyspark.resource.requests import TaskResourceRequests
from pyspark.sql import SparkSession

from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels.arrays import Array
from spark_semdedup.kernels.oom import OomRetry, lacks_device_memory
from spark_semdedup.spark.backend import inexact_settings, is_on_gpu_plan, resolve_backend, resolve_execution, slots
from spark_semdedup.spark.gpu import import_cupy, use_task_gpu

if TYPE_CHECKING:
    from spark_semdedup.params import HasBackend, PairwiseParams

T = TypeVar("T")

log = logging.getLogger("spark_semdedup")


def vector_bytes(rows: int, dim: int) -> int:
    """Bytes of float32 vectors: the least that a task which holds ``rows`` of them takes."""
    return 4 * rows * dim


@dataclass(frozen=True)
class Batch:
    """What a task works on at once, in the terms of those who set it; for messages."""

    rows: int
    """At first: halved where a GPU's memory does not suffice."""
    needs: Callable[[int, int], int]
    """Bytes of GPU memory for so many rows of such a length, about."""
    name: str = "batchSize"
    bound: str = "maxClusterRows"
    """The setting that bounds how many vectors a task holds."""
    rows_per_bound: int = 2
    """How many rows for each of that setting's: a task compares two tiles."""


@dataclass(frozen=True)
class TaskDevice:
    """Where a job's tasks compute, known on the driver before they start; travels to them."""

    backend: str
    """``gpu`` or ``cpu``, as ``resolve_backend`` gives it."""
    memory_fraction: float
    """The Param ``deviceMemoryFraction``."""
    tasks_per_gpu: int | None = None
    """As Spark schedules GPUs (``spark.task.resource.gpu.amount``); None where it does not."""
    slots: int | None = None
    """Tasks that one executor runs at once; None where only the executor knows."""
    stage_gpus: float | None = None
    """GPUs of each task, where the stage asks for them itself (``taskGpuAmount``)."""
    blocks: OomRetry = field(default_factory=OomRetry, compare=False, repr=False)
    """Of this task: each unpickles a placement of its own."""

    @classmethod
    def of(cls, spark: SparkSession, backend: str, memory_fraction: float) -> TaskDevice:
        """``backend`` as the Param has it, ``auto`` included."""
        amount = float(spark.conf.get("spark.task.resource.gpu.amount", None) or 0)
        tasks_per_gpu = max(1, math.floor(1 / amount)) if amount else None
        return cls(resolve_backend(spark, backend), memory_fraction, tasks_per_gpu, _executor_slots(spark))

    @classmethod
    def of_params(cls, spark: SparkSession, params: HasBackend) -> TaskDevice:
        """As the Params of a stage say."""
        return cls.of(spark, params.value("backend"), params.value("deviceMemoryFraction"))

    @classmethod
    def of_comparison(cls, spark: SparkSession, params: PairwiseParams) -> TaskDevice:
        """For the tasks that compare, which may ask for GPUs of their own.

        Raises ``SemDedupError`` where Spark cannot give them any.
        """
        placement, amount = cls.of_params(spark, params), params.value("taskGpuAmount")
        if amount is None or placement.backend == "cpu":
            return placement
        _refuse_stage_resources(spark, amount, resolve_execution(spark, params))
        return replace(placement, tasks_per_gpu=math.floor(1 / amount), stage_gpus=amount)

    def stage_resources(self, spark: SparkSession) -> dict[str, Any]:
        """Arguments of ``mapInArrow``: none where tasks have what all of the application's have."""
        if self.stage_gpus is None:
            return {}
        cpus = int(spark.conf.get("spark.task.cpus", None) or 1)
        tasks = TaskResourceRequests().cpus(cpus).resource("gpu", self.stage_gpus)
        return {"profile": ResourceProfileBuilder().require(tasks).build}

    def module(self) -> ModuleType:
        """The array module of this task: NumPy, or CuPy with the task's own GPU made current and its memory bounded.

        The GPU is the one Spark assigned to the task; where Spark schedules none (local mode, say), partitions take
        turns. Raises ``SemDedupError`` where settings of the environment would make products inexact.
        """
        if self.backend == "cpu":
            return np
        _refuse_inexact_products()
        cupy = import_cupy()
        use_task_gpu(cupy)
        cupy.get_default_memory_pool().set_limit(fraction=self.share())
        _start_cublas(cupy)
        return cupy

    def share(self) -> float:
        """Fraction of its GPU's memory that one task's arrays may take.

        Where Spark schedules no GPUs, all tasks of an executor may be on one at some time, however many it sees.
        """
        slots = self.slots or os.cpu_count() or 1
        # No more tasks run than there are slots, however small the amount: 0.001 stands for "GPUs are no limit".
        return self.memory_fraction / (slots if self.tasks_per_gpu is None else min(self.tasks_per_gpu, slots))

    def retry_on_oom(self, work: Callable[[Array], T], vectors: np.ndarray, batch: Batch) -> T:
        """``work`` of the vectors, a float matrix (n, d), on this task's device.

        Where the GPU's memory does not suffice ``work``, which gives the same whenever it is called, is called again in
        blocks half as large, for as long as they can be halved. They stay so for the rest of the task, which a warning
        tells once. Raises ``SemDedupError`` where nothing is left to halve, or the vectors themselves do not fit.
        """
        on_device = self.on_device(vectors, batch)
        before = self.blocks.halvings
        with self._explained(vectors, batch), self._own_pool():
            found = self.blocks.fitted(lambda: work(on_device), batch.rows)
        if self.blocks.halvings > before:
            # On the executor's stderr: with no handler set up, as in Spark's workers, logging writes warnings there.
            log.log(
                logging.INFO if before else logging.WARNING,
                "%s=%d takes more GPU memory than this task has at deviceMemoryFraction=%g%s: continuing with %d, "
                "which gives the same answer",
                batch.name,
                batch.rows,
                self.memory_fraction,
                _in_words(_gpu_memory()),
                self.blocks.left_of(batch.rows),
            )
        return found

    def on_device(self, vectors: np.ndarray, batch: Batch) -> Array:
        """The vectors as an array of this task's module. Raises ``SemDedupError`` where they do not fit."""
        with self._explained(vectors, batch):
            xp = self.module()
            if self.backend == "cpu":
                return xp.asarray(vectors)
            # Not ``asarray``: it copies by way of pinned memory of the host, of the next power of two, and keeps that
            # (``_array_default`` in ``cupy/_core/core.pyx``, ``PinnedMemoryPool``; 13.6 and 14.2).
            with self._own_pool():
                there = xp.empty(vectors.shape, vectors.dtype)
            there.set(vectors)
            return there

    @contextmanager
    def _own_pool(self) -> Iterator[None]:
        """Has CuPy take memory from its own pool, whose limit ``module`` sets. In a worker that has fitted with cuML it
        would take it from RMM, unbounded: cuML's import makes that CuPy's allocator (``cuml/__init__.py``, 26.06). It
        stays so outside, as cuML imports but once."""
        cupy = sys.modules.get("cupy")
        if self.backend == "cpu" or cupy is None:
            yield
            return
        with cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc):
            yield

    @contextmanager
    def _explained(self, vectors: np.ndarray, batch: Batch) -> Iterator[None]:
        """Makes one line of a lack of GPU memory."""
        try:
            yield
        except Exception as error:
            if not lacks_device_memory(error):
                raise
            raise SemDedupError(self._does_not_fit(len(vectors), vectors.shape[1], batch)) from error

    def _does_not_fit(self, rows: int, dim: int, batch: Batch) -> str:
        """Says what to change, with values where what is needed and what is there tell them."""
        needed, memory = batch.needs(rows, dim), _gpu_memory()
        raised = lowered = ""
        if memory is not None and needed > memory[0] > 0:
            fraction = math.ceil(100 * self.memory_fraction * needed / memory[0]) / 100
            fitting = _rows_that_fit(memory[0], dim, batch.needs) // batch.rows_per_bound
            raised = f" to {fraction:g}" if fraction <= 1 else ""
            lowered = f" to {fitting}" if fitting else ""
        least = self.blocks.left_of(batch.rows)
        halved = f" even with {batch.name} lowered from {batch.rows} to {least}" if least < batch.rows else ""
        return (
            f"{rows} rows of length {dim} need about {_mib(needed)} and do not fit into a task's share of its GPU at "
            f"deviceMemoryFraction={self.memory_fraction:g}{_in_words(memory)}{halved}: raise deviceMemoryFraction"
            f"{raised}, lower {batch.bound}{lowered}, or let fewer tasks share a GPU (spark.task.resource.gpu.amount)"
        )


def _gpu_memory() -> tuple[int, int] | None:
    """Bytes that this task's arrays may take, and bytes of its GPU that nothing takes; None where CuPy is not used."""
    cupy = sys.modules.get("cupy")
    return None if cupy is None else (cupy.get_default_memory_pool().get_limit(), cupy.cuda.Device().mem_info[0])


def _in_words(memory: tuple[int, int] | None) -> str:
    return "" if memory is None else f" ({_mib(memory[0])}; of the whole GPU {_mib(memory[1])} are free)"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _rows_that_fit(available: int, dim: int, needs: Callable[[int, int], int]) -> int:
    fixed = needs(0, dim)
    return max(0, available - fixed) // (needs(1, dim) - fixed)


def _refuse_stage_resources(spark: SparkSession, amount: float, execution: str) -> None:
    master = spark.conf.get("spark.master", None) or ""
    if execution != "streamed":
        why = f"contradicts execution={execution!r}: a grouped pandas UDF takes no resources of its own; set streamed"
    elif int(spark.version.split(".")[0]) < 4:  # SPARK-46812
        why = f"needs Spark 4.0 or newer, this is {spark.version}: set spark.task.resource.gpu.amount"
    elif master.startswith("local") and not master.startswith("local-cluster"):
        why = f"needs a cluster, this is {master}: leave it unset"
    elif is_on_gpu_plan(spark):
        # Not until the plugin passes the profile on: https://github.com/NVIDIA/cudf-spark/issues/10671.
        why = "is not passed on by the RAPIDS Accelerator: set spark.task.resource.gpu.amount"
    elif not spark.conf.get("spark.executor.resource.gpu.amount", None):
        why = "needs executors with GPUs: set spark.executor.resource.gpu.amount"
    else:
        return
    raise SemDedupError(f"taskGpuAmount={amount:g} {why}")


def _executor_slots(spark: SparkSession) -> int | None:
    master = spark.conf.get("spark.master", None) or ""
    if master.startswith("local[") or master == "local":
        return slots(spark)
    cores = spark.conf.get("spark.executor.cores", None)
    return max(1, int(cores) // int(spark.conf.get("spark.task.cpus", None) or 1)) if cores else None


def _start_cublas(cupy: ModuleType) -> None:
    """Makes cuBLAS's handle, once a thread and GPU. It takes memory past the pool, and does not say so where there is
    none: of ``cublasCreate`` that is CUBLAS_STATUS_NOT_INITIALIZED."""
    try:
        cupy.cuda.device.get_cublas_handle()
    except Exception as error:
        device = cupy.cuda.Device()
        raise SemDedupError(
            f"cuBLAS cannot be started on GPU {device.id} ({str(error).splitlines()[0]}), of which "
            f"{_mib(device.mem_info[0])} are free: it takes some 100 MiB that are not counted, so lower "
            "deviceMemoryFraction or let fewer tasks share a GPU (spark.task.resource.gpu.amount)"
        ) from error


def _refuse_inexact_products() -> None:
    for name in inexact_settings():
        raise SemDedupError(
            f"{name}={os.environ[name]} in the executors' environment: products would be off by more than the bounds "
            "that candidates are screened by; unset it"
        )
