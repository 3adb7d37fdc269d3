"""The archive that brings executors their packages: what is in it, and a cluster that has nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
from standalone import cluster

from spark_semdedup import cli, environment
from spark_semdedup.errors import SemDedupError

ROOT = Path(__file__).parents[1]


class Installed:
    """As much of an installed distribution as finding what it needs takes."""

    def __init__(self, *requires: str, extras: tuple[str, ...] = ()) -> None:
        self.requires, self.metadata = list(requires), self
        self.get_all = lambda _: list(extras)


@pytest.fixture
def installed(monkeypatch):
    """Distributions by name; others are not installed."""

    def install(**distributions: Installed) -> None:
        by_name = {name.replace("_", "-"): each for name, each in distributions.items()}

        def find(name: str) -> Installed:
            if name not in by_name:
                raise metadata.PackageNotFoundError(name)
            return by_name[name]

        monkeypatch.setattr(metadata, "distribution", find)

    return install


def test_what_is_needed_is_needed_by_what_is_needed_too(installed):
    a, b, c = (
        Installed("B_b>=2", "only-on-windows; sys_platform == 'win32'", "pyspark"),
        Installed("c[fast]"),
        Installed("d; extra == 'fast'", "e; extra == 'slow'", "a"),
    )
    d, e = Installed(), Installed()
    installed(spark_semdedup=Installed("a>=1", "pyspark<5", "e; extra == 'other'"), a=a, b_b=b, c=c, d=d, e=e)
    assert environment.needed() == [a, b, c, d]


def test_an_extra_brings_its_own(installed):
    a, gpu = Installed(), Installed()
    root = Installed("a", 'cupy-cuda12x==14.*; extra == "gpu-cu12"', extras=("gpu-cu12", "gpu-cu13"))
    installed(spark_semdedup=root, a=a, cupy_cuda12x=gpu)
    assert environment.needed(["gpu-cu12"]) == [a, gpu]
    with pytest.raises(SemDedupError, match=r"extra='gpu-cu11' .* one of gpu-cu12, gpu-cu13"):
        environment.needed(["gpu-cu11"])


def test_what_is_missing_here_cannot_be_packed(installed, capsys, tmp_path):
    installed(spark_semdedup=Installed("a"))
    assert environment.main([str(tmp_path / "e.tar.gz")]) == 2
    assert "a is not installed in" in capsys.readouterr().err
    assert not (tmp_path / "e.tar.gz").exists()


# Runs on the driver: the job, and what Python an executor's tasks have.
JOB = """
import json, sys
from pyspark.sql import SparkSession
from spark_semdedup import cli

def look(_):
    import os, faiss, numpy, spark_semdedup
    yield [os.getcwd(), sys.executable, sys.prefix, spark_semdedup.__file__, numpy.__file__, faiss.__file__]

assert cli.main(["run", *sys.argv[2:]]) == 0
assert cli.main(["doctor"]) == 0
context = SparkSession.getActiveSession().sparkContext
open(sys.argv[1], "w").write(json.dumps(context.parallelize(range(2), 2).mapPartitions(look).collect()))
"""


@pytest.mark.slow
def test_executors_need_nothing_but_the_archive(tmp_path, spark):
    archive = tmp_path / "environment.tar.gz"
    environment.main([str(archive)])
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert not [name for name in names if "/pyspark/" in name or "/pip/" in name or "__pycache__" in name]

    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(50, 16))[np.arange(200) % 50] + 0.1 * rng.normal(size=(200, 16))
    table = pa.table({"id": range(200), "embedding": pa.array(vectors.tolist(), pa.list_(pa.float64()))})
    pq.write_table(table, tmp_path / "in.parquet")
    arguments = ["--input", str(tmp_path / "in.parquet"), "--k", "6", "--which-to-keep", "random", "--eps", "0.02"]
    assert cli.main(["run", *arguments, "--output", str(tmp_path / "here")]) == 0

    (tmp_path / "job.py").write_text(JOB)
    with cluster(tmp_path) as url:
        command = [Path(pyspark.__file__).parent / "bin" / "spark-submit", "--master", url]
        command += ["--archives", f"{archive}#environment"]
        settings = {
            "spark.pyspark.python": "./environment/bin/python",
            "spark.pyspark.driver.python": sys.executable,
            "spark.driver.host": "127.0.0.1",
            "spark.driver.memory": "1g",
            "spark.executor.memory": "640m",
            "spark.ui.enabled": "false",
            "spark.sql.shuffle.partitions": "4",
        }
        command += [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
        command += [tmp_path / "job.py", tmp_path / "found.json", *arguments, "--output", tmp_path / "there"]
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYSPARK")}
        own["PYTHONPATH"] = str(ROOT)  # the driver's; executors have the archive's package
        ended = subprocess.run(command, env=own, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]

    found = json.loads((tmp_path / "found.json").read_text())
    folders = {Path(each[0]) for each in found}
    assert {folder.parents[1].name for folder in folders} == {"worker-0", "worker-1"}
    for folder, *paths in found:
        assert all(Path(path).is_relative_to(Path(folder) / "environment") for path in paths), (folder, paths)
    for name in ("similarities", "duplicates", "deduplicated"):
        one, other = (pq.read_table(tmp_path / place / name).sort_by("id") for place in ("here", "there"))
        assert one.equals(other)
        assert one.num_rows > 0
