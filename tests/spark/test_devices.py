"""Where tasks compute: which GPU, how much of its memory, and what is said when that does not suffice."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyspark
import pytest
from standalone import cluster

from spark_semdedup import SemDedup
from spark_semdedup.errors import SemDedupError
from spark_semdedup.pairwise import execute as pairwise
from spark_semdedup.pairwise.packing import device_bytes
from spark_semdedup.pairwise.task import precision_for
from spark_semdedup.spark import backend
from spark_semdedup.spark import device as devices
from spark_semdedup.spark.backend import fault_in_words, gpu_lacking, plugin_active, resolve_execution
from spark_semdedup.spark.device import Batch, TaskDevice

ROOT = Path(__file__).parents[2]


class FakeCupy:
    """As much of CuPy as placing a task takes: GPUs by number, the current one, and what is done to memory pools."""

    def __init__(self, devices: int, current: int = 0) -> None:
        self.used = current
        self.limits: dict[int, float] = {}
        self.freed: list[int] = []
        self.computed: list[int] = []
        """GPUs that something was computed on, which opens a context there."""
        self.fault: Exception | None = None
        """Of cuBLAS, as it starts."""
        handles = SimpleNamespace(get_cublas_handle=self._start_cublas)
        runtime = SimpleNamespace(getDeviceCount=lambda: devices)
        self.cuda = SimpleNamespace(runtime=runtime, Device=self._device, device=handles)

    def _start_cublas(self) -> None:
        self.computed.append(self.used)
        if self.fault is not None:
            raise self.fault

    def arange(self, _: int) -> SimpleNamespace:
        self.computed.append(self.used)
        return SimpleNamespace(sum=lambda: SimpleNamespace(get=lambda: 1))

    def _device(self, number: int | None = None) -> SimpleNamespace:
        number = self.used if number is None else number
        return SimpleNamespace(id=number, use=lambda: setattr(self, "used", number), mem_info=(300 << 20, 80 << 30))

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
        for name in ("CUPY_TF32", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
            monkeypatch.setenv(name, "")  # remembered, and undone, whatever is set meanwhile
            monkeypatch.delenv(name)
        return fake

    return install


def context(monkeypatch, partition: int, addresses: list[str]) -> None:
    resources = {"gpu": SimpleNamespace(addresses=addresses)} if addresses else {}
    task = SimpleNamespace(partitionId=lambda: partition, resources=lambda: resources)
    monkeypatch.setattr("spark_semdedup.spark.gpu.TaskContext", SimpleNamespace(get=lambda: task))


def test_a_cpu_task_computes_with_numpy_and_never_imports_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # an import would fail
    assert TaskDevice("cpu", 0.4).module() is np


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
    assert TaskDevice("gpu", 0.4, 1, 1).module() is fake
    assert fake.used == used
    assert set(fake.computed) == {used}, "nothing is computed on another GPU, nor before one is chosen"
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert fake.freed == ([] if used == 0 else [0])  # memory kept on the GPU of an earlier task


def test_a_gpu_is_looked_for_on_the_tasks_own(monkeypatch, gpus):
    """Every worker of a machine would open its context on GPU 0 otherwise."""
    fake = gpus(8)
    context(monkeypatch, 0, ["5"])
    assert gpu_lacking() is None
    assert fake.computed == [5]


def test_memory_that_cublas_lacks_is_told_as_such(monkeypatch, gpus):
    fake = gpus(1)
    context(monkeypatch, 0, ["0"])
    fake.fault = RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED")
    with pytest.raises(SemDedupError, match=r"GPU 0 \(CUBLAS_STATUS_NOT_INITIALIZED\), of which 300 MiB are free"):
        TaskDevice("gpu", 0.4, 1, 1).module()


def test_an_address_that_is_no_number_is_refused(monkeypatch, gpus):
    gpus(1)
    context(monkeypatch, 0, ["MIG-7"])
    with pytest.raises(SemDedupError, match=r"GPU address 'MIG-7'.*discovery script"):
        TaskDevice("gpu", 0.4, 1, 1).module()


@pytest.mark.parametrize(
    ("devices", "tasks_per_gpu", "slots", "share"),
    [
        (1, 1, 16, 0.4),
        (1, 4, 16, 0.1),  # spark.task.resource.gpu.amount=0.25
        (8, 4, 16, 0.1),  # the other GPUs are not this task's
        (1, 1000, 8, 0.05),  # amount=0.001: as many as the executor has cores
        (2, None, 8, 0.05),  # local[8] on two GPUs: partitions take turns, so all tasks may be on one at some time
        (2, None, 3, 0.4 / 3),
    ],
)
def test_tasks_share_the_memory_of_a_gpu(monkeypatch, gpus, devices, tasks_per_gpu, slots, share):
    fake = gpus(devices)
    context(monkeypatch, 0, ["0"] if tasks_per_gpu else [])
    TaskDevice("gpu", 0.4, tasks_per_gpu, slots).module()
    assert fake.limits == {0: pytest.approx(share)}


def test_an_executor_whose_slots_nobody_told_counts_its_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert TaskDevice("gpu", 0.4).share() == pytest.approx(0.1)


class Settings:
    """A session as far as its settings go."""

    def __init__(self, cores: int = 8, version: str = "4.0.3", **settings: str) -> None:
        self.version = version
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
    assert TaskDevice.of(Settings(**settings), "cpu", 0.5) == TaskDevice("cpu", 0.5, tasks_per_gpu, slots)


def test_a_real_session_has_those_settings(spark):
    assert TaskDevice.of(spark, "cpu", 0.5) == TaskDevice("cpu", 0.5, None, spark.sparkContext.defaultParallelism)


@pytest.mark.parametrize("name", ["CUPY_TF32", "NVIDIA_TF32_OVERRIDE", "CUBLAS_EMULATE_DOUBLE_PRECISION"])
def test_settings_that_make_products_inexact_are_refused(monkeypatch, gpus, name):
    gpus(1)
    monkeypatch.setenv(name, "1")
    with pytest.raises(SemDedupError, match=rf"{name}=1 .*unset it"):
        TaskDevice("gpu", 0.4, 1, 1).module()


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


# --- what keeps CuPy from a GPU -----------------------------------------------------------------------------

INSUFFICIENT = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"


@pytest.mark.parametrize(
    ("said", "built_for", "driver_for", "words"),
    [
        (INSUFFICIENT, 13, 12, "runs CUDA 12 at most, CuPy is built for CUDA 13: install spark-semdedup[gpu-cu12], or"),
        (INSUFFICIENT, 12, 0, "there is no NVIDIA driver"),
        (
            "cudaErrorNoDevice: no CUDA-capable device is detected",
            12,
            12,
            "no GPU is seen; look at CUDA_VISIBLE_DEVICES",
        ),
        (
            "CuPy failed to load libnvrtc.so.12: OSError: libnvrtc.so.12: cannot open shared object file",
            12,
            13,
            "libnvrtc.so.12 is not found: CuPy lacks the CUDA 12 libraries that it needs; install spark-semdedup[",
        ),
        ("libcublas.so.13: cannot open shared object file", 0, 0, "libcublas.so.13 is not found"),
        ("cudaErrorNoKernelImageForDevice: no kernel image", 12, 12, "CuPy has no code for this GPU"),
        (
            "cudaErrorECCUncorrectable: uncorrectable ECC error\nmore",
            12,
            12,
            "cudaErrorECCUncorrectable: uncorrectable",
        ),
        ("", 12, 12, "RuntimeError"),
    ],
)
def test_a_fault_of_cupys_is_told_with_what_to_install(said, built_for, driver_for, words):
    told = fault_in_words(RuntimeError(said), built_for, driver_for)
    assert words in told
    assert "\n" not in told
    assert "  " not in told


def test_a_missing_cupy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert gpu_lacking().startswith("CuPy cannot be imported on ")


def test_a_folder_for_kernels_that_cannot_be_made_is_told(monkeypatch):
    def refuse(name, *more, **named):
        if name == "cupy":
            raise PermissionError(13, "Permission denied", "/nonexistent")
        return imported(name, *more, **named)

    imported = builtins.__import__
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    told = gpu_lacking()
    assert told.startswith("CuPy cannot be imported on ")
    assert "'/nonexistent'): set CUPY_CACHE_DIR, for executors spark.executorEnv.CUPY_CACHE_DIR, to a folder" in told


def test_work_takes_memory_from_cupys_own_pool_whatever_cuml_has_set(monkeypatch):
    allocators: list[str] = ["RMM's"]

    @contextmanager
    def using_allocator(allocator):
        allocators.append(allocator)
        yield
        allocators.pop()

    pool = SimpleNamespace(malloc="its own")
    module = SimpleNamespace(
        cuda=SimpleNamespace(using_allocator=using_allocator), get_default_memory_pool=lambda: pool
    )
    monkeypatch.setitem(sys.modules, "cupy", module)
    there = SimpleNamespace(set=lambda _: None)
    arrays = SimpleNamespace(empty=lambda *_: allocators[-1] == "its own" and there)
    monkeypatch.setattr(TaskDevice, "module", lambda _: arrays)
    rows = np.zeros((2, 3), np.float32)
    assert TaskDevice("gpu", 0.4).retry_on_oom(lambda found: (found, allocators[-1]), rows, Batch(8, device_bytes)) == (
        there,
        "its own",
    )
    assert allocators == ["RMM's"]


def failing(says: str, built_for: int, driver_for: int) -> SimpleNamespace:
    """CuPy on a machine where its first call fails."""

    def fail() -> int:
        raise RuntimeError(says)

    versions = {"runtimeGetVersion": lambda: built_for, "driverGetVersion": lambda: driver_for}
    return SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=fail, **versions)))


def test_a_driver_that_is_too_old_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", failing(INSUFFICIENT, 13000, 12080))
    assert "runs CUDA 12 at most, CuPy is built for CUDA 13" in gpu_lacking()


def test_a_machine_without_a_gpu_is_told(gpus):
    gpus(0)
    assert gpu_lacking().endswith(" has no GPU")


# --- GPUs of the comparison's own ---------------------------------------------------------------------------

CLUSTER = {"master": "spark://host:7077", "executor_cores": "8", "executor_resource_gpu_amount": "1"}


@pytest.fixture
def on_gpus(monkeypatch):
    monkeypatch.setattr(devices, "resolve_backend", lambda *_: "gpu")


def test_a_comparison_has_gpus_of_its_own(on_gpus):
    stage = SemDedup(execution="streamed", taskGpuAmount=0.25)
    settings = Settings(**CLUSTER, task_resource_gpu_amount="0.125")
    assert TaskDevice.of_params(settings, stage) == TaskDevice("gpu", 0.4, 8, 8)
    assert TaskDevice.of_comparison(settings, stage) == TaskDevice("gpu", 0.4, 4, 8, 0.25)
    assert TaskDevice.of_comparison(settings, SemDedup(execution="streamed")) == TaskDevice("gpu", 0.4, 8, 8)
    assert TaskDevice.of_comparison(settings, SemDedup(taskGpuAmount=0.25)) == TaskDevice("gpu", 0.4, 4, 8, 0.25)


@pytest.mark.parametrize(
    ("params", "settings", "used"),
    [
        ({}, {}, "grouped"),
        ({}, {"plugins": backend.PLUGIN}, "streamed"),
        ({}, {"plugins": backend.PLUGIN, "rapids_sql_enabled": "false"}, "grouped"),
        ({"taskGpuAmount": 0.25}, {}, "streamed"),
        ({"execution": "grouped"}, {"plugins": backend.PLUGIN}, "grouped"),
        ({"execution": "streamed"}, {}, "streamed"),
    ],
)
def test_execution_follows_the_plugin_unless_it_is_chosen(params, settings, used):
    assert resolve_execution(Settings(**settings), SemDedup(**params)) == used


def test_on_a_cpu_there_are_none_to_have():
    stage = SemDedup(execution="streamed", taskGpuAmount=0.25, backend="cpu")
    assert TaskDevice.of_comparison(Settings(master="local[8]"), stage) == TaskDevice("cpu", 0.4, None, 8)


PLUGIN = {"plugins": f"{backend.PLUGIN},another"}


@pytest.mark.parametrize(
    ("settings", "execution", "words"),
    [
        (CLUSTER, "grouped", "contradicts execution='grouped'"),
        (CLUSTER | {"version": "3.5.8"}, "streamed", "needs Spark 4.0 or newer, this is 3.5.8"),
        ({"master": "local[4]"}, "streamed", r"needs a cluster, this is local\[4\]"),
        (CLUSTER | {"executor_resource_gpu_amount": ""}, "streamed", "needs executors with GPUs"),
        (CLUSTER | PLUGIN, "streamed", "is not passed on by the RAPIDS Accelerator"),
    ],
)
def test_gpus_that_a_comparison_cannot_have_are_refused(on_gpus, settings, execution, words):
    with pytest.raises(SemDedupError, match=f"taskGpuAmount=0.25 {words}"):
        TaskDevice.of_comparison(Settings(**settings), SemDedup(execution=execution, taskGpuAmount=0.25))


@pytest.mark.parametrize("off", [{"rapids_sql_enabled": "false"}, {"rapids_sql_mode": "explainOnly"}])
def test_a_plugin_that_is_switched_off_passes_them_on(on_gpus, off):
    stage = SemDedup(execution="streamed", taskGpuAmount=0.5)
    assert TaskDevice.of_comparison(Settings(**CLUSTER, **PLUGIN, **off), stage).stage_gpus == 0.5


@pytest.mark.parametrize("one_each", [True, False])
def test_the_streamed_comparison_asks_for_them(monkeypatch, one_each):
    asked = {}

    class Rows:
        sparkSession = schema = None

        def repartition(self, *_):
            return self

        sortWithinPartitions = repartition

        def mapInArrow(self, function, schema, **resources):
            asked.update(resources)

    compare = SimpleNamespace(schema=lambda _: None, device=TaskDevice("gpu", 0.4, 4, 8, 0.25))
    monkeypatch.setattr(TaskDevice, "stage_resources", lambda self, _: {"profile": self.stage_gpus})
    plan = SimpleNamespace(partitions=1, one_each=one_each)
    pairwise._compared(Rows(), plan, compare, SemDedup(execution="streamed"))
    assert asked == {"profile": 0.25}


def test_a_partition_gives_memory_back_when_it_ends(monkeypatch):
    """Whether all of its answer was asked for or not."""
    freed, mapped = [], []
    pool = SimpleNamespace(free_all_blocks=lambda: freed.append("all"))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(get_default_memory_pool=lambda: pool))

    class Rows:
        sparkSession = schema = None

        def repartition(self, *_):
            return self

        def mapInArrow(self, function, schema, **_):
            mapped.append(function)

    compare = SimpleNamespace(
        schema=lambda _: None, device=TaskDevice("gpu", 0.4), stream=lambda groups, schema: iter(["first", "second"])
    )
    plan = SimpleNamespace(partitions=1, one_each=True)
    pairwise._compared(Rows(), plan, compare, SemDedup(execution="streamed"))
    answer = mapped[0]([])
    assert (next(answer), freed) == ("first", [])
    assert (next(answer), freed) == ("second", [])
    assert (list(answer), freed) == ([], ["all"])
    cut_off = mapped[0]([])
    next(cut_off)
    cut_off.close()
    assert freed == ["all"] * 2


# What tasks of a cluster see, without resources of their own and with them.
JOB = """
import json, sys
import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import SparkSession
from spark_semdedup.spark import device as devices, gpu

