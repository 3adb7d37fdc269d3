"""Every failure that is tried: what the test does, what is promised, and the test that says whether it holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    name: str
    done: str
    """What the test does."""
    promised: str
    """What holds all the same."""
    test: str
    """Its node id."""


SAME = "the same centroids, similarities, duplicates and rows that remain, bit for bit"

_CLUSTER = "tests/test_failures.py::test_same_answer"


def _same(name: str, done: str, promised: str = SAME) -> Failure:
    return Failure(name, done, promised, f"{_CLUSTER}[{name}]")


FAILURES: list[Failure] = [
    _same(
        "a task fails once",
        "a task that takes the fit's sample raises an exception; Spark runs it again",
    ),
    _same(
        "an executor is killed in the fit",
        "SIGKILL to the executor whose task takes the fit's sample",
    ),
    _same(
        "an executor is killed in the assignment",
        "SIGKILL to the executor whose task assigns rows to centroids",
    ),
    _same(
        "an executor is killed in the shuffle",
        "SIGKILL to the other executor, which holds rows that tasks of the comparison have yet to fetch",
    ),
    _same(
        "an executor is killed in the comparison",
        "SIGKILL to the executor whose task compares a group",
    ),
    _same(
        "an executor is killed in the comparison of tiles",
        "the same with clusters that are split into tiles, so that entries for one row come from several tasks",
    ),
    _same(
        "an executor is killed in exact coverage",
        "the same with rows that visit several clusters",
    ),
    _same(
        "an executor is killed when rows are removed",
        "SIGKILL to an executor before the rows that remain are written; its part of the kept comparison is lost with "
        "it and computed again",
    ),
    _same(
        "an executor answers no more",
        "SIGSTOP to an executor in the comparison; after spark.network.timeout without a heartbeat Spark takes it for "
        "lost",
    ),
    _same(
        "a Python worker is killed",
        "SIGKILL to the Python process that assigns rows, as the kernel does where memory runs out",
    ),
    _same(
        "the Python daemon is killed",
        "SIGKILL to the process from which an executor forks its Python workers, and to these, in the comparison",
    ),
    _same(
        "shuffle files are lost",
        "all shuffle files of both executors are deleted while the comparison runs",
    ),
    _same(
        "tasks run twice",
        "spark.speculation: a task that assigns rows waits until its second copy, on the other executor, has won",
    ),
    _same(
        "a Python worker hangs",
        "SIGSTOP to the Python process that compares a group",
        f"{SAME}; what ends it is speculation (spark.speculation=true), or, from Spark 4.1 on, "
        "spark.python.worker.idleTimeoutSeconds with spark.python.worker.killOnIdleTimeout=true. With Spark's "
        "defaults, and in 3.5 at all without speculation, the job waits for ever",
    ),
    _same(
        "a disk is full",
        "an executor can write no more (RLIMIT_FSIZE), from its first comparison on",
        f"{SAME}, where another executor has room: spark.excludeOnFailure.enabled=true keeps Spark from trying the "
        "task there again. Otherwise the job may fail; nothing half-written is then valid",
    ),
    _same(
        "a local folder is lost",
        "the folder in which an executor keeps its shuffle files is deleted and cannot be made again",
        f"{SAME}, under the same condition",
    ),
    _same(
        "a worker of the cluster is killed",
        "SIGKILL to a standalone cluster's worker; its executor ends itself, and the other one does the work",
    ),
    _same(
        "the master of the cluster is killed",
        "SIGKILL to a standalone cluster's master during the assignment; a running application does not need it",
    ),
]
