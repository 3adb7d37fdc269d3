"""What a task does: the rows of a cluster, of two tiles of one, or of a region of neighbouring clusters compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from spark_semdedup.errors import InvalidRowsError, shown
from spark_semdedup.kernels.arrays import Array, to_device_of, to_numpy
from spark_semdedup.kernels.assignment import Visits
from spark_semdedup.kernels.cells import Comparison, compare_cells
from spark_semdedup.kernels.sketch import preceding
from spark_semdedup.pairwise.links import LinkRule, RankedRows
from spark_semdedup.pairwise.packing import device_bytes
from spark_semdedup.pairwise.ranking import Ranking, rank_order
from spark_semdedup.pairwise.regions import RegionPlan
from spark_semdedup.pairwise.schema import FIRST_PROBING_TILE, NO_TILE, link_fields, visits_from
from spark_semdedup.spark.arrow import batches_of, texts_as_objects
from spark_semdedup.spark.device import Batch, TaskDevice
from spark_semdedup.spark.vectors import Decoder, Vectors

if TYPE_CHECKING:
    from spark_semdedup.params import PairwiseParams


@dataclass(frozen=True)
class GroupComparison:
    """Compares the rows of one group: a cluster, a tile of one, two tiles with each other (of which one may be empty),
    or, with a plan, a region, or its home rows with a tile of its probing rows. Runs in the tasks."""

    ranking: Ranking
    keys: tuple[str, ...]
    vectors: str
    decode: Decoder
    device: TaskDevice
    how: Comparison
    merges: bool
    """Whether several groups may have an entry for one row."""
    plan: RegionPlan | None = None
    links: LinkRule | None = None
    """Which similar predecessors are listed beside the best one."""

    @classmethod
    def of(
        cls,
        rows: T.StructType,
        ranking: Ranking,
        decode: Decoder,
        device: TaskDevice,
        params: PairwiseParams,
        *,
        merges: bool,
        plan: RegionPlan | None = None,
        at_least: float = -np.inf,
        links: LinkRule | None = None,
    ) -> GroupComparison:
        precision = precision_for(params.value("precision"), device.backend)
        return cls(
            ranking=ranking,
            keys=tuple(name for name in rows.names if name.startswith("key_")),
            vectors=next(name for name in rows.names if name in ("unit", "embedding")),
            decode=decode,
            device=device,
            how=Comparison(at_least, params.value("batchSize"), precision),
            merges=merges,
            plan=plan,
            links=links,
        )

    def schema(self, rows: T.StructType) -> T.StructType:
        """Of the answer: a row carries its rank keys, and where entries are merged, its neighbour's. Each row has one
        entry that is its ``own``, and one more in each group where it met a further neighbour."""
        id_type = rows["id"].dataType
        schema = T.StructType().add("id", id_type).add("max_id", id_type).add("cosine_sim_score", T.FloatType())
        schema.add("centroid", rows["centroid"].dataType).add("compared", T.LongType()).add("reason", T.StringType())
        schema.add("own", T.BooleanType())
        for prefix in ("", "max_") if self.merges else ("",):
            for key in self.keys:
                schema.add(prefix + key, rows[key].dataType)
        for field in link_fields(id_type) if self.links else ():
            schema.add(field)
        return schema

    def __call__(self, group: pd.DataFrame) -> pd.DataFrame:
        """A group as a pandas UDF gets it."""
        cells = pa.Array.from_pandas(group["cells"]) if "cells" in group else None
        others = group.drop(columns=[self.vectors, "cells"], errors="ignore").reset_index(drop=True)
        return texts_as_objects(self._answer_for(others, group[self.vectors], cells))

    def stream(self, groups: Iterable[pa.Table], schema: T.StructType) -> Iterator[pa.RecordBatch]:
        """The groups of a partition, one after the other (``runs``, ``groups``).

        Vectors become a matrix without a Python object for each, which a grouped pandas UDF makes of them.
        """
        arrow_schema = to_arrow_schema(schema)
        for group in groups:
            cells = group.column("cells").combine_chunks() if "cells" in group.column_names else None
            others = group.drop_columns([name for name in (self.vectors, "cells") if name in group.column_names])
            answer = self._answer_for(others.to_pandas(), group.column(self.vectors), cells)
            yield from batches_of(answer, arrow_schema)

    def _answer_for(self, group: pd.DataFrame, vectors: Vectors, cells: pa.Array | None) -> pd.DataFrame:
        """``group`` has all columns but ``vectors`` and ``cells``."""
        if "reason" in group and group["centroid"].iat[0] < 0:
            return self._not_compared(group)
        ready = self.ready(group, vectors, cells)
        batch = Batch(self.how.batch_size, device_bytes)
        return self.device.retry_on_oom(lambda units: self._with_links(ready, units), ready.units, batch)

    def ready(self, group: pd.DataFrame, vectors: Vectors, cells: pa.Array | None) -> RankedRows:
        """The rows of a group in rank order, their vectors decoded."""
        self._refuse_missing_distance(group)
        order = rank_order(
            group["id"], [group[key] for key in self.keys], self.ranking.key_ascending, self.ranking.id_ascending
        )
        group = group.take(order).reset_index(drop=True)
        units = self.decode(vectors, group["id"], order)
        visits = Visits.none() if cells is None else visits_from(cells.take(pa.array(order)))
        return RankedRows(group, units, visits, self.plan)

    def ready_of(self, group: pa.Table) -> RankedRows | None:
        """The same of a table; None where its rows are not compared."""
        cells = group.column("cells").combine_chunks() if "cells" in group.column_names else None
        others = group.drop_columns([name for name in (self.vectors, "cells") if name in group.column_names])
        frame = others.to_pandas()
        if "reason" in frame and frame["centroid"].iat[0] < 0:
            return None
        return self.ready(frame, group.column(self.vectors), cells)

    def _with_links(self, ready: RankedRows, units: Array) -> pd.DataFrame:
        answer = self._compare(ready.group, units, ready.visits)
        return self.links.append(answer, ready, units, self.how.batch_size) if self.links else answer

    def _compare(self, group: pd.DataFrame, units: Array, visits: Visits) -> pd.DataFrame:
        tile, other = group["tile"].to_numpy(), group["other"].iat[0]
        with_probing = max(tile[0], other) >= FIRST_PROBING_TILE
        if tile[0] == NO_TILE or with_probing:
            return self._region(group, units, visits, only_probing=with_probing)
        if tile[0] == other:
            found = self.how.home_rows(units)
            return self._answer(group, to_numpy(found.scores), to_numpy(found.indices), np.arange(len(group)), True)
        return self._two_tiles(group, units, tile == max(tile.max(), other))

    def _refuse_missing_distance(self, group: pd.DataFrame) -> None:
        if self.ranking.distance and group[self.keys[0]].isna().any():
            first = group["id"][int(np.flatnonzero(group[self.keys[0]].isna())[0])]
            raise InvalidRowsError(f"column {self.ranking.distance!r}, row with id {shown(first)}: it is null or NaN")

    def _two_tiles(self, group: pd.DataFrame, units: Array, second: np.ndarray) -> pd.DataFrame:
        """Rows of either tile with the rows of the other that precede them."""
        rows, columns = np.flatnonzero(~second), np.flatnonzero(second)
        how = replace(self.how, at_least=-np.inf)
        side = how.sides(units)
        limits = np.searchsorted(columns, rows)
        found = how.two_sides(side.take(to_device_of(units, rows)), side.take(to_device_of(units, columns)), limits)
        counts = limits, preceding(limits, len(columns))
        parts = []
        for mine, theirs, best, compared in zip((rows, columns), (columns, rows), found, counts, strict=True):
            scores, indices = to_numpy(best.scores), to_numpy(best.indices)
            neighbours = np.where(indices < 0, mine, theirs[indices] if len(theirs) else -1)
            there = (indices >= 0) | (compared > 0)
            entries = group.iloc[mine[there]]
            parts.append(self._answer(entries, scores[there], neighbours[there], compared[there], False, group))
        return pd.concat(parts)

    def _region(self, group: pd.DataFrame, units: Array, visits: Visits, *, only_probing: bool) -> pd.DataFrame:
        """The cells of a region, or its home rows with a tile of its probing rows.

        Home rows have an entry in the task in which they meet one another; probing rows, and home rows elsewhere, have
        one if they have a neighbour. Pairs that count with another row count with the task's first entry, which is made
        where the task has none: most home rows meet no similar probing row, and their entries would be a third of all.
        """
        assert self.plan is not None
        here = self.plan.cells_of(int(group["task"].iat[0]))
        centroid = group["centroid"].to_numpy()
        own = np.where(here[centroid], centroid, -1)
        found = compare_cells(units, own, visits.where(here[visits.cells]), self.how, only_probing=only_probing)
        at_home = (own >= 0) & (not only_probing)
        entries = np.flatnonzero((found.neighbours >= 0) | at_home)
        if not len(entries):
            entries = np.flatnonzero(found.compared)[:1]
        compared = found.compared[entries]
        if len(entries):
            compared[0] += found.compared.sum() - compared.sum()
        neighbours = np.where(found.neighbours < 0, np.arange(len(group)), found.neighbours)
        scores, own_entry = found.scores[entries], at_home[entries]
        return self._answer(group.iloc[entries], scores, neighbours[entries], compared, own_entry, group)

    def _answer(
        self,
        rows: pd.DataFrame,
        scores: np.ndarray,
        neighbours: np.ndarray,
        compared: np.ndarray,
        own: np.ndarray | bool,
        among: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """One entry per row: its best neighbour, by position in ``among`` (default: in ``rows``); itself for −1."""
        among = rows if among is None else among
        neighbours = np.where(neighbours < 0, np.arange(len(rows)), neighbours)
        answer = {
            "id": rows["id"].to_numpy(),
            "max_id": among["id"].to_numpy()[neighbours],
            "cosine_sim_score": scores,
            "centroid": rows["centroid"].to_numpy(),
            "compared": compared,
            "reason": np.full(len(rows), None, object),
            "own": own,
        }
        answer |= {key: rows[key].to_numpy() for key in self.keys}
        if self.merges:
            answer |= {f"max_{key}": among[key].to_numpy()[neighbours] for key in self.keys}
        return pd.DataFrame(answer, index=rows.index)

    def _not_compared(self, group: pd.DataFrame) -> pd.DataFrame:
        answer = self._answer(
            group, np.zeros(len(group), np.float32), np.arange(len(group)), np.zeros(len(group), np.int64), True
        ).assign(reason=group["reason"].to_numpy())
        return self.links.append_none(answer) if self.links else answer


def runs(batches: Iterable[pa.RecordBatch], key: str) -> Iterator[pa.Table]:
    """The rows of each run of equal keys, from batches that are sorted by it: no more than one run is held."""
    held: list[pa.RecordBatch] = []
    for value, part in parts_of(batches, key):
        if held and held[-1].column(key)[0].as_py() != value:
            table, held = pa.Table.from_batches(held), []
            yield table
            del table  # this frame is kept while the next run is read
        held.append(part)
    if held:
        yield pa.Table.from_batches(held)


def groups(batches: Iterable[pa.RecordBatch], key: str) -> Iterator[pa.Table]:
    """The rows of each key, from batches in any order: all of them are held. Batches of one key are not copied."""
    held: dict[int, list[pa.RecordBatch]] = {}
    for value, part in parts_of(map(partial(_sorted, key=key), batches), key):
        held.setdefault(value, []).append(part)
    while held:
        yield pa.Table.from_batches(held.pop(next(iter(held))))


def _sorted(batch: pa.RecordBatch, key: str) -> pa.RecordBatch:
    keys = batch.column(key).to_numpy()
    return batch if (np.diff(keys) >= 0).all() else batch.take(pa.array(np.argsort(keys, kind="stable")))


def parts_of(batches: Iterable[pa.RecordBatch], key: str) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Each run of equal keys within a batch, with its key."""
    for batch in (each for each in batches if each.num_rows):
        keys = batch.column(key).to_numpy()
        starts = np.concatenate([[0], np.flatnonzero(np.diff(keys)) + 1, [len(keys)]]).tolist()
        for start, stop in pairwise(starts):
            yield int(keys[start]), batch.slice(start, stop - start)


def precision_for(precision: str, backend: str) -> str:
    """``float32`` or ``float16`` for the Param: NumPy has no float16 product, so rounding only costs time there."""
    if precision != "auto":
        return precision
    return "float16" if backend == "gpu" else "float32"
