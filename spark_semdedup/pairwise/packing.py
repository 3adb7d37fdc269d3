"""Cluster sizes → tasks of bounded size and balanced cost.

The cost of a cluster grows with the square of its rows, and sizes are uneven (the largest about 3 × the mean on real
data, far more with boilerplate). So a cluster of more than ``max_rows`` rows is split into *tiles*, rows of equal
share, and each pair of its tiles is one *task*; a cluster that is not split is one task. Tasks are packed into
partitions by their cost, the largest first into the emptiest partition (LPT, within 4/3 of the optimum: Graham,
SIAM J. Appl. Math. 17, 1969).

Spark puts a key where its hash says. Hashing n keys into n partitions would leave a third of them empty and pile up
others, so each task is given a key *chosen* to hash to its partition.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


class Packed:
    """Tasks that have been packed into partitions."""

    keys: np.ndarray
    """Int64 (tasks,): value of the grouping key."""
    partitions: int
    """The number to repartition to."""

    @property
    def one_each(self) -> bool:
        """Whether every task has a partition of its own."""
        return len(self.keys) <= self.partitions


@dataclass(frozen=True)
class Plan(Packed):
    """Which tasks the rows of each cluster visit, and each task's key. Small: O(tasks), made on the driver.

    ``tiles`` (int32, k): number of tiles of each cluster. ``first_task`` (int64, k): number of the cluster's first
    task; its tasks follow one another, the pair of tiles a ≤ b in the place ``pair_place`` gives. ``keys`` (int64,
    tasks): value of the grouping key. ``partitions``: the number to repartition to.
    """

    tiles: np.ndarray
    first_task: np.ndarray
    keys: np.ndarray
    partitions: int

    @property
    def is_tiled(self) -> bool:
        return bool((self.tiles > 1).any())

    def keys_by_tile(self) -> Iterator[list[list[int]]]:
        """For each cluster, for each of its tiles, the keys of the tasks that the tile takes part in."""
        for tiles, first in zip(self.tiles.tolist(), self.first_task.tolist(), strict=True):
            every = np.arange(tiles)
            for_tile = [self.keys[first + pair_place(np.full(tiles, a), every, tiles)].tolist() for a in range(tiles)]
            yield for_tile


def plan_tasks(sizes: np.ndarray, *, max_rows: int, partitions: int) -> Plan:
    """The plan for clusters of (estimated) ``sizes`` rows, float or int (k,)."""
    tiles = tiles_of(sizes, max_rows)
    tasks_of = tiles.astype(np.int64) * (tiles + 1) // 2
    first_task = np.cumsum(tasks_of) - tasks_of
    costs = np.concatenate([_tile_costs(size, int(t)) for size, t in zip(sizes, tiles, strict=True)] or [np.empty(0)])
    partition = pack(costs, partitions)
    return Plan(tiles, first_task, keys_for(partition, partitions), partitions)


def plan_clusters(sizes: np.ndarray, dim: int, *, max_rows: int, slots: int) -> Plan:
    """The same for rows of ``dim`` numbers and ``slots`` tasks at once, in as many partitions as are good for them."""
    tiles = tiles_of(sizes, max_rows).astype(np.int64)
    tasks = int((tiles * (tiles + 1) // 2).sum())
    sent = (sizes * tiles).sum()  # a row of a tiled cluster goes to several tasks
    return plan_tasks(sizes, max_rows=max_rows, partitions=partitions_for(tasks, 4.0 * dim * sent, slots))


def tiles_of(sizes: np.ndarray, max_rows: int) -> np.ndarray:
    """Number of tiles of each cluster: int32 (k,)."""
    return np.maximum(1, np.ceil(np.asarray(sizes, float) / max_rows)).astype(np.int32)


def _tile_costs(size: float, tiles: int) -> np.ndarray:
    """Pairs to compare in each task of a cluster, plus a term for moving its rows, in place order."""
    rows = size / tiles
    a, b = pair_tiles(tiles)
    # Moving a row costs about as much as comparing it with 200 others (measured; only the ratio matters).
    return np.where(a == b, rows * rows / 2 + 200 * rows, rows * rows + 400 * rows)


def pair_tiles(tiles: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs a ≤ b of ``tiles`` tiles in place order."""
    return np.triu_indices(tiles)


def pair_place(a: np.ndarray, b: np.ndarray, tiles: int) -> np.ndarray:
    """Place of the pair of tiles (a, b), in either order, among those of ``pair_tiles(tiles)``."""
    low, high = np.minimum(a, b).astype(np.int64), np.maximum(a, b).astype(np.int64)
    return low * tiles - low * (low - 1) // 2 + (high - low)


def pack(costs: np.ndarray, partitions: int) -> np.ndarray:
    """Partition of each task, so that the sums of costs are even: int64 (tasks,)."""
    partition = np.empty(len(costs), np.int64)
    loads = [(0.0, p) for p in range(partitions)]
    for task in np.argsort(-costs, kind="stable"):
        load, emptiest = loads[0]
        partition[task] = emptiest
        heapq.heapreplace(loads, (load + float(costs[task]), emptiest))
    return partition


