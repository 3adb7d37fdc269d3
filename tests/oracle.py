"""Brute force by the contract's words alone: what the answer must be, written without looking at the package.

NumPy and plain Python only, and nothing of ``spark_semdedup``. Every function takes whole columns as sequences or
arrays and compares every pair; there is no screening, no batch and no BLAS. The order of the work follows the
contract: unit vectors, rank, scores inside each cluster, decision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Similarities(NamedTuple):
    """One entry per row, in the order of the rows given: position of the neighbour, and similarity to it."""

    neighbour: np.ndarray  # (n,) int64; the row's own position where it has no predecessor
    score: np.ndarray  # (n,) float32; 0 where the row has no predecessor


# --- arithmetic ---------------------------------------------------------------------------------------------


def tree_add(terms: np.ndarray) -> np.ndarray:
    """Sums over the first axis, (d, …) → (…): padded with zeros to a power of two, then half added to half."""
    width = 1
    while width < len(terms):
        width *= 2
    level = np.zeros((width, *terms.shape[1:]), dtype=np.float64)
    level[: len(terms)] = terms
    while width > 1:
        width //= 2
        level = level[:width] + level[width:]
    return level[0]


def dot(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> np.float64:
    """The dot product of two float32 vectors before its one rounding: products are exact in float64."""
    a, b = np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32)
    return np.float64(tree_add(a.astype(np.float64) * b.astype(np.float64)))


def similarity(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> np.float32:
    return np.float32(dot(a, b))


def unit_vector(vector: Sequence[float] | np.ndarray) -> np.ndarray:
    """One vector divided by its norm in float64, as float32; the largest component is first brought into [1/2, 1)."""
    x = np.asarray(vector).astype(np.float64)
    _, exponent = math.frexp(float(np.abs(x).max()))
    x = np.array([math.ldexp(float(value), -exponent) for value in x])
    return (x / math.sqrt(tree_add(x * x))).astype(np.float32)


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """``unit_vector`` of every row, (n, d) → (n, d) float32."""
    x = np.asarray(vectors).astype(np.float64)
    _, exponents = np.frexp(np.abs(x).max(axis=1, keepdims=True))
    x = np.ldexp(x, -exponents)
    norms = np.sqrt(tree_add((x * x).T))
    return (x / norms[:, None]).astype(np.float32)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are equal to the last bit; unlike ``==`` this tells −0 from 0."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# --- assignment ---------------------------------------------------------------------------------------------


class Assignment(NamedTuple):
    centroid: np.ndarray  # (n,) int32
    l2_dist_to_cent: np.ndarray  # (n,) float32
    cosine_dist_to_cent: np.ndarray  # (n,) float32


def assignment(units: np.ndarray, centroids: np.ndarray, *, spherical: bool = False) -> Assignment:
    """The nearest centre of every unit vector, of equally near ones the lowest, and both distances to it.

    Squared distances and dot products are added by the tree and compared in float64.
    """
    units, centroids = np.asarray(units, np.float32), np.asarray(centroids, np.float32)
    norms = np.sqrt(tree_add((centroids.astype(np.float64) ** 2).T))
    directions = np.where(norms[:, None] > 0, unit_vectors(np.where(norms[:, None] > 0, centroids, 1)), np.float32(0))
    labels, l2, cosine = [], [], []
    for x in units.astype(np.float64):
        squared = tree_add((x - centroids.astype(np.float64)).T ** 2)
        dots = tree_add((x * directions.astype(np.float64)).T)
        label = int(np.argmax(dots)) if spherical else int(np.argmin(squared))
        labels.append(label)
        l2.append(math.sqrt(squared[label]))
        cosine.append(max(0.0, 1.0 - dots[label]))
    return Assignment(np.array(labels, np.int32), np.array(l2, np.float32), np.array(cosine, np.float32))


def nearness(units: np.ndarray, centroids: np.ndarray, *, spherical: bool = False) -> np.ndarray:
    """What says which centre is nearer, (n, k) float64: squared distances, or negated dot products with the directions.

    Smaller is nearer; of equally near ones the lowest counts.
    """
    units, centroids = np.asarray(units, np.float32), np.asarray(centroids, np.float32)
    there = (centroids != 0).any(axis=1)[:, None]
    directions = np.where(there, unit_vectors(np.where(there, centroids, 1)), np.float32(0))
    if spherical:
        return np.array([-tree_add((x * directions.astype(np.float64)).T) for x in units.astype(np.float64)])
    return np.array([tree_add((x - centroids.astype(np.float64)).T ** 2) for x in units.astype(np.float64)])


# --- rank ---------------------------------------------------------------------------------------------------


def _sort_key(value: Any) -> Any:
    """A key whose order is the contract's: UTF-8 bytes of strings, NaN above all numbers, −0 equal to 0."""
    if isinstance(value, str):
        return value.encode("utf-8")
    if isinstance(value, (float, np.floating)):
        return (1, 0.0) if math.isnan(value) else (0, float(value))
    return value


