"""What the page says in words and numbers, made of a run's facts: no HTML, and nothing that Spark is needed for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spark_semdedup import formatting
from spark_semdedup.analysis.scores import ScoreHistogram
from spark_semdedup.params import DEFAULTS
from spark_semdedup.report.data import ReportData
from spark_semdedup.report.links import Groups
from spark_semdedup.report.references import by_references_alone


@dataclass(frozen=True)
class Tile:
    """A number in large print."""

    value: str
    label: str
    note: str = ""
    href: str | None = None


@dataclass(frozen=True)
class Alternative:
    """What another ``eps`` would do."""

    eps: str
    rows: str
    share: str
    is_this: bool
    at_least: bool
    """Whether scores are incomplete at this ``eps``, so that more rows may go."""


def percent(part: float, whole: float) -> str:
    """A share with one decimal, never rounded to all or nothing.

    >>> percent(1, 3), percent(5, 5), percent(1, 100_000), percent(1999, 2000)
    ('33.3 %', '100 %', '<0.1 %', '>99.9 %')
    """
    return f"{formatting.percent(part, whole, bounds=True)} %"


def headline(facts: Mapping[str, Any]) -> str:
    """Of N rows M go, in one sentence."""
    rows, removed = int(facts["rows_in"]), int(facts["duplicates"])
    if not removed:
        return f"Of {rows:,} rows none is a duplicate."
    return f"Of {rows:,} rows {removed:,} are removed ({percent(removed, rows)}) and {int(facts['kept']):,} are kept."


def eps_sentence(facts: Mapping[str, Any]) -> str:
    """What decides, and where the number comes from."""
    eps, default = float(facts["eps"]), float(DEFAULTS["eps"])
    origin = "the program's default" if eps == default else f"set for this run; the default is {default:g}"
    preferred = "reference" if by_references_alone(facts) else "preferred"
    return (
        f"A row is removed when its cosine similarity to a {preferred} row is {float(facts['threshold']):.6g} or more "
        f"(eps {eps:.6g}, {origin})."
    )


def certainty(facts: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> str:
    """The recall, and what it was measured by."""
    if evaluation is not None and evaluation.get("recall") is not None:
        low, high = evaluation["recall_interval_95"]
        recall = f"{percent(evaluation['recall'], 1)} of the rows that have a duplicate were found"
        if evaluation["sample_rows"] == evaluation["rows"]:
            return f"{recall}; all rows were evaluated."
        interval = f"95 % interval {formatting.percent(low)} – {formatting.percent(high)} %"
        return f"{recall} ({interval}), by {evaluation['sample_rows']:,} sampled rows compared with all rows."
    if facts.get("coverage") == "exact":
        of = "with a reference row " if by_references_alone(facts) else ""
        pair = f"Every pair {of}of similarity {float(facts['threshold']):.6g} or more"
        return f"{pair} was compared: no duplicate was missed."
    if facts.get("against"):
        return "Duplicates across clusters may have been missed; how many is not measured."
    return (
        "Duplicates across clusters may have been missed; how many is not measured yet: spark-semdedup evaluate "
        "estimates it from a sample."
    )


def not_compared(facts: Mapping[str, Any], histogram: ScoreHistogram) -> list[tuple[str, str]]:
    """What the run did not look at: terms and sentences."""
    invalid = int(facts.get("invalid", 0))
    valid = int(facts["rows_in"]) - invalid
    pairs, compared = valid * (valid - 1) // 2, int(facts["pairs_compared"])
    rule = facts.get("coverage_in_words") or ""
    terms = [("Rule", f"{rule[:1].upper()}{rule[1:]}.")] if rule else []
    share = percent(min(compared, pairs), pairs)
    if facts.get("against"):
        terms.append(
            ("Reference rows", "Rows were compared with those of an index or table, whose texts are not here.")
        )
    if by_references_alone(facts):
        terms.append(("Pairs", "Rows of the input were not compared with one another."))
    else:
        terms.append(("Pairs", f"{compared:,} of {pairs:,} pairs were compared ({share})."))
    complete = facts.get("complete_from")
    if complete is not None:
        text = f"Pairs below {float(complete):.6g} were left out where no duplicate can be lost by it; scores below it "
        terms.append(("Smaller similarities", text + "are lower bounds."))
    handling = (facts.get("parameters") or {}).get("handleInvalid")
    aside = {"skip": "moved to the folder invalid", "keep": "kept, compared with nothing"}
    text = f"{invalid:,} rows have no usable vector: {aside.get(str(handling), 'refused')}." if invalid else "None."
    terms.append(("Invalid rows", text))
    if histogram.alone:
        text = f"{histogram.alone:,} rows rank first among the rows compared with them: no preferred row, no score."
        if by_references_alone(facts):
            text = f"Of {histogram.alone:,} rows no reference row was found that is similar enough."
        terms.append(("Rows without a score", text))
    return terms


def tiles(data: ReportData) -> list[Tile]:
    """The numbers at the top."""
    facts, groups = data.facts, data.groups
    rows = int(facts["rows_in"])
    shown = [
        Tile(short_count(rows), "rows read", f"{int(facts.get('invalid', 0)):,} invalid"),
        Tile(short_count(int(facts["duplicates"])), "rows removed", percent(int(facts["duplicates"]), rows)),
        Tile(short_count(int(facts["kept"])), "rows kept", percent(int(facts["kept"]), rows)),
        Tile(short_count(groups.count), "groups of duplicates", _group_note(groups), "#groups"),
    ]
    if groups.largest:
        shown.append(Tile(f"{groups.largest[0].rows:,}", "rows in the largest group", "see it", "#group-1"))
    if data.pairs.above:
        shown.append(Tile(f"{data.pairs.above[0].score:.4f}", "least similar pair removed", "see it", "#above"))
    if facts.get("seconds"):
        total = duration(float(facts["seconds"].get("in all", 0)))
        shown.append(Tile(total, "total time", "see the phases", "#phases"))
    return shown


def _group_note(groups: Groups) -> str:
    return f"median {groups.median} rows" if groups.count else ""


def short_count(number: int) -> str:
    return f"{number:,}" if number < 10_000_000 else formatting.short(number)


def duration(seconds: float) -> str:
    """A time span in at most two units.

    >>> duration(0.42), duration(75), duration(3 * 3600 + 240), duration(2 * 86400)
    ('0.4 s', '1 min 15 s', '3 h 4 min', '2 d 0 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    for large, small, unit, part in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if seconds >= large:
            return f"{int(seconds // large)} {unit} {int(seconds % large // small)} {part}"
    raise AssertionError  # the last unit takes all from 60 s on


def alternatives(data: ReportData) -> list[Alternative]:
    """What smaller and larger ``eps`` would remove, from the scores that are stored: no new comparison is needed."""
    eps = float(data.facts["eps"])
    complete = data.facts.get("complete_eps")
    values = sorted({round(value, 3) for value in (eps / 4, eps / 2, eps * 0.8, eps * 1.2, eps * 2) if value >= 0.001})
    rows = [(value, data.histogram.removed(value), False) for value in values if value < 1 and value != eps]
    rows.append((eps, int(data.facts["duplicates"]), True))
    return [
        Alternative(
            eps=f"{value:.6g}",
            rows=f"{removed:,}",
            share=percent(removed, data.histogram.rows),
            is_this=this,
            at_least=complete is not None and value > float(complete) + 1e-12,
        )
        for value, removed, this in sorted(rows)
    ]


def phases(facts: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Name, seconds and share of the total of each phase."""
    seconds = {name: float(value) for name, value in facts["seconds"].items()}
    total = seconds.pop("in all", sum(seconds.values())) or 1.0
    rest = total - sum(seconds.values())
    listed = [(name, value, value / total) for name, value in seconds.items()]
    return [*listed, ("checks before, and the summary", rest, rest / total)] if rest > 0.05 * total else listed


def group_sizes(groups: Groups) -> list[tuple[str, int, int]]:
    """Groups of 2, 3, 4 – 7, 8 – 15 … rows: their size, number, and the rows they lose."""
    bounds, listed = [2, 3, 4], []
    while groups.count and bounds[-1] * 2 <= groups.sizes[0]:
        bounds.append(bounds[-1] * 2)
    for low, high in zip(bounds, [*bounds[1:], int(groups.sizes[0]) + 1 if groups.count else 0], strict=True):
        inside = (groups.sizes >= low) & (groups.sizes < high)
        if inside.any():
            size = f"{low:,}" if high == low + 1 else f"{low:,} – {high - 1:,}"
            counts = groups.counts[inside]
            listed.append((size, int(counts.sum()), int(((groups.sizes[inside] - 1) * counts).sum())))
    return listed


def settings(facts: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Name, value, and whether it differs from the default, of every Param; those without a value are left out."""
    params = facts.get("parameters") or {}
    listed = []
    for name, value in sorted(params.items()):
        if value is not None:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            listed.append((name, text, name in DEFAULTS and value != DEFAULTS[name]))
    return listed


def surroundings(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Versions, hardware and backends, as far as the run noted them."""
    listed = [
        (name, str(facts[name])) for name in ("backend", "clusterer", "input_version", "finished") if facts.get(name)
    ]
    listed += [(name, str(value)) for name, value in (facts.get("hardware") or {}).items()]
    return listed + [(name, str(value)) for name, value in (facts.get("versions") or {}).items()]
