"""Where a retriever's rows lie: cluster by cluster, in memory, in mapped files, or in the Parquet that a run wrote."""

from __future__ import annotations

import json
import os
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.explore.labels import cluster_means

if TYPE_CHECKING:
    import pyarrow as pa

CACHE_BYTES = 1 << 30
"""Of cells read from Parquet, that are kept for the next query."""


@dataclass(frozen=True, eq=False)
class Cell:
    """The rows of one cluster."""

    units: np.ndarray
    """Float32 unit vectors (m, d)."""
    ids: Any
    """Sequence of m ids, by position."""
    documents: Any
    """Sequence of m texts, or None."""

    @cached_property
    def nbytes(self) -> int:
        """Bytes of memory that vectors, ids and texts take."""
        lists = [self.ids, [] if self.documents is None else self.documents]
        return int(self.units.nbytes) + sum(8 + sys.getsizeof(value) for values in lists for value in values)


@dataclass(frozen=True, eq=False)
class ArrayCells:
    """Rows sorted by cluster in one matrix, which may be a mapped file."""

    centroids: np.ndarray
    """Float32 (k, d)."""
    units: np.ndarray
    """Float32 (n, d)."""
    starts: np.ndarray
    """Int64 (k + 1,): the rows of cluster c are ``units[starts[c]:starts[c + 1]]``."""
    ids: np.ndarray
    documents: np.ndarray | None
    spherical: bool = True
    """Whether a centroid's score is the cosine, or that of the Euclidean distance."""

    @classmethod
    def of(
        cls, units: np.ndarray, labels: np.ndarray, centroids: np.ndarray, ids: np.ndarray, documents: np.ndarray | None
    ) -> ArrayCells:
        """Rows in any order, with the cluster of each."""
        order = np.argsort(labels, kind="stable")
        starts = np.searchsorted(labels[order], np.arange(len(centroids) + 1))
        texts = None if documents is None else documents[order]
        return cls(centroids, np.ascontiguousarray(units[order]), starts, ids[order], texts)

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each cluster: int64 (k,)."""
        return np.diff(self.starts)

    def cell(self, cluster: int) -> Cell:
        rows = slice(int(self.starts[cluster]), int(self.starts[cluster + 1]))
        return Cell(self.units[rows], self.ids[rows], None if self.documents is None else self.documents[rows])

    # --- saved ------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a folder: ``units.npy``, which is mapped when loaded, ``centroids.npy``, ``starts.npy``,
        ``rows.parquet`` (id, document), and ``retriever.json``, last. A folder with anything in it is refused."""
        from pyarrow import parquet

        rows = self._rows()  # before anything is written: ids of mixed types have no column
        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise SemDedupError(f"path={shown(str(folder), 400)} is not empty: give a new folder")
            for name in ("units", "centroids", "starts"):
                np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)
            parquet.write_table(rows, folder / "rows.parquet")
            facts = {
                "holds": _HOLDS,
                "rows": len(self.units),
                "clusters": len(self.centroids),
                "dim": self.units.shape[1],
            }
            (folder / _MANIFEST).write_text(json.dumps(facts | {"spherical": self.spherical}, indent=2) + "\n")
        except OSError as error:
            raise SemDedupError(
                f"path={shown(str(folder), 400)} cannot be written: {error.strerror or error}"
            ) from None

    def _rows(self) -> pa.Table:
        import pyarrow as pa

        try:
            columns = {"id": pa.array(self.ids.tolist())}
        except (pa.ArrowException, OverflowError) as error:
            raise SemDedupError(f"ids cannot be saved, they must be of one type: {_first_line(error)}") from None
        if self.documents is not None:
            columns["document"] = pa.array(self.documents.tolist(), pa.string())
        return pa.table(columns)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ArrayCells:
        """What ``save`` wrote; vectors stay in the file and are mapped."""
        from pyarrow import parquet

        folder = Path(path)
        place = f"path={shown(str(folder), 400)}"
        facts = _manifest(folder, place)
        try:
            units = np.load(folder / "units.npy", mmap_mode="r", allow_pickle=False)
            centroids, starts = (
                np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("centroids", "starts")
            )
            rows = parquet.read_table(folder / "rows.parquet")
        except (OSError, ValueError) as error:
            raise SemDedupError(f"{place} cannot be loaded: {_first_line(error)}") from None
        shapes = units.shape, centroids.shape, starts.shape, rows.num_rows
        n, k, d = facts["rows"], facts["clusters"], facts["dim"]
        if shapes != ((n, d), (k, d), (k + 1,), n) or starts[0] != 0 or starts[-1] != n or (np.diff(starts) < 0).any():
            raise SemDedupError(f"{place} cannot be loaded: its files do not belong together")
        documents = _texts(rows["document"]) if "document" in rows.column_names else None
        return cls(centroids, units, starts, _objects(rows["id"]), documents, bool(facts["spherical"]))


_HOLDS, _MANIFEST = "cluster retriever", "retriever.json"


def is_saved(path: str | os.PathLike[str]) -> bool:
    """Whether ``ArrayCells.save`` wrote the folder."""
    return (Path(path) / _MANIFEST).is_file()


