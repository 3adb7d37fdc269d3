"""The command ``spark-semdedup``: one subcommand for the whole job, one for each of its steps, and others.

Every Param of the stages is an option of the same name in kebab-case (``whichToKeep``: ``--which-to-keep``); its help,
default and checks are the Param's own. Exit status: 0; 2 where the command or its input cannot be used and no work was
begun; 1 where a run failed, or would (``doctor``); 130 where it was interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import io
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from py4j.protocol import Py4JNetworkError
from pyspark.sql import SparkSession

from spark_semdedup._version import __version__
from spark_semdedup.cli.command import Step
from spark_semdedup.cli.commands import COMMANDS
from spark_semdedup.cli.options import (
    PROGRAM,
    UsageError,
    add_params,
    all_settings_from,
    option_name,
    whole_number,
    with_option_names,
)
from spark_semdedup.doctor.rules import Diagnosis
from spark_semdedup.errors import shown
from spark_semdedup.redaction import redacted
from spark_semdedup.runs.preflight import Job
from spark_semdedup.spark.failures import is_expected, one_line
from spark_semdedup.spark.session import SessionError, given_session, local_session


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}{_did_you_mean(message)} ({self.prog} --help lists all options)")


def _did_you_mean(message: str) -> str:
    """The option most like the first that argparse does not know."""
    unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
    if unknown is None:
        return ""
    options = sorted({option_name(name) for command in COMMANDS.values() for name in command.params} | _OTHERS)
    alike = difflib.get_close_matches(unknown[1].replace("_", "-"), options, 1, 0.75)
    return f"; did you mean {alike[0]}?" if alike else ""


_OTHERS = {
    *("--input", "--input-table", "--input-format", "--input-option", "--input-glob", "--output", "--output-table"),
    *("--output-format", "--overwrite", "--resume", "--centroids", "--rows", "--gpus", "--local-cores", "--verbose"),
}
"""Options that are no Params and are worth a suggestion."""


def make_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    what = "Semantic deduplication of embeddings on Apache Spark: keeps one of each group of rows that mean the same."
    parser = _Parser(prog=PROGRAM, description=what, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
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
        _add_session_options(sub)
    return parser


def _add_session_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("session")
    cores_help = "cores of the local session (default: all)"
    group.add_argument("--local-cores", metavar="N", type=whole_number, help=cores_help)
    memory_help = "memory of its JVM (default: one per core, at least 4, at most a third of the machine's)"
    group.add_argument("--local-memory", metavar="GIB", type=whole_number, help=memory_help)
    group.add_argument("--quiet", action="store_true", help="no progress, only the summary and errors")
    group.add_argument("--verbose", action="store_true", help="print more: tracebacks and Spark's own log")


def job(command: str | None = None) -> None:
    """The program as a script for spark-submit: ``command``, or the subcommand that comes first, or else ``run``."""
    arguments = sys.argv[1:]
    if command is None and (not arguments or arguments[0].startswith("-")):
        command = "run"
    status = main(arguments if command is None else [command, *arguments])
    if status:  # a notebook platform takes any SystemExit for a failure
        sys.exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program with command-line arguments (default: this process's). Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a user's text may have what the terminal cannot show
    verbose = "--verbose" in arguments
    _set_up_logging(verbose)
    session, failed = _Session(), True
    try:
        status = _run(arguments, session)
        failed = False
        return status
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except Exception as error:  # whatever it is, the user gets one line and a status
        if verbose:
            sys.stderr.write(redacted(traceback.format_exc()))
        hint = "" if is_expected(error) or verbose else " (--verbose shows more)"
        # In this order: --max-tokens=3 would pass for a secret.
        said = with_option_names(redacted(one_line(error)), _options_of(arguments))
        _say(f"error: {said}{hint}")
        return 1 if session.began_work or not is_expected(error) else 2
    finally:
        session.end(failed=failed)


def _run(arguments: list[str], session: _Session) -> int:
    _refuse_broken(arguments)
    args = make_parser().parse_args(arguments)
    command = COMMANDS[args.command]
    settings = all_settings_from(args, command.params)
    step = command.prepare(args, settings)
    try:
        report = session.run(step, args)
    except SessionError as error:
        if command.without_session is None:
            raise
        report = command.without_session(settings, error)
    print(f"\n{PROGRAM} {command.name}\n\n{report}")
    return 1 if isinstance(report, Diagnosis) and not report.works else 0


def _options_of(arguments: Sequence[str]) -> set[str]:
    """The options of the command that comes first."""
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None:
        return set()
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    add_params(parser, command.params)
    return set(re.findall(r"--[a-z][\w-]*", parser.format_help()))


def _refuse_broken(arguments: Sequence[str]) -> None:
    """Python reads bytes that the locale's encoding lacks as halves of surrogate pairs, which the JVM refuses."""
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise UsageError(f"argument {shown(argument)} cannot be used: it is not valid Unicode")


def _refuse_missing_inputs(args: argparse.Namespace) -> None:
    """Says at once what the session would say seconds later: that a local file or folder does not exist."""
    inputs = getattr(args, "input", None) or ()
    for path in (inputs,) if isinstance(inputs, str) else inputs:
        is_plain = not re.search(r"^\w[\w+.-]*:|[{}\[\]*?\\]", path)  # neither a URI nor a pattern
        if is_plain and path and "HADOOP_CONF_DIR" not in os.environ and not os.path.exists(path):
            raise UsageError(f"input={shown(path, 400)} does not exist: give a file, a folder or a pattern")


class _Session:
    """The Spark session of one call of ``main``: the one given, or a local one of its own."""

    def __init__(self) -> None:
        self._own: SparkSession | None = None
        self._handler: Any = None
        """Python's of SIGINT, before ours."""
        self._job: Job | None = None

    @property
    def began_work(self) -> bool:
        """Whether a step's checks are over and its work has begun."""
        return self._job is not None and self._job.progress.started

    def run(self, step: Step, args: argparse.Namespace) -> str | Diagnosis:
        spark = given_session()
        if spark is None:
            _refuse_missing_inputs(args)
            self._handler = signal.getsignal(signal.SIGINT)
            spark = local_session(cores=args.local_cores, memory_gib=args.local_memory, quiet=not args.verbose)
            self._own = spark
            signal.signal(signal.SIGINT, _interrupted)
        elif args.local_cores or args.local_memory:
            raise UsageError("--local-cores and --local-memory are for a local session, but one is given; set it there")
        self._job = Job.of(spark, quiet=args.quiet)
        return step(self._job)

    def end(self, *, failed: bool) -> None:
        """Stops the session if it is this program's own. ``failed``: a failure was reported, so that none of this is.
        Nor does it matter that a JVM cannot be stopped which has ended by itself."""
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
        if self._own is None:
            return
        gone = (Exception,) if failed else (ConnectionError, Py4JNetworkError)
        with suppress(*gone), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # pyspark's, of a JVM that is gone
            self._own.stop()


def _interrupted(*_: object) -> NoReturn:
    """Ends this process at once, and with it the local session: the JVM ends when its standard input does.

    pyspark's own handler would ask the JVM to cancel its jobs, through the very connection that waits for an answer.
    """
    os.write(2, f"\n{PROGRAM}: interrupted\n".encode())
    os._exit(130)


def _say(text: str) -> None:
    print(f"{PROGRAM}: {text}", file=sys.stderr, flush=True)


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
