"""A run as a state machine: phases that only write small files, in a file system that is a dictionary.

Both are killed at every change to a file: before it, in its midst, and after it. Every sequence of kills and resumes
must end in the answer of a run that was never killed. No Spark; a run takes about a millisecond.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from fake_files import FakeFiles, Killed, moments, quicken_locks

from spark_semdedup.errors import AccountingError, FolderInUseError, ResultExistsError, SemDedupError
from spark_semdedup.runs import manifest
from spark_semdedup.runs.journal import OUTPUT, WRITING, Journal, refuse_other_run
from spark_semdedup.runs.progress import Progress
from spark_semdedup.runs.run import Attempt, Phase, Run
from spark_semdedup.runs.summary import Summary
from spark_semdedup.spark import lock as locking

OUT = "memory:/out"
PHASES = ("fit", "compare", "identify", "keep")
TABLE = "memory:/table"


@dataclass
class FakeWork:
    """Four phases that each write what the phases before have left, and a check of the last one's result."""

    files: FakeFiles
    source: str = "rows"
    table: bool = False
    overwrite: bool = False
    fails: dict[str, BaseException | Callable[[], None]] = field(default_factory=dict)
    """By phase: what it raises, or calls, when its result is written."""
    discards: tuple[str, ...] = ()
    done: list[str] = field(default_factory=list)
    """The phases in the order in which they have begun."""
    adopted: list[str] = field(default_factory=list)

    @property
    def journal(self) -> Journal:
        return Journal(self.files, OUT, f"table={self.table}")

    @property
    def phases(self) -> list[Phase]:
        recorded = [Phase(name, name, self._phase(name), () if name == "fit" else (name,)) for name in PHASES]
        return [*recorded, Phase(None, "check", self._check)]

    @property
    def identity(self) -> dict[str, str]:
        return {"input": self.source, OUTPUT: self.journal.output}

    @property
    def may_replace(self) -> bool:
        return self.overwrite or (self.table and self.journal.may_replace)

    def adopt(self, identity: dict[str, str]) -> None:
        self.adopted.append(identity["input"])

    def check_output(self, *, resumes: bool) -> None:
        if self.table and self.files.exists(TABLE) and not self.may_replace:
            raise ResultExistsError("the table exists already")

    def _phase(self, name: str) -> Callable[[Attempt], None]:
        def do(attempt: Attempt) -> None:
            self.done.append(name)
            before = PHASES[: PHASES.index(name)]
            if not before:
                attempt.replace_result()
            assert all(self.journal.metrics(each)["text"] == self._text(each) for each in before)
            self._write(name, self._text(name))
            attempt.counts["letters"] = len(name)
            attempt.metrics["text"] = self._text(name)
            self._fail(name)

        return do

    def _text(self, name: str) -> str:
        return f"{name} of {self.source}"

    def _write(self, name: str, text: str) -> None:
        folder = "centroids" if name == "fit" else name
        if name == "keep" and self.table:
            self.journal.commit(WRITING, {})
            assert not self.files.exists(TABLE) or self.may_replace
            self.files.write_text(f"{TABLE}/part-0", text)
            return
        assert not self.files.exists(f"{OUT}/{folder}"), "an earlier attempt's result must have gone"
        manifest.begin(self.files, f"{OUT}/{folder}")
        self.files.write_text(f"{OUT}/{folder}/part-0", text)
        manifest.finish(self.files, f"{OUT}/{folder}", {"holds": folder})

    def _check(self, attempt: Attempt) -> None:
        self.done.append("check")
        self._fail("check")

    def _fail(self, name: str) -> None:
        failure = self.fails.get(name)
        if isinstance(failure, BaseException):
            raise failure
        if failure is not None:
            failure()

    def summarize(self) -> Summary:
        return Summary("run", counts={"rows_in": len(self.source)}, results={"kept": OUT})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A lock of this very process is dead only by its silence; no beat falls into a test. The results' names are those
    of a run."""
    quicken_locks(monkeypatch)
    monkeypatch.setattr(manifest, "RUN_RESULTS", (manifest.RUN_MANIFEST, "summary.json", "centroids", *PHASES[1:]))


@pytest.fixture
def files() -> FakeFiles:
    return FakeFiles()


def execute(work: FakeWork, *, resume: bool = False, keep_journal: bool = False) -> Summary:
    progress = Progress(io.StringIO())
    return Run(work.journal, progress, work, work.phases, resume, work.overwrite, keep_journal, work.discards).execute()


def answer(files: FakeFiles) -> dict[str, str]:
    """The results, and the folder's other files; a summary but for its times."""
    texts = {**files.below(OUT), **files.below(TABLE)}
    for name in ("summary.json", manifest.RUN_MANIFEST):
        summary = json.loads(texts.pop(f"{OUT}/{name}"))
        texts[name] = json.dumps({key: value for key, value in summary.items() if key not in ("finished", "seconds")})
    return texts


