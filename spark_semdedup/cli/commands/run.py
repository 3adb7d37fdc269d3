"""``run``: the whole job."""

from __future__ import annotations

import argparse

from spark_semdedup.cli import options
from spark_semdedup.cli.command import Command, Settings, Step
from spark_semdedup.cli.reporting import add_report, reported
from spark_semdedup.duplicates.groups import KINDS
from spark_semdedup.errors import SemDedupError
from spark_semdedup.runs.incremental import Incremental
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.steps import run
from spark_semdedup.runs.texts import TEXT_PARAMS, DocumentEmbedder
from spark_semdedup.runs.wanted import CHOICES, DEFAULT, Wanted
from spark_semdedup.text_params import HasTextModel


def _options(parser: argparse.ArgumentParser) -> None:
    options.add_source(parser)
    options.add_text_column(parser, required=False)
    options.add_output(parser, "centroids/, similarities/, duplicates/, deduplicated/, summary.json")
    resume_help = "continue an interrupted run of the same input and settings; without one, begin"
    parser.add_argument("--resume", action="store_true", help=resume_help)
    keep_help = "keep _stages/: each row's cluster and pairs, and the metrics of each phase"
    parser.add_argument("--keep-stages", action="store_true", help=keep_help)
    embeddings_help = "keep embeddings/ of a run that embeds texts, for further runs"
    parser.add_argument("--keep-embeddings", action="store_true", help=embeddings_help)
    force_help = "run even if the shuffle will not fit on the local disk"
    parser.add_argument("--force", action="store_true", help=force_help)
    options.add_output_format(parser)
    options.add_centroids(parser)
    group = parser.add_argument_group("results")
    results_help = f"what to write, separated by commas, of {', '.join(CHOICES)} (default: {','.join(DEFAULT)})"
    group.add_argument("--results", metavar="NAMES", help=results_help)
    group.add_argument("--write-pairs", action="store_true", help="write pairs/ as well: all pairs of similar rows")
    groups_help = "what makes a group in groups/: tree (of max_id) or components (of the pairs) (default: tree)"
    group.add_argument("--groups-by", metavar="KIND", help=groups_help)
    _add_incremental(parser)
    add_report(parser)


def _add_incremental(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("index and reference rows")
    group.add_argument("--write-index", metavar="PATH", help="write an index, which later batches are compared with")
    rows_help = "which rows it holds: kept, or all, removed ones too (default: what --keep-rule needs)"
    group.add_argument("--index-rows", metavar="ROWS", help=rows_help)
    against_help = "index of earlier batches, whose rows precede the input's; settings and centroids are the index's"
    group.add_argument("--against", metavar="INDEX", help=against_help)
    group.add_argument("--update-index", action="store_true", help="add the input to that index as its next batch")
    only_help = "remove only what is similar to reference rows; the input's rows are not compared with one another"
    group.add_argument("--reference-only", action="store_true", help=only_help)
    table_help = "files of embeddings to keep apart from, instead of an index (with --reference-only)"
    group.add_argument("--against-input", nargs="+", metavar="PATH", help=table_help)
    format_help = "their format (default: parquet)"
    group.add_argument("--against-format", metavar="FORMAT", default="parquet", help=format_help)


def incremental_from(args: argparse.Namespace) -> Incremental | None:
    """What options say of an index or reference rows; None for nothing. ``UsageError`` where they contradict."""
    table = Source(tuple(args.against_input), None, args.against_format) if args.against_input else None
    flags = {"reference_only": args.reference_only, "update": args.update_index, "index_rows": args.index_rows}
    try:
        asked = Incremental(args.against, table, write_to=args.write_index, **flags)
    except SemDedupError as error:
        raise options.UsageError(str(error)) from None
    return asked if asked != Incremental() else None


def _prepare(args: argparse.Namespace, settings: Settings) -> Step:
    source, target, saved = options.source_from(args), options.target_from(args), options.saved_from(args, settings)
    wanted = wanted_from(args)
    embedder, asked = _embedder(args, settings), incremental_from(args)
    step = reported(args, source, lambda job: run(job, source, target, settings, saved, wanted, embedder, asked))
    return lambda job: step(job).as_text()


def wanted_from(args: argparse.Namespace) -> Wanted:
    """The results that options name; ``UsageError`` for names that are none."""
    names = set(DEFAULT if args.results is None else args.results.split(","))
    names |= {"pairs"} if args.write_pairs else set()
    if args.groups_by is not None and "groups" not in names:
        raise options.UsageError("--groups-by is set, but groups are not among --results: add them")
    try:
        return Wanted.of(names, args.groups_by or KINDS[0])
    except SemDedupError as error:
        raise options.UsageError(f"--results {args.results}: {error}") from None


def _embedder(args: argparse.Namespace, settings: Settings) -> DocumentEmbedder | None:
    """How to embed texts, where an option names their column. Takes the Params of it out of ``settings``."""
    given = {name: settings.pop(name) for name in sorted(TEXT_PARAMS & settings.keys())}
    if args.text_col is None:
        unused = [options.option_name(name) for name in given] + ["--keep-embeddings"] * args.keep_embeddings
        if unused:
            raise options.UsageError(f"{', '.join(unused)}: for texts alone; name their column with --text-col")
        return None
    if "model" not in given:
        if not given and (args.report or args.export_atlas):
            return None  # the column of texts that the report shows
        raise options.UsageError(
            f"--text-col {args.text_col}: --model is missing: give the model to embed the texts with, or --report or "
            "--export-atlas to show them"
        )
    backend = {name: settings[name] for name in ("backend",) if name in settings}
    return DocumentEmbedder(args.text_col, given | backend)


COMMAND = Command(
    "run",
    "deduplicate: all steps in one",
    "--input PATH … --output PATH",
    options.RUN_PARAMS | options.params_of(HasTextModel),
    _options,
    _prepare,
)
