"""What a deduplication will cost, before it runs: ``spark-semdedup plan`` and ``SemDedup.plan``.

Estimated from a sample of the rows that is clustered (``curve``).
"""

from __future__ import annotations

import math
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.analysis.cluster_choice import choose_k, may_choose_k
from spark_semdedup.analysis.curve import FITTED_FOR_CHOICE, MOST_ROWS, ClusteredSample, Frame, ladder, rows_beside
from spark_semdedup.analysis.job import BYTES, LISTS
from spark_semdedup.analysis.sizing import FitCost, Hardware, Sizing
from spark_semdedup.clustering.sample import fit_sample
from spark_semdedup.clustering.settings import FIT_ROWS_PER_CENTROID, number_of_clusters, rows_to_fit
from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels.assignment import Cells
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.estimate import VISIT_ROWS, FittedSample
from spark_semdedup.params import ClusteringParams, SemDedupStageParams
from spark_semdedup.spark.backend import slots
from spark_semdedup.spark.documents import Documents

PROBES = (1, 2, 3, 4)
"""Values of nProbe that a plan shows; 1 is the own cluster alone."""

_LEAST_FILES = 12
"""Files that a plan looks at, at least: rows of one file are often alike."""


def estimate_cost(
    params: SemDedupStageParams,
    dataset: DataFrame,
    *,
    rows: float | None = None,
    hardware: Hardware | None = None,
    centroids: np.ndarray | None = None,
) -> Sizing:
    """Plans the deduplication of ``dataset`` with the Params of ``SemDedup``.

    ``rows``: of the whole data set, where ``dataset`` is a sample of it. ``hardware``: default this machine.
    ``centroids``: float32 (k, d), of a fitted model, instead of fitting any for its k. Raises ``SemDedupError`` where
    the input is empty, has more than ``rows`` rows, or fewer than k, and where Params contradict each other.
    """
    count = dataset.count()
    if not count:
        raise SemDedupError("the input is empty: it must have at least one row")
    total = float(count if rows is None else rows)
    if not count <= total <= MOST_ROWS:
        raise SemDedupError(
            f"rows={total:g} cannot be used: it must be at least {count}, the rows of the input, which are a part of "
            f"them, and at most {MOST_ROWS:g}"
        )
    fit = FitCost.of(params)
    k = len(centroids) if centroids is not None else _target_k(params, round(total))
    documents = Documents.of_params(dataset, params)
    dim = documents.some_length() or 1
    whole = total == count
    sizes = ladder(k, count, dim, whole=whole)
    fitted, unseen, valid = _sample(params, dataset, count, sizes[-1])
    if centroids is not None and centroids.shape[1] != fitted.shape[1]:
        raise SemDedupError(
            f"embeddings have length {fitted.shape[1]}, but the centroids have {centroids.shape[1]}: give their own"
        )
    total *= valid
    if centroids is None and k > total:
        k = number_of_clusters(params, round(total), valid=True)
        sizes = ladder(k, len(fitted), dim, whole=True)
    coverages = [*(Coverage(others=n - 1) for n in PROBES), Coverage(None, params.similarity_threshold())]
    chooses = centroids is None and may_choose_k(params, coverages[-1], total)
    considered = ladder(k, count, dim, whole=whole, numbers=FITTED_FOR_CHOICE) if chooses else []
    fits = {*sizes, *considered} - (set() if centroids is None else {k})
    sample = ClusteredSample.of(params, fitted, FittedSample(unseen, total / len(unseen)), fits)
    if centroids is not None:
        sample.cells[k] = Cells.of(centroids, spherical=params.value("distanceMeasure") == "cosine")
    hardware = hardware or Hardware.here(slots(dataset.sparkSession))
    frame = Frame.of(params, total, fitted.shape[1], hardware)
    workloads, best, gpu = [], {}, bool(hardware.number_of_gpus)
    for coverage in coverages:
        visits = sample.visits(coverage)
        curve = sample.curve(coverage, frame, visits)
        used = k
        if chooses and coverage.visits:
            used = choose_k(params, sample.of_sizes(considered), coverage, k, gpu=gpu).k
        measured = frame.measured(coverage, visits[used], sample.cells[used]) if used in sample.cells else None
        workloads.append(replace(measured or curve.at(used), links=params.value("keepRule") == "greedy"))
        best[coverage.label] = curve.best_k(k, hardware, fit)
    home_rows = visits[k].home_rows(k) if k in visits else None
    spread = (
        None if home_rows is None else (float(home_rows.min()), float(np.median(home_rows)), float(home_rows.max()))
    )
    looked_at = len(fitted) + (len(unseen) if unseen is not fitted else 0)
    unknown = frozenset({coverages[-1].label} if max(sample.cells) == 1 < k else ())
    stored = BYTES if documents.are_bytes else LISTS
    needed = None if centroids is not None else fit
    return Sizing(tuple(workloads), best, spread, looked_at, hardware, needed, unknown, stored)


def _target_k(params: ClusteringParams, total: int) -> int:
    k = number_of_clusters(params, total)
    rows_to_fit(params.value("fitSampleRows"), k, total)  # refuses what a run refuses
    return k


def _sample(
    params: SemDedupStageParams, dataset: DataFrame, count: int, top: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Unit vectors to fit, and unit vectors that no fit sees, or the same where all are fitted: float32 (n, d). And
    the share of all rows that can be compared."""
    wanted = min(FIT_ROWS_PER_CENTROID * top, count)
    dataset, count = _some_files(dataset, count, wanted + VISIT_ROWS)
    sample = fit_sample(
        Documents.of_params(dataset, params),
        total=count,
        wanted=wanted,
        seed=params.value("seed"),
        dim=params.value("embeddingDim"),
        handle_invalid=params.value("handleInvalid"),
        on_driver=True,
        spare=VISIT_ROWS,
    )
    return sample.array, rows_beside(sample), sample.valid_rows / count


def _some_files(dataset: DataFrame, count: int, wanted: int) -> tuple[DataFrame, int]:
    """Part of a dataset's files, chosen at random, and their rows, where all have many times the rows ``wanted``: to
    sample rows Spark decodes the vectors of all. The dataset itself where it does not read files as they are."""
    if count < 4 * wanted or dataset.is_cached:
        return dataset, count
    try:
        files = sorted(dataset.inputFiles())
        number = max(_LEAST_FILES, math.ceil(len(files) * 2 * wanted / count))
        if number >= len(files):
            return dataset, count
        chosen = np.random.default_rng(0).choice(files, number, replace=False).tolist()
        # By ``_metadata`` Spark opens no other files. It writes names otherwise than inputFiles: one slash, or no %20.
        forms = {form for file in chosen for form in (file, file.replace("file:///", "file:/", 1))}
        some = dataset.where(F.col("_metadata.file_path").isin([*forms, *map(unquote, forms)]))
        rows = some.count()
    except PySparkException:  # after a join or a union there is no one file that a row is of
        return dataset, count
    return (some, rows) if rows >= wanted else (dataset, count)