def order_by(*columns: tuple[Sequence[Any], bool]) -> np.ndarray:
    """Positions of the rows, most preferred first, by (column, descending) pairs; the first column counts most.

    Nulls (None) come last in either direction.
    """
    rows = list(range(len(columns[0][0])))
    for column, descending in reversed(columns):  # stable sorts, the least important first
        filled = sorted((r for r in rows if column[r] is not None), key=_by(column), reverse=descending)
        rows = filled + [r for r in rows if column[r] is None]
    return np.array(rows, dtype=np.int64)


def _by(column: Sequence[Any]) -> Callable[[int], Any]:
    return lambda row: _sort_key(column[row])


def order_hard(ids: Sequence[Any], distances: Sequence[float]) -> np.ndarray:
    return order_by((distances, True), (ids, True))


def order_easy(ids: Sequence[Any], distances: Sequence[float]) -> np.ndarray:
    return order_by((distances, False), (ids, False))


def order_first(ids: Sequence[Any]) -> np.ndarray:
    return order_by((ids, False))


def order_random(ids: Sequence[Any], seed: int) -> np.ndarray:
    return order_by(([spark_hash(str(i), seed) for i in ids], False), (ids, False))


def order_rank_by(ids: Sequence[Any], *columns: tuple[Sequence[Any], bool]) -> np.ndarray:
    return order_by(*columns, (ids, False))


# --- score and decision -------------------------------------------------------------------------------------


class Cluster(NamedTuple):
    members: np.ndarray  # (m,) int64 positions of its rows
    similarity: np.ndarray  # (m, m) float32; only below the diagonal, where i > j


def clusters(units: np.ndarray, labels: Sequence[int] | np.ndarray) -> list[Cluster]:
    """Every similarity inside every cluster: ``units`` (n, d) float32, ``labels`` (n,)."""
    units, labels = np.asarray(units, dtype=np.float32), np.asarray(labels)
    by_label = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[by_label])) + 1
    found = []
    for members in np.split(by_label, starts):
        columns = units[members].astype(np.float64).T.copy()  # (d, m)
        matrix = np.full((len(members), len(members)), np.nan, dtype=np.float32)
        for i in range(1, len(members)):
            matrix[i, :i] = tree_add(columns[:, :i] * columns[:, i, None])
        found.append(Cluster(members, matrix))
    return found


def ranked(inside: Sequence[Cluster], order: np.ndarray) -> Similarities:
    """The largest similarity of every row to a row of its cluster that precedes it in ``order``, and that row.

    ``order`` (n,) holds the positions of all rows, most preferred first.
    """
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    neighbour, score = np.arange(len(order)), np.zeros(len(order), dtype=np.float32)
    for members, similarity in inside:
        by_rank = np.argsort(rank[members])
        both = np.where(np.tri(len(members), k=-1, dtype=bool), similarity, similarity.T)  # a·b and b·a are alike
        for i in range(1, len(members)):
            before = both[by_rank[i], by_rank[:i]]
            best = int(np.argmax(before))  # the earliest of equal ones
            neighbour[members[by_rank[i]]], score[members[by_rank[i]]] = members[by_rank[best]], before[best]
    return Similarities(neighbour, score)


def similarities(units: np.ndarray, labels: Sequence[int] | np.ndarray, order: np.ndarray) -> Similarities:
    return ranked(clusters(units, labels), order)


def visiting(units: np.ndarray, labels: np.ndarray, visited: np.ndarray, order: np.ndarray) -> Similarities:
    """The same where rows visit further clusters: home rows of a cluster are compared with one another and with its
    probing rows, probing rows not with one another, and a row's score is its maximum over all clusters.

    ``visited`` (n, k) bool: the clusters each row visits, its own among them or not.
    """
    (everything,) = clusters(units, np.zeros(len(units), int))
    met = visited[:, labels] | visited[:, labels].T | (labels[:, None] == labels)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    neighbour, score = np.arange(len(order)), np.zeros(len(order), dtype=np.float32)
    both = np.where(np.tri(len(order), k=-1, dtype=bool), everything.similarity, everything.similarity.T)
    for i in range(len(order)):
        before = [j for j in order[: rank[i]] if met[i, j]]
        if before:
            best = int(np.argmax(both[i, before]))  # the earliest of equal ones
            neighbour[i], score[i] = before[best], both[i, before[best]]
    return Similarities(neighbour, score)


def nearest_cells(
    units: np.ndarray, centroids: np.ndarray, labels: np.ndarray, others: int, *, spherical: bool = False
) -> np.ndarray:
    """The clusters that each row visits beside its own, (n, k) bool: the nearest, of equally near ones the lowest."""
    visited = np.zeros((len(units), len(centroids)), bool)
    for row, distance in enumerate(nearness(units, centroids, spherical=spherical)):
        order = [j for j in np.argsort(distance, kind="stable") if j != labels[row]]
        visited[row, order[:others]] = True
    return visited


