"""How many clusters: ``choose_k`` fits KMeans for each k, and says how it separates, what it costs and what it finds.

Silhouette (Rousseeuw, J. Comput. Appl. Math. 20, 1987) tells which k separates groups best; inertia falls with every k,
and the bend in its curve is the "elbow". Neither matters to deduplication, which pays for pairs and loses those that
straddle a boundary. So each k also has the pairs that its clusters would compare, and the share of rows with a
duplicate that would find one in their own cluster.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.explore import checks, figures
from spark_semdedup.explore.clusters import Clusters
from spark_semdedup.explore.draw import draw_sample
from spark_semdedup.explore.memory import refuse_too_large
from spark_semdedup.explore.neighbours import Neighbours, neighbours
from spark_semdedup.explore.optional import require
from spark_semdedup.explore.sample import SEED, Sample

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from spark_semdedup.explore.draw import Sampling

K_RANGE = range(2, 11)

EPS = 0.05
"""A duplicate has a similarity of at least 1 − eps, as in the deduplication."""


@dataclass(frozen=True)
class KScore:
    """What one k comes to."""

    k: int
    silhouette: float
    """Mean over the sample's rows, −1 … 1: how much nearer a row is to its own cluster than to the next."""
    inertia: float
    """Sum of the sample's squared distances to the nearest centre."""
    pairs: float
    """Pairs inside clusters that a deduplication of all rows would compare; estimated from the sample."""
    recall: float | None
    """Share of the rows with a duplicate in the sample that have one in their own cluster; None where none has one."""


@dataclass(frozen=True, eq=False)
class KChoice:
    """The scores of each k, in ascending order of k."""

    scores: tuple[KScore, ...]
    sample: Sample = field(repr=False)
    labels: dict[int, np.ndarray] = field(repr=False)
    """For each k the cluster of each of the sample's rows."""
    rows_with_duplicate: int
    """Sampled rows that have a duplicate in the sample: what recall is a share of."""
    eps: float
    seed: int
    n_init: int

    @property
    def k(self) -> int:
        """The k of the best silhouette; of equally good ones the smallest."""
        return max(self.scores, key=lambda score: (score.silhouette, -score.k)).k

    @property
    def all_pairs(self) -> float:
        """Pairs that a comparison of all rows with all would take."""
        return self.sample.rows * (self.sample.rows - 1) / 2

    def score(self, k: int) -> KScore:
        """The scores of one k."""
        for score in self.scores:
            if score.k == k:
                return score
        raise SemDedupError(f"k={shown(k)} was not tried: k_range was {', '.join(str(s.k) for s in self.scores)}")

    def clusters(self, k: int | None = None) -> Clusters:
        """The sample's clusters for ``k``, the best if None."""
        k = self.k if k is None else self.score(k).k
        return Clusters(self.labels[k], self.sample, "kmeans", {"k": k, "seed": self.seed, "n_init": self.n_init})

    def as_dict(self) -> dict[str, Any]:
        """All but the rows, in JSON's types."""
        return {
            "k": self.k,
            "scores": [asdict(score) for score in self.scores],
            "rows": self.sample.rows,
            "sample_rows": len(self.sample),
            "rows_with_duplicate": self.rows_with_duplicate,
            "eps": self.eps,
            "seed": self.seed,
        }

    def as_text(self) -> str:
        """A table for a person."""
        head = f"{'k':>7}  {'silhouette':>10}  {'inertia':>10}  {'pairs':>10}  {'recall':>6}"
        return "\n".join([f"k on {self.sample.describe()}", head, *map(self._line, self.scores), *self._notes()])

    def _line(self, score: KScore) -> str:
        mark = "→" if score.k == self.k else " "
        recall = "–" if score.recall is None else f"{score.recall:.1%}"
        numbers = f"{score.silhouette:>10.3f}  {score.inertia:>10,.4g}  {score.pairs:>10,.4g}"
        return f"  {mark}{score.k:>4}  {numbers}  {recall:>6}"

    def _notes(self) -> list[str]:
        return [
            f"  → best silhouette; without clusters there are {self.all_pairs:,.4g} pairs to compare.",
            (
                f"  recall: of {self.rows_with_duplicate:,} sampled rows with a duplicate (similarity from "
                f"{1 - self.eps:.6g} on), the share that has one in its own cluster."
            ),
        ]

    def plot(self, *, output_file: str | os.PathLike[str] | None = "cluster_analysis.png") -> Any:
        """Two panels: silhouette and inertia by k; pairs and recall by k. Writes ``output_file`` unless it is None."""
        made, (left, right) = figures.figure(1, 2, size=(12.0, 4.6))
        self._paint_separation(left)
        self._paint_cost(right)
        return figures.save(made, output_file)

    def _paint_separation(self, axes: Any) -> None:
        ks = [score.k for score in self.scores]
        best = self.score(self.k)
        axes.plot(ks, [score.silhouette for score in self.scores], "o-", color=figures.LINE)
        axes.plot(best.k, best.silhouette, "o", markersize=13, markerfacecolor="none", color=figures.ACCENT)
        on_the_right = best.k > (ks[0] + ks[-1]) / 2
        axes.annotate(
            f"best: k = {best.k}",
            (best.k, best.silhouette),
            xytext=(-12 if on_the_right else 12, 0),
            textcoords="offset points",
            ha="right" if on_the_right else "left",
            va="center",
            color=figures.ACCENT,
        )
        figures.tidy(axes, f"Separation, {self.sample.describe()}", "number of clusters k", "silhouette")
        _second_scale(axes, ks, [score.inertia for score in self.scores], "inertia")
        _whole_ticks(axes)

    def _paint_cost(self, axes: Any) -> None:
        from matplotlib.ticker import EngFormatter

        ks = [score.k for score in self.scores]
        axes.plot(ks, [score.pairs for score in self.scores], "o-", color=figures.LINE)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
        figures.tidy(axes, f"Deduplication at eps {self.eps:g}", "number of clusters k", "pairs to compare")
        if self.rows_with_duplicate:
            recall = [100 * (score.recall or 0.0) for score in self.scores]
            _second_scale(axes, ks, recall, "recall of the own cluster, %")
        _whole_ticks(axes)


