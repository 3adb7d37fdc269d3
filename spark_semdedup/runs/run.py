"""A run: phases in order, each committed to a journal before the next begins, in a folder that one process holds.

``Run`` knows files, the journal, the lock and progress; ``runs.phases`` has what the phases compute. So tests run it
without Spark, and kill it before, amid and after every change to a file.

    vacant ── first phase ──▶ begun: mark, run.json ── fit.json, compare.json, … ──▶ manifest written, mark deleted

An interrupted run is begun. ``resume`` skips its committed phases; a phase that was interrupted deletes its results
and starts again. A run whose row counts are inconsistent is forgotten: ``resume`` begins again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from spark_semdedup.errors import AccountingError, ResultExistsError, shown
from spark_semdedup.runs import manifest
from spark_semdedup.runs.journal import Journal, refuse_other_run
from spark_semdedup.runs.progress import Progress
from spark_semdedup.runs.summary import Summary
from spark_semdedup.spark.files import join
from spark_semdedup.spark.lock import Lock

log = logging.getLogger("spark_semdedup")


@dataclass
class Attempt:
    """One attempt at a phase."""

    assert_held: Callable[[], None]
    """Raises ``FolderInUseError`` once another process has taken the folder over."""
    replace_result: Callable[[], None]
    """Deletes an earlier result and begins the journal. The first phase calls it after its own checks, and before it
    writes anything."""
    counts: dict[str, int]
    """For the progress line; filled by the phase."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """For the journal, and so for later phases; filled by the phase."""


@dataclass(frozen=True)
class Phase:
    """A part of a run."""

    name: str | None
    """Of its record in the journal; None: it leaves no record, so every attempt of a run repeats it."""
    title: str
    do: Callable[[Attempt], None]
    results: tuple[str, ...] = ()
    """Folders, below the run's, that it writes. The run deletes them before each attempt."""


class Work(Protocol):
    """The input and settings of a run, as ``Run`` sees them."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What a run must share to continue this one. Asked for before the first phase reads its input."""

    @property
    def may_replace(self) -> bool:
        """Whether the run may replace an existing table."""

    def adopt(self, identity: Mapping[str, Any]) -> None:
        """Takes over what an earlier run chose in its first phase."""

    def check_output(self, *, resumes: bool) -> None:
        """Raises where the results cannot be written. The run holds the folder."""

    def summarize(self) -> Summary:
        """The summary, after all phases."""


@dataclass
class Run:
    """Does ``work``, or the rest of it, in the journal's folder."""

    journal: Journal
    progress: Progress
    work: Work
    phases: Sequence[Phase]
    resume: bool = False
    overwrite: bool = False
    keep_journal: bool = False
    discards: Sequence[str] = ()
    """Results that only the phases need. They are deleted when the run is finished."""

    def __post_init__(self) -> None:
        self.files, self.folder = self.journal.files, self.journal.folder

    def execute(self) -> Summary:
        """Does all phases that are not committed yet. Returns the summary; for a finished run, that of its end."""
        with Lock(self.files, self.folder, takeover=self.overwrite or self.resume) as lock:
            if self.resume and manifest.is_finished(self.files, self.folder):
                return self._finished_before()
            resumes = self.resume and self.journal.begun
            self._check(resumes)
            self.progress.begin(len(self.phases))
            try:
                for phase in self.phases:
                    if not (resumes and self._is_done(phase)):
                        self._attempt(phase, lock)
            except AccountingError:
                lock.assert_held()
                if self.journal.begun:
                    self.journal.forget(overwrites=self.work.may_replace)
                raise
            return self._finish()

    def _check(self, resumes: bool) -> None:
        if resumes:
            before = self.journal.identity
            if self.journal.record(self.phases[0].name or "") is not None:
                self.work.adopt(before)
            refuse_other_run(self.work.identity, before, self.folder)
        self.work.check_output(resumes=resumes)
        _ = self.work.identity

    def _is_done(self, phase: Phase) -> bool:
        record = phase.name and self.journal.record(phase.name)
        if record:
            self.progress.skip(phase.title, record["seconds"])
        return bool(record)

    def _attempt(self, phase: Phase, lock: Lock) -> None:
        with self.progress.phase(phase.title) as counts:
            for result in phase.results:
                manifest.delete_dataset(self.files, join(self.folder, result))
            attempt = Attempt(lock.assert_held, lambda: self._replace_result(lock), counts)
            phase.do(attempt)
            lock.assert_held()
        if phase.name is not None:
            self.journal.commit(phase.name, {**attempt.metrics, "seconds": self.progress.seconds[phase.title]})

    def _replace_result(self, lock: Lock) -> None:
        """Deletes the manifest before the results, so that nobody takes what is left of them for valid."""
        lock.assert_held()
        self.files.write_text(join(self.folder, manifest.UNFINISHED), "")
        overwrites = self.work.may_replace
        self.journal.forget(overwrites=overwrites)  # from now on the folder is known for a run's
        self.files.delete(join(self.folder, manifest.RUN_MANIFEST))
        self.journal.clear_records()
        manifest.delete_results(self.files, self.folder)
        self.journal.begin(self.work.identity, overwrites=overwrites)

    def _finish(self) -> Summary:
        summary = self.work.summarize()
        self.files.write_text(join(self.folder, "summary.json"), summary.as_json())
        content = {"holds": "run", **summary.as_dict(), "identity": self.work.identity}
        manifest.finish(self.files, self.folder, content, manifest.RUN_MANIFEST)
        self._tidy()
        return summary

    def _finished_before(self) -> Summary:
        finished = manifest.read_run_manifest(self.files, self.folder, "output")
        before = finished.get("identity") or {}
        self.work.adopt(before)
        if not before:
            raise ResultExistsError(
                f"output={shown(self.folder, 400)} holds a finished run that does not say what it read: give another "
                "folder, or --overwrite to replace it"
            )
        refuse_other_run(self.work.identity, before, self.folder)
        self._tidy()
        log.warning("%s holds this run, finished: nothing is left to do", self.folder)
        return Summary.from_dict(finished)

    def _tidy(self) -> None:
        self.files.delete(join(self.folder, manifest.UNFINISHED))
        if not self.keep_journal:
            self.journal.clear()
        for result in self.discards:
            manifest.delete_dataset(self.files, join(self.folder, result))
