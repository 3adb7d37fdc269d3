"""The page itself: Jinja2's template filled with a run's facts, charts and lists; every text from the data escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module, resources
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_semdedup.analysis import plots
from spark_semdedup.analysis.projection import ClusterMap
from spark_semdedup.errors import SemDedupError
from spark_semdedup.report import view
from spark_semdedup.report.charts import Link, chart
from spark_semdedup.report.data import ReportData
from spark_semdedup.report.links import Group
from spark_semdedup.report.pairs import Band, Pair
from spark_semdedup.report.words import marked, printable, shown_id

if TYPE_CHECKING:
    from markupsafe import Markup

CLUSTERS_SHOWN = 40
"""Clusters that the map names and the page lists."""
ROWS_OF_A_CLUSTER = 3
TEXT_OF_A_CLUSTER = 160
"""Sampled rows of a cluster that are listed, and the characters of each."""


@dataclass(frozen=True)
class Side:
    """One text of a pair."""

    id: str
    text: Markup | None
    cut: int
    """Characters that are left out at its end."""


@dataclass(frozen=True)
class PairView:
    """Two texts with their differences marked."""

    score: str
    removed: bool
    preferred: Side
    row: Side


@dataclass(frozen=True)
class MemberView:
    """A removed row of a group, and the preferred row that it is most similar to."""

    score: str
    max_id: str
    side: Side
    is_same_text: bool
    """Whether its whole text is shown and is that of the kept row, so that it need not be shown again."""


@dataclass(frozen=True)
class GroupView:
    """A kept row and the removed ones that it replaces."""

    number: int
    kept: Side
    rows: int
    members: tuple[MemberView, ...]
    omitted: int
    """Removed rows that are not listed; they stand before the member number ``omitted_from``."""
    omitted_from: int


@dataclass(frozen=True)
class BandView:
    """A sample of the pairs in one band of scores."""

    title: str
    rows: str
    removed: bool
    pairs: tuple[PairView, ...]


@dataclass(frozen=True)
class ClusterView:
    """A cluster of the map, and a few sampled rows near its centre."""

    number: int
    rows: str
    removed: str
    """Share of the removed rows, in words; empty where it is unknown."""
    members: tuple[tuple[str, str], ...]
    """Ids and beginnings of texts."""


def render(data: ReportData) -> str:
    """The whole page, HTML 5 in one string. ``SemDedupError`` where Jinja2 or matplotlib is missing."""
    require_libraries()
    script, style = _asset("script.js"), _asset("style.css")
    writer = _Writer(data)
    return str(
        _template().render(
            data=data,
            facts=data.facts,
            view=view,
            title=view.headline(data.facts),
            certainty=view.certainty(data.facts, data.evaluation),
            not_compared=view.not_compared(data.facts, data.histogram),
            groups=[writer.group(number, group) for number, group in enumerate(data.groups.largest, 1)],
            above=[writer.pair(pair) for pair in data.pairs.above],
            below=[writer.pair(pair) for pair in data.pairs.below],
            bands=[writer.band(*band) for band in data.pairs.bands],
            clusters=writer.clusters(),
            charts=_charts(data),
            score_rows=_score_rows(data),
            style=style,
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def is_report(text: str) -> bool:
    """Whether a file's text is a page that ``render`` made."""
    return '<meta name="generator" content="spark-semdedup">' in text[:2000]


def require_libraries() -> None:
    """``SemDedupError`` where Jinja2 or matplotlib is missing, before any work."""
    try:
        import_module("jinja2")
        import_module("matplotlib")
    except ImportError as error:
        raise SemDedupError("the report needs Jinja2 and matplotlib: pip install 'spark-semdedup[report]'") from error


def _asset(name: str) -> Markup:
    from markupsafe import Markup

    text = (resources.files("spark_semdedup.report") / name).read_text("utf-8")
    return Markup(text)  # noqa: S704  # our own file


def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("spark_semdedup.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html.j2")


# --- lists --------------------------------------------------------------------------------------------------


