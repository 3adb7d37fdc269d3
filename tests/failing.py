"""Failures made on purpose: what the driver of a real cluster runs in a process of its own, and where its tasks stop.

A run has places: ``sample`` (the fit's), ``assign`` and ``compare``. The driver arms one of them. The first task to
come there tells its process ids and waits; the driver strikes, with ``os.kill`` for example, and releases the task, if
it still lives. So nothing depends on time, and the product knows nothing of it: the driver wraps the functions that it
sends to the tasks. A fourth, ``remove``, lies between two jobs: what the comparison found is kept, and rows are about
to be removed; there the driver strikes on its own.
"""

from __future__ import annotations

import glob
import json
import os
import resource
import shutil
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession

from spark_semdedup import SemDedup
from spark_semdedup.clustering import sample as sampling
from spark_semdedup.clustering.assign import Assigner
from spark_semdedup.pairwise import execute as pairwise
from spark_semdedup.pairwise import packing as planning
from spark_semdedup.pairwise import regions
from spark_semdedup.pairwise import rows as comparable
from spark_semdedup.pairwise.task import GroupComparison
from spark_semdedup.spark import small

PATIENCE = 90.0
"""Seconds after which something that is waited for is said not to have happened."""

TASKS = 6
"""Tasks of each comparison."""

FOLDER = "SEMDEDUP_FAILURES"
"""Environment variable of driver and executors: the folder in which they leave word for each other."""


def wait_for(what: Callable[[], Any], words: str, seconds: float = PATIENCE) -> Any:
    """What a function gives as soon as that is not false."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{words}: not within {seconds:.0f} s")
        time.sleep(0.02)
    return found


# --- in the tasks -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrival:
    """Where a task stopped: its Python worker, the daemon that forked it, the executor, and that one's parent."""

    place: str
    stage: int
    attempt: int
    worker: int
    daemon: int
    executor: int
    parent: int
    local_dirs: list[str]


