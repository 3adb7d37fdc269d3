"""``Summary``: what a step did, as ``summary.json`` and as text."""

from __future__ import annotations

import functools
import json
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from typing import Any

from spark_semdedup import _version
from spark_semdedup.formatting import aligned, percent
from spark_semdedup.redaction import COLUMN_PARAMS, redacted, redacted_values

SCHEMA_VERSION = 1
"""Of ``summary.json``, which ``summary.schema.json`` describes: it rises when a field changes its meaning or goes."""

COUNTS = (
    "rows_in",
    "invalid",
    "embedded",
    "truncated",
    "clusters",
    "pairs_compared",
    "similar_to_references",
    "duplicates",
    "kept",
    "indexed",
    "pairs",
    "groups",
)


@dataclass
class Summary:
    """What a step did."""

    step: str
    counts: dict[str, int] = field(default_factory=dict)
    """Among ``COUNTS``."""
    parameters: dict[str, Any] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    """Path or table of each result."""
    seconds: dict[str, float] = field(default_factory=dict)
    eps: float | None = None
    threshold: float | None = None
    """The similarity from which a row is a duplicate: the double that scores are compared with."""
    coverage: str | None = None
    """Which pairs were compared: cluster, probes or exact; ``coverage_in_words`` can be cited."""
    coverage_in_words: str | None = None
    complete_eps: float | None = None
    """The largest eps for which the scores are complete; None: any."""
    complete_from: float | None = None
    """The same as a similarity: the very double that scores were compared with."""
    keep_rule: str | None = None
    """Which similar rows that precede it remove a row: ranked or greedy."""
    kept_from: float | None = None
    """With greedy, the similarity it was decided with, the only one that the scores are for."""
    against: dict[str, Any] | None = None
    """The index, its version and its rows, or the table, whose rows precede the input's."""
    planned: dict[str, Any] | None = None
    """The estimate of the comparison's work, made before it began (``WorkEstimate.facts``)."""
    backend: str | None = None
    clusterer: str | None = None
    input_version: int | None = None
    """The version of a Delta table that was read."""
    hardware: dict[str, Any] | None = None
    """Master, cores and GPUs of the session (``spark.hardware``)."""
    versions: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For ``summary.json`` and manifests: counts at the top level, then the rest. Secrets in paths are redacted."""
        rest = asdict(self)
        counts = rest.pop("counts")
        decided = {} if self.coverage is None else {"complete_eps": rest["complete_eps"]}
        del rest["complete_eps"]
        present = {name: value for name, value in rest.items() if value is not None}
        finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        step = present.pop("step")
        schema = {"schema_version": SCHEMA_VERSION} if step == "run" else {}
        whole = {**schema, "step": step, **counts, **present, **decided, "finished": finished}
        return dict(redacted_values(whole, verbatim=COLUMN_PARAMS))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Summary:
        """The inverse of ``as_dict``, which drops other entries."""
        names = {each.name for each in fields(cls)}
        counts = {name: content[name] for name in COUNTS if name in content}
        return cls(counts=counts, **{name: value for name, value in content.items() if name in names})

    def as_json(self) -> str:
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"

    def as_text(self) -> str:
        """The summary in aligned lines."""
        blocks = [
            aligned([(name.replace("_", " "), self._count(name)) for name in self.counts], right=True),
            aligned(self._decisions()),
            aligned([(stage, f"{seconds:,.1f} s") for stage, seconds in self.seconds.items()], right=True),
            aligned([(name, redacted(place)) for name, place in self.results.items()]),
        ]
        return "\n\n".join(block for block in blocks if block)

    def _count(self, name: str) -> str:
        count, rows = self.counts[name], self.counts.get("rows_in", 0)
        share = f"  {percent(count, rows, bounds=True):>5} %" if rows and name in ("duplicates", "kept") else " " * 9
        return f"{count:,}{share}"

    def _decisions(self) -> list[tuple[str, str]]:
        lines = []
        if self.threshold is not None:
            lines.append(("eps", f"{self.eps:.6g}: a row is a duplicate from a similarity of {self.threshold:.6g} on"))
        if self.coverage is not None:
            words = f": {self.coverage_in_words}" if self.coverage_in_words else ""
            lines.append(("coverage", f"{self.coverage}{words}"))
        if self.against is not None:
            lines.append(("against", _against(self.against)))
        if self.keep_rule == "greedy":
            where = "all rows" if self.coverage == "exact" else "the rows that were compared"
            lines.append(("keep rule", f"greedy: among {where}, every removed row has a kept row within eps"))
        if self.backend is not None:
            lines.append(("backend", {"cpu": "cpu: NumPy", "gpu": "gpu: CuPy on the executors"}[self.backend]))
        if self.clusterer is not None:
            lines.append(("clusterer", self.clusterer))
        if self.input_version is not None:
            lines.append(("input", f"version {self.input_version} of the Delta table"))
        return lines


def _against(against: Mapping[str, Any]) -> str:
    if "index" in against:
        what = f"version {against['version']} of the index {redacted(against['index'])}, {against['rows']:,} rows"
    else:
        what = ", ".join(map(redacted, against["input"]))
    return f"{what}; rows of the input were not compared with one another" if against["reference_only"] else what


def versions(backend: str | None = None, clusterer: str | None = None, spark: str | None = None) -> dict[str, str]:
    """Versions on the driver. It may lack the GPU libraries of the executors, or have others."""
    installed = {"spark_semdedup": _version.__version__, "python": platform.python_version()}
    if spark is not None:
        installed["spark"] = spark
    packages = ["pyspark", "pyarrow", "numpy", "pandas"]
    packages += ["faiss-cpu"] if clusterer == "faiss" else []
    packages += ["scikit-learn"] if clusterer == "minibatch" else []
    packages += ["spark-rapids-ml", "cuml-cu12", "cuml-cu13"] if clusterer == "rapids" else []
    packages += ["cupy-cuda12x", "cupy-cuda13x"] if backend == "gpu" else []
    for package in packages:
        # A Spark distribution's pyspark is not an installed package; a driver may lack the GPU libraries.
        with suppress(metadata.PackageNotFoundError):
            installed[package] = _version_of(package)
    return installed


_version_of = functools.cache(metadata.version)
