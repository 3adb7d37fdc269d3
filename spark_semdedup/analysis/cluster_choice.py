"""The number of clusters where ``k`` is unset and rows visit further clusters: the one of least estimated cost.

With more clusters rows take longer to be assigned, and are compared with fewer rows. A sample tells where the sum is
least. It is counted at the speeds of a typical machine (``Hardware.typical``), so that the choice depends on the rows
and the Params alone, as the fit sample does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spark_semdedup.analysis.curve import ClusteredSample, Curve, Frame
from spark_semdedup.analysis.sizing import FitCost, Hardware, seconds
from spark_semdedup.clustering.settings import FIT_ROWS_PER_CENTROID
from spark_semdedup.formatting import duration
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.params import ClusteringParams, SemDedupStageParams

LEAST_ROWS = 100_000
"""Rows from which on a better k saves more time than it takes to choose it."""

_LEAST_GAIN = 0.9
"""Share of the default's cost below which another number is taken."""

_MOST_FIT_BYTES = 1 << 30
"""Memory of the rows that more clusters than by default are fitted on, on the driver."""


@dataclass(frozen=True)
class ClusterChoice:
    """The number of clusters, and the estimated seconds of all that were considered, by their number."""

    coverage: Coverage
    k: int
    seconds: Mapping[int, float]
    shuffle_bytes: float
    """What the comparison with ``k`` clusters is estimated to shuffle."""

    def in_words(self) -> str:
        """One line."""
        each = ", ".join(f"{k:,}: {duration(seconds)}" for k, seconds in sorted(self.seconds.items()))
        return f"k {self.k:,} for {self.coverage.label}, by estimates from a sample ({each}); set k to take another"


def may_choose_k(params: ClusteringParams, coverage: Coverage, rows: float) -> bool:
    """Whether the number of clusters is to be chosen: nothing says it, rows visit further clusters, and are many."""
    free = params.value("k") is None and isinstance(params.value("initMode"), str)
    return free and coverage.visits and rows >= LEAST_ROWS


def choose_k(
    params: SemDedupStageParams, sample: ClusteredSample, coverage: Coverage, default: int, *, gpu: bool
) -> ClusterChoice:
    """For the rows that ``sample`` stands for; ``params`` are those of the comparison."""
    rows = len(sample.unseen.units) * sample.unseen.scale
    frame = Frame.of(params, rows, sample.unseen.units.shape[1], Hardware.typical(gpu=gpu))
    return least_cost(sample.curve(coverage, frame, sample.visits(coverage)), default, FitCost.of(params), gpu=gpu)


def least_cost(curve: Curve, default: int, fit: FitCost, *, gpu: bool) -> ClusterChoice:
    """Of ``default``, its double and fourfold, its half and quarter, the number of least cost; ``default`` where no
    other is cheaper by as much as estimates are worth.

    With ``nProbe`` no more than by default: more clusters separate more pairs, and fewer duplicates are found.
    """
    hardware, frame = Hardware.typical(gpu=gpu), curve.frame
    most = min(frame.rows / 8, fit.most_clusters)
    most = min(most, max(default, _MOST_FIT_BYTES / (4 * frame.dim * FIT_ROWS_PER_CENTROID)))
    if not curve.coverage.is_exact:
        most = min(most, default)
    candidates = {int(max(1, min(default * 2.0**i, most))) for i in range(-2, 3)}
    costs = {k: seconds(curve.at(k), hardware, fit) for k in sorted(candidates)}
    best = min(costs, key=lambda k: (costs[k], k))
    worth_it = default not in costs or costs[best] < _LEAST_GAIN * costs[default]
    k = best if worth_it else default
    return ClusterChoice(curve.coverage, k, costs, curve.at(k).shuffle_bytes)
