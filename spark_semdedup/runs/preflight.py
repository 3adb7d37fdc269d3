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
from spark_semdedup.params import ClusteringParams, HasColumns
from spark_semdedup.runs.lock import is_lock
from spark_semdedup.runs.manifest import MANIFEST, RUN_MANIFEST, STAGES, UNFINISHED, is_mark, is_own_run
from spark_semdedup.runs.progress import Progress
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.target import Target
from spark_semdedup.spark.backend import resolve_backend
from spark_semdedup.spark.columns import embedding_column, field, id_column
from spark_semdedup.spark.documents import Documents
from spark_semdedup.spark.files import Files, is_within, join

Settings = Mapping[str, Any]
"""Values of Params by name: those alone that the user has set."""

EVALUATION = "evaluation.json"
"""Name of the file with an evaluation, where a folder is given for it; that of the run itself, say."""

REPORT = "report.html"
"""Name of the page about a run, where no other file is given for it."""

RUN_RESULTS = (RUN_MANIFEST, "summary.json", "deduplicated", "invalid", "duplicates", "similarities", "centroids")
"""What a run writes into its folder. ``--overwrite`` deletes these, the manifest first, and an evaluation and a report
of them."""

FIT_PARAMS = frozenset(name for name, param in vars(ClusteringParams).items() if isinstance(param, Param))
"""The Params that only a fit uses; centroids that are given need none of them."""


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
    """Saved centroids that a step starts from: a ``model`` to use instead of a fit, or the fit's ``initial`` ones."""

    model: str | None = None
    initial: str | None = None

    def reads(self) -> dict[str, Sequence[str]]:
        """The paths, by the name of the option."""
        return {"centroids": [self.model] if self.model else [], "initMode": [self.initial] if self.initial else []}

    def load(self, job: Job, settings: Settings) -> tuple[EmbeddingKMeansModel | None, dict[str, Any]]:
        """The model, if one is to be used, and the settings with what comes from the saved centroids."""
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
        """Parameters as they are reported: paths instead of k × d numbers, and the number of centroids there are."""
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
    """Inputs that are missing, an output that is there already, and the two overlapping.

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
    """``ResultExistsError`` for an output folder that is not a step's to delete, ``--overwrite`` or not."""
    if target.path is None or job.files.is_vacant(target.path):
        return
    names = job.files.names(target.path)
    if _is_in_run(job, target.path):
        what = "is a part of a run's result"
    elif _is_run(names):
        what = "is the folder of a whole run"
    elif all(map(is_mark, names)):  # nobody's, if its lock can be had
        return
    elif MANIFEST not in names and UNFINISHED not in names:
        what = f"is no earlier result (it has no {MANIFEST})"
    else:
        return
    raise ResultExistsError(
        f"output={shown(target.path, 400)} {what} and is not deleted, not even with --overwrite: give another folder"
    )


def _is_run(names: Sequence[str]) -> bool:
    """Whether a folder of such entries is a run's, ended or not; not by a mark that steps make, too."""
    return any(name in (RUN_MANIFEST, STAGES) for name in names)


def _is_in_run(job: Job, path: str) -> bool:
    """Whether a folder is where a run, of the folder above, has written a result, or is about to."""
    above, _, name = job.files.full(path).rpartition("/")
    if name not in RUN_RESULTS or not job.files.exists(above):
        return False
    names = job.files.names(above)
    return _is_run(names) or any(map(is_lock, names))  # a run that has begun has a lock, and no more perhaps


def refuse_foreign_names(job: Job, target: Target) -> None:
    """``ResultExistsError`` for a folder in which a run would replace what bears a result's name, but is none."""
    if target.path is None or job.files.is_vacant(target.path) or is_own_run(job.files, target.path):
        return
    alike = sorted({*RUN_RESULTS, EVALUATION, REPORT} & set(job.files.names(target.path)))
    if alike:
        raise ResultExistsError(
            f"output={shown(target.path, 400)} is no earlier run (it has no {RUN_MANIFEST} of one), and "
            f"{', '.join(alike)} in it would be replaced: give another folder"
        )


def _is_same_table(spark: SparkSession, one: str | None, other: str | None) -> bool:
    """Whether two names stand for one table, which may be spelled with or without catalog and schema."""
    if one is None or other is None or not (spark.catalog.tableExists(one) and spark.catalog.tableExists(other)):
        return False
    tables = [spark.catalog.getTable(name) for name in (one, other)]
    return len({(t.catalog, tuple(t.namespace or ()), t.name) for t in tables}) == 1


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


def check_columns(rows: DataFrame, params: HasColumns, ranking: Ranking, *, clustered: bool = False) -> None:
    """Every column that a Param names is there and can be used; ``clustered``: those of the cluster step, too."""
    id_ = id_column(rows, params.value("idCol"))
    embedding_column(rows, params.value("embeddingCol"), float16_bits=clustered)
    for name in params.value("metadataCols") or []:
        field(rows, name, "metadataCols")
    if clustered:
        field(rows, "centroid", "column")
    if clustered or ranking.by:
        ranking.key_columns(rows, id_)


def check_embedding_length(rows: DataFrame, params: HasColumns, model: EmbeddingKMeansModel) -> None:
    documents = Documents.of(rows, params.value("idCol"), params.value("embeddingCol"))
    documents.require_length(model.centroids.shape[1])


def resolve_compute(job: Job, params: Any, *, fits: bool) -> tuple[str, str | None]:
    """Backend and clusterer that will be used; contradictions are refused before the fit."""
    backend = resolve_backend(job.spark, params.value("backend"))
    if not fits:
        return backend, None
    clusterer = choose_clusterer(params.value("clusterer"), backend, params.value("backend"))
    initial = params.value("initMode")
    k = params.value("k") or (1 if isinstance(initial, str) else len(initial))
    refuse_unsupported(clusterer, FitSettings.from_params(params, k))
    return backend, clusterer


def output_folder(target: Target) -> str:
    if target.path is None:
        raise SemDedupError("output is not set: give the folder to write to")
    return target.path
