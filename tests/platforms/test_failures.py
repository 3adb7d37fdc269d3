"""Nothing is lost when parts of a cluster are: real clusters of several processes, whose parts are killed.

Each test checks that the failure did happen, and the whole answer: centroids and rows that remain as in a run without a
failure, similarities as the oracle finds them for these centroids. ``failures.py`` lists them in words, ``failing.py``
is what runs on the clusters.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import failing
import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
import vectors
from failing import Outcome, wait_for
from failures import FAILURES

ROOT = Path(__file__).parents[2]
D, FILES = 12, 4
EPS = 0.05

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc (Linux)")


# --- the input ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    ids: list[str]
    rows: np.ndarray

    @classmethod
    def make(cls) -> Corpus:
        rng = np.random.default_rng(3)
        near = vectors.make("near_duplicates", 240, D, seed=1)
        rows = np.concatenate([near, vectors.make("random", 120, D, seed=2), near[:40]])
        return cls([f"row-{i:03}" for i in rng.permutation(len(rows))], rows)

    def write(self, folder: Path) -> None:
        """One file for each task that reads."""
        folder.mkdir(parents=True)
        for i in range(FILES):
            part = slice(i, None, FILES)
            table = {"id": self.ids[part], "embedding": pa.array(list(self.rows[part]), pa.list_(pa.float32()))}
            pq.write_table(pa.table(table), folder / f"part-{i}.parquet")


CORPUS = Corpus.make()


USUAL: dict[str, Outcome] = {}
"""Outcomes without a failure, by settings; on whatever cluster, for that makes no difference."""

SAME_ANSWER = ("maxClusterRows",)
"""Settings that make none either."""


# --- clusters -----------------------------------------------------------------------------------------------


@dataclass
class Cluster:
    """An application on a cluster: its driver is a process of its own, since a process has one Spark at most."""

    master: str
    folder: Path
    conf: dict[str, str]
    environment: dict[str, str]
    pool: ProcessPoolExecutor = field(init=False)

    def __enter__(self) -> Cluster:
        CORPUS.write(self.folder / "rows")
        self.pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self.do(failing.start, self.master, str(self.folder), 2, self.conf, self.environment)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.do(failing.stop)
        finally:
            self.end()

    def do(self, function: Callable, *arguments: Any) -> Any:
        """Has the driver call a function. One that does not answer is ended, and what is asked of it later fails."""
        try:
            return self.pool.submit(function, *arguments).result(timeout=2 * failing.PATIENCE)
        except FutureTimeoutError:
            self.end()
            raise

    def end(self) -> None:
        driver = list((self.pool._processes or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in driver:
            process.terminate()  # its JVM ends when its standard input does

    def without_failure(self, params: dict[str, Any]) -> Outcome:
        key = repr({name: value for name, value in params.items() if name not in SAME_ANSWER})
        if key not in USUAL:
            USUAL[key] = self.do(failing.run, "", "", params)
        return USUAL[key]


def spark_home(folder: Path) -> Path:
    """Spark as it is installed, but for the folder ``work``, which a cluster within the driver writes to."""
    home = folder / "spark"
    home.mkdir(parents=True)
    for entry in Path(pyspark.__file__).parent.iterdir():
        (home / entry.name).symlink_to(entry)
    (home / "work").unlink(missing_ok=True)
    return home


def environment(home: Path) -> dict[str, str]:
    paths = [str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


@pytest.fixture(scope="module")
def local_cluster(tmp_path_factory) -> Iterator[Cluster]:
    """Master and workers within the driver, executors as processes."""
    folder = tmp_path_factory.mktemp("local-cluster")
    conf = {
        # An executor that hangs is lost after this time.
        "spark.network.timeout": "8s",
        "spark.executor.heartbeatInterval": "1s",
        "spark.network.timeoutInterval": "1s",
    }
    with Cluster("local-cluster[2,1,1024]", folder / "application", conf, environment(spark_home(folder))) as cluster:
        yield cluster


@dataclass
class Daemons:
    """Master and workers of a standalone cluster, each a process; the workers have hosts of their own, for Spark runs a
    second copy of a task on another host only."""

    home: Path
    folder: Path
    running: dict[str, subprocess.Popen] = field(default_factory=dict)

    def start(self, name: str, *words: str, says: str, host: str = "127.0.0.1") -> str:
        """Starts a daemon and waits until it says so. Returns the rest of that line."""
        kind = "master.Master" if name == "master" else "worker.Worker"
        log = self.folder / f"{name}-{len(list(self.folder.glob(f'{name}-*')))}.log"
        own = {"SPARK_LOCAL_IP": host, "SPARK_LOCAL_DIRS": str(self.folder / f"local-{name}")}
        own |= {"SPARK_DAEMON_MEMORY": "256m", "SPARK_DAEMON_JAVA_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
        command = [self.home / "bin/spark-class", f"org.apache.spark.deploy.{kind}", "--host", host]
        with log.open("w") as output:
            self.running[name] = subprocess.Popen(
                [*command, "--webui-port", "0", *words],
                env={**os.environ, **environment(self.home), **own},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

        def said() -> list[str]:
            assert self.running[name].poll() is None, log.read_text()
            return [line.partition(says)[2] for line in log.read_text().splitlines() if says in line]

        return wait_for(said, f"{name} says {says!r}")[0].strip()

    def start_missing(self, url: str) -> None:
        """Starts workers that have been killed."""
        for number in (1, 2):
            name = f"worker{number}"
            if name not in self.running or self.running[name].poll() is not None:
                words = ("--cores", "1", "--memory", "1g", "--work-dir", str(self.folder / name), url)
                self.start(name, *words, says="Successfully registered with master", host=f"127.0.0.{number}")

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(failing.PATIENCE)


@dataclass
class Standalone:
    cluster: Cluster
    daemons: Daemons
    url: str

    def mended(self) -> Cluster:
        """The cluster, with workers in place of those that have been killed."""
        self.daemons.start_missing(self.url)
        return self.cluster


@pytest.fixture(scope="module")
def standalone(tmp_path_factory) -> Iterator[Standalone]:
    """A master and two workers; speculation is on, and a task is not tried again where it has failed."""
    folder = tmp_path_factory.mktemp("standalone")
    home = spark_home(folder)
    daemons = Daemons(home, folder)
    conf = {
        "spark.speculation": "true",
        "spark.speculation.interval": "100ms",
        "spark.speculation.quantile": "0.5",
        "spark.speculation.minTaskRuntime": "500ms",
        "spark.excludeOnFailure.enabled": "true",
        # These would give up an executor, and with it half of this cluster, for the tests to come.
        "spark.excludeOnFailure.stage.maxFailedTasksPerExecutor": "100",
        "spark.excludeOnFailure.application.maxFailedTasksPerExecutor": "100",
    }
    try:
        url = daemons.start("master", "--port", "0", says="Starting Spark master at ")
        daemons.start_missing(url)
        with Cluster(url, folder / "application", conf, environment(home)) as cluster:
            yield Standalone(cluster, daemons, url)
    finally:
        daemons.stop()


# --- the tests ----------------------------------------------------------------------------------------------


def same_answer(outcome: Outcome, usual: Outcome, params: dict[str, Any]) -> None:
    """The whole answer, also against the oracle where every row is compared in its own cluster only."""
    assert outcome.centroids == usual.centroids
    assert outcome.similarities == usual.similarities
    assert outcome.duplicates == usual.duplicates
    assert outcome.kept == usual.kept
    assert len(outcome.duplicates) + len(outcome.kept) == len(CORPUS.ids)
    assert len(outcome.duplicates) > 100
    if "coverage" not in params:
        centroids = np.frombuffer(outcome.centroids, np.float32).reshape(-1, D)
        true = oracle.answer(CORPUS.ids, CORPUS.rows, centroids)
        assert outcome.similarities == {id_: (other, score.tobytes()) for id_, (other, score) in true.items()}


@dataclass(frozen=True)
class Scenario:
    strike: str
    when: str
    happened: Callable[[Outcome], bool]
    """Whether Spark's log of events tells of the failure."""
    params: dict[str, Any] = field(default_factory=dict)
    on: str = "local_cluster"


