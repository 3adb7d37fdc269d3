"""The settings in ``conf/``: explained, accepted by Spark, and effective as far as that shows without a GPU."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
SPARK_SUBMIT = Path(sys.executable).parent / "spark-submit"
FILES = ("local.properties", "gpu-standalone.properties")

# A job that tells its session's settings and what a Python task on an executor finds.
JOB = """
import json, sys
import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()

def look(batches):
    gpus = TaskContext.get().resources().get("gpu")
    for batch in batches:
        yield pa.record_batch({"rows": [batch.num_rows], "gpus": [gpus.addresses if gpus else []]})

rows = spark.range(0, 10_000, 1, 1).mapInArrow(look, "rows long, gpus array<string>").collect()
answer = {
    "settings": dict(spark.sparkContext.getConf().getAll()),
    "application": spark.sparkContext.applicationId,
    "master": spark.sparkContext.master,
    "batches": [row.rows for row in rows],
    "gpus": sorted({gpu for row in rows for gpu in row.gpus}),
}
open(sys.argv[1], "w").write(json.dumps(answer))
"""


def settings(name: str) -> dict[str, str]:
    """The file's settings. A line is a comment, empty, or a key and a value, as ``spark-submit`` reads it."""
    found: dict[str, str] = {}
    for line in (CONF / name).read_text().splitlines():
        if line and not line.startswith("#"):
            key, value = line.split(maxsplit=1)
            assert key not in found
            found[key] = value
    return found


def submit(tmp_path: Path, properties: Path, *options: str, **environment: str) -> dict:
    """Runs the job by a real ``spark-submit`` and returns what it has told."""
    job, answer = tmp_path / "job.py", tmp_path / "answer.json"
    job.write_text(JOB)
    command = [SPARK_SUBMIT, "--properties-file", properties, *options, job, answer]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(answer.read_text())


@pytest.mark.parametrize("name", FILES)
def test_every_setting_is_sparks_and_has_a_reason(name: str):
    assert all(key.startswith("spark.") for key in settings(name))
    blocks = re.split(r"\n\s*\n", (CONF / name).read_text())
    for block in blocks:
        lines = block.splitlines()
        if any(not line.startswith("#") for line in lines):
            assert lines[0].startswith("#"), f"{block!r} does not say why"


def test_a_gpu_task_has_a_share_of_the_executors_gpu():
    gpu = settings("gpu-standalone.properties")
    assert gpu["spark.executor.resource.gpu.amount"] == "1"  # the plugin refuses more
    share = float(gpu["spark.task.resource.gpu.amount"])
    # Fewer tasks than cores would waste cores; more could not run.
    assert round(1 / share) == int(gpu["spark.executor.cores"]) > 1


def test_the_plugin_leaves_gpu_memory_to_python():
    gpu = settings("gpu-standalone.properties")
    keys = ("minAllocFraction", "allocFraction", "maxAllocFraction")
    least, first, most = (float(gpu[f"spark.rapids.memory.gpu.{key}"]) for key in keys)
    assert least <= first <= most <= 0.5


def test_the_discovery_script_tells_the_gpus_that_nvidia_smi_lists(tmp_path: Path):
    nvidia_smi(tmp_path, "0", "1", "2")
    result = subprocess.run([CONF / "discover-gpus.sh"], env={"PATH": str(tmp_path)}, capture_output=True, check=True)
    assert json.loads(result.stdout) == {"name": "gpu", "addresses": ["0", "1", "2"]}


def test_the_discovery_script_fails_where_there_is_no_driver(tmp_path: Path):
    """Not an empty list, with which Spark would start and wait for a GPU for ever."""
    result = subprocess.run([CONF / "discover-gpus.sh"], env={"PATH": str(tmp_path)}, capture_output=True, check=False)
    assert result.returncode != 0
    assert result.stdout == b""


def nvidia_smi(folder: Path, *indices: str) -> None:
    path = folder / "nvidia-smi"
    path.write_text("#!/bin/sh\n" + "".join(f"echo {index}\n" for index in indices))
    path.chmod(0o755)


@pytest.mark.slow
def test_local_properties_run_a_job(tmp_path: Path):
    wanted = settings("local.properties")
    told = submit(tmp_path, CONF / "local.properties")
    assert {key: told["settings"].get(key) for key in wanted} == wanted
    assert told["master"] == "local[*]"
    assert told["batches"] == [4096, 4096, 10_000 - 2 * 4096]


@pytest.mark.slow
def test_gpu_properties_give_each_task_a_gpu(tmp_path: Path):
    """On a standalone cluster in miniature, with a GPU that exists in name only and hence without the plugin."""
    nvidia_smi(tmp_path, "3")
    (tmp_path / "hosts").mkdir()
    lines = (CONF / "gpu-standalone.properties").read_text().splitlines(keepends=True)
    properties = tmp_path / "without-plugin.properties"
    properties.write_text("".join(line for line in lines if not line.startswith("spark.plugins")))
    script = shutil.copy(CONF / "discover-gpus.sh", tmp_path / "hosts")
    overrides = {
        "spark.driver.memory": "1g",
        "spark.executor.memory": "1g",
        "spark.worker.resource.gpu.amount": "1",
        "spark.worker.resource.gpu.discoveryScript": str(script),
    }
    options = [text for key, value in overrides.items() for text in ("--conf", f"{key}={value}")]
    told = submit(
        tmp_path,
        properties,
        *("--master", "local-cluster[1,4,1024]"),
        *options,
        PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
    )
    # A worker of local-cluster works inside Spark's own folder, wherever the test would have it.
    shutil.rmtree(Path(pyspark.__file__).parent / "work" / told["application"])
    assert told["gpus"] == ["3"]
    assert told["batches"] == [10_000]
    wanted = {**settings("gpu-standalone.properties"), **overrides}
    del wanted["spark.plugins"]
    assert {key: told["settings"].get(key) for key in wanted} == wanted
