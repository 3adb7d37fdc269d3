"""The report's charts: matplotlib's SVG, in the page's own colours and fonts, in a wide and a narrow form.

matplotlib draws them because notebooks draw the same axes with it; Vega would bring a second library of charts and a
JavaScript engine to run it. Its SVG keeps text as text, so a chart takes some 20 kB, can be searched and is read
aloud; colours become CSS variables, so one drawing serves the light and the dark scheme.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from spark_semdedup.analysis import plots

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

_VARIABLES = {
    plots.INK: "var(--ink)",
    plots.MUTED: "var(--muted)",
    plots.GRID: "var(--grid)",
    plots.KEPT: "var(--kept)",
    plots.REMOVED: "var(--removed)",
}

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 12.0,
    "axes.titlesize": 13.0,
    "axes.labelsize": 12.0,
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 11.5,
    "legend.fontsize": 11.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.labelpad": 6.0,
    "axes.axisbelow": True,
}

_WIDE, _NARROW = (620, 330), (330, 270)
"""Width and height, CSS pixels. Text has the same size in both, so that it can be read on a phone."""


@dataclass(frozen=True)
class Link:
    """Where a shape of a chart leads, and its name for those who do not see it."""

    href: str
    label: str


def chart(
    name: str,
    description: str,
    draw: Callable[..., Axes],
    *,
    heights: tuple[int, int] | None = None,
    links: Sequence[Link] = (),
    narrow: dict[str, Any] | None = None,
) -> Markup:
    """Both forms of one chart as HTML. ``draw``: takes axes. ``links``: of the collection with gid ``clusters``, one
    for each of its shapes. ``narrow``: keywords for the narrow form alone."""
    from markupsafe import Markup

    forms = []
    for form, (width, height) in (("wide", _WIDE), ("narrow", _NARROW)):
        if heights:
            height = heights[form == "narrow"]
        keywords = (narrow or {}) if form == "narrow" else {}
        svg = _svg(f"{name}-{form}", width, height, functools.partial(draw, **keywords), links)
        role = "group" if links else "img"
        opening = f'<svg class="chart {form}" role="{role}" aria-label="{escape(description)}" viewBox'
        forms.append(svg.replace("<svg viewBox", opening, 1))
    return Markup("\n".join(forms))  # noqa: S704  # matplotlib escapes texts; links and labels are escaped here


def _svg(name: str, width: int, height: int, draw: Callable[[Axes], Any], links: Sequence[Link]) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        FigureCanvasSVG(figure)
        ax = figure.subplots()
        draw(ax)
        ax.set_title("", loc="left")  # the page has it as a heading
        for collection in ax.collections:
            if collection.get_gid() == "clusters" and links:
                collection.set_urls([link.href for link in links])
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _for_page(text.getvalue(), name, width, height, links)


def _for_page(svg: str, name: str, width: int, height: int, links: Sequence[Link]) -> str:
    """Drops what belongs to a file of its own, and gives the rest names of its own and the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<svg[^>]*>", f'<svg viewBox="0 0 {width} {height}">', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    referenced = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in referenced else "", svg)
    own = {link.href.lstrip("#") for link in links}
    svg = re.sub(
        r"(url\(#|xlink:href=\"#)([^)\"]+)",
        lambda match: match[0] if match[2] in own else f"{match[1]}{name}-{match[2]}",
        svg,
    )
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = svg.replace("xlink:href", "href").replace(' target="_blank"', "").replace("#000000", "var(--ink)")
    svg = re.sub(r"font-family: [^;\"]*;?|font: ([\d.]+px) [^;\"]*", _own_font, svg)
    for link in links:
        svg = svg.replace(
            f'<a href="{link.href}">', f'<a href="{escape(link.href)}" aria-label="{escape(link.label)}">', 1
        )
    return re.sub(r"\s*\n\s*", "\n", svg).strip()


def _own_font(match: re.Match[str]) -> str:
    return f"font-size: {match[1]}" if match[1] else ""
