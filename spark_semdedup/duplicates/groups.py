"""Rows in groups: each removed row with the kept one it goes with, or all that hang together by similar pairs.

*Tree*: a removed row names the most similar row that precedes it, and that may be removed for another one; followed to
the end these links lead to a kept row. Kept row and all that lead to it are a group. No pairs are needed.

*Components*: rows are in one group when a chain of similar pairs joins them, whichever rows are kept. A group may have
several kept rows then. Tasks say which of their rows hang together, and by which row (stars), however many pairs there
are; what is left is to join the stars of rows that several tasks compared.

Few links are followed on the driver. Many: trees by pointer doubling, in as many joins as the logarithm of the depth;
components by the alternating algorithm (Kiveris, Lattanzi, Mirrokni, Rastogi and Vassilvitskii, Connected Components in
MapReduce and Beyond, SoCC 2014): each vertex links its larger neighbours, then its smaller ones and itself, to the
smallest of them, until nothing changes.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels.graphs import Components, roots
from spark_semdedup.pairwise.merge import by_rank
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.spark.arrow import codes_of, collect_arrow, local_frame
from spark_semdedup.spark.held import held

KINDS = ("tree", "components")

GROUP_COLUMNS = ("id", "group_id", "representative", "size")

FEW_LINKS = 1 << 21
"""Links that the driver takes: some 100 MB."""

_MOST_ROUNDS = 64
"""Of joins. Pointer doubling follows a chain of 2⁶⁴ links with them; components of a chain of a billion rows need about
30 (O(log n) rounds are what is seen; O(log² n) is proven)."""


def check_kind(kind: str) -> str:
    """``kind`` itself; a ``SemDedupError`` for one that is none of ``KINDS``."""
    if kind not in KINDS:
        raise SemDedupError(f"kind={kind!r} cannot be used: it must be one of {', '.join(KINDS)}")
    return kind


def tree_groups(similarities: DataFrame, duplicates: DataFrame) -> DataFrame:
    """``GROUP_COLUMNS`` of every row of ``similarities``: groups of the links of ``duplicates``. ``group_id`` and
    ``representative`` are the kept row."""
    root = representatives(duplicates)
    rows = similarities.select("id").join(root.select("id", "representative"), "id", "left")
    rows = rows.select("id", F.coalesce("representative", "id").alias("representative"))
    return _with_size(rows.select("id", F.col("representative").alias("group_id"), "representative"))


def component_groups(
    similarities: DataFrame, duplicates: DataFrame, stars: DataFrame, ranks: DataFrame, ranking: Ranking
) -> DataFrame:
    """``GROUP_COLUMNS`` of every row of ``similarities``: groups of rows that hang together by ``stars``, ``id`` and
    ``head``. ``group_id``: the first-ranked row. ``ranks``: ``id`` and rank keys of every row."""
    joined = similarities.select("id").join(components(stars), "id", "left")
    label = F.coalesce("component", "id")
    root = representatives(duplicates)
    rows = joined.select("id", label.alias("component")).join(ranks, "id").join(root, "id", "left")
    first = F.first("id").over(Window.partitionBy("component").orderBy(*by_rank(ranking, "id", "key_")))
    representative = F.coalesce("representative", "id").alias("representative")
    return _with_size(rows.select("id", first.alias("group_id"), representative))


def _with_size(rows: DataFrame) -> DataFrame:
    size = F.count(F.lit(1)).over(Window.partitionBy("group_id"))
    return rows.withColumn("size", size).select(*GROUP_COLUMNS)


def representatives(duplicates: DataFrame) -> DataFrame:
    """``id`` and ``representative``, the kept row at the end of its links, of every removed row. Held by Spark."""
    links = held(duplicates.select("id", F.col("max_id").alias("representative")))
    if links.count() <= FEW_LINKS:
        return _followed_here(links)
    for _ in range(_MOST_ROUNDS):
        farther = links.select(F.col("id").alias("via"), F.col("representative").alias("farther"))
        joined = links.join(farther, F.col("representative") == F.col("via"), "left")
        follows = F.coalesce("farther", "representative").alias("representative")
        links = held(joined.select("id", follows, F.col("farther").isNotNull().alias("moved")))
        if not links.where(F.col("moved")).head(1):
            return links.select("id", "representative")
    raise SemDedupError(_ENDLESS)


def _followed_here(links: DataFrame) -> DataFrame:
    table = collect_arrow(links)
    ids, (of, to) = codes_of(table, "id", "representative")
    parents = np.arange(len(ids))
    parents[of] = to
    ends = roots(parents)
    if ends is None:
        raise SemDedupError(_ENDLESS)
    found = {"id": table["id"], "representative": ids.take(pa.array(ends[of]))}
    return local_frame(links.sparkSession, pa.table(found))


_ENDLESS = "the links of the duplicates go in circles, so no run made them: identify the duplicates again"


def components(links: DataFrame) -> DataFrame:
    """``id`` and ``component``, some row of it that is the same for all, of every row that ``links``, ``id`` and
    ``head``, join with another. Held by Spark."""
    links = held(links.select("id", "head").distinct())
    if links.count() <= FEW_LINKS:
        return _joined_here(links)
    before = None
    for _ in range(_MOST_ROUNDS):
        links = held(_small_stars(_large_stars(links)))
        counted = links.agg(F.count(F.lit(1)), F.bit_xor(F.xxhash64("id", "head"))).first()
        if counted == before:
            roots_ = links.select(F.col("head").alias("id")).distinct().select("id", F.col("id").alias("component"))
            return held(links.select("id", F.col("head").alias("component")).unionAll(roots_))
        before = counted
    raise SemDedupError(f"components are not joined after {_MOST_ROUNDS} rounds; set kind to tree")


def _large_stars(links: DataFrame) -> DataFrame:
    """Each row's larger neighbours linked to the smallest of its neighbours and itself."""
    both = links.select("id", "head").unionAll(links.select(F.col("head").alias("id"), F.col("id").alias("head")))
    least = F.least(F.col("id"), F.min("head").over(Window.partitionBy("id")))
    larger = both.withColumn("least", least).where(F.col("head") > F.col("id"))
    return larger.select(F.col("head").alias("id"), F.col("least").alias("head")).distinct()


def _small_stars(links: DataFrame) -> DataFrame:
    """Each row and its smaller neighbours linked to the smallest of these."""
    down = links.select(F.greatest("id", "head").alias("id"), F.least("id", "head").alias("head")).where(
        F.col("id") != F.col("head")
    )
    least = down.withColumn("least", F.min("head").over(Window.partitionBy("id")))
    smaller = least.where(F.col("head") != F.col("least")).select(
        F.col("head").alias("id"), F.col("least").alias("head")
    )
    itself = least.select("id", F.col("least").alias("head"))
    return smaller.unionAll(itself).distinct()


def _joined_here(links: DataFrame) -> DataFrame:
    table = collect_arrow(links)
    ids, (of, to) = codes_of(table, "id", "head")
    joined = Components(len(ids))
    joined.join(of, to)
    return local_frame(links.sparkSession, pa.table({"id": ids, "component": ids.take(pa.array(joined.labels))}))
