"""The settings in ``conf/``: explained, accepted by Spark, and effective as far as that shows without a GPU."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pyspark
import pytest
import rapids_report

import spark_semdedup
from spark_semdedup.cli import main as cli

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
SPARK_SUBMIT = Path(sys.executable).parent / "spark-submit"
CLUSTERS = ("gpu-standalone.properties", "gpu-yarn.properties", "gpu-kubernetes.properties")
FILES = ("local.properties", "gpu-local.properties", *CLUSTERS, "dataproc/spark.properties")
SCRIPTS = ("discover-gpus.sh", "emr/bootstrap.sh", "dataproc/create-cluster.sh", "dataproc/initialize.sh")
SCRIPTS += ("databricks/init.sh",)

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


def emr() -> dict[str, str]:
    found = json.loads((CONF / "emr" / "configurations.json").read_text())
    return next(each["Properties"] for each in found if each["Classification"] == "spark-defaults")


def databricks() -> dict[str, str]:
    return json.loads((CONF / "databricks" / "cluster.json").read_text())["spark_conf"]


GPU_SETTINGS = {name: functools.partial(settings, name) for name in FILES if name != "local.properties"}
GPU_SETTINGS |= {"emr": emr, "databricks": databricks}
"""All places that hold settings for GPUs."""


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


@pytest.mark.parametrize("place", GPU_SETTINGS)
def test_a_gpu_task_has_a_share_of_the_executors_gpu(place: str):
    gpu = GPU_SETTINGS[place]()
    if place == "gpu-local.properties":  # where Spark schedules no GPUs, and refuses to be asked for them
        assert gpu["spark.master"] == "local[4]"
        assert not [key for key in gpu if ".resource." in key]
        return
    # Databricks sets both itself: all of a node in one executor, with its GPU.
    assert gpu.get("spark.executor.resource.gpu.amount", "1") == "1"  # the plugin refuses more
    share = float(gpu["spark.task.resource.gpu.amount"])
    # Fewer tasks than cores would waste cores; more could not run.
    assert round(1 / share) == int(gpu.get("spark.executor.cores", 4)) > 1


@pytest.mark.parametrize("place", GPU_SETTINGS)
def test_the_plugin_is_on_and_leaves_gpu_memory_to_python(place: str):
    gpu = GPU_SETTINGS[place]()
    assert gpu["spark.plugins"] == "com.nvidia.spark.SQLPlugin"
    keys = ("minAllocFraction", "allocFraction", "maxAllocFraction")
    least, first, most = (float(gpu[f"spark.rapids.memory.gpu.{key}"]) for key in keys)
    assert least <= first <= most <= 0.5


def test_places_differ_only_where_their_platforms_do():
    """What is explained in one place holds in all."""
    own = {"spark.executor.memory", "spark.driver.memory", "spark.executor.resource.gpu.discoveryScript"}
    own |= {"spark.master", "spark.submit.deployMode"}
    values: dict[str, set[str]] = {}
    for found in (read() for read in GPU_SETTINGS.values()):
        for key, value in found.items():
            values.setdefault(key, set()).add(value)
    assert {key for key, found in values.items() if len(found) > 1} <= own
    common = {key for key in settings("gpu-local.properties") if key.startswith(("spark.rapids.", "spark.sql."))}
    for place, read in GPU_SETTINGS.items():
        assert common <= read().keys(), place


def test_memory_beside_the_jvm_holds_pinned_memory_and_a_worker_for_each_task():
    for gpu in (settings("gpu-yarn.properties"), settings("gpu-kubernetes.properties"), emr()):
        pinned, cores = gib(gpu["spark.rapids.memory.pinnedPool.size"]), int(gpu["spark.executor.cores"])
        assert gib(gpu["spark.executor.memoryOverhead"]) >= pinned + 2.5 * cores


def gib(size: str) -> float:
    assert size.endswith("g")
    return float(size[:-1])


def test_the_plugins_keys_are_those_of_its_jar():
    """The constants of the classes in which it declares them, no JVM needed."""
    jar = rapids_report.jar()
    if jar is None:
        pytest.skip("the plugin's jar is not in build/jars: make rapids-jar")
    version = pyspark.__version__.replace(".", "")
    with zipfile.ZipFile(jar) as classes:
        declared = [f"spark{version}/com/nvidia/spark/rapids/RapidsConf$.class"]
        declared.append("spark-shared/com/nvidia/spark/rapids/python/PythonConfEntries$.class")
        keys = set(re.findall(rb"spark\.rapids\.[\w.-]+", b"".join(map(classes.read, declared))))
    assert len(keys) > 200
    used = {key for read in GPU_SETTINGS.values() for key in read() if key.startswith("spark.rapids.")}
    assert used <= {key.decode() for key in keys}


BY_PATTERN = (
    r"spark\.(executorEnv\.\w+|(executor|task)\.resource\.gpu\.(amount|discoveryScript|vendor)|pyspark\.python)"
)
"""Keys that Spark makes up from names: docs/configuration.html."""

BY_SUBMIT = {"spark.master", "spark.jars", "spark.files", "spark.submit.deployMode", "spark.driver.defaultJavaOptions"}
"""Keys that spark-submit reads by its own list (SparkSubmitArguments, SparkLauncher)."""


def test_sparks_keys_are_declared_by_spark(spark):
    jvm = spark.sparkContext._jvm
    modules = ("internal.config.package", "sql.internal.SQLConf", "sql.internal.StaticSQLConf")
    for module in (*modules, "deploy.k8s.Config", "internal.config.UI", "internal.config.Python"):
        jvm.java.lang.Class.forName(f"org.apache.spark.{module}$")  # an entry is known once its module is loaded
    used = {key for read in [*GPU_SETTINGS.values(), functools.partial(settings, "local.properties")] for key in read()}
    for key in sorted(used - BY_SUBMIT):
        if not key.startswith("spark.rapids.") and not re.fullmatch(BY_PATTERN, key):
            known = jvm.org.apache.spark.internal.config.ConfigEntry.findEntry(key)
            assert known is not None, key


def test_the_databricks_job_runs_on_the_cluster():
    cluster = json.loads((CONF / "databricks" / "cluster.json").read_text())
    job = json.loads((CONF / "databricks" / "job.json").read_text())
    (of_job,) = job["job_clusters"]
    named = {"cluster_name", "autotermination_minutes"}  # those a job's cluster has not
    assert of_job["new_cluster"] == {key: value for key, value in cluster.items() if key not in named}
    (task,) = job["tasks"]
    assert task["job_cluster_key"] == of_job["job_cluster_key"]
    given = task["spark_python_task"]["parameters"]
    assert cli.make_parser().parse_args(["run", *given]).input_table == "main.corpus.documents"


def test_versions_are_the_same_everywhere():
    """Of the plugin and of the package, which file names hold."""
    wanted = re.search(r"^RAPIDS \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    files = [path for folder in ("conf", "docs") for path in (ROOT / folder).rglob("*.*") if path.suffix != ".png"]
    texts = [path.read_text() for path in files]
    texts.append((CONF / "kubernetes" / "Dockerfile").read_text())
    jars = re.findall(r"rapids-4-spark_2\.1[23][-:](\d[\d.]*\d)", "\n".join(texts))
    assert len(jars) > 5
    assert set(jars) == {wanted}
    wheels = re.findall(r"spark_semdedup-(\d[\d.]*\d)-py3", "\n".join(texts))
    assert set(wheels) == {spark_semdedup.__version__}


def test_the_databricks_script_installs_what_the_package_asks_for():
    """But for what the runtime has itself, of which it must not get a second one."""
    asked = set(re.findall(r'^ +"([^"; ]+)["; ]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    script = (CONF / "databricks" / "init.sh").read_text()
    installed = set(re.findall(r"'([\w-]+[=>][^']*)'", script))
    assert len(installed) == 5
    assert installed <= asked
    assert "pyspark" not in {re.split("[=>]", each)[0] for each in installed}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_parse_and_can_be_run(name: str):
    path = CONF / name
    assert os.access(path, os.X_OK)
    shell = path.read_text().splitlines()[0].removeprefix("#!/bin/")
    assert shell in ("sh", "bash")
    assert subprocess.run([shell, "-n", path], capture_output=True, check=True).stderr == b""


def test_the_dataproc_script_hands_over_all_settings(tmp_path: Path):
    gcloud = tmp_path / "gcloud"
    gcloud.write_text('#!/bin/sh\nfor given in "$@"; do echo "$given"; done\n')
    gcloud.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    command = [CONF / "dataproc" / "create-cluster.sh", "name", "region", "bucket"]
    given = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=True).stdout.splitlines()
    properties = given[given.index("--properties") + 1]
    assert properties.startswith("^#^spark:spark.")
    pairs = [pair.removeprefix("spark:").split("=", 1) for pair in properties.removeprefix("^#^").split("#")]
    assert dict(pairs) == settings("dataproc/spark.properties")


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


@pytest.mark.parametrize("name", CLUSTERS[1:])
def test_properties_of_clusters_are_alike(name: str):
    """But for what starts executors there, and where they find the plugin. So a run with one tells of all."""
    alike = {key: value for key, value in settings(CLUSTERS[0]).items() if key != "spark.jars"}
    assert {key: settings(name).get(key) for key in alike} == alike


@pytest.mark.slow
def test_gpu_properties_give_each_task_a_gpu(tmp_path: Path):
    """On a cluster in miniature, with a GPU that exists in name only and hence without the plugin."""
    name = CLUSTERS[0]
    nvidia_smi(tmp_path, "3")
    (tmp_path / "hosts").mkdir()
    without = ("spark.plugins", "spark.jars", "spark.sql.cache.serializer", "spark.submit.deployMode", "spark.files")
    wanted = {key: value for key, value in settings(name).items() if key not in without}
    script = shutil.copy(CONF / "discover-gpus.sh", tmp_path / "hosts")
    overrides = {
        "spark.master": "local-cluster[1,4,1024]",
        "spark.driver.memory": "1g",
        "spark.executor.memory": "1g",
        "spark.executor.memoryOverhead": "1g",
        "spark.executor.instances": "1",
        "spark.pyspark.python": sys.executable,
        "spark.executor.resource.gpu.discoveryScript": str(script),
        "spark.worker.resource.gpu.amount": "1",
        "spark.worker.resource.gpu.discoveryScript": str(script),
    }
    wanted |= overrides
    properties = tmp_path / "without-plugin.properties"
    properties.write_text("".join(f"{key} {value}\n" for key, value in wanted.items()))
    told = submit(tmp_path, properties, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    # A worker of local-cluster works inside Spark's own folder, wherever the test would have it.
    shutil.rmtree(Path(pyspark.__file__).parent / "work" / told["application"])
    assert told["gpus"] == ["3"]
    assert told["batches"] == [10_000]
    assert {key: told["settings"].get(key) for key in wanted} == wanted
