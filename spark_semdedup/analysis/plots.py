"""Charts of a run for notebooks and the report: matplotlib axes in, the same axes out.

Each function draws one chart into ``ax``, with its title, units and a legend where one is needed, and changes nothing
else: size, place and saving are the caller's. matplotlib itself is imported by whoever makes the axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_semdedup.analysis.projection import ClusterMap
from spark_semdedup.analysis.scores import BINS_PER_UNIT, ScoreHistogram
from spark_semdedup.analysis.sizes import ClusterSizes
from spark_semdedup.formatting import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID = "#1c2430", "#566171", "#dde3ea"
KEPT, REMOVED = "#2b6cb0", "#c2410c"
"""Blue and orange are told apart with every common colour blindness, and on white and black grounds."""
SHADE = "#4f93d8"
"""Of densities, which are images and keep their colour on any ground."""


def scores(ax: Axes, histogram: ScoreHistogram, threshold: float, *, complete_from: float | None = None) -> Axes:
    """How similar each row is to its most similar preferred row; the removed ones stand out.

    ``complete_from``: the similarity from which scores are exact (exact coverage); smaller ones are lower bounds.
    """
    lowest = np.floor(min(histogram.quantile(0.005), threshold - 0.05) * 20) / 20
    bins_at_once = _bins_at_once(1 - lowest, 1 - threshold)
    below, above = _split_at(histogram, threshold)
    edges, kept = below.coarse(bins_at_once, lowest, anchor=threshold)
    _, removed = above.coarse(bins_at_once, lowest, anchor=threshold)
    width = bins_at_once / BINS_PER_UNIT
    shape: dict[str, Any] = {"width": width * 0.92, "align": "edge", "linewidth": 0}
    ax.bar(edges, kept, color=KEPT, label="kept", **shape)
    ax.bar(edges, removed, bottom=kept, color=REMOVED, label="removed", **shape)
    ax.axvline(threshold, color=INK, linewidth=1.2, label=f"threshold {threshold:.4g}")
    if complete_from is not None and complete_from > lowest:
        ax.axvspan(lowest, complete_from, color=MUTED, alpha=0.14, linewidth=0, label="lower bounds only")
    ax.set_xlim(edges[0], 1.0 + width * 0.1)
    _label(ax, "Similarity to the most similar preferred row", "cosine similarity", "rows")
    _count_axis(ax)
    ax.legend(loc="upper left", frameon=False, labelcolor=INK)
    return ax


def removal(
    ax: Axes, histogram: ScoreHistogram, eps: float, removed: int, *, complete_eps: float | None = None
) -> Axes:
    """How many rows each ``eps`` would remove, in percent of all valid rows.

    ``removed``: rows that ``eps`` itself removes, which may lie between two steps of the histogram.
    ``complete_eps``: the largest ``eps`` for which scores are complete; beyond it the curve is a lower bound.
    """
    most = min(1.0, max(0.1, np.ceil(eps * 30) / 10))
    eps_values, rows = histogram.removal_curve(most)
    shares = 100 * rows / max(1, histogram.rows)
    sure = eps_values <= (1.0 if complete_eps is None else complete_eps) + 1e-9
    ax.fill_between(eps_values[sure], shares[sure], color=REMOVED, alpha=0.16, linewidth=0)
    ax.plot(eps_values[sure], shares[sure], color=REMOVED, linewidth=2)
    if not sure.all():
        ax.plot(eps_values[~sure], shares[~sure], color=REMOVED, linestyle=":", linewidth=2, label="at least")
        ax.legend(loc="lower right", frameon=False, labelcolor=INK)
    here = 100 * removed / max(1, histogram.rows)
    ax.plot([eps], [here], "o", color=INK, markersize=6, zorder=3)
    left = eps > most * 0.6
    ax.annotate(
        f"eps {eps:.4g}: {percent(removed, histogram.rows, bounds=True)} %",
        (eps, here),
        xytext=(-8 if left else 8, 8 if left else -12),
        textcoords="offset points",
        color=INK,
        ha="right" if left else "left",
    )
    ax.set_xlim(0, most)
    ax.set_ylim(0, max(shares.max(initial=0) * 1.12, 1e-3))
    _label(ax, "Rows removed, by eps", "eps (1 − similarity)", "rows removed, %")
    return ax


def clusters(ax: Axes, sizes: ClusterSizes) -> Axes:
    """Rows of the clusters, the largest first, beside the mean."""
    rows = np.sort(sizes.rows)[::-1]
    edges = np.arange(len(rows) + 1)
    ax.stairs(rows, edges, fill=True, color=KEPT, linewidth=0)
    ax.axhline(sizes.mean, color=INK, linestyle="--", linewidth=1.2)
    end = len(rows) or 1
    ax.annotate(
        f"mean {axis_count(sizes.mean)}",
        (end, sizes.mean),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        color=INK,
    )
    if sizes.mean:
        text = f"largest {axis_count(sizes.largest)} ({sizes.largest / sizes.mean:.1f} × mean)"
        ax.annotate(
            text, (min(1, end), sizes.largest), xytext=(10, -4), textcoords="offset points", va="top", color=INK
        )
    ax.set_xlim(0, end)
    estimated = "" if sizes.sampled is None else " (estimated)"
    _label(ax, "Cluster sizes", "clusters, the largest first", f"rows{estimated}")
    _count_axis(ax)
    return ax


def convergence(ax: Axes, history: Sequence[float], *, spherical: bool = False) -> Axes:
    """The fit's objective after each iteration; ``spherical``: a mean similarity instead of a squared distance."""
    from matplotlib.ticker import MaxNLocator

    what = "mean similarity to the centroid" if spherical else "mean squared distance"
    iterations = np.arange(1, len(history) + 1)
    if len(history):
        ax.plot(iterations, history, color=KEPT, linewidth=2, marker="o", markersize=4)
        text = f"{history[-1]:.4g}"
        ax.annotate(
            text,
            (iterations[-1], history[-1]),
            xytext=(0, 8),
            textcoords="offset points",
            ha="right",
            color=INK,
        )
        ax.margins(y=0.18)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        ax.text(0.5, 0.5, "no fit, or none that reports it", ha="center", transform=ax.transAxes, color=MUTED)
        ax.set_xticks([])
        ax.set_yticks([])
    _label(ax, "Convergence of the fit", "iteration", what)
    return ax


