"""The rows nearest to a cluster's centre, and those farthest from it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_semdedup.explore import checks, figures
from spark_semdedup.explore.draw import draw_sample
from spark_semdedup.explore.labels import checked_labels, cluster_means
from spark_semdedup.explore.sample import SEED, Sample
from spark_semdedup.formatting import one_line

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from spark_semdedup.explore.draw import Sampling

SHOWN_CLUSTERS = 30
"""Clusters that a plot has room for."""


@dataclass(frozen=True)
class Member:
    """A row of a cluster."""

    id: Any
    cluster: int
    similarity: float
    """Cosine to the mean of the cluster's unit vectors; the larger, the more typical."""
    text: str | None
    position: int
    """In the sample."""


@dataclass(frozen=True, eq=False)
class Members:
    """A few rows of each cluster, in the order of ``kind``: the most typical, or the least typical, first."""

    kind: str
    """``representatives`` or ``outliers``."""
    by_cluster: dict[int, list[Member]]
    similarities: np.ndarray = field(repr=False)
    """Float64 (n,): of every row to its cluster's centre; NaN for noise."""
    labels: np.ndarray = field(repr=False)
    sample: Sample = field(repr=False)

    @property
    def rows(self) -> list[Member]:
        """All of them, cluster by cluster."""
        return [member for members in self.by_cluster.values() for member in members]

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "clusters": {str(c): [asdict(member) for member in members] for c, members in self.by_cluster.items()},
        }

    def as_text(self, *, clusters: int = 10, width: int = 100) -> str:
        """The rows of the largest clusters for a person."""
        lines = [f"{self.kind} on {self.sample.describe()}"]
        for cluster, members in list(self.by_cluster.items())[:clusters]:
            lines.append(f"  cluster {cluster}, {int((self.labels == cluster).sum()):,} rows")
            for m in members:
                text = "" if m.text is None else "  " + one_line(m.text, width)
                lines.append(f"    {m.similarity:.3f}  {one_line(m.id)}{text}")
        return "\n".join(lines)

    def plot(self, axes: Any = None, *, output_file: str | os.PathLike[str] | None = None) -> Any:
        """How similar the rows of each cluster are to its centre, the chosen ones marked; the figure."""
        return figures.save(figures.draw(self._paint, axes, size=(9.0, 5.0)), output_file)

    def _paint(self, axes: Any) -> None:
        shown = list(self.by_cluster)[:SHOWN_CLUSTERS]
        values = [self.similarities[self.labels == cluster] for cluster in shown]
        median = {"color": figures.LINE}
        boxes = axes.boxplot(values, whis=(5, 95), showfliers=False, patch_artist=True, widths=0.6, medianprops=median)
        for box in boxes["boxes"]:
            box.set(facecolor="#d6e4f0", edgecolor=figures.LINE)
        for place, cluster in enumerate(shown, 1):
            marks = [m.similarity for m in self.by_cluster[cluster]]
            axes.plot([place] * len(marks), marks, "o", color=figures.ACCENT, markersize=4, alpha=0.8)
        axes.set_xticks(range(1, len(shown) + 1), [str(cluster) for cluster in shown], fontsize=8)
        more = f" (the largest {len(shown)} of {len(self.by_cluster)})" if len(shown) < len(self.by_cluster) else ""
        figures.tidy(axes, f"Similarity to the centre; {self.kind} marked{more}", "cluster", "cosine similarity")


def representatives(
    data: Any, labels: Any = None, *, per_cluster: int = 5, seed: int = SEED, **sampling: Unpack[Sampling]
) -> Members:
    """The ``per_cluster`` rows of each cluster that are nearest to the mean of its unit vectors.

    ``labels``: the cluster of each row, or ``Clusters``; None for the folder of a run, whose own clusters are taken.
    ``data`` and ``sampling`` as in ``draw_sample``. Clusters come by size; noise is left out.
    """
    return _members("representatives", data, labels, per_cluster, seed, sampling)


def outliers(
    data: Any, labels: Any = None, *, per_cluster: int = 5, seed: int = SEED, **sampling: Unpack[Sampling]
) -> Members:
    """The ``per_cluster`` rows of each cluster that are farthest from its mean; see ``representatives``."""
    return _members("outliers", data, labels, per_cluster, seed, sampling)


def _members(kind: str, data: Any, labels: Any, per_cluster: int, seed: int, sampling: Any) -> Members:
    checks.whole_number("per_cluster", per_cluster, 1)
    sample = draw_sample(data, seed=seed, **sampling)
    labels = checked_labels(labels, sample)
    similarities = similarity_to_centre(sample.units, labels)
    numbers, counts = np.unique(labels[labels >= 0], return_counts=True)
    chosen: dict[int, list[Member]] = {}
    for cluster in numbers[np.lexsort((numbers, -counts))].tolist():
        positions = np.flatnonzero(labels == cluster)
        values = similarities[positions]
        order = np.lexsort((positions, values if kind == "outliers" else -values))[:per_cluster]
        chosen[cluster] = [_member(sample, int(p), cluster, float(similarities[p])) for p in positions[order]]
    return Members(kind, chosen, similarities, labels, sample)


def _member(sample: Sample, position: int, cluster: int, similarity: float) -> Member:
    text = None if sample.texts is None else sample.texts[position]
    return Member(sample.ids[position], cluster, similarity, text, position)


def similarity_to_centre(units: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cosine of each row with the mean of its cluster's rows: float64 (n,), NaN for noise."""
    numbers = np.unique(labels[labels >= 0])
    means = cluster_means(units, labels, numbers).astype(np.float64)
    norms = np.linalg.norm(means, axis=1)
    means /= np.where(norms == 0, 1, norms)[:, None]
    similarities = np.full(len(labels), np.nan)
    for place, number in enumerate(numbers):
        rows = labels == number
        similarities[rows] = units[rows] @ means[place]
    return similarities
