"""``run``: the whole job."""

from __future__ import annotations

import argparse

from spark_semdedup.cli import options
from spark_semdedup.cli.command import Command, Settings, Step
from spark_semdedup.cli.reporting import add_report, reported
from spark_semdedup.runs.steps import run


def _options(parser: argparse.ArgumentParser) -> None:
    options.add_source(parser)
    options.add_output(parser, "centroids/, similarities/, duplicates/, deduplicated/, summary.json")
    resume_help = "continue an interrupted run of the same input and settings; without one, begin"
    parser.add_argument("--resume", action="store_true", help=resume_help)
    keep_help = "keep _stages/: each row's cluster and pairs, and the metrics of each phase"
    parser.add_argument("--keep-stages", action="store_true", help=keep_help)
    options.add_output_format(parser)
    options.add_centroids(parser)
    add_report(parser)


def _prepare(args: argparse.Namespace, settings: Settings) -> Step:
    source, target, saved = options.source_from(args), options.target_from(args), options.saved_from(args, settings)
    step = reported(args, source, lambda job: run(job, source, target, settings, saved))
    return lambda job: step(job).as_text()


COMMAND = Command(
    "run", "deduplicate: all steps in one", "--input PATH … --output PATH", options.RUN_PARAMS, _options, _prepare
)
