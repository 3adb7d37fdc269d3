"""How much a search through clusters finds: recall against brute force, for every number of clusters visited."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_semdedup.errors import SemDedupError
from spark_semdedup.explore import checks, figures

if TYPE_CHECKING:
    from spark_semdedup.explore.retriever import ClusterRetriever


@dataclass(frozen=True, eq=False)
class RetrievalReport:
    """Recall and cost of a search for the ``top_k`` nearest rows, by the number of clusters visited."""

    recall: np.ndarray
    """Float64 (k,): share of the true ``top_k`` found when 1, 2, … k clusters are visited."""
    looked_at: np.ndarray
    """Float64 (k,): share of all rows compared with a query, on average."""
    queries: int
    top_k: int
    rows: int

    def at(self, n_clusters: int) -> tuple[float, float]:
        """Recall and the share of the rows looked at when ``n_clusters`` are visited."""
        place = checks.whole_number("n_clusters", n_clusters, 1, len(self.recall)) - 1
        return float(self.recall[place]), float(self.looked_at[place])

    def clusters_for(self, recall: float) -> int:
        """The fewest clusters to visit for at least this recall."""
        wanted = checks.number("recall", recall, 0, 1)
        reached = np.flatnonzero(self.recall >= wanted - 1e-12)
        if not len(reached):
            raise SemDedupError(f"recall={recall} is not reached: the largest is {self.recall.max():.4f}")
        return int(reached[0]) + 1

    def as_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "queries": self.queries,
            "top_k": self.top_k,
            "recall": self.recall.round(6).tolist(),
            "looked_at": self.looked_at.round(6).tolist(),
        }

    def as_text(self) -> str:
        """A table for a person."""
        k = len(self.recall)
        lines = [
            f"recall@{self.top_k} of {self.queries:,} queries on {self.rows:,} rows in {k:,} clusters",
            "  clusters visited  recall  rows looked at",
            *(f"  {i + 1:>16,}  {self.recall[i]:>6.1%}  {self.looked_at[i]:>14.1%}" for i in self._steps()),
        ]
        return "\n".join(lines)

    def _steps(self) -> list[int]:
        """A few numbers of clusters, closer together where they are small."""
        k = len(self.recall)
        steps = {0, k - 1} | {n - 1 for n in (2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987) if n < k}
        return sorted(steps)

    def plot(self, axes: Any = None, *, output_file: str | os.PathLike[str] | None = None) -> Any:
        """Recall against the share of the rows looked at; the figure."""
        return figures.save(figures.draw(self._paint, axes, size=(7.0, 4.6)), output_file)

    def _paint(self, axes: Any) -> None:
        axes.plot(100 * self.looked_at, 100 * self.recall, ".-", color=figures.LINE)
        for place in self._steps()[:6]:
            axes.annotate(
                f"{place + 1}",
                (100 * self.looked_at[place], 100 * self.recall[place]),
                xytext=(5, -11),
                textcoords="offset points",
                fontsize=8,
                color=figures.ACCENT,
            )
        title = f"Search through {len(self.recall):,} clusters of {self.rows:,} rows; numbers: clusters visited"
        figures.tidy(axes, title, "rows looked at, %", f"recall@{self.top_k}, %")


def measure(retriever: ClusterRetriever, queries: np.ndarray, own: np.ndarray | None, top_k: int) -> RetrievalReport:
    """Where the true ``top_k`` of each query lie: in the cluster visited first, second, …

    ``queries``: float32 unit vectors (m, d). ``own``: int64 (m, 2), cluster and place of the row that each query is,
    which is no answer to itself; None for other queries. One search through all clusters gives the truth.
    """
    order = retriever.cluster_order(queries)
    nearest = retriever.nearest_rows(queries, top_k + (own is not None), order.shape[1])
    counts = nearest.clusters >= 0
    if own is not None:
        counts &= (nearest.clusters != own[:, :1]) | (nearest.places != own[:, 1:])
        counts &= np.cumsum(counts, axis=1) <= top_k  # among equal rows the query itself may be missing
    rank = np.full((len(queries), retriever.n_clusters), -1)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), axis=1)
    ranks = np.take_along_axis(rank, np.maximum(nearest.clusters, 0), axis=1)[counts]
    recall = np.cumsum(np.bincount(ranks, minlength=order.shape[1])) / max(len(ranks), 1)
    looked_at = np.cumsum(retriever.sizes[order], axis=1).mean(axis=0) / len(retriever)
    return RetrievalReport(recall, looked_at, len(queries), top_k, len(retriever))
