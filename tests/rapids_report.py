"""What the RAPIDS Accelerator would run on the GPU, stage by stage: its own report on the plans of a whole job.

The plugin has a mode that needs no GPU, ``explainOnly``: it looks at every plan that Spark executes and logs which
operators it would replace, and why not the others. Here a job runs so, in a process of its own, and the log becomes the
table ``golden/rapids-spark-X.Y.md``.

    python tests/rapids_report.py          # writes the table for the installed Spark; needs `make rapids-jar`
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyspark

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from spark_semdedup.runs.progress import Progress

ROOT = Path(__file__).parents[1]
SPARK_LINE = ".".join(pyspark.__version__.split(".")[:2])
GOLDEN = Path(__file__).parent / "golden" / f"rapids-spark-{SPARK_LINE}.md"
SAMPLE = ROOT / "spark_semdedup" / "data" / "debian-sample.parquet"
MARK = "=== "
"""Begins the lines by which the job tells the log what it is about to do."""


def jar() -> Path | None:
    """The newest of the plugin's jars that ``make rapids-jar`` has fetched and that knows the installed Spark."""
    scala = "2.12" if pyspark.__version__.startswith("3.") else "2.13"
    fetched = sorted((ROOT / "build" / "jars").glob(f"rapids-4-spark_{scala}-*.jar"))
    return next((each for each in reversed(fetched) if _knows(each, pyspark.__version__)), None)


def _knows(plugin: Path, version: str) -> bool:
    """Whether a jar has classes for a version of Spark: a folder ``spark403``, say."""
    folder = f"spark{version.replace('.', '')}/"
    with zipfile.ZipFile(plugin) as archive:
        return any(name.startswith(folder) for name in archive.namelist())


# --- what the log says ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operator:
    """One line of a report: an operator, how deep it stands in the plan, and why it stays on the CPU, if it does."""

    depth: int
    name: str
    why_not: str | None = None


@dataclass(frozen=True)
class Query:
    """The plan of one query, the last operator first, and the stage of the job that asked for it."""

    stage: str
    operators: tuple[Operator, ...]


_LINE = re.compile(r"^(?P<indent> *)(?P<sign>[*!#@]) ?(?P<kind>[A-Z][a-z]+)? ?<(?P<name>\w+)\$?> ?(?P<said>.*)$")
_UDF = re.compile(r"^([\w<>]+)\(")


def queries(log: str) -> list[Query]:
    """The reports in a driver's log, in order; a plan that is reported again and again is told once."""
    found: list[Query] = []
    stage = ""
    lines: list[str] = []
    for line in [*log.splitlines(), MARK]:
        if _LINE.match(line):
            lines.append(line)
            continue
        if lines:
            query = Query(stage, tuple(_operators(lines)))
            found += [query] if query not in found[-1:] else []
            lines = []
        if line.startswith(MARK):
            stage = line.removeprefix(MARK).strip()
    return found


