"""``demo``: a run on a small real corpus, and the pairs it found, side by side."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from pyspark.sql import functions as F

from spark_semdedup.cli.command import Command, Settings, Step
from spark_semdedup.cli.options import INITIAL, RUN_PARAMS, UsageError
from spark_semdedup.converters import INIT_MODES
from spark_semdedup.errors import ResultExistsError, shown
from spark_semdedup.params import HasColumns, HasIdCol
from spark_semdedup.report.html import require_libraries
from spark_semdedup.runs.manifest import is_own_run
from spark_semdedup.runs.preflight import Job
from spark_semdedup.runs.report import ReportTarget, write_report
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.steps import run
from spark_semdedup.runs.target import Target
from spark_semdedup.spark.files import join
from spark_semdedup.spark.parquet import own_reader

PAIRS_SHOWN = 3
"""Pairs of each kind: the most similar ones, and those just above the threshold."""

TEXT_SHOWN = 320
"""Characters of each text."""


@dataclass(frozen=True)
class Pair:
    """A removed row and the preferred one that it is most similar to."""

    id: str
    max_id: str
    score: float
    text: str
    max_text: str


def _options(parser: argparse.ArgumentParser) -> None:
    output_help = "folder to write, as run does (default: demo-output)"
    parser.add_argument("--output", default="demo-output", metavar="PATH", help=output_help)
    parser.add_argument("--report", action="store_true", help="write report.html, too, a page about the result")


def _prepare(args: argparse.Namespace, settings: Settings) -> Step:
    if INITIAL in settings:
        raise UsageError(
            f"argument --init-mode: {shown(settings[INITIAL])} cannot be used: it must be {' or '.join(INIT_MODES)}"
        )
    return lambda job: run_demo(job, args.output, settings, page=args.report)


COMMAND = Command(
    "demo",
    "run on a small real corpus that comes with the package, and show what was found",
    "",
    {name: param for name, param in RUN_PARAMS.items() if name not in vars(HasColumns) | vars(HasIdCol)},
    _options,
    _prepare,
)


def run_demo(job: Job, output: str, settings: Settings, *, page: bool = False) -> str:
    """Deduplicates the sample into ``output``, replacing an earlier run's result. Returns the summary and some pairs.

    ``page``: whether to write ``report.html``, too.

    Raises ``ResultExistsError`` where ``output`` is something else than a run's folder.
    """
    if not job.files.is_vacant(output) and not is_own_run(job.files, output):
        raise ResultExistsError(
            f"output={shown(output, 400)} exists already and is not a run's result: give another folder"
        )
    with resources.as_file(resources.files("spark_semdedup") / "data" / "debian-sample.parquet") as sample:
        source = Source((str(sample),))
        report = ReportTarget(output, page=page)
        if page:
            require_libraries()
        job.progress.later = report.phases
        summary = run(job, source, Target(output, overwrite=True), settings)
        if page:
            summary.results |= write_report(job, report, source)
        pairs = _pairs(job, source, output)
    width = min(shutil.get_terminal_size((100, 24)).columns, 160)
    return "\n".join([summary.as_text(), *_page(pairs, width)])


def _pairs(job: Job, source: Source, output: str) -> list[Pair]:
    """The duplicates whose preferred row is kept, with both texts; the most similar first. The sample is small."""
    texts = source.read(job.spark).select("id", "text")
    duplicates = own_reader(job.spark).parquet(join(output, "duplicates"))
    of_kept = duplicates.join(duplicates.select(F.col("id").alias("max_id")), "max_id", "left_anti")
    others = texts.select(F.col("id").alias("max_id"), F.col("text").alias("max_text"))
    rows = of_kept.join(texts, "id").join(others, "max_id").collect()
    pairs = [Pair(row.id, row.max_id, row.cosine_sim_score, row.text, row.max_text) for row in rows]
    return sorted(pairs, key=lambda pair: (-pair.score, pair.id))


def _page(pairs: list[Pair], width: int) -> Iterator[str]:
    different = [pair for pair in pairs if _shown(pair.text) != _shown(pair.max_text)]
    most = _varied(different)
    least = _varied([pair for pair in reversed(different) if pair not in most])
    for title, chosen in (("The most similar pairs of different texts", most), ("Pairs just similar enough", least)):
        if chosen:
            yield f"\n{title}\n"
        for pair in chosen:
            yield from _side_by_side(pair, width)


def _varied(pairs: list[Pair]) -> list[Pair]:
    """The first few pairs, no two of them about the same kept row or the same family of names."""
    chosen: list[Pair] = []
    seen: set[Any] = set()
    for pair in pairs:
        marks = {pair.max_id, _family(pair.id), _family(pair.max_id), pair.text[:20], pair.max_text[:20]}
        if not marks & seen:
            chosen.append(pair)
            seen |= marks
        if len(chosen) == PAIRS_SHOWN:
            break
    return chosen


def _family(id_: str) -> str:
    """The first part of a package's name: ``linux`` of ``linux-image-6.1``."""
    return id_.split("-", 1)[0]


def _side_by_side(pair: Pair, width: int) -> Iterator[str]:
    column = (width - 5) // 2
    left = _column(f"kept: {pair.max_id}", pair.max_text, column)
    right = _column(f"removed: {pair.id}", pair.text, column)
    yield f"  similarity {pair.score:.4f}"
    for i in range(max(len(left), len(right))):
        halves = [lines[i] if i < len(lines) else "" for lines in (left, right)]
        yield f"  {halves[0]:<{column}} | {halves[1]}".rstrip()
    yield ""


def _column(title: str, text: str, width: int) -> list[str]:
    return [textwrap.shorten(title, width, placeholder=" …"), *textwrap.wrap(_shown(text), width)]


def _shown(text: str) -> str:
    """The beginning of a text, in one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= TEXT_SHOWN else flat[: TEXT_SHOWN - 1].rsplit(" ", 1)[0] + " …"
