"""``spark-semdedup doctor``: what each stage will use of a cluster, and what to change before a run.

``probe`` collects the facts; ``diagnose`` is a pure function of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyspark.sql import SparkSession

from spark_semdedup.clustering.settings import ON_DRIVER
from spark_semdedup.doctor.probe import Findings, Worker, probe_cluster
from spark_semdedup.formatting import aligned, gib
from spark_semdedup.pairwise.task import precision_for
from spark_semdedup.params import DEFAULTS
from spark_semdedup.spark._linux_tcp import BROKEN_FROM, FIXED_IN

PARAMS = ("backend", "deviceMemoryFraction", "clusterer", "precision", "execution")
"""Params that decide what a run uses: those that the command takes."""

SPARK = ((3, 5), (4, 4))
"""Versions that were tried: from the first on, below the second."""

ANY = (math.inf,)

BOUNDS: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {
    "numpy": ((2, 0), ANY),
    "pandas": ((2, 2, 2), (4,)),
    "pyarrow": ((16, 1), ANY),
}
"""Versions that executors need: from the first on, below the second; pyproject.toml says why."""

PANDAS_3_FROM = (4, 3)
"""The first Spark that was tried with pandas 3."""

SHIPPING = "ship the packages with the job (docs/executors.md)"


@dataclass(frozen=True)
class Advice:
    """One thing to change."""

    change: str
    """The setting, or what to install."""
    reason: str
    needed: bool = False
    """Whether a run would fail without."""


need = partial(Advice, needed=True)


@dataclass(frozen=True)
class Diagnosis:
    """What was found, what will be used, what to change."""

    findings: Findings
    uses: Mapping[str, str]
    """By stage: fit, assign, compare, write."""
    advice: tuple[Advice, ...]

    @property
    def works(self) -> bool:
        """Whether a run would work."""
        return not any(each.needed for each in self.advice)

    def __str__(self) -> str:
        blocks = [
            ("found", aligned(_found_lines(self.findings))),
            ("executors", aligned(_executor_lines(self.findings))),
            ("settings", aligned(self.findings.settings.items())),
            ("what a run will use", aligned(self.uses.items())),
            ("what to change", self._advice_lines()),
        ]
        return "\n\n".join(f"{title}\n{block}" for title, block in blocks if block)

    def _advice_lines(self) -> str:
        if not self.advice:
            return "  nothing"
        return "\n".join(
            f"  {number}. {'NEEDED: ' if each.needed else ''}{each.change}\n     {each.reason}"
            for number, each in enumerate(self.advice, 1)
        )


def examine(spark: SparkSession, params: Mapping[str, Any]) -> Diagnosis:
    """Asks a session and its executors; ``params``: those of ``PARAMS`` that are set."""
    return diagnose(probe_cluster(spark), params)


def diagnose(findings: Findings, params: Mapping[str, Any] | None = None) -> Diagnosis:
    """What findings mean for a run with these Params (unset: their defaults)."""
    wanted = {name: DEFAULTS[name] for name in PARAMS} | dict(params or {})
    backend = _backend(findings, wanted)
    clusterer = wanted["clusterer"]
    if clusterer == "auto":
        clusterer = "rapids" if backend == "gpu" else "faiss"
    rules = (
        *_about_starting(findings),
        *_about_packages(findings),
        *_about_backend(findings, wanted, backend, clusterer),
        *(_about_gpus(findings, wanted) if backend == "gpu" else ()),
        *_about_settings(findings, wanted, backend, clusterer),
    )
    can_start = findings.failure is None and findings.unasked is None
    uses = _uses(findings, wanted, backend, clusterer) if can_start else {}
    return Diagnosis(findings, uses, tuple(sorted(rules, key=lambda each: not each.needed)))


def _backend(found: Findings, wanted: Mapping[str, Any]) -> str:
    if wanted["backend"] != "auto":
        return str(wanted["backend"])
    return "gpu" if found.executors and all(each.gpu_lacking is None for each in found.executors) else "cpu"


def _execution(found: Findings, wanted: Mapping[str, Any]) -> str:
    if wanted["execution"] != "auto":
        return str(wanted["execution"])
    return "streamed" if found.uses_plugin else "grouped"


def _uses(found: Findings, wanted: Mapping[str, Any], backend: str, clusterer: str) -> dict[str, str]:
    arrays = "CuPy on each task's GPU" if backend == "gpu" else "NumPy"
    tasks = f"{found.slots} task{'s' if found.slots != 1 else ''} at once"
    precision = precision_for(wanted["precision"], backend)
    gpu_plan = "the plugin's GPU plan" if found.uses_plugin else "Spark's CPU plan"
    shape = {
        "grouped": "a grouped pandas UDF" + (", which leaves the GPU plan" if found.uses_plugin else ""),
        "streamed": "mapInArrow over partitions" + (", on the GPU plan" if found.uses_plugin else ""),
    }[_execution(found, wanted)]
    fit = {
        "rapids": "spark-rapids-ml (cuML) on the executors' GPUs",
        "faiss": f"FAISS on the driver, {found.driver.cores} cores",
        "mllib": "pyspark.ml on the executors' CPUs",
        "minibatch": f"scikit-learn on the driver, {found.driver.cores} cores",
    }[clusterer]
    return {
        "fit": fit,
        "assign": f"{arrays}, {tasks}",
        "compare": f"{arrays}, screening in {precision}, {tasks}; {shape}",
        "write": gpu_plan,
    }


def _about_starting(found: Findings) -> Iterator[Advice]:
    major, spark = _java_major(found.java), _version(found.spark)
    oldest, newest = _java_for(spark)
    if found.java is None and found.failure is not None:
        yield need(f"install Java {oldest} to {newest}, or set JAVA_HOME", "no java runs here")
    elif found.failure is not None and not oldest <= major <= newest:
        yield need(f"use Java {oldest} to {newest} (JAVA_HOME)", f"the java found is {found.java}")
    elif found.failure is not None:
        yield need("fix what keeps Spark from starting", found.failure)
    if not SPARK[0] <= spark < SPARK[1]:
        yield need("use Spark 3.5, or 4.0 to 4.3", f"this is {found.spark}")
    if found.unasked is not None:
        yield need(
            f"PYSPARK_PYTHON: a Python of the driver's version ({_minor(found.driver.python)}) with this package on "
            f"every executor, or {SHIPPING}",
            f"no Python task runs on the executors: {found.unasked}",
        )


def _about_packages(found: Findings) -> Iterator[Advice]:
    for name, (least, below) in BOUNDS.items():
        if name == "pandas" and _version(found.spark) < PANDAS_3_FROM:
            below = (3,)
        wrong = sorted({_of(each, name) for each in found.executors if not least <= _version(_of(each, name)) < below})
        if wrong:
            bounds = f"{_dotted(least)} or newer" + (f", below {_dotted(below)}" if below != ANY else "")
            yield need(f"executors: {name} {bounds}; {SHIPPING}", f"they have: {', '.join(wrong)}")
    without = sorted({each.host for each in found.executors if "spark_semdedup" not in each.packages})
    if without:
        yield need(
            f"executors: this package, as a zip by --py-files, or {SHIPPING}",
            f"spark_semdedup cannot be imported on {', '.join(without)}",
        )
    for name in ("spark_semdedup", *BOUNDS):
        theirs = {each.packages[name] for each in found.executors if name in each.packages}
        if theirs - {found.driver.packages.get(name)}:
            yield Advice(
                f"the same {name} everywhere",
                f"driver {_of(found.driver, name)}, executors {', '.join(sorted(theirs))}: functions sent from one to "
                "the other may not be understood",
                needed=name == "spark_semdedup",
            )


def _about_backend(found: Findings, wanted: Mapping[str, Any], backend: str, clusterer: str) -> Iterator[Advice]:
    without = [each for each in found.executors if each.gpu_lacking is not None]
    extra = _extra([*found.executors, found.driver])
    if backend == "gpu" and without:
        yield need(f"executors: {extra}, or set backend to cpu or auto", without[0].gpu_lacking or "")
    elif wanted["backend"] == "auto" and without and any(each.gpus or each.addresses for each in found.executors):
        yield Advice(f"executors: {extra}", f"there are GPUs, but the CPU will be used: {without[0].gpu_lacking}")
    if clusterer == "rapids" and backend == "cpu":
        yield need("clusterer: faiss or auto", "rapids needs GPUs, and the backend is cpu")
    if clusterer != "rapids" and wanted["backend"] == "gpu":
        yield need("clusterer: rapids or auto", f"{clusterer} runs on CPUs, backend gpu asks for GPUs")
    if clusterer == "rapids" and "spark_rapids_ml" not in found.driver.packages:
        yield need(f"driver: {extra}", "the fit needs spark-rapids-ml there, too")
    if clusterer == "rapids" and any("cuml" not in each.packages for each in found.executors if each not in without):
        yield need(f"executors: {extra}", "the fit needs cuML")
    if clusterer == "faiss" and "faiss" not in found.driver.packages:
        yield need("driver: pip install 'faiss-cpu>=1.14.2'", "the fit runs there")
    settings = sorted({name for each in found.executors for name in each.inexact})
    if settings and backend == "gpu":
        yield need(
            f"executors' environment: unset {', '.join(settings)}",
            "products would be off by more than candidates are screened by",
        )
    if clusterer == "rapids" and found.settings.get("spark.dynamicAllocation.enabled") == "true":
        # Spark refuses barrier stages there (SPARK-24942), and cuML's fit is one.
        yield need(
            "spark.dynamicAllocation.enabled false",
            "cuML fits in one stage whose tasks start together, which Spark refuses where executors come and go",
        )


def _about_gpus(found: Findings, wanted: Mapping[str, Any]) -> Iterator[Advice]:
    amount, cores = found.number("spark.task.resource.gpu.amount"), found.number("spark.executor.cores")
    gpus = found.number("spark.executor.resource.gpu.amount") or 1
    if not found.is_local and not amount:
        yield Advice(
            "spark.executor.resource.gpu.amount 1 and spark.task.resource.gpu.amount 0.25",
            "Spark assigns no GPUs: executors of one machine may all take the same one",
        )
    if amount and cores and cores * amount > gpus:
        yield Advice(
            f"spark.task.resource.gpu.amount {math.floor(1000 * gpus / cores) / 1000:g}",
            f"at {amount:g} only {math.floor(gpus / amount)} of an executor's {cores:g} cores have tasks",
        )
    fraction, ours = found.number("spark.rapids.memory.gpu.allocFraction"), float(wanted["deviceMemoryFraction"])
    theirs = 1.0 if fraction is None else fraction  # the plugin's default
    if found.uses_plugin and theirs + ours > 0.9:
        yield Advice(
            "spark.rapids.memory.gpu.allocFraction and spark.rapids.memory.gpu.maxAllocFraction 0.4",
            f"the plugin takes {100 * theirs:g} % of each GPU, deviceMemoryFraction is {100 * ours:g} %: nothing is "
            "left for CUDA's contexts",
            needed=theirs + ours > 1,
        )
    if found.uses_plugin and found.settings.get("spark.rapids.python.memory.gpu.pooling.enabled") == "true":
        yield Advice(
            "spark.rapids.python.memory.gpu.pooling.enabled false",
            "CuPy does not allocate from that pool, which only takes memory away",
        )
    if found.uses_plugin and wanted["execution"] == "grouped":
        yield Advice(
            "execution: streamed",
            "the plugin runs no grouped pandas UDF on arrays; a map over partitions stays on the GPU plan",
        )


def _about_settings(found: Findings, wanted: Mapping[str, Any], backend: str, clusterer: str) -> Iterator[Advice]:
    if not found.settings:
        return
    if found.has_plugin and found.plugin is None and found.scala is not None:
        yield Advice(
            "--jars rapids-4-spark_…jar for this Scala, " + ".".join(found.scala.split(".")[:2]),
            "spark.plugins names the plugin, but its jar is not on the class path",
        )
    hosts = [each for each in found.executors if BROKEN_FROM <= _kernel(each.kernel) < FIXED_IN]
    if hosts and found.settings.get("spark.python.unix.domain.socket.enabled") == "false":
        yield Advice(
            "spark.python.unix.domain.socket.enabled true",
            f"on {hosts[0].kernel} TCP between worker and JVM may stall; tasks watch it, Unix sockets do without",
        )
    rows, wished = found.number("spark.sql.execution.arrow.maxRecordsPerBatch"), 32768 if backend == "gpu" else 4096
    if rows is not None and (rows <= 0 or rows > 2 * wished or (backend == "gpu" and rows < 8192)):
        yield Advice(
            f"spark.sql.execution.arrow.maxRecordsPerBatch {wished}",
            f"{rows:g} rows go to a Python worker at once; "
            + (
                "a GPU needs more to be busy"
                if 0 < rows < wished
                else "batches of vectors take memory three times over"
            ),
        )
    if clusterer in ON_DRIVER and found.settings.get("spark.driver.maxResultSize", "1g") not in ("0", "0b"):
        yield Advice(
            "spark.driver.maxResultSize 0",
            "the rows that centroids are fitted on are collected; fitSampleRows bounds them, and Spark's bound of "
            f"{found.settings.get('spark.driver.maxResultSize', '1g')} may fail the run instead",
        )
    if found.settings.get("spark.sql.adaptive.enabled") == "false":
        yield Advice(
            "spark.sql.adaptive.enabled true", "small partitions of a shuffle are joined, skewed joins are cut"
        )
    master = found.settings.get("spark.master", "")
    if master.startswith(("yarn", "k8s")) and "spark.executor.memoryOverhead" not in found.settings:
        cores = int(found.number("spark.executor.cores") or 1)
        yield Advice(
            f"spark.executor.memoryOverhead {max(1, cores)}g or more",
            "Python workers need memory in addition to the JVM's heap, about 1 GiB each (2.5 with a GPU); without it a "
            "container that takes more than a tenth over the heap is killed",
        )
    heap = gib(found.settings.get("spark.driver.memory"))
    if found.is_local and heap is not None and heap > 0.6 * found.driver.memory_gib:
        yield Advice(
            f"spark.driver.memory {max(1, int(found.driver.memory_gib) // 3)}g",
            f"the heap may take {heap:g} of {found.driver.memory_gib:g} GiB; Python workers need the rest",
        )


def _of(worker: Worker, package: str) -> str:
    return worker.packages.get(package, "none")


def _dotted(version: tuple[float, ...]) -> str:
    return ".".join(map(str, version))


def _extra(workers: Iterable[Worker]) -> str:
    """The extra to install: by CuPy's complaint, if it has one, or by the NVIDIA driver.

    CUDA 13 needs a driver from 580 on, CUDA 12 from 525 on (CUDA Toolkit release notes, table of minimum drivers).
    """
    for worker in workers:
        named = re.search(r"gpu-cu1[23]", worker.gpu_lacking or "")
        if named:
            return f"pip install 'spark-semdedup[{named[0]}]'"
        if worker.nvidia_driver:
            extra = "gpu-cu13" if _version(worker.nvidia_driver) >= (580,) else "gpu-cu12"
            return f"pip install 'spark-semdedup[{extra}]'"
    return "pip install 'spark-semdedup[gpu-cu12]' (gpu-cu13 where the NVIDIA driver is 580 or newer)"


def _found_lines(found: Findings) -> Iterator[tuple[str, str]]:
    driver = found.driver
    yield "Java", found.java or ("none" if found.failure else "out of reach: the session is Spark Connect's")
    yield "Spark", found.spark + (f", Scala {found.scala}" if found.scala else "")
    configured = "" if found.has_plugin else ", but spark.plugins does not name it"
    yield "RAPIDS plugin", f"{found.plugin}{configured}" if found.plugin else "none"
    sockets = found.settings.get("spark.python.unix.domain.socket.enabled") == "true"
    yield "kernel", f"{driver.kernel or 'unknown'}; workers speak {'over Unix sockets' if sockets else 'TCP'}"
    yield "driver", f"{driver.host}, {driver.cores} cores, {driver.memory_gib:g} GiB"
    yield "driver's Python", f"{driver.python} ({driver.executable})"
    yield "its packages", _packages(driver)
    yield "driver's GPUs", _gpus(driver)
    if found.failure:
        yield "session", f"none: {found.failure}"
    elif found.unasked:
        yield "executors", f"could not be asked: {found.unasked}"


def _executor_lines(found: Findings) -> Iterator[tuple[str, str]]:
    for number, each in enumerate(found.executors, 1):
        yield f"{number}", f"{each.host}, {each.cores} cores, {each.memory_gib:g} GiB, Python {each.python}"
        yield "", _packages(each)
        assigned = f"; Spark assigns {', '.join(each.addresses)}" if each.addresses else ""
        usable = "CuPy can use them" if each.gpu_lacking is None else each.gpu_lacking
        yield "", f"GPUs: {_gpus(each)}{assigned}; {usable}"


def _packages(worker: Worker) -> str:
    return ", ".join(f"{name} {version}" for name, version in worker.packages.items()) or "none"


def _gpus(worker: Worker) -> str:
    if not worker.gpus:
        return "none that nvidia-smi lists"
    return f"{'; '.join(worker.gpus)}; driver {worker.nvidia_driver}"


def _version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    >>> _version("2.4.1rc1"), _version("of unknown version")
    ((2, 4, 1), ())
    """
    leading = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, leading[0].split("."))) if leading else ()


def _kernel(name: str) -> tuple[int, ...]:
    return _version(name.removeprefix("Linux "))[:2]


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])


def _java_for(spark: tuple[int, ...]) -> tuple[int, int]:
    """Oldest and newest Java. Hadoop's login code works up to 22 (HADOOP-19212), that of Spark 4.2 with 25, too."""
    return 17, 25 if spark >= (4, 2) else 22


def _java_major(version: str | None) -> int:
    numbers = _version((version or "0").removeprefix("1."))  # Java 8 calls itself 1.8
    return numbers[0] if numbers else 0
