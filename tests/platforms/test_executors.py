"""``docs/executors.md``: executors that have nothing but Spark and Python run a job from a PEX file."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
from standalone import cluster

from spark_semdedup.cli import main as cli

ROOT = Path(__file__).parents[2]

# Runs on the driver: the job, and the files from which the executors' tasks import their packages.
JOB = """
import json, sys
from pyspark.sql import SparkSession
from spark_semdedup.cli import main as cli

def imported(_):
    import os, faiss, numpy, spark_semdedup
    yield [os.getcwd(), spark_semdedup.__file__, numpy.__file__, faiss.__file__]

assert cli.main(["run", *sys.argv[2:]]) == 0
context = SparkSession.getActiveSession().sparkContext
open(sys.argv[1], "w").write(json.dumps(context.parallelize(range(2), 2).mapPartitions(imported).collect()))
"""


def wheel(folder: Path) -> Path:
    """The package's wheel, built from a copy of its source."""
    source = folder / "source"
    shutil.copytree(ROOT / "spark_semdedup", source / "spark_semdedup")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    builder = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(builder, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pex") is None, reason="pex is not installed")
def test_executors_need_nothing_but_the_pex(tmp_path, spark):
    pex = tmp_path / "semdedup.pex"
    builder = [sys.executable, "-m", "pex", wheel(tmp_path), "--exclude", "pyspark", "--inherit-path=fallback"]
    builder += ["--python", sys.executable, "--output-file", pex, "--no-compress"]  # which takes longest
    subprocess.run(builder, check=True, capture_output=True, timeout=480)

    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(50, 16))[np.arange(200) % 50] + 0.1 * rng.normal(size=(200, 16))
    table = pa.table({"id": range(200), "embedding": pa.array(vectors.tolist(), pa.list_(pa.float64()))})
    pq.write_table(table, tmp_path / "in.parquet")
    arguments = ["--input", str(tmp_path / "in.parquet"), "--k", "6", "--which-to-keep", "random", "--eps", "0.02"]
    assert cli.main(["run", *arguments, "--output", str(tmp_path / "local")]) == 0

    (tmp_path / "job.py").write_text(JOB)
    with cluster(tmp_path) as url:
        command = [Path(pyspark.__file__).parent / "bin" / "spark-submit", "--master", url, "--files", pex]
        settings = {
            "spark.pyspark.python": "./semdedup.pex",
            "spark.pyspark.driver.python": sys.executable,
            "spark.executorEnv.PEX_ROOT": "./pex-root",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.memory": "1g",
            "spark.executor.memory": "640m",
            "spark.ui.enabled": "false",
            "spark.sql.shuffle.partitions": "4",
        }
        command += [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
        command += [tmp_path / "job.py", tmp_path / "imported.json", *arguments, "--output", tmp_path / "remote"]
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYSPARK")}
        own["PYTHONPATH"] = str(ROOT)  # the driver's; executors import the package from the PEX
        ended = subprocess.run(command, env=own, cwd=tmp_path, capture_output=True, text=True, timeout=480)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]

    imported = json.loads((tmp_path / "imported.json").read_text())
    assert {Path(folder).parents[1].name for folder, *_ in imported} == {"worker-0", "worker-1"}
    for folder, *paths in imported:
        assert all(Path(path).is_relative_to(Path(folder) / "pex-root") for path in paths), (folder, paths)
    for name in ("similarities", "duplicates", "deduplicated"):
        one, other = (pq.read_table(tmp_path / place / name).sort_by("id") for place in ("local", "remote"))
        assert one.equals(other)
        assert one.num_rows > 0