def max_similarities(units: np.ndarray, limits: Sequence[int]) -> Similarities:
    """The same for rows already in rank order, row i compared with the rows before ``limits[i]``."""
    units = np.asarray(units, dtype=np.float32)
    neighbour, score = np.arange(len(units)), np.zeros(len(units), dtype=np.float32)
    columns = units.astype(np.float64).T.copy()
    for i, limit in enumerate(limits):
        if limit:
            scores = tree_add(columns[:, :limit] * columns[:, i, None]).astype(np.float32)
            neighbour[i] = np.argmax(scores)
            score[i] = scores[neighbour[i]]
    return Similarities(neighbour, score)


def duplicates(found: Similarities, eps: float) -> np.ndarray:
    """(n,) bool: rows with another row as neighbour and a score, widened to double, of at least 1.0 − eps."""
    others = found.neighbour != np.arange(len(found.neighbour))
    return others & (found.score.astype(np.float64) >= 1.0 - eps)


# --- from rows to the answer --------------------------------------------------------------------------------


def answer(
    ids: Sequence[Any],
    vectors: np.ndarray,
    centroids: np.ndarray,
    *,
    whichToKeep: str = "hard",
    distanceMetric: str = "cosine",
    seed: int = 42,
    rankBy: Sequence[tuple[Sequence[Any], bool]] | None = None,
    distanceMeasure: str = "euclidean",
    nProbe: int = 1,
) -> dict[Any, tuple[Any, np.float32]]:
    """For each id its ``max_id`` and ``cosine_sim_score``, given the centroids. Names as the package's Params;
    ``rankBy`` holds (column, descending). With as many probes as centroids every pair of rows is compared."""
    units = unit_vectors(vectors)
    assigned = assignment(units, centroids, spherical=distanceMeasure == "cosine")
    distance = assigned.l2_dist_to_cent if distanceMetric == "l2" else assigned.cosine_dist_to_cent
    if rankBy is not None:
        order = order_rank_by(ids, *rankBy)
    elif whichToKeep == "random":
        order = order_random(ids, seed)
    elif whichToKeep == "first":
        order = order_first(ids)
    else:
        order = order_hard(ids, distance) if whichToKeep == "hard" else order_easy(ids, distance)
    if nProbe == 1:
        found = similarities(units, assigned.centroid, order)
    else:
        spherical = distanceMeasure == "cosine"
        visited = nearest_cells(units, centroids, assigned.centroid, nProbe - 1, spherical=spherical)
        found = visiting(units, assigned.centroid, visited, order)
    return {id_: (ids[j], score) for id_, j, score in zip(ids, found.neighbour, found.score, strict=True)}


# --- Spark's xxhash64, from the specification of XXH64 ------------------------------------------------------

_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_MASK = 2**64 - 1


def _rotl(x: int, bits: int) -> int:
    return ((x << bits) | (x >> (64 - bits))) & _MASK


def _round(acc: int, lane: int) -> int:
    return _rotl((acc + lane * _P2) & _MASK, 31) * _P1 & _MASK


def xxh64(data: bytes, seed: int) -> int:
    """XXH64 of ``data``, as an unsigned number."""
    lanes = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data) - 7, 8)]
    seed &= _MASK
    striped = len(lanes) // 4 * 4
    if striped:
        acc = [(seed + _P1 + _P2) & _MASK, (seed + _P2) & _MASK, seed, (seed - _P1) & _MASK]
        for i in range(striped):
            acc[i % 4] = _round(acc[i % 4], lanes[i])
        h = sum(_rotl(a, bits) for a, bits in zip(acc, (1, 7, 12, 18), strict=True)) & _MASK
        for a in acc:
            h = ((h ^ _round(0, a)) * _P1 + _P4) & _MASK
    else:
        h = (seed + _P5) & _MASK
    h = (h + len(data)) & _MASK
    for lane in lanes[striped:]:
        h = (_rotl(h ^ _round(0, lane), 27) * _P1 + _P4) & _MASK
    rest = data[8 * len(lanes) :]
    if len(rest) >= 4:
        h = (_rotl(h ^ (int.from_bytes(rest[:4], "little") * _P1 & _MASK), 23) * _P2 + _P3) & _MASK
        rest = rest[4:]
    for byte in rest:
        h = _rotl(h ^ (byte * _P5 & _MASK), 11) * _P1 & _MASK
    h = (h ^ (h >> 33)) * _P2 & _MASK
    h = (h ^ (h >> 29)) * _P3 & _MASK
    return h ^ (h >> 32)


def spark_hash(text: str, seed: int) -> int:
    """``xxhash64(text, seed)`` of Spark SQL, signed: columns are hashed in turn, each with the last hash as its seed.

    The first one's seed is 42. A literal below 2³¹ is an INT there, of four bytes, and otherwise a BIGINT.
    """
    width = 4 if -(2**31) <= seed < 2**31 else 8
    h = xxh64(seed.to_bytes(width, "little", signed=True), xxh64(text.encode("utf-8"), 42))
    return h - 2**64 if h >= 2**63 else h
