"""``pairs`` and ``groups``: which rows are similar to which, and the groups they form."""

from __future__ import annotations

import argparse

from spark_semdedup.cli import options
from spark_semdedup.cli.command import Command, Settings, Step
from spark_semdedup.runs.relations import groups, pairs
from spark_semdedup.spark.files import join


def _pairs_options(parser: argparse.ArgumentParser) -> None:
    options.add_source(parser)
    options.add_output(parser, "id_a, id_b and cosine_sim_score of every pair of similar rows")
    options.add_centroids(parser)


def _pairs(args: argparse.Namespace, settings: Settings) -> Step:
    source, target, saved = options.source_from(args), options.target_from(args), options.saved_from(args, settings)
    return lambda job: pairs(job, source, target, settings, saved).as_text()


def _groups_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("result", metavar="RESULT", help="folder that a run wrote, with similarities and duplicates")
    options.add_output(parser, "id, group_id, representative and size of every row")


def _groups(args: argparse.Namespace, settings: Settings) -> Step:
    target = options.target_from(args)
    paths = join(args.result, "similarities"), join(args.result, "duplicates")
    return lambda job: groups(job, *paths, target).as_text()


COMMANDS = (
    Command(
        "pairs",
        "list all pairs of similar rows",
        "--input PATH … --output PATH",
        {name: param for name, param in options.RUN_PARAMS.items() if name != "keepRule"},
        _pairs_options,
        _pairs,
    ),
    Command(
        "groups",
        "group each kept row of a run with the removed rows that lead to it",
        "RESULT --output PATH",
        {},
        _groups_options,
        _groups,
    ),
)
