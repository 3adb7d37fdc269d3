"""``explain``: why a row went or stayed."""

from __future__ import annotations

import argparse

from spark_semdedup.cli import options
from spark_semdedup.cli.command import Command, Settings, Step
from spark_semdedup.runs.explain import explain
from spark_semdedup.runs.preflight import Job


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("result", metavar="RESULT", help="folder that a run wrote")
    parser.add_argument("--id", required=True, metavar="ID", help="id of the row")
    options.add_texts(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _prepare(args: argparse.Namespace, settings: Settings) -> Step:
    source = options.texts_from(args)

    def step(job: Job) -> str:
        dataset = None if source is None else source.read(job.spark)
        text_col = args.text_col or ("text" if dataset is not None and "text" in dataset.columns else None)
        found = explain(args.result, args.id, dataset=dataset, text_col=text_col, spark=job.spark)
        return found.as_json() if args.json else found.as_text()

    return step


COMMAND = Command("explain", "say why a row of a run was removed or kept", "RESULT --id ID", {}, _options, _prepare)
