"""Entries, of which tasks make one for each row and some more: counted, and merged to one for each row."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark_semdedup.pairwise.ranking import RankDirections, Ranking
from spark_semdedup.pairwise.schema import LINK_COLUMNS
from spark_semdedup.spark.ids import FEW, Ids


@dataclass(frozen=True)
class PartialMatches:
    """What tasks found. ``df``: ``id``, ``max_id``, ``cosine_sim_score``, ``centroid``, ``compared``, ``reason`` (why
    an invalid row is not compared), ``own`` and the rank keys, ``key_0`` ….

    Each row has one entry that is its ``own`` and may have others, of the further tasks it took part in; where there
    may be such, all have the rank keys of ``max_id``, too (``max_key_0`` …). The sum of ``compared`` is the number of
    pairs compared; of a single entry it says nothing. (With exact coverage the last digits may differ between machines,
    as cells at the very edge of what must be visited may be visited or not.)
    """

    df: DataFrame
    ranking: Ranking
    at_least: float = -math.inf
    """The similarity from which all neighbours are found: what entries say below it is promised to nobody."""

    @property
    def claim(self) -> Column:
        """Whether an entry says that another row precedes its own, and is so similar that this counts."""
        names_another = F.col("reason").isNull() & (F.col("max_id") != F.col("id"))
        return names_another & (F.col("cosine_sim_score") >= self.at_least)

    def counts(self) -> dict[str, int]:
        """By name: ``rows``, ``invalid`` ones, ``clusters`` that hold rows, ``pairs`` compared, entries that are
        ``further`` ones, no row's own, and ``claims``; and the ``hashes`` of the rows (``Ids``). One job."""
        own, valid = F.col("own"), F.col("reason").isNull()
        found = self.df.agg(
            F.count(F.when(own, 1)).alias("rows"),
            F.count(F.when(~valid, 1)).alias("invalid"),
            F.size(F.collect_set(F.when(valid & (F.col("centroid") >= 0), F.col("centroid")))).alias("clusters"),
            F.coalesce(F.sum("compared"), F.lit(0)).alias("pairs"),
            F.count(F.when(~own, 1)).alias("further"),
            F.count(F.when(self.claim, 1)).alias("claims"),
            Ids.hash_of(F.when(own, F.col("id"))),
        ).first()
        assert found is not None  # an aggregate without groups always gives one row
        return {name: int(value) for name, value in found.asDict().items()}

    def links(self) -> DataFrame:
        """``id``, ``other`` and ``score``: the similar predecessors that entries list (``links.LinkRule``)."""
        listed = self.df.where(F.col("link_ids").isNotNull()).select(
            "id", F.arrays_zip("link_ids", "link_scores").alias("links")
        )
        return listed.select("id", F.explode("links").alias("link")).select(
            "id", F.col("link.link_ids").alias("other"), F.col("link.link_scores").alias("score")
        )

    def unlisted(self) -> DataFrame:
        """``id`` of the rows that have more such predecessors."""
        return self.df.where(F.col("more")).select("id").distinct()

    def merged(self, further: int | None = None) -> DataFrame:
        """One for each row: that of the largest score, of equal ones that whose neighbour ranks first.

        An entry without a neighbour (its own id: the first row of a tile) gives way to any other. ``further``: as
        ``counts`` says, of entries that are kept somewhere. None: they are computed as they are merged, which is done
        in one pass, as a second would compute them again.
        """
        if further is None or not are_few(further):
            return self._best(self.df)
        columns = self._columns
        if not further:
            return self.df.select(columns)
        own, others = self.df.where(F.col("own")), self.df.where(~F.col("own"))
        contested = F.broadcast(others.select(F.col("id").alias("contested")))
        is_contested = F.col("id") == F.col("contested")
        best = self._best(own.join(contested, is_contested, "left_semi").unionAll(others))
        return own.join(contested, is_contested, "left_anti").select(columns).unionAll(best)

    def _best(self, entries: DataFrame) -> DataFrame:
        rank = by_rank(self.ranking, "max_id", "max_key_")
        alone = (F.col("max_id") == F.col("id")).cast("int")
        of_row = Window.partitionBy("id")
        first = of_row.orderBy(alone, F.col("cosine_sim_score").desc(), *rank)
        numbered = entries.withColumn("entry", F.row_number().over(first)).withColumn(
            "compared", F.sum("compared").over(of_row)
        )
        return numbered.where(F.col("entry") == 1).select(self._columns)

    @property
    def _columns(self) -> list[str]:
        """Those of a merged row: without what only tells entries of one row apart, and without links."""
        dropped = {"own", *LINK_COLUMNS}
        return [name for name in self.df.columns if name not in dropped and not name.startswith("max_key_")]


def are_few(further: int) -> bool:
    """Whether so many further entries are merged where the rows lie, as their ids are sent to every task; more are
    shuffled, with the rows."""
    return further <= FEW


def by_rank(ranking: RankDirections, id_: str, key_prefix: str) -> list[Column]:
    """What sorts rows by rank, the preferred first: of columns with their keys and id."""
    rank = [_directed(f"{key_prefix}{i}", ascending) for i, ascending in enumerate(ranking.key_ascending)]
    return [*rank, _directed(id_, ranking.id_ascending)]


def _directed(name: str, ascending: bool) -> Column:
    """Keys are never null; what is null here was NaN, which Spark's pandas functions return so: above all numbers."""
    return F.col(name).asc_nulls_last() if ascending else F.col(name).desc_nulls_first()
