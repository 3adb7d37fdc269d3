"""The real thing: a process that appends, its JVM and its workers killed with SIGKILL at random moments.

As a script: ``test_random_kills.py PATH BATCHES`` appends batches until the index has so many.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from index_rows import assigned, content, create, some_centroids

from spark_semdedup.index import SemDedupIndex

KILLS = int(os.environ.get("SEMDEDUP_KILLS", "3"))

ROWS = 40
"""Of each batch."""


def append_batches(path: str, batches: int) -> None:
    """As a run does: the digest of a batch's run tells whether the index has it."""
    from spark_semdedup.spark.session import local_session

    spark = local_session("appends", cores=2, memory_gib=1, conf={"spark.sql.shuffle.partitions": "2"})
    centroids = some_centroids()
    index = create(spark, path, centroids, run="first")
    print("ready", flush=True)
    for number in range(index.next_batch, batches):
        index = index.append(assigned(spark, centroids, ROWS * number, ROWS), run=f"run {number}")
        print(number, flush=True)
    spark.stop()


def _process(path: Path, batches: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, str(path), str(batches)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, start_new_session=True
    )


@pytest.mark.slow
def test_no_row_is_lost_or_doubled_by_kills(spark, tmp_path):
    """Each within a second after 0 to 2 appends. ``SEMDEDUP_KILLS`` says how often."""
    path, moments = tmp_path / "i", np.random.default_rng(20261129)
    appended = 0
    for _ in range(KILLS):
        with _process(path, 1000) as process:
            assert process.stdout.readline() == "ready\n"
            for _ in range(moments.integers(3)):
                assert int(process.stdout.readline()) >= appended
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(moments.uniform(0.0, 1.0))
            os.killpg(process.pid, signal.SIGKILL)
        index = SemDedupIndex.open(spark, str(path))
        assert appended <= index.next_batch
        appended = index.next_batch
        assert_whole(spark, index)
    with _process(path, appended + 2) as process:
        process.communicate()
        assert process.returncode == 0
    index = SemDedupIndex.open(spark, str(path))
    assert index.next_batch == appended + 2
    assert_whole(spark, index)
    assert_whole(spark, index.compact(retain_hours=0))


def assert_whole(spark, index: SemDedupIndex) -> None:
    """The index has each batch's rows once."""
    rows = index.rows()
    expected = assigned(spark, some_centroids(), 0, ROWS * index.next_batch)
    assert content(rows.drop("batch")) == content(expected.select(*rows.drop("batch").columns))
    assert [batch.rows for batch in index.batches] == [ROWS] * index.next_batch


if __name__ == "__main__":
    append_batches(sys.argv[1], int(sys.argv[2]))