def stop_at(place: str) -> None:
    """The first task to come to an armed place tells who it is and waits to be released."""
    armed = Path(os.environ[FOLDER], f"armed-{place}")
    try:
        folder = Path(armed.read_text())
        (folder / "taken").touch(exist_ok=False)
    except FileNotFoundError:  # not armed
        return
    except FileExistsError:  # another task was first
        return
    context, daemon = TaskContext.get(), os.getppid()
    executor = parent_of(daemon)
    arrival = Arrival(
        place=place,
        stage=context.stageId(),
        attempt=context.attemptNumber(),
        worker=os.getpid(),
        daemon=daemon,
        executor=executor,
        parent=parent_of(executor),
        local_dirs=os.environ["SPARK_LOCAL_DIRS"].split(","),
    )
    (folder / "arrival.part").write_text(json.dumps(asdict(arrival)))
    (folder / "arrival.part").rename(folder / "arrival")
    order = wait_for(lambda: (folder / "order").exists() and (folder / "order").read_text(), "an order from the driver")
    if order == "fail":
        raise RuntimeError("this attempt fails, the next will not")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but not been waited for does not."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def processes(*words: str) -> set[int]:
    """Processes whose command line has all these words."""
    found = set()
    for place in glob.glob("/proc/[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if {word.encode() for word in words} <= set(Path(place, "cmdline").read_bytes().split(b"\0")):
                found.add(int(place.rpartition("/")[2]))
    return found


def stopping(place: str, function: Callable) -> Callable:
    """The function, with a place before it."""

    def stop_and_call(*arguments):
        stop_at(place)
        return function(*arguments)

    return stop_and_call


@dataclass(frozen=True)
class StoppingComparison(GroupComparison):
    def __call__(self, group: pd.DataFrame) -> pd.DataFrame:
        stop_at("compare")
        return super().__call__(group)


class StoppingAssigner:
    @staticmethod
    def of(*args: Any, **more: Any) -> Callable:
        return stopping("assign", Assigner.of(*args, **more))


# --- on the driver: the cluster -----------------------------------------------------------------------------


def set_up_places() -> None:
    """Wraps what the driver sends to the tasks."""
    sampler = sampling._sampler
    sampling._sampler = lambda *args: stopping("sample", sampler(*args))
    comparable.Assigner = StoppingAssigner
    pairwise.GroupComparison = StoppingComparison
    # As many tasks as a large input is compared in: some have yet to begin when the first one stops.
    planning.default_partitions = regions.default_partitions = lambda *_: TASKS
    small.SMALL_BYTES = -1  # nor are rows read and compared as a small table's are


@dataclass
class Driver:
    """The one session of this process, and what it left as its log of events."""

    spark: SparkSession
    folder: Path
    executors: int
    rows: DataFrame
    numbered: Iterator[int] = field(default_factory=lambda: iter(range(1000)))

    def executor_pids(self) -> set[int]:
        """The executors of this application among the machine's processes."""
        return processes("--executor-id", self.spark.sparkContext.applicationId)

    def registered(self) -> int:
        """Executors that the driver knows; it counts itself, too."""
        return self.spark.sparkContext._jsc.sc().getExecutorMemoryStatus().size() - 1

    def wait_until_whole(self) -> None:
        wait_for(lambda: self.registered() >= self.executors, f"{self.executors} executors registered")

    def events(self) -> list[dict[str, Any]]:
        """What has happened so far; the log is written a little later than it happens."""
        (log,) = (self.folder / "events").glob("[!.]*")
        lines = log.read_text().split("\n")
        return [json.loads(line) for line in lines[:-1] if line]  # the last may be half written


_DRIVER: list[Driver] = []


def start(master: str, folder: str, executors: int, conf: Mapping[str, str], environment: Mapping[str, str]) -> None:
    """Starts this process's session; ``folder`` has the rows, as Parquet, in ``rows``."""
    os.environ.update(environment)
    os.environ[FOLDER] = folder
    place = Path(folder)
    (place / "events").mkdir()
    builder = SparkSession.builder.master(master).appName("failures")
    fast = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
    settings = {
        "spark.driver.memory": "1g",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraJavaOptions": fast,
        "spark.executor.memory": "640m",
        "spark.executor.cores": "1",
        "spark.executor.extraJavaOptions": fast,
        "spark.python.daemon.module": "daemon_without_zips",
        "spark.sql.codegen.wholeStage": "false",  # as in the suite's session: a few rows, many queries
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        f"spark.executorEnv.{FOLDER}": folder,
        "spark.local.dir": f"{place}/local",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": f"file:{place}/events",
        "spark.eventLog.compress": "false",
        "spark.eventLog.rolling.enabled": "false",
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.files.maxPartitionBytes": str(2**20),  # and every file weighs at least this: one task for each
        "spark.sql.files.openCostInBytes": str(2**20),
        "spark.shuffle.io.maxRetries": "1",  # an executor that has been killed is not waited for
        "spark.shuffle.io.retryWait": "100ms",
        **conf,
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("OFF")
    set_up_places()
    rows = spark.read.parquet(f"{place}/rows")
    _DRIVER.append(Driver(spark, place, executors, rows))
    _DRIVER[0].wait_until_whole()


def stop() -> None:
    _DRIVER.pop().spark.stop()


# --- on the driver: a run, and a strike ----------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """The whole answer, and what happened on the way to it."""

    centroids: bytes
    similarities: dict[str, tuple[str, bytes]]
    """id → (max_id, bits of the score)"""
    duplicates: list[str]
    kept: list[str]
    arrival: Arrival | None
    endings: dict[str, int]
    """How the tasks that did not succeed ended: number of each reason that Spark gives."""
    executors_lost: int
    stages_again: int
    """Stages of which there was more than one attempt."""
    speculative: int
    """Second copies of tasks that succeeded before the first."""
    gone: bool
    """Whether the process struck has ended."""


def run(strike: str = "", when: str = "", params: Mapping[str, Any] | None = None) -> Outcome:
    """Deduplicates the rows; a failure strikes the task that first comes to the place ``when``."""
    try:
        return _run(_DRIVER[0], strike, when, params or {})
    except Exception:  # Spark's own cannot be sent to another process
        raise RuntimeError(traceback.format_exc()) from None


def _run(driver: Driver, strike: str, when: str, params: Mapping[str, Any]) -> Outcome:
    driver.wait_until_whole()
    before = len(driver.events())
    kept = f"{driver.folder}/kept-{next(driver.numbered)}"
    with striking(driver, strike, when) as struck:
        struck.arm("sample")
        model = SemDedup(k=6, eps=0.05, backend="cpu", clusterer="faiss", **params).fit(driver.rows)
        struck.arm("assign", "compare")
        result = model.run(driver.rows)
        found = result.similarities.collect()
        struck.arm("remove")
        result.deduplicated.write.parquet(kept)
        duplicates = [row.id for row in result.duplicates.collect()]
        result.unpersist()
    left = [row.id for row in driver.spark.read.parquet(kept).select("id").collect()]
    answer = {row.id: (row.max_id, np.float32(row.cosine_sim_score).tobytes()) for row in found}
    assert len(answer) == len(found)
    return Outcome(
        centroids=model.centroids.tobytes(),
        similarities=answer,
        duplicates=sorted(duplicates),
        kept=sorted(left),
        arrival=struck.arrival,
        gone=struck.gone(),
        **what_happened(driver.events()[before:]),
    )


def what_happened(events: list[dict[str, Any]]) -> dict[str, Any]:
    ends = [event for event in events if event["Event"] == "SparkListenerTaskEnd"]
    reasons = Counter(event["Task End Reason"]["Reason"] for event in ends)
    del reasons["Success"]
    second = [event for event in ends if event["Task Info"]["Speculative"]]
    stages = [event["Stage Info"] for event in events if event["Event"] == "SparkListenerStageSubmitted"]
    return {
        "endings": dict(reasons),
        "executors_lost": sum(event["Event"] == "SparkListenerExecutorRemoved" for event in events),
        "stages_again": len({stage["Stage ID"] for stage in stages if stage["Stage Attempt ID"] > 0}),
        "speculative": sum(event["Task End Reason"]["Reason"] == "Success" for event in second),
    }


@dataclass
class Struck:
    """One strike: armed, made, undone."""

    driver: Driver
    name: str
    when: str
    arrival: Arrival | None = None
    target: int | None = None
    folder: Path = Path()
    undo: list[Callable[[], None]] = field(default_factory=list)

    def arm(self, *places: str) -> None:
        """Says that the run now comes to these places."""
        if self.when in places and self.when == "remove":
            self.target = STRIKES[self.name](self)
        elif self.when in places:
            Path(self.driver.folder, f"armed-{self.when}").write_text(str(self.folder))

    def gone(self) -> bool:
        """Whether the process struck has ended; Spark ends one that it needs no more a few seconds later."""
        with suppress(TimeoutError):
            return self.target is not None and wait_for(lambda: not is_alive(self.target), "its end", 15)
        return False

    def strike(self) -> None:
        """Waits for a task and strikes."""
        wait_for((self.folder / "arrival").exists, f"a task at {self.when}")
        self.arrival = Arrival(**json.loads((self.folder / "arrival").read_text()))
        self.target = STRIKES[self.name](self)

    def order(self, word: str) -> None:
        (self.folder / "order.part").write_text(word)
        (self.folder / "order.part").rename(self.folder / "order")


@contextmanager
def striking(driver: Driver, name: str, when: str) -> Iterator[Struck]:
    struck = Struck(driver, name, when)
    if when in ("", "remove"):
        yield struck
        return
    struck.folder = Path(driver.folder, f"strike-{next(driver.numbered)}")
    struck.folder.mkdir()
    failed: list[BaseException] = []

    def strike() -> None:
        try:
            struck.strike()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=strike, name="strike")
    thread.start()
    try:
        yield struck
    finally:
        Path(driver.folder, f"armed-{when}").unlink(missing_ok=True)
        thread.join()
        for undo in struck.undo:
            undo()
    if failed:
        raise failed[0]


# --- the strikes: each gives the id of the process that it ended, if it did -----------------------------------


def kill(struck: Struck, pid: int) -> int:
    """Ends a process and, when it is gone, releases the task."""
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(pid), f"process {pid} gone")
    if struck.arrival is not None:
        struck.order("go on")
    return pid


