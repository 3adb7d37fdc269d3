"""``sweep``: what other values of eps would remove, from the similarities that a run stored."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame, SparkSession

from spark_semdedup.analysis.sweep import EXAMPLES, Sweep
from spark_semdedup.analysis.sweep import sweep as sweep_similarities
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.runs.manifest import read_manifest, read_run_manifest
from spark_semdedup.spark.files import Files, join
from spark_semdedup.spark.parquet import own_reader


def sweep(
    result: str,
    eps: Sequence[float] | None = None,
    *,
    examples: int = EXAMPLES,
    texts: DataFrame | None = None,
    text_col: str = "text",
    id_col: str | None = None,
    spark: SparkSession | None = None,
) -> Sweep:
    """Rows removed and groups for each ``eps``, and pairs just above and just below each, from the folder ``result``
    that a run wrote; nothing is compared again.

    ``texts``: rows with the run's id column (or ``id_col``) and ``text_col``: texts of the examples. ``spark``: the
    session to use (default: the active one).

    Raises ``SemDedupError`` for a folder that is no run's, for one decided with ``keepRule`` greedy, and for an eps
    that its scores are not complete for.
    """
    spark = spark or active_session()
    files = Files(spark)
    manifest = read_run_manifest(files, result, "result")
    if manifest.get("keep_rule") == "greedy":
        raise SemDedupError(
            f"result={shown(result, 400)} was decided with keepRule='greedy': its scores are similarities to the rows "
            "that one eps keeps; sweep a run with keepRule='ranked'"
        )
    if manifest.get("against"):
        raise SemDedupError(
            f"result={shown(result, 400)} was compared with reference rows, which no sweep could tell from others: "
            "sweep a run without them"
        )
    similarities = join(result, "similarities")
    read_manifest(files, similarities, "result", "similarities")
    return sweep_similarities(
        own_reader(spark).parquet(similarities),
        eps,
        complete_eps=manifest.get("complete_eps"),
        examples=examples,
        texts=texts,
        text_col=text_col,
        id_col=id_col or manifest["parameters"]["idCol"],
    )


def active_session() -> SparkSession:
    """The session in use. ``SemDedupError`` where there is none."""
    spark = SparkSession.getActiveSession()
    if spark is None:
        raise SemDedupError("spark is not set, and no Spark session is active: give one")
    return spark
