"""A picture of all rows: embeddings laid out in the plane, clusters in colours, their topics written beside them."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.explore import checks, figures
from spark_semdedup.explore.draw import draw_sample
from spark_semdedup.explore.labels import NOISE, checked_labels
from spark_semdedup.explore.memory import refuse_too_large
from spark_semdedup.explore.optional import gpu_is_present, is_installed, require
from spark_semdedup.explore.sample import SEED, Sample

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from spark_semdedup.explore.draw import Sampling

log = logging.getLogger("spark_semdedup")

METHODS = ("auto", "umap", "cuml", "pca")
METRICS = ("cosine", "euclidean")

MOST_LABELS = 40
"""Topics that a map has room for."""

WIDEST_GAP = 0.06
"""Of the width between the 5th and the 95th percentile: how wide an empty band of a UMAP layout may be."""

FEWEST_FOR_UMAP = 5
"""Rows from which UMAP's neighbour graph means anything; fewer are laid out by PCA."""


@dataclass(frozen=True, eq=False)
class Map2D:
    """Coordinates of the sample's rows."""

    coordinates: np.ndarray
    """Float32 (n, 2)."""
    labels: np.ndarray | None = field(repr=False)
    """Int64 (n,), −1 for noise; None where no clusters were given."""
    sample: Sample = field(repr=False)
    method: str
    """``umap``, ``cuml`` or ``pca``."""
    note: str | None
    """What a reader must know of the layout, such as that UMAP was not installed."""
    topics: dict[int, str] = field(default_factory=dict, repr=False)
    duplicates: np.ndarray | None = field(default=None, repr=False)
    """Bool (n,): the rows to mark."""

    @property
    def n_clusters(self) -> int:
        return 0 if self.labels is None else len(np.unique(self.labels[self.labels >= 0]))

    def as_text(self) -> str:
        """What is drawn, for a person."""
        layout = {"umap": "UMAP", "cuml": "cuML's UMAP", "pca": "PCA"}[self.method]
        marked = "" if self.duplicates is None else f", {int(self.duplicates.sum()):,} of them duplicates"
        clusters = "" if self.labels is None else f", in {self.n_clusters:,} clusters"
        return f"map of {self.sample.describe()} by {layout}{clusters}{marked}"

    def as_dict(self) -> dict[str, Any]:
        """All but the rows, in JSON's types."""
        return {
            "method": self.method,
            "note": self.note,
            "rows": self.sample.rows,
            "sample_rows": len(self.sample),
            "seed": self.sample.seed,
            "n_clusters": self.n_clusters,
            "duplicates": None if self.duplicates is None else int(self.duplicates.sum()),
        }

    def table(self) -> dict[str, list[Any]]:
        """Columns ``id``, ``x``, ``y``, and ``cluster`` and ``duplicate`` where they are known; for other viewers."""
        columns: dict[str, list[Any]] = {
            "id": self.sample.ids.tolist(),
            "x": self.coordinates[:, 0].tolist(),
            "y": self.coordinates[:, 1].tolist(),
        }
        if self.labels is not None:
            columns["cluster"] = self.labels.tolist()
        if self.duplicates is not None:
            columns["duplicate"] = self.duplicates.tolist()
        return columns

    def plot(self, axes: Any = None, *, output_file: str | os.PathLike[str] | None = None) -> Any:
        """The map; the figure."""
        return figures.save(figures.draw(self._paint, axes, size=(10.0, 8.0)), output_file)

    def _paint(self, axes: Any) -> None:
        x, y = self.coordinates.T
        size = float(np.clip(14000 / len(self.sample), 2.0, 30.0))
        labels = np.full(len(x), 0, np.int64) if self.labels is None else self.labels
        noise = labels == NOISE
        axes.scatter(x[noise], y[noise], s=size * 0.6, color=figures.NOISE, linewidths=0, alpha=0.6, zorder=1)
        colours = self._colours(labels)
        axes.scatter(x[~noise], y[~noise], s=size, c=colours, linewidths=0, alpha=0.85, zorder=2)
        if self.duplicates is not None:
            marks = self.duplicates
            axes.scatter(
                x[marks], y[marks], s=size * 2.2, marker="o", facecolors="none", edgecolors=figures.INK,
                linewidths=0.5 if marks.sum() < 300 else 0.3, zorder=3, label=f"{int(marks.sum()):,} duplicates",
            )  # fmt: skip
            axes.legend(loc="lower right", frameon=False)
        self._paint_topics(axes, labels)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_title(self._title(noise), loc="left", fontsize=11, color=figures.INK)
        if self.note:
            axes.set_xlabel(self.note, fontsize=9, color=figures.INK, loc="left")

    def _colours(self, labels: np.ndarray) -> list[str]:
        """The colour of each row in a cluster: larger clusters take the colours that lie farther apart."""
        numbers, counts = np.unique(labels[labels >= 0], return_counts=True)
        order = np.lexsort((numbers, -counts))
        palette = dict(zip(numbers[order].tolist(), figures.distinct_colours(len(numbers)), strict=False))
        return [palette[label] for label in labels[labels >= 0].tolist()]

    def _title(self, noise: np.ndarray) -> str:
        name = {"umap": "UMAP", "cuml": "UMAP (cuML)", "pca": "PCA"}[self.method]
        parts = [f"{name} of {self.sample.describe()}"]
        if self.labels is not None:
            parts.append(f"{self.n_clusters:,} clusters")
        if noise.any():
            parts.append(f"{int(noise.sum()):,} rows of noise in grey")
        return ", ".join(parts)

    def _paint_topics(self, axes: Any, labels: np.ndarray) -> None:
        """The topics of the largest clusters at their medians, moved apart where they would overlap."""
        import matplotlib.patheffects as effects

        numbers, counts = np.unique(labels[labels >= 0], return_counts=True)
        order = np.lexsort((numbers, -counts))
        shown = [int(n) for n in numbers[order] if int(n) in self.topics][:MOST_LABELS]
        axes.figure.draw_without_rendering()  # which settles the layout, and with it how wide a text is in data units
        outline = [effects.withStroke(linewidth=2.5, foreground="white")]
        placer = _Placer(axes)
        for number in shown:
            middle = np.median(self.coordinates[labels == number], axis=0)
            text = axes.text(
                middle[0], middle[1], figures.plain(figures.shorten_terms(self.topics[number], 34)),
                ha="center", va="center", fontsize=8, color=figures.INK, path_effects=outline, zorder=4,
            )  # fmt: skip
            placer.place(text)


