"""``sweep``: which eps to choose."""

from __future__ import annotations

import argparse

from spark_semdedup.analysis.sweep import EXAMPLES, GRID
from spark_semdedup.cli import options
from spark_semdedup.cli.command import Command, Settings, Step
from spark_semdedup.runs.preflight import Job
from spark_semdedup.runs.sweep import sweep


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("result", metavar="RESULT", help="folder that a run wrote")
    grid = ", ".join(f"{eps:g}" for eps in GRID)
    eps_help = f"values to look at (default: those of {grid} that the scores are complete for)"
    parser.add_argument("--eps", nargs="+", type=options.positive_number, metavar="EPS", help=eps_help)
    examples_help = f"pairs to show on either side of each value (default: {EXAMPLES})"
    parser.add_argument("--examples", metavar="N", type=options.count_or_none, default=EXAMPLES, help=examples_help)
    options.add_texts(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _prepare(args: argparse.Namespace, settings: Settings) -> Step:
    source = options.texts_from(args)

    def step(job: Job) -> str:
        texts = None if source is None else source.read(job.spark)
        text_col = args.text_col or "text"
        found = sweep(args.result, args.eps, examples=args.examples, texts=texts, text_col=text_col, spark=job.spark)
        return found.as_json() if args.json else found.as_text()

    return step


COMMAND = Command(
    "sweep", "say what other values of eps would remove, from a run's similarities", "RESULT", {}, _options, _prepare
)
