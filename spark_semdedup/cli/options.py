"""Options of the command line, made from the Params of the stages."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pyspark.ml.param import Param

from spark_semdedup.converters import INIT_MODES
from spark_semdedup.errors import SemDedupError
from spark_semdedup.params import (
    DEFAULTS,
    ClusteringParams,
    CoverageParams,
    DecisionParams,
    HasBackend,
    HasColumns,
    HasIdCol,
    HasInvalid,
    HasMaxPairs,
    HasSeed,
    KeepParams,
    PairwiseParams,
    RankingParams,
    SemDedupParams,
    SemDedupStageParams,
)
from spark_semdedup.runs.preflight import SavedCentroids
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.target import Target
from spark_semdedup.text_params import HasTextModel

PROGRAM = "spark-semdedup"

HEADINGS: tuple[tuple[type[SemDedupParams], str], ...] = (
    (HasIdCol, "columns"),
    (HasColumns, "columns"),
    (HasTextModel, "embedding of texts"),
    (HasInvalid, "rows that cannot be compared"),
    (ClusteringParams, "clustering"),
    (HasSeed, "clustering"),
    (RankingParams, "which row is kept"),
    (CoverageParams, "which rows are compared"),
    (DecisionParams, "decision"),
    (KeepParams, "decision"),
    (HasMaxPairs, "decision"),
    (HasBackend, "computation"),
    (PairwiseParams, "computation"),
)
"""The heading of a Param in ``--help``, by the class that defines it; of others: "further settings"."""


class UsageError(SemDedupError):
    """A command line that cannot be understood."""


def option_name(param: str) -> str:
    """The option that sets a Param.

    >>> option_name("whichToKeep"), option_name("k")
    ('--which-to-keep', '--k')
    """
    return "--" + re.sub(r"(?<!^)([A-Z])", r"-\1", param).lower()


def with_option_names(message: str, options: Container[str]) -> str:
    """A message that names Params or arguments, with the options that set them. What is quoted stays as it is, and so
    do names of one word that no value follows, which may be words.

    >>> with_option_names("idCol='k=3' is no column; k=4: set handleInvalid to skip", {"--id-col", "--k"})
    "--id-col='k=3' is no column; --k=4: set handleInvalid to skip"
    """

    def named(found: re.Match[str]) -> str:
        option = option_name(found[0]).replace("_", "-")
        is_name = found["name"] and (found["value"] or not found[0].isalpha() or not found[0].islower())
        return option if is_name and option in options else found[0]

    return _QUOTED_OR_NAME.sub(named, message)


_QUOTED_OR_NAME = re.compile(
    r"""
    (?<!\w) (?: '(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" )
    | (?<![\w.=/:-]) (?P<name> [a-z]+ (?:[A-Z][a-z]*|_[a-z]+)* ) (?!\w) (?= (?P<value> =? ) )
    """,
    re.VERBOSE,
)


def params_of(stage: type[SemDedupParams], leave_out: Iterable[str] = ()) -> dict[str, Param[Any]]:
    """The Params of a stage by name, in the order of its classes."""
    values = {name: value for owner in reversed(stage.__mro__) for name, value in vars(owner).items()}
    return {n: value for n, value in values.items() if isinstance(value, Param) and n not in leave_out}


RUN_PARAMS = params_of(SemDedupStageParams, leave_out={"metadataCols"})
"""Those of the whole job. Only the cluster step writes ``metadataCols``."""


def add_params(parser: argparse.ArgumentParser, params: Mapping[str, Param[Any]]) -> None:
    """One option for each Param, under its heading."""
    titles = {name: _heading(name) for name in params}
    order = [*dict.fromkeys(title for _, title in HEADINGS), "further settings"]
    for title in sorted(set(titles.values()), key=order.index):
        group = parser.add_argument_group(title)
        for name in (name for name in params if titles[name] == title):
            default = f" (default: {DEFAULTS[name]})" if name in DEFAULTS else ""
            doc = params[name].doc + (", or the path of a saved model" if name == "initMode" else "") + default
            group.add_argument(
                option_name(name),
                dest=name,
                metavar=_metavar(name),
                nargs="+" if takes_list(params[name]) else None,
                help=doc.replace("%", "%%"),
            )


def _heading(name: str) -> str:
    return next((title for owner, title in HEADINGS if name in vars(owner)), "further settings")


def _metavar(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).upper()


def takes_list(param: Param[Any]) -> bool:
    """Whether a Param's value is a list of names."""
    try:
        param.typeConverter(["name"])
    except SemDedupError:
        return False
    return True


def settings_from(args: argparse.Namespace, params: Mapping[str, Param[Any]]) -> dict[str, Any]:
    """The Params that options set, converted and checked by the Params themselves."""
    given = {name: getattr(args, name) for name in params if getattr(args, name) is not None}
    return {name: _value(params[name], text) for name, text in given.items()}


def _value(param: Param[Any], text: str | list[str]) -> Any:
    """A Param's value from the text of an option: the text itself, or its reading as a number or truth value."""
    readings = [text] if isinstance(text, list) else [text, *_spelled(text)]
    for reading in readings[:-1]:
        with suppress(SemDedupError):
            return param.typeConverter(reading)
    return param.typeConverter(readings[-1])


def _spelled(text: str) -> list[Any]:
    """Readings of a text as a truth value or a number; empty for others."""
    if text in ("true", "false"):
        return [text == "true"]
    try:
        number = float(text)
    except ValueError:
        return []
    # A float cannot hold every 64-bit seed.
    return [int(text) if re.fullmatch(r"[+-]?\d+", text.strip()) else number]


def add_source(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input")
    group.add_argument("--input", nargs="+", metavar="PATH", help="files or folders to read, of any file system")
    group.add_argument("--input-table", metavar="TABLE", help="table to read, instead of --input")
    format_help = "any format Spark reads: parquet, json, orc, … (default: parquet)"
    group.add_argument("--input-format", metavar="FORMAT", default="parquet", help=format_help)
    option_help = "option of the reader; may be repeated"
    group.add_argument("--input-option", metavar="K=V", action="append", default=[], help=option_help)
    group.add_argument("--input-glob", metavar="GLOB", help="read only files whose name matches, such as '*.parquet'")


def add_texts(parser: argparse.ArgumentParser) -> None:
    """The rows that a run read, to show more of them than their ids."""
    group = parser.add_argument_group("texts")
    texts_help = "the rows that the run read: files or folders, in the format of --texts-format"
    group.add_argument("--texts", nargs="+", metavar="PATH", help=texts_help)
    format_help = "any format Spark reads (default: parquet)"
    group.add_argument("--texts-format", metavar="FORMAT", default="parquet", help=format_help)
    group.add_argument("--text-col", metavar="COLUMN", help="column of the texts (default: text)")


def texts_from(args: argparse.Namespace) -> Source | None:
    """The rows that options of ``add_texts`` name, if any."""
    if args.texts is None:
        if args.text_col is not None:
            raise UsageError("--text-col is set, but --texts is not: give the rows that have it")
        return None
    return Source(tuple(args.texts), None, args.texts_format)


def add_output(parser: argparse.ArgumentParser, what: str) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--output", metavar="PATH", help=f"folder to write: {what}")
    group.add_argument("--overwrite", action="store_true", help="replace an existing result")


def add_output_format(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output of the kept rows")
    format_help = "any format Spark writes (default: parquet)"
    group.add_argument("--output-format", metavar="FORMAT", default="parquet", help=format_help)
    option_help = "option of the writer; may be repeated"
    group.add_argument("--output-option", metavar="K=V", action="append", default=[], help=option_help)
    group.add_argument("--output-table", metavar="TABLE", help="table to write them to, instead of a folder")


def add_centroids(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--centroids", metavar="PATH", help="saved model whose centroids to use instead of fitting any")


_HAVE_SCHEMAS = ("parquet", "orc")
"""Formats whose files say which columns they have, and whose readers can ask all of them."""


def source_from(args: argparse.Namespace) -> Source:
    """The input that options describe; ``UsageError`` where they describe none, or two."""
    if (args.input is None) == (args.input_table is None):
        raise UsageError(f"--input and --input-table are both {'unset' if args.input is None else 'set'}: give one")
    options = _pairs("--input-option", args.input_option)
    if args.input_format in _HAVE_SCHEMAS and "mergeschema" not in map(str.lower, options):
        # By default Spark reads the schema of one file: it would silently drop columns of the others, and fail after
        # hours at a file that it cannot read.
        options["mergeSchema"] = "true"
    return Source(tuple(args.input or ()), args.input_table, args.input_format, options, args.input_glob)


def target_from(args: argparse.Namespace, *, needs_folder: bool = True) -> Target:
    """The output that options describe; ``UsageError`` where they describe none."""
    table = getattr(args, "output_table", None)
    if args.output is None and (needs_folder or table is None):
        raise UsageError("--output is missing: give the folder to write to")
    resume = getattr(args, "resume", False)
    if resume and args.overwrite:
        raise UsageError("--resume and --overwrite are both set: one continues a run, the other begins again")
    return Target(
        path=args.output,
        format=getattr(args, "output_format", "parquet"),
        options=_pairs("--output-option", getattr(args, "output_option", [])),
        table=table,
        overwrite=args.overwrite,
        resume=resume,
        keep_stages=getattr(args, "keep_stages", False),
        keep_embeddings=getattr(args, "keep_embeddings", False),
        force=getattr(args, "force", False),
    )


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    for text in texts:
        if not text.partition("=")[1] or text.startswith("="):
            shown_text = text if text.isidentifier() else "(not shown, it may hold a secret)"
            raise UsageError(f"{option} {shown_text}: it must be NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)


def add_text_column(parser: argparse.ArgumentParser, *, required: bool) -> None:
    what = "column with the texts to embed: string"
    if not required:
        what += " (unset: the input has embeddings)"
    parser.add_argument("--text-col", metavar="TEXT_COL", required=required, help=what)


INITIAL = "initial centroids"
"""Key, among the settings, of the path given to ``--init-mode``."""


def all_settings_from(args: argparse.Namespace, params: Mapping[str, Param[Any]]) -> dict[str, Any]:
    """The Params that options set; a path given to ``--init-mode`` under ``INITIAL``."""
    initial = getattr(args, "initMode", None)
    if initial is None or initial in INIT_MODES:
        return settings_from(args, params)
    others = {name: param for name, param in params.items() if name != "initMode"}
    return {**settings_from(args, others), INITIAL: initial}


def saved_from(args: argparse.Namespace, settings: dict[str, Any]) -> SavedCentroids:
    """The saved centroids that options name, taken out of the settings."""
    return SavedCentroids(model=args.centroids, initial=settings.pop(INITIAL, None))


def whole_count(text: str) -> int:
    """A whole number, which may be written as 1e9."""
    number = positive_number(text)
    return int(number) if number.is_integer() else whole_number(text)


def positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} cannot be used: it must be a number above 0")
    return number


def count_or_none(text: str) -> int:
    """A whole number, or 0."""
    return 0 if text == "0" else whole_number(text)


def whole_number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} cannot be used: it must be a whole number of at least 1")
    return int(text)
