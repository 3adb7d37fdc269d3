"""The GPU of a task, chosen before anything is computed: the first computation opens a context on the current GPU."""

from __future__ import annotations

import os
from types import ModuleType

from pyspark import TaskContext

from spark_semdedup.errors import SemDedupError


def import_cupy() -> ModuleType:
    """CuPy, with GPUs in the order of ``nvidia-smi``, which discovery scripts ask: by their bus. CUDA's own order is by
    speed, so on a machine with several kinds of GPU Spark's addresses would mean others."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    import cupy

    return cupy


def task_gpu(devices: int) -> int:
    """Number, as this process counts its ``devices``, of the GPU that Spark assigned, or of the one whose turn it is.

    Raises ``SemDedupError`` for an address that is neither a number nor in CUDA_VISIBLE_DEVICES.
    """
    context = TaskContext.get()
    addresses = context.resources()["gpu"].addresses if context and "gpu" in context.resources() else []
    if not addresses:
        return (context.partitionId() if context else 0) % devices
    return gpu_at(addresses[0], devices)


def gpu_at(address: str, devices: int | None) -> int:
    """Number, as this process counts its ``devices`` (None: unknown), of the GPU at an address of Spark's.

    Raises ``SemDedupError`` for an address that is neither a number nor in CUDA_VISIBLE_DEVICES.
    """
    visible = visible_gpus()
    if address in visible:
        return visible.index(address)
    if not address.isdigit():
        raise SemDedupError(
            f"GPU address {address!r} cannot be used: the discovery script must give a number, or a name that "
            "is in CUDA_VISIBLE_DEVICES"
        )
    return int(address) % devices if devices else int(address)


def visible_gpus() -> list[str]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` names; none where it is not set."""
    return [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]


def use_task_gpu(cupy: ModuleType) -> None:
    """Makes the task's GPU current. What this worker keeps on the GPU of an earlier task is that of others now."""
    number = task_gpu(cupy.cuda.runtime.getDeviceCount())
    if number != cupy.cuda.Device().id:
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.cuda.Device(number).use()