def expected(source: str = "rows", table: bool = False, discards: tuple[str, ...] = ()) -> dict[str, str]:
    files = FakeFiles()
    execute(FakeWork(files, source, table, discards=discards))
    assert leftovers(files) == []
    return answer(files)


def leftovers(files: FakeFiles) -> list[str]:
    return [name for name in files.texts if "_stages" in name or ("_semdedup." in name and "json" not in name)]


def is_killed(files: FakeFiles, change: int, how: str, work: FakeWork, **options: bool) -> bool:
    """Whether the run was killed at this change, or ended before it came to it."""
    files.kill(change, how)
    try:
        execute(work, **options)
    except Killed:
        return True
    finally:
        files.kill(None)
    return False


def refusal_of(work: FakeWork) -> str | None:
    """Why the run is not resumed; None where it is."""
    try:
        execute(work, resume=True)
    except SemDedupError as error:
        return str(error)
    return None


def committed(files: FakeFiles) -> list[str]:
    journal = FakeWork(files).journal
    return [name for name in PHASES if journal.begun and journal.record(name) is not None]


# --- without a fault ----------------------------------------------------------------------------------------


def test_a_run_does_its_phases_in_order_and_leaves_the_results_alone(files):
    work = FakeWork(files)
    summary = execute(work)
    assert work.done == [*PHASES, "check"]
    assert work.adopted == []
    assert summary.counts == {"rows_in": 4}
    assert leftovers(files) == []
    assert files.texts[f"{OUT}/keep/part-0"] == "keep of rows"
    assert json.loads(files.texts[f"{OUT}/_manifest.json"])["identity"] == work.identity


def test_a_kept_journal_has_the_metrics_and_seconds_of_each_phase(files):
    execute(FakeWork(files), keep_journal=True)
    journal = FakeWork(files).journal
    assert committed(files) == list(PHASES)
    assert all(set(journal.metrics(name)) == {"text", "seconds"} for name in PHASES)
    assert set(files.names(f"{OUT}/_stages")) == {"run.json", *(f"{name}.json" for name in PHASES)}


def test_a_finished_run_has_nothing_to_do(files, caplog):
    execute(FakeWork(files))
    before = dict(files.texts)
    work = FakeWork(files)
    assert execute(work, resume=True).counts == {"rows_in": 4}
    assert work.done == []
    assert work.adopted == ["rows"]
    assert files.texts == before
    with pytest.raises(SemDedupError, match="holds another run: input differs; give what it was begun with"):
        execute(FakeWork(files, "other rows"), resume=True)
    assert files.texts == before


def test_a_finished_run_without_an_identity_is_not_taken_for_this_one(files):
    execute(FakeWork(files))
    content = json.loads(files.texts[f"{OUT}/_manifest.json"])
    files.texts[f"{OUT}/_manifest.json"] = json.dumps({**content, "identity": None})
    work = FakeWork(files)
    work.adopt = lambda identity: None
    with pytest.raises(ResultExistsError, match="holds a finished run that does not say what it read"):
        execute(work, resume=True)


def test_progress_counts_skipped_phases_too(files):
    with pytest.raises(KeyError):
        execute(FakeWork(files, fails={"identify": KeyError()}))
    progress = Progress(io.StringIO())
    work = FakeWork(files)
    Run(work.journal, progress, work, work.phases, resume=True).execute()
    lines = progress._stream.getvalue().splitlines()
    assert lines[:3] == ["[1/5] fit ... done before", "[2/5] compare ... done before", "[3/5] identify ..."]
    assert lines[3].startswith("[3/5] identify ... 8 letters, 0.0 s")
    assert list(progress.seconds) == [*PHASES, "check"]


# --- kills --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("table", "discards"), [(False, ()), (True, ()), (False, ("compare",))])
def test_a_run_that_is_killed_at_any_change_is_resumed_to_the_same_answer(table, discards):
    whole, killed = expected(table=table, discards=discards), 0
    for change, how in moments():
        files = FakeFiles()
        if not is_killed(files, change, how, FakeWork(files, table=table, discards=discards)):
            break
        killed += 1
        if manifest.is_finished(files, OUT):
            assert answer(files).items() >= whole.items(), "a result that counts is whole"
        finished, skipped = manifest.is_finished(files, OUT), committed(files)
        work = FakeWork(files, table=table, discards=discards)
        execute(work, resume=True)
        assert work.done == ([] if finished else [name for name in (*PHASES, "check") if name not in skipped])
        assert bool(work.adopted) == bool(finished or skipped)
        assert answer(files) == whole, (change, how)
        assert leftovers(files) == [], (change, how)
    assert killed > 3 * 30, "a run makes more changes than that"


