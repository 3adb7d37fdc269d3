"""Names and types of the columns that travel between the steps."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyspark.sql import types as T

from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels.assignment import Visits
from spark_semdedup.spark.vectors import packed, unpacked

ASSIGNED = ("centroid", "l2_dist_to_cent", "cosine_dist_to_cent")
"""The columns that assignment appends: int, float, float."""

TASK_COLUMNS = T.StructType(
    [
        T.StructField("tasks", T.ArrayType(T.LongType())),
        T.StructField("tiles", T.ArrayType(T.IntegerType())),
        T.StructField("others", T.ArrayType(T.IntegerType())),
    ]
)
"""Of one row: its tasks and, for each, its tile and the other one. Three lists, not one of structs, which the RAPIDS
Accelerator takes from Python on the CPU only."""


def cells_column(rows: int, visits: Visits, *, lists: bool = False) -> pa.Array:
    """The cells that each of ``rows`` rows visits: int32 numbers one after the other, as binary or as lists."""
    if 4 * len(visits.cells) >= 2**31:
        raise SemDedupError(
            f"a batch of {rows} rows visits {len(visits.cells)} clusters, which passes 2 GiB: lower "
            "spark.sql.execution.arrow.maxRecordsPerBatch, eps or k"
        )
    return packed(visits.cells.astype(np.int32), np.bincount(visits.rows, minlength=rows), lists=lists)


def visits_from(cells: pa.Array) -> Visits:
    """The inverse of ``cells_column``."""
    numbers, counts = unpacked(cells, np.int32)
    return Visits(np.repeat(np.arange(len(cells)), counts), numbers)


FIRST_PROBING_TILE = 1 << 20
"""Number of a region's first tile of probing rows; tiles of home rows count from 0."""

NO_TILE = -1
"""In place of the numbers of two tiles where a task is a region, or the home rows of one."""

SIMILARITY_COLUMNS = ("id", "max_id", "cosine_sim_score")

LINK_COLUMNS = ("link_ids", "link_scores", "more")
"""Of an entry, where similar predecessors are listed: their ids, in rank order, the similarities to them, and whether
there are more than are listed."""


def link_fields(id_type: T.DataType) -> list[T.StructField]:
    """The columns ``LINK_COLUMNS`` as Spark types; null where a row has no such predecessor."""
    types = T.ArrayType(id_type), T.ArrayType(T.FloatType()), T.BooleanType()
    return [T.StructField(name, type_) for name, type_ in zip(LINK_COLUMNS, types, strict=True)]
