"""All pairs of similar rows, and what hangs together by them, streamed out of the tasks that compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from spark_semdedup.errors import SemDedupError
from spark_semdedup.formatting import short
from spark_semdedup.kernels.arrays import Array
from spark_semdedup.kernels.graphs import Components
from spark_semdedup.kernels.pairs import SimilarPairs
from spark_semdedup.kernels.sketch import Side
from spark_semdedup.pairwise.estimate import VectorSample
from spark_semdedup.pairwise.execute import ComparisonPlan
from spark_semdedup.pairwise.links import RankedRows, meeting_pairs
from spark_semdedup.pairwise.packing import device_bytes
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.pairwise.rows import ComparableRows
from spark_semdedup.pairwise.task import GroupComparison
from spark_semdedup.params import PairwiseParams
from spark_semdedup.spark.device import Batch

PAIR_COLUMNS = ("id_a", "id_b", "cosine_sim_score")

_PAIRS_AT_ONCE = 1 << 22
"""Pairs of rows that are looked at before those that are similar leave the task: their ids and scores take 100 MB."""


@dataclass(frozen=True)
class SimilarRows:
    """Pairs of ``source`` that meet by ``plan`` and are at least ``threshold`` similar."""

    source: ComparableRows
    plan: ComparisonPlan
    ranking: Ranking
    params: PairwiseParams
    threshold: float

    def pairs(self, most: int) -> DataFrame:
        """``id_a``, ``id_b``, ``cosine_sim_score``: each pair once, ``id_a`` precedes. Lazy. A task with more than
        ``most`` pairs fails with a ``SemDedupError``."""
        by_task, comparison = self._by_task()
        id_type = by_task.schema["id"].dataType
        schema = T.StructType().add("id_a", id_type).add("id_b", id_type).add("cosine_sim_score", T.FloatType())
        pairs = self.plan.stream(by_task, PairStream(comparison, self.threshold, most, to_arrow_schema(schema)), schema)
        # Only where rows visit further cells may two of them meet twice.
        return pairs.dropDuplicates(["id_a", "id_b"]) if self.plan.regions is not None else pairs

    def stars(self) -> DataFrame:
        """``id`` and ``head``: of each task the rows that hang together by its pairs, and the first-ranked of them.
        Lazy; as many rows as are compared, at most, however many pairs there are."""
        by_task, comparison = self._by_task()
        id_type = by_task.schema["id"].dataType
        schema = T.StructType().add("id", id_type).add("head", id_type)
        return self.plan.stream(by_task, StarStream(comparison, self.threshold, to_arrow_schema(schema)), schema)

    def _by_task(self) -> tuple[DataFrame, GroupComparison]:
        by_task = self.plan.by_task(self.source)
        return by_task, self.plan.group_comparison(by_task.schema, self.source.decode, self.ranking, self.params, None)


@dataclass(frozen=True)
class PairStream:
    """The pairs of the groups of a partition, of which a part is held at a time."""

    comparison: GroupComparison
    threshold: float
    most: int
    schema: pa.Schema

    def __call__(self, groups: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
        for group in groups:
            ready = self.comparison.ready_of(group)
            if ready is None:
                continue
            ids = pa.array(ready.group["id"])
            listed = 0
            for pairs in similar_in_parts(self.comparison, ready, self.threshold):
                listed += len(pairs.rows)
                if listed > self.most:
                    raise SemDedupError(
                        f"maxPairs={self.most}: one task alone has more pairs of rows that are at least "
                        f"{self.threshold:.6g} similar; lower eps, raise maxPairs, or remove the boilerplate first"
                    )
                columns = [ids.take(pa.array(pairs.columns)), ids.take(pa.array(pairs.rows)), pa.array(pairs.scores)]
                yield _batch_of(columns, self.schema)


@dataclass(frozen=True)
class StarStream:
    """Of each group of a partition the rows that hang together, each with the first-ranked of its component."""

    comparison: GroupComparison
    threshold: float
    schema: pa.Schema

    def __call__(self, groups: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
        for group in groups:
            ready = self.comparison.ready_of(group)
            if ready is None:
                continue
            components = Components(len(ready.group))
            for pairs in similar_in_parts(self.comparison, ready, self.threshold):
                components.join(pairs.rows, pairs.columns)
            rows = np.flatnonzero(components.labels != np.arange(len(ready.group)))
            ids = pa.array(ready.group["id"])
            columns = [ids.take(pa.array(at)) for at in (rows, components.labels[rows])]
            yield _batch_of(columns, self.schema)


def _batch_of(columns: list[pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    """The columns as one batch, each cast to its type in ``schema``."""
    cast = [column.cast(type_) for column, type_ in zip(columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(cast, schema=schema)


def similar_in_parts(comparison: GroupComparison, ready: RankedRows, threshold: float) -> Iterator[SimilarPairs]:
    """The similar pairs of a task's rows, by positions: of so many rows at a time that their pairs with all others fit
    into memory. In a region a pair may come twice."""
    size = comparison.how.batch_size
    batch = Batch(size, device_bytes)
    side = comparison.device.retry_on_oom(partial(Side.of, sketched=True), ready.units, batch)
    for rows, columns in ready.meetings():
        step = max(1, _PAIRS_AT_ONCE // max(len(columns), 1))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            similar = partial(_similar, side, some, columns, threshold, size)
            yield comparison.device.retry_on_oom(similar, ready.units[some], batch)


def _similar(
    side: Side, rows: np.ndarray, columns: np.ndarray, threshold: float, size: int, units: Array
) -> SimilarPairs:
    return meeting_pairs(side, rows, columns, threshold, batch_size=size)


ESTIMATE_ROWS = 16_384
"""Sampled rows that pairs are estimated from: a second of products."""


def estimate_pairs(sample: VectorSample, threshold: float, *, across_clusters: bool) -> float:
    """About how many pairs of the rows that ``sample`` stands for are at least ``threshold`` similar: without bias, and
    with a large variance where few pairs are in the sample; what makes billions is seen. ``across_clusters`` false: of
    rows of the same cluster."""
    count, rows = 0, len(sample.units)
    for start in range(0, rows, 256):
        part = slice(start, start + 256)
        near = sample.units[part] @ sample.units[start:].T >= np.float32(threshold)
        if not across_clusters:
            near &= sample.labels[part, None] == sample.labels[None, start:]
        count += int(np.count_nonzero(np.triu(near, 1)))
    return count * (sample.scale * rows) ** 2 / max(rows * (rows - 1), 1) if sample.scale > 1 else float(count)


def refuse_too_many(estimate: float, most: int, threshold: float) -> None:
    """A ``SemDedupError`` where an estimate says that there are far more pairs than ``most``."""
    if estimate > most:
        raise SemDedupError(
            f"maxPairs={most}: about {short(estimate)} pairs of rows are at least {threshold:.6g} similar, as a sample "
            "says; lower eps, raise maxPairs, or remove the boilerplate first"
        )


def refuse_more_pairs(pairs: int, most: int, threshold: float) -> None:
    """A ``SemDedupError`` where more than ``most`` pairs were written."""
    if pairs > most:
        raise SemDedupError(
            f"maxPairs={most}: {pairs} pairs of rows are at least {threshold:.6g} similar; lower eps, or raise maxPairs"
        )
