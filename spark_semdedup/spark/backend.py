"""Which backend a job uses, and what keeps an executor from using its GPU."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import socket
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import SparkSession

from spark_semdedup.errors import SemDedupError
from spark_semdedup.spark.gpu import import_cupy, use_task_gpu

if TYPE_CHECKING:
    from spark_semdedup.params import PairwiseParams

log = logging.getLogger("spark_semdedup")


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


def resolve_execution(spark: SparkSession, params: PairwiseParams) -> str:
    """``grouped`` or ``streamed`` for the Param ``execution``. ``auto``: streamed where that keeps the comparison on
    the plugin's plan, or tasks have GPUs of their own; grouped elsewhere."""
    execution = params.value("execution")
    if execution != "auto":
        return str(execution)
    streams = plugin_active(spark) or params.value("taskGpuAmount") is not None
    return "streamed" if streams else "grouped"


def slots(spark: SparkSession) -> int:
    """Tasks that run at once, as far as the driver knows; a Spark Connect client does not, so a guess."""
    context = getattr(spark, "sparkContext", None)
    return context.defaultParallelism if context is not None else 8


def gpu_lacking() -> str | None:
    """What keeps CuPy from using a GPU in this process, in words; None if nothing does."""
    host = socket.gethostname()
    try:
        cupy = import_cupy()
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
        use_task_gpu(cupy)
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
            f"{library[0].rstrip('.:')} is not found: CuPy lacks the CUDA {built_for or ''} libraries that it needs; "
            f"install spark-semdedup[{f'gpu-cu{built_for}' if built_for else 'gpu-cu12'}], which brings them"
        ).replace("CUDA  ", "CUDA ")
    return said


def is_on_gpu_plan(spark: SparkSession) -> bool:
    """Whether the plugin is there and puts steps on the GPU, rather than only explaining what it would do."""
    mode = spark.conf.get("spark.rapids.sql.mode", None) or "executeOnGPU"
    return plugin_active(spark) and mode.lower() == "executeongpu"


_INEXACT = ("CUPY_TF32", "NVIDIA_TF32_OVERRIDE", "CUBLAS_EMULATE_SINGLE_PRECISION", "CUBLAS_EMULATE_DOUBLE_PRECISION")
"""What makes CuPy or cuBLAS multiply less exactly than asked for, unless it is unset, empty or 0."""


def inexact_settings() -> list[str]:
    """Names of the environment variables that make this process multiply inexactly."""
    return [name for name in _INEXACT if os.environ.get(name, "0") not in ("", "0")]
