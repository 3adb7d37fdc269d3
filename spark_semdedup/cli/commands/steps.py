"""``embed``, ``cluster``, ``pairwise``, ``identify`` and ``remove``: the steps of a run, one by one."""

from __future__ import annotations

import argparse

from spark_semdedup.cli import options
from spark_semdedup.cli.command import Command, Settings, Step
from spark_semdedup.ml.duplicates import IdentifyDuplicates, RemoveDuplicates
from spark_semdedup.ml.kmeans import EmbeddingKMeans
from spark_semdedup.ml.pairwise import PairwiseSimilarity
from spark_semdedup.params import HasColumns, RankingParams
from spark_semdedup.runs.steps import cluster, embed, identify, pairwise, remove
from spark_semdedup.text_params import HasTextModel, TextEmbedderParams


def _embed_options(parser: argparse.ArgumentParser) -> None:
    options.add_source(parser)
    options.add_text_column(parser, required=True)
    options.add_output(parser, "id, embedding and metadata columns of every row")


def _embed(args: argparse.Namespace, settings: Settings) -> Step:
    source, target = options.source_from(args), options.target_from(args)
    return lambda job: embed(job, source, target, settings, args.text_col).as_text()


def _cluster_options(parser: argparse.ArgumentParser) -> None:
    options.add_source(parser)
    options.add_output(parser, "centroid=N/ with the rows of each cluster, _centroids/")
    options.add_centroids(parser)


def _cluster(args: argparse.Namespace, settings: Settings) -> Step:
    source, target, saved = options.source_from(args), options.target_from(args), options.saved_from(args, settings)
    return lambda job: cluster(job, source, target, settings, saved).as_text()


def _pairwise_options(parser: argparse.ArgumentParser) -> None:
    input_help = "folder of clusters: of the cluster step, or NeMo Curator's"
    parser.add_argument("--input", required=True, metavar="PATH", help=input_help)
    centroids_help = (
        "saved model that assigned the rows, for --n-probe and --coverage exact (default: INPUT/_centroids)"
    )
    parser.add_argument("--centroids", metavar="PATH", help=centroids_help)
    options.add_output(parser, "id, max_id, cosine_sim_score of every row")


def _pairwise(args: argparse.Namespace, settings: Settings) -> Step:
    target = options.target_from(args)
    return lambda job: pairwise(job, args.input, target, settings, args.centroids).as_text()


def _identify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", required=True, metavar="PATH", help="folder of similarities")
    options.add_output(parser, "id, max_id, cosine_sim_score of the rows to remove")


def _identify(args: argparse.Namespace, settings: Settings) -> Step:
    target = options.target_from(args)
    return lambda job: identify(job, args.input, target, settings).as_text()


def _remove_options(parser: argparse.ArgumentParser) -> None:
    options.add_source(parser)
    parser.add_argument("--duplicates", required=True, metavar="PATH", help="folder of the duplicates to remove")
    parser.add_argument("--invalid", metavar="PATH", help="folder of skipped invalid rows: remove them too")
    options.add_output(parser, "the kept rows")
    options.add_output_format(parser)


def _remove(args: argparse.Namespace, settings: Settings) -> Step:
    source, target = options.source_from(args), options.target_from(args, needs_folder=False)
    if args.output is not None and target.table is not None:
        raise options.UsageError("--output and --output-table are both set: give one")
    paths = {"duplicates": args.duplicates, "invalid": args.invalid}
    return lambda job: remove(job, source, target, settings, **paths).as_text()


COMMANDS = (
    Command(
        "embed",
        "embed documents' texts with a model",
        "--input PATH … --text-col TEXT_COL --model MODEL --output PATH",
        options.params_of(HasColumns) | options.params_of(HasTextModel) | {"backend": TextEmbedderParams.backend},
        _embed_options,
        _embed,
    ),
    Command(
        "cluster",
        "fit centroids and write the rows by cluster",
        "--input PATH … --output PATH",
        options.params_of(EmbeddingKMeans) | {"rankBy": RankingParams.rankBy},
        _cluster_options,
        _cluster,
    ),
    Command(
        "pairwise",
        "compare the rows of each cluster",
        "--input CLUSTERS --output PATH",
        # Clusters hold unit vectors; the centroids are an option of their own.
        options.params_of(PairwiseSimilarity, leave_out={"normalize", "centroidsPath"}),
        _pairwise_options,
        _pairwise,
    ),
    Command(
        "identify",
        "find the duplicates among the similarities",
        "--input SIMILARITIES --output PATH",
        options.params_of(IdentifyDuplicates),
        _identify_options,
        _identify,
    ),
    Command(
        "remove",
        "write the rows that are not duplicates",
        "--input PATH … --duplicates PATH --output PATH",
        options.params_of(RemoveDuplicates, leave_out={"duplicatesPath"}),  # here --duplicates
        _remove_options,
        _remove,
    ),
)
