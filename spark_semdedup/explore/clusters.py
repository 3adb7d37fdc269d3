"""``Clusters``: a label for each row, whatever method gave it, and the questions that labels raise."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.explore import figures
from spark_semdedup.explore.labels import cluster_means
from spark_semdedup.explore.map2d import Map2D, map_2d
from spark_semdedup.explore.members import Members, outliers, representatives
from spark_semdedup.explore.sample import Sample
from spark_semdedup.explore.topics import TopicLabels, topic_labels

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True, eq=False)
class Clusters:
    """The rows of a sample and the cluster of each."""

    labels: np.ndarray
    """Int64 (n,): 0 … ``n_clusters`` − 1, and −1 for noise."""
    sample: Sample = field(repr=False)
    method: str
    parameters: dict[str, Any]
    probabilities: np.ndarray | None = None
    """Float64 (n,): how firmly a row belongs to its cluster, 0 for noise; None where the method does not say."""

    @cached_property
    def numbers(self) -> np.ndarray:
        """The clusters' numbers in ascending order, without noise: int64 (n_clusters,)."""
        return np.unique(self.labels[self.labels >= 0])

    @property
    def n_clusters(self) -> int:
        return len(self.numbers)

    @property
    def n_noise(self) -> int:
        """Number of rows in no cluster."""
        return int((self.labels < 0).sum())

    @cached_property
    def sizes(self) -> dict[int, int]:
        """Rows of each cluster, the largest first; noise is not among them."""
        numbers, counts = np.unique(self.labels[self.labels >= 0], return_counts=True)
        order = np.lexsort((numbers, -counts))
        return dict(zip(numbers[order].tolist(), counts[order].tolist(), strict=True))

    @cached_property
    def centroids(self) -> np.ndarray:
        """The mean of each cluster's unit vectors: float32 (n_clusters, d), in the order of ``numbers``."""
        return cluster_means(self.sample.units, self.labels, self.numbers)

    def members(self, cluster: int) -> np.ndarray:
        """Positions of a cluster's rows in the sample; −1 gives the noise."""
        positions = np.flatnonzero(self.labels == cluster)
        if not len(positions):
            raise SemDedupError(f"cluster={shown(cluster)} has no rows: the clusters are {self._listed()}")
        return positions

    def _listed(self) -> str:
        names = [*map(str, self.numbers[:10].tolist())]
        return ", ".join(names) + (f" … {self.numbers[-1]}" if self.n_clusters > 10 else "") or "none"

    # --- what comes next --------------------------------------------------------------------------------

    def topics(self, **options: Any) -> TopicLabels:
        """What each cluster is about; see ``topic_labels``."""
        return topic_labels(self.sample, self.labels, **options)

    def map_2d(self, **options: Any) -> Map2D:
        """A picture of the clusters; see ``map_2d``."""
        return map_2d(self.sample, self.labels, **options)

    def representatives(self, per_cluster: int = 5) -> Members:
        """The rows nearest to each cluster's centre."""
        return representatives(self.sample, self.labels, per_cluster=per_cluster)

    def outliers(self, per_cluster: int = 5) -> Members:
        """The rows farthest from their cluster's centre."""
        return outliers(self.sample, self.labels, per_cluster=per_cluster)

    def dataframe(self, spark: SparkSession) -> DataFrame:
        """The sample's rows as ``PairwiseSimilarity`` takes them: ``id``, ``embedding`` (the float32 unit vector),
        ``centroid`` (−1 for noise, which is kept and compared with nothing), ``l2_dist_to_cent`` and
        ``cosine_dist_to_cent`` (to the mean of the cluster's unit vectors; for noise 0). Set ``normalize`` of the
        stage to false: vectors that are normalised twice may differ in the last bit."""
        from spark_semdedup.explore.spark_sample import clustered_dataframe

        return clustered_dataframe(spark, self)

    # --- what it says -----------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """All but the rows, in JSON's types."""
        return {
            "method": self.method,
            "parameters": self.parameters,
            "rows": self.sample.rows,
            "sample_rows": len(self.sample),
            "seed": self.sample.seed,
            "n_clusters": self.n_clusters,
            "n_noise": self.n_noise,
            "sizes": {str(number): size for number, size in self.sizes.items()},
        }

    def as_text(self) -> str:
        """Several lines for a person."""
        settings = ", ".join(f"{name}={value}" for name, value in self.parameters.items() if value is not None)
        lines = [f"{self.method}({settings}) on {self.sample.describe()}"]
        sizes = list(self.sizes.values())
        if sizes:
            middle = int(np.median(sizes))
            lines.append(
                f"  {self.n_clusters:,} clusters of {sizes[-1]:,} to {sizes[0]:,} rows, half of at least {middle:,}"
            )
        else:
            lines.append("  no cluster: every row is noise")
        share = self.n_noise / len(self.sample)
        lines.append(f"  {self.n_noise:,} rows ({share:.1%}) in no cluster")
        return "\n".join(lines)

    def plot(self, axes: Any = None, *, output_file: str | os.PathLike[str] | None = None) -> Any:
        """Rows of each cluster, the largest first, and of noise; the figure."""
        return figures.save(figures.draw(self._paint, axes), output_file)

    def _paint(self, axes: Any) -> None:
        sizes = np.array(list(self.sizes.values()))
        axes.bar(np.arange(1, len(sizes) + 1), sizes, width=1.0 if len(sizes) > 60 else 0.8, color=figures.LINE)
        if self.n_noise:
            axes.axhline(self.n_noise, color=figures.NOISE, linestyle="--", label=f"noise: {self.n_noise:,} rows")
            axes.legend(frameon=False)
        if len(sizes) and max(sizes.max(), self.n_noise) > 20 * max(np.median(sizes), 1):
            axes.set_yscale("log")
        title = f"{self.method}: {self.n_clusters:,} clusters of {self.sample.describe()}"
        figures.tidy(axes, title, "cluster, by size", "rows")
