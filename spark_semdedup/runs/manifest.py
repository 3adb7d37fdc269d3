"""The files that make a folder a result of this program, or an unfinished one.

A folder of rows also holds files that Spark's readers skip because of the underscore. ``_semdedup.json`` says what the
rows are; a step writes it last, so a folder with it is whole, on object stores too. A step writes
``_semdedup.unfinished`` first and deletes it last. The folder of a run has ``_manifest.json`` instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.redaction import COLUMN_PARAMS, redacted_values
from spark_semdedup.spark.files import Files, join
from spark_semdedup.spark.lock import is_lock

MANIFEST = "_semdedup.json"

RUN_MANIFEST = "_manifest.json"
"""The manifest of a whole run, in the folder above its results."""

UNFINISHED = "_semdedup.unfinished"

STAGES = "_stages"
"""Folder of a run's journal."""

REPORT = "report.html"
"""The page about a run, in its folder."""

EVALUATION = "evaluation.json"
"""Name of an evaluation's file where the user gives a folder, that of the run itself say."""

RUN_RESULTS = (
    *(RUN_MANIFEST, "summary.json", "deduplicated", "invalid", "duplicates", "similarities", "centroids"),
    *("pairs", "groups"),
)
"""What a run writes into its folder. ``--overwrite`` deletes these, the manifest first, and an evaluation of them."""


EMBEDDINGS = "embeddings"
"""Folder of the embeddings of a run that embeds texts."""


def begin(files: Files, path: str) -> None:
    """Marks a folder as unfinished. The caller holds its lock, or that of the folder above."""
    files.write_text(join(path, UNFINISHED), "")


def finish(files: Files, path: str, manifest: Mapping[str, Any], name: str = MANIFEST) -> None:
    """Writes the manifest, which makes the folder valid, and deletes the mark. Secrets are redacted: to compare a path
    with one in a manifest, redact it too."""
    content = redacted_values(manifest, verbatim=COLUMN_PARAMS)
    files.write_text(join(path, name), json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    files.delete(join(path, UNFINISHED))


def is_own_dataset(files: Files, path: str) -> bool:
    """Whether a step of ours wrote the folder, or began to."""
    return any(files.exists(join(path, name)) for name in (MANIFEST, UNFINISHED))


def delete_dataset(files: Files, path: str) -> None:
    """Deletes a folder. A result of ours gets the mark first, then loses its manifest, and the mark goes last: nobody
    takes it for whole, or for another program's, in between."""
    if not files.exists(path):
        return
    if is_own_dataset(files, path):
        empty_dataset(files, path)
    files.delete(path)


def empty_dataset(files: Files, path: str) -> None:
    """Deletes the contents of a result of ours in this order, except the caller's lock."""
    begin(files, path)
    files.delete(join(path, MANIFEST))
    for name in files.names(path):
        if name != UNFINISHED and not is_lock(name):
            files.delete(join(path, name))
    files.delete(join(path, UNFINISHED))


def read_manifest(files: Files, path: str, param: str, wanted: str) -> dict[str, Any] | None:
    """The manifest of a folder of rows; None where another program wrote the folder.

    Raises ``SemDedupError`` where ``path`` does not exist, is unfinished, or holds something else than ``wanted``.
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
    """The manifest of a whole run: its summary. Raises ``SemDedupError`` where no run has finished in ``path``."""
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
        raise SemDedupError(f"{place}: {name} in it is not a JSON object, so spark-semdedup did not write it")
    return manifest


def delete_results(files: Files, folder: str) -> None:
    """Deletes what a run wrote into a folder, and an evaluation of it; other files stay."""
    for name in (*RUN_RESULTS, EVALUATION, REPORT):
        if "." in name:
            files.delete(join(folder, name))
        else:
            delete_dataset(files, join(folder, name))
    if is_own_dataset(files, join(folder, EMBEDDINGS)):  # a user may keep another folder of that name
        delete_dataset(files, join(folder, EMBEDDINGS))


def is_finished(files: Files, folder: str) -> bool:
    """Whether the folder has a whole manifest. A kill while it was written leaves the mark, too."""
    if not files.exists(join(folder, RUN_MANIFEST)):
        return False
    if not files.exists(join(folder, UNFINISHED)):
        return True
    try:
        read_run_manifest(files, folder, "output")
    except SemDedupError:
        return False
    return True


def is_run(names: Sequence[str]) -> bool:
    """Whether a folder of such entries is a run's, finished or not. Steps make marks too, so marks do not tell."""
    return RUN_MANIFEST in names or STAGES in names


def is_own_run(files: Files, path: str) -> bool:
    """Whether a run of this program wrote the folder, finished or not."""
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
    """Whether the folder is that of a run, or of one that was stopped before it wrote anything."""
    names = files.names(path)
    return is_run(names) or UNFINISHED in names or all(map(is_mark, names))


def is_mark(name: str) -> bool:
    """Whether the file belongs to an unfinished run or step: its lock, its mark, or its trial of the format."""
    return name.startswith("_semdedup.") and name != MANIFEST
