"""Where arrays are computed: which backend a job uses, and which GPU a task has.

The driver never needs a GPU: executors are asked, by a small job. CuPy is imported in tasks only.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
from pyspark import TaskContext
from pyspark.resource.profile import ResourceProfileBuilder
from pyspark.resource.requests import TaskResourceRequests
from pyspark.sql import SparkSession

from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels.arrays import Array
from spark_semdedup.kernels.memory import BlockSizes, lacks_device_memory
from spark_semdedup.planning import device_bytes
from spark_semdedup.workers import prepare_worker

if TYPE_CHECKING:
    from spark_semdedup.params import HasBackend, PairwiseParams

log = logging.getLogger("spark_semdedup")

T = TypeVar("T")

PLUGIN = "com.nvidia.spark.SQLPlugin"
"""The RAPIDS Accelerator, as ``spark.plugins`` names it."""

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


def plugin_active(spark: SparkSession) -> bool:
    """Whether the RAPIDS Accelerator replaces operators of plans by its own on the GPU (or, explaining, would)."""
    loaded = PLUGIN in (spark.conf.get("spark.plugins", None) or "")
    return loaded and (spark.conf.get("spark.rapids.sql.enabled", None) or "true").lower() == "true"


def slots(spark: SparkSession) -> int:
    """Tasks that run at once, as far as the driver knows; a Spark Connect client does not, so a guess."""
    context = getattr(spark, "sparkContext", None)
    return context.defaultParallelism if context is not None else 8


def gpu_lacking() -> str | None:
    """What keeps CuPy from using a GPU in this process, in words; None if nothing does."""
    host = socket.gethostname()
    try:
        import cupy
    except OSError as error:
        # As it is imported, CuPy makes the folder where it keeps compiled kernels (``cupy/cuda/_compiler_cache.py``).
        return (
            f"CuPy cannot be imported on {host} ({error}): set CUPY_CACHE_DIR, for executors "
            "spark.executorEnv.CUPY_CACHE_DIR, to a folder that can be written"
        )
    except ImportError as error:
        return f"CuPy cannot be imported on {host} ({error})"
    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            return f"{host} has no GPU"
        cupy.arange(2).sum().get()  # takes the driver, the runtime and the compiler
    except Exception as error:  # CuPy raises its own classes for faults of all three
        return f"CuPy cannot use a GPU on {host} ({fault_in_words(error, *_cuda_versions(cupy))})"
    return None


def _cuda_versions(cupy: ModuleType) -> tuple[int, int]:
    """The major version of CUDA that CuPy was built for, and the newest that the driver can run: 0 without a driver."""
    try:
        return cupy.cuda.runtime.runtimeGetVersion() // 1000, cupy.cuda.runtime.driverGetVersion() // 1000
    except Exception:
        return 0, 0


def fault_in_words(error: Exception, built_for: int, driver_for: int) -> str:
    """What an exception of CuPy's means, and what to install; ``built_for``, ``driver_for``: major versions of CUDA.

    >>> fault_in_words(RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient"), 13, 12)
    'its NVIDIA driver runs CUDA 12 at most, CuPy is built for CUDA 13: install spark-semdedup[gpu-cu12], or a newer \
driver'
    """
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    # CUDA says "insufficient" of a driver that is not there at all, too.
    if "cudaErrorInsufficientDriver" in said or "cudaErrorSystemDriverMismatch" in said:
        if not driver_for:
            return "there is no NVIDIA driver, or a container does not see it"
        return (
            f"its NVIDIA driver runs CUDA {driver_for} at most, CuPy is built for CUDA {built_for}: install "
            f"spark-semdedup[gpu-cu{driver_for}], or a newer driver"
        )
    if "cudaErrorNoDevice" in said:
        return "no GPU is seen; look at CUDA_VISIBLE_DEVICES and at what the container is given"
    if "cudaErrorNoKernelImageForDevice" in said or "cudaErrorUnsupportedPtxVersion" in said:
        return f"CuPy has no code for this GPU ({said}): install another release of CuPy or of the driver"
    # Since version 13 CuPy loads the compiler when it is first used: https://github.com/cupy/cupy/issues/8317.
    library = re.search(r"\blib(?:nvrtc|cublas|cudart|nvJitLink)[\w.-]*", said)
    if library:
        return (
            f"{library[0].rstrip('.:')} is not found: the CUDA {built_for or ''} libraries are missing beside CuPy; "
            f"install spark-semdedup[{f'gpu-cu{built_for}' if built_for else 'gpu-cu12'}], which brings them"
        ).replace("CUDA  ", "CUDA ")
    return said


def vector_bytes(rows: int, dim: int) -> int:
    """Bytes of float32 vectors: the least that a task which holds ``rows`` of them takes."""
    return 4 * rows * dim


@dataclass(frozen=True)
class Batch:
    """What a task works on at once, in the terms of those who set it; for messages."""

    rows: int
    """At first: halved where a GPU's memory does not suffice."""
    name: str = "batchSize"
    bound: str = "maxClusterRows"
    """The setting that bounds how many vectors a task holds."""
    rows_per_bound: int = 2
    """How many rows for each of that setting's: a task compares two tiles."""
    needs: Callable[[int, int], int] = device_bytes
    """Bytes of GPU memory for so many rows of such a length, about."""


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
    stage_gpus: float | None = None
    """GPUs of each task, where the stage asks for them itself (``taskGpuAmount``)."""
    blocks: BlockSizes = field(default_factory=BlockSizes, compare=False, repr=False)
    """Of this task: each unpickles a placement of its own."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A placement arrives in a worker with the task's function, before the first of its rows: of a grouped pandas
        UDF nothing else does. (Functions without a placement prepare it themselves.)"""
        self.__dict__.update(state)
        prepare_worker()

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

    @classmethod
    def of_comparison(cls, spark: SparkSession, params: PairwiseParams) -> Placement:
        """For the tasks that compare, which may ask for GPUs of their own.

        Raises ``SemDedupError`` where Spark cannot give them any.
        """
        placement, amount = cls.of_params(spark, params), params.value("taskGpuAmount")
        if amount is None or placement.backend == "cpu":
            return placement
        _refuse_stage_resources(spark, amount, params.value("execution"))
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

    def within_memory(self, work: Callable[[Array], T], vectors: np.ndarray, batch: Batch) -> T:
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
                "%s=%d takes more GPU memory than this task has at deviceMemoryFraction=%g%s: going on with %d, which "
                "gives the same answer",
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


def is_on_gpu_plan(spark: SparkSession) -> bool:
    """Whether the plugin is there and puts steps on the GPU, rather than only explaining what it would do."""
    mode = spark.conf.get("spark.rapids.sql.mode", None) or "executeOnGPU"
    return plugin_active(spark) and mode.lower() == "executeongpu"


def _executor_slots(spark: SparkSession) -> int | None:
    master = spark.conf.get("spark.master", None) or ""
    if master.startswith("local[") or master == "local":
        return slots(spark)
    cores = spark.conf.get("spark.executor.cores", None)
    return max(1, int(cores) // int(spark.conf.get("spark.task.cpus", None) or 1)) if cores else None


_INEXACT = ("CUPY_TF32", "NVIDIA_TF32_OVERRIDE", "CUBLAS_EMULATE_SINGLE_PRECISION", "CUBLAS_EMULATE_DOUBLE_PRECISION")
"""What makes CuPy or cuBLAS multiply less exactly than asked for, unless it is unset, empty or 0."""


def inexact_settings() -> list[str]:
    """Names of the environment variables that make this process multiply inexactly."""
    return [name for name in _INEXACT if os.environ.get(name, "0") not in ("", "0")]


def _refuse_inexact_products() -> None:
    for name in inexact_settings():
        raise SemDedupError(
            f"{name}={os.environ[name]} in the executors' environment: products would be off by more than the bounds "
            "that candidates are screened by; unset it"
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
