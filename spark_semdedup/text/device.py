"""What a task may compute on: the CPU threads and the GPU that Spark gave it."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark import TaskContext

from spark_semdedup.spark.gpu import gpu_at, visible_gpus


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
    visible = visible_gpus()
    if not addresses:
        return partition % len(visible) if visible else 0
    return gpu_at(addresses[0], len(visible) or None)
