"""``PairwiseSimilarity``: each row's most similar preferred row, in its cluster or in all it is compared in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from spark_semdedup.kernels.oom import AtTaskEnd, released_at_end
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.estimate import ClusterSizes, VisitSample
from spark_semdedup.pairwise.links import LinkRule
from spark_semdedup.pairwise.merge import PartialMatches
from spark_semdedup.pairwise.packing import Packed, Plan, default_max_rows, device_bytes, plan_clusters, rows_of_a_tile
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.pairwise.regions import RegionPlan, plan_regions
from spark_semdedup.pairwise.route import DocumentRouter, TaskRouter, by_cluster, explode_by_task, explode_by_tile
from spark_semdedup.pairwise.rows import ComparableRows
from spark_semdedup.pairwise.screen import Screened, Screening
from spark_semdedup.pairwise.task import GroupComparison, groups, runs
from spark_semdedup.pairwise.workload import WorkEstimate
from spark_semdedup.params import PairwiseParams
from spark_semdedup.spark.backend import plugin_active, resolve_execution, slots
from spark_semdedup.spark.device import TaskDevice
from spark_semdedup.spark.small import SMALL_ROWS
from spark_semdedup.spark.vectors import Decoder, decode_units
from spark_semdedup.spark.worker import prepare_worker

log = logging.getLogger("spark_semdedup")

GroupStream: TypeAlias = Callable[[Iterable[pa.Table]], Iterator[pa.RecordBatch]]
"""What a task makes of the groups of a partition, each a table of the rows of one task."""

Accept: TypeAlias = Callable[[float], None]
"""Raises a ``SemDedupError`` where so many bytes cannot be shuffled."""


def any_size(needed: float) -> None:
    """Accepts all."""


@dataclass(frozen=True)
class ComparisonPlan:
    """Which tasks compare which rows, planned from a sample: the answer depends on it nowhere, and any function of the
    rows that meet can be computed by it (``Compared``, ``pairs``, ``rounds``)."""

    tasks: Plan | RegionPlan
    workload: WorkEstimate
    """What the comparison is estimated to take."""
    device: TaskDevice
    merges: bool
    """Whether several tasks may have an entry for one row."""
    clusters: np.ndarray | None
    """The numbers of the clusters that ``tasks``, a ``Plan``, is for."""
    lists: bool
    """Whether unit vectors travel as lists."""
    screened: Screened | None = None
    """What a screening left of the visits, where there was one."""

    @classmethod
    def of(
        cls, rows: ComparableRows, coverage: Coverage, params: PairwiseParams, accept: Accept = any_size
    ) -> ComparisonPlan:
        """A few small jobs, where a fit has not left a sample on the driver, and one that screens visits, where that
        pays. ``accept`` is asked before."""
        spark, lists = rows.spark, travel_as_lists(rows.spark, params)
        if not coverage.visits:
            plan = cls.of_clusters(rows.sizes(), spark, params, lists=lists)
            accept(plan.workload.shuffle_bytes)
            return plan
        assert rows.centroids is not None  # rows that visit cells know them
        sample, centroids = rows.visits(coverage), rows.centroids.matrix
        device = TaskDevice.of_comparison(spark, params)
        tasks = plan_for(sample, centroids, coverage, device, spark, params)
        workload = WorkEstimate.of_regions(coverage, sample, centroids, tasks)
        screening, screened = None, None
        if device.backend == "cpu":
            most = max_rows(params, centroids.shape[1])
            screening = Screening.of(coverage, sample, centroids, workload.shuffle_bytes, most, slots(spark))
        if screening is not None:
            log.info("%s", screening.in_words(workload))
            accept(screening.in_all)
            of_params = TaskDevice.of_params(spark, params)
            screened = screening.run(rows.located(coverage), of_params, params.value("batchSize"), lists=lists)
        if screening is not None and screened is not None:
            sample = screened.sample(sample)
            tasks = plan_for(sample, centroids, coverage, device, spark, params)
            workload = workload.screened(WorkEstimate.of_regions(coverage, sample, centroids, tasks), screening.bytes)
        accept(workload.shuffle_bytes)
        return cls(tasks, workload, device, len(tasks.keys) > 1, None, lists, screened)

    @classmethod
    def of_clusters(
        cls, sizes: ClusterSizes, spark: SparkSession, params: PairwiseParams, *, lists: bool
    ) -> ComparisonPlan:
        """For rows that stay in their clusters. ``sizes`` steer how tasks are cut and placed (``packing``)."""
        clusters = np.fromiter(sizes.rows, np.int64, len(sizes.rows))
        estimates = np.fromiter(sizes.rows.values(), float, len(sizes.rows))
        most = max_rows(params, sizes.dim)
        tasks = plan_clusters(estimates, sizes.dim, max_rows=most, slots=slots(spark))
        workload = WorkEstimate.of_clusters(sizes.rows, sizes.dim, tasks, most)
        return cls(tasks, workload, TaskDevice.of_comparison(spark, params), tasks.is_tiled, clusters, lists)

    @property
    def coverage(self) -> Coverage:
        return self.workload.coverage

    @property
    def codes_compared(self) -> int:
        """Pairs of codes that a screening compared."""
        return self.screened.pairs if self.screened else 0

    @property
    def regions(self) -> RegionPlan | None:
        """The plan of rows that visit several cells."""
        return self.tasks if isinstance(self.tasks, RegionPlan) else None

    def by_task(self, rows: ComparableRows) -> DataFrame:
        """Each row once for every task it takes part in, with ``task``, ``tile`` and ``other``."""
        if isinstance(self.tasks, RegionPlan):
            kept = self.screened.kept if self.screened else None
            router = TaskRouter(self.coverage, self.tasks, self.lists, kept)
            return explode_by_task(rows.routed(router, lists=self.lists))
        assert self.clusters is not None
        return explode_by_tile(rows.routed(lists=self.lists), self.clusters, self.tasks)

    @property
    def is_one_task(self) -> bool:
        """Whether one task may assign and compare the rows, where they are few. (The GPU plan stays as it is.)"""
        whole = not self.coverage.visits and not self.merges and self.workload.rows <= SMALL_ROWS
        return whole and self.device.backend == "cpu" and not self.lists

    def group_comparison(
        self, rows: T.StructType, decode: Decoder, ranking: Ranking, params: PairwiseParams, links: LinkRule | None
    ) -> GroupComparison:
        """What a task does with its ``rows``, of such columns; ``decode``: vectors no routing has decoded yet."""
        return GroupComparison.of(
            rows,
            ranking,
            decode if self.regions is None else decode_units,
            self.device,
            params,
            merges=self.merges,
            plan=self.regions,
            at_least=self.coverage.at_least,
            links=links,
        )

    def stream(self, by_task: DataFrame, groups_to_batches: GroupStream, schema: T.StructType) -> DataFrame:
        """What ``groups_to_batches`` makes of the groups of each partition; a map over partitions, so that no more than
        a batch of its answer is held."""
        rows = by_task.repartition(self.tasks.partitions, "task")
        split = groups if self.tasks.one_each else runs

        def map_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            prepare_worker()
            with released_at_end():
                yield from groups_to_batches(split(batches, "task"))

        resources = self.device.stage_resources(rows.sparkSession)
        ready = rows if self.tasks.one_each else rows.sortWithinPartitions("task")
        return ready.mapInArrow(map_partition, schema, **resources)


@dataclass(frozen=True)
class Compared:
    """What comparisons give, lazy."""

    entries: PartialMatches
    plan: ComparisonPlan
    source: ComparableRows
    """The rows that were compared, and may be so again."""
    params: PairwiseParams

    @property
    def workload(self) -> WorkEstimate:
        """What the comparison was estimated to take."""
        return self.plan.workload

    @property
    def merges(self) -> bool:
        """Whether rows may have several entries."""
        return self.plan.merges

    @property
    def rows(self) -> DataFrame:
        """One entry for each row, computed in one pass."""
        return self.entries.merged(None if self.merges else 0)


def compare(
    rows: ComparableRows,
    coverage: Coverage,
    ranking: Ranking,
    params: PairwiseParams,
    links: LinkRule | None = None,
    accept: Accept = any_size,
) -> Compared:
    """Compares every row with the rows that ``coverage`` names: plans tasks from a sample, routes rows, compares.

    Lazy, but for the jobs that the plan is made from (``ComparisonPlan.of``). ``links``: which similar predecessors of
    each row are listed beside the best one.
    """
    plan = ComparisonPlan.of(rows, coverage, params, accept)
    plan = replace(plan, workload=replace(plan.workload, links=links is not None))
    _log(plan.workload, plan.device)
    router = rows.router_of_few() if plan.is_one_task else None
    if router is not None:
        comparison = plan.group_comparison(router.schema, rows.decode, ranking, params, links)
        compared = _compared_in_one_task(router, comparison)
    else:
        by_task = plan.by_task(rows)
        comparison = plan.group_comparison(by_task.schema, rows.decode, ranking, params, links)
        compared = _compared(by_task, plan.tasks, comparison, params)
    return Compared(PartialMatches(compared, ranking, coverage.at_least), plan, rows, params)


def travel_as_lists(spark: SparkSession, params: PairwiseParams) -> bool:
    """Whether unit vectors travel as lists, with which the whole way to the comparison is on the GPU plan. A grouped
    pandas UDF takes neither lists nor binary from there, and without the plugin binary takes less time."""
    return resolve_execution(spark, params) == "streamed" and plugin_active(spark)


def plan_for(
    sample: VisitSample,
    centroids: np.ndarray,
    coverage: Coverage,
    device: TaskDevice,
    spark: SparkSession,
    params: PairwiseParams,
) -> RegionPlan:
    """Regions for rows that visit several cells, as ``sample`` says they do."""
    dim = centroids.shape[1]
    sketched = coverage.sketched(dim) and device.backend == "cpu"
    most = rows_of_a_tile(max_rows(params, dim), dim, sample.cells_per_row)
    return plan_regions(sample, centroids, max_rows=most, slots=slots(spark), sketched=sketched)


def max_rows(params: PairwiseParams, dim: int) -> int:
    """Rows of one tile."""
    return int(params.value("maxClusterRows") or default_max_rows(dim))


def _compared(by_task: DataFrame, plan: Packed, comparison: GroupComparison, params: PairwiseParams) -> DataFrame:
    schema = comparison.schema(by_task.schema)
    rows = by_task.repartition(plan.partitions, "task")
    # The rows of a task that is alone need no sorting; but rows that are not compared, and those of clusters that the
    # plan does not know, may be beside them.
    split = groups if plan.one_each else runs

    task_end = AtTaskEnd()

    def compare_group(group: pd.DataFrame) -> pd.DataFrame:  # Spark wants a function of one argument
        prepare_worker()
        task_end.watch()
        return comparison(group)

    def compare_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        prepare_worker()
        with released_at_end():
            yield from comparison.stream(split(batches, "task"), schema)

    if resolve_execution(rows.sparkSession, params) == "streamed":
        resources = comparison.device.stage_resources(rows.sparkSession)
        ready = rows if plan.one_each else rows.sortWithinPartitions("task")
        return ready.mapInArrow(compare_partition, schema, **resources)
    return rows.groupBy("task").applyInPandas(compare_group, schema)


def _compared_in_one_task(router: DocumentRouter, comparison: GroupComparison) -> DataFrame:
    """Few rows, assigned and compared in one crossing to Python: each cluster is a group."""
    schema, routed = comparison.schema(router.schema), router.in_task()

    def compare_all(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        prepare_worker()
        return comparison.stream(groups(map(by_cluster, routed(batches)), "task"), schema)

    return router.source.coalesce(1).mapInArrow(compare_all, schema)


def _log(workload: WorkEstimate, device: TaskDevice) -> None:
    needed = device_bytes(workload.rows_of_largest_task, workload.dim)
    on_gpu = f", {needed >> 20} MiB of its GPU"
    log.info(
        "%s in %d partitions%s", workload.in_words(), workload.partitions, on_gpu if device.backend == "gpu" else ""
    )
