"""Agglomerative clustering: a dendrogram of the sample, cut by distance or by number of clusters."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_semdedup.errors import SemDedupError
from spark_semdedup.explore import checks, figures
from spark_semdedup.explore.clusters import Clusters
from spark_semdedup.explore.draw import draw_sample
from spark_semdedup.explore.labels import by_size
from spark_semdedup.explore.memory import refuse_too_large
from spark_semdedup.explore.optional import require
from spark_semdedup.explore.sample import SEED

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from spark_semdedup.explore.draw import Sampling

LINKAGES = ("average", "complete", "single", "ward")
METRICS = ("cosine", "euclidean")

BYTES_PER_PAIR = 20
"""SciPy's condensed distances, float64, and its working copy."""


@dataclass(frozen=True, eq=False)
class Dendrogram(Clusters):
    """The tree of merges, and the clusters of one cut through it."""

    merges: np.ndarray | None = None
    """Float64 (n − 1, 4), as SciPy has them: the two nodes merged, their distance, and the rows below."""

    def cut(self, *, n_clusters: int | None = None, distance_threshold: float | None = None) -> Dendrogram:
        """Another cut through the same tree; nothing is computed again."""
        assert self.merges is not None
        n_clusters, distance_threshold = _checked_cut(n_clusters, distance_threshold)
        settings = self.parameters | {"n_clusters": n_clusters, "distance_threshold": distance_threshold}
        labels = _cut(self.merges, n_clusters, distance_threshold)
        return Dendrogram(labels, self.sample, self.method, settings, merges=self.merges)

    @property
    def height(self) -> float:
        """A distance at which the tree falls into these clusters: halfway between the merges below and above."""
        assert self.merges is not None
        distances = self.merges[:, 2]
        applied = len(self.labels) - self.n_clusters
        below = distances[applied - 1] if applied else 0.0
        above = distances[applied] if applied < len(distances) else below
        return float((below + above) / 2)

    def plot(self, axes: Any = None, *, output_file: str | os.PathLike[str] | None = None, max_leaves: int = 40) -> Any:
        """The last merges of the tree, at most ``max_leaves`` branches, and the cut; the figure."""
        size = (10.0, 5.0)
        return figures.save(figures.draw(lambda a: self._paint_tree(a, max_leaves), axes, size=size), output_file)

    def _branch_colours(self) -> dict[int, str]:
        """The colour of each merge: its cluster's below the cut, grey above it."""
        assert self.merges is not None
        n = len(self.labels)
        palette = figures.distinct_colours(self.n_clusters)
        cluster = [*self.labels.tolist()]
        colours: dict[int, str] = {}
        for number, (left, _) in enumerate(self.merges[:, :2].astype(np.int64).tolist()):
            cluster.append(cluster[left])
            below = number < n - self.n_clusters
            colours[n + number] = palette[cluster[-1]] if below else figures.NOISE
        return colours

    def _paint_tree(self, axes: Any, max_leaves: int) -> None:
        hierarchy = require("scipy.cluster.hierarchy", "a dendrogram")
        hierarchy.dendrogram(
            self.merges,
            ax=axes,
            truncate_mode="lastp",
            p=max_leaves,
            link_color_func=self._branch_colours().__getitem__,
            leaf_rotation=90,
            leaf_font_size=8,
        )
        axes.axhline(self.height, color=figures.ACCENT, linestyle="--", linewidth=1)
        axes.annotate(
            f"cut: {self.n_clusters:,} clusters",
            (axes.get_xlim()[1], self.height),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            color=figures.ACCENT,
        )
        settings = self.parameters
        title = f"{settings['linkage']} linkage, {self.sample.describe()}"
        figures.tidy(
            axes, title, "branches: rows in brackets, or the number of one row", f"{settings['metric']} distance"
        )


def agglomerative(
    data: Any,
    *,
    n_clusters: int | None = None,
    distance_threshold: float | None = None,
    linkage: str = "average",
    metric: str = "cosine",
    seed: int = SEED,
    **sampling: Unpack[Sampling],
) -> Dendrogram:
    """Merges the nearest clusters again and again; SciPy's linkage on the sample.

    Exactly one of ``n_clusters`` and ``distance_threshold`` says where the tree is cut (clusters farther apart than the
    threshold stay apart); ``Dendrogram.cut`` cuts it elsewhere. ``linkage``: ``average``, ``complete``, ``single``, or
    ``ward``, which takes ``metric="euclidean"``. Memory grows with the square of the sampled rows: a sample that would
    not fit is refused.
    """
    checks.one_of("linkage", linkage, LINKAGES)
    checks.one_of("metric", metric, METRICS)
    if linkage == "ward" and metric != "euclidean":
        raise SemDedupError("linkage='ward' merges by variance: set metric to euclidean, or another linkage")
    n_clusters, distance_threshold = _checked_cut(n_clusters, distance_threshold)
    sample = draw_sample(data, seed=seed, **sampling)
    sample.require_rows(2, "agglomerative")
    if n_clusters is not None and n_clusters > len(sample):
        raise SemDedupError(f"n_clusters={n_clusters} is larger than the sample's {len(sample):,} rows: lower it")
    refuse_too_large(len(sample), sample.dim, bytes_per_pair=BYTES_PER_PAIR, purpose="agglomerative")
    hierarchy = require("scipy.cluster.hierarchy", "agglomerative")
    vectors = sample.units if metric == "cosine" else sample.vectors
    merges = hierarchy.linkage(vectors.astype(np.float64), method=linkage, metric=metric)
    # Equal vectors have a cosine distance of 1e-16 or so below zero, which would tell the tree's height wrongly.
    merges[:, 2] = np.maximum(merges[:, 2], 0)
    settings = {
        "linkage": linkage,
        "metric": metric,
        "n_clusters": n_clusters,
        "distance_threshold": distance_threshold,
    }
    return Dendrogram(_cut(merges, n_clusters, distance_threshold), sample, "agglomerative", settings, merges=merges)


def _checked_cut(n_clusters: int | None, distance_threshold: float | None) -> tuple[int | None, float | None]:
    if (n_clusters is None) == (distance_threshold is None):
        state = "both unset" if n_clusters is None else "both set"
        raise SemDedupError(f"n_clusters and distance_threshold are {state}: set one of them, which cuts the tree")
    if n_clusters is not None:
        return checks.whole_number("n_clusters", n_clusters, 1), None
    return None, checks.number("distance_threshold", distance_threshold, 0, float("inf"))


def _cut(merges: np.ndarray, n_clusters: int | None, distance_threshold: float | None) -> np.ndarray:
    """Labels of the rows, the largest cluster first: int64 (n,)."""
    n = len(merges) + 1
    if n_clusters is not None:
        applied = n - min(n_clusters, n)
    else:
        assert distance_threshold is not None
        applied = int(np.searchsorted(merges[:, 2], distance_threshold, side="right"))
    return by_size(_components(merges[:applied], n))


def _components(merges: np.ndarray, n: int) -> np.ndarray:
    """The rows that ``merges`` join: a label for each of ``n`` rows. Unlike SciPy's ``maxclust``, which never makes
    more clusters than asked for but fewer where distances tie, as many merges as given are applied."""
    parent = np.arange(n + len(merges))
    for number, (left, right) in enumerate(merges[:, :2].astype(np.int64)):
        parent[left] = parent[right] = n + number
    for node in range(len(parent) - 1, -1, -1):  # a node's parent has a higher number
        parent[node] = parent[parent[node]]
    return np.unique(parent[:n], return_inverse=True)[1].astype(np.int64)
