"""The recall of a run: a random sample of its rows, compared exactly with *all* rows.

A row is *to be removed* when a row that precedes it in the run's rank order is at least as similar as the threshold.
Here the other row may be in any cluster; otherwise docs/how-it-works.md defines order, arithmetic and decision.
Recall is the share of these rows that the run removed.

For a sample of m rows out of n that costs at most m · n products instead of n², and one pass over the input. A task
holds the sample's vectors, one batch of the input, and the best match of each sampled row so far. ``max_similarity``
compares them, with the sample as its rows and the batch as its columns.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.analysis.evaluation import CHANGED, Evaluation, MissedPair
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.kernels import max_similarity
from spark_semdedup.kernels.arrays import Array, to_numpy
from spark_semdedup.pairwise.ranking import Ranking, rank_order
from spark_semdedup.pairwise.rows import UnassignedRows
from spark_semdedup.params import DEFAULTS, HasSeed
from spark_semdedup.spark.arrow import collect_arrow
from spark_semdedup.spark.columns import field as column_field
from spark_semdedup.spark.device import Batch, TaskDevice, vector_bytes
from spark_semdedup.spark.vectors import matrix_from_packed
from spark_semdedup.spark.worker import prepare_worker

log = logging.getLogger("spark_semdedup")

SAMPLE_ROWS, MOST_SAMPLED = 1000, 1_000_000

_AT_ONCE = Batch(1024, vector_bytes, "sampled rows compared at once", "sample_rows", rows_per_bound=1)

MISSED = 10
"""Missed pairs that are listed, at most."""

_SEED_OF_ITS_OWN = 1_000_037
"""Hashed before the user's seed, so that for no seed the sample is the rows that the centroids were fitted on."""


