"""Memory bounded by settings: a GPU that has too little of it, and processes that do not grow with the rows."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark.cloudpickle
import pytest
import scarce
import vectors
from scarce import CupysError, Scarce

from spark_semdedup import SemDedupModel
from spark_semdedup.errors import SemDedupError, error_from_worker
from spark_semdedup.kernels.oom import shrink
from spark_semdedup.pairwise.packing import device_bytes, worker_bytes
from spark_semdedup.spark.device import Batch, TaskDevice, vector_bytes

ROWS = vectors.make("random", 4, 2)

# --- what is said -------------------------------------------------------------------------------------------


def needing(rows: int, tried: list[int]):
    """Work that fits in batches of at most ``rows``."""

    def work(array) -> np.ndarray:
        tried.append(shrink(1024))
        if tried[-1] > rows:
            raise CupysError("Out of memory allocating 125 bytes")
        return array

    return work


def test_a_batch_is_halved_with_one_warning_for_each_task(caplog):
    placement, tried = TaskDevice("cpu", 0.3), []
    with caplog.at_level(logging.INFO, "spark_semdedup"):
        for rows in (300, 300, 100):
            assert placement.retry_on_oom(needing(rows, tried), ROWS, Batch(1024, device_bytes)) is ROWS
    assert tried == [1024, 512, 256, 256, 256, 128, 64]
    warning, note = caplog.records
    assert warning.levelname == "WARNING"
    assert warning.getMessage() == (
        "batchSize=1024 takes more GPU memory than this task has at deviceMemoryFraction=0.3: continuing with 256, "
        "which gives the same answer"
    )
    assert note.levelname == "INFO"
    assert note.getMessage().endswith("continuing with 64, which gives the same answer")


def cupy_with(monkeypatch, share: int, free: int) -> list[int]:
    """A CuPy that tells these bytes; returns how often its pool was emptied."""
    emptied: list[int] = []
    pool = SimpleNamespace(get_limit=lambda: share, free_all_blocks=lambda: emptied.append(1))
    device = SimpleNamespace(mem_info=(free, 2 * free))
    fake = SimpleNamespace(
        get_default_memory_pool=lambda: pool, cuda=SimpleNamespace(Device=lambda: device), ndarray=type(None)
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return emptied


def refusal(placement: TaskDevice, vectors_: np.ndarray, batch: Batch) -> str:
    with pytest.raises(SemDedupError) as caught:
        placement.retry_on_oom(needing(0, []), vectors_, batch)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_vectors_that_do_not_fit_are_refused_with_the_values_that_would_do(monkeypatch):
    """A raised fraction or fewer rows, as told, are enough for what the vectors take."""
    share, (rows, dim) = 400 << 20, (40_000, 768)
    emptied = cupy_with(monkeypatch, share, 5 << 30)
    message = refusal(TaskDevice("cpu", 0.1), np.empty((rows, dim), np.float32), Batch(8, device_bytes))
    assert message == (
        "40000 rows of length 768 need about 506 MiB and do not fit into a task's share of its GPU at "
        "deviceMemoryFraction=0.1 (400 MiB; of the whole GPU 5,120 MiB are free) even with batchSize lowered from 8 to "
        "1: raise deviceMemoryFraction to 0.13, lower maxClusterRows to 14838, or let fewer tasks share a GPU "
        "(spark.task.resource.gpu.amount)"
    )
    assert len(emptied) == 3  # 8, 4, 2
    assert device_bytes(rows, dim) <= share * 0.13 / 0.1
    assert device_bytes(2 * 14838, dim) <= share


def test_where_settings_cannot_help_no_value_is_told(monkeypatch):
    cupy_with(monkeypatch, 1 << 20, 1 << 20)
    message = refusal(TaskDevice("cpu", 0.4), np.empty((40_000, 768), np.float32), Batch(1, device_bytes))
    assert "raise deviceMemoryFraction, lower maxClusterRows, or" in message  # to 200 and to nothing
    cupy_with(monkeypatch, 4 << 30, 1 << 20)  # others hold the memory
    assert "(4,096 MiB; of the whole GPU 1 MiB are free): raise deviceMemoryFraction, lower" in refusal(
        TaskDevice("cpu", 0.4), ROWS, Batch(1, device_bytes)
    )


def test_vectors_that_cannot_even_be_brought_there_are_refused_at_once(monkeypatch):
    monkeypatch.setattr(TaskDevice, "module", lambda _: SimpleNamespace(asarray=_raise))
    tried: list[int] = []
    placement = TaskDevice("cpu", 0.4)
    batch = Batch(512, vector_bytes, "maxSamplesPerBatch", "fitSampleRows", 1)
    with pytest.raises(SemDedupError, match=r"^4 rows of length 2 .*deviceMemoryFraction=0.4.* lower fitSampleRows"):
        placement.retry_on_oom(needing(1024, tried), ROWS, batch)
    assert tried == []


def test_vectors_are_copied_without_pinned_memory_between(monkeypatch):
    copied: list[np.ndarray] = []
    there = SimpleNamespace(set=copied.append)
    asked: list[tuple] = []
    cupy_like = SimpleNamespace(empty=lambda *shape_and_dtype: asked.append(shape_and_dtype) or there)
    monkeypatch.setattr(TaskDevice, "module", lambda _: cupy_like)
    assert TaskDevice("gpu", 0.4).on_device(ROWS, Batch(512, device_bytes)) is there
    assert asked == [(ROWS.shape, np.float32)]
    assert copied[0] is ROWS


def _raise(*_) -> None:
    raise CupysError("Out of memory allocating 125 bytes")


def test_a_lack_of_host_memory_is_not_blamed_on_a_gpu():
    def work(_) -> None:
        raise MemoryError("of the host")

    with pytest.raises(MemoryError, match="of the host"):
        TaskDevice(
            "gpu",
            0.4,
            1,
            1,
        ) and TaskDevice("cpu", 0.4).retry_on_oom(work, ROWS, Batch(1024, device_bytes))


# --- in tasks -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_gpus(monkeypatch, tmp_path):
    """Has tasks compute with arrays of at most so many bytes. What each halved, and its stderr, is in the folder."""
    pyspark.cloudpickle.register_pickle_by_value(scarce)

    def install(limit: int) -> Path:
        class SmallGpu(TaskDevice):
            def module(self):
                Scarce.limit = limit
                return SimpleNamespace(asarray=lambda values: np.asarray(values).view(Scarce))

            def retry_on_oom(self, work, vectors, batch):
                heard = io.StringIO()
                with contextlib.redirect_stderr(heard):
                    found = super().retry_on_oom(work, vectors, batch)
                with open(tmp_path / f"{batch.name} {os.getpid()}", "a") as told:
                    told.write(heard.getvalue())
                return found

        monkeypatch.setattr(TaskDevice, "of_params", classmethod(lambda cls, spark, params: SmallGpu("cpu", 0.4)))
        return tmp_path

    yield install
    pyspark.cloudpickle.unregister_pickle_by_value(scarce)


@pytest.mark.slow
@pytest.mark.parametrize("coverage", [{}, {"coverage": "exact", "eps": 0.05}], ids=["cluster", "exact"])
def test_a_run_on_gpus_with_too_little_memory_gives_the_same_answer(spark, small_gpus, coverage):
    units = vectors.make("near_duplicates", 1500, 16)
    rows = spark.createDataFrame([(i, unit.tolist()) for i, unit in enumerate(units)], "id int, embedding array<float>")
    model = SemDedupModel(centroids=units[:2], batchSize=256, **coverage)
    roomy = answer(model, rows)
    assert len(roomy) == len(units)
    folder = small_gpus(80_000)
    assert answer(model, rows) == roomy
    for what in ("batchSize=256", "rows assigned at once="):
        told = "".join(path.read_text() for path in folder.glob(f"{what.split('=')[0]} *"))
        assert what in told
        assert "takes more GPU memory than this task has at deviceMemoryFraction=0.4: continuing with" in told


def answer(model: SemDedupModel, rows) -> list:
    result = model.run(rows)
    try:
        return sorted(map(tuple, result.similarities.collect()))
    finally:
        result.unpersist()


def test_a_run_whose_rows_do_not_fit_says_so(spark, small_gpus):
    rows = spark.createDataFrame([(i, [1.0, float(i)]) for i in range(50)], "id int, embedding array<float>")
    small_gpus(10)
    with pytest.raises(Exception, match="SemDedupError") as caught:
        answer(SemDedupModel(centroids=np.eye(2, dtype=np.float32)), rows)
    assert "rows of length 2" in str(error_from_worker(caught.value))


# --- ten times the rows -------------------------------------------------------------------------------------

FEW, DIM, MIB = 12_000, 64, 2**20
SETTINGS = ["--k", "60", "--max-cluster-rows", "1000", "--batch-size", "256"]
"""Clusters of 200 rows, or of 2,000: two tiles or more."""

HEAP = 1024 * MIB
OFF_HEAP = 512 * MIB
"""Of a JVM: class data, compiled code, threads, Arrow's buffers."""

