"""``Command``: what a subcommand of ``spark-semdedup`` consists of."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyspark.ml.param import Param

from spark_semdedup.doctor.rules import Diagnosis
from spark_semdedup.errors import SemDedupError
from spark_semdedup.runs.preflight import Job

Settings = dict[str, Any]
"""The values of the Params that the user has set, by name."""

Step = Callable[[Job], str | Diagnosis]
"""The command's work, on a Spark session. The program prints what it returns."""


@dataclass(frozen=True)
class Command:
    """A subcommand. ``spark_semdedup.cli.commands`` shows how to add one."""

    name: str
    help: str
    """One line, in lower case and without a full stop."""
    usage: str
    """The options that must be given."""
    params: Mapping[str, Param[Any]]
    """Params that are options of the command: name, help, default and checks are theirs (``options.params_of``)."""
    add_options: Callable[[argparse.ArgumentParser], None]
    """Adds the options that are no Params."""
    prepare: Callable[[argparse.Namespace, Settings], Step]
    """Reads the options. Raises ``UsageError`` for a contradiction; no session has begun yet."""
    without_session: Callable[[Settings, SemDedupError], Diagnosis] | None = None
    """What to print where no session can be started; None: the error."""