def cluster_map(ax: Axes, picture: ClusterMap, *, most: int = 60, scale: float = 1.0) -> Axes:
    """The sampled rows as a density, and over it the ``most`` largest clusters: area by rows, ink by removed rows.

    ``scale`` multiplies the diameters of circles. The circles are one collection with the gid ``clusters``, in the
    order of ``largest``.
    """
    bins = int(np.clip(np.sqrt(len(picture.rows)), 30, 140))
    density, x, y = np.histogram2d(picture.rows[:, 0], picture.rows[:, 1], bins=bins)
    shade = np.log1p(density.T)
    image = np.zeros((*shade.shape, 4))
    image[..., :3] = _rgb(SHADE)
    image[..., 3] = np.where(shade > 0, 0.22 + 0.7 * shade / max(shade.max(), 1e-9), 0)
    ax.imshow(image, extent=(x[0], x[-1], y[0], y[-1]), origin="lower", aspect="auto", interpolation="nearest")
    chosen = largest(picture, most)
    share = np.nan_to_num([picture.removed_share(cluster) for cluster in chosen])
    relative = picture.sizes.rows[chosen] / max(picture.sizes.largest, 1e-9)
    fill = np.array([(*_rgb(REMOVED), 0.08 + 0.82 * value) for value in share]).reshape(-1, 4)
    circles = ax.scatter(
        picture.centroids[chosen, 0],
        picture.centroids[chosen, 1],
        s=(6 + 16 * np.sqrt(relative)) ** 2 * scale**2,
        facecolors=fill,
        edgecolors=INK,
        linewidths=0.9,
    )
    circles.set_gid("clusters")
    along = [
        f"principal component {i + 1} ({100 * share:.0f} % of variance)" for i, share in enumerate(picture.explained)
    ]
    _label(ax, "Map of the clusters", *along)
    ax.grid(False)
    return ax


def largest(picture: ClusterMap, most: int) -> np.ndarray:
    """Numbers of the largest clusters that have rows, int64, the largest first."""
    order = np.argsort(-picture.sizes.rows, kind="stable")[:most]
    return order[picture.sizes.rows[order] > 0]


def axis_count(number: float) -> str:
    """A count as it is written on an axis.

    >>> axis_count(950), axis_count(12_000), axis_count(3_400_000), axis_count(2.5e9), axis_count(0.25)
    ('950', '12,000', '3.4 M', '2.5 bn', '0.25')
    """
    for least, unit in ((1e9, " bn"), (1e6, " M")):
        if abs(number) >= least:
            return f"{number / least:.3g}{unit}"
    return f"{number:,.0f}" if abs(number) >= 10 or float(number).is_integer() else f"{number:.2g}"


def _label(ax: Axes, title: str, x: str, y: str) -> None:
    ax.set_title(title, color=INK, loc="left")
    ax.set_xlabel(x, color=MUTED)
    ax.set_ylabel(y, color=MUTED)
    ax.tick_params(colors=MUTED, length=0)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(MUTED)


def _count_axis(ax: Axes) -> None:
    ax.yaxis.set_major_formatter(lambda value, _: axis_count(value))
    ax.set_ylim(bottom=0)


def _bins_at_once(span: float, above: float) -> int:
    """Fine bins in one bar, so that some 50 bars show ``span`` and whole ones the part ``above`` the threshold."""
    most = max(1, round(span * BINS_PER_UNIT / 45))
    return max(n for n in range(1, most + 1) if round(above * BINS_PER_UNIT) % n == 0)


def _split_at(histogram: ScoreHistogram, threshold: float) -> tuple[ScoreHistogram, ScoreHistogram]:
    above = histogram.edges >= threshold - 1e-9
    return (
        ScoreHistogram(np.where(above, 0, histogram.counts), histogram.alone),
        ScoreHistogram(np.where(above, histogram.counts, 0), 0),
    )


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue
