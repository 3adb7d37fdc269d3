"""``spark-semdedup doctor``: what it makes of made-up findings, and what it finds in the tests' own session."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import replace

import pytest
from pyspark import cloudpickle

from spark_semdedup.cli import commands
from spark_semdedup.cli import main as cli
from spark_semdedup.doctor import probe as surroundings
from spark_semdedup.doctor import rules as doctor
from spark_semdedup.doctor.probe import Findings, Worker
from spark_semdedup.doctor.rules import diagnose
from spark_semdedup.spark import backend, session

VERSIONS = {"numpy": "2.4.0", "pandas": "2.3.3", "pyarrow": "23.0.0", "spark_semdedup": "0.1.0", "faiss": "1.15.1"}
RAPIDS = {"cupy": "14.2.0", "cuml": "26.6.0", "spark_rapids_ml": "26.6.0"}

NO_CUPY = "CuPy cannot be imported on laptop (No module named 'cupy')"
CPU = Worker("laptop", 1, "3.11.7", "/usr/bin/python3", VERSIONS, 8, 32.0, gpu_lacking=NO_CUPY)
GPU = Worker(
    "node-1",
    2,
    "3.11.7",
    "/opt/semdedup/bin/python",
    VERSIONS | RAPIDS,
    16,
    128.0,
    gpus=("0 NVIDIA H100, 81559 MiB",),
    nvidia_driver="570.86.10",
    addresses=("0",),
)
LOCAL = {
    "spark.master": "local[8]",
    "spark.driver.memory": "8g",
    "spark.driver.maxResultSize": "0",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "4096",
    "spark.sql.adaptive.enabled": "true",
}
CLUSTER = LOCAL | {
    "spark.master": "spark://host:7077",
    "spark.executor.cores": "4",
    "spark.executor.resource.gpu.amount": "1",
    "spark.task.resource.gpu.amount": "0.25",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "32768",
    "spark.plugins": backend.PLUGIN,
    "spark.rapids.memory.gpu.allocFraction": "0.4",
}
LAPTOP = Findings(CPU, "17.0.15", "4.0.3", "2.13.16", None, (CPU,), 8, LOCAL)
LOGIN = replace(CPU, packages=VERSIONS | RAPIDS)
GPUS = Findings(LOGIN, "17.0.15", "4.0.3", "2.13.16", "26.8.1", (GPU, GPU), 8, CLUSTER)
STREAMED = {"execution": "streamed"}


def with_settings(found: Findings, **settings: str | None) -> Findings:
    """The findings with other settings, ``spark.`` left out and dots written as underscores; None: unset."""
    changed = {f"spark.{name.replace('_', '.')}": value for name, value in settings.items()}
    return replace(found, settings={n: v for n, v in {**found.settings, **changed}.items() if v is not None})


def executors_with(**packages: str | None) -> Findings:
    """A laptop whose executor has other versions; None: none."""
    theirs = {name: version for name, version in {**VERSIONS, **packages}.items() if version is not None}
    return replace(LAPTOP, executors=(replace(CPU, packages=theirs),))


def test_a_laptop_runs_on_its_cpu():
    diagnosis = diagnose(LAPTOP)
    assert diagnosis.works
    assert diagnosis.advice == ()
    assert diagnosis.uses == {
        "fit": "FAISS on the driver, 8 cores",
        "assign": "NumPy, 8 tasks at once",
        "compare": "NumPy, screening in float32, 8 tasks at once; a grouped pandas UDF",
        "write": "Spark's CPU plan",
    }
    assert str(diagnosis).endswith("what to change\n  nothing")


def test_java_25_and_pandas_3_are_right_for_spark_4_3():
    newest = {**VERSIONS, "pandas": "3.1.1"}
    worker = replace(CPU, packages=newest)
    found = replace(LAPTOP, java="25.0.3", spark="4.3.0", driver=worker, executors=(worker,))
    assert diagnose(found).advice == ()


def test_a_gpu_cluster_runs_on_its_gpus():
    diagnosis = diagnose(GPUS, STREAMED)
    assert diagnosis.advice == ()
    assert diagnosis.uses == {
        "fit": "spark-rapids-ml (cuML) on the executors' GPUs",
        "assign": "CuPy on each task's GPU, 8 tasks at once",
        "compare": "CuPy on each task's GPU, screening in float16, 8 tasks at once; mapInArrow over partitions, "
        "on the GPU plan",
        "write": "the plugin's GPU plan",
    }
    said = str(diagnosis)
    assert "RAPIDS plugin    26.8.1" in said
    assert "0 NVIDIA H100, 81559 MiB; driver 570.86.10; Spark assigns 0; CuPy can use them" in said


@pytest.mark.parametrize("switched_off", [{"rapids_sql_enabled": "false"}, {"rapids_sql_mode": "explainOnly"}])
def test_a_plugin_that_is_switched_off_leaves_the_cpu_plan(switched_off):
    assert diagnose(with_settings(GPUS, **switched_off), STREAMED).uses["write"] == "Spark's CPU plan"


WITHOUT_CUPY = replace(GPU, packages=VERSIONS, gpu_lacking="CuPy cannot be imported on node-1 (No module named 'cupy')")

FATAL = {
    "no Java": (replace(LAPTOP, java=None, failure="no java"), {}, "install Java 17 to 22", "no java runs here"),
    "an old Java": (replace(LAPTOP, java="11.0.1", failure="x"), {}, "use Java 17 to 22", "11.0.1"),
    "Java 8": (
        replace(LAPTOP, java="1.8.0_442", failure="x"),
        {},
        "use Java 17 to 22",
        "1.8.0_442",
    ),
    "no session for another reason": (replace(LAPTOP, failure="the port is taken"), {}, "fix", "the port is taken"),
    "an old Spark": (replace(LAPTOP, spark="3.4.4"), {}, "use Spark 3.5, or 4.0 to 4.3", "3.4.4"),
    "executors with another Python": (
        replace(LAPTOP, executors=(), unasked="Python in worker has different version"),
        {},
        "PYSPARK_PYTHON: a Python of the driver's version (3.11)",
        "different version",
    ),
    "no pandas": (
        executors_with(pandas=None),
        {},
        "executors: pandas 2.2.2 or newer, below 3; ship the packages",
        "none",
    ),
    "pandas 3 before Spark 4.3": (
        executors_with(pandas="3.0.1"),
        {},
        "executors: pandas 2.2.2 or newer, below 3",
        "3.0.1",
    ),
    "pandas 4": (replace(executors_with(pandas="4.0.0"), spark="4.3.0"), {}, "pandas 2.2.2 or newer, below 4", "4.0.0"),
    "Java 25 before Spark 4.2": (replace(LAPTOP, java="25.0.3", failure="x"), {}, "use Java 17 to 22", "25.0.3"),
    "Java 26": (replace(LAPTOP, java="26", spark="4.2.0", failure="x"), {}, "use Java 17 to 25", "26"),
    "NumPy 1": (executors_with(numpy="1.26.4"), {}, "numpy 2.0", "1.26.4"),
    "without the package": (
        replace(LAPTOP, executors=(CPU, replace(CPU, host="node-7", packages=dict(list(VERSIONS.items())[:3])))),
        {},
        "executors: this package, as a zip by --py-files",
        "on node-7",
    ),
    "another release of the package": (
        executors_with(spark_semdedup="0.0.9"),
        {},
        "the same spark_semdedup everywhere",
        "driver 0.1.0, executors 0.0.9",
    ),
    "no FAISS": (replace(LAPTOP, driver=replace(CPU, packages={})), {}, "driver: pip install 'faiss-cpu", "the fit"),
    "gpu without one": (
        LAPTOP,
        {"backend": "gpu"},
        "executors: pip install 'spark-semdedup[gpu-cu12]' (gpu-cu13",
        "CuPy cannot be imported",
    ),
    "gpu without CuPy": (
        replace(GPUS, executors=(GPU, WITHOUT_CUPY)),
        {"backend": "gpu"},
        "executors: pip install 'spark-semdedup[gpu-cu12]', or set backend",
        "No module named 'cupy'",
    ),
    "gpu without CuPy, CUDA 13": (
        replace(GPUS, executors=(replace(WITHOUT_CUPY, nvidia_driver="580.65.06"),)),
        {"backend": "gpu"},
        "executors: pip install 'spark-semdedup[gpu-cu13]'",
        "No module named 'cupy'",
    ),
    "no cuML": (replace(GPUS, executors=(replace(GPU, packages=VERSIONS),)), {}, "gpu-cu12", "the fit needs cuML"),
    "no spark-rapids-ml": (replace(GPUS, driver=CPU), {}, "driver: pip install", "spark-rapids-ml"),
    "rapids on CPUs": (LAPTOP, {"clusterer": "rapids"}, "clusterer: faiss or auto", "needs GPUs"),
    "FAISS with GPUs": (
        GPUS,
        {"clusterer": "faiss", "backend": "gpu"},
        "clusterer: rapids or auto",
        "faiss runs on CPUs",
    ),
    "TF32": (replace(GPUS, executors=(replace(GPU, inexact=("CUPY_TF32",)),)), {}, "unset CUPY_TF32", "products"),
    "dynamic allocation": (
        with_settings(GPUS, dynamicAllocation_enabled="true"),
        STREAMED,
        "spark.dynamicAllocation.enabled false",
        "start together",
    ),
    "the plugin takes the whole GPU": (
        with_settings(GPUS, rapids_memory_gpu_allocFraction=None),
        STREAMED,
        "spark.rapids.memory.gpu.allocFraction and",
        "100 % of each GPU",
    ),
}


@pytest.mark.parametrize("case", FATAL)
def test_what_would_make_a_run_fail(case):
    findings, params, change, reason = FATAL[case]
    diagnosis = diagnose(findings, params)
    assert not diagnosis.works
    first = [each for each in diagnosis.advice if each.needed and change in each.change]
    assert len(first) == 1, diagnosis.advice
    assert reason in first[0].reason
    assert "NEEDED: " in str(diagnosis)


BETTER = {
    "GPUs, but no CuPy": (
        with_settings(replace(GPUS, executors=(GPU, WITHOUT_CUPY)), sql_execution_arrow_maxRecordsPerBatch="4096"),
        STREAMED,
        "executors: pip install 'spark-semdedup[gpu-cu12]'",
        "the CPU will be used",
    ),
    "GPUs that Spark does not assign": (
        with_settings(GPUS, task_resource_gpu_amount=None),
        STREAMED,
        "spark.task.resource.gpu.amount 0.25",
        "the same one",
    ),
    "fewer tasks than cores": (
        with_settings(GPUS, task_resource_gpu_amount="1"),
        STREAMED,
        "spark.task.resource.gpu.amount 0.25",
        "only 1 of an executor's 4 cores",
    ),
    "little memory is left": (
        with_settings(GPUS, rapids_memory_gpu_allocFraction="0.55"),
        STREAMED,
        "spark.rapids.memory.gpu.allocFraction and",
        "55 % of each GPU",
    ),
    "a pool for Python": (
        with_settings(GPUS, rapids_python_memory_gpu_pooling_enabled="true"),
        STREAMED,
        "spark.rapids.python.memory.gpu.pooling.enabled false",
        "CuPy does not allocate",
    ),
    "grouped beside the plugin": (
        GPUS,
        {"execution": "grouped"},
        "execution: streamed",
        "no grouped pandas UDF on arrays",
    ),
    "no jar": (replace(GPUS, plugin=None), STREAMED, "for this Scala, 2.13", "not on the class path"),
    "small batches": (
        with_settings(GPUS, sql_execution_arrow_maxRecordsPerBatch="4096"),
        STREAMED,
        "spark.sql.execution.arrow.maxRecordsPerBatch 32768",
        "a GPU needs more",
    ),
    "large batches": (
        with_settings(LAPTOP, sql_execution_arrow_maxRecordsPerBatch="10000"),
        {},
        "spark.sql.execution.arrow.maxRecordsPerBatch 4096",
        "10000 rows",
    ),
    "a bound of what is collected": (
        with_settings(LAPTOP, driver_maxResultSize=None),
        {},
        "spark.driver.maxResultSize 0",
        "1g",
    ),
    "no adaptive execution": (
        with_settings(LAPTOP, sql_adaptive_enabled="false"),
        {},
        "spark.sql.adaptive.enabled",
        "skewed",
    ),
    "a container's memory": (
        with_settings(LAPTOP, master="yarn", executor_cores="6"),
        {},
        "spark.executor.memoryOverhead 6g",
        "killed",
    ),
    "a large heap": (with_settings(LAPTOP, driver_memory="24g"), {}, "spark.driver.memory 10g", "24 of 32 GiB"),
    "another NumPy": (
        executors_with(numpy="2.1.0"),
        {},
        "the same numpy everywhere",
        "driver 2.4.0, executors 2.1.0",
    ),
}


@pytest.mark.parametrize("case", BETTER)
def test_what_would_make_a_run_better(case):
    findings, params, change, reason = BETTER[case]
    diagnosis = diagnose(findings, params)
    assert diagnosis.works
    (advice,) = diagnosis.advice
    assert change in advice.change
    assert reason in advice.reason


@pytest.mark.parametrize(
    ("kernel", "sockets", "advised"),
    [
        ("Linux 6.18.2-generic", "false", True),
        ("Linux 6.18.2-generic", "true", False),
        ("Linux 6.18.2-generic", None, False),  # Spark before 4.1 has no such sockets
        ("Linux 6.8.0", "false", False),
        ("Darwin 24.1.0", "false", False),
    ],
)
def test_unix_sockets_are_advised_where_linux_may_let_tcp_stand_still(kernel, sockets, advised):
    found = replace(LAPTOP, driver=replace(CPU, kernel=kernel), executors=(replace(CPU, kernel=kernel),))
    diagnosis = diagnose(with_settings(found, python_unix_domain_socket_enabled=sockets))
    changes = [each.change for each in diagnosis.advice]
    assert changes == ["spark.python.unix.domain.socket.enabled true"] * advised
    assert f"kernel           {kernel}; workers speak {'over Unix sockets' if sockets == 'true' else 'TCP'}" in str(
        diagnosis
    )


def test_a_client_of_spark_connect_needs_no_java():
    diagnosis = diagnose(replace(LAPTOP, java=None, scala=None))
    assert diagnosis.works
    assert "Java             out of reach" in str(diagnosis)


def test_what_is_needed_comes_first():
    findings = with_settings(replace(LAPTOP, spark="3.4.4"), sql_adaptive_enabled="false", driver_memory="24g")
    assert [each.needed for each in diagnose(findings).advice] == [True, False, False]


# --- a real session -----------------------------------------------------------------------------------------


def test_the_question_runs_where_this_package_is_missing(monkeypatch):
    sent = cloudpickle.dumps(surroundings.executor_probe())
    for name in [name for name in sys.modules if name.startswith("spark_semdedup")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "pandas", None)
    found = Worker.from_json(cloudpickle.loads(sent)())
    assert {"numpy", "pyarrow"} <= set(found.packages)
    assert not {"pandas", "spark_semdedup"} & set(found.packages)
    assert found.gpu_lacking == "spark_semdedup cannot be imported"


def test_a_session_tells_what_it_has(spark):
    found = surroundings.probe_cluster(spark)
    assert found.unasked is None
    assert found.spark == spark.version
    assert found.scala.startswith("2.1")
    assert int(found.java.split(".")[0]) in range(17, 23)
    (executor,) = found.executors  # local mode: one, with two workers
    assert executor.executable == sys.executable
    assert executor.packages == found.driver.packages
    assert found.settings["spark.sql.shuffle.partitions"] == "4"
    assert found.settings["spark.master"] == "local[2]"
    assert diagnose(found).works


@pytest.mark.slow
def test_executors_without_room_are_not_waited_for_for_ever(spark, monkeypatch):
    """A task that takes longer than there is patience stands for one that never starts."""
    monkeypatch.setattr(surroundings, "PATIENCE", 0.5)
    monkeypatch.setattr(surroundings, "executor_probe", lambda: lambda: time.sleep(3) or "")
    with pytest.raises(session.SemDedupError, match=r"no executor had room for a task within 0\.5 s"):
        surroundings.ask_executors(spark)
    assert spark.sparkContext.getLocalProperty("spark.jobGroup.id") is None
    assert spark.range(1).count() == 1  # later jobs are not cancelled


def test_the_command_prints_a_diagnosis(spark, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "probe_cluster", lambda _: LAPTOP)
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    for title in ("found", "executors", "settings", "what a run will use", "what to change"):
        assert f"\n{title}\n" in said


def test_the_command_fails_where_a_run_would(spark, capsys):
    assert cli.main(["doctor", "--backend", "gpu"]) == 1
    assert "NEEDED: executors: pip install 'spark-semdedup[gpu-cu12]'" in capsys.readouterr().out


def test_the_command_works_without_java(monkeypatch, capsys, tmp_path):
    def cannot_start(**_):
        raise session.SessionError("Spark cannot be started: JAVA_HOME is not set")

    monkeypatch.setattr(cli, "given_session", lambda: None)
    monkeypatch.setattr(cli, "local_session", cannot_start)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "Java             none" in said
    assert "numpy 2." in said
    assert re.search("1. NEEDED: install Java 17 to 2[25], or set JAVA_HOME", said)
    assert cli.main(["plan", "--input", "x"]) != 0  # other commands say why, as ever


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', "17.0.15"),
        ('java version "1.8.0_442"', "1.8.0_442"),
        ("none", None),
    ],
)
def test_the_java_that_spark_would_start(monkeypatch, tmp_path, said, version):
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
    program.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert surroundings.java_on_path() == version


def test_params_are_those_of_a_run():
    assert set(doctor.PARAMS) <= set(commands.COMMANDS["run"].params)