@dataclass(frozen=True)
class Sample:
    """The m sampled rows in rank order, on the driver and in every task."""

    ids: pa.Array
    keys: tuple[pa.Array, ...]
    """Rank keys, each (m,)."""
    units: np.ndarray
    """float32 (m, d)."""
    centroid: np.ndarray
    """int32 (m,)."""
    seed: int
    last_hash: int
    """The largest hash in the sample: a row is in it when its id hashes to this or less."""

    def __len__(self) -> int:
        return len(self.ids)

    def preceding(self, ids: pa.Array, keys: list[pa.Array], ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
        """Rank order of n other rows, and how many of them precede each sampled row: int64 (n,), (m,).

        Both are ranked as one table. The sort is stable and sampled rows come first, so a sampled row does not precede
        itself where it is among the others, too.
        """
        columns = zip([self.ids, *self.keys], [ids, *keys], strict=True)
        together = [pa.concat_arrays([mine.cast(theirs.type), theirs]) for mine, theirs in columns]
        order = rank_order(together[0], together[1:], ranking.key_ascending, ranking.id_ascending)
        other = order >= len(self)
        return order[other] - len(self), np.cumsum(other)[~other]


def _hash(id_: Column, seed: int) -> Column:
    return F.xxhash64(id_, F.lit(_SEED_OF_ITS_OWN), F.lit(seed))


@dataclass(frozen=True)
class _Comparison:
    """Compares batches of the input with the sample. Runs in the tasks.

    A match is a sampled row (its number), a similarity, and the other row: ``sample_row``, ``score``, ``max_id``,
    ``max_centroid``, ``max_key_0`` …
    """

    sample: Sample
    ranking: Ranking
    threshold: float
    device: TaskDevice

    def schema(self, rows: T.StructType) -> T.StructType:
        """Of matches, from that of the rows (``route.DocumentRouter``)."""
        schema = T.StructType().add("sample_row", T.LongType()).add("score", T.FloatType())
        schema.add("max_id", rows["id"].dataType).add("max_centroid", T.IntegerType())
        for i in range(len(self.sample.keys)):
            schema.add(f"max_key_{i}", rows[f"key_{i}"].dataType)
        return schema

    def matches(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Per batch of rows at most one match of each sampled row: its best in the batch, if that is a duplicate."""
        sampled = self.device.on_device(self.sample.units, _AT_ONCE)
        for batch in batches:
            valid = batch.filter(pc.is_null(batch.column("reason")))
            if valid.num_rows:
                yield self._compare(valid, sampled)

    def _compare(self, batch: pa.RecordBatch, sampled: Array) -> pa.RecordBatch:
        ids, keys = batch.column("id"), [batch.column(f"key_{i}") for i in range(len(self.sample.keys))]
        order, limits = self.sample.preceding(ids, keys, self.ranking)

        def compared(units: Array) -> tuple[np.ndarray, ...]:
            # Screened in float32 on a GPU, too: there the rows' way from the JVM takes longer than the product.
            return tuple(map(to_numpy, max_similarity(sampled, units, limits, batch_size=_AT_ONCE.rows)))

        units = matrix_from_packed(batch.column("unit"))[order]
        scores, columns = self.device.retry_on_oom(compared, units, _AT_ONCE)
        rows = np.flatnonzero((columns >= 0) & (scores.astype(np.float64) >= self.threshold))
        neighbours = pa.array(order[columns[rows]])
        matches = [pa.array(rows), pa.array(scores[rows])]
        matches += [column.take(neighbours) for column in (ids, batch.column("centroid"), *keys)]
        names = ["sample_row", "score", "max_id", "max_centroid", *(f"max_key_{i}" for i in range(len(keys)))]
        return pa.RecordBatch.from_arrays(matches, names)

    def best(self, matches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The best match of each sampled row. Holds these and one batch in memory."""
        best: pa.Table | None = None
        for batch in matches:
            new = pa.Table.from_batches([batch])
            if new.num_rows:
                best = self._best(new if best is None else pa.concat_tables([best, new]))
        if best is not None:
            yield from best.combine_chunks().to_batches()

    def _best(self, matches: pa.Table) -> pa.Table:
        """The largest score of each sampled row; of equal ones that of the row which ranks first."""
        keys = [matches[f"max_key_{i}"].combine_chunks() for i in range(len(self.sample.keys))]
        ids = matches["max_id"].combine_chunks()
        order = rank_order(ids, keys, self.ranking.key_ascending, self.ranking.id_ascending)
        rows, scores = matches["sample_row"].to_numpy(), matches["score"].to_numpy()
        order = order[np.lexsort((-scores[order], rows[order]))]  # stable: of equal scores the rank order stays
        first = np.diff(rows[order], prepend=-1) != 0
        return matches.take(pa.array(order[first]))


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a result: ``sample``, then ``compare``."""

    rows: UnassignedRows
    """The run's input, assigned and ranked as the run did."""
    similarities: DataFrame
    duplicates: DataFrame
    threshold: float
    rows_in: int | None = None
    """Rows that the input must have; None: any."""
    coverage: str | None = None
    coverage_in_words: str | None = None
    result: str | None = None

    @property
    def ranking(self) -> Ranking:
        return self.rows.ranking

    def check(self) -> None:
        """Raises ``SemDedupError`` where the dataset lacks the run's columns or has ids of another type. Reads no
        row."""
        mine, its = (column_field(df, "id", "column").dataType for df in (self.rows.routed(), self.similarities))
        if mine != its:
            raise self._not_its_input(
                f"idCol is {mine.simpleString()} there, but the ids are {its.simpleString()} here"
            )

    def sample(self, wanted: int = SAMPLE_ROWS, seed: int = DEFAULTS["seed"]) -> Sample:
        """The ``wanted`` valid rows whose ids hash lowest.

        Reads the similarities' ids once and the input twice: to count its rows, and to take these. Raises
        ``SemDedupError`` where the input lacks these rows, or has another number of rows than the run's.
        """
        seed = HasSeed.seed.typeConverter(seed)
        lowest = self.similarities.select("id", _hash(F.col("id"), seed).alias("hash")).orderBy("hash").limit(wanted)
        chosen = collect_arrow(lowest)
        if not chosen.num_rows:
            raise SemDedupError("the run compared no row: there is nothing to evaluate")
        if self.rows_in is not None and (count := self.rows.documents.df.count()) != self.rows_in:
            raise self._not_its_input(f"it has {count} rows, but the run's had {self.rows_in}")
        last = pc.max(chosen["hash"]).as_py()
        documents = self.rows.documents.where(_hash(self.rows.documents.id, seed) <= F.lit(last))
        rows = replace(self.rows, documents=documents).routed()
        taken = collect_arrow(rows.where(F.col("reason").isNull()).drop("reason")).combine_chunks()
        self._refuse_other_rows(taken["id"].to_pylist(), chosen["id"].to_pylist())
        return self._ranked(taken, seed, last)

    def _ranked(self, rows: pa.Table, seed: int, last: int) -> Sample:
        names = [name for name in rows.column_names if name.startswith("key_")]
        keys = [rows[name] for name in names]
        order = rank_order(rows["id"], keys, self.ranking.key_ascending, self.ranking.id_ascending)
        rows = rows.take(pa.array(order)).combine_chunks()
        columns = {name: rows[name].combine_chunks() for name in rows.column_names}
        units, centroid = matrix_from_packed(columns["unit"]), columns["centroid"].to_numpy()
        return Sample(columns["id"], tuple(columns[name] for name in names), units, centroid, seed, last)

    def _refuse_other_rows(self, ids: list[Any], wanted: list[Any]) -> None:
        if sorted(ids) != sorted(wanted):
            present = set(ids)
            missing = [id_ for id_ in wanted if id_ not in present]
            what = f"the row with id {shown(missing[0])} is missing or invalid" if missing else "ids are repeated"
            raise self._not_its_input(what)

    def compare(self, sample: Sample, missed: int = MISSED) -> Evaluation:
        """Compares the sample with all rows, in one pass over the input. Lists at most ``missed`` missed pairs."""
        best = collect_arrow(self._best_matches(sample))
        removed_ids = self.duplicates.where(_hash(F.col("id"), sample.seed) <= F.lit(sample.last_hash)).select("id")
        value_set = collect_arrow(removed_ids)["id"].combine_chunks().cast(sample.ids.type)
        removed = pc.is_in(sample.ids, value_set=value_set).to_numpy(zero_copy_only=False)
        due = np.zeros(len(sample), bool)
        due[best["sample_row"].to_numpy()] = True
        pairs = self._missed_pairs(sample, best.filter(pa.array(~removed[best["sample_row"].to_numpy()])))
        return Evaluation(
            rows=self.similarities.count(),
            sample_rows=len(sample),
            to_remove=int(due.sum()),
            found=int((removed & due).sum()),
            removed=int(removed.sum()),
            missed_within=sum(pair.centroid == pair.max_centroid for pair in pairs),
            threshold=self.threshold,
            seed=sample.seed,
            missed=tuple(pairs[:missed]),
            unexpected=tuple(sample.ids.filter(pa.array(removed & ~due))[:5].to_pylist()),
            coverage=self.coverage,
            coverage_in_words=self.coverage_in_words,
            result=self.result,
        )

    def _best_matches(self, sample: Sample) -> DataFrame:
        """The best match, among all rows, of each sampled row that is to be removed."""
        rows = self.rows.routed()
        device = TaskDevice.of_params(rows.sparkSession, self.rows.params)
        comparison = _Comparison(sample, self.ranking, self.threshold, device)
        merging = replace(comparison, sample=replace(sample, units=sample.units[:0]))
        schema = comparison.schema(rows.schema)

        def compare(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            prepare_worker()
            return comparison.best(comparison.matches(batches))

        def merge(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            prepare_worker()
            return merging.best(batches)

        # Each task gives at most one match per sampled row; one more task reads them batch by batch.
        return rows.mapInArrow(compare, schema).repartition(1).mapInArrow(merge, schema)

    def _missed_pairs(self, sample: Sample, lost: pa.Table) -> list[MissedPair]:
        """The most similar first; of equally similar ones the row that ranks first."""
        rows, scores = lost["sample_row"].to_numpy(), lost["score"].to_numpy()
        order = np.lexsort((rows, -scores))
        lost = lost.take(pa.array(order))
        columns = (
            sample.ids.take(pa.array(rows[order])).to_pylist(),
            lost["max_id"].to_pylist(),
            lost["score"].to_pylist(),
            sample.centroid[rows[order]].tolist(),
            lost["max_centroid"].to_pylist(),
        )
        return [MissedPair(*values) for values in zip(*columns, strict=True)]

    def _not_its_input(self, why: str) -> SemDedupError:
        whose = f"the run's of result={shown(self.result, 400)}" if self.result else "the one the result was made from"
        return SemDedupError(f"the input is not {whose}: {why}; give the input that the run had")


def check_counts(sample_rows: int, missed: int) -> None:
    """Raises ``SemDedupError`` for numbers that an evaluation cannot use."""
    for name, value, least in (("sample_rows", sample_rows, 1), ("missed", missed, 0)):
        if value < least:
            raise SemDedupError(f"{name}={shown(value)} cannot be used: it must be a whole number of at least {least}")
    if sample_rows > MOST_SAMPLED:
        raise SemDedupError(
            f"sample_rows={sample_rows} cannot be used: it must be at most {MOST_SAMPLED}, as each task holds them all"
        )


def noting_faults(evaluation: Evaluation) -> Evaluation:
    """Logs a warning for each fault. Returns the evaluation."""
    for fault in evaluation.faults:
        log.warning("%s%s", fault, CHANGED)
    return evaluation