class _Placer:
    """Moves texts up or down until they overlap none placed before; removes one that finds no place."""

    STEPS = (0, 1, -1, 2, -2, 3, -3)

    def __init__(self, axes: Any) -> None:
        self._axes = axes
        self._boxes: list[Any] = []

    def place(self, text: Any) -> None:
        x, y = text.get_position()
        height = text.get_window_extent().height
        to_data = self._axes.transData.inverted()
        start = self._axes.transData.transform((x, y))
        for step in self.STEPS:
            text.set_position(to_data.transform((start[0], start[1] + 1.1 * step * height)))
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in self._boxes):
                self._boxes.append(box)
                return
        text.remove()


def map_2d(
    data: Any,
    labels: Any = None,
    *,
    metric: str = "cosine",
    method: str = "auto",
    topics: dict[int, str] | None = None,
    duplicates: Any = None,
    n_neighbors: int = 30,
    min_dist: float = 0.3,
    seed: int = SEED,
    output_file: str | os.PathLike[str] | None = "clusters.png",
    **sampling: Unpack[Sampling],
) -> Map2D:
    """Lays the sample's rows out in the plane and draws them, at 150 dpi.

    Parameters
    ----------
    data
        As in ``draw_sample``, like ``seed`` and ``sampling``.
    labels
        The cluster of each row, or ``Clusters``, for colours. None: those of a run's folder, else one colour.
    metric
        ``cosine`` or ``euclidean``.
    method
        ``umap`` (McInnes, Healy and Melville, arXiv:1802.03426; umap-learn), ``cuml`` (the same on a GPU), or ``pca``.
        ``auto``: the first of cuml, umap, pca that this machine has; the map says so where it is PCA. Of UMAP's layout,
        wide empty bands between islands are narrowed: its distances across them mean nothing.
    n_neighbors, min_dist
        UMAP's: how many neighbours a row is placed by, and how close rows may lie.
    topics
        ``{cluster: label}``, as ``topic_labels`` returns it: written at the clusters.
    duplicates
        Bool (n,), or positions in the sample: rows to mark. None: those that the run removed, if ``data`` is its folder
        with its ``input``.
    output_file
        Where the picture goes; None writes none.
    """
    checks.one_of("metric", metric, METRICS)
    checks.one_of("method", method, METHODS)
    n_neighbors, seed = checks.whole_number("n_neighbors", n_neighbors, 2), checks.seed(seed)
    checks.number("min_dist", min_dist, 0, 1)
    sample = draw_sample(data, seed=seed, **sampling)
    sample.require_rows(2, "map_2d")
    labels = None if labels is None and sample.labels is None else checked_labels(labels, sample)
    marks = sample.duplicates if duplicates is None else _marks(duplicates, len(sample))
    refuse_too_large(len(sample), sample.dim, purpose="map_2d")
    vectors = sample.units if metric == "cosine" else sample.vectors
    chosen, note = _method(method, len(sample))
    if chosen == "pca":
        coordinates = _pca(vectors)
    else:
        neighbours = min(n_neighbors, len(sample) - 1)
        coordinates = _umap(chosen, vectors, metric, neighbours, min_dist, seed)
    made = Map2D(coordinates.astype(np.float32), labels, sample, chosen, note, dict(topics or {}), marks)
    if output_file is not None:
        made.plot(output_file=output_file)
    return made


