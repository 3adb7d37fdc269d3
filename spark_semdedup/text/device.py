"""What a task may compute on: the CPU threads and the GPU that Spark gave it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pyspark import TaskContext

from spark_semdedup.errors import SemDedupError


@dataclass(frozen=True)
class TextDevice:
    threads: int
    """CPU threads: ``spark.task.cpus``. Tasks run side by side, so more would only contend."""
    gpu: int | None
    """Number of the GPU, as this process counts them; None where the task has none, or is not to use it."""


def task_device(backend: str) -> TextDevice:
    """The device of this task, for a ``backend`` of auto, gpu or cpu; of the driver, one thread and no GPU."""
    context = TaskContext.get()
    if context is None:
        return TextDevice(threads=1, gpu=None)
    threads = max(1, context.cpus())
    if backend == "cpu":
        return TextDevice(threads, None)
    resources = context.resources()
    addresses = resources["gpu"].addresses if "gpu" in resources else []
    return TextDevice(threads, gpu_number(addresses, context.partitionId()))


def gpu_number(addresses: list[str], partition: int) -> int | None:
    """Spark's address of a GPU as this process counts them.

    Where Spark schedules none, partitions take turns at those that ``CUDA_VISIBLE_DEVICES`` names; where nothing names
    any, the first.
    """
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if not addresses:
        return partition % len(visible) if visible else 0
    if addresses[0] in visible:
        return visible.index(addresses[0])
    if not addresses[0].isdigit():
        raise SemDedupError(
            f"GPU address {addresses[0]!r} cannot be used: the discovery script must give a number, or a name in "
            "CUDA_VISIBLE_DEVICES"
        )
    return int(addresses[0]) % max(1, len(visible)) if visible else int(addresses[0])
