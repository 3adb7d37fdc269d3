"""Changes of an index as a state machine: rows that are small texts, in a file system that is a dictionary.

The process is killed at every change to a file: before it, in its midst, and after it. A reader then sees the index
as it was or as it was to become, and the repeated change ends as one that was never killed. No Spark.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from fake_files import FakeFiles, Killed, moments, quicken_locks
from pyspark.sql import types as T

from spark_semdedup.clustering.centroids import Centroids
from spark_semdedup.errors import AccountingError, FolderInUseError, SemDedupError
from spark_semdedup.index import changes, commit
from spark_semdedup.index.files import Written
from spark_semdedup.index.storage import Match
from spark_semdedup.index.version import ALL, RowFile, Version
from spark_semdedup.index.versions import Versions
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.spark import lock as locking
from spark_semdedup.spark.ids import Ids

INDEX, K = "memory:/index", 3

Rows = dict[int, tuple[int, int]]
"""Centroid and batch, by id. Odd rows are kept, and rows whose id ends in 7 are far from their centroid."""


def hash_of(rows: Rows) -> int:
    return int(np.bitwise_xor.reduce([(id_ + 1) * 2_654_435_761 for id_ in rows], initial=0))


def kept(rows: Rows) -> int:
    return sum(id_ % 2 for id_ in rows)


def far(rows: Rows) -> int:
    return sum(id_ % 10 == 7 for id_ in rows)


@dataclass
class FakeStorage:
    """What changes use of ``Storage``: a file is the JSON of its rows."""

    files: FakeFiles

    @property
    def versions(self) -> Versions:
        return Versions(self.files, INDEX)

    def rows(self, version: Version, files: list[RowFile] | None = None) -> Rows:
        found: Rows = {}
        for file in version.files if files is None else files:
            read = json.loads(self.files.read_text(f"{INDEX}/{file.path}"))
            assert len(read) == file.rows
            assert not found.keys() & {int(id_) for id_ in read}, "a row is in two files"
            found |= {int(id_): tuple(value) for id_, value in read.items()}
        assert set(found) <= self.covered(version) or not version.margins, "margins leave a row out"
        return found

    def covered(self, version: Version) -> set[int]:
        """The rows that margins were made of."""
        if version.margins is None:
            return set()
        return set(json.loads(self.files.read_text(f"{INDEX}/{version.margins}/part-0")))

    def add_margins(self, files: tuple[RowFile, ...], version: Version, folder: str) -> str:
        new = [id_ for file in files for id_ in json.loads(self.files.read_text(f"{INDEX}/{file.path}"))]
        self.files.write_text(f"{INDEX}/{folder}/part-0", json.dumps(sorted({*self.covered(version), *map(int, new)})))
        return folder

    def count(self, rows: Rows) -> Ids:
        return Ids(len(rows), hash_of(rows))

    def count_files(self, version: Version, files: list[RowFile]) -> Ids:
        return self.count(self.rows(version, files))

    def write(self, rows: Rows, folder: str, count: int, version: Version) -> Written:
        parts = [{id_: v for id_, v in rows.items() if v[0] == cell} for cell in range(version.k)]
        for number, part in enumerate(parts):
            if part:
                self.files.write_text(f"{INDEX}/{folder}/part-{number}", json.dumps(part))
        read = {name: json.loads(text) for name, text in self.files.below(f"{INDEX}/{folder}").items()}
        files, ids, cells = [], [], np.zeros(version.k, np.int64)
        for name, part in read.items():
            own = sorted({value[0] for value in part.values()})
            size = 100 * len(part)
            files.append(RowFile(name.removeprefix(f"{INDEX}/"), len(part), size, own[0], own[-1]))
            ids += map(int, part)
            np.add.at(cells, [value[0] for value in part.values()], 1)
        back = dict.fromkeys(ids, (0, 0))
        return Written(tuple(files), cells, Ids(len(ids), hash_of(back)), kept(back), far(back) if version.fit else 0)

    def percentile(self, written: Written) -> float:
        return 0.5

    def matches(self, version: Version, ids: set[int]) -> list[Match]:
        found = []
        for file in version.files:
            for id_, (cell, batch) in self.rows(version, [file]).items():
                if id_ in ids:
                    one = {id_: (cell, batch)}
                    found.append(Match(file.path, cell, batch, 1, kept(one), far(one), hash_of(one)))
        return found

    def without(self, rows: Rows, ids: set[int]) -> Rows:
        return {id_: value for id_, value in rows.items() if id_ not in ids}

    def fit(self, version: Version, k: int | None) -> Centroids:
        return Centroids(np.ones((k or K, 2), np.float32))

    def save_centroids(self, centroids: Centroids, folder: str) -> None:
        for part in range(2):
            self.files.write_text(f"{INDEX}/{folder}/part-{part}", "0" * centroids.k)

    def reassigned(self, rows: Rows, centroids: Centroids, version: Version) -> Rows:
        return {id_: (id_ % centroids.k, batch) for id_, (_, batch) in rows.items()}


def create(files: FakeFiles, run: str | None = None, *, overwrite: bool = False) -> Version:
    storage = FakeStorage(files)
    schema = T.StructType([T.StructField("id", T.LongType())])

    def make(folder: str) -> Version:
        storage.save_centroids(Centroids(np.ones((K, 2), np.float32)), folder)
        none = np.zeros(K, np.int64)
        facts = {"operation": "create", "at": "2026-01-01T00:00:00+00:00", "centroids": folder, "holds": ALL}
        about = {"k": K, "dim": 2, "spherical": False, "history": (), "ranking": Ranking(), "settings": {}}
        return Version(version=0, content=0, **facts, **about, schema=schema, cells=none, run=run)

    return commit.create(storage.versions, make, run=run, overwrite=overwrite)


def append(files: FakeFiles, first: int, count: int, run: str) -> Version:
    storage = FakeStorage(files)
    seen = storage.versions.open()
    rows = {id_: ((id_ // 2) % K, seen.next_batch) for id_ in range(first, first + count)}
    return changes.append(storage, seen, changes.NewBatch(rows, storage.count(rows), run, {}))


def state(files: FakeFiles, version: int | None = None) -> tuple[Rows, dict]:
    """The rows of a version and what it says of them, which must agree."""
    storage = FakeStorage(files)
    opened = storage.versions.open(version)
    rows = storage.rows(opened)
    cells = np.bincount([cell for cell, _ in rows.values()], minlength=opened.k)
    assert (opened.cells == cells).all()
    for batch in opened.batches:
        own = {id_: value for id_, value in rows.items() if value[1] == batch.batch}
        assert (batch.rows, batch.kept) == (len(own), kept(own))
        assert batch.far == (far(own) if batch.batch >= opened.fit.next_batch else 0)
    assert len(files.below(f"{INDEX}/{opened.centroids}")) == 2
    return rows, {"next_batch": opened.next_batch, "k": opened.k, "runs": [batch.run for batch in opened.batches]}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quicken_locks(monkeypatch)
    monkeypatch.setattr(changes, "FILE_BYTES", 1200)
    monkeypatch.setattr(changes, "files_for", lambda rows, dim: min(K, rows))


def prepared() -> FakeFiles:
    """An index of three batches."""
    files = FakeFiles()
    create(files)
    for number in range(3):
        append(files, 20 * number, 8, f"before-{number}")
    return files


def compact(files: FakeFiles, hours: float) -> Version:
    storage = FakeStorage(files)
    return changes.compact(storage, storage.versions.open(), retain_hours=hours)


def remove(files: FakeFiles, hours: float) -> Version:
    storage = FakeStorage(files)
    return changes.remove(storage, storage.versions.open(), {1, 2, 41, 999}, retain_hours=hours)


def refit(files: FakeFiles, hours: float) -> Version:
    storage = FakeStorage(files)
    return changes.refit(storage, storage.versions.open(), k=2, retain_hours=hours)


Change = Callable[[FakeFiles], object]

CHANGES: dict[str, Change] = {
    "append": lambda files: append(files, 100, 9, "new"),
    "compact": lambda files: compact(files, 24),
    "compact, delete": lambda files: compact(files, 0),
    "remove": lambda files: remove(files, 24),
    "remove, delete": lambda files: remove(files, 0),
    "refit": lambda files: refit(files, 24),
    "refit, delete": lambda files: refit(files, 0),
}


def is_killed(files: FakeFiles, change: int, how: str, do: Change) -> bool:
    files.kill(change, how)
    try:
        do(files)
    except Killed:
        return True
    finally:
        files.kill(None)
    return False


def unnamed(files: FakeFiles) -> set[str]:
    """Files of rows and centroids that no version names."""
    versions = FakeStorage(files).versions
    whole = [versions.open(number) for number in versions.numbers()]
    named = {f"{INDEX}/{file.path}" for version in whole for file in version.files}
    named |= {name for version in whole for name in files.below(f"{INDEX}/{version.centroids}")}
    return {*files.below(f"{INDEX}/rows"), *files.below(f"{INDEX}/centroids")} - named


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_is_killed_anywhere_is_repeated_to_the_same_rows(name):
    do = CHANGES[name]
    before = state(prepared())
    whole = prepared()
    do(whole)
    after = state(whole)
    killed = 0
    for change, how in moments():
        files = prepared()
        if not is_killed(files, change, how, do):
            break
        killed += 1
        assert state(files) in (before, after), (change, how)
        for number in FakeStorage(files).versions.numbers():
            if number <= 3:
                state(files, number)  # a reader that has opened an earlier version
        do(files)
        assert state(files) == after, (change, how)
        compact(files, 0)
        assert unnamed(files) == set(), (change, how)
        assert state(files) == after
        assert not any(locking.PREFIX in path for path in files.texts)
    assert killed >= 3 * 6


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_is_killed_twice_is_repeated_to_the_same_rows(name):
    do = CHANGES[name]
    before, whole = state(prepared()), prepared()
    do(whole)
    after, killed = state(whole), 0
    for first, how in moments(stride=2):
        files = prepared()
        if not is_killed(files, first, how, do):
            break
        texts = dict(files.texts)
        for second, how_again in moments(stride=2):
            files.texts = dict(texts)
            if not is_killed(files, second, how_again, do):
                break
            killed += 1
            assert state(files) in (before, after)
            do(files)
            assert state(files) == after, (first, how, second, how_again)
    assert killed > 30


def test_a_creation_that_is_killed_anywhere_is_repeated():
    for overwrite in (False, True):
        killed = 0
        for change, how in moments():
            files = prepared() if overwrite else FakeFiles()
            if not is_killed(files, change, how, lambda files: create(files, overwrite=overwrite)):  # noqa: B023
                break
            killed += 1
            if FakeStorage(files).versions.newest() is not None:
                state(files)
            create(files, overwrite=True)
            assert state(files) == ({}, {"next_batch": 0, "k": K, "runs": []})
            append(files, 0, 8, "first")
            assert len(state(files)[0]) == 8
            assert unnamed(files) == set()
        assert killed > 3 * 5


def test_batches_with_kills_between_are_all_batches_once():
    """Each append is killed at another change, and repeated as a run is resumed: by the digest of the run."""
    files, rng = FakeFiles(), np.random.default_rng(5)
    create(files)
    for number in range(40):
        while is_killed(
            files,
            int(rng.integers(12)),
            str(rng.choice(["before", "amid", "after"])),
            lambda files: append(files, 10 * number, 7, f"run-{number}"),  # noqa: B023
        ):
            assert len(state(files)[0]) in (7 * number, 7 * number + 7)
    rows, about = state(files)
    assert sorted(rows) == [10 * number + i for number in range(40) for i in range(7)]
    assert about == {"next_batch": 40, "k": K, "runs": [f"run-{number}" for number in range(40)]}


def test_compaction_makes_fewer_files_of_the_same_rows_and_then_none():
    files = prepared()
    before = state(files)
    assert len(FakeStorage(files).versions.open().files) == 3 * K
    compacted = compact(files, 24)
    assert len(compacted.files) == K
    assert compacted.version == 4
    assert state(files) == before
    assert compact(files, 24).version == 4, "nothing to merge: no version"


def test_what_was_replaced_is_deleted_when_nobody_may_read_it():
    files = prepared()
    compact(files, 24)
    assert FakeStorage(files).versions.numbers() == [0, 1, 2, 3, 4]
    compact(files, 0)
    assert FakeStorage(files).versions.numbers() == [4]
    assert unnamed(files) == set()
    assert len(files.below(f"{INDEX}/rows")) == K


def test_an_append_to_rows_that_were_compacted_since_is_no_conflict():
    files = prepared()
    storage = FakeStorage(files)
    seen = storage.versions.open()
    compact(files, 0)
    rows = {100: (0, 3)}
    new = changes.NewBatch(rows, storage.count(rows), None, {})
    assert changes.append(storage, seen, new).rows == 25
    with pytest.raises(SemDedupError, match=r"was changed by another process \(append, version 5\)"):
        changes.append(storage, seen, new)


def test_a_writer_that_has_lost_the_index_adds_nothing():
    files = prepared()
    before = state(files)

    class Losing(FakeStorage):
        def write(self, *arguments):
            written = super().write(*arguments)
            holder = {"run": "another", "machine": "elsewhere", "host": "node-7", "pid": 4711, "beat": 1}
            self.files.texts = {name: text for name, text in self.files.texts.items() if locking.PREFIX not in name}
            self.files.texts[f"{INDEX}/{locking.PREFIX}0002"] = json.dumps(holder)
            return written

    storage = Losing(files)
    rows = {100: (0, 3)}
    with pytest.raises(FolderInUseError, match=r"index='memory:/index' is being written by process 4711 on node-7"):
        changes.append(storage, storage.versions.open(), changes.NewBatch(rows, storage.count(rows), None, {}))
    assert state(files) == before


def test_rows_that_went_missing_make_no_version():
    files = prepared()
    before = state(files)
    storage = FakeStorage(files)
    with pytest.raises(AccountingError, match="but its new files have 1 rows"):
        changes.append(storage, storage.versions.open(), changes.NewBatch({100: (0, 3)}, Ids(2, 0), None, {}))
    assert state(files) == before


def test_the_second_of_two_writers_is_refused(monkeypatch):
    files = prepared()
    monkeypatch.setattr(locking, "LOOKS", 1)
    monkeypatch.setattr(locking, "_machine", lambda: "elsewhere" if seen else "here")
    seen = []
    with FakeStorage(files).versions.held():
        seen.append(1)
        lock = f"{INDEX}/{locking.PREFIX}0001"
        text = files.texts[lock]
        monkeypatch.setattr(
            locking.time, "sleep", lambda _: files.texts.__setitem__(lock, text.replace('"beat": 0', '"beat": 1'))
        )
        with pytest.raises(FolderInUseError, match=r"index='memory:/index' is being written by process \d+ on"):
            append(files, 100, 9, "new")