def kill_executor(struck: Struck) -> int:
    return kill(struck, struck.arrival.executor)


def kill_an_executor(struck: Struck, pid: int | None = None) -> int:
    """Any; the driver knows of it before it goes on."""
    pid = kill(struck, pid or min(struck.driver.executor_pids()))
    wait_for(lambda: struck.driver.registered() < struck.driver.executors, "the executor's end known")
    return pid


def kill_other_executor(struck: Struck) -> int:
    (other,) = struck.driver.executor_pids() - {struck.arrival.executor}
    return kill(struck, other)


def kill_python_worker(struck: Struck) -> int:
    return kill(struck, struck.arrival.worker)


def kill_python_daemon(struck: Struck) -> int:
    """With all workers that it has forked, which are of its process group."""
    os.killpg(struck.arrival.daemon, signal.SIGKILL)
    wait_for(lambda: not is_alive(struck.arrival.worker), "the worker gone with its daemon")
    return struck.arrival.daemon


def kill_cluster_worker(struck: Struck) -> int:
    """The daemon of a standalone cluster that started the executor, which ends itself then."""
    pid = kill(struck, struck.arrival.parent)
    wait_for(lambda: not is_alive(struck.arrival.executor), "the executor gone with its worker")
    return pid


def kill_cluster_master(struck: Struck) -> int:
    """The process that the test started beside the worker whose executor has the task."""
    (master,) = (
        pid
        for pid in processes("org.apache.spark.deploy.master.Master")
        if parent_of(pid) == parent_of(struck.arrival.parent)
    )
    return kill(struck, master)


