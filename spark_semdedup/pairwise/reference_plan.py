"""How new rows and reference rows meet: the few travel to the many.

New rows that fit into every task are collected, and reference rows stay where they are read, those of visited cells:

    new rows ──assign, visit──▶ driver ──▶ every task
    reference rows of visited cells ───────▶ ┴──▶ id, max_id, cosine_sim_score ──best of each id──▶ at most one a row

More new rows are sent, each to the tasks of its cells, and so are the reference rows; a task holds its new rows, while
the others pass by. A task is a range of cells, as which cells have neighbouring numbers is a matter of chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from spark_semdedup.errors import SemDedupError
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.merge import by_rank
from spark_semdedup.pairwise.packing import default_max_rows
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.pairwise.reference import Meeting, Probes, ReferenceComparison, ReferenceRows
from spark_semdedup.pairwise.route import TaskRouter, tile_hash
from spark_semdedup.pairwise.rows import UnassignedRows
from spark_semdedup.pairwise.task import parts_of
from spark_semdedup.params import PairwiseParams
from spark_semdedup.spark.arrow import collect_arrow
from spark_semdedup.spark.backend import slots
from spark_semdedup.spark.columns import shown_type
from spark_semdedup.spark.worker import prepare_worker

MOST_BYTES = 64 << 20
"""Of new rows' vectors that every task gets, and a Spark Connect client can send."""


def best_references(
    rows: UnassignedRows, references: ReferenceRows, coverage: Coverage, params: PairwiseParams
) -> DataFrame:
    """``id``, ``max_id``, ``cosine_sim_score`` of each new row that has a reference row in its cells, or with exact
    coverage one as similar as that promises: the most similar one, of equally similar ones that of the first rank.

    A small job collects new rows, or the cells that they visit; the rest is lazy. Raises ``SemDedupError`` where new
    and reference ids are of two types.
    """
    refuse_other_ids(rows, references)
    how = ReferenceComparison.of(references, coverage, params, rows.spark)
    coverage = replace(coverage, one_sided=True, margins=references.margins)
    router = TaskRouter(coverage, lists=True)
    routed = replace(rows, ranking=Ranking()).routed(router).where(F.col("centroid") >= 0)
    new = routed.select("id", "unit", F.concat(F.array("centroid"), "cells").alias("visited"))
    if 4 * rows.documents.rows * rows.centroids.dim <= MOST_BYTES:
        found = _with_all(how, Probes.of(collect_arrow(new)), references)
    else:
        found = _with_routed(how, new, references, RangesOfCells.of(rows, coverage, params))
    return _first_of_each(found, how)


def refuse_other_ids(rows: UnassignedRows, references: ReferenceRows) -> None:
    """Raises ``SemDedupError`` where new and reference ids are of two types, so that none could equal another."""
    type_ = rows.documents.df.select(rows.documents.id.alias("id")).schema["id"].dataType
    if type_ != references.id_type:
        raise SemDedupError(
            f"idCol is of type {shown_type(type_)}, but the ids of the reference rows are of type "
            f"{shown_type(references.id_type)}: cast them alike"
        )


def _columns(how: ReferenceComparison) -> list[str]:
    return ["id", "unit", "centroid", *how.keys]


def _with_all(how: ReferenceComparison, probes: Probes, references: ReferenceRows) -> DataFrame:
    """Every task has all new rows."""
    rows = references.rows(probes.cells)
    schema = how.schema(rows.schema)

    def compare_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        prepare_worker()
        return Meeting(how, probes).with_all(batches, to_arrow_schema(schema))

    resources = how.device.stage_resources(rows.sparkSession)
    return rows.select(_columns(how)).mapInArrow(compare_partition, schema, **resources)


def _first_of_each(found: DataFrame, how: ReferenceComparison) -> DataFrame:
    rank = by_rank(how.order, "max_id", "max_key_")
    first = Window.partitionBy("id").orderBy(F.col("cosine_sim_score").desc(), *rank)
    best = found.withColumn("place", F.row_number().over(first)).where(F.col("place") == 1)
    return best.select("id", "max_id", "cosine_sim_score")


