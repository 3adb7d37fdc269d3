"""A sample of what Spark reads: a DataFrame, a Parquet table, or the folder that a run wrote."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.explore.memory import available_memory, refuse_too_large
from spark_semdedup.explore.sample import Columns, Sample, from_arrow
from spark_semdedup.spark.parquet import own_reader

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from spark_semdedup.clustering.centroids import Centroids
    from spark_semdedup.explore.clusters import Clusters


def of_dataframe(df: DataFrame, sample_rows: int, seed: int, columns: Columns) -> Sample:
    """The rows of ``df`` with the smallest ``xxhash64(id, seed)``: one job that counts, one that collects them,
    and between them, for texts, one that adds up their lengths."""
    from pyspark.sql import functions as F

    from spark_semdedup.spark.arrow import collect_arrow
    from spark_semdedup.spark.columns import embedding_column, field, id_column, quoted
    from spark_semdedup.spark.ids import check_ids

    columns = columns.of(df.columns)
    id_ = id_column(df, columns.id)
    embedding = embedding_column(df, columns.embedding, format_=columns.format)
    total = check_ids(df, id_, columns.id)
    wanted = min(sample_rows or total, total)
    selected = [F.xxhash64(id_, F.lit(seed)).alias("hash"), id_.alias("id"), embedding.alias("embedding")]
    if columns.text is not None:
        _refuse_no_text(field(df, columns.text, "text_col"), columns.text)
        selected.append(quoted(columns.text).cast("string").alias("text"))
    rows = _lowest(df.select(*selected), wanted, total)
    if columns.text is not None:
        _refuse_long_texts(rows, wanted)
    table = collect_arrow(rows)
    order = np.argsort(table["hash"].to_numpy(), kind="stable")[:wanted]
    read = columns._replace(id="id", embedding="embedding", text=None if columns.text is None else "text")
    return from_arrow(table.take(pa.array(order)), read, rows=total, seed=seed)


def _refuse_no_text(field: Any, name: str) -> None:
    from pyspark.sql import types as T

    if not isinstance(field.dataType, (T.StringType, T.VarcharType, T.CharType)):
        raise SemDedupError(f"text_col={shown(name)} is of type {field.dataType.simpleString()}: it must be string")


def _refuse_long_texts(rows: DataFrame, wanted: int) -> None:
    """A ``SemDedupError`` where memory would not hold the texts of ``wanted`` of the rows; of their lengths alone."""
    from pyspark.sql import functions as F

    found = rows.agg(F.count(F.lit(1)).alias("rows"), F.sum(F.octet_length("text")).alias("bytes")).first()
    if found and found["bytes"]:
        refuse_too_large(wanted, 0, text_bytes=found["bytes"] * wanted / found["rows"], purpose="the texts of a sample")


def _lowest(rows: DataFrame, wanted: int, total: int) -> DataFrame:
    """The rows among which are the ``wanted`` of smallest hash, and few more; refused where memory would not hold them.

    Hashes are uniform, so one filter replaces a sort (as in the fit sample).
    """
    from pyspark.sql import functions as F

    from spark_semdedup.spark.columns import vector_length

    if wanted * 16 * 64 > available_memory() // 8:  # only then a look at the vectors' length is worth a job
        first = rows.select(vector_length(rows, F.col("embedding")).alias("dim")).where(F.col("dim") > 0).head(1)
        refuse_too_large(wanted, first[0]["dim"] if first else 1)
    if wanted >= total:
        return rows
    fraction = min(1.0, (wanted + 6 * wanted**0.5 + 16) / total)
    highest = 2**63 - 1 if fraction >= 1 else int(-(2**63) + fraction * 2**64)
    return rows.where(F.col("hash") <= F.lit(highest))


def of_path(path: str, sample_rows: int, seed: int, columns: Columns, *, input: Any = None) -> Sample:
    """The folder of a run, or a Parquet file or folder."""
    from spark_semdedup.spark.session import current_or_local_session

    spark = current_or_local_session("spark-semdedup explore")
    if is_run(spark, path):
        return of_run(spark, path, sample_rows, seed, text_col=columns.text, input=input)
    if input is not None:
        raise SemDedupError(f"input is set, but {shown(path, 400)} is not the folder of a run: give one of them")
    return replace(of_dataframe(read_parquet(spark, path), sample_rows, seed, columns), source=path)


def read_parquet(spark: SparkSession, path: str) -> DataFrame:
    """The rows of a Parquet file or folder; a ``SemDedupError`` where there are none."""
    from pyspark.errors import PySparkException

    try:
        return spark.read.parquet(path)
    except PySparkException as error:
        reason = str(error).strip().splitlines()[0]
        raise SemDedupError(f"{shown(path, 400)} cannot be read as Parquet: {reason}") from None


def is_run(spark: SparkSession, path: str) -> bool:
    """Whether a run of the program wrote the folder."""
    from spark_semdedup.runs.manifest import RUN_MANIFEST
    from spark_semdedup.spark.files import Files, join

    files = Files(spark)
    return bool(files.exists(join(path, RUN_MANIFEST)))


def of_run(
    spark: SparkSession, path: str, sample_rows: int, seed: int, *, text_col: str | None = None, input: Any = None
) -> Sample:
    """Rows of a run with the clusters that its centroids give them.

    Without ``input`` they are the rows that it kept; with it, all rows of the input, those marked that it removed.
    Invalid rows, which no run compares, are left out.
    """
    from spark_semdedup.runs.manifest import read_run_manifest
    from spark_semdedup.spark.files import Files, join

    files = Files(spark)
    settings = read_run_manifest(files, path, "result")["parameters"]
    if not files.exists(join(path, "centroids", "metadata")):
        raise SemDedupError(f"{shown(path, 400)} has lost its centroids, which assign its rows to clusters")
    df = own_reader(spark).parquet(join(path, "deduplicated")) if input is None else _input(spark, input)
    format_ = settings.get("embeddingFormat") or "numbers"
    columns = Columns(settings["idCol"], settings["embeddingCol"], text_col, "skip", format_)
    sample = of_dataframe(df, sample_rows, seed, columns)
    removed = None
    if input is not None:
        removed = _removed(spark, join(path, "duplicates"), sample.ids)
    labels = assigned_labels(load_centroids(join(path, "centroids")), sample.units)
    return replace(sample, labels=labels, duplicates=removed, source=path)


def _input(spark: SparkSession, input: Any) -> DataFrame:
    if isinstance(input, (str, os.PathLike)):
        return read_parquet(spark, os.fspath(input))
    if not hasattr(input, "sparkSession"):
        raise SemDedupError(f"input={shown(input)} cannot be used: it must be a path or a Spark DataFrame")
    return input


def _removed(spark: SparkSession, path: str, ids: np.ndarray) -> np.ndarray:
    """Which of the sampled ids are among a run's duplicates; a join with the sample, so that no more is collected."""
    from pyspark.sql import functions as F

    from spark_semdedup.spark.arrow import collect_arrow, local_frame

    duplicates = own_reader(spark).parquet(path).select("id")
    sampled = local_frame(spark, pa.table({"sampled": pa.array(ids.tolist())}))
    found = duplicates.join(F.broadcast(sampled), F.col("id") == F.col("sampled")).select("id")
    removed = set(collect_arrow(found)["id"].to_pylist())
    return np.array([id_ in removed for id_ in ids], bool)


