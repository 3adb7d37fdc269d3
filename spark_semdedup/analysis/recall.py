"""How much a run found: a random sample of its rows, compared exactly with *all* rows.

A row is *to be removed* when a row that precedes it in the run's rank order, in whatever cluster, has a similarity to
it of at least the run's threshold (order, arithmetic and decision as in DESIGN 3, over all pairs). Recall is the share
of these that the run removed.

For a sample of m rows out of n that costs m · n products at most instead of n², and one pass over the input: a task
holds the sample's vectors, one batch of the input, and of each sampled row the best found so far. ``max_similarity``
compares them, with the sample as its rows and the batch as its columns, so equal rows by the thousand take no more
memory here than in a run.

A sample has an error of its own: the interval is Wilson's for a binomial proportion at 95 % confidence (E. B. Wilson,
JASA 22, 1927), which holds for small samples and for shares near 1, where recall lies.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.formatting import aligned
from spark_semdedup.kernels import max_similarity
from spark_semdedup.kernels.arrays import Array, to_numpy
from spark_semdedup.pairwise.ranking import Ranking, rank_order
from spark_semdedup.pairwise.rows import UnassignedRows
from spark_semdedup.params import DEFAULTS, HasSeed
from spark_semdedup.redaction import redacted
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
"""Hashed before the user's seed: whatever that is, the sample is not the rows that the centroids were fitted on."""

