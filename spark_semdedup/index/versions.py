"""The versions of an index, as files: readers see whole versions, one writer at a time adds one.

``_versions/vNNNNNNNN.json`` names all files of version N. It is written last, so a version exists once its JSON is
whole; a kill before leaves files that no version names, which the next writer deletes. Nothing relies on a rename.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from spark_semdedup.errors import ResultExistsError, SemDedupError, shown
from spark_semdedup.index.version import Version
from spark_semdedup.spark.files import Files, join
from spark_semdedup.spark.lock import Lock, is_lock

VERSIONS, ROWS, CENTROIDS, MARGINS = "_versions", "rows", "centroids", "margins"

_BEGUN = "begun"
"""Written first of all: a folder with it is an index, or was to become one."""

_NAME = re.compile(r"v(\d{8,})(\.json)?")

_CUT_OFF = ("Checksum error", "Cannot obtain block length")
"""What Hadoop's local file system and HDFS say of a file whose writer was killed."""


def folder_name(version: int) -> str:
    """Name of what version N adds, in ``rows`` and ``centroids``."""
    return f"v{version:08}"


@dataclass(frozen=True)
class Versions:
    """The versions in the folder ``path``."""

    files: Files
    path: str

    @property
    def place(self) -> str:
        """The index in messages."""
        return f"index={shown(self.path, 400)}"

    # --- reading ---

    def newest(self) -> Version | None:
        """The highest whole version; None where none is."""
        for number in reversed(self.numbers()):
            version = self._read(number)
            if version is not None:
                return version
        return None

    def open(self, number: int | None = None) -> Version:
        """The newest version, or the one of that number. Raises ``SemDedupError`` where it does not exist."""
        if not self.files.exists(self.path):
            raise SemDedupError(f"{self.place} does not exist: give the folder of an index")
        if number is None:
            version = self.newest()
            if version is None:
                began = ": its creation did not end; create it again" if self.is_begun() else ""
                raise SemDedupError(f"{self.place} is not an index (it has no whole version in {VERSIONS}){began}")
            return version
        version = self._read(number) if number in self.numbers() else None
        if version is None:
            listed = ", ".join(map(str, self.numbers()[-20:])) or "none"
            raise SemDedupError(f"{self.place} has no version {number}; the newest it has: {listed}")
        return version

    def numbers(self) -> list[int]:
        """Numbers of all versions, cut-off ones included, ascending."""
        folder = join(self.path, VERSIONS)
        if not self.files.exists(folder):
            return []
        names = (_NAME.fullmatch(name) for name in self.files.names(folder))
        return sorted(int(name[1]) for name in names if name and name[2])

    def is_begun(self) -> bool:
        """Whether the folder is an index, or was to become one."""
        return self.files.exists(join(self.path, VERSIONS))

    def is_taken(self) -> bool:
        """Whether other files than an index's are there."""
        if self.is_begun() or not self.files.exists(self.path):
            return False
        return not all(map(is_lock, self.files.names(self.path)))

    def _read(self, number: int) -> Version | None:
        """None where a kill has cut off the JSON. A store that cannot be read now is an error: its version may be
        whole, and a writer would replace it."""
        try:
            text = self.files.read_text(self._json(number))
        except SemDedupError as error:
            if any(sign in str(error) for sign in _CUT_OFF):
                return None
            raise
        return Version.from_json(text, f"{self.place}, version {number},")

    def _json(self, number: int) -> str:
        return join(self.path, VERSIONS, f"{folder_name(number)}.json")

    # --- writing ---

    @contextmanager
    def held(self) -> Iterator[Callable[[], None]]:
        """Holds the index. Gives what raises ``FolderInUseError`` once another process has taken it over."""
        with Lock(self.files, self.path, takeover=True, param="index") as lock:
            yield lock.assert_held

    def rows_folder(self, version: int) -> str:
        """Where version N's own rows are, relative to the index."""
        return f"{ROWS}/{folder_name(version)}"

    def centroids_folder(self, version: int) -> str:
        return f"{CENTROIDS}/{folder_name(version)}"

    def clear(self, version: int) -> None:
        """Deletes what a writer that was killed has left of a version that does not exist."""
        for path in (self._json(version), *(join(self.path, f) for f in self._folders(version))):
            if self.files.exists(path):
                self.files.delete(path)

    def margins_folder(self, version: int) -> str:
        return f"{MARGINS}/{folder_name(version)}"

    def _folders(self, version: int) -> tuple[str, str, str]:
        return self.rows_folder(version), self.centroids_folder(version), self.margins_folder(version)

    def write(self, version: Version) -> None:
        """Makes a version exist, whose files do."""
        self.files.write_text(self._json(version.version), version.as_json())

    def begin(self, *, overwrite: bool) -> None:
        """Makes the folder, which the caller holds, an index without versions.

        Raises ``ResultExistsError`` for a folder with other files, and, without ``overwrite``, for an index.
        """
        newest = self.newest()
        if newest is not None and not overwrite:
            raise ResultExistsError(
                f"{self.place} is an index of {newest.rows} rows already: append to it, or give another folder"
            )
        if self.is_taken():
            raise ResultExistsError(f"{self.place} has files that are no index's: give another folder")
        self.files.write_text(join(self.path, VERSIONS, _BEGUN), "")
        for number in self.numbers():  # the newest last: until then what remains is whole
            self.files.delete(self._json(number))
        for name in (ROWS, CENTROIDS, MARGINS):
            if self.files.exists(join(self.path, name)):
                self.files.delete(join(self.path, name))

    # --- versions that nobody reads any more ---

    def expire(self, newest: Version, keeps: Callable[[Version], bool]) -> int:
        """Deletes versions, each before its files, and then all files that no version names. Returns how many versions
        went. ``keeps``: whether to keep a version, by the version that replaced it. The caller holds the index."""
        read = (self._read(number) for number in self.numbers() if number < newest.version)
        whole = [*(version for version in read if version is not None), newest]
        kept = [version for version, after in pairwise(whole) if keeps(after)]
        for version in whole[:-1]:
            if version not in kept:
                self.files.delete(self._json(version.version))
        self._delete_unnamed([*kept, newest])
        return len(whole) - 1 - len(kept)

    def _delete_unnamed(self, kept: list[Version]) -> None:
        named = {file.path for version in kept for file in version.files}
        folders = {path.rpartition("/")[0] for path in named}
        centroids = {version.centroids for version in kept}
        margins = {version.margins for version in kept if version.margins}
        for root, wanted in ((ROWS, folders), (CENTROIDS, centroids), (MARGINS, margins)):
            for name in self._names(root):
                if f"{root}/{name}" not in wanted:
                    self.files.delete(join(self.path, root, name))
        for folder in sorted(folders):
            for name in self._names(folder):
                if name.startswith("part-") and f"{folder}/{name}" not in named:
                    self.files.delete(join(self.path, folder, name))

    def _names(self, folder: str) -> list[str]:
        path = join(self.path, folder)
        return self.files.names(path) if self.files.exists(path) else []