def lost_executor(outcome: Outcome) -> bool:
    return outcome.gone and outcome.executors_lost >= 1 and outcome.endings.get("ExecutorLostFailure", 0) >= 1


def fetched_in_vain(outcome: Outcome) -> bool:
    return outcome.endings.get("FetchFailed", 0) >= 1 and outcome.stages_again >= 1


def failed(outcome: Outcome) -> bool:
    return outcome.endings.get("ExceptionFailure", 0) >= 1


SCENARIOS = {
    "a task fails once": Scenario("fail_once", "sample", failed),
    "an executor is killed in the fit": Scenario("kill_executor", "sample", lost_executor),
    "an executor is killed in the assignment": Scenario("kill_executor", "assign", lost_executor),
    "an executor is killed in the shuffle": Scenario(
        "kill_other_executor", "compare", lambda outcome: lost_executor(outcome) and fetched_in_vain(outcome)
    ),
    "an executor is killed in the comparison": Scenario("kill_executor", "compare", lost_executor),
    "an executor is killed in the comparison of tiles": Scenario(
        "kill_executor", "compare", lost_executor, {"maxClusterRows": 16}
    ),
    "an executor is killed in exact coverage": Scenario(
        "kill_executor", "compare", lost_executor, {"coverage": "exact", "whichToKeep": "first"}
    ),
    "an executor is killed when rows are removed": Scenario(
        "kill_an_executor", "remove", lambda o: o.gone and o.executors_lost >= 1
    ),
    "an executor answers no more": Scenario("hang_executor", "compare", lost_executor),
    "a Python worker is killed": Scenario(
        "kill_python_worker", "assign", lambda outcome: outcome.gone and failed(outcome)
    ),
    "the Python daemon is killed": Scenario(
        "kill_python_daemon", "compare", lambda outcome: outcome.gone and failed(outcome)
    ),
    "shuffle files are lost": Scenario("lose_shuffle_files", "compare", fetched_in_vain),
    "tasks run twice": Scenario(
        "slow_down", "assign", lambda o: o.speculative >= 1 and o.endings.get("TaskKilled", 0) >= 1, on="standalone"
    ),
    "a Python worker hangs": Scenario(
        "hang_python_worker", "compare", lambda outcome: outcome.gone and outcome.speculative >= 1, on="standalone"
    ),
    "a disk is full": Scenario("fill_disk", "compare", failed, on="standalone"),
    "a local folder is lost": Scenario("lose_local_folder", "compare", failed, on="standalone"),
    "a worker of the cluster is killed": Scenario("kill_cluster_worker", "compare", lost_executor, on="standalone"),
    "the master of the cluster is killed": Scenario(
        "kill_cluster_master", "assign", lambda outcome: outcome.gone, on="standalone"
    ),
}


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_same_answer(request, name):
    scenario = SCENARIOS[name]
    where = request.getfixturevalue(scenario.on)
    cluster = where if isinstance(where, Cluster) else where.mended()
    usual = cluster.without_failure(scenario.params)
    outcome = cluster.do(failing.run, scenario.strike, scenario.when, scenario.params)
    told = (outcome.arrival, outcome.endings, outcome.executors_lost, outcome.stages_again, outcome.speculative)
    assert scenario.happened(outcome), told
    same_answer(outcome, usual, scenario.params)


def test_every_failure_has_its_test():
    listed = {failure.test.partition("[")[2].rstrip("]"): failure for failure in FAILURES if "[" in failure.test}
    assert set(SCENARIOS) <= set(listed)
    assert len({failure.name for failure in FAILURES}) == len(FAILURES)
    for failure in FAILURES:
        file, _, function = failure.test.partition("[")[0].partition("::")
        assert f"def {function}(" in (ROOT / file).read_text("utf-8"), failure.test
