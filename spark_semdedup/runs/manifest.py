"""What the steps read and write: input, output, and the manifest that makes a folder a result.

A folder of rows holds, beside its data, files that Spark's readers skip because of the underscore: ``_semdedup.json``
says what the rows are and what they are complete for. It is written last, so a folder that has it is whole, on
object stores too. ``_semdedup.unfinished`` is written first and removed last: a folder with it alone is a step's that
did not end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pyspark.sql import DataFrame

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.redaction import COLUMN_PARAMS, redacted_values
from spark_semdedup.runs.lock import is_lock
from spark_semdedup.spark.columns import id_column
from spark_semdedup.spark.files import Files, join
from spark_semdedup.spark.ids import Ids

MANIFEST = "_semdedup.json"

RUN_MANIFEST = "_manifest.json"
"""The manifest of a whole run, which lies beside the folders of its steps."""

UNFINISHED = "_semdedup.unfinished"

STAGES = "_stages"
"""The folder in which a run records how far it is (``stages``)."""

ROWS_PER_FILE = 2_000_000
"""Rows of narrow tables (ids and scores) per file: some tens of MB, and no task that moves more than that."""


def begin(files: Files, path: str) -> None:
    """Marks a folder as being written. For who holds its lock, or that of the folder it is in."""
    files.write_text(join(path, UNFINISHED), "")


def delete_dataset(files: Files, path: str) -> None:
    """Deletes a folder. One of ours is marked as unfinished first, then loses its manifest, and the mark goes last: so
    that it is not taken for whole, nor for another program's, while it goes."""
    if not files.exists(path):
        return
    if any(files.exists(join(path, name)) for name in (MANIFEST, UNFINISHED)):
        empty_dataset(files, path)
    files.delete(path)


def empty_dataset(files: Files, path: str) -> None:
    """Deletes what is in a folder of ours in this order, but for the lock of whoever does so."""
    files.write_text(join(path, UNFINISHED), "")
    files.delete(join(path, MANIFEST))
    for name in files.names(path):
        if name != UNFINISHED and not is_lock(name):
            files.delete(join(path, name))
    files.delete(join(path, UNFINISHED))


def finish(files: Files, path: str, manifest: Mapping[str, Any], name: str = MANIFEST) -> None:
    """Writes the manifest, which makes the folder valid, and takes the mark away. Secrets are not written: a path that
    is to be compared with one in a manifest must be redacted too."""
    said = redacted_values(manifest, verbatim=COLUMN_PARAMS)
    files.write_text(join(path, name), json.dumps(said, indent=2, ensure_ascii=False) + "\n")
    files.delete(join(path, UNFINISHED))


def write_dataset(
    files: Files,
    rows: DataFrame,
    path: str,
    manifest: Mapping[str, Any],
    check: Callable[[int], None] = lambda rows: None,
) -> int:
    """Writes a Parquet folder of ours with its manifest. Returns the number of rows, counted in what was written.
    ``check``: of that number, before the folder counts as whole."""
    with _dataset(files, rows, path, manifest) as (written, found):
        found["rows"] = written.count()
        check(found["rows"])
    return found["rows"]


def write_with_ids(files: Files, rows: DataFrame, path: str, manifest: Mapping[str, Any], id_col: str) -> Ids:
    """The same. Returns the ids, as they are read back."""
    with _dataset(files, rows, path, manifest) as (written, found):
        ids = Ids.count(written, id_column(written, id_col))
        found["rows"] = ids.rows
    return ids


@contextmanager
def _dataset(
    files: Files, rows: DataFrame, path: str, manifest: Mapping[str, Any]
) -> Iterator[tuple[DataFrame, dict[str, int]]]:
    """Gives what was written, and what the manifest is to say beside, to be filled."""
    begin(files, path)
    rows.write.mode("append").parquet(path)
    found: dict[str, int] = {}
    yield rows.sparkSession.read.schema(rows.schema).parquet(path), found
    finish(files, path, {**manifest, **found})


def read_manifest(files: Files, path: str, param: str, wanted: str) -> dict[str, Any] | None:
    """What a folder holds, by its manifest; None for one that has none because another program wrote it.

    Raises ``SemDedupError`` where nothing is there, where the step that wrote it did not end, or where it holds
    something else than ``wanted``.
    """
    place = f"{param}={shown(path, 400)}"
    if not files.matches(path):
        raise SemDedupError(f"{place} does not exist: give the folder of {wanted}")
    if not files.exists(join(path, MANIFEST)):
        if files.exists(join(path, UNFINISHED)):
            raise SemDedupError(f"{place} is not finished: the step that wrote it did not end; run it again")
        if files.exists(join(path, RUN_MANIFEST)):
            raise SemDedupError(f"{place} is the folder of a whole run: give {join(path, wanted)}")
        return None
    manifest = _parsed(files, path, MANIFEST, place)
    if manifest.get("holds") != wanted:
        raise SemDedupError(f"{place} holds {manifest.get('holds')}, not {wanted}")
    return manifest


def read_run_manifest(files: Files, path: str, param: str) -> dict[str, Any]:
    """What the folder of a whole run says of it: its summary. ``SemDedupError`` where no run has ended there."""
    place = f"{param}={shown(path, 400)}"
    if not files.matches(path):
        raise SemDedupError(f"{place} does not exist: give the folder that a run wrote")
    if not files.exists(join(path, RUN_MANIFEST)):
        if files.exists(join(path, UNFINISHED)):
            raise SemDedupError(f"{place} is not finished: the run that wrote it did not end; run it again")
        raise SemDedupError(f"{place} is not the folder of a run (it has no {RUN_MANIFEST}): give what run wrote")
    return _parsed(files, path, RUN_MANIFEST, place)


def _parsed(files: Files, path: str, name: str, place: str) -> dict[str, Any]:
    try:
        manifest = json.loads(files.read_text(join(path, name)))
    except (ValueError, RecursionError) as error:
        raise SemDedupError(f"{place}: {name} in it is not valid JSON ({error})") from error
    if not isinstance(manifest, dict):
        raise SemDedupError(f"{place}: {name} in it is not a JSON object: it is none that this program wrote")
    return manifest


def is_own_run(files: Files, path: str) -> bool:
    """Whether a folder is what a run of this program wrote, ended or not."""
    names = files.names(path)
    if STAGES in names or any(map(is_mark, names)):
        return True
    if RUN_MANIFEST not in names:
        return False
    try:
        return read_run_manifest(files, path, "output").get("holds") == "run"
    except SemDedupError:  # another program's has that name, too
        return False


def can_resume(files: Files, path: str) -> bool:
    """Whether a run can go on in a folder: one has begun there, or was stopped before it wrote anything."""
    names = files.names(path)
    return any(name in names for name in (RUN_MANIFEST, UNFINISHED, STAGES)) or all(map(is_mark, names))


def is_mark(name: str) -> bool:
    """Marks of a run or step that has not ended: its lock, and what it tries out before it begins."""
    return name.startswith("_semdedup.") and name != MANIFEST


def files_for(rows: int) -> int:
    """Number of files for narrow rows."""
    return max(1, math.ceil(rows / ROWS_PER_FILE))
