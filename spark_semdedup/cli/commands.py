"""The subcommands: which options each takes, and what it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyspark.ml.param import Param

from spark_semdedup.analysis.cost import Hardware
from spark_semdedup.analysis.recall import MISSED, SAMPLE_ROWS
from spark_semdedup.cli.demo import run_demo
from spark_semdedup.cli.options import (
    INITIAL,
    UsageError,
    add_centroids,
    add_output,
    add_output_format,
    add_source,
    params_of,
    positive_number,
    source_from,
    target_from,
    whole_count,
    whole_number,
)
from spark_semdedup.cli.reporting import add_report_command, add_report_to_run, report_command, reported
from spark_semdedup.doctor.probe import probe_without_session
from spark_semdedup.doctor.rules import PARAMS, Diagnosis, diagnose, examine
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.ml.duplicates import IdentifyDuplicates, RemoveDuplicates
from spark_semdedup.ml.kmeans import EmbeddingKMeans
from spark_semdedup.ml.pairwise import PairwiseSimilarity
from spark_semdedup.params import INIT_MODES, HasBackend, HasColumns, HasIdCol, RankingParams, SemDedupStageParams
from spark_semdedup.runs.evaluate import evaluate_step
from spark_semdedup.runs.plan import plan
from spark_semdedup.runs.preflight import Job, SavedCentroids
from spark_semdedup.runs.run import run
from spark_semdedup.runs.steps import cluster, identify, pairwise, remove
from spark_semdedup.runs.target import Target


@dataclass(frozen=True)
class Command:
    """A subcommand: its options, and a function that reads them and gives the step, which returns what to print."""

    help: str
    usage: str
    params: dict[str, Param[Any]]
    add_options: Callable[[argparse.ArgumentParser], None]
    prepare: Callable[[argparse.Namespace, dict[str, Any]], Callable[[Job], str | Diagnosis]]
    without_session: Callable[[dict[str, Any], SemDedupError], Diagnosis] | None = None
    """What to say where no session can be started, if more than why."""


def _saved(args: argparse.Namespace, settings: dict[str, Any]) -> SavedCentroids:
    return SavedCentroids(model=args.centroids, initial=settings.pop(INITIAL, None))


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
    add_centroids(parser)
    add_report_to_run(parser)


def _run(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[Job], str]:
    source, target, saved = source_from(args), target_from(args), _saved(args, settings)
    step = reported(args, source, lambda job: run(job, source, target, settings, saved))
    return lambda job: step(job).as_text()


def _report(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[Job], str]:
    return report_command(args)


def _cluster_options(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_output(parser, "centroid=N/ with the rows of each cluster, _centroids/")
    add_centroids(parser)


def _cluster(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[Job], str]:
    source, target, saved = source_from(args), target_from(args), _saved(args, settings)
    return lambda job: cluster(job, source, target, settings, saved).as_text()


def _pairwise_options(parser: argparse.ArgumentParser) -> None:
    help_ = "folder of clusters: of the cluster step, or NeMo Curator's"
    parser.add_argument("--input", required=True, metavar="PATH", help=help_)
    parser.add_argument(
        "--centroids",
        metavar="PATH",
        help="saved model that assigned the rows, for --n-probe and --coverage exact (default: INPUT/_centroids)",
    )
    add_output(parser, "id, max_id, cosine_sim_score of every row")


def _pairwise(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[Job], str]:
    target = target_from(args)
    return lambda job: pairwise(job, args.input, target, settings, args.centroids).as_text()


def _identify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", required=True, metavar="PATH", help="folder of similarities")
    add_output(parser, "id, max_id, cosine_sim_score of the rows to remove")


def _identify(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[Job], str]:
    target = target_from(args)
    return lambda job: identify(job, args.input, target, settings).as_text()


def _remove_options(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--duplicates", required=True, metavar="PATH", help="folder of the duplicates to remove")
    parser.add_argument("--invalid", metavar="PATH", help="folder of the invalid rows that were set aside: remove too")
    add_output(parser, "the rows that remain")
    add_output_format(parser)


def _remove(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[Job], str]:
    source, target = source_from(args), target_from(args, needs_folder=False)
    if args.output is not None and target.table is not None:
        raise UsageError("--output and --output-table are both set: give one")
    paths = {"duplicates": args.duplicates, "invalid": args.invalid}
    return lambda job: remove(job, source, target, settings, **paths).as_text()


def _plan_options(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_centroids(parser)
    group = parser.add_argument_group("what is planned for")
    group.add_argument("--rows", metavar="N", type=whole_count, help="rows of the data set that --input is a sample of")
    group.add_argument(
        "--gpus", metavar="N", type=whole_number, help="GPUs to plan for (default: this machine's processors)"
    )
    group.add_argument(
        "--gpu-tflops",
        metavar="T",
        type=positive_number,
        help="10^12 float16 operations per second of one GPU, by its data sheet; half is taken to be reached "
        "(default: 500)",
    )
    group.add_argument(
        "--network-gbps",
        metavar="G",
        type=positive_number,
        help="10^9 bits per second of network for each GPU (default: 25)",
    )


def _plan(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[Job], str]:
    source, saved = source_from(args), _saved(args, settings)
    hardware = None
    if args.gpus:
        hardware = Hardware.gpus(args.gpus, args.gpu_tflops or 500.0, args.network_gbps or 25.0)
    elif args.gpu_tflops or args.network_gbps:
        raise UsageError("--gpu-tflops and --network-gbps describe GPUs: say how many with --gpus")
    return lambda job: plan(job, source, settings, saved, rows=args.rows, hardware=hardware).as_text()


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--result", required=True, metavar="PATH", help="folder that the run wrote")
    group = parser.add_argument_group("sample")
    rows_help = f"rows to compare with all rows; each task holds their embeddings (default: {SAMPLE_ROWS})"
    group.add_argument("--sample-rows", metavar="N", type=whole_number, default=SAMPLE_ROWS, help=rows_help)
    group.add_argument(
        "--seed", metavar="SEED", type=int, default=42, help="another seed, another sample (default: 42)"
    )
    group = parser.add_argument_group("output")
    missed_help = f"missed pairs to list at most, the most similar first (default: {MISSED})"
    group.add_argument("--missed", metavar="N", type=whole_number, default=MISSED, help=missed_help)
    group.add_argument(
        "--output", metavar="PATH", help="JSON file to write too, or a folder to write evaluation.json in"
    )
    group.add_argument("--overwrite", action="store_true", help="replace a file that is there already")


def _evaluate(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[Job], str]:
    source = source_from(args)
    options: dict[str, Any] = {name: getattr(args, name) for name in ("sample_rows", "seed", "missed")}
    options["target"] = Target(args.output, overwrite=args.overwrite)
    return lambda job: evaluate_step(job, source, args.result, settings, **options).as_text()


def _doctor_options(parser: argparse.ArgumentParser) -> None:
    """None of its own: it looks at what a run with the same options would use."""


def _doctor(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[Job], Diagnosis]:
    return lambda job: examine(job.spark, settings)


def _doctor_without_session(settings: dict[str, Any], error: SemDedupError) -> Diagnosis:
    return diagnose(probe_without_session(str(error)), settings)


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", default="demo-output", metavar="PATH", help="folder to write, as run does (default: demo-output)"
    )
    parser.add_argument("--report", action="store_true", help="write report.html, too, a page about the result")


def _demo(args: argparse.Namespace, settings: dict[str, Any]) -> Callable[[Job], str]:
    if INITIAL in settings:
        raise UsageError(
            f"argument --init-mode: {shown(settings[INITIAL])} cannot be used: it must be {' or '.join(INIT_MODES)}"
        )
    return lambda job: run_demo(job, args.output, settings, page=args.report)


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
    "report": Command(
        "write a page about a run: scores, groups, pairs side by side, a map of the clusters",
        "OUT",
        {},
        add_report_command,
        _report,
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
        {name: param for name, param in _RUN_PARAMS.items() if name in PARAMS},
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
