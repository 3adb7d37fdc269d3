"""Charts: axes in, the same axes out, with a title, units and what the numbers say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from spark_semdedup.analysis import plots
from spark_semdedup.analysis.projection import ClusterMap
from spark_semdedup.analysis.scores import ScoreHistogram
from spark_semdedup.analysis.sizes import ClusterSizes


@pytest.fixture
def ax() -> Any:
    from matplotlib.figure import Figure

    return Figure().subplots()


HISTOGRAM = ScoreHistogram(np.bincount([1500, 1700, 1949, 1950, 1999, 2000], minlength=2001) * 10, alone=40)
SIZES = ClusterSizes(np.array([5.0, 100.0, 20.0, 0.0]))


def picture() -> ClusterMap:
    rng = np.random.default_rng(0)
    units = rng.standard_normal((50, 4)).astype(np.float32)
    return ClusterMap.of(units, np.arange(50) < 10, units[:5], 500, spherical=True)


CHARTS: dict[str, Callable[[Any], Any]] = {
    "scores": lambda ax: plots.scores(ax, HISTOGRAM, 0.95),
    "removal": lambda ax: plots.removal(ax, HISTOGRAM, 0.05, 30),
    "clusters": lambda ax: plots.clusters(ax, SIZES),
    "convergence": lambda ax: plots.convergence(ax, [3.0, 2.0, 1.9]),
    "map": lambda ax: plots.cluster_map(ax, picture()),
}


@pytest.mark.parametrize("name", CHARTS)
def test_charts_return_their_axes_labelled(ax: Any, name: str):
    assert CHARTS[name](ax) is ax
    assert ax.get_title(loc="left")
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    ax.figure.savefig("/dev/null", format="svg")


def heights(ax: Any, colour: str) -> float:
    from matplotlib.colors import to_hex

    return sum(bar.get_height() for bar in ax.patches if to_hex(bar.get_facecolor()) == colour)


@pytest.mark.parametrize("threshold", [0.95, 0.937, 0.9999])
def test_bars_show_all_rows_split_at_the_threshold(ax: Any, threshold: float):
    plots.scores(ax, HISTOGRAM, threshold)
    removed = HISTOGRAM.removed(1 - threshold) if threshold < 0.999 else 10
    assert heights(ax, plots.REMOVED) == removed
    assert heights(ax, plots.KEPT) == HISTOGRAM.counts.sum() - removed


def test_removal_marks_the_chosen_eps(ax: Any):
    plots.removal(ax, HISTOGRAM, 0.05, 30)
    assert [text.get_text() for text in ax.texts] == ["eps 0.05: 30.0 %"]  # 30 of 100 rows


def test_removal_marks_what_an_eps_between_the_steps_removes(ax: Any):
    plots.removal(ax, HISTOGRAM, 0.0005, 10)
    assert [text.get_text() for text in ax.texts] == ["eps 0.0005: 10.0 %"]


def test_removal_beyond_complete_scores_is_drawn_as_a_bound(ax: Any):
    plots.removal(ax, HISTOGRAM, 0.05, 30, complete_eps=0.05)
    sure, bound = ax.lines[:2]
    assert max(sure.get_xdata()) == pytest.approx(0.05)
    assert min(bound.get_xdata()) == pytest.approx(0.051)
    assert bound.get_linestyle() == ":"


def test_clusters_name_largest_and_mean(ax: Any):
    plots.clusters(ax, SIZES)
    assert {text.get_text() for text in ax.texts} == {"mean 31", "largest 100 (3.2 × mean)"}


def test_no_history_is_said(ax: Any):
    plots.convergence(ax, [])
    assert "no fit" in ax.texts[0].get_text()
    plots.convergence(ax, [1.0], spherical=True)
    assert "similarity" in ax.get_ylabel()


def test_map_draws_one_circle_per_cluster_in_the_order_of_its_size(ax: Any):
    plots.cluster_map(ax, picture(), most=3)
    circles = next(each for each in ax.collections if each.get_gid() == "clusters")
    assert len(circles.get_offsets()) == 3
    assert (np.diff(circles.get_sizes()) <= 0).all()
