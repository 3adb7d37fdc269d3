"""Rows to files and back: which files, how they are sorted, which of them a reader needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.errors import AccountingError
from spark_semdedup.index.version import RowFile
from spark_semdedup.pairwise.merge import by_rank
from spark_semdedup.pairwise.packing import keys_for
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.spark.arrow import collect_arrow, local_frame
from spark_semdedup.spark.files import escaped
from spark_semdedup.spark.ids import Ids
from spark_semdedup.spark.parquet import own_reader

FILE_BYTES = 96 << 20
"""Of a file, about."""

ROW_GROUP_BYTES = 8 << 20
"""Of a row group: what a reader of few clusters reads at least."""


MOST_RANGES = 64
"""Of centroids in one filter. Beyond, near ones are read as one range, and rows between them dropped."""


def row_bytes(dim: int) -> int:
    """Bytes of a row in a file, about."""
    return 4 * dim + 48


def files_for(rows: int, dim: int) -> int:
    return max(1, -(-rows * row_bytes(dim) // FILE_BYTES))


# --- writing ---


def write_rows(rows: DataFrame, folder: str, *, count: int, cells: np.ndarray, dim: int, ranking: Ranking) -> None:
    """Writes rows to a new folder, sorted by centroid, batch and rank, each file a range of centroids.

    ``count``: how many there are. ``cells``: rows of each centroid, int64 (k,), as estimated, which says where to cut.
    """
    parts = files_for(count, dim)
    columns = rows.columns
    if parts == 1:
        placed = rows.repartition(1)
    else:
        keys = keys_for(np.arange(parts), parts)[range_of_cells(cells, parts)]
        lookup = local_frame(rows.sparkSession, _lookup(keys))
        placed = rows.join(F.broadcast(lookup), F.col("centroid") == F.col("range_centroid"), "left")
        placed = placed.repartition(parts, "range_key")
    order = [F.col("centroid"), F.col("batch"), *by_rank(ranking, "id", "key_")]
    writer = placed.sortWithinPartitions(*order).select(*columns).write.mode("append")
    writer = writer.option("parquet.block.size", ROW_GROUP_BYTES).option("parquet.enable.dictionary#unit", "false")
    writer.option("maxRecordsPerFile", 2 * FILE_BYTES // row_bytes(dim)).parquet(folder)


def _lookup(keys: np.ndarray) -> pa.Table:
    return pa.table({"range_centroid": pa.array(range(len(keys)), pa.int32()), "range_key": pa.array(keys, pa.int64())})


def range_of_cells(cells: np.ndarray, parts: int) -> np.ndarray:
    """Cuts cells into ``parts`` ranges of about as many rows: each cell's range, int64 (k,), ascending."""
    weights = cells + max(cells.sum(), 1) * 1e-3 / len(cells)  # cells without rows so far may get some
    middle = np.cumsum(weights) - weights / 2
    return np.minimum((middle / weights.sum() * parts).astype(np.int64), parts - 1)


# --- reading back ---


def file_columns(*names: str) -> list[Column]:
    """What Spark knows of the file that a row was read from, without reading it."""
    return [F.col(f"_metadata.{name}").alias(name) for name in names]


@dataclass(frozen=True, eq=False)
class Written:
    """What a folder of new rows holds, as read back. ``cells``: rows of each centroid, int64 (k,)."""

    files: tuple[RowFile, ...]
    cells: np.ndarray
    ids: Ids
    kept: int
    far: int

    def require(self, expected: Ids) -> None:
        """Raises ``AccountingError`` where these are not the rows that were to be written."""
        if self.ids != expected:
            what = "other ids" if self.ids.rows == expected.rows else f"{self.ids.rows} rows"
            raise AccountingError(
                f"{expected.rows} rows were to be added to the index, but its new files have {what}: the input changed "
                "while it was read, or files were lost; the index is as it was"
            )


