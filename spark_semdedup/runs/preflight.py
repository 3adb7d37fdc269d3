"""Checks before a step begins: paths, settings, columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.ml.param import Param
from pyspark.sql import DataFrame, SparkSession

from spark_semdedup.clustering.settings import FitSettings, choose_clusterer, refuse_unsupported
from spark_semdedup.errors import ResultExistsError, SemDedupError, shown
from spark_semdedup.ml.kmeans import EmbeddingKMeansModel
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.params import ClusteringParams, HasColumns, SemDedupParams
from spark_semdedup.runs.manifest import (
    EMBEDDINGS,
    EVALUATION,
    MANIFEST,
    REPORT,
    RUN_MANIFEST,
    RUN_RESULTS,
    UNFINISHED,
    is_mark,
    is_own_dataset,
    is_own_run,
    is_run,
)
from spark_semdedup.runs.progress import Progress
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.target import Target
from spark_semdedup.spark.backend import resolve_backend
from spark_semdedup.spark.columns import embedding_column, field, id_column, refuse_shadowed
from spark_semdedup.spark.documents import Documents
from spark_semdedup.spark.files import Files, is_within, join
from spark_semdedup.spark.ids import check_ids
from spark_semdedup.spark.lock import is_lock

Settings = Mapping[str, Any]
"""Values by the names of Params; only Params that the user has set."""

FIT_PARAMS = frozenset(name for name, param in vars(ClusteringParams).items() if isinstance(param, Param))
"""The Params that only a fit uses; they contradict given centroids."""


@dataclass(frozen=True)
class Job:
    """What every step works with."""

    spark: SparkSession
    files: Files
    progress: Progress

    @classmethod
    def of(cls, spark: SparkSession, *, quiet: bool = False) -> Job:
        """``quiet``: without progress on stderr."""
        return cls(spark, Files(spark), Progress(spark=spark, quiet=quiet))


@dataclass(frozen=True)
class SavedCentroids:
    """Paths of saved centroids: a ``model`` to use instead of a fit, or the fit's ``initial`` ones."""

    model: str | None = None
    initial: str | None = None

    def reads(self) -> dict[str, Sequence[str]]:
        """The paths, by the name of the option."""
        return {"centroids": [self.model] if self.model else [], "initMode": [self.initial] if self.initial else []}

    def load(self, job: Job, settings: Settings) -> tuple[EmbeddingKMeansModel | None, dict[str, Any]]:
        """The model to use, if any, and the settings with what the saved centroids decide."""
        if self.model is not None:
            given = FIT_PARAMS & settings.keys() | ({"initMode"} if self.initial else set())
            if given:
                raise SemDedupError(
                    f"centroids={shown(self.model, 400)} and {', '.join(sorted(given))} are both set: centroids that "
                    "are given are not fitted; drop one of them"
                )
            model = load_model(job, self.model, "centroids")
            return model, {**settings, "distanceMeasure": model.value("distanceMeasure")}
        if self.initial is not None:
            return None, {**settings, "initMode": load_model(job, self.initial, "initMode").centroids}
        return None, dict(settings)

    def described(self, params: dict[str, Any], k: int) -> dict[str, Any]:
        """Parameters for a report: paths instead of k × d numbers, and the actual ``k``."""
        if self.model is not None:
            return {n: v for n, v in params.items() if n not in FIT_PARAMS} | {"centroids": self.model, "k": k}
        return params | {"k": k} | ({"initMode": self.initial} if self.initial else {})


def load_model(job: Job, path: str, param: str) -> EmbeddingKMeansModel:
    if not job.files.exists(join(path, "metadata")):
        raise SemDedupError(
            f"{param}={shown(path, 400)} holds no saved model (no folder metadata): give the folder centroids of a "
            "run, _centroids of a cluster step, or what EmbeddingKMeansModel.save wrote"
        )
    model: EmbeddingKMeansModel = EmbeddingKMeansModel.load(path)
    return model


def check_paths(
    job: Job,
    target: Target,
    *,
    source: Source | None = None,
    reads: Mapping[str, Sequence[str]],
    replaces_folder: bool = True,
) -> None:
    """Raises ``SemDedupError`` for a missing input, an existing output, or an overlap of the two.

    ``replaces_folder``: the step deletes the whole output folder, which therefore must be a result of ours.
    """
    if source is not None:
        source.check(job.files)
        reads = {"input": source.paths, **reads}
        if _is_same_table(job.spark, source.table, target.table):
            raise SemDedupError(f"outputTable={shown(target.table)} is the table that is read: give another name")
    target.check(job.files, reads, of_run=not replaces_folder)
    if not target.resume:
        target.refuse_existing_table(job.spark)
    if replaces_folder:
        refuse_irreplaceable(job, target)


def refuse_irreplaceable(job: Job, target: Target) -> None:
    """``ResultExistsError`` for an output folder that no step may delete, not even with ``--overwrite``."""
    if target.path is None or job.files.is_vacant(target.path):
        return
    names = job.files.names(target.path)
    if _is_in_run(job, target.path):
        what = "is a part of a run's result"
    elif is_run(names):
        what = "is the folder of a whole run"
    elif MANIFEST in names or UNFINISHED in names or all(map(is_mark, names)):
        return  # a step's result, or a folder that a step was about to write
    else:
        what = f"is no earlier result (it has no {MANIFEST})"
    raise ResultExistsError(
        f"output={shown(target.path, 400)} {what} and is not deleted, not even with --overwrite: give another folder"
    )