@dataclass(frozen=True)
class RangesOfCells:
    """Which task compares which cells: ``tasks`` ranges of ``k`` cells, each with one of ``tiles`` parts of the new
    rows that visit them."""

    k: int
    tasks: int
    tiles: int

    @classmethod
    def of(cls, rows: UnassignedRows, coverage: Coverage, params: PairwiseParams) -> RangesOfCells:
        """So many that a task holds no more new rows than one of any comparison, as far as a sample tells."""
        k = rows.centroids.k
        sample = rows.visits(coverage)
        visits = rows.documents.rows * (1 + len(sample.visits.rows) / max(len(sample.own), 1))
        most = params.value("maxClusterRows") or default_max_rows(rows.centroids.dim)
        tasks = min(k, max(4 * slots(rows.spark), math.ceil(visits / most)))
        return cls(k, tasks, max(1, math.ceil(visits / tasks / most)))

    def task_of(self, cell: Any) -> Any:
        """Of an array of cells."""
        return cell.astype(np.int64) * self.tasks // self.k

    def task_column(self, cell: Column) -> Column:
        """Of a column of cells."""
        return F.floor(cell.cast("bigint") * self.tasks / self.k).cast("int")


def _with_routed(
    how: ReferenceComparison, new: DataFrame, references: ReferenceRows, ranges: RangesOfCells
) -> DataFrame:
    """New rows and reference rows are sent to the tasks of their cells. (So many new rows visit all cells.)"""
    old = references.rows(np.arange(ranges.k))
    schema = how.schema(old.schema)
    tiles = F.explode(F.array([F.lit(tile) for tile in range(ranges.tiles)]))
    keys = [F.lit(None).cast(old.schema[key].dataType).alias(key) for key in how.keys]
    tasks = F.array_distinct(F.transform("visited", ranges.task_column))
    tile = F.pmod(tile_hash(F.col("id")), F.lit(ranges.tiles)).cast("int").alias("tile")
    of_new = new.select(F.explode(tasks).alias("range"), tile, F.lit(0).alias("side"), "*").select(
        "range", "tile", "side", "id", "unit", F.lit(-1).alias("centroid"), "visited", *keys
    )
    of_old = old.select(ranges.task_column(F.col("centroid")).alias("range"), tiles.alias("tile"), *_columns(how))
    none = F.lit(None).cast(new.schema["visited"].dataType).alias("visited")
    of_old = of_old.select("range", "tile", F.lit(1).alias("side"), "id", "unit", "centroid", none, *how.keys)
    both = of_new.unionAll(of_old).withColumn("task", F.col("range") * ranges.tiles + F.col("tile"))
    sorted_ = both.repartition(ranges.tasks * ranges.tiles, "task").sortWithinPartitions("task", "side")

    def compare_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        prepare_worker()
        for task, parts in groupby(parts_of(batches, "task"), key=itemgetter(0)):
            meeting = _meeting_of((part for _, part in parts), how, ranges, task // ranges.tiles)
            if meeting is not None:
                yield from meeting.entries(to_arrow_schema(schema))

    return sorted_.drop("range", "tile").mapInArrow(
        compare_partition, schema, **how.device.stage_resources(new.sparkSession)
    )


def _meeting_of(
    parts: Iterable[pa.RecordBatch], how: ReferenceComparison, ranges: RangesOfCells, task: int
) -> Meeting | None:
    """The new rows of a task, which come first, with all its reference rows; None where one side is missing."""
    held: list[pa.RecordBatch] = []
    meeting = None
    for part in parts:
        new = int(np.count_nonzero(part.column("side").to_numpy() == 0))
        if new:
            held.append(part.slice(0, new))
        if held and new < len(part):
            if meeting is None:
                meeting = Meeting(how, Probes.of(pa.Table.from_batches(held), lambda c: ranges.task_of(c) == task))
            meeting.take_in(part.slice(new))
    return meeting
