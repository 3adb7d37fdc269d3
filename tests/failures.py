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

_LINEAGE = "tests/test_lineage.py"

_RESUME = "tests/runs/test_resume.py"

_RESUMED = "after --resume the answer of a run that was not killed, and nothing else is left in the folder"


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
        f"{SAME}, with spark.speculation=true: a copy of the task on another host wins, and Spark ends the first. From "
        "Spark 4.1 on, spark.python.worker.idleTimeoutSeconds with killOnIdleTimeout=true is to end it, too (4.0 only "
        "logs it; not tried here). With Spark's defaults nothing does: the job waits for ever",
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
    Failure(
        "ids are drawn anew by Spark",
        "ids made by uuid(), rand(), monotonically_increasing_id() and the like: others at the next look",
        "refused before any work, in one line that names the function; taken once the rows are persisted, checkpointed "
        "or written",
        f"{_LINEAGE}::test_ids_drawn_by_spark_are_refused",
    ),
    Failure(
        "ids are drawn anew by a Python function",
        "ids made by udf(lambda: str(uuid4())), which Spark takes for deterministic",
        "refused: ids that users' functions have a part in are computed twice and compared",
        f"{_LINEAGE}::test_ids_drawn_by_a_python_function_are_refused",
    ),
    Failure(
        "ranks are drawn anew",
        "rankBy names a column made by rand()",
        "refused; whichToKeep='random' ranks by a hash of id and seed",
        f"{_LINEAGE}::test_ranks_drawn_by_spark_are_refused",
    ),
    Failure(
        "rows come in another order",
        "rows are dealt to partitions at random and shuffled in them, anew at every look",
        SAME,
        f"{_LINEAGE}::test_rows_may_come_in_any_order",
    ),
    Failure(
        "embeddings are computed otherwise each time",
        "embeddings made by a Python function with random results",
        "similarities, duplicates and rows that remain are those of one look: every row is kept or removed, as its "
        "similarity says",
        f"{_LINEAGE}::test_embeddings_are_those_of_one_look",
    ),
    Failure(
        "rows come and go",
        "a row is there in the comparison, but not when rows are removed, or the other way round",
        "the program fails: rows in must be those kept, removed and set aside. No manifest makes the result valid",
        f"{_LINEAGE}::test_rows_that_are_not_there_each_time_are_noticed",
    ),
    Failure(
        "a run is killed between two changes to files",
        "the program ends before the n-th file it would write or delete, for every fourth n (for every n with "
        "SEMDEDUP_EVERY=1)",
        _RESUMED,
        f"{_RESUME}::test_a_run_can_be_killed_before_any_change_to_a_file",
    ),
    Failure(
        "a run is killed again and again",
        "each attempt to go on is killed, too, some changes further on",
        _RESUMED,
        f"{_RESUME}::test_a_run_can_be_killed_again_and_again",
    ),
    Failure(
        "a run's processes are killed",
        "SIGKILL to the program, its JVM and its workers at random moments (SEMDEDUP_KILLS of them)",
        _RESUMED,
        f"{_RESUME}::test_a_process_killed_at_random_moments_goes_on",
    ),
    Failure(
        "two runs into one output",
        "a second run is started while the first compares: plainly, with --resume, and with --overwrite",
        "the second is refused and changes nothing; the first ends as if alone",
        f"{_RESUME}::test_two_runs_into_one_output",
    ),
    Failure(
        "files change while they are read",
        "a file is added, or written again, after the comparison has been planned",
        "the program fails, and leaves neither manifest nor summary",
        f"{_RESUME}::test_input_that_changes_while_it_is_read_gives_no_result",
    ),
    Failure(
        "a connection that Linux lets stand still",
        "both ends write and read until Linux, from 6.17 on, loses acknowledgements where a receive buffer is "
        "over-full, and worker and JVM wait for each other for ever",
        "tasks watch their connections, and give one that stands still more room: it goes on",
        "tests/test_transport.py::test_a_connection_that_stands_still_moves_on",
    ),
]