def _is_in_run(job: Job, path: str) -> bool:
    """Whether a run, in the folder above, has written this folder, or is about to."""
    above, _, name = job.files.full(path).rpartition("/")
    if name not in RUN_RESULTS or not job.files.exists(above):
        return False
    names = job.files.names(above)
    return is_run(names) or any(map(is_lock, names))  # a run that has just begun has nothing but its lock


def refuse_foreign_embeddings(job: Job, target: Target) -> None:
    """``ResultExistsError`` where a run that embeds texts would replace a folder of embeddings that is not a run's."""
    path = join(target.folder, EMBEDDINGS)
    if job.files.exists(path) and not is_own_dataset(job.files, path):
        raise ResultExistsError(
            f"output={shown(target.path, 400)}: {EMBEDDINGS} in it is no run's (it has no {MANIFEST}), and would be "
            "replaced: give another folder"
        )


def refuse_foreign_names(job: Job, target: Target) -> None:
    """``ResultExistsError`` for a folder of another program in which a run would replace files."""
    if target.path is None or job.files.is_vacant(target.path) or is_own_run(job.files, target.path):
        return
    alike = sorted({*RUN_RESULTS, EVALUATION, REPORT} & set(job.files.names(target.path)))
    if alike:
        raise ResultExistsError(
            f"output={shown(target.path, 400)} is no earlier run (it has no {RUN_MANIFEST} of one), and "
            f"{', '.join(alike)} in it would be replaced: give another folder"
        )


def _is_same_table(spark: SparkSession, one: str | None, other: str | None) -> bool:
    """Whether two names mean one table, which may be spelled with or without catalog and schema."""
    if one is None or other is None or not (spark.catalog.tableExists(one) and spark.catalog.tableExists(other)):
        return False
    tables = [spark.catalog.getTable(name) for name in (one, other)]
    return len({(t.catalog, tuple(t.namespace or ()), t.name) for t in tables}) == 1


@dataclass(frozen=True)
class OpenedInput:
    """The input's rows, and what a step will compute with."""

    rows: DataFrame
    backend: str
    clusterer: str | None


def open_input(
    job: Job,
    source: Source,
    target: Target,
    params: Any,
    ranking: Ranking,
    given: EmbeddingKMeansModel | None,
    reserved: list[str],
    reserved_by: str,
    *,
    embedded: bool = True,
) -> OpenedInput:
    """Reads the input of a clustering and checks it against the Params, and against centroids that are ``given``.

    ``reserved``: names of columns that the step appends, on behalf of ``reserved_by``. ``embedded`` false: the input
    has texts, and no embeddings yet.
    """
    rows = read_input(job, source, target)
    check_columns(rows, params, ranking, embedded=embedded)
    refuse_shadowed(rows, reserved, reserved_by)
    backend, clusterer = resolve_compute(job, params, fits=given is None)
    if given is not None and embedded:
        documents = Documents.of_params(rows, params)
        documents.require_length(given.centroids.shape[1])
    return OpenedInput(rows, backend, clusterer)


def read_input(job: Job, source: Source, target: Target) -> DataFrame:
    """The input's rows. ``SemDedupError`` where a table's files lie in the output folder."""
    rows = source.read(job.spark)
    if source.table is not None and target.path is not None and not job.files.is_vacant(target.path):
        for folder in {file.rsplit("/", 1)[0] for file in rows.inputFiles()}:
            if is_within(job.files.full(folder), job.files.full(target.path)):
                raise SemDedupError(
                    f"output={shown(target.path, 400)} holds files of inputTable={shown(source.table)}: give output a "
                    "folder of its own"
                )
    return rows


def check_columns(
    rows: DataFrame, params: HasColumns, ranking: Ranking, *, clustered: bool = False, embedded: bool = True
) -> None:
    """Raises ``SemDedupError`` for a column that is missing or unusable. ``clustered``: the cluster step's, too;
    ``embedded`` false: all but the embedding."""
    id_ = id_column(rows, params.value("idCol"))
    if embedded:
        embedding_column(
            rows, params.value("embeddingCol"), format_=params.value("embeddingFormat"), float16_bits=clustered
        )
    for name in params.value("metadataCols") or []:
        field(rows, name, "metadataCols")
    if clustered:
        field(rows, "centroid", "column")
    if clustered or ranking.by:
        ranking.key_columns(rows, id_)


def count_ids(rows: DataFrame, params: SemDedupParams) -> int:
    """Counts the rows. ``SemDedupError`` for null or repeated ids."""
    name = params.value("idCol")
    return check_ids(rows, id_column(rows, name), name)


def resolve_compute(job: Job, params: Any, *, fits: bool) -> tuple[str, str | None]:
    """Backend and clusterer of a step. ``SemDedupError`` where the Params contradict each other."""
    backend = resolve_backend(job.spark, params.value("backend"))
    if not fits:
        return backend, None
    clusterer = choose_clusterer(params.value("clusterer"), backend, params.value("backend"))
    initial = params.value("initMode")
    k = params.value("k") or (1 if isinstance(initial, str) else len(initial))
    refuse_unsupported(clusterer, FitSettings.from_params(params, k))
    return backend, clusterer
