"""``result.plot``: the report's charts for notebooks, from a result's tables."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from spark_semdedup.analysis import plots
from spark_semdedup.analysis.projection import ClusterMap
from spark_semdedup.analysis.scores import ScoreHistogram
from spark_semdedup.analysis.sizes import ClusterSizes
from spark_semdedup.errors import SemDedupError
from spark_semdedup.report.data import RunResults, cluster_map_of, counted_sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class ResultPlots:
    """Charts of one result. Each method draws into ``ax``, matplotlib axes, or into new ones, and returns them.

    What a chart needs is read when it is first drawn, and kept. ``results.facts`` need only say ``eps``, ``threshold``
    and from where on scores are complete.
    """

    def __init__(self, results: RunResults) -> None:
        self._results = results

    def scores(self, ax: Axes | None = None) -> Axes:
        """A histogram of similarities to the most similar preferred row, with the threshold."""
        facts = self._results.facts
        complete = facts.get("complete_from")
        return plots.scores(_axes(ax), self._histogram, float(facts["threshold"]), complete_from=complete)

    def removal(self, ax: Axes | None = None) -> Axes:
        """Rows removed, in percent, against ``eps``."""
        facts = self._results.facts
        complete = facts.get("complete_eps")
        return plots.removal(_axes(ax), self._histogram, float(facts["eps"]), self._removed, complete_eps=complete)

    def clusters(self, ax: Axes | None = None) -> Axes:
        """Rows of the clusters, the largest first."""
        return plots.clusters(_axes(ax), self._sizes)

    def map(self, ax: Axes | None = None, *, most: int = 60) -> Axes:
        """A sample of the rows in two principal components, and the ``most`` largest clusters."""
        return plots.cluster_map(_axes(ax), self._picture, most=most)

    def convergence(self, ax: Axes | None = None) -> Axes:
        """The fit's objective after each iteration."""
        return plots.convergence(_axes(ax), self._results.history, spherical=self._results.spherical)

    @cached_property
    def _histogram(self) -> ScoreHistogram:
        return ScoreHistogram.of(self._results.similarities)

    @cached_property
    def _removed(self) -> int:
        return self._results.duplicates.count()

    @cached_property
    def _picture(self) -> ClusterMap:
        _, _, picture = cluster_map_of(self._results, (), self._histogram.rows)
        if picture is None:
            raise SemDedupError("a map needs rows with vectors of the centroids' length: none was read")
        return picture

    @cached_property
    def _sizes(self) -> ClusterSizes:
        clusters = self._results.clusters
        return self._picture.sizes if clusters is None else counted_sizes(clusters, len(self._results.centroids))


def _axes(ax: Axes | None) -> Axes:
    """The axes, or new ones in a figure of their own."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise SemDedupError("plots need matplotlib: pip install 'spark-semdedup[report]'") from error
    return pyplot.subplots(figsize=(8, 4.2), layout="constrained")[1]
