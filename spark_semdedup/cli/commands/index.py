"""``index ACTION``: shows and changes an index of kept rows."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from spark_semdedup.cli.command import Command, Settings, Step
from spark_semdedup.cli.options import UsageError, count_or_none, option_name, whole_number
from spark_semdedup.index.index import RETAIN_HOURS
from spark_semdedup.runs.index import Ids, compact, info, refit, remove
from spark_semdedup.runs.source import Source

_ACTIONS = {
    "info": ("what it holds, and whether its centroids still fit", {"version", "json"}),
    "compact": ("merge small files into few", {"retain_hours"}),
    "remove": (
        "remove rows by their ids; rows that were duplicates of these do not come back by themselves",
        {"ids", "ids_from", "ids_format", "id_col", "retain_hours"},
    ),
    "refit": ("fit new centroids on its rows", {"k", "retain_hours"}),
}
"""Of each action: its help, and the options that it takes."""


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = -1.0
    if not 0 <= hours < 1e6:
        raise argparse.ArgumentTypeError(f"{text} cannot be used: it must be a number of hours of at least 0")
    return hours


def _options(parser: argparse.ArgumentParser) -> None:
    listed = "; ".join(f"{name}: {help_}" for name, (help_, _) in _ACTIONS.items())
    parser.add_argument("action", metavar="ACTION", choices=list(_ACTIONS), help=listed)
    parser.add_argument("--index", required=True, metavar="PATH", help="folder of the index")
    group = parser.add_argument_group("info")
    group.add_argument("--version", type=count_or_none, metavar="N", help="an earlier version (default: the newest)")
    group.add_argument("--json", action="store_true", default=None, help="print JSON")
    group = parser.add_argument_group("remove")
    group.add_argument("--ids", nargs="+", metavar="ID", help="ids to remove")
    group.add_argument("--ids-from", metavar="PATH", help="file or folder with ids to remove")
    format_help = "text (an id on each line), parquet (default) or any other format that Spark reads"
    group.add_argument("--ids-format", metavar="FORMAT", help=format_help)
    group.add_argument("--id-col", metavar="NAME", help="column of ids in it (default: id)")
    group = parser.add_argument_group("refit")
    group.add_argument("--k", type=whole_number, metavar="N", help="clusters (default: the square root of the rows)")
    group = parser.add_argument_group("compact, remove, refit")
    hours_help = f"delete versions that were replaced longer ago, and their files (default: {RETAIN_HOURS:g})"
    group.add_argument("--retain-hours", type=_hours, metavar="HOURS", help=hours_help)


def _prepare(args: argparse.Namespace, _: Settings) -> Step:
    _refuse_foreign(args)
    hours = RETAIN_HOURS if args.retain_hours is None else args.retain_hours
    ids = _ids(args) if args.action == "remove" else Ids()
    actions: dict[str, Callable[..., str]] = {
        "info": lambda job: info(job, args.index, args.version, as_json=bool(args.json)),
        "compact": lambda job: compact(job, args.index, hours),
        "remove": lambda job: remove(job, args.index, ids, hours),
        "refit": lambda job: refit(job, args.index, args.k, hours),
    }
    return actions[args.action]


def _refuse_foreign(args: argparse.Namespace) -> None:
    """``UsageError`` for an option of another action."""
    own = _ACTIONS[args.action][1]
    for name in sorted({name for _, names in _ACTIONS.values() for name in names} - own):
        if getattr(args, name) is not None:
            option, takes = option_name_of(name), ", ".join(map(option_name_of, sorted(own)))
            raise UsageError(f"{option} is no option of index {args.action}, which takes {takes}")


def option_name_of(name: str) -> str:
    """The option of an argument.

    >>> option_name_of("retain_hours")
    '--retain-hours'
    """
    return option_name(name).replace("_", "-")


def _ids(args: argparse.Namespace) -> Ids:
    if args.ids is None and args.ids_from is None:
        raise UsageError("--ids and --ids-from are both unset: give the ids to remove")
    if args.ids_from is None and (args.ids_format or args.id_col):
        raise UsageError("--ids-format and --id-col are about --ids-from, which is unset")
    source = Source((args.ids_from,), format=args.ids_format or "parquet") if args.ids_from else None
    return Ids(tuple(args.ids or ()), source, args.id_col or "id")


COMMAND = Command(
    "index",
    "show or change an index: info, compact, remove, refit",
    "ACTION --index PATH",
    {},
    _options,
    _prepare,
)
