"""``keepRule="greedy"``: a row is removed exactly when a *kept* row that precedes it is within eps.

The same as going through all rows in rank order and keeping each that no kept one is similar to: the rank-ordered
maximal independent set of the graph of similar rows. So every removed row has a kept row within eps.

Tasks list the similar predecessors of each row: all of them, or, where a task has too many (``links.LinkRule``), the
first of each row, and say whether there are more. What these links alone decide is decided (``independent_set``; on the
driver where links are few, in rounds of joins where they are many). A row is left undecided when all its listed
predecessors are removed and others are not listed: such rows are compared again, with the kept ones and with one
another, without all that were removed. The undecided row of the first rank has only decided predecessors by then, so
each round decides one at least; as the predecessors that are listed are those of the first rank, which are the
likeliest to be kept, it decides nearly all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels.graphs import KEPT, REMOVED, UNDECIDED, independent_set
from spark_semdedup.pairwise.execute import Compared
from spark_semdedup.pairwise.links import LinkRule
from spark_semdedup.pairwise.merge import PartialMatches, by_rank
from spark_semdedup.pairwise.reference import with_references
from spark_semdedup.pairwise.rounds import STATE_KEPT, STATE_REMOVED, STATE_UNDECIDED, compare_states
from spark_semdedup.spark.arrow import codes_of, collect_arrow, local_frame
from spark_semdedup.spark.held import held
from spark_semdedup.spark.ids import FEW

if TYPE_CHECKING:
    from spark_semdedup.params import KeepParams

log = logging.getLogger("spark_semdedup")

FEW_LINKS = 1 << 21
"""Links that the driver takes: some 100 MB."""

_MOST_ROUNDS = 10_000
"""Each takes a second at least. No data are known that take more than three."""


def links_for(params: KeepParams) -> LinkRule | None:
    """Which links a comparison lists for the ``keepRule`` of ``params``."""
    return LinkRule(params.similarity_threshold()) if params.value("keepRule") == "greedy" else None


def decide(compared: Compared, threshold: float, found: DataFrame | None = None) -> DataFrame:
    """One entry for each row, by the greedy rule; computed once and held by Spark.

    ``compared``: with links from ``threshold`` on (``links.LinkRule``). ``found``: see ``Greedy``.
    """
    entries = replace(compared.entries, df=compared.entries.df.persist())
    merged = entries.merged(None if compared.merges else 0)
    merged = merged.persist() if compared.merges else merged
    try:
        return held(Greedy(compared, entries, merged, threshold, found).rows())
    finally:
        merged.unpersist()
        entries.df.unpersist()


@contextmanager
def decided(
    compared: Compared, further: int, params: KeepParams, found: DataFrame | None = None
) -> Iterator[DataFrame]:
    """One entry for each row by the ``keepRule`` of ``params``, of entries that are stored; ``further``: how many of
    them are no row's own; ``found``: what reference rows were found, stored too (``Greedy``). To be read inside the
    block, once."""
    merged = compared.entries.merged(further)
    if params.value("keepRule") == "ranked":
        yield merged if found is None else with_references(merged, found)
        return
    merged = merged.persist()
    try:
        yield Greedy(compared, compared.entries, merged, params.similarity_threshold(), found).rows()
    finally:
        merged.unpersist()


@dataclass(frozen=True)
class Greedy:
    """The decision over entries with links."""

    compared: Compared
    """How they were made: some rows may have to be compared again."""
    entries: PartialMatches
    """Kept somewhere, as they are read several times."""
    merged: DataFrame
    """One entry for each row (``PartialMatches.merged``), kept somewhere as well."""
    threshold: float
    found: DataFrame | None = None
    """The best reference row of each row (``reference.best_references``), kept somewhere: all of them are kept rows
    that precede these."""

    @property
    def removed_before(self) -> DataFrame | None:
        """``id`` of the rows that a reference row removes, before any of these is looked at."""
        if self.found is None:
            return None
        return self.found.where(F.col("cosine_sim_score") >= self.threshold).select("id")

    def compare_again(self, states: DataFrame) -> DataFrame:
        return compare_states(self.compared, states, LinkRule(self.threshold))

    def rows(self) -> DataFrame:
        """``merged``, with the entries that the rule changes: a removed row names its most similar kept predecessor; a
        kept row that only removed ones are similar to has its own id and 0. Others say what they say with ``ranked``:
        a kept row may name a removed one, less similar than the threshold."""
        states = self._states()
        changes = held(self._changes(states))
        if changes.count() <= FEW:  # all rows stay where they are
            changes = F.broadcast(changes)
        changed = F.col("new_id").isNotNull()
        joined = self.merged.join(changes, F.col("id") == F.col("new_id"), "left")
        columns = {
            "max_id": F.when(changed, F.col("new_max_id")).otherwise(F.col("max_id")),
            "cosine_sim_score": F.when(changed, F.col("new_score")).otherwise(F.col("cosine_sim_score")),
        }
        rows = joined.select([columns.get(name, F.col(name)).alias(name) for name in self.merged.columns])
        return rows if self.found is None else with_references(rows, self.found)

    # --- which rows are kept ---

    def _states(self) -> DataFrame:
        """``id`` and ``state`` of the rows that are removed."""
        hidden = self.entries.unlisted().select("id", F.col("id").alias("other"))
        links = self.entries.links().select("id", "other").unionAll(hidden)
        before = self.removed_before
        if before is None:
            states = solve(links)
        else:
            gone = before.select(F.col("id").alias("gone"))
            for end in ("id", "other"):
                links = links.join(gone, F.col(end) == F.col("gone"), "left_anti")
            states = held(solve(links).unionAll(before.withColumn("state", F.lit(REMOVED).cast("int"))))
        for round_ in range(_MOST_ROUNDS):
            undecided = states.where(F.col("state") == UNDECIDED).count()
            if not undecided:
                return states
            log.info("greedy: %d rows are compared again, round %d", undecided, round_ + 1)
            states = self._decide_again(states)
        raise SemDedupError(
            f"keepRule='greedy': {undecided} rows are undecided after {_MOST_ROUNDS} rounds; set keepRule to ranked"
        )

    def _decide_again(self, states: DataFrame) -> DataFrame:
        again = held(self.compare_again(self._not_removed(states)))
        removed = states.where(F.col("state") == REMOVED)
        near = again.where(F.col("max_id") != F.col("id")).select("id").distinct()
        far = again.join(near, "id", "left_anti")
        links = PartialMatches(far, self.entries.ranking)
        hidden = links.unlisted().select("id", F.col("id").alias("other"))
        is_near = F.col("other") == F.col("near")
        open_links = (
            links.links().select("id", "other").join(near.select(F.col("id").alias("near")), is_near, "left_anti")
        )
        decided = solve(open_links.unionAll(hidden))
        return held(removed.unionAll(near.withColumn("state", F.lit(REMOVED))).unionAll(decided))

    def _not_removed(self, states: DataFrame) -> DataFrame:
        """``id`` and ``state``, as ``rounds`` has it, of the valid rows that are not removed."""
        valid = self.merged.where(F.col("reason").isNull()).select("id")
        joined = valid.join(states, "id", "left")
        state = F.when(F.col("state") == UNDECIDED, F.lit(STATE_UNDECIDED)).otherwise(F.lit(STATE_KEPT))
        removed = F.coalesce(F.col("state") == REMOVED, F.lit(False))
        return joined.where(~removed).select("id", state.cast("int").alias("state"))

    # --- the most similar kept row ---

    def _changes(self, removed: DataFrame) -> DataFrame:
        """``new_id``, ``new_max_id``, ``new_score`` of the rows whose entry the rule changes."""
        gone = removed.select(F.col("id").alias("gone"))
        similar = self.merged.where(self.entries.claim & (F.col("cosine_sim_score") >= self.threshold))
        stays = similar.join(gone, F.col("id") == F.col("gone"), "left_anti")
        goes = similar.join(gone, F.col("id") == F.col("gone"), "left_semi")
        misled = goes.join(gone, F.col("max_id") == F.col("gone"), "left_semi").select("id")
        if self.found is not None:
            misled = held(misled)
        best = self._best_kept(misled, gone, removed)
        alone = stays.select("id")
        if self.found is not None:  # a row that a reference row removes may have removed predecessors only
            best = [held(each) for each in best]
            for each in best:
                misled = misled.join(each.select(F.col("new_id").alias("id")), "id", "left_anti")
            alone = alone.unionAll(misled)
        changes = alone.select(
            F.col("id").alias("new_id"), F.col("id").alias("new_max_id"), F.lit(0.0).cast("float").alias("new_score")
        )
        for each in best:
            changes = changes.unionAll(each)
        return changes

    def _best_kept(self, misled: DataFrame, gone: DataFrame, removed: DataFrame) -> list[DataFrame]:
        """The most similar kept rows of the removed rows ``misled``."""
        if not self.entries.unlisted().head(1):  # the rule, and a few jobs less
            return [self._best_listed(misled, gone)]
        misled = held(misled)
        unlisted = held(misled.join(self.entries.unlisted(), "id", "left_semi"))
        best = [self._best_listed(misled.join(unlisted, "id", "left_anti"), gone)]
        return [*best, self._best_of_all(unlisted, removed)] if unlisted.head(1) else best

    def _best_listed(self, of: DataFrame, gone: DataFrame) -> DataFrame:
        """For rows whose similar predecessors are all listed, the best of those that are kept."""
        listed = self.entries.links().join(of, "id", "left_semi")
        kept = listed.join(gone, F.col("other") == F.col("gone"), "left_anti")
        keys = [f"key_{i}" for i in range(len(self.entries.ranking.key_ascending))]
        ranked = self.merged.select(F.col("id").alias("max_id"), *(F.col(key).alias(f"max_{key}") for key in keys))
        return self._first(kept.join(ranked, F.col("other") == F.col("max_id")))

    def _best_of_all(self, of: DataFrame, removed: DataFrame) -> DataFrame:
        """For rows that have too many similar predecessors to list: compared with all kept rows again."""
        log.info("greedy: the most similar kept rows of %d rows are sought again", of.count())
        kept = self._not_removed(removed)
        again = self.compare_again(kept.unionAll(of.select("id", F.lit(STATE_REMOVED).alias("state"))))
        return self._first(again.where(F.col("max_id") != F.col("id")).withColumnRenamed("cosine_sim_score", "score"))

    def _first(self, candidates: DataFrame) -> DataFrame:
        """Of each ``id`` the candidate of the largest ``score``, of equal ones that of the first rank."""
        rank = by_rank(self.entries.ranking, "max_id", "max_key_")
        order = Window.partitionBy("id").orderBy(F.col("score").desc(), *rank)
        first = candidates.withColumn("place", F.row_number().over(order)).where(F.col("place") == 1)
        return first.select(
            F.col("id").alias("new_id"), F.col("max_id").alias("new_max_id"), F.col("score").alias("new_score")
        )


def solve(links: DataFrame) -> DataFrame:
    """``id`` and ``state``, ``REMOVED`` or ``UNDECIDED``, of rows; all others are kept.

    ``links``: ``id`` and ``other``, a similar row that precedes it; of a row that has others, which are not listed, its
    own id. Where there are few, the driver decides; many are thinned out first, in rounds: what has no predecessor is
    kept, what is linked to that goes, with its links.
    """
    removed, count = None, links.count()
    if count > FEW_LINKS:
        links = held(links)
    while count > FEW_LINKS:
        followers = links.select(F.col("id").alias("follower"))
        heads = links.select(F.col("other").alias("head")).join(
            followers, F.col("head") == F.col("follower"), "left_anti"
        )
        gone = links.join(heads.distinct(), F.col("other") == F.col("head"), "left_semi").select(
            F.col("id").alias("gone")
        )
        gone = held(gone.distinct())
        links = links.join(gone, F.col("id") == F.col("gone"), "left_anti")
        links = held(links.join(gone, F.col("other") == F.col("gone"), "left_anti"))
        removed = gone if removed is None else removed.unionAll(gone)
        before, count = count, links.count()
        if count == before:  # all that is left hangs on what is not listed
            undecided = links.select("id").distinct().withColumn("state", F.lit(UNDECIDED))
            return _with_removed(undecided, removed)
    return _with_removed(_solved_here(links), removed)


def _with_removed(states: DataFrame, removed: DataFrame | None) -> DataFrame:
    states = states.select("id", F.col("state").cast("int").alias("state"))
    if removed is None:
        return states
    return states.unionAll(removed.select(F.col("gone").alias("id"), F.lit(REMOVED).alias("state")))


def _solved_here(links: DataFrame) -> DataFrame:
    table = collect_arrow(links)
    ids, (later, earlier) = codes_of(table, "id", "other")
    states = independent_set(len(ids), later, earlier)
    decided = np.flatnonzero(states != KEPT)
    columns = {"id": ids.take(pa.array(decided)), "state": pa.array(states[decided], pa.int32())}
    return local_frame(links.sparkSession, pa.table(columns))
