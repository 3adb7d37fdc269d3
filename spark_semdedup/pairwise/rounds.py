"""Rows compared again, when it is known of most which are kept: with kept rows, and with those yet to be decided."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from spark_semdedup.kernels.arrays import Array, to_device_of
from spark_semdedup.kernels.cells import take_in
from spark_semdedup.kernels.similarity import Best, max_similarity
from spark_semdedup.pairwise.execute import Compared
from spark_semdedup.pairwise.links import LinkRule, RankedRows
from spark_semdedup.pairwise.packing import device_bytes
from spark_semdedup.pairwise.schema import link_fields
from spark_semdedup.pairwise.task import GroupComparison
from spark_semdedup.spark.arrow import batches_of
from spark_semdedup.spark.device import Batch

STATE_KEPT, STATE_UNDECIDED, STATE_REMOVED = 0, 1, 2
"""Of a row in a round. Removed rows take part only where their most similar kept row is sought."""


def compare_states(compared: Compared, states: DataFrame, rule: LinkRule) -> DataFrame:
    """One entry for each row that is not kept and each task in which it meets something that counts; lazy.

    ``states``: ``id`` and ``state`` of every row that is not removed, and of those removed that are to be scored.

    The answer: ``id``; ``max_id``, ``cosine_sim_score`` and ``max_key_0`` …, the most similar kept predecessor, the
    row itself where none is at least ``rule.at_least`` so similar; and, of undecided rows without one,
    ``LINK_COLUMNS``: the undecided predecessors.
    """
    rows, plan = compared.source.with_states(states), compared.plan
    by_task = plan.by_task(rows)
    task = RoundComparison(
        plan.group_comparison(by_task.schema, rows.decode, compared.entries.ranking, compared.params, rule), rule
    )
    schema = task.schema(by_task.schema)
    return plan.stream(by_task, task.stream(to_arrow_schema(schema)), schema)


@dataclass(frozen=True)
class RoundComparison:
    """What a task does in a round."""

    comparison: GroupComparison
    rule: LinkRule

    def schema(self, rows: T.StructType) -> T.StructType:
        id_type = rows["id"].dataType
        schema = T.StructType().add("id", id_type).add("max_id", id_type).add("cosine_sim_score", T.FloatType())
        for key in self.comparison.keys:
            schema.add(f"max_{key}", rows[key].dataType)
        return T.StructType([*schema.fields, *link_fields(id_type)])

    def stream(self, schema: pa.Schema) -> _Stream:
        return _Stream(self, schema)

    def entries(self, ready: RankedRows, units: Array) -> pd.DataFrame:
        """Of the rows of one task."""
        state = ready.group["state"].to_numpy()
        best = self._best_kept(ready, units, rows=state != STATE_KEPT, columns=state == STATE_KEPT)
        near = best.indices >= 0
        undecided = state == STATE_UNDECIDED
        how = self.comparison.how
        links = self.rule.among(ready, units, how.batch_size, rows=undecided & ~near, columns=undecided)
        linked = np.zeros(len(state), bool)
        linked[links.rows] = True
        entries = np.flatnonzero(near | linked)
        return self.rule.columns_of(links, ready.group["id"].to_numpy(), self._kept_columns(ready.group, entries, best))

    def _best_kept(self, ready: RankedRows, units: Array, *, rows: np.ndarray, columns: np.ndarray) -> Best:
        best = Best(np.full(len(rows), -np.inf, np.float32), np.full(len(rows), -1, np.int64))
        how = self.comparison.how
        for of, with_ in ready.meetings():
            mine, theirs = of[rows[of]], with_[columns[with_]]
            if not len(mine) or not len(theirs):
                continue
            found = max_similarity(
                units[to_device_of(units, mine)],
                units[to_device_of(units, theirs)],
                np.searchsorted(theirs, mine),
                batch_size=how.batch_size,
                precision=how.precision,
                at_least=self.rule.at_least,
            )
            take_in(best, mine, theirs, Best(*found))
        return best

    def _kept_columns(self, group: pd.DataFrame, entries: np.ndarray, best: Best) -> pd.DataFrame:
        neighbours = np.where(best.indices < 0, np.arange(len(group)), best.indices)[entries]
        ids = group["id"].to_numpy()
        scores = np.where(best.indices < 0, np.float32(0), best.scores)[entries]
        columns = {"id": ids[entries], "max_id": ids[neighbours], "cosine_sim_score": scores}
        columns |= {f"max_{key}": group[key].to_numpy()[neighbours] for key in self.comparison.keys}
        return pd.DataFrame(columns, index=entries)


@dataclass(frozen=True)
class _Stream:
    """The entries of the groups of a partition, one batch for each group."""

    task: RoundComparison
    schema: pa.Schema

    def __call__(self, groups: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
        comparison = self.task.comparison
        batch = Batch(comparison.how.batch_size, device_bytes)
        for group in groups:
            ready = comparison.ready_of(group)
            if ready is None:
                continue
            entries = comparison.device.retry_on_oom(partial(self.task.entries, ready), ready.units, batch)
            yield from batches_of(entries, self.schema)