def read_back(
    spark: SparkSession, path: str, folder: str, schema: T.StructType, *, k: int, p99: float | None
) -> Written:
    """Counts the rows in ``folder``, relative to the index at ``path``. One job, which reads no vectors."""
    rows = own_reader(spark).schema(schema).parquet(escaped(f"{path.rstrip('/')}/{folder}"))
    far = F.lit(False) if p99 is None else F.col("l2_dist_to_cent") > F.lit(p99)
    located = rows.select("id", "centroid", "kept", "l2_dist_to_cent", *file_columns("file_name", "file_size"))
    found = collect_arrow(
        located.groupBy("file_name", "file_size", "centroid").agg(
            F.count(F.lit(1)).alias("rows"),
            F.count(F.when(F.col("kept"), 1)).alias("kept"),
            F.count(F.when(far, 1)).alias("far"),
            Ids.hash_of(F.col("id")),
        )
    )
    sums = {name: pc.sum(found[name], min_count=0).as_py() for name in ("rows", "kept", "far")}
    centroid, counts = found["centroid"].to_numpy(), found["rows"].to_numpy()
    if len(found) and not 0 <= centroid.min() <= centroid.max() < k:
        raise AccountingError(
            f"rows of the index have centroids from {centroid.min()} to {centroid.max()}, not 0 to {k - 1}"
        )
    cells = np.bincount(centroid, counts, minlength=k).astype(np.int64)
    ids = Ids(sums["rows"], int(np.bitwise_xor.reduce(found["hashes"].to_numpy(), initial=0)))
    return Written(_row_files(found, folder), cells, ids, sums["kept"], sums["far"])


def _row_files(found: pa.Table, folder: str) -> tuple[RowFile, ...]:
    by_file = found.group_by(["file_name", "file_size"]).aggregate(
        [("rows", "sum"), ("centroid", "min"), ("centroid", "max")]
    )
    ordered = by_file.sort_by([("centroid_min", "ascending"), ("file_name", "ascending")]).to_pylist()
    return tuple(
        RowFile(
            path=f"{folder}/{row['file_name']}",
            rows=row["rows_sum"],
            bytes=row["file_size"],
            first=row["centroid_min"],
            last=row["centroid_max"],
        )
        for row in ordered
    )


def percentile99(spark: SparkSession, path: str, written: Written) -> float:
    """99th percentile of ``l2_dist_to_cent`` in new files. One job, which reads that column alone."""
    column = T.StructType([T.StructField("l2_dist_to_cent", T.FloatType())])
    rows = (
        own_reader(spark)
        .schema(column)
        .parquet(*(escaped(f"{path.rstrip('/')}/{file.path}") for file in written.files))
    )
    found = rows.agg(F.percentile_approx("l2_dist_to_cent", 0.99, 10_000).alias("p99")).first()
    assert found is not None  # an aggregate without groups always gives one row
    return float(found["p99"])


# --- reading ---


def files_meeting(files: Sequence[RowFile], cells: np.ndarray) -> list[RowFile]:
    """The files whose range has one of the cells; ``cells`` ascending, int (m,)."""
    return [f for f in files if np.searchsorted(cells, f.first) < np.searchsorted(cells, f.last, side="right")]


def runs_of(cells: np.ndarray, most: int = MOST_RANGES) -> list[tuple[int, int]]:
    """The cells, ascending, as at most ``most`` ranges, both ends included; the widest gaps between them are kept.

    >>> runs_of(np.array([1, 2, 3, 7, 9]), 3), runs_of(np.array([1, 2, 3, 7, 9]), 2)
    ([(1, 3), (7, 7), (9, 9)], [(1, 3), (7, 9)])
    """
    gaps = np.diff(cells)
    cuts = np.sort(np.argsort(-gaps, kind="stable")[: most - 1])
    cuts = cuts[gaps[cuts] > 1]
    starts, ends = np.concatenate([[0], cuts + 1]), np.concatenate([cuts, [len(cells) - 1]])
    return [(int(cells[a]), int(cells[b])) for a, b in zip(starts, ends, strict=True)]


def in_cells(cells: np.ndarray) -> Column:
    """Whether a row is in one of the cells, ascending. Ranges can be pushed down to the files' row groups and pages: a
    long IN is only its least and greatest value there (``spark.sql.parquet.pushdown.inFilterThreshold``)."""
    runs = runs_of(cells)
    condition = F.expr(" OR ".join(f"(centroid BETWEEN {first} AND {last})" for first, last in runs))
    if sum(last - first + 1 for first, last in runs) > len(cells):
        condition &= F.expr(f"centroid IN ({', '.join(map(str, cells.tolist()))})")
    return condition
