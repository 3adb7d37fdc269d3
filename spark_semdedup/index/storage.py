"""``Storage``: what changes of an index ask of Spark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_semdedup.clustering.centroids import Centroids
from spark_semdedup.clustering.saved import read_matrix, write_centroids
from spark_semdedup.errors import AccountingError
from spark_semdedup.index.files import Written, file_columns, percentile99, read_back, write_rows
from spark_semdedup.index.refitting import fit_rows
from spark_semdedup.index.rows import cell_margins, reassigned
from spark_semdedup.index.version import RowFile, Version
from spark_semdedup.index.versions import Versions
from spark_semdedup.params import HasBackend
from spark_semdedup.spark.arrow import collect_arrow
from spark_semdedup.spark.device import TaskDevice
from spark_semdedup.spark.files import escaped, join
from spark_semdedup.spark.ids import Ids
from spark_semdedup.spark.parquet import own_reader
from spark_semdedup.spark.vectors import ordered_matrix


@dataclass(frozen=True)
class Match:
    """Rows with a sought id: of one file, centroid and batch. ``far``: as ``Batch.far``."""

    path: str
    centroid: int
    batch: int
    rows: int
    kept: int
    far: int
    hashes: int


@dataclass(frozen=True)
class Storage:
    """The files of an index as rows."""

    spark: SparkSession
    versions: Versions

    def rows(self, version: Version, files: Sequence[RowFile] | None = None) -> DataFrame:
        """The rows of these files (default: all). Lists no folder, reads no footer."""
        wanted = version.files if files is None else files
        if not wanted:
            return self.spark.createDataFrame([], version.schema)
        paths = [escaped(join(self.versions.path, file.path)) for file in wanted]
        return own_reader(self.spark).schema(version.schema).parquet(*paths)

    def count(self, rows: DataFrame) -> Ids:
        """One job. Of rows in files, it reads ids alone."""
        return Ids.count(rows, F.col("id"))

    def count_files(self, version: Version, files: Sequence[RowFile]) -> Ids:
        """The ids in these files. Raises ``AccountingError`` where these have not the rows that were written."""
        found, written = self.count(self.rows(version, files)), sum(file.rows for file in files)
        if found.rows != written:
            raise AccountingError(
                f"{self.versions.place}: {len(files)} of its files have {found.rows} rows, but {written} were written: "
                "files were lost or replaced; the index is as it was"
            )
        return found

    def write(self, rows: DataFrame, folder: str, count: int, version: Version) -> Written:
        """Writes rows, ``count`` of them, to a folder relative to the index, and reads back what came of it.
        ``version``: whose centroids, ranking and percentile apply."""
        path, p99 = self.versions.path, version.fit.p99 if version.fit else None
        write_rows(
            rows,
            join(path, folder),
            count=count,
            cells=version.cells,
            dim=version.dim,
            ranking=version.ranking,
        )
        return read_back(self.spark, path, folder, version.schema, k=version.k, p99=p99)

    def percentile(self, written: Written) -> float:
        """99th percentile of the distances of rows that were just written."""
        return percentile99(self.spark, self.versions.path, written)

    def add_margins(self, files: Sequence[RowFile], version: Version, folder: str) -> str | None:
        """Writes the margins of ``version``'s cells with the rows of new files to ``folder``, relative to the index.
        Returns it, or None where there are too many cells.

        One job, which scores all new rows with all centroids, as their assignment has done.
        """
        if version.k > MOST_CELLS:
            return None
        known = self.margins(version)
        margins = np.full((version.k, version.k), LOWEST, np.float32) if known is None else known.copy()
        centroids = self.centroids(version)
        found = collect_arrow(cell_margins(self.rows(version, files), centroids))
        if len(found):
            new = ordered_matrix(found["margins"], np.arange(len(found)))
            np.maximum.at(margins, found["centroid"].to_numpy(), np.clip(new, LOWEST, -LOWEST))
        write_centroids(self.spark, margins, self.join(folder))
        return folder

    def margins(self, version: Version) -> np.ndarray | None:
        """The margins of the cells, float32 (k, k); None where there are none."""
        if version.margins is None:
            return None
        return read_matrix(self.spark, self.join(version.margins), (version.k, version.k))

    def centroids(self, version: Version) -> Centroids:
        matrix = read_matrix(self.spark, self.join(version.centroids), (version.k, version.dim))
        return Centroids(matrix, version.spherical, version.history)

    def join(self, path: str) -> str:
        return join(self.versions.path, path)

    def matches(self, version: Version, ids: DataFrame) -> list[Match]:
        """Where the rows with these distinct ids are. One job, which reads no vectors."""
        p99 = version.fit.p99 if version.fit else np.inf
        if not version.files:
            return []
        columns = "id", "centroid", "batch", "kept", "l2_dist_to_cent"
        located = self.rows(version).select(*columns, *file_columns("file_name")).join(ids, "id", "left_semi")
        groups = located.groupBy("file_name", "centroid", "batch").agg(
            F.count(F.lit(1)).alias("rows"),
            F.count(F.when(F.col("kept"), 1)).alias("kept"),
            F.count(F.when(F.col("l2_dist_to_cent") > F.lit(float(p99)), 1)).alias("far"),
            Ids.hash_of(F.col("id")),
        )
        by_name = {file.path.rpartition("/")[2]: file.path for file in version.files}
        found = collect_arrow(groups)
        paths = [by_name[name] for name in found["file_name"].to_pylist()]
        table = found.drop_columns(["file_name"]).append_column("path", pa.array(paths, pa.string()))
        return [Match(**row) for row in table.to_pylist()]

    def without(self, rows: DataFrame, ids: DataFrame) -> DataFrame:
        return rows.join(ids, "id", "left_anti").select(*rows.columns)

    def fit(self, version: Version, k: int | None) -> Centroids:
        """New centroids, fitted on the rows. ``k``: how many (default: by the number of rows)."""
        return fit_rows(self.rows(version), version, k)

    def save_centroids(self, centroids: Centroids, folder: str) -> None:
        write_centroids(self.spark, centroids.matrix, join(self.versions.path, folder))

    def reassigned(self, rows: DataFrame, centroids: Centroids, version: Version) -> DataFrame:
        """The rows with other centroids."""
        params = HasBackend(**{name: version.settings[name] for name in _DEVICE if version.settings.get(name)})
        return reassigned(rows, centroids, TaskDevice.of_params(self.spark, params))


MOST_CELLS = 4096
"""That margins are kept of: 64 MiB. Beyond, rows visit cells without."""

LOWEST = float(np.finfo(np.float32).min)
"""In place of −∞: the margin of a cell without rows."""

_DEVICE = ("backend", "deviceMemoryFraction")
