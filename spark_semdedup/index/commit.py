"""How an index changes: under its lock, from the version that was looked at to the next one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from spark_semdedup.errors import SemDedupError
from spark_semdedup.index.version import Version, now
from spark_semdedup.index.versions import Versions

Make = Callable[[Version], "Version | None"]
"""Writes the files of the version after the given one. None: there is nothing to change."""


def commit(versions: Versions, seen: Version, make: Make, *, retain_hours: float | None = None) -> Version:
    """Adds the version that ``make`` makes of the newest one. Returns the newest version.

    ``seen``: the version that the change rests on. ``retain_hours``: delete versions that were replaced longer ago,
    and their files (None: none). Raises ``SemDedupError`` where rows or centroids have changed since ``seen``.
    """
    with versions.held() as assert_held:
        newest = versions.open()
        require_same_rows(versions, newest, seen)
        assert_held()
        versions.clear(newest.version + 1)
        changed = make(newest)
        assert_held()
        if changed is not None:
            versions.write(changed)
            newest = changed
        if retain_hours is not None:
            versions.expire(newest, replaced_within(retain_hours))
        return newest


def create(
    versions: Versions, make: Callable[[str], Version], *, run: str | None = None, overwrite: bool = False
) -> Version:
    """Makes a folder an index. ``make``: writes the centroids to a folder relative to the index and gives version 0.

    Of a ``run`` that has created the index already: the newest version. Raises ``ResultExistsError`` (``begin``).
    """
    with versions.held() as assert_held:
        newest = versions.newest()
        if newest is not None and run is not None and newest.run == run:
            return newest
        assert_held()
        versions.begin(overwrite=overwrite)
        first = make(versions.centroids_folder(0))
        assert_held()
        versions.write(first)
        return first


def require_same_rows(versions: Versions, newest: Version, seen: Version) -> None:
    """Raises ``SemDedupError`` where another writer has changed rows or centroids since a version was looked at."""
    if newest.content != seen.content:
        raise SemDedupError(
            f"{versions.place} was changed by another process ({newest.operation}, version {newest.version}) after "
            f"version {seen.version} was read: open it again and repeat the step"
        )


def replaced_within(hours: float) -> Callable[[Version], bool]:
    """Whether a version was replaced, by the given one, in the last ``hours``."""
    since = datetime.fromisoformat(now()) - timedelta(hours=hours)
    return lambda after: hours > 0 and datetime.fromisoformat(after.at) >= since