def test_a_run_that_is_killed_twice_at_any_two_changes_is_resumed_to_the_same_answer():
    whole, killed = expected(), 0
    for first, how in moments(stride=2):
        files = FakeFiles()
        if not is_killed(files, first, how, FakeWork(files)):
            break
        state = dict(files.texts)
        for second, how_again in moments(stride=4):
            files.texts = dict(state)
            if not is_killed(files, second, how_again, FakeWork(files), resume=True):
                break
            killed += 1
            execute(FakeWork(files), resume=True)
            assert answer(files) == whole, (first, how, second, how_again)
            assert leftovers(files) == []
    assert killed > 300


def test_each_of_many_attempts_comes_further():
    """What one attempt has committed, the next does not repeat: few changes suffice for each."""
    files, attempts = FakeFiles(), 0
    while is_killed(files, 20, "before", FakeWork(files), resume=True):
        attempts += 1
        assert attempts < 5
    assert attempts >= 2
    assert answer(files) == expected()


@pytest.mark.parametrize("table", [False, True])
def test_a_run_that_replaces_another_can_be_killed_at_any_change(table):
    old, new, killed = expected("old rows", table), expected("rows", table), 0
    for change, how in moments():
        files = FakeFiles()
        execute(FakeWork(files, "old rows", table))
        files.texts[f"{OUT}/notes.txt"] = "the user's"
        if not is_killed(files, change, how, FakeWork(files, "rows", table, overwrite=True)):
            break
        killed += 1
        del files.texts[f"{OUT}/notes.txt"]
        if manifest.is_finished(files, OUT):
            assert any(answer(files).items() >= whole.items() for whole in (old, new)), (
                "until it goes, a result is whole"
            )
        refusal = refusal_of(FakeWork(files, "rows", table))
        if refusal is not None:
            # The earlier result is whole, or the kill cut off the permission to replace the table.
            assert f"{OUT}/_manifest.json" in files.texts if "holds another run" in refusal else table and how == "amid"
            execute(FakeWork(files, "rows", table, overwrite=True))
        assert answer(files) == new, (change, how)
        assert leftovers(files) == []
    assert killed > 3 * 30


def test_the_files_of_others_stay(files):
    files.texts[f"{OUT}/notes.txt"] = "the user's"
    execute(FakeWork(files))
    execute(FakeWork(files, "other rows", overwrite=True))
    assert files.texts[f"{OUT}/notes.txt"] == "the user's"
    assert files.texts[f"{OUT}/keep/part-0"] == "keep of other rows"


# --- failures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PHASES, "check"])
def test_a_phase_that_fails_is_repeated_and_those_before_are_not(files, name):
    with pytest.raises(KeyError, match="by design"):
        execute(FakeWork(files, fails={name: KeyError("by design")}))
    assert f"{OUT}/_manifest.json" not in files.texts
    assert f"{OUT}/summary.json" not in files.texts
    assert not any("lock" in path for path in files.texts)
    work = FakeWork(files)
    execute(work, resume=True)
    order = [*PHASES, "check"]
    assert work.done == order[order.index(name) :]
    assert answer(files) == expected()


@pytest.mark.parametrize("name", [*PHASES, "check"])
@pytest.mark.parametrize("table", [False, True])
def test_a_run_that_does_not_add_up_is_begun_again(files, name, table):
    with pytest.raises(AccountingError, match="does not add up"):
        execute(FakeWork(files, table=table, fails={name: AccountingError("it does not add up")}))
    assert not FakeWork(files, table=table).journal.begun
    assert f"{OUT}/_manifest.json" not in files.texts
    work = FakeWork(files, table=table)
    execute(work, resume=True)
    assert work.done == [*PHASES, "check"]
    assert answer(files) == expected(table=table), "also the table, which it has written itself"


def test_a_table_of_another_is_replaced_by_no_resumed_run(files):
    with pytest.raises(AccountingError):
        execute(FakeWork(files, fails={"check": AccountingError("it does not add up")}))
    files.texts[f"{TABLE}/part-0"] = "another's"
    with pytest.raises(ResultExistsError, match="the table exists already"):
        execute(FakeWork(files, table=True), resume=True)
    assert files.texts[f"{TABLE}/part-0"] == "another's"


