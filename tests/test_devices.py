"""Where tasks compute: which GPU, how much of its memory, and what is said when that does not suffice."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from spark_semdedup.comparison import precision_for
from spark_semdedup.devices import Placement, plugin_active
from spark_semdedup.errors import SemDedupError


class FakeCupy:
    """As much of CuPy as placing a task takes: GPUs by number, the current one, and what is done to memory pools."""

    def __init__(self, devices: int, current: int = 0) -> None:
        self.used = current
        self.limits: dict[int, float] = {}
        self.freed: list[int] = []
        self.cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=lambda: devices), Device=self._device)

    def _device(self, number: int | None = None) -> SimpleNamespace:
        return SimpleNamespace(id=self.used if number is None else number, use=lambda: setattr(self, "used", number))

    def get_default_memory_pool(self):
        return SimpleNamespace(
            set_limit=lambda fraction: self.limits.__setitem__(self.used, fraction),
            free_all_blocks=lambda: self.freed.append(self.used),
        )


@pytest.fixture
def gpus(monkeypatch):
    def install(devices: int) -> FakeCupy:
        fake = FakeCupy(devices)
        monkeypatch.setitem(sys.modules, "cupy", fake)
        for name in ("CUPY_TF32", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)
        return fake

    return install


def context(monkeypatch, partition: int, addresses: list[str]) -> None:
    resources = {"gpu": SimpleNamespace(addresses=addresses)} if addresses else {}
    task = SimpleNamespace(partitionId=lambda: partition, resources=lambda: resources)
    monkeypatch.setattr("spark_semdedup.devices.TaskContext", SimpleNamespace(get=lambda: task))


def test_a_cpu_task_computes_with_numpy_and_never_imports_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # an import would fail
    assert Placement("cpu", 0.4).module() is np


@pytest.mark.parametrize(
    ("devices", "addresses", "visible", "partition", "used"),
    [
        (4, ["2"], None, 0, 2),  # what Spark assigned
        (1, ["3"], "3", 0, 0),  # the process sees its own GPU alone, as number 0
        (2, ["3"], "1,3", 0, 1),
        (1, ["GPU-1b2c"], "GPU-1b2c", 0, 0),
        (1, ["3"], None, 0, 0),  # confined by a container
        (2, [], None, 5, 1),  # no scheduling: partitions take turns
    ],
)
def test_the_gpu_of_a_task(monkeypatch, gpus, devices, addresses, visible, partition, used):
    fake = gpus(devices)
    context(monkeypatch, partition, addresses)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert Placement("gpu", 0.4, 1, 1).module() is fake
    assert fake.used == used
    assert fake.freed == ([] if used == 0 else [0])  # memory kept on the GPU of an earlier task


def test_an_address_that_is_no_number_is_refused(monkeypatch, gpus):
    gpus(1)
    context(monkeypatch, 0, ["MIG-7"])
    with pytest.raises(SemDedupError, match=r"GPU address 'MIG-7'.*discovery script"):
        Placement("gpu", 0.4, 1, 1).module()


@pytest.mark.parametrize(
    ("devices", "tasks_per_gpu", "slots", "share"),
    [
        (1, 1, 16, 0.4),
        (1, 4, 16, 0.1),  # spark.task.resource.gpu.amount=0.25
        (8, 4, 16, 0.1),  # the other GPUs are not this task's
        (1, 1000, 8, 0.05),  # amount=0.001: as many as the executor has cores
        (2, None, 8, 0.1),  # local[8] on two GPUs: four tasks on each
        (2, None, 3, 0.2),
        (4, None, 2, 0.4),
    ],
)
def test_tasks_share_the_memory_of_a_gpu(monkeypatch, gpus, devices, tasks_per_gpu, slots, share):
    fake = gpus(devices)
    context(monkeypatch, 0, ["0"] if tasks_per_gpu else [])
    Placement("gpu", 0.4, tasks_per_gpu, slots).module()
    assert fake.limits == {0: pytest.approx(share)}


def test_an_executor_whose_slots_nobody_told_counts_its_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert Placement("gpu", 0.4).share(devices=2) == pytest.approx(0.2)


class Settings:
    """A session as far as its settings go."""

    def __init__(self, cores: int = 8, **settings: str) -> None:
        values = {f"spark.{name.replace('_', '.')}": value for name, value in settings.items()}
        self.conf = SimpleNamespace(get=lambda name, default=None: values.get(name, default))
        self.sparkContext = SimpleNamespace(defaultParallelism=cores)


@pytest.mark.parametrize(
    ("settings", "tasks_per_gpu", "slots"),
    [
        ({"master": "local[8]"}, None, 8),
        ({"master": "spark://host:7077"}, None, None),
        ({"master": "yarn", "executor_cores": "16"}, None, 16),  # not the 8 of the cluster
        ({"master": "yarn", "executor_cores": "16", "task_cpus": "4"}, None, 4),
        ({"master": "yarn", "executor_cores": "16", "task_resource_gpu_amount": "0.3"}, 3, 16),
        ({"master": "yarn", "executor_cores": "16", "task_resource_gpu_amount": "0.001"}, 1000, 16),
        ({"master": "yarn", "task_resource_gpu_amount": "2"}, 1, None),
        ({"master": "yarn", "task_resource_gpu_amount": "0"}, None, None),
    ],
)
def test_tasks_of_a_gpu_and_of_an_executor_come_from_sparks_settings(settings, tasks_per_gpu, slots):
    assert Placement.of(Settings(**settings), "cpu", 0.5) == Placement("cpu", 0.5, tasks_per_gpu, slots)


def test_a_real_session_has_those_settings(spark):
    assert Placement.of(spark, "cpu", 0.5) == Placement("cpu", 0.5, None, spark.sparkContext.defaultParallelism)


@pytest.mark.parametrize("name", ["CUPY_TF32", "NVIDIA_TF32_OVERRIDE", "CUBLAS_EMULATE_DOUBLE_PRECISION"])
def test_settings_that_make_products_inexact_are_refused(monkeypatch, gpus, name):
    gpus(1)
    monkeypatch.setenv(name, "1")
    with pytest.raises(SemDedupError, match=rf"{name}=1 .*unset it"):
        Placement("gpu", 0.4, 1, 1).module()


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
    assert precision_for(precision, backend) == used


@pytest.mark.parametrize(
    ("conf", "active"),
    [
        ({}, False),
        ({"spark.plugins": "org.example.Other"}, False),
        ({"spark.plugins": "org.example.Other,com.nvidia.spark.SQLPlugin"}, True),
        ({"spark.plugins": "com.nvidia.spark.SQLPlugin", "spark.rapids.sql.enabled": "False"}, False),
    ],
)
def test_the_plugin_is_active_where_it_is_loaded_and_not_switched_off(conf, active):
    assert plugin_active(SimpleNamespace(conf=conf)) is active
