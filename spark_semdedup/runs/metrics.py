"""A run's numbers for schedulers and monitoring: text that Prometheus and OpenMetrics both take.

Gauges without timestamps, one line each, and ``# EOF`` at the end: OpenMetrics asks for that, to Prometheus it is a
comment. Prometheus' node exporter picks such a file up from its textfile directory.
"""

from __future__ import annotations

from calendar import timegm
from collections.abc import Iterator, Mapping, Sequence
from time import strptime
from typing import Any

from spark_semdedup.runs.manifest import read_run_manifest
from spark_semdedup.spark.files import Files

PREFIX = "spark_semdedup_"

GAUGES = {
    "rows_in": "Rows of the input.",
    "invalid": "Rows whose embedding cannot be compared.",
    "duplicates": "Rows to remove.",
    "kept": "Kept rows.",
    "clusters": "Clusters that hold rows.",
    "pairs_compared": "Pairs of rows whose similarity was compared.",
    "eps": "A row is a duplicate from a similarity of 1 - eps on.",
    "threshold": "The similarity from which a row is a duplicate.",
}
"""Fields of the summary that are metrics, and their help."""

LABELS = ("coverage", "backend", "clusterer")


def write_metrics(files: Files, folder: str, path: str) -> None:
    """Writes the metrics of the run that ended in ``folder`` to a file, in place of an earlier one."""
    files.write_text(path, openmetrics(read_run_manifest(files, folder, "output")))


def refuse_unwritable(files: Files, path: str) -> None:
    """``SemDedupError`` for a file that could not be written when the run has ended."""
    trial = f"{path}.trial"
    files.write_text(trial, "")
    files.delete(trial)


def openmetrics(summary: Mapping[str, Any]) -> str:
    """The metrics of a summary (``summary.json``).

    >>> text = openmetrics({"step": "run", "rows_in": 5, "kept": 4, "seconds": {"fit": 1.5, "in all": 2.0}})
    >>> [line for line in text.splitlines() if not line.startswith("#")]
    ['spark_semdedup_rows_in 5', 'spark_semdedup_kept 4', 'spark_semdedup_phase_seconds{phase="fit"} 1.5', \
'spark_semdedup_seconds 2', 'spark_semdedup_run{step="run"} 1']
    """
    return "".join(f"{line}\n" for line in [*_lines(summary), "# EOF"])


def _lines(summary: Mapping[str, Any]) -> Iterator[str]:
    for name, help_ in GAUGES.items():
        if summary.get(name) is not None:
            yield from _gauge(name, help_, [({}, summary[name])])
    seconds = dict(summary.get("seconds") or {})
    total = seconds.pop("in all", None)
    if seconds:
        phases = [({"phase": phase}, value) for phase, value in seconds.items()]
        yield from _gauge("phase_seconds", "Wall-clock time of each phase.", phases)
    if total is not None:
        yield from _gauge("seconds", "Wall-clock time of the whole run.", [({}, total)])
    if summary.get("finished"):
        moment = timegm(strptime(str(summary["finished"]), "%Y-%m-%dT%H:%M:%SZ"))
        yield from _gauge("finished_timestamp_seconds", "When the run ended.", [({}, moment)])
    facts = {"step": summary.get("step"), **{name: summary.get(name) for name in LABELS}}
    facts["version"] = (summary.get("versions") or {}).get("spark_semdedup")
    labels = {name: str(value) for name, value in facts.items() if value is not None}
    yield from _gauge("run", "What ran; always 1.", [(labels, 1)])


def _gauge(name: str, help_: str, values: Sequence[tuple[Mapping[str, str], float]]) -> Iterator[str]:
    yield f"# TYPE {PREFIX}{name} gauge"
    yield f"# HELP {PREFIX}{name} {help_}"
    for labels, value in values:
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{PREFIX}{name}{f'{{{inside}}}' if inside else ''} {_number(value)}"


def _number(value: float) -> str:
    """Whole numbers with all their digits: a billion of pairs is not 1e+09."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
