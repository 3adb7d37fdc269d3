"""A standalone cluster of Spark's on this machine: a master and workers, each a process, on the loopback interface."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyspark

PATIENCE = 60.0
"""Seconds that a daemon may take to start."""


@contextmanager
def cluster(folder: Path, workers: int = 2, *, cores: int = 1, memory: str = "1g", **environment: str) -> Iterator[str]:
    """The master's URL while the cluster runs; the workers' folders are ``folder/worker-0`` ….

    ``cores``, ``memory``: of each worker.

    The daemons get this process's environment and ``environment``, but neither its ``PYTHONPATH`` nor its Python:
    what executors import is what the application brings.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("PY")}
    own |= {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m", "SPARK_LOCAL_DIRS": str(folder / "local")}
    own |= {"SPARK_DAEMON_JAVA_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC", **environment}
    running: list[subprocess.Popen] = []

    def start(name: str, *words: str, says: str) -> str:
        """Starts a daemon and waits until it says so. Returns the rest of that line."""
        log = folder / f"{name.partition('.')[0]}-{len(running)}.log"
        program = Path(pyspark.__file__).parent / "bin" / "spark-class"
        command = [program, f"org.apache.spark.deploy.{name}", "--host", "127.0.0.1", "--webui-port", "0", *words]
        with log.open("w") as output:
            running.append(subprocess.Popen(command, env=own, stdout=output, stderr=subprocess.STDOUT))
        deadline = time.monotonic() + PATIENCE
        while True:
            said = [line.partition(says)[2].strip() for line in log.read_text().splitlines() if says in line]
            if said:
                return said[0]
            assert running[-1].poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"{name} has not said {says!r}: {log.read_text()}"
            time.sleep(0.05)

    try:
        url = start("master.Master", "--port", "0", says="Starting Spark master at ")
        for number in range(workers):
            words = ("--cores", str(cores), "--memory", memory, "--work-dir", str(folder / f"worker-{number}"), url)
            start("worker.Worker", *words, says="Successfully registered with master")
        yield url
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(PATIENCE)