_Z = 1.959963984540054
"""Quantile of the normal distribution that leaves 5 % outside ±z."""


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a proportion; at least one trial.

    >>> [round(end, 4) for end in wilson_interval(90, 100)]
    [0.8256, 0.9448]
    >>> wilson_interval(5, 5)[1]
    1.0
    """
    z2 = _Z * _Z
    centre = (successes + z2 / 2) / (trials + z2)
    half = _Z / (trials + z2) * math.sqrt(successes * (trials - successes) / trials + z2 / 4)
    # The ends at 0 and 1 are exact, but for rounding.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, 1.0 if successes == trials else min(1.0, centre + half)


@dataclass(frozen=True)
class MissedPair:
    """A row that a run should have removed and did not, and the most similar row that precedes it."""

    id: Any
    max_id: Any
    cosine_sim_score: float
    centroid: int
    max_centroid: int
    """Cluster of ``max_id``; ``centroid`` is that of ``id``. The run compared rows of different clusters less, or not
    at all."""


@dataclass(frozen=True)
class Evaluation:
    """What a sample says of a run. ``as_dict`` is what a program reads, ``as_text`` what a person reads."""

    rows: int
    """Valid rows of the run's input: what the sample was taken from."""
    sample_rows: int
    to_remove: int
    """Sampled rows that have a duplicate which precedes them, in whatever cluster."""
    found: int
    """Of these, how many the run removed."""
    removed: int
    """Sampled rows that the run removed, rightly or not."""
    missed_within: int
    """Missed pairs inside one cluster. The run compared those, so there are none unless something was changed."""
    threshold: float
    seed: int
    missed: tuple[MissedPair, ...] = ()
    """The most similar missed pairs, the largest similarity first; not necessarily all."""
    unexpected: tuple[Any, ...] = ()
    """Ids of removed rows that should have stayed, a few. There are none unless something was changed."""
    coverage: str | None = None
    coverage_in_words: str | None = None
    result: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def recall(self) -> float | None:
        """Share of the rows to be removed that were removed; None where no sampled row was to be removed."""
        return self.found / self.to_remove if self.to_remove else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the recall among all rows; where the sample is all rows, the recall itself."""
        if self.recall is None:
            return None
        return (self.recall, self.recall) if self.is_whole else wilson_interval(self.found, self.to_remove)

    @property
    def precision(self) -> float | None:
        """Share of the removed rows that were to be removed: 1 by construction; None where none was removed."""
        return self.found / self.removed if self.removed else None

    @property
    def is_whole(self) -> bool:
        """Whether the sample is all rows, so that nothing is estimated."""
        return self.sample_rows == self.rows

    @property
    def faults(self) -> list[str]:
        """What cannot be if the input is the run's and its result is as it was written; in words."""
        faults = []
        if self.removed > self.found:
            ids = ", ".join(shown(id_) for id_ in self.unexpected)
            faults.append(f"{self.removed - self.found} removed rows have no duplicate that precedes them ({ids})")
        if self.missed_within:
            faults.append(f"{self.missed_within} missed pairs lie inside one cluster, which the run compared")
        elif self.coverage == "exact" and self.found < self.to_remove:
            faults.append(f"{self.to_remove - self.found} rows to be removed were missed, which exact coverage finds")
        return faults

    def as_dict(self) -> dict[str, Any]:
        """All there is, and the shares, in JSON's types."""
        facts = asdict(self)
        facts["result"] = self.result and redacted(self.result)  # ids stay as they are: they are looked up by
        shares = {"recall": self.recall, "recall_interval_95": self.interval, "precision": self.precision}
        finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {"step": "evaluate", **shares, **facts, "faults": self.faults, "finished": finished}

    def as_json(self) -> str:
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"

    def as_text(self) -> str:
        """The same in aligned lines."""
        blocks = [aligned(self._counts(), right=True), aligned(self._shares()), self._missed_table()]
        blocks += [aligned([(stage, f"{seconds:,.1f} s") for stage, seconds in self.seconds.items()], right=True)]
        return "\n\n".join(block for block in blocks if block)

    def _counts(self) -> list[tuple[str, str]]:
        share = f"  {100 * self.to_remove / self.sample_rows:5.1f} %"
        missed = self.to_remove - self.found
        return [
            ("rows", f"{self.rows:,}" + " " * len(share)),
            ("sampled rows", f"{self.sample_rows:,}" + " " * len(share)),
            ("to be removed", f"{self.to_remove:,}{share}"),
            ("of these removed", f"{self.found:,}" + " " * len(share)),
            ("of these missed", f"{missed:,}" + " " * len(share)),
        ]

    def _shares(self) -> list[tuple[str, str]]:
        lines = [("recall", self._recall_text()), ("precision", self._precision_text())]
        lines += [
            ("WARNING", f"{fault}: the input is not the run's, or one of them was changed") for fault in self.faults
        ]
        lines.append(("threshold", f"a row is a duplicate from a similarity of {self.threshold:.6g} on"))
        if self.coverage is not None:
            words = f": {self.coverage_in_words}" if self.coverage_in_words else ""
            lines.append(("coverage", self.coverage + words))
        return lines

    def _recall_text(self) -> str:
        if self.recall is None or self.interval is None:
            if self.is_whole:
                return "unknown: no row has a duplicate"
            # The rule of three: of n drawn, none; then with 95 % confidence the share is at most 3 / n.
            most = 100 * min(1.0, 3 / self.sample_rows)
            return f"unknown: no sampled row has a duplicate (at most {most:.3g} % of all rows do, 95 % confidence)"
        if self.is_whole:
            return f"{_percent(self.recall)} % (all rows were looked at: no estimate)"
        low, high = self.interval
        return f"{_percent(self.recall)} % ({_percent(low)}-{_percent(high)}, 95 % Wilson)"

    def _precision_text(self) -> str:
        if self.precision is None:
            return "unknown: no sampled row was removed"
        return f"{_percent(self.precision)} % ({self.found:,} of the {self.removed:,} sampled rows that were removed)"

    def _missed_table(self) -> str:
        if not self.missed:
            return ""
        table = [("similarity", "missed row", "cluster", "most similar preferred row", "cluster")]
        for pair in self.missed:
            names = _short(pair.id), str(pair.centroid), _short(pair.max_id), str(pair.max_centroid)
            table.append((f"{pair.cosine_sim_score:.6f}", *names))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(f"{text:{side}{width}}" for text, side, width in zip(row, "><><>", widths, strict=True))
            for row in table
        ]
        return "\n".join(f"  {line}".rstrip() for line in lines)


def _percent(share: float) -> str:
    """One decimal, and never 100.0 for what is less, nor 0.0 for what is more."""
    text = f"{100 * share:.1f}"
    if text == "100.0":
        return "100" if share == 1 else "99.9"
    return "0.1" if text == "0.0" and share > 0 else text


