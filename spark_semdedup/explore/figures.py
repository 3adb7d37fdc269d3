"""What all figures share: matplotlib without a display, colours that differ, files at a set resolution."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from io import BytesIO
from itertools import product
from typing import Any

import numpy as np

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.explore.optional import require
from spark_semdedup.formatting import one_line

DPI = 150
"""Of files."""

SCREEN_DPI = 90
"""Of pictures in notebooks."""

NOISE = "#b4b4b4"
"""The colour of rows in no cluster."""

INK, LINE, ACCENT = "#333333", "#1f6fb4", "#d1495b"


def figure(rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (8.0, 5.0)) -> tuple[Any, Any]:
    """A figure and its axes (one, or an array), without pyplot: nothing is registered, so nothing must be closed."""
    require("matplotlib", "drawing")
    made = _figure_class()(figsize=size, layout="constrained")
    return made, made.subplots(rows, columns)


@cache
def _figure_class() -> type:
    """A figure that draws itself without a display, and that notebooks show as a small picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class ExploreFigure(Figure):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            FigureCanvasAgg(self)

        def _repr_png_(self) -> bytes:
            from PIL import Image

            drawn, small = BytesIO(), BytesIO()
            save(self, drawn, dpi=SCREEN_DPI)
            Image.open(drawn).convert("RGB").quantize(255).save(small, "png", optimize=True)
            return small.getvalue()

    return ExploreFigure


def draw(paint: Callable[[Any], None], axes: Any, *, size: tuple[float, float] = (8.0, 5.0)) -> Any:
    """Paints on ``axes``, or on those of a new figure; the figure."""
    if axes is not None:
        paint(axes)
        return axes.figure
    made, axes = figure(size=size)
    paint(axes)
    return made


def save(made: Any, output_file: str | os.PathLike[str] | BytesIO | None, *, dpi: int = DPI) -> Any:
    """The figure, written to ``output_file`` if that is not None."""
    if output_file is not None:
        path = output_file if isinstance(output_file, BytesIO) else os.fspath(output_file)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as boxes
                made.savefig(path, dpi=dpi)
        except (OSError, ValueError) as error:
            raise SemDedupError(f"output_file={shown(path, 400)} cannot be written: {error}") from None
    return made


def tidy(axes: Any, title: str, x: str, y: str) -> None:
    """Titles, and no frame on the sides that carry no scale."""
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)


def plain(text: str) -> str:
    """``text`` as matplotlib draws it letter by letter: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def shorten_terms(label: str, limit: int) -> str:
    """A label of several terms, ``a, b, c``, without the last ones if it is longer than ``limit`` characters.

    >>> shorten_terms("haskell, programming language, profiling", 34)
    'haskell, programming language'
    """
    terms = label.split(", ")
    while len(terms) > 1 and len(", ".join(terms)) > limit:
        terms.pop()
    return one_line(", ".join(terms), limit)


# --- colours ------------------------------------------------------------------------------------------------


def distinct_colours(n: int) -> list[str]:
    """``n`` colours as far apart as a greedy choice makes them, in CIELAB, where distance is what eyes see.

    The first is the most saturated blue of a grid over sRGB; each next one is the colour farthest from all before it,
    from white and from the grey of noise (the method of Glasbey et al., Color Research and Application 32, 2007).

    >>> distinct_colours(2)[0] != distinct_colours(2)[1]
    True
    """
    return list(_palette(max(n, 1)))[:n]


@cache
def _palette(n: int) -> tuple[str, ...]:
    grid = np.array(list(product(np.linspace(0, 1, 16), repeat=3)))
    lab = _lab(grid)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    fits = (lab[:, 0] > 30) & (lab[:, 0] < 80) & (chroma > 25)  # seen on white, and not for grey
    grid, lab = grid[fits], lab[fits]
    avoided = _lab(np.array([[1.0, 1.0, 1.0], [0.706, 0.706, 0.706], [0.2, 0.2, 0.2]]))
    distance = np.linalg.norm(lab[:, None] - avoided[None], axis=2).min(axis=1)
    chosen = [int(np.argmin(np.linalg.norm(lab - _lab(np.array([[0.12, 0.44, 0.71]])), axis=1)))]
    for _ in range(min(n, len(grid)) - 1):
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distance)))
    colours = ["#" + "".join(f"{round(255 * part):02x}" for part in grid[i]) for i in chosen]
    return tuple(colours[i % len(colours)] for i in range(n))


def _lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB in 0 … 1 → CIELAB for the white point D65 (IEC 61966-2-1; CIE 15)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    scaled = xyz / np.array([0.9505, 1.0, 1.089])
    root = np.where(scaled > (6 / 29) ** 3, np.cbrt(scaled), scaled / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], axis=1)