NOISE = 12 * MIB
"""By which two runs of the same differ, allocators being what they are: up to 6 MiB. The vectors of ten times the rows
take 29 MiB, more than twice as much: who held them would be found out."""

IDLE_WORKER = """
import pyspark.worker, pyspark.sql.pandas.serializers, pandas, pyarrow
import spark_semdedup.semdedup
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@dataclass(frozen=True)
class Peaks:
    """Largest resident sets in bytes during a run, and what it said of itself."""

    driver: int
    jvm: int
    worker: int
    """Of the largest of the workers, which are one for each of two cores and kind of function."""
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def peaks(tmp_path_factory) -> tuple[Peaks, Peaks]:
    """Of the whole job, at few rows and at ten times as many, with the same settings."""
    if not Path("/proc/self/status").exists():
        pytest.skip("there is no /proc to read the processes' memory from")
    folder = tmp_path_factory.mktemp("ten times the rows")
    return whole_job(folder / "few", FEW), whole_job(folder / "many", 10 * FEW)


def whole_job(folder: Path, rows: int) -> Peaks:
    write_rows(folder / "documents", rows)
    command = [sys.executable, "-m", "spark_semdedup", "run", "--local-cores", "2", "--local-memory", "1"]
    command += ["--input", str(folder / "documents"), "--output", str(folder / "result"), *SETTINGS]
    with open(folder / "said", "w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        peak = watch(process, seconds=500)
    assert process.returncode == 0, (folder / "said").read_text()
    return Peaks(**peak, summary=json.loads((folder / "result" / "summary.json").read_text()))


def write_rows(folder: Path, rows: int) -> None:
    """Around 60 directions, whatever their number; in files of ``FEW`` / 2 rows."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((60, DIM))
    folder.mkdir(parents=True)
    for start in range(0, rows, FEW // 2):
        x = centres[rng.integers(60, size=FEW // 2)] + 0.5 * rng.standard_normal((FEW // 2, DIM))
        lists = pa.FixedSizeListArray.from_arrays(pa.array(x.astype(np.float32).ravel()), DIM)
        ids = np.arange(start, start + FEW // 2)
        table = pa.table({"id": ids, "embedding": lists.cast(pa.list_(pa.float32()))})
        pq.write_table(table, folder / f"{start}.parquet")


def watch(process: subprocess.Popen, seconds: float) -> dict[str, int]:
    """Reads, until it ends, the high-water marks of a process and all below it, which the kernel keeps."""
    import psutil

    peak = {"driver": 0, "jvm": 0, "worker": 0}
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                with contextlib.suppress(psutil.Error, OSError):  # one that has just ended
                    kind = kind_of(each, process.pid)
                    if kind:
                        peak[kind] = max(peak[kind], high_water_mark(each.pid))
        if time.monotonic() > deadline:
            process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    return peak


def kind_of(process, driver: int) -> str | None:
    if process.pid == driver:
        return "driver"
    if process.name() == "java":
        return "jvm"
    return "worker" if "pyspark.daemon" in process.cmdline() else None


def high_water_mark(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


@pytest.mark.slow
def test_ten_times_the_rows_are_more_tasks_not_larger_ones(peaks):
    few, many = (each.summary for each in peaks)
    assert (few["rows_in"], many["rows_in"]) == (FEW, 10 * FEW)
    assert many["planned"]["tasks"] > 2 * few["planned"]["tasks"]
    assert many["planned"]["task_bytes"] <= worker_bytes(2 * 1000, DIM)


@pytest.mark.slow
def test_a_worker_takes_what_the_largest_task_is_said_to_take(peaks):
    """16 · d + 500 bytes for each of its rows and a constant, beside what an idle worker has. So ten times the rows add
    no more than the larger task does, and noise."""
    few, many = peaks
    idle = 1024 * int(subprocess.check_output([sys.executable, "-c", IDLE_WORKER], text=True))
    for each in peaks:
        assert idle / 2 < each.worker <= idle + each.summary["planned"]["task_bytes"]
    larger = many.summary["planned"]["task_bytes"] - few.summary["planned"]["task_bytes"]
    assert many.worker - few.worker <= larger + NOISE


@pytest.mark.slow
def test_the_driver_does_not_grow(peaks):
    """It holds the sample, 64 rows for each centroid, those that sizes are estimated from, and a line for each task."""
    few, many = peaks
    assert min(few.driver, many.driver) > 32 * MIB  # an interpreter with NumPy and Arrow
    assert many.driver - few.driver <= NOISE


@pytest.mark.slow
def test_the_jvm_keeps_to_its_heap(peaks):
    for each in peaks:
        assert HEAP / 8 < each.jvm <= HEAP + OFF_HEAP
