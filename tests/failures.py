"""Every failure with a test: what the test does, what the package promises, and the node id of the test."""

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


SAME = "the same centroids, similarities, duplicates and kept rows, bit for bit"

_CLUSTER = "tests/platforms/test_failures.py::test_same_answer"

_LINEAGE = "tests/spark/test_lineage.py"

_RESUME = "tests/runs/test_resume.py"

_RESUMED = "after --resume the answer of an uninterrupted run, and no other files in the folder"


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
        "the same with clusters that are split into tiles, so that several tasks report matches of one row",
    ),
    _same(
        "an executor is killed in exact coverage",
        "the same with rows that visit several clusters",
    ),
    _same(
        "an executor is killed when rows are removed",
        "SIGKILL to an executor before the kept rows are written; Spark computes its part of the comparison again",
    ),
    _same(
        "an executor answers no more",
        "SIGSTOP to an executor in the comparison; after spark.network.timeout without a heartbeat Spark replaces it",
    ),
    _same(
        "a Python worker is killed",
        "SIGKILL to the Python process that assigns rows, as the kernel does when memory runs out",
    ),
    _same(
        "the Python daemon is killed",
        "SIGKILL to the Python workers of an executor and to the process that forks them, in the comparison",
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
        f"{SAME}, with spark.speculation=true: a copy of the task on another host wins, and Spark ends the first. "
        "Spark 4.1 can also end the worker: spark.python.worker.idleTimeoutSeconds with killOnIdleTimeout=true (not "
        "tried; 4.0 only logs it). With Spark's defaults the job waits forever",
    ),
    _same(
        "a disk is full",
        "an executor cannot write any more (RLIMIT_FSIZE), from its first comparison on",
        f"{SAME}, if another executor has room: spark.excludeOnFailure.enabled=true moves the task to it. Otherwise "
        "the job can fail, and an incomplete result is not valid",
    ),
    _same(
        "a local folder is lost",
        "the folder of an executor's shuffle files is deleted and cannot be created again",
        f"{SAME}, under the same condition",
    ),
    _same(
        "a worker of the cluster is killed",
        "SIGKILL to a worker of a standalone cluster; its executor ends, and the other executor does the work",
    ),
    _same(
        "the master of the cluster is killed",
        "SIGKILL to a standalone cluster's master during the assignment; a running application does not need it",
    ),
    Failure(
        "Spark generates new ids at each read",
        "ids from uuid(), rand(), monotonically_increasing_id() and similar functions",
        "refused before any work, in one line that names the function; accepted after persist, checkpoint or write",
        f"{_LINEAGE}::test_ids_drawn_by_spark_are_refused",
    ),
    Failure(
        "a Python function generates new ids at each read",
        "ids from udf(lambda: str(uuid4())), which Spark considers deterministic",
        "refused: if a user's function takes part in an id, the run computes the ids twice and compares them",
        f"{_LINEAGE}::test_ids_drawn_by_a_python_function_are_refused",
    ),
    Failure(
        "ranks are random",
        "rankBy names a column from rand()",
        "refused; whichToKeep='random' ranks by a hash of id and seed",
        f"{_LINEAGE}::test_ranks_drawn_by_spark_are_refused",
    ),
    Failure(
        "rows come in another order",
        "rows go to random partitions in random order, differently at each read",
        SAME,
        f"{_LINEAGE}::test_rows_may_come_in_any_order",
    ),
    Failure(
        "embeddings differ at each read",
        "embeddings from a Python function with random results",
        "similarities, duplicates and kept rows follow from one read: every row is either kept or removed",
        f"{_LINEAGE}::test_embeddings_are_those_of_one_look",
    ),
    Failure(
        "rows appear or disappear",
        "a row exists in the comparison, but not when the kept rows are written, or the other way round",
        "the run fails, because rows in must be kept + duplicates + skipped; no manifest makes the result valid",
        f"{_LINEAGE}::test_rows_that_are_not_there_each_time_are_noticed",
    ),
    Failure(
        "a run is killed between two changes to files",
        "the program ends before it writes or deletes its n-th file, for every eighth n (SEMDEDUP_EVERY=1: every n)",
        _RESUMED,
        f"{_RESUME}::test_a_run_can_be_killed_before_any_change_to_a_file",
    ),
    Failure(
        "a run is killed again and again",
        "each resumed run is killed as well, some changes later",
        _RESUMED,
        f"{_RESUME}::test_a_run_can_be_killed_again_and_again",
    ),
    Failure(
        "a run's processes are killed",
        "SIGKILL to the program, its JVM and its workers at random moments (SEMDEDUP_KILLS times)",
        _RESUMED,
        f"{_RESUME}::test_a_process_killed_at_random_moments_goes_on",
    ),
    Failure(
        "two runs into one output",
        "a second run starts while the first compares: without options, with --resume, and with --overwrite",
        "the second is refused and changes nothing; the first ends normally",
        f"{_RESUME}::test_two_runs_into_one_output",
    ),
    Failure(
        "files change while they are read",
        "a file is added or rewritten after the comparison has been planned",
        "the run fails and leaves neither manifest nor summary",
        f"{_RESUME}::test_input_that_changes_while_it_is_read_gives_no_result",
    ),
    Failure(
        "Linux blocks a connection",
        "Linux from 6.17 on drops acknowledgements at a full receive buffer; a worker and its JVM wait for each other",
        "tasks detect the blocked connection and enlarge its buffer, and the job continues",
        "tests/spark/test_linux_tcp.py::test_a_connection_that_stands_still_moves_on",
    ),
]
