"""Room on this machine's disks for what a comparison shuffles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from spark_semdedup.errors import SemDedupError
from spark_semdedup.formatting import short_bytes


@dataclass(frozen=True)
class LocalDisk:
    """The folders that Spark shuffles to, and the bytes that are free there."""

    folders: tuple[str, ...]
    free: int

    @classmethod
    def of(cls, spark: SparkSession) -> LocalDisk | None:
        """None where executors are on other machines, whose disks this process cannot look at."""
        if getattr(spark, "_jvm", None) is None or not _is_local(spark.sparkContext.master or ""):
            return None
        return cls.at(local_folders(spark))

    @classmethod
    def at(cls, folders: Sequence[str]) -> LocalDisk | None:
        """None where a folder has gone."""
        free: dict[int, int] = {}
        try:
            for folder in folders:
                system = os.statvfs(folder)
                free[os.stat(folder).st_dev] = system.f_bavail * system.f_frsize
        except OSError:
            return None
        return cls(tuple(folders), sum(free.values()))

    def lacks(self, needed: float) -> str | None:
        """What to say where ``needed`` bytes do not fit, in words."""
        if needed <= self.free:
            return None
        return (
            f"the shuffle takes about {short_bytes(needed)}, but {', '.join(dict.fromkeys(self.folders))} "
            f"(spark.local.dir) has {short_bytes(self.free)} free"
        )


def local_folders(spark: SparkSession) -> list[str]:
    """Where the session of this machine keeps shuffled and cached rows: ``SPARK_LOCAL_DIRS``, else ``spark.local.dir``.

    Asked of the object that pyspark asks for its own temporary folder; py4j cannot look into Spark 4.3's ``SparkEnv``,
    which knows the folders too, as PyPI's jars lack a class that one of its methods names.
    """
    jvm: Any = spark._jvm
    conf = spark._jsc.sc().conf()  # type: ignore[attr-defined]
    return list(jvm.org.apache.spark.util.Utils.getConfiguredLocalDirs(conf))


def refuse_full_disk(spark: SparkSession, needed: float) -> None:
    """Raises ``SemDedupError`` where ``needed`` bytes do not fit where Spark shuffles to, if on this machine."""
    disk = LocalDisk.of(spark)
    lacks = disk and disk.lacks(needed)
    if lacks:
        raise SemDedupError(
            f"{lacks}: set SPARK_LOCAL_DIRS to a larger disk, lower eps or choose another coverage; --force runs anyway"
        )


def _is_local(master: str) -> bool:
    return master == "local" or master.startswith("local[")