def keys_for(partition: np.ndarray, partitions: int) -> np.ndarray:
    """Distinct int64 keys, one per task, that Spark's ``repartition(partitions, key)`` sends where wanted."""
    wanted = np.bincount(partition, minlength=partitions)
    keys = np.empty(len(partition), np.int64)
    order = np.argsort(partition, kind="stable")
    supply: list[np.ndarray] = [np.empty(0, np.int64) for _ in range(partitions)]
    lacking, start = True, 0
    step = max(1024, 2 * len(partition) + 16 * partitions)
    while lacking:
        candidates = np.arange(start, start + step, dtype=np.int64)
        lands = partition_of(candidates, partitions)
        by_partition = np.argsort(lands, kind="stable")
        parts = np.split(candidates[by_partition], np.cumsum(np.bincount(lands, minlength=partitions))[:-1])
        supply = [np.concatenate(pair) for pair in zip(supply, parts, strict=True)]
        lacking = any(len(have) < need for have, need in zip(supply, wanted, strict=True))
        start += step
    keys[order] = np.concatenate([have[:need] for have, need in zip(supply, wanted, strict=True)])
    return keys


def partition_of(keys: np.ndarray, partitions: int) -> np.ndarray:
    """Partition to which Spark's HashPartitioning sends int64 keys: ``pmod(murmur3(key, seed 42), partitions)``."""
    return murmur3_int64(keys).astype(np.int64) % partitions


def murmur3_int64(keys: np.ndarray) -> np.ndarray:
    """Spark SQL's ``hash`` of a bigint (MurmurHash3_x86_32 of its 8 bytes, seed 42): int64 keys → int32."""
    with np.errstate(over="ignore"):
        bits = keys.astype(np.int64).view(np.uint64)
        h = np.full(len(keys), 42, np.uint32)
        for word in ((bits & np.uint64(0xFFFFFFFF)).astype(np.uint32), (bits >> np.uint64(32)).astype(np.uint32)):
            k = _rotate(word * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)
            h = _rotate(h ^ k, 13) * np.uint32(5) + np.uint32(0xE6546B64)
        h ^= np.uint32(8)
        h ^= h >> np.uint32(16)
        h *= np.uint32(0x85EBCA6B)
        h ^= h >> np.uint32(13)
        h *= np.uint32(0xC2B2AE35)
        h ^= h >> np.uint32(16)
    return h.view(np.int32)


def _rotate(x: np.ndarray, bits: int) -> np.ndarray:
    return (x << np.uint32(bits)) | (x >> np.uint32(32 - bits))


def default_max_rows(dim: int) -> int:
    """Rows of one task by default: at most 32,768 (two such tiles keep a CPU core busy for some ten seconds, so that
    no task outlasts the others by much), and no more than 256 MiB of float32."""
    return max(2, min(32_768, 2**28 // (4 * dim)))


def worker_bytes(rows: int, dim: int, cells: float = 1.0, *, links: bool = False) -> int:
    """Bytes that comparing a group of ``rows`` takes in a Python worker, at most, beside what an idle one has.

    ``cells``: clusters that a row belongs to or visits; ``links``: whether similar predecessors are listed.

    Unit vectors, shipped as binary, stand there four times: as the Arrow batch, as pandas' values, joined to a matrix,
    and, of two tiles, apart. (Lists of numbers, as ``PairwiseSimilarity`` takes them: up to twice as much.) Ids, rank
    keys and the answer come to less than 500 bytes a row, unless ids are long; lists of links to some 3,000.
    """
    return int(rows * _row_bytes(dim, cells, links=links)) + 2**26


def _row_bytes(dim: int, cells: float, *, links: bool) -> float:
    return 4 * 4 * dim + 500 + _VISIT_BYTES * (cells - 1) + (_LINKS_BYTES if links else 0)


_VISIT_BYTES = 34
"""Of a visit in a task: in the Arrow list, as numbers, and while they are sorted by cell."""

_LINKS_BYTES = 3_000


def rows_of_a_tile(most: int, dim: int, cells: float) -> int:
    """``most`` rows, or as many as take half as much memory again where each of them visits many ``cells``."""
    share = 1.5 * _row_bytes(dim, 1.0, links=False) / _row_bytes(dim, cells, links=False)
    return max(2, int(most * min(1.0, share)))


def device_bytes(rows: int, dim: int) -> int:
    """Bytes of GPU memory that the arrays take which compare a group of ``rows``, at most.

    Vectors in float32, of two tiles copied apart, those of rows with too many candidates once more, all in float16, and
    the kernel's workspaces, the largest for float64 products (``kernels.cuda``).
    """
    return rows * (3 * 4 * dim + 2 * dim + 60) + 2**26 + 8 * dim * 5120


def default_partitions(total_bytes: float, slots: int) -> int:
    """Partitions for the comparison of vectors of ``total_bytes``: a few per slot, so that slots end together; none
    much over 256 MiB, and none for less than 1 MiB, which takes longer to schedule than to compare."""
    return max(math.ceil(total_bytes / 2**28), min(4 * slots, math.ceil(total_bytes / 2**20)), 1)


def partitions_for(tasks: int, total_bytes: float, slots: int) -> int:
    """The same for so many ``tasks``: one for each, where that makes no more than four times as many. Rows of a task
    that is alone need no sorting, which takes half as long as the shuffle itself (RESULTS.md), and tasks that start one
    by one, the costliest first, end together even where their costs were misjudged."""
    partitions = default_partitions(total_bytes, slots)
    return tasks if partitions < tasks <= 4 * partitions else partitions
