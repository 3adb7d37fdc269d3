"""Groups of duplicates: each removed row links to a preferred one, and the links form trees.

The root of a tree is a row that is kept, so a tree is a group: a kept row and all rows it replaces. A member is similar
to the row it links to; it need not be as similar to the root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark_semdedup.errors import AccountingError
from spark_semdedup.spark.arrow import collect_arrow

MOST_LINKS = 20_000_000
"""Links that come to the driver, as hashes: 0.4 GiB. Of more, only the links to the same row are counted as a group."""

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
    omitted_from: int = MEMBERS_SHOWN
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
    """int64 (g,): rows of every group, descending, the kept one included."""
    chains_followed: bool
    """Whether trees were followed to their roots; otherwise a group is the rows that link to the same row directly."""

    @property
    def count(self) -> int:
        return len(self.sizes)


def groups_of(duplicates: DataFrame, links: int, *, most_links: int = MOST_LINKS) -> Groups:
    """The groups among ``duplicates`` (``id``, ``max_id``, ``cosine_sim_score``), which has ``links`` rows."""
    if not links:
        return Groups((), np.zeros(0, np.int64), chains_followed=True)
    return _trees(duplicates) if links <= most_links else _stars(duplicates)


def id_hash(id_: Column) -> Column:
    """64 bits that stand for an id."""
    return F.xxhash64(id_.cast("string"))


def _trees(duplicates: DataFrame) -> Groups:
    hashed = duplicates.select(
        id_hash(F.col("id")).alias("node"), id_hash(F.col("max_id")).alias("parent"), "cosine_sim_score"
    )
    table = collect_arrow(hashed)
    node, parent, score = (table[name].to_numpy() for name in ("node", "parent", "cosine_sim_score"))
    root = roots(node, parent)
    values, tree, removed = np.unique(root, return_inverse=True, return_counts=True)
    order = np.lexsort((values, -removed))
    chosen = order[:GROUPS_SHOWN]
    listed = {int(group): _listed(np.flatnonzero(tree == group), score) for group in chosen}
    rows = _by_hash(duplicates, np.unique(node[np.concatenate(list(listed.values()))]))
    groups = []
    for group in chosen:
        links = [(rows[int(node[place])], int(parent[place])) for place in listed[int(group)]]
        members = tuple(member for member, _ in links)
        names = {above: member.max_id for member, above in links}
        kept = names.get(int(values[group]))
        if kept is None:  # the rows that link to it directly are not among the listed ones
            kept = _name_of(duplicates, int(values[group]))
        groups.append(Group(kept, int(removed[group]), members, MEMBERS_SHOWN - LEAST_SIMILAR_SHOWN))
    return Groups(tuple(groups), np.sort(removed)[::-1] + 1, chains_followed=True)


def roots(node: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """The root that each node's links lead to, by pointer doubling: int64 (n,) distinct nodes, and their parents.

    A parent that is no node is a root. Takes as many rounds as the binary logarithm of the longest chain.

    >>> roots(np.array([2, 3, 9]), np.array([1, 2, 8])).tolist()
    [1, 1, 8]
    """
    order = np.argsort(node, kind="stable")
    place = np.searchsorted(node, parent, sorter=order).clip(max=len(node) - 1)
    above = order[place]
    is_root = node[above] != parent
    heads, head = np.unique(parent[is_root], return_inverse=True)
    step = np.concatenate([above, len(node) + np.arange(len(heads))])
    step[np.flatnonzero(is_root)] = len(node) + head
    for _ in range(64):
        further = step[step]
        if np.array_equal(further, step):
            return heads[step[: len(node)] - len(node)]
        step = further
    raise AccountingError("duplicates link in a circle: each max_id must precede its row; run again with --overwrite")


def _listed(places: np.ndarray, score: np.ndarray) -> np.ndarray:
    """The members to list, the most similar first: all of a few, otherwise those at both ends."""
    ordered = places[np.lexsort((places, -score[places]))]
    if len(ordered) <= MEMBERS_SHOWN:
        return ordered
    return np.concatenate([ordered[: MEMBERS_SHOWN - LEAST_SIMILAR_SHOWN], ordered[-LEAST_SIMILAR_SHOWN:]])


def _by_hash(duplicates: DataFrame, hashes: np.ndarray) -> dict[int, Member]:
    node = id_hash(F.col("id"))
    rows = duplicates.where(node.isin([int(value) for value in hashes])).select(
        node.alias("node"), "id", "max_id", "cosine_sim_score"
    )
    return {row["node"]: Member(row["id"], row["max_id"], row["cosine_sim_score"]) for row in rows.collect()}


def _name_of(duplicates: DataFrame, root: int) -> Any:
    row = duplicates.where(id_hash(F.col("max_id")) == F.lit(root)).select("max_id").first()
    assert row is not None  # the hash came from this table
    return row["max_id"]


def _stars(duplicates: DataFrame) -> Groups:
    counted = duplicates.groupBy("max_id").agg(F.count(F.lit(1)).alias("removed"))
    top = counted.orderBy(F.col("removed").desc(), "max_id").limit(GROUPS_SHOWN).collect()
    # Spark limits each window as it sorts, so a row that millions link to takes no more than another.
    ranked = Window.partitionBy("max_id").orderBy(F.col("cosine_sim_score").desc(), "id")
    chosen = duplicates.where(F.col("max_id").isin([row["max_id"] for row in top]))
    few = chosen.withColumn("place", F.row_number().over(ranked)).where(F.col("place") <= MEMBERS_SHOWN)
    members: dict[Any, list[Member]] = {row["max_id"]: [] for row in top}
    for row in few.orderBy("max_id", "place").collect():
        members[row["max_id"]].append(Member(row["id"], row["max_id"], row["cosine_sim_score"]))
    sizes = counted.groupBy("removed").agg(F.count(F.lit(1)).alias("groups")).collect()
    by_size = np.repeat([row["removed"] + 1 for row in sizes], [row["groups"] for row in sizes])
    groups = tuple(Group(row["max_id"], row["removed"], tuple(members[row["max_id"]])) for row in top)
    return Groups(groups, np.sort(by_size)[::-1], chains_followed=False)