def hang_python_worker(struck: Struck) -> int:
    """It lives on and answers no more, not even when it is released."""
    os.kill(struck.arrival.worker, signal.SIGSTOP)
    struck.order("go on")
    return struck.arrival.worker


def hang_executor(struck: Struck) -> int:
    """It lives on and answers no more, so that nothing tells it from one behind a broken network."""
    executor = struck.arrival.executor
    os.kill(executor, signal.SIGSTOP)
    struck.order("go on")

    def end() -> None:
        with suppress(ProcessLookupError):
            os.kill(executor, signal.SIGKILL)
        wait_for(lambda: not is_alive(executor), "the hanging executor gone")

    struck.undo.append(end)
    return executor


def slow_down(struck: Struck) -> None:
    """The task waits, until the run has ended without it."""
    struck.undo.append(lambda: struck.order("go on"))


def fail_once(struck: Struck) -> None:
    struck.order("fail")


def lose_shuffle_files(struck: Struck) -> None:
    """Of all executors, when all have been written and the first comparison has read its own."""
    for executor in struck.driver.executor_pids():
        lost = [file for place in block_folders(executor) for file in glob.glob(f"{place}/*/shuffle_*")]
        assert lost, f"executor {executor} has no shuffle files"
        for file in lost:
            os.unlink(file)
    struck.order("go on")


def lose_local_folder(struck: Struck) -> None:
    """The disk of one executor is gone, with all that was on it; nothing can be written there either."""
    for place in struck.arrival.local_dirs:
        shutil.rmtree(place)
        Path(place).touch()
    # For the runs to come, another executor in its place.
    struck.undo.append(lambda: kill_an_executor(struck, struck.arrival.executor))
    struck.order("go on")


def fill_disk(struck: Struck) -> None:
    """One executor can write no file of more than 200 bytes, as if its disk were full, until the run has ended."""
    executor = struck.arrival.executor
    before = resource.prlimit(executor, resource.RLIMIT_FSIZE)
    resource.prlimit(executor, resource.RLIMIT_FSIZE, (200, before[1]))
    struck.undo.append(lambda: resource.prlimit(executor, resource.RLIMIT_FSIZE, before))
    struck.order("go on")


def block_folders(executor: int) -> list[str]:
    """Where an executor keeps its blocks."""
    environment = dict(line.split("=", 1) for line in Path(f"/proc/{executor}/environ").read_text().split("\0") if line)
    roots = environment["SPARK_EXECUTOR_DIRS"].split(os.pathsep)
    return [place for root in roots for place in glob.glob(f"{root}/blockmgr-*")]


STRIKES: dict[str, Callable[[Struck], int | None]] = {
    function.__name__: function
    for function in (
        kill_executor,
        kill_an_executor,
        kill_other_executor,
        kill_python_worker,
        kill_python_daemon,
        kill_cluster_worker,
        kill_cluster_master,
        hang_python_worker,
        hang_executor,
        slow_down,
        fail_once,
        lose_shuffle_files,
        lose_local_folder,
        fill_disk,
    )
}