def test_a_fault_before_the_journal_begins_changes_nothing(files):
    work = FakeWork(files)
    work.check_output = lambda *, resumes: (_ for _ in ()).throw(SemDedupError("cannot be written"))
    with pytest.raises(SemDedupError, match="cannot be written"):
        execute(work)
    assert files.texts == {}
    with pytest.raises(SemDedupError, match="rows are invalid"):
        execute(FakeWorkThatRefuses(files))
    assert files.texts == {}


class FakeWorkThatRefuses(FakeWork):
    @property
    def phases(self) -> list[Phase]:
        def refuse(attempt: Attempt) -> None:
            raise AccountingError("rows are invalid")

        return [Phase("fit", "fit", refuse), *super().phases[1:]]


@pytest.mark.parametrize("change", ["input", OUTPUT])
def test_an_unfinished_run_of_another_identity_is_refused_and_not_touched(files, change):
    with pytest.raises(KeyError):
        execute(FakeWork(files, fails={"keep": KeyError()}))
    before = dict(files.texts)
    other = FakeWork(files, "other rows") if change == "input" else FakeWork(files, table=True)
    with pytest.raises(SemDedupError, match=f"holds another run: {change} differs"):
        execute(other, resume=True)
    assert files.texts == before


def test_a_run_that_began_before_a_param_existed_is_resumed_with_what_it_did_then():
    before = {"input": "rows", "eps": 0.05}
    refuse_other_run({**before, "keepRule": "ranked"}, before, OUT)
    with pytest.raises(SemDedupError, match="holds another run: keepRule is 'greedy', was 'ranked'; give"):
        refuse_other_run({**before, "keepRule": "greedy"}, before, OUT)
    with pytest.raises(SemDedupError, match=r"holds another run: eps is 0\.1, was 0\.05"):
        refuse_other_run({**before, "eps": 0.1}, before, OUT)


@pytest.mark.parametrize("record", ["run", "fit", "compare"])
def test_a_record_that_was_cut_off_counts_for_nothing(files, record):
    with pytest.raises(KeyError):
        execute(FakeWork(files, fails={"identify": KeyError()}))
    files.texts[f"{OUT}/_stages/{record}.json"] = '{"text"'
    work = FakeWork(files)
    execute(work, resume=True)
    assert work.done == {"run": [*PHASES, "check"], "fit": ["fit", "compare", "identify", "keep", "check"]}.get(
        record, ["compare", "identify", "keep", "check"]
    )
    assert answer(files) == expected()


# --- the lock -----------------------------------------------------------------------------------------------


def lose(files: FakeFiles) -> None:
    """Another process takes the folder over."""
    holder = {"run": "another", "machine": "elsewhere", "host": "node-7", "pid": 4711, "beat": 1}
    files.texts = {name: text for name, text in files.texts.items() if locking.PREFIX not in name}
    files.texts[f"{OUT}/{locking.PREFIX}0002"] = json.dumps(holder)


@pytest.mark.parametrize("name", [*PHASES, "check"])
@pytest.mark.parametrize("unsound", [False, True])
def test_a_run_that_has_lost_its_folder_stops_and_leaves_it_as_it_is(files, name, unsound):
    states = []

    def lose_folder() -> None:
        lose(files)
        states.append(dict(files.texts))
        if unsound:
            raise AccountingError("it does not add up")

    with pytest.raises(FolderInUseError, match="by process 4711 on node-7, and was taken over from this process"):
        execute(FakeWork(files, fails={name: lose_folder}))
    assert files.texts == states[0]


def test_a_run_that_has_lost_its_folder_before_it_replaces_a_result_leaves_that(files):
    execute(FakeWork(files, "old rows"))
    lose_first = FakeWork(files, overwrite=True)
    fit = lose_first.phases[0].do

    class Losing(FakeWork):
        @property
        def phases(self) -> list[Phase]:
            return [Phase("fit", "fit", lambda attempt: (lose(files), fit(attempt))), *super().phases[1:]]

    with pytest.raises(FolderInUseError):
        execute(Losing(files, overwrite=True))
    del files.texts[f"{OUT}/{locking.PREFIX}0002"]
    assert answer(files) == expected("old rows")


def test_a_dead_lock_is_taken_over_only_by_a_run_that_may(files):
    lose(files)
    with pytest.raises(FolderInUseError, match="if that has ended, --resume continues its run"):
        execute(FakeWork(files))
    execute(FakeWork(files), resume=True)
    assert answer(files) == expected()
