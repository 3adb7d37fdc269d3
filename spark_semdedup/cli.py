"""The command ``spark-semdedup``: one subcommand for the whole job, one for each of its steps.

Every Param of the stages is an option of the same name in kebab-case (``whichToKeep``: ``--which-to-keep``); its help,
default and checks are the Param's own. Exit status: 0; 2 where the command or its input cannot be used and no work was
begun; 1 where a run failed, or would (``doctor``); 130 where it was interrupted.
"""

from __future__ import annotations

import argparse
import io
import logging
import math
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from pyspark.ml.param import Param
from pyspark.sql import SparkSession

import spark_semdedup
from spark_semdedup import demo, doctor, steps
from spark_semdedup.clustering import EmbeddingKMeans
from spark_semdedup.datasets import Source, Target
from spark_semdedup.doctor import Diagnosis
from spark_semdedup.duplicates import IdentifyDuplicates, RemoveDuplicates
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.evaluation import MISSED, SAMPLE_ROWS
from spark_semdedup.pairwise import PairwiseSimilarity
from spark_semdedup.params import (
    DEFAULTS,
    INIT_MODES,
    ClusteringParams,
    CoverageParams,
    DecisionParams,
    HasBackend,
    HasColumns,
    HasIdCol,
    HasInvalid,
    HasSeed,
    PairwiseParams,
    RankingParams,
    SemDedupParams,
    SemDedupStageParams,
)
from spark_semdedup.redaction import redacted
from spark_semdedup.report import is_expected, one_line
from spark_semdedup.session import SessionError, given_session, local_session, stop_session
from spark_semdedup.sizing import Hardware
from spark_semdedup.surroundings import look_without_session

PROGRAM = "spark-semdedup"

HEADINGS: tuple[tuple[type[SemDedupParams], str], ...] = (
    (HasIdCol, "columns"),
    (HasColumns, "columns"),
    (HasInvalid, "rows that cannot be compared"),
    (ClusteringParams, "clustering"),
    (HasSeed, "clustering"),
    (RankingParams, "which row is kept"),
    (CoverageParams, "which rows are compared"),
    (DecisionParams, "decision"),
    (HasBackend, "computation"),
    (PairwiseParams, "computation"),
)
"""The heading in ``--help`` under which a Param stands, by the class that defines it; others: "further settings"."""


class UsageError(SemDedupError):
    """A command line that cannot be understood."""


# --- options from Params ------------------------------------------------------------------------------------


def option_name(param: str) -> str:
    """The option that sets a Param.

    >>> option_name("whichToKeep"), option_name("k")
    ('--which-to-keep', '--k')
    """
    return "--" + re.sub(r"(?<!^)([A-Z])", r"-\1", param).lower()


def params_of(*stages: type[SemDedupParams], leave_out: Iterable[str] = ()) -> dict[str, Param[Any]]:
    """The Params of stages by name, the classes' order kept."""
    found: dict[str, Param[Any]] = {}
    for stage in stages:
        for owner in reversed(stage.__mro__):
            found.update({n: p for n, p in vars(owner).items() if isinstance(p, Param) and n not in leave_out})
    return found


def add_params(parser: argparse.ArgumentParser, params: dict[str, Param[Any]]) -> None:
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


def settings_from(args: argparse.Namespace, params: dict[str, Param[Any]]) -> dict[str, Any]:
    """The Params that options set, converted and checked by the Params themselves."""
    given = {name: getattr(args, name) for name in params if getattr(args, name) is not None}
    return {name: _value(params[name], text) for name, text in given.items()}


def _value(param: Param[Any], text: str | list[str]) -> Any:
    """A Param's value from the text of an option: the text itself, or the number or truth value it spells."""
    readings = [text] if isinstance(text, list) else [text, *_spelled(text)]
    refused: list[SemDedupError] = []
    for reading in readings:
        with _noting(refused):
            return param.typeConverter(reading)
    said = " ".join(text) if isinstance(text, list) else text
    raise UsageError(f"{option_name(param.name)} {said}: {refused[-1]}") from None


@contextmanager
def _noting(refused: list[SemDedupError]) -> Iterator[None]:
    try:
        yield
    except SemDedupError as error:
        refused.append(error)


