"""The journal of a run, ``OUT/_stages``: which phases are done, so that ``--resume`` continues after the last of them.

``run.json`` holds the run's identity: its input, settings and versions. Each finished phase has a record, ``fit.json``
say, with the phase's metrics; it is written after all results of the phase. A run repeats a phase without a record from
its beginning and first deletes what an earlier attempt left. Manifests (``runs.manifest``), not the journal, make a
folder a result.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.runs.manifest import STAGES
from spark_semdedup.spark.files import Files, join

RUN = "run.json"

WRITING = "writing"
"""Record of a run that has begun to write its table."""

OUTPUT = "output of the rows that remain"
"""Name, in a run's identity, of the digest of where the kept rows go."""

ADDED_LATER = {"keepRule": "ranked"}
"""Entries of an identity, by the value they had in effect in runs that began before the entries existed."""


@dataclass(frozen=True)
class Journal:
    """The records of one run in its folder. ``output``: the digest that an identity has under ``OUTPUT``."""

    files: Files
    folder: str
    output: str

    def path(self, name: str) -> str:
        return join(self.folder, STAGES, name)

    @property
    def begun(self) -> bool:
        """Whether a run has begun here that can be resumed."""
        return "identity" in (self._read(RUN) or {})

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of the run that has begun here; empty without one."""
        identity: dict[str, Any] = (self._read(RUN) or {}).get("identity", {})
        return identity

    @property
    def may_replace(self) -> bool:
        """Whether the run recorded here may replace the table at this very ``output``: the user has allowed it, or the
        run has begun to write the table itself."""
        state = self._read(RUN) or {}
        allowed = bool(state.get("overwrites")) and state.get("identity", state).get(OUTPUT) == self.output
        return allowed or (self.begun and self.record(WRITING) is not None)

    def begin(self, identity: Mapping[str, Any], *, overwrites: bool) -> None:
        """Records a new run. ``overwrites``: whether it may replace an existing table."""
        begun = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._write(RUN, {"identity": identity, "begun": begun, "overwrites": overwrites})

    def record(self, phase: str) -> dict[str, Any] | None:
        """The metrics of a finished phase; None for a phase that has not finished."""
        return self._read(f"{phase}.json")

    def metrics(self, phase: str) -> dict[str, Any]:
        """The metrics of a phase that must have finished."""
        record = self.record(phase)
        assert record is not None
        return record

    def commit(self, phase: str, metrics: Mapping[str, Any]) -> None:
        """Marks a phase as finished."""
        self._write(f"{phase}.json", metrics)

    def forget(self, *, overwrites: bool) -> None:
        """Makes the run here not resumable. The next one may replace a table if ``overwrites``."""
        self._write(RUN, {OUTPUT: self.output, "overwrites": overwrites})

    def clear_records(self) -> None:
        """Deletes all but ``run.json``."""
        for name in self.files.names(join(self.folder, STAGES)):
            if name != RUN:
                self.files.delete(self.path(name))

    def clear(self) -> None:
        """Deletes the journal, ``run.json`` first."""
        self.files.delete(self.path(RUN))
        self.files.delete(join(self.folder, STAGES))

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        self.files.write_text(self.path(name), json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def _read(self, name: str) -> dict[str, Any] | None:
        """None without the file, or where a kill cut it off: then it is no JSON, which ends in a brace."""
        if not self.files.exists(self.path(name)):
            return None
        try:
            content = json.loads(self.files.read_text(self.path(name)))
        except (ValueError, RecursionError):
            return None
        return content if isinstance(content, dict) else None


def refuse_other_run(identity: Mapping[str, Any], before: Mapping[str, Any], folder: str) -> None:
    """Raises ``SemDedupError`` that names the first difference between a run and the one it would resume."""
    for name in dict.fromkeys([*before, *identity]):
        now, then = identity.get(name), before.get(name, ADDED_LATER.get(name))
        if now == then:
            continue
        if name.startswith("input's data"):
            what = "the input's data have changed (files, their sizes or times)"
        elif name.startswith(("input", "output")):
            what = f"{name} differs"
        else:
            what = f"{name} is {shown(now)}, was {shown(then)}"
        raise SemDedupError(
            f"output={shown(folder, 400)} holds another run: {what}; give what it was begun with, or --overwrite "
            "to begin again"
        )