spark = SparkSession.builder.getOrCreate()

def look(batches):
    gpus = TaskContext.get().resources().get("gpu")
    for batch in batches:
        found = {"gpus": gpus.addresses if gpus else [], "device": gpu.task_gpu(8)}
        yield pa.RecordBatch.from_pylist([found], pa.schema([("gpus", pa.list_(pa.string())), ("device", pa.int64())]))

rows, schema = spark.range(0, 4, 1, 2).repartition(2), "gpus array<string>, device long"
answer = {}
for name, gpus in {"plain": None, "own": 0.5}.items():
    resources = devices.TaskDevice("gpu", 0.4, 2, 2, gpus).stage_resources(spark)
    answer[name] = [[row.gpus, row.device] for row in rows.mapInArrow(look, schema, **resources).collect()]
open(sys.argv[1], "w").write(json.dumps(answer))
"""


@pytest.mark.slow
@pytest.mark.skipif(pyspark.__version__ < "4", reason="Spark 3.5 has no resources for mapInArrow (SPARK-46812)")
def test_tasks_that_ask_for_a_gpu_of_their_own_see_it(tmp_path):
    """The GPU exists in name only. The application's other tasks ask for none, and are given none."""
    script = tmp_path / "discover.sh"
    script.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["5"]}'\n""")
    script.chmod(0o755)
    (tmp_path / "job.py").write_text(JOB)
    settings = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "1g",
        "spark.executor.memory": "640m",
        "spark.executor.resource.gpu.amount": "1",
        "spark.executorEnv.PYTHONPATH": str(ROOT),
        "spark.ui.enabled": "false",
    }
    options = [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
    worker = f"-Dspark.worker.resource.gpu.amount=1 -Dspark.worker.resource.gpu.discoveryScript={script}"
    with cluster(tmp_path, workers=1, SPARK_WORKER_OPTS=worker) as url:
        submit = [Path(pyspark.__file__).parent / "bin" / "spark-submit", "--master", url, *options]
        ended = subprocess.run(
            [*submit, tmp_path / "job.py", tmp_path / "answer.json"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert ended.returncode == 0, ended.stderr[-3000:]
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["plain"]
    assert all(gpus == [] for gpus, _ in answer["plain"])
    assert answer["own"]
    assert all((gpus, device) == (["5"], 5) for gpus, device in answer["own"])
