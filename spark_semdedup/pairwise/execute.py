"""``PairwiseSimilarity``: each row's most similar preferred row, in its cluster or in all it is compared in."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from spark_semdedup.kernels.sketch import pays
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.estimate import ClusterSizes, VisitSample
from spark_semdedup.pairwise.merge import PartialMatches
from spark_semdedup.pairwise.packing import Packed, default_max_rows, device_bytes, plan_clusters
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.pairwise.regions import RegionPlan, plan_regions
from spark_semdedup.pairwise.route import TaskRouter, explode_by_task, explode_by_tile
from spark_semdedup.pairwise.rows import ComparableRows
from spark_semdedup.pairwise.task import GroupComparison, groups, runs
from spark_semdedup.pairwise.workload import WorkEstimate
from spark_semdedup.params import PairwiseParams
from spark_semdedup.spark.backend import plugin_active, slots
from spark_semdedup.spark.device import TaskDevice
from spark_semdedup.spark.vectors import Decoder, decode_units
from spark_semdedup.spark.worker import prepare_worker

log = logging.getLogger("spark_semdedup")


@dataclass(frozen=True)
class Compared:
    """What comparisons give, lazy."""

    entries: PartialMatches
    merges: bool
    """Whether rows may have several entries."""
    workload: WorkEstimate
    """What the comparison was estimated to take."""

    @property
    def rows(self) -> DataFrame:
        """One entry for each row, computed in one pass."""
        return self.entries.merged(None if self.merges else 0)


def compare(rows: ComparableRows, coverage: Coverage, ranking: Ranking, params: PairwiseParams) -> Compared:
    """Compares every row with the rows that ``coverage`` names: plans tasks from a sample, routes rows, compares.

    Lazy, but for the small jobs that the plan is made from, where a fit has not left a sample on the driver.
    """
    lists = travel_as_lists(rows.spark, params)
    if not coverage.visits:
        return compare_clusters(rows.routed(lists=lists), rows.sizes(), ranking, rows.decode, params)
    assert rows.centroids is not None  # rows that visit cells know them
    sample = rows.visits(coverage)
    plan = plan_for(sample, rows.centroids.matrix, coverage, rows.spark, params)
    workload = WorkEstimate.of_regions(coverage, sample, rows.centroids.matrix, plan)
    return compare_regions(rows.routed(TaskRouter(coverage, plan, lists), lists=lists), plan, workload, ranking, params)


def compare_clusters(
    rows: DataFrame,
    sizes: ClusterSizes,
    ranking: Ranking,
    decode: Decoder,
    params: PairwiseParams,
) -> Compared:
    """The grouped pandas UDF: ``rows`` repartitioned by cluster, each group compared on its own.

    ``rows`` has ``id``, ``key_0`` …, one column of vectors that ``decode`` makes a matrix of unit vectors, and
    ``centroid``; with a column ``reason``, rows of negative centroid are not compared. ``sizes`` steer how tasks are
    cut and placed (``packing``), never the answer.
    """
    spark = rows.sparkSession
    device = TaskDevice.of_comparison(spark, params)
    centroids = np.fromiter(sizes.rows, np.int64, len(sizes.rows))
    estimates = np.fromiter(sizes.rows.values(), float, len(sizes.rows))
    max_rows = params.value("maxClusterRows") or default_max_rows(sizes.dim)
    plan = plan_clusters(estimates, sizes.dim, max_rows=max_rows, slots=slots(spark))
    workload = WorkEstimate.of_clusters(sizes.rows, sizes.dim, plan, max_rows)
    _log(workload, device)
    comparison = GroupComparison.of(rows, ranking, decode, device, params, merges=plan.is_tiled)
    found = _compared(explode_by_tile(rows, centroids, plan), plan, comparison, params)
    return Compared(PartialMatches(found, ranking), plan.is_tiled, workload)


def travel_as_lists(spark: SparkSession, params: PairwiseParams) -> bool:
    """Whether unit vectors travel as lists, with which the whole way to the comparison is on the GPU plan. A grouped
    pandas UDF takes neither lists nor binary from there, and without the plugin binary takes less time."""
    return params.value("execution") == "streamed" and plugin_active(spark)


def plan_for(
    sample: VisitSample, centroids: np.ndarray, coverage: Coverage, spark: SparkSession, params: PairwiseParams
) -> RegionPlan:
    """Regions for rows that visit several cells, as ``sample`` says they do."""
    dim = centroids.shape[1]
    max_rows = params.value("maxClusterRows") or default_max_rows(dim)
    return plan_regions(sample, centroids, max_rows=max_rows, slots=slots(spark), sketched=coverage.sketched(dim))


def compare_regions(
    rows: DataFrame, plan: RegionPlan, workload: WorkEstimate, ranking: Ranking, params: PairwiseParams
) -> Compared:
    """``compare_clusters`` for rows that visit several cells, routed by ``plan`` (``TaskRouter``)."""
    device = TaskDevice.of_comparison(rows.sparkSession, params)
    _log(workload, device)
    at_least, merges = workload.coverage.at_least, len(plan.keys) > 1
    comparison = GroupComparison.of(
        rows, ranking, decode_units, device, params, merges=merges, plan=plan, at_least=at_least
    )
    found = _compared(explode_by_task(rows), plan, comparison, params)
    return Compared(PartialMatches(found, ranking, at_least), merges, workload)


def _compared(by_task: DataFrame, plan: Packed, comparison: GroupComparison, params: PairwiseParams) -> DataFrame:
    schema = comparison.schema(by_task.schema)
    rows = by_task.repartition(plan.partitions, "task")
    # The rows of a task that is alone need no sorting; but rows that are not compared, and those of clusters that the
    # plan does not know, may be beside them.
    split = groups if plan.one_each else runs

    def compare_group(group: pd.DataFrame) -> pd.DataFrame:  # Spark wants a function of one argument
        prepare_worker()
        return comparison(group)

    def compare_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        prepare_worker()
        return comparison.stream(split(batches, "task"), schema)

    if params.value("execution") == "streamed":
        resources = comparison.device.stage_resources(rows.sparkSession)
        ready = rows if plan.one_each else rows.sortWithinPartitions("task")
        return ready.mapInArrow(compare_partition, schema, **resources)
    return rows.groupBy("task").applyInPandas(compare_group, schema)


def _log(workload: WorkEstimate, device: TaskDevice) -> None:
    sketched = workload.coverage.is_exact and pays(workload.dim)
    needed = device_bytes(workload.rows_of_largest_task, workload.dim, sketched=sketched)
    on_gpu = f", {needed >> 20} MiB of its GPU"
    log.info(
        "%s in %d partitions%s", workload.in_words(), workload.partitions, on_gpu if device.backend == "gpu" else ""
    )