class _Writer:
    """Makes views of ids: with their texts, where they are at hand."""

    def __init__(self, data: ReportData) -> None:
        self._data = data

    def pair(self, pair: Pair) -> PairView:
        preferred, row = self._beside(pair.max_id, pair.id)
        return PairView(f"{pair.score:.4f}", pair.removed, preferred, row)

    def band(self, band: Band, rows: int, pairs: Sequence[Pair]) -> BandView:
        removed = band.low >= float(self._data.facts["threshold"])
        return BandView(band.title, f"{rows:,}", removed, tuple(map(self.pair, pairs)))

    def group(self, number: int, group: Group) -> GroupView:
        kept = self._data.texts.get(group.kept)
        members = tuple(
            MemberView(
                score=f"{each.score:.4f}",
                max_id=shown_id(each.max_id),
                side=self._beside(each.max_id, each.id)[1],
                is_same_text=kept is not None and not kept.cut and self._data.texts.get(each.id) == kept,
            )
            for each in group.members
        )
        return GroupView(
            number=number,
            kept=self._alone(group.kept),
            rows=group.rows,
            members=members,
            omitted=group.removed - len(members),
            omitted_from=group.omitted_from,
        )

    def clusters(self) -> list[ClusterView]:
        picture, sample = self._data.picture, self._data.sample
        if picture is None or sample is None:
            return []
        sizes = "" if picture.sizes.sampled is None else "about "
        listed = []
        for cluster in plots.largest(picture, CLUSTERS_SHOWN):
            removed = picture.removed_share(int(cluster))
            share = "" if np.isnan(removed) else f"{view.percent(removed, 1)} removed"
            rows = f"{sizes}{view.short_count(round(float(picture.sizes.rows[cluster])))}"
            listed.append(ClusterView(int(cluster), rows, share, tuple(self._central(picture, int(cluster)))))
        return listed

    def _central(self, picture: ClusterMap, cluster: int) -> list[tuple[str, str]]:
        """Sampled rows nearest to their cluster's mean."""
        sample = self._data.sample
        assert sample is not None
        inside = np.flatnonzero(picture.labels == cluster)
        units = sample.units[inside]
        order = inside[np.argsort(-(units @ units.mean(axis=0)), kind="stable")] if len(inside) else inside
        return [(shown_id(sample.ids[place]), self._begun(sample.ids[place])) for place in order[:ROWS_OF_A_CLUSTER]]

    def _begun(self, id_: Any) -> str:
        text = self._data.texts.get(id_)
        if text is None:
            return ""
        flat = " ".join(printable(text.shown).split())
        return flat if len(flat) <= TEXT_OF_A_CLUSTER else flat[: TEXT_OF_A_CLUSTER - 1].rstrip() + "…"

    def _beside(self, preferred: Any, row: Any) -> tuple[Side, Side]:
        texts = self._data.texts.get(preferred), self._data.texts.get(row)
        if texts[0] is None or texts[1] is None:
            return self._alone(preferred), self._alone(row)
        left, right = marked(texts[0].shown, texts[1].shown)
        return Side(shown_id(preferred), left, texts[0].cut), Side(shown_id(row), right, texts[1].cut)

    def _alone(self, id_: Any) -> Side:
        from markupsafe import escape

        text = self._data.texts.get(id_)
        shown = None if text is None else escape(printable(text.shown))
        return Side(shown_id(id_), shown, 0 if text is None else text.cut)


# --- charts -------------------------------------------------------------------------------------------------


def _charts(data: ReportData) -> dict[str, Markup]:
    facts, histogram = data.facts, data.histogram
    threshold, eps, duplicates = float(facts["threshold"]), float(facts["eps"]), int(facts["duplicates"])
    drawn = {
        "scores": chart(
            "scores",
            f"Histogram of similarity scores. {duplicates:,} rows lie at or above the threshold of "
            f"{threshold:.4g}. The table below has the numbers.",
            lambda ax: plots.scores(ax, histogram, threshold, complete_from=facts.get("complete_from")),
        ),
        "removal": chart(
            "removal",
            f"Rows removed against eps. At eps {eps:.4g} it is "
            f"{view.percent(duplicates, histogram.rows)} of the rows. The table below has the numbers.",
            lambda ax: plots.removal(ax, histogram, eps, duplicates, complete_eps=facts.get("complete_eps")),
        ),
        "convergence": chart(
            "convergence",
            f"The fit's objective over {len(data.history)} iterations."
            + (f" It ends at {data.history[-1]:.4g}." if data.history else ""),
            lambda ax: plots.convergence(ax, data.history, spherical=data.spherical),
        ),
    }
    picture = data.picture
    if picture is not None:
        sizes = picture.sizes
        drawn["clusters"] = chart(
            "clusters",
            f"Sizes of {len(sizes.rows):,} clusters, the largest first: {sizes.largest:,.0f} rows in the largest, "
            f"{sizes.mean:,.0f} in the mean one.",
            lambda ax: plots.clusters(ax, sizes),
        )
        drawn["map"] = chart(
            "map",
            "Map of the clusters: a density of sampled rows, and the largest clusters as circles that link to the list "
            "below.",
            lambda ax, **form: plots.cluster_map(ax, picture, most=CLUSTERS_SHOWN, **form),
            heights=(470, 360),
            links=_links(picture),
            narrow={"scale": 0.75},
        )
    return drawn


def _links(picture: ClusterMap) -> list[Link]:
    return [
        Link(f"#cluster-{cluster}", f"cluster {cluster}: {picture.sizes.rows[cluster]:,.0f} rows")
        for cluster in plots.largest(picture, CLUSTERS_SHOWN)
    ]


def _score_rows(data: ReportData) -> list[tuple[str, str]]:
    """The histogram in numbers: bins of 0.01, those without rows left out, the most similar first."""
    edges, counts = data.histogram.coarse(10, -1.0)
    table = [
        (f"{edge:.2f} – {edge + 0.01:.2f}", f"{count:,}") for edge, count in zip(edges, counts, strict=True) if count
    ]
    return table[::-1]
