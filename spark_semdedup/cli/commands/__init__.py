"""The subcommands of ``spark-semdedup``, each in a small module.

To add a command, ``shout`` say, write ``commands/shout.py``:

    def _options(parser: argparse.ArgumentParser) -> None:
        add_source(parser)
        parser.add_argument("--times", metavar="N", type=whole_number, default=1, help="… (default: 1)")

    def _prepare(args: argparse.Namespace, settings: Settings) -> Step:
        source = source_from(args)
        return lambda job: shout(job, source, settings, times=args.times).as_text()

    COMMAND = Command("shout", "say it aloud", "--input PATH …", params_of(HasBackend), _options, _prepare)

Then add ``shout.COMMAND`` to the list below, and a test of one call to ``tests/cli``. ``_prepare`` checks what it can
without Spark; the step it returns gets a ``Job`` and returns the text to print. Work lives elsewhere: a step in
``runs``, an analysis in ``analysis``. Import optional dependencies inside functions: ``--help`` imports this package.
"""

from __future__ import annotations

from spark_semdedup.cli.command import Command
from spark_semdedup.cli.commands import (
    convert,
    demo,
    doctor,
    evaluate,
    explain,
    explore,
    index,
    plan,
    relations,
    report,
    run,
    steps,
    sweep,
)

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        run.COMMAND,
        *steps.COMMANDS,
        *relations.COMMANDS,
        sweep.COMMAND,
        explain.COMMAND,
        evaluate.COMMAND,
        index.COMMAND,
        report.COMMAND,
        plan.COMMAND,
        convert.COMMAND,
        explore.COMMAND,
        doctor.COMMAND,
        demo.COMMAND,
    )
}
