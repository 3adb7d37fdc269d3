"""The largest groups of duplicates: each removed row links to a preferred one, and the links form trees.

The root of a tree is a row that is kept, so a tree is a group: a kept row and all rows it replaces. A member is similar
to the row it links to; it need not be as similar to the root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from spark_semdedup.duplicates.groups import representatives

GROUPS_SHOWN = 40
MEMBERS_SHOWN = 12
LEAST_SIMILAR_SHOWN = 4
"""Removed rows of a group that are listed, and how many of them are the least similar ones."""


@dataclass(frozen=True)
class Member:
    """A removed row of a group."""

    id: Any
    max_id: Any
    score: float


@dataclass(frozen=True)
class Group:
    """A kept row and some of the removed rows whose links lead to it, the most similar first."""

    kept: Any
    removed: int
    """Removed rows of the group, listed or not."""
    members: tuple[Member, ...]
    omitted_from: int = MEMBERS_SHOWN - LEAST_SIMILAR_SHOWN
    """Number of the first member after the rows that are left out."""

    @property
    def rows(self) -> int:
        """The kept row included."""
        return self.removed + 1


@dataclass(frozen=True)
class Groups:
    """The largest groups, and the sizes of all."""

    largest: tuple[Group, ...]
    sizes: np.ndarray
    """int64 (s,): each size that a group has, descending, the kept row included."""
    counts: np.ndarray
    """int64 (s,): how many groups have it."""

    @classmethod
    def none(cls) -> Groups:
        """Of a run that removed nothing."""
        return cls((), np.zeros(0, np.int64), np.zeros(0, np.int64))

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    @property
    def median(self) -> int:
        """Rows of the median group, of an even number the smaller of both; at least one group."""
        from_below = np.cumsum(self.counts[::-1])
        return int(self.sizes[::-1][np.searchsorted(from_below, (self.count + 1) // 2)])


def groups_of(duplicates: DataFrame, links: int) -> Groups:
    """The groups among ``duplicates`` (``id``, ``max_id``, ``cosine_sim_score``), which has ``links`` rows."""
    if not links:
        return Groups.none()
    linked = representatives(duplicates)
    counted = linked.groupBy("representative").agg(F.count(F.lit(1)).alias("removed"))
    sizes = counted.groupBy("removed").agg(F.count(F.lit(1)).alias("groups")).collect()
    top = counted.orderBy(F.col("removed").desc(), "representative").limit(GROUPS_SHOWN).collect()
    members = _members(duplicates, linked, [row["representative"] for row in top])
    descending = sorted(((row["removed"] + 1, row["groups"]) for row in sizes), reverse=True)
    return Groups(
        largest=tuple(Group(row["representative"], row["removed"], members[row["representative"]]) for row in top),
        sizes=np.array([size for size, _ in descending], np.int64),
        counts=np.array([count for _, count in descending], np.int64),
    )


def _members(duplicates: DataFrame, linked: DataFrame, kept: list[Any]) -> dict[Any, tuple[Member, ...]]:
    """Of each group all removed rows, where they are few; otherwise those at both ends. By its kept row."""
    inside = linked.where(F.col("representative").isin(kept)).join(duplicates.drop("representative"), "id")
    group = Window.partitionBy("representative")
    score = F.col("cosine_sim_score")
    first = F.row_number().over(group.orderBy(score.desc(), "id")).alias("first")
    last = F.row_number().over(group.orderBy(score, F.col("id").desc())).alias("last")
    at_the_ends = (F.col("first") <= MEMBERS_SHOWN - LEAST_SIMILAR_SHOWN) | (F.col("last") <= LEAST_SIMILAR_SHOWN)
    is_small = F.col("first") + F.col("last") <= MEMBERS_SHOWN + 1  # their sum is one more than the group's rows
    listed = inside.select("representative", "id", "max_id", "cosine_sim_score", first, last)
    members: dict[Any, list[Member]] = {id_: [] for id_ in kept}
    for row in listed.where(at_the_ends | is_small).orderBy("representative", "first").collect():
        members[row["representative"]].append(Member(row["id"], row["max_id"], row["cosine_sim_score"]))
    return {id_: tuple(rows) for id_, rows in members.items()}
