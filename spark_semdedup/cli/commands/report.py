"""``report``: a page about a finished run, and its rows for Embedding Atlas."""

from __future__ import annotations

import argparse

from spark_semdedup.cli.command import Command, Settings, Step
from spark_semdedup.cli.options import UsageError
from spark_semdedup.cli.reporting import add_atlas, add_text_col
from spark_semdedup.formatting import aligned
from spark_semdedup.runs.preflight import Job
from spark_semdedup.runs.report import ReportTarget, write_report
from spark_semdedup.runs.source import Source


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("result", metavar="OUT", help="folder that the run wrote")
    group = parser.add_argument_group("texts")
    texts_help = "the run's input; without it only kept rows have texts"
    group.add_argument("--texts", nargs="+", metavar="PATH", help=texts_help)
    group.add_argument("--texts-table", metavar="TABLE", help="table that is the run's input, instead of --texts")
    format_help = "any format Spark reads (default: parquet)"
    group.add_argument("--texts-format", metavar="FORMAT", default="parquet", help=format_help)
    add_text_col(group)
    group = parser.add_argument_group("output")
    group.add_argument("--output", metavar="FILE", help="HTML file to write (default: OUT/report.html)")
    add_atlas(group)
    overwrite_help = "replace another file or folder; an earlier report is replaced anyway"
    group.add_argument("--overwrite", action="store_true", help=overwrite_help)


def _prepare(args: argparse.Namespace, settings: Settings) -> Step:
    if args.texts and args.texts_table:
        raise UsageError("--texts and --texts-table are both set: give one")
    texts = None
    if args.texts or args.texts_table:
        texts = Source(tuple(args.texts or ()), args.texts_table, args.texts_format)
    target = ReportTarget(args.result, args.output, args.export_atlas, args.text_col, overwrite=args.overwrite)

    def step(job: Job) -> str:
        target.check(job, texts)
        return aligned(write_report(job, target, texts).items())

    return step


COMMAND = Command(
    "report",
    "write a page about a run: scores, groups, pairs side by side, a map of the clusters",
    "OUT",
    {},
    _options,
    _prepare,
)
