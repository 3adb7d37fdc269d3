"""What ``run`` writes for people and monitoring when it has ended: page, rows for Embedding Atlas, metrics."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from spark_semdedup.report.html import require_libraries
from spark_semdedup.runs.metrics import refuse_unwritable, write_metrics
from spark_semdedup.runs.preflight import Job
from spark_semdedup.runs.report import ReportTarget, check_text_column, write_report
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.summary import Summary


def add_report(parser: argparse.ArgumentParser) -> None:
    """Options of ``run``, which has ``--text-col`` already."""
    group = parser.add_argument_group("report")
    group.add_argument("--report", action="store_true", help="write report.html, too, a page about the result")
    add_atlas(group)
    metrics_help = "file to write the counts to, for Prometheus or OpenMetrics"
    group.add_argument("--metrics-prometheus", metavar="FILE", help=metrics_help)


def add_text_col(group: argparse._ArgumentGroup) -> None:
    text_help = "column of texts to show (default: text, if the input has it)"
    group.add_argument("--text-col", metavar="COLUMN", help=text_help)


def add_atlas(group: argparse._ArgumentGroup) -> None:
    atlas_help = "folder ending in .parquet to write all rows to, for Embedding Atlas"
    group.add_argument("--export-atlas", metavar="PATH", help=atlas_help)


def reported(args: argparse.Namespace, source: Source, run: Callable[[Job], Summary]) -> Callable[[Job], Summary]:
    """``run``, and after it the files that the options of ``add_report`` ask for, which are checked before it."""
    target = ReportTarget(
        args.output,
        atlas=args.export_atlas,
        text_col=args.text_col,
        page=args.report,
        overwrite=args.overwrite,
        resume=args.resume,
    )

    def step(job: Job) -> Summary:
        if args.report:
            require_libraries()
        if target.phases:
            check_text_column(job, source, args.text_col)
            target.check_paths(job, source)
        if args.metrics_prometheus:
            refuse_unwritable(job.files, args.metrics_prometheus)
        job.progress.later = target.phases
        summary = run(job)
        if target.phases:
            summary.results |= write_report(job, target, source)
        if args.metrics_prometheus:
            write_metrics(job.files, args.output, args.metrics_prometheus)
            summary.results["metrics"] = args.metrics_prometheus
        return summary

    return step
