"""``doctor``: whether a run would work on this cluster."""

from __future__ import annotations

import argparse

from spark_semdedup.cli.command import Command, Settings, Step
from spark_semdedup.cli.options import RUN_PARAMS
from spark_semdedup.doctor.probe import probe_without_session
from spark_semdedup.doctor.rules import PARAMS, Diagnosis, diagnose, examine
from spark_semdedup.errors import SemDedupError


def _options(parser: argparse.ArgumentParser) -> None:
    """None of its own: it looks at what a run with the same options would use."""


def _prepare(args: argparse.Namespace, settings: Settings) -> Step:
    return lambda job: examine(job.spark, settings)


def _without_session(settings: Settings, error: SemDedupError) -> Diagnosis:
    return diagnose(probe_without_session(str(error)), settings)


COMMAND = Command(
    "doctor",
    "report what the cluster offers, what a run would use, and what to fix; status 1 where a run would fail",
    "",
    {name: param for name, param in RUN_PARAMS.items() if name in PARAMS},
    _options,
    _prepare,
    _without_session,
)
