"""One writer to a folder."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from spark_semdedup.errors import FolderInUseError
from spark_semdedup.spark import lock as locking
from spark_semdedup.spark.files import Files
from spark_semdedup.spark.lock import Lock


@pytest.fixture
def files(spark) -> Files:
    return Files(spark)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Beats and silences short enough for a test; the silence is many beats long, as it is in a run."""
    monkeypatch.setattr(locking, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(locking, "SILENCE_SECONDS", 2.0)


def locks(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("_semdedup.lock"))


def left_by(folder, **about) -> None:
    """A lock as a holder leaves it that was killed."""
    folder.mkdir(exist_ok=True)
    holder = {"run": "x", "machine": "elsewhere", "host": "node-7", "pid": 4711, "beat": 9, **about}
    (folder / "_semdedup.lock-0001").write_text(json.dumps(holder))


@pytest.mark.parametrize("takeover", [False, True])
def test_a_folder_that_is_held_is_refused(files, tmp_path, takeover):
    folder = tmp_path / "out"
    with Lock(files, str(folder), takeover=False) as lock:
        with pytest.raises(FolderInUseError, match=r"out' is being written by process \d+ on "):
            Lock(files, str(folder), takeover=takeover).__enter__()
        lock.assert_held()
    assert locks(folder) == []


def test_a_folder_that_was_given_back_can_be_held_again(files, tmp_path):
    for _ in range(2):
        with Lock(files, str(tmp_path / "out"), takeover=False) as lock:
            lock.assert_held()
            assert locks(tmp_path / "out") == ["_semdedup.lock-0001"]


def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(files, tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "SILENCE_SECONDS", 3600.0)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left_by(tmp_path, machine=locking._machine(), pid=int(gone.stdout))
    with Lock(files, str(tmp_path), takeover=True) as lock:
        lock.assert_held()
        assert locks(tmp_path) == ["_semdedup.lock-0002"]


def test_silence_ends_a_holder_elsewhere(files, tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "SILENCE_SECONDS", 0.2)
    left_by(tmp_path)
    with pytest.raises(
        FolderInUseError, match=r"by process 4711 on node-7: .* if that has ended, --resume continues its run"
    ):
        Lock(files, str(tmp_path), takeover=False).__enter__()
    with Lock(files, str(tmp_path), takeover=True):
        assert locks(tmp_path) == ["_semdedup.lock-0002"]
    assert locks(tmp_path) == []


def test_a_pause_of_who_looks_is_no_silence(files, tmp_path, monkeypatch):
    """Its machine was suspended, or its JVM collected garbage: the next looks find a holder that lives."""
    left_by(tmp_path, beat=9)
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 1:
            threading.Event().wait(2 * locking.SILENCE_SECONDS)
        if len(looks) == 3:
            left_by(tmp_path, beat=10)

    monkeypatch.setattr(locking, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(locking, "time", SimpleNamespace(sleep=sleep))  # and no other module's
    with pytest.raises(FolderInUseError, match="by process 4711 on node-7, and is alive"):
        Lock(files, str(tmp_path), takeover=True).__enter__()
    assert len(looks) == 3


def test_an_empty_lock_that_stays_so_is_a_dead_one(files, tmp_path, monkeypatch):
    """Killed between the creation of the file and its first beat."""
    monkeypatch.setattr(locking, "SILENCE_SECONDS", 0.2)
    (tmp_path / "_semdedup.lock-0001").touch()
    with Lock(files, str(tmp_path), takeover=True) as lock:
        lock.assert_held()


def test_who_lost_the_folder_stops(files, tmp_path):
    with Lock(files, str(tmp_path), takeover=False) as lock:
        left_by(tmp_path)
        (tmp_path / "_semdedup.lock-0001").rename(tmp_path / "_semdedup.lock-0002")
        with pytest.raises(FolderInUseError, match=r"by process 4711 on node-7, and was taken over from this process"):
            lock.assert_held()


def test_who_lost_the_folder_stops_when_the_other_is_done_too(files, tmp_path):
    with Lock(files, str(tmp_path), takeover=False) as lock:
        (tmp_path / "_semdedup.lock-0001").unlink()  # as the other left it
        assert lock._lost.wait(10), "its next beat must not make the lock again"
        with Lock(files, str(tmp_path), takeover=False) as third:
            with pytest.raises(FolderInUseError, match="and was taken over from this process"):
                lock.assert_held()
            third.assert_held()
            lock.__exit__()
            third.assert_held()
    assert locks(tmp_path) == []


def test_of_many_that_try_at_once_one_holds_the_folder(files, tmp_path):
    start = threading.Barrier(8)
    held, refused = [], []
    with ExitStack() as stack:

        def try_to_hold() -> None:
            lock = Lock(files, str(tmp_path / "out"), takeover=False)
            start.wait()
            try:
                lock.__enter__()
            except FolderInUseError as error:
                refused.append(error)
            else:
                held.append(lock)
                stack.callback(lock.__exit__)

        threads = [threading.Thread(target=try_to_hold) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(held), len(refused)) == (1, 7)
    assert locks(tmp_path / "out") == []
