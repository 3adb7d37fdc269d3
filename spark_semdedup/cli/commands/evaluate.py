"""``evaluate``: the recall of a finished run."""

from __future__ import annotations

import argparse

from spark_semdedup.analysis.recall import MISSED, SAMPLE_ROWS
from spark_semdedup.cli.command import Command, Settings, Step
from spark_semdedup.cli.options import add_source, params_of, source_from, whole_number
from spark_semdedup.params import HasBackend
from spark_semdedup.runs.evaluate import evaluate_step
from spark_semdedup.runs.target import Target


def _options(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--result", required=True, metavar="PATH", help="folder that the run wrote")
    group = parser.add_argument_group("sample")
    rows_help = f"rows to compare with all rows; each task holds their embeddings (default: {SAMPLE_ROWS})"
    group.add_argument("--sample-rows", metavar="N", type=whole_number, default=SAMPLE_ROWS, help=rows_help)
    seed_help = "another seed, another sample (default: 42)"
    group.add_argument("--seed", metavar="SEED", type=int, default=42, help=seed_help)
    group = parser.add_argument_group("output")
    missed_help = f"missed pairs to list at most, the most similar first (default: {MISSED})"
    group.add_argument("--missed", metavar="N", type=whole_number, default=MISSED, help=missed_help)
    output_help = "JSON file to write too, or a folder to write evaluation.json in"
    group.add_argument("--output", metavar="PATH", help=output_help)
    group.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _prepare(args: argparse.Namespace, settings: Settings) -> Step:
    source, target = source_from(args), Target(args.output, overwrite=args.overwrite)
    numbers = {name: getattr(args, name) for name in ("sample_rows", "seed", "missed")}
    return lambda job: evaluate_step(job, source, args.result, settings, target, **numbers).as_text()


COMMAND = Command(
    "evaluate",
    "estimate how much a run found: a sample of its rows, compared exactly with all of them",
    "--input PATH … --result PATH",
    params_of(HasBackend),
    _options,
    _prepare,
)