def _short(id_: Any, limit: int = 40) -> str:
    # A control character in an id could move a terminal's cursor, or more.
    text = " ".join(
        "".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in str(id_)).split()
    )
    return text if len(text) <= limit else text[: limit - 1] + "…"


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

        Both are ranked as one table. The sort is stable and sampled rows stand first, so a sampled row does not
        precede itself where it is among the others, too.
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

    An *entry* is a sampled row (its number), a similarity, and the row that has it: ``sample_row``, ``score``,
    ``max_id``, ``max_centroid``, ``max_key_0`` …
    """

    sample: Sample
    ranking: Ranking
    threshold: float
    device: TaskDevice

    def schema(self, rows: T.StructType) -> T.StructType:
        """Of entries, from that of the rows (``route.route``)."""
        schema = T.StructType().add("sample_row", T.LongType()).add("score", T.FloatType())
        schema.add("max_id", rows["id"].dataType).add("max_centroid", T.IntegerType())
        for i in range(len(self.sample.keys)):
            schema.add(f"max_key_{i}", rows[f"key_{i}"].dataType)
        return schema

    def entries(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """For each batch of rows at most one entry per sampled row: its best in the batch, if that is a duplicate."""
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
            found = max_similarity(sampled, units, limits, batch_size=_AT_ONCE.rows)
            return tuple(map(to_numpy, found))

        units = matrix_from_packed(batch.column("unit"))[order]
        scores, columns = self.device.retry_on_oom(compared, units, _AT_ONCE)
        rows = np.flatnonzero((columns >= 0) & (scores.astype(np.float64) >= self.threshold))
        neighbours = pa.array(order[columns[rows]])
        found = [pa.array(rows), pa.array(scores[rows])]
        found += [column.take(neighbours) for column in (ids, batch.column("centroid"), *keys)]
        names = ["sample_row", "score", "max_id", "max_centroid", *(f"max_key_{i}" for i in range(len(keys)))]
        return pa.RecordBatch.from_arrays(found, names)

    def best(self, entries: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Of all entries one for each sampled row; memory for one per sampled row and a batch."""
        best: pa.Table | None = None
        for batch in entries:
            new = pa.Table.from_batches([batch])
            if new.num_rows:
                best = self._best(new if best is None else pa.concat_tables([best, new]))
        if best is not None:
            yield from best.combine_chunks().to_batches()

    def _best(self, entries: pa.Table) -> pa.Table:
        """The largest score of each sampled row; of equal ones that of the row which ranks first (DESIGN 3.2)."""
        keys = [entries[f"max_key_{i}"].combine_chunks() for i in range(len(self.sample.keys))]
        ids = entries["max_id"].combine_chunks()
        order = rank_order(ids, keys, self.ranking.key_ascending, self.ranking.id_ascending)
        rows, scores = entries["sample_row"].to_numpy(), entries["score"].to_numpy()
        order = order[np.lexsort((-scores[order], rows[order]))]  # stable: of equal scores the rank order stays
        first = np.diff(rows[order], prepend=-1) != 0
        return entries.take(pa.array(order[first]))


