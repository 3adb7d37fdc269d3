"""What a session computes with, as far as its driver knows: for summaries and reports."""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession

_SETTINGS = {
    "executor_memory": "spark.executor.memory",
    "driver_memory": "spark.driver.memory",
    "gpus_per_executor": "spark.executor.resource.gpu.amount",
    "gpu_of_a_task": "spark.task.resource.gpu.amount",
}


def hardware_of(spark: SparkSession) -> dict[str, Any] | None:
    """Master, executors, cores, memory and GPUs; no job. None for a Spark Connect client, which is not told.

    With dynamic allocation the number of executors is that of this moment.
    """
    if getattr(spark, "_jsparkSession", None) is None:
        return None
    context: Any = spark.sparkContext
    # The driver is among them, and is the only one of a local session.
    executors = int(context._jsc.sc().getExecutorMemoryStatus().size())
    hardware: dict[str, Any] = {
        "master": context.master,
        "executors": max(1, executors - 1),
        "cores": int(context.defaultParallelism),
    }
    conf = context.getConf()
    hardware |= {name: conf.get(key) for name, key in _SETTINGS.items() if conf.get(key) is not None}
    return hardware
