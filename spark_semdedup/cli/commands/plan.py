"""``plan``: the cost of a run, before it."""

from __future__ import annotations

import argparse

from spark_semdedup.analysis.sizing import Hardware
from spark_semdedup.cli import options
from spark_semdedup.cli.command import Command, Settings, Step
from spark_semdedup.runs.plan import plan
from spark_semdedup.runs.preflight import Job
from spark_semdedup.spark.disk import LocalDisk


def _options(parser: argparse.ArgumentParser) -> None:
    options.add_source(parser)
    options.add_centroids(parser)
    group = parser.add_argument_group("what is planned for")
    rows_help = "rows of the data set that --input is a sample of"
    group.add_argument("--rows", metavar="N", type=options.whole_count, help=rows_help)
    gpus_help = "GPUs to plan for (default: this machine's processors)"
    group.add_argument("--gpus", metavar="N", type=options.whole_number, help=gpus_help)
    tflops_help = "10^12 float16 operations per second of one GPU by its data sheet; half is assumed (default: 500)"
    group.add_argument("--gpu-tflops", metavar="T", type=options.positive_number, help=tflops_help)
    network_help = "10^9 bits per second of network for each GPU (default: 25)"
    group.add_argument("--network-gbps", metavar="G", type=options.positive_number, help=network_help)


def _prepare(args: argparse.Namespace, settings: Settings) -> Step:
    source, saved = options.source_from(args), options.saved_from(args, settings)
    hardware = None
    if args.gpus:
        hardware = Hardware.gpus(args.gpus, args.gpu_tflops or 500.0, args.network_gbps or 25.0)
    elif args.gpu_tflops or args.network_gbps:
        raise options.UsageError("--gpu-tflops and --network-gbps describe GPUs: say how many with --gpus")

    def step(job: Job) -> str:
        found = plan(job, source, settings, saved, rows=args.rows, hardware=hardware)
        disk = None if hardware else LocalDisk.of(job.spark)
        lacking = {work.coverage.label: disk.lacks(work.shuffle_bytes) for work in found.workloads} if disk else {}
        warnings = [f"  {label}: {lacks}; run refuses without --force" for label, lacks in lacking.items() if lacks]
        return "\n".join([found.as_text(), *warnings])

    return step


COMMAND = Command(
    "plan",
    "say what a run would cost with each coverage, from a sample; writes nothing",
    "--input PATH …",
    options.RUN_PARAMS,
    _options,
    _prepare,
)
