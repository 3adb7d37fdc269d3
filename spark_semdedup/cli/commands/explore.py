"""``spark-semdedup explore QUESTION``: one function of ``spark_semdedup.explore``, its answer as text, JSON and PNG."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spark_semdedup import explore
from spark_semdedup.cli.command import Command, Settings, Step
from spark_semdedup.cli.options import UsageError, add_source, option_name, positive_number, source_from, whole_number
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.runs.manifest import read_run_manifest
from spark_semdedup.runs.preflight import Job
from spark_semdedup.runs.source import Source

if TYPE_CHECKING:
    from spark_semdedup.explore import Sample


@dataclass(frozen=True)
class Question:
    """What is asked: which options it takes, and the function that answers."""

    help: str
    options: tuple[str, ...]
    answer: Callable[[Sample, dict[str, Any]], Any]


def _clusters(sample: Sample, options: dict[str, Any]) -> Any:
    """The run's own clusters, those of KMeans where ``--k`` is set, else HDBSCAN's."""
    k = options.pop("k", None)
    if k is not None:
        return explore.mini_batch_kmeans(sample, k=k).labels
    return explore.hdbscan(sample).labels if sample.labels is None else sample.labels


def _topics(sample: Sample, options: dict[str, Any]) -> Any:
    model = options.pop("labeler_model", None)
    labels = _clusters(sample, options)
    return explore.topic_labels(sample, labels, labeler=explore.OpenAILabeler(model) if model else None)


def _map(sample: Sample, options: dict[str, Any]) -> Any:
    labels = _clusters(sample, options)
    topics = None if sample.texts is None else explore.topic_labels(sample, labels)
    return explore.map_2d(sample, labels, topics=topics, output_file=None, **options)


QUESTIONS = {
    "choose-k": Question(
        "how many clusters? silhouette, inertia, pairs to compare and recall for each k",
        ("k_range", "n_init", "eps"),
        lambda sample, options: explore.choose_k(sample, **options),
    ),
    "hdbscan": Question(
        "dense clusters of unknown number, the rest noise",
        ("min_cluster_size", "min_samples"),
        lambda sample, options: explore.hdbscan(sample, **options),
    ),
    "agglomerative": Question(
        "a dendrogram, cut by --n-clusters or --distance-threshold",
        ("n_clusters", "distance_threshold", "linkage", "metric"),
        lambda sample, options: explore.agglomerative(sample, **options),
    ),
    "kmeans": Question(
        "k clusters by KMeans in small batches",
        ("k", "n_init"),
        lambda sample, options: explore.mini_batch_kmeans(sample, **options),
    ),
    "communities": Question(
        "rows around a centre, all at least as similar to it as --threshold",
        ("threshold", "min_community_size"),
        lambda sample, options: explore.community_detection(sample, **options),
    ),
    "topics": Question("what is each cluster about? keywords, documents, a name", ("k", "labeler_model"), _topics),
    "map": Question("a picture of all rows, clusters in colours, duplicates of a run marked", ("k", "method"), _map),
    "representatives": Question(
        "the rows nearest to each cluster's centre",
        ("k", "per_cluster"),
        lambda sample, options: explore.representatives(sample, _clusters(sample, options), **options),
    ),
    "outliers": Question(
        "the rows farthest from it",
        ("k", "per_cluster"),
        lambda sample, options: explore.outliers(sample, _clusters(sample, options), **options),
    ),
}


def k_range(text: str) -> list[int]:
    """The numbers that ``2-10`` or ``5,10,20`` spell.

    >>> k_range("2-5"), k_range("5,10")
    ([2, 3, 4, 5], [5, 10])
    """
    try:
        first, dash, last = text.partition("-")
        return list(range(int(first), int(last) + 1)) if dash else [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} cannot be used: it must be like 2-10 or 5,10,20") from None


_OPTIONS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "k": ("N", whole_number, "clusters of KMeans (default, but for kmeans: the run's own, or HDBSCAN's)"),
    "k_range": ("RANGE", k_range, "numbers of clusters to try, like 2-10 or 5,10,20 (default: 2-10)"),
    "n_init": ("N", whole_number, "starts of KMeans, the best of which counts"),
    "eps": ("EPS", positive_number, "rows at least 1 - EPS similar count as duplicates (default: 0.05)"),
    "min_cluster_size": ("N", whole_number, "smaller groups are noise (default: 5)"),
    "min_samples": ("N", whole_number, "rows that density is measured over (default: 3)"),
    "n_clusters": ("N", whole_number, "cut the dendrogram into so many clusters"),
    "distance_threshold": ("D", positive_number, "cut it at this distance"),
    "linkage": ("LINKAGE", str, "average, complete, single or ward (default: average)"),
    "metric": ("METRIC", str, "cosine or euclidean (default: cosine)"),
    "threshold": ("T", float, "similarity to the centre, at least (default: 0.75)"),
    "min_community_size": ("N", whole_number, "rows of a community, at least (default: 10)"),
    "labeler_model": ("NAME", str, "model that names topics, of the server at OPENAI_BASE_URL with OPENAI_API_KEY"),
    "method": ("METHOD", str, "auto, umap, cuml or pca (default: auto)"),
    "per_cluster": ("N", whole_number, "rows to list of each cluster (default: 5)"),
}  # fmt: skip


def _options(parser: argparse.ArgumentParser) -> None:
    """The question, the data, the sample, what questions take, the output."""
    listed = "; ".join(f"{name}: {question.help}" for name, question in QUESTIONS.items())
    parser.add_argument("question", metavar="QUESTION", choices=list(QUESTIONS), help=listed.replace("%", "%%"))
    add_source(parser)
    parser.add_argument(
        "--result", metavar="PATH", help="folder of a run: its clusters and, with --input, its duplicates"
    )
    group = parser.add_argument_group("sample")
    group.add_argument("--sample-rows", metavar="N", type=int, default=10_000, help="rows, 0 for all (default: 10000)")
    group.add_argument(
        "--seed", metavar="SEED", type=int, default=42, help="another seed, another sample (default: 42)"
    )
    group.add_argument("--id-col", metavar="NAME", default="id", help="column of ids (default: id)")
    group.add_argument("--embedding-col", metavar="NAME", default="embedding", help="(default: embedding)")
    group.add_argument("--text-col", metavar="NAME", help="column of texts (default: text, where there is one)")
    group = parser.add_argument_group("questions")
    for name, (metavar, type_, help_) in _OPTIONS.items():
        group.add_argument(option_name(_camel(name)), dest=name, metavar=metavar, type=type_, help=help_)
    group = parser.add_argument_group("output")
    group.add_argument("--output", metavar="PATH", help="folder on this machine for QUESTION.json and QUESTION.png")
    group.add_argument("--overwrite", action="store_true", help="replace existing files")


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)


def _prepare(args: argparse.Namespace, _: Settings) -> Step:
    question = QUESTIONS[args.question]
    given = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    for name in given:
        if name not in question.options:
            takes = ", ".join(option_name(_camel(option)) for option in question.options)
            raise UsageError(
                f"{option_name(_camel(name))} is no option of explore {args.question}, which takes {takes}"
            )
    has_input = args.input is not None or args.input_table is not None
    if args.result is None and not has_input:
        raise UsageError("--input, --input-table and --result are all unset: give one")
    source = source_from(args) if has_input else None
    files = _files(args)
    return lambda job: _answer(job, args, source, question, given, files)


def _files(args: argparse.Namespace) -> dict[str, Path]:
    """The files to write; refused where they are there already."""
    if args.output is None:
        return {}
    files = {kind: Path(args.output) / f"{args.question}.{kind}" for kind in ("json", "png")}
    for path in files.values():
        if path.exists() and not args.overwrite:
            raise UsageError(f"output={shown(str(path), 400)} exists already: give another folder, or --overwrite")
    return files


def _answer(
    job: Job,
    args: argparse.Namespace,
    source: Source | None,
    question: Question,
    given: dict[str, Any],
    files: dict[str, Path],
) -> str:
    if source is not None:
        source.check(job.files)
    job.progress.begin(2)
    with job.progress.phase("draw a sample") as counts:
        sample = _sample(job, args, source)
        counts["rows"] = len(sample)
    with job.progress.phase(args.question):
        answer = question.answer(sample, dict(given))
    _write(answer, files)
    text: str = answer.as_text() if hasattr(answer, "as_text") else json.dumps(answer.as_dict(), indent=2)
    return "\n".join([text, *(f"  {kind}  {path}" for kind, path in files.items())])


def _sample(job: Job, args: argparse.Namespace, source: Source | None) -> Sample:
    options: dict[str, Any] = {"sample_rows": args.sample_rows, "seed": args.seed, "text_col": args.text_col}
    rows = None if source is None else source.read(job.spark)
    if args.result is not None:
        read_run_manifest(job.files, args.result, "result")
        return explore.draw_sample(args.result, input=rows, **options)
    return explore.draw_sample(rows, id_col=args.id_col, embedding_col=args.embedding_col, **options)


def _write(answer: Any, files: dict[str, Path]) -> None:
    if not files:
        return
    try:
        files["json"].parent.mkdir(parents=True, exist_ok=True)
        files["json"].write_text(json.dumps(answer.as_dict(), indent=2, ensure_ascii=False, default=str) + "\n")
    except OSError as error:
        raise SemDedupError(f"output={shown(str(files['json']), 400)} cannot be written: {error.strerror}") from None
    answer.plot(output_file=files["png"])


COMMAND = Command(
    "explore",
    "understand the clusters: how many, how dense, about what, and a map; on a sample",
    "QUESTION --input PATH … | --result PATH",
    {},
    _options,
    _prepare,
)