@dataclass(frozen=True)
class Evaluator:
    """A result, what it was made from, and how: all that an evaluation needs. ``sample``, then ``compare``."""

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
        """Refuses a dataset that lacks the run's columns, or whose ids are of another type; reads no row."""
        mine, its = (column_field(df, "id", "column").dataType for df in (self.rows.routed(), self.similarities))
        if mine != its:
            raise self._not_its_input(
                f"idCol is {mine.simpleString()} there, but the ids are {its.simpleString()} here"
            )

    def sample(self, wanted: int = SAMPLE_ROWS, seed: int = DEFAULTS["seed"]) -> Sample:
        """The ``wanted`` valid rows whose ids hash lowest.

        The similarities' ids are looked at once, the input twice: to count its rows, and for these.

        Raises ``SemDedupError`` where the input has not these rows, or not as many rows as the run's.
        """
        seed = HasSeed.seed.typeConverter(seed)
        lowest = self.similarities.select("id", _hash(F.col("id"), seed).alias("hash")).orderBy("hash").limit(wanted)
        chosen = collect_arrow(lowest)
        if not chosen.num_rows:
            raise SemDedupError("the run compared no row: there is nothing to evaluate")
        if self.rows_in is not None and (there := self.rows.documents.df.count()) != self.rows_in:
            raise self._not_its_input(f"it has {there} rows, but the run's had {self.rows_in}")
        last = pc.max(chosen["hash"]).as_py()
        documents = self.rows.documents.where(_hash(self.rows.documents.id, seed) <= F.lit(last))
        rows = replace(self.rows, documents=documents).routed()
        found = collect_arrow(rows.where(F.col("reason").isNull()).drop("reason")).combine_chunks()
        self._refuse_other_rows(found["id"].to_pylist(), chosen["id"].to_pylist())
        return self._ranked(found, seed, last)

    def _ranked(self, found: pa.Table, seed: int, last: int) -> Sample:
        names = [name for name in found.column_names if name.startswith("key_")]
        order = rank_order(
            found["id"], [found[name] for name in names], self.ranking.key_ascending, self.ranking.id_ascending
        )
        found = found.take(pa.array(order)).combine_chunks()
        columns = {name: found[name].combine_chunks() for name in found.column_names}
        units = matrix_from_packed(columns["unit"])
        keys = tuple(columns[name] for name in names)
        return Sample(columns["id"], keys, units, columns["centroid"].to_numpy(), seed, last)

    def _refuse_other_rows(self, found: list[Any], wanted: list[Any]) -> None:
        if sorted(found) != sorted(wanted):
            there = set(found)
            missing = [id_ for id_ in wanted if id_ not in there]
            what = f"the row with id {shown(missing[0])} is not there, or not valid" if missing else "ids are repeated"
            raise self._not_its_input(what)

    def compare(self, sample: Sample, missed: int = MISSED) -> Evaluation:
        """Compares the sample with all rows: one pass over the input."""
        best = collect_arrow(self._best_entries(sample))
        removed_ids = self.duplicates.where(_hash(F.col("id"), sample.seed) <= F.lit(sample.last_hash)).select("id")
        known = collect_arrow(removed_ids)["id"].combine_chunks().cast(sample.ids.type)
        removed = pc.is_in(sample.ids, value_set=known)
        return self._evaluation(sample, best, removed.to_numpy(zero_copy_only=False), missed)

    def _best_entries(self, sample: Sample) -> DataFrame:
        """One row for each sampled row that is to be removed: its best entry, of all rows."""
        rows = self.rows.routed()
        device = TaskDevice.of_params(rows.sparkSession, self.rows.params)
        comparison = _Comparison(sample, self.ranking, self.threshold, device)
        schema = comparison.schema(rows.schema)
        merging = _Comparison(_without_vectors(sample), self.ranking, self.threshold, device)

        def compare(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            prepare_worker()
            return comparison.best(comparison.entries(batches))

        def merge(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            prepare_worker()
            return merging.best(batches)

        # Each task gives an entry per sampled row at most; one more task reads them batch by batch.
        return rows.mapInArrow(compare, schema).repartition(1).mapInArrow(merge, schema)

    def _evaluation(self, sample: Sample, best: pa.Table, removed: np.ndarray, missed: int) -> Evaluation:
        due = np.zeros(len(sample), bool)
        due[best["sample_row"].to_numpy()] = True
        lost = best.filter(pa.array(~removed[best["sample_row"].to_numpy()]))
        pairs = self._missed_pairs(sample, lost)
        unexpected = sample.ids.filter(pa.array(removed & ~due))
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
            unexpected=tuple(unexpected[:5].to_pylist()),
            coverage=self.coverage,
            coverage_in_words=self.coverage_in_words,
            result=self.result,
        )

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


def _without_vectors(sample: Sample) -> Sample:
    return Sample(sample.ids, sample.keys, sample.units[:0], sample.centroid, sample.seed, sample.last_hash)


def check_counts(sample_rows: int, missed: int) -> None:
    for name, value, least in (("sample_rows", sample_rows, 1), ("missed", missed, 0)):
        if value < least:
            raise SemDedupError(f"{name}={shown(value)} cannot be used: it must be a whole number of at least {least}")
    if sample_rows > MOST_SAMPLED:
        raise SemDedupError(
            f"sample_rows={sample_rows} cannot be used: it must be at most {MOST_SAMPLED}, as each task holds them all"
        )


def noting_faults(found: Evaluation) -> Evaluation:
    """Warns of what should not be, and gives the evaluation back."""
    for fault in found.faults:
        log.warning("%s: the input is not the run's, or one of them was changed", fault)
    return found