def _operators(lines: list[str]) -> Iterator[Operator]:
    """Operators with the reasons of their expressions. Those the plugin drops with a join's sort ("#") are left out."""
    parsed = [match for match in map(_LINE.match, lines) if match]
    for position, line in enumerate(parsed):
        if line["kind"] == "Expression" or line["sign"] == "#":
            continue
        mine = []
        for below in parsed[position + 1 :]:
            if below["kind"] != "Expression" or len(below["indent"]) <= len(line["indent"]):
                break
            mine.append(below)
        udfs = [_UDF.match(e["said"])[1] for e in mine if e["name"] == "PythonUDF"]
        name = line["name"] + (f" ({', '.join(udfs)})" if udfs else "")
        yield Operator(len(line["indent"]) // 2, name, _why_not(line, mine) if line["sign"] != "*" else None)


def _why_not(line: re.Match[str], expressions: list[re.Match[str]]) -> str:
    """The plugin's reasons, without the numbers that Spark gives columns anew in each session."""
    own, *below = (
        re.sub(r"#\d+L?", "", each["said"]).split(" because ", maxsplit=1)[-1]
        for each in (line, *(e for e in expressions if e["sign"] == "!"))
    )
    parts = sorted(part for part in own.split("; ") if part != "not all expressions can be replaced")  # a set, there
    return textwrap.shorten("; ".join(parts or dict.fromkeys(below)), 120, placeholder=" …")


# --- the job ----------------------------------------------------------------------------------------------------


@contextmanager
def explaining_session(plugin: str) -> Iterator:
    """A local session with the plugin, which explains all plans and replaces nothing.

    Without adaptive execution each query has one plan and hence one report, and the plugin can tell of broadcast joins,
    too. Nor does the size of the small input here turn the joins that large tables have into broadcast joins.
    """
    from spark_semdedup.spark.session import local_session

    conf = {
        "spark.driver.extraClassPath": plugin,
        "spark.plugins": "com.nvidia.spark.SQLPlugin",
        "spark.rapids.sql.mode": "explainOnly",
        "spark.rapids.sql.explain": "ALL",
        "spark.rapids.skipGpuArchitectureCheck": "true",  # release 25.04 looks for a GPU even here
        "spark.sql.cache.serializer": "com.nvidia.spark.ParquetCachedBatchSerializer",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.autoBroadcastJoinThreshold": "-1",
        "spark.sql.shuffle.partitions": "2",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # many plans, few rows
    }
    session = local_session("rapids report", cores=2, memory_gib=2, conf=conf)
    session.sparkContext.setLogLevel("WARN")
    yield session
    session.stop()


def run_job(plugin: str, folder: Path) -> None:
    """A job of each kind, on a few rows, with a mark in the log before each of its stages."""
    import pyarrow.parquet as pq

    from spark_semdedup.runs import preflight, steps
    from spark_semdedup.runs.source import Source
    from spark_semdedup.runs.target import Target
    from spark_semdedup.spark.files import Files

    few = folder / "input"
    few.mkdir()
    pq.write_table(pq.read_table(SAMPLE).slice(0, 1000), few / "part.parquet")
    with explaining_session(plugin) as spark:
        saved = None  # the first job fits centroids, the others use them
        for number, (kind, settings) in enumerate(JOBS.items()):
            job = preflight.Job(spark, Files(spark), marking(spark, kind))
            fit = {} if saved else {"k": 4}
            output = str(folder / f"result-{number}")
            steps.run(job, Source((str(few),)), Target(output), {"backend": "cpu", **fit, **settings}, saved)
            saved = saved or preflight.SavedCentroids(f"{output}/centroids")


def marking(spark: SparkSession, kind: str) -> Progress:
    """Marks the log, which the JVM writes, where a phase begins."""
    from spark_semdedup.runs.progress import Progress

    class Marking(Progress):
        @contextmanager
        def phase(self, title: str) -> Iterator[dict[str, int]]:
            spark._jvm.java.lang.System.err.println(f"{MARK}{kind}: {title}")
            with super().phase(title) as counts:
                yield counts

    return Marking()


_TILED = {"maxClusterRows": 200}  # so that there are clusters of several tiles, whose entries are merged
JOBS = {
    "grouped": {**_TILED, "execution": "grouped"},
    "streamed": {**_TILED, "execution": "streamed"},
    "streamed, exact coverage": {"execution": "streamed", "coverage": "exact"},
}


def report(plugin: Path) -> list[Query]:
    """Runs the jobs in a process of their own: a session's plugins are chosen when it starts."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, str(plugin), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"the job failed:\n{done.stderr[-3000:]}")
    return queries(done.stderr)


# --- the table --------------------------------------------------------------------------------------------------

_HEAD = """# What would run on the GPU

Made by `python tests/rapids_report.py` and checked by the tests: what {plugin} says of every plan
that a job executes with Spark {spark} in the mode `explainOnly`, which needs no GPU. Each table is a query, its
operators in the order in which rows pass them. Python functions stand in brackets: `sample` takes the rows to fit on,
`routed` assigns rows to centroids, `compare_group` and `compare_partition` compare those of a task. Queries told
before are left out.
"""


def rendered(found: list[Query], plugin: Path) -> str:
    """The Markdown that ``GOLDEN`` holds."""
    parts = [_HEAD.format(plugin=f"`{plugin.name}`", spark=SPARK_LINE)]
    told: list[tuple[Operator, ...]] = []
    stage = ""
    for query in found:
        if query.operators in told or not query.stage:
            continue
        told.append(query.operators)
        if query.stage != stage:
            stage = query.stage
            parts.append(f"## {stage}\n")
        rows = [
            f"| {op.name} | {'GPU' if op.why_not is None else 'CPU'} | {op.why_not or ''} |" for op in query.operators
        ]
        parts.append("\n".join(["| operator | on | why not on the GPU |", "|---|---|---|", *reversed(rows), ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run_job(sys.argv[1], Path(sys.argv[2]))
    else:
        found_jar = jar()
        if found_jar is None:
            sys.exit("the plugin's jar is not in build/jars: run make rapids-jar")
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(rendered(report(found_jar), found_jar))
        print(GOLDEN)