def _second_scale(axes: Any, ks: list[int], values: list[float], name: str) -> None:
    """A dashed line on a scale of its own, on the right, and both scales in their lines' colours."""
    other = axes.twinx()
    other.plot(ks, values, "s--", color=figures.ACCENT, markersize=4, alpha=0.8)
    other.set_ylabel(name, color=figures.ACCENT)
    other.tick_params(axis="y", labelcolor=figures.ACCENT)
    other.spines[["top"]].set_visible(False)
    axes.yaxis.label.set_color(figures.LINE)
    axes.tick_params(axis="y", labelcolor=figures.LINE)


def _whole_ticks(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def choose_k(
    data: Any,
    *,
    k_range: Iterable[int] = K_RANGE,
    seed: int = SEED,
    n_init: int = 10,
    eps: float = EPS,
    output_file: str | os.PathLike[str] | None = None,
    **sampling: Unpack[Sampling],
) -> KChoice:
    """Fits scikit-learn's KMeans for each k of ``k_range`` on a sample, ``n_init`` starts each.

    ``data`` and ``sampling`` as in ``draw_sample``. ``output_file``: where the two-panel figure goes, for example
    ``cluster_analysis.png``; None writes none. Raises ``SemDedupError`` for fewer than three rows, for equal rows, and
    for a k that is not below the number of rows or passes the number of distinct ones.
    """
    ks = _checked_range(k_range)
    n_init, seed = checks.whole_number("n_init", n_init, 1), checks.seed(seed)
    eps = checks.number("eps", eps, 1e-6, 1 - 1e-6)
    sample = draw_sample(data, seed=seed, **sampling)
    _check_rows(sample, ks)
    cluster = require("sklearn.cluster", "choose_k")
    similar = neighbours(sample.units, 1 - eps)
    labels: dict[int, np.ndarray] = {}
    scores = []
    for k in ks:
        fit = cluster.KMeans(n_clusters=k, n_init=n_init, random_state=seed & 0x7FFFFFFF).fit(sample.vectors)
        labels[k] = fit.labels_.astype(np.int64)
        scores.append(_score(k, float(fit.inertia_), labels[k], sample, similar))
    duplicates = int((similar.counts > 1).sum())
    choice = KChoice(tuple(scores), sample, labels, duplicates, eps, seed, n_init)
    if output_file is not None:
        choice.plot(output_file=output_file)
    return choice


def _checked_range(k_range: Iterable[int]) -> list[int]:
    try:
        ks = sorted({checks.whole_number("k_range", k, 2) for k in k_range})
    except TypeError:
        raise SemDedupError(f"k_range={shown(k_range)} cannot be used: it must be several whole numbers") from None
    if not ks:
        raise SemDedupError("k_range is empty: it must have at least one k, each at least 2")
    return ks


def _check_rows(sample: Sample, ks: list[int]) -> None:
    sample.require_rows(3, "choose_k")
    if sample.distinct == 1:
        raise SemDedupError(f"all {len(sample):,} rows are equal: they are one cluster, and no k separates them")
    most = min(len(sample) - 1, sample.distinct)
    if ks[-1] > most:
        raise SemDedupError(
            f"k_range reaches {ks[-1]}, but the sample has {len(sample):,} rows, {sample.distinct:,} of them distinct: "
            f"k must be at most {most}"
        )
    refuse_too_large(len(sample), sample.dim, purpose="choose_k")


def _score(k: int, inertia: float, labels: np.ndarray, sample: Sample, similar: Neighbours) -> KScore:
    metrics = require("sklearn.metrics", "choose_k")
    silhouette = float(metrics.silhouette_score(sample.vectors, labels))
    return KScore(k, silhouette, inertia, estimated_pairs(labels, sample.rows), own_cluster_recall(labels, similar))


def estimated_pairs(labels: np.ndarray, rows: int) -> float:
    """Pairs inside clusters among ``rows`` rows, of which ``labels`` are a random sample; without bias.

    >>> estimated_pairs(np.array([0, 0, 0, 1]), 4)
    3.0
    """
    n = len(labels)
    sizes = np.unique(labels[labels >= 0], return_counts=True)[1].astype(float)
    inside = float((sizes * (sizes - 1) / 2).sum())
    return inside * (rows * (rows - 1)) / max(n * (n - 1), 1)


def own_cluster_recall(labels: np.ndarray, similar: Neighbours) -> float | None:
    """Share of the rows with a neighbour that have one with their own label; None where no row has a neighbour."""
    i, j = similar.pairs
    together = (labels[i] == labels[j]) & (labels[i] >= 0)
    has, finds = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
    for rows in (i, j):
        has[rows] = True
        finds[rows[together]] = True
    return float(finds.sum() / has.sum()) if has.any() else None