def _marks(duplicates: Any, n: int) -> np.ndarray:
    """Bool (n,) of a mask or of positions."""
    array = np.asarray(duplicates)
    if array.dtype == bool and array.shape == (n,):
        return array
    if array.dtype.kind in "iu" and array.ndim == 1 and (not len(array) or (array.min() >= 0 and array.max() < n)):
        marks = np.zeros(n, bool)
        marks[array] = True
        return marks
    raise SemDedupError(
        f"duplicates={shown(duplicates)} cannot be used: it must be {n} booleans, or positions below {n}"
    )


def _method(method: str, rows: int) -> tuple[str, str | None]:
    """The layout to use, and what the map must say of it."""
    if method == "pca":
        return "pca", None
    if rows < FEWEST_FOR_UMAP:
        return "pca", f"{rows} rows are too few for UMAP: laid out by PCA"
    if method != "auto":
        return method, None
    if gpu_is_present():
        return "cuml", None
    if is_installed("umap"):
        return "umap", None
    note = "umap-learn is not installed: laid out by PCA, which separates clusters less (pip install umap-learn)"
    log.warning("map_2d: %s", note)
    return "pca", note


def _pca(vectors: np.ndarray) -> np.ndarray:
    """The rows along their two directions of largest variance: float64 (n, 2). Signs are fixed: maps compare."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    values, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, np.argsort(-values)[:2]]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    coordinates = centred @ axes
    return coordinates if coordinates.shape[1] == 2 else np.hstack([coordinates, np.zeros((len(vectors), 1))])


def _umap(method: str, vectors: np.ndarray, metric: str, neighbours: int, min_dist: float, seed: int) -> np.ndarray:
    """UMAP's coordinates: float32 (n, 2)."""
    settings = {"n_neighbors": neighbours, "min_dist": min_dist, "metric": metric, "random_state": seed & 0x7FFFFFFF}
    if method == "umap":
        settings["init"] = "pca"  # the default, spectral, puts groups without neighbours elsewhere far off
    with warnings.catch_warnings():
        # A seed makes umap-learn use one thread, which it warns of each time; a few equal rows are no fault either.
        warnings.filterwarnings("ignore", module="umap")
        warnings.filterwarnings("ignore", message=".*n_jobs.*")
        warnings.filterwarnings("ignore", message="IProgress")  # of tqdm, which umap-learn imports
        module = require(
            "umap" if method == "umap" else "cuml.manifold",
            f"map_2d with method={method!r}",
            install="pip install umap-learn" if method == "umap" else "pip install 'spark-semdedup[gpu-cu12]'",
        )
        return _without_gaps(np.asarray(module.UMAP(**settings).fit_transform(vectors)))


def _without_gaps(coordinates: np.ndarray) -> np.ndarray:
    """The same points with every empty band along an axis narrowed to ``WIDEST_GAP`` of the axis; order is kept."""
    narrowed = np.empty_like(coordinates)
    for axis, values in enumerate(coordinates.T):
        order = np.argsort(values, kind="stable")
        steps = np.diff(values[order], prepend=values[order[0]])
        low, high = np.quantile(values, [0.05, 0.95])
        narrowed[order, axis] = np.cumsum(np.minimum(steps, WIDEST_GAP * max(high - low, 1e-6)))
    return narrowed