def _manifest(folder: Path, place: str) -> dict[str, Any]:
    try:
        facts = json.loads((folder / _MANIFEST).read_text())
        numbers = [facts[name] for name in ("rows", "clusters", "dim")]
        fits = facts["holds"] == _HOLDS and all(isinstance(n, int) and n > 0 for n in numbers) and "spherical" in facts
    except (OSError, ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise SemDedupError(f"{place} holds no saved retriever: it must be a folder that save wrote")
    return dict(facts)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _objects(column: pa.ChunkedArray) -> np.ndarray:
    values = np.empty(len(column), object)
    values[:] = column.to_pylist()
    return values


def _texts(column: pa.ChunkedArray) -> np.ndarray:
    values = _objects(column)
    values[[value is None for value in values]] = ""
    return values


# --- a run's own files --------------------------------------------------------------------------------------


class FolderCells:
    """The folder that ``spark-semdedup cluster`` writes, ``centroid=N/`` Parquet: a query reads the clusters it visits.

    Nothing is copied but the cells read last: up to ``CACHE_BYTES``, or one if it is larger. Vectors are used as they
    are stored: unit vectors.
    """

    spherical = True

    def __init__(
        self, path: str, *, id_col: str = "id", embedding_col: str = "embedding", text_col: str | None = None
    ) -> None:
        self._path = path
        self._columns = {"id": id_col, "embedding": embedding_col}
        names, self.sizes = self._look()
        text = text_col if text_col is not None else ("text" if "text" in names else None)
        for name in (id_col, embedding_col, *([text] if text else [])):
            if name not in names:
                raise SemDedupError(
                    f"{shown(path, 400)} has no column {shown(name)}: it has {', '.join(sorted(names))}"
                )
        if text:
            self._columns["document"] = text
        self._cache: OrderedDict[int, Cell] = OrderedDict()
        self.centroids = self._means()

    def _look(self) -> tuple[set[str], np.ndarray]:
        """Names of the columns, and rows of each cluster, from the files' footers alone."""
        files = self._files()
        sizes = np.zeros(max(files) + 1, np.int64)
        names: set[str] = set()
        with self._reading():
            for cluster, fragments in files.items():
                for fragment in fragments:
                    sizes[cluster] += fragment.count_rows()
                    names = names or set(fragment.physical_schema.names)
        return names, sizes

    def _files(self) -> dict[int, list[Any]]:
        from pyarrow import dataset

        with self._reading():
            found = dataset.dataset(self._path, format="parquet", partitioning="hive")
            keys = [(dataset.get_partition_keys(f.partition_expression), f) for f in found.get_fragments()]
        files: dict[int, list[Any]] = {}
        for key, fragment in keys:
            if not isinstance(key.get("centroid"), int):
                raise SemDedupError(
                    f"{shown(self._path, 400)} is not laid out by cluster: it must have folders centroid=0, … "
                    "as spark-semdedup cluster writes them"
                )
            if key["centroid"] >= 0:
                files.setdefault(key["centroid"], []).append(fragment)
        if not files:
            raise SemDedupError(f"{shown(self._path, 400)} holds no rows in clusters")
        return files

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Faults of the files as one line."""
        import pyarrow as pa

        try:
            yield
        except (OSError, ValueError, TypeError, pa.ArrowException) as error:
            raise SemDedupError(f"{shown(self._path, 400)} cannot be read as clusters: {_first_line(error)}") from None

    def _means(self) -> np.ndarray:
        """The mean of each cluster's rows, of unit length; one pass over the vectors. Of no rows: zero."""
        means: dict[int, np.ndarray] = {}
        for cluster in np.flatnonzero(self.sizes).tolist():
            units = self._read(cluster).units
            mean = cluster_means(units, np.zeros(len(units), np.int64), np.array([0]))[0]
            means[cluster] = mean / (np.linalg.norm(mean) or 1.0)
        dim = len(next(iter(means.values())))
        return np.stack([means.get(c, np.zeros(dim, np.float32)) for c in range(len(self.sizes))]).astype(np.float32)

    def cell(self, cluster: int) -> Cell:
        if cluster in self._cache:
            self._cache.move_to_end(cluster)
            return self._cache[cluster]
        cell = self._read(cluster)
        self._cache[cluster] = cell
        while len(self._cache) > 1 and sum(kept.nbytes for kept in self._cache.values()) > CACHE_BYTES:
            self._cache.popitem(last=False)
        return cell

    def _read(self, cluster: int) -> Cell:
        from pyarrow import dataset

        from spark_semdedup.explore.sample import Columns, from_arrow

        names = list(dict.fromkeys(self._columns.values()))
        with self._reading():
            folder = dataset.dataset(self._path, format="parquet", partitioning="hive")
            table = folder.to_table(columns=names, filter=dataset.field("centroid") == cluster)
        columns = Columns(self._columns["id"], self._columns["embedding"], self._columns.get("document"))
        sample = from_arrow(table, columns, rows=table.num_rows, seed=0)
        return Cell(sample.units, sample.ids, sample.texts)
