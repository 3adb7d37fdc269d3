"""A Spark Connect client at work, in a process of its own: a process has either a classic session or a remote one.

    python tests/connect_client.py INPUT FOLDER

It starts a server in local mode, does with the table at ``INPUT`` (Parquet with ``id`` and ``embedding``) what
``docs/spark-connect.md`` says of a client, and writes what came of it to ``FOLDER/told.json``.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark.ml import Pipeline
from pyspark.sql import DataFrame, SparkSession

from spark_semdedup import (
    EmbeddingKMeans,
    IdentifyDuplicates,
    PairwiseSimilarity,
    RemoveDuplicates,
    SemDedup,
    SemDedupModel,
)
from spark_semdedup.cli import main as cli
from spark_semdedup.doctor import rules as doctor

EPS = 0.1

FIT = {"k": 6, "eps": EPS, "backend": "cpu"}

MODELS: dict[str, dict[str, Any]] = {
    "cluster": {},
    "mllib": {"clusterer": "mllib"},
    "exact": {"coverage": "exact"},
    "two probes": {"nProbe": 2},
    "streamed": {"execution": "streamed"},
    "ranked": {"rankBy": ["id desc"]},
}


def ids(df: DataFrame) -> list[int]:
    return sorted(row["id"] for row in df.select("id").collect())


def error_of(action: Callable[[], object]) -> str:
    """The first line of what is raised."""
    try:
        action()
    except Exception as error:
        return str(error).splitlines()[0]
    return "nothing"


def removed_by(fitted: SemDedupModel, df: DataFrame) -> dict[str, Any]:
    """What each of a model's ways to the answer says."""
    result = fitted.run(df)
    told = {
        "duplicates": sorted((row["id"], row["max_id"]) for row in result.duplicates.collect()),
        "kept": ids(result.deduplicated),
        "transformed": ids(fitted.transform(df)),
        "similarities": fitted.similarities(df).count(),
        "counts": dict(result.counts()),
    }
    result.check()
    result.unpersist()
    return told


def steps(df: DataFrame) -> list[int]:
    """Those kept by the steps, one by one."""
    centroids = EmbeddingKMeans(k=FIT["k"], backend="cpu").fit(df)
    similarities = PairwiseSimilarity(backend="cpu").transform(centroids.transform(df))
    duplicates = IdentifyDuplicates(eps=EPS).transform(similarities)
    return ids(RemoveDuplicates().setDuplicates(duplicates).transform(df))


def command_line(source: str, folder: Path) -> str:
    """What the command line says; it ends the process with a status, which is no traceback."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = cli.main(["run", "--input", source, "--output", str(folder / "result")])
    return f"{status}: {said.getvalue().strip()}"


def told(spark: SparkSession, source: str, folder: Path) -> dict[str, Any]:
    df = spark.read.parquet(source)
    removed = {}
    for name, params in MODELS.items():
        fitted = SemDedup(**FIT, **params).fit(df)
        fitted.save(str(folder / name))
        removed[name] = removed_by(fitted, df)
    model = SemDedupModel.load(str(folder / "cluster"))
    return {
        "session": f"{type(spark).__module__}.{type(spark).__name__}",
        "models": removed,
        "loaded": ids(model.transform(df)),
        "pipeline": ids(Pipeline(stages=[SemDedup(**FIT)]).fit(df).transform(df)),
        "steps": steps(df),
        "plan": model.plan(df).workloads[0].rows,
        "recall": model.evaluate(df, model.run(df)).recall,
        "doctor": doctor.examine(spark, {}).works,
        "overwrite": error_of(lambda: model.write().overwrite().save(str(folder / "cluster"))),
        "command line": command_line(source, folder),
    }


if __name__ == "__main__":
    _, given, chosen = sys.argv
    conf = {"spark.sql.shuffle.partitions": "2", "spark.driver.memory": "1g", "spark.ui.enabled": "false"}
    remote = SparkSession.builder.remote("local[2]").config(map=conf).getOrCreate()
    try:
        Path(chosen, "told.json").write_text(json.dumps(told(remote, given, Path(chosen))))
    finally:
        remote.stop()
