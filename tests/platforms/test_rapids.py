"""The RAPIDS Accelerator itself, in its mode that needs no GPU: what it says of our plans, and that it harms no job."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest
import rapids_report
from rapids_report import Operator, Query

from spark_semdedup import EmbeddingKMeansModel, SemDedupModel

ROOT = Path(__file__).parents[2]

LOG = """26/11/21 08:22:42 WARN RapidsPluginUtils: RAPIDS Accelerator is in explain only mode
=== grouped: assign and compare
26/11/21 08:24:09 WARN GpuOverrides:\x20
!Exec <FlatMapGroupsInPandasExec> cannot run even partially on the GPU because not all expressions can be replaced; \
unsupported data types in input: BinaryType [unit#55]
  @Expression <AttributeReference> task#63L could run on GPU
  !Expression <PythonUDF> compare_group(id#53, unit#55)#64 blocks running on GPU because param expression \
AttributeReference unit#55 (BinaryType is not supported)
    @Expression <AttributeReference> id#53 could run on GPU
  *Exec <ShuffleExchangeExec> will run on GPU
    *Partitioning <SinglePartition$> will run on GPU
    #Exec <SortExec> could run on GPU but is going to be removed because parent plan is removed
      ! <RDDScanExec> cannot run on GPU because GPU does not currently support the operator class RDDScanExec
        @Expression <AttributeReference> id#53 could run on GPU

26/11/21 08:24:09 WARN GpuOverrides:\x20
*Exec <FileSourceScanExec> will run on GPU
26/11/21 08:24:10 WARN GpuOverrides:\x20
*Exec <FileSourceScanExec> will run on GPU
"""


def test_a_log_is_read_as_queries_with_their_operators_and_reasons():
    """Column numbers, which differ from session to session, are left out; a plan logged twice running is one query."""
    compare = (
        Operator(0, "FlatMapGroupsInPandasExec (compare_group)", "unsupported data types in input: BinaryType [unit]"),
        Operator(1, "ShuffleExchangeExec"),
        Operator(2, "SinglePartition"),
        Operator(3, "RDDScanExec", "GPU does not currently support the operator class RDDScanExec"),
    )
    scan = (Operator(0, "FileSourceScanExec"),)
    stage = "grouped: assign and compare"
    assert rapids_report.queries(LOG) == [Query(stage, compare), Query(stage, scan)]


def test_reasons_of_expressions_count_where_the_operator_has_none_of_its_own():
    log = """!Exec <ProjectExec> cannot run on GPU because not all expressions can be replaced
  !Expression <StaticInvoke> f(id#1) cannot run on GPU because StaticInvoke is not supported
"""
    ((operator,),) = (query.operators for query in rapids_report.queries(log))
    assert operator == Operator(0, "ProjectExec", "StaticInvoke is not supported")


# --- with the jar -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jar() -> Path:
    found = rapids_report.jar()
    if found is None:
        pytest.skip(f"no jar of the plugin for this Spark in build/jars: make rapids-jar PYSPARK={pyspark.__version__}")
    return found


@pytest.mark.slow
def test_the_report_on_a_job_is_the_one_that_is_written_down(jar):
    """And, whatever is written down: streamed, all of the comparison is on the GPU but the driver's table of tasks."""
    found = rapids_report.report(jar)
    streamed = {
        operator
        for query in found
        if query.stage.startswith("streamed") and "assign and compare" in query.stage
        if any("MapInArrowExec" in operator.name for operator in query.operators)
        for operator in query.operators
    }
    names = {operator.name for operator in streamed if operator.why_not is None}
    map_in_arrow = "PythonMapInArrowExec" if rapids_report.SPARK_LINE == "3.5" else "MapInArrowExec"
    mapped = {f"{map_in_arrow} (routed)", f"{map_in_arrow} (compare_partition)"}
    assert mapped | {"FileSourceScanExec", "ShuffleExchangeExec", "BroadcastHashJoinExec"} <= names
    assert "SortExec" not in names, "there are so few tasks that each has a partition of its own"
    on_cpu = {operator.name for operator in streamed if operator.why_not is not None}
    assert on_cpu <= {"RDDScanExec", "LocalTableScanExec"}
    written = rapids_report.GOLDEN.read_text()
    if f"`{jar.name}`" not in written:
        pytest.skip(f"what is written down is of another release than {jar.name}")
    assert rapids_report.rendered(found, jar) == written


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """The wheel as a zip, since Spark's workers take no wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: a build leaves its own copies of modules behind
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "spark_semdedup", source / "spark_semdedup")
    builder = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(builder, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built.rename(folder / "spark_semdedup.zip")


@pytest.mark.slow
def test_one_command_attaches_the_plugin_and_the_answer_stays(spark, jar, package, tmp_path):
    """The one of docs/gpu-clusters.md, but for the mode, and memory that this machine may not have."""
    params = {"execution": "streamed", "coverage": "exact"}  # with which vectors, cells and tasks travel as lists
    sample = ROOT / "spark_semdedup" / "data" / "debian-sample.parquet"
    options = [text for name, value in params.items() for text in (f"--{name}", value)]
    command = [
        *(Path(sys.executable).parent / "spark-submit", "--py-files", package),
        *("--properties-file", ROOT / "conf" / "gpu-local.properties", "--jars", jar),
        *("--conf", "spark.rapids.sql.mode=explainOnly", "--driver-memory", "2g", "--master", "local[2]"),
        *(ROOT / "jobs" / "semdedup.py", "--input", sample, "--output", tmp_path / "result", "--k", "40", *options),
    ]
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "RAPIDS Accelerator is in explain only mode" in done.stderr
    # The plugin tells of what stays on the CPU: the step that takes the rows to fit on, but not the comparison.
    assert "<PythonUDF> sample(" in done.stderr
    assert "compare_partition(" not in done.stderr

    centroids = EmbeddingKMeansModel.load(str(tmp_path / "result" / "centroids")).centroids
    without = SemDedupModel(centroids=centroids, **params).duplicates(spark.read.parquet(str(sample)))
    written = spark.read.parquet(str(tmp_path / "result" / "duplicates"))
    expected = {tuple(row) for row in without.select(written.columns).collect()}
    assert len(expected) > 500
    assert {tuple(row) for row in written.collect()} == expected
