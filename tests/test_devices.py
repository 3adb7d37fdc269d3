"""Where tasks compute: which GPU, how much of its memory, and what is said when that does not suffice."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from spark_semdedup.devices import Placement
from spark_semdedup.errors import SemDedupError
from spark_semdedup.pairwise import _precision


class FakeCupy:
    """As much of CuPy as placing a task takes: GPUs by number, and the limit set on each one's memory pool."""

    def __init__(self, devices: int) -> None:
        self.used: int | None = None
        self.limits: dict[int, float] = {}
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(getDeviceCount=lambda: devices),
            Device=lambda number: SimpleNamespace(use=lambda: setattr(self, "used", number)),
        )

    def get_default_memory_pool(self):
        return SimpleNamespace(set_limit=lambda fraction: self.limits.__setitem__(self.used, fraction))


@pytest.fixture
def gpus(monkeypatch):
    def install(devices: int) -> FakeCupy:
        fake = FakeCupy(devices)
        monkeypatch.setitem(sys.modules, "cupy", fake)
        monkeypatch.delenv("CUPY_TF32", raising=False)
        return fake

    return install


def context(monkeypatch, partition: int, addresses: list[str]) -> None:
    resources = {"gpu": SimpleNamespace(addresses=addresses)} if addresses else {}
    task = SimpleNamespace(partitionId=lambda: partition, resources=lambda: resources)
    monkeypatch.setattr("spark_semdedup.devices.TaskContext", SimpleNamespace(get=lambda: task))


def test_a_cpu_task_computes_with_numpy_and_never_imports_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # an import would fail
    assert Placement("cpu", 0.8, 4, False).module() is np


@pytest.mark.parametrize(
    ("devices", "addresses", "partition", "used"),
    [
        (4, ["2"], 0, 2),  # what Spark assigned
        (1, ["3"], 0, 0),  # CUDA_VISIBLE_DEVICES leaves the process its own GPU alone, as number 0
        (2, [], 5, 1),  # no scheduling: partitions take turns
    ],
)
def test_the_gpu_of_a_task(monkeypatch, gpus, devices, addresses, partition, used):
    fake = gpus(devices)
    context(monkeypatch, partition, addresses)
    assert Placement("gpu", 0.8, 1, bool(addresses)).module() is fake
    assert fake.used == used


@pytest.mark.parametrize(
    ("devices", "tasks", "scheduled", "share"),
    [
        (1, 1, True, 0.8),
        (1, 4, True, 0.2),  # spark.task.resource.gpu.amount=0.25
        (8, 4, True, 0.2),  # the other GPUs are not this task's
        (2, 8, False, 0.2),  # local[8] on two GPUs: four tasks on each
        (2, 3, False, 0.4),
        (4, 2, False, 0.8),
    ],
)
def test_tasks_share_the_memory_of_a_gpu(monkeypatch, gpus, devices, tasks, scheduled, share):
    fake = gpus(devices)
    context(monkeypatch, 0, ["0"] if scheduled else [])
    Placement("gpu", 0.8, tasks, scheduled).module()
    assert fake.limits == {0: pytest.approx(share)}


def test_tasks_per_gpu_come_from_sparks_settings(spark):
    unscheduled = Placement.of(spark, "cpu", 0.5)
    assert (unscheduled.tasks, unscheduled.scheduled) == (spark.sparkContext.defaultParallelism, False)
    spark.conf.set("spark.task.resource.gpu.amount", "0.3")
    try:
        assert Placement.of(spark, "cpu", 0.5) == Placement("cpu", 0.5, 3, True)
    finally:
        spark.conf.unset("spark.task.resource.gpu.amount")


def test_tf32_products_are_refused(monkeypatch, gpus):
    gpus(1)
    monkeypatch.setenv("CUPY_TF32", "1")
    with pytest.raises(SemDedupError, match=r"CUPY_TF32=1 .*unset it"):
        Placement("gpu", 0.8, 1, True).module()


def test_a_lack_of_gpu_memory_is_told_in_one_line_with_what_to_change():
    class OutOfMemoryError(MemoryError):
        """CuPy's is a MemoryError too."""

    with pytest.raises(SemDedupError) as caught, Placement("gpu", 0.8, 4, True).explained(40_000, 768):
        raise OutOfMemoryError("Out of memory allocating 125 bytes")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("40000 rows of length 768", "4 tasks", "deviceMemoryFraction=0.8", "maxClusterRows", "batchSize"):
        assert part in message


def test_a_lack_of_host_memory_is_not_blamed_on_a_gpu():
    with pytest.raises(MemoryError), Placement("cpu", 0.8, 1, False).explained(1, 1):
        raise MemoryError


@pytest.mark.parametrize(
    ("precision", "backend", "used"),
    [
        ("auto", "gpu", "float16"),
        ("auto", "cpu", "float32"),
        ("float32", "gpu", "float32"),
        ("float16", "cpu", "float16"),
    ],
)
def test_screening_precision(precision, backend, used):
    assert _precision(precision, backend) == used