def _spelled(text: str) -> list[Any]:
    if text in ("true", "false"):
        return [text == "true"]
    try:
        number = float(text)
    except ValueError:
        return []
    # A float cannot hold every 64-bit seed.
    return [int(text) if re.fullmatch(r"[+-]?\d+", text.strip()) else number]


# --- options about data -------------------------------------------------------------------------------------


def add_source(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input")
    group.add_argument("--input", nargs="+", metavar="PATH", help="files or folders to read, of any file system")
    group.add_argument("--input-table", metavar="TABLE", help="table to read, instead of --input")
    group.add_argument(
        "--input-format",
        metavar="FORMAT",
        default="parquet",
        help="any format Spark reads: parquet, json, orc, … (default: parquet)",
    )
    group.add_argument(
        "--input-option", metavar="K=V", action="append", default=[], help="option of the reader; may be repeated"
    )
    group.add_argument("--input-glob", metavar="GLOB", help="read only files whose name matches, such as '*.parquet'")


def add_output(parser: argparse.ArgumentParser, what: str) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--output", metavar="PATH", help=f"folder to write: {what}")
    group.add_argument("--overwrite", action="store_true", help="replace a result that is there already")


def add_output_format(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output of the rows that remain")
    group.add_argument(
        "--output-format", metavar="FORMAT", default="parquet", help="any format Spark writes (default: parquet)"
    )
    group.add_argument(
        "--output-option", metavar="K=V", action="append", default=[], help="option of the writer; may be repeated"
    )
    group.add_argument("--output-table", metavar="TABLE", help="table to write them to, instead of a folder")


_HAVE_SCHEMAS = ("parquet", "orc")
"""Formats whose files say which columns they have, and whose readers can ask all of them."""


def source_from(args: argparse.Namespace) -> Source:
    """The input that options describe; ``UsageError`` where they describe none, or two."""
    if (args.input is None) == (args.input_table is None):
        raise UsageError(f"--input and --input-table are both {'unset' if args.input is None else 'set'}: give one")
    options = _pairs("--input-option", args.input_option)
    if args.input_format in _HAVE_SCHEMAS and "mergeschema" not in map(str.lower, options):
        # Spark looks into one file otherwise: columns that only others have would be lost without a word, and a file
        # that cannot be read would be found after hours.
        options["mergeSchema"] = "true"
    return Source(tuple(args.input or ()), args.input_table, args.input_format, options, args.input_glob)


def target_from(args: argparse.Namespace, *, needs_folder: bool = True) -> Target:
    """The output that options describe; ``UsageError`` where they describe none."""
    table = getattr(args, "output_table", None)
    if args.output is None and (needs_folder or table is None):
        raise UsageError("--output is missing: give the folder to write to")
    resume = getattr(args, "resume", False)
    if resume and args.overwrite:
        raise UsageError("--resume and --overwrite are both set: one goes on with a run, the other begins again")
    return Target(
        path=args.output,
        format=getattr(args, "output_format", "parquet"),
        options=_pairs("--output-option", getattr(args, "output_option", [])),
        table=table,
        overwrite=args.overwrite,
        resume=resume,
        keep_stages=getattr(args, "keep_stages", False),
    )


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    for text in texts:
        if not text.partition("=")[1] or text.startswith("="):
            shown_text = text if text.isidentifier() else "(not shown, it may hold a secret)"
            raise UsageError(f"{option} {shown_text}: it must be NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)


# --- commands -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A subcommand: its options, and a function that reads them and gives the step, which returns what to print."""

    help: str
    usage: str
    params: dict[str, Param[Any]]
    add_options: Callable[[argparse.ArgumentParser], None]
    prepare: Callable[[argparse.Namespace, dict[str, Any]], Callable[[steps.Job], str | Diagnosis]]
    without_session: Callable[[dict[str, Any], SemDedupError], Diagnosis] | None = None
    """What to say where no session can be started, if more than why."""


def _saved(args: argparse.Namespace, settings: dict[str, Any]) -> steps.SavedCentroids:
    return steps.SavedCentroids(model=args.centroids, initial=settings.pop(_INITIAL, None))


def _run_options(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_output(parser, "centroids/, similarities/, duplicates/, deduplicated/, summary.json")
    parser.add_argument(
        "--resume", action="store_true", help="go on with a run of the same input and settings that has not ended"
    )
    parser.add_argument(
        "--keep-stages", action="store_true", help="keep _stages/: each row's cluster and pairs, records of the stages"
    )
    add_output_format(parser)
    _centroids_option(parser)


def _centroids_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--centroids", metavar="PATH", help="saved model whose centroids to use instead of fitting any")


def _run(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[steps.Job], str]:
    source, target, saved = source_from(args), target_from(args), _saved(args, settings)
    return lambda job: steps.run(job, source, target, settings, saved).as_text()


def _cluster_options(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_output(parser, "centroid=N/ with the rows of each cluster, _centroids/")
    _centroids_option(parser)


def _cluster(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[steps.Job], str]:
    source, target, saved = source_from(args), target_from(args), _saved(args, settings)
    return lambda job: steps.cluster(job, source, target, settings, saved).as_text()


def _pairwise_options(parser: argparse.ArgumentParser) -> None:
    help_ = "folder of clusters: of the cluster step, or NeMo Curator's"
    parser.add_argument("--input", required=True, metavar="PATH", help=help_)
    parser.add_argument(
        "--centroids",
        metavar="PATH",
        help="saved model that assigned the rows, for --n-probe and --coverage exact (default: INPUT/_centroids)",
    )
    add_output(parser, "id, max_id, cosine_sim_score of every row")


def _pairwise(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[steps.Job], str]:
    target = target_from(args)
    return lambda job: steps.pairwise(job, args.input, target, settings, args.centroids).as_text()


def _identify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", required=True, metavar="PATH", help="folder of similarities")
    add_output(parser, "id, max_id, cosine_sim_score of the rows to remove")


def _identify(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[steps.Job], str]:
    target = target_from(args)
    return lambda job: steps.identify(job, args.input, target, settings).as_text()


def _remove_options(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--duplicates", required=True, metavar="PATH", help="folder of the duplicates to remove")
    parser.add_argument("--invalid", metavar="PATH", help="folder of the invalid rows that were set aside: remove too")
    add_output(parser, "the rows that remain")
    add_output_format(parser)


def _remove(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[steps.Job], str]:
    source, target = source_from(args), target_from(args, needs_folder=False)
    if args.output is not None and target.table is not None:
        raise UsageError("--output and --output-table are both set: give one")
    paths = {"duplicates": args.duplicates, "invalid": args.invalid}
    return lambda job: steps.remove(job, source, target, settings, **paths).as_text()


def _plan_options(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    _centroids_option(parser)
    group = parser.add_argument_group("what is planned for")
    group.add_argument("--rows", metavar="N", type=_count, help="rows of the data set that --input is a sample of")
    group.add_argument("--gpus", metavar="N", type=_whole, help="GPUs to plan for (default: this machine's processors)")
    group.add_argument(
        "--gpu-tflops",
        metavar="T",
        type=_positive,
        help="10^12 float16 operations per second of one GPU, by its data sheet; half is taken to be reached "
        "(default: 500)",
    )
    group.add_argument(
        "--network-gbps", metavar="G", type=_positive, help="10^9 bits per second of network for each GPU (default: 25)"
    )


def _plan(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[steps.Job], str]:
    source, saved = source_from(args), _saved(args, settings)
    hardware = None
    if args.gpus:
        hardware = Hardware.gpus(args.gpus, args.gpu_tflops or 500.0, args.network_gbps or 25.0)
    elif args.gpu_tflops or args.network_gbps:
        raise UsageError("--gpu-tflops and --network-gbps describe GPUs: say how many with --gpus")
    return lambda job: steps.plan(job, source, settings, saved, rows=args.rows, hardware=hardware).as_text()


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--result", required=True, metavar="PATH", help="folder that the run wrote")
    group = parser.add_argument_group("sample")
    rows_help = f"rows to compare with all rows; each task holds their embeddings (default: {SAMPLE_ROWS})"
    group.add_argument("--sample-rows", metavar="N", type=_whole, default=SAMPLE_ROWS, help=rows_help)
    group.add_argument(
        "--seed", metavar="SEED", type=int, default=42, help="another seed, another sample (default: 42)"
    )
    group = parser.add_argument_group("output")
    missed_help = f"missed pairs to list at most, the most similar first (default: {MISSED})"
    group.add_argument("--missed", metavar="N", type=_whole, default=MISSED, help=missed_help)
    group.add_argument(
        "--output", metavar="PATH", help="JSON file to write too, or a folder to write evaluation.json in"
    )
    group.add_argument("--overwrite", action="store_true", help="replace a file that is there already")


def _evaluate(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[steps.Job], str]:
    source = source_from(args)
    options: dict[str, Any] = {name: getattr(args, name) for name in ("sample_rows", "seed", "missed")}
    options["target"] = Target(args.output, overwrite=args.overwrite)
    return lambda job: steps.evaluate(job, source, args.result, settings, **options).as_text()


def _doctor_options(parser: argparse.ArgumentParser) -> None:
    """None of its own: it looks at what a run with the same options would use."""


def _doctor(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[steps.Job], Diagnosis]:
    return lambda job: doctor.examine(job.spark, settings)


def _doctor_without_session(settings: dict[str, Any], error: SemDedupError) -> Diagnosis:
    return doctor.diagnose(look_without_session(str(error)), settings)


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", default="demo-output", metavar="PATH", help="folder to write, as run does (default: demo-output)"
    )


def _demo(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[steps.Job], str]:
    if _INITIAL in settings:
        raise UsageError(
            f"argument --init-mode: {shown(settings[_INITIAL])} cannot be used: it must be {' or '.join(INIT_MODES)}"
        )
    return lambda job: demo.run(job, args.output, settings)


_RUN_PARAMS = params_of(SemDedupStageParams, leave_out={"metadataCols"})  # these are for the cluster step's output

COMMANDS = {
    "run": Command("deduplicate: all steps in one", "--input PATH … --output PATH", _RUN_PARAMS, _run_options, _run),
    "cluster": Command(
        "fit centroids and write the rows by cluster",
        "--input PATH … --output PATH",
        params_of(EmbeddingKMeans) | {"rankBy": RankingParams.rankBy},
        _cluster_options,
        _cluster,
    ),
    "pairwise": Command(
        "compare the rows of each cluster",
        "--input CLUSTERS --output PATH",
        # Clusters hold unit vectors; the centroids are an option of their own.
        params_of(PairwiseSimilarity, leave_out={"normalize", "centroidsPath"}),
        _pairwise_options,
        _pairwise,
    ),
    "identify": Command(
        "find the duplicates among the similarities",
        "--input SIMILARITIES --output PATH",
        params_of(IdentifyDuplicates),
        _identify_options,
        _identify,
    ),
    "remove": Command(
        "write the rows that are not duplicates",
        "--input PATH … --duplicates PATH --output PATH",
        params_of(RemoveDuplicates, leave_out={"duplicatesPath"}),  # here --duplicates
        _remove_options,
        _remove,
    ),
    "evaluate": Command(
        "estimate how much a run found: a sample of its rows, compared exactly with all of them",
        "--input PATH … --result PATH",
        params_of(HasBackend),
        _evaluate_options,
        _evaluate,
    ),
    "plan": Command(
        "say what a run would cost with each coverage, from a sample; writes nothing",
        "--input PATH …",
        _RUN_PARAMS,
        _plan_options,
        _plan,
    ),
    "doctor": Command(
        "say what is there, what a run will use of it, and what to change; status 1 where a run would fail",
        "",
        {name: param for name, param in _RUN_PARAMS.items() if name in doctor.PARAMS},
        _doctor_options,
        _doctor,
        _doctor_without_session,
    ),
    "demo": Command(
        "run on a small real corpus that comes with the package, and show what was found",
        "",
        {name: param for name, param in _RUN_PARAMS.items() if name not in vars(HasColumns) | vars(HasIdCol)},
        _demo_options,
        _demo,
    ),
}

_INITIAL = "initial centroids"
"""Key under which the path given to ``--init-mode`` travels among the settings."""


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help tells all options)")


def make_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = _Parser(
        prog=PROGRAM,
        description="Semantic deduplication of embeddings on Apache Spark: keeps one of each group of rows that mean "
        "the same.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {spark_semdedup.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            usage=f"{PROGRAM} {name} {command.usage} [option …]",
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            allow_abbrev=False,
        )
        command.add_options(sub)
        add_params(sub, command.params)
        _session_options(sub)
    return parser


def _session_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("session")
    group.add_argument("--local-cores", metavar="N", type=_whole, help="cores of the local session (default: all)")
    group.add_argument(
        "--local-memory",
        metavar="GIB",
        type=_whole,
        help="memory of its JVM (default: one per core, at least 4, at most a third of the machine's)",
    )
    group.add_argument("--verbose", action="store_true", help="tell more, with tracebacks and Spark's own log")


def _count(text: str) -> int:
    """A whole number, which may be written as 1e9."""
    number = _positive(text)
    if number < 1 or not number.is_integer():
        raise argparse.ArgumentTypeError(f"{text} cannot be used: it must be a whole number of at least 1")
    return int(number)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} cannot be used: it must be a number above 0")
    return number


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} cannot be used: it must be a whole number of at least 1")
    return int(text)


# --- main ---------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program with command-line arguments (default: this process's). Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a text of the user's may have what the terminal cannot show
    verbose = "--verbose" in arguments
    _set_up_logging(verbose)
    running = _Running()
    try:
        _refuse_broken(arguments)
        args = make_parser().parse_args(arguments)
        command = COMMANDS[args.command]
        settings = _settings(args, command.params)
        step = command.prepare(args, settings)
        try:
            report = running.run(step, args)
        except SessionError as error:
            if command.without_session is None:
                raise
            report = command.without_session(settings, error)
        print(f"\n{PROGRAM} {args.command}\n\n{report}")
        if isinstance(report, Diagnosis) and not report.works:
            return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except Exception as error:  # whatever it is, the user gets one line and a status
        if verbose:
            sys.stderr.write(redacted(traceback.format_exc()))
        hint = "" if is_expected(error) or verbose else " (--verbose tells more)"
        _say(f"error: {one_line(error)}{hint}")
        return 1 if running.began or not is_expected(error) else 2
    finally:
        running.end()
    return 0


def _refuse_broken(arguments: Sequence[str]) -> None:
    """Bytes that are not valid in the locale's encoding come as halves of surrogate pairs; the JVM cannot take them."""
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise UsageError(f"argument {shown(argument)} cannot be used: it is not valid Unicode")


def _settings(args: argparse.Namespace, params: dict[str, Param[Any]]) -> dict[str, Any]:
    """The Params set, and, where ``--init-mode`` is not a mode, that as the path of a saved model."""
    initial = getattr(args, "initMode", None)
    if initial is None or initial in INIT_MODES:
        return settings_from(args, params)
    others = {name: param for name, param in params.items() if name != "initMode"}
    return {**settings_from(args, others), _INITIAL: initial}


class _Running:
    """The session and the job of one call of ``main``."""

    def __init__(self) -> None:
        self._own: SparkSession | None = None
        self._job: steps.Job | None = None

    @property
    def began(self) -> bool:
        """Whether checks are over and work has begun."""
        return self._job is not None and self._job.progress.started

    def run(self, step: Callable[[steps.Job], str | Diagnosis], args: argparse.Namespace) -> str | Diagnosis:
        session = given_session()
        if session is None:
            session = self._own = local_session(
                cores=args.local_cores, memory_gib=args.local_memory, quiet=not args.verbose
            )
            signal.signal(signal.SIGINT, _interrupted)
        elif args.local_cores or args.local_memory:
            raise UsageError("--local-cores and --local-memory are for a local session, but one is given; set it there")
        self._job = steps.Job.of(session)
        return step(self._job)

    def end(self) -> None:
        """Stops the session if it is this program's own."""
        if self._own is not None:
            stop_session(self._own)


def _interrupted(*_: object) -> NoReturn:
    """Ends this process at once, and with it the local session: the JVM ends when its standard input does.

    pyspark's own handler would ask the JVM to cancel its jobs, through the very connection that waits for an answer.
    """
    os.write(2, f"\n{PROGRAM}: interrupted\n".encode())
    os._exit(130)


def _say(text: str) -> None:
    print(f"{PROGRAM}: {redacted(text)}", file=sys.stderr, flush=True)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{PROGRAM}: {record.levelname.lower()}: {record.getMessage()}"


def _set_up_logging(verbose: bool) -> None:
    """Our own log to stderr; pyspark's and py4j's loggers, which print what Java threw, only with ``verbose``."""
    log = logging.getLogger("spark_semdedup")
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    log.handlers = [handler for handler in log.handlers if not isinstance(handler.formatter, _OneLine)]
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    log.addHandler(handler)
    log.propagate = False
    if not verbose:
        for name in ("py4j", "DataFrameQueryContextLogger", "SQLQueryContextLogger"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


if __name__ == "__main__":
    sys.exit(main())
