"""``report``, and what ``run`` writes for people and monitoring once it has ended: page, Atlas rows, metrics."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from spark_semdedup.cli.options import UsageError
from spark_semdedup.formatting import aligned
from spark_semdedup.report.html import require_libraries
from spark_semdedup.runs.metrics import refuse_unwritable, write_metrics
from spark_semdedup.runs.preflight import Job
from spark_semdedup.runs.report import ReportTarget, check_text_column, write_report
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.summary import Summary


def add_report_command(parser: argparse.ArgumentParser) -> None:
    """Options of ``report``."""
    parser.add_argument("result", metavar="OUT", help="folder that the run wrote")
    group = parser.add_argument_group("texts")
    group.add_argument(
        "--texts",
        nargs="+",
        metavar="PATH",
        help="the run's input; without it only rows that remain have texts",
    )
    group.add_argument("--texts-table", metavar="TABLE", help="table that is the run's input, instead of --texts")
    group.add_argument(
        "--texts-format", metavar="FORMAT", default="parquet", help="any format Spark reads (default: parquet)"
    )
    _add_text_col(group)
    group = parser.add_argument_group("output")
    group.add_argument("--output", metavar="FILE", help="HTML file to write (default: OUT/report.html)")
    _add_atlas(group)
    group.add_argument(
        "--overwrite", action="store_true", help="replace another file or folder; an earlier report is replaced anyway"
    )


def add_report_to_run(parser: argparse.ArgumentParser) -> None:
    """Options of ``run``."""
    group = parser.add_argument_group("report")
    group.add_argument("--report", action="store_true", help="write report.html, too, a page about the result")
    _add_text_col(group)
    _add_atlas(group)
    group.add_argument(
        "--metrics-prometheus", metavar="FILE", help="file to write the counts to, for Prometheus or OpenMetrics"
    )


def _add_text_col(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--text-col", metavar="COLUMN", help="column of texts to show (default: text, if the input has it)"
    )


def _add_atlas(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--export-atlas", metavar="PATH", help="folder ending in .parquet to write all rows to, for Embedding Atlas"
    )


def report_command(args: argparse.Namespace) -> Callable[[Job], str]:
    """The step that ``report`` runs."""
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


def reported(args: argparse.Namespace, source: Source, run: Callable[[Job], Summary]) -> Callable[[Job], Summary]:
    """``run``, and after it what the options of ``add_report_to_run`` ask for. Checks come before."""
    target = ReportTarget(
        args.output,
        atlas=args.export_atlas,
        text_col=args.text_col,
        page=args.report,
        overwrite=args.overwrite or args.resume,
    )
    if args.text_col and not (args.report or args.export_atlas):
        raise UsageError("--text-col is for --report and --export-atlas: give one of them, too")

    def step(job: Job) -> Summary:
        if args.report:
            require_libraries()
        if target.stages:
            check_text_column(job, source, args.text_col)
            target.check_paths(job, source)
        if args.metrics_prometheus:
            refuse_unwritable(job.files, args.metrics_prometheus)
        job.progress.later = target.stages
        summary = run(job)
        if target.stages:
            summary.results |= write_report(job, target, source)
        if args.metrics_prometheus:
            write_metrics(job.files, args.output, args.metrics_prometheus)
            summary.results["metrics"] = args.metrics_prometheus
        return summary

    return step