def load_centroids(path: str) -> Centroids:
    """The centroids of the model that a run saved."""
    from spark_semdedup.ml.kmeans import EmbeddingKMeansModel

    centroids: Centroids = EmbeddingKMeansModel.load(path).fitted_centroids
    return centroids


def assigned_labels(centroids: Centroids, units: np.ndarray) -> np.ndarray:
    """The nearest centroid of each unit vector, as the run assigns it: int64 (n,)."""
    from spark_semdedup.kernels.assignment import assign

    if units.shape[1] != centroids.dim:
        raise SemDedupError(
            f"embeddings have length {units.shape[1]}, but the run's centroids have {centroids.dim}: give the "
            "run's own input"
        )
    return assign(units, centroids.cells(), distances=()).centroid.astype(np.int64)


def clustered_dataframe(spark: SparkSession, clusters: Clusters) -> DataFrame:
    """The columns that ``PairwiseSimilarity`` takes, of labels of any method; see ``Clusters.dataframe``."""
    from spark_semdedup.kernels import nearest_centroids
    from spark_semdedup.spark.arrow import local_frame
    from spark_semdedup.spark.vectors import packed_rows

    sample, numbers = clusters.sample, clusters.numbers
    l2, cosine = np.zeros(len(sample), np.float32), np.zeros(len(sample), np.float32)
    for place, number in enumerate(numbers):
        rows = clusters.members(int(number))
        nearest = nearest_centroids(sample.units[rows], clusters.centroids[place : place + 1])
        l2[rows], cosine[rows] = nearest.l2_dist_to_cent, nearest.cosine_dist_to_cent
    table = pa.table(
        {
            "id": pa.array(sample.ids.tolist()),
            "embedding": packed_rows(sample.units, lists=True),
            "centroid": pa.array(clusters.labels.astype(np.int32)),
            "l2_dist_to_cent": pa.array(l2),
            "cosine_dist_to_cent": pa.array(cosine),
        }
    )
    return local_frame(spark, table)
